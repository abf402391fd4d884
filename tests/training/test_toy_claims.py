"""The rules that judge the paper's claims, on made-up records."""

import pandas
import pytest

from lipnb.training.toy import PANELS
from lipnb.training.toy_claims import judge_choice, judge_toy, paired_difference


def records(changes=()):
    """Records in which every claim holds, then changed: (method, metric) to value."""
    rows = []
    for panel in PANELS:
        for twin in ("", "-bn"):
            name = panel.name + twin
            row = {"gradient_error": 0.2, "max_gradient": 1.5, "q999_gradient": 1.4}
            if name == "sn":
                row = {"gradient_error": 0.31, "max_gradient": 0.4, "q999_gradient": 0.4}
            if name in ("lp-lambda10", "alp-k5-lambda1", "alp-k5-lambda1-bn"):
                row = {"gradient_error": 0.1, "max_gradient": 1.1, "q999_gradient": 1.05}
            if panel.method == "lipschitz_penalty" and twin:
                row["gradient_error"] = 0.25
            row |= {metric: value for (m, metric), value in dict(changes).items() if m == name}
            for seed in range(5):
                noise = 0.002 * ((seed * 7 + len(rows)) % 5 - 2)
                rows.append({"method": name, "seed": seed} | {k: v + noise for k, v in row.items()})
    return pandas.DataFrame(rows)


def verdicts(changes=()):
    return [claim["verdict"] for claim in judge_toy(records(changes))]


def test_all_claims_hold_where_they_should():
    assert verdicts() == ["reproduced"] * 4


@pytest.mark.parametrize(
    ("changes", "index", "wanted"),
    [
        ({("sn", "max_gradient"): 0.95}, 0, "not reproduced"),
        ({("lp-lambda1", "gradient_error"): 0.1}, 1, "not distinguishable"),
        ({("lp-lambda1", "gradient_error"): 0.05}, 1, "not reproduced"),
        ({("lp-lambda10-bn", "gradient_error"): 0.1}, 2, "partly"),
        ({("lp-lambda1-bn", "max_gradient"): 1.0}, 2, "partly"),
        ({("alp-k5-lambda1-bn", "gradient_error"): 0.3}, 3, "partly"),
        (
            {
                ("alp-k5-lambda1", "gradient_error"): 0.3,
                ("alp-k5-lambda1-bn", "gradient_error"): 0.3,
                ("alp-k5-lambda1-bn", "q999_gradient"): 1.6,
            },
            3,
            "not reproduced",
        ),
    ],
)
def test_each_rule_can_fail(changes, index, wanted):
    assert verdicts(changes)[index] == wanted


def test_paired_difference_by_hand_and_its_errors():
    frame = pandas.DataFrame(
        {"method": ["a"] * 3 + ["b"] * 3, "seed": [0, 1, 2] * 2, "x": [1.0, 2, 4, 0, 0, 0]}
    )
    mean, low, high = paired_difference(frame, "a", "b", "x")
    # sd of (1, 2, 4) is 1.52753, t(0.975, 2) is 4.30265.
    assert mean == pytest.approx(7 / 3)
    assert high - mean == pytest.approx(4.302653 * 1.527525 / 3**0.5, rel=1e-5)
    assert mean - low == pytest.approx(high - mean)
    with pytest.raises(ValueError, match="same two seeds"):
        paired_difference(frame[frame["seed"] == 0], "a", "b", "x")
    with pytest.raises(ValueError, match="same two seeds"):
        paired_difference(frame, "a", "c", "x")


def test_a_changed_choice_is_asked_the_same_questions():
    assert set(judge_choice(records()).values()) == {"yes"}
    changes = {
        ("sn", "max_gradient"): 0.95,
        ("lp-lambda1", "gradient_error"): 0.1,
        ("lp-lambda10-bn", "gradient_error"): 0.05,
        ("alp-k5-lambda1-bn", "q999_gradient"): 1.6,
    }
    assert list(judge_choice(records(changes)).values()) == ["no", "yes", "open", "no", "no"]
    with pytest.raises(ValueError, match="sn must have two seeds"):
        judge_choice(records().query("seed == 0"))
