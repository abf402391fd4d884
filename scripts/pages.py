"""Write the generated pages of the book: ledger, status, presets, the measured part of choosing.

python scripts/pages.py: write them from the records under results/.
python scripts/pages.py --times: first keep the chapters' times of the last `make book`.
python scripts/pages.py --check: write nothing; exit 1 if a committed page differs.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from choosing import choosing
from ledger import GENERATED, NOT_RUN, experiments, is_full, ledger, main_of, statement, table
from presets import presets

from lipnb.records import Record, read_experiment, repository_root, stale_files

LIBRARY = ("torch", "numpy", "scipy", "matplotlib", "pot")
TOOLS = ("jupyter-book", "sphinx", "myst-nb", "jupytext", "papermill", "nbval", "snakemake")

STATUS = f"""(status)=
# Status

{GENERATED}

What has been executed, when, where, and whether today's code would give the same numbers. A
record is *current* while the code it lists, its data and the lock file are unchanged: comments,
docstrings and prose do not count, every number does.
"""


def chapter_rows(root: Path) -> list[list[object]]:
    """Each chapter with its marked cells and its last measured time."""
    path = root / "results" / "times.json"
    times = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    rows: list[list[object]] = []
    for source in sorted((root / "notebooks").glob("[0-9]*.md")):
        text = source.read_text(encoding="utf-8")
        heading = re.search(r"^# (.+)$", text, re.MULTILINE)
        marked = len(re.findall(r"^:tags: \[.*nbval-check-output.*\]$", text, re.MULTILINE))
        time = times.get(source.stem, {})
        seconds = time.get("seconds") if isinstance(time, dict) else time
        date = time.get("date", "")[:10] if isinstance(time, dict) else ""
        link = f"[{heading[1] if heading else source.stem}](../notebooks/{source.stem}.ipynb)"
        rows.append([link, marked, f"{seconds:.0f} s" if seconds else "not measured", date])
    return rows


def package_rows(root: Path) -> list[list[object]]:
    """The locked versions of the packages that matter, with the Python they are for."""
    lock = (root / "requirements.txt").read_text(encoding="utf-8")
    pins = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)(?: ; ([^\\\n]+))?", lock, re.MULTILINE)
    return [
        [name, version, marker.strip() or "all"]
        for wanted in LIBRARY + TOOLS
        for name, version, marker in pins
        if name.lower() == wanted
    ]


def commit(record: Record) -> str:
    """The commit of a record, with a plus if the tree had changes."""
    return record["source"]["commit"][:7] + ("" if record["source"]["clean"] else "+")


def record_rows(root: Path) -> list[list[object]]:
    """One line per experiment: what ran, where and when, and what changed since."""
    rows: list[list[object]] = []
    names = experiments(root)
    for name in names:
        records = read_experiment(name, root / "results")
        changed = sorted({file for record in records for file in stale_files(record, root)})
        state = f"stale: {', '.join(changed)} changed" if changed else "current"
        if not changed and any(stale_files(record, root, replays=False) for record in records):
            state = "current: the code has changed, and repeats a short run bit by bit"
        rows.append(
            [
                f"[{name}](#ledger-{main_of(name, names)})",
                len(records),
                len({record["method"] for record in records}),
                ", ".join(map(str, sorted({record["seed"] for record in records}))),
                max((record["started"][:10] for record in records), default=""),
                ", ".join(sorted({commit(record) for record in records})),
                state if is_full(records, statement(root, name)) else NOT_RUN,
            ]
        )
    return rows


def status(root: Path) -> str:
    """The page book/status.md."""
    text = (
        STATUS
        + "\n## Chapters\n\nTimes are those of the last measured execution on two CPU cores.\n\n"
    )
    text += table(["chapter", "checked verdicts", "time", "measured on"], chapter_rows(root))
    text += "\n## Recorded runs\n\n"
    header = ["experiment", "records", "methods", "seeds", "last run", "commit", "state"]
    text += table(header, record_rows(root))
    text += "\nA plus behind a commit means that files had been changed since. The command of each "
    text += "run is in `results/QUEUE.md`.\n"
    text += "\n## Locked versions\n\n"
    return text + table(["package", "version", "for Python"], package_rows(root))


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing, exit 1 on a difference"
    )
    parser.add_argument("--times", action="store_true", help="keep _build/times.json in results/")
    parser.add_argument("--root", type=Path, default=repository_root(), help="the repository")
    options = parser.parse_args(argv)
    if options.times:
        shutil.copy(options.root / "_build" / "times.json", options.root / "results")
    differing = 0
    pages = [("ledger", ledger), ("status", status)]
    if (options.root / "book" / "choosing.md").is_file():  # a page by hand, in part generated
        pages.append(("choosing", choosing))
    if (options.root / "book" / "presets.md").is_file():
        pages.append(("presets", presets))
    for name, page in pages:
        path, text = options.root / "book" / f"{name}.md", page(options.root)
        same = path.is_file() and path.read_text(encoding="utf-8") == text
        if not same and not options.check:
            path.write_text(text, encoding="utf-8")
        done = "up to date" if same else "differs: run python scripts/pages.py"
        print(f"book/{name}.md: {done if options.check or same else 'written'}")
        differing += not same
    return int(options.check and differing > 0)


if __name__ == "__main__":
    sys.exit(main())
