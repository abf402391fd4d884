"""A moment relaxation of the largest slope, for tiny networks."""

from __future__ import annotations

import math
from itertools import combinations
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lipnb.bounds.layerwise import product_bound
from lipnb.bounds.moment_matrices import Moments, Polynomial, certified_maximum
from lipnb.bounds.network import check_norm, read_box
from lipnb.bounds.result import Bound, Box
from lipnb.bounds.unit_intervals import (
    dual_norms,
    preactivation_bounds,
    simplify,
    slope_bound,
    slope_intervals,
)
from lipnb.bounds.units import Units, read_units

__all__ = ["moment_relaxation"]

Array = NDArray[np.float64]
MAX_VARIABLES = 60
MAX_MOMENTS = 5000


def moment_relaxation(
    network: nn.Sequential,
    *,
    norm: float = math.inf,
    domain: tuple[Any, Any] | None = None,
    pairs: bool = True,
) -> Bound:
    r"""Bound the Lipschitz constant of a tiny ReLU network by a moment relaxation.

    The gates are variables u = u^2 with (2 u - 1) z >= 0, and each map of the network becomes a
    quadratic equation. With r = u z and d = u v the largest slope is

    .. math::
        \max_{x, u, r, s, d} C s + D d, \qquad z = A x + B r + c, \quad v = A s + B d, \quad
        \|s\|_\infty \le 1

    Its order-1 relaxation (Shor's) replaces the products of two variables by a positive
    semidefinite matrix, and products of two linear inequalities are kept. With `pairs`, each pair
    of gates also has matrices of order 2, of products of up to four factors, with the point and
    with the direction: between the first and the second order of the hierarchy. Two units that
    are never on together are then known to be so.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included), `ReLU`, `LeakyReLU` and
        `GroupSort` in pairs.
    norm : {1, inf}
        The p of the input, with a scalar output. For p = 1 there is one program per input.
    domain : (low, high), optional
        A box; everywhere by default. Then the gates are free, and the bound is one of all gates.
    pairs : bool
        Whether to add the matrices of order 2. They cost much from a dozen units on.

    Returns
    -------
    Bound
        Of kind 'upper'. The multipliers that the solver returns are put into the identity of a
        sum of squares, and what it leaves over is added: the tolerances of the solver cannot
        spoil the bound.

    Raises
    ------
    ImportError
        If cvxpy is not installed.
    TypeError
        If the network holds another layer.
    ValueError
        If the network is too large, the output is a vector, or an argument is out of range.

    Examples
    --------
    >>> layer, out = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> _ = layer.weight.data.fill_(2.0), out.weight.data.fill_(3.0)
    >>> round(moment_relaxation(nn.Sequential(layer, nn.ReLU(), out)).value, 4)
    6.0

    References
    ----------
    Chen et al., Semialgebraic optimization for Lipschitz constants of ReLU networks (2020).
    """
    start = perf_counter()
    if check_norm(norm) == 2:
        raise ValueError("norm must be 1 or inf; got 2: LipSDP is the relaxation for it")
    units = read_units(network)
    if len(units.out_biases) != 1:
        raise ValueError(f"network must have one output; got {len(units.out_biases)}")
    box = read_box(domain, units.inputs.shape[1])
    units = simplify(units, box)
    upper = product_bound(network, norm=norm).value
    if norm == math.inf:
        value = min(upper, _largest(units, box, pairs))
    else:  # one direction at a time: the network of one input that moves along it
        value = 0.0
        for j in range(units.inputs.shape[1]):
            value = max(value, _largest(units, box, pairs, j))
        value = min(upper, value)
    kind = "with pairs of order 2" if pairs else "of order 1"
    status = f"moment relaxation {kind}, {len(units.biases)} units of unknown sign"
    return Bound(value, "upper", norm, box, perf_counter() - start, status)


def _largest(units: Units, box: Box | None, pairs: bool, axis: int | None = None) -> float:
    """Bound the largest slope; `axis` fixes the direction to one coordinate."""
    low, high, out_low, out_high = slope_intervals(units)
    if axis is not None:
        low, high = low[:, [axis]], high[:, [axis]]
        out_low, out_high = out_low[:, [axis]], out_high[:, [axis]]
    scale = slope_bound(out_low, out_high, math.inf)
    if scale == 0 or not len(units.biases):
        return scale
    sizes = dual_norms(np.maximum(np.abs(low), np.abs(high)), math.inf)
    sizes[sizes == 0] = 1.0
    moments, objective = _program(units, box, pairs, sizes, scale, axis)
    return scale * min(1.0, certified_maximum(moments, objective))


