"""Variational bounds on mutual information, from the scores of a critic on two samples."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = [
    "Variational",
    "donsker_varadhan",
    "effective_sample_size",
    "info_nce",
    "jensen_shannon",
    "mine",
    "nguyen_wainwright_jordan",
    "smile",
    "wasserstein_dependency",
]


class Variational(NamedTuple):
    """What a variational formula says about a critic.

    Attributes
    ----------
    value : Tensor
        The estimate, shape (...), detached.
    objective : Tensor
        What the critic is to maximise, shape (...), with its graph. Its gradient is the point; its
        value differs from the estimate where a formula trains by one number and reports another.
    """

    value: Tensor
    objective: Tensor


def donsker_varadhan(joint: Tensor, marginal: Tensor) -> Variational:
    r"""Bound the Kullback-Leibler divergence from below by the formula of Donsker and Varadhan.

    .. math::
        D(P \| Q) \ge \frac1n \sum_i f(z_i) - \log \frac1m \sum_j e^{f(\tilde z_j)}

    The inequality holds for the expectations under P and Q. The logarithm of an average over m
    points is too small on average, so that the estimate is then too large.

    With P the law of the pairs (X, Y) and Q the product of their marginals, the left side is
    I(X; Y). Over all lambda-Lipschitz critics the supremum of the right side is the Moreau-Yosida
    regularisation of the divergence, of strength lambda (`moreau_yosida_kl`).

    Parameters
    ----------
    joint : Tensor
        Scores f(z) at points of P, shape (..., n).
    marginal : Tensor
        Scores at points of Q, shape (..., m), with the same leading axes: one estimate for each.

    Returns
    -------
    Variational
        Value in nats, of any sign; the objective is the same number.

    Raises
    ------
    ValueError
        If shapes do not fit, a sample is empty, or a score is not finite.
    TypeError
        If scores are not floating-point tensors.

    References
    ----------
    Donsker and Varadhan (1983); Belghazi et al. (2018), equation (10) of the conference version;
    Terjek (2021) for Lipschitz critics.

    Examples
    --------
    >>> joint, marginal = torch.tensor([2.0, 4.0]), torch.tensor([1000.0, 1000.0])
    >>> donsker_varadhan(joint, marginal).value
    tensor(-997.)
    """
    _check(joint, marginal)
    objective = joint.mean(dim=-1) - log_mean_exp(marginal)
    return Variational(objective.detach(), objective)


def mine(
    joint: Tensor, marginal: Tensor, log_average: Tensor | None = None, *, rate: float = 0.01
) -> tuple[Variational, Tensor]:
    r"""Bound as `donsker_varadhan` does, with the gradient that MINE corrects for its bias.

    .. math::
        \nabla \approx \frac1n \sum_i \nabla f(z_i)
            - \frac{\frac1m \sum_j e^{f(\tilde z_j)}\, \nabla f(\tilde z_j)}{A_t}, \qquad
        A_t = (1 - r) A_{t-1} + r\, \frac1m \sum_j e^{f(\tilde z_j)}

    A batch's gradient of the logarithm divides by the batch's own average, a ratio whose
    expectation is not the ratio of expectations. MINE divides by an average A over many batches.

    Parameters
    ----------
    joint, marginal : Tensor
        As in `donsker_varadhan`.
    log_average : Tensor, optional
        log A of the step before, shape (...); None in the first step, where A is the batch's own
        average. It is kept as a logarithm, so that it neither over- nor underflows.
    rate : float
        Share r of the new batch, in (0, 1]. With 1 the gradient is that of `donsker_varadhan`;
        smaller is smoother and slower to follow. (Some code calls 1 - r the rate.)

    Returns
    -------
    estimate : Variational
        The value is that of `donsker_varadhan` on this batch. Of the objective only the gradient
        has a meaning.
    log_average : Tensor
        log A of this step, detached: the state to hand to the next call.

    Raises
    ------
    ValueError
        As `donsker_varadhan`; if the rate is not in (0, 1], or log A has another shape or is not
        finite.
    TypeError
        If scores are not floating-point tensors.

    Notes
    -----
    A contains the new batch, so a weight in the gradient is at most 1/r times what it is with
    `donsker_varadhan`. If the critic changes faster than A follows, the quotient of the two
    averages stays far from 1, and training can run away; a Lipschitz bound on the critic limits
    that.

    References
    ----------
    Belghazi et al. (2018), section 3.2 of the conference version.

    Examples
    --------
    >>> scores = torch.tensor([0.0, 0.0])
    >>> _, state = mine(scores, scores)
    >>> _, state = mine(scores, scores + math.log(3.0), state, rate=0.5)
    >>> state.exp()  # half of 1 and half of 3
    tensor(2.)
    """
    _check(joint, marginal)
    if not 0 < rate <= 1:
        raise ValueError(f"rate must be in (0, 1]; got {rate}")
    log_mean = log_mean_exp(marginal)
    new = log_mean.detach()
    if log_average is not None:
        if log_average.shape != new.shape or not bool(torch.isfinite(log_average).all()):
            raise ValueError(
                f"log_average must be finite, of shape {tuple(new.shape)};"
                f" got {tuple(log_average.shape)}: {log_average}"
            )
        kept = log_average.detach() + math.log1p(-rate) if rate < 1 else log_average - math.inf
        new = torch.logaddexp(kept, new + math.log(rate))
    value = joint.detach().mean(dim=-1) - log_mean.detach()
    # d/df of exp(log_mean - log A) is (mean of e^f df) / A.
    objective = joint.mean(dim=-1) - torch.exp(log_mean - new)
    return Variational(value, objective), new


def nguyen_wainwright_jordan(joint: Tensor, marginal: Tensor) -> Variational:
    r"""Bound the Kullback-Leibler divergence from below by NWJ's formula, also called MINE-f.

    .. math::
        D(P \| Q) \ge \frac1n \sum_i f(z_i) - \frac1m \sum_j e^{f(\tilde z_j) - 1}

    No logarithm of an average: the estimate is unbiased for a critic that has not seen the
    samples. It is never above `donsker_varadhan` on the same scores. The best critic is 1 + the
    logarithm of the density ratio.

    Parameters
    ----------
    joint, marginal : Tensor
        As in `donsker_varadhan`.

    Returns
    -------
    Variational
        Value in nats, of any sign; -inf where an exponential overflows. The objective is the same
        number.

    Raises
    ------
    ValueError, TypeError
        As `donsker_varadhan`.

    References
    ----------
    Nguyen, Wainwright and Jordan (2010).

    Examples
    --------
    >>> nguyen_wainwright_jordan(torch.tensor([3.0]), torch.tensor([1.0, 1.0])).value
    tensor(2.)
    """
    _check(joint, marginal)
    objective = joint.mean(dim=-1) - torch.exp(log_mean_exp(marginal) - 1)
    return Variational(objective.detach(), objective)


def info_nce(scores: Tensor) -> Variational:
    r"""Bound mutual information from below by how well pairs are told from their mixtures.

    .. math::
        I(X; Y) \ge \frac1K \sum_i \log
            \frac{e^{f(x_i, y_i)}}{\frac1K \sum_j e^{f(x_i, y_j)}} \;\le\; \log K

    Parameters
    ----------
    scores : Tensor
        ``scores[..., i, j]`` is f(x_i, y_j), shape (..., K, K): pairs on the diagonal.

    Returns
    -------
    Variational
        Value in nats, at most log K; the objective is the same number.

    Raises
    ------
    ValueError
        If the matrix is not square, empty, or not finite.
    TypeError
        If scores are not a floating-point tensor.

    References
    ----------
    van den Oord, Li and Vinyals (2018); Poole et al. (2019), equation (10).

    Examples
    --------
    >>> info_nce(torch.tensor([[9.0, 0.0], [0.0, 9.0]])).value  # log 2, nearly
    tensor(0.6930)
    """
    _require(scores, "scores")
    if scores.ndim < 2 or scores.shape[-1] != scores.shape[-2]:
        raise ValueError(f"scores must be square, (..., K, K); got {tuple(scores.shape)}")
    objective = contrast(scores.diagonal(dim1=-2, dim2=-1), scores)
    return Variational(objective.detach(), objective)


def contrast(positive: Tensor, candidates: Tensor) -> Tensor:
    """InfoNCE where candidates[..., i, :], shape (..., n, K), hold positive[..., i], (..., n)."""
    # A logsumexp is at least its largest term, in floating point too: the bound log K is exact.
    below = (positive - torch.logsumexp(candidates, dim=-1)).mean(dim=-1)
    return below + math.log(candidates.shape[-1])


def smile(joint: Tensor, marginal: Tensor, *, clip: float = 5.0) -> Variational:
    r"""Estimate the Kullback-Leibler divergence with clipped weights.

    .. math::
        \frac1n \sum_i f(z_i) - \log \frac1m \sum_j e^{\min(\max(f(\tilde z_j), -\tau), \tau)}

    Clipping bounds the variance and gives up the inequality: this is no lower bound. The critic
    is trained by `jensen_shannon`'s objective, as its authors do.

    Parameters
    ----------
    joint, marginal : Tensor
        As in `donsker_varadhan`. The constant of f matters here: f is to be the logarithm of the
        density ratio.
    clip : float
        The threshold tau, positive; with infinity the value is that of `donsker_varadhan`.

    Returns
    -------
    Variational
        Value in nats, of any sign.

    Raises
    ------
    ValueError
        As `donsker_varadhan`, or if the threshold is not positive.
    TypeError
        If scores are not floating-point tensors.

    References
    ----------
    Song and Ermon (2020).

    Examples
    --------
    >>> smile(torch.tensor([2.0]), torch.tensor([0.0, 90.0]), clip=1e-9).value
    tensor(2.)
    """
    _check(joint, marginal)
    if not clip > 0:
        raise ValueError(f"clip must be positive; got {clip}")
    clipped = log_mean_exp(marginal.detach().clamp(-clip, clip))
    return Variational(joint.detach().mean(dim=-1) - clipped, _jensen_shannon(joint, marginal))


def jensen_shannon(joint: Tensor, marginal: Tensor) -> Variational:
    r"""Train a critic by the Jensen-Shannon divergence, and report `donsker_varadhan`.

    .. math::
        D_{JS}(P, Q) \ge \log 2 - \frac1{2n} \sum_i \log(1 + e^{-f(z_i)})
            - \frac1{2m} \sum_j \log(1 + e^{f(\tilde z_j)})

    This is logistic regression of the one sample against the other. Its best critic too is the
    logarithm of the density ratio, and its gradient has no exponential in it.

    Parameters
    ----------
    joint, marginal : Tensor
        As in `donsker_varadhan`.

    Returns
    -------
    Variational
        The value is that of `donsker_varadhan` for this critic. The objective is the bound above,
        in nats and at most log 2.

    Raises
    ------
    ValueError, TypeError
        As `donsker_varadhan`.

    References
    ----------
    Nowozin, Cseke and Tomioka (2016); Hjelm et al. (2019).

    Examples
    --------
    >>> jensen_shannon(torch.tensor([0.0]), torch.tensor([0.0]))
    Variational(value=tensor(0.), objective=tensor(0.))
    """
    _check(joint, marginal)
    value = joint.detach().mean(dim=-1) - log_mean_exp(marginal.detach())
    return Variational(value, _jensen_shannon(joint, marginal))


def wasserstein_dependency(joint: Tensor, marginal: Tensor) -> Variational:
    r"""Bound the Wasserstein dependency measure by the gap of a 1-Lipschitz critic.

    .. math:: W_1(P, Q) \ge \frac1n \sum_i f(z_i) - \frac1m \sum_j f(\tilde z_j)

    Parameters
    ----------
    joint, marginal : Tensor
        As in `donsker_varadhan`, of a critic whose Lipschitz constant is at most 1.

    Returns
    -------
    Variational
        Value in the units of the points, not in nats; the objective is the same number.

    Raises
    ------
    ValueError, TypeError
        As `donsker_varadhan`.

    References
    ----------
    Ozair et al. (2019).

    Examples
    --------
    >>> wasserstein_dependency(torch.tensor([3.0]), torch.tensor([1.0, 0.0])).value
    tensor(2.5000)
    """
    _check(joint, marginal)
    objective = joint.mean(dim=-1) - marginal.mean(dim=-1)
    return Variational(objective.detach(), objective)


def effective_sample_size(marginal: Tensor) -> Tensor:
    r"""Count how many of the weights in an exponential average carry it.

    .. math:: \frac{\bigl(\sum_j w_j\bigr)^2}{\sum_j w_j^2}, \qquad w_j = e^{f(\tilde z_j)}

    Parameters
    ----------
    marginal : Tensor
        Scores f, shape (..., m).

    Returns
    -------
    Tensor
        From 1 (one weight outweighs all others) to m (all are equal), shape (...). Where it is
        small, `donsker_varadhan` rests on a few points and is not to be trusted.

    Raises
    ------
    ValueError
        If the sample is empty or a score is not finite.
    TypeError
        If scores are not a floating-point tensor.

    Examples
    --------
    >>> effective_sample_size(torch.tensor([0.0, 0.0, 0.0, -100.0]))
    tensor(3.)
    """
    _require(marginal, "marginal")
    log_sum, log_squares = torch.logsumexp(marginal, -1), torch.logsumexp(2 * marginal, -1)
    return torch.exp(2 * log_sum - log_squares)


def log_mean_exp(scores: Tensor) -> Tensor:
    """Logarithm of the mean of e^scores over the last axis, without overflow."""
    return torch.logsumexp(scores, dim=-1) - math.log(scores.shape[-1])


def _jensen_shannon(joint: Tensor, marginal: Tensor) -> Tensor:
    """Lower bound on the Jensen-Shannon divergence, in nats."""
    losses = softplus(-joint).mean(dim=-1) + softplus(marginal).mean(dim=-1)
    return math.log(2) - losses / 2


def _check(joint: Tensor, marginal: Tensor) -> None:
    """Refuse two samples of scores that do not belong together."""
    _require(joint, "joint")
    _require(marginal, "marginal")
    if joint.shape[:-1] != marginal.shape[:-1]:
        raise ValueError(
            "joint (..., n) and marginal (..., m) must have the same leading axes;"
            f" got {tuple(joint.shape)} and {tuple(marginal.shape)}"
        )


def _require(scores: Tensor, name: str) -> None:
    """Refuse what is not a non-empty sample of finite scores."""
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        got = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        raise TypeError(f"{name} must be a floating-point tensor; got {got}")
    if scores.ndim == 0 or scores.numel() == 0:
        raise ValueError(f"{name} must hold at least one score; got shape {tuple(scores.shape)}")
    if not bool(torch.isfinite(scores).all()):
        bad = int((~torch.isfinite(scores)).sum())
        raise ValueError(f"{name} must be finite; got {bad} scores that are not")
