"""The unconstrained form of the Wasserstein distance, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipnb.theory._clouds import Cloud, Floats, like
from lipnb.theory._metrics import as_metric_space, as_number
from lipnb.theory.transport import solve_program

__all__ = ["UnconstrainedWasserstein", "unconstrained_wasserstein"]

# Largest difference of the value and of what the potential attains, in units of the value.
GAP_TOLERANCE = 1e-6


@dataclass(frozen=True)
class UnconstrainedWasserstein:
    r"""A power of the Wasserstein distance, and the function that attains it.

    Attributes
    ----------
    value : float
        :math:`W_1(\mu, \nu)^\alpha`, from the cost of an exact plan.
    distance : float
        :math:`W_1(\mu, \nu)` itself, in the unit of the cost.
    potential : Tensor or ndarray
        The maximising f, shape (n,), float64. The free constant is fixed by
        :math:`\mathbb E_\nu f = 0`.
    lipschitz_norm : float
        Its norm on the n points, over all pairs, less the rounding of f;
        :math:`\alpha W_1^{\alpha - 1}`.
    attained : float
        The objective at this potential: a lower bound of the supremum.
    gap : float
        value - attained. The plan proves that nothing above `value` can be attained, so this is the
        largest error; about 1e-15 of the value.
    """

    value: float
    distance: float
    potential: Any
    lipschitz_norm: float
    attained: float
    gap: float


def unconstrained_wasserstein(
    mu: Cloud, nu: Cloud, cost: Cloud, alpha: float, *, max_iterations: int = 10_000_000
) -> UnconstrainedWasserstein:
    r"""Compute a power of the Wasserstein distance as a supremum without a constraint.

    .. math::

        W_1(\mu, \nu)^\alpha = \max_f \; \mathbb E_\mu f - \mathbb E_\nu f
            - (\alpha - 1)\, \alpha^{\frac{\alpha}{1 - \alpha}}\,
              \|f\|_L^{\frac{\alpha}{\alpha - 1}}, \qquad \alpha > 1,

    on a finite metric space ([1]_, there with another scaling). The maximum is over all functions.
    It is attained by every optimal 1-Lipschitz potential times :math:`\alpha W_1^{\alpha - 1}`.

    Parameters
    ----------
    mu, nu : Tensor or array_like
        Histograms on the same points, both of shape (n,), non-negative with sum 1 (to 1e-6; they
        are then scaled to 1 exactly).
    cost : Tensor or array_like
        Distances of the points, shape (n, n): symmetric, zero on the diagonal, with the triangle
        inequality (to 1e-6 of the longest). Distinct points may be at distance zero.
    alpha : float
        The power, finite and above 1. With 2 the last term is a quarter of the squared norm.
    max_iterations : int
        Where the network simplex gives up.

    Returns
    -------
    UnconstrainedWasserstein
        `value` in [0, inf), `distance`, `potential`, `lipschitz_norm`, `attained`, `gap`. The
        potential is a float64 tensor on the device of mu if mu is a tensor, else an array. Nothing
        is differentiated: the potential is a derivative of the value in mu.

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite, a mass is negative, masses do not sum to one,
        the cost is no metric, alpha is not above 1, the value overflows float64, or max_iterations
        is below 1.
    TypeError
        If an input does not hold real numbers.
    RuntimeError
        If the solver stops before it has proved its answer.
    ImportError
        If POT is not installed (``pip install lipnb[transport]``).

    Notes
    -----
    Mass that both histograms have at a point stays where it is, which for a metric is optimal. So
    the distance of two nearly equal histograms keeps its digits, and that of equal ones is 0.

    Examples
    --------
    Two points at distance 3, all mass on different ones. The best f rises by 2 * 3 per unit:

    >>> result = unconstrained_wasserstein([1.0, 0.0], [0.0, 1.0], [[0.0, 3.0], [3.0, 0.0]], 2.0)
    >>> result.value, round(result.lipschitz_norm, 9), result.potential
    (9.0, 6.0, array([18.,  0.]))

    References
    ----------
    .. [1] D. Terjek. Moreau-Yosida f-divergences. ICML 2021.
    """
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1; got {max_iterations!r}")
    p, q, distance = as_metric_space(mu, nu, cost)
    power = as_number(alpha, "alpha", low=1.0, open_end=True)

    excess = _balanced_difference(p, q)
    w, unit = _distance_and_potential(excess, distance, max_iterations)
    with np.errstate(over="ignore"):
        value = float(np.float64(w) ** power)
    if not math.isfinite(power * value):
        raise ValueError(f"the distance {w:g} to the power alpha overflows; got alpha = {alpha!r}")
    potential = power * w ** (power - 1) * unit
    potential -= q @ potential
    norm = _lipschitz_norm(potential, distance)
    # The last term, with s / alpha = W^(alpha - 1) under the power: its two factors can be large.
    share = norm / power
    charge = (power - 1) * share ** (power / (power - 1))
    attained = float(excess @ potential) - charge
    gap = value - attained
    if not abs(gap) <= GAP_TOLERANCE * value:
        raise RuntimeError(
            f"the answer is not proved: the plan gives {value:.9g}, the potential attains "
            f"{attained:.9g}, at alpha = {alpha!r}"
        )
    return UnconstrainedWasserstein(value, w, like(potential, mu), norm, attained, gap)


def _lipschitz_norm(values: Floats, distance: Floats) -> float:
    """Compute the largest quotient of a function (n,) on a finite metric space (n, n)."""
    # Less the rounding of the values, which between two close points would look steep.
    rise = np.abs(values[:, None] - values) - 8 * np.finfo(np.float64).eps * np.abs(values).max()
    apart = distance > 0
    if (rise[~apart] > 0).any():
        return math.inf
    return max(0.0, float((rise[apart] / distance[apart]).max())) if apart.any() else 0.0


def _balanced_difference(p: Floats, q: Floats) -> Floats:
    """Return p - q with a sum of zero, in which the rounding of the last digits does not show."""
    more, less = np.maximum(p - q, 0.0), np.maximum(q - p, 0.0)
    total = min(float(more.sum()), float(less.sum()))
    return total * (more / more.sum() - less / less.sum()) if total > 0 else np.zeros(len(p))


def _distance_and_potential(
    excess: Floats, distance: Floats, max_iterations: int
) -> tuple[float, Floats]:
    """Return W1 and the values of an optimal 1-Lipschitz potential, shape (n,)."""
    rows, columns = np.flatnonzero(excess > 0), np.flatnonzero(excess < 0)
    if not len(rows):
        return 0.0, np.zeros(len(excess))
    total = float(excess[rows].sum())
    a, b = excess[rows] / total, -excess[columns] / total
    inner = distance[np.ix_(rows, columns)]
    plan, g = solve_program(a, b, inner, max_iterations)
    potential = (distance[:, columns] - g).min(axis=1)  # c-transform, as in wasserstein1
    return total * float((plan * inner).sum()), potential
