"""Chapter 12: the stored study is whole and can be repeated; its verdicts are the rules'."""

import json
from dataclasses import replace

import pandas
import pytest
import torch

from lipnb.records import RESULTS, read_experiment
from lipnb.training.critic_claims import PROBLEMS, judge_critics
from lipnb.training.critic_methods import METHODS, train_method
from lipnb.training.critic_problems import judge_critic, problem
from lipnb.training.critic_study import read_study


@pytest.fixture(scope="module")
def study():
    return pandas.DataFrame(read_study("critics"))


def test_every_method_was_run_with_every_seed_on_every_problem(study):
    seeds = sorted(set(study["seed"]))
    assert len(seeds) >= 3
    found = sorted(zip(study["method"], study["seed"], study["problem"], strict=True))
    assert found == sorted((m, s, p) for m in METHODS for s in seeds for p in PROBLEMS)
    settings = {
        tuple(record["parameters"][key] for key in ("iterations", "batch", "width"))
        for record in read_experiment("critics")
    }
    assert len(settings) == 1
    for record in read_experiment("critics"):
        assert record["source"]["clean"] is True, record["method"]


def test_stored_claims_are_what_the_rules_say(study):
    stored = json.loads((RESULTS / "critics" / "claims.json").read_text(encoding="utf-8"))
    assert stored == judge_critics(study)


def interval(study, method, which, score):
    """Range over the stored seeds, widened by half of itself on each side."""
    rows = study[(study["method"] == method) & (study["problem"] == which)][score]
    half = (rows.max() - rows.min()) / 2
    return rows.min() - half, rows.max() + half


def repeated(method, which, seed=0, **changes):
    """Train and judge as the study does."""
    parameters = read_experiment("critics")[0]["parameters"]
    settings = {key: parameters[key] for key in ("iterations", "batch", "width", "learning_rate")}
    run = train_method(replace(METHODS[method], **changes), problem(which), seed, **settings)
    return judge_critic(run.critic, problem(which), torch.Generator().manual_seed(2**20 + seed))


def test_one_run_is_repeated(study):
    # On another processor rounding sends the training elsewhere; the spread over seeds is the
    # measure of how far.
    found = repeated("lp", "funnels-2")
    for score in ("ratio", "cosine"):
        low, high = interval(study, "lp", "funnels-2", score)
        assert low <= found[score] <= high, score


def test_sabotage_a_penalty_without_weight(study):
    found = repeated("lp", "funnels-2", weight=0.0)
    assert found["ratio"] > interval(study, "lp", "funnels-2", "ratio")[1]
    assert found["cosine"] < interval(study, "lp", "funnels-2", "cosine")[0]


def test_sabotage_verdicts_without_the_search(study):
    # Random directions in place of searched ones: the claim on adversarial pairs must fall.
    swapped = study[study["method"] != "alp-k1"].replace({"method": {"alp-k0": "alp-k1"}})
    before, after = judge_critics(study)[2], judge_critics(swapped)[2]
    assert before["ours"].count("yes") > after["ours"].count("yes")
