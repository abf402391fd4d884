"""Multilayer perceptrons as a flat `nn.Sequential`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

__all__ = ["mlp"]


def _linear(fan_in: int, fan_out: int, generator: torch.Generator, dtype: torch.dtype) -> nn.Linear:
    """Make a linear layer with torch's default law, drawn from the generator alone."""
    # Built on the meta device, because nn.Linear's own initialisation draws from the global RNG.
    layer = nn.Linear(fan_in, fan_out, device="meta", dtype=dtype)
    layer = layer.to_empty(device=generator.device)
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    bound = 1 / math.sqrt(fan_in)
    nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


def mlp(
    widths: Sequence[int],
    activation: Callable[[], nn.Module] = nn.ReLU,
    *,
    batch_norm: bool = False,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    r"""Build a multilayer perceptron whose last layer is linear.

    .. math::
        f(x) = W_{L+1}\,\sigma(W_L \cdots \sigma(W_1 x + b_1) \cdots + b_L) + b_{L+1}

    Parameters
    ----------
    widths : sequence of int
        Input dimension, widths of the hidden layers, output dimension; at least two numbers.
    activation : callable
        Makes one activation layer, called once per hidden layer (a class, or a lambda).
    batch_norm : bool
        Put a `BatchNorm1d` before each activation.
    generator : torch.Generator, optional
        The only source of randomness, and its device is the network's. By default a fresh one with
        seed 0, so that two calls give the same network.
    dtype : torch.dtype, optional
        Of the parameters; torch's default where not given.

    Returns
    -------
    nn.Sequential
        `Linear`, (`BatchNorm1d`,) activation, ..., `Linear`. The weights and biases of a layer with
        n inputs are uniform on [-1/sqrt(n), 1/sqrt(n)]: the law, and for equal seeds the very
        numbers, of torch's own `nn.Linear`.

    Raises
    ------
    ValueError
        If there are fewer than two widths, or one is not a positive integer.

    Examples
    --------
    >>> mlp([2, 8, 1], generator=torch.Generator().manual_seed(0))
    Sequential(
      (0): Linear(in_features=2, out_features=8, bias=True)
      (1): ReLU()
      (2): Linear(in_features=8, out_features=1, bias=True)
    )
    """
    if len(widths) < 2 or any(not isinstance(w, int) or w < 1 for w in widths):
        raise ValueError(f"widths must be at least two positive integers; got {list(widths)}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    dtype = torch.get_default_dtype() if dtype is None else dtype
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        layers.append(_linear(fan_in, fan_out, generator, dtype))
        if i < len(widths) - 2:
            if batch_norm:
                layers.append(nn.BatchNorm1d(fan_out, device=generator.device, dtype=dtype))
            layers.append(activation())
    return nn.Sequential(*layers)
