"""The page book/ledger.md, from the records and claims under results/; see scripts/pages.py."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lipnb.records import Record, provenance, read_experiment, read_records, summarise

NOT_RUN = "not run at full size yet"
VERDICTS = ("reproduced", "partly", "not reproduced", "not distinguishable", NOT_RUN)
GENERATED = "<!-- Written by scripts/pages.py from the records under results/; do not edit. -->"

LEDGER = f"""(ledger)=
# Ledger

{GENERATED}

What a paper claims, what its authors' code does, and what we measure, side by side.
A number of ours is a mean over seeds ± the half-width of its 95 % interval (Student's $t$), and
comes from the records under `results/`. Five verdicts are allowed: *reproduced*, *partly*, *not
reproduced*, *not distinguishable*, *not run at full size yet*. We do not round a verdict up.
"""


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells must not break its lines or columns."""
    lines = [header, ["---"] * len(header), *rows]
    cells = ([str(cell).replace("\n", " ").replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def interval(mean: float, low: float, high: float) -> str:
    """Write a mean with the half-width of its interval, to two digits of the latter."""
    half = (high - low) / 2
    if not (math.isfinite(half) and half > 0):
        return f"{mean:.4g}"
    if not 1e-4 <= abs(mean) < 1e5:
        return f"{mean:.2e} ± {half:.1e}"
    digits = max(0, 1 - math.floor(math.log10(half)))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def statement(root: Path, experiment: str) -> dict[str, Any]:
    """The hand-written part of an experiment: title, claims, every choice and deviation."""
    path = root / "book" / f"deviations_{experiment}.yaml"
    given = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    plain = {"title": experiment, "about": "", "claims": [], "deviations": [], "author": ""}
    plain |= {"full_size": {}, "variants_metric": None, "shown": []}
    return plain | given


def experiments(root: Path) -> list[str]:
    """Every experiment with a record, a claim or a statement."""
    results = root / "results"
    found = {
        p.parent.name
        for pattern in ("*-seed*.json", "claims.json")
        for p in results.glob(f"*/{pattern}")
    }
    stated = {p.stem.removeprefix("deviations_") for p in (root / "book").glob("deviations_*.yaml")}
    return sorted(found | stated)


def is_full(records: Sequence[Record], stated: Mapping[str, Any]) -> bool:
    """Whether there are records, and all have the parameters of the full run."""
    wanted = stated["full_size"].items()
    return bool(records) and all(r["parameters"].get(k) == v for r in records for k, v in wanted)


def shared_parameters(records: Sequence[Record]) -> dict[str, Any]:
    """The parameters that are the same in all records."""
    first = records[0]["parameters"] if records else {}
    return {k: v for k, v in first.items() if all(r["parameters"].get(k) == v for r in records)}


def listed(parameters: Mapping[str, Any]) -> str:
    """Parameters as text; of a digest the beginning, which fits a narrow screen."""
    short = {
        k: re.sub(r"^([0-9a-f]{12})[0-9a-f]{52}$", r"\1…", str(v)) for k, v in parameters.items()
    }
    return ", ".join(f"{name} = {value}" for name, value in short.items())


def listed_settings(parameters: Mapping[str, Any], shown: Sequence[str]) -> str:
    """The settings of all runs, or those that the statement wants shown."""
    if missing := [name for name in shown if name not in parameters]:
        raise ValueError(f"shown must name settings that all records share; got {missing}")
    if not shown:
        return f"All runs: {listed(parameters)}."
    chosen = listed({name: parameters[name] for name in shown})
    return f"All runs: {chosen}; {len(parameters) - len(shown)} more settings are in the records."


def read_claims(root: Path, experiment: str, full: bool) -> list[dict[str, Any]]:
    """The claims with our verdicts, or, before the first full run, the claims alone."""
    path = root / "results" / experiment / "claims.json"
    if not path.is_file():
        stated = statement(root, experiment)["claims"]
        return [
            claim | {"ours": "no record yet", "evidence": "", "verdict": NOT_RUN}
            for claim in stated
        ]
    claims = json.loads(path.read_text(encoding="utf-8"))
    for claim in claims:
        missing = {"claim", "paper", "ours", "verdict", "evidence"} - set(claim)
        if missing:
            raise ValueError(f"{path}: wanted the keys {sorted(missing)} in {claim}")
        if claim["verdict"] not in VERDICTS:
            raise ValueError(f"{path}: verdict must be one of {VERDICTS}; got {claim['verdict']!r}")
        if not full and claim["verdict"] != NOT_RUN:
            raise ValueError(f"{path}: before the full run, wanted {NOT_RUN!r}; got {claim}")
    return claims


def evidence(given: Any, found: Mapping[str, Mapping[str, tuple[int, str]]]) -> str:
    """Words as they are; a list of method and metric becomes the numbers of the records."""
    if isinstance(given, str):
        return given
    words = []
    for method, metric in ((item["method"], item["metric"]) for item in given):
        if metric not in found.get(method, {}):
            raise ValueError(f"evidence must be in the records; got {metric!r} of {method!r}")
        n, text = found[method][metric]
        words.append(f"{metric.replace('_', ' ')} of {method}: {text}, n = {n}")
    return "; ".join(words)


def measured(root: Path, experiment: str) -> dict[str, dict[str, tuple[int, str]]]:
    """Method to metric to the number of seeds and the mean with its interval, as text."""
    records = read_experiment(experiment, root / "results")
    frame = read_records(experiment, root / "results")
    metrics = list(dict.fromkeys(name for record in records for name in record["metrics"]))
    found: dict[str, dict[str, tuple[int, str]]] = {}
    for row in summarise(frame, "method", metrics).to_dict("records"):
        if row["n"]:
            text = interval(row["mean"], row["low"], row["high"])
            found.setdefault(row["method"], {})[row["metric"]] = (row["n"], text)
    return found


def numbers_table(root: Path, experiment: str, metrics: Sequence[str] | None) -> str:
    """Every method and metric of an experiment; names are broken so that the table is not wide."""
    found = measured(root, experiment)
    there = list(dict.fromkeys(metric for row in found.values() for metric in row))
    names = [name for name in metrics or there if name in there]
    rows = [
        [method, max(n for n, _ in row.values()), *(row.get(m, (0, ""))[1] for m in names)]
        for method, row in found.items()
    ]
    return table(["method", "seeds", *(name.replace("_", " ") for name in names)], rows)


def variants_section(root: Path, names: Sequence[str], main: str, metric: str) -> str:
    """One metric of every method, side by side for experiments that differ in one choice."""
    base = shared_parameters(read_experiment(main, root / "results"))
    text = (
        f"\n**The same with one choice changed.** The numbers are the {metric.replace('_', ' ')}."
    )
    text += " Against the run above, these have\n\n"
    for name in names:
        shared = shared_parameters(read_experiment(name, root / "results"))
        changed = {k: v for k, v in shared.items() if base.get(k) != v}
        text += f"- {name}: {listed(changed)}.\n"
    found = {name: measured(root, name) for name in names}
    rows = [
        [method, *(found[name].get(method, {}).get(metric, (0, ""))[1] for name in names)]
        for method in dict.fromkeys(m for variant in found.values() for m in variant)
    ]
    return f"{text}\n{table(['method', *names], rows)}"


def claims_table(root: Path, experiment: str, stated: Mapping[str, Any], full: bool) -> str:
    """The claims of the paper, what we found, and the verdict."""
    found = measured(root, experiment)
    rows = []
    for claim in read_claims(root, experiment, full):
        proof = evidence(claim["evidence"], found)
        rows.append(
            [
                claim["claim"],
                claim["paper"],
                claim.get("author", stated["author"]),
                claim["ours"] + (f" ({proof})" if proof else ""),
                claim["verdict"],
                claim.get("deviation", "the choices below"),
            ]
        )
    header = ["claim", "paper", "author's code", "ours", "verdict", "deviation and why"]
    return table(header, rows) if rows else "No claim of a paper is attached to this run.\n"


def ledger_entry(root: Path, experiment: str, variants: Sequence[str]) -> str:
    """One experiment: its claims, its numbers, its deviations, its provenance."""
    stated = statement(root, experiment)
    records = read_experiment(experiment, root / "results")
    full = is_full(records, stated)
    text = f"\n(ledger-{experiment})=\n## {stated['title']}\n\n{stated['about']}\n"
    text += claims_table(root, experiment, stated, full)
    if records:
        size = "" if full else f"**Not at full size**, which is {listed(stated['full_size'])}. "
        settings = listed_settings(shared_parameters(records), stated["shown"])
        text += f"\n**Our numbers.** {size}{settings}\n\n"
        text += numbers_table(root, experiment, stated.get("metrics"))
    text += f"\n**Where they come from.** {provenance(records, root)}\n"
    if stated["deviations"]:
        keys = ("choice", "given", "ours", "why")
        body = [[row[key] for key in keys] for row in stated["deviations"]]
        text += "\n**Choices and deviations.**\n\n"
        text += table(["choice", "given by the paper", "ours", "why"], body)
    if variants and stated["variants_metric"]:
        text += variants_section(root, variants, experiment, stated["variants_metric"])
    return text


def main_of(name: str, names: Sequence[str]) -> str:
    """The experiment that `name` varies (`toy` for `toy-sgd`), or itself."""
    return next((other for other in names if name.startswith(f"{other}-")), name)


def ledger(root: Path) -> str:
    """The page book/ledger.md: variants stand with the experiment they vary."""
    names = experiments(root)
    belongs = {name: main_of(name, names) for name in names}
    return LEDGER + "".join(
        ledger_entry(root, name, [n for n in names if belongs[n] == name != n])
        for name in names
        if belongs[name] == name
    )
