"""Keep the notebook pairs in order: NAME.md is the source, NAME.ipynb holds its outputs.

python scripts/nb.py sync [NAME...]: write NAME.ipynb from NAME.md, keeping known outputs.
python scripts/nb.py run [NAME...]: sync, execute, clean, write.
python scripts/nb.py check [NAME...]: exit 1 unless every pair is in sync, clean, run and small.
python scripts/nb.py marked [NAME...]: count the cells whose stored output nbval compares.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import statistics
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
CELL_KEYS = {"tags", "mystnb"}
OUTPUT_KEYS = {"scrapbook"}  # glue of myst-nb lives here
CHECKED = "nbval-check-output"
MIN_CHECKED = 3
MAX_BYTES = 1_500_000
MEDIAN_LINES, NINE_IN_TEN_LINES, MAX_LINES = 8, 25, 40
TIMEOUT = 600


def kernel_environment() -> None:
    """Give kernels started from here the inline backend and the python3 of this environment."""
    os.environ.pop("MPLBACKEND", None)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def clean(nb: NotebookNode) -> NotebookNode:
    """Drop every run-dependent field, and give each cell an id made from its source."""
    nb.nbformat, nb.nbformat_minor = 4, 5
    keep = {key: nb.metadata[key] for key in ("kernelspec",) if key in nb.metadata}
    nb.metadata = nbformat.from_dict({**keep, "language_info": {"name": "python"}})
    seen: dict[str, int] = {}
    for cell in nb.cells:
        kept = {k: v for k, v in cell.metadata.items() if k in CELL_KEYS and v != []}
        cell.metadata = nbformat.from_dict(kept)
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        if cell.cell_type == "code":
            cell.outputs = clean_outputs(cell.outputs)
    return nb


def clean_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of one stream (how it was cut varies), drop output metadata."""
    cleaned: list[NotebookNode] = []
    for out in outputs:
        last = cleaned[-1] if cleaned else None
        if last and out.output_type == last.output_type == "stream" and out.name == last.name:
            last.text += out.text
            continue
        if "metadata" in out:
            kept = {k: v for k, v in out.metadata.items() if k in OUTPUT_KEYS}
            out.metadata = nbformat.from_dict(kept)
        cleaned.append(out)
    return cleaned


def from_md(md: Path, ipynb: Path | None = None) -> NotebookNode:
    """Inputs from the .md; outputs of cells with the same source from the .ipynb, if given."""
    nb = jupytext.read(md)
    old: dict[str, list[NotebookNode]] = {}
    if ipynb is not None and ipynb.exists():
        for cell in nbformat.read(ipynb, as_version=4).cells:
            if cell.cell_type == "code":
                old.setdefault(cell.source, []).append(cell)
    for cell in nb.cells:
        if cell.cell_type == "code" and old.get(cell.source):
            previous = old[cell.source].pop(0)
            cell.outputs, cell.execution_count = previous.outputs, previous.execution_count
    return clean(nb)


def dumps(nb: NotebookNode) -> str:
    """The text of the .ipynb, the same for the same notebook."""
    return nbformat.writes(nb) + "\n"


def execute(nb: NotebookNode) -> NotebookNode:
    """Run every cell with notebooks/ as working directory, as nbval and papermill do."""
    kernel_environment()
    NotebookClient(
        nb,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
    ).execute()
    return clean(nb)


def checked_cells(nb: NotebookNode) -> list[NotebookNode]:
    """Cells that nbval really compares: marked, executed, with output."""
    return [
        cell
        for cell in nb.cells
        if CHECKED in cell.metadata.get("tags", []) and cell.execution_count and cell.outputs
    ]


def size_problems(nb: NotebookNode) -> list[str]:
    """Code cells over the budget of non-blank lines."""
    cells = [(i, c) for i, c in enumerate(nb.cells) if c.cell_type == "code" and c.source.strip()]
    if not cells:
        return []
    lines = [sum(bool(line.strip()) for line in cell.source.splitlines()) for _, cell in cells]
    found = [
        f"cell {i} has {n} lines; at most {MAX_LINES}"
        for (i, _), n in zip(cells, lines, strict=True)
        if n > MAX_LINES
    ]
    if statistics.median(lines) > MEDIAN_LINES:
        found.append(f"median of {statistics.median(lines):g} lines a cell; at most {MEDIAN_LINES}")
    ninth = sorted(lines)[math.ceil(0.9 * len(lines)) - 1]
    if ninth > NINE_IN_TEN_LINES:
        found.append(f"nine in ten cells must have at most {NINE_IN_TEN_LINES} lines; got {ninth}")
    return found


