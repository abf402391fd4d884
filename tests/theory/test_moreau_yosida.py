"""The regularised divergence against closed forms, another solver, and its own certificate."""

import math
import time

import cvxpy as cp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp

import lipnb.theory.moreau_yosida as module
from lipnb.theory import kl_divergence, moreau_yosida_kl, unconstrained_wasserstein
from lipnb.theory._clouds import pairwise_distances

LINE = np.abs(np.subtract.outer(np.arange(3.0), np.arange(3.0)))
APART = [0.4, 0.6, 0.0], [0.0, 0.0, 1.0]


def random_case(seed, n=12, concentration=1.0):
    """Two histograms on points of the plane, with some masses of zero."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 2))
    p, q = rng.dirichlet(np.full(n, concentration), 2)
    p[rng.random(n) < 0.3] = 0.0
    q[rng.random(n) < 0.3] = 0.0
    p[0], q[1] = p[0] + 0.1, q[1] + 0.1
    return p / p.sum(), q / q.sum(), pairwise_distances(points, points, 2)


def check_certificate(result, mu, nu, cost, strength):
    """Recompute both sides from the returned arrays, and their feasibility."""
    plan, measure, f = result.plan, result.measure, result.potential
    assert plan.min() >= 0 and measure.min() >= 0
    np.testing.assert_allclose(plan.sum(axis=1), mu, atol=1e-14)
    np.testing.assert_allclose(plan.sum(axis=0), measure, atol=1e-14)
    excess = np.abs(f[:, None] - f) - strength * cost
    assert excess.max() <= 1e-12 * max(1.0, np.abs(f).max())
    primal = kl_divergence(measure, nu) + strength * (plan * cost).sum()
    dual = mu @ f - logsumexp(f, b=nu)
    assert primal == pytest.approx(result.primal, abs=1e-12, rel=1e-12)
    assert dual == pytest.approx(result.dual, abs=1e-12, rel=1e-12)
    assert result.value == result.primal and result.gap == result.primal - result.dual
    assert -1e-12 <= result.gap <= 1e-9 * max(1.0, result.value)
    assert logsumexp(f, b=nu) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("strength", [0.0, 1e-3, 0.3, 1.0, 4.0, 50.0, 1e8])
@pytest.mark.parametrize("seed", range(3))
def test_both_sides_are_feasible_and_meet(seed, strength):
    mu, nu, cost = random_case(seed)
    check_certificate(moreau_yosida_kl(mu, nu, cost, strength), mu, nu, cost, strength)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 15), st.floats(-4, 4), st.floats(-1, 1))
def test_random_cases_are_certified(seed, n, log_strength, log_concentration):
    mu, nu, cost = random_case(seed, max(n, 2), 10.0**log_concentration)
    strength = 10.0**log_strength
    result = moreau_yosida_kl(mu, nu, cost, strength)
    check_certificate(result, mu, nu, cost, strength)
    bound = min(
        kl_divergence(mu, nu), strength * unconstrained_wasserstein(mu, nu, cost, 2).distance
    )
    assert 0 <= result.value <= bound + 1e-9 * max(1.0, result.value)


def test_tables_of_distances_of_very_different_size():
    # Steps of the solver cycle here if Mehrotra's correction is not clipped.
    rng = np.random.default_rng(3)
    for _ in range(20):
        cost = rng.random((20, 20)) * 10 ** rng.uniform(-3, 3, (20, 20))
        cost = cost + cost.T
        np.fill_diagonal(cost, 0.0)
        for k in range(20):
            cost = np.minimum(cost, cost[:, k, None] + cost[k])
        mu, nu = rng.dirichlet(np.full(20, 0.1), 2)
        check_certificate(moreau_yosida_kl(mu, nu, cost, 1e3), mu, nu, cost, 1e3)


def gaussian_pair(mean, deviation, step):
    """Two normal laws of equal width on a grid, the second one centred."""
    grid = np.arange(-7 * deviation, mean + 7 * deviation, step)
    nu = np.exp(-((grid / deviation) ** 2) / 2)
    mu = np.exp(-(((grid - mean) / deviation) ** 2) / 2)
    return mu / mu.sum(), nu / nu.sum(), np.abs(np.subtract.outer(grid, grid))


@pytest.mark.parametrize("strength", [0.2, 0.9, 1.2, 3.0])
def test_two_normal_laws_give_the_huber_function(strength):
    mean, deviation = 1.5, 1.2
    corner = mean / deviation**2
    slope = min(strength, corner)
    huber = slope * mean - slope**2 * deviation**2 / 2
    # Trapezoidal sums of normal densities are exact to about exp(-2 (pi deviation / step)^2).
    result = moreau_yosida_kl(*gaussian_pair(mean, deviation, 0.15), strength)
    assert result.value == pytest.approx(huber, abs=1e-8)
    other = strength * mean - strength**2 * deviation**2 / 2
    assert (abs(other - huber) < 1e-12) == (strength <= corner)


def test_two_normal_laws_the_best_measure_is_the_shifted_one():
    mu, nu, cost = gaussian_pair(1.5, 1.0, 0.15)
    shifted, _, _ = gaussian_pair(0.75, 1.0, 0.15)  # N(lambda s^2, s^2), on a shorter grid
    result = moreau_yosida_kl(mu, nu, cost, 0.75)
    np.testing.assert_allclose(result.measure[: len(shifted)], shifted, atol=1e-5)
    rise = np.diff(result.potential)[30:-30]
    np.testing.assert_allclose(rise, 0.75 * 0.15, atol=1e-6)  # f is linear with slope lambda


def test_two_points_by_a_search_over_one_number():
    p, q, distance = 0.9, 0.2, 1.7
    for strength in (0.3, 1.0, 5.0):

        def objective(xi, strength=strength):
            divergence = kl_divergence([xi, 1 - xi], [q, 1 - q])
            return divergence + strength * distance * abs(p - xi)

        best = minimize_scalar(
            objective, (q, p), (0, 1), method="bounded", options={"xatol": 1e-10}
        )
        result = moreau_yosida_kl([p, 1 - p], [q, 1 - q], [[0, distance], [distance, 0]], strength)
        # The search does not reach the end points, where the best measure is mu.
        assert result.value == pytest.approx(min(best.fun, objective(p)), abs=1e-9)


def test_single_points_far_apart():
    # KL is infinite. All mass travels: the value is lambda times the distance.
    for strength in (0.5, 1e3, 1e12):
        result = moreau_yosida_kl([1.0, 0, 0], [0, 0, 1.0], LINE, strength)
        assert result.value == pytest.approx(2 * strength, rel=1e-9)
    assert math.isinf(kl_divergence([1.0, 0, 0], [0, 0, 1.0]))


@pytest.mark.parametrize("seed", range(4))
def test_a_general_solver_finds_the_same_dual(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(5, 2))
    cost = pairwise_distances(points, points, 2)
    mu, nu = rng.dirichlet(np.ones(5), 2)
    i, j = np.nonzero(~np.eye(5, dtype=bool))
    strength = 0.7

    def jacobian(f):
        g = np.zeros((len(i), 5))
        g[np.arange(len(i)), i], g[np.arange(len(i)), j] = -1.0, 1.0
        return g

    found = minimize(
        lambda f: logsumexp(f, b=nu) - mu @ f,
        np.zeros(5),
        jac=lambda f: nu * np.exp(f - logsumexp(f, b=nu)) - mu,
        constraints={
            "type": "ineq",
            "fun": lambda f: strength * cost[i, j] - f[i] + f[j],
            "jac": jacobian,
        },
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    assert moreau_yosida_kl(mu, nu, cost, strength).value == pytest.approx(-found.fun, abs=1e-8)


@pytest.mark.parametrize("strength", [0.2, 1.0, 8.0])
def test_a_cone_solver_agrees_on_both_sides(strength):
    mu, nu, cost = random_case(30, 8)
    result = moreau_yosida_kl(mu, nu, cost, strength)
    some = nu > 0
    plan = cp.Variable((8, int(some.sum())), nonneg=True)
    xi = cp.sum(plan, axis=0)
    primal = cp.sum(cp.kl_div(xi, nu[some])) + strength * cp.sum(cp.multiply(cost[:, some], plan))
    least = cp.Problem(cp.Minimize(primal), [cp.sum(plan, axis=1) == mu])
    f = cp.Variable(8)
    i, j = np.nonzero(cost)
    dual = mu @ f - cp.log_sum_exp(f[some] + np.log(nu[some]))
    most = cp.Problem(cp.Maximize(dual), [f[i] - f[j] <= strength * cost[i, j]])
    for problem in (least, most):
        problem.solve(solver=cp.CLARABEL)
        assert problem.value == pytest.approx(result.value, abs=1e-6)
    np.testing.assert_allclose(xi.value, result.measure[some], atol=1e-4)


def test_it_grows_with_the_strength_to_the_divergence_and_is_concave():
    mu, nu, cost = random_case(5)
    mu, nu = mu + 0.01, nu + 0.01
    mu, nu = mu / mu.sum(), nu / nu.sum()
    ratio = np.log(mu / nu)
    apart = cost > 0
    lipschitz = (np.abs(ratio[:, None] - ratio)[apart] / cost[apart]).max()
    strengths = np.linspace(0, 1.2 * lipschitz, 25)
    values = np.array([moreau_yosida_kl(mu, nu, cost, s).value for s in strengths])
    assert (np.diff(values) >= -1e-9).all()
    assert (np.diff(values, 2) <= 1e-9).all()  # a minimum of functions that are affine in lambda
    divergence = kl_divergence(mu, nu)
    assert values[strengths >= lipschitz] == pytest.approx(divergence, abs=1e-9)
    assert values[strengths < 0.9 * lipschitz].max() < divergence - 1e-6
    result = moreau_yosida_kl(mu, nu, cost, 1.01 * lipschitz)
    np.testing.assert_allclose(result.measure, mu, atol=1e-5)
    np.testing.assert_allclose(result.potential, ratio, atol=1e-3)


def test_it_is_lipschitz_in_mu_for_the_wasserstein_distance():
    rng = np.random.default_rng(6)
    _, nu, cost = random_case(6)
    for strength in (0.2, 1.0, 5.0):
        for mu, other in rng.dirichlet(np.full(12, 0.5), (10, 2)):
            change = abs(
                moreau_yosida_kl(mu, nu, cost, strength).value
                - moreau_yosida_kl(other, nu, cost, strength).value
            )
            distance = unconstrained_wasserstein(mu, other, cost, 2).distance
            assert change <= strength * distance + 1e-9


def test_the_divergence_itself_is_not_lipschitz():
    cost = [[0.0, 1.0], [1.0, 0.0]]
    for rare in (1e-30, 1e-90, 0.0):
        mu, nu = [1 - 1e-3, 1e-3], [1 - rare, rare]  # a thousandth apart in W1
        assert kl_divergence(mu, nu) > 50 * 1e-3
        assert moreau_yosida_kl(mu, nu, cost, 5.0).value <= 5.0 * 1e-3 + 1e-9


def test_the_potential_is_the_derivative_in_mu():
    mu, nu, cost = random_case(7)
    direction = np.random.default_rng(7).dirichlet(np.ones(12)) - mu
    h = 1e-4
    ahead = moreau_yosida_kl(mu + h * direction, nu, cost, 1.0).value
    here = moreau_yosida_kl(mu, nu, cost, 1.0)
    slope = direction @ here.potential
    assert ahead - here.value >= h * slope - 1e-9  # convex in mu: f is a subgradient


def test_equal_histograms_and_strength_zero():
    mu, nu, cost = random_case(8)
    assert moreau_yosida_kl(mu, mu, cost, 2.0).value == pytest.approx(0, abs=1e-9)
    free = moreau_yosida_kl(mu, nu, cost, 0.0)
    assert free.value == 0 and abs(free.gap) < 1e-15
    np.testing.assert_array_equal(free.measure, nu)
    np.testing.assert_allclose(free.potential, 0, atol=1e-15)
    assert moreau_yosida_kl([1.0], [1.0], [[0.0]], 3.0).value == pytest.approx(0, abs=1e-12)


def test_repeated_points_are_one_point():
    # Points 0 and 1 coincide: mass between them moves for nothing.
    cost = np.array([[0.0, 0, 1], [0, 0, 1], [1, 1, 0]])
    split = moreau_yosida_kl([0.3, 0.2, 0.5], [0.1, 0.1, 0.8], cost, 0.4)
    merged = moreau_yosida_kl([0.5, 0.5], [0.2, 0.8], [[0, 1], [1, 0]], 0.4)
    assert split.value == pytest.approx(merged.value, abs=1e-9)
    assert split.potential[0] == split.potential[1]


def test_tensors_come_back_as_tensors_and_float32_is_good_enough():
    points = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    cost = torch.cdist(points, points)
    mu, nu = torch.softmax(points, dim=0).T
    result = moreau_yosida_kl(mu, nu, cost, 0.5)
    assert isinstance(result.potential, torch.Tensor) and result.potential.dtype == torch.float64
    assert isinstance(result.measure, torch.Tensor) and result.plan.shape == (30, 30)
    assert result.gap < 1e-9


def test_two_hundred_points_take_well_under_five_seconds():
    mu, nu, cost = random_case(9, 200)
    start = time.process_time()
    result = moreau_yosida_kl(mu, nu, cost, 2.0)
    assert time.process_time() - start < 5.0  # 0.1 s measured
    assert result.gap < 1e-9


def test_a_solver_that_stops_early_does_not_answer(monkeypatch):
    mu, nu, cost = random_case(10)
    with pytest.raises(RuntimeError, match="did not finish within 2 iterations"):
        moreau_yosida_kl(mu, nu, cost, 1.0, max_iterations=2)
    # Sabotage: a solver whose prices are wrong is found out by the certificate.
    solve = module._interior_point

    def wrong(*arguments):
        plan, h = solve(*arguments)
        return plan, -h

    monkeypatch.setattr(module, "_interior_point", wrong)
    with pytest.raises(RuntimeError, match="did not finish"):
        moreau_yosida_kl(mu, nu, cost, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strength": -0.1}, "strength must be finite and >= 0; got -0.1"),
        ({"strength": math.inf}, "strength must be finite and >= 0; got inf"),
        ({"strength": math.nan}, "strength must be finite and >= 0; got nan"),
        ({"strength": 1e200}, "must be at most 1e.100; got 1e.200 times 2"),
        ({"mu": [0.5, 0.6, 0.0]}, "mu must sum to 1; got a sum of 1.1"),
        ({"nu": [-0.5, 0.5, 1.0]}, "nu must not be negative; got a smallest weight of -0.5"),
        ({"nu": [0.5, 0.5]}, r"same shape; got \(3,\) and \(2,\)"),
        ({"mu": [[1.0, 0, 0]]}, r"mu must have shape \(n,\)"),
        ({"mu": [math.nan, 0, 1.0]}, "mu must be finite"),
        ({"cost": LINE[:2]}, r"cost must have shape \(3, 3\), as there are 3 points; got \(2, 3\)"),
        ({"cost": LINE + 1}, "cost must be zero on its diagonal; got 1 there"),
        ({"cost": -LINE}, "cost must not be negative; got a smallest entry of -2"),
        ({"cost": np.triu(LINE)}, "cost must be symmetric; got 2 from 0 to 2 and 0 back"),
        ({"cost": LINE**2}, "triangle inequality; got 4 from 0 to 2, but 2 by way of 1"),
        ({"cost": LINE / [[1, 1, math.nan]]}, "cost must be finite; got 3 values"),
        ({"max_iterations": 0}, "max_iterations must be at least 1; got 0"),
    ],
)
def test_bad_input_is_refused(change, message):
    good = {"mu": [0.2, 0.3, 0.5], "nu": [0.5, 0.0, 0.5], "cost": LINE, "strength": 1.0}
    with pytest.raises(ValueError, match=message):
        moreau_yosida_kl(**(good | change))


def test_masses_that_are_no_numbers_are_a_type_error():
    with pytest.raises(TypeError, match="mu must hold real numbers"):
        moreau_yosida_kl(["a", "b", "c"], [0.5, 0, 0.5], LINE, 1.0)
