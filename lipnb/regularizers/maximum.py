"""The penalty on the largest gradient norm (LGAN, MaxGP), and its buffer of worst points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lipnb.regularizers.gradient import gradient_norms
from lipnb.regularizers.penalty import Penalty, excess_penalty, require_batch

__all__ = ["WorstPoints", "max_gradient_penalty"]


@dataclass
class WorstPoints:
    """The points of the largest slopes seen so far, kept by the caller from step to step.

    Attributes
    ----------
    capacity : int
        How many points are kept, at least 1.
    points : Tensor or None
        The points, shape (m, ...) with m at most `capacity`, steepest first; None before the
        first step. To resume a training, save this tensor and put it back.

    Raises
    ------
    ValueError
        If the capacity is not a positive integer.

    Examples
    --------
    >>> worst = WorstPoints(2)
    >>> x = torch.tensor([[1.0], [3.0], [2.0]])
    >>> _ = max_gradient_penalty(lambda x: x.square().sum(1), x, worst=worst)
    >>> worst.points.flatten()
    tensor([3., 2.])
    """

    capacity: int
    points: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the capacity."""
        if not isinstance(self.capacity, int) or self.capacity < 1:
            raise ValueError(f"capacity must be an integer of at least 1; got {self.capacity!r}")


def max_gradient_penalty(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    lipschitz_constant: float = 0.0,
    one_sided: bool = False,
    worst: WorstPoints | None = None,
    dual_norm: Callable[[Tensor], Tensor] | None = None,
    reduction: str = "mean_square",
    allow_batch_norm: bool = False,
    generator: torch.Generator | None = None,
) -> Penalty:
    r"""Penalise the largest gradient norm of f among given points.

    .. math::
        \mathcal L = \bigl(\hat k(f) - K\bigr)^2, \qquad
        \hat k(f) = \max_i \|\nabla f(x_i)\|_2 ,

    or the square of the positive part, if one-sided. With K = 0, the default, it is the
    :math:`k(f)^2` of Lipschitz GANs, the constant k(f) estimated from below.

    Parameters
    ----------
    f : callable
        Network, (n, ...) to one number per sample. Its buffers are left as they were.
    x : Tensor
        The points, shape (n, ...); `interpolate` makes them.
    lipschitz_constant : float
        Target K, at least 0.
    one_sided : bool
        Whether a largest norm below K is free.
    worst : WorstPoints, optional
        Points of the largest norms of earlier steps. They are appended to x, and replaced by the
        steepest points of both.
    dual_norm, allow_batch_norm, generator
        As in `gradient_penalty`.
    reduction : {"mean_square", "mean", "mean_both"}
        Which function of the one excess is the loss.

    Returns
    -------
    Penalty
        Loss (at least 0), all gradient norms, those of x first, shape (n,), or (n + m,) with m
        points in the buffer, and the number of norms above K.

    Raises
    ------
    ValueError, TypeError
        As `gradient_penalty`, or if the buffer holds points of another shape.

    Notes
    -----
    The gradient of the loss comes from one point alone, the steepest; of several equally steep
    ones, the first. Costs and limits are those of `gradient_penalty`.

    References
    ----------
    Zhou et al. (2019a, 2019b), with the choices of the authors' code.

    Examples
    --------
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    >>> max_gradient_penalty(lambda x: x.square().sum(1) / 2, x).loss.item()
    9.0
    """
    require_batch(x)
    points = x.detach()
    if worst is not None and worst.points is not None:
        if worst.points.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"worst must hold points of shape {tuple(x.shape[1:])};"
                f" got {tuple(worst.points.shape[1:])}"
            )
        points = torch.cat([points, worst.points.to(points)])
    slopes = gradient_norms(
        f, points, dual_norm=dual_norm, allow_batch_norm=allow_batch_norm, generator=generator
    )
    if worst is not None:
        count = min(worst.capacity, len(slopes))
        worst.points = points[slopes.detach().topk(count).indices]
    # argmax and not max, whose gradient is shared among ties.
    largest = slopes.index_select(0, slopes.detach().argmax().reshape(1))
    loss = excess_penalty(
        largest,
        lipschitz_constant=lipschitz_constant,
        one_sided=one_sided,
        reduction=reduction,
    ).loss
    return Penalty(loss, slopes, (slopes.detach() > lipschitz_constant).sum())
