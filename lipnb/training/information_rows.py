"""Rows for estimators of mutual information: checked, split, and put into coordinates."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lipnb.theory._clouds import Cloud, as_cloud

__all__ = ["FEWEST_ROWS", "Rows", "normal_scores", "read_pairs", "split_rows", "to_coordinates"]

FEWEST_ROWS = 50


class Rows(NamedTuple):
    """Which rows serve for what; the three do not overlap.

    Attributes
    ----------
    training, validation, held_out : Tensor
        Indices: the critic is fitted to the first, the step that is kept is chosen by the second,
        and the estimate is computed on the third.
    """

    training: Tensor
    validation: Tensor
    held_out: Tensor


def read_pairs(x: Cloud, y: Cloud) -> tuple[Tensor, Tensor]:
    """Read n pairs as float64 tensors (n, d_x) and (n, d_y) on the CPU.

    Raises
    ------
    ValueError
        If a shape is not (n, d), the lengths differ, there are fewer than `FEWEST_ROWS` rows, or a
        number is not finite.
    TypeError
        If an input does not hold real numbers.
    """
    points_x, points_y = as_cloud(x, "x"), as_cloud(y, "y")
    if len(points_x) != len(points_y):
        raise ValueError(
            "x and y must have equally many rows, one pair each;"
            f" got {len(points_x)} and {len(points_y)}"
        )
    if len(points_x) < FEWEST_ROWS:
        raise ValueError(f"x and y must have at least {FEWEST_ROWS} rows; got {len(points_x)}")
    return torch.from_numpy(points_x), torch.from_numpy(points_y)


def split_rows(
    n: int, validation_share: float, held_out_share: float, generator: torch.Generator
) -> Rows:
    """Split n rows at random.

    Parameters
    ----------
    n : int
        Number of rows.
    validation_share, held_out_share : float
        Shares of the second and third part, positive, together at most 0.8.
    generator : torch.Generator
        Source of the order.

    Returns
    -------
    Rows
        Three sets of indices.

    Raises
    ------
    ValueError
        If a share is out of its range.

    Examples
    --------
    >>> rows = split_rows(100, 0.2, 0.3, torch.Generator().manual_seed(0))
    >>> [len(part) for part in rows]
    [50, 20, 30]
    """
    if not (validation_share > 0 < held_out_share and validation_share + held_out_share <= 0.8):
        raise ValueError(
            "validation_share and held_out_share must be positive and add up to at most 0.8;"
            f" got {validation_share} and {held_out_share}"
        )
    held_out, validation = round(held_out_share * n), round(validation_share * n)
    order = torch.randperm(n, generator=generator)
    sizes = [n - validation - held_out, validation, held_out]
    if min(sizes) < 2:
        raise ValueError(f"each part must have at least 2 rows; got {sizes}")
    return Rows(*torch.split(order, sizes))


def to_coordinates(
    x: Tensor, y: Tensor, training: Tensor, kind: str
) -> tuple[Tensor, Tensor, float]:
    """Change coordinates, by what the training rows show and nothing else.

    Parameters
    ----------
    x, y : Tensor
        All rows, (n, d_x) and (n, d_y).
    training : Tensor
        Indices of the training rows.
    kind : {"normal_scores", "standard", "metric"}
        `normal_scores` of each coordinate; each coordinate centred, over its standard deviation;
        or both vectors centred and over one common scale, which keeps ratios of distances.

    Returns
    -------
    x, y : Tensor
        The rows in the new coordinates.
    unit : float
        For "metric" the length that has become 1; else 1.
    """
    if kind == "normal_scores":
        return normal_scores(x, x[training]), normal_scores(y, y[training]), 1.0
    centred = [z - z[training].mean(dim=0) for z in (x, y)]
    spreads = [z[training].square().mean(dim=0).sqrt() for z in centred]
    if kind == "standard":
        # A constant coordinate stays as it is.
        x, y = (z / torch.where(s > 0, s, 1.0) for z, s in zip(centred, spreads, strict=True))
        return x, y, 1.0
    unit = float(torch.cat(spreads).square().mean().sqrt()) or 1.0
    return centred[0] / unit, centred[1] / unit, unit


def normal_scores(x: Tensor, reference: Tensor) -> Tensor:
    r"""Replace each coordinate by the normal quantile of its rank among reference rows.

    .. math:: z = \Phi^{-1}\Bigl(\frac{r + 1/2}{n + 1}\Bigr)

    with the number r of reference values below (equal ones count half). A monotone map of each
    coordinate changes no mutual information, and whatever their law was, the scores are nearly
    standard normal.

    Parameters
    ----------
    x : Tensor
        Rows, (m, d).
    reference : Tensor
        Rows, (n, d).

    Returns
    -------
    Tensor
        Shape (m, d). Values outside the range of the reference all get the outermost score, which
        loses information and adds none.

    Examples
    --------
    >>> normal_scores(torch.tensor([[5.0], [-9.0]]), torch.tensor([[4.0], [5.0], [6.0]]))
    tensor([[ 0.0000],
            [-1.1503]], dtype=torch.float64)
    """
    sorted_columns = reference.T.contiguous().sort(dim=1).values
    columns = x.T.contiguous()
    below = torch.searchsorted(sorted_columns, columns)
    upto = torch.searchsorted(sorted_columns, columns, right=True)
    rank = (below + upto).double() / 2
    return torch.special.ndtri((rank + 0.5) / (len(reference) + 1)).T.contiguous()
