"""Every regulariser and constraint of Part II as a recipe for a critic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lipnb.constraints import clip_weights, orthogonal, project_norm, spectral_norm
from lipnb.models import GroupSort, mlp
from lipnb.regularizers import (
    WorstPoints,
    adversarial_lipschitz_penalty,
    consistency_penalty,
    gradient_penalty,
    interpolate,
    lipschitz_penalty,
    max_gradient_penalty,
    random_pairs,
)
from lipnb.regularizers.penalty import Penalty
from lipnb.training.critic import CriticPenalty, CriticRun, train_critic
from lipnb.training.critic_problems import CriticProblem

__all__ = ["METHODS", "CriticMethod", "train_method"]


@dataclass(frozen=True)
class CriticMethod:
    """How to train a critic in one way.

    Attributes
    ----------
    name : str
        For records and tables.
    family : str
        Key of `lipnb.plotting.METHOD_COLOURS`.
    label : str
        For figures and tables.
    guaranteed : bool
        Whether the constant of the trained network is at most 1 by construction.
    penalty : callable, optional
        Makes the penalty for a problem, which says how long a perturbation is.
    weight : float
        Weight lambda of the penalty.
    activation : callable
        Makes one activation layer.
    constrain : callable, optional
        Called with each linear layer and a generator before training.
    after_step : callable, optional
        Called with the critic after each step.
    dropout : float
        Probability of dropout after each activation.
    """

    name: str
    family: str
    label: str
    guaranteed: bool = False
    penalty: Callable[[CriticProblem], CriticPenalty] | None = None
    weight: float = 10.0
    activation: Callable[[], nn.Module] = nn.ReLU
    constrain: Callable[[nn.Linear, torch.Generator], object] | None = None
    after_step: Callable[[nn.Module], object] | None = None
    dropout: float = field(default=0.0)

    def build(self, widths: Sequence[int], generator: torch.Generator) -> nn.Sequential:
        """Make the untrained critic, with its constraints attached."""
        critic = mlp(widths, self.activation, generator=generator)
        if self.dropout:
            layers: list[nn.Module] = []
            for layer in critic:
                last = isinstance(layer, nn.Linear)
                layers += [layer] if last else [layer, nn.Dropout(self.dropout)]
            critic = nn.Sequential(*layers)
        if self.constrain is not None:
            for layer in critic:
                if isinstance(layer, nn.Linear):
                    self.constrain(layer, generator)
        return critic


def train_method(
    method: CriticMethod,
    problem: CriticProblem,
    seed: int,
    *,
    width: int = 128,
    iterations: int = 1000,
    **settings: Any,
) -> CriticRun:
    """Train a critic on a problem in one way.

    Parameters
    ----------
    method : CriticMethod
        How.
    problem : CriticProblem
        On what.
    seed : int
        Decides weights and data, from 0.
    width : int
        Of the two hidden layers.
    iterations : int
        Number of steps.
    **settings
        Passed to `train_critic`.

    Returns
    -------
    CriticRun
        The trained critic and its history.

    Examples
    --------
    >>> from lipnb.training.critic_problems import problem
    >>> run = train_method(METHODS["lp"], problem("mixture"), 0, width=8, iterations=2)
    >>> run.gap.shape
    torch.Size([2])
    """
    generator = torch.Generator().manual_seed(seed)
    critic = method.build([problem.dimension, width, width, 1], generator)
    return train_critic(
        critic,
        problem.sample,
        penalty=method.penalty(problem) if method.penalty is not None else None,
        weight=method.weight,
        after_step=method.after_step,
        iterations=iterations,
        generator=generator,
        **settings,
    )


def _gradient(problem: CriticProblem, **options: Any) -> CriticPenalty:
    """Penalise gradient norms on segments between the laws."""

    def penalty(f: nn.Module, x: Tensor, y: Tensor, output: Tensor, g: torch.Generator) -> Penalty:
        """Draw the points and penalise."""
        return gradient_penalty(f, interpolate(x, y, generator=g), **options)

    return penalty


def _maximum(problem: CriticProblem) -> CriticPenalty:
    """Penalise the steepest gradient, worst points of earlier steps included."""
    worst = WorstPoints(16)

    def penalty(f: nn.Module, x: Tensor, y: Tensor, output: Tensor, g: torch.Generator) -> Penalty:
        """Draw the points and penalise."""
        points = interpolate(x, y, generator=g)
        return max_gradient_penalty(f, points, lipschitz_constant=1.0, one_sided=True, worst=worst)

    return penalty


def _partners(problem: CriticProblem) -> CriticPenalty:
    """Penalise the quotients of x and y of equal index."""

    def penalty(f: nn.Module, x: Tensor, y: Tensor, output: Tensor, g: torch.Generator) -> Penalty:
        """Penalise the pairs as they come."""
        return lipschitz_penalty(f, x, y, output=output[: len(x)])

    return penalty


def _random(problem: CriticProblem) -> CriticPenalty:
    """Penalise the quotients of random pairs of both laws together."""

    def penalty(f: nn.Module, x: Tensor, y: Tensor, output: Tensor, g: torch.Generator) -> Penalty:
        """Draw the pairs and penalise."""
        return lipschitz_penalty(f, *random_pairs(torch.cat([x, y]), generator=g))

    return penalty


def _consistency(problem: CriticProblem) -> CriticPenalty:
    """GP at weight 10 and the consistency term at weight 2, as in its paper."""

    def penalty(f: nn.Module, x: Tensor, y: Tensor, output: Tensor, g: torch.Generator) -> Penalty:
        """Add the two penalties."""
        found = gradient_penalty(f, interpolate(x, y, generator=g))
        term = consistency_penalty(f, x, generator=g)
        return found._replace(loss=found.loss + 0.2 * term.loss)

    return penalty


def _adversarial(problem: CriticProblem, *, xi: float = 0.1, **options: Any) -> CriticPenalty:
    """ALP on the points of both laws; lengths in units of the problem's scale."""
    scale = problem.scale

    def penalty(f: nn.Module, x: Tensor, y: Tensor, output: Tensor, g: torch.Generator) -> Penalty:
        """Search and penalise."""
        return adversarial_lipschitz_penalty(
            f,
            torch.cat([x, y]),
            output=output if xi else None,
            radius=(0.02 * scale, 0.2 * scale),
            xi=xi * scale,
            generator=g,
            **options,
        )

    return penalty


