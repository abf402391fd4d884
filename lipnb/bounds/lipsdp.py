"""LipSDP: an upper bound by semidefinite programming, with a certificate in closed form."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import nn

from lipnb.bounds.chain import round_up
from lipnb.bounds.feedback import Feedback, read_feedback
from lipnb.bounds.interior_point import Program, solve
from lipnb.bounds.layerwise import product_bound
from lipnb.bounds.network import input_dimension, read_box, read_layers
from lipnb.bounds.result import Bound

__all__ = ["certified_square", "lipsdp", "solve_feedback"]

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
    it (see `certified_square`). So the bound holds whether or not the solver has converged.

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
    for name, number in (("tolerance", tolerance), ("seconds", seconds), ("max_steps", max_steps)):
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be positive and finite; got {number}")
    box = read_box(domain, input_dimension(read_layers(network)))
    feedback = read_feedback(network, box)
    product = product_bound(network).value
    value, status = solve_feedback(feedback, multipliers, tolerance, max_steps, start + seconds)
    if product < value:
        value, status = product, f"{status}; the product of the layers' norms is smaller"
    return Bound(value, "upper", 2, box, perf_counter() - start, status)


def certified_square(program: Program, t: Array) -> float:
    r"""Return a rho for which the multipliers t prove rho E - C + ... to be positive definite.

    With H the block of the units, and Y that of units and inputs,

    .. math::
        \rho(t) = \lambda_{\max}(-M_{00} + Y^T H^{-1} Y) \quad\text{if } H \succ 0

    A floating-point Cholesky factorisation of M minus a multiple of the identity, larger than all
    rounding, then has to succeed.

    Parameters
    ----------
    program : Program
    t : ndarray of shape (n,)
        Not negative.

    Returns
    -------
    float
        At least the smallest valid rho; inf if none is certain for this t.

    Examples
    --------
    f = relu, with t = 1/2 + e: the square of the constant is 1.

    >>> one, zero = np.ones(1), np.zeros(1)
    >>> cost = np.diag([0.0, 1.0])
    >>> program = Program(np.array([[1.0, 0.0]]), zero, one, cost, 1, np.zeros(1, dtype=np.int64))
    >>> certified_square(program, np.array([1.0])), certified_square(program, np.array([0.4]))
    (1.0000000000001..., inf)
    """
    if not np.isfinite(t).all() or (t < 0).any():
        return math.inf
    d, total = program.size, len(program.cost)
    m = program.matrix(0.0, t) - program.cost
    entries = np.abs(np.diag(m)).sum() + 2 * np.abs(np.diag(program.cost)).sum() + 2 * t.sum()
    spread = (np.abs(program.low) + np.abs(program.high)) * t
    squares = np.square(program.rows).sum(axis=1)
    entries += float(spread @ np.sqrt(squares))
    entries += float((np.abs(program.low * program.high) * t) @ squares) * 4
    margin = 4 * EPS * (total + 8) * float(entries)
    shifted = m[d:, d:] - margin * np.eye(total - d)
    factor, failed = lapack.dpotrf(shifted, lower=1)
    if failed:
        return math.inf
    half = lapack.dtrtrs(factor, m[d:, :d], lower=1)[0]
    rho = float(np.linalg.eigvalsh(half.T @ half - m[:d, :d])[-1])
    slack = max(1e-13 * abs(rho), 2 * margin)
    for _ in range(12):
        candidate = rho + slack
        trial = m - margin * (1 + abs(candidate) / max(float(entries), 1e-300)) * np.eye(total)
        trial[np.arange(d), np.arange(d)] += candidate
        if candidate >= 0 and lapack.dpotrf(trial, lower=1)[1] == 0:
            return candidate
        slack *= 8
    return math.inf


def solve_feedback(
    feedback: Feedback, multipliers: str, tolerance: float, max_steps: int, deadline: float
) -> tuple[float, str]:
    """Return a certified bound and how it came about."""
    if len(feedback.low) == 0:
        value = float(np.linalg.norm(feedback.out_inputs, ord=2))
        spare = 64 * EPS * sum(feedback.out_inputs.shape)
        return round_up(value, feedback.exponent, spare), "affine on the domain"
    program, exponent, relative = _program(feedback, multipliers)
    best = math.inf

    def watch(t: Array) -> bool:
        nonlocal best
        best = min(best, certified_square(program, t))
        return perf_counter() > deadline

    _, dual, steps, reason = solve(
        program, rho=2.0, tolerance=tolerance, max_steps=max_steps, watch=watch
    )
    gap = (best - dual) / best if math.isfinite(best) else math.inf
    status = f"{reason} after {steps} steps, relative gap of the square {gap:.1e}"
    value = round_up(math.sqrt(best), feedback.exponent + exponent, relative)
    return value, f"semidefinite program, one multiplier per {multipliers}: {status}"


def _program(feedback: Feedback, multipliers: str) -> tuple[Program, int, float]:
    """Write the program in balanced units, with the exponent of the output's scale."""
    n, turned = len(feedback.low), feedback.out_inputs.shape[0] < feedback.out_inputs.shape[1]
    scale, size = _balance(feedback, multipliers)
    if turned:
        feedback, scale = feedback.transposed(), np.ldexp(1 / scale[::-1], -size)
    inputs, direct, relative = feedback.inputs, feedback.out_inputs, 4 * EPS
    seen = np.vstack([inputs, direct])
    busy = seen.any(axis=1)
    if seen.shape[1] > busy.sum() > 0:
        # Only the span of the rows matters; an orthogonal map turns it into few coordinates.
        triangle = np.asarray(np.linalg.qr(seen[busy].T, mode="r")).T
        small = np.zeros((len(seen), triangle.shape[1]))
        small[busy] = triangle
        relative += 64 * EPS * sum(seen.shape)
        inputs, direct = small[:n], small[n:]
    rows = np.hstack([inputs, feedback.loop / scale]) * scale[:, None]
    output = np.ldexp(np.hstack([direct, feedback.out_loop / scale]), -size)
    groups = np.arange(n)
    if multipliers == "layer":
        groups = np.unique(feedback.layers, return_inverse=True)[1]
    low, high = feedback.low, feedback.high
    program = Program(rows, low, high, output.T @ output, inputs.shape[1], groups)
    return program, size, relative


