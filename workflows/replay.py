"""Does today's code still make the records of an experiment? python workflows/replay.py EXPERIMENT

A record names the commit that made it. A short run of the experiment (`replay` in config.yaml) is
made with the library of that commit and with today's. If every metric of every record is the same,
bit by bit, results/EXPERIMENT/replayed.json notes it with the digests of today's files, and
`lipnb.records.stale_files` takes the old records for current until one of those files changes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from lipnb.records import read_experiment, stale_files

ROOT = Path(__file__).resolve().parents[1]


def short_run(library: Path, script: Path, experiment: str, parameters: dict[str, Any]) -> Path:
    """Run a script with the library that lies in a folder; return the folder of its records."""
    folder = Path(tempfile.mkdtemp(prefix="replay-"))
    environment = {**os.environ, "PYTHONPATH": str(library), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder), experiment, json.dumps(parameters)]
    subprocess.run(command, cwd=library, env=environment, check=True)
    return folder


def metrics(folder: Path, experiment: str) -> dict[str, float]:
    """All numbers of the records in a folder, times aside."""
    return {
        f"{record['method']}-seed{record['seed']}.{name}": metric["value"]
        for record in read_experiment(experiment, folder)
        for name, metric in record["metrics"].items()
        if not name.endswith("seconds")
    }


def differences(old: dict[str, float], new: dict[str, float]) -> list[str]:
    """Names of the numbers that are not the same in both."""
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def replay(experiment: str, entry: dict[str, Any], root: Path = ROOT) -> int:
    """Replay the stale records of an experiment, commit by commit; return how many differ."""
    records = read_experiment(experiment, root / "results")
    stale = {r["source"]["commit"] for r in records if stale_files(r, root)}
    script = root / "workflows" / entry["replay"]["script"]
    parameters = {**entry["parameters"], **entry["replay"]["parameters"]}
    target = root / "results" / experiment / "replayed.json"
    known = json.loads(target.read_text(encoding="utf-8")) if target.is_file() else {}
    failed, today = 0, None
    for commit in sorted(stale):
        today = today or short_run(root, script, experiment, parameters)
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "library"
            git = ["git", "-C", str(root), "worktree"]
            subprocess.run([*git, "add", "-q", "--detach", str(library), commit], check=True)
            try:
                before = short_run(library, script, experiment, parameters)
            finally:
                subprocess.run([*git, "remove", "--force", str(library)], check=True)
        old, new = metrics(before, experiment), metrics(today, experiment)
        changed = differences(old, new)
        print(
            f"{experiment}, {commit[:7]}: {len(changed)} of {len(old)} numbers differ {changed[:5]}"
        )
        if changed or not old:
            failed += 1
            continue
        code = read_experiment(experiment, today)[0]["code"]
        known[commit] = {
            "code": code,
            "numbers": len(old),
            "parameters": parameters,
            "replayed": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        text = json.dumps(known, indent=1, sort_keys=True) + "\n"
        partial = target.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", nargs="+")
    chosen = parser.parse_args().experiment
    config = yaml.safe_load((ROOT / "workflows" / "config.yaml").read_text(encoding="utf-8"))
    for name in chosen:
        if "replay" not in config["experiments"].get(name, {}):
            raise SystemExit(
                f"{name}: no experiment of workflows/config.yaml with the key 'replay'"
            )
    if sum(replay(name, config["experiments"][name]) for name in chosen):
        raise SystemExit("today's code makes other numbers: run the experiment again")


if __name__ == "__main__":
    main()
