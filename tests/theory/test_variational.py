"""Variational formulas against closed forms, each other, and their own laws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipnb.theory import kl_divergence
from lipnb.theory.variational import (
    donsker_varadhan,
    effective_sample_size,
    info_nce,
    jensen_shannon,
    mine,
    nguyen_wainwright_jordan,
    smile,
    wasserstein_dependency,
)

FORMULAS = [
    donsker_varadhan,
    nguyen_wainwright_jordan,
    smile,
    jensen_shannon,
    wasserstein_dependency,
    lambda j, m: mine(j, m)[0],
]
P, Q = [0.1, 0.2, 0.7], [0.5, 0.3, 0.2]


def counts(f, histogram, times=10):
    """Scores at a sample in which each point occurs as often as the histogram says."""
    repeats = torch.tensor([round(times * mass) for mass in histogram])
    return torch.as_tensor(f, dtype=torch.float64).repeat_interleave(repeats)


def scores(*shape, seed=0, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=g, dtype=torch.float64)


LOG_RATIO = [math.log(p / q) for p, q in zip(P, Q, strict=True)]


def test_the_logarithm_of_the_density_ratio_attains_the_divergence():
    exact = kl_divergence(P, Q)
    joint, marginal = counts(LOG_RATIO, P), counts(LOG_RATIO, Q)
    for formula, shift in (
        (donsker_varadhan, 0.0),
        (donsker_varadhan, 7.0),  # no constant matters
        (nguyen_wainwright_jordan, 1.0),
        (smile, 0.0),
        (jensen_shannon, 0.0),
    ):
        value = formula(joint + shift, marginal + shift).value
        assert value.item() == pytest.approx(exact, rel=1e-12)
    # sabotage: the samples exchanged
    assert donsker_varadhan(marginal, joint).value.item() != pytest.approx(exact, abs=0.1)


def test_jensen_shannon_of_the_best_critic_is_the_divergence_itself():
    middle = [(p + q) / 2 for p, q in zip(P, Q, strict=True)]
    exact = (kl_divergence(P, middle) + kl_divergence(Q, middle)) / 2
    found = jensen_shannon(counts(LOG_RATIO, P), counts(LOG_RATIO, Q)).objective
    assert found.item() == pytest.approx(exact, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(f=st.lists(st.floats(-4, 4), min_size=3, max_size=3))
def test_every_critic_stays_below(f):
    joint, marginal = counts(f, P), counts(f, Q)
    exact = kl_divergence(P, Q)
    dv = donsker_varadhan(joint, marginal).value.item()
    nwj = nguyen_wainwright_jordan(joint, marginal).value.item()
    assert nwj <= dv + 1e-12 <= exact + 2e-12
    assert jensen_shannon(joint, marginal).objective <= math.log(2)


@settings(max_examples=60, deadline=None)
@given(k=st.integers(1, 40), scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]), seed=st.integers(0, 99))
def test_info_nce_is_at_most_log_k_exactly(k, scale, seed):
    for dtype in (torch.float32, torch.float64):
        matrix = scores(k, k, seed=seed, scale=scale).to(dtype)
        assert info_nce(matrix).value <= torch.tensor(math.log(k), dtype=dtype)
        perfect = info_nce(matrix + 1e6 * torch.eye(k, dtype=dtype)).value
        assert perfect.item() == pytest.approx(math.log(k), rel=1e-5, abs=1e-6)


def test_info_nce_from_its_definition():
    f = scores(5, 5)
    by_hand = sum(
        math.log(math.exp(f[i, i]) / (sum(math.exp(f[i, j]) for j in range(5)) / 5))
        for i in range(5)
    )
    assert info_nce(f).value.item() == pytest.approx(by_hand / 5, rel=1e-12)
    assert info_nce(f.T).value.item() != pytest.approx(by_hand / 5, abs=1e-3)  # rows, not columns


def test_large_scores_do_not_overflow():
    joint, marginal = scores(50) + 3000, scores(60) + 3000
    for formula in (donsker_varadhan, jensen_shannon, FORMULAS[-1]):
        here, there = formula(joint, marginal), formula(joint - 3000, marginal - 3000)
        assert here.value.item() == pytest.approx(there.value.item(), abs=1e-9)
    assert nguyen_wainwright_jordan(joint, marginal).value == -math.inf  # what the formula says


@pytest.mark.parametrize("formula", FORMULAS)
def test_leading_axes_are_estimates_of_their_own(formula):
    joint, marginal = scores(2, 3, 20), scores(2, 3, 30, seed=1)
    both = formula(joint, marginal)
    assert both.value.shape == both.objective.shape == (2, 3)
    alone = formula(joint[1, 2], marginal[1, 2])
    assert torch.allclose(both.value[1, 2], alone.value)
    assert torch.allclose(both.objective[1, 2], alone.objective)
    assert not both.value.requires_grad


@pytest.mark.parametrize("formula", [donsker_varadhan, nguyen_wainwright_jordan, jensen_shannon])
def test_gradients_against_differences(formula):
    points = scores(6).requires_grad_(), scores(7, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda j, m: formula(j, m).objective, points)


@pytest.mark.parametrize("formula", FORMULAS)
def test_gradients_go_up_on_pairs_and_down_on_wrong_pairs(formula):
    joint, marginal = scores(6).requires_grad_(), scores(7, seed=1).requires_grad_()
    j, m = torch.autograd.grad(formula(joint, marginal).objective, (joint, marginal))
    assert (j > 0).all() and (m < 0).all()


# --- the moving average of MINE ---------------------------------------------------------------


def test_the_first_step_of_mine_is_donsker_varadhan():
    joint, marginal = scores(8).requires_grad_(), scores(9, seed=1).requires_grad_()
    estimate, state = mine(joint, marginal)
    plain = donsker_varadhan(joint, marginal)
    assert torch.equal(estimate.value, plain.value)
    for ours, theirs in zip(
        torch.autograd.grad(estimate.objective, (joint, marginal)),
        torch.autograd.grad(plain.objective, (joint, marginal)),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, rtol=1e-12)
    assert state.item() == pytest.approx(math.log(marginal.exp().mean().item()))


def test_later_steps_divide_by_the_average():
    joint, marginal = scores(8), scores(9, seed=1).requires_grad_()
    before, rate = math.log(5.0), 0.1
    estimate, state = mine(joint, marginal, torch.tensor(before, dtype=torch.float64), rate=rate)
    mean = marginal.detach().exp().mean()
    average = 0.9 * 5 + 0.1 * mean
    (gradient,) = torch.autograd.grad(estimate.objective, marginal)
    assert torch.allclose(gradient, -marginal.detach().exp() / 9 / average, rtol=1e-12)
    assert state.item() == pytest.approx(math.log(average.item()), rel=1e-12)
    assert not state.requires_grad
    # sabotage: the gradient of the plain formula is another one
    (plain,) = torch.autograd.grad(donsker_varadhan(joint, marginal).objective, marginal)
    assert not torch.allclose(gradient, plain, rtol=0.1)


def test_the_average_removes_the_bias_of_the_gradient():
    """Scores a z of normal z: d/da log E e^(a z) = a; batches of two say less, MINE says a."""
    a, g = 1.0, torch.Generator().manual_seed(0)
    state, found, plain = None, [], []
    for _ in range(4000):
        z = torch.randn(2, generator=g, dtype=torch.float64)
        slope = torch.tensor(a, dtype=torch.float64, requires_grad=True)
        estimate, state = mine(torch.zeros(1, dtype=torch.float64), slope * z, state, rate=0.01)
        found.append(-torch.autograd.grad(estimate.objective, slope)[0])
        plain.append((z * (a * z).softmax(0)).sum())
    found, plain = torch.stack(found[500:]), torch.stack(plain[500:])
    error = found.std() / len(found) ** 0.5
    assert abs(found.mean() - a) < 5 * error + 0.05
    assert plain.mean() < 0.6


def test_the_state_neither_over_nor_underflows():
    for level in (-5000.0, 5000.0):
        flat = torch.full((4,), level, dtype=torch.float64)
        _, state = mine(flat, flat)
        estimate, state = mine(flat, flat, state, rate=0.01)
        assert state.item() == pytest.approx(level)
        assert estimate.value.item() == pytest.approx(0, abs=1e-9)
    estimate, _ = mine(flat, flat, torch.tensor(-5000.0, dtype=torch.float64), rate=0.01)
    assert torch.isfinite(estimate.objective)  # a jump by e^10000 is limited to 1 / rate


# --- smile, the dependency measure, effective sample size ---------------------------------------


def test_smile_clips_the_weights_only():
    joint, marginal = torch.tensor([50.0]), torch.tensor([50.0, -50.0])
    clipped = smile(joint, marginal, clip=2.0).value.item()
    assert clipped == pytest.approx(50 - math.log(math.cosh(2.0)), rel=1e-6)
    plain = donsker_varadhan(joint, marginal).value
    assert smile(joint, marginal, clip=math.inf).value == plain
    objective = smile(joint, marginal).objective
    assert objective == jensen_shannon(joint, marginal).objective


def test_the_dependency_measure_is_a_gap():
    assert wasserstein_dependency(scores(9) * 0 + 3, scores(4) * 0 + 1).value == 2


def test_effective_sample_size_between_one_and_all():
    assert effective_sample_size(torch.zeros(7)).item() == pytest.approx(7)
    assert effective_sample_size(torch.tensor([900.0, 0.0, 0.0])).item() == pytest.approx(1)
    w = scores(200, scale=0.5)
    kish = w.exp().sum() ** 2 / (2 * w).exp().sum()
    assert effective_sample_size(w).item() == pytest.approx(kish.item(), rel=1e-12)


# --- the door -----------------------------------------------------------------------------------


@pytest.mark.parametrize("formula", FORMULAS)
def test_bad_scores_are_refused(formula):
    good = torch.zeros(3)
    for bad in (torch.tensor([0.0, math.nan]), torch.tensor([math.inf])):
        with pytest.raises(ValueError, match="marginal must be finite; got 1"):
            formula(good, bad)
    with pytest.raises(ValueError, match="same leading axes"):
        formula(torch.zeros(2, 3), good)
    with pytest.raises(ValueError, match="at least one score"):
        formula(torch.zeros(0), good)
    with pytest.raises(TypeError, match=r"floating-point tensor; got torch\.int64"):
        formula(torch.tensor([1]), good)
    with pytest.raises(TypeError, match="got list"):
        formula([1.0], good)


def test_bad_numbers_are_refused():
    f = torch.zeros(3)
    for rate in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="rate must be in"):
            mine(f, f, rate=rate)
    with pytest.raises(ValueError, match="log_average must be finite"):
        mine(f, f, torch.tensor(math.nan))
    with pytest.raises(ValueError, match="log_average must be finite, of shape"):
        mine(f, f, torch.zeros(2))
    with pytest.raises(ValueError, match="clip must be positive"):
        smile(f, f, clip=0.0)
    with pytest.raises(ValueError, match="must be square"):
        info_nce(torch.zeros(2, 3))
