"""What the study of mutual information computes: estimates on laws whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lipnb.theory import ksg_mutual_information, moreau_yosida_kl
from lipnb.training.information_tasks import (
    InformationTask,
    correlated_gaussians,
    information_task,
)
from lipnb.training.mutual_information import estimate_many
from lipnb.training.representation import REPRESENTATIONS, probe_pixels, train_representation

__all__ = [
    "PARTS",
    "InformationSettings",
    "exact_regularisation",
    "finite_laws",
    "rho_of",
    "study_part",
]

Row = dict[str, Any]
# The thirteen correlations of MINE's figure.
CORRELATIONS = (-0.99, -0.9, -0.7, -0.5, -0.3, -0.1, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
# Half of them, of both signs: those left out give the same law with y turned round.
HALF = (-0.99, -0.7, -0.3, 0.0, 0.1, 0.5, 0.9)
TASKS = (
    *("normal-1", "bimodal-1", "wiggly-1", "additive-0.1", "additive-0.75", "swiss-roll"),
    *("student-2-dof1", "spiral-sparse-3", "dense-5", "sparse-5", "half-cube-sparse-5"),
    *("student-5-dof2", "asinh-student-5-dof2", "dense-25", "sparse-25", "spiral-sparse-25"),
)


@dataclass(frozen=True)
class InformationSettings:
    """How large the study is.

    Attributes
    ----------
    steps : int
        Of the optimiser, for every critic; twice as many without a bound in 2 dimensions.
    rows : int
        Pairs in a data set, where the part does not say otherwise.
    correlations : tuple of (int, tuple of float)
        Dimension d, and correlations of "gaussians".
    ladder : tuple of float
        Information of the pairs of "ladder", in nats.
    tasks : tuple of str
        Names of tasks.
    nats, constants, sizes : tuple
        Of "lipschitz": information in 20 dimensions; constants lambda at `rows` pairs; numbers of
        pairs at the constant 4.
    strengths : tuple of float
        Constants lambda of "exact".
    digits : tuple of int
        Digits in a stack of "digits".
    """

    steps: int = 300
    rows: int = 5000
    correlations: tuple[tuple[int, tuple[float, ...]], ...] = ((2, CORRELATIONS), (20, HALF))
    ladder: tuple[float, ...] = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    tasks: tuple[str, ...] = TASKS
    nats: tuple[float, ...] = (1, 3, 6, 10)
    constants: tuple[float, ...] = (1, 2, 4, 8)
    sizes: tuple[int, ...] = (500, 20000)
    strengths: tuple[float, ...] = (0.5, 2.0, 8.0)
    digits: tuple[int, ...] = (1, 2, 4, 8)


FREE = {"start": "none", "coordinates": "standard"}
FORMULAS: dict[str, dict[str, Any]] = {
    "mine": FREE | {"estimator": "mine"},
    "dv": FREE | {"estimator": "donsker_varadhan"},
    "nwj": FREE | {"estimator": "nguyen_wainwright_jordan"},
    "orthogonal": {"estimator": "moreau_yosida", "lipschitz_constant": 4.0},
}
# Best of 1e-2, 3e-3 and 1e-3 for critics without a bound, on a seed that the study does not use.
RATES = {2: 1e-2, 20: 3e-3}
CONSTRAINTS = {
    "orthogonal": "orthogonal-maxmin",
    "lp": "lp",
    "alp": "alp-k1",
    "sn": "sn",
    "gp": "gp",
}


def rho_of(information: float, dimension: int) -> float:
    r"""Return the correlation with which d normal pairs have a given information.

    .. math:: \rho = \sqrt{1 - e^{-2 I / d}}

    Parameters
    ----------
    information : float
        I in nats, at least 0.
    dimension : int
        Number d of pairs.

    Returns
    -------
    float
        In [0, 1).

    Raises
    ------
    ValueError
        If the information is negative or not finite, or there is no pair.

    Examples
    --------
    >>> round(rho_of(-0.5 * math.log(1 - 0.64), 1), 12)
    0.8
    """
    if not 0 <= information < math.inf or dimension < 1:
        raise ValueError(
            f"information must be finite and at least 0, dimension positive;"
            f" got {information} and {dimension}"
        )
    return math.sqrt(-math.expm1(-2 * information / dimension))


def finite_laws() -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return two laws of pairs on few numbers, for which D_lambda can be computed exactly.

    Returns
    -------
    dict
        Name to values of X, values of Y, and their table of probabilities.

    Examples
    --------
    >>> {name: table.shape for name, (_, _, table) in finite_laws().items()}
    {'copy': (4, 4), 'random': (4, 5)}
    """
    rng = np.random.default_rng(7)
    random = rng.dirichlet(np.full(20, 0.4)).reshape(4, 5)
    x, y = np.sort(rng.normal(size=4)), np.sort(rng.normal(size=5))
    steps = np.arange(4.0)
    return {
        "copy": (steps, steps, np.eye(4) / 4),
        "random": (x, y, random),
    }


