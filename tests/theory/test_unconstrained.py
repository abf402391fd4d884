"""The power formula against exact transport, numerical maximisation, and its certificate."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

import lipnb.theory.unconstrained as module
from lipnb.theory import unconstrained_wasserstein, wasserstein1
from lipnb.theory._clouds import pairwise_distances

POWERS = [1.001, 1.25, 1.5, 2.0, 3.0, 6.0]
TWO = [[0.0, 3.0], [3.0, 0.0]]


def random_case(seed, n=15, scale=1.0):
    rng = np.random.default_rng(seed)
    points = scale * rng.normal(size=(n, 2))
    mu, nu = rng.dirichlet(np.ones(n), 2)
    return mu, nu, pairwise_distances(points, points, 2), points


def objective(f, mu, nu, cost, alpha):
    """The objective of the slides, term by term."""
    apart = cost > 0
    norm = (np.abs(f[:, None] - f)[apart] / cost[apart]).max()
    last = (alpha - 1) * alpha ** (alpha / (1 - alpha)) * norm ** (alpha / (alpha - 1))
    return mu @ f - nu @ f - last


@pytest.mark.parametrize("alpha", POWERS)
@pytest.mark.parametrize("seed", range(3))
def test_value_potential_and_norm(seed, alpha):
    mu, nu, cost, points = random_case(seed)
    result = unconstrained_wasserstein(mu, nu, cost, alpha)
    exact = wasserstein1(points, points, mu, nu).value
    assert result.distance == pytest.approx(exact, rel=1e-9)
    assert result.value == pytest.approx(exact**alpha, rel=1e-8)
    assert result.lipschitz_norm == pytest.approx(alpha * exact ** (alpha - 1), rel=1e-8)
    attained = objective(result.potential, mu, nu, cost, alpha)
    assert attained == pytest.approx(result.value, rel=1e-9)
    assert attained == pytest.approx(result.attained, rel=1e-9)
    assert abs(result.gap) <= 1e-12 * result.value
    assert nu @ result.potential == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0, 3.0])
def test_no_function_exceeds_the_value(alpha):
    mu, nu, cost, _ = random_case(4, n=6)
    result = unconstrained_wasserstein(mu, nu, cost, alpha)
    rng = np.random.default_rng(4)
    for spread in (0.01, 0.3, 3.0):
        for noise in rng.normal(size=(200, 6)):
            f = result.potential + spread * result.lipschitz_norm * noise
            assert objective(f, mu, nu, cost, alpha) < result.value


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0, 3.0])
def test_a_numerical_maximisation_finds_the_same(alpha):
    """On two points only f(0) - f(1) matters, and its best value is found by a search."""
    mu, nu = [0.9, 0.1], [0.2, 0.8]  # W1 = 0.7 * 3

    def loss(rise):
        return -objective(np.array([rise, 0.0]), np.array(mu), np.array(nu), np.array(TWO), alpha)

    best = minimize_scalar(loss, bounds=(0, 200), method="bounded", options={"xatol": 1e-9})
    result = unconstrained_wasserstein(mu, nu, TWO, alpha)
    assert result.value == pytest.approx(-best.fun, rel=1e-9)
    assert result.potential[0] - result.potential[1] == pytest.approx(best.x, rel=1e-5)


def test_sabotage_another_scaling_does_not_give_the_power():
    mu, nu, cost, _ = random_case(5)
    result = unconstrained_wasserstein(mu, nu, cost, 3.0)
    for factor in (0.8, 1.2):
        assert objective(factor * result.potential, mu, nu, cost, 3.0) < 0.99 * result.value
    # With (alpha - 1) / alpha in front, as in Moreau-Yosida f-divergences, it is W^alpha / alpha.
    scale = result.distance**2 / result.lipschitz_norm
    f, norm = scale * result.potential, scale * result.lipschitz_norm
    other = mu @ f - nu @ f - 2 / 3 * norm**1.5
    assert other == pytest.approx(result.value / 3)


def test_disjoint_single_points():
    result = unconstrained_wasserstein([1.0, 0.0], [0.0, 1.0], TWO, 2.0)
    assert (result.value, result.distance) == (9.0, 3.0)
    assert result.lipschitz_norm == pytest.approx(6.0, rel=1e-14)
    assert result.potential.tolist() == [18.0, 0.0]


def test_as_alpha_falls_to_one_the_norm_tends_to_one():
    mu, nu, cost, _ = random_case(6)
    for alpha in (1.1, 1.01, 1.0001, 1 + 1e-9):
        result = unconstrained_wasserstein(mu, nu, cost, alpha)
        assert abs(result.lipschitz_norm - 1) < 3 * (alpha - 1)
        assert abs(result.value - result.distance) < 3 * (alpha - 1)


def test_equal_and_nearly_equal_histograms():
    mu, nu, cost, _ = random_case(7)
    same = unconstrained_wasserstein(mu, mu, cost, 1.5)
    assert (same.value, same.distance, same.lipschitz_norm, same.gap) == (0, 0, 0, 0)
    assert not same.potential.any()
    far = unconstrained_wasserstein(mu, nu, cost, 2.0)
    near = unconstrained_wasserstein(mu, mu + 1e-9 * (nu - mu), cost, 2.0)
    assert near.distance == pytest.approx(1e-9 * far.distance, rel=1e-5)
    assert abs(near.gap) < 1e-12 * near.value


def test_points_that_nearly_coincide():
    rng = np.random.default_rng(8)
    points = rng.normal(size=(20, 2))
    points[:5] = points[5:10] + 1e-13  # quotients between these are rounding
    cost = pairwise_distances(points, points, 2)
    result = unconstrained_wasserstein(*rng.dirichlet(np.ones(20), 2), cost, 1.2)
    assert abs(result.gap) < 1e-12 * result.value


def test_float32_tensors():
    points = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    mu, nu = torch.softmax(points, dim=0).T
    cost = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    result = unconstrained_wasserstein(mu, nu, cost, 2.0)
    assert isinstance(result.potential, torch.Tensor) and result.potential.dtype == torch.float64
    exact = wasserstein1(points.double(), points.double(), mu, nu).value
    assert result.distance == pytest.approx(exact, rel=1e-5)


def test_a_wrong_potential_is_not_returned(monkeypatch):
    mu, nu, cost, _ = random_case(9)
    solve = module.solve_program

    def wrong(*arguments):
        plan, g = solve(*arguments)
        return plan, 0.9 * g

    monkeypatch.setattr(module, "solve_program", wrong)
    with pytest.raises(RuntimeError, match="the answer is not proved"):
        unconstrained_wasserstein(mu, nu, cost, 2.0)


def test_a_solver_that_stops_early_does_not_answer():
    mu, nu, cost, _ = random_case(10, n=60)
    with pytest.raises(RuntimeError, match="did not finish"):
        unconstrained_wasserstein(mu, nu, cost, 2.0, max_iterations=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1.0}, "alpha must be finite and > 1; got 1.0"),
        ({"alpha": 0.5}, "alpha must be finite and > 1; got 0.5"),
        ({"alpha": -2.0}, "alpha must be finite and > 1"),
        ({"alpha": math.inf}, "alpha must be finite and > 1; got inf"),
        ({"alpha": math.nan}, "alpha must be finite and > 1; got nan"),
        ({"alpha": 1e4}, "the distance 3 to the power alpha overflows"),
        ({"mu": [0.5, 0.6]}, "mu must sum to 1"),
        ({"nu": [1.0]}, "same shape"),
        ({"cost": [[0, 1], [2, 0]]}, "cost must be symmetric; got 1 from 0 to 1 and 2 back"),
        ({"cost": [[1, 1], [1, 1]]}, "zero on its diagonal"),
        ({"cost": [[0, -1], [-1, 0]]}, "must not be negative"),
        ({"cost": [0.0, 1.0]}, r"cost must have shape \(2, 2\)"),
        ({"max_iterations": 0}, "max_iterations must be at least 1"),
    ],
)
def test_bad_input_is_refused(change, message):
    good = {"mu": [1.0, 0.0], "nu": [0.0, 1.0], "cost": TWO, "alpha": 2.0}
    with pytest.raises(ValueError, match=message):
        unconstrained_wasserstein(**(good | change))
