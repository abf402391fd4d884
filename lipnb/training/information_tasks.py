"""Laws of pairs whose mutual information is known in closed form, and that can be sampled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import digamma, gammaln
from torch import Tensor

from lipnb.theory import gaussian_mutual_information
from lipnb.training import information_maps as maps

__all__ = [
    "INFORMATION_TASKS",
    "InformationTask",
    "additive_task",
    "correlated_gaussians",
    "gaussian_task",
    "information_task",
    "student_task",
]

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class InformationTask:
    """A law of pairs (X, Y) with a known mutual information.

    Attributes
    ----------
    name : str
        For tables and records.
    truth : float
        I(X; Y) in nats.
    draw : callable
        ``draw(n, generator)`` returns the pairs; `sample` checks n before.
    """

    name: str
    truth: float
    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n independent pairs.

        Parameters
        ----------
        n : int
            Number of pairs, at least 1.
        generator : torch.Generator
            The only source of randomness, on the CPU.

        Returns
        -------
        x, y : Tensor
            Shapes (n, d_x) and (n, d_y), float64.

        Raises
        ------
        ValueError
            If n is below 1.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1; got {n}")
        return self.draw(n, generator)


def gaussian_task(
    name: str,
    covariance: np.ndarray,
    x_dimension: int,
    map_x: Map | None = None,
    map_y: Map | None = None,
) -> InformationTask:
    r"""Make a task of jointly normal vectors, each seen through a map that loses nothing.

    .. math:: I(T(X); S(Y)) = I(X; Y) \quad \text{for injective } T, S

    Parameters
    ----------
    name : str
        Name of the task.
    covariance : ndarray
        Of the vector (X, Y), shape (d, d), symmetric and positive definite.
    x_dimension : int
        The first `x_dimension` coordinates are X.
    map_x, map_y : callable, optional
        Injective maps of batches (n, d); the identity where not given.

    Returns
    -------
    InformationTask
        With the value of `gaussian_mutual_information` as its truth.

    Raises
    ------
    ValueError
        If the covariance is none, or `x_dimension` does not fit.

    Examples
    --------
    >>> task = gaussian_task("pair", np.array([[1.0, 0.9], [0.9, 1.0]]), 1)
    >>> round(task.truth, 4), task.sample(5, torch.Generator().manual_seed(0))[0].shape
    (0.8304, torch.Size([5, 1]))
    """
    truth = gaussian_mutual_information(covariance, x_dimension) + 0.0  # no negative zero
    factor = torch.from_numpy(np.linalg.cholesky(covariance))
    to_x, to_y = map_x or maps.identity, map_y or maps.identity

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw normal vectors and map them."""
        z = torch.randn(n, len(factor), generator=generator, dtype=torch.float64) @ factor.T
        return to_x(z[:, :x_dimension]), to_y(z[:, x_dimension:])

    return InformationTask(name, truth, draw)


def correlated_gaussians(
    correlation: float, dimension: int = 1, map_x: Map | None = None, map_y: Map | None = None
) -> InformationTask:
    r"""Make the task of MINE's experiments: component i of X is correlated with component i of Y.

    .. math:: I(X; Y) = -\tfrac d2 \log(1 - \rho^2)

    Parameters
    ----------
    correlation : float
        The correlation rho, in (-1, 1).
    dimension : int
        Number d of components of X and of Y.
    map_x, map_y : callable, optional
        As in `gaussian_task`.

    Returns
    -------
    InformationTask
        All variances are 1, and all other correlations 0.

    Raises
    ------
    ValueError
        If a number is out of its range.

    References
    ----------
    Belghazi et al. (2018), section 3.3 of the conference version.

    Examples
    --------
    >>> round(correlated_gaussians(0.9, 2).truth, 4)
    1.6607
    """
    if not -1 < correlation < 1 or dimension < 1:
        raise ValueError(
            "correlation must be in (-1, 1) and dimension at least 1;"
            f" got {correlation} and {dimension}"
        )
    corner = correlation * np.eye(dimension)
    covariance = np.block([[np.eye(dimension), corner], [corner, np.eye(dimension)]])
    return gaussian_task(
        f"gaussians-{dimension}-{correlation:g}", covariance, dimension, map_x, map_y
    )


