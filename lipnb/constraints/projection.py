"""Projection of weights onto balls of operator norms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipnb.constraints.convolution import convolution_norm, read_convolution
from lipnb.constraints.linear_map import polyphase

__all__ = ["project_norm"]

Network = TypeVar("Network", bound=nn.Module)


@torch.no_grad()
def project_norm(
    module: Network,
    norm: float = 2,
    *,
    bound: float = 1.0,
    input_size: tuple[int, int] | None = None,
) -> Network:
    r"""Shrink each weight whose operator norm is too large; call it after each optimiser step.

    .. math:: W \leftarrow \frac{W}{\max(1, \|W\|_{p \to p} / \lambda)}

    Weights inside the ball are not touched. The norm is computed anew and in full each time, not
    estimated by a few power iterations, so the constraint holds after every call up to rounding.

    ======== ============================================ ========================================
    p        dense layer                                  convolution
    ======== ============================================ ========================================
    1        largest column sum of absolute values        the same of its matrix
    2        largest singular value                       `lipnb.constraints.convolution_norm`
    inf      largest row sum of absolute values           the same of its matrix
    ======== ============================================ ========================================

    The sums for a convolution are those of a pixel that meets the whole kernel; where the images
    are too small for that they are upper bounds.

    Parameters
    ----------
    module : nn.Module
        A dense layer, a `nn.Conv2d`, or a network, in which every layer of these two kinds is
        projected. Changed in place.
    norm : {1, 2, inf}
        The p on both sides.
    bound : float
        Radius lambda of the ball, positive. With 1-Lipschitz activations the constant of a chain
        of L layers is then at most lambda^L.
    input_size : (int, int), optional
        Height and width of the images that every convolution in `module` sees, for p = 2. By
        default the bound holds for images of every size.

    Returns
    -------
    nn.Module
        The same module.

    Raises
    ------
    TypeError
        If `module` is no `nn.Module`.
    ValueError
        If `norm` or `bound` is out of range, a weight is not finite or is parametrized, there is
        no layer to project, or a convolution is of a kind that `read_convolution` refuses.

    Notes
    -----
    Biases do not matter for the constant and are free. Other layers are left as they are. Among
    them are normalisation layers: batch normalisation multiplies each channel by its gain over its
    standard deviation, and undoes what the projection has achieved. Gouk et al. project its gains
    as well, with the running statistics; here a network that shall be Lipschitz does without.

    References
    ----------
    Gouk et al. (2021). Their code runs two power iterations from a fresh vector, which falls short
    of the norm of a Gaussian matrix by about a tenth.

    Examples
    --------
    >>> layer = nn.Linear(2, 2)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    >>> project_norm(layer, torch.inf).weight.data
    tensor([[0.4286, 0.5714],
            [0.0000, 0.1429]])
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be an nn.Module; got {type(module).__name__}")
    if norm not in (1, 2, math.inf):
        raise ValueError(f"norm must be 1, 2 or inf; got {norm!r}")
    if not 0 < bound < math.inf:
        raise ValueError(f"bound must be positive and finite; got {bound}")
    layers = list(_layers(module))
    if not layers:
        raise ValueError(
            f"module must be or hold nn.Linear or nn.Conv2d; got {type(module).__name__}"
        )
    # All norms before the first change: an error leaves the network as it was.
    sizes = [_operator_norm(layer, norm, input_size) for layer in layers]
    for layer, size in zip(layers, sizes, strict=True):
        if size > bound:
            layer.weight.mul_(bound / size)
    return module


def _layers(module: nn.Module) -> Iterator[nn.Linear | nn.Conv2d]:
    """Yield the layers to project, after checking their weights."""
    for name, layer in module.named_modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d)):
            continue
        place = f"weight of {name}" if name else "weight"
        if parametrize.is_parametrized(layer, "weight"):
            raise ValueError(f"{place} must be plain to be projected; got a parametrized one")
        if not bool(torch.isfinite(layer.weight).all()):
            raise ValueError(f"{place} must be finite; got NaN or infinity")
        yield layer


def _operator_norm(
    layer: nn.Linear | nn.Conv2d, norm: float, input_size: tuple[int, int] | None
) -> Tensor:
    """Return the norm of a layer as a linear map, or its bound, in float64."""
    weight = layer.weight.double()
    if isinstance(layer, nn.Linear):
        return torch.linalg.matrix_norm(weight, ord=norm)
    if norm == 2:
        return convolution_norm(layer, input_size=input_size)
    map_ = read_convolution(layer)  # refuses what is no restriction of a convolution
    if norm == 1:
        return polyphase(weight, map_.stride).abs().sum((0, 2, 3)).amax()
    return weight.abs().sum((1, 2, 3)).amax()
