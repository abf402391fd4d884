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
from lipnb.training.information_claims import judge_information
from lipnb.training.information_study import read_information
from lipnb.training.toy_claims import judge_toy

METRICS = {
    "toy": ["gradient_error", "max_gradient", "share_above", "mse_optimum"],
    "critics": [f"{which}.{score}" for which in PROBLEMS for score in ("ratio", "cosine")],
    "information": [
        *("d=2 rho=0.9 value", "d=20 rho=-0.7 value"),
        *("task=sparse-5 value", "task=dense-25 value", "task=asinh-student-5-dof2 value"),
        *(f"lambda={slope} n=5000 nats=6 value" for slope in (1, 4)),
        *(f"lambda={slope} n=500 nats=10 value" for slope in ("0.0", "4.0")),
        *(f"law=copy lambda={slope} value" for slope in (0.5, 2.0)),
        "digits=8 accuracy",
    ],
}
JUDGES: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "toy": lambda results: judge_toy(read_records("toy", results)),
    "critics": lambda results: judge_critics(pandas.DataFrame(read_study("critics", results))),
    "information": lambda results: judge_information(
        pandas.DataFrame(read_information("information", results))
    ),
}


def wgan_table(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Final and best scores side by side, each with its interval, and what real images get."""
    scores = [name.removeprefix("final.") for name in frame if name.startswith("final.")]
    parts = []
    for when in ("final", "best"):
        names = [f"{when}.{score}" for score in scores]
        part = summarise(frame, "method", names, interval="bootstrap")
        part["metric"] = part["metric"].str.removeprefix(f"{when}.")
        wanted = ["mean", "sd", "low", "high"]
        parts.append(part.rename(columns={name: f"{when} {name}" for name in wanted}))
    table = parts[0].merge(parts[1], on=["method", "metric", "n"], how="left")
    real = frame[[f"real.{score}" for score in scores]].mean()
    table["real images"] = [real[f"real.{score}"] for score in table["metric"]]
    rest = [name for name in frame if name.startswith("gradient_norm_")] + ["cpu_seconds"]
    others = summarise(frame, "method", rest, interval="bootstrap")
    others = others.rename(columns={n: f"final {n}" for n in ("mean", "sd", "low", "high")})
    table = pandas.concat([table, others])
    first = table.pop("n")
    table.insert(2, "seeds", first)
    return table.round(4).astype(object).where(table.notna(), "")


def main(results: str, experiment: str, out: str) -> None:
    frame = read_records(experiment, results)
    if frame.empty:
        raise SystemExit(f"no records of {experiment} in {results}")
    if judge := JUDGES.get(experiment):
        claims = json.dumps(judge(Path(results)), indent=2, ensure_ascii=False)
        (Path(results) / experiment / "claims.json").write_text(claims + "\n", encoding="utf-8")
    text = f"# {experiment}: {len(read_experiment(experiment, results))} records\n\n"
    if "wgan" in experiment:
        table = wgan_table(frame)
        text += (
            "Mean over seeds with a 95 % bootstrap interval, which is too short for few seeds."
            " Best: the look with the smallest Fréchet distance; it is an optimistic number.\n\n"
        )
    else:
        table = summarise(frame, "method", METRICS[experiment.split("-")[0]]).round(4)
    Path(out).write_text(text + table.to_markdown(index=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
