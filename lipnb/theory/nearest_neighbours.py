"""Mutual information from distances to nearest neighbours: no network, no training."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma

from lipnb.theory._clouds import Cloud, Floats, as_cloud

__all__ = ["ksg_mutual_information"]


def ksg_mutual_information(x: Cloud, y: Cloud, neighbours: int = 3) -> float:
    r"""Estimate mutual information by the first estimator of Kraskov, Stoegbauer and Grassberger.

    .. math::
        \hat I = \psi(k) + \psi(N)
            - \frac1N \sum_i \bigl(\psi(n_x(i) + 1) + \psi(n_y(i) + 1)\bigr)

    The distance of two pairs is the larger one of the distances of their x and of their y, and
    all distances are maximum norms. With epsilon(i) the distance from pair i to its k-th nearest
    other, n_x(i) is the number of other x strictly nearer to x_i than epsilon(i), and n_y(i)
    likewise.

    Parameters
    ----------
    x, y : Tensor or array_like
        The pairs, shapes (N, d_x) and (N, d_y). Their units matter: the maximum norm weighs all
        coordinates alike. They are neither scaled nor given noise here.
    neighbours : int
        The number k of neighbours, from 1 to N - 1. More lowers the scatter and raises the bias.

    Returns
    -------
    float
        The estimate in nats; it may be slightly negative. Its bias grows with the dimension and
        with the information itself; in 10 or more dimensions it can be a small part of the truth.

    Raises
    ------
    ValueError
        If a shape is not (n, d), the lengths differ, a number is not finite, there are not more
        pairs than neighbours, or `neighbours` is below 1; if a pair occurs so often that the
        k-th neighbour is at distance 0, as in discrete data, for which the estimator is not made.
    TypeError
        If an input does not hold real numbers, or `neighbours` is not an integer.

    References
    ----------
    .. [1] A. Kraskov, H. Stoegbauer and P. Grassberger. Estimating Mutual Information. Physical
       Review E 69, 2004. Equation (8).

    Examples
    --------
    A normal pair with correlation 0.8, so that I = 0.511:

    >>> rng = np.random.default_rng(0)
    >>> x, noise = rng.normal(size=(2, 2000, 1))
    >>> abs(ksg_mutual_information(x, 0.8 * x + 0.6 * noise) - 0.511) < 0.06
    True
    """
    points_x, points_y = as_cloud(x, "x"), as_cloud(y, "y")
    n = len(points_x)
    if len(points_y) != n:
        raise ValueError(
            f"x and y must have equally many rows, one pair each; got {n} and {len(points_y)}"
        )
    if isinstance(neighbours, bool) or not isinstance(neighbours, int):
        raise TypeError(f"neighbours must be an integer; got {neighbours!r}")
    if not 1 <= neighbours < n:
        raise ValueError(f"neighbours must be from 1 to N - 1 = {n - 1}; got {neighbours}")
    joint = np.concatenate([points_x, points_y], axis=1)
    distances, _ = cKDTree(joint).query(joint, neighbours + 1, p=np.inf)
    epsilon = distances[:, -1]
    if (epsilon == 0).any():
        raise ValueError(
            f"the pairs must not repeat: got {int((epsilon == 0).sum())} pairs with {neighbours}"
            " or more exact copies. The estimator is for continuous laws; add noise of your choice,"
            " or count a table if the data are discrete"
        )
    terms = digamma(_nearer(points_x, epsilon) + 1) + digamma(_nearer(points_y, epsilon) + 1)
    return float(digamma(neighbours) + digamma(n) - terms.mean())


def _nearer(points: Floats, radius: Floats) -> Floats:
    """Count the other points strictly nearer to each point than its radius."""
    # The tree counts distances up to and including r: the next smaller number makes it strict.
    within = cKDTree(points).query_ball_point(
        points, np.nextafter(radius, 0), p=np.inf, return_length=True
    )
    return np.asarray(within, dtype=np.float64) - 1
