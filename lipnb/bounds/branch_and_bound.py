"""The exact Lipschitz constant by branch and bound over the gates."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace
from itertools import count
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lipnb.bounds._arguments import check_positive, read_scaled
from lipnb.bounds.cells import box_sides
from lipnb.bounds.layerwise import product_bound
from lipnb.bounds.lower import sampled_bound
from lipnb.bounds.network import check_norm
from lipnb.bounds.polyhedra import inner_balls, inner_radius
from lipnb.bounds.result import Box
from lipnb.bounds.search_bound import SearchBound
from lipnb.bounds.unit_intervals import simplify, slope_bound, slope_intervals
from lipnb.bounds.units import Units, affine_pieces, settle
from lipnb.bounds.units_sdp import units_sdp

__all__ = ["branch_and_bound"]

Array = NDArray[np.float64]


def branch_and_bound(
    network: nn.Sequential,
    *,
    norm: float = 2,
    domain: tuple[Any, Any] | None = None,
    seconds: float = 60.0,
    tolerance: float = 1e-6,
    margin: float | None = None,
) -> SearchBound:
    r"""Compute the Lipschitz constant by splitting the domain at units of unknown sign.

    A node of the search is a polyhedron on which some gates are decided. It is split by a unit
    that is affine on it, and a side counts if a ball of radius `margin` fits into it. So no kink
    is ever visited. Above each node stands a bound over all values of its undecided gates:

    .. math::
        \max_{x \in \text{node}} \|J(x)\|_{p \to p} \le
        \bigl\| \max(|\underline J|, |\overline J|) \bigr\|_{p \to p}

    from intervals, and for p = 2 also LipSDP with the decided gates put in. The node with the
    largest bound is split next. Nodes whose bound is below a slope that was found are dropped.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included), `ReLU`, `LeakyReLU` and
        `GroupSort` in pairs.
    norm : {1, 2, inf}
        The p of the input and, for vector outputs, of the output.
    domain : (low, high), optional
        A box; everywhere by default.
    seconds : float
        Wall-clock time after which to stop.
    tolerance : float
        Relative distance between lower and upper bound at which the value counts as exact.
    margin : float, optional
        Regions in which no ball of this radius fits are kinks. In units of the input; by default
        1e-9, or 1e-9 of the distance between kinks where that is below 1e-3 or above 1e3.

    Returns
    -------
    SearchBound
        Of kind 'exact' (within the tolerance), the slope of a region with interior. After an
        early stop of kind 'upper', with the best lower bound as its `lower`.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> import torch
    >>> from lipnb.bounds import enumerate_regions
    >>> from lipnb.models import mlp
    >>> network = mlp([3, 6, 4, 2], generator=torch.Generator().manual_seed(0))
    >>> bound = branch_and_bound(network)
    >>> bound.kind, abs(bound.value / enumerate_regions(network).value - 1) < 1e-6
    ('exact', True)

    References
    ----------
    Bhowmick, D'Souza and Raghavan, LipBaB: Computing exact Lipschitz constant of ReLU networks
    (2021), for the search and the bounds from intervals; Fazlyab et al., Efficient and accurate
    estimation of Lipschitz constants for deep neural networks (2019), for LipSDP.
    """
    start = perf_counter()
    check_norm(norm)
    check_positive(seconds=seconds, tolerance=tolerance)
    units, small, box, margin, unit = read_scaled(network, domain, margin)
    sampled = sampled_bound(network, norm=norm, domain=domain).value
    search = _Search(small, norm, margin, unit * sampled)
    root = _root(units, small, unit * product_bound(network, norm=norm).value)
    reason = search.run(root, start + seconds, tolerance)
    spent = perf_counter() - start
    counts = f"{search.nodes} nodes"
    if reason is None:
        status, value = f"{counts}, margin {margin * unit:g}", search.best / unit
        return SearchBound(value, "exact", norm, box, spent, status, value)
    best, top = search.best / unit, max(search.upper, search.best) / unit
    status = f"{reason}: at least {best:.6g}, {counts}"
    return SearchBound(top, "upper", norm, box, spent, status, best)


@dataclass(frozen=True, eq=False)
class _Node:
    """A polyhedron with the units that are undecided on it, a ball in it, and an upper bound."""

    units: Units
    normals: Array
    offsets: Array
    point: Array
    radius: float
    bound: float


@dataclass
class _Search:
    """The state of the search: what is known from below and from above."""

    box: Box | None
    norm: float
    margin: float
    best: float
    upper: float = math.inf
    nodes: int = 0

    def run(self, root: _Node, deadline: float, tolerance: float) -> str | None:
        """Close the bracket; return None, or why the search stopped before."""
        order = count()  # breaks ties
        heap: list[tuple[float, int, _Node]] = []

        def push(node: _Node) -> None:
            """Keep a node if its bound is above what is known."""
            node = self._bounded(node)
            if node.bound > self.best * (1 + tolerance):
                heapq.heappush(heap, (-node.bound, next(order), node))

        push(root)
        while heap:
            self.upper = max(self.best, -heap[0][0])
            if self.upper <= self.best * (1 + tolerance):
                return None
            if perf_counter() > deadline:
                return "time is up"
            node = heapq.heappop(heap)[2]
            self.nodes += 1
            self._look(node)
            doubt = _influence(node.units, self.norm)
            if self.norm == 2:
                node, doubt = self._relaxed(node, doubt, tolerance, deadline)
                if node.bound <= self.best * (1 + tolerance):
                    continue
            try:
                children = self._split(node, doubt)
            except RuntimeError as error:
                return f"HiGHS failed on a cell ({error})"
            for child in children:
                push(child)
        self.upper = self.best
        return None

    def _bounded(self, node: _Node) -> _Node:
        """Settle what the box decides, and bound by intervals."""
        units = simplify(node.units, self.box)
        *_, low, high = slope_intervals(units)
        bound = min(node.bound, slope_bound(low, high, self.norm))
        if not len(units.biases):  # affine on the node
            slope = float(np.linalg.norm(units.out_inputs, ord=self.norm))
            self.best, bound = max(self.best, slope), slope
        return replace(node, units=units, bound=bound)

    def _look(self, node: _Node) -> None:
        """Take the slope at the centre of the ball, unless a kink is near."""
        gates = np.zeros(len(node.units.biases), dtype=bool)
        for block in node.units.blocks():  # a layer's gates need those of the layers before
            slopes, offsets, _ = affine_pieces(node.units, gates)
            gates[block] = (slopes[block] @ node.point + offsets[block]) > 0
        slopes, offsets, jacobian = affine_pieces(node.units, gates)
        lengths = np.linalg.norm(slopes, axis=1)
        reach = 2 * self.margin * lengths
        if (np.abs(slopes @ node.point + offsets)[lengths > 0] > reach[lengths > 0]).all():
            self.best = max(self.best, float(np.linalg.norm(jacobian, ord=self.norm)))

    def _relaxed(
        self, node: _Node, doubt: Array, tolerance: float, deadline: float
    ) -> tuple[_Node, Array]:
        """Bound by LipSDP, and prefer units whose gates are fractional there."""
        low, high, _, _ = slope_intervals(node.units)
        sizes = np.linalg.norm(np.maximum(np.abs(low), np.abs(high)), axis=1)
        goal = self.best * (1 + tolerance)
        relaxation = units_sdp(node.units, sizes, node.bound, goal=goal, deadline=deadline)
        score = relaxation.doubt + 1e-9 * doubt / max(doubt.max(), 1e-300)
        return replace(node, bound=min(node.bound, relaxation.value)), score

    def _split(self, node: _Node, doubt: Array) -> list[_Node]:
        """Return the sides of the best unit that is affine on the node."""
        while True:
            affine = ~node.units.couplings.any(axis=1)
            unit = int(np.argmax(np.where(affine, doubt, -1.0)))
            children = [self._side(node, unit, on) for on in (False, True)]
            kept = [child for child in children if child is not None]
            if len(kept) != 1 or not len(kept[0].units.biases):
                return kept
            node, doubt = kept[0], np.delete(doubt, unit)  # decided on the node: no split yet

    def _side(self, node: _Node, unit: int, on: bool) -> _Node | None:
        """Return the part of a node on which a unit is on (off), if a ball fits into it."""
        mark = np.arange(len(node.units.biases)) == unit
        none = np.zeros_like(mark)
        units = settle(node.units, mark if on else none, none if on else mark)
        slope, offset = node.units.inputs[unit], node.units.biases[unit]
        length = float(np.linalg.norm(slope))
        if length == 0:
            return replace(node, units=units) if on == (offset > 0) else None
        sign = (1.0 if on else -1.0) / length
        normals = np.vstack([node.normals, sign * slope])
        offsets = np.append(node.offsets, sign * offset)
        point, radius = node.point, inner_radius(normals, offsets, node.point)
        if radius <= 1e3 * self.margin:
            ball = inner_balls([(normals, offsets)], self.margin)[0]
            if ball is None:
                return None
            point, radius = ball
        return _Node(units, normals, offsets, point, radius, node.bound)


def _root(units: Units, box: Box | None, bound: float) -> _Node:
    """Return the whole domain as a node."""
    dimension = units.inputs.shape[1]
    normals, offsets = box_sides(box, dimension)
    point = np.zeros(dimension) if box is None else np.mean(box, axis=0)
    return _Node(units, normals, offsets, point, inner_radius(normals, offsets, point), bound)


def _influence(units: Units, norm: float) -> Array:
    """Return how much a gate may change the output, roughly."""
    low, high, _, _ = slope_intervals(units)
    size = np.linalg.norm(np.maximum(np.abs(low), np.abs(high)), axis=1)
    weight = np.abs(units.out_couplings).sum(axis=0)
    for block in reversed(units.blocks()):
        weight = weight + weight[block] @ np.abs(units.couplings[block])
    return size * weight
