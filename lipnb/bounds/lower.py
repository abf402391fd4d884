"""Lower bounds from samples: slopes at points, and quotients of pairs."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from lipnb.bounds.layerwise import activation_constant, rounding
from lipnb.bounds.network import (
    MARGIN,
    Affine,
    check_norm,
    input_dimension,
    operator_norm,
    read_box,
    read_layers,
)
from lipnb.bounds.result import Bound, Box
from lipnb.models.groupsort import GroupSort

__all__ = ["pair_quotients", "sampled_bound"]

CHUNK = 4096


def sampled_bound(
    network: nn.Sequential,
    *,
    norm: float = 2,
    domain: tuple[Any, Any] | None = None,
    samples: int = 1024,
    points: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Bound:
    r"""Bound the Lipschitz constant from below by the largest slope at sampled points.

    .. math::
        \max_{i} \|Df(x_i)\|_{p \to p} \le \|f\|_L

    For a scalar output this is the dual norm of the gradient. At a kink, automatic differentiation
    returns a number that need not be a slope. The point with the largest slope therefore counts
    only if no pre-activation changes its sign on a small ball around it; else the next one is
    taken.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included) and the elementwise
        activations of `activation_constant`.
    norm : {1, 2, inf}
        The p of the input and, for vector outputs, of the output.
    domain : (low, high), optional
        A box; everywhere by default.
    samples : int
        How many points to draw: uniformly from the box, or standard normal without a box.
    points : Tensor, optional
        Shape (n, n_in), used in place of drawn points. They must lie in the domain.
    generator : torch.Generator, optional
        Draws the points; by default a fresh one with seed 0.

    Returns
    -------
    Bound
        Of kind 'lower', rounded down by what float64 may have lost; 0 if every point lies at a
        kink.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If an argument is out of range, or a point is not finite or outside the domain.

    Examples
    --------
    >>> layer = nn.Linear(2, 1)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
    >>> round(sampled_bound(nn.Sequential(layer)).value, 9)
    5.0

    References
    ----------
    Wood and Zhang, Estimation of the Lipschitz constant of a function (1996), for the idea of
    sampled slopes; Terjek, Adversarial Lipschitz Regularization (2020), equation (6), for the
    constant.
    """
    start = perf_counter()
    check_norm(norm)
    layers = read_layers(network)
    for layer in layers:
        if not isinstance(layer, Affine):
            activation_constant(layer)  # refuses layers whose kinks it does not know
    dimension = input_dimension(layers)
    box = read_box(domain, dimension)
    if points is None:
        x = _draw(samples, dimension, box, generator)
    else:
        x = _check(points, dimension, box)
    parts = (x[i : i + CHUNK] for i in range(0, len(x), CHUNK))
    slopes = torch.cat([operator_norm(_jacobian(layers, part), norm) for part in parts])
    value, skipped = 0.0, 0
    for i in slopes.argsort(descending=True).tolist():
        if _is_interior(layers, x[i]):
            value = max(0.0, slopes[i].item() - rounding(layers, norm))
            break
        skipped += 1
    status = f"largest slope at {len(x)} points"
    if skipped:
        status += f", {skipped} passed over because they lie at a kink"
    return Bound(value, "lower", norm, box, perf_counter() - start, status)


def pair_quotients(
    f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *, norm: float = 2
) -> Tensor:
    r"""Difference quotients of a map on pairs of points.

    .. math::
        q_i = \frac{\|f(x_i) - f(y_i)\|_p}{\|x_i - y_i\|_p}

    Parameters
    ----------
    f : callable
        Maps (n, n_in) to (n, n_out).
    x, y : Tensor
        Shape (n, n_in); the two points of each pair must differ.
    norm : {1, 2, inf}
        The p on both sides.

    Returns
    -------
    Tensor
        Shape (n,), each at least 0 and, up to rounding, at most the Lipschitz constant.

    Raises
    ------
    ValueError
        If the shapes do not fit, a number is not finite or two points coincide.

    Examples
    --------
    >>> pair_quotients(torch.abs, torch.tensor([[1.0], [1.0]]), torch.tensor([[2.0], [-1.0]]))
    tensor([1., 0.])

    References
    ----------
    Terjek, Adversarial Lipschitz Regularization (2020), equation (6).
    """
    check_norm(norm)
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(
            f"x and y must have the same shape (n, d); got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    distances = torch.linalg.vector_norm(x - y, ord=norm, dim=1)
    if not torch.isfinite(distances).all() or (distances == 0).any():
        raise ValueError("pairs must be finite and distinct; got a distance of 0, NaN or infinity")
    return torch.linalg.vector_norm(f(x) - f(y), ord=norm, dim=1) / distances


def _draw(
    samples: int, dimension: int, box: Box | None, generator: torch.Generator | None
) -> Tensor:
    """Draw points, uniform in the box or standard normal without one."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1; got {samples}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    if box is None:
        return torch.randn(samples, dimension, generator=generator, dtype=torch.float64)
    low, high = (torch.tensor(side, dtype=torch.float64) for side in box)
    u = torch.rand(samples, dimension, generator=generator, dtype=torch.float64)
    return low + (high - low) * u


