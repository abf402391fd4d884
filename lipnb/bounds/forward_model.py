"""The mixed-integer program of the Lipschitz constant, in forward mode."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from lipnb.bounds.result import Box
from lipnb.bounds.unit_intervals import dual_norms, preactivation_bounds, slope_intervals
from lipnb.bounds.units import Units

__all__ = ["ForwardModel", "forward_model"]

Array = NDArray[np.float64]
Gates = NDArray[np.bool_]


@dataclass(eq=False)
class ForwardModel:
    """max cost @ v subject to rows, bounds and integrality; all variables of order 1.

    Parameters
    ----------
    columns : dict of slice
        Where the variables stand: 'x', 'z', 'r', 'a', 's', 'v', 'd' and helpers.
    low, high : ndarray of shape (k,)
        Bounds of the variables.
    cost : ndarray of shape (k,)
    scale : float
        The objective times this is a slope of the network.
    integers : ndarray of bool of shape (k,)
    rows, bottoms, tops : lists of matrices and of arrays
        bottoms <= rows @ v <= tops.
    """

    columns: dict[str, slice]
    low: Array
    high: Array
    cost: Array
    scale: float
    integers: Gates
    rows: list[csr_array] = field(default_factory=list)
    bottoms: list[Array] = field(default_factory=list)
    tops: list[Array] = field(default_factory=list)

    def add(self, top: Array | float, bottom: Array | float = -math.inf, **terms: Array) -> None:
        """Add rows bottom <= sum_k terms[k] @ v[k] <= top; a 1-D term is a diagonal."""
        parts, height = [], 0
        for name, term in terms.items():
            block = np.diag(term) if term.ndim == 1 else term
            height = len(block)
            i, j = np.nonzero(block)
            parts.append((block[i, j], i, j + self.columns[name].start))
        data, i, j = (np.concatenate(p) for p in zip(*parts, strict=True))
        self.rows.append(coo_array((data, (i, j)), shape=(height, len(self.low))).tocsr())
        self.bottoms.append(np.broadcast_to(np.asarray(bottom, dtype=float), (height,)))
        self.tops.append(np.broadcast_to(np.asarray(top, dtype=float), (height,)))

    def equate(self, value: Array | float, **terms: Array) -> None:
        """Add rows sum_k terms[k] @ v[k] = value."""
        self.add(value, value, **terms)


def forward_model(units: Units, box: Box | None, norm: float, target: float) -> ForwardModel:
    r"""Write the largest slope over points x, gates a and directions s as a linear program.

    .. math::
        \max_{x, a, \|s\|_p \le 1} \; c^\top (C s + D d), \qquad
        v = A s + B d, \quad d = a v, \quad r = a z, \quad z = A x + B r + c

    Products with a gate become four inequalities each, which are exact for gates 0 and 1. With p =
    2 the ball is replaced by a cube, for the caller to cut.

    Without a box, each cell of x is a cone of pairs (x, t) with t > 0 in the homogeneous map
    z = A x + B r + c t. Every cone meets the surface of the box [-1, 1]^n x [0, 1], on which the
    program then searches. This loses nothing: (x, t) has the gates of the point x / t.

    Parameters
    ----------
    units : Units
        Simplified: none is settled by the domain alone.
    box : (low, high) or None
    norm : {1, 2, inf}
    target : float
        The size of slopes to expect; the objective is measured in it.

    Returns
    -------
    ForwardModel

    References
    ----------
    Jordan and Dimakis, Exactly computing the local Lipschitz constant of ReLU networks (2020),
    for mixed-integer programs of the constant; theirs propagates gradients backwards.
    """
    point_units, low, high = _scaled_points(units, box)
    lower, upper = preactivation_bounds(point_units, low, high)
    z_size = np.maximum(np.maximum(-lower, upper), 1e-300)
    grad_low, grad_high, out_low, out_high = slope_intervals(units)
    v_size = dual_norms(np.maximum(np.abs(grad_low), np.abs(grad_high)), norm)
    v_size[v_size == 0] = 1.0
    out_size = dual_norms(np.maximum(np.abs(out_low), np.abs(out_high)), norm) / target

    n, dimension = units.inputs.shape
    outputs = len(units.out_biases)
    widths = {"x": len(low), "z": n, "r": n, "a": n, "s": dimension, "v": n, "d": n, "o": outputs}
    widths |= {"m": dimension if norm == 1 else 0}  # |s| if the ball is one of l1
    widths |= {"y": outputs, "q": outputs} if outputs > 1 else {}  # see _vector_outputs
    widths |= {"f": 2 * len(low) if box is None else 0}  # facets of the box
    ends = np.cumsum(list(widths.values())).tolist()
    columns = {k: slice(e - w, e) for (k, w), e in zip(widths.items(), ends, strict=True)}
    model = ForwardModel(
        columns,
        -np.ones(ends[-1]),
        np.ones(ends[-1]),
        np.zeros(ends[-1]),
        target,
        np.zeros(ends[-1], dtype=bool),
    )
    for name in ("r", "a", "m", "q", "f"):
        model.low[columns.get(name, slice(0))] = 0.0
    for name in ("a", "q", "f"):
        model.integers[columns.get(name, slice(0))] = True
    model.low[columns["x"]], model.high[columns["x"]] = low, high
    model.low[columns["z"]], model.high[columns["z"]] = lower / z_size, upper / z_size
    model.low[columns["o"]], model.high[columns["o"]] = -out_size, out_size
    eye = np.ones(n)
    # z = A x + B r + c and v = A s + B d, o = C s + D d, each in units of its own size
    ratio = z_size / z_size[:, None]
    model.equate(
        point_units.biases / z_size,
        z=eye,
        x=-point_units.inputs / z_size[:, None],
        r=-units.couplings * ratio,
    )
    ratio = v_size / v_size[:, None]
    model.equate(0.0, v=eye, s=-units.inputs / v_size[:, None], d=-units.couplings * ratio)
    model.equate(
        0.0,
        o=np.ones(outputs),
        s=-units.out_inputs / target,
        d=-units.out_couplings * v_size / target,
    )
    # r = a z and d = a v
    model.add(0.0, z=eye, r=-eye)
    model.add(-lower / z_size, r=eye, z=-eye, a=-lower / z_size)
    model.add(0.0, r=eye, a=-upper / z_size)
    for sign in (1.0, -1.0):
        model.add(0.0, d=sign * eye, a=-eye)
        model.add(1.0, d=sign * eye, v=-sign * eye, a=eye)
        if norm == 1:
            model.add(0.0, s=sign * np.ones(dimension), m=-np.ones(dimension))
    if norm == 1:
        model.add(1.0, m=np.ones((1, dimension)))
    _outputs(model, out_size, norm)
    if box is None:
        _facets(model, low)
    return model


def _scaled_points(units: Units, box: Box | None) -> tuple[Units, Array, Array]:
    """Move the points to [-1, 1]^n, or to the pairs (x, t) of the homogeneous map."""
    a, c = units.inputs, units.biases
    if box is not None:
        low, high = np.array(box[0]), np.array(box[1])
        middle, radius = (low + high) / 2, (high - low) / 2
        one = np.ones(len(low))
        return replace(units, inputs=a * radius, biases=c + a @ middle), -one, one
    if c.any():
        a = np.column_stack([a, c])
    low, high = -np.ones(a.shape[1]), np.ones(a.shape[1])
    if c.any():
        low[-1] = 0.0
    # Units of x and t are free; choose them so that no coordinate is small in every unit.
    size = np.abs(a)
    rows, cols = np.ones(len(a)), np.ones(a.shape[1])
    for _ in range(5):
        rows = 1 / np.maximum((size * cols).max(axis=1, initial=0), 1e-300)
        cols = 1 / np.maximum((size * rows[:, None]).max(axis=0, initial=0), 1e-300)
    cols[cols > 1e290] = 1.0  # a coordinate that no unit sees
    return replace(units, inputs=a * cols, biases=np.zeros(len(a))), low, high


def _outputs(model: ForwardModel, size: Array, norm: float) -> None:
    """Set the objective: the output, its largest entry, or the sum of absolute values."""
    outputs = len(size)
    if outputs == 1:
        model.cost[model.columns["o"]] = 1.0
        return
    one, y = np.ones(outputs), model.columns["y"]
    model.low[y], model.high[y] = -size, size
    model.cost[y] = 1.0
    if norm == math.inf:  # one output is chosen, the others count 0
        model.low[y] = 0.0
        model.add(2 * size, y=one, o=-one, q=2 * size)
        model.add(0.0, y=one, q=-size)
        model.equate(1.0, q=np.ones((1, outputs)))
    else:  # y <= |o|
        model.add(2 * size, y=one, o=-one, q=2 * size)
        model.add(0.0, y=one, o=one, q=-2 * size)


def _facets(model: ForwardModel, low: Array) -> None:
    """Ask for a point on the surface of the box: one coordinate at 1 or -1."""
    k = len(low)
    one = np.ones(k)
    up, down = np.hstack([np.eye(k), np.zeros((k, k))]), np.hstack([np.zeros((k, k)), np.eye(k)])
    model.high[model.columns["f"]][k:][low == 0] = 0.0  # t >= 0 has no face below
    model.add(1.0, x=-one, f=2 * up)  # x_j >= 1 - 2 (1 - f_j)
    model.add(1.0, x=one, f=2 * down)
    model.equate(1.0, f=np.ones((1, 2 * k)))
