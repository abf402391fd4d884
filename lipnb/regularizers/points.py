"""Points at which a penalty is evaluated: between real and fake, in pairs, around the data."""

from __future__ import annotations

import torch
from torch import Tensor

from lipnb.distances import at_least_float32
from lipnb.regularizers.penalty import require_batch

__all__ = ["interpolate", "local_perturbation", "random_pairs"]


def interpolate(real: Tensor, fake: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Draw one point on the segment between each real sample and its fake partner.

    .. math:: \hat x_i = x_i + \alpha_i (\tilde x_i - x_i), \qquad \alpha_i \sim U[0, 1]

    Parameters
    ----------
    real, fake : Tensor
        Batches x and x-tilde of equal shape (n, ...).
    generator : torch.Generator, optional
        Source of alpha, on the device of `real`.

    Returns
    -------
    Tensor
        Points of the same shape and dtype, detached. One alpha serves a whole sample.

    Raises
    ------
    ValueError
        If the shapes differ, or a value is not finite.
    TypeError
        If a batch is not floating point.

    References
    ----------
    Gulrajani et al. (2017), algorithm 1.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> interpolate(torch.zeros(3, 2), torch.ones(3, 2), generator=g)
    tensor([[0.4963, 0.4963],
            [0.7682, 0.7682],
            [0.0885, 0.0885]])
    """
    require_batch(real, "real")
    require_batch(fake, "fake")
    if real.shape != fake.shape:
        raise ValueError(
            f"real and fake must have one shape; got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    start, end = at_least_float32(real.detach()), at_least_float32(fake.detach())
    return (start + _share(start, generator) * (end - start)).to(real.dtype)


def random_pairs(x: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    r"""Pair each sample with another one of its batch.

    The partners are a permutation of the batch without fixed points, drawn uniformly from the
    permutations that are one cycle: each sample is the partner of exactly one other, and any
    two samples meet with the same probability.

    Parameters
    ----------
    x : Tensor
        Points, shape (n, ...) with n >= 2. Concatenate real and fake ones to mix them.
    generator : torch.Generator, optional
        Source of the permutation, on the device of x.

    Returns
    -------
    x, y : Tensor
        The points and their partners, both of the shape of x, detached. Equal samples can still
        meet if the batch holds a point twice.

    Raises
    ------
    ValueError
        If there are fewer than two samples, or a value is not finite.
    TypeError
        If x is not floating point.

    References
    ----------
    Petzka et al. (2018), whose equation (8) leaves the sampling of its pairs open.

    Examples
    --------
    >>> x, y = random_pairs(torch.arange(4.0).reshape(4, 1))
    >>> (x != y).all().item(), y.sum().item()
    (True, 6.0)
    """
    require_batch(x)
    if x.shape[0] < 2:
        raise ValueError(f"x must hold at least two samples; got shape {tuple(x.shape)}")
    x = x.detach()
    cycle = torch.randperm(x.shape[0], generator=generator, device=x.device)
    partner = torch.empty_like(cycle)
    partner[cycle] = cycle.roll(-1)  # each sample is sent to its successor in the cycle
    return x, x[partner]


def local_perturbation(
    x: Tensor, *, scale: float = 0.5, generator: torch.Generator | None = None
) -> Tensor:
    r"""Draw one point near each sample, as DRAGAN does.

    .. math::
        \hat x_i = x_i + (1 - \alpha_i)\, C\, \mathrm{std}(x)\, u_i, \qquad
        \alpha_i \sim U[0, 1], \quad u_i \sim U[0, 1]^d

    Parameters
    ----------
    x : Tensor
        Points, shape (n, ...), at least two numbers in all.
    scale : float
        C, at least 0: the largest step per coordinate in units of the standard deviation of all
        numbers in x.
    generator : torch.Generator, optional
        Source of alpha and u, on the device of x.

    Returns
    -------
    Tensor
        Points of the shape and dtype of x, detached. No coordinate gets smaller: the noise is not
        centred in the source.

    Raises
    ------
    ValueError
        If the scale is negative or not finite, x holds a single number, or a value is not finite.
    TypeError
        If x is not floating point.

    References
    ----------
    Kodali et al. (2017); Petzka et al. (2018) compare it with `interpolate`.

    Examples
    --------
    >>> x = torch.tensor([[-1.0], [1.0]])  # std = sqrt(2)
    >>> moved = local_perturbation(x, scale=0.5)
    >>> ((moved >= x) & (moved <= x + 0.5 * 2**0.5)).all().item()
    True
    """
    require_batch(x)
    if not 0 <= scale < float("inf"):
        raise ValueError(f"scale must be finite and at least 0; got {scale}")
    if x.numel() < 2:
        raise ValueError(f"x must hold at least two numbers; got shape {tuple(x.shape)}")
    start = at_least_float32(x.detach())
    share = _share(start, generator)
    noise = torch.rand(x.shape, generator=generator, device=x.device, dtype=start.dtype)
    return (start + (1 - share) * scale * start.std() * noise).to(x.dtype)


def _share(x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw one number in [0, 1] per sample, of shape (n, 1, ...)."""
    shape = (x.shape[0], *[1] * (x.ndim - 1))
    return torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)