def _balance(feedback: Feedback, multipliers: str) -> tuple[Array, int]:
    """Return scales of the units that make multipliers near 1 feasible, and that of the output.

    Rows and columns are balanced first. Then one multiplier per layer follows in closed form as
    in `eclipse_fast`. All scales are powers of two, so that nothing is rounded.
    """
    n, d = feedback.inputs.shape
    scale = np.ones(n)
    columns = np.vstack([feedback.loop, feedback.out_loop])
    ends = np.ones(len(columns) - n)
    if multipliers == "neuron":
        for _ in range(4):
            into = np.hypot(
                np.linalg.norm(feedback.inputs, axis=1),
                np.linalg.norm(feedback.loop / scale, axis=1),
            )
            out = np.linalg.norm(columns * np.append(scale, ends)[:, None], axis=0)
            scale = np.exp2(np.round(np.log2(out / into) / 2))
    rows = np.hstack([feedback.inputs, feedback.loop / scale]) * scale[:, None]
    output = np.hstack([feedback.out_inputs, feedback.out_loop / scale])
    steep = np.maximum(np.abs(feedback.low), np.abs(feedback.high))
    known = np.eye(d)
    for label in np.unique(feedback.layers):
        unit = np.flatnonzero(feedback.layers == label)
        w = steep[unit, None] * rows[unit, : len(known)]
        top = float(np.linalg.eigvalsh(w @ np.linalg.solve(known, w.T))[-1])
        root = 2.0 ** round(-math.log2(top) / 2)
        t = 1 / top
        coupling = -(t / root) * w
        known = np.block([[known, coupling.T], [coupling, 2 * t / root**2 * np.eye(len(unit))]])
        scale[unit] *= root
        rows[:, d + unit] /= root
        output[:, d + unit] /= root
    top = float(np.linalg.eigvalsh(output @ np.linalg.solve(known, output.T))[-1])
    return scale, math.frexp(math.sqrt(top))[1] if top > 0 else 0
