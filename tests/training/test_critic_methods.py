"""Every recipe trains, keeps what it promises, and is not the recipe without its regulariser."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lipnb.models import mlp
from lipnb.plotting import METHOD_COLOURS
from lipnb.training.critic_methods import METHODS, train_method
from lipnb.training.critic_problems import judge_critic, problem

SHORT = {"width": 16, "iterations": 40, "batch": 64, "learning_rate": 5e-3}
LONG = {"iterations": 150, "learning_rate": 1e-2}  # long enough for a free critic to grow steep


def scores_of(name, seed=0, on="mixture", **settings):
    run = train_method(METHODS[name], problem(on), seed, **(SHORT | settings))
    return run, judge_critic(run.critic, problem(on), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", METHODS)
def test_every_recipe_trains_and_keeps_its_promise(name):
    run, scores = scores_of(name)
    assert all(torch.isfinite(torch.tensor(list(scores.values()))))
    assert scores["ratio"] > 0 and scores["certified"] <= 1 + 1e-6
    assert scores["lower"] <= scores["upper"] * (1 + 1e-6)
    method = METHODS[name]
    assert method.family in METHOD_COLOURS and method.name == name
    if method.guaranteed:
        assert scores["upper"] <= 1 + 1e-5
    assert run.violations.isnan().all() == (method.penalty is None)


def test_recipes_differ_from_no_regulariser():
    steepest = scores_of("none", **LONG)[1]["lower"]
    for name in ("gp", "lp", "max-gp", "alp-k1", "alp-gradient"):
        assert scores_of(name, **LONG)[1]["lower"] < 0.5 * steepest


def test_sabotage_a_recipe_without_its_weight():
    loose = replace(METHODS["lp"], weight=0.0)
    run = train_method(loose, problem("mixture"), 0, **SHORT | LONG)
    again = train_method(loose, problem("mixture"), 0, **SHORT | LONG)
    assert torch.equal(run.gap, again.gap)
    scores = judge_critic(run.critic, problem("mixture"), torch.Generator().manual_seed(1))
    assert scores["lower"] > 2 * scores_of("lp", **LONG)[1]["lower"]


def test_sabotage_a_constraint_that_is_forgotten():
    free = replace(METHODS["orthogonal-maxmin"], constrain=None)
    run = train_method(free, problem("mixture"), 0, **SHORT)
    scores = judge_critic(run.critic, problem("mixture"), torch.Generator().manual_seed(1))
    assert scores["upper"] > 1.5


def test_the_seed_decides_the_weights():
    a, b = (METHODS["none"].build([2, 8, 1], torch.Generator().manual_seed(3)) for _ in range(2))
    c = mlp([2, 8, 1], generator=torch.Generator().manual_seed(3))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters(), strict=True))


def test_dropout_stands_after_every_activation():
    critic = METHODS["ct"].build([2, 8, 8, 1], torch.Generator().manual_seed(0))
    kinds = [type(layer) for layer in critic]
    block = [nn.Linear, nn.ReLU, nn.Dropout]
    assert kinds == [*block, *block, nn.Linear]
