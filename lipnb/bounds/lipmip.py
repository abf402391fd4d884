"""LipMIP: the Lipschitz constant by mixed-integer linear programming."""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lipnb.bounds._arguments import check_positive, read_scaled
from lipnb.bounds.cells import conflict
from lipnb.bounds.forward_model import ForwardModel, forward_model
from lipnb.bounds.highs import TOLERANCE, maximise
from lipnb.bounds.layerwise import product_bound
from lipnb.bounds.lower import sampled_bound
from lipnb.bounds.network import check_norm
from lipnb.bounds.result import Box
from lipnb.bounds.search_bound import SearchBound
from lipnb.bounds.unit_intervals import simplify, slope_bound, slope_intervals
from lipnb.bounds.units import Units, affine_pieces

__all__ = ["lipmip"]

Array = NDArray[np.float64]
Gates = NDArray[np.bool_]


def lipmip(
    network: nn.Sequential,
    *,
    norm: float = math.inf,
    domain: tuple[Any, Any] | None = None,
    seconds: float = 60.0,
    tolerance: float = 1e-6,
    margin: float | None = None,
) -> SearchBound:
    r"""Compute the Lipschitz constant by mixed-integer linear programming.

    .. math::
        \|f\|_L = \max_{x, \|s\|_p \le 1} \|J_{a(x)} s\|_p

    The program runs forward: next to the point x it sends a direction s through the network, and a
    binary variable a_i per unit of unknown sign gates both. HiGHS maximises. Where a unit is zero,
    its gate is free, so the optimal gates may belong to a kink and to no slope. Each returned
    pattern must therefore have a cell with an interior. If not, a cut forbids the few gates that
    conflict, and HiGHS solves again.

    For p = 2 the unit ball is replaced by a polyhedron around it, which is cut at each returned
    direction and gradient.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included), `ReLU`, `LeakyReLU` and
        `GroupSort` in pairs. For p = 2 the output must be scalar.
    norm : {1, 2, inf}
        The p of the input and, for vector outputs, of the output.
    domain : (low, high), optional
        A box; everywhere by default. Then the program searches the homogeneous map of pairs
        (x, t), see `lipnb.bounds.forward_model`.
    seconds : float
        Wall-clock time after which to stop.
    tolerance : float
        Relative distance between lower and upper bound at which the value counts as exact.
    margin : float, optional
        Cells in which no ball of this radius fits are kinks. In units of the input; by default
        1e-9, or 1e-9 of the distance between kinks where that is below 1e-3 or above 1e3.

    Returns
    -------
    SearchBound
        Of kind 'exact' (within the tolerance), the slope of a cell with interior. After an early
        stop of kind 'upper', with the best lower bound as its `lower`.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If an argument is out of range, or norm is 2 and the output is a vector.

    Examples
    --------
    The identity x = relu(x) - relu(-x): with both gates on, at 0, the slope would be 2.

    >>> import torch
    >>> up, down = nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)
    >>> _ = up.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
    >>> _ = down.weight.data.copy_(torch.tensor([[1.0, -1.0]]))
    >>> bound = lipmip(nn.Sequential(up, nn.ReLU(), down), domain=(-1, 1))
    >>> bound.value, bound.kind
    (1.0, 'exact')

    References
    ----------
    Jordan and Dimakis, Exactly computing the local Lipschitz constant of ReLU networks (2020).
    """
    start = perf_counter()
    check_norm(norm)
    check_positive(seconds=seconds, tolerance=tolerance)
    units, small, box, margin, unit = read_scaled(network, domain, margin)
    if norm == 2 and len(units.out_biases) > 1:
        raise ValueError(
            f"network must have one output for norm 2; got {len(units.out_biases)}; "
            "branch_and_bound takes more"
        )
    units = simplify(units, small)
    sampled = unit * sampled_bound(network, norm=norm, domain=domain).value
    upper = unit * product_bound(network, norm=norm).value
    search = _Search(units, small, norm, margin, sampled, upper)
    reason = search.run(start + seconds, tolerance)
    spent = perf_counter() - start
    counts = f"{len(units.biases)} units of unknown sign, {search.programs} programs"
    counts += f", {search.kinks} kinks cut off" if search.kinks else ""
    if reason is None:
        status, value = f"{counts}, margin {margin * unit:g}", search.best / unit
        return SearchBound(value, "exact", norm, box, spent, status, value)
    best = search.best / unit
    status = f"{reason}: at least {best:.6g}, {counts}"
    # The tolerances of HiGHS may have cost the bound a little.
    top = max(search.upper * (1 + TOLERANCE) / unit, best)
    return SearchBound(top, "upper", norm, box, spent, status, best)


