"""The presets against the published facts, and what settings refuse."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from lipnb.training.wgan_presets import (
    METHODS,
    PRESETS,
    WganSettings,
    method_settings,
    preset_rows,
)

# What the papers and the published code say, as read from them; by hand, not from the presets.
# WGAN-GP, gan_cifar_resnet.py without labels.
GULRAJANI = {
    "objective": "gp",
    "weight": 10,
    "one_sided": False,
    "lipschitz_constant": 1,
    "initialization": "xavier",
    "pooling": "mean",
    "channels": 128,
    "generator_channels": 128,
    "latent": 128,
    "optimizer": "adam",
    "learning_rate": 2e-4,
    "betas": (0, 0.9),
    "epsilon": 1e-8,
    "decay": "linear",
    "iterations": 100_000,
    "critic_steps": 5,
    "batch": 64,
    "generator_batch": 128,
    "generator_first": True,  # and no generator step in iteration 0
    "sampling": "batch",
    "split": "train",
    "flip": False,
    "dequantise": True,  # 2 (x / 256 - 1/2) + U(0, 1/128)
    "drift": 0,
    "batch_norm": False,
    "average": 0,
    "shared_counter": False,
}
# WGAN-ALP, the paper: lambda = 100, K = 1, one-sided and squared, xi = 10, k = 1, U[0.1, 10].
PAPER = {
    "objective": "alp",
    "weight": 100,
    "one_sided": True,
    "lipschitz_constant": 1,
    "xi": 10,
    "search_steps": 1,
    "radius": (0.1, 10),
    "start_direction": "gaussian",
    "domain": None,
    "initialization": "xavier",
    "learning_rate": 2e-4,
    "betas": (0, 0.9),
    "decay": "linear",
    "iterations": 100_000,
    "critic_steps": 5,
    "batch": 64,
    "generator_batch": 128,
    "split": "train",
    "flip": False,
}
# WGAN-ALP, wgan_alp.py with its defaults.
AUTHOR = {
    "objective": "alp",
    "weight": 10,
    "one_sided": True,
    "lipschitz_constant": 1,
    "xi": 10,
    "search_steps": 1,
    "radius": (0.1, 10),
    "start_direction": "cube",
    "domain": (-1, 1),
    "initialization": "kaiming",
    "statistics": "generator_step",
    "sampling": "running",
    "shared_counter": True,
    "generator_first": False,
    "split": "all",  # 60 000 images, the test set among them
    "flip": True,
    "dequantise": True,  # (x / 256 + U(0, 1/256)) 2 - 1, which is the same
    "iterations": 100_000,
    "critic_steps": 5,
    "batch": 64,
    "generator_batch": 128,
    "learning_rate": 2e-4,
    "betas": (0, 0.9),
    "decay": "linear",
    "average": 0,
}
FACTS = {"gulrajani": GULRAJANI, "paper": PAPER, "author_code": AUTHOR}


def differing(settings: WganSettings, facts: dict[str, Any]) -> list[str]:
    found = asdict(settings)
    return [name for name, value in facts.items() if found[name] != value]


@pytest.mark.parametrize("name", list(FACTS))
def test_a_preset_is_what_its_source_says(name: str) -> None:
    assert differing(PRESETS[name], FACTS[name]) == []


def test_a_changed_preset_is_noticed() -> None:
    changed = replace(PRESETS["paper"], weight=10.0, flip=True)
    assert differing(changed, PAPER) == ["weight", "flip"]


def test_the_rows_are_the_differences_and_nothing_else() -> None:
    rows = {row[0]: row[1:] for row in preset_rows(["paper", "author_code"])}
    assert rows == {
        "weight": ["100", "10"],
        "start_direction": ["gaussian", "cube"],
        "domain": ["none", "(-1, 1)"],
        "initialization": ["xavier", "kaiming"],
        "statistics": ["every_pass", "generator_step"],
        "sampling": ["batch", "running"],
        "shared_counter": ["no", "yes"],
        "generator_first": ["yes", "no"],
        "split": ["train", "all"],
        "flip": ["no", "yes"],
    }
    assert all(len(row) == 1 + len(PRESETS) for row in preset_rows())
    assert preset_rows(["paper", "paper"]) == []


def test_the_standard_preset_differs_from_the_paper_as_said() -> None:
    assert [row[0] for row in preset_rows(["paper", "standard"])] == [
        "sampling",
        "generator_first",
        "flip",
    ]


def test_every_method_changes_every_preset_to_itself() -> None:
    for preset in PRESETS:
        for method, changes in METHODS.items():
            settings = method_settings(preset, method)
            assert differing(settings, changes) == []
    objectives = {changes["objective"] for changes in METHODS.values()}
    assert objectives == {
        "none", "clip", "gp", "lp", "explicit", "ct", "sn", "banach", "max_gp", "alp",
        "unconstrained",
    }  # fmt: skip


def test_methods_have_the_numbers_of_their_sources() -> None:
    assert METHODS["clip"]["learning_rate"] == 5e-5
    assert WganSettings().clip == 0.01
    ct = method_settings("gulrajani", "ct")
    assert (ct.weight, ct.consistency_weight, ct.consistency_margin) == (10, 2, 0)
    assert ct.dropout == (0.2, 0.5, 0.5)
    lgan = method_settings("gulrajani", "max_gp")
    assert (lgan.weight, lgan.lipschitz_constant, lgan.value_loss) == (0.1, 0, "exponential")
    banach = method_settings("gulrajani", "banach")
    assert (banach.sobolev, banach.drift) == ((0, 10), 1e-5)
    two_sided = method_settings("paper", "alp_two_sided")
    assert (two_sided.weight, two_sided.one_sided) == (10, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "wgan"}, "objective must be one of alp, .*; got 'wgan'"),
        ({"batch": 0}, "batch must be a positive integer; got 0"),
        ({"critic_steps": 2.5}, "critic_steps must be a positive integer; got 2.5"),
        ({"search_steps": -1}, "search_steps must be an integer from 0; got -1"),
        ({"weight": float("nan")}, "weight must be finite and at least 0; got nan"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and positive; got 0.0"),
        ({"power": 1.0}, "power must be finite and above 1; got 1.0"),
        ({"average": 1.0}, r"average must be in \[0, 1\); got 1.0"),
        ({"radius": (2.0, 1.0)}, "radius must be"),
        ({"domain": (0.0, 1.0)}, "domain must be None or a box"),
        ({"optimizer": "rmsprop", "shared_counter": True}, "shared_counter must be False for rms"),
        ({"shared_counter": True}, "shared_counter must be False where the generator"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WganSettings(**changes)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"preset must be one of paper, .*; got 'mine'"):
        method_settings("mine")
    with pytest.raises(ValueError, match=r"method must be one of .*; got 'wgan'"):
        method_settings("paper", "wgan")
    with pytest.raises(ValueError, match=r"settings must be among .*; got lambda_"):
        method_settings("paper", lambda_=3)
