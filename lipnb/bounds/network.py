"""What all bounds share: reading a network, a norm and a box."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lipnb.bounds.result import Box

__all__ = [
    "MARGIN",
    "Affine",
    "check_norm",
    "input_dimension",
    "operator_norm",
    "read_box",
    "read_layers",
]

# A linear region counts from this inradius on (units of the input); thinner ones are kinks to us.
MARGIN = 1e-9


@dataclass(frozen=True)
class Affine:
    """An affine map x -> weight @ x + bias in float64, detached from the network it came from."""

    weight: Tensor
    bias: Tensor


def check_norm(norm: float) -> float:
    """Return the norm if it is 1, 2 or inf, and raise `ValueError` otherwise."""
    if norm not in (1, 2, math.inf):
        raise ValueError(f"norm must be 1, 2 or inf; got {norm!r}")
    return norm


def operator_norm(matrix: Tensor, norm: float = 2) -> Tensor:
    r"""Norm of a matrix as a linear map, with the same p-norm on both sides.

    .. math::
        \|M\|_{p \to p} = \max_{\|v\|_p = 1} \|M v\|_p

    It is the largest column sum (p = 1), singular value (p = 2) or row sum (p = inf) of absolute
    values. A matrix with one row, the gradient of a scalar function, gets its dual norm.

    Parameters
    ----------
    matrix : Tensor
        Shape (..., m, n), output dimension first.
    norm : {1, 2, inf}

    Returns
    -------
    Tensor
        Shape (...), at least 0.

    Raises
    ------
    ValueError
        If the norm is another one, or the matrix has fewer than two axes or non-finite entries.

    Examples
    --------
    >>> m = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    >>> operator_norm(m, 1).item(), operator_norm(m, torch.inf).item()
    (6.0, 7.0)

    References
    ----------
    Golub and Van Loan, Matrix Computations (4th ed., 2013), section 2.3.
    """
    check_norm(norm)
    if matrix.ndim < 2 or not torch.isfinite(matrix).all():
        raise ValueError(f"matrix must be finite with two axes or more; got {tuple(matrix.shape)}")
    return torch.linalg.matrix_norm(matrix, ord=norm)


def read_layers(network: nn.Sequential) -> list[Affine | nn.Module]:
    """Return the layers of a network in order, affine ones as float64 `Affine`.

    Batch normalisation in evaluation mode is an affine map and is folded into the affine layer
    before it; `Identity` is dropped, and so are `Dropout` in evaluation mode and `Flatten`, which
    does nothing to points of shape (n, d). Every other module is returned as it is, for the caller
    to accept or refuse.

    Parameters
    ----------
    network : nn.Sequential
        May be nested.

    Returns
    -------
    list of Affine or nn.Module
        At least one of them is `Affine`.

    Raises
    ------
    TypeError
        If the network is no `nn.Sequential`, batch normalisation is in training mode, a weight is
        complex, or a module computes something else than its class does in torch: it has a forward
        of its own, or forward hooks.
    ValueError
        If there is no affine layer, neighbours do not fit, or a weight is not finite or empty.
    """
    if not isinstance(network, nn.Sequential):
        raise TypeError(f"network must be an nn.Sequential; got {type(network).__name__}")
    layers: list[Affine | nn.Module] = []
    for module in _flat(network):
        _check_forward(module)
        if isinstance(module, nn.Linear):
            layers.append(_affine(module))
        elif isinstance(module, nn.BatchNorm1d):
            scale = _batch_norm(module)
            if layers and isinstance(last := layers[-1], Affine):
                _check_fit(scale, last)
                weight = scale.weight @ last.weight
                layers[-1] = Affine(weight, scale.weight @ last.bias + scale.bias)
            else:
                layers.append(scale)
        elif not isinstance(module, nn.Identity) and not _is_idle(module):
            layers.append(module)
    affine = [layer for layer in layers if isinstance(layer, Affine)]
    if not affine:
        raise ValueError("network must have an affine layer; got none")
    for layer in affine:
        if 0 in layer.weight.shape:
            inputs, outputs = reversed(layer.weight.shape)
            raise ValueError(f"layers must have inputs and outputs; got {inputs} and {outputs}")
    for first, second in pairwise(affine):
        _check_fit(second, first)
    if any(not torch.isfinite(t).all() for layer in affine for t in (layer.weight, layer.bias)):
        raise ValueError("network must have finite weights; got NaN or infinity")
    return layers


def input_dimension(layers: list[Affine | nn.Module]) -> int:
    """Return how many inputs the first affine layer takes."""
    return next(layer.weight.shape[1] for layer in layers if isinstance(layer, Affine))


def read_box(domain: tuple[Any, Any] | None, dimension: int) -> Box | None:
    """Return a domain as a tuple of two tuples of floats.

    Parameters
    ----------
    domain : (low, high) or None
        Each side a number (the same for all coordinates) or `dimension` numbers.
    dimension : int
        Of the input.

    Returns
    -------
    tuple of two tuples of floats, or None

    Raises
    ------
    ValueError
        If a side has another length, is not finite, or low is not below high everywhere.
    """
    if domain is None:
        return None
    if not isinstance(domain, (tuple, list)) or len(domain) != 2:
        raise ValueError(f"domain must be None or a pair (low, high); got {domain!r}")
    try:
        sides = [torch.as_tensor(side, dtype=torch.float64).detach().cpu() for side in domain]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"low and high must be numbers; got {domain!r}") from error
    if any(side.ndim and side.shape != (dimension,) for side in sides):
        shapes = [tuple(side.shape) for side in sides]
        raise ValueError(f"low and high must be numbers or have shape ({dimension},); got {shapes}")
    low, high = (side.expand(dimension) for side in sides)
    if not (torch.isfinite(low) & torch.isfinite(high) & (low < high)).all():
        raise ValueError(f"low must be finite and below high; got {low.tolist()}, {high.tolist()}")
    return tuple(low.tolist()), tuple(high.tolist())


def _flat(network: nn.Sequential) -> Iterator[nn.Module]:
    """Yield the layers of nested Sequentials one after the other."""
    _check_forward(network)
    for module in network:
        if isinstance(module, nn.Sequential):
            yield from _flat(module)
        else:
            yield module


def _check_forward(module: nn.Module) -> None:
    """Raise if a subclass of a class of torch, or a hook, may compute something else than it."""
    name = type(module).__name__
    made_by = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    known = made_by.__module__.split(".")[0] in ("torch", "lipnb")
    if "forward" in vars(module) or (not known and type(module).__bases__ != (nn.Module,)):
        raise TypeError(f"layers must be those of torch; got {name} with a forward of its own")
    if module._forward_hooks or module._forward_pre_hooks:
        raise TypeError(
            f"layers must have no forward hooks, which may change what they compute; got {name} "
            "with one"
        )


def _is_idle(module: nn.Module) -> bool:
    """Tell whether a module is dropout that is switched off, or flattens what is flat."""
    if isinstance(module, nn.Flatten):
        return module.start_dim == 1
    return isinstance(module, nn.Dropout) and not module.training


def _double(values: Tensor) -> Tensor:
    """Return a detached copy in float64 on the CPU."""
    if values.is_complex():
        raise TypeError("network must have real weights; got complex ones")
    return values.detach().to(device="cpu", dtype=torch.float64, copy=True)


def _affine(layer: nn.Linear) -> Affine:
    """Read a linear layer; a missing bias is zero."""
    weight = _double(layer.weight)
    bias = torch.zeros(len(weight), dtype=torch.float64) if layer.bias is None else layer.bias
    return Affine(weight, _double(bias))


def _batch_norm(layer: nn.BatchNorm1d) -> Affine:
    """Read batch normalisation in evaluation mode as a diagonal affine map."""
    if layer.training or layer.running_mean is None or layer.running_var is None:
        raise TypeError(
            "BatchNorm1d must be in evaluation mode with running statistics: in training mode the "
            "output at a point depends on the rest of the batch; call network.eval()"
        )
    scale = (_double(layer.running_var) + layer.eps).rsqrt()
    shift = -_double(layer.running_mean) * scale
    if layer.affine:
        scale, shift = scale * _double(layer.weight), shift * _double(layer.weight)
        shift = shift + _double(layer.bias)
    return Affine(torch.diag(scale), shift)


def _check_fit(second: Affine, first: Affine) -> None:
    """Raise unless the second map takes as many numbers as the first gives."""
    if second.weight.shape[1] != first.weight.shape[0]:
        raise ValueError(
            f"neighbouring layers must fit: one gives {first.weight.shape[0]} numbers, "
            f"the next takes {second.weight.shape[1]}"
        )
