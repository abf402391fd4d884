"""What every function on a finite metric space checks at the door."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lipnb.theory._clouds import Cloud, Floats, to_numpy
from lipnb.theory._histograms import as_histogram

# Distances may come from float32, where the axioms hold only to about 1e-7 of the longest one.
METRIC_TOLERANCE = 1e-6


def as_metric_space(mu: Cloud, nu: Cloud, cost: Cloud) -> tuple[Floats, Floats, Floats]:
    """Read two histograms (n,) on the same points, and the distances (n, n) of these points."""
    p, q = as_histogram(mu, "mu"), as_histogram(nu, "nu")
    if p.shape != q.shape:
        raise ValueError(f"mu and nu must have the same shape; got {p.shape} and {q.shape}")
    return p, q, as_metric(cost, len(p), "cost")


def as_metric(cost: Cloud, count: int, name: str) -> Floats:
    """Read pairwise distances (count, count), and refuse what is no metric.

    Distinct points may be at distance zero, as points of a cloud may repeat. What the tolerance
    lets pass is made a metric: symmetric, zero on the diagonal, the length of the shortest path.
    """
    c = to_numpy(cost, name)
    if c.shape != (count, count):
        raise ValueError(
            f"{name} must have shape ({count}, {count}), as there are {count} points; got {c.shape}"
        )
    if c.min() < 0:
        raise ValueError(f"{name} must not be negative; got a smallest entry of {c.min():g}")
    slack = METRIC_TOLERANCE * float(c.max())
    if np.diag(c).max() > slack:
        raise ValueError(f"{name} must be zero on its diagonal; got {np.diag(c).max():g} there")
    if np.abs(c - c.T).max() > slack:
        i, j = np.unravel_index(np.abs(c - c.T).argmax(), c.shape)
        raise ValueError(
            f"{name} must be symmetric; got {c[i, j]:g} from {i} to {j} and {c[j, i]:g} back"
        )
    c = c / 2 + c.T / 2  # halves first: the sum of two large entries could overflow
    np.fill_diagonal(c, 0.0)
    shortest = c.copy()
    for k in range(count):
        np.minimum(shortest, shortest[:, k, None] + shortest[k], out=shortest)
    if (c - shortest).max() > slack:
        i, j = np.unravel_index((c - shortest).argmax(), c.shape)
        k = int((c[i] + c[j]).argmin())
        raise ValueError(
            f"{name} must satisfy the triangle inequality; got {c[i, j]:g} from {i} to {j}, but "
            f"{c[i, k] + c[k, j]:g} by way of {k}"
        )
    return shortest


def as_number(value: Any, name: str, *, low: float, open_end: bool = False) -> float:
    """Read a finite number that is at least `low`, or above it."""
    number = float(value)
    if not math.isfinite(number) or number < low or (open_end and number == low):
        relation = ">" if open_end else ">="
        raise ValueError(f"{name} must be finite and {relation} {low:g}; got {value!r}")
    return number
