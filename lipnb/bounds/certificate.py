"""What a vector of multipliers proves, whoever has found it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from lipnb.bounds.interior_point import Program

__all__ = ["certified_square"]

Array = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)


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

    References
    ----------
    Rump, Verification of positive definiteness (2006).

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
