"""Checks of arguments that several searches and programs share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lipnb.bounds.network import read_box
from lipnb.bounds.result import Box


def check_positive(**numbers: float) -> None:
    """Refuse a number, by its name, that is not positive and finite."""
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be positive and finite; got {number}")


def read_wide_box(domain: tuple[Any, Any] | None, inputs: int, margin: float) -> Box | None:
    """Return a box that holds points which are further than the margin from its sides."""
    if not 0 < margin < 1:
        raise ValueError(f"margin must lie strictly between 0 and 1; got {margin}")
    box = read_box(domain, inputs)
    if box is not None and np.subtract(box[1], box[0]).min() <= 2 * margin:
        raise ValueError(f"domain must be wider than twice the margin {margin:g}; got {box}")
    return box
