"""Divergences against closed forms, other solvers, and their own laws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from lipnb.distances import kullback_leibler
from lipnb.theory import (
    gaussian_kl,
    gaussian_mutual_information,
    kl_divergence,
    mutual_information,
)


def fractions_sum(p, q):
    """The definition, term by term, in extended precision."""
    p, q = (np.asarray(v, np.longdouble) for v in (p, q))
    keep = p > 0
    return float((p[keep] * np.log(p[keep] / q[keep])).sum())


masses = st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(lambda m: sum(m) > 0)


def histogram(counts):
    return np.array(counts) / sum(counts)


# --- finite spaces ----------------------------------------------------------------------------


def test_two_coins():
    assert kl_divergence([0.5, 0.5], [0.2, 0.8]) == pytest.approx(math.log(5 / 4), rel=1e-14)
    reverse = 0.2 * math.log(0.4) + 0.8 * math.log(1.6)
    assert kl_divergence([0.2, 0.8], [0.5, 0.5]) == pytest.approx(reverse, rel=1e-14)


@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 7), (3, 7), (7, 7), (1000, 4000)])
def test_uniform_on_some_points_against_uniform_on_all(k, n):
    some = np.where(np.arange(n) < k, 1 / k, 0.0)
    assert kl_divergence(some, np.full(n, 1 / n)) == pytest.approx(math.log(n / k), abs=1e-12)


def test_the_conventions_at_zero():
    assert kl_divergence([0.0, 1.0], [0.5, 0.5]) == pytest.approx(math.log(2), rel=1e-15)
    assert kl_divergence([0.5, 0.5], [0.0, 1.0]) == math.inf
    assert kl_divergence([1.0, 0.0], [0.0, 1.0]) == math.inf
    assert kl_divergence([0.0, 0.3, 0.7], [0.0, 0.3, 0.7]) == 0.0  # 0 log(0/0) = 0
    assert kl_divergence([1e-300, 1.0], [0.0, 1.0]) == math.inf  # however small the mass


@settings(max_examples=200, deadline=None)
@given(p=masses, data=st.data())
def test_it_is_the_definition_and_never_negative(p, data):
    q = data.draw(st.lists(st.integers(0, 9), min_size=len(p), max_size=len(p)))
    q[0] += 1
    p, q = histogram(p), histogram(q)
    value = kl_divergence(p, q)
    assert value >= 0
    if ((p > 0) & (q == 0)).any():
        assert value == math.inf
    else:
        assert value == pytest.approx(fractions_sum(p, q), rel=1e-12, abs=1e-15)
        assert (value == 0) == np.array_equal(p, q)


@settings(max_examples=60, deadline=None)
@given(p=masses, data=st.data())
def test_pinsker(p, data):
    q = data.draw(st.lists(st.integers(1, 9), min_size=len(p), max_size=len(p)))
    p, q = histogram(p), histogram(q)
    assert kl_divergence(p, q) >= np.abs(p - q).sum() ** 2 / 2 - 1e-15


@settings(max_examples=60, deadline=None)
@given(p=masses, data=st.data())
def test_merging_points_loses_information(p, data):
    n = len(p)
    q = data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    cell = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    p, q = histogram(p), histogram(q)
    merged = kl_divergence(*(np.bincount(cell, v, minlength=3) for v in (p, q)))
    assert merged <= kl_divergence(p, q) + 1e-14


@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-7, 1e-9])
def test_close_histograms_keep_their_digits(size):
    """D = chi^2 / 2 up to third order; the plain sum of p log(p/q) drowns in rounding."""
    p = np.array([0.1, 0.3, 0.6])
    q = p + size * np.array([1.0, -3.0, 2.0])
    law = ((q - p) ** 2 / p).sum() / 2
    assert kl_divergence(q, p) == pytest.approx(law, rel=20 * size + 1e-6)
    plain = (q * np.log(q / p)).sum()
    if size <= 1e-9:
        assert abs(plain / law - 1) > 0.1


def test_tiny_masses_do_not_over_or_underflow():
    assert kl_divergence([1.0, 1e-320], [1e-320, 1.0]) == pytest.approx(736.8, abs=0.1)
    table = np.diag([1e-200, 1.0])  # the product of its marginals would round to zero
    assert mutual_information(table) == pytest.approx(1e-200 * (1 + 200 * math.log(10)), rel=1e-2)


@pytest.mark.parametrize("seed", range(10))
def test_independent_parts_add_up(seed):
    rng = np.random.default_rng(seed)
    p, q = (rng.dirichlet(np.ones(4), 2) for _ in range(2))
    product = [np.outer(*v).ravel() for v in (p, q)]
    assert kl_divergence(*product) == pytest.approx(
        kl_divergence(p[0], q[0]) + kl_divergence(p[1], q[1]), rel=1e-12
    )


@pytest.mark.parametrize("seed", range(10))
def test_it_is_the_supremum_of_donsker_and_varadhan(seed):
    """The concave programme of the variational formula, by another solver."""
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(12), 2)
    best = minimize(
        lambda f: logsumexp(f, b=q) - p @ f,
        np.zeros(12),
        jac=lambda f: q * np.exp(f - logsumexp(f, b=q)) - p,
        method="BFGS",
        options={"gtol": 1e-9},
    )
    assert -best.fun == pytest.approx(kl_divergence(p, q), abs=1e-9)
    assert -best.fun != pytest.approx(kl_divergence(q, p), abs=1e-3)  # sabotage: reversed


@pytest.mark.parametrize("seed", range(5))
def test_derivative_in_mu_is_the_logarithm_of_the_density(seed):
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(5 * np.ones(6), 2)
    h = rng.normal(size=6)
    h -= h.mean()
    step = 1e-6
    numeric = (kl_divergence(p + step * h, q) - kl_divergence(p - step * h, q)) / (2 * step)
    assert numeric == pytest.approx(h @ np.log(p / q), rel=1e-6)


def test_it_agrees_with_the_distance_of_logits():
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(0)).double()
    p, q = logits.softmax(dim=1)
    ours = kullback_leibler(logits[:1], logits[1:]).item()
    assert kl_divergence(p, q) == pytest.approx(ours, rel=1e-12)


def test_masses_from_single_precision_are_accepted():
    n = 3000
    w = torch.full((n,), 1 / n)
    assert kl_divergence(w, np.full(n, 1 / n)) == pytest.approx(0, abs=1e-12)


def test_tensors_lists_and_arrays_alike_and_left_alone():
    p, q = torch.tensor([0.5, 0.5], requires_grad=True), np.array([0.2, 0.8])
    before = q.copy()
    assert kl_divergence(p, q) == kl_divergence([0.5, 0.5], (0.2, 0.8)) > 0
    assert isinstance(kl_divergence(p, q), float) and p.grad is None
    assert np.array_equal(q, before)
    assert kl_divergence(torch.tensor([1, 0]), [0.5, 0.5]) == pytest.approx(math.log(2))


# --- mutual information -----------------------------------------------------------------------


def test_a_noisy_channel():
    """A fair bit that is flipped with probability e keeps log 2 - H(e)."""
    for e in (0.0, 0.1, 0.5, 1.0):
        table = np.array([[1 - e, e], [e, 1 - e]]) / 2
        entropy = -sum(t * math.log(t) for t in (e, 1 - e) if t > 0)
        assert mutual_information(table) == pytest.approx(math.log(2) - entropy, abs=1e-15)


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 4), m=st.integers(1, 4), data=st.data())
def test_it_is_the_divergence_from_the_product(n, m, data):
    counts = data.draw(st.lists(st.integers(0, 9), min_size=n * m, max_size=n * m))
    counts[0] += 1
    table = histogram(counts).reshape(n, m)
    product = np.outer(table.sum(1), table.sum(0))
    value = mutual_information(table)
    assert value == pytest.approx(kl_divergence(table.ravel(), product.ravel()), abs=1e-14)
    assert value == pytest.approx(mutual_information(table.T), abs=1e-14)
    assert 0 <= value <= math.log(min(n, m)) + 1e-14


def test_independence_is_zero_and_a_copy_is_its_entropy():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(7))
    assert mutual_information(np.outer(p, q)) == pytest.approx(0, abs=1e-30)
    assert mutual_information(np.diag(p)) == pytest.approx(-(p * np.log(p)).sum(), rel=1e-13)


# --- normal laws ------------------------------------------------------------------------------


def test_gaussian_pair_of_the_literature():
    truth = math.log(0.6 / 0.3) + (0.3**2 + 1.5**2) / (2 * 0.6**2) - 0.5
    assert gaussian_kl([-1.0], [[0.09]], [0.5], [[0.36]]) == pytest.approx(truth, rel=1e-13)
    law, other = norm(-1, 0.3), norm(0.5, 0.6)
    by_quad = quad(lambda x: law.pdf(x) * (law.logpdf(x) - other.logpdf(x)), -4, 2)[0]
    assert truth == pytest.approx(by_quad, rel=1e-8)


def random_law(rng, d):
    root = rng.normal(size=(d, d))
    return rng.normal(size=d), root @ root.T + 0.3 * np.eye(d)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_gaussian_formula_with_trace_and_determinants(d):
    rng = np.random.default_rng(d)
    (a, cov_a), (b, cov_b) = random_law(rng, d), random_law(rng, d)
    inverse = np.linalg.inv(cov_b)
    truth = np.trace(inverse @ cov_a) - d + (a - b) @ inverse @ (a - b)
    truth += np.linalg.slogdet(cov_b)[1] - np.linalg.slogdet(cov_a)[1]
    assert gaussian_kl(a, cov_a, b, cov_b) == pytest.approx(truth / 2, rel=1e-10)
    assert gaussian_kl(a, cov_a, a, cov_a) == pytest.approx(0, abs=1e-25)
    m = rng.normal(size=(d, d))  # an invertible change of coordinates loses nothing
    moved = gaussian_kl(m @ a, m @ cov_a @ m.T, m @ b, m @ cov_b @ m.T)
    assert moved == pytest.approx(truth / 2, rel=1e-8)


def test_gaussian_divergence_is_that_of_a_sample_mean():
    rng = np.random.default_rng(0)
    (a, cov_a), (b, cov_b) = random_law(rng, 3), random_law(rng, 3)
    x = rng.multivariate_normal(a, cov_a, 100_000)
    ratio = multivariate_normal(a, cov_a).logpdf(x) - multivariate_normal(b, cov_b).logpdf(x)
    assert abs(ratio.mean() - gaussian_kl(a, cov_a, b, cov_b)) < 4 * ratio.std() / 100_000**0.5
    assert abs(ratio.mean() - gaussian_kl(b, cov_b, a, cov_a)) > 40 * ratio.std() / 100_000**0.5


def test_cells_of_a_fine_grid_approach_the_gaussian_divergence_from_below():
    truth, values = gaussian_kl([1.0], [[1.0]], [0.0], [[1.0]]), []
    for cells in (2, 4, 16, 64, 1024):
        edges = np.linspace(-6, 6, cells + 1)
        edges[[0, -1]] = -np.inf, np.inf
        values.append(kl_divergence(np.diff(norm.cdf(edges, 1)), np.diff(norm.cdf(edges))))
    assert values == sorted(values) and values[-1] <= truth
    assert values[-1] == pytest.approx(truth, rel=1e-4)


@pytest.mark.parametrize(("rho", "truth"), [(0.1, 0.005025), (0.5, 0.14384), (0.99, 1.95852)])
def test_correlated_pair(rho, truth):
    value = gaussian_mutual_information([[1.0, rho], [rho, 1.0]], 1)
    assert value == pytest.approx(truth, abs=5e-6)
    assert value == pytest.approx(-math.log(1 - rho**2) / 2, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_gaussian_information_is_the_divergence_from_the_product(k):
    rng = np.random.default_rng(k)
    _, c = random_law(rng, 5)
    blocks = c.copy()
    blocks[:k, k:] = blocks[k:, :k] = 0.0
    zero = np.zeros(5)
    value = gaussian_mutual_information(c, k)
    assert value == pytest.approx(gaussian_kl(zero, c, zero, blocks), rel=1e-10)
    assert gaussian_mutual_information(blocks, k) == 0.0
    scale = np.diag(rng.uniform(0.1, 10, 5))  # units do not matter
    assert gaussian_mutual_information(scale @ c @ scale, k) == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize("rho", [1e-9, 1e-5, 1 - 1e-9])
def test_weak_and_strong_correlations_keep_their_digits(rho):
    value = gaussian_mutual_information([[1.0, rho], [rho, 1.0]], 1)
    assert value == pytest.approx(-math.log1p(-(rho**2)) / 2, rel=1e-7)
    assert value > 0


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mu", "nu", "message"),
    [
        ([0.5, 0.6], [0.5, 0.5], "mu must sum to 1; got a sum of 1.1"),
        ([0.5, 0.5], [1.5, -0.5], "nu must not be negative; got a smallest weight of -0.5"),
        ([0.0, 0.0], [0.5, 0.5], "mu must sum to 1; got a sum of 0"),
        ([0.5, 0.5], [1 / 3] * 3, r"the same shape; got \(2,\) and \(3,\)"),
        ([[0.5, 0.5]], [0.5, 0.5], r"mu must have shape \(n,\), n >= 1; got \(1, 2\)"),
        ([0.5, 0.5], [[0.5], [0.5]], r"nu must have shape \(n,\), n >= 1; got \(2, 1\)"),
        (1.0, [1.0], r"mu must have shape \(n,\), n >= 1; got \(\)"),
        ([], [1.0], r"mu must have shape \(n,\), n >= 1; got \(0,\)"),
        ([np.nan, 1.0], [0.5, 0.5], "mu must be finite; got 1 values"),
        ([0.5, 0.5], [np.inf, 0.5], "nu must be finite; got 1 values"),
    ],
)
def test_no_histograms(mu, nu, message):
    with pytest.raises(ValueError, match=message):
        kl_divergence(mu, nu)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([0.5, 0.5], r"joint must have shape \(n, m\), n, m >= 1; got \(2,\)"),
        (np.zeros((0, 3)), r"got \(0, 3\)"),
        (np.ones((2, 2)), "joint must sum to 1; got a sum of 4"),
        ([[1.2, -0.2]], "joint must not be negative"),
        ([[np.nan, 1.0]], "joint must be finite"),
    ],
)
def test_no_joint_tables(table, message):
    with pytest.raises(ValueError, match=message):
        mutual_information(table)


EYE, ZERO = np.eye(2), np.zeros(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ZERO, EYE, np.zeros(3), np.eye(3)), "same dimension; got 2 and 3"),
        ((np.zeros(3), EYE, ZERO, EYE), r"mean_mu must have shape \(2,\).*got \(3,\)"),
        ((ZERO, EYE, ZERO, np.ones(2)), r"covariance_nu must have shape \(d, d\).*got \(2,\)"),
        ((ZERO, np.zeros((2, 3)), ZERO, EYE), r"covariance_mu must have shape.*got \(2, 3\)"),
        ((ZERO, [[1, 0.5], [0, 1]], ZERO, EYE), "covariance_mu must be symmetric; got .* 0.5"),
        ((ZERO, EYE, ZERO, np.ones((2, 2))), "covariance_nu must be positive definite"),
        ((ZERO, -EYE, ZERO, EYE), "positive definite; got a smallest eigenvalue of -1"),
        (([np.nan, 0], EYE, ZERO, EYE), "mean_mu must be finite"),
        ((ZERO, EYE, ZERO, [[np.inf, 0], [0, 1]]), "covariance_nu must be finite"),
        (([1e200, 0], EYE, ZERO, EYE), "too far apart"),
    ],
)
def test_no_normal_laws(arguments, message):
    with pytest.raises(ValueError, match=message):
        gaussian_kl(*arguments)


@pytest.mark.parametrize(
    ("covariance", "k", "message"),
    [
        (EYE, 0, "x_dimension must be at least 1 and below the dimension 2 of the .*; got 0"),
        (EYE, 2, "got 2"),
        ([[1.0]], 1, "below the dimension 1"),
        (np.ones((2, 2)), 1, "must be positive definite"),
    ],
)
def test_no_split_of_a_covariance(covariance, k, message):
    with pytest.raises(ValueError, match=message):
        gaussian_mutual_information(covariance, k)


def test_what_is_no_number_is_refused():
    with pytest.raises(TypeError, match="mu must hold real numbers; got dtype"):
        kl_divergence(["a", "b"], [0.5, 0.5])
    with pytest.raises(TypeError, match="joint must hold real numbers"):
        mutual_information(torch.zeros(2, 2, dtype=torch.complex64))
    with pytest.raises(TypeError):
        gaussian_mutual_information(EYE, 1.5)
