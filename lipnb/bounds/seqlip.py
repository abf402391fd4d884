"""SeqLip: the product of norms, with the singular vectors of neighbouring layers compared."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np
from torch import nn

from lipnb.bounds.chain import Array, read_chain, round_up
from lipnb.bounds.network import read_box
from lipnb.bounds.result import Bound
from lipnb.models.groupsort import GroupSort

__all__ = ["seqlip"]

EPS = float(np.finfo(np.float64).eps)
CHUNK = 2048  # matrices decomposed in one call


def seqlip(
    network: nn.Sequential,
    *,
    norm: float = 2,
    domain: tuple[Any, Any] | None = None,
    max_units: int = 14,
) -> Bound:
    r"""Bound the l2 constant from above by one maximum over gates per activation layer.

    With singular value decompositions :math:`W_l = U_l \Sigma_l V_l^T`, where
    :math:`\tilde\Sigma_l` is :math:`\Sigma_l` for the first and the last layer and
    :math:`\Sigma_l^{1/2}` in between,

    .. math::
        \|f\|_L \le \prod_{l=1}^{L} \max_{d \in [\alpha_l, \beta_l]^{n_l}}
        \|\tilde\Sigma_{l+1} V_{l+1}^T \operatorname{diag}(d)\, U_l \tilde\Sigma_l\|_2

    The norm is convex in d, so the maximum lies at one of the :math:`2^{n_l}` corners; all of them
    are visited. A greedy search for a corner is faster, but may miss the maximum. What it returns
    is then neither an upper nor a lower bound, so this library does not offer it.

    In place of diag(d), GroupSort of pairs has the matrices that exchange some pairs and leave the
    others, and their mixtures: one gate a pair.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included), elementwise activations
        (`ReLU`, `LeakyReLU`, `ELU`, `Softplus`, `Tanh`, `Sigmoid`), and `GroupSort` with groups of
        two.
    norm : {2}
        The theory is that of the Euclidean norm.
    domain : (low, high), optional
        Only recorded: the bound holds everywhere.
    max_units : int
        Refuse networks with more gates in a hidden layer.

    Returns
    -------
    Bound
        Of kind 'upper', rounded up by what float64 may have lost.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If norm is not 2, a hidden layer is too wide, or domain or weights are out of range.

    Examples
    --------
    Two layers that stretch different axes: the product of norms says 4, the truth is 2.

    >>> import torch
    >>> a, b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    >>> _ = a.weight.data.copy_(torch.diag(torch.tensor([2.0, 1.0])))
    >>> _ = b.weight.data.copy_(torch.diag(torch.tensor([1.0, 2.0])))
    >>> round(seqlip(nn.Sequential(a, nn.ReLU(), b)).value, 9)
    2.0

    References
    ----------
    Virmaux and Scaman, Lipschitz regularity of deep neural networks (2018), section 5.
    """
    start = perf_counter()
    if norm != 2:
        raise ValueError(f"norm must be 2 for SeqLip; got {norm!r}")
    chain = read_chain(network, pairs=True)
    box = read_box(domain, chain.weights[0].shape[1])
    sorts = [isinstance(activation, GroupSort) for activation in chain.activations]
    widths = [len(w) // (1 + sort) for w, sort in zip(chain.weights, sorts, strict=False)]
    widest = max(widths, default=0)
    if widest > max_units:
        raise ValueError(
            f"a hidden layer must have at most max_units = {max_units} units, or there are too many"
            f" gates to visit; got {widest}; liplt, eclipse_fast and lipsdp take wider ones"
        )
    weights, exponent = chain.scaled()
    relative = 64 * EPS * sum(sum(w.shape) for w in weights)
    if len(weights) == 1:
        value = float(np.linalg.norm(weights[0], ord=2))
    else:
        value, size = 1.0, float(np.linalg.norm(weights[0], ord=2))
        for i, (low, high) in enumerate(chain.slopes):
            _, after = _factors(weights[i + 1], whole=i + 2 == len(weights))
            before, _ = _factors(weights[i], whole=i == 0)
            if sorts[i]:
                pairs = after[:, 1::2] - after[:, 0::2], before[0::2] - before[1::2]
                value *= _largest(after @ before, *pairs)
            else:
                value *= _largest(low * after @ before, (high - low) * after, before)
            size *= float(np.linalg.norm(weights[i + 1], ord=2)) * max(abs(low), abs(high))
        # The singular vectors are those of weights that differ by a rounding of their norm.
        value += relative * size
    status = f"all gates of {len(chain.slopes)} layers visited, holds everywhere"
    value = round_up(value, exponent, relative)
    return Bound(value, "upper", 2, box, perf_counter() - start, status)


def _factors(weight: Array, *, whole: bool) -> tuple[Array, Array]:
    """Return U S~ and S~ V^T of a weight; S~ is S, or its root for a layer shared by two."""
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    part = s if whole else np.sqrt(s)
    return u * part, part[:, None] * vt


def _largest(fixed: Array, after: Array, before: Array) -> float:
    """Return the maximum of ||fixed + after diag(d) before||_2 over d in {0, 1}^n."""
    units, best = before.shape[0], 0.0
    for first in range(0, 2**units, CHUNK):
        codes = np.arange(first, min(first + CHUNK, 2**units))
        gates = ((codes[:, None] >> np.arange(units)) & 1).astype(np.float64)
        matrices = fixed + (after[None] * gates[:, None, :]) @ before
        best = max(best, float(np.linalg.norm(matrices, ord=2, axis=(1, 2)).max()))
    return best