def student_task(
    name: str, dimension: int, degrees: int, map_x: Map | None = None
) -> InformationTask:
    r"""Make a task of a Student vector with identity dispersion: uncorrelated, not independent.

    .. math::
        I(X; Y) = 2 h(d) - h(2 d), \quad
        h(k) = \log\Gamma\bigl(\tfrac \nu2\bigr) - \log\Gamma\bigl(\tfrac{\nu + k}2\bigr)
            + \tfrac k2 \log(\nu\pi)
            + \tfrac{\nu + k}2 \bigl(\psi\bigl(\tfrac{\nu + k}2\bigr)
            - \psi\bigl(\tfrac \nu2\bigr)\bigr)

    with the entropy h(k) of k coordinates.

    Parameters
    ----------
    name : str
        Name of the task.
    dimension : int
        Number d of coordinates of X and of Y.
    degrees : int
        Degrees of freedom nu, at least 1. For 1 no mean exists, for 2 no variance.
    map_x : callable, optional
        Injective map of both X and Y.

    Returns
    -------
    InformationTask
        X and Y share one factor: a normal vector over the root of a chi-square over nu.

    Raises
    ------
    ValueError
        If a number is below 1.

    References
    ----------
    Czyz et al. (2023).

    Examples
    --------
    >>> round(student_task("cauchy", 1, 1).truth, 4)
    0.2242
    """
    if dimension < 1 or degrees < 1:
        raise ValueError(f"dimension and degrees must be at least 1; got {dimension} and {degrees}")
    truth = 2 * _student_entropy(dimension, degrees) - _student_entropy(2 * dimension, degrees)
    change = map_x or maps.identity

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw normal vectors and divide each by its own factor."""
        z = torch.randn(n, 2 * dimension, generator=generator, dtype=torch.float64)
        roots = torch.randn(n, degrees, generator=generator, dtype=torch.float64)
        z = z / roots.square().mean(dim=1, keepdim=True).sqrt()
        return change(z[:, :dimension]), change(z[:, dimension:])

    return InformationTask(name, truth, draw)


def _student_entropy(k: int, degrees: int) -> float:
    """Differential entropy of k coordinates of a Student vector with identity dispersion."""
    half = (degrees + k) / 2
    normaliser = gammaln(degrees / 2) - gammaln(half) + k / 2 * math.log(degrees * math.pi)
    return float(normaliser + half * (digamma(half) - digamma(degrees / 2)))


def additive_task(noise: float) -> InformationTask:
    r"""Make the task of a uniform variable with uniform noise.

    .. math::
        X \sim U(0, 1),\; Y = X + U(-\varepsilon, \varepsilon): \quad
        I(X; Y) = \varepsilon - \log 2\varepsilon \;(\varepsilon \le \tfrac12), \quad
        \frac1{4 \varepsilon} \;(\varepsilon \ge \tfrac12)

    Parameters
    ----------
    noise : float
        Half-width epsilon of the noise, positive.

    Returns
    -------
    InformationTask
        The density ratio is infinite nowhere, but jumps to 0: no Lipschitz critic attains it.

    Raises
    ------
    ValueError
        If `noise` is not positive and finite.

    References
    ----------
    Czyz et al. (2023).

    Examples
    --------
    >>> round(additive_task(0.1).truth, 4), round(additive_task(0.75).truth, 4)
    (1.7094, 0.3333)
    """
    if not 0 < noise < math.inf:
        raise ValueError(f"noise must be positive and finite; got {noise}")
    truth = noise - math.log(2 * noise) if noise <= 0.5 else 1 / (4 * noise)

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the variable and its noise."""
        x, u = torch.rand(2, n, 1, generator=generator, dtype=torch.float64)
        return x, x + noise * (2 * u - 1)

    return InformationTask(f"additive-{noise:g}", truth, draw)


