"""Penalties on the gradient norm: two-sided (GP) and one-sided (LP)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.linalg import vector_norm

from lipnb.regularizers.penalty import Penalty, excess_penalty, require_batch, require_output

__all__ = ["gradient_penalty"]


def gradient_penalty(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    lipschitz_constant: float = 1.0,
    one_sided: bool = False,
    reduction: str = "mean_square",
) -> Penalty:
    r"""Penalise the gradient norm of f at given points.

    .. math::
        \mathcal L_{GP} = \frac1n \sum_i \bigl(\|\nabla f(x_i)\|_2 - K\bigr)^2, \qquad
        \mathcal L_{LP} = \frac1n \sum_i \bigl(\|\nabla f(x_i)\|_2 - K\bigr)_+^2 .

    Parameters
    ----------
    f : callable
        Network, (n, ...) to one number per sample.
    x : Tensor
        The points themselves, shape (n, ...); interpolation is the caller's choice.
    lipschitz_constant : float
        Target K, at least 0.
    one_sided : bool
        False for the two-sided penalty (GP), True for the one-sided one (LP).
    reduction : {"mean_square", "mean", "mean_both"}
        Which function of the excess is averaged.

    Returns
    -------
    Penalty
        Loss (at least 0), gradient norms (n,) and the number of norms above K.

    Raises
    ------
    ValueError
        If x is empty or not finite, f returns more than one number per sample or does not
        depend on x, or K or the reduction is unusable.
    TypeError
        If x is not a floating-point tensor.

    Notes
    -----
    The loss holds second derivatives of f. Samples must not influence each other: with batch
    normalisation in training mode the gradient of the sum is not the gradient per sample.

    References
    ----------
    Gulrajani et al. (2017), equation (3); Petzka et al. (2018), equation (9).

    Examples
    --------
    >>> a = torch.tensor([3.0, 4.0])
    >>> gradient_penalty(lambda x: x @ a, torch.zeros(5, 2)).loss
    tensor(16.)
    """
    require_batch(x)
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = f(x)
        require_output(y, x.shape[0], scalar=True)
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError("f(x) must depend on x; got an output without a gradient path to x")
    # vector_norm has the subgradient 0 at 0, where the square root of a sum has none.
    slopes = vector_norm(gradient.flatten(1), dim=1)
    return excess_penalty(
        slopes, lipschitz_constant=lipschitz_constant, one_sided=one_sided, reduction=reduction
    )
