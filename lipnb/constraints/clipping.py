"""Weight clipping: every parameter in a box."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

__all__ = ["clip_weights"]

Network = TypeVar("Network", bound=nn.Module)

NORMALISATIONS = (
    nn.modules.batchnorm._NormBase,  # batch and instance normalisation in 1, 2 and 3 dimensions
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


@torch.no_grad()
def clip_weights(network: Network, bound: float = 0.01, *, normalisation: bool = True) -> Network:
    r"""Clamp the parameters of a network to an interval; call it after each optimiser step.

    .. math:: w \leftarrow \max(-c, \min(c, w))

    All parameters are clipped, as in the original: weights, biases, and the gains and shifts of
    normalisation layers, also those that are not trained. Buffers, such as running statistics, are
    left alone. The networks in the box have one Lipschitz constant in common, but nobody chose it:
    it depends on the architecture, and a dense layer of n inputs and m outputs may reach
    c sqrt(n m).

    Parameters
    ----------
    network : nn.Module
        Changed in place.
    bound : float
        Largest absolute value c, positive, in the unit of the parameters.
    normalisation : bool
        Whether the parameters of batch, instance, group, layer and RMS normalisation are clipped
        too. A gain starts at 1, and c = 0.01 makes its layer a hundred times weaker.

    Returns
    -------
    nn.Module
        The same network.

    Raises
    ------
    TypeError
        If `network` is no `nn.Module`.
    ValueError
        If `bound` is not positive and finite, a parameter is not finite, there is none to clip, or
        a layer is parametrized: what is stored would be clipped, but not the weight in use.

    References
    ----------
    Arjovsky et al. (2017), Algorithm 1.

    Examples
    --------
    >>> network = clip_weights(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), 0.01)
    >>> all(p.abs().max() <= 0.01 for p in network.parameters())
    True
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be an nn.Module; got {type(network).__name__}")
    if not 0 < bound < math.inf:
        raise ValueError(f"bound must be positive and finite; got {bound}")
    clipped = []
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module):
            raise ValueError(
                f"weights must be plain to be clipped; got {name or 'a layer'} with a"
                f" parametrized {', '.join(module.parametrizations)}"
            )
        if normalisation or not isinstance(module, NORMALISATIONS):
            clipped += [(name, *item) for item in module.named_parameters(recurse=False)]
    if not clipped:
        raise ValueError(f"network must have parameters to clip; got {type(network).__name__}")
    for module_name, name, parameter in clipped:
        if not bool(torch.isfinite(parameter).all()):
            place = ".".join(filter(None, (module_name, name)))
            raise ValueError(f"parameters must be finite; got NaN or infinity in {place}")
    for _, _, parameter in clipped:
        parameter.clamp_(-bound, bound)
    return network
