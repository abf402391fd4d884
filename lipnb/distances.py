"""Distances between batches, sample by sample: the d_X and d_Y of the sources."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import softplus

__all__ = [
    "euclidean",
    "hellinger",
    "jensen_shannon",
    "kullback_leibler",
    "mean_squared",
    "trivial",
]


def euclidean(x: Tensor, y: Tensor) -> Tensor:
    r"""Euclidean distance of each sample of x to its partner in y.

    .. math:: d(x, y)_i = \|x_i - y_i\|_2

    For one number per sample this is the absolute difference.

    Parameters
    ----------
    x, y : Tensor
        Batches of equal shape (n, ...).

    Returns
    -------
    Tensor
        Distances, shape (n,), at least 0, in float32 or wider. The gradient at distance 0 is 0.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> euclidean(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
    tensor([5.])
    """
    _require_one_shape(x, y)
    difference = (at_least_float32(x) - at_least_float32(y)).reshape(x.shape[0], -1)
    if difference.shape[1] == 1:
        return difference.squeeze(1).abs()
    return vector_norm(difference, dim=1)


def mean_squared(x: Tensor, y: Tensor) -> Tensor:
    r"""Mean over the features of the squared difference: d_Y of the semi-supervised ALR.

    .. math:: d(x, y)_i = \frac1m \sum_{j=1}^m (x_{ij} - y_{ij})^2

    Parameters
    ----------
    x, y : Tensor
        Batches of equal shape (n, ...) with m features, logits for example.

    Returns
    -------
    Tensor
        Shape (n,), at least 0, in float32 or wider. Not a metric, but its square root is.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> mean_squared(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
    tensor([12.5000])
    """
    _require_one_shape(x, y)
    difference = (at_least_float32(x) - at_least_float32(y)).reshape(x.shape[0], -1)
    return difference.square().mean(dim=1)


def trivial(x: Tensor, y: Tensor) -> Tensor:
    """Return 1 for each sample: the d_X that turns the quotient of ALR into the rise alone.

    Parameters
    ----------
    x, y : Tensor
        Batches of equal shape (n, ...).

    Returns
    -------
    Tensor
        Ones, shape (n,), in float32 or wider.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> trivial(torch.zeros(2, 3), torch.zeros(2, 3))
    tensor([1., 1.])
    """
    _require_one_shape(x, y)
    return torch.ones(x.shape[0], dtype=at_least_float32(x[:0]).dtype, device=x.device)


def kullback_leibler(y: Tensor, z: Tensor) -> Tensor:
    r"""Kullback-Leibler divergence of the softmax of z from the softmax of y.

    .. math:: d(y, z)_i = \sum_c p_{ic} \log \frac{p_{ic}}{q_{ic}}, \qquad
        p = \mathrm{softmax}(y), \quad q = \mathrm{softmax}(z)

    Parameters
    ----------
    y, z : Tensor
        Logits, both of shape (n, classes) with at least two classes.

    Returns
    -------
    Tensor
        Divergences in nats, shape (n,), at least 0, in float32 or wider. The gradient with respect
        to z is q - p: it is 0 at equality.

    Raises
    ------
    ValueError
        If the shapes differ or are not (n, classes).

    Examples
    --------
    >>> y, z = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 4.0]]).log()
    >>> kullback_leibler(y, z)  # p = (1/2, 1/2) against q = (1/5, 4/5)
    tensor([0.2231])
    """
    log_p, log_q = _log_softmax(y, z)
    return _relative_entropy(log_p, log_q, log_q - log_p)


def jensen_shannon(y: Tensor, z: Tensor) -> Tensor:
    r"""Jensen-Shannon divergence between the softmax of y and the softmax of z.

    .. math:: d(y, z)_i = \tfrac12 D_{KL}(p_i \,\|\, m_i) + \tfrac12 D_{KL}(q_i \,\|\, m_i),
        \qquad m = \tfrac12 (p + q)

    Parameters
    ----------
    y, z : Tensor
        Logits, both of shape (n, classes) with at least two classes.

    Returns
    -------
    Tensor
        Divergences in nats, shape (n,), in [0, log 2] up to rounding, never negative, in float32 or
        wider. The gradient at equality is 0.

    Raises
    ------
    ValueError
        If the shapes differ or are not (n, classes).

    Examples
    --------
    >>> jensen_shannon(torch.tensor([[50.0, -50.0]]), torch.tensor([[-50.0, 50.0]]))
    tensor([0.6931])
    """
    log_p, log_q = _log_softmax(y, z)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    # log(m / p) = log((1 + q / p) / 2), which is 0 at equality to the last bit.
    log_m_over_p = softplus(log_q - log_p) - math.log(2)
    log_m_over_q = softplus(log_p - log_q) - math.log(2)
    return (
        _relative_entropy(log_p, log_m, log_m_over_p)
        + _relative_entropy(log_q, log_m, log_m_over_q)
    ) / 2


def hellinger(y: Tensor, z: Tensor) -> Tensor:
    r"""Hellinger distance between the softmax of y and the softmax of z.

    .. math:: d(y, z)_i = \tfrac{1}{\sqrt 2} \|\sqrt{p_i} - \sqrt{q_i}\|_2

    Parameters
    ----------
    y, z : Tensor
        Logits, both of shape (n, classes) with at least two classes.

    Returns
    -------
    Tensor
        Distances, shape (n,), in [0, 1] up to rounding, never negative, in float32 or wider. The
        gradient at distance 0 is 0.

    Raises
    ------
    ValueError
        If the shapes differ or are not (n, classes).

    Examples
    --------
    >>> hellinger(torch.tensor([[50.0, -50.0]]), torch.tensor([[-50.0, 50.0]]))
    tensor([1.])
    """
    log_p, log_q = _log_softmax(y, z)
    return vector_norm((log_p / 2).exp() - (log_q / 2).exp(), dim=1) / math.sqrt(2)


def at_least_float32(x: Tensor) -> Tensor:
    """Widen half precision, in which the difference of two close numbers is mostly rounding."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _require_one_shape(x: Tensor, y: Tensor) -> None:
    """Refuse batches that torch would broadcast against each other."""
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape; got {tuple(x.shape)} and {tuple(y.shape)}")


def _log_softmax(y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logarithms of both distributions."""
    if y.shape != z.shape or y.ndim != 2 or y.shape[1] < 2:
        raise ValueError(
            "logits must both have shape (n, classes) with at least two classes;"
            f" got {tuple(y.shape)} and {tuple(z.shape)}"
        )
    return at_least_float32(y).log_softmax(dim=1), at_least_float32(z).log_softmax(dim=1)


def _relative_entropy(log_p: Tensor, log_q: Tensor, t: Tensor) -> Tensor:
    """Sum p log(p / q) over the classes, never negative, given t = log(q / p) too."""
    # As p and q sum to one, it is the sum of p (e^t - 1 - t), whose terms are all positive and of
    # second order in t: close distributions, whose terms p t cancel, keep their digits.
    p, q = log_p.exp(), log_q.exp()
    small = t.clamp(-1, 1)  # e^t could overflow where p vanishes
    terms = torch.where(t.abs() < 1, p * (small.expm1() - small), q - p - p * t)
    value = terms.sum(dim=1)
    # Rounding can still end below 0. A clamp would mend that and switch the gradient off with it.
    return value + (value.clamp_min(0) - value).detach()
