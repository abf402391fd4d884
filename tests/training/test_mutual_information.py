"""Estimates of mutual information against the truth, on rows that were not trained on."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lipnb.constraints import orthogonal, spectral_norm
from lipnb.models import GroupSort, mlp
from lipnb.theory import gaussian_mutual_information, ksg_mutual_information
from lipnb.training import (
    correlated_gaussians,
    estimate_many,
    estimate_mutual_information,
    information_loop,
    information_task,
)
from lipnb.training.critic_methods import METHODS
from lipnb.training.information_critics import InformationCritic, gaussian_start, stack_networks
from lipnb.training.information_rows import normal_scores, split_rows, to_coordinates
from lipnb.training.information_verdict import is_rising

PAIR = correlated_gaussians(0.8)


def draw(task=PAIR, n=2000, seed=0):
    return task.sample(n, torch.Generator().manual_seed(seed))


QUICK = {"steps": 120, "batch": 128, "width": 32}


def estimate(task=PAIR, n=1500, seed=0, **settings):
    return estimate_mutual_information(*draw(task, n, seed), seed=seed, **(QUICK | settings))


# --- estimates against the truth ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "low"),
    [
        (correlated_gaussians(0.0, 3), 0.0),
        (correlated_gaussians(-0.95), 0.0),
        (information_task("sparse-5"), 0.03),
        (information_task("dense-25"), 0.06),
        (information_task("bimodal-1"), 0.02),
        (information_task("swiss-roll"), 0.06),
    ],
    ids=lambda case: getattr(case, "name", ""),
)
def test_estimates_are_within_their_error(task, low):
    """`low` is how far below the truth a lower bound may stay; the rest is sampling error."""
    pairs = [draw(task, seed=seed) for seed in (0, 1, 2)]
    found = estimate_many(pairs, seeds=[0, 1, 2], **QUICK)
    for one in found:
        assert -low - 4 * one.standard_error - 0.01 < one.value - task.truth
        assert one.value - task.truth < 4 * one.standard_error + 0.01
        assert one.diagnostics.reliable


def test_several_seeds_scatter_as_the_standard_error_says():
    found = estimate_many([draw(n=600, seed=s) for s in range(12)], seeds=range(12), **QUICK)
    values = np.array([one.value for one in found])
    error = np.mean([one.standard_error for one in found])
    assert 0.5 < values.std(ddof=1) / error < 1.6
    assert abs(values.mean() - PAIR.truth) < 4 * error / math.sqrt(12) + 0.01


def test_harder_tasks_beat_nearest_neighbours():
    """Dimension 5 and 25, where KSG is far below; the numbers of KSG are computed here."""
    for name in ("sparse-5", "dense-25"):
        x, y = draw(information_task(name), 1200)
        ours = estimate_mutual_information(x, y, **QUICK)
        truth = information_task(name).truth
        assert abs(ours.value - truth) < abs(ksg_mutual_information(x, y) - truth)


@pytest.mark.parametrize(
    "estimator", ["mine", "nguyen_wainwright_jordan", "info_nce", "smile", "jensen_shannon"]
)
def test_every_formula_finds_the_information_of_a_normal_pair(estimator):
    batch = {"batch": 32} if estimator == "info_nce" else {}
    found = estimate(estimator=estimator, start="none", **batch)
    assert abs(found.value - PAIR.truth) < 4 * found.standard_error + 0.03
    assert not torch.isnan(found.history["training"]).any()


def test_a_separable_critic():
    for start in ("auto", "none"):
        found = estimate(critic="separable", start=start)
        assert abs(found.value - PAIR.truth) < 4 * found.standard_error + 0.04


# --- sabotage: each leaves the bands ------------------------------------------------------------


def off(found, truth=PAIR.truth):
    return abs(found.value - truth) > 4 * found.standard_error + 0.03


def test_sabotage_partners_shuffled():
    assert not off(estimate())
    x, y = draw()
    shuffled = estimate_mutual_information(x, y.roll(5, 0), steps=60)
    assert off(shuffled) and abs(shuffled.value) < 0.05


def test_sabotage_marginals_not_shuffled(monkeypatch):
    def same(batch, shifts, generators):
        rows = torch.arange(batch).expand(len(generators), shifts + 1, -1)
        return rows.clone()

    monkeypatch.setattr(information_loop, "_partners", same)
    assert off(estimate(start="none"))


def test_sabotage_sign_flipped(monkeypatch):
    call = information_loop.Estimator.__call__

    def flipped(self, joint, marginal, state=None):
        found, state = call(self, joint, marginal, state)
        return found._replace(objective=-found.objective), state

    monkeypatch.setattr(information_loop.Estimator, "__call__", flipped)
    assert off(estimate(start="none"))


def test_training_rows_flatter_and_say_so():
    """No information, few rows, a large network: on its own rows it finds a lot."""
    x, y = draw(correlated_gaussians(0.0, 5), 300)
    common = QUICK | {"start": "none", "weight_decay": 0.0, "width": 64}
    seen = estimate_mutual_information(x, y, evaluate_on="training", **common)
    apart = estimate_mutual_information(x, y, **common)
    assert seen.value > 0.3 and seen.evaluated_on == "training" and seen.held_out is None
    assert math.isnan(seen.standard_error) and len(seen.rows["training"]) == 300
    assert abs(apart.value) < 4 * apart.standard_error + 0.05
    assert apart.evaluated_on == "held_out" and apart.held_out == apart.value
    rows = torch.cat(list(apart.rows.values()))
    assert torch.equal(rows.sort().values, torch.arange(300))  # each row serves once


def test_held_out_rows_do_not_touch_the_critic():
    x, y = draw(n=400)
    first = estimate_mutual_information(x, y, steps=60)
    held = first.rows["held_out"]
    y2 = y.clone()
    y2[held] = -y2[held]
    second = estimate_mutual_information(x, y2, steps=60)
    assert torch.equal(first.history["validation"], second.history["validation"])
    for a, b in zip(first.critic.parameters(), second.critic.parameters(), strict=True):
        assert torch.equal(a, b)
    assert second.value < 0 < first.value


# --- Lipschitz critics --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["orthogonal-maxmin", "sn", "lp", "alp-k1", "projection-2"])
def test_the_measured_slope_keeps_the_constant(method):
    found = estimate(lipschitz_constant=2.0, method=method)
    tolerance = 1e-3 if METHODS[method].guaranteed else 0.5
    assert 0.3 < found.diagnostics.lipschitz < 2.0 + tolerance
    assert 0.1 < found.value < PAIR.truth + 4 * found.standard_error
    free = estimate(method="none")
    assert free.diagnostics.lipschitz > 2.5  # sabotage: nothing keeps it


def test_the_regularisation_grows_with_its_strength_up_to_the_information():
    found = [
        estimate(estimator="moreau_yosida", lipschitz_constant=constant)
        for constant in (0.25, 1.0, 8.0)
    ]
    values = [one.value for one in found]
    assert 0.05 < values[0] < values[1] < values[2] < PAIR.truth + 4 * found[2].standard_error
    assert values[2] > PAIR.truth - 4 * found[2].standard_error - 0.03
    for one, constant in zip(found, (0.25, 1.0, 8.0), strict=True):
        assert one.diagnostics.lipschitz < constant * 1.001


def test_the_metric_estimators_know_their_unit():
    """Points in another unit: D_lambda is that of another lambda, the distance scales."""
    x, y = draw(n=500)
    for estimator, constant in (("moreau_yosida", 1.0), ("wasserstein_dependency", None)):
        here, there = (
            estimate_mutual_information(
                unit * x,
                unit * y,
                estimator=estimator,
                lipschitz_constant=constant and constant / unit,
                **(QUICK | {"steps": 60}),
            )
            for unit in (1.0, 1024.0)
        )
        expected = here.value * (1024 if constant is None else 1)
        assert there.value == pytest.approx(expected, rel=2e-2)
    assert here.diagnostics.coordinates == "original"
    assert there.diagnostics.lipschitz == pytest.approx(1, abs=1e-2)


def test_the_dependency_measure_of_a_copied_sign_is_exact():
    """X a fair sign, Y = X: half of the product sits off the diagonal, at distance 2: W_1 = 1.

    The product has mass 1/4 on (1, -1) and on (-1, 1), each a distance 2 from (1, 1) and (-1, -1).
    """
    signs = 2.0 * torch.randint(2, (2000, 1), generator=torch.Generator().manual_seed(0)) - 1
    found = estimate_mutual_information(signs, signs, estimator="wasserstein_dependency", **QUICK)
    assert found.value == pytest.approx(1, abs=0.05)
    independent = estimate_mutual_information(
        signs, signs.roll(7, 0), estimator="wasserstein_dependency", **QUICK
    )
    assert abs(independent.value) < 0.15


# --- many at once -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"start": "none"},
        {"critic": "separable"},
        {"estimator": "mine"},
        {"estimator": "info_nce", "batch": 16},
        {"estimator": "moreau_yosida", "lipschitz_constant": 2.0},
        {"lipschitz_constant": 3.0, "method": "sn"},
        {"lipschitz_constant": 3.0, "method": "bjorck-maxmin"},
        {"lipschitz_constant": 3.0, "method": "lp"},
        {"lipschitz_constant": 3.0, "method": "alp-k1"},
        {"lipschitz_constant": 3.0, "method": "max-gp"},
    ],
    ids=str,
)
def test_side_by_side_is_one_at_a_time(settings):
    pairs = [draw(correlated_gaussians(rho), 300, seed=s) for s, rho in enumerate((0, 0.5, 0.9))]
    common = {"steps": 30, "check_every": 10, "dtype": torch.float64, "width": 16} | settings
    together = estimate_many(pairs, seeds=[5, 6, 7], **common)
    for (x, y), seed, one in zip(pairs, [5, 6, 7], together, strict=True):
        alone = estimate_mutual_information(x, y, seed=seed, **common)
        assert one.value == pytest.approx(alone.value, abs=1e-6)
        assert one.standard_error == pytest.approx(alone.standard_error, abs=1e-6)
        assert torch.allclose(one.history["training"], alone.history["training"], atol=1e-6)
        assert torch.allclose(one.history["validation"], alone.history["validation"], atol=1e-6)
        assert one.history["best"] == alone.history["best"]
        assert one.diagnostics.lipschitz == pytest.approx(alone.diagnostics.lipschitz, rel=1e-4)
        z = torch.cat([x, y], dim=1)[:9]
        assert torch.allclose(one.critic(z), alone.critic(z), atol=1e-5)
    assert together[0].value < together[2].value  # they are not all the same


def test_a_stack_computes_what_its_networks_do():
    g = torch.Generator().manual_seed(0)
    for constrain in (None, orthogonal, spectral_norm):
        networks = [mlp([3, 8, 8, 1], GroupSort, generator=g) for _ in range(3)]
        for layer in [layer for network in networks for layer in network]:
            if constrain is not None and isinstance(layer, nn.Linear):
                constrain(layer)
        stack = stack_networks(networks).eval()
        z = torch.randn(3, 5, 3, generator=g)
        separately = torch.cat(
            [network.eval()(part) for network, part in zip(networks, z, strict=True)]
        )
        assert torch.allclose(stack(z.flatten(0, 1)), separately, atol=1e-5)


def test_what_cannot_be_stacked_is_refused():
    pairs = [draw(n=100)] * 2
    for method in ("clip", "projection-2", "ct"):
        with pytest.raises(ValueError, match="one at a time"):
            estimate_many(pairs, seeds=[0, 1], method=method)
    with pytest.raises(ValueError, match="must have one shape"):
        stack_networks([mlp([2, 4, 1]), mlp([2, 3, 1])])
    with pytest.raises(ValueError, match="cannot stack Dropout"):
        stack_networks([nn.Sequential(nn.Dropout())])


# --- parts --------------------------------------------------------------------------------------


def test_the_seed_decides_everything_and_touches_nothing_else():
    before = torch.random.get_rng_state()
    a, b = estimate(steps=20, n=300), estimate(steps=20, n=300)
    assert a.value == b.value and torch.equal(before, torch.random.get_rng_state())
    x, y = draw(n=300)
    assert estimate_mutual_information(x, y, seed=1, steps=20).value != a.value


def test_the_gaussian_start_is_the_log_ratio_of_its_fit():
    x, y = draw(correlated_gaussians(0.6, 2), 50000)
    u, v, rho = gaussian_start(x, y)
    critic = InformationCritic(
        [nn.Linear(4, 1).double()], 1, 2, start=(u[None], v[None], rho[None])
    )
    nn.init.zeros_(critic.networks[0].weight)
    nn.init.zeros_(critic.networks[0].bias)
    z = torch.cat([x, y], dim=1)
    covariance = torch.eye(4, dtype=torch.float64) + 0.6 * torch.eye(4).roll(2, 0)
    joint = torch.distributions.MultivariateNormal(torch.zeros(4).double(), covariance)
    exact = joint.log_prob(z) - torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    assert (critic(z)[:, 0] - exact).abs().mean() < 0.02
    assert -0.5 * torch.log1p(-(rho**2)).sum() == pytest.approx(
        gaussian_mutual_information(covariance, 2), abs=0.01
    )
    noise = torch.randn(1000, 20, generator=torch.Generator().manual_seed(0)).double()
    assert (gaussian_start(noise[:, :10], noise[:, 10:])[2] == 0).all()
    assert (gaussian_start(noise[:, :10], noise[:, 10:], cautious=False)[2] > 0).all()


def test_a_map_of_a_coordinate_that_grows_changes_nothing():
    x, y = draw(n=400)
    here = estimate_mutual_information(x, y, steps=30)
    there = estimate_mutual_information(x**3, y.exp(), steps=30)
    assert there.value == here.value


def test_coordinates_come_from_the_training_rows_alone():
    x, y = draw(n=200)
    rows = split_rows(200, 0.2, 0.2, torch.Generator().manual_seed(0))
    for kind in ("normal_scores", "standard", "metric"):
        new_x, _, _ = to_coordinates(x, y, rows.training, kind)
        x2 = x.clone()
        x2[rows.held_out] = 100.0
        again, _, _ = to_coordinates(x2, y, rows.training, kind)
        assert torch.equal(new_x[rows.training], again[rows.training])
    scores = normal_scores(x, x)
    assert scores.mean().abs() < 1e-6 and abs(scores.std() - 1) < 0.03
    flat = normal_scores(torch.ones(5, 1), torch.ones(9, 1))
    assert (flat == 0).all()


@pytest.mark.parametrize("coordinates", ["normal_scores", "standard"])
def test_degenerate_columns_do_no_harm(coordinates):
    x, y = draw(n=600)
    wide = torch.cat([x, torch.ones_like(x), x, 1e6 * x], dim=1)  # constant, copied, scaled
    found = estimate_mutual_information(wide, y, steps=60, coordinates=coordinates)
    assert abs(found.value - PAIR.truth) < 4 * found.standard_error + 0.05


def test_a_copy_is_reported_as_out_of_reach():
    x, _ = draw(n=600)
    found = estimate_mutual_information(x, x, steps=60)
    assert math.isfinite(found.value) and found.value > 2
    independent = estimate(correlated_gaussians(0.0), 600, steps=20)
    assert found.diagnostics.exponential_variance > 5 > independent.diagnostics.exponential_variance


def test_the_variance_of_the_weights_is_that_of_the_density_ratio():
    task = correlated_gaussians(0.5)
    found = estimate(task, n=6000, steps=20)
    expected = math.exp(2 * task.truth) - 1  # 1/3
    assert found.diagnostics.exponential_variance == pytest.approx(expected, rel=0.25)


def test_still_rising():
    assert is_rising(torch.linspace(0, 1, 20)) and not is_rising(torch.ones(20))
    assert not is_rising(torch.cat([torch.linspace(0, 1, 10), torch.ones(10)]))
    slow = estimate(start="none", learning_rate=5e-4, check_every=10).diagnostics
    assert slow.still_rising and not slow.converged
    assert estimate(check_every=10).diagnostics.converged


# --- the door -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "none"}, "estimator must be one of"),
        ({"critic": "none"}, "critic must be"),
        ({"method": "none of them"}, "method must be one of"),
        ({"estimator": "moreau_yosida"}, "needs its strength"),
        ({"estimator": "wasserstein_dependency", "lipschitz_constant": 2.0}, "must be 1 or"),
        ({"lipschitz_constant": -1.0}, "lipschitz_constant must be positive"),
        ({"lipschitz_constant": math.nan}, "lipschitz_constant must be positive"),
        ({"lipschitz_constant": 1.0, "critic": "separable"}, "cannot be constrained"),
        ({"lipschitz_constant": 1.0, "start": "gaussian"}, "cannot have one"),
        ({"start": "here"}, "start must be"),
        ({"coordinates": "polar"}, "coordinates must be"),
        (
            {"estimator": "wasserstein_dependency", "coordinates": "standard"},
            "depends on the metric",
        ),
        ({"evaluate_on": "all"}, "evaluate_on must be"),
        ({"steps": 0}, "positive integers"),
        ({"learning_rate": 0.0}, "learning_rate positive"),
        ({"batch": 4, "shifts": 4}, "shifts must be from 1"),
        ({"rate": 0.0}, "rate must be in"),
        ({"clip": 0.0}, "clip positive"),
        ({"held_out_share": 0.9}, "add up to at most 0.8"),
        ({"validation_share": 0.0}, "must be positive"),
        ({"seed": -1}, "seed must be an integer"),
        ({"seed": 2**32}, "seed must be an integer"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings, message):
    x, y = draw(n=100)
    with pytest.raises(ValueError, match=message):
        estimate_mutual_information(x, y, **settings)


def test_bad_data_are_refused():
    x, y = draw(n=100)
    for bad in (math.nan, math.inf):
        worse = x.clone()
        worse[3] = bad
        with pytest.raises(ValueError, match="x must be finite; got 1"):
            estimate_mutual_information(worse, y)
        with pytest.raises(ValueError, match="y must be finite; got 1"):
            estimate_mutual_information(y, worse)
    with pytest.raises(ValueError, match="equally many rows, one pair each; got 100 and 99"):
        estimate_mutual_information(x, y[1:])
    with pytest.raises(ValueError, match="at least 50 rows; got 49"):
        estimate_mutual_information(x[:49], y[:49])
    with pytest.raises(ValueError, match="for points on a line pass"):
        estimate_mutual_information(x[:, 0], y)
    with pytest.raises(TypeError, match="must hold real numbers"):
        estimate_mutual_information([["a"]] * 60, y[:60])
    with pytest.raises(ValueError, match="must have the same shapes"):
        estimate_many([(x, y), (x[1:], y[1:])], seeds=[0, 1])
    with pytest.raises(ValueError, match="equally many; got 1, 2"):
        estimate_many([(x, y)], seeds=[0, 1])
    assert isinstance(estimate_mutual_information(x.numpy(), y.tolist(), steps=5).value, float)


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(FloatingPointError, match="not finite at step"):
        estimate(start="none", learning_rate=1e30, steps=20)