def dense(dimension: int) -> np.ndarray:
    """Covariance with all correlations 1/2, within X, within Y and between them."""
    size = 2 * dimension
    return np.full((size, size), 0.5) + 0.5 * np.eye(size)


def sparse(dimension: int) -> np.ndarray:
    """Covariance in which only X_i and Y_i of i = 1, 2 are correlated, by 0.8."""
    covariance = np.eye(2 * dimension)
    for i in range(2):
        covariance[i, dimension + i] = covariance[dimension + i, i] = 0.8
    return covariance


def _catalogue() -> dict[str, InformationTask]:
    """Make every task with a name."""
    pair = np.array([[1.0, 0.75], [0.75, 1.0]])
    tasks = [
        gaussian_task("normal-1", pair, 1),
        gaussian_task("normal-cdf-1", pair, 1, maps.normal_cdf, maps.normal_cdf),
        gaussian_task("half-cube-1", pair, 1, maps.half_cube, maps.half_cube),
        gaussian_task("asinh-1", pair, 1, torch.asinh, torch.asinh),
        gaussian_task("wiggly-1", pair, 1, maps.wiggly_x, maps.wiggly_y),
        gaussian_task("bimodal-1", pair, 1, maps.bimodal_x, maps.bimodal_y),
        gaussian_task("swiss-roll", pair, 1, maps.swiss_roll, maps.identity),
        additive_task(0.1),
        additive_task(0.75),
        student_task("student-1-dof1", 1, 1),
        student_task("asinh-student-1-dof1", 1, 1, torch.asinh),
    ]
    for d, degrees in ((2, 1), (2, 2), (3, 2), (3, 3), (5, 2), (5, 3)):
        tasks.append(student_task(f"student-{d}-dof{degrees}", d, degrees))
    for d, degrees in ((2, 1), (3, 2), (5, 2)):
        tasks.append(student_task(f"asinh-student-{d}-dof{degrees}", d, degrees, torch.asinh))
    for d in (2, 3, 5, 25, 50):
        tasks.append(gaussian_task(f"dense-{d}", dense(d), d))
    for d in (2, 3, 5, 25):
        tasks.append(gaussian_task(f"sparse-{d}", sparse(d), d))
    cdf, spiral_x, spiral_y = maps.normal_cdf, maps.spiral_x, maps.spiral_y
    for d in (3, 5, 25):
        c = sparse(d)
        tasks += [
            gaussian_task(f"normal-cdf-sparse-{d}", c, d, cdf, cdf),
            gaussian_task(f"half-cube-sparse-{d}", c, d, maps.half_cube, maps.half_cube),
            gaussian_task(f"spiral-sparse-{d}", c, d, spiral_x, spiral_y),
            gaussian_task(
                f"spiral-normal-cdf-sparse-{d}",
                c,
                d,
                lambda x: spiral_x(cdf(x)),
                lambda y: spiral_y(cdf(y)),
            ),
        ]
    return {task.name: task for task in tasks}


INFORMATION_TASKS = _catalogue()


def information_task(name: str) -> InformationTask:
    """Return a task of the catalogue by its name.

    The catalogue holds the 40 tasks of the first benchmark of Czyz et al. (2023), a normal pair
    seen through asinh, and no more. `correlated_gaussians` makes those of MINE for any rho and d.

    Parameters
    ----------
    name : str
        A key of `INFORMATION_TASKS`.

    Returns
    -------
    InformationTask
        The task.

    Raises
    ------
    ValueError
        If there is no task of that name.

    References
    ----------
    Czyz et al. (2023).

    Examples
    --------
    >>> round(information_task("sparse-5").truth, 4), len(INFORMATION_TASKS)
    (1.0217, 41)
    """
    if name not in INFORMATION_TASKS:
        raise ValueError(f"name must be one of {sorted(INFORMATION_TASKS)}; got {name!r}")
    return INFORMATION_TASKS[name]
