"""What every function on point clouds checks at the door, and the distances between the points."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

Floats = NDArray[np.float64]
Cloud = torch.Tensor | ArrayLike

METRICS: dict[float, Any] = {1.0: "cityblock", 2.0: "euclidean", math.inf: "chebyshev"}
# Weights may come from float32, where n equal weights add up to 1 only to about 1e-7.
MASS_TOLERANCE = 1e-6


def to_numpy(values: Cloud, name: str) -> Floats:
    """Copy a tensor (of any device) or an array to float64; refuse what is not finite and real."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.numpy() if values.is_complex() else values.to(torch.float64).numpy()
    array = np.array(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers; got dtype {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"{name} must be finite; got {bad} values that are NaN or infinite")
    return array


def like(values: Floats, template: Cloud) -> Any:
    """Give float64 numbers back as what came in: a tensor on its device, or an array."""
    if isinstance(template, torch.Tensor):
        return torch.from_numpy(values).to(template.device)
    return values


def as_cloud(points: Cloud, name: str) -> Floats:
    """Read n points of dimension d, shape (n, d)."""
    array = to_numpy(points, name)
    if array.ndim != 2 or 0 in array.shape:
        hint = f"; for points on a line pass {name}[:, None]" if array.ndim == 1 else ""
        raise ValueError(f"{name} must have shape (n, d), n, d >= 1; got {array.shape}{hint}")
    return array


def as_weights(weights: Cloud | None, count: int, name: str) -> Floats:
    """Read non-negative weights (count,) of total mass one; None means equal weights."""
    if weights is None:
        return np.full(count, 1.0 / count)
    array = to_numpy(weights, name)
    if array.shape != (count,):
        raise ValueError(f"{name} must have shape ({count},), one per point; got {array.shape}")
    if array.min() < 0:
        raise ValueError(f"{name} must not be negative; got a smallest weight of {array.min():g}")
    if abs(array.sum() - 1.0) > MASS_TOLERANCE:
        raise ValueError(f"{name} must sum to 1; got a sum of {array.sum():.9g}")
    return array / array.sum()


def as_values(values: Cloud, count: int, name: str) -> Floats:
    """Read one value per point, shape (count,), or (count, 1) as a network returns them."""
    array = to_numpy(values, name)
    if array.shape not in {(count,), (count, 1)}:
        raise ValueError(f"{name} must have shape ({count},), one per point; got {array.shape}")
    return array.reshape(count)


def check_same_dimension(x: Floats, y: Floats) -> None:
    """Refuse two clouds that do not live in the same space."""
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"the clouds must have the same dimension; got d = {x.shape[1]} and {y.shape[1]}"
        )


def binary_exponent(*clouds: Floats) -> int:
    """Find k such that the points, multiplied by 2^-k, spread over about one unit of length.

    Multiplying by a power of two rounds nothing, and keeps squares from over- or underflowing.
    """
    low = np.min([cloud.min(axis=0) for cloud in clouds], axis=0)
    high = np.max([cloud.max(axis=0) for cloud in clouds], axis=0)
    with np.errstate(over="ignore"):
        span = float((high - low).max())
    if not math.isfinite(span):
        raise ValueError("the points are too far apart: their distance overflows float64")
    return math.frexp(span)[1]


def pairwise_distances(x: Floats, y: Floats, p: float) -> Floats:
    """All distances ||x_i - y_j||_p, from the differences themselves, shape (n, m)."""
    if p not in METRICS:
        raise ValueError(f"p must be 1, 2 or inf; got {p!r}")
    k = binary_exponent(x, y)
    return np.ldexp(cdist(np.ldexp(x, -k), np.ldexp(y, -k), METRICS[p]), k)
