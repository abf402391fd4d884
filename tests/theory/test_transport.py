"""wasserstein1 against closed forms, against another solver, and against its own certificate."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance

from lipnb.theory import transport, wasserstein1
from lipnb.theory._clouds import pairwise_distances

NORMS = [1, 2, math.inf]


def random_problem(seed, *, most=12, zero_share=0.3):
    """Two clouds in one to four dimensions with uneven weights, some of them zero."""
    rng = np.random.default_rng(seed)
    n, m, d = rng.integers(1, most), rng.integers(1, most), rng.integers(1, 5)
    x, y = rng.normal(size=(n, d)), 2 * rng.normal(size=(m, d)) + 1
    if seed % 3 == 0:  # a coarse grid: many ties, and points that coincide
        x, y = np.round(x), np.round(y)
    weights = []
    for count in (n, m):
        w = rng.random(count) * (rng.random(count) > zero_share)
        w[rng.integers(count)] += 0.1
        weights.append(w / w.sum())
    return x, y, *weights


def linear_program(x, y, a, b, p):
    """The same number from HiGHS: minimise <C, plan> with the two marginals as equations."""
    n, m = len(a), len(b)
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(n), np.eye(m))
    solution = linprog(
        pairwise_distances(x, y, p).ravel(),
        A_eq=np.vstack([rows, columns]),
        b_eq=np.concatenate([a, b]),
        method="highs",
    )
    assert solution.status == 0
    return solution.fun


def check_certificate(result, x, y, a, b, p):
    """Plan is a coupling that costs value; potential is 1-Lipschitz and attains value."""
    scale = max(pairwise_distances(np.vstack([x, y]), np.vstack([x, y]), p).max(), 1e-300)
    plan, f = np.asarray(result.plan), np.asarray(result.potential)
    assert plan.shape == (len(a), len(b)) and f.shape == (len(a) + len(b),)
    assert plan.min() >= 0
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-12)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-12)
    cost = (plan * pairwise_distances(x, y, p)).sum()
    assert cost == pytest.approx(result.value, abs=1e-12 * scale)
    attained = a @ f[: len(a)] - b @ f[len(a) :]
    assert attained == pytest.approx(result.value, abs=1e-12 * scale)
    z = np.vstack([x, y])
    excess = np.abs(f[:, None] - f[None]) - pairwise_distances(z, z, p)
    assert excess.max() <= 1e-14 * scale


@pytest.mark.parametrize(("p", "distance"), [(1, 7.0), (2, 5.0), (math.inf, 4.0)])
def test_two_diracs_are_as_far_apart_as_their_points(p, distance):
    result = wasserstein1([[1.0, 1.0]], [[4.0, 5.0]], p=p)
    assert result.value == distance
    assert result.plan.tolist() == [[1.0]]
    assert result.potential.tolist() == [distance, 0.0]


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("seed", range(20))
def test_value_equals_linear_program_and_certificate_holds(seed, p):
    x, y, a, b = random_problem(seed)
    result = wasserstein1(x, y, a, b, p=p)
    scale = pairwise_distances(x, y, p).max()
    assert result.value == pytest.approx(linear_program(x, y, a, b, p), abs=1e-9 * scale)
    assert abs(result.gap) <= 1e-12 * scale
    check_certificate(result, x, y, a, b, p)


@pytest.mark.parametrize("seed", range(10))
def test_on_a_line_it_is_the_area_between_the_distribution_functions(seed):
    rng = np.random.default_rng(seed)
    x, y, a, b = rng.normal(size=30), rng.exponential(size=20), rng.random(30), rng.random(20)
    a[:5] = 0.0
    a, b = a / a.sum(), b / b.sum()
    truth = wasserstein_distance(x, y, a, b)
    for p in NORMS:  # all three norms are the absolute value here
        assert wasserstein1(x[:, None], y[:, None], a, b, p=p).value == pytest.approx(truth)


def test_on_a_line_equal_weights_couple_in_sorted_order():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), rng.normal(size=50) + 1
    truth = np.abs(np.sort(x) - np.sort(y)).mean()
    assert wasserstein1(x[:, None], y[:, None]).value == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("p", NORMS)
def test_translation_costs_the_length_of_the_shift(p):
    rng = np.random.default_rng(1)
    x, shift = rng.normal(size=(40, 3)), np.array([0.3, -2.0, 1.1])
    value = wasserstein1(x, x + shift, p=p).value
    assert value == pytest.approx(np.linalg.norm(shift, ord=p), rel=1e-12)


coordinates = st.integers(-6, 6).map(lambda k: k / 2)
clouds = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=6).map(np.array)


@settings(max_examples=60, deadline=None)
@given(x=clouds, y=clouds, z=clouds, p=st.sampled_from(NORMS))
def test_it_is_a_metric(x, y, z, p):
    d_xy, d_yx = wasserstein1(x, y, p=p).value, wasserstein1(y, x, p=p).value
    d_yz, d_xz = wasserstein1(y, z, p=p).value, wasserstein1(x, z, p=p).value
    assert d_xy >= 0
    assert d_xy == pytest.approx(d_yx, abs=1e-12)
    assert d_xz <= d_xy + d_yz + 1e-12
    assert wasserstein1(x, x[::-1], p=p).value == pytest.approx(0, abs=1e-15)
    masses = [{tuple(q): np.mean((cloud == q).all(1)) for q in cloud} for cloud in (x, y)]
    if masses[0] != masses[1]:
        assert d_xy > 1e-3


@settings(max_examples=60, deadline=None)
@given(x=clouds, y=clouds, p=st.sampled_from(NORMS), scale=st.sampled_from([1e-150, 1e-3, 1e150]))
def test_it_scales_with_the_unit_of_length(x, y, p, scale):
    assert wasserstein1(scale * x, scale * y, p=p).value == pytest.approx(
        scale * wasserstein1(x, y, p=p).value, rel=1e-10, abs=1e-12 * scale
    )


@settings(max_examples=40, deadline=None)
@given(x=clouds, y=clouds, data=st.data())
def test_potential_is_a_certificate_with_duplicates_and_zero_weights(x, y, data):
    a, b = (
        np.array(data.draw(st.lists(st.integers(0, 4), min_size=len(c), max_size=len(c))), float)
        for c in (x, y)
    )
    a[0], b[0] = a[0] + 1, b[0] + 1
    a, b = a / a.sum(), b / b.sum()
    for p in NORMS:
        check_certificate(wasserstein1(x, y, a, b, p=p), x, y, a, b, p)


def test_points_without_mass_change_nothing_but_still_get_a_potential():
    x, y, a, b = random_problem(4, zero_share=0.0)
    far = 1e3 * np.ones((1, x.shape[1]))
    plain = wasserstein1(x, y, a, b)
    padded = wasserstein1(
        np.vstack([x, far]), np.vstack([far, y]), np.append(a, 0.0), np.append(0.0, b)
    )
    assert padded.value == pytest.approx(plain.value, rel=1e-12)
    f = padded.potential
    assert f[len(x)] == f[len(x) + 1]  # the same far point, seen from both clouds
    assert abs(f[len(x)] - f[0]) <= np.linalg.norm(far[0] - x[0])


def test_identical_clouds_far_from_the_origin_are_at_distance_zero():
    x = 1e12 + np.random.default_rng(2).normal(size=(30, 2))
    result = wasserstein1(x, x[::-1])
    assert result.value == 0.0 and result.gap == 0.0
    assert np.ptp(result.potential) <= 2 * np.ptp(x)


def test_all_mass_in_one_point_with_uneven_weights():
    a, b = np.array([0.1, 0.2, 0.7]), np.array([0.6, 0.4])
    result = wasserstein1(np.ones((3, 2)), np.ones((2, 2)), a, b)
    assert result.value == 0.0
    check_certificate(result, np.ones((3, 2)), np.ones((2, 2)), a, b, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_tensors_in_tensors_out_in_double_precision(dtype):
    x, y = torch.tensor([[0, 0], [2, 0]], dtype=dtype), torch.tensor([[0, 1], [2, 1]], dtype=dtype)
    result = wasserstein1(x, y)
    assert result.value == 1.0 and isinstance(result.value, float)
    for tensor in (result.plan, result.potential):
        assert isinstance(tensor, torch.Tensor)
        assert tensor.dtype == torch.float64 and tensor.device == x.device
    assert torch.equal(result.plan, torch.eye(2, dtype=torch.float64) / 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_results_return_to_the_device_of_x():
    x = torch.zeros(3, 2, device="cuda")
    result = wasserstein1(x, torch.ones(2, 2))
    assert result.plan.device == x.device and result.potential.device == x.device


def test_inputs_are_left_alone_and_need_no_graph():
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    before, state = x.detach().clone(), torch.random.get_rng_state()
    result = wasserstein1(x, x.detach() + 1)
    assert torch.equal(x.detach(), before) and x.grad is None
    assert not result.plan.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)
    array = np.array([[1.0], [2.0]])
    wasserstein1(array, array, array[:, 0] / 3)
    assert array.tolist() == [[1.0], [2.0]]


def test_weights_from_single_precision_are_accepted():
    n = 3000
    w = torch.full((n,), 1 / n, dtype=torch.float32)
    x = torch.arange(n, dtype=torch.float32)[:, None]
    assert wasserstein1(x, torch.tensor([[0.0]]), w).value == pytest.approx((n - 1) / 2, rel=1e-9)


def test_gradient_of_the_cost_of_the_plan_is_that_of_the_distance():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(6, 2)), rng.normal(size=(5, 2)) + 1
    points = torch.tensor(x, requires_grad=True)
    plan = torch.as_tensor(wasserstein1(x, y).plan)
    (gradient,) = torch.autograd.grad((plan * torch.cdist(points, torch.tensor(y))).sum(), points)
    h, numeric = 1e-6, np.zeros_like(x)
    for i, j in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[i, j] = h
        rise = wasserstein1(x + step, y).value - wasserstein1(x - step, y).value
        numeric[i, j] = rise / (2 * h)
    np.testing.assert_allclose(gradient.numpy(), numeric, atol=1e-7)


ONE, TWO = np.zeros((1, 2)), np.zeros((2, 2))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros(3), TWO), {}, r"x must have shape \(n, d\).*got \(3,\).*x\[:, None\]"),
        ((TWO, np.zeros((0, 2))), {}, r"y must have shape \(n, d\).*got \(0, 2\)"),
        ((np.zeros((2, 2, 1)), TWO), {}, r"got \(2, 2, 1\)"),
        ((TWO, np.zeros((2, 3))), {}, "same dimension; got d = 2 and 3"),
        ((TWO, TWO, [1.0]), {}, r"a must have shape \(2,\), one per point; got \(1,\)"),
        ((TWO, TWO, None, [[0.5], [0.5]]), {}, r"b must have shape \(2,\).*got \(2, 1\)"),
        ((TWO, TWO, [0.5, 0.6]), {}, "a must sum to 1; got a sum of 1.1"),
        ((TWO, TWO, [1.0, 1.0], [1.0, 1.0]), {}, "a must sum to 1; got a sum of 2"),
        ((TWO, TWO, [1.5, -0.5]), {}, "a must not be negative; got a smallest weight of -0.5"),
        ((TWO, TWO, [0.0, 0.0]), {}, "a must sum to 1; got a sum of 0"),
        ((TWO, [[np.nan, 0.0]]), {}, "y must be finite; got 1 values"),
        ((TWO, TWO, [np.inf, 0.0]), {}, "a must be finite; got 1 values"),
        ((ONE, ONE), {"p": 3}, "p must be 1, 2 or inf; got 3"),
        ((ONE, ONE), {"max_iterations": 0}, "max_iterations must be at least 1; got 0"),
        ((ONE - 1.7e308, ONE + 1.7e308), {}, "too far apart"),
    ],
)
def test_wrong_input_is_refused_with_what_came(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        wasserstein1(*arguments, **options)


@pytest.mark.parametrize("values", [torch.zeros(2, 2, dtype=torch.complex64), [["a", "b"]]])
def test_what_is_not_a_real_number_is_refused(values):
    with pytest.raises(TypeError, match="x must hold real numbers; got dtype"):
        wasserstein1(values, TWO)


def test_a_solver_that_stops_early_is_an_error_and_not_a_number():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    with pytest.raises(RuntimeError, match=r"did not finish on a \(50, 50\) problem within 3"):
        wasserstein1(x, y, max_iterations=3)


@pytest.mark.parametrize("fault", ["plan", "marginals", "duals"])
def test_a_wrong_answer_of_the_solver_is_caught(fault, monkeypatch):
    """Sabotage: whatever part of the solver's answer is wrong, no number comes out."""
    solve = transport.solve_program

    def broken(a, b, cost, max_iterations):
        plan, duals = solve(a, b, cost, max_iterations)
        if fault == "plan":
            return np.outer(a, b), duals  # a coupling, but not the cheapest
        if fault == "marginals":
            return 0.9 * plan, duals
        return plan, np.zeros_like(duals)

    monkeypatch.setattr(transport, "solve_program", broken)
    x, y = np.array([[0.0], [1.0]]), np.array([[2.0], [5.0]])
    with pytest.raises(RuntimeError, match="not optimal"):
        wasserstein1(x, np.vstack([y, [[-3.0]]]))


def test_the_raw_dual_values_of_the_solver_are_not_a_potential():
    """Why the c-transform is there: as they come, the dual values break the Lipschitz bound."""
    ot = transport.import_pot()
    x, y, a, b = random_problem(5)
    log = ot.emd(a, b, pairwise_distances(x, y, 2), log=True)[1]
    raw, z = np.concatenate([log["u"], -log["v"]]), np.vstack([x, y])
    excess = np.abs(raw[:, None] - raw[None]) - pairwise_distances(z, z, 2)
    assert excess.max() > 0.05
    check_certificate(wasserstein1(x, y, a, b), x, y, a, b, 2)


def test_without_pot_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ot", None)
    with pytest.raises(ImportError, match=r"pip install lipnb\[transport\]"):
        wasserstein1(TWO, TWO)


def test_result_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        wasserstein1(TWO, TWO).value = 1.0
