"""The linear map of a convolution: applied, transposed, and its norm in the Euclidean sense."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["ConvolutionMap", "polyphase"]


@dataclass(frozen=True)
class ConvolutionMap:
    """The linear map of a convolution, apart from its kernel.

    Attributes
    ----------
    size : (int, int)
        Height and width of the images.
    stride : (int, int)
        Vertical and horizontal.
    padding : (int, int, int, int)
        Cells before and after each row, then before and after each column.
    circular : bool
        Whether the padding repeats the image, rather than being zero.
    by_frequencies : bool
        Whether the map commutes with translations of a torus, so that its norm is found one
        frequency at a time; if not, its matrix is formed.
    margin : float
        Factor, at least 1, from the largest value at the frequencies to the bound.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    circular: bool = False
    by_frequencies: bool = False
    margin: float = 1.0

    def apply(self, kernel: Tensor, images: Tensor) -> Tensor:
        """Convolve images (n, in, height, width) with a kernel (out, in, rows, columns)."""
        if self.circular:
            rows, columns = (index.to(images.device) for index in self._wrapped())
            images = images.index_select(2, rows).index_select(3, columns)
        else:
            images = nn.functional.pad(images, self.padding)
        return nn.functional.conv2d(images, kernel, stride=self.stride)

    def adjoint(self, kernel: Tensor, outputs: Tensor) -> Tensor:
        """Apply the transposed map to outputs (n, out, ., .)."""
        left, right, top, bottom = self.padding
        height, width = self.size
        images = nn.functional.conv_transpose2d(outputs, kernel, stride=self.stride)
        # Cells behind the last window are read by no output.
        unread = (width + left + right - images.shape[3], height + top + bottom - images.shape[2])
        images = nn.functional.pad(images, (0, unread[0], 0, unread[1]))
        if not self.circular:
            return images[:, :, top : top + height, left : left + width]
        rows, columns = (index.to(images.device) for index in self._wrapped())
        n, channels, padded, _ = images.shape
        images = images.new_zeros(n, channels, padded, width).index_add(3, columns, images)
        return images.new_zeros(n, channels, height, width).index_add(2, rows, images)

    def norm(self, kernel: Tensor) -> Tensor:
        """Return the norm of the map times its margin, a scalar, computed in float64."""
        scale = kernel.detach().abs().amax()
        if scale == 0:
            return kernel.abs().sum()  # 0, with a gradient
        scaled = (kernel / scale).double()
        square = self._largest_at_frequencies if self.by_frequencies else self._largest_of_matrix
        root = square(scaled).clamp_min(0).sqrt()
        return (self.margin * scale * root).to(kernel.dtype)

    def output_size(self, kernel: Tensor) -> tuple[int, int]:
        """Return height and width of the outputs."""
        left, right, top, bottom = self.padding
        height = self.size[0] + top + bottom - kernel.shape[2]
        width = self.size[1] + left + right - kernel.shape[3]
        return height // self.stride[0] + 1, width // self.stride[1] + 1

    def _wrapped(self) -> tuple[Tensor, Tensor]:
        """Return which row and column each padded cell repeats."""
        left, right, top, bottom = self.padding
        height, width = self.size
        rows = torch.arange(-top, height + bottom) % height
        return rows, torch.arange(-left, width + right) % width

    def _largest_of_matrix(self, kernel: Tensor) -> Tensor:
        """Return the squared norm from the Gram matrix of the smaller side."""
        inputs = (kernel.shape[1], *self.size)
        outputs = (kernel.shape[0], *self.output_size(kernel))
        smaller, map_ = (
            (inputs, self.apply)
            if math.prod(inputs) <= math.prod(outputs)
            else (outputs, self.adjoint)
        )
        basis = torch.eye(math.prod(smaller), dtype=kernel.dtype, device=kernel.device)
        matrix = map_(kernel, basis.view(-1, *smaller)).flatten(1)
        return torch.linalg.eigvalsh(matrix @ matrix.T)[-1]

    def _largest_at_frequencies(self, kernel: Tensor) -> Tensor:
        r"""Return the largest squared singular value of :math:`\sum_t K_t e^{-i\omega t}`."""
        kernel = polyphase(kernel, self.stride).to(torch.complex128)
        counts = [n // s for n, s in zip(self.size, self.stride, strict=True)]
        # The kernel is real, so that negative frequencies repeat the positive ones.
        rows = _waves(counts[0], counts[0], kernel.shape[2], kernel.device)
        columns = _waves(counts[1], counts[1] // 2 + 1, kernel.shape[3], kernel.device)
        entries = kernel.shape[0] * kernel.shape[1] * len(columns)
        largest = []
        for part in torch.split(rows, max(1, 2**21 // entries)):  # at most about 64 MB at a time
            symbol = torch.einsum("ocab,ra,fb->rfoc", kernel, part, columns)
            wide = symbol.shape[-2] <= symbol.shape[-1]
            gram = symbol @ symbol.mH if wide else symbol.mH @ symbol
            largest.append(torch.linalg.eigvalsh(gram)[..., -1].amax())
        return torch.stack(largest).amax()


def polyphase(kernel: Tensor, stride: tuple[int, int]) -> Tensor:
    """Write a strided convolution as one of stride 1 on images cut into blocks of pixels.

    Parameters
    ----------
    kernel : Tensor
        Shape (out, in, rows, columns).
    stride : (int, int)
        Vertical s and horizontal t.

    Returns
    -------
    Tensor
        Shape (out, in * s * t, ceil(rows / s), ceil(columns / t)): each of the s * t pixels of a
        block is a channel.

    Examples
    --------
    >>> polyphase(torch.ones(5, 2, 3, 3), (2, 2)).shape
    torch.Size([5, 8, 2, 2])
    """
    out, channels, rows, columns = kernel.shape
    s, t = stride
    kernel = nn.functional.pad(kernel, (0, -columns % t, 0, -rows % s))
    rows, columns = kernel.shape[2] // s, kernel.shape[3] // t
    blocks = kernel.reshape(out, channels, rows, s, columns, t).permute(0, 1, 3, 5, 2, 4)
    return blocks.reshape(out, channels * s * t, rows, columns)


def _waves(period: int, count: int, length: int, device: torch.device) -> Tensor:
    """Return exp(-2 pi i f t / period) for f < count, t < length."""
    f, t = (torch.arange(n, dtype=torch.float64, device=device) for n in (count, length))
    angle = torch.outer(f, t).remainder(period) * (-2 * math.pi / period)
    return torch.polar(torch.ones_like(angle), angle)
