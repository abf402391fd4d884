"""Replaying an experiment: equal code passes, a changed number does not, nothing is left behind."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from lipnb.records import make_record, snapshot, stale_files, synthetic_data, write_record

ROOT = Path(__file__).parents[2]
SHORT = """\
import json, os, sys
sys.path.insert(0, os.environ["PYTHONPATH"])
from pathlib import Path
from step import RATE
from lipnb.records import make_record, snapshot, synthetic_data, write_record
folder, experiment, parameters = sys.argv[1:]
write_record(
    make_record(
        experiment=experiment, method="none", seed=0, parameters=json.loads(parameters),
        metrics={"rate": {"value": RATE, "n": 1}, "seconds": {"value": os.getpid(), "n": 1}},
        data=synthetic_data("nothing"), seconds=1.0, code=snapshot(["step.py"], Path.cwd()),
    ),
    folder,
)
"""


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("replay", ROOT / "workflows" / "replay.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


replay = load()
ENTRY = {"parameters": {"n": 9}, "replay": {"script": "short.py", "parameters": {"n": 1}}}


def git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=n", "-c", "user.email=n@n"]
    subprocess.run(["git", *who, "-C", str(root), *arguments], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository whose record was made by its first commit."""
    root = tmp_path / "project"
    (root / "workflows").mkdir(parents=True)
    (root / "workflows" / "short.py").write_text(SHORT)
    (root / "step.py").write_text("RATE = 0.1\n")
    git(tmp_path, "init", "-q", str(root))
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    record = make_record(
        experiment="steps",
        method="none",
        seed=0,
        parameters={"n": 9},
        metrics={"rate": {"value": 0.1, "n": 1}},
        data=synthetic_data("nothing"),
        seconds=1.0,
        code=snapshot(["step.py"], root),
    )
    write_record(record, root / "results")
    return root


def stored(root: Path) -> list[str]:
    record = json.loads((root / "results" / "steps" / "none-seed0.json").read_text())
    return stale_files(record, root)


def test_code_that_computes_the_same_passes(project: Path) -> None:
    (project / "step.py").write_text("RATE = 1 / 10\n")
    assert stored(project) == ["step.py"]
    assert replay.replay("steps", ENTRY, project) == 0
    assert stored(project) == []
    (note,) = json.loads((project / "results/steps/replayed.json").read_text()).values()
    assert note["numbers"] == 1  # the seconds, different in every run, are no result
    assert note["parameters"] == {"n": 1}
    trees = subprocess.run(
        ["git", "-C", str(project), "worktree", "list"], capture_output=True, text=True, check=True
    )
    assert trees.stdout.count("\n") == 1


def test_code_that_computes_something_else_does_not(project: Path) -> None:
    (project / "step.py").write_text("RATE = 0.1 + 1e-16\n")
    assert replay.replay("steps", ENTRY, project) == 1
    assert stored(project) == ["step.py"]
    assert not (project / "results/steps/replayed.json").exists()


def test_current_records_need_no_replay(project: Path) -> None:
    assert replay.replay("steps", {**ENTRY, "replay": {}} | ENTRY, project) == 0
    assert not (project / "results/steps/replayed.json").exists()


def test_a_missing_number_is_a_difference() -> None:
    assert replay.differences({"a": 1.0, "b": 2.0}, {"a": 1.0}) == ["b"]
    assert replay.differences({}, {"a": 1.0}) == ["a"]
    assert replay.differences({"a": 1.0}, {"a": 1.0}) == []


def test_every_experiment_can_be_replayed() -> None:
    config = yaml.safe_load((ROOT / "workflows" / "config.yaml").read_text(encoding="utf-8"))
    for name, entry in config["experiments"].items():
        assert (ROOT / "workflows" / entry["replay"]["script"]).is_file(), name
        assert set(entry["replay"]["parameters"]) <= set(entry["parameters"]), name
