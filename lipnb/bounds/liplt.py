"""LipLT: an upper bound in closed form, by loop transformation."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

import numpy as np
from torch import nn

from lipnb.bounds.chain import Array, read_chain, round_up
from lipnb.bounds.network import check_norm, read_box
from lipnb.bounds.result import Bound

__all__ = ["liplt"]

EPS = float(np.finfo(np.float64).eps)


def liplt(
    network: nn.Sequential, *, norm: float = 2, domain: tuple[Any, Any] | None = None
) -> Bound:
    r"""Bound the Lipschitz constant from above by splitting every activation in two.

    An activation with slopes in :math:`[\alpha, \beta]` is a linear map plus a remainder of half
    the constant: :math:`\sigma(z) = m z + r \psi(z)` with :math:`m = (\alpha + \beta) / 2`,
    :math:`r = (\beta - \alpha) / 2`, and :math:`\psi` 1-Lipschitz. For ReLU, psi is the absolute
    value. Following every path from the last remainder on it gives

    .. math::
        L_k = m_{k-1} \cdots m_1 \|W_k \cdots W_1\|
            + \sum_{j < k} r_j \, m_{k-1} \cdots m_{j+1} \|W_k \cdots W_{j+1}\| \, L_j,
        \qquad \|f\|_L \le L_{L+1}

    Unlike the product of norms it sees how neighbouring layers are aligned.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included) and elementwise
        activations: `ReLU`, `LeakyReLU`, `ELU`, `Softplus`, `Tanh`, `Sigmoid`. `GroupSort` is
        refused: it mixes coordinates, so that no slopes of single ones split it.
    norm : {1, 2, inf}
        The p of the input and, for vector outputs, of the output.
    domain : (low, high), optional
        Only recorded: the bound holds everywhere.

    Returns
    -------
    Bound
        Of kind 'upper', rounded up by what float64 may have lost. For slopes in [0, 1] it is at
        most the product of the norms.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If norm, domain or weights are out of range.

    Examples
    --------
    Two layers that stretch different axes: the product of norms says 4, the truth is 2.

    >>> import torch
    >>> a, b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    >>> _ = a.weight.data.copy_(torch.diag(torch.tensor([2.0, 1.0])))
    >>> _ = b.weight.data.copy_(torch.diag(torch.tensor([1.0, 2.0])))
    >>> round(liplt(nn.Sequential(a, nn.ReLU(), b)).value, 9)
    3.0

    References
    ----------
    Fazlyab et al., Certified robustness via dynamic margin maximization and improved Lipschitz
    regularization (2023). Equal to the average of all products over segments of Combettes and
    Pesquet, Lipschitz certificates for layered network structures driven by averaged activation
    operators (2020).
    """
    start = perf_counter()
    check_norm(norm)
    chain = read_chain(network)
    box = read_box(domain, chain.weights[0].shape[1])
    weights, exponent = chain.scaled()
    constants: list[float] = []
    for k, last in enumerate(weights):
        # product = W_k ... W_{j+1}, and `error` bounds what rounding did to it.
        product, error, factor, total = last, 0.0, 1.0, 0.0
        for j in range(k - 1, -1, -1):
            low, high = chain.slopes[j]
            total += (high - low) / 2 * factor * _norm(product, error, norm) * constants[j]
            factor *= abs(high + low) / 2
            product, error = _times(product, error, weights[j])
        constants.append(total + factor * _norm(product, error, norm))
    value = round_up(constants[-1], exponent, 8 * EPS * len(weights) ** 2)
    status = f"loop transformation of {len(chain.slopes)} activations, holds everywhere"
    return Bound(value, "upper", norm, box, perf_counter() - start, status)


def _times(product: Array, error: float, weight: Array) -> tuple[Array, float]:
    """Multiply by the next weight, and bound the error in the Frobenius norm."""
    size = float(np.linalg.norm(weight))
    rounding = 2 * EPS * weight.shape[0] * size * float(np.linalg.norm(product))
    return product @ weight, error * size + rounding


def _norm(product: Array, error: float, norm: float) -> float:
    """Bound the operator norm of a matrix known up to an error in the Frobenius norm."""
    widest = max(product.shape)
    # No p-norm exceeds the Frobenius norm by more than the root of the larger dimension.
    spread = error if norm == 2 else math.sqrt(widest) * error
    return float(np.linalg.norm(product, ord=norm)) * (1 + 8 * EPS * widest) + spread
