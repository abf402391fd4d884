"""The sweep with methods, by the real Snakemake: one job killed and resumed, one that fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from lipnb.records import read_experiment
from lipnb.training.wgan_monitor import write_grid
from lipnb.training.wgan_presets import method_settings
from lipnb.training.wgan_records import few_images
from lipnb.training.wgan_study import SMALL_CHANGES, study_wgan

ROOT = Path(__file__).parents[2]
CHANGES: dict[str, Any] = {
    "channels": 3,
    "generator_channels": 3,
    "latent": 2,
    "batch": 4,
    "generator_batch": 4,
    "critic_steps": 1,
    "radius": [0.1, 1.0],
    "learning_rate": 0.00005,
}
PARAMETERS = {"preset": "paper", "data": "digits", "iterations": 40, "changes": CHANGES}
# What chapter 19 does with its parameters, and its process number for the one who kills it.
NOTEBOOK = """\
---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

```{code-cell} ipython3
:tags: [parameters]

methods = ["alp"]
seeds = [0]
preset = "paper"
data = "digits"
iterations = 10
changes = {}
experiment = "none"
output = ""
checkpoints = ""
processes = 1
progress = False
```

```{code-cell} ipython3
import os
from pathlib import Path

import lipnb.training.wgan_study
from lipnb.records import snapshot

Path(output, "process-" + "-".join(methods)).write_text(str(os.getpid()))
found = lipnb.training.wgan_study.study_wgan(
    methods,
    seeds,
    preset=preset,
    data=data,
    iterations=iterations,
    changes=changes,
    experiment=experiment,
    folder=output,
    checkpoints=checkpoints,
    code=snapshot([lipnb.training.wgan_study]),
    processes=processes,
)
```
"""


def entries() -> dict[str, Any]:
    config = yaml.safe_load((ROOT / "workflows" / "config.yaml").read_text(encoding="utf-8"))
    found: dict[str, Any] = config["experiments"]
    return found


def snakemake(folder: Path, *words: str) -> list[str]:
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "workflows" / "Snakefile")]
    given = ["--configfile", "test.yaml", "--directory", str(folder), "--cores", "2"]
    return [*command, *words, *given, "--keep-going", "--rerun-incomplete", "--quiet", "all"]


@pytest.fixture(name="place")
def place_fixture(tmp_path: Path) -> Path:
    """A folder like the book's, with one experiment on a small notebook."""
    for name in ("workflows", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "small.md").write_text(NOTEBOOK)
    (tmp_path / "results").mkdir()
    entry = {"notebook": str(tmp_path / "small"), "parameters": PARAMETERS}
    entry |= {"methods": ["alp", "gp"], "seeds": [[0, 1, 2]]}
    config = {"results": "results", "experiments": {"sweep_wgan": entry}}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_a_killed_job_resumes_and_leaves_the_others_whole(place: Path) -> None:
    """2 methods x 3 seeds: the job of alp is killed in its second seed, that of gp is well."""
    states = place / "_build" / "reproduce" / "checkpoints" / "sweep_wgan"
    there = place / "results" / "sweep_wgan"
    with (place / "first.log").open("w") as log:
        run = subprocess.Popen(snakemake(place, "reproduce_sweep_wgan"), cwd=place, stderr=log)
    patience = time.monotonic() + 300
    while not (states / "alp-seed1" / "scores.pt").exists():
        assert run.poll() is None, (place / "first.log").read_text()
        assert time.monotonic() < patience
        time.sleep(0.01)
    os.kill(int((place / "results" / "process-alp").read_text()), signal.SIGKILL)
    assert run.wait(300) != 0
    records = read_experiment("sweep_wgan", place / "results")
    found = [(record["method"], record["seed"]) for record in records]
    assert found == [("alp", 0), ("gp", 0), ("gp", 1), ("gp", 2)]
    assert [p.name for p in there.glob(".*.done")] == [".gp-seeds-0_1_2.done"]
    assert not (there / "table.md").exists()
    before = (there / "gp-seed0.json").stat().st_mtime_ns

    done = subprocess.run(
        snakemake(place, "reproduce_sweep_wgan"), cwd=place, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (there / "gp-seed0.json").stat().st_mtime_ns == before
    records = read_experiment("sweep_wgan", place / "results")
    assert len(records) == 6
    undisturbed = study_wgan(["alp"], [0, 1, 2], **PARAMETERS)
    for record in records[:3]:
        result = undisturbed["alp", record["seed"]]
        values = {name: metric["value"] for name, metric in record["metrics"].items()}
        assert values.pop("cpu_seconds") > 0
        assert values == {k: v for k, v in result.metrics.items() if k != "cpu_seconds"}
        write_grid(place / "grid.png", few_images(result.samples))
        grid = there / f"alp-seed{record['seed']}.png"
        assert grid.read_bytes() == (place / "grid.png").read_bytes()
    table = (there / "table.md").read_text()
    assert "6 records" in table
    assert table.count("feature_frechet_distance") == 2


def test_the_small_digits_are_those_of_the_library() -> None:
    changes = entries()["digits_wgan"]["parameters"]["changes"]
    assert {**changes, "radius": tuple(changes["radius"])} == SMALL_CHANGES["digits"]


@pytest.mark.parametrize("name", [name for name, entry in entries().items() if "methods" in entry])
def test_every_method_of_an_experiment_has_settings(name: str) -> None:
    entry = entries()[name]
    for method in entry["methods"]:
        given = entry["parameters"]["changes"].items()
        changes = {key: tuple(v) if isinstance(v, list) else v for key, v in given}
        settings = method_settings(entry["parameters"]["preset"], method, **changes)
        assert settings.split == "train"


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_a_profile_holds_options_that_snakemake_knows(name: str, place: Path) -> None:
    """Its executor is a plugin that is not installed here; all else is taken in a dry run."""
    text = (ROOT / "workflows" / "profiles" / name / "config.yaml").read_text(encoding="utf-8")
    profile = yaml.safe_load(text)
    assert profile.pop("executor") == name
    kept = {k: v for k, v in profile.items() if not k.startswith(f"{name}-")}
    (place / "profile").mkdir()
    (place / "profile" / "config.yaml").write_text(yaml.safe_dump(kept))
    words = ("--profile", "profile", "--dry-run", "reproduce_sweep_wgan")
    command = [word for word in snakemake(place, *words) if word not in ("--quiet", "all")]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mem_mb=8000" in done.stderr + done.stdout
