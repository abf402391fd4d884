"""Intervals for the units of a network: pre-activations on a box, and gradients over all gates."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lipnb.bounds.result import Box
from lipnb.bounds.units import Units, settle

__all__ = ["dual_norms", "preactivation_bounds", "simplify", "slope_bound", "slope_intervals"]

Array = NDArray[np.float64]
SLACK = 1e-12  # relative; intervals are widened by it against rounding


def preactivation_bounds(units: Units, low: Array, high: Array) -> tuple[Array, Array]:
    r"""Bound every pre-activation on a box.

    Interval arithmetic gives one bound. The other replaces each earlier unit by a linear function
    above or below it, back to the input:

    .. math::
        \alpha z \le \max(z, 0) \le \frac{u (z - l)}{u - l}, \qquad
        \alpha = 1 \text{ if } u > -l \text{ else } 0

    Parameters
    ----------
    units : Units
    low, high : ndarray of shape (n_in,)

    Returns
    -------
    lower, upper : ndarray of shape (n,)
        The better of both bounds, widened a little against rounding.

    Examples
    --------
    >>> from torch import nn
    >>> from lipnb.bounds.units import read_units
    >>> units = read_units(nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1)))
    >>> lower, upper = preactivation_bounds(units, np.array([-1.0]), np.array([1.0]))
    >>> bool(abs(upper[0] - abs(units.inputs[0, 0])) < 1e-9)
    True

    References
    ----------
    Zhang et al., Efficient neural network robustness certification with general activation
    functions (2018) (CROWN).
    """
    n = len(units.biases)
    lower, upper = np.zeros(n), np.zeros(n)
    for block in units.blocks():
        a, b, c = units.inputs[block], units.couplings[block], units.biases[block]
        earlier = slice(0, block.start)
        relu = np.maximum(lower[earlier], 0), np.maximum(upper[earlier], 0)
        reach = np.abs(a) @ np.maximum(np.abs(low), np.abs(high)) + np.abs(c)
        reach += np.abs(b[:, earlier]) @ relu[1]
        for sign, side in ((1.0, upper), (-1.0, lower)):
            interval = _top(sign * a, low, high) + _top(sign * b[:, earlier], *relu) + sign * c
            linear = _back(units, sign * a, sign * b, sign * c, lower, upper, (low, high))
            side[block] = sign * (np.minimum(interval, linear) + SLACK * reach)
    return lower, upper


def dual_norms(rows: Array, norm: float) -> Array:
    """Return max(row @ s) over the unit ball of a norm, for every row.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
    norm : {1, 2, inf}

    Returns
    -------
    ndarray of shape (n,)

    Examples
    --------
    >>> dual_norms(np.array([[3.0, -4.0]]), math.inf)
    array([7.])
    """
    order = {1: math.inf, 2: 2, math.inf: 1}[norm]
    return np.asarray(np.linalg.norm(rows, ord=order, axis=1), dtype=np.float64)


def slope_intervals(units: Units) -> tuple[Array, Array, Array, Array]:
    """Bound the gradients of all units, and the Jacobian, over all gate patterns.

    Returns
    -------
    low, high : ndarray of shape (n, n_in)
        Of the gradients of the pre-activations.
    out_low, out_high : ndarray of shape (n_out, n_in)
        Of the Jacobian.
    """
    low, high = units.inputs.copy(), units.inputs.copy()
    for block in units.blocks():
        a, b = _interval(units.couplings[block], low, high)
        low[block] += a
        high[block] += b
    a, b = _interval(units.out_couplings, low, high)
    return low, high, units.out_inputs + a, units.out_inputs + b


def slope_bound(low: Array, high: Array, norm: float) -> float:
    """Bound the p-norm of all matrices between two matrices."""
    size = np.maximum(np.abs(low), np.abs(high))
    return float(np.linalg.norm(size, ord=norm)) * (1 + 1e-12)


def _interval(couplings: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Bound couplings @ (gates * g) for gates in [0, 1] and low <= g <= high."""
    positive, negative = np.maximum(couplings, 0), np.minimum(couplings, 0)
    floor, ceiling = np.minimum(low, 0), np.maximum(high, 0)
    return positive @ floor + negative @ ceiling, positive @ ceiling + negative @ floor


def simplify(units: Units, box: Box | None) -> Units:
    """Settle the units whose sign is the same on the whole domain.

    Without a box these are the units that are constant because their gradient is zero.
    """
    while True:
        if box is None:
            constant = ~(units.inputs.any(axis=1) | units.couplings.any(axis=1))
            on, off = constant & (units.biases > 0), constant & (units.biases <= 0)
        else:
            lower, upper = preactivation_bounds(units, np.array(box[0]), np.array(box[1]))
            off = upper <= 0
            on = (lower >= 0) & ~off
        if not (on | off).any():
            return units
        units = settle(units, on, off)


def _top(rows: Array, low: Array, high: Array) -> Array:
    """Return the maximum of rows @ x over a box."""
    return np.maximum(rows, 0) @ high + np.minimum(rows, 0) @ low


def _back(
    units: Units, a: Array, b: Array, c: Array, lower: Array, upper: Array, box: tuple[Array, Array]
) -> Array:
    """Bound a @ x + b @ r + c from above, by linear bounds of the units back to the input."""
    a, b, c = a.copy(), b.copy(), c.copy()
    for block in reversed(units.blocks()):
        if not b[:, block].any():
            continue
        low, high = lower[block], upper[block]
        unstable = (low < 0) & (high > 0)
        width = np.where(unstable, high - low, 1.0)
        chord = np.where(unstable, high / width, (low >= 0).astype(float))
        shift = np.where(unstable, -chord * low, 0.0)
        below = np.where(unstable, (high > -low).astype(float), chord)
        weight = b[:, block].copy()
        slope = np.where(weight > 0, chord, below) * weight
        c += np.maximum(weight, 0) @ shift + slope @ units.biases[block]
        a += slope @ units.inputs[block]
        b += slope @ units.couplings[block]
        b[:, block] = 0.0
    return _top(a, *box) + c
