"""Build the book.

python scripts/book.py book [NAME=VALUE...]: execute every chapter that has changed since its last
    good run (with these parameters where a chapter has them), then build the pages from that.
python scripts/book.py site: build the pages from the stored outputs; nothing is executed.

Both write _build/html/index.html; every warning is an error. Times go to _build/times.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import check_links
import nbformat
import yaml
from execute import ChapterError, execute, parameters_of
from nb import clean, dumps

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
EXECUTED = BUILD / "executed"
SOURCE = BUILD / "source"
HTML = BUILD / "html"
# --all: a partial build would not repeat the warnings of unchanged pages.
BUILD_FLAGS = ["--all", "-W", "-n", "--keep-going", "-q"]
NOT_INPUT = {"times.json"}  # written after a build, shown on the status page, read by no chapter


@dataclass
class Outcome:
    """What became of one chapter: executed, reused or failed, and the seconds its run took."""

    name: str
    state: str
    seconds: float
    date: str


def toc_files(root: Path) -> list[str]:
    """Every file named in _toc.yml, in the order of the book."""
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            found.extend(node[key] for key in ("root", "file") if key in node)
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for item in node:
                walk(item)

    walk(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8")))
    return found


def chapters(root: Path) -> list[Path]:
    """The .md of each chapter in _toc.yml."""
    return [root / f"{name}.md" for name in toc_files(root) if name.startswith("notebooks/")]


def inputs(md: Path) -> list[Path]:
    """The files on which the outputs of a chapter can depend."""
    library = sorted((ROOT / "lipnb").rglob("*.py"))
    results = (path for path in sorted((ROOT / "results").rglob("*")) if path.is_file())
    records = [path for path in results if path.name not in NOT_INPUT]
    return [md, ROOT / "requirements.txt", *library, *records]


def stamp(md: Path, parameters: dict[str, Any]) -> str:
    """A digest of everything that can change the outputs of a chapter."""
    digest = hashlib.sha256(sys.version.encode())
    digest.update(json.dumps(parameters, sort_keys=True).encode())
    for path in inputs(md):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"\n{path.relative_to(ROOT).as_posix()} {content}".encode())
    return digest.hexdigest()


def reusable(md: Path, wanted: str) -> Outcome | None:
    """The last good run of a chapter, if nothing has changed since."""
    record, notebook = EXECUTED / f"{md.stem}.json", EXECUTED / f"{md.stem}.ipynb"
    if not (record.is_file() and notebook.is_file()):
        return None
    last = json.loads(record.read_text(encoding="utf-8"))
    content = hashlib.sha256(notebook.read_bytes()).hexdigest()
    if (last["stamp"], last["notebook"]) != (wanted, content):
        return None
    return Outcome(md.stem, "reused", last["seconds"], last["date"])


def run_chapter(md: Path, given: dict[str, Any], label: str) -> Outcome:
    """Execute a chapter unless its last good run still stands."""
    parameters = {name: value for name, value in given.items() if name in parameters_of(md)}
    wanted = stamp(md, parameters)
    outcome = reusable(md, wanted)
    if outcome:
        print(f"{label} {md.stem}: unchanged, reused", flush=True)
        return outcome
    print(f"{label} {md.stem}: executing ...", flush=True)
    record, notebook = EXECUTED / f"{md.stem}.json", EXECUTED / f"{md.stem}.ipynb"
    record.unlink(missing_ok=True)  # a run that is stopped must not keep the stamp of an older one
    start, date = time.perf_counter(), datetime.now(UTC).date().isoformat()
    try:
        execute(md, notebook, parameters, progress=sys.stderr.isatty())
    except ChapterError as error:
        seconds = time.perf_counter() - start
        print(f"{label} {md.stem}: FAILED after {seconds:.1f} s\n  {error}", flush=True)
        return Outcome(md.stem, "FAILED", seconds, date)
    seconds = time.perf_counter() - start
    notebook.write_text(dumps(clean(nbformat.read(notebook, as_version=4))), encoding="utf-8")
    content = hashlib.sha256(notebook.read_bytes()).hexdigest()
    good = {"stamp": wanted, "notebook": content, "seconds": round(seconds, 1), "date": date}
    record.write_text(json.dumps(good, indent=1) + "\n", encoding="utf-8")
    print(f"{label} {md.stem}: executed in {seconds:.1f} s", flush=True)
    return Outcome(md.stem, "executed", seconds, date)


def run_chapters(given: dict[str, Any]) -> list[Outcome]:
    """Execute the chapters one after another; a failure does not stop the others."""
    mds = chapters(ROOT)
    known = {name for md in mds for name in parameters_of(md)} if given else set()
    unknown = sorted(set(given) - known)
    if unknown:
        there = ", ".join(sorted(known))
        raise ChapterError(f"no chapter has a parameter {', '.join(unknown)}; there are: {there}")
    outcomes = [run_chapter(md, given, f"[{i}/{len(mds)}]") for i, md in enumerate(mds, 1)]
    times = {
        o.name: {"seconds": round(o.seconds, 1), "date": o.date}
        for o in outcomes
        if o.state != "FAILED"
    }
    BUILD.mkdir(exist_ok=True)
    (BUILD / "times.json").write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")
    return outcomes


def stage() -> None:
    """Lay out a copy of the book whose chapters are the notebooks just executed."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(ROOT / name, SOURCE / name)
    for name, skip in (("book", ()), ("results", ()), ("notebooks", ("*.md", "*.ipynb"))):
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", ".*", *skip)
            shutil.copytree(ROOT / name, SOURCE / name, ignore=ignore)
    for md in chapters(ROOT):
        shutil.copy2(EXECUTED / f"{md.stem}.ipynb", SOURCE / "notebooks")


