"""A lower bound by power iteration, for networks with many outputs."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from lipnb.bounds.layerwise import activation_constant, rounding
from lipnb.bounds.lower import _check, _draw, _is_interior, _kinks
from lipnb.bounds.network import Affine, input_dimension, read_box, read_layers
from lipnb.bounds.result import Bound
from lipnb.models.groupsort import GroupSort

__all__ = ["power_bound"]

Layers = list[Affine | nn.Module]


def power_bound(
    network: nn.Sequential,
    *,
    norm: float = 2,
    domain: tuple[Any, Any] | None = None,
    samples: int = 1024,
    points: Tensor | None = None,
    steps: int = 20,
    generator: torch.Generator | None = None,
) -> Bound:
    r"""Bound the l2 constant from below by power iteration on Jacobians at sampled points.

    With products of the Jacobian J and of its transpose alone,

    .. math::
        v_{k+1} = \frac{J^T J v_k}{\|J^T J v_k\|_2}, \qquad \|J v_k\|_2 \le \|J\|_2 \le \|f\|_L

    Each step is a bound; it grows with k. `sampled_bound` writes J down, one backward pass for each
    output; this costs two passes a step whatever the number of outputs. Of the points in one linear
    region of a piecewise-linear network, the first stands for all.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included) and the activations of
        `activation_constant`.
    norm : {2}
        `sampled_bound` takes 1 and inf.
    domain : (low, high), optional
        A box; everywhere by default.
    samples : int
        How many points to draw: uniformly from the box, or standard normal without a box.
    points : Tensor, optional
        Shape (n, n_in), used in place of drawn points. They must lie in the domain.
    steps : int
        Of the iteration.
    generator : torch.Generator, optional
        Draws the points and the first directions; by default a fresh one with seed 0.

    Returns
    -------
    Bound
        Of kind 'lower', by the rules of `sampled_bound`: slopes at kinks do not count.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If an argument is out of range, or a point is not finite or outside the domain.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
    >>> bound = power_bound(nn.Sequential(layer), samples=8, steps=40)
    >>> round(bound.value, 6), bound.status
    (4.0, '40 steps of power iteration in 1 of 8 points')

    References
    ----------
    Virmaux and Scaman, Lipschitz regularity of deep neural networks (2018), section 4, for power
    iteration by automatic differentiation; Golub and Van Loan, Matrix Computations (4th ed., 2013),
    section 8.2.
    """
    start = perf_counter()
    if norm != 2:
        raise ValueError(f"norm must be 2 for power iteration; got {norm!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    layers = read_layers(network)
    for layer in layers:
        if not isinstance(layer, Affine):
            activation_constant(layer)  # refuses layers whose kinks it does not know
    dimension = input_dimension(layers)
    box = read_box(domain, dimension)
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    if points is None:
        points = _draw(samples, dimension, box, generator)
    x = _check(points, dimension, box)
    drawn = len(x)
    x = x[_first_of_each(layers, x)]
    v = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    for _ in range(steps):
        v = v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(1e-300)
        stretched, v = _there_and_back(layers, x, v)
    slopes = torch.linalg.vector_norm(stretched, dim=1)
    value, skipped = 0.0, 0
    for i in slopes.argsort(descending=True).tolist():
        if _is_interior(layers, x[i]):
            value = max(0.0, slopes[i].item() * (1 - 1e-14) - rounding(layers, norm))
            break
        skipped += 1
    status = f"{steps} steps of power iteration in {len(x)} of {drawn} points"
    if skipped:
        status += f", {skipped} passed over because they lie at a kink"
    return Bound(value, "lower", norm, box, perf_counter() - start, status)


def _first_of_each(layers: Layers, x: Tensor) -> Tensor:
    """Return the first point of every gate pattern; all, if a layer is not piecewise linear."""
    signs, h = [torch.ones(len(x), 1, dtype=torch.bool)], x
    for layer in layers:
        if isinstance(layer, Affine):
            h = h @ layer.weight.T + layer.bias
            continue
        if not isinstance(layer, (nn.ReLU, nn.LeakyReLU, GroupSort)):
            return torch.arange(len(x))
        signs.append(torch.stack([_kinks(layer, row, row[:, None])[0] > 0 for row in h]))
        h = layer(h.clone())
    codes = torch.cat(signs, dim=1)
    _, group = codes.unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    first = torch.full((int(group.max()) + 1,), len(x)).scatter_reduce(
        0, group, torch.arange(len(x)), "amin"
    )
    return first.sort().values


def _there_and_back(layers: Layers, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return J v and J^T J v at every point."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        h = x + 0.0  # a copy that an in-place activation may overwrite
        for layer in layers:
            h = h @ layer.weight.T + layer.bias if isinstance(layer, Affine) else layer(h)
        # J^T u is linear in u; the derivative of v . J^T u by u is J v.
        u = torch.zeros_like(h, requires_grad=True)
        (back,) = torch.autograd.grad(h, x, u, create_graph=True)
        (stretched,) = torch.autograd.grad(back, u, v, retain_graph=True)
        (again,) = torch.autograd.grad(h, x, stretched)
    return stretched.detach(), again.detach()
