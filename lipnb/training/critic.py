"""Train a critic towards a Wasserstein distance, with any regulariser or constraint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipnb.regularizers.penalty import Penalty

__all__ = ["CriticRun", "critic_gap", "train_critic"]

Sampler = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
CriticPenalty = Callable[[nn.Module, Tensor, Tensor, Tensor, torch.Generator], Penalty]


@dataclass(frozen=True)
class CriticRun:
    """A trained critic and what was seen on the way.

    Attributes
    ----------
    critic : nn.Module
        The trained network, in evaluation mode.
    gap : Tensor
        Mean of f on the x of each batch minus its mean on the y, shape (iterations,).
    penalty : Tensor
        Loss of the penalty before its weight, shape (iterations,); zeros where there is none.
    slope : Tensor
        Largest slope that the penalty measured in each batch, shape (iterations,); NaN without one.
    violations : Tensor
        Share of the measured slopes above the target, shape (iterations,); NaN without one.
    seconds : float
        CPU time of the training.
    """

    critic: nn.Module
    gap: Tensor
    penalty: Tensor
    slope: Tensor
    violations: Tensor
    seconds: float


def train_critic(
    critic: nn.Module,
    sample: Sampler,
    *,
    penalty: CriticPenalty | None = None,
    weight: float = 10.0,
    after_step: Callable[[nn.Module], object] | None = None,
    iterations: int = 1000,
    batch: int = 256,
    learning_rate: float = 1e-3,
    betas: tuple[float, float] = (0.0, 0.9),
    generator: torch.Generator,
) -> CriticRun:
    r"""Maximise the gap of a critic between two laws, less a penalty.

    .. math::
        \max_f\; \frac1n \sum_i f(x_i) - \frac1n \sum_i f(y_i) - \lambda\, \mathcal L(f)

    Adam with a cosine decay of the learning rate to zero, fresh points in every step.

    Parameters
    ----------
    critic : nn.Module
        Network f, (n, d) to (n, 1); changed in place. Constraints are attached by the caller.
    sample : callable
        ``sample(n, generator)`` returns x and y, shapes (n, d): points of mu and of nu. For a
        finite cloud it may return all points and ignore n.
    penalty : callable, optional
        ``penalty(critic, x, y, output, generator)``, with `output` = f of x and y stacked, shape
        (2n, 1), with its graph; returns a `Penalty`.
    weight : float
        Weight lambda of the penalty's loss, at least 0.
    after_step : callable, optional
        Called with the critic after each step of the optimiser: clipping, projection.
    iterations, batch : int
        Number of steps, and n.
    learning_rate : float
        Of Adam at the start.
    betas : (float, float)
        Of Adam.
    generator : torch.Generator
        Source of all randomness; the global generators are forked, for layers that draw from them.

    Returns
    -------
    CriticRun
        The critic and its history.

    Raises
    ------
    ValueError
        If a number is out of its range.
    FloatingPointError
        If the loss is not finite; the message names the step and the part that went bad.

    References
    ----------
    Arjovsky et al. (2017), equation (2); Gulrajani et al. (2017), Algorithm 1.

    Examples
    --------
    >>> def sample(n, generator):
    ...     return torch.rand(n, 1, generator=generator) + 2, torch.rand(n, 1, generator=generator)
    >>> def clip(critic):
    ...     critic.weight.data.clamp_(-1, 1)
    >>> g = torch.Generator().manual_seed(0)
    >>> run = train_critic(
    ...     nn.Linear(1, 1), sample, after_step=clip, iterations=60, learning_rate=0.1, generator=g
    ... )
    >>> gap, error = critic_gap(run.critic, *sample(1000, g))  # the distance is 2
    >>> abs(gap - 2) < 4 * error
    True
    """
    if iterations < 1 or batch < 1 or not learning_rate > 0 or not 0 <= weight < math.inf:
        raise ValueError(
            "iterations and batch must be at least 1, learning_rate positive, weight finite and at"
            f" least 0; got {iterations}, {batch}, {learning_rate}, {weight}"
        )
    adam = torch.optim.Adam(critic.parameters(), learning_rate, betas)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, iterations)
    history = torch.full((iterations, 4), math.nan, dtype=torch.float64)
    history[:, 1] = 0
    critic.train()
    start = time.process_time()
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        for step in range(iterations):
            x, y = sample(batch, generator)
            # A constrained layer is evaluated several times a step; its weight is computed once.
            with parametrize.cached():
                output = critic(torch.cat([x, y]))
                gap = output[: len(x)].mean() - output[len(x) :].mean()
                loss = -gap
                if penalty is not None:
                    found = penalty(critic, x, y, output, generator)
                    loss = loss + weight * found.loss
                    history[step, 1] = found.loss.detach()
                    history[step, 2] = found.slopes.detach().max()
                    history[step, 3] = found.violations / found.slopes.numel()
                history[step, 0] = gap.detach()
                if not bool(torch.isfinite(loss)):
                    raise FloatingPointError(
                        f"the loss is not finite at step {step}: gap {history[step, 0]:.4g},"
                        f" penalty {history[step, 1]:.4g}"
                    )
                adam.zero_grad(set_to_none=True)
                loss.backward()
            adam.step()
            decay.step()
            if after_step is not None:
                after_step(critic)
    seconds = time.process_time() - start
    gaps, losses, slopes, violations = history.T.contiguous()
    return CriticRun(critic.eval(), gaps, losses, slopes, violations, seconds)


def critic_gap(critic: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[float, float]:
    r"""Gap of a critic between two samples, with its standard error.

    .. math:: \frac1n \sum_i f(x_i) - \frac1m \sum_j f(y_j)

    Parameters
    ----------
    critic : callable
        Network f, (n, d) to (n, 1) or (n,).
    x, y : Tensor
        Independent samples of mu and nu, shapes (n, d) and (m, d), n and m at least 2.

    Returns
    -------
    gap : float
        In the units of f.
    error : float
        Standard error from the two sample variances, at least 0.

    Raises
    ------
    ValueError
        If a sample has fewer than two points.

    Examples
    --------
    >>> critic_gap(lambda z: z[:, 0], torch.tensor([[3.0], [5.0]]), torch.tensor([[1.0], [1.0]]))
    (3.0, 1.0)
    """
    if len(x) < 2 or len(y) < 2:
        raise ValueError(f"x and y must hold at least 2 points; got {len(x)} and {len(y)}")
    with torch.no_grad():
        f_x, f_y = critic(x).double().flatten(), critic(y).double().flatten()
    error = math.sqrt(float(f_x.var() / len(x) + f_y.var() / len(y)))
    return float(f_x.mean() - f_y.mean()), error