def build_pages(source: Path) -> int:
    """Build the pages of `source` into _build/html and check their links; 0 when all is well."""
    print("Building the pages ...", flush=True)
    shutil.rmtree(HTML, ignore_errors=True)
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(source)]
    code = subprocess.run([*command, "--path-output", str(ROOT), *BUILD_FLAGS], cwd=ROOT).returncode
    if code:
        print("The pages have warnings or errors; see above.", flush=True)
        return code
    return check_links.main(str(HTML))


def generate_pages() -> None:
    """Write the pages that come from records: ledger and status."""
    script = ROOT / "scripts" / "pages.py"
    subprocess.run([sys.executable, str(script), "--root", str(ROOT)], cwd=ROOT, check=True)


def summary(outcomes: list[Outcome], pages: float) -> None:
    """Print what was executed, how long each chapter took, and where the book is."""
    width = max((len(o.name) for o in outcomes), default=7)
    print(f"\n{'chapter':{width}}  {'state':8}  seconds of its execution")
    for o in outcomes:
        when = f"  (on {o.date})" if o.state == "reused" else ""
        print(f"{o.name:{width}}  {o.state:8}  {o.seconds:7.1f}{when}")
    count = {state: sum(o.state == state for o in outcomes) for state in ("executed", "reused")}
    print(f"{count['executed']} executed, {count['reused']} reused; pages in {pages:.1f} s")


def book(given: dict[str, Any]) -> int:
    """Execute what has changed and build the book from it."""
    try:
        outcomes = run_chapters(given)
    except ChapterError as error:
        print(error)
        return 1
    failed = [o.name for o in outcomes if o.state == "FAILED"]
    if failed:
        summary(outcomes, 0.0)
        print(f"The pages were not built, because these chapters failed: {', '.join(failed)}")
        return 1
    start = time.perf_counter()
    generate_pages()
    stage()
    code = build_pages(SOURCE)
    summary(outcomes, time.perf_counter() - start)
    return code or say_where()


def site() -> int:
    """Build the pages from the stored outputs."""
    generate_pages()
    return build_pages(ROOT) or say_where()


def say_where() -> int:
    """Print the path of the first page."""
    index = HTML / "index.html"
    if not index.is_file():
        print(f"{index} was not written")
        return 1
    print(f"The book: {index}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["book", "site"])
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE")
    args = parser.parse_args(argv)
    if args.command == "site":
        return site()
    for pair in args.parameters:
        if "=" not in pair:
            parser.error(f"a parameter is given as NAME=VALUE; got {pair}")
    pairs = (pair.split("=", 1) for pair in args.parameters)
    return book({name: yaml.safe_load(value) for name, value in pairs})


if __name__ == "__main__":
    sys.exit(main())
