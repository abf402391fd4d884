"""The rules that judge claims about mutual information, on made-up records."""

import math

import pandas
import pytest

from lipnb.training.information_claims import MISSING, judge_information

RHO = (-0.9, -0.7, 0.0, 0.5, 0.9)


def rows(changes=()):
    """Rows with which every claim holds, then changed: (part, method, key) to value."""
    changes, found = dict(changes), []
    # (part, method, key, "noise"): how far seeds are apart

    def add(part, method, key, truth, value, score="value", **case):
        value = changes.get((part, method, key), value)
        for seed in range(3):
            apart = changes.get((part, method, key, "noise"), 0.001 * (1 + len(method) % 3))
            noise = apart * (seed - 1)
            row = {"part": part, "method": method, "seed": seed, "truth": truth, **case}
            found.append(row | {score: value + noise})

    for d in (2, 20):
        for rho in RHO:
            truth = -d / 2 * math.log1p(-(rho**2))
            for method, share in (("mine", 0.99), ("ksg", 0.98), ("nwj", 0.9)):
                add("gaussians", method, (d, rho), truth, share * truth, d=d, rho=rho)
    for law in ("copy", "random"):
        for strength in (0.5, 2.0, 8.0):
            case = {"law": law, "lambda": strength}
            add("exact", "orthogonal", (law, strength), 1.0, 0.98, **case)
    for nats in (1, 3, 6, 10):
        case = {"n": 500, "nats": nats}
        add("lipschitz", "none", nats, nats, -1.0, **case, **{"lambda": 0.0})
        add("lipschitz", "orthogonal", nats, nats, 0.95 * nats, **case, **{"lambda": 4.0})
    for k in (1, 8):
        for method, value in (("cpc", 0.95 - 0.02 * k), ("gp", 0.96 - 0.01 * k), ("lp", 0.95)):
            add("digits", method, k, k * math.log(10), value, "accuracy", digits=k)
    return pandas.DataFrame(found)


def verdicts(changes=()):
    return [claim["verdict"] for claim in judge_information(rows(changes))]


def test_all_claims_hold_where_they_should():
    assert verdicts() == ["reproduced"] * 6


@pytest.mark.parametrize(
    ("changes", "index", "wanted"),
    [
        ({("gaussians", "mine", (20, 0.9)): 9.0}, 0, "partly"),
        ({("gaussians", "ksg", (2, 0.9)): 1.2}, 0, "partly"),
        ({("gaussians", "nwj", (20, 0.5)): 2.9}, 1, "partly"),
        ({("exact", "orthogonal", ("copy", 2.0)): 0.9}, 2, "partly"),
        ({("exact", "orthogonal", ("copy", 2.0)): 1.1}, 2, "partly"),
        ({("lipschitz", "none", nats): nats for nats in (6, 10)}, 3, "not reproduced"),
        ({("lipschitz", "orthogonal", nats): 0.0 for nats in (1, 3, 6, 10)}, 4, "not reproduced"),
        (
            {("lipschitz", "none", nats, "noise"): 9.0 for nats in (6, 10)},
            3,
            "not distinguishable",
        ),
        ({("lipschitz", "orthogonal", 1): 0.2}, 4, "partly"),
        ({("digits", "gp", 8): 0.7}, 5, "partly"),
        ({("digits", "cpc", 8): 0.97}, 5, "not reproduced"),
    ],
)
def test_each_rule_can_fail(changes, index, wanted):
    assert verdicts(changes)[index] == wanted


def test_what_was_not_run_is_not_judged():
    frame = rows()
    found = judge_information(frame[frame["part"] != "digits"])
    assert found[5]["verdict"] == MISSING and found[5]["evidence"] == ""
    frame = frame[(frame["part"] != "gaussians") | (frame["method"] != "nwj")]
    assert [claim["verdict"] for claim in judge_information(frame)][:2] == ["reproduced", MISSING]
