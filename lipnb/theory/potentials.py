"""Functions on a space known at finitely many points: extension, and what their gap proves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lipnb.theory._clouds import (
    Cloud,
    as_cloud,
    as_values,
    as_weights,
    check_same_dimension,
    like,
    pairwise_distances,
)

__all__ = ["CertifiedGap", "certified_gap", "mcshane_extension"]


def mcshane_extension(
    points: Cloud, values: Cloud, z: Cloud, *, lipschitz_constant: float = 1.0, p: float = 2
) -> Any:
    r"""Extend values at points to a Lipschitz function on the whole space, and evaluate it at z.

    .. math:: f(z) = \min_j \; g_j + L \, \|z - y_j\|_p

    A minimum of cones, hence L-Lipschitz whatever the values. It is the largest L-Lipschitz
    function with :math:`f(y_j) \le g_j`, and :math:`f(y_j) = g_j` for all j exactly if the values
    are L-Lipschitz on the points. With L = 1 it is the c-transform of :math:`-g`.

    Parameters
    ----------
    points : Tensor or array_like
        Points y_j, shape (m, d).
    values : Tensor or array_like
        Values g_j, shape (m,) or (m, 1).
    z : Tensor or array_like
        Where to evaluate, shape (n, d).
    lipschitz_constant : float
        L >= 0, in units of a value per length.
    p : {1, 2, inf}
        Distances are p-norms.

    Returns
    -------
    Tensor or ndarray
        f(z), shape (n,), float64; a tensor on the device of z if z is one.

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite, or L is negative.

    Examples
    --------
    >>> mcshane_extension([[0.0], [4.0]], [0.0, 1.0], [[1.0], [2.0], [6.0]])
    array([1., 2., 3.])

    References
    ----------
    E. J. McShane. Extension of range of functions. Bulletin of the AMS 40(12), 1934, theorem 1.
    """
    support, where = as_cloud(points, "points"), as_cloud(z, "z")
    check_same_dimension(support, where)
    known = as_values(values, len(support), "values")
    if not 0 <= lipschitz_constant < math.inf:
        raise ValueError(f"lipschitz_constant must be finite and >= 0; got {lipschitz_constant!r}")
    cones = known + lipschitz_constant * pairwise_distances(where, support, p)
    return like(cones.min(axis=1), z)


@dataclass(frozen=True)
class CertifiedGap:
    """What the values of a critic on two clouds prove about their distance.

    Attributes
    ----------
    gap : float
        Mean of the critic over the first cloud minus its mean over the second.
    quotient : float
        The largest signed quotient (f(x_i) - f(y_j)) / ||x_i - y_j|| between the clouds; inf where
        two coinciding points have different values.
    value : float
        gap / quotient where both are positive, else 0: a lower bound of the exact distance.
    """

    gap: float
    quotient: float
    value: float


def certified_gap(
    f_x: Cloud,
    f_y: Cloud,
    x: Cloud,
    y: Cloud,
    a: Cloud | None = None,
    b: Cloud | None = None,
    *,
    p: float = 2,
) -> CertifiedGap:
    r"""Turn the values of any critic on two clouds into a lower bound of their W1 distance.

    .. math::

        \sum_i a_i f(x_i) - \sum_j b_j f(y_j) \le q \, W_1, \qquad
        q = \max_{a_i, b_j > 0} \frac{f(x_i) - f(y_j)}{\|x_i - y_j\|_p}

    because the gap is the same for every coupling, and under an optimal one each difference
    f(x_i) - f(y_j) is at most q times the distance that the mass travels. The critic need not be
    Lipschitz, and nothing is sampled: all n m pairs are looked at.

    Parameters
    ----------
    f_x, f_y : Tensor or array_like
        Values of the critic on x and y, shapes (n,) and (m,), or (n, 1) and (m, 1).
    x, y : Tensor or array_like
        The clouds, shapes (n, d) and (m, d).
    a, b : Tensor or array_like, optional
        Their weights, as in `wasserstein1`. Pairs of zero weight are left out.
    p : {1, 2, inf}
        Distances are p-norms.

    Returns
    -------
    CertifiedGap
        `gap`, `quotient`, and `value` in [0, W1].

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite, or weights are not those of a probability.

    Examples
    --------
    >>> proof = certified_gap([6.0], [0.0], [[2.0]], [[0.0]])
    >>> proof.gap, proof.quotient, proof.value
    (6.0, 3.0, 2.0)

    References
    ----------
    C. Villani. Optimal Transport: Old and New. Springer, 2008. Particular case 5.16.
    """
    points_x, points_y = as_cloud(x, "x"), as_cloud(y, "y")
    check_same_dimension(points_x, points_y)
    mass_x = as_weights(a, len(points_x), "a")
    mass_y = as_weights(b, len(points_y), "b")
    values_x = as_values(f_x, len(points_x), "f_x")
    values_y = as_values(f_y, len(points_y), "f_y")

    gap = float(mass_x @ values_x - mass_y @ values_y)
    rise = np.subtract.outer(values_x[mass_x > 0], values_y[mass_y > 0])
    distance = pairwise_distances(points_x[mass_x > 0], points_y[mass_y > 0], p)
    apart = distance > 0
    if (rise[~apart] > 0).any():
        return CertifiedGap(gap, math.inf, 0.0)
    quotient = float((rise[apart] / distance[apart]).max()) if apart.any() else 0.0
    return CertifiedGap(gap, quotient, gap / quotient if min(gap, quotient) > 0 else 0.0)