def _check(points: Tensor, dimension: int, box: Box | None) -> Tensor:
    """Return given points in float64, or raise if they do not fit the domain."""
    x = points.detach().to(device="cpu", dtype=torch.float64)
    if x.ndim != 2 or len(x) == 0 or x.shape[1] != dimension or not torch.isfinite(x).all():
        raise ValueError(f"points must be finite of shape (n, {dimension}); got {tuple(x.shape)}")
    if box is not None:
        low, high = (torch.tensor(side, dtype=torch.float64) for side in box)
        if ((x < low) | (x > high)).any():
            raise ValueError(f"points must lie in the domain {box}")
    return x


def _jacobian(layers: list[Affine | nn.Module], x: Tensor) -> Tensor:
    """Return the Jacobians that automatic differentiation reports, shape (n, n_out, n_in)."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        h = x + 0.0  # a copy that an in-place activation may overwrite
        for layer in layers:
            h = h @ layer.weight.T + layer.bias if isinstance(layer, Affine) else layer(h)
        rows = [
            torch.autograd.grad(h[:, j].sum(), x, retain_graph=True)[0] for j in range(h.shape[1])
        ]
    return torch.stack(rows, dim=1)


def _is_interior(layers: list[Affine | nn.Module], x: Tensor) -> bool:
    """Whether no kink of an activation is met on a ball of radius 2 MARGIN about x."""
    h, jacobian = x, torch.eye(len(x), dtype=torch.float64)
    for layer in layers:
        if isinstance(layer, Affine):
            h, jacobian = layer.weight @ h + layer.bias, layer.weight @ jacobian
            continue
        values, slopes = _kinks(layer, h, jacobian)
        # Twice the margin of the enumeration, so that it counts every region met here.
        reach = 2 * MARGIN * torch.linalg.vector_norm(slopes, dim=1)
        if ((values.abs() <= reach) & (reach > 0)).any():
            return False
        jacobian = _jacobian([layer], h[None])[0] @ jacobian
        h = layer(h[None].clone())[0]
    return True


def _kinks(layer: nn.Module, h: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers at whose zeros the layer has a kink, and their Jacobian."""
    if isinstance(layer, (nn.ReLU, nn.LeakyReLU, nn.ELU)):
        return h, jacobian
    if isinstance(layer, GroupSort):  # a kink wherever two members of a group are equal
        size = layer.group_size or len(h)
        i, j = torch.triu_indices(size, size, offset=1)
        groups, rows = h.view(-1, size), jacobian.view(-1, size, jacobian.shape[1])
        return (groups[:, i] - groups[:, j]).flatten(), (rows[:, i] - rows[:, j]).flatten(0, 1)
    return h[:0], jacobian[:0]
