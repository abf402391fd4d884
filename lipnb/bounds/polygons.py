"""The exact Lipschitz constant of networks of one or two inputs: cut the plane into polygons."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lipnb.bounds._arguments import check_positive, read_scaled
from lipnb.bounds.layerwise import product_bound
from lipnb.bounds.network import check_norm
from lipnb.bounds.polyhedra import inner_balls, inner_radius
from lipnb.bounds.result import Box
from lipnb.bounds.search_bound import SearchBound
from lipnb.bounds.unit_intervals import slope_bound, slope_intervals
from lipnb.bounds.units import Units

__all__ = ["enumerate_polygons"]

Array = NDArray[np.float64]
Gates = NDArray[np.bool_]
ROUNDING = 1e-13  # relative size of a pre-activation at a corner that counts as zero
INFINITE = 1e-12  # a corner whose t is smaller than this, next to x, lies at infinity


def enumerate_polygons(
    network: nn.Sequential,
    *,
    norm: float = 2,
    domain: tuple[Any, Any] | None = None,
    seconds: float = 60.0,
    margin: float | None = None,
) -> SearchBound:
    r"""Compute the Lipschitz constant of a network of one or two inputs by cutting its domain.

    The units of one layer after the other cut the domain into polygons (intervals), on which all
    gates are constant. The constant is the largest slope of a polygon with interior:

    .. math::
        \|f\|_L = \max_{P} \|J_P\|_{p \to p}

    A polygon is held by its corners, so no linear program is solved. Corners are rays (x, t) with
    t >= 0 that stand for the points x / t; for t = 0 they lie at infinity, and the whole plane is
    four such polygons.

    Parameters
    ----------
    network : nn.Sequential
        With one or two inputs: Linear layers (batch normalisation in evaluation mode included),
        `ReLU`, `LeakyReLU` and `GroupSort` in pairs.
    norm : {1, 2, inf}
        The p of the input and, for vector outputs, of the output.
    domain : (low, high), optional
        A box; everywhere by default.
    seconds : float
        Wall-clock time after which to stop.
    margin : float, optional
        Polygons in which no ball of this radius fits are kinks. In units of the input; by default
        1e-9, or 1e-9 of the distance between kinks where that is below 1e-3 or above 1e3.

    Returns
    -------
    SearchBound
        Of kind 'exact' (up to rounding in float64), the slope of a polygon with interior. After an
        early stop of kind 'upper', with the largest slope that was met as its `lower`.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If the network has more than two inputs, or an argument is out of range.

    Examples
    --------
    The distance from the origin in the norm 1 has four linear pieces.

    >>> import torch
    >>> up, down = nn.Linear(2, 4, bias=False), nn.Linear(4, 1, bias=False)
    >>> _ = up.weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    >>> _ = down.weight.data.fill_(1.0)
    >>> bound = enumerate_polygons(nn.Sequential(up, nn.ReLU(), down), norm=torch.inf)
    >>> bound.value, bound.kind, bound.status
    (2.0, 'exact', '4 linear pieces, margin 1e-09')

    References
    ----------
    Montufar et al., On the number of linear regions of deep neural networks (2014), for the
    regions and their number.
    """
    start = perf_counter()
    check_norm(norm)
    check_positive(seconds=seconds)
    units, small, box, margin, unit = read_scaled(network, domain, margin)
    if units.inputs.shape[1] not in (1, 2):
        raise ValueError(
            f"network must have one or two inputs; got {units.inputs.shape[1]}; "
            "branch_and_bound takes more"
        )
    best, pieces, reason = 0.0, 0, None
    try:
        for slope in _slopes(units, small, norm, margin):
            best, pieces = max(best, slope), pieces + 1
            if perf_counter() - start > seconds:
                reason = "time is up"
                break
    except RuntimeError as error:
        reason = f"HiGHS failed on a cell ({error})"
    best, spent = best / unit, perf_counter() - start
    if reason is None:
        status = f"{pieces} linear pieces, margin {margin * unit:g}"
        return SearchBound(best, "exact", norm, box, spent, status, best)
    *_, low, high = slope_intervals(units)
    top = min(product_bound(network, norm=norm).value, slope_bound(low, high, norm) / unit)
    status = f"{reason}: at least {best:.6g}, {pieces} linear pieces"
    return SearchBound(max(top, best), "upper", norm, box, spent, status, best)


class _Piece(NamedTuple):
    """A polygon on which the gates of some layers are known, and some signs of the next one."""

    corners: Array
    layer: int
    gates: Gates
    rows: Array  # of the units so far: z = rows @ (x, t)
    signs: Array  # of the next layer; 0 if not known, so that no unit cuts the same piece twice


def _slopes(units: Units, box: Box | None, norm: float, margin: float) -> Iterator[float]:
    """Yield the slopes of all polygons with interior, depth first."""
    dimension = units.inputs.shape[1]
    blocks = units.blocks()
    affine = np.column_stack([units.inputs, units.biases])
    empty = np.empty((0, dimension + 1))
    none = np.zeros(0)
    stack = [_Piece(p, 0, none > 0, empty, none) for p in _roots(box, dimension)]
    while stack:
        corners, layer, gates, rows, signs = stack.pop()
        if layer == len(blocks):
            jacobian = units.out_inputs + (units.out_couplings * gates) @ rows[:, :dimension]
            yield float(np.linalg.norm(jacobian, ord=norm))
            continue
        block = blocks[layer]
        if len(rows) == block.start:
            rows = np.vstack([rows, _next_rows(units, affine[block], block, gates, rows)])
            signs = np.zeros(block.stop - block.start)
        new = rows[block.start :]
        z = corners @ new.T
        zero = ROUNDING * (np.abs(corners) @ np.abs(new).T)
        both = (z > zero).any(axis=0) & (z < -zero).any(axis=0)
        crossed = np.flatnonzero(both & (signs == 0))
        if not crossed.size:
            on = np.where(signs == 0, z.sum(axis=0), signs) > 0
            stack.append(_Piece(corners, layer + 1, np.append(gates, on), rows, none))
            continue
        unit = crossed[0]
        values = np.where(np.abs(z[:, unit]) <= zero[:, unit], 0.0, z[:, unit])
        for sign in (1.0, -1.0):
            part, known = _cut(corners, sign * values), signs.copy()
            known[unit] = sign
            if _is_wide(part, dimension, margin):
                stack.append(_Piece(part, layer, gates, rows, known))


def _roots(box: Box | None, dimension: int) -> list[Array]:
    """Return polygons that cover the domain, by their corners (x, t) in cyclic order."""
    if box is not None:
        (x, y), one = np.array(box), np.ones(1)
        if dimension == 1:
            return [np.array([np.append(x, one), np.append(y, one)])]
        return [np.array([[x[0], x[1], 1], [y[0], x[1], 1], [y[0], y[1], 1], [x[0], y[1], 1]])]
    origin, axes = np.eye(dimension + 1)[-1], np.eye(dimension + 1)[:-1]
    if dimension == 1:
        return [np.stack([origin, sign * axes[0]]) for sign in (1, -1)]
    return [np.stack([origin, a * axes[0], b * axes[1]]) for a in (1, -1) for b in (1, -1)]


def _next_rows(units: Units, affine: Array, block: slice, gates: Gates, rows: Array) -> Array:
    """Return what the units of the next layer are as functions of (x, t)."""
    coupling = units.couplings[block, : block.start] * gates
    result = affine + coupling @ rows
    # What cancels up to rounding is zero; its sign would draw a line of noise.
    size = np.abs(affine) + np.abs(coupling) @ np.abs(rows)
    slopes = result[:, :-1]
    slopes[np.abs(slopes) <= 1e-14 * size[:, :-1]] = 0.0
    return result


def _cut(corners: Array, z: Array) -> Array:
    """Return the part of a polygon on which z >= 0, from the values at its corners."""
    k = len(corners)
    points, z = [], z / np.abs(z).max()
    for i in range(k):
        j = (i + 1) % k
        if z[i] >= 0:
            points.append(corners[i])
        crosses = z[i] < 0 < z[j] or z[j] < 0 < z[i]
        if crosses and (k > 2 or i == 0):  # an interval has one edge, not two
            point = abs(z[j]) * corners[i] + abs(z[i]) * corners[j]
            points.append(point / np.abs(point).max())
    return np.array(points)


def _is_wide(corners: Array, dimension: int, margin: float) -> bool:
    """Tell whether a ball of radius `margin` fits into a polygon (interval)."""
    if len(corners) <= dimension:
        return False
    x, t = corners[:, :-1], corners[:, -1]
    if (t > INFINITE * np.abs(x).max(axis=1)).all():
        x = x / t[:, None]
        if dimension == 1:
            return bool(abs(x[1, 0] - x[0, 0]) > 2 * margin)
        x = x - x[0]
        after = np.roll(x, -1, axis=0)
        area = abs(float(x[:, 0] @ after[:, 1] - x[:, 1] @ after[:, 0])) / 2
        around = float(np.linalg.norm(after - x, axis=1).sum())
        # The radius of the largest ball lies between area / around and twice that.
        if area > margin * around or 2 * area <= margin * around:
            return area > margin * around
    elif dimension == 1:
        return True
    normals, offsets = _sides(corners)
    middle = (corners / np.abs(corners).max(axis=1)[:, None]).sum(axis=0)
    if middle[-1] > 0 and inner_radius(normals, offsets, middle[:-1] / middle[-1]) > margin:
        return True
    return inner_balls([(normals, offsets)], margin)[0] is not None


def _sides(corners: Array) -> tuple[Array, Array]:
    """Return the half-planes of a polygon, {x : normals @ x + offsets >= 0}."""
    lines = np.cross(corners, np.roll(corners, -1, axis=0))
    lengths = np.linalg.norm(lines[:, :-1], axis=1)
    # Two corners at infinity span no side, and two equal ones none that is known.
    size = np.linalg.norm(corners, axis=1)
    lines = lines[lengths > ROUNDING * size * np.roll(size, -1)]
    lines /= np.linalg.norm(lines[:, :-1], axis=1)[:, None]
    sign = np.where((corners @ lines.T).sum(axis=0) < 0, -1.0, 1.0)
    lines *= sign[:, None]
    return lines[:, :-1], lines[:, -1]
