"""Balls inside polyhedra: the linear program that tells a linear region from a kink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array

__all__ = ["inner_balls", "inner_radius"]

Array = NDArray[np.float64]
CHUNK = 64  # programs solved as one: the overhead of a call is that of many small programs
TOLERANCE = 1e-10  # the finest that HiGHS accepts
DOUBT = 1e-6  # an optimum so close to the threshold is computed again, alone


def inner_radius(normals: Array, offsets: Array, point: Array) -> float:
    """Return the distance (at most 1) of a point to the nearest side, negative outside."""
    return min(1.0, float(np.min(normals @ point + offsets, initial=1.0)))


def inner_balls(
    polyhedra: Sequence[tuple[Array, Array]], margin: float
) -> list[tuple[Array, float] | None]:
    r"""Find in each polyhedron a ball as large as possible, of radius at most 1.

    .. math::
        \max_{x, t \le 1} t \quad\text{s.t.}\quad \text{normals} \cdot x + \text{offsets} \ge t

    Parameters
    ----------
    polyhedra : sequence of (normals, offsets)
        Shapes (k, n) and (k,), the same n for all; {x : normals @ x + offsets >= 0} with normals
        of length 1.
    margin : float
        Balls of this radius or less do not count.

    Returns
    -------
    list of (centre, radius) or None
        The radius is measured at the centre, not taken from the solver.

    Raises
    ------
    RuntimeError
        If HiGHS stops without an optimum.

    Examples
    --------
    >>> sides = np.array([[1.0], [-1.0]])
    >>> wide, point = inner_balls([(sides, np.array([0.0, 1.0])), (sides, np.zeros(2))], 1e-9)
    >>> wide, point
    ((array([0.5]), 0.5), None)

    References
    ----------
    Boyd and Vandenberghe, Convex Optimization (2004), section 8.5.1 (Chebyshev centre).
    """
    balls: list[tuple[Array, float] | None] = []
    for start in range(0, len(polyhedra), CHUNK):
        chunk = polyhedra[start : start + CHUNK]
        for (normals, offsets), solution in zip(chunk, _solve(chunk), strict=True):
            centre, radius = solution[:-1], inner_radius(normals, offsets, solution[:-1])
            if radius <= margin and abs(solution[-1] - margin) < DOUBT and len(chunk) > 1:
                centre = _solve([(normals, offsets)])[0, :-1]
                radius = inner_radius(normals, offsets, centre)
            balls.append((centre, radius) if radius > margin else None)
    return balls


def _solve(polyhedra: Sequence[tuple[Array, Array]]) -> Array:
    """Solve the programs of several polyhedra as one block-diagonal program; rows (x, t)."""
    blocks = [np.column_stack([-normals, np.ones(len(normals))]) for normals, _ in polyhedra]
    columns = blocks[0].shape[1]
    heights = [len(block) for block in blocks]
    data = np.concatenate([block.ravel() for block in blocks])
    rows = np.repeat(np.arange(sum(heights)), columns)
    first = np.repeat(np.arange(len(blocks)) * columns, heights)  # first column of each row
    indices = (first[:, None] + np.arange(columns)).ravel()
    shape = (sum(heights), len(blocks) * columns)
    bounds = np.tile([[-np.inf, np.inf]] * (columns - 1) + [[-np.inf, 1.0]], (len(blocks), 1))
    options: dict[str, Any] = {
        "primal_feasibility_tolerance": TOLERANCE,
        "dual_feasibility_tolerance": TOLERANCE,
    }
    result = linprog(
        c=np.tile(np.append(np.zeros(columns - 1), -1.0), len(blocks)),
        A_ub=coo_array((data, (rows, indices)), shape=shape).tocsc(),
        b_ub=np.concatenate([offsets for _, offsets in polyhedra]),
        bounds=bounds,
        method="highs",
        options=options,
    )
    if result.status != 0:
        # HiGHS has called a block of bounded programs unbounded; one by one it solves them.
        if len(polyhedra) > 1:
            return np.concatenate([_solve([polyhedron]) for polyhedron in polyhedra])
        raise RuntimeError(f"HiGHS found no optimum of the margin problem: {result.message}")
    return result.x.reshape(len(blocks), columns)