def exact_regularisation(law: tuple[np.ndarray, np.ndarray, np.ndarray], strength: float) -> float:
    r"""Compute D_lambda of a finite law of pairs from the product of its marginals.

    Parameters
    ----------
    law : tuple of ndarray
        Values of X, values of Y, and their table, as in `finite_laws`.
    strength : float
        The Lipschitz constant lambda, for the Euclidean distance of (x, y).

    Returns
    -------
    float
        In nats, from 0 to the mutual information.

    Raises
    ------
    ValueError
        As `lipnb.theory.moreau_yosida_kl`.

    Examples
    --------
    A copied number has log 4 nats, and a steep critic finds them:

    >>> round(exact_regularisation(finite_laws()["copy"], 50.0), 4), round(math.log(4), 4)
    (1.3863, 1.3863)
    """
    x, y, table = law
    points = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    product = np.outer(table.sum(axis=1), table.sum(axis=0))
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    return moreau_yosida_kl(table.ravel(), product.ravel(), distance, strength).value


def study_part(part: str, method: str, seed: int, settings: InformationSettings) -> list[Row]:
    """Compute all estimates of one part by one method, with one seed.

    Parameters
    ----------
    part : str
        Key of `PARTS`.
    method : str
        One of the methods of that part.
    seed : int
        Decides data and critics; all methods see the same data.
    settings : InformationSettings
        How large.

    Returns
    -------
    list of dict
        Rows with what the case is ("d", "rho", "lambda", ...), its `truth`, the `value` and its
        standard error `error`; for critics also `lipschitz` and `effective`, see
        `InformationDiagnostics`; in "digits" also the `accuracy` of a probe. All in nats.

    Raises
    ------
    ValueError
        If part or method is unknown.

    Examples
    --------
    >>> few = InformationSettings(steps=2, rows=100, correlations=((2, (0.0, 0.9)),))
    >>> [(row["rho"], round(row["truth"], 3)) for row in study_part("gaussians", "ksg", 0, few)]
    [(0.0, 0.0), (0.9, 1.661)]
    """
    if part not in PARTS or method not in PARTS[part][1]:
        known = {name: list(methods) for name, (_, methods) in PARTS.items()}
        raise ValueError(f"part and method must be of {known}; got {part!r} and {method!r}")
    return PARTS[part][0](method, seed, settings)


def _sample(task: InformationTask, n: int, seed: int, index: int) -> tuple[Tensor, Tensor]:
    """Draw the data of one case; no two cases or seeds share theirs."""
    return task.sample(n, torch.Generator().manual_seed(1_000_003 * (seed + 1) + index))


def _estimates(
    cases: Sequence[Row],
    pairs: Sequence[tuple[Tensor, Tensor]],
    seed: int,
    settings: InformationSettings,
    given: Mapping[str, Any],
) -> list[Row]:
    """Estimate several data sets side by side."""
    common = {"steps": settings.steps, "batch": 128, "width": 64, "check_every": 50}
    found = estimate_many(pairs, seeds=[seed] * len(pairs), **(common | dict(given)))
    return [
        case
        | {
            "value": one.value,
            "error": one.standard_error,
            "lipschitz": one.diagnostics.lipschitz,
            "effective": one.diagnostics.effective_sample_size,
        }
        for case, one in zip(cases, found, strict=True)
    ]


def _neighbours(cases: Sequence[Row], pairs: Sequence[tuple[Tensor, Tensor]]) -> list[Row]:
    """Estimate by five nearest neighbours, each coordinate over its standard deviation."""
    return [
        case | {"value": ksg_mutual_information(x / x.std(0), y / y.std(0), neighbours=5)}
        for case, (x, y) in zip(cases, pairs, strict=True)
    ]


def _gaussians(method: str, seed: int, settings: InformationSettings) -> list[Row]:
    """Pairs with one correlation, as in the figure of MINE."""
    rows = []
    for d, correlations in settings.correlations:
        laws = [correlated_gaussians(rho, d) for rho in correlations]
        cases: list[Row] = [
            {"d": d, "rho": rho, "truth": law.truth}
            for rho, law in zip(correlations, laws, strict=True)
        ]
        pairs = [_sample(law, settings.rows, seed, 100 * d + i) for i, law in enumerate(laws)]
        rows += _by_formula(method, cases, pairs, seed, settings, d)
    return rows


def _ladder(method: str, seed: int, settings: InformationSettings) -> list[Row]:
    """Two pairs with 0 to 10 nats, twice as many rows: the setting of published numbers."""
    laws = [correlated_gaussians(rho_of(nats, 2), 2) for nats in settings.ladder]
    cases: list[Row] = [{"nats": nats, "truth": nats} for nats in settings.ladder]
    pairs = [_sample(law, 2 * settings.rows, seed, 5000 + i) for i, law in enumerate(laws)]
    return _by_formula(method, cases, pairs, seed, settings, 2)


