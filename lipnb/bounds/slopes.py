"""Which slopes each unit can have on a box."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipnb.bounds.network import Affine
from lipnb.bounds.result import Box
from lipnb.models.groupsort import GroupSort

__all__ = ["check_pairs", "slopes_on_box"]

Array = NDArray[np.float64]
SLACK = 1e-12  # relative; intervals are widened by it against rounding


def check_pairs(layer: GroupSort, width: int) -> None:
    """Refuse GroupSort unless it sorts pairs, of which the width holds a whole number."""
    if (layer.group_size or width) != 2:
        raise TypeError(f"layers of GroupSort must have groups of two; got {layer}")
    if width % 2:
        raise ValueError(f"GroupSort of pairs needs an even number of channels; got {width}")


def slopes_on_box(layers: list[Affine | nn.Module], box: Box) -> list[tuple[Array, Array]]:
    r"""Bound the difference quotients of every activation on a box.

    Pre-activations are enclosed by intervals and by zonotopes: an activation with values between
    two parallel lines over the interval of z is that slope times z, plus a new symbol. Between the
    ends of an interval a derivative that is monotone on both sides of 0 takes its extremes at the
    ends or next to 0.

    Parameters
    ----------
    layers : list of Affine or nn.Module
        As `read_layers` returns them.
    box : Box

    Returns
    -------
    list of (low, high), one for each activation layer
        Shape (n_l,) each; for `GroupSort` of pairs one entry per pair, of the slope of
        max(a - b, 0). Equal where the slope is known.

    Raises
    ------
    TypeError
        If `GroupSort` has groups of another size.
    ValueError
        If `GroupSort` has a channel without a partner.

    Examples
    --------
    >>> layer = Affine(torch.tensor([[1.0], [1.0]]).double(), torch.tensor([0.0, -5.0]).double())
    >>> slopes_on_box([layer, nn.ReLU()], ((-1.0,), (1.0,)))
    [(array([0., 0.]), array([1., 0.]))]
    """
    low, high = (np.array(side) for side in box)
    centre, symbols = (low + high) / 2, np.diag((high - low) / 2)
    result = []
    for layer in layers:
        if isinstance(layer, Affine):
            w, shift = layer.weight.numpy(), layer.bias.numpy()
            middle, half = (low + high) / 2, (high - low) / 2
            slack = SLACK * (np.abs(w) @ (np.abs(middle) + half) + np.abs(shift))
            low = w @ middle + shift - np.abs(w) @ half
            high = w @ middle + shift + np.abs(w) @ half
            centre, symbols = w @ centre + shift, w @ symbols
            low, high = _meet(low, high, centre, symbols)
            low, high = low - slack, high + slack
            continue
        if isinstance(layer, GroupSort):
            check_pairs(layer, len(low))
            a = slice(0, None, 2)
            b = slice(1, None, 2)
            l_z, u_z = _meet(
                low[a] - high[b], high[a] - low[b], centre[a] - centre[b], symbols[a] - symbols[b]
            )
            result.append(_quotients(nn.ReLU(), l_z, u_z))
            bottom, top = np.minimum(low[a], low[b]), np.minimum(high[a], high[b])
            low_b, high_b = np.maximum(low[a], low[b]), np.maximum(high[a], high[b])
            low, high = np.stack([bottom, low_b], 1).ravel(), np.stack([top, high_b], 1).ravel()
            # A zonotope of a sorted pair gains little; start again from the intervals.
            centre, symbols = (low + high) / 2, np.diag((high - low) / 2)
            continue
        alpha, beta = _quotients(layer, low, high)
        result.append((alpha, beta))
        # sigma(z) - s z is monotone for s = alpha (rising), and for ReLU lies in [0, -s l].
        at_low, at_high = _values(layer, low), _values(layer, high)
        slope = alpha
        rest_low, rest_high = at_low - slope * low, at_high - slope * high
        if isinstance(layer, nn.ReLU):
            crossing = (low < 0) & (high > 0)
            width = np.where(crossing, high - low, 1.0)
            slope = np.where(crossing, high / width, alpha)
            rest_low = np.where(crossing, 0.0, rest_low)
            rest_high = np.where(crossing, -slope * low, rest_high)
        centre = slope * centre + (rest_low + rest_high) / 2
        symbols = np.hstack([slope[:, None] * symbols, np.diag((rest_high - rest_low) / 2)])
        if (alpha >= 0).all():
            low, high = at_low, at_high
        else:  # not monotone: values lie within beta or alpha times the distance from the ends
            reach = np.maximum(np.abs(alpha), np.abs(beta)) * (high - low)
            low, high = np.minimum(at_low, at_high) - reach, np.maximum(at_low, at_high) + reach
        low, high = _meet(low, high, centre, symbols)
    return result


def _meet(low: Array, high: Array, centre: Array, symbols: Array) -> tuple[Array, Array]:
    """Intersect intervals with the ranges of a zonotope, widened against rounding."""
    radius = np.abs(symbols).sum(axis=1)
    slack = SLACK * (np.abs(centre) + radius)
    return np.maximum(low, centre - radius - slack), np.minimum(high, centre + radius + slack)


def _values(layer: nn.Module, z: Array) -> Array:
    """Return the activation at points, unchanged in place."""
    with torch.no_grad():
        return np.asarray(layer(torch.from_numpy(z.copy())).numpy())


def _quotients(layer: nn.Module, low: Array, high: Array) -> tuple[Array, Array]:
    """Return the extreme derivatives of an elementwise activation between low and high."""
    if isinstance(layer, (nn.ReLU, nn.LeakyReLU)):
        slope = float(layer.negative_slope) if isinstance(layer, nn.LeakyReLU) else 0.0
        left, right = np.where(low < 0, slope, 1.0), np.where(high > 0, 1.0, slope)
        return np.minimum(left, right), np.maximum(left, right)
    crossing = (low < 0) & (high > 0)
    tiny = 1e-300
    candidates = [_derivative(layer, low), _derivative(layer, high)]
    for side in (-tiny, tiny):
        at_zero = _derivative(layer, np.full_like(low, side))
        candidates.append(np.where(crossing, at_zero, candidates[0]))
    everything = np.stack(candidates)
    smallest, largest = everything.min(axis=0), everything.max(axis=0)
    return smallest - SLACK * np.abs(smallest), largest + SLACK * np.abs(largest)


def _derivative(layer: nn.Module, z: Array) -> Array:
    """Return the derivative of an elementwise activation."""
    x: Tensor = torch.from_numpy(z.copy()).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(layer(x + 0.0).sum(), x)
    return np.asarray(gradient.numpy())
