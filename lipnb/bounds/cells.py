"""Cells of gate patterns: which have an interior, and which few gates forbid one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from lipnb.bounds.polyhedra import TOLERANCE, inner_balls
from lipnb.bounds.result import Box
from lipnb.bounds.units import Units, affine_pieces

__all__ = ["box_sides", "conflict", "half_spaces"]

Array = NDArray[np.float64]
Gates = NDArray[np.bool_]


def box_sides(box: Box | None, dimension: int) -> tuple[Array, Array]:
    """Return a box as {x : normals @ x + offsets >= 0}; without a box there are no sides."""
    if box is None:
        return np.empty((0, dimension)), np.empty(0)
    low, high = np.array(box[0]), np.array(box[1])
    return np.vstack([np.eye(dimension), -np.eye(dimension)]), np.concatenate([-low, high])


def half_spaces(slopes: Array, offsets: Array, gates: Gates) -> tuple[Array, Array]:
    """Return the half-spaces on which units have given gates, with normals of length 1.

    A unit with slope zero has a constant sign and no half-space; its row is zero, with the offset
    inf or -inf as its gate is right or wrong.

    Parameters
    ----------
    slopes, offsets : ndarray of shapes (n, n_in) and (n,)
        z = slopes @ x + offsets.
    gates : ndarray of bool of shape (n,)

    Returns
    -------
    normals, offsets : ndarray of shapes (n, n_in) and (n,)

    Examples
    --------
    >>> half_spaces(np.array([[2.0], [0.0]]), np.array([1.0, 3.0]), np.array([False, True]))
    (array([[-1.],
           [ 0.]]), array([-0.5,  inf]))
    """
    sign = np.where(gates, 1.0, -1.0)
    lengths = np.linalg.norm(slopes, axis=1)
    constant = lengths == 0
    scale = sign / np.where(constant, 1.0, lengths)
    shifts = np.where(constant, np.where(sign * offsets >= 0, np.inf, -np.inf), scale * offsets)
    return scale[:, None] * slopes, shifts


def conflict(units: Units, gates: Gates, box: Box | None, margin: float) -> Gates | None:
    r"""Find few units whose gates alone forbid a ball of the given radius.

    The cell of the pattern is cut layer by layer. Where it first becomes thin, the multipliers
    of the margin problem

    .. math::
        \max_{x, t \le 1} t \quad\text{s.t.}\quad s_i z_i(x) \ge t \|\nabla z_i\|_2

    name the few half-spaces that make it so. Their units conflict, together with the earlier
    units on which their pre-activations depend.

    Parameters
    ----------
    units : Units
    gates : ndarray of bool of shape (n,)
    box : (low, high) or None
    margin : float
        Radius of the ball, units of the input.

    Returns
    -------
    ndarray of bool of shape (n,), or None
        None if the cell holds such a ball. Else every pattern with these gates on the marked units
        has a thin cell.

    Examples
    --------
    Both gates of x = relu(x) - relu(-x) cannot be on.

    >>> from torch import nn
    >>> from lipnb.bounds.units import Units
    >>> rows, none = np.array([[1.0], [-1.0]]), np.zeros((2, 2))
    >>> layers = np.zeros(2, dtype=np.int64)
    >>> out = np.zeros((1, 1)), np.array([[1.0, -1.0]]), np.zeros(1)
    >>> units = Units(rows, none, np.zeros(2), layers, *out)
    >>> conflict(units, np.array([True, True]), None, 1e-9)
    array([ True,  True])

    References
    ----------
    Codato and Fischetti, Combinatorial Benders' cuts for mixed-integer linear programming (2006).
    """
    sides, ends = box_sides(box, units.inputs.shape[1])
    slopes, offsets, _ = affine_pieces(units, gates)
    normals, shifts = half_spaces(slopes, offsets, gates)
    for block in units.blocks():
        wrong = block.start + np.flatnonzero(np.isneginf(shifts[block]))
        if wrong.size:
            return _with_ancestors(units, wrong[:1])
        known = np.flatnonzero(np.isfinite(shifts[: block.stop]))
        rows, heights = np.vstack([sides, normals[known]]), np.append(ends, shifts[known])
        if inner_balls([(rows, heights)], margin)[0] is None:
            active = _active_rows(rows, heights)
            few = inner_balls([(rows[active], heights[active])], margin)[0] is None
            named = known[active[active >= len(ends)] - len(ends)] if few else known
            return _with_ancestors(units, named)
    return None


def _active_rows(normals: Array, offsets: Array) -> NDArray[np.int64]:
    """Return the rows with a multiplier in the margin problem."""
    dimension = normals.shape[1]
    options: dict[str, Any] = {
        "primal_feasibility_tolerance": TOLERANCE,
        "dual_feasibility_tolerance": TOLERANCE,
    }
    result = linprog(
        c=np.append(np.zeros(dimension), -1.0),
        A_ub=np.column_stack([-normals, np.ones(len(normals))]),
        b_ub=offsets,
        bounds=[(None, None)] * dimension + [(None, 1.0)],
        method="highs",
        options=options,
    )
    if result.status != 0:  # then every row is blamed, which is true as well
        return np.arange(len(normals))
    weights = -result.ineqlin.marginals
    return np.flatnonzero(weights > 1e-9 * weights.max(initial=0.0))


def _with_ancestors(units: Units, named: NDArray[np.int64]) -> Gates:
    """Mark units, and the earlier units whose gates change their pre-activations."""
    marked = np.zeros(len(units.biases), dtype=bool)
    marked[named] = True
    for block in reversed(units.blocks()):
        rows = units.couplings[block][marked[block]]
        marked |= (rows != 0).any(axis=0)
    return marked
