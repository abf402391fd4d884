"""Convolutional networks as dense ones, so that every bound takes them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from lipnb.bounds.chain import slope_range
from lipnb.bounds.network import _check_forward, _flat
from lipnb.models.groupsort import GroupSort

__all__ = ["as_dense"]

LINEAR = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten)
LARGEST = 2**26  # entries of a matrix: half a gigabyte
CHUNK = 256


def as_dense(network: nn.Sequential, input_shape: Sequence[int]) -> nn.Sequential:
    r"""Write a convolutional network with `nn.Linear` layers only, which all bounds take.

    Each affine layer A, on images of the shape that it sees, becomes the matrix with columns

    .. math::
        A(e_j) - A(0), \qquad \text{and the bias } A(0)

    Images are flattened as `torch.flatten` does it: by channels, then rows, then columns. The norm
    of the kernel written as a matrix is not that of the layer.

    Parameters
    ----------
    network : nn.Sequential
        `Conv1d`, `Conv2d`, `ConvTranspose2d`, `AvgPool2d`, `AdaptiveAvgPool2d`, `BatchNorm2d` in
        evaluation mode, `Flatten`, `Linear`, elementwise activations, and, after `Flatten`,
        `GroupSort`. May be nested.
    input_shape : sequence of int
        Of one input, without the batch: (channels, height, width).

    Returns
    -------
    nn.Sequential
        The same function of flattened inputs, in float64 and in evaluation mode, with parameters of
        its own. Neighbouring affine layers are one.

    Raises
    ------
    TypeError
        If the network holds another layer, batch normalisation is in training mode, or a module
        computes something else than its class does in torch (`read_layers`).
    ValueError
        If the shape does not fit, or a matrix would have more than 2^26 entries.

    Examples
    --------
    >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))
    >>> as_dense(network, (1, 4, 4))
    Sequential(
      (0): Linear(in_features=16, out_features=8, bias=True)
      (1): ReLU()
      (2): Linear(in_features=8, out_features=1, bias=True)
    )

    References
    ----------
    Virmaux and Scaman, Lipschitz regularity of deep neural networks (2018), section 4, for the
    convolution as a linear operator.
    """
    if not isinstance(network, nn.Sequential):
        raise TypeError(f"network must be an nn.Sequential; got {type(network).__name__}")
    shape = tuple(input_shape)
    if not shape or any(not isinstance(n, int) or n < 1 for n in shape):
        raise ValueError(f"input_shape must be positive integers; got {input_shape!r}")
    result: list[nn.Module] = []
    pending: list[nn.Module] = []
    start = shape
    for module in _flat(network):
        _check_forward(module)
        if _is_idle(module):
            continue
        if _is_affine(module):
            pending.append(copy.deepcopy(module).double().eval())
            shape = _shape_after(pending[-1:], shape)
            continue
        if isinstance(module, GroupSort) and len(shape) != 1:
            raise TypeError("GroupSort must come after Flatten: it sorts channels of one pixel")
        if not isinstance(module, GroupSort):
            slope_range(module)  # refuses what is neither affine nor elementwise
        if pending:
            result.append(_linear(pending, start, shape))
        result.append(copy.deepcopy(module))
        pending, start = [], shape
    if pending:
        result.append(_linear(pending, start, shape))
    return nn.Sequential(*result)


def _is_idle(module: nn.Module) -> bool:
    """Whether a layer does nothing: identity, or dropout that is switched off."""
    dropout = isinstance(module, (nn.Dropout, nn.Dropout2d)) and not module.training
    return dropout or isinstance(module, nn.Identity)


def _is_affine(module: nn.Module) -> bool:
    """Whether a layer is an affine map; raises for batch normalisation in training mode."""
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        if module.training or module.running_mean is None:
            raise TypeError(
                f"{type(module).__name__} must be in evaluation mode with running statistics; "
                "call network.eval()"
            )
        return True
    return isinstance(module, (*LINEAR, nn.Linear))


def _apply(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Run layers one after the other."""
    with torch.no_grad():
        for layer in layers:
            x = layer(x)
    return x


def _shape_after(layers: Sequence[nn.Module], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of one output."""
    try:
        return tuple(_apply(layers, torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])
    except RuntimeError as error:
        raise ValueError(f"input_shape must fit the layers; {layers[0]} got {shape}") from error


def _linear(layers: Sequence[nn.Module], start: tuple[int, ...], end: tuple[int, ...]) -> nn.Linear:
    """Return the dense layer of a run of affine ones."""
    inputs, outputs = prod(start), prod(end)
    if inputs * outputs > LARGEST:
        raise ValueError(
            f"a layer must have at most {LARGEST} entries as a matrix; got {outputs} x {inputs}"
        )
    bias = _apply(layers, torch.zeros(1, *start, dtype=torch.float64)).flatten()
    # Without the bias an entry would be the difference of two roundings.
    bare = [copy.deepcopy(layer) for layer in layers]
    for layer in bare:
        _drop_shift(layer)
    dense = nn.Linear(inputs, outputs, device="meta", dtype=torch.float64).to_empty(device="cpu")
    for first in range(0, inputs, CHUNK):
        rows = torch.arange(first, min(first + CHUNK, inputs))
        x = torch.zeros(len(rows), inputs, dtype=torch.float64)
        x[torch.arange(len(rows)), rows] = 1.0
        columns = _apply(bare, x.view(-1, *start)).flatten(1)
        dense.weight.data[:, rows] = columns.T
    dense.bias.data = bias
    return dense


def _drop_shift(layer: nn.Module) -> None:
    """Make an affine layer linear."""
    for name in ("bias", "running_mean"):
        value = getattr(layer, name, None)
        if isinstance(value, Tensor):
            value.data.zero_()
