"""Write the table of an experiment: python workflows/table.py RESULTS EXPERIMENT OUT.md

Where the paper's claims have rules, their verdicts go to claims.json beside the records.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas

from lipnb.records import read_experiment, read_records, summarise
from lipnb.training.critic_claims import PROBLEMS, judge_critics
from lipnb.training.critic_study import read_study
from lipnb.training.toy_claims import judge_toy

METRICS = {
    "toy": ["gradient_error", "max_gradient", "share_above", "mse_optimum"],
    "critics": [f"{which}.{score}" for which in PROBLEMS for score in ("ratio", "cosine")],
}
JUDGES: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "toy": lambda results: judge_toy(read_records("toy", results)),
    "critics": lambda results: judge_critics(pandas.DataFrame(read_study("critics", results))),
}


def main(results: str, experiment: str, out: str) -> None:
    metrics = METRICS[experiment.split("-")[0]]
    frame = read_records(experiment, results)
    if frame.empty:
        raise SystemExit(f"no records of {experiment} in {results}")
    if judge := JUDGES.get(experiment):
        claims = json.dumps(judge(Path(results)), indent=2, ensure_ascii=False)
        (Path(results) / experiment / "claims.json").write_text(claims + "\n", encoding="utf-8")
    table = summarise(frame, "method", metrics)
    text = f"# {experiment}: {len(read_experiment(experiment, results))} records\n\n"
    Path(out).write_text(text + table.round(4).to_markdown(index=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
