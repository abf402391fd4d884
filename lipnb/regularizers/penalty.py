"""The result type that every penalty returns, and the steps that all of them share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Penalty", "excess_penalty"]

REDUCTIONS = ("mean_square", "mean", "mean_both")


class Penalty(NamedTuple):
    """A penalty on the slope of a network.

    Attributes
    ----------
    loss : Tensor
        Scalar to add to the training loss, times the caller's lambda. At least 0.
    slopes : Tensor
        Slope that was measured at each sample, shape (n,). At least 0.
    violations : Tensor
        Number of samples whose slope exceeded the target constant, a 0-dimensional integer tensor.
    """

    loss: Tensor
    slopes: Tensor
    violations: Tensor


def excess_penalty(
    slopes: Tensor,
    *,
    lipschitz_constant: float = 1.0,
    one_sided: bool = True,
    reduction: str = "mean_square",
) -> Penalty:
    r"""Penalise slopes that leave the target constant.

    With :math:`v_i = s_i - K`, or :math:`v_i = \max(s_i - K, 0)` if one-sided, the loss is the mean
    over samples of :math:`v_i^2`, of :math:`|v_i|`, or of :math:`|v_i| + v_i^2`.

    Parameters
    ----------
    slopes : Tensor
        Slope per sample, shape (n,).
    lipschitz_constant : float
        Target K, at least 0.
    one_sided : bool
        Whether slopes below K are free.
    reduction : {"mean_square", "mean", "mean_both"}
        Which function of the excess is averaged.

    Returns
    -------
    Penalty
        Loss, slopes and the number of slopes above K.

    Raises
    ------
    ValueError
        If K is negative or not finite, or the reduction is unknown.

    Examples
    --------
    >>> excess_penalty(torch.tensor([0.5, 3.0])).loss
    tensor(2.)
    """
    if not 0 <= lipschitz_constant < float("inf"):
        raise ValueError(
            f"lipschitz_constant must be finite and at least 0; got {lipschitz_constant}"
        )
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}; got {reduction!r}")
    excess = slopes - lipschitz_constant
    excess = excess.clamp_min(0) if one_sided else excess.abs()
    if reduction == "mean_square":
        loss = excess.square().mean()
    elif reduction == "mean":
        loss = excess.mean()
    else:
        loss = (excess + excess.square()).mean()
    return Penalty(loss, slopes, (slopes.detach() > lipschitz_constant).sum())


def require_batch(x: Tensor, name: str = "x") -> None:
    """Refuse anything but a non-empty batch of finite floating-point samples."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a Tensor; got {type(x).__name__}")
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(
            f"{name} must have shape (n, ...) with n >= 1 and at least one feature axis;"
            f" got shape {tuple(x.shape)}"
        )
    if not x.is_floating_point():
        raise TypeError(f"{name} must be floating point; got {x.dtype}")
    require_finite(x, name)


def readable(x: Tensor) -> bool:
    """Tell whether a decision may depend on the values of x."""
    # Not under compilation, nor while a CUDA graph is captured.
    return not (
        torch.compiler.is_compiling() or (x.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def require_finite(x: Tensor, name: str) -> None:
    """Refuse NaN and infinity, where looking at the values is possible."""
    if readable(x) and not bool(torch.isfinite(x).all()):
        raise ValueError(f"{name} must be finite; got {int((~torch.isfinite(x)).sum())} bad values")


def require_output(y: Tensor, n: int, name: str = "f(x)", *, scalar: bool = False) -> None:
    """Refuse a network output that is not one finite row, or not one number, per sample."""
    require_rows(y, n, name, scalar=scalar)
    require_finite(y, name)


def require_rows(y: Tensor, n: int, name: str = "f(x)", *, scalar: bool = False) -> None:
    """Refuse a network output that is not one row, or not one number, per sample."""
    if not isinstance(y, Tensor) or y.ndim == 0 or y.shape[0] != n:
        shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"{name} must have {n} rows, one per sample; got {shape}")
    if scalar and y.numel() != n:
        raise ValueError(f"{name} must hold one number per sample; got shape {tuple(y.shape)}")


def require_numbers(values: Tensor, n: int, name: str) -> None:
    """Refuse what a caller's function of samples returned, unless it is one number per sample."""
    # Anything else would broadcast against the numbers of the other samples.
    if not isinstance(values, Tensor) or values.shape != (n,):
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{name} must return one number per sample, shape ({n},); got {shape}")
