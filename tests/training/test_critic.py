"""The critic's training loop, on laws whose distance is known."""

import math

import pytest
import torch
from torch import nn

from lipnb.constraints import spectral_norm
from lipnb.models import mlp
from lipnb.regularizers import (
    adversarial_lipschitz_penalty,
    gradient_penalty,
    lipschitz_penalty,
)
from lipnb.training.critic import critic_gap, train_critic

SHIFT = torch.tensor([0.6, -0.8]) * 2  # of length 2


def shifted(n, generator):
    """A Gaussian and its translate: the distance is exactly 2."""
    x = torch.randn(n, 2, generator=generator)
    return torch.randn(n, 2, generator=generator) + SHIFT, x


def lp(critic, x, y, output, generator):
    z = torch.lerp(x, y, torch.rand(len(x), 1, generator=generator))
    return gradient_penalty(critic, z, one_sided=True)


def alp(critic, x, y, output, generator):
    points = torch.cat([x, y])
    return adversarial_lipschitz_penalty(
        critic, points, output=output, xi=1.0, radius=(0.1, 1.0), generator=generator
    )


def trained(penalty=None, seed=0, **settings):
    g = torch.Generator().manual_seed(seed)
    critic = mlp([2, 32, 32, 1], generator=g)
    given = {"iterations": 150, "batch": 64, "learning_rate": 3e-3, "generator": g} | settings
    return train_critic(critic, shifted, penalty=penalty, **given)


@pytest.mark.parametrize("penalty", [lp, alp])
def test_a_penalised_critic_finds_the_distance_and_overshoots(penalty):
    run = trained(penalty)
    gap, error = critic_gap(run.critic, *shifted(4000, torch.Generator().manual_seed(1)))
    # Overshoot of a squared penalty of weight 10 at distance 2: at most 1 + 2 / 20 on the slope.
    assert 1.85 < gap - 2 * error and gap + 2 * error < 2.4
    assert run.slope[-1] < 1.5 and 0 < run.violations[-20:].mean() < 1
    assert run.penalty[-1] < 0.05 and run.seconds > 0


def test_sabotage_without_a_penalty_the_gap_says_nothing():
    assert trained(None).gap[-1] > 20
    assert trained(lp, weight=0.0).gap[-1] > 20


def test_sabotage_a_penalty_cut_off_from_its_graph_does_nothing():
    def cut(*arguments):
        found = lp(*arguments)
        return found._replace(loss=found.loss.detach())

    assert trained(cut).gap[-1] > 20


def test_constrained_critic_stays_below():
    g = torch.Generator().manual_seed(0)
    critic = mlp([2, 16, 1], generator=g)
    for layer in critic:
        if isinstance(layer, nn.Linear):
            spectral_norm(layer, generator=g)
    run = train_critic(critic, shifted, iterations=100, batch=64, learning_rate=1e-2, generator=g)
    gap, error = critic_gap(run.critic, *shifted(4000, g))
    assert 1.0 < gap < 2 + 3 * error
    assert run.slope.isnan().all() and run.violations.isnan().all() and (run.penalty == 0).all()


def test_after_step_is_called_on_the_critic_after_every_step():
    def clip(critic):
        calls.append(max(p.abs().max().item() for p in critic.parameters()))
        with torch.no_grad():
            for p in critic.parameters():
                p.clamp_(-0.01, 0.01)

    calls = []
    run = trained(None, after_step=clip, iterations=10)
    assert len(calls) == 10
    assert max(p.abs().max().item() for p in run.critic.parameters()) <= 0.01
    assert max(calls[1:]) > 0.01  # the step had moved them before


def test_the_generator_decides_everything():
    state = torch.random.get_rng_state()
    runs = []
    for _ in range(2):
        torch.manual_seed(len(runs))  # must not matter, though dropout draws from it
        g = torch.Generator().manual_seed(3)
        critic = nn.Sequential(mlp([2, 8], generator=g), nn.Dropout(0.5), mlp([8, 1], generator=g))
        runs.append(train_critic(critic, shifted, iterations=5, batch=16, generator=g))
    assert torch.equal(runs[0].gap, runs[1].gap)
    torch.random.set_rng_state(state)
    before = torch.random.get_rng_state()
    trained(iterations=2)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_shared_output_is_what_the_penalty_would_compute():
    def explicit(critic, x, y, output, generator):
        a = lipschitz_penalty(critic, x, y, output=output[: len(x)])
        b = lipschitz_penalty(critic, x, y)
        assert torch.allclose(a.slopes, b.slopes, atol=1e-6)
        return a

    assert len(trained(explicit, iterations=3).gap) == 3


def test_a_loss_that_is_not_finite_stops_the_run():
    def bad(critic, x, y, output, generator):
        found = lp(critic, x, y, output, generator)
        return found._replace(loss=found.loss * math.inf)

    with pytest.raises(FloatingPointError, match="not finite at step 0"):
        trained(bad)


@pytest.mark.parametrize(
    "settings", [{"iterations": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"weight": -1.0}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must be at least 1"):
        trained(**settings)
    with pytest.raises(ValueError, match="at least 2 points"):
        critic_gap(nn.Linear(2, 1), torch.zeros(1, 2), torch.zeros(5, 2))
