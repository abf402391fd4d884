"""A piecewise-linear network as one triangular system of ReLU units, for the exact methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lipnb.bounds.network import Affine, input_dimension, read_layers
from lipnb.models.groupsort import GroupSort

__all__ = ["Units", "affine_pieces", "read_units", "settle"]

Array = NDArray[np.float64]
Gates = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Units:
    r"""A map x -> f(x) whose only non-linear parts are n ReLU units.

    .. math::
        z = A x + B r + c, \quad r = \max(z, 0), \quad f(x) = C x + D r + e

    Parameters
    ----------
    inputs, couplings, biases : ndarray of shapes (n, n_in), (n, n) and (n,)
        A, B and c. Units come in layers, and B couples a unit to earlier layers only.
    layers : ndarray of shape (n,)
        The layer of each unit; does not decrease.
    out_inputs, out_couplings, out_biases : ndarray of shapes (n_out, n_in), (n_out, n), (n_out,)
        C, D and e.
    """

    inputs: Array
    couplings: Array
    biases: Array
    layers: NDArray[np.int64]
    out_inputs: Array
    out_couplings: Array
    out_biases: Array

    def blocks(self) -> list[slice]:
        """Return the units of each layer as slices, in order."""
        starts = np.flatnonzero(np.diff(self.layers, prepend=-1)).tolist()
        ends = [*starts[1:], len(self.layers)]
        return [slice(i, j) for i, j in zip(starts, ends, strict=False)]


def read_units(network: nn.Sequential) -> Units:
    r"""Write a network of linear and piecewise-linear layers with ReLU units alone.

    ReLU is a unit itself. The other layers are written with it exactly:

    .. math::
        \text{leaky}_s(z) = s z + (1 - s) \max(z, 0), \qquad
        \min(y, z) = y - \max(y - z, 0), \quad \max(y, z) = z + \max(y - z, 0)

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included), `ReLU`, `LeakyReLU` and
        `GroupSort` with groups of two.

    Returns
    -------
    Units

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If the network has no affine layer, or its layers do not fit.

    Examples
    --------
    >>> from lipnb.models import mlp
    >>> read_units(mlp([2, 3, 4, 1])).couplings.shape
    (7, 7)

    References
    ----------
    Anil et al., Sorting out Lipschitz function approximation (2019), for MaxMin.
    """
    layers = read_layers(network)
    dimension = input_dimension(layers)
    s, t, u = np.eye(dimension), np.empty((dimension, 0)), np.zeros(dimension)
    rows: list[tuple[Array, Array, Array]] = []
    for layer in layers:
        if isinstance(layer, Affine):
            w = layer.weight.numpy()
            s, t, u = w @ s, w @ t, w @ u + layer.bias.numpy()
            continue
        keep, take, gate = _piecewise(layer, len(u))
        rows.append((gate @ s, gate @ t, gate @ u))
        s, t, u = keep[:, None] * s, np.hstack([keep[:, None] * t, take]), keep * u
    n = sum(len(c) for _, _, c in rows)
    couplings = [np.pad(b, ((0, 0), (0, n - b.shape[1]))) for _, b, _ in rows]
    return Units(
        np.vstack([np.empty((0, dimension)), *(a for a, _, _ in rows)]),
        np.vstack([np.empty((0, n)), *couplings]),
        np.concatenate([np.empty(0), *(c for _, _, c in rows)]),
        np.repeat(np.arange(len(rows)), [len(c) for _, _, c in rows]),
        s,
        t,
        u,
    )


def settle(units: Units, on: Gates, off: Gates) -> Units:
    """Return the same map on the set where some units are known to be on, and others off.

    Units that are on are replaced by their affine function, and units that are off are dropped.

    Parameters
    ----------
    units : Units
    on, off : ndarray of bool of shape (n,)

    Returns
    -------
    Units
        Those that are neither on nor off.

    Examples
    --------
    >>> from lipnb.models import mlp
    >>> units = read_units(mlp([2, 3, 1]))
    >>> on, off = np.array([True, False, False]), np.array([False, True, False])
    >>> settle(units, on, off).inputs.shape
    (1, 2)
    """
    a, b, c = units.inputs.copy(), units.couplings.copy(), units.biases.copy()
    # Rows of units and of the output together.
    a, b = np.vstack([a, units.out_inputs]), np.vstack([b, units.out_couplings])
    c = np.append(c, units.out_biases)
    for j in np.flatnonzero(on):  # in order: row j is free of units that are on by then
        column = b[:, j].copy()
        b[:, j] = 0.0
        a, b, c = (
            _plus(a, column[:, None] * a[j]),
            _plus(b, column[:, None] * b[j]),
            c + column * c[j],
        )
    n, kept = len(units.biases), np.flatnonzero(~(on | off))
    b = b[:, kept]
    return Units(a[kept], b[kept], c[kept], units.layers[kept], a[n:], b[n:], c[n:])


def affine_pieces(units: Units, gates: Gates) -> tuple[Array, Array, Array]:
    """Return what the units and the output are where the gates have given values.

    Parameters
    ----------
    units : Units
    gates : ndarray of bool of shape (n,)
        Which units are on.

    Returns
    -------
    slopes, offsets, jacobian : ndarray of shapes (n, n_in), (n,) and (n_out, n_in)
        z = slopes @ x + offsets, and Df = jacobian.

    Examples
    --------
    >>> from lipnb.models import mlp
    >>> units = read_units(mlp([2, 3, 1]))
    >>> _, _, jacobian = affine_pieces(units, np.zeros(3, dtype=bool))
    >>> jacobian
    array([[0., 0.]])
    """
    slopes, offsets = units.inputs.copy(), units.biases.copy()
    sizes = np.abs(slopes)
    for block in units.blocks():
        earlier = slice(0, block.start)
        coupling = units.couplings[block, earlier] * gates[earlier]
        slopes[block] += coupling @ slopes[earlier]
        offsets[block] += coupling @ offsets[earlier]
        sizes[block] += np.abs(coupling) @ sizes[earlier]
        # What cancels up to rounding is zero; its sign would draw a hyperplane of noise.
        slopes[block][np.abs(slopes[block]) <= 1e-14 * sizes[block]] = 0.0
    return slopes, offsets, units.out_inputs + (units.out_couplings * gates) @ slopes


def _piecewise(layer: nn.Module, width: int) -> tuple[Array, Array, Array]:
    """Write a layer as z -> keep * z + take @ relu(gate @ z)."""
    eye = np.eye(width)
    if isinstance(layer, nn.ReLU):
        return np.zeros(width), eye, eye
    if isinstance(layer, nn.LeakyReLU):
        s = float(layer.negative_slope)
        return np.full(width, s), (1 - s) * eye, eye
    if isinstance(layer, GroupSort) and (layer.group_size or width) == 2:
        if width % 2:
            raise ValueError(f"GroupSort of pairs needs an even number of channels; got {width}")
        pairs: Any = eye.reshape(width // 2, 2, width)
        difference = pairs[:, 0] - pairs[:, 1]
        return np.ones(width), -difference.T, difference
    raise TypeError(
        f"layers must be Linear, ReLU, LeakyReLU or GroupSort in pairs; got {type(layer).__name__}"
    )


def _plus(x: Array, y: Array) -> Array:
    """Add, and return zero where what remains is rounding."""
    total = x + y
    total[np.abs(total) <= 1e-15 * (np.abs(x) + np.abs(y))] = 0.0
    return total