def cell_problems(name: str, nb: NotebookNode) -> list[str]:
    """Cells that were never run, failed, complained, or are marked and have nothing stored."""
    found = []
    for i, cell in enumerate(nb.cells):
        if cell.cell_type != "code":
            continue
        if cell.source.strip() and cell.execution_count is None:
            found.append(f"cell {i} was never run: make run NB={name}")
        elif CHECKED in cell.metadata.get("tags", []) and not cell.outputs:
            found.append(f"cell {i} is marked {CHECKED} but has no stored output")
        if any(out.output_type == "error" for out in cell.outputs):
            found.append(f"cell {i} holds an error")
        if any(out.output_type == "stream" and out.name == "stderr" for out in cell.outputs):
            found.append(f"cell {i} holds stderr output")
    return found


def problems(md: Path) -> list[str]:
    """Everything that is wrong with one pair."""
    ipynb = md.with_suffix(".ipynb")
    have = ipynb.read_text(encoding="utf-8") if ipynb.exists() else ""
    nb = from_md(md, ipynb)
    found = []
    if have != dumps(nb):
        found.append(f"not in sync with {md.name}, or not clean: make sync NB={md.stem}")
    if len(have) > MAX_BYTES:
        found.append(f"{len(have)} bytes is over {MAX_BYTES}")
    n = len(checked_cells(nb))
    if n < MIN_CHECKED:
        found.append(f"{n} cells marked {CHECKED}, run and stored; at least {MIN_CHECKED}")
    return found + cell_problems(md.stem, nb) + size_problems(nb)


def sources(names: list[str]) -> list[Path]:
    """The chapters asked for (all when none is named)."""
    found = sorted(NOTEBOOKS.glob("[0-9]*.md"))
    missing = set(names) - {md.stem for md in found}
    if missing:
        raise SystemExit(f"no such chapter: {', '.join(sorted(missing))}")
    return [md for md in found if not names or md.stem in names]


def check(names: list[str]) -> int:
    """Print what is wrong with the pairs; count the bad ones."""
    mds = sources(names)
    bad = 0
    for md in mds:
        found = problems(md)
        for problem in found:
            print(f"{md.stem}.ipynb: {problem}")
        bad += bool(found)
    for ipynb in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not ipynb.with_suffix(".md").exists():
            print(f"{ipynb.name}: has no {ipynb.stem}.md")
            bad += 1
    print(f"{len(mds)} pairs, {bad} bad")
    return bad


def marked(names: list[str]) -> int:
    """Print how many stored outputs nbval compares."""
    mds = sources(names)
    counts = [len(checked_cells(from_md(md, md.with_suffix(".ipynb")))) for md in mds]
    for md, n in zip(mds, counts, strict=True):
        print(f"{md.stem}: {n} marked cells compared")
    print(f"{sum(counts)} marked cells compared in {len(mds)} chapters")
    return 0


def write(names: list[str], run: bool) -> int:
    """Write the .ipynb of each chapter, executed or not; count the failures."""
    failed = 0
    for md in sources(names):
        ipynb = md.with_suffix(".ipynb")
        nb = from_md(md, ipynb)
        try:
            nb = execute(nb) if run else nb
        except CellExecutionError as error:
            print(f"{md.name}: not written, a cell failed\n{error}", file=sys.stderr)
            failed += 1
            continue
        ipynb.write_text(dumps(nb), encoding="utf-8")
        print(f"{ipynb.name}: {len(dumps(nb))} bytes", flush=True)
    return failed


def main(argv: list[str] | None = None) -> int:
    """Run one of the four commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["sync", "run", "check", "marked"])
    parser.add_argument("names", nargs="*")
    args = parser.parse_args(argv)
    if args.command == "check":
        return bool(check(args.names))
    if args.command == "marked":
        return marked(args.names)
    return bool(write(args.names, args.command == "run"))


if __name__ == "__main__":
    sys.exit(main())
