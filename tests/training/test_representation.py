"""Stacks of digits share their classes and nothing else; what is learnt from them is probed."""

import math

import pytest
import torch

from lipnb.training.representation import (
    PairCritic,
    linear_probe,
    probe_pixels,
    stacked_digits,
    train_representation,
)


def test_x_and_y_show_the_same_classes_in_other_images():
    training, test = stacked_digits(2)
    x, y, labels = training.sample(500, torch.Generator().manual_seed(0))
    named = {
        tuple(image.tolist()): c
        for c in range(10)
        for image in training.images[training.classes[c]]
    }
    for stack in (x, y):
        seen = [[named[tuple(part.tolist())] for part in row.view(2, 64)] for row in stack]
        assert seen == labels.tolist()
    assert (x == y).view(500, 2, 64).all(2).double().mean() < 0.05
    assert training.information == pytest.approx(2 * math.log(10))
    used, held = torch.cat(training.classes), torch.cat(test.classes)
    assert len(used) + len(held) == 1797 and not set(used.tolist()) & set(held.tolist())
    counts = torch.bincount(labels.flatten(), minlength=10)
    assert counts.min() > 60


def test_the_two_readings_of_a_critic_agree():
    critic = PairCritic(3, 8, 4, torch.Generator().manual_seed(0))
    x, y = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(critic.table(x, y).diagonal(), critic(torch.cat([x, y], 1))[:, 0])


def test_a_probe_needs_information():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (600, 2), generator=g)
    clean = torch.nn.functional.one_hot(labels, 10).double().flatten(1)
    assert linear_probe(clean, labels, clean[:100], labels[:100]) == 1
    assert (
        linear_probe(torch.randn(600, 5, generator=g), labels, clean[:100, :5], labels[:100]) < 0.3
    )
    assert probe_pixels(1, 0) > 0.9


def test_training_teaches_classes_and_penalties_hold_the_slope():
    free, held = (train_representation(name, 2, 0, steps=150) for name in ("cpc", "lp"))
    untrained = train_representation("cpc", 2, 0, steps=1)
    assert free.accuracy > 0.8 and held.accuracy > 0.8
    assert free.value > 1.5 > 0.2 > untrained.value  # at most log 64
    assert free.lipschitz > 5 > 2.5 > held.lipschitz  # sabotage: no penalty


def test_the_seed_decides():
    one, two, other = (train_representation("gp", 1, seed, steps=5, batch=8) for seed in (3, 3, 4))
    assert one.value == two.value != other.value


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="method must be one of"):
        train_representation("wpc", 1, 0)
    with pytest.raises(ValueError, match="digits must be at least 1"):
        stacked_digits(0)
    with pytest.raises(ValueError, match="batch at least 2"):
        train_representation("cpc", 1, 0, batch=1)
