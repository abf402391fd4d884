"""Orthogonal layers: weights that preserve the norm of what passes through them."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

from lipnb.constraints.convolution import read_convolution
from lipnb.constraints.orthogonal_kernel import OrthogonalKernel
from lipnb.constraints.orthogonal_maps import BjorckMap, CayleyMap

__all__ = ["orthogonal"]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)

MAPS: dict[str, type[CayleyMap] | type[BjorckMap]] = {"cayley": CayleyMap, "bjorck": BjorckMap}


def orthogonal(
    layer: Layer, *, method: str = "cayley", generator: torch.Generator | None = None
) -> Layer:
    r"""Constrain a dense layer or a convolution to be orthogonal.

    .. math:: W W^\top = I \ \text{(out <= in)}, \qquad W^\top W = I \ \text{(out >= in)}

    A dense layer gets orthonormal rows or columns, whichever are fewer. It is 1-Lipschitz in the
    Euclidean norm, and with out >= in it keeps every length.

    A convolution keeps the shape of its kernel, which is composed of one such matrix and of shifts
    of one half of the channels by one pixel. W is then the matrix of the layer as a linear map of
    images. It is orthogonal in this sense for circular padding with kernel size - 1 cells in sum
    (``padding="same"``), on images of every size. With zero padding the layer is 1-Lipschitz, but
    what leaves the image at its border is lost. Only W W^T = I without padding, and W^T W = I with
    kernel size - 1 cells on each side, hold exactly.

    Parameters
    ----------
    layer : nn.Linear or nn.Conv2d
        Layer, changed in place. Convolutions need stride 1, dilation 1, one group, and zero
        padding or circular padding of at most kernel size - 1 cells in sum.
    method : {"cayley", "bjorck"}
        How a free matrix is made orthogonal (`lipnb.constraints.orthogonal_maps`). "cayley" solves
        one linear system. A square W then has determinant +1 always: the other half of the
        orthogonal matrices, the reflections, is out of reach. "bjorck" iterates matrix products
        until rounding stops them, at several times the cost, and reaches both.
    generator : torch.Generator, optional
        Source of the first kernel of a convolution, on the CPU; torch's global one by default.
        Dense layers draw nothing.

    Returns
    -------
    nn.Linear or nn.Conv2d
        The same layer; its `weight` is now computed from the free parameters in
        `parametrizations.weight`. Make the optimiser after this call. The bias is free.

        A dense layer, or a convolution of 1 x 1, starts at the orthogonal matrix nearest to its
        weights; with "cayley" and a square weight, at the nearest one with determinant +1. A
        larger convolution forgets its weights and draws a kernel.

    Raises
    ------
    TypeError
        If the layer is another one.
    ValueError
        If the method is unknown, the weight is parametrized already, not finite, not float32 or
        float64, or (with "bjorck") singular, or if a convolution is of another kind.

    Notes
    -----
    The weight is orthogonal to about 1e-6 in float32 and 1e-14 in float64, in training and in
    evaluation alike, however far it has been trained. A network that is moved to half precision
    afterwards has weights that are orthogonal up to its rounding. Weight decay pulls the weight
    back to where it started ("cayley") or leaves it where it is ("bjorck", which forgets the
    scale).

    Not every orthogonal convolution is reached. Those composed of shifts fall apart into families
    by the number of channels that move, and no training leads from one to another. Half of them,
    as here, is the largest family (Li et al., 2019).

    References
    ----------
    Anil et al. (2019) for dense layers and Bjorck's iteration; Li et al. (2019) for convolutions;
    Trockman and Kolter (2021) for the Cayley transform of rectangular matrices.

    Examples
    --------
    >>> weight = orthogonal(nn.Linear(2, 3)).weight
    >>> torch.allclose(weight.mT @ weight, torch.eye(2), atol=1e-6)
    True
    >>> options = {"padding": "same", "padding_mode": "circular", "bias": False}
    >>> layer = orthogonal(nn.Conv2d(4, 4, 3, **options))
    >>> image = torch.ones(1, 4, 8, 8)
    >>> round((layer(image).norm() / image.norm()).item(), 5)
    1.0
    """
    if not isinstance(layer, (nn.Linear, nn.Conv2d)):
        raise TypeError(f"layer must be nn.Linear or nn.Conv2d; got {type(layer).__name__}")
    if method not in MAPS:
        raise ValueError(f"method must be one of {sorted(MAPS)}; got {method!r}")
    if parametrize.is_parametrized(layer, "weight"):
        raise ValueError("weight must be plain; got one that is parametrized already")
    weight = layer.weight.detach()
    if weight.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"weight must be float32 or float64; got {weight.dtype}")
    if not bool(torch.isfinite(weight).all()):
        raise ValueError("weight must be finite; got NaN or infinity")
    map_: nn.Module
    if isinstance(layer, nn.Conv2d):
        read_convolution(layer)  # refuses what would not be 1-Lipschitz
        if layer.stride != (1, 1):
            raise ValueError(f"an orthogonal convolution must have stride 1; got {layer.stride}")
        map_ = OrthogonalKernel(weight, MAPS[method], generator)
    else:
        map_ = MAPS[method](weight)
    parametrize.register_parametrization(layer, "weight", map_)
    return layer
