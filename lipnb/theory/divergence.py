"""Kullback-Leibler divergence and mutual information, exactly: finite spaces and normal laws."""

from __future__ import annotations

import math
import operator

import numpy as np
from scipy.linalg import solve_triangular, svdvals

from lipnb.theory._clouds import Cloud, Floats, to_numpy
from lipnb.theory._histograms import as_histogram, as_joint_table

__all__ = ["gaussian_kl", "gaussian_mutual_information", "kl_divergence", "mutual_information"]

# Entries of a covariance may come from float32, where transposed entries differ by about 1e-7.
SYMMETRY_TOLERANCE = 1e-6


def kl_divergence(mu: Cloud, nu: Cloud) -> float:
    r"""Compute the Kullback-Leibler divergence of nu from mu on a finite space.

    .. math::

        D(\mu \| \nu) = \sum_i \mu_i \log \frac{\mu_i}{\nu_i}, \qquad 0 \log 0 = 0,

    and infinity if some point has :math:`\nu_i = 0 < \mu_i`: then mu has no density with respect
    to nu.

    Parameters
    ----------
    mu, nu : Tensor or array_like
        Histograms on the same points, both of shape (n,), non-negative with sum 1 (to 1e-6; they
        are then scaled to 1 exactly).

    Returns
    -------
    float
        The divergence in nats, in [0, inf]; 0 if and only if the histograms are equal, up to
        rounding. Nothing is differentiated: the derivative in mu, along a direction h with sum 0,
        is :math:`\sum_i h_i \log(\mu_i / \nu_i)`.

    Raises
    ------
    ValueError
        If shapes differ or are not (n,), a number is not finite, a mass is negative, or masses do
        not sum to one.
    TypeError
        If an input does not hold real numbers.

    Notes
    -----
    The sum is taken over :math:`\mu_i \log(\mu_i / \nu_i) - \mu_i + \nu_i`, which is the same
    number. None of these terms is negative, so close histograms keep their digits.

    Examples
    --------
    A fair coin, where a coin with one head in five was expected, and the reverse:

    >>> round(kl_divergence([0.5, 0.5], [0.2, 0.8]), 4)
    0.2231
    >>> round(kl_divergence([0.2, 0.8], [0.5, 0.5]), 4)
    0.1927
    >>> kl_divergence([0.5, 0.5], [1.0, 0.0]), kl_divergence([1.0, 0.0], [1.0, 0.0])
    (inf, 0.0)

    References
    ----------
    .. [1] S. Kullback and R. A. Leibler. On Information and Sufficiency. Annals of Mathematical
       Statistics 22, 1951.
    """
    p, q = as_histogram(mu, "mu"), as_histogram(nu, "nu")
    if p.shape != q.shape:
        raise ValueError(f"mu and nu must have the same shape; got {p.shape} and {q.shape}")
    if (q[p > 0] == 0).any():
        return math.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.log(p) - np.log(q)
    return _relative_entropy(p, q, log_ratio)