def _spectral(layer: nn.Linear, generator: torch.Generator) -> object:
    """Attach spectral normalisation."""
    return spectral_norm(layer, generator=generator)


def _orthogonal(layer: nn.Linear, generator: torch.Generator, **options: Any) -> object:
    """Attach orthogonality."""
    return orthogonal(layer, generator=generator, **options)


_FULL = partial(GroupSort, group_size=None)
_GP, _LP = "gradient_penalty", "lipschitz_penalty"
_PAIRS, _ALP = "explicit_penalty", "adversarial_lipschitz_penalty"
_ORTHOGONAL = "orthogonal"

METHODS = {
    method.name: method
    for method in (
        CriticMethod("none", "none", "none"),
        CriticMethod(
            "clip", "weight_clipping", "clipping 0.04", after_step=partial(clip_weights, bound=0.04)
        ),
        CriticMethod("gp", _GP, "GP", penalty=_gradient),
        CriticMethod("ct", _GP, "GP + CT", penalty=_consistency, dropout=0.2),
        CriticMethod("lp", _LP, "LP", penalty=partial(_gradient, one_sided=True)),
        CriticMethod("max-gp", _LP, "max-GP", penalty=_maximum),
        CriticMethod("pairs-real-fake", _PAIRS, "pairs x, y", penalty=_partners),
        CriticMethod("pairs-random", _PAIRS, "random pairs", penalty=_random),
        CriticMethod("alp-k0", _ALP, "ALP k = 0", penalty=partial(_adversarial, steps=0)),
        CriticMethod("alp-k1", _ALP, "ALP k = 1", penalty=_adversarial),
        CriticMethod("alp-gradient", _ALP, "ALP ξ = 0", penalty=partial(_adversarial, xi=0.0)),
        CriticMethod(
            "alp-two-sided",
            _ALP,
            "ALP two-sided",
            penalty=partial(_adversarial, one_sided=False),
        ),
        CriticMethod("sn", "spectral_norm", "SN ReLU", guaranteed=True, constrain=_spectral),
        CriticMethod(
            "sn-maxmin",
            "spectral_norm",
            "SN MaxMin",
            guaranteed=True,
            activation=GroupSort,
            constrain=_spectral,
        ),
        CriticMethod(
            "projection-2",
            "spectral_norm",
            "projection 2",
            guaranteed=True,
            after_step=partial(project_norm, norm=2),
        ),
        CriticMethod(
            "projection-inf",
            "spectral_norm",
            "projection inf",
            guaranteed=True,
            after_step=partial(project_norm, norm=float("inf")),
        ),
        CriticMethod(
            "orthogonal-maxmin",
            _ORTHOGONAL,
            "orth. MaxMin",
            guaranteed=True,
            activation=GroupSort,
            constrain=_orthogonal,
        ),
        CriticMethod(
            "orthogonal-fullsort",
            _ORTHOGONAL,
            "orth. FullSort",
            guaranteed=True,
            activation=_FULL,
            constrain=_orthogonal,
        ),
        CriticMethod(
            "bjorck-maxmin",
            _ORTHOGONAL,
            "Björck MaxMin",
            guaranteed=True,
            activation=GroupSort,
            constrain=partial(_orthogonal, method="bjorck"),
        ),
    )
}
