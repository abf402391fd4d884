"""Problems with a known answer: exact, drawn as said, and judged as they should be."""

import pytest
import torch
from torch import nn

from lipnb.models import mlp
from lipnb.theory import random_funnels
from lipnb.training.critic_problems import (
    cloud_problem,
    digits_clouds,
    funnel_problem,
    judge_critic,
    mixture_clouds,
    problem,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(*weights):
    layer = nn.Linear(len(weights), 1, bias=False)
    layer.weight.data.copy_(torch.tensor([weights]))
    return nn.Sequential(layer)


def test_translated_clouds_are_judged_exactly():
    x = torch.randn(30, 2, generator=generator())
    shift = torch.tensor([1.2, 1.6])  # of length 2
    shifted = cloud_problem("shift", x + shift, x)
    assert shifted.exact == pytest.approx(2.0, abs=1e-6) and shifted.error == 0
    scores = judge_critic(linear(0.6, 0.8), shifted, generator())
    for name in ("ratio", "certified", "cosine"):
        assert scores[name] == pytest.approx(1.0, abs=1e-5)
    assert scores["lower"] == pytest.approx(1.0, abs=1e-6)
    assert scores["upper"] == pytest.approx(1.0, abs=1e-6)
    # Three times too steep: the gap triples, the certificate does not move.
    scores = judge_critic(linear(1.8, 2.4), shifted, generator())
    assert scores["ratio"] == pytest.approx(3.0, abs=1e-4)
    assert scores["certified"] == pytest.approx(1.0, abs=1e-5)
    # Sabotage: the wrong sign, the wrong direction.
    scores = judge_critic(linear(-0.6, -0.8), shifted, generator())
    assert scores["ratio"] < -0.9 and scores["cosine"] < -0.9 and scores["certified"] < 0.1
    assert judge_critic(linear(0.8, -0.6), shifted, generator())["cosine"] < 0.1


def test_batches_of_a_cloud_are_its_points():
    x, y = mixture_clouds(16)
    drawn, other = cloud_problem("small", x, y).sample(400, generator())
    assert {tuple(p) for p in drawn.tolist()} == {tuple(p) for p in x.tolist()}
    assert {tuple(p) for p in other.tolist()} == {tuple(p) for p in y.tolist()}


def test_a_funnel_problem_knows_its_potential():
    pair = random_funnels(2, 3, seed=1)
    known = funnel_problem("known", pair)

    class Truth(nn.Module):
        def forward(self, z):
            return pair.potential(z)

    scores = known.scores(Truth(), generator())
    assert scores["ratio"] == pytest.approx(1.0, abs=1e-4)
    assert scores["cosine"] == pytest.approx(1.0, abs=1e-4)
    assert scores["gradient_error"] < 1e-6
    x, y = known.sample(20000, generator())
    gap = pair.potential(x).mean() - pair.potential(y).mean()
    assert gap == pytest.approx(known.exact, abs=0.03)
    assert known.scale == pytest.approx(float((x - y).norm(dim=1).mean()), rel=0.03)


def test_the_bracket_holds_a_steep_network():
    critic = mlp([2, 16, 16, 1], generator=generator())
    scores = judge_critic(critic, problem("mixture"), generator())
    assert 0 < scores["lower"] < scores["upper"]
    assert scores["gap_error"] > 0


@pytest.mark.parametrize("name", ["mixture", "digits", "funnels-2", "funnels-8", "funnels-32"])
def test_the_named_problems(name):
    found = problem(name)
    assert found.name == name and found is problem(name)
    x, y = found.sample(5, generator())
    assert x.shape == y.shape == (5, found.dimension) and x.dtype == torch.float32
    assert found.error <= 1e-3 * found.exact < found.scale


def test_the_clouds_are_what_they_say():
    x, y = mixture_clouds(4000)
    assert x.norm(dim=1).mean() == pytest.approx(2.0, abs=0.02)
    assert y.std() == pytest.approx(0.5, abs=0.02)
    even, odd = digits_clouds()
    assert len(even) == len(odd) == 256 and even.min() == 0
    assert not torch.equal(even, odd)


def test_what_is_no_problem_is_refused():
    with pytest.raises(ValueError, match="name must be one of"):
        problem("funnels-3")
    with pytest.raises(ValueError, match="multiple of 8"):
        mixture_clouds(12)
    x = torch.randn(5, 2, generator=generator())
    with pytest.raises(ValueError, match="must differ"):
        cloud_problem("same", x, x)
