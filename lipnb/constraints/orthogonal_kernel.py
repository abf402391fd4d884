"""Kernels of orthogonal convolutions, composed of one matrix and shifts by one pixel."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from lipnb.constraints._precision import without_autocast
from lipnb.constraints.orthogonal_maps import BjorckMap, CayleyMap, nearest_orthogonal

__all__ = ["OrthogonalKernel", "compose_shift"]


@without_autocast
def compose_shift(kernel: Tensor, u: Tensor, axis: int, *, moved: bool = False) -> Tensor:
    r"""Let a shift of some directions of the channel space follow a convolution.

    .. math::
        (P\, \delta_0 + (I - P)\, \delta_1) * K, \qquad P = U U^\top

    Parameters
    ----------
    kernel : Tensor
        Shape (out, in, rows, columns).
    u : Tensor
        Shape (out, r) with orthonormal columns.
    axis : int
        2 to shift along the rows' index, 3 along the columns'.
    moved : bool
        Whether the directions in the span of U are those that move.

    Returns
    -------
    Tensor
        The kernel of the composition, larger by one along the axis.

    Examples
    --------
    >>> compose_shift(torch.ones(1, 1, 1, 1), torch.ones(1, 1), 3, moved=True)
    tensor([[[[0., 1.]]]])
    """
    inside = (u @ (u.mT @ kernel.flatten(1))).view_as(kernel)
    staying, moving = (kernel - inside, inside) if moved else (inside, kernel - inside)
    gap = torch.zeros_like(kernel.narrow(axis, 0, 1))
    return torch.cat([staying, gap], dim=axis) + torch.cat([gap, moving], dim=axis)


class OrthogonalKernel(nn.Module):
    r"""Parametrization of a convolution kernel by a matrix and by projections, one per shift.

    .. math::
        K = (P_1 \delta_0 + (I - P_1)\, \delta_1) * \dots * H

    H has orthonormal rows or columns. Each other factor leaves one half of the channels in place
    and moves the other half by one pixel, along rows or columns in turn. Every factor preserves
    the norm of an image on a torus, and so does their composition.

    Parameters
    ----------
    kernel : Tensor
        Gives shape and type: (out, in, rows, columns). Its values count for 1 x 1 only.
    map_ : type
        Parametrization of a matrix with orthonormal rows or columns.
    generator : torch.Generator, optional
        Source of the first H and P, on the CPU; uniformly distributed up to the sign of det H.
    """

    def __init__(
        self,
        kernel: Tensor,
        map_: type[CayleyMap] | type[BjorckMap],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        out, channels, *size = kernel.shape
        # Axis of each shift, and which half moves: in turns, so that the kernel stays centred.
        self.shifts = [
            (axis, i % 2 == 1)
            for i in range(max(size) - 1)
            for axis in (2, 3)
            if i < kernel.shape[axis] - 1
        ]
        draws = [kernel[:, :, 0, 0]]
        if self.shifts:
            width = max(out, channels)
            shapes = [(out, channels), (len(self.shifts), width, max(1, width // 2))]
            draws = [
                torch.randn(shape, generator=generator, dtype=kernel.dtype).to(kernel.device)
                for shape in shapes
            ]
        self._start: list[Tensor] | None = [nearest_orthogonal(draw) for draw in draws]
        self.maps = nn.ModuleList(map_(draw) for draw in self._start)

    def forward(self, matrix: Tensor, projections: Tensor | None = None) -> Tensor:
        """Return the kernel, shape (out, in, rows, columns)."""
        h: Tensor = self.maps[0](matrix)
        # A layer with fewer outputs than inputs is composed as the transpose of one with more.
        wide = h.shape[0] < h.shape[1]
        kernel = (h.mT if wide else h)[:, :, None, None]
        if projections is not None:
            us: Tensor = self.maps[1](projections)
            for u, (axis, moved) in zip(us, self.shifts, strict=True):
                kernel = compose_shift(kernel, u, axis, moved=moved)
        return kernel.transpose(0, 1) if wide else kernel

    def right_inverse(self, kernel: Tensor) -> tuple[Tensor, ...]:
        """Return the parameters of the start; those of any other kernel are not known."""
        if self._start is None:
            raise ValueError("weight must be plain to be assigned; got an orthogonal convolution")
        start, self._start = self._start, None
        maps = cast("list[CayleyMap | BjorckMap]", list(self.maps))
        return tuple(m.right_inverse(draw) for m, draw in zip(maps, start, strict=True))
