"""Mutual information of samples, by critics trained on some rows and judged on others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipnb.theory._clouds import Cloud
from lipnb.training.critic import CriticPenalty
from lipnb.training.critic_methods import CriticMethod
from lipnb.training.critic_problems import CriticProblem
from lipnb.training.information_critics import InformationCritic, gaussian_start, stack_networks
from lipnb.training.information_loop import evaluate, train_information_critic
from lipnb.training.information_rows import Rows, split_rows, to_coordinates
from lipnb.training.information_settings import (
    make_generator,
    read_all,
    read_choices,
    read_constraint,
    read_formula,
)
from lipnb.training.information_verdict import (
    MutualInformation,
    diagnose,
    largest_slope,
    scores_for_estimate,
    standard_error,
)

__all__ = ["estimate_many", "estimate_mutual_information"]


def estimate_mutual_information(
    x: Cloud, y: Cloud, *, estimator: str = "donsker_varadhan", seed: int = 0, **settings: Any
) -> MutualInformation:
    r"""Estimate the mutual information of two vectors from pairs, by training a critic.

    .. math::
        I(X; Y) = D(P_{XY} \| P_X \times P_Y)
                = \sup_f\; E_{P_{XY}} f - \log E_{P_X \times P_Y}\, e^f

    The rows are split at random into three parts. A critic f is trained on the first, with wrong
    pairs (x_i, y_j) of its rows as the sample of the product. The step whose weights are kept is
    chosen by the second part. The value is computed on the third.

    Parameters
    ----------
    x, y : Tensor or array_like
        The pairs, shapes (n, d_x) and (n, d_y): row i of both belongs together. At least 50 rows.
    estimator : str
        Which formula trains the critic and, unless said otherwise, reports the value:

        - "donsker_varadhan", "nguyen_wainwright_jordan", "info_nce": the formula of that name;
        - "mine": the gradient corrected as in `mine`; reports `donsker_varadhan`;
        - "smile": trained by `jensen_shannon`; reports `smile`;
        - "jensen_shannon": reports `donsker_varadhan`;
        - "moreau_yosida": `donsker_varadhan` with a lambda-Lipschitz critic;
        - "wasserstein_dependency": the gap of a 1-Lipschitz critic.

        "moreau_yosida" is the regularisation D_lambda of the divergence, in nats, and
        "wasserstein_dependency" the distance W_1 of the joint law from the product, in the unit of
        the points. Neither is the mutual information.
    seed : int
        Decides split, weights and batches, from 0 to 2^32 - 1. No other randomness is used.
    **settings
        All further parameters of `estimate_many`: the critic, its constraint or penalty,
        coordinates, shares, and how long it is trained.

    Returns
    -------
    MutualInformation
        `value` and `standard_error`, `held_out`, `evaluated_on`, `history`, `diagnostics`, `rows`
        and `critic`.

    Raises
    ------
    ValueError, TypeError
        As `estimate_many`.
    FloatingPointError
        If a loss is not finite.

    Notes
    -----
    The held-out value of a variational bound is too low on average by what the critic has not
    learnt, and scatters by `standard_error`. Above about the logarithm of the number of rows no
    formula of this kind can be both high and certain (McAllester and Stratos, 2020):
    ``diagnostics.reliable`` says when the exponential average rests on too few points.

    The split costs precision. ``estimate_many([(x, y)] * 5, seeds=range(5))`` makes five splits at
    once; the average of the five values scatters less, down to what n rows allow.

    A two-sided gradient penalty asks for the slope lambda everywhere. The logarithm of a density
    ratio is not of that kind, and the estimate suffers: take a one-sided one ("lp", "alp-k1").

    Rows that occur several times are not recognised: a copy may fall into another part.

    References
    ----------
    Belghazi et al. (2018); Terjek (2021); Ozair et al. (2019); Song and Ermon (2020).

    Examples
    --------
    Two coordinates with correlation 0.8, so that I = -log(1 - 0.64) / 2 = 0.511:

    >>> g = torch.Generator().manual_seed(0)
    >>> x, noise = torch.randn(2, 2000, 1, generator=g)
    >>> found = estimate_mutual_information(x, 0.8 * x + 0.6 * noise, steps=100)
    >>> abs(found.value - 0.511) < 3 * found.standard_error
    True
    >>> found.evaluated_on, [len(rows) for rows in found.rows.values()]
    ('held_out', [1100, 300, 600])
    """
    return estimate_many([(x, y)], seeds=[seed], estimator=estimator, **settings)[0]


def estimate_many(
    pairs: Sequence[tuple[Cloud, Cloud]],
    *,
    seeds: Sequence[int],
    estimator: str = "donsker_varadhan",
    critic: str = "joint",
    lipschitz_constant: float | None = None,
    method: CriticMethod | str | None = None,
    start: str = "auto",
    coordinates: str = "auto",
    evaluate_on: str = "held_out",
    validation_share: float = 0.15,
    held_out_share: float = 0.3,
    width: int = 64,
    depth: int = 2,
    steps: int = 1000,
    batch: int | None = None,
    shifts: int | None = None,
    learning_rate: float = 1e-2,
    weight_decay: float = 0.2,
    check_every: int = 50,
    rate: float = 0.01,
    clip: float = 5.0,
    dtype: torch.dtype = torch.float32,
) -> list[MutualInformation]:
    r"""Make many estimates at once, with critics trained side by side.

    Critic m is trained on data set m with its own seed, and comes out as it would alone, up to
    rounding. The weights are stacked, so that one product of matrices serves all: that saves what
    a small network spends on overhead.

    Parameters
    ----------
    pairs : sequence of (x, y)
        Data sets as in `estimate_mutual_information`, all of the same shapes.
    seeds : sequence of int
        One for each data set.
    estimator : str
        As in `estimate_mutual_information`.
    critic : {"joint", "separable"}
        One network of (x, y), or a product of features of x and features of y.
    lipschitz_constant : float, optional
        The constant lambda: f is lambda times a network that `method` keeps 1-Lipschitz. Needed by
        "moreau_yosida"; 1 for "wasserstein_dependency".
    method : CriticMethod or str, optional
        How the network is constrained or penalised: a recipe of
        `lipnb.training.critic_methods`, or the key of one in `METHODS` ("gp", "lp", "alp-k1",
        "sn", ...). By default "orthogonal-maxmin" where there is a constant to keep, and nothing
        else. Penalties hold approximately: look at ``diagnostics.lipschitz``. For joint critics.
    start : {"auto", "gaussian", "none"}
        Whether the critic starts from the logarithm of the density ratio of a normal fit to the
        training rows (`lipnb.training.information_critics.gaussian_start`), to which the network
        adds. "auto" does where nothing is constrained. With "none" the critic is a network alone.
    coordinates : {"auto", "normal_scores", "standard", "metric"}
        Fitted to the training rows. Normal scores of each coordinate, by ranks; each coordinate
        over its standard deviation; or one scale for all. The first two change no mutual
        information; a Lipschitz constant then refers to the new coordinates. "auto" is "metric"
        for "moreau_yosida" and "wasserstein_dependency", which depend on the metric (the
        Euclidean one of (x, y)), else "normal_scores".
    evaluate_on : {"held_out", "training"}
        With "training" all rows train the critic, the last weights are kept, and the value is
        computed on the same rows: it is then too high on average.
    validation_share, held_out_share : float
        Shares of the second and third part.
    width, depth : int
        Units in a hidden layer, and hidden layers.
    steps, batch, shifts : int
        Steps of the optimiser, pairs in a batch (256; 64 for "info_nce"), and wrong partners of
        each x in it (4; all others for "info_nce").
    learning_rate, weight_decay : float
        Of AdamW; the rate decays to 0. Steps are shortened by lambda where it is above 1.
    check_every : int
        Steps from one look at the validation rows to the next.
    rate : float
        Share of the new batch in the moving average of "mine".
    clip : float
        Threshold tau of "smile".
    dtype : torch.dtype
        Of the critic. Values are computed in float64 from its scores.

    Returns
    -------
    list of MutualInformation
        One for each data set.

    Raises
    ------
    ValueError
        If a shape does not fit, lengths differ, there are fewer than 50 rows, a number is not
        finite or a setting is unusable; if several critics are to be trained by a method that
        clips or projects weights or has dropout, which cannot be stacked.
    TypeError
        If an input does not hold real numbers.
    FloatingPointError
        If a loss is not finite; the message names the step and the critics.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x, noise = torch.randn(2, 1000, 1, generator=g)
    >>> found = estimate_many([(x, x + noise), (x, noise)], seeds=[0, 0], steps=50)
    >>> found[0].value > 0.2 > found[1].value  # log(2) / 2 and 0
    True
    """
    formula = read_formula(estimator, rate, clip)
    constant, recipe = read_constraint(estimator, critic, lipschitz_constant, method)
    kind, gaussian = read_choices(estimator, coordinates, start, recipe is not None)
    if evaluate_on not in ("held_out", "training"):
        raise ValueError(f"evaluate_on must be 'held_out' or 'training'; got {evaluate_on!r}")
    numbers = (width, depth, steps, check_every)
    if any(not isinstance(k, int) or k < 1 for k in numbers) or not learning_rate > 0:
        raise ValueError(
            "width, depth, steps and check_every must be positive integers, learning_rate positive;"
            f" got {numbers} and {learning_rate}"
        )
    # InfoNCE is at most the logarithm of its candidates: it takes all that a batch has.
    batch = batch or (64 if estimator == "info_nce" else 256)
    shifts = shifts or (batch - 1 if estimator == "info_nce" else 4)
    if batch < 2 or not 1 <= shifts < batch:
        raise ValueError(f"shifts must be from 1 to batch - 1; got {shifts} and batch {batch}")

    if len(seeds) > 1 and recipe is not None and (recipe.after_step or recipe.dropout):
        raise ValueError(
            f"critics of method {recipe.name!r} cannot be trained side by side: estimate them one"
            " at a time with estimate_mutual_information"
        )

    generators = [make_generator(seed) for seed in seeds]
    data = read_all(pairs, seeds)
    n = len(data[0][0])
    rows = [
        split_rows(n, validation_share, held_out_share, g)
        if evaluate_on == "held_out"
        else Rows(torch.arange(n), torch.arange(0), torch.arange(0))
        for g in generators
    ]
    placed = [
        to_coordinates(x, y, part.training, kind) for (x, y), part in zip(data, rows, strict=True)
    ]
    training, validation, tested = (
        _gather(placed, column, dtype) for column in zip(*rows, strict=True)
    )
    units = torch.tensor([unit for _, _, unit in placed], dtype=dtype)
    scale = constant * (units if kind == "metric" else torch.ones_like(units))
    x_dimension, y_dimension = training[0].shape[2], training[1].shape[2]

    make = recipe or CriticMethod("free", "none", "free", activation=nn.GELU)
    shapes = _shapes(critic, x_dimension, y_dimension, width, depth)
    networks = [[make.build(shape, g).to(dtype) for shape in shapes] for g in generators]
    if gaussian:
        _quieten(networks)
    fits = [gaussian_start(x.double(), y.double()) for x, y in zip(*training, strict=True)]
    judge = InformationCritic(
        [
            stack_networks(group) if len(seeds) > 1 else group[0]
            for group in zip(*networks, strict=True)
        ],
        len(seeds),
        x_dimension,
        scale=scale,
        start=_stack_starts(fits, dtype) if gaussian else None,
    )
    history = train_information_critic(
        judge,
        formula,
        training,
        validation if evaluate_on == "held_out" else None,
        penalties=_penalties(make, training),
        weight=make.weight,
        after_step=make.after_step,
        steps=steps,
        batch=batch,
        shifts=shifts,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        check_every=check_every,
        generators=generators,
    )
    apart = evaluate_on == "held_out"
    tested = tested if apart else training
    scores = scores_for_estimate(judge, *tested)
    values = formula(scores[:, 0], scores[:, 1:])[0].value
    fitted = evaluate(judge, formula, *training, shifts=max(1, 50_000 // training[0].shape[1]))
    results = []
    for m, (part, generator) in enumerate(zip(rows, generators, strict=True)):
        alone = judge.member(m)
        slope = largest_slope(alone, tested[0][m], tested[1][m], generator)
        curve = (history.validation if apart else history.training)[:, m]
        value = float(values[m])
        results.append(
            MutualInformation(
                value=value,
                standard_error=standard_error(formula, scores[m]) if apart else math.nan,
                held_out=value if apart else None,
                evaluated_on=evaluate_on,
                history={
                    "training": history.training[:, m],
                    "checked": history.checked,
                    "validation": history.validation[:, m],
                    "best": history.best[m],
                },
                diagnostics=diagnose(
                    scores[m],
                    curve,
                    float(fitted[m]),
                    slope / float(units[m]),
                    "original" if kind == "metric" else kind,
                ),
                rows=part._asdict(),
                critic=alone,
            )
        )
    return results


def _gather(
    placed: list[tuple[Tensor, Tensor, float]], indices: Sequence[Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Stack chosen rows of all data sets: x and y, (M, rows, d)."""
    x = torch.stack([z[0][index] for z, index in zip(placed, indices, strict=True)])
    y = torch.stack([z[1][index] for z, index in zip(placed, indices, strict=True)])
    return x.to(dtype), y.to(dtype)


