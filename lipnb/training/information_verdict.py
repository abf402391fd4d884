"""What an estimate of mutual information reports, and how far it is to be trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lipnb.regularizers.gradient import gradient_norms
from lipnb.theory.variational import effective_sample_size, log_mean_exp
from lipnb.training.information_critics import InformationCritic
from lipnb.training.information_loop import Estimator, product_scores

__all__ = ["InformationDiagnostics", "MutualInformation", "largest_slope", "standard_error"]

# An exponential average carried by fewer points than this is not to be trusted.
FEWEST_EFFECTIVE = 100
PAIRS = 100_000  # wrong pairs scored for an estimate, about


@dataclass(frozen=True)
class InformationDiagnostics:
    """How far an estimate is to be trusted.

    Attributes
    ----------
    converged : bool
        Whether the validation curve has stopped rising and the value is finite.
    still_rising : bool
        Whether the best validation value of the second half of the training exceeds the best of
        the first by more than 0.02 nats and 2 per cent: more steps, or longer ones, may raise the
        estimate. (The decay of the learning rate flattens the very end of every curve.)
    effective_sample_size : float
        Of the exponential average, see `lipnb.theory.effective_sample_size`.
    exponential_variance : float
        Variance of the weights e^f over their squared mean, at least 0. For the logarithm of the
        density ratio itself, in the limit, it is the chi-square divergence: e^(2 I) - 1 for
        component-wise correlated Gaussians.
    reliable : bool
        Whether at least 100 points carry the exponential average.
    training_value : float
        The same estimate on the training rows. Far above the held-out one: overfitted.
    lipschitz : float
        Largest gradient norm of the critic at 2000 points, pairs, wrong pairs and points between
        them: a lower bound on its Lipschitz constant, in the unit of `coordinates`.
    coordinates : str
        "normal_scores", "standard" (see `estimate_mutual_information`), or "original" units.
    """

    converged: bool
    still_rising: bool
    effective_sample_size: float
    exponential_variance: float
    reliable: bool
    training_value: float
    lipschitz: float
    coordinates: str


@dataclass(frozen=True)
class MutualInformation:
    """An estimate of mutual information.

    Attributes
    ----------
    value : float
        The estimate in nats (for "wasserstein_dependency" in the unit of the points). It is the
        held-out one unless training rows were asked for, and may be slightly negative.
    standard_error : float
        From the scatter over the rows it was computed on; the critic counts as given. NaN where
        rows were trained on.
    held_out : float or None
        The estimate on rows that neither trained the critic nor chose its weights; None if every
        row was trained on.
    evaluated_on : str
        "held_out" or "training": the rows of `value`.
    history : dict of str to Tensor
        "training" (steps,): value on each batch; "checked" and "validation" (checks,): steps and
        values on the validation rows; "best": the step whose weights were kept.
    diagnostics : InformationDiagnostics
        How far the estimate is to be trusted.
    rows : dict of str to Tensor
        Indices of the "training", "validation" and "held_out" rows.
    critic : InformationCritic
        The critic, in evaluation mode. It reads rows in its own coordinates.
    """

    value: float
    standard_error: float
    held_out: float | None
    evaluated_on: str
    history: dict[str, Tensor]
    diagnostics: InformationDiagnostics
    rows: dict[str, Tensor]
    critic: InformationCritic


def standard_error(estimator: Estimator, scores: Tensor) -> float:
    r"""Estimate the standard error of a value from the influence of each row on it.

    A row i enters as a pair, and with its x and its y in wrong pairs. With the weights w of the
    wrong pairs, of mean 1, the influence on the formula of Donsker and Varadhan is

    .. math:: \psi_i = f_{ii} - \bar w_{i \cdot} - \bar w_{\cdot i} + \text{constant}

    Parameters
    ----------
    estimator : Estimator
        The formula.
    scores : Tensor
        As `product_scores` returns them for equidistant shifts, shape (shifts + 1, n).

    Returns
    -------
    float
        Standard deviation of the influences over the root of n.
    """
    joint, wrong = scores[0], scores[1:]
    n = len(joint)
    if estimator.name == "info_nce":
        influence = joint - torch.logsumexp(scores, dim=0)
    else:
        if estimator.name == "wasserstein_dependency":
            terms = wrong
        elif estimator.name == "nguyen_wainwright_jordan":
            terms = wrong.exp()
        else:
            f = wrong.clamp(-estimator.clip, estimator.clip) if estimator.name == "smile" else wrong
            terms = torch.exp(f - log_mean_exp(f.flatten()))
        spread = 1 + torch.arange(len(wrong)) * (n - 1) // len(wrong)
        partner = (torch.arange(n)[None] + spread[:, None]) % n
        by_y = torch.zeros(n, dtype=terms.dtype).index_add(0, partner.flatten(), terms.flatten())
        influence = joint - terms.mean(dim=0) - by_y / len(wrong)
    return float(influence.std() / math.sqrt(n))


def largest_slope(
    critic: InformationCritic, x: Tensor, y: Tensor, generator: torch.Generator
) -> float:
    """Largest gradient norm at up to 2000 pairs, wrong pairs, and points between them.

    Parameters
    ----------
    critic : InformationCritic
        One critic, M = 1.
    x, y : Tensor
        Rows, (n, d_x) and (n, d_y).
    generator : torch.Generator
        Source of the points between.

    Returns
    -------
    float
        A lower bound on the Lipschitz constant, at least 0.
    """
    x, y = x[:700], y[:700]
    right, wrong = torch.cat([x, y], dim=1), torch.cat([x, y.roll(1, 0)], dim=1)
    share = torch.rand(len(x), 1, generator=generator, dtype=torch.float64).to(x.dtype)
    points = torch.cat([right, wrong, right + share * (wrong - right)])
    slopes = gradient_norms(
        critic, points, dual_norm=None, allow_batch_norm=False, generator=generator
    )
    return float(slopes.detach().max())


def diagnose(
    scores: Tensor, curve: Tensor, training_value: float, lipschitz: float, coordinates: str
) -> InformationDiagnostics:
    """Judge an estimate by its scores (shifts + 1, n) and its validation curve (checks,)."""
    weights = scores[1:].flatten()
    effective = float(effective_sample_size(weights))
    rising = is_rising(curve)
    return InformationDiagnostics(
        converged=not rising,
        still_rising=rising,
        effective_sample_size=effective,
        exponential_variance=len(weights) / effective - 1,
        reliable=effective >= FEWEST_EFFECTIVE,
        training_value=training_value,
        lipschitz=lipschitz,
        coordinates=coordinates,
    )


def is_rising(curve: Tensor) -> bool:
    """Whether the second half of a curve rises above the first by more than 0.02 and 2 %."""
    half = len(curve) // 2
    if half < 1:
        return True  # too short to tell
    before, after = float(curve[:half].max()), float(curve[half:].max())
    return after - before > 0.02 + 0.02 * abs(before)


def scores_for_estimate(critic: InformationCritic, x: Tensor, y: Tensor) -> Tensor:
    """Score every row with itself and with as many others as the budget allows."""
    return product_scores(critic, x, y, max(1, PAIRS // x.shape[1]))
