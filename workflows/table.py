"""Write the table of an experiment: python workflows/table.py RESULTS EXPERIMENT OUT.md

Where the paper's claims have rules, their verdicts go to claims.json beside the records.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lipnb.records import read_experiment, read_records, summarise
from lipnb.training.toy_claims import judge_toy

METRICS = {"toy": ["gradient_error", "max_gradient", "share_above", "mse_optimum"]}
JUDGES = {"toy": judge_toy}


def main(results: str, experiment: str, out: str) -> None:
    metrics = METRICS[experiment.split("-")[0]]
    frame = read_records(experiment, results)
    if frame.empty:
        raise SystemExit(f"no records of {experiment} in {results}")
    if judge := JUDGES.get(experiment):
        claims = json.dumps(judge(frame), indent=2, ensure_ascii=False)
        (Path(results) / experiment / "claims.json").write_text(claims + "\n", encoding="utf-8")
    table = summarise(frame, "method", metrics)
    text = f"# {experiment}: {len(read_experiment(experiment, results))} records\n\n"
    Path(out).write_text(text + table.round(4).to_markdown(index=False) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
