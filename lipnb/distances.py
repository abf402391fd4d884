"""Distances between batches, sample by sample: the d_X and d_Y of the sources."""

from __future__ import annotations

from torch import Tensor
from torch.linalg import vector_norm

__all__ = ["euclidean"]


def euclidean(x: Tensor, y: Tensor) -> Tensor:
    r"""Euclidean distance of each sample of x to its partner in y.

    .. math:: d(x, y)_i = \|x_i - y_i\|_2

    For one number per sample this is the absolute difference.

    Parameters
    ----------
    x, y : Tensor
        Batches of equal shape (n, ...).

    Returns
    -------
    Tensor
        Distances, shape (n,), at least 0. The gradient at distance 0 is 0.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import torch
    >>> euclidean(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
    tensor([5.])
    """
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape; got {tuple(x.shape)} and {tuple(y.shape)}")
    difference = (x - y).reshape(x.shape[0], -1)
    if difference.shape[1] == 1:
        return difference.squeeze(1).abs()
    return vector_norm(difference, dim=1)
