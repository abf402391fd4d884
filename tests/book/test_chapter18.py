"""Chapter 18: the stored run is whole, its numbers are those of its networks, its verdicts too."""

import json

import pytest

from lipnb.records import RESULTS, read_experiment, read_records
from lipnb.training.toy import PANELS, Panel, Settings, train_toy
from lipnb.training.toy_claims import judge_toy, paired_difference
from lipnb.training.toy_figure import load_networks, method_name
from lipnb.training.toy_problem import surface_metrics

NAMES = [method_name(panel, twin) for panel in PANELS for twin in (False, True)]


@pytest.fixture(scope="module")
def frame():
    return read_records("toy")


def test_every_panel_was_run_with_every_seed_at_full_size(frame):
    seeds = sorted(set(frame["seed"]))
    assert len(seeds) >= 3
    assert sorted(zip(frame["method"], frame["seed"], strict=True)) == sorted(
        (name, seed) for name in NAMES for seed in seeds
    )
    assert set(frame["iterations"]) == {2**14}
    assert set(frame["regularization_batch"]) == {1024} and set(frame["batch"]) == {64}


@pytest.mark.parametrize("name", ["none", "sn", "lp-lambda10-bn", "alp-k5-lambda1"])
def test_recorded_numbers_are_those_of_the_stored_networks(frame, name):
    for seed in (0, 1):
        row = frame[(frame["method"] == name) & (frame["seed"] == seed)].iloc[0]
        for metric, value in surface_metrics(load_networks(RESULTS, seed)[name])[0].items():
            assert value == pytest.approx(row[metric], rel=1e-3, abs=1e-4), metric


def test_seeds_gave_different_networks(frame):
    for name, part in frame.groupby("method"):
        assert part["gradient_error"].nunique() == len(part), name


def test_stored_claims_are_what_the_rules_say(frame):
    stored = json.loads((RESULTS / "toy" / "claims.json").read_text(encoding="utf-8"))
    assert stored == judge_toy(frame)


def test_a_penalty_that_is_off_is_seen(frame):
    # The unregularised networks in place of ALP: they are not less steep than LP's.
    swapped = frame.copy()
    for suffix in ("", "-bn"):
        good = swapped["method"] == f"alp-k5-lambda1{suffix}"
        bad = swapped["method"] == f"none{suffix}"
        for metric in ("gradient_error", "max_gradient", "q999_gradient"):
            swapped.loc[good, metric] = swapped.loc[bad, metric].to_numpy()
    assert judge_toy(frame)[3]["ours"].endswith("yes")
    assert judge_toy(swapped)[3]["ours"].endswith("no")


def test_sn_is_flat_and_alp_is_not(frame):
    _, low, _ = paired_difference(frame, "alp-k5-lambda1", "sn", "max_gradient")
    assert low > 0.2


def test_records_know_their_origin():
    for record in read_experiment("toy"):
        assert record["source"]["clean"] is True, record["method"]


def test_training_repeats_the_first_updates_of_the_stored_run():
    # Two short runs from one seed agree to the bit; another seed does not.
    settings = Settings(iterations=64)
    one, two = (train_toy([Panel("none")], [seed], settings) for seed in (0, 0))
    assert (one.loss == two.loss).all()
    assert (one.loss != train_toy([Panel("none")], [1], settings).loss).all()
