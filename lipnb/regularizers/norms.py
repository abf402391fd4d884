"""Norms of Banach spaces and their duals, for gradient penalties other than the Euclidean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import vector_norm

from lipnb.distances import at_least_float32
from lipnb.regularizers.penalty import require_batch

__all__ = ["BanachScales", "banach_scales", "lebesgue_norm", "sobolev_dual_norm", "sobolev_norm"]

Norm = Callable[[Tensor], Tensor]


def lebesgue_norm(x: Tensor, p: float = 2.0) -> Tensor:
    r"""Norm of each sample as an element of l^p: over channels and pixels, without a mean.

    .. math:: \|x_i\|_p = \Bigl(\sum_j |x_{ij}|^p\Bigr)^{1/p}, \qquad
        \|x_i\|_\infty = \max_j |x_{ij}|

    Parameters
    ----------
    x : Tensor
        Batch, shape (n, ...).
    p : float
        Exponent, from 1 to infinity.

    Returns
    -------
    Tensor
        Norms, shape (n,), at least 0, in float32 or wider. The gradient at 0 is 0.

    Raises
    ------
    ValueError
        If p is below 1 or x is empty.

    Notes
    -----
    Each sample is divided by its largest entry first, so that no power over- or underflows.

    Examples
    --------
    >>> x = torch.tensor([[3.0, 4.0]])
    >>> lebesgue_norm(x), lebesgue_norm(x, 1.0), lebesgue_norm(1e30 * x, 100.0)
    (tensor([5.]), tensor([7.]), tensor([4.0000e+30]))
    """
    if not p >= 1:
        raise ValueError(f"p must be at least 1; got {p}")
    if x.ndim < 1 or x.numel() == 0:
        raise ValueError(f"x must have shape (n, ...) and must not be empty; got {tuple(x.shape)}")
    flat = at_least_float32(x).reshape(x.shape[0], -1)
    # The norm does not depend on the scale, which may therefore stay outside of the graph.
    scale = flat.detach().abs().amax(dim=1, keepdim=True)
    scale = scale.where(scale > 0, torch.ones_like(scale))
    return scale.squeeze(1) * vector_norm(flat / scale, p, dim=1)


def sobolev_norm(x: Tensor, s: float = 0.0, p: float = 2.0, *, scale: float = 5.0) -> Tensor:
    r"""Norm of each image as an element of the Sobolev space W^{s,p}.

    .. math:: \|x\|_{W^{s,p}} = \bigl\|\mathcal F^{-1}\bigl[(1 + |\xi|^2)^{s/2}\,
        \mathcal F x\bigr]\bigr\|_p, \qquad |\xi|^2 = c \sum_a \Bigl(\frac{k_a}{N_a / 2}\Bigr)^2

    with :math:`\mathcal F` the discrete Fourier transform of each channel and :math:`k_a` from 0 to
    :math:`N_a / 2` the frequency along axis a of length :math:`N_a`. Large s makes fine details
    count more, s < 0 less.

    Parameters
    ----------
    x : Tensor
        Batch, shape (n, channels, ...) with at least one axis of space or time.
    s : float
        Order of smoothness, any sign; 0 gives `lebesgue_norm`.
    p : float
        Exponent, from 1 to infinity.
    scale : float
        c, at least 0: the square of the frequency 1/2 per pixel. The authors' code has 5.

    Returns
    -------
    Tensor
        Norms, shape (n,), at least 0, in float32 or wider.

    Raises
    ------
    ValueError
        If p is below 1, s is not finite, the scale is negative, or x has no axis after its channels
        though s is not 0.

    References
    ----------
    Adler and Lunz (2018).

    Examples
    --------
    A constant has frequency 0 and the same norm for every s; the alternating signal has the highest
    frequency, and is multiplied by (1 + c)^{s/2}:

    >>> x = torch.tensor([[[1.0, 1.0, 1.0, 1.0]], [[1.0, -1.0, 1.0, -1.0]]])
    >>> sobolev_norm(x, s=2.0, p=2.0)
    tensor([ 2., 12.])
    """
    return lebesgue_norm(_filter(x, s, scale), p)


def sobolev_dual_norm(g: Tensor, s: float = 0.0, p: float = 2.0, *, scale: float = 5.0) -> Tensor:
    r"""Norm of each gradient as a functional on W^{s,p}: its norm in W^{-s,q}.

    .. math:: \|g\|_{(W^{s,p})^*} = \max_{\|x\|_{W^{s,p}} \le 1} \langle g, x \rangle
        = \|g\|_{W^{-s,q}}, \qquad \frac1p + \frac1q = 1

    Parameters
    ----------
    g : Tensor
        Gradients, shape (n, channels, ...).
    s, p, scale : float
        Those of the space in which *points* are measured, as in `sobolev_norm`.

    Returns
    -------
    Tensor
        Norms, shape (n,), at least 0, in float32 or wider.

    Raises
    ------
    ValueError
        As `sobolev_norm`.

    References
    ----------
    Adler and Lunz (2018).

    Examples
    --------
    >>> from functools import partial
    >>> from lipnb.regularizers import gradient_penalty
    >>> a = torch.tensor([3.0, -4.0]).reshape(1, 1, 2)  # l^1 measures points, so l^inf gradients
    >>> norm = partial(sobolev_dual_norm, s=0.0, p=1.0)
    >>> f = lambda x: (a * x).sum((1, 2))
    >>> gradient_penalty(f, torch.zeros(5, 1, 2), dual_norm=norm).slopes
    tensor([4., 4., 4., 4., 4.])
    """
    if not p >= 1:
        raise ValueError(f"p must be at least 1; got {p}")
    q = math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)
    return sobolev_norm(g, -s, q, scale=scale)


class BanachScales(NamedTuple):
    """Data-driven weight and target constant of a Banach Wasserstein GAN.

    Attributes
    ----------
    weight : float
        lambda, the mean norm of the data.
    lipschitz_constant : float
        gamma, the mean *dual* norm of the data.
    """

    weight: float
    lipschitz_constant: float


def banach_scales(x: Tensor, norm: Norm, dual_norm: Norm) -> BanachScales:
    r"""Estimate the scales of a Banach Wasserstein GAN from a batch of data.

    .. math:: \lambda = \mathbb E \|X\|_B, \qquad \gamma = \mathbb E \|X\|_{B^*}

    With them the critic's loss is

    .. math:: \frac1\gamma \bigl(\mathbb E f(\tilde X) - \mathbb E f(X)\bigr)
        + \lambda\, \mathbb E \Bigl(\frac{\|\partial f(\hat X)\|_{B^*}}{\gamma} - 1\Bigr)^2 ,

    and the second term is ``weight / lipschitz_constant**2`` times the loss of `gradient_penalty`
    with K = ``lipschitz_constant`` and the same dual norm.

    Parameters
    ----------
    x : Tensor
        Data X, shape (n, ...).
    norm, dual_norm : callable
        Norms of B and of its dual, (n, ...) to (n,).

    Returns
    -------
    BanachScales
        Both numbers, positive.

    Raises
    ------
    ValueError
        If x is not a batch of finite samples, or is zero.
    TypeError
        If x is not floating point.

    Notes
    -----
    The authors' code takes the norm of W^{s,q} in place of W^{-s,q} for gamma, which is the same
    for s = 0 only.

    References
    ----------
    Adler and Lunz (2018).

    Examples
    --------
    >>> banach_scales(torch.tensor([[3.0, 4.0]]), lebesgue_norm, lebesgue_norm)
    BanachScales(weight=5.0, lipschitz_constant=5.0)
    """
    require_batch(x)
    with torch.no_grad():
        scales = BanachScales(norm(x).mean().item(), dual_norm(x).mean().item())
    if not 0 < min(scales) <= max(scales) < math.inf:
        raise ValueError(f"the mean norms of x must be positive and finite; got {scales}")
    return scales


def _filter(x: Tensor, s: float, scale: float) -> Tensor:
    """Multiply each channel's Fourier coefficients by (1 + |xi|^2)^{s/2}."""
    if not math.isfinite(s) or not 0 <= scale < math.inf:
        raise ValueError(f"s and scale must be finite, scale at least 0; got {s} and {scale}")
    if s == 0:
        return x
    if x.ndim < 3:
        raise ValueError(
            f"x must have shape (n, channels, ...) with an axis of space; got {tuple(x.shape)}"
        )
    x = at_least_float32(x)
    axes, sizes = tuple(range(2, x.ndim)), x.shape[2:]
    square = torch.zeros((), dtype=x.dtype, device=x.device)
    for axis, size in zip(axes, sizes, strict=True):
        # The last axis of a real signal's transform holds the non-negative frequencies only.
        last = axis == axes[-1]
        frequency = (torch.fft.rfftfreq if last else torch.fft.fftfreq)(
            size, dtype=x.dtype, device=x.device
        )
        # In units of the highest, 1/2 per pixel; the sign does not matter to the square.
        along = (2 * frequency).square()
        square = square + along.reshape(-1, *[1] * (axes[-1] - axis))
    weights = (1 + scale * square).pow(s / 2)
    return torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * weights, s=sizes, dim=axes)
