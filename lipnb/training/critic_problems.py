"""Problems with a known answer for critics, and the judgement of a critic on each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipnb.bounds import product_bound, sampled_bound
from lipnb.constraints import plain_copy
from lipnb.theory import (
    FunnelPair,
    benchmark_pair,
    certified_gap,
    judge_potential,
    random_funnels,
    wasserstein1,
)
from lipnb.training.critic import Sampler, critic_gap

__all__ = [
    "CriticProblem",
    "cloud_problem",
    "digits_clouds",
    "funnel_problem",
    "judge_critic",
    "mixture_clouds",
    "problem",
]


@dataclass(frozen=True)
class CriticProblem:
    """Two laws, what is known of them, and how a critic is judged.

    Attributes
    ----------
    name : str
        For records and tables.
    dimension : int
        Number of coordinates d.
    sample : callable
        ``sample(n, generator)`` draws n points of each law, as `train_critic` wants it.
    exact : float
        W_1 of the two laws: exact on clouds, within `error` for funnels.
    error : float
        Standard error of `exact`.
    scale : float
        Mean distance of a point of one law to a point of the other: the length by which radii
        and search distances are set.
    scores : callable
        ``scores(critic, generator)`` returns the metrics of this kind of problem.
    """

    name: str
    dimension: int
    sample: Sampler
    exact: float
    error: float
    scale: float
    scores: Callable[[nn.Module, torch.Generator], dict[str, float]]


def cloud_problem(name: str, x: Tensor, y: Tensor) -> CriticProblem:
    """Make a problem of two clouds with equal weights, solved by exact transport.

    Parameters
    ----------
    name : str
        Name of the problem.
    x, y : Tensor
        Points of mu and nu, shapes (n, d) and (m, d).

    Returns
    -------
    CriticProblem
        Batches are drawn with replacement. Its scores are ``ratio`` (gap over W_1, all points),
        ``certified`` (the proven lower bound of `certified_gap` over W_1, at most 1) and
        ``cosine`` (of the critic's gradient with the transport ray, at random points inside the
        rays; the direction that every optimal potential has there).

    Raises
    ------
    ValueError
        If the clouds do not fit or are equal.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> cloud_problem("shift", x + 3, x).exact
    3.0
    """
    transport = wasserstein1(x.double().numpy(), y.double().numpy())
    if not transport.value > 0:
        raise ValueError(f"the clouds must differ; got distance {transport.value}")
    exact = float(transport.value)
    i, j = np.nonzero(transport.plan > 1e-12)
    mass = torch.as_tensor(transport.plan[i, j])
    start, end = x[i], y[j]
    moved = (start - end).norm(dim=1) > 0
    start, end, mass = start[moved], end[moved], mass[moved]

    def sample(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw points with replacement."""
        rows = torch.randint(len(x), (n,), generator=generator)
        columns = torch.randint(len(y), (n,), generator=generator)
        return x[rows], y[columns]

    def scores(critic: nn.Module, generator: torch.Generator) -> dict[str, float]:
        """Compare with exact transport."""
        with torch.no_grad():
            f_x, f_y = critic(x).flatten(), critic(y).flatten()
        proof = certified_gap(f_x, f_y, x, y)
        ray = torch.multinomial(mass, 2000, replacement=True, generator=generator)
        share = torch.rand(2000, 1, generator=generator, dtype=x.dtype)
        inside = torch.lerp(start[ray], end[ray], share).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(inside).sum(), inside)
        cosine = nn.functional.cosine_similarity(gradient, start[ray] - end[ray], eps=1e-30)
        return {
            "ratio": proof.gap / exact,
            "certified": proof.value / exact,
            "cosine": float(cosine.mean()),
        }

    scale = float(torch.cdist(x, y).mean())
    return CriticProblem(name, x.shape[1], sample, exact, 0.0, scale, scores)


def funnel_problem(name: str, pair: FunnelPair) -> CriticProblem:
    """Make a problem of two laws with a known potential.

    Parameters
    ----------
    name : str
        Name of the problem.
    pair : FunnelPair
        The laws.

    Returns
    -------
    CriticProblem
        Batches are fresh, in float32. Its scores are ``ratio`` (gap on 16384 coupled pairs, over
        the cost of these very pairs, so that the noise of sampling cancels), ``cosine`` of the
        critic's gradient with that of the potential on nu, and ``gradient_error``, their mean
        squared difference.

    Examples
    --------
    >>> one = funnel_problem("one", random_funnels(2, 1, seed=0))
    >>> 0 < one.exact < one.scale
    True
    """
    generator = torch.Generator().manual_seed(7)
    exact, error = pair.wasserstein1(200_000, generator)
    x, y = pair.sample(4096, generator)

    def scores(critic: nn.Module, generator: torch.Generator) -> dict[str, float]:
        """Compare with the known potential."""
        found = judge_potential(critic, pair, 16384, generator, dtype=torch.float32)
        return {
            "ratio": found.wasserstein1 / found.cost,
            "cosine": found.cosine,
            "gradient_error": found.squared_gradient_error,
        }

    scale = float((x - y).norm(dim=1).mean())
    return CriticProblem(name, pair.dimension, pair.sample, exact, error, scale, scores)


