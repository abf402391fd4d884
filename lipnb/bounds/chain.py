"""A network as weights W_1, ..., W_{L+1} with an interval of slopes between neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lipnb.bounds.network import Affine, read_layers
from lipnb.bounds.slopes import check_pairs
from lipnb.models.groupsort import GroupSort

__all__ = ["Chain", "read_chain", "round_up", "slope_range"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Chain:
    r"""A map x -> W_{L+1} s_L(... s_1(W_1 x + b_1) ...) + b_{L+1} with elementwise s_l.

    Parameters
    ----------
    weights, biases : tuple of ndarray, L + 1 of each
        Shapes (n_l, n_{l-1}) and (n_l,).
    activations : tuple of nn.Module, L of them
    slopes : tuple of (float, float), L of them
        Lowest and highest difference quotient of each activation.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    activations: tuple[nn.Module, ...]
    slopes: tuple[tuple[float, float], ...]

    def scaled(self) -> tuple[list[Array], int]:
        """Return weights whose Frobenius norms lie in [1/2, 1), and e with W_1 ... = 2^e (...).

        The factors are powers of two, so that nothing is rounded and no product overflows. They
        pass through every interval of slopes. Where a weight is zero, e is 0 and all are zero.
        """
        if not all(w.any() for w in self.weights):
            return [np.zeros_like(w) for w in self.weights], 0
        scaled, total = [], 0
        for weight in self.weights:
            first = math.frexp(float(np.abs(weight).max()))[1]
            w = np.ldexp(weight, -first)
            second = math.frexp(float(np.linalg.norm(w)))[1]
            scaled.append(np.ldexp(w, -second))
            total += first + second
        return scaled, total


def read_chain(network: nn.Sequential, *, pairs: bool = False) -> Chain:
    """Read a network of affine maps and elementwise activations as a chain.

    Neighbouring affine maps are multiplied; an identity is put between neighbouring activations,
    before a first one and after a last one.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included) and the activations of
        `slope_range`.
    pairs : bool
        Take `GroupSort` with groups of two as well; its slopes are those of max(a - b, 0), the
        amount that a pair exchanges.

    Returns
    -------
    Chain

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If there is no affine layer, neighbours do not fit, or a weight is not finite.

    Examples
    --------
    >>> chain = read_chain(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4), nn.Tanh()))
    >>> [w.shape for w in chain.weights], chain.slopes
    ([(4, 3), (4, 4)], ((0.0, 1.0),))
    """
    layers = read_layers(network)
    first = next(layer for layer in layers if isinstance(layer, Affine))
    width = first.weight.shape[1]
    maps: list[tuple[Array, Array] | None] = [None]
    activations: list[nn.Module] = []
    slopes: list[tuple[float, float]] = []
    for layer in layers:
        if not isinstance(layer, Affine):
            if pairs and isinstance(layer, GroupSort):
                check_pairs(layer, width)
                slopes.append((0.0, 1.0))
            else:
                slopes.append(slope_range(layer))  # refuses layers without an interval of slopes
            maps[-1] = maps[-1] or (np.eye(width), np.zeros(width))
            activations.append(layer)
            maps.append(None)
            continue
        w, b = layer.weight.numpy(), layer.bias.numpy()
        width = len(b)
        before = maps[-1]
        maps[-1] = (w, b) if before is None else (w @ before[0], w @ before[1] + b)
    maps[-1] = maps[-1] or (np.eye(width), np.zeros(width))
    known = [pair for pair in maps if pair is not None]
    if not all(np.isfinite(w).all() and np.isfinite(b).all() for w, b in known):
        raise ValueError("neighbouring affine layers must have a finite product; it overflows")
    return Chain(
        tuple(w for w, _ in known),
        tuple(b for _, b in known),
        tuple(activations),
        tuple(slopes),
    )


def slope_range(layer: nn.Module) -> tuple[float, float]:
    r"""Return the lowest and the highest difference quotient of an elementwise activation.

    .. math::
        \alpha \le \frac{\sigma(y) - \sigma(z)}{y - z} \le \beta \quad \text{for all } y \ne z

    Parameters
    ----------
    layer : nn.Module
        `ReLU`, `LeakyReLU`, `ELU`, `Softplus`, `Tanh` or `Sigmoid`.

    Returns
    -------
    (float, float)
        alpha and beta.

    Raises
    ------
    TypeError
        If the layer is another one. `GroupSort` is not elementwise and has no such interval.

    Examples
    --------
    >>> slope_range(nn.ReLU()), slope_range(nn.LeakyReLU(-0.5))
    ((0.0, 1.0), (-0.5, 1.0))
    """
    if isinstance(layer, (nn.ReLU, nn.Tanh, nn.Softplus)):
        return 0.0, 1.0
    if isinstance(layer, nn.Sigmoid):
        return 0.0, 0.25
    if isinstance(layer, nn.LeakyReLU):
        slope = float(layer.negative_slope)
        return min(1.0, slope), max(1.0, slope)
    if isinstance(layer, nn.ELU):
        alpha = float(layer.alpha)
        return min(0.0, alpha), max(1.0, alpha)
    others = "; seqlip, lipsdp and branch_and_bound take it in pairs"
    raise TypeError(
        "layers must be Linear, ReLU, LeakyReLU, ELU, Softplus, Tanh or Sigmoid; got "
        f"{type(layer).__name__}{others if isinstance(layer, GroupSort) else ''}"
    )


def round_up(value: float, exponent: int, relative: float) -> float:
    """Return at least (1 + relative) value 2^exponent: inf on overflow, never 0 for value > 0.

    Examples
    --------
    >>> round_up(0.5, 3, 0.25), round_up(1.0, -5000, 0.0) > 0, round_up(1.0, 5000, 0.0)
    (5.0, True, inf)
    """
    if value == 0 or math.isinf(value):
        return value
    try:
        result = math.ldexp(value * (1 + relative), exponent)
    except OverflowError:
        return math.inf
    # Below the normal numbers ldexp may have rounded down.
    return math.nextafter(result, math.inf) if result < 2.3e-308 else result