def _shapes(critic: str, d_x: int, d_y: int, width: int, depth: int) -> list[list[int]]:
    """Widths of the one network of a joint critic, or of the two of a separable one."""
    hidden = [width] * depth
    if critic == "joint":
        return [[d_x + d_y, *hidden, 1]]
    features = max(16, width // 2) + 1
    return [[d_x, *hidden, features], [d_y, *hidden, features]]


@torch.no_grad()
def _quieten(networks: list[list[nn.Sequential]]) -> None:
    """Make what the networks say small beside the start."""
    for group in networks:
        for network in group:
            last = network[-1]
            if isinstance(last, nn.Linear):
                last.weight.mul_(0.1 if len(group) == 1 else 0.3)
                last.bias.zero_()


def _stack_starts(
    fits: list[tuple[Tensor, Tensor, Tensor]], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Stack the starts of all critics."""
    u, v, rho = (torch.stack(part).to(dtype) for part in zip(*fits, strict=True))
    return u, v, rho


def _penalties(make: CriticMethod, training: tuple[Tensor, Tensor]) -> list[CriticPenalty] | None:
    """Make one penalty for each critic, for some keep points of earlier steps."""
    if make.penalty is None:
        return None
    copies, _, d_y = training[1].shape

    def nothing(*_: Any) -> Any:
        """Stand where a recipe for a penalty looks at nothing but the dimension and the scale."""
        raise NotImplementedError("this problem only carries a length")

    # A wrong pair differs from a pair in y, whose coordinates have variance 1 or thereabouts.
    scale = math.sqrt(2 * d_y)
    dimension = training[0].shape[2] + d_y
    problem = CriticProblem("pairs", dimension, nothing, math.nan, math.nan, scale, nothing)
    return [make.penalty(problem) for _ in range(copies)]