def mixture_clouds(n: int = 256, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw points of a ring of eight Gaussians, and of one broad Gaussian inside it.

    Parameters
    ----------
    n : int
        Points of each cloud, a multiple of 8.
    seed : int
        Seed.

    Returns
    -------
    x, y : Tensor
        Shapes (n, 2), float32. Each mode of the ring (radius 2, deviation 0.1) holds n / 8 points;
        the Gaussian has deviation 0.5.

    Raises
    ------
    ValueError
        If n is not a positive multiple of 8.

    Examples
    --------
    >>> [cloud.shape for cloud in mixture_clouds(16)]
    [torch.Size([16, 2]), torch.Size([16, 2])]
    """
    if n < 8 or n % 8:
        raise ValueError(f"n must be a positive multiple of 8; got {n}")
    g = torch.Generator().manual_seed(seed)
    angle = torch.arange(n) % 8 * (math.pi / 4)
    ring = 2 * torch.stack([angle.cos(), angle.sin()], dim=1)
    x = ring + 0.1 * torch.randn(n, 2, generator=g)
    return x, 0.5 * torch.randn(n, 2, generator=g)


def digits_clouds() -> tuple[Tensor, Tensor]:
    """Return the handwritten digits of scikit-learn in two clouds, even and odd ones.

    Returns
    -------
    x, y : Tensor
        Images of even and of odd digits, 256 of each, shapes (256, 64), float32, grey values
        between 0 and 1.

    Examples
    --------
    >>> x, y = digits_clouds()
    >>> x.shape == y.shape, float(x.max())
    (True, 1.0)
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images / 16, dtype=torch.float32)
    even = torch.tensor(labels % 2 == 0)
    return pixels[even][:256], pixels[~even][:256]


@lru_cache
def problem(name: str) -> CriticProblem:
    """Return one of the named problems of chapter 12.

    Parameters
    ----------
    name : {"mixture", "digits", "funnels-2", "funnels-8", "funnels-32", "funnels-128"}
        Clouds of `mixture_clouds` or `digits_clouds`; or four funnels in as many dimensions. Those
        in 2, 8 and 32 are the stored pairs of the public benchmark.

    Returns
    -------
    CriticProblem
        The problem; made once and kept.

    Raises
    ------
    ValueError
        If there is no such problem.

    Examples
    --------
    >>> problem("mixture").dimension
    2
    """
    if name == "mixture":
        return cloud_problem(name, *mixture_clouds())
    if name == "digits":
        return cloud_problem(name, *digits_clouds())
    if name in ("funnels-2", "funnels-8", "funnels-32"):
        return funnel_problem(name, benchmark_pair(f"official_d{name[8:]}_w4"))
    if name == "funnels-128":
        return funnel_problem(name, random_funnels(128, 4, seed=0))
    known = "mixture, digits, funnels-2, funnels-8, funnels-32, funnels-128"
    raise ValueError(f"name must be one of {known}; got {name!r}")


def judge_critic(
    critic: nn.Module, problem: CriticProblem, generator: torch.Generator
) -> dict[str, float]:
    """Judge a critic: its distance, its gradient, and its Lipschitz constant from both sides.

    Parameters
    ----------
    critic : nn.Sequential
        Linear and activation layers, parametrised or not.
    problem : CriticProblem
        What it was trained on.
    generator : torch.Generator
        Source of the points.

    Returns
    -------
    dict of str to float
        The problem's scores; ``gap_error``, the standard error of the gap on fresh points, over
        W_1; ``lower``, the steepest gradient met on points of both laws and between them;
        ``upper``, the product of the layers' norms.

    Examples
    --------
    >>> from lipnb.models import mlp
    >>> g = torch.Generator().manual_seed(0)
    >>> scores = judge_critic(mlp([2, 8, 1], generator=g), problem("mixture"), g)
    >>> scores["lower"] <= scores["upper"] and scores["certified"] <= 1
    True
    """
    plain: Any = plain_copy(critic)
    scores = problem.scores(plain, generator)
    x, y = problem.sample(2048, generator)
    _, error = critic_gap(plain, x, y)
    between = torch.lerp(x, y, torch.rand(len(x), 1, generator=generator))
    points = torch.cat([x, y, between])
    return scores | {
        "gap_error": error / problem.exact,
        "lower": sampled_bound(plain, points=points).value,
        "upper": product_bound(plain).value,
    }
