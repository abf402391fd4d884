"""A network as a linear map in a loop with unknown slopes: what the semidefinite programs see."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lipnb.bounds.chain import slope_range
from lipnb.bounds.network import Affine, input_dimension, read_layers
from lipnb.bounds.result import Box
from lipnb.bounds.slopes import check_pairs, slopes_on_box
from lipnb.models.groupsort import GroupSort

__all__ = ["Feedback", "pruned", "read_feedback"]

Array = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Feedback:
    r"""Differences of outputs y for differences of inputs x, with an unknown slope per unit.

    .. math::
        z = A x + B h, \quad h_i = d_i z_i \text{ with } d_i \in [\alpha_i, \beta_i], \quad
        y = C x + D h

    Parameters
    ----------
    inputs, loop : ndarray of shapes (n, n_in) and (n, n)
        A and B; B couples a unit to those of earlier layers only.
    out_inputs, out_loop : ndarray of shapes (n_out, n_in) and (n_out, n)
        C and D.
    low, high : ndarray of shape (n,)
        alpha and beta, with alpha < beta.
    layers : ndarray of shape (n,)
        The activation layer of each unit; does not decrease.
    exponent : int
        The network's differences are 2^exponent times y.
    error : float
        What rounding may have done to the Jacobian of y for any slopes, in the norm 2. It is 0 if
        no weights had to be multiplied with each other.
    """

    inputs: Array
    loop: Array
    out_inputs: Array
    out_loop: Array
    low: Array
    high: Array
    layers: NDArray[np.int64]
    exponent: int
    error: float = 0.0

    def transposed(self) -> Feedback:
        """Return the system of the transposed Jacobians, for the same slopes in reversed order."""
        return Feedback(
            self.out_loop.T[::-1].copy(),
            self.loop.T[::-1, ::-1].copy(),
            self.out_inputs.T.copy(),
            self.inputs.T[:, ::-1].copy(),
            self.low[::-1].copy(),
            self.high[::-1].copy(),
            self.layers.max(initial=0) - self.layers[::-1],
            self.exponent,
            self.error,
        )

    def jacobian(self, slopes: Array) -> Array:
        """Return C + D diag(d) (I - B diag(d))^{-1} A for given slopes d."""
        z = np.linalg.solve(np.eye(len(slopes)) - self.loop * slopes, self.inputs)
        return self.out_inputs + (self.out_loop * slopes) @ z


def read_feedback(network: nn.Sequential, box: Box | None = None) -> Feedback:
    r"""Read a network, and drop the units that do not matter.

    A unit whose slope is known on the box is replaced by its linear map. So is one without inputs
    or without influence on the output. GroupSort of pairs is one unit a pair, because
    :math:`(a, b) \mapsto (a - r, b + r)` with :math:`r = \max(a - b, 0)`.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included), the activations of
        `slope_range`, and `GroupSort` with groups of two.
    box : Box, optional
        Narrows the intervals of slopes to what can occur on it.

    Returns
    -------
    Feedback

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If there is no affine layer, neighbours do not fit, or a weight is not finite.

    Examples
    --------
    >>> from lipnb.models import mlp
    >>> read_feedback(mlp([2, 3, 4, 1])).loop.shape
    (7, 7)
    """
    layers = read_layers(network)
    dimension = input_dimension(layers)
    slopes = None if box is None else slopes_on_box(layers, box)
    rows = np.eye(dimension)  # what the current layer gives, over the inputs and the units so far
    units: list[tuple[Array, Array, Array]] = []
    exponent, error = 0, 0.0
    fresh, signal, reach = True, 1.0, 1.0  # are rows exact; |current|_2, |(x, h)|_2^2 for |x|_2 = 1
    for layer in layers:
        if isinstance(layer, Affine):
            weight, shift = _scaled(layer.weight.numpy())
            size = float(np.linalg.norm(weight, ord=2)) * (1 + 64 * EPS * len(weight))
            error, signal = error * size, signal * size
            if not fresh:
                spread = float(np.linalg.norm(weight)) * float(np.linalg.norm(rows))
                error += 2 * EPS * len(rows) * spread * math.sqrt(reach)
            rows, exponent, fresh = weight @ rows, exponent + shift, False
            continue
        if isinstance(layer, GroupSort):
            z, low, high = _pairs(layer, rows)
        else:
            z = rows
            low, high = (np.full(len(z), side) for side in slope_range(layer))
        if slopes is not None:
            low, high = slopes[len(units)]
        new = np.eye(len(z))
        known = low == high
        sorts = isinstance(layer, GroupSort)
        steep = 1.0 if sorts else float(np.maximum(np.abs(low), np.abs(high)).max())
        error, signal = error * steep, signal * steep
        if sorts or known.any():
            error += 8 * EPS * float(np.linalg.norm(rows)) * math.sqrt(reach) * max(1.0, steep)
        reach += 2 * signal**2
        fresh = not (sorts or known.any())
        units.append((z[~known], low[~known], high[~known]))
        output = np.hstack([z * np.where(known, low, 0.0)[:, None], new[:, ~known]])
        if isinstance(layer, GroupSort):
            rows = np.pad(rows, ((0, 0), (0, int((~known).sum()))))
            rows[0::2] -= output
            rows[1::2] += output
        else:
            rows = output
    n = sum(len(z) for z, _, _ in units)
    everything = [np.pad(z, ((0, 0), (0, dimension + n - z.shape[1]))) for z, _, _ in units]
    z = np.vstack([np.empty((0, dimension + n)), *everything])
    feedback = Feedback(
        z[:, :dimension],
        z[:, dimension:],
        rows[:, :dimension],
        rows[:, dimension:],
        np.concatenate([np.empty(0), *(low for _, low, _ in units)]),
        np.concatenate([np.empty(0), *(high for _, _, high in units)]),
        np.repeat(np.arange(len(units)), [len(z) for z, _, _ in units]),
        exponent,
        error,
    )
    return pruned(feedback)


def _scaled(weight: Array) -> tuple[Array, int]:
    """Return a weight with norm in [1/2, 1) or so, and the power of two taken out."""
    if not weight.any():
        return weight, 0
    first = math.frexp(float(np.abs(weight).max()))[1]
    w = np.ldexp(weight, -first)
    second = math.frexp(float(np.linalg.norm(w, ord=2)))[1]
    return np.ldexp(w, -second), first + second


def _pairs(layer: GroupSort, rows: Array) -> tuple[Array, Array, Array]:
    """Return the differences that GroupSort of pairs gates."""
    check_pairs(layer, len(rows))
    z = rows[0::2] - rows[1::2]
    return z, np.zeros(len(z)), np.ones(len(z))


def pruned(feedback: Feedback) -> Feedback:
    """Drop units without inputs or without influence."""
    while True:
        fed = feedback.inputs.any(axis=1) | feedback.loop.any(axis=1)
        heard = feedback.loop.any(axis=0) | feedback.out_loop.any(axis=0)
        keep = fed & heard
        if keep.all():
            return feedback
        feedback = replace(
            feedback,
            inputs=feedback.inputs[keep],
            loop=feedback.loop[np.ix_(keep, keep)],
            out_loop=feedback.out_loop[:, keep],
            low=feedback.low[keep],
            high=feedback.high[keep],
            layers=feedback.layers[keep],
        )