@dataclass
class _Search:
    """The state of the search: what is known from below and from above, and the cuts."""

    units: Units
    box: Box | None
    norm: float
    margin: float
    best: float
    upper: float
    programs: int = 0
    kinks: int = 0

    def run(self, deadline: float, tolerance: float) -> str | None:
        """Close the bracket; return None, or why the search stopped before."""
        *_, low, high = slope_intervals(self.units)
        self.upper = min(self.upper, slope_bound(low, high, self.norm))
        if not len(self.units.biases):  # affine: the interval is a matrix
            self.best = self.upper = self._slope(np.zeros(0, dtype=bool))
            return None
        if self._is_closed(tolerance):
            return None
        target = max(self.best, 1e-6 * self.upper) / 10
        model = forward_model(self.units, self.box, self.norm, target)
        seen: set[bytes] = set()
        while True:
            left = deadline - perf_counter()
            if left <= 0:
                return "time is up"
            result = maximise(model, left)
            self.programs += 1
            complaint = self._lower_the_top(result, model)
            if complaint or result.x is None:
                return complaint or ("time is up" if self.upper > self.best else None)
            gates = result.x[model.columns["a"]] > 0.5
            try:
                self._cut(model, gates, result.x, seen)
            except RuntimeError as error:
                if not self._is_closed(tolerance):
                    return f"HiGHS failed on a cell ({error})"
            if self._is_closed(tolerance):
                return None
            if result.status == 1:
                return "time is up"

    def _lower_the_top(self, result: Any, model: ForwardModel) -> str | None:
        """Take the bound that the solver has proved; return a complaint if there is none."""
        if result.status == 2 and self.programs > 1:  # all that is left was cut off
            self.upper = max(self.best, 0.0)
            return None
        proved = result.mip_dual_bound
        if result.status not in (0, 1) or (result.status == 0 and proved is None):
            return f"HiGHS stopped ({result.message})"
        if proved is None or not math.isfinite(proved):
            return "time is up"
        top = -proved * model.scale
        if top < self.best * (1 - 10 * TOLERANCE) and not self.kinks and self.programs == 1:
            return f"HiGHS contradicts a slope that was found ({top:.6g} < {self.best:.6g})"
        self.upper = min(self.upper, max(top, self.best))
        return None

    def _is_closed(self, tolerance: float) -> bool:
        """Tell whether both sides agree within the tolerance."""
        return self.upper <= self.best * (1 + tolerance) + 1e-300

    def _slope(self, gates: Gates) -> float:
        """Return the norm of the Jacobian of a pattern."""
        return float(np.linalg.norm(affine_pieces(self.units, gates)[2], ord=self.norm))

    def _cut(self, model: ForwardModel, gates: Gates, x: Array, seen: set[bytes]) -> None:
        """Learn from a returned pattern, and forbid what is known about it."""
        marked = conflict(self.units, gates, self.box, self.margin)
        if marked is not None:
            self.kinks += 1
            _forbid(model, gates, marked)
        else:
            self.best = max(self.best, self._slope(gates))
            if self.norm != 2 or gates.tobytes() in seen:
                _forbid(model, gates, np.ones_like(gates))
        seen.add(gates.tobytes())
        if self.norm == 2:
            gradient = affine_pieces(self.units, gates)[2][0]
            for direction in (x[model.columns["s"]], gradient):
                length = np.linalg.norm(direction)
                if length > 0:
                    row = (direction / length)[None]
                    model.add(1.0, -1.0, s=row)


def _forbid(model: ForwardModel, gates: Gates, marked: Gates) -> None:
    """Ask that one of the marked gates changes."""
    row = np.where(gates, 1.0, -1.0) * marked
    model.add(float((gates & marked).sum()) - 1, a=row[None])
