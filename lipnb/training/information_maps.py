"""Injective maps that change the look of a normal vector and not what it tells of another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "bimodal_x",
    "bimodal_y",
    "half_cube",
    "identity",
    "normal_cdf",
    "spiral_x",
    "spiral_y",
    "swiss_roll",
    "wiggly_x",
    "wiggly_y",
]

# The definitions are those of the benchmark of Czyz et al. (2023). Each is injective, so that the
# mutual information of the normal vectors is that of their images.


def identity(x: Tensor) -> Tensor:
    """Return x."""
    return x


def normal_cdf(x: Tensor) -> Tensor:
    """Map to (0, 1) by the distribution function of the standard normal law."""
    return torch.special.ndtr(x)


def half_cube(x: Tensor) -> Tensor:
    r"""Map x to :math:`x \sqrt{|x|}`, which lengthens the tails."""
    return x * x.abs().sqrt()


def wiggly_x(x: Tensor) -> Tensor:
    """Add waves to x, few enough that it still grows."""
    return x + 0.4 * x.sin() + 0.2 * (1.7 * x + 1).sin() + 0.03 * (3.3 * x - 2.5).sin()


def wiggly_y(y: Tensor) -> Tensor:
    """Add other waves to y."""
    return y - 0.4 * (0.4 * y).sin() + 0.17 * (1.3 * y + 3.5).sin() + 0.02 * (4.3 * y - 2.5).sin()


def bimodal_x(x: Tensor) -> Tensor:
    """Map a standard normal number to one with 0.3 N(0, 1) + 0.7 N(5, 1) as its law."""
    return _mixture_quantile(x, 0.3, 0.0, 5.0)


def bimodal_y(y: Tensor) -> Tensor:
    """Map a standard normal number to one with 0.5 N(-1, 1) + 0.5 N(3, 1) as its law."""
    return _mixture_quantile(y, 0.5, -1.0, 3.0)


def _mixture_quantile(x: Tensor, share: float, first: float, second: float) -> Tensor:
    """Solve share Phi(z - first) + (1 - share) Phi(z - second) = Phi(x) for z, by bisection."""
    # In the upper tail Phi rounds to 1; both sides are then reflected.
    upper = x > 0
    target = torch.special.ndtr(-x.abs())
    low, high = x + min(first, second), x + max(first, second)
    for _ in range(60):
        middle = (low + high) / 2
        sign = torch.where(upper, -1.0, 1.0)
        parts = [torch.special.ndtr(sign * (middle - mean)) for mean in (first, second)]
        mixture = share * parts[0] + (1 - share) * parts[1]
        below = torch.where(upper, mixture > target, mixture < target)
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def swiss_roll(x: Tensor) -> Tensor:
    r"""Roll a line (n, 1) up in the plane (n, 2): :math:`(t \cos t, t \sin t) / 21`.

    Here :math:`t = \tfrac32 \pi (1 + 2 \Phi(x))`.
    """
    t = 1.5 * math.pi * (1 + 2 * torch.special.ndtr(x))
    return torch.cat([t * t.cos(), t * t.sin()], dim=1) / 21


def spiral_x(x: Tensor) -> Tensor:
    r"""Turn the plane of coordinates 0 and 1 by the angle :math:`\|x\|^2 / d`."""
    return _spiral(x, 0, 1)


def spiral_y(y: Tensor) -> Tensor:
    r"""Turn the plane of coordinates 1 and 2 by the angle :math:`\|y\|^2 / d`; d is 3 or more."""
    return _spiral(y, 1, 2)


def _spiral(x: Tensor, i: int, j: int) -> Tensor:
    """Turn one plane by an angle that the length of x decides, which the turn keeps."""
    angle = x.square().sum(dim=1) / x.shape[1]
    cosine, sine = angle.cos(), angle.sin()
    turned = x.clone()
    turned[:, i] = cosine * x[:, i] - sine * x[:, j]
    turned[:, j] = sine * x[:, i] + cosine * x[:, j]
    return turned
