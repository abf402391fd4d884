"""The consistency term of CT-GAN: two random passes of one point must agree."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lipnb.distances import at_least_float32, mean_squared
from lipnb.regularizers._network import FixedNetwork
from lipnb.regularizers.penalty import (
    Penalty,
    excess_penalty,
    require_batch,
    require_finite,
    require_output,
)

__all__ = ["consistency_penalty"]

Output = Tensor | tuple[Tensor, Tensor]


def consistency_penalty(
    f: Callable[[Tensor], Output],
    x: Tensor,
    *,
    output: Output | None = None,
    feature_weight: float = 0.1,
    margin: float = 0.0,
    generator: torch.Generator | None = None,
) -> Penalty:
    r"""Penalise the difference of two passes of a random network at the same points.

    .. math::
        s_i = \bigl(f(x_i') - f(x_i'')\bigr)^2
        + \beta\, \frac1m \bigl\|f_\_(x_i') - f_\_(x_i'')\bigr\|_2^2, \qquad
        \mathcal L = \frac1n \sum_i (s_i - M')_+ ,

    where :math:`x_i', x_i''` stand for two passes with independent dropout masks, and :math:`f_\_`
    for the m features of the last hidden layer.

    Parameters
    ----------
    f : callable
        Random network: dropout layers in training mode. Maps (n, ...) to one number per sample, or
        to a pair (values, features) with features (n, ...). Its buffers are left as they were.
    x : Tensor
        Points, shape (n, ...): real samples.
    output : Tensor or (Tensor, Tensor), optional
        What f returned for x in a pass of the training loss. It saves one of the two passes.
    feature_weight : float
        beta, at least 0; used only if f returns features.
    margin : float
        M', at least 0; it plays the part of K.
    generator : torch.Generator, optional
        Source of both passes' randomness, on the device of x. If given, the global generators are
        left as they were; if not, f draws from them.

    Returns
    -------
    Penalty
        Loss (at least 0), the differences s as slopes, shape (n,), and the number above the margin.

    Raises
    ------
    ValueError
        If x, an output or a difference is not finite, f does not return one number per sample, or
        the weight or the margin is negative or not finite.
    TypeError
        If x is not a floating-point tensor.

    Notes
    -----
    The loss is 0 for a network without randomness, and so in evaluation mode: it then penalises
    nothing. It says nothing about how far apart the points are that dropout simulates.

    References
    ----------
    Wei et al. (2018); distances, weight and margin are those of the authors' code.

    Examples
    --------
    >>> f = torch.nn.Dropout(0.5)
    >>> penalty = consistency_penalty(f, torch.ones(1000, 1))  # 0 or 2, each time
    >>> penalty.slopes.unique()
    tensor([0., 4.])
    >>> consistency_penalty(f.eval(), torch.ones(1000, 1)).loss
    tensor(0.)
    """
    require_batch(x)
    for name, number in (("feature_weight", feature_weight), ("margin", margin)):
        if not 0 <= number < float("inf"):
            raise ValueError(f"{name} must be finite and at least 0; got {number}")
    x = x.detach()
    # Each FixedNetwork draws random numbers of its own, so that the two passes are independent.
    passes = [
        FixedNetwork(f, x.device, generator)(x) if given is None else given
        for given in (output, None)
    ]
    (values, features), (other_values, other_features) = (_split(y, x.shape[0]) for y in passes)
    differences = (at_least_float32(values) - at_least_float32(other_values)).square()
    if features is not None and other_features is not None:
        differences = differences + feature_weight * mean_squared(features, other_features)
    require_finite(differences, "the difference of two passes")
    return excess_penalty(differences, lipschitz_constant=margin, reduction="mean")


def _split(y: Output, n: int) -> tuple[Tensor, Tensor | None]:
    """Return values, shape (n,), and features."""
    values, features = y if isinstance(y, tuple) else (y, None)
    require_output(values, n, scalar=True)
    if features is not None:
        require_output(features, n, "the features of f(x)")
    return values.reshape(n), features
