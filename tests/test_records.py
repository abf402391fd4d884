"""Records are complete, finite, written wholly or not at all, and know what changed since."""

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import lipnb.records
import lipnb.theory.potentials
import lipnb.training.toy_figure
from lipnb.records import (
    make_record,
    provenance,
    read_experiment,
    read_record,
    read_records,
    snapshot,
    stale_files,
    summarise,
    synthetic_data,
    verdict,
    write_record,
)


def record(method="none", seed=0, value=0.25, **changes):
    """A small valid record."""
    wanted = {
        "experiment": "demo",
        "method": method,
        "seed": seed,
        "parameters": {"steps": 10, "radius": [1e-6, 1e-5], "batch_norm": False},
        "metrics": {"mse": {"value": value, "n": 64, "spread": 0.01}},
        "data": synthetic_data("two rings", points=64),
        "code": [lipnb.records],
        "seconds": 0.5,
    }
    return make_record(**(wanted | changes))


def test_a_record_survives_the_disk(tmp_path):
    before = record()
    path = write_record(before, tmp_path)
    assert path == tmp_path / "demo" / "none-seed0.json"
    assert read_record(path) == before
    assert path.read_text().endswith("}\n")
    assert [file.name for file in path.parent.iterdir()] == ["none-seed0.json"]


def test_the_same_record_is_the_same_text(tmp_path):
    first = write_record(record(), tmp_path).read_text()
    turned = dict(reversed(list(json.loads(first).items())))
    assert write_record(turned, tmp_path).read_text() == first


def test_scalars_of_numpy_and_torch_are_plain_numbers(tmp_path):
    metrics = {"mse": {"value": torch.tensor(0.5), "n": np.int64(3)}}
    path = write_record(record(seed=np.int64(2), metrics=metrics), tmp_path)
    assert read_record(path)["metrics"]["mse"] == {"value": 0.5, "n": 3}
    assert path.name == "none-seed2.json"


def test_the_environment_is_this_one():
    environment = record()["environment"]
    assert environment["torch"] == torch.__version__
    assert environment["numpy"] == np.__version__
    assert environment["python"] == sys.version.split()[0]
    assert environment["device"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.1", True, None])
def test_a_metric_must_be_a_finite_number(value, tmp_path):
    with pytest.raises(ValueError, match="metric mse a finite value"):
        record(value=value)
    broken = record()
    broken["metrics"]["mse"]["value"] = value
    with pytest.raises(ValueError, match="metric mse"):
        write_record(broken, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 0.5}, "seed of another type"),
        ({"seed": True}, "seed of another type"),
        ({"seed": -1}, "not negative"),
        ({"method": "../escape"}, "method of letters"),
        ({"experiment": ""}, "experiment of letters"),
        ({"parameters": {"rate": math.nan}}, "finite parameters"),
        ({"parameters": {"rate": {"deep": 1}}}, "finite parameters"),
        ({"parameters": {"mse": 1.0}}, "different names"),
        ({"metrics": {}}, "at least one metric"),
        ({"metrics": {"mse": {"value": 1.0}}}, "with value and n"),
        ({"metrics": {"mse": {"value": 1.0, "n": 0}}}, "n > 0"),
        ({"metrics": {"mse": {"value": 1.0, "n": 1, "spread": -1.0}}}, "finite spread"),
        ({"metrics": {"mse": 1.0}}, "a mapping with value and n"),
        ({"data": {"name": "two rings"}}, "sha256"),
        ({"seconds": math.inf}, "finite seconds"),
        ({"started": "yesterday"}, "ISO 8601"),
        ({"code": [Path("no/such/file.py")]}, "needs a file"),
    ],
)
def test_what_is_not_a_record_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        record(**changes)