def _by_formula(
    method: str,
    cases: list[Row],
    pairs: list[tuple[Tensor, Tensor]],
    seed: int,
    settings: InformationSettings,
    dimension: int,
) -> list[Row]:
    """Estimate by neighbours, or by the formula of that name."""
    if method == "ksg":
        return _neighbours(cases, pairs)
    given = dict(FORMULAS[method])
    if "lipschitz_constant" not in given:
        given["learning_rate"] = RATES[dimension]
        if dimension == 2:
            given["steps"] = 2 * settings.steps
    return _estimates(cases, pairs, seed, settings, given)


def _tasks(method: str, seed: int, settings: InformationSettings) -> list[Row]:
    """Tasks of the benchmark of Czyz et al., those of one shape side by side."""
    settings_of: dict[str, dict[str, Any]] = {
        "mine": {"estimator": "mine", "start": "none"},
        "orthogonal": {"lipschitz_constant": 4.0},
    }
    given = settings_of.get(method, {})
    shapes: dict[Any, list[tuple[Row, tuple[Tensor, Tensor]]]] = {}
    for index, name in enumerate(settings.tasks):
        task = information_task(name)
        pair = _sample(task, settings.rows, seed, 6000 + index)
        shape = (pair[0].shape[1], pair[1].shape[1])
        shapes.setdefault(shape, []).append(({"task": name, "truth": task.truth}, pair))
    rows = []
    for group in shapes.values():
        cases, pairs = [case for case, _ in group], [pair for _, pair in group]
        rows += (
            _neighbours(cases, pairs)
            if method == "ksg"
            else _estimates(cases, pairs, seed, settings, given)
        )
    return rows


def _lipschitz(method: str, seed: int, settings: InformationSettings) -> list[Row]:
    """Twenty pairs: every constant at one sample size, every size at the constant 4."""
    middle = settings.rows
    grid = [(constant, middle) for constant in settings.constants]
    if method != "gp":  # which fails at 4: once is enough
        grid += [(4.0, n) for n in settings.sizes]
    if method == "none":  # no constant: once at each size
        grid = [(0.0, n) for n in (middle, *settings.sizes)]
    rows = []
    for constant, n in grid:
        laws = [correlated_gaussians(rho_of(nats, 20), 20) for nats in settings.nats]
        cases: list[Row] = [
            {"lambda": constant, "n": n, "nats": nats, "truth": nats} for nats in settings.nats
        ]
        pairs = [_sample(law, n, seed, 7000 + i) for i, law in enumerate(laws)]
        given: Mapping[str, Any] = (
            FORMULAS["dv"] | {"learning_rate": RATES[20]}
            if method == "none"
            else FORMULAS["orthogonal"]
            | {"lipschitz_constant": constant, "method": CONSTRAINTS[method]}
        )
        rows += _estimates(cases, pairs, seed, settings, given)
    return rows


def _exact(method: str, seed: int, settings: InformationSettings) -> list[Row]:
    """Laws on few points, against the exact D_lambda."""
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + 8000)
    pairs = []
    for x, y, table in finite_laws().values():
        chosen = torch.multinomial(
            torch.from_numpy(table.ravel()), settings.rows, True, generator=generator
        ).numpy()
        i, j = np.unravel_index(chosen, table.shape)
        pairs.append((torch.from_numpy(x[i])[:, None], torch.from_numpy(y[j])[:, None]))
    rows = []
    for strength in settings.strengths:
        cases: list[Row] = [
            {"law": name, "lambda": strength, "truth": exact_regularisation(law, strength)}
            for name, law in finite_laws().items()
        ]
        given = FORMULAS["orthogonal"] | {
            "lipschitz_constant": strength,
            "method": CONSTRAINTS[method],
        }
        rows += _estimates(cases, pairs, seed, settings, given)
    return rows


def _digits(method: str, seed: int, settings: InformationSettings) -> list[Row]:
    """Representations of stacked digits, and a linear probe on each."""
    rows = []
    for k in settings.digits:
        case: Row = {"digits": k, "truth": k * math.log(10)}
        if method == "pixels":
            rows.append(case | {"accuracy": probe_pixels(k, seed)})
        else:
            found = train_representation(method, k, seed, steps=settings.steps)
            case |= {"value": found.value, "accuracy": found.accuracy}
            rows.append(case | {"lipschitz": found.lipschitz})
    return rows


# Name of a part to what computes it and the methods it compares.
PARTS: dict[str, tuple[Callable[[str, int, InformationSettings], list[Row]], tuple[str, ...]]] = {
    "gaussians": (_gaussians, ("mine", "dv", "nwj", "orthogonal", "ksg")),
    "ladder": (_ladder, ("mine", "nwj", "ksg")),
    "tasks": (_tasks, ("started", "mine", "orthogonal", "ksg")),
    "lipschitz": (_lipschitz, ("none", *CONSTRAINTS)),
    "exact": (_exact, tuple(CONSTRAINTS)),
    "digits": (_digits, ("pixels", *REPRESENTATIONS)),
}