def _program(
    units: Units, box: Box | None, pairs: bool, sizes: Array, scale: float, axis: int | None
) -> tuple[Moments, Polynomial]:
    """Write the program in variables of [-1, 1]."""
    n, dimension = units.inputs.shape
    a = units.inputs if axis is None else units.inputs[:, [axis]]
    out = units.out_inputs if axis is None else units.out_inputs[:, [axis]]
    inputs = a.shape[1]
    last = ~(units.couplings != 0).any(axis=0)  # units that no other unit sees need no r
    numbers = iter(range(10**6))
    u = [next(numbers) for _ in range(n)]
    s = [next(numbers) for _ in range(inputs)]
    d = [next(numbers) for _ in range(n)]
    x = [next(numbers) for _ in range(dimension)] if box else []
    r = {i: next(numbers) for i in range(n) if box and not last[i]}
    total = next(numbers)
    if total > MAX_VARIABLES:
        raise ValueError(f"network must have at most {MAX_VARIABLES} variables; got {total}")
    m = Moments(frozenset(u))
    m.matrix(list(range(total)), 1)
    times, one = m.times, {(): 1.0}

    def linear(constant: float, *terms: tuple[Any, Any]) -> Polynomial:
        """Write an affine function of variables."""
        p: Polynomial = {(): constant} if constant else {}
        for coefficients, names in terms:
            p |= {(v,): float(c) for c, v in zip(coefficients, names, strict=True) if c}
        return p

    def minus(p: Polynomial, q: Polynomial) -> Polynomial:
        """Subtract."""
        return {k: p.get(k, 0.0) - q.get(k, 0.0) for k in p | q}

    for j in s:
        m.positive.append({(): 1.0, (j, j): -1.0})
    for i in range(n):
        gate, slope = {(u[i],): 1.0}, {(d[i],): 1.0}
        v = linear(0.0, (a[i] / sizes[i], s), (units.couplings[i] * sizes / sizes[i], d))
        m.zero += [minus(slope, times(gate, v)), minus(times(slope, slope), times(slope, v))]
        m.positive += [minus(one, times(v, v)), minus(gate, times(slope, slope))]
        for sign in (1.0, -1.0):  # |d| <= u and |v - d| <= 1 - u
            m.positive.append({(u[i],): 1.0, (d[i],): sign})
            rest = minus(one, gate)
            m.positive.append(minus(rest, {k: sign * c for k, c in minus(v, slope).items()}))
        for j in s:  # (1 +- s) u >= 0 and (1 +- s) (1 - u) >= 0
            for sign in (1.0, -1.0):
                side = {(): 1.0, (j,): sign}
                m.positive += [times(side, gate), times(side, minus(one, gate))]
    values = _points(m, units, box, u, x, r) if box else {}
    if pairs:
        _pairs(m, u, [names for names in (x, s) if names], values)
    for p in (*m.positive, *m.zero):
        for name in p:
            m.index(name)
    if len(m.names) > MAX_MOMENTS:
        raise ValueError(
            f"network must have at most {MAX_MOMENTS} moments; got {len(m.names)} with {n} units "
            f"and {inputs} directions; pairs=False has fewer"
        )
    return m, linear(0.0, (out[0] / scale, s), (units.out_couplings[0] * sizes / scale, d))


def _points(
    m: Moments, units: Units, box: Box, u: list[int], x: list[int], r: dict[int, int]
) -> dict[int, Polynomial]:
    """Tie the gates to points of the box; return z of the first layer, by gate."""
    values: dict[int, Polynomial] = {}
    low, high = np.array(box[0]), np.array(box[1])
    middle, radius = (low + high) / 2, (high - low) / 2
    lower, upper = preactivation_bounds(units, low, high)
    size = np.maximum(np.maximum(-lower, upper), 1e-300)
    for v in x:
        m.positive.append({(): 1.0, (v, v): -1.0})
    for i in range(len(u)):
        z: Polynomial = {(): float(units.biases[i] + units.inputs[i] @ middle) / size[i]}
        z |= {(v,): float(c) / size[i] for v, c in zip(x, units.inputs[i] * radius, strict=True)}
        z |= {
            (r[k],): float(units.couplings[i, k] * size[k] / size[i])
            for k in r
            if units.couplings[i, k]
        }
        gate, top, bottom = {(u[i],): 1.0}, float(upper[i] / size[i]), float(lower[i] / size[i])
        on = m.times(gate, z)
        off = {k: z.get(k, 0.0) - on.get(k, 0.0) for k in z | on}
        m.positive += [on, {k: -c for k, c in off.items()}]  # u z >= 0 and (1 - u) z <= 0
        above = {**{k: -c for k, c in z.items()}, (): top - z.get((), 0.0)}
        below = {**z, (): z.get((), 0.0) - bottom}
        m.positive += [m.times(above, below), m.times(above, gate)]
        m.positive.append(m.times(below, {(): 1.0, (u[i],): -1.0}))
        if i in r:
            relu = {(r[i],): 1.0}
            m.zero.append({k: relu.get(k, 0.0) - on.get(k, 0.0) for k in relu | on})
            square, mixed = m.times(relu, relu), m.times(relu, z)
            m.zero.append({k: square.get(k, 0.0) - mixed.get(k, 0.0) for k in square | mixed})
            m.positive.append(relu)
        if not units.couplings[i].any():
            values[u[i]] = z
    return values


def _pairs(
    m: Moments, u: list[int], groups: list[list[int]], values: dict[int, Polynomial]
) -> None:
    """Give each pair of gates a matrix of order 2, with the point and with the direction."""
    for i, k in combinations(u, 2):
        both: list[Polynomial] = [{(): 1.0}]
        for g in (i, k):  # the four indicators of the gates of a pair
            sides: list[Polynomial] = [{(g,): 1.0}, {(): 1.0, (g,): -1.0}]
            both = [m.times(p, q) for p in both for q in sides]
        for group in groups:
            m.matrix([*group, i, k], 2)
            for v in group:
                for p in both:
                    m.positive += [m.times(p, {(): 1.0, (v,): sign}) for sign in (1.0, -1.0)]
                    m.positive.append(m.times(p, {(): 1.0, (v, v): -1.0}))
        for number, p in enumerate(both):  # on-on, on-off, off-on, off-off
            for g, is_on in ((i, number < 2), (k, number % 2 == 0)):
                if g in values:
                    sign = 1.0 if is_on else -1.0
                    m.positive.append({a: sign * c for a, c in m.times(p, values[g]).items()})