def edited(path, **changes):
    """Rewrite a record on disk."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "wanted schema 1; got 2"),
        ({"code": None}, "wanted the key 'code'"),
        ({"metrics": {"mse": {"value": math.nan, "n": 1}}}, "finite numbers; got NaN"),
        ({"extra": 1}, "only the keys of schema 1"),
    ],
)
def test_reading_names_the_file_and_what_is_wrong(changes, message, tmp_path):
    path = edited(write_record(record(), tmp_path), **changes)
    with pytest.raises(ValueError, match=f"none-seed0.json: .*{message}"):
        read_record(path)


def test_broken_json_and_huge_numbers_are_refused(tmp_path):
    path = write_record(record(), tmp_path)
    text = path.read_text()
    path.write_text(text[:-20])
    with pytest.raises(ValueError, match=r"none-seed0.json: wanted JSON"):
        read_record(path)
    path.write_text(text.replace("0.25", "1e999"))
    with pytest.raises(ValueError, match=r"none-seed0.json: wanted metric mse a finite value"):
        read_record(path)


KILLED = """
import os, signal, sys
from lipnb.records import read_record, write_record
record = read_record(sys.argv[1])
record["metrics"]["mse"]["value"] = 0.75
os.{step} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_record(record, sys.argv[2])
"""


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_kill_while_writing_leaves_the_old_record(step, tmp_path):
    path = write_record(record(), tmp_path)
    before = path.read_bytes()
    run = [sys.executable, "-c", KILLED.format(step=step), str(path), str(tmp_path)]
    assert subprocess.run(run, check=False).returncode == -signal.SIGKILL
    assert len(list(path.parent.iterdir())) == 2, "the kill came before anything was written"
    assert path.read_bytes() == before
    assert len(read_records("demo", tmp_path)) == 1


def test_records_become_a_table(tmp_path):
    for seed in (1, 0):
        write_record(record(seed=seed, value=0.1 + seed), tmp_path)
    write_record(record("penalty", parameters={"strength": 10.0}), tmp_path)
    frame = read_records("demo", tmp_path)
    assert list(frame["method"]) == ["none", "none", "penalty"]
    assert list(frame["seed"]) == [0, 1, 0]
    assert list(frame["mse"]) == [0.1, 1.1, 0.25]
    assert frame["radius"][0] == (1e-6, 1e-5)
    assert frame["strength"][2] == 10.0 and math.isnan(frame["strength"][0])
    assert len(read_records("nothing", tmp_path)) == 0


def test_a_copied_record_is_not_another_seed(tmp_path):
    path = write_record(record(), tmp_path)
    path.with_name("none-seed1.json").write_text(path.read_text())
    with pytest.raises(ValueError, match=r"none-seed1.json: .* got demo/none-seed0.json"):
        read_experiment("demo", tmp_path)


def test_the_interval_is_student_s():
    # By hand: mean 3, squares of deviations 4 + 1 + 0 + 1 + 4 = 10, sd = sqrt(10 / 4), and the
    # table of Student's t gives 2.776445 for 4 degrees of freedom at 97.5 %.
    frame = pd.DataFrame({"method": ["a"] * 5 + ["b"], "mse": [1.0, 2.0, 3.0, 4.0, 5.0, 7.0]})
    table = summarise(frame, by="method", metrics=["mse"])
    row = table.iloc[0]
    half = 2.776445 * math.sqrt(2.5) / math.sqrt(5)
    assert row["mean"] == 3.0 and row["n"] == 5
    assert row["sd"] == pytest.approx(1.5811388, abs=1e-7)
    assert [row["low"], row["high"]] == pytest.approx([3.0 - half, 3.0 + half], abs=1e-5)
    single = table.iloc[1]
    assert single["mean"] == 7.0 and math.isnan(single["sd"]) and math.isnan(single["low"])
    narrow = summarise(frame, by="method", metrics="mse", confidence=0.5).iloc[0]
    assert narrow["high"] < row["high"]


def test_groups_keep_their_order_and_missing_parameters():
    frame = pd.DataFrame({"method": ["z", "a", "a"], "k": [math.nan, 1.0, 5.0], "mse": [1, 2, 3.0]})
    table = summarise(frame, by=["method", "k"], metrics="mse")
    assert list(table["method"]) == ["z", "a", "a"]
    assert list(table["mean"]) == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="not there: \\['slope'\\]"):
        summarise(frame, by="method", metrics="slope")
    with pytest.raises(ValueError, match="confidence"):
        summarise(frame, by="method", metrics="mse", confidence=95)
    with pytest.raises(ValueError, match="interval must be 'student' or 'bootstrap'; got 'normal'"):
        summarise(frame, by="method", metrics="mse", interval="normal")


@pytest.fixture
def project(tmp_path):
    """A repository with one module, one data file and a lock file."""
    (tmp_path / "lipnb").mkdir()
    (tmp_path / "lipnb" / "step.py").write_text("RATE = 0.1\n")
    (tmp_path / "points.csv").write_text("0,1\n")
    (tmp_path / "requirements.txt").write_text("torch==2.15.0\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    return tmp_path


def test_a_record_knows_what_changed(project):
    digest = lipnb.records.file_digest(project / "points.csv")
    state = snapshot(["lipnb/step.py"], project)
    made = record(code=state, data={"name": "points.csv", "sha256": digest})
    assert made["source"]["clean"] and len(made["source"]["commit"]) == 40
    assert stale_files(made, project) == []
    assert "made by today's code" in provenance([made], project)

    (project / "lipnb" / "step.py").write_text("# a comment\nRATE = 0.10\n")
    assert stale_files(made, project) == []
    (project / "lipnb" / "step.py").write_text("RATE = 0.2\n")
    assert stale_files(made, project) == ["lipnb/step.py"]
    pins = f"torch=={torch.__version__.partition('+')[0]}\nnumpy=={np.__version__}\n"
    (project / "requirements.txt").write_text("# a comment\npandas==3.0\n" + pins)
    assert stale_files(made, project) == ["lipnb/step.py"]
    (project / "requirements.txt").write_text("torch==2.16.0\n")
    (project / "points.csv").write_text("0,2\n")
    changed = ["lipnb/step.py", "requirements.txt", "points.csv"]
    assert stale_files(made, project) == changed
    assert f"changed since then: {', '.join(sorted(changed))}." in provenance([made], project)


def test_the_state_is_that_before_the_run(project):
    state = snapshot(["lipnb/step.py"], project)
    (project / "lipnb" / "step.py").write_text("RATE = 0.2\n")
    made = record(code=state)
    assert made["source"]["clean"] and made["started"] == state["started"]
    assert stale_files(made, project) == ["lipnb/step.py"]
    assert not snapshot(["lipnb/step.py"], project)["source"]["clean"]


def test_results_do_not_make_a_tree_unclean(project):
    write_record(record(), project / "results")
    assert snapshot([], project)["source"]["clean"]


def test_a_module_brings_what_it_imports_and_no_more():
    code = snapshot([lipnb.theory.potentials])["code"]
    assert set(code) == {"lipnb/theory/potentials.py", "lipnb/theory/_clouds.py"}
    found = set(snapshot([lipnb.training.toy_figure])["code"])
    # Through a package's names to the file that defines them, and on to what that file imports.
    assert {"lipnb/training/toy.py", "lipnb/regularizers/pairs.py", "lipnb/distances.py"} <= found
    # Not the siblings of what is used, not what writes records, not files that only re-export.
    others = {"lipnb/training/toy_claims.py", "lipnb/theory/transport.py"}
    assert not found & others
    assert not [name for name in found if "records" in name or name.endswith("__init__.py")]


def test_a_file_of_exports_is_passed_over_and_one_with_code_is_not(project):
    init = project / "lipnb" / "__init__.py"
    init.write_text("RATE = 1\n")
    made = record(code=snapshot(["lipnb/__init__.py"], project))
    init.write_text("RATE = 2\n")
    assert stale_files(made, project) == ["lipnb/__init__.py"]
    made["code"]["lipnb/__init__.py"] = "0"
    init.write_text('"""Names."""\nfrom lipnb.step import RATE\n\n__all__ = ["RATE"]\n')
    assert stale_files(made, project) == []


def test_outside_a_repository_the_commit_is_unknown(tmp_path):
    state = snapshot([lipnb.records], tmp_path)
    assert state["source"] == {"commit": "unknown", "clean": False}
    assert state["lock"]["sha256"] == "unknown"
    assert stale_files(record(code=state), tmp_path) == []
    (tmp_path.parent / "elsewhere.py").write_text("")
    with pytest.raises(ValueError, match="must lie in the repository"):
        snapshot([tmp_path.parent / "elsewhere.py"], tmp_path)


def test_provenance_is_one_sentence():
    first, second = record(started="2026-11-22T23:00:00+00:00"), record(seed=1)
    second["started"] = "2026-11-23T01:00:00+00:00"
    second["source"] = {"commit": "0123456789", "clean": False}
    text = provenance([first, second])
    assert text.startswith("2 records, 22 November 2026 to 23 November 2026, on ")
    assert "0123456 with uncommitted changes" in text
    assert text.count(f"torch {torch.__version__}") == 1
    assert text.endswith(".")


def test_a_verdict_stops_when_false(capsys):
    verdict("all is well", True)
    assert capsys.readouterr().out == "all is well: yes\n"
    with pytest.raises(AssertionError, match="all is well: no"):
        verdict("all is well", False)


def test_a_replay_lets_changed_code_pass_until_it_changes_again(project):
    """The short run covers today's files, also those that the record's code did not have."""
    made = record(code=snapshot(["lipnb/step.py"], project))
    (project / "lipnb" / "step.py").write_text("from lipnb.rate import RATE\n")
    (project / "lipnb" / "rate.py").write_text("RATE = 0.1\n")
    assert stale_files(made, project) == ["lipnb/step.py"]
    code = snapshot(["lipnb/step.py", "lipnb/rate.py"], project)["code"]
    path = project / "results" / made["experiment"] / "replayed.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"0" * 40: {"code": code}}))
    assert stale_files(made, project) == ["lipnb/step.py"]  # a replay of another commit
    path.write_text(json.dumps({made["source"]["commit"]: {"code": code}}))
    assert stale_files(made, project) == []
    assert stale_files(made, project, replays=False) == ["lipnb/step.py"]
    assert "repeats a short run of them bit by bit." in provenance([made], project)
    (project / "lipnb" / "rate.py").write_text("RATE = 0.2\n")
    assert stale_files(made, project) == ["lipnb/rate.py"]


def test_a_replay_forgives_no_other_versions_and_no_other_data(project):
    digest = lipnb.records.file_digest(project / "points.csv")
    state = snapshot(["lipnb/step.py"], project)
    made = record(code=state, data={"name": "points.csv", "sha256": digest})
    path = project / "results" / made["experiment"] / "replayed.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({made["source"]["commit"]: {"code": made["code"]}}))
    (project / "points.csv").write_text("0,2\n")
    assert stale_files(made, project) == ["points.csv"]
    (project / "requirements.txt").write_text("torch==2.16.0\n")
    assert stale_files(made, project) == ["requirements.txt", "points.csv"]


def test_the_bootstrap_has_known_quantiles_for_two_values() -> None:
    """Of 0 and 1 the mean of a sample is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4."""
    frame = pd.DataFrame({"method": ["a", "a", "b"], "x": [0.0, 1.0, 5.0]})

    def ends(confidence: float) -> list[float]:
        table = summarise(frame, "method", "x", confidence, interval="bootstrap")
        return [float(v) for v in table.iloc[0][["low", "high"]]]

    assert ends(0.95) == [0.0, 1.0]
    assert ends(0.4) == [0.5, 0.5]
    single = summarise(frame, "method", "x", interval="bootstrap").iloc[1]
    assert single["mean"] == 5 and math.isnan(single["low"]) and math.isnan(single["sd"])


def test_the_bootstrap_approaches_the_normal_interval_of_many_values() -> None:
    values = np.random.default_rng(0).normal(size=400)
    frame = pd.DataFrame({"method": "a", "x": values})
    row = summarise(frame, "method", "x", interval="bootstrap").iloc[0]
    half = 1.96 * values.std() / 20
    assert row["low"] == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert row["high"] == pytest.approx(values.mean() + half, abs=0.05 * half)
