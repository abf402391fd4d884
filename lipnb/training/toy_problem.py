"""The 2-D toy of Terjek (2020), appendix A.4: the target, its optima, and the judgement."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lipnb.models.stacked import StackedMLP

__all__ = [
    "HALF_WIDTH",
    "grid",
    "optimum",
    "paper_optimum",
    "surface_metrics",
    "surfaces",
    "target",
]

HALF_WIDTH = 4.0  # the square is [-4, 4]^2
# Where the ramps of the true optimum are centred: c^2 = a^2 - 1/12 for a jump at radius a.
INNER, OUTER = math.sqrt(11 / 12), math.sqrt(47 / 12)


def target(x: Tensor) -> Tensor:
    """Evaluate the function to be approximated: 0 on the ring 1 <= r <= 2, else 1.

    Parameters
    ----------
    x : Tensor
        Points, shape (..., 2).

    Returns
    -------
    Tensor
        Values 0 or 1, shape (...).

    References
    ----------
    Terjek (2020), equation (27), with the lost inequality signs restored.

    Examples
    --------
    >>> target(torch.tensor([[0.0, 0.0], [1.5, 0.0]]))
    tensor([1., 0.])
    """
    r = x.norm(dim=-1)
    return ((r < 1) | (r > 2)).to(x.dtype)


def _ramps(r: Tensor, inner: float, outer: float) -> tuple[Tensor, Tensor]:
    """Return unit ramps centred at the two radii: values, and whether the slope is 1."""
    middle = (inner + outer) / 2
    value = torch.where(r <= middle, inner + 0.5 - r, r - outer + 0.5).clamp(0, 1)
    slope = ((r - inner).abs() < 0.5) & (r <= middle) | ((r - outer).abs() < 0.5) & (r > middle)
    return value, slope.to(r.dtype)


def optimum(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Evaluate the best 1-Lipschitz approximation of the target on the square.

    .. math::
        f^\star(r) = \mathrm{clip}(c_1 + \tfrac12 - r, 0, 1) \text{ inside}, \quad
        \mathrm{clip}(r - c_2 + \tfrac12, 0, 1) \text{ outside}, \quad
        c_1 = \sqrt{11/12},\ c_2 = \sqrt{47/12} .

    Parameters
    ----------
    x : Tensor
        Points, shape (..., 2).

    Returns
    -------
    value, slope : Tensor
        Values in [0, 1] and gradient norms 0 or 1, shape (...).

    References
    ----------
    Derived in chapter 18; it corrects Terjek (2020), equation (28).

    Examples
    --------
    >>> value, slope = optimum(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    >>> slope
    tensor([0., 1.])
    """
    return _ramps(x.norm(dim=-1), INNER, OUTER)


def paper_optimum(x: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate the optimum that the paper states: ramps centred at the jumps, 1 and 2.

    Parameters
    ----------
    x : Tensor
        Points, shape (..., 2).

    Returns
    -------
    value, slope : Tensor
        Values in [0, 1] and gradient norms 0 or 1, shape (...).

    References
    ----------
    Terjek (2020), equation (28).

    Examples
    --------
    >>> paper_optimum(torch.tensor([[1.0, 0.0]]))[0]
    tensor([0.5000])
    """
    return _ramps(x.norm(dim=-1), 1.0, 2.0)


def grid(resolution: int = 400) -> Tensor:
    """Midpoints of a square grid on [-4, 4]^2, row by row.

    Parameters
    ----------
    resolution : int
        Cells per side.

    Returns
    -------
    Tensor
        Points, shape (resolution^2, 2), float64.

    Examples
    --------
    >>> grid(2).tolist()
    [[-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0], [2.0, 2.0]]
    """
    if resolution < 1:
        raise ValueError(f"resolution must be at least 1; got {resolution}")
    side = (torch.arange(resolution, dtype=torch.float64) + 0.5) / resolution
    side = (2 * side - 1) * HALF_WIDTH
    y, x = torch.meshgrid(side, side, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=-1)


def surface_metrics(stack: StackedMLP, resolution: int = 400) -> list[dict[str, float]]:
    r"""Measure each network against the target and its true optimum on a grid.

    Parameters
    ----------
    stack : StackedMLP
        Networks in evaluation mode.
    resolution : int
        Cells per side of the grid.

    Returns
    -------
    list of dict
        Per network: ``gradient_error``, the mean of :math:`|\,\|\nabla \hat f\| - \|\nabla
        f^\star\|\,|`; ``max_gradient`` and ``q999_gradient``, the largest and the 99.9 % gradient
        norm; ``share_above``, the share of points with gradient norm above 1.05;
        ``mean_gradient``; ``mse_target`` and ``mse_optimum``. All at least 0.

    Examples
    --------
    >>> flat = StackedMLP([2, 1], [torch.Generator().manual_seed(0)]).eval()
    >>> surface_metrics(flat, 50)[0]["share_above"]
    0.0
    """
    points = grid(resolution)
    truth, value, slope = target(points), *optimum(points)
    rows = []
    for y, norm in zip(*surfaces(stack, points), strict=True):
        rows.append(
            {
                "gradient_error": (norm - slope).abs().mean().item(),
                "max_gradient": norm.max().item(),
                "q999_gradient": norm.quantile(0.999).item(),
                "mean_gradient": norm.mean().item(),
                "share_above": (norm > 1.05).double().mean().item(),
                "mse_target": (y - truth).square().mean().item(),
                "mse_optimum": (y - value).square().mean().item(),
            }
        )
    return rows


def surfaces(stack: StackedMLP, points: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate values and gradient norms of every network at common points.

    Parameters
    ----------
    stack : StackedMLP
        Networks in evaluation mode.
    points : Tensor
        Points, shape (n, 2).

    Returns
    -------
    values, norms : Tensor
        Both of shape (M, n).

    Examples
    --------
    >>> flat = StackedMLP([2, 1], [torch.Generator().manual_seed(0)]).eval()
    >>> surfaces(flat, grid(4))[1].shape
    torch.Size([1, 16])
    """
    values, norms = [], []
    for part in torch.split(points, 4096):
        x = part.expand(stack.copies, -1, -1).clone().requires_grad_()
        y = stack(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        values.append(y.detach())
        norms.append(torch.linalg.vector_norm(gradient, dim=-1))
    return torch.cat(values, dim=1), torch.cat(norms, dim=1)
