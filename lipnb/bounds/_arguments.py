"""Checks of arguments that several searches and programs share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import nn

from lipnb.bounds.length_unit import in_unit, length_unit, scaled_box
from lipnb.bounds.network import MARGIN, read_box
from lipnb.bounds.result import Box
from lipnb.bounds.units import Units, read_units


def check_positive(**numbers: float) -> None:
    """Refuse a number, by its name, that is not positive and finite."""
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be positive and finite; got {number}")


def check_margin(margin: float, box: Box | None) -> None:
    """Refuse a margin outside (0, 1), or a box that holds no point further from its sides."""
    if not 0 < margin < 1:
        raise ValueError(f"margin must lie strictly between 0 and 1; got {margin}")
    if box is not None and np.subtract(box[1], box[0]).min() <= 2 * margin:
        raise ValueError(f"domain must be wider than twice the margin {margin:g}; got {box}")


def read_scaled(
    network: nn.Sequential, domain: tuple[Any, Any] | None, margin: float | None
) -> tuple[Units, Box | None, Box | None, float, float]:
    """Return units, box and margin in some unit of length, the box as given, and that unit.

    The unit is that of the input if a margin is given, else that of `length_unit`.
    """
    units = read_units(network)
    box = read_box(domain, units.inputs.shape[1])
    unit = length_unit(units, box) if margin is None else 1.0
    small = scaled_box(box, unit)
    margin = MARGIN if margin is None else margin
    check_margin(margin, small)
    return in_unit(units, unit), small, box, margin, unit
