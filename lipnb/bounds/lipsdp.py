"""LipSDP: an upper bound by semidefinite programming, with a certificate in closed form."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lipnb.bounds._arguments import check_positive
from lipnb.bounds.balance import balanced_program
from lipnb.bounds.certificate import certified_square
from lipnb.bounds.chain import round_up
from lipnb.bounds.feedback import Feedback, read_feedback
from lipnb.bounds.interior_point import solve
from lipnb.bounds.layerwise import product_bound
from lipnb.bounds.network import input_dimension, read_box, read_layers
from lipnb.bounds.result import Bound

__all__ = ["lipsdp"]

Array = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)
MULTIPLIERS = ("neuron", "layer")


def lipsdp(
    network: nn.Sequential,
    *,
    norm: float = 2,
    domain: tuple[Any, Any] | None = None,
    multipliers: str = "neuron",
    tolerance: float = 1e-8,
    seconds: float = 60.0,
    max_steps: int = 100,
) -> Bound:
    r"""Bound the l2 constant from above by semidefinite programming.

    Differences h of a unit's values and z of its pre-activations satisfy
    :math:`(h - \alpha z)(\beta z - h) \ge 0`. Adding these with multipliers t,

    .. math::
        \min_{\rho,\, t \ge 0} \rho \quad\text{s.t.}\quad
        \rho \|x\|^2 - \|y\|^2 - 2 \sum_i t_i (h_i - \alpha_i z_i)(\beta_i z_i - h_i) \ge 0
        \;\text{ for all } x, h

    gives :math:`\|f\|_L \le \sqrt\rho`. The solver only proposes t. The best rho for a given t is
    an eigenvalue in closed form, and a Cholesky factorisation with a margin for rounding confirms
    it (see `lipnb.bounds.certificate`). So the bound holds whether or not the solver has converged.

    A network and its transpose have the same slopes, so the smaller of input and output serves as
    input. On a box, every unit gets its own slopes.

    Coupling the differences of two units, as the variant called LipSDP-Network does, is not sound:
    f(x) = relu(x) - relu(x - 2) has constant 1, and that program returns 0. It is not offered.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included), `ReLU`, `LeakyReLU`,
        `ELU`, `Softplus`, `Tanh`, `Sigmoid`, and `GroupSort` with groups of two.
    norm : {2}
        `geolip` takes 1 and inf.
    domain : (low, high), optional
        A box, which narrows the slopes; everywhere by default.
    multipliers : {'neuron', 'layer'}
        One multiplier for each unit, or one for each layer (faster, larger).
    tolerance : float
        Relative duality gap at which the solver stops.
    seconds : float
        Time after which it stops between two steps.
    max_steps : int

    Returns
    -------
    Bound
        Of kind 'upper', the smallest certified value seen, at most that of `product_bound`. The
        status tells the solver's gap.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If an argument is out of range.

    Notes
    -----
    The program's matrix has as many rows as there are units and, at most, inputs or outputs. A step
    costs their third power: 784-512-10 takes some seconds. Where the slope of a unit is known (on a
    box), and for GroupSort, weights are multiplied; a bound on the rounding of it is added.

    Examples
    --------
    >>> import torch
    >>> a, b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    >>> _ = a.weight.data.copy_(torch.diag(torch.tensor([2.0, 1.0])))
    >>> _ = b.weight.data.copy_(torch.diag(torch.tensor([1.0, 2.0])))
    >>> round(lipsdp(nn.Sequential(a, nn.ReLU(), b)).value, 6)
    2.0

    References
    ----------
    Fazlyab et al., Efficient and accurate estimation of Lipschitz constants for deep neural
    networks (2019), theorem 2; Rump, Verification of positive definiteness (2006).
    """
    start = perf_counter()
    if norm != 2:
        raise ValueError(f"norm must be 2 for LipSDP; got {norm!r}; geolip takes 1 and inf")
    if multipliers not in MULTIPLIERS:
        raise ValueError(f"multipliers must be one of {MULTIPLIERS}; got {multipliers!r}")
    check_positive(tolerance=tolerance, seconds=seconds, max_steps=max_steps)
    box = read_box(domain, input_dimension(read_layers(network)))
    feedback = read_feedback(network, box)
    product = product_bound(network).value
    value, status = solve_feedback(feedback, multipliers, tolerance, max_steps, start + seconds)
    if product < value:
        value, status = product, f"{status}; the product of the layers' norms is smaller"
    return Bound(value, "upper", 2, box, perf_counter() - start, status)


def solve_feedback(
    feedback: Feedback, multipliers: str, tolerance: float, max_steps: int, deadline: float
) -> tuple[float, str]:
    """Return a certified bound of a system's constant, and how it came about."""
    if len(feedback.low) == 0:
        value = float(np.linalg.norm(feedback.out_inputs, ord=2)) + feedback.error
        spare = 64 * EPS * sum(feedback.out_inputs.shape)
        return round_up(value, feedback.exponent, spare), "affine on the domain"
    # Entries more than 1e150 apart leave the range of floats; the certificate then says no.
    with np.errstate(all="ignore"):
        try:
            return _certify(feedback, multipliers, tolerance, max_steps, deadline)
        except (np.linalg.LinAlgError, ValueError, OverflowError) as error:
            return math.inf, f"semidefinite program out of range ({error})"


def _certify(
    feedback: Feedback, multipliers: str, tolerance: float, max_steps: int, deadline: float
) -> tuple[float, str]:
    """Solve the program of a system, and return the best certified bound on the way."""
    program, exponent, relative = balanced_program(feedback, multipliers)
    if not (np.isfinite(program.rows).all() and np.isfinite(program.cost).all()):
        return math.inf, "semidefinite program out of range"
    best = math.inf

    def watch(t: Array) -> bool:
        """Certify the multipliers of a step; say whether the time is up."""
        nonlocal best
        best = min(best, certified_square(program, t))
        return perf_counter() > deadline

    _, dual, steps, reason = solve(
        program, rho=2.0, tolerance=tolerance, max_steps=max_steps, watch=watch
    )
    gap = (best - dual) / best if math.isfinite(best) else math.inf
    status = f"{reason} after {steps} steps, relative gap of the square {gap:.1e}"
    value = round_up(math.sqrt(best), exponent, relative) + feedback.error
    value = round_up(value, feedback.exponent, EPS)
    return value, f"semidefinite program, one multiplier per {multipliers}: {status}"
