"""A network without its constraints: the weights they compute, as plain parameters."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

__all__ = ["plain_copy"]

Network = TypeVar("Network", bound=nn.Module)


def plain_copy(network: Network) -> Network:
    r"""Copy a network in evaluation mode, with every parametrization folded into its weight.

    The copy computes what ``network.eval()`` computes, holds layers of the ordinary classes with
    ordinary parameters, and can be stored as a whole. It is cheap to evaluate, and no longer
    constrained when it is trained.

    Parameters
    ----------
    network : nn.Module
        Not changed, not even its mode. All parametrizations of `torch.nn.utils.parametrize` are
        folded, also those of torch; the older hooks of `torch.nn.utils.spectral_norm` and
        `weight_norm` are not.

    Returns
    -------
    nn.Module
        A deep copy in evaluation mode.

    Raises
    ------
    TypeError
        If `network` is no `nn.Module`.

    Examples
    --------
    >>> from lipnb.constraints import orthogonal
    >>> plain_copy(nn.Sequential(orthogonal(nn.Linear(3, 3)), nn.ReLU()))
    Sequential(
      (0): Linear(in_features=3, out_features=3, bias=True)
      (1): ReLU()
    )
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be an nn.Module; got {type(network).__name__}")
    plain = copy.deepcopy(network).eval()
    for module in list(plain.modules()):
        if parametrize.is_parametrized(module):
            _fold(module)
    return plain


@torch.no_grad()
def _fold(module: nn.Module) -> None:
    """Replace the parametrizations of one module by the tensors they compute."""
    # parametrize.remove_parametrizations would delete the property from the class, which a deep
    # copy shares with its original: the original would lose its weight.
    lists = cast(nn.ModuleDict, module.parametrizations)
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, entry in lists.items():
        sources = list(entry.parameters(recurse=False))
        # Not from the attribute, which `cached()` may hold; laid out as a loaded weight would be.
        value = entry().clone(memory_format=torch.contiguous_format)
        if sources:
            trained = any(source.requires_grad for source in sources)
            module.register_parameter(name, nn.Parameter(value, requires_grad=trained))
        else:
            module.register_buffer(name, value)
