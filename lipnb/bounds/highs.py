"""HiGHS for the mixed-integer programs, made quiet."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import vstack

from lipnb.bounds.forward_model import ForwardModel

__all__ = ["maximise"]

TOLERANCE = 1e-6  # of HiGHS, relative to variables of order 1; scipy offers no finer one


def maximise(model: ForwardModel, seconds: float) -> Any:
    """Solve a model with HiGHS, and once more with its presolve if it fails without.

    Parameters
    ----------
    model : ForwardModel
    seconds : float
        Wall-clock limit.

    Returns
    -------
    OptimizeResult
        As from `scipy.optimize.milp`, which minimises: the bound is -mip_dual_bound.
    """
    rows = LinearConstraint(
        vstack(model.rows), np.concatenate(model.bottoms), np.concatenate(model.tops)
    )
    for presolve in (False, True):
        with _quiet():
            result = milp(
                -model.cost,
                integrality=model.integers.astype(int),
                bounds=Bounds(model.low, model.high),
                constraints=rows,
                options={"time_limit": seconds, "mip_rel_gap": 1e-7, "presolve": presolve},
            )
        if result.status in (0, 1, 2):
            break
    return result


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what HiGHS prints: one of its lines ignores that its log is off."""
    if os.name != "posix":
        yield
        return
    flush = ctypes.CDLL(None).fflush
    flush(None)
    kept, sink = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(sink)
