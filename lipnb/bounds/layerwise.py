"""Upper bounds from one norm per layer."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import torch
from torch import nn

from lipnb.bounds.network import (
    Affine,
    check_norm,
    input_dimension,
    operator_norm,
    read_box,
    read_layers,
)
from lipnb.bounds.result import Bound
from lipnb.models.groupsort import GroupSort

__all__ = ["activation_constant", "product_bound"]


def activation_constant(layer: nn.Module) -> float:
    """Return the Lipschitz constant of an activation layer, for every p-norm.

    Parameters
    ----------
    layer : nn.Module
        `ReLU`, `LeakyReLU`, `ELU`, `Softplus`, `Tanh`, `Sigmoid`, `Identity` or
        `lipnb.models.GroupSort`.

    Returns
    -------
    float
        The largest absolute slope of the scalar function, if the layer acts on each coordinate
        alone; 1 for `GroupSort`, which permutes.

    Raises
    ------
    TypeError
        If the layer is another one.

    Examples
    --------
    >>> activation_constant(nn.ReLU()), activation_constant(nn.LeakyReLU(-2.0))
    (1.0, 2.0)
    """
    if isinstance(layer, (nn.ReLU, nn.Tanh, nn.Softplus, nn.Identity, GroupSort)):
        return 1.0
    if isinstance(layer, nn.Sigmoid):
        return 0.25
    if isinstance(layer, nn.LeakyReLU):
        return max(1.0, abs(layer.negative_slope))
    if isinstance(layer, nn.ELU):
        return max(1.0, abs(layer.alpha))
    raise TypeError(
        "layer must be ReLU, LeakyReLU, ELU, Softplus, Tanh, Sigmoid, Identity or GroupSort; "
        f"got {type(layer).__name__}"
    )


def rounding(layers: list[Affine | nn.Module], norm: float) -> float:
    """Bound what float64 may lose when the layers are multiplied, by their absolute values."""
    size, width = 1.0, 0
    for layer in layers:
        if isinstance(layer, Affine):
            size *= operator_norm(layer.weight.abs(), norm).item()
            width += sum(layer.weight.shape)
        else:
            size *= activation_constant(layer)
    return width * torch.finfo(torch.float64).eps * size


def product_bound(
    network: nn.Sequential, *, norm: float = 2, domain: tuple[Any, Any] | None = None
) -> Bound:
    r"""Bound the Lipschitz constant by the product of the norms of the layers.

    .. math::
        \|f\|_L \le \prod_{l=1}^{L+1} \|W_l\|_{p \to p} \prod_{l=1}^{L} \|\sigma_l\|_L

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode is folded into them) and the
        activations of `activation_constant`.
    norm : {1, 2, inf}
        The p of the input and, for vector outputs, of the output.
    domain : (low, high), optional
        Only recorded: the bound holds everywhere.

    Returns
    -------
    Bound
        Of kind 'upper', rounded up by what float64 may have lost.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If norm, domain or weights are out of range.

    Examples
    --------
    >>> layer = nn.Linear(2, 2, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
    >>> round(product_bound(nn.Sequential(layer, nn.ReLU(), layer)).value, 9)
    9.0

    References
    ----------
    Szegedy et al., Intriguing properties of neural networks (2014), section 4.3; Virmaux and
    Scaman, Lipschitz regularity of deep neural networks (2018), section 4 (AutoLip).
    """
    start = perf_counter()
    check_norm(norm)
    layers = read_layers(network)
    box = read_box(domain, input_dimension(layers))
    value, factors = 1.0, 0
    for layer in layers:
        if isinstance(layer, Affine):
            value *= operator_norm(layer.weight, norm).item()
            factors += 1
        else:
            value *= activation_constant(layer)
    value += rounding(layers, norm)
    status = f"product of {factors} layer norms, holds everywhere"
    return Bound(value, "upper", norm, box, perf_counter() - start, status)
