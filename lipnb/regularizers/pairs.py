"""Penalties on the slope between given pairs of points."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lipnb.distances import euclidean
from lipnb.regularizers._network import FixedNetwork
from lipnb.regularizers.penalty import (
    Penalty,
    excess_penalty,
    readable,
    require_batch,
    require_finite,
    require_numbers,
    require_rows,
)

__all__ = ["lipschitz_penalty"]


def lipschitz_penalty(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    output: Tensor | None = None,
    lipschitz_constant: float = 1.0,
    one_sided: bool = True,
    output_distance: Callable[[Tensor, Tensor], Tensor] | None = None,
    input_distance: Callable[[Tensor, Tensor], Tensor] | None = None,
    reduction: str = "mean_square",
    generator: torch.Generator | None = None,
) -> Penalty:
    r"""Penalise the slope of f between partners of two batches.

    .. math::
        s_i = \frac{d_Y(f(x_i), f(y_i))}{d_X(x_i, y_i)}, \qquad
        \mathcal L = \frac1n \sum_i (s_i - K)_+^2 .

    Parameters
    ----------
    f : callable
        Network, (n, ...) to (n,) or (n, ...). If it is an `nn.Module`, its buffers (running
        statistics, power-iteration vectors) are left as they were.
    x, y : Tensor
        The pairs, both of shape (n, ...): partners of a real and a fake batch, or `random_pairs`.
        They are not differentiated: a generator that made one of them gets no gradient.
    output : Tensor, optional
        f(x), if the caller has it already; with its graph, or detached to keep it fixed. Leave it
        out if f is random (dropout): both passes then use the same random numbers.
    lipschitz_constant : float
        Target K, at least 0.
    one_sided : bool
        Whether slopes below K are free.
    output_distance, input_distance : callable, optional
        d_Y and d_X, of two batches (n, ...) to one number per sample, (n,); by default Euclidean.
    reduction : {"mean_square", "mean", "mean_both"}
        Which function of the excess is averaged.
    generator : torch.Generator, optional
        Source of the random numbers in f (dropout). If given, the global generators are left as
        they were; if not, f draws from them.

    Returns
    -------
    Penalty
        Loss (at least 0), slopes (n,) in float32 or wider, and the number of slopes above K. A pair
        of equal points has slope 0: it says nothing.

    Raises
    ------
    ValueError
        If shapes differ, a value, an output or a slope is not finite, a distance does not have
        shape (n,), or K or the reduction is unusable.
    TypeError
        If x or y is not a floating-point tensor.

    References
    ----------
    Petzka et al. (2018), equation (8).

    Examples
    --------
    >>> a = torch.tensor([3.0, 4.0])
    >>> x, y = torch.zeros(2, 2), torch.tensor([[3.0, 4.0], [4.0, -3.0]])
    >>> lipschitz_penalty(lambda x: x @ a, x, y).slopes
    tensor([5., 0.])
    """
    require_batch(x)
    require_batch(y, "y")
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape; got {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = x.detach(), y.detach()
    f = FixedNetwork(f, x.device, generator)
    if output is None:
        output = f(x)
    require_rows(output, x.shape[0])
    other = f(y)
    require_rows(other, x.shape[0], "f(y)")
    rise = (output_distance or euclidean)(output, other)  # d_Y(f(x), f(y))
    run = (input_distance or euclidean)(x, y)  # d_X(x, y)
    require_numbers(rise, x.shape[0], "output_distance")
    require_numbers(run, x.shape[0], "input_distance")
    slopes = torch.where(run > 0, rise / run.where(run > 0, torch.ones_like(run)), 0)
    # One look for all: on a GPU each one waits for the device.
    if readable(x) and not bool((rise.isfinite() & slopes.isfinite()).all()):
        for value, name in (
            (output, "f(x)"),
            (other, "f(y)"),
            (rise, "d_Y"),
            (slopes, "d_Y / d_X"),
        ):
            require_finite(value, name)
    return excess_penalty(
        slopes, lipschitz_constant=lipschitz_constant, one_sided=one_sided, reduction=reduction
    )
