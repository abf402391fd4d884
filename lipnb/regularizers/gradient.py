"""Penalties on the gradient norm: two-sided (GP), one-sided (LP), zero-centred (R1), dual norms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.linalg import vector_norm

from lipnb.distances import at_least_float32
from lipnb.regularizers._network import FixedNetwork, Network, require_independent_samples
from lipnb.regularizers.penalty import (
    Penalty,
    excess_penalty,
    require_batch,
    require_finite,
    require_numbers,
    require_output,
)

__all__ = ["gradient_penalty"]


def gradient_penalty(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    lipschitz_constant: float = 1.0,
    one_sided: bool = False,
    dual_norm: Callable[[Tensor], Tensor] | None = None,
    reduction: str = "mean_square",
    allow_batch_norm: bool = False,
    generator: torch.Generator | None = None,
) -> Penalty:
    r"""Penalise the gradient norm of f at given points.

    .. math::
        \mathcal L_{GP} = \frac1n \sum_i \bigl(\|\nabla f(x_i)\|_2 - K\bigr)^2, \qquad
        \mathcal L_{LP} = \frac1n \sum_i \bigl(\|\nabla f(x_i)\|_2 - K\bigr)_+^2 .

    Parameters
    ----------
    f : callable
        Network, (n, ...) to one number per sample. If it is an `nn.Module`, its buffers (running
        statistics, power-iteration vectors) are left as they were.
    x : Tensor
        The points themselves, shape (n, ...). `interpolate` and `local_perturbation` make them.
    lipschitz_constant : float
        Target K, at least 0.
    one_sided : bool
        False for the two-sided penalty (GP), True for the one-sided one (LP).
    dual_norm : callable, optional
        Norm of the gradient, (n, ...) to (n,): the dual of the norm in which points are measured,
        `sobolev_dual_norm` for example. By default the Euclidean norm, its own dual.
    reduction : {"mean_square", "mean", "mean_both"}
        Which function of the excess is averaged.
    allow_batch_norm : bool
        Whether to accept a network whose batch normalisation uses the statistics of the batch.
        What is penalised is then the gradient of the sum of all outputs, which is far smaller than
        the gradients of the samples. By default such a network is refused.
    generator : torch.Generator, optional
        Source of the random numbers in f (dropout). If given, the global generators are left as
        they were; if not, f draws from them.

    Returns
    -------
    Penalty
        Loss (at least 0), gradient norms (n,) in float32 or wider, and the number of norms above K.

    Raises
    ------
    ValueError
        If x is empty or not finite, f returns more than one number per sample, a number that is not
        finite, or one that does not depend on x, if a gradient is not finite, if f normalises with
        batch statistics, or if K or the reduction is unusable.
    TypeError
        If x is not a floating-point tensor.

    Notes
    -----
    With K = 0 the loss is the mean of :math:`\|\nabla f(x_i)\|_2^2`; at real points, and with the
    weight :math:`\gamma / 2`, it is the penalty R1 of Mescheder et al. (2018).

    The loss holds second derivatives of f. If f is a compiled network, its backward pass therefore
    fails with a RuntimeError of torch's (double backward, or donated buffers): pass the uncompiled
    one, which shares the parameters. Under `DistributedDataParallel` add the loss to one that uses
    every parameter, as the training loss does: parameters without a second derivative, such as the
    last bias, otherwise stop the averaging over processes, without an error.

    Batch normalisation is recognised only in an `nn.Module`; other layers that mix the samples of a
    batch are not recognised.

    References
    ----------
    Gulrajani et al. (2017), equation (3); Petzka et al. (2018), equation (9); Mescheder et al.
    (2018) for K = 0; Adler and Lunz (2018) for dual norms.

    Examples
    --------
    >>> a = torch.tensor([3.0, 4.0])
    >>> gradient_penalty(lambda x: x @ a, torch.zeros(5, 2)).loss
    tensor(16.)
    >>> gradient_penalty(lambda x: x @ a, torch.zeros(5, 2), lipschitz_constant=0.0).loss
    tensor(25.)
    """
    slopes = gradient_norms(
        f, x, dual_norm=dual_norm, allow_batch_norm=allow_batch_norm, generator=generator
    )
    return excess_penalty(
        slopes, lipschitz_constant=lipschitz_constant, one_sided=one_sided, reduction=reduction
    )


def gradient_norms(
    f: Network,
    x: Tensor,
    *,
    dual_norm: Callable[[Tensor], Tensor] | None,
    allow_batch_norm: bool,
    generator: torch.Generator | None,
) -> Tensor:
    """Return the norm of the gradient of f at each point, differentiable in f's parameters."""
    require_batch(x)
    if not allow_batch_norm:
        require_independent_samples(f, "Use evaluation mode, or pass allow_batch_norm=True.")
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        y = FixedNetwork(f, x.device, generator)(x)
        require_output(y, x.shape[0], scalar=True)
        gradient = input_gradient(y, x, create_graph=True)
        # In half precision the squares of a gradient overflow long before the gradient does.
        slopes = (dual_norm or _euclidean_norm)(at_least_float32(gradient))
    require_numbers(slopes, x.shape[0], "dual_norm")
    require_finite(slopes, "the gradient norm of f")
    return slopes


def input_gradient(y: Tensor, x: Tensor, *, create_graph: bool = False) -> Tensor:
    """Return the gradient of the sum of y with respect to x."""
    gradient = None
    if y.requires_grad:
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=create_graph, allow_unused=True)
    if gradient is None:
        raise ValueError("f(x) must depend on x; got an output without a gradient path to x")
    return gradient


def _euclidean_norm(gradient: Tensor) -> Tensor:
    """Return the 2-norm per sample, whose gradient at 0 is 0."""
    return vector_norm(gradient.flatten(1), dim=1)
