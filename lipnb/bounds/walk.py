"""A lower bound by a random walk that climbs the slope, with a pair of points as witness."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from lipnb.bounds.length_unit import power_of_two, scaled_box
from lipnb.bounds.lower import _draw, _jacobian, pair_quotients, sampled_bound
from lipnb.bounds.network import (
    Affine,
    check_norm,
    input_dimension,
    operator_norm,
    read_box,
    read_layers,
)
from lipnb.bounds.result import Bound, Box

__all__ = ["WitnessedBound", "walk_bound"]

Layers = list[Affine | nn.Module]
WALKERS = 32
SCALES = (1e-2, 2.0)  # of a step, relative to the spread of the points
LARGEST = 1e150  # of a coordinate of a box: squares stay finite
KEPT = 64  # end points whose slopes are checked for kinks


@dataclass(frozen=True)
class WitnessedBound(Bound):
    """A lower bound with two points that show it.

    Parameters
    ----------
    x, y : tuple of float
        Two different points of the domain.
    quotient : float
        The difference quotient of x and y, in float64. Up to rounding it is `value` if a
        piecewise-linear network is linear between the two; never relied on for `value`.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    quotient: float


def walk_bound(
    network: nn.Sequential,
    *,
    norm: float = 2,
    domain: tuple[Any, Any] | None = None,
    steps: int = 300,
    generator: torch.Generator | None = None,
) -> WitnessedBound:
    r"""Bound the Lipschitz constant from below by a random walk from linear region to region.

    A walker at x proposes x + s u with a normal u and a random step size s, and moves there if

    .. math::
        \|Df(x + s u)\|_{p \to p} > \|Df(x)\|_{p \to p}

    Gradient ascent cannot do this for ReLU: there the Jacobian is constant on every linear region,
    so the gradient of its norm is zero and no step is made.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included) and the activations of
        `activation_constant`.
    norm : {1, 2, inf}
        The p of the input and, for vector outputs, of the output.
    domain : (low, high), optional
        A box; everywhere by default.
    steps : int
        Moves that each of 32 walkers tries.
    generator : torch.Generator, optional
        Draws starts and moves; by default a fresh one with seed 0.

    Returns
    -------
    WitnessedBound
        Of kind 'lower', by the rules of `sampled_bound`: slopes at kinks do not count. Two points
        near the best one, with their quotient in float64, come with it.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> from lipnb.models import mlp
    >>> network = mlp([8, 16, 16, 1], dtype=torch.float64)
    >>> bound = walk_bound(network)
    >>> bound.value > sampled_bound(network, samples=32 * 301).value
    True
    >>> abs(bound.quotient / bound.value - 1) < 1e-6
    True

    References
    ----------
    Virmaux and Scaman, Lipschitz regularity of deep neural networks (2018), for a lower bound by
    optimisation, which for ReLU has a zero gradient.
    """
    start = perf_counter()
    check_norm(norm)
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    layers = read_layers(network)
    dimension = input_dimension(layers)
    box = read_box(domain, dimension)
    if box is not None and max(abs(side) for sides in box for side in sides) > LARGEST:
        raise ValueError(f"domain must lie within +-{LARGEST:g}, or distances overflow; got {box}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    x = _draw(WALKERS, dimension, box, generator)
    spread = _spread(layers, box)
    if box is None:
        x = x * spread
    # Refuses layers whose kinks are not known, before the walk.
    sampled_bound(network, norm=norm, domain=domain, points=x[:1])
    slopes = operator_norm(_jacobian(layers, x), norm)
    visited, heights = [x], [slopes]
    low, high = math.log(SCALES[0]), math.log(SCALES[1])
    for _ in range(steps):
        size = torch.rand(WALKERS, 1, generator=generator, dtype=torch.float64)
        move = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        # Far from all kinks the regions are cones, and a step as long as x is the right one.
        length = (
            spread if box else torch.maximum(spread, x.square().mean(dim=1, keepdim=True).sqrt())
        )
        y = _into(x + length * (low + (high - low) * size).exp() * move, box)
        new = operator_norm(_jacobian(layers, y), norm)
        better = new > slopes
        if better.any():
            x, slopes = torch.where(better[:, None], y, x), torch.where(better, new, slopes)
            visited.append(y[better])
            heights.append(new[better])
    order = torch.cat(heights).argsort(descending=True)[:KEPT]
    points = torch.cat(visited)[order]
    bound = _largest(network, points, norm, box, power_of_two(float(spread.min())))
    pair, quotient = _witness(layers, points, norm, spread, box)
    return WitnessedBound(
        bound.value,
        "lower",
        norm,
        box,
        perf_counter() - start,
        f"{WALKERS} walkers of {steps} steps; {bound.status}",
        tuple(pair[0].tolist()),
        tuple(pair[1].tolist()),
        quotient,
    )


def _largest(
    network: nn.Sequential, points: Tensor, norm: float, box: Box | None, unit: float
) -> Bound:
    """Return the largest slope at points; what is near a kink is measured in a unit of length."""
    if unit == 1:
        return sampled_bound(network, norm=norm, domain=box, points=points)
    into = nn.Linear(points.shape[1], points.shape[1], bias=False, dtype=torch.float64)
    into.weight.data = unit * torch.eye(points.shape[1], dtype=torch.float64)
    bound = sampled_bound(
        nn.Sequential(into, network), norm=norm, domain=scaled_box(box, unit), points=points / unit
    )
    return replace(bound, value=bound.value / unit)


def steepest_direction(jacobian: Tensor, norm: float = 2) -> Tensor:
    r"""Return a unit vector that a matrix stretches most, or nearly.

    .. math::
        \|J v\|_p = \|J\|_{p \to p}, \qquad \|v\|_p = 1

    Parameters
    ----------
    jacobian : Tensor
        Shape (m, n).
    norm : {1, 2, inf}

    Returns
    -------
    Tensor
        Shape (n,): an axis (1), a right singular vector (2), or signs (inf).

    Examples
    --------
    >>> steepest_direction(torch.tensor([[1.0, -2.0], [3.0, 4.0]]), torch.inf)
    tensor([1., 1.])
    """
    check_norm(norm)
    if norm == 1:
        column = jacobian.abs().sum(dim=0).argmax()
        return torch.eye(jacobian.shape[1], dtype=jacobian.dtype)[column]
    if norm == 2:
        return torch.linalg.svd(jacobian, full_matrices=False).Vh[0]
    row = jacobian[jacobian.abs().sum(dim=1).argmax()]
    return torch.where(row < 0, -1.0, 1.0).to(jacobian.dtype)


def _spread(layers: Layers, box: Box | None) -> Tensor:
    """Return the size of the set where kinks are: of the box, or that of the first layer's."""
    if box is not None:
        low, high = (torch.tensor(side, dtype=torch.float64) for side in box)
        return (high - low) / 2
    first = next(layer for layer in layers if isinstance(layer, Affine))
    lengths = torch.linalg.vector_norm(first.weight, dim=1)
    away = first.bias.abs()[lengths > 0] / lengths[lengths > 0]
    away = away[(away > 0) & torch.isfinite(away)]
    return away.median() if len(away) else torch.tensor(1.0, dtype=torch.float64)


def _into(x: Tensor, box: Box | None) -> Tensor:
    """Move points to the nearest ones of the box."""
    if box is None:
        return x
    low, high = (torch.tensor(side, dtype=torch.float64) for side in box)
    return torch.minimum(torch.maximum(x, low), high)


def _witness(
    layers: Layers, points: Tensor, norm: float, spread: Tensor, box: Box | None
) -> tuple[Tensor, float]:
    """Return the pair with the largest quotient among points moved along their steepest way."""

    def f(z: Tensor) -> Tensor:
        """Run the network in float64."""
        for layer in layers:
            z = z @ layer.weight.T + layer.bias if isinstance(layer, Affine) else layer(z)
        return z

    pairs = []
    for x, jacobian in zip(points[:8], _jacobian(layers, points[:8]), strict=True):
        direction = steepest_direction(jacobian, norm)
        if box is None:
            longest, low, high = torch.maximum(spread.max(), x.abs().max()) / 2, x, x
        else:
            low, high = (torch.tensor(side, dtype=torch.float64) for side in box)
            # As far as the box is wide in this direction, however far from 0 it lies.
            longest = ((high - low) / 2 / direction.abs()).min()
            pairs.append(torch.stack([low, high]))  # differ whatever is rounded
        for exponent in range(24):
            half = longest * 2.0**-exponent * direction
            centre = x
            if box is not None:
                centre = torch.minimum(torch.maximum(x, low + half.abs()), high - half.abs())
            pairs.append(torch.stack([_into(centre - half, box), _into(centre + half, box)]))
    both = torch.stack(pairs)
    both = both[(both[:, 0] != both[:, 1]).any(dim=1)]
    quotients = pair_quotients(f, both[:, 0], both[:, 1], norm=norm)
    # Of nearly the largest quotients that of the longest pair: short ones are mostly rounding.
    lengths = torch.linalg.vector_norm(both[:, 0] - both[:, 1], dim=1)
    best = torch.where(quotients >= (1 - 1e-7) * quotients.max(), lengths, -1.0).argmax()
    return both[best], float(quotients[best])
