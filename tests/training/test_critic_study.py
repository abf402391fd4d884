"""The study of all critics: records that resume, and the same numbers on one process or two."""

import pytest

import lipnb.training.critic_study
from lipnb.records import read_record, snapshot, stale_files
from lipnb.training.critic_study import (
    CriticSettings,
    read_study,
    study_critics,
    study_method,
    study_rows,
)

TINY = CriticSettings(("mixture",), iterations=4, batch=8, width=8)


def scores(found):
    return {name: value for name, value in found["mixture"].items() if name != "seconds"}


def test_records_are_written_and_not_computed_again(tmp_path):
    code = snapshot([lipnb.training.critic_study])
    given = {"folder": tmp_path, "experiment": "tiny", "code": code}
    first = study_critics(["lp", "none"], [0], TINY, processes=2, **given)
    assert set(first) == {("lp", 0), ("none", 0)}
    assert scores(first["lp", 0]) == scores(study_method("lp", 0, TINY))

    record = read_record(tmp_path / "tiny" / "lp-seed0.json")
    assert record["metrics"]["mixture.ratio"]["value"] == first["lp", 0]["mixture"]["ratio"]
    assert record["parameters"]["weight"] == 10 and record["parameters"]["width"] == 8
    assert {"lipnb/training/critic_methods.py", "lipnb/regularizers/gradient.py"} <= set(
        record["code"]
    )
    assert stale_files(record) == []
    rows = read_study("tiny", tmp_path)
    assert [row["method"] for row in rows] == ["none", "lp"]
    assert rows[1] == study_rows(first)[[*first].index(("lp", 0))]

    again = study_critics(["lp", "none"], [0, 1], TINY, processes=1, **given)
    assert set(again) == {("lp", 1), ("none", 1)}
    assert scores(again["lp", 1]) != scores(first["lp", 0])


def test_what_a_penalty_saw_is_kept_and_others_have_none():
    assert 0 <= study_method("lp", 0, TINY)["mixture"]["violations"] <= 1
    assert "violations" not in study_method("sn", 0, TINY)["mixture"]


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"methods must be among .* got \['lpp'\]"):
        study_critics(["lpp"], [0], TINY)
    with pytest.raises(ValueError, match="snapshot"):
        study_critics(["lp"], [0], TINY, folder=tmp_path)
