"""Losses of critic and generator: what each method adds to the difference of two means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipnb.distances import at_least_float32
from lipnb.regularizers import (
    Penalty,
    WorstPoints,
    adversarial_lipschitz_penalty,
    consistency_penalty,
    excess_penalty,
    gradient_penalty,
    interpolate,
    lipschitz_penalty,
    max_gradient_penalty,
    sobolev_dual_norm,
    sobolev_norm,
)
from lipnb.training.wgan_presets import WganSettings

__all__ = ["CriticTerms", "Memory", "critic_terms", "generator_loss", "value_loss"]


class CriticTerms(NamedTuple):
    """The parts of one critic loss.

    Attributes
    ----------
    loss : Tensor
        What is minimised, with its graph.
    gap : Tensor
        Mean of f on real images less its mean on generated ones.
    penalty : Tensor
        Loss of the penalty before its weight, at least 0; 0 where there is none.
    slopes : Tensor or None
        The slopes that were measured, shape (m,), detached.
    violations : Tensor
        How many of them exceed the target.
    """

    loss: Tensor
    gap: Tensor
    penalty: Tensor
    slopes: Tensor | None
    violations: Tensor


@dataclass
class Memory:
    """What an objective keeps from step to step.

    Attributes
    ----------
    worst : WorstPoints or None
        Buffer of "max_gp".
    scale : Tensor
        What both losses are divided by, shape (): gamma of "banach" of the last batch, else 1.
    """

    worst: WorstPoints | None = None
    scale: Tensor = field(default_factory=lambda: torch.ones(()))


def value_loss(kind: str, f_real: Tensor, f_fake: Tensor) -> Tensor:
    r"""Compute what the critic minimises beside its penalty.

    .. math:: \mathbb E\, \phi\bigl(f(\tilde x)\bigr) + \mathbb E\, \phi\bigl(-f(x)\bigr)

    Parameters
    ----------
    kind : str
        Which phi: "linear" for t, "hinge" for max(0, 1 + t), "exponential" for exp(t), "logistic"
        for log(1 + exp(t)), "root" for sqrt(t^2 + 1) + t.
    f_real, f_fake : Tensor
        Outputs on real images x and generated ones, any shapes.

    Returns
    -------
    Tensor
        A scalar.

    Raises
    ------
    ValueError
        If `kind` is another one.

    References
    ----------
    Miyato et al. (2018) for the hinge; Zhou et al. (2019) for the others.

    Examples
    --------
    >>> value_loss("linear", torch.tensor([3.0]), torch.tensor([1.0])).item()
    -2.0
    >>> value_loss("hinge", torch.tensor([0.5]), torch.tensor([-2.0])).item()
    0.5
    """
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "linear": lambda t: t,
        "hinge": lambda t: (1 + t).clamp_min(0),
        "exponential": torch.exp,
        "logistic": F.softplus,
        "root": lambda t: (t.square() + 1).sqrt() + t,
    }
    if kind not in functions:
        raise ValueError(f"kind must be one of {', '.join(functions)}; got {kind!r}")
    return functions[kind](f_fake).mean() + functions[kind](-f_real).mean()


def generator_loss(critic: nn.Module, fake: Tensor, scale: Tensor) -> Tensor:
    r"""Compute what the generator minimises.

    .. math:: -\frac1\gamma\, \mathbb E f(g(z))

    Parameters
    ----------
    critic : nn.Module
        f.
    fake : Tensor
        Images g(z) with their graph.
    scale : Tensor
        gamma, shape (), `Memory.scale`.

    Returns
    -------
    Tensor
        A scalar.

    Examples
    --------
    >>> generator_loss(nn.Identity(), torch.tensor([[1.0], [3.0]]), torch.tensor(2.0)).item()
    -1.0
    """
    return -at_least_float32(critic(fake)).mean() / scale


def critic_terms(
    settings: WganSettings,
    critic: nn.Module,
    real: Tensor,
    fake: Tensor,
    memory: Memory,
    generator: torch.Generator,
) -> CriticTerms:
    r"""Compute the loss of a critic on one batch.

    .. math:: \mathbb E f(\tilde x) - \mathbb E f(x) + \lambda\, \mathcal L(f)

    The outputs of this loss serve the penalty too, wherever the penalty looks at the same points
    and a second pass would repeat the first: without batch normalisation and dropout.

    Parameters
    ----------
    settings : WganSettings
        Which loss and penalty.
    critic : nn.Module
        Network f in training mode, images (n, c, h, w) to (n, 1).
    real, fake : Tensor
        Images x and generated ones, both (n, c, h, w), detached.
    memory : Memory
        Of this critic; changed.
    generator : torch.Generator
        Source of the penalty's randomness.

    Returns
    -------
    CriticTerms
        Loss and its parts.

    Raises
    ------
    ValueError
        As the penalties; a value that is not finite among them.

    References
    ----------
    Arjovsky et al. (2017), Gulrajani et al. (2017), Petzka et al. (2018), Wei et al. (2018),
    Miyato et al. (2018), Adler and Lunz (2018), Zhou et al. (2019), Terjek (2020, 2021).

    Examples
    --------
    >>> critic = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False))
    >>> _ = nn.init.constant_(critic[1].weight, 1.0)  # slope 2
    >>> x, g = torch.rand(3, 1, 2, 2), torch.Generator().manual_seed(0)
    >>> terms = critic_terms(WganSettings(objective="lp"), critic, x + 1, x, Memory(), g)
    >>> round(terms.gap.item(), 4), round(terms.loss.item(), 4), terms.violations.item()
    (4.0, 6.0, 3.0)
    """
    x = torch.cat([real, fake])
    features = None
    if settings.batch_norm:  # f(x) depends on its batch: real and generated images stay apart
        f_real, f_fake, output = critic(real), critic(fake), None
    elif settings.objective == "ct":
        features, output = _with_features(critic)(x)[1], None
        f_real, f_fake = critic[-1](features).chunk(2)  # type: ignore[index]
    else:
        output = critic(x)
        f_real, f_fake = output.chunk(2)
        output = None if settings.dropout else output
    f_real, f_fake = at_least_float32(f_real), at_least_float32(f_fake)
    gap = f_real.detach().mean() - f_fake.detach().mean()
    step = _Step(settings, critic, real, fake, x, output, f_real, f_fake, features, memory)
    loss = value_loss(settings.value_loss, f_real, f_fake)
    if settings.objective == "banach":
        loss = loss / step.measure_scale()
    if settings.drift:
        loss = loss + settings.drift * f_real.square().mean()
    penalise = _PENALTIES.get(settings.objective)
    if penalise is None:
        zero = torch.zeros_like(gap)
        return CriticTerms(loss, gap, zero, None, zero)
    found = penalise(step, generator)
    loss = loss + settings.weight * found.loss
    return CriticTerms(
        loss, gap, found.loss.detach(), found.slopes.detach(), found.violations.to(gap.dtype)
    )


@dataclass
class _Step:
    """One batch, its outputs, and the memory."""

    settings: WganSettings
    critic: nn.Module
    real: Tensor
    fake: Tensor
    x: Tensor
    output: Tensor | None
    f_real: Tensor
    f_fake: Tensor
    features: Tensor | None
    memory: Memory

    def measure_scale(self) -> Tensor:
        """Return gamma, the mean dual norm of the real images, and keep it."""
        s, p = self.settings.sobolev
        scale = sobolev_dual_norm(self.real, s, p).mean()
        self.memory.scale = self.memory.scale.to(scale)
        self.memory.scale.copy_(scale)  # in place: a graph that was captured reads it there
        return scale


def _gradient(step: _Step, g: torch.Generator) -> Penalty:
    """GP and LP."""
    s = step.settings
    return gradient_penalty(
        step.critic,
        interpolate(step.real, step.fake, generator=g),
        lipschitz_constant=s.lipschitz_constant,
        one_sided=s.one_sided,
        allow_batch_norm=s.batch_norm,
        generator=_if_random(s, g),
    )


def _explicit(step: _Step, g: torch.Generator) -> Penalty:
    """Quotients of each real image and the generated one of equal index; no further pass."""
    s, known = step.settings, step.output is not None
    return lipschitz_penalty(
        (lambda _: step.f_fake) if known else step.critic,
        step.real,
        step.fake,
        output=step.f_real if known else None,
        lipschitz_constant=s.lipschitz_constant,
        one_sided=s.one_sided,
        generator=_if_random(s, g),
    )


def _consistency(step: _Step, g: torch.Generator) -> Penalty:
    """GP plus the consistency term, whose first pass is that of the training loss."""
    s = step.settings
    found = _gradient(step, g)
    f = _with_features(step.critic)
    n = len(step.real)
    given = None if step.features is None else (step.f_real, step.features[:n])
    term = consistency_penalty(f, step.real, output=given, margin=s.consistency_margin, generator=g)
    # The caller multiplies both by lambda; lambda_2 stands for itself.
    share = s.consistency_weight / s.weight if s.weight else 0.0
    return found._replace(loss=found.loss + share * term.loss)


def _banach(step: _Step, g: torch.Generator) -> Penalty:
    """Dual norms in units of gamma; lambda, the mean norm of the data, is part of the loss."""
    settings = step.settings
    s, p = settings.sobolev
    scale = step.memory.scale

    def dual_norm(gradient: Tensor) -> Tensor:
        """Norm of a gradient over gamma."""
        return sobolev_dual_norm(gradient, s, p) / scale

    found = gradient_penalty(
        step.critic,
        interpolate(step.real, step.fake, generator=g),
        one_sided=settings.one_sided,
        dual_norm=dual_norm,
        allow_batch_norm=settings.batch_norm,
        generator=_if_random(settings, g),
    )
    weight = sobolev_norm(step.real, s, p).mean()
    share = 1 / settings.weight if settings.weight else 0.0
    return found._replace(loss=share * weight * found.loss)


def _maximum(step: _Step, g: torch.Generator) -> Penalty:
    """Square of the largest gradient norm."""
    s = step.settings
    return max_gradient_penalty(
        step.critic,
        interpolate(step.real, step.fake, generator=g),
        lipschitz_constant=s.lipschitz_constant,
        one_sided=s.one_sided,
        worst=step.memory.worst,
        allow_batch_norm=s.batch_norm,
        generator=_if_random(s, g),
    )


def _adversarial(step: _Step, g: torch.Generator) -> Penalty:
    """ALP, on real and generated images together."""
    s = step.settings
    start = None
    if s.start_direction == "cube":
        start = torch.rand(step.x.shape, generator=g, device=g.device) - 0.5
    return adversarial_lipschitz_penalty(
        step.critic,
        step.x,
        output=step.output,
        lipschitz_constant=s.lipschitz_constant,
        radius=s.radius,
        xi=s.xi,
        steps=s.search_steps,
        domain=_box(s.domain, step.x),
        one_sided=s.one_sided,
        start=start,
        generator=g,
    )


def _unconstrained(step: _Step, g: torch.Generator) -> Penalty:
    """Take the power of the largest quotient under which the maximum is W_1^alpha."""
    alpha = step.settings.power
    slopes = _adversarial(step, g).slopes
    largest = slopes.index_select(0, slopes.detach().argmax().reshape(1))
    power = largest.pow(alpha / (alpha - 1)).squeeze(0)
    loss = (alpha - 1) * alpha ** (alpha / (1 - alpha)) * power
    counted = excess_penalty(slopes, lipschitz_constant=step.settings.lipschitz_constant)
    return counted._replace(loss=loss)


_PENALTIES: dict[str, Callable[[_Step, torch.Generator], Penalty]] = {
    "gp": _gradient,
    "lp": _gradient,
    "explicit": _explicit,
    "ct": _consistency,
    "banach": _banach,
    "max_gp": _maximum,
    "alp": _adversarial,
    "unconstrained": _unconstrained,
}


class _Features(nn.Module):
    """A critic as a function to its value and the features below its last layer."""

    def __init__(self, critic: nn.Sequential) -> None:
        super().__init__()
        self.body, self.head = critic[:-1], critic[-1]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return values (n, 1) and features (n, m)."""
        features = self.body(x)
        return self.head(features), features


def _with_features(critic: nn.Module) -> _Features:
    """Look into a sequential critic."""
    if not isinstance(critic, nn.Sequential):
        raise TypeError(f"'ct' needs an nn.Sequential critic; got {type(critic).__name__}")
    return _Features(critic).train(critic.training)


def _if_random(settings: WganSettings, g: torch.Generator) -> torch.Generator | None:
    """Give a network its own random numbers only where it draws some."""
    return g if settings.dropout else None


def _box(domain: tuple[float, float] | None, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Make the box on the device of x."""
    if domain is None:
        return None
    low, high = (x.new_full((), side) for side in domain)
    return low, high
