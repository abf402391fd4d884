"""What an estimate of mutual information is asked for, read and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lipnb.theory._clouds import Cloud
from lipnb.training.critic_methods import METHODS, CriticMethod
from lipnb.training.information_loop import Estimator
from lipnb.training.information_rows import read_pairs

__all__ = ["ESTIMATORS"]

ESTIMATORS = (
    "donsker_varadhan",
    "mine",
    "nguyen_wainwright_jordan",
    "info_nce",
    "smile",
    "jensen_shannon",
    "moreau_yosida",
    "wasserstein_dependency",
)
# These two depend on the metric of the points: no change of coordinates but a common scale.
METRIC = ("moreau_yosida", "wasserstein_dependency")


def read_formula(estimator: str, rate: float, clip: float) -> Estimator:
    """Read the estimator's name and numbers."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {ESTIMATORS}; got {estimator!r}")
    if not 0 < rate <= 1 or not clip > 0:
        raise ValueError(f"rate must be in (0, 1] and clip positive; got {rate} and {clip}")
    return Estimator(estimator, rate, clip)


def read_constraint(
    estimator: str,
    critic: str,
    lipschitz_constant: float | None,
    method: CriticMethod | str | None,
) -> tuple[float, CriticMethod | None]:
    """Read the constant lambda and how it is kept; None where the critic is free."""
    if critic not in ("joint", "separable"):
        raise ValueError(f"critic must be 'joint' or 'separable'; got {critic!r}")
    if estimator == "moreau_yosida" and lipschitz_constant is None:
        raise ValueError("moreau_yosida needs its strength: lipschitz_constant; got None")
    if estimator == "wasserstein_dependency":
        if lipschitz_constant not in (None, 1):
            raise ValueError(
                "wasserstein_dependency is for 1-Lipschitz critics: lipschitz_constant must be 1 or"
                f" None; got {lipschitz_constant}"
            )
        lipschitz_constant = 1.0
    if lipschitz_constant is None and method is None:
        return 1.0, None
    constant = 1.0 if lipschitz_constant is None else float(lipschitz_constant)
    if not 0 < constant < math.inf:
        raise ValueError(f"lipschitz_constant must be positive and finite; got {constant}")
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"method must be one of {sorted(METHODS)}; got {method!r}")
        method = METHODS[method]
    if critic == "separable":
        raise ValueError("a separable critic cannot be constrained: its product is not Lipschitz")
    return constant, method or METHODS["orthogonal-maxmin"]


def read_choices(
    estimator: str, coordinates: str, start: str, constrained: bool
) -> tuple[str, bool]:
    """Read the coordinates and whether there is a Gaussian start."""
    if coordinates == "auto":
        coordinates = "metric" if estimator in METRIC else "normal_scores"
    known = ("normal_scores", "standard", "metric")
    if coordinates not in known:
        raise ValueError(f"coordinates must be 'auto' or one of {known}; got {coordinates!r}")
    if estimator in METRIC and coordinates != "metric":
        raise ValueError(
            f"{estimator} depends on the metric; coordinates {coordinates!r} change it"
        )
    if start not in ("auto", "gaussian", "none"):
        raise ValueError(f"start must be 'auto', 'gaussian' or 'none'; got {start!r}")
    if start == "gaussian" and constrained:
        raise ValueError("a Gaussian start is quadratic: a constrained critic cannot have one")
    return coordinates, not constrained and start != "none"


def make_generator(seed: int) -> torch.Generator:
    """Return the random stream of a seed."""
    # torch's CPU generator looks at the lowest 32 bits of a seed and at no others.
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer from 0 to 2^32 - 1; got {seed!r}")
    return torch.Generator().manual_seed(seed)


def read_all(
    pairs: Sequence[tuple[Cloud, Cloud]], seeds: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Read all data sets, of one shape and as many as there are seeds."""
    data = [read_pairs(x, y) for x, y in pairs]
    if not data or len(data) != len(seeds):
        raise ValueError(f"pairs and seeds must be equally many; got {len(data)}, {len(seeds)}")
    shapes = {(tuple(x.shape), tuple(y.shape)) for x, y in data}
    if len(shapes) != 1:
        raise ValueError(f"all pairs must have the same shapes; got {sorted(shapes)}")
    return data
