"""Spectral normalisation of dense layers and of convolutions.

The dense case is in `lipnb.constraints.spectral`, which stored runs were made with.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipnb.constraints._precision import without_autocast
from lipnb.constraints.convolution import read_convolution
from lipnb.constraints.linear_map import ConvolutionMap
from lipnb.constraints.spectral import spectral_norm as normalise_dense

__all__ = ["spectral_norm"]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)

# Iterations before training starts; they come within about one percent of the norm.
FIRST_STEPS = 50


class _SpectralConvolution(nn.Module):
    """Parametrization K -> K / norm: estimated while training, a bound in evaluation."""

    u: Tensor

    def __init__(
        self, kernel: Tensor, map_: ConvolutionMap, steps: int, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.map, self.steps = map_, steps
        shape = (1, kernel.shape[0], *map_.output_size(kernel))
        u = torch.randn(shape, generator=generator, dtype=kernel.dtype).to(kernel.device)
        self.register_buffer("u", self._iterate(kernel, u, FIRST_STEPS)[1])

    def forward(self, kernel: Tensor) -> Tensor:
        """Return the normalised kernel."""
        if self.training:
            norm, u = self._iterate(kernel, self.u, self.steps)
            self.u.copy_(u)
        else:
            norm = self.map.norm(kernel)
        return kernel / norm.clamp_min(torch.finfo(kernel.dtype).tiny)

    @without_autocast
    def _iterate(self, kernel: Tensor, u: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Run power iterations with the map and its transpose; return the estimate and u."""
        with torch.no_grad():
            for _ in range(steps):
                v = _unit(self.map.adjoint(kernel, u))
                u = _unit(self.map.apply(kernel, v))
        return self.map.margin * (u * self.map.apply(kernel, v)).sum(), u


def spectral_norm(
    layer: Layer,
    *,
    steps: int = 1,
    input_size: tuple[int, int] | None = None,
    generator: torch.Generator | None = None,
) -> Layer:
    r"""Constrain a dense layer or a convolution to be 1-Lipschitz in the Euclidean norm.

    .. math:: \bar W = W / \|W\|_{2 \to 2}

    The norm is that of the layer as a linear map: for a dense layer the largest singular value of
    the weight, for a convolution that of its action on images (`lipnb.constraints.convolution`),
    not of the reshaped kernel.

    Each evaluation of the weight in training mode runs `steps` power iterations from a vector that
    persists. They come from below, so the constraint holds approximately: by about one percent if
    the weight moves slowly, by more if it moves fast. In evaluation mode the norm, or its bound, is
    computed anew from the current weight, and the constraint holds up to rounding.

    Parameters
    ----------
    layer : nn.Linear or nn.Conv2d
        Layer, changed in place. Convolutions need zero padding, or stride 1 and circular padding
        of at most kernel size - 1 cells in sum; dilation 1, one group; any stride else.
    steps : int
        Power iterations per evaluation in training mode.
    input_size : (int, int), optional
        Height and width in pixels of the images that a convolution sees. The bound then holds for
        this size only, and is the tighter the smaller the images; without it, for every size. Not
        used by dense layers.
    generator : torch.Generator, optional
        Source of the first vector, on the CPU; torch's global one by default.

    Returns
    -------
    nn.Linear or nn.Conv2d
        The same layer; its `weight` is now computed from `parametrizations.weight.original`, which
        holds the weights as they were. The bias is free.

    Raises
    ------
    TypeError
        If the layer is another one.
    ValueError
        If `steps` is below 1, the weight is zero or not finite, or a convolution or its
        `input_size` is of another kind.

    Notes
    -----
    Training mode changes nothing but the buffer of this vector, evaluation mode nothing at all.

    A convolution in evaluation mode costs one eigenvalue problem per frequency at every use: about
    a second on one CPU core for 128 channels and a kernel of 3 x 3. Use
    ``torch.nn.utils.parametrize.cached()`` or `plain_copy` to evaluate it once.

    References
    ----------
    Miyato et al. (2018), equation (8), for dense layers; Sedghi et al. (2019) for the norm of a
    convolution.

    Examples
    --------
    >>> layer = spectral_norm(nn.Linear(3, 4)).eval()
    >>> round(torch.linalg.matrix_norm(layer.weight, 2).item(), 5)
    1.0
    >>> layer = spectral_norm(nn.Conv2d(3, 4, 3, stride=2, padding=1), input_size=(8, 8)).eval()
    >>> image = torch.eye(3 * 8 * 8).view(-1, 3, 8, 8)
    >>> matrix = (layer(image) - layer.bias[:, None, None]).flatten(1)
    >>> round(torch.linalg.matrix_norm(matrix, 2).item(), 5)
    1.0
    """
    if isinstance(layer, nn.Linear):
        normalise_dense(layer, steps=steps, generator=generator)
        return layer
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(f"layer must be nn.Linear or nn.Conv2d; got {type(layer).__name__}")
    map_ = read_convolution(layer, input_size)
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    kernel = layer.weight.detach()
    size = float(kernel.abs().max())
    if not 0 < size < float("inf"):
        raise ValueError(f"weight must be finite and not all zero; got largest entry {size}")
    parametrize.register_parametrization(
        layer, "weight", _SpectralConvolution(kernel, map_, steps, generator)
    )
    return layer


def _unit(images: Tensor) -> Tensor:
    """Scale to unit length."""
    return nn.functional.normalize(images.flatten(), dim=0).view_as(images)
