"""A unit of length in which the kinks of a network lie about 1 apart."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lipnb.bounds.result import Box
from lipnb.bounds.units import Units

__all__ = ["in_unit", "length_unit", "power_of_two", "scaled_box"]

Array = NDArray[np.float64]
ORDINARY = (1e-3, 1e3)  # lengths that need no other unit than that of the input


def length_unit(units: Units, box: Box | None) -> float:
    r"""Return a power of two near the distance at which kinks lie from each other.

    A margin that tells regions from kinks is a length, and linear programs have absolute
    tolerances. Both make sense only next to the distances between kinks, which are estimated by

    .. math::
        \operatorname{median}_i \frac{\bar c_i}{\bar g_i}, \qquad
        \bar c = |c| + |B| \bar c, \quad \bar g_i = \|A_i\|_2 + (|B| \bar g)_i

    and by half the width of the box, if that is smaller.

    Parameters
    ----------
    units : Units
    box : (low, high) or None

    Returns
    -------
    float
        1 where the estimate lies between 1e-3 and 1e3.

    Examples
    --------
    The kinks of relu(2^40 x) - relu(2^40 x - 1) lie 2^-40 apart.

    >>> rows, none = np.full((2, 1), 2.0**40), np.zeros((2, 2))
    >>> layers = np.zeros(2, dtype=np.int64)
    >>> out = np.zeros((1, 1)), np.array([[1.0, -1.0]]), np.zeros(1)
    >>> units = Units(rows, none, np.array([0.0, -1.0]), layers, *out)
    >>> math.log2(length_unit(units, None))
    -40.0
    """
    offsets, slopes = np.abs(units.biases), np.linalg.norm(units.inputs, axis=1)
    with np.errstate(all="ignore"):
        for block in units.blocks():
            size = np.abs(units.couplings[block, : block.start])
            offsets[block] += size @ offsets[: block.start]
            slopes[block] += size @ slopes[: block.start]
        distances = offsets / slopes
    distances = distances[np.isfinite(distances) & (distances > 0)]
    length = float(np.median(distances)) if len(distances) else 1.0
    if box is not None:
        length = min(length, float(np.subtract(box[1], box[0]).min()) / 2)
    return power_of_two(length)


def power_of_two(length: float) -> float:
    """Return a power of two near a length, or 1 for a length between 1e-3 and 1e3.

    Examples
    --------
    >>> power_of_two(0.2), power_of_two(1e6) / 2**20
    (1.0, 1.0)
    """
    if ORDINARY[0] <= length <= ORDINARY[1] or length == 0:
        return 1.0
    return 2.0 ** min(max(round(math.log2(length)), -300), 300)


def in_unit(units: Units, unit: float) -> Units:
    """Return the map of points that are measured in another unit; its slopes are larger by it."""
    return replace(units, inputs=units.inputs * unit, out_inputs=units.out_inputs * unit)


def scaled_box(box: Box | None, unit: float) -> Box | None:
    """Return a box in another unit."""
    if box is None:
        return None
    low, high = (tuple(side / unit for side in sides) for sides in box)
    return low, high
