"""GroupSort: an activation that permutes, and so keeps the norm of gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["GroupSort"]


class GroupSort(nn.Module):
    r"""Sort each group of neighbouring channels in ascending order.

    .. math::
        (x_1, x_2) \mapsto \bigl(\min(x_1, x_2), \max(x_1, x_2)\bigr) =
        \bigl(x_1 - (x_1 - x_2)_+,\; x_2 + (x_1 - x_2)_+\bigr)

    Wherever no two members of a group are equal the Jacobian is a permutation matrix. The layer is
    therefore 1-Lipschitz in every p-norm, and a gradient that passes it keeps its norm.

    Parameters
    ----------
    group_size : int or None
        Channels per group, at least 2: 2 is MaxMin; None sorts all channels (FullSort).

    Raises
    ------
    ValueError
        If `group_size` is unusable, or on the first input whose channels it does not divide.

    Notes
    -----
    Pairs are sorted by the formula on the right, which costs a third of `torch.sort` on a CPU. It
    is exact for pairs in order; exchanged ones may be off by one rounding of their difference. At
    ties automatic differentiation returns one of the permutations that sort: for pairs the
    identity. Its gradients keep their norm there too, where a sum of half the sum and half the
    absolute difference would return 1/2 in all four places and lose it.

    References
    ----------
    Anil et al. (2019).

    Examples
    --------
    >>> x = torch.tensor([[3.0, 1.0, -2.0, 5.0]])
    >>> GroupSort()(x), GroupSort(group_size=None)(x)
    (tensor([[ 1.,  3., -2.,  5.]]), tensor([[-2.,  1.,  3.,  5.]]))
    """

    def __init__(self, group_size: int | None = 2) -> None:
        super().__init__()
        integer = isinstance(group_size, int) and not isinstance(group_size, bool)
        if group_size is not None and (not integer or group_size < 2):
            raise ValueError(f"group_size must be an integer of at least 2; got {group_size!r}")
        self.group_size = group_size

    def forward(self, x: Tensor) -> Tensor:
        """Sort the channels, axis 1, of x with shape (n, channels, ...)."""
        if x.ndim < 2:
            raise ValueError(f"x must have shape (n, channels, ...); got {tuple(x.shape)}")
        if self.group_size is None:
            return x.sort(dim=1).values
        if x.shape[1] % self.group_size:
            raise ValueError(f"channels must be a multiple of {self.group_size}; got {x.shape[1]}")
        groups = x.reshape(x.shape[0], x.shape[1] // self.group_size, self.group_size, *x.shape[2:])
        if self.group_size > 2:
            return groups.sort(dim=2).values.flatten(1, 2)
        a, b = groups.unbind(2)
        excess = (a - b).relu()
        return torch.stack((a - excess, b + excess), dim=2).flatten(1, 2)

    def extra_repr(self) -> str:
        """Return what the printed network says about this layer."""
        return f"group_size={self.group_size}"
