"""The measured part of book/choosing.md, from the records of the study; see scripts/pages.py."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ledger import table

from lipnb.training.critic_methods import METHODS
from lipnb.training.critic_study import read_study

BEGIN, END = "<!-- begin: written by scripts/pages.py -->\n", "<!-- end -->\n"
PROBLEMS = {
    "mixture": "ring, d = 2",
    "digits": "digits, d = 64",
    "funnels-2": "d = 2",
    "funnels-8": "d = 8",
    "funnels-32": "d = 32",
    "funnels-128": "d = 128",
}

Scores = Mapping[tuple[str, str], Mapping[str, float]]


def means(rows: Iterable[Mapping[str, Any]]) -> Scores:
    """Mean of every score over seeds, by method and problem."""
    values: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for name, value in row.items():
            if name not in ("method", "seed", "problem"):
                values[row["method"], row["problem"]][name].append(value)
    return {
        key: {name: statistics.fmean(v) for name, v in scores.items()}
        for key, scores in values.items()
    }


def cost(found: Scores, method: str) -> float:
    """CPU time of a method over that of no regulariser, median over the problems."""
    return statistics.median(
        found[method, which]["seconds"] / found["none", which]["seconds"] for which in PROBLEMS
    )


def measured(root: Path) -> str:
    """The table: ratio and cosine on every problem, bracket in eight dimensions, cost."""
    found = means(read_study("critics", root / "results"))
    if not found:
        return "The study of chapter 12 has no records yet.\n"
    lines = []
    for name, method in METHODS.items():
        cells = [
            f"{found[name, which]['ratio']:.2f} / {found[name, which]['cosine']:.2f}"
            for which in PROBLEMS
        ]
        eight = found[name, "funnels-8"]
        bracket = f"{eight['lower']:.2f} to {eight['upper']:.2f}"
        lines.append([method.label, *cells, bracket, f"{cost(found, name):.1f}"])
    header = ["method", *PROBLEMS.values(), "constant, d = 8", "cost"]
    return table(header, lines)


def choosing(root: Path) -> str:
    """The page book/choosing.md: the text as it is, its measured part written anew."""
    text = (root / "book" / "choosing.md").read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"book/choosing.md must hold {BEGIN!r} and {END!r} once each")
    pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
    new = f"{BEGIN}\n{measured(root)}\n{END}"
    return re.sub(pattern, lambda _: new, text, flags=re.DOTALL)
