"""ECLipsE-Fast: a certificate of the LipSDP kind in closed form, layer by layer."""

from __future__ import annotations

import math
from time import perf_counter
from typing import Any

import numpy as np
from torch import nn

from lipnb.bounds.chain import Array, read_chain, round_up
from lipnb.bounds.network import read_box
from lipnb.bounds.result import Bound

__all__ = ["eclipse_fast"]

EPS = float(np.finfo(np.float64).eps)


def eclipse_fast(
    network: nn.Sequential, *, norm: float = 2, domain: tuple[Any, Any] | None = None
) -> Bound:
    r"""Bound the l2 constant from above by one scalar multiplier per layer, without a solver.

    For slopes in :math:`[0, \beta_l]` let :math:`m_l = \beta_l / 2` and :math:`X_0 = I`. Layer by
    layer,

    .. math::
        G_l = W_l X_{l-1}^{-1} W_l^T, \qquad \lambda_l = \frac{1}{2 m_l^2 \lambda_{\max}(G_l)},
        \qquad X_l = \lambda_l I - m_l^2 \lambda_l^2 G_l, \qquad
        \|f\|_L \le \sqrt{\lambda_{\max}(G_{L+1})}

    The multipliers are feasible for the semidefinite program of `lipsdp` with one multiplier per
    layer, so this bound lies above that one.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included) and elementwise
        activations whose slopes are not negative. A lowest slope above 0 is not made use of.
        `GroupSort` is refused: for its slopes in [-1, 1], in coordinates a - b and a + b, one
        multiplier per layer gives the product of the norms.
    norm : {2}
        The theory is that of the Euclidean norm.
    domain : (low, high), optional
        Only recorded: the bound holds everywhere.

    Returns
    -------
    Bound
        Of kind 'upper', rounded up by what float64 may have lost; at most the product of norms.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If norm is not 2, an activation has negative slopes, or domain or weights are out of range.

    Examples
    --------
    >>> import torch
    >>> a, b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    >>> _ = a.weight.data.copy_(torch.diag(torch.tensor([2.0, 1.0])))
    >>> _ = b.weight.data.copy_(torch.diag(torch.tensor([1.0, 2.0])))
    >>> round(eclipse_fast(nn.Sequential(a, nn.ReLU(), b)).value ** 2, 9)  # between 4 and 16
    9.142857143

    References
    ----------
    Xu and Sivaranjani, ECLipsE: efficient compositional Lipschitz constant estimation for deep
    neural networks (2024).
    """
    start = perf_counter()
    if norm != 2:
        raise ValueError(f"norm must be 2 for ECLipsE-Fast; got {norm!r}")
    chain = read_chain(network)
    box = read_box(domain, chain.weights[0].shape[1])
    if any(low < 0 for low, _ in chain.slopes):
        # The published program ignores alpha * beta, and is wrong where that is negative.
        raise ValueError(f"slopes must be at least 0 for ECLipsE-Fast; got {chain.slopes}")
    weights, exponent = chain.scaled()
    gram, relative = _gram(weights[0], None), _rounding(weights[0])
    for weight, (_, high) in zip(weights[1:], chain.slopes, strict=True):
        top = _largest(gram)
        if top == 0:
            break
        # X_l times 2 m^2 top, which lies between I / 2 and I: m^2 and the scale go to the end.
        x = np.eye(len(gram)) - gram / (2 * top)
        scale, shift = math.frexp(2 * (high / 2) ** 2 * top)
        gram = _gram(weight, x) * scale
        # An even power of two leaves the square, so that deep networks do not underflow.
        odd = shift % 2
        gram, exponent = gram * 2.0**odd, exponent + (shift - odd) // 2
        relative += _rounding(weight)
    value = round_up(math.sqrt(_largest(gram)), exponent, relative)
    status = f"one multiplier in closed form for each of {len(chain.slopes)} layers"
    return Bound(value, "upper", 2, box, perf_counter() - start, status + ", holds everywhere")


def _gram(weight: Array, x: Array | None) -> Array:
    """Return W X^{-1} W^T."""
    if x is None:
        return weight @ weight.T
    half = np.linalg.solve(np.linalg.cholesky(x), weight.T)
    return half.T @ half


def _largest(gram: Array) -> float:
    """Return the largest eigenvalue of a positive semidefinite matrix."""
    return max(0.0, float(np.linalg.eigvalsh(gram)[-1]))


def _rounding(weight: Array) -> float:
    """Bound the relative error of one step: its matrices have condition number 2 at most."""
    return 64 * EPS * sum(weight.shape) * min(weight.shape)
