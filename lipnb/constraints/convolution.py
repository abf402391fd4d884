"""Norms of convolutions as linear maps of images, where the reshaped kernel's norm is no bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipnb.constraints.linear_map import ConvolutionMap

__all__ = ["convolution_norm", "read_convolution"]

# Up to this many inputs or outputs the matrix of the layer is formed, and its norm is exact.
LARGEST_MATRIX = 512
# Frequencies per axis and degree of the kernel, where the size of the images is not known.
OVERSAMPLING = 16


def read_convolution(layer: nn.Conv2d, input_size: tuple[int, int] | None = None) -> ConvolutionMap:
    r"""Return the linear map by whose norm a convolution is measured.

    Three cases, of which the first that applies is taken.

    1. *Small layers*, with at most 512 inputs or outputs: the layer itself.
    2. *Images of a known size*: the circular convolution on a torus just large enough for the
       padding not to meet the image from behind. On images that are zero outside the image proper
       it equals the layer, so its norm is at least that of the layer.
    3. *Images of any size*: the circular convolution on a torus with 16 frequencies per axis and
       degree of the kernel. A trigonometric polynomial of degree d that is largest at some point
       is still at least cos(d pi / N) of that at the nearest of N equidistant points, so its norm
       times :math:`\prod 1 / \cos(d \pi / N)`, at most 1.01, bounds the norm on every torus.

    Parameters
    ----------
    layer : nn.Conv2d
        With zero padding, or with stride 1 and circular padding of at most kernel size - 1 in sum;
        dilation 1, one group.
    input_size : (int, int), optional
        Height and width of the images that the layer sees; any size by default.

    Returns
    -------
    ConvolutionMap

    Raises
    ------
    TypeError
        If the layer is no `nn.Conv2d`.
    ValueError
        If dilation, groups, padding or `input_size` are others.

    Examples
    --------
    >>> read_convolution(nn.Conv2d(64, 64, 3, padding=1), (32, 32)).size
    (33, 33)

    References
    ----------
    Sedghi et al. (2019), for the norm of a circular convolution by frequencies; Ehlich and Zeller
    (1964), for polynomials between the points of a grid.
    """
    if not isinstance(layer, nn.Conv2d):
        raise TypeError(f"layer must be nn.Conv2d; got {type(layer).__name__}")
    if layer.dilation != (1, 1) or layer.groups != 1:
        raise ValueError(
            "a convolution must have dilation 1 and one group;"
            f" got dilation {layer.dilation}, {layer.groups} groups"
        )
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    padding = (left, right, top, bottom)
    circular = layer.padding_mode == "circular"
    stride = (layer.stride[0], layer.stride[1])
    kernel = (layer.kernel_size[0], layer.kernel_size[1])
    if circular:
        wraps = top + bottom >= kernel[0] or left + right >= kernel[1]
        if stride != (1, 1) or wraps:
            raise ValueError(
                "a circular convolution must have stride 1 and pad at most kernel size - 1 cells"
                f" in sum; got stride {stride}, kernel {kernel}, padding {layer.padding}"
            )
    elif layer.padding_mode != "zeros":
        raise ValueError(
            f"padding_mode must be 'zeros' or 'circular'; got {layer.padding_mode!r},"
            " which repeats pixels and so adds to the norm"
        )
    if input_size is not None:
        own = ConvolutionMap(_check_size(input_size, layer), stride, padding, circular)
        inputs = layer.in_channels * math.prod(own.size)
        outputs = layer.out_channels * math.prod(own.output_size(layer.weight))
        if min(inputs, outputs) <= LARGEST_MATRIX:
            return own
    size, margin = [], 1.0
    for axis, overhang in enumerate(((top, bottom), (left, right))):
        degree = -(-kernel[axis] // stride[axis]) - 1
        count = max(1, OVERSAMPLING * degree)
        if input_size is None or not degree:
            margin /= math.cos(math.pi * degree / (2 * count))
        elif circular:
            count = input_size[axis]
        else:
            # Padding beyond kernel size - 1 adds outputs that see nothing but zeros.
            torus = input_size[axis] + min(max(overhang), kernel[axis] - 1)
            count = -(-torus // stride[axis])
        size.append(count * stride[axis])
    around = (0, kernel[1] - 1, 0, kernel[0] - 1)
    return ConvolutionMap((size[0], size[1]), stride, around, True, True, margin)


def convolution_norm(layer: nn.Conv2d, *, input_size: tuple[int, int] | None = None) -> Tensor:
    r"""Bound the norm of a convolution as a linear map of images.

    .. math::
        \max_x \frac{\|K * x\|_2}{\|x\|_2} \le
        c \max_\omega \sigma_1\Bigl(\sum_t K_t\, e^{-i \langle \omega, t \rangle}\Bigr)

    The singular value of the reshaped kernel, of shape (out, in * rows * columns), is no such
    bound: the norm can be larger by a factor of sqrt(rows * columns).

    Parameters
    ----------
    layer : nn.Conv2d
        As in `read_convolution`, which says how the frequencies and the factor c are chosen.
    input_size : (int, int), optional
        Height and width of the images. If not given, the bound holds for every size.

    Returns
    -------
    Tensor
        A scalar, at least 0, differentiable in the kernel. Computed in float64. It is the norm
        itself for small layers, and for larger ones above it by a few percent that vanish as the
        images grow.

    Raises
    ------
    TypeError, ValueError
        As `read_convolution`, or if the kernel is not finite.

    Examples
    --------
    A kernel of ones sums nine pixels of equal sign, but its reshaped norm is only 3:

    >>> layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    >>> _ = nn.init.ones_(layer.weight)
    >>> round(convolution_norm(layer, input_size=(32, 32)).item(), 3)
    9.0
    >>> round(torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item(), 3)
    3.0

    References
    ----------
    Sedghi et al. (2019), for stride 1.
    """
    convolution = read_convolution(layer, input_size)
    kernel = layer.weight
    if not bool(torch.isfinite(kernel).all()):
        raise ValueError("weight must be finite; got NaN or infinity")
    return convolution.norm(kernel)


def _check_size(input_size: tuple[int, int], layer: nn.Conv2d) -> tuple[int, int]:
    """Return the size, after checking that the padded image holds the kernel."""
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    pair = tuple(input_size) if isinstance(input_size, (tuple, list, torch.Size)) else ()
    if len(pair) != 2 or any(not isinstance(n, int) or n < 1 for n in pair):
        raise ValueError(f"input_size must be (height, width) of the images; got {input_size!r}")
    height, width = pair
    if height + top + bottom < layer.kernel_size[0] or width + left + right < layer.kernel_size[1]:
        raise ValueError(
            f"input_size must hold the kernel {layer.kernel_size} with padding {layer.padding};"
            f" got {pair}"
        )
    return height, width
