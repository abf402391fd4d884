"""The rules that judge claims about critics, on made-up records."""

import pandas
import pytest

from lipnb.training.critic_claims import PROBLEMS, judge_critics


def rows(changes=()):
    """Scores with which every claim holds, then changed: (method, problem, score) to value."""
    found = []
    for position, which in enumerate(PROBLEMS):
        scores = {
            "gp": {"ratio": 0.7, "cosine": 0.6},
            "lp": {"ratio": 1.05, "cosine": 0.95},
            "pairs-random": {"ratio": 1.3 + 0.5 * position, "cosine": 0.6},
            "alp-k1": {"ratio": 1.1, "cosine": 0.95},
            "sn": {"ratio": 0.4, "cosine": 0.7},
            "orthogonal-maxmin": {"ratio": 0.9, "cosine": 0.95},
        }
        for method, values in scores.items():
            values |= {s: v for (m, w, s), v in dict(changes).items() if (m, w) == (method, which)}
            for seed in range(3):
                noise = 0.002 * (seed - 1) * (1 + len(method) % 3)
                row = {"method": method, "seed": seed, "problem": which}
                found.append(row | {score: value + noise for score, value in values.items()})
    return pandas.DataFrame(found)


def verdicts(changes=()):
    return [claim["verdict"] for claim in judge_critics(rows(changes))]


def test_all_claims_hold_where_they_should():
    assert verdicts() == ["reproduced"] * 4


@pytest.mark.parametrize(
    ("changes", "index", "wanted"),
    [
        ({("gp", "mixture", "cosine"): 0.97}, 0, "partly"),
        (
            {("gp", "mixture", "cosine"): 0.97, ("gp", "mixture", "ratio"): 1.01},
            0,
            "not reproduced",
        ),
        ({("pairs-random", "funnels-32", "ratio"): 1.2}, 1, "partly"),
        ({("alp-k1", "digits", "ratio"): 1.4}, 2, "partly"),
        ({("alp-k1", which, "ratio"): 0.5 for which in PROBLEMS}, 2, "not reproduced"),
        ({("sn", "funnels-8", "ratio"): 0.95}, 3, "partly"),
        ({("orthogonal-maxmin", which, "ratio"): 1.2 for which in PROBLEMS}, 3, "not reproduced"),
    ],
)
def test_each_rule_can_fail(changes, index, wanted):
    assert verdicts(changes)[index] == wanted


def test_evidence_names_metrics_as_the_records_do():
    for claim in judge_critics(rows()):
        for item in claim["evidence"]:
            which, _, score = item["metric"].rpartition(".")
            assert which in PROBLEMS and score in ("ratio", "cosine")


def test_one_seed_is_not_enough():
    with pytest.raises(ValueError, match="same two seeds"):
        judge_critics(rows().query("seed == 0"))
