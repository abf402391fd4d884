"""The study of mutual information: known answers, records that resume, data shared by methods."""

import math

import numpy as np
import pytest

import lipnb.training.information_parts
from lipnb.records import read_record, snapshot, stale_files
from lipnb.theory import mutual_information
from lipnb.training import correlated_gaussians, information_parts
from lipnb.training.information_parts import (
    PARTS,
    InformationSettings,
    exact_regularisation,
    finite_laws,
    rho_of,
    study_part,
)
from lipnb.training.information_study import read_information, study_information

TINY = InformationSettings(
    steps=3,
    rows=120,
    correlations=((2, (0.0, 0.9)), (3, (0.5,))),
    ladder=(0, 2),
    tasks=("normal-1", "swiss-roll", "additive-0.1"),
    nats=(1, 4),
    constants=(2,),
    sizes=(60,),
    strengths=(1.0,),
    digits=(1, 2),
)
information_parts.RATES.setdefault(3, 1e-2)


def test_correlations_have_the_information_that_was_asked_for():
    for nats in (0, 0.5, 10):
        for d in (1, 2, 20):
            assert correlated_gaussians(rho_of(nats, d), d).truth == pytest.approx(
                nats, rel=1e-6, abs=1e-12
            )
    with pytest.raises(ValueError, match="at least 0"):
        rho_of(-1, 2)


@pytest.mark.parametrize("name", finite_laws())
def test_regularisation_of_a_finite_law_rises_to_its_information(name):
    law = finite_laws()[name]
    values = [exact_regularisation(law, strength) for strength in (0.1, 1, 10, 1000)]
    information = float(mutual_information(law[2]))
    assert np.diff(values).min() > -1e-9
    assert values[-1] == pytest.approx(information, rel=0.05)
    assert values[0] < 0.5 * information
    if name == "copy":
        assert information == pytest.approx(math.log(4))


def test_every_part_and_method_runs_and_methods_see_the_same_truth():
    for part, (_, methods) in PARTS.items():
        truths = []
        for method in methods:
            rows = study_part(part, method, 0, TINY)
            assert all(math.isfinite(row.get("value", row.get("accuracy"))) for row in rows)
            truths.append({str(row.get("task", row["truth"])): row["truth"] for row in rows})
        assert all(truth == truths[0] for truth in truths)


def test_more_steps_come_closer():
    few = study_part("gaussians", "mine", 0, TINY)
    more = study_part(
        "gaussians",
        "mine",
        0,
        InformationSettings(steps=150, rows=1500, correlations=((2, (0.0, 0.9)),)),
    )
    assert abs(more[1]["value"] - more[1]["truth"]) < 0.25
    assert abs(few[1]["value"] - few[1]["truth"]) > 0.5  # sabotage: not trained
    assert abs(more[0]["value"]) < 0.05


def test_records_are_written_read_and_not_computed_again(tmp_path):
    code = snapshot([lipnb.training.information_parts])
    given = {"folder": tmp_path, "experiment": "tiny", "code": code}
    names = ["gaussians.ksg", "exact.sn", "tasks.started"]
    first = study_information(names, [0], TINY, processes=2, **given)
    record = read_record(tmp_path / "tiny" / "exact.sn-seed0.json")
    assert record["metrics"]["law=copy lambda=1.0 value"]["spread"] > 0
    assert "lipnb/training/information_loop.py" in record["code"] and stale_files(record) == []
    again = read_information("tiny", tmp_path)
    order = lambda row: (row["part"], str(row))  # noqa: E731
    assert sorted(again, key=order)[0].keys() == sorted(first, key=order)[0].keys()
    by_value = {row["value"]: row for row in first}
    assert all(by_value[row["value"]] == row for row in again) and len(again) == len(first)
    assert study_information(names, [0], TINY, **given) == []
    other = study_information(names[:1], [0, 1], TINY, **given)
    assert {row["seed"] for row in other} == {1}
    assert other[1]["value"] != next(r for r in first if r.get("rho") == 0.9)["value"]


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"methods must be among .* got \['gaussians.smile'\]"):
        study_information(["gaussians.smile"], [0], TINY)
    with pytest.raises(ValueError, match="snapshot"):
        study_information(["exact.sn"], [0], TINY, folder=tmp_path)
    with pytest.raises(ValueError, match="part and method"):
        study_part("gaussians", "gp", 0, TINY)