def mutual_information(joint: Cloud) -> float:
    r"""Compute the mutual information of two finite random variables from their joint table.

    .. math::

        I(X; Y) = D(P_{XY} \| P_X \times P_Y)
                = \sum_{ij} p_{ij} \log \frac{p_{ij}}{p_{i \cdot}\, p_{\cdot j}}

    with :math:`p_{i \cdot}` and :math:`p_{\cdot j}` the row and column sums.

    Parameters
    ----------
    joint : Tensor or array_like
        ``joint[i, j]`` is the probability of X = i and Y = j, shape (n, m); non-negative with
        sum 1 (to 1e-6; it is then scaled to 1 exactly).

    Returns
    -------
    float
        The information in nats, in [0, log(min(n, m))]; 0 if and only if X and Y are independent,
        up to rounding.

    Raises
    ------
    ValueError
        If the shape is not (n, m), a number is not finite, a probability is negative, or they do
        not sum to one.
    TypeError
        If the table does not hold real numbers.

    Examples
    --------
    Two copies of a fair coin share log 2 nats, two coins tossed apart none:

    >>> round(mutual_information([[0.5, 0.0], [0.0, 0.5]]), 4)
    0.6931
    >>> mutual_information([[0.25, 0.25], [0.25, 0.25]])
    0.0
    """
    table = as_joint_table(joint, "joint")
    rows, columns = table.sum(axis=1, keepdims=True), table.sum(axis=0, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Sums of logarithms: the product of two small marginals could underflow to 0.
        log_ratio = np.log(table) - np.log(rows) - np.log(columns)
    return _relative_entropy(table, rows * columns, log_ratio)


def gaussian_kl(
    mean_mu: Cloud, covariance_mu: Cloud, mean_nu: Cloud, covariance_nu: Cloud
) -> float:
    r"""Compute the Kullback-Leibler divergence of two normal laws in closed form.

    .. math::

        D(\mu \| \nu) = \tfrac12 \bigl( \operatorname{tr}(B^{-1} A) - d
            + (a - b)^\top B^{-1} (a - b) + \log \det B - \log \det A \bigr)

    for :math:`\mu = N(a, A)` and :math:`\nu = N(b, B)` in d dimensions.

    Parameters
    ----------
    mean_mu, mean_nu : Tensor or array_like
        The means a and b, shape (d,).
    covariance_mu, covariance_nu : Tensor or array_like
        The covariances A and B, shape (d, d), symmetric and positive definite.

    Returns
    -------
    float
        The divergence in nats, in [0, inf).

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite, a covariance is not symmetric and positive
        definite, or the divergence overflows float64.
    TypeError
        If an input does not hold real numbers.

    Examples
    --------
    Unit variances, means one apart:

    >>> gaussian_kl([1.0], [[1.0]], [0.0], [[1.0]])
    0.5
    """
    a, factor_a = _normal_law(mean_mu, covariance_mu, "mu")
    b, factor_b = _normal_law(mean_nu, covariance_nu, "nu")
    if a.shape != b.shape:
        raise ValueError(f"mu and nu must have the same dimension; got {len(a)} and {len(b)}")
    # With A = L L' and B = M M' the trace is the sum of the squares of M^-1 L, and its diagonal
    # gives the determinants. Both together are terms t - log(1 + t) that do not cancel.
    with np.errstate(over="ignore", invalid="ignore"):
        shift = solve_triangular(factor_b, a - b, lower=True)
        relative = solve_triangular(factor_b, factor_a, lower=True)
        t = np.diag(relative) ** 2 - 1
        off_diagonal = (np.tril(relative, -1) ** 2).sum()
        value = float((shift @ shift + off_diagonal + (t - np.log1p(t)).sum()) / 2)
    if not math.isfinite(value):
        raise ValueError("mu and nu are too far apart: their divergence overflows float64")
    return value


def gaussian_mutual_information(covariance: Cloud, x_dimension: int) -> float:
    r"""Compute the mutual information of two jointly normal vectors in closed form.

    .. math::

        I(X; Y) = \tfrac12 \log \frac{\det C_X \det C_Y}{\det C}
                = -\tfrac12 \sum_k \log(1 - \rho_k^2)

    with the canonical correlations :math:`\rho_k`: the singular values of
    :math:`L_X^{-1} C_{XY} L_Y^{-\top}`, where :math:`C_X = L_X L_X^\top`, and likewise for Y.

    Parameters
    ----------
    covariance : Tensor or array_like
        The covariance C of the vector (X, Y), shape (d, d), symmetric and positive definite.
    x_dimension : int
        The first `x_dimension` coordinates are X, the others Y; from 1 to d - 1.

    Returns
    -------
    float
        The information in nats, in [0, inf).

    Raises
    ------
    ValueError
        If the shape does not fit, a number is not finite, the covariance is not symmetric and
        positive definite, or `x_dimension` is out of range.
    TypeError
        If the covariance does not hold real numbers, or `x_dimension` is not an integer.

    Examples
    --------
    One pair of correlation 0.9:

    >>> round(gaussian_mutual_information([[1.0, 0.9], [0.9, 1.0]], 1), 4)
    0.8304
    """
    factor = _cholesky(covariance, "covariance")
    k, d = operator.index(x_dimension), len(factor)
    if not 1 <= k < d:
        raise ValueError(
            f"x_dimension must be at least 1 and below the dimension {d} of the covariance; got {k}"
        )
    # C = L L' with blocks L = [[L_X, 0], [E, F]], so C_Y = E E' + F F'. The canonical
    # correlations are the singular values of L_Y^-1 E.
    cross = factor[k:, :k]
    factor_y = np.linalg.cholesky(cross @ cross.T + factor[k:, k:] @ factor[k:, k:].T)
    rho = svdvals(solve_triangular(factor_y, cross, lower=True))
    if rho.max() >= 1:
        raise ValueError("covariance must be positive definite; got one that rounds to singular")
    return float(-np.log1p(-(rho**2)).sum() / 2)


def _relative_entropy(p: Floats, q: Floats, log_ratio: Floats) -> float:
    """Sum p log(p / q) - p + q, given log(p / q); p and q sum to one, and q > 0 where p > 0."""
    terms = q.copy()  # what remains of a term where p = 0
    some = p > 0
    terms[some] += p[some] * (log_ratio[some] - 1)
    close = np.abs(q - p) < p / 2
    u = (q[close] - p[close]) / p[close]
    terms[close] = p[close] * (u - np.log1p(u))
    return float(terms.sum())


def _normal_law(mean: Cloud, covariance: Cloud, name: str) -> tuple[Floats, Floats]:
    """Read a mean and the Cholesky factor of a covariance of the same dimension."""
    a = to_numpy(mean, f"mean_{name}")
    factor = _cholesky(covariance, f"covariance_{name}")
    if a.shape != (len(factor),):
        raise ValueError(
            f"mean_{name} must have shape ({len(factor)},), as covariance_{name} has "
            f"{factor.shape}; got {a.shape}"
        )
    return a, factor


def _cholesky(covariance: Cloud, name: str) -> Floats:
    """Read a covariance and return its Cholesky factor; refuse what is none."""
    c = to_numpy(covariance, name)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or c.size == 0:
        raise ValueError(f"{name} must have shape (d, d), d >= 1; got {c.shape}")
    asymmetry = np.abs(c - c.T).max()
    if asymmetry > SYMMETRY_TOLERANCE * np.abs(c).max():
        raise ValueError(f"{name} must be symmetric; got entries that differ by {asymmetry:g}")
    try:
        factor = np.linalg.cholesky((c + c.T) / 2)
    except np.linalg.LinAlgError:
        smallest = np.linalg.eigvalsh((c + c.T) / 2).min()
        raise ValueError(
            f"{name} must be positive definite; got a smallest eigenvalue of {smallest:g}"
        ) from None
    return factor.astype(np.float64)
