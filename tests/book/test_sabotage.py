"""The checks of the book, checked: a small book is green, and each kind of damage turns it red.

The small book uses this repository's Makefile, scripts and configuration as they are, so that what
is tested here is what `.ci/run` runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TAKEN = (
    "Makefile",
    "_config.yml",
    "jupytext.toml",
    "pyproject.toml",
    "requirements.txt",
    "scripts",
    "book/_ext",
    "book/_static",
    "book/_inv",
    "tests/nbval_sanitize.cfg",
)
HEAD = """---
jupytext:
  formats: ipynb,md:myst
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""
CHAPTER = (
    HEAD
    + """
(chapter-{number})=
# {number} · A small chapter

Its text names {{ref}}`the first page <intro>` and {{cite:t}}`euclid300elements`.

```{{code-cell}} ipython3
:tags: [parameters]

seed: int = {seed}
```

```{{code-cell}} ipython3
:tags: [nbval-check-output]

value = 1 + seed
print("the sum is above the seed: yes")
```

```{{code-cell}} ipython3
:tags: [nbval-check-output]

print("the value is whole:", "yes" if value == int(value) else "no")
```

```{{code-cell}} ipython3
:tags: [nbval-check-output]

print("the value is positive:", "yes" if value > 0 else "no")
```

## References

```{{bibliography}}
:filter: docname in docnames
```
"""
)
FILES = {
    "_toc.yml": "format: jb-book\nroot: book/intro\nchapters:\n"
    "- file: notebooks/01_small\n- file: notebooks/02_other\n",
    "book/intro.md": "(intro)=\n# A small book\n\nIt has two chapters: {ref}`chapter-01`.\n",
    "book/references.bib": "@book{euclid300elements, author={Euclid}, title={Elements}, "
    "publisher={Alexandria}, year={-300}}\n",
    "notebooks/01_small.md": CHAPTER.format(number="01", seed=1),
    "notebooks/02_other.md": CHAPTER.format(number="02", seed=2),
}


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run make in a folder, in the environment that runs these tests."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    environment |= {"NO_COLOR": "1", "PY_COLORS": "0"}
    stamp = f"{sys.prefix}/.stamp"  # taken as installed
    return subprocess.run(
        ["make", "-s", "-o", stamp, f"VENV={sys.prefix}", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def red(folder: Path, *words: str) -> str:
    """Run make, which must fail; return what it said."""
    done = make(folder, *words)
    assert done.returncode != 0, done.stdout
    return done.stdout


def green(folder: Path, *words: str) -> str:
    """Run make, which must succeed; return what it said."""
    done = make(folder, *words)
    assert done.returncode == 0, done.stdout
    return done.stdout


def edit(path: Path, old: str, new: str) -> None:
    """Replace words that must be there."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def small_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the small book and store its outputs."""
    folder = tmp_path_factory.mktemp("sound") / "book"
    for name in TAKEN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    green(folder, "run")
    return folder


@pytest.fixture
def damaged(small_book: Path, tmp_path: Path) -> Path:
    """A copy of the small book to be damaged."""
    ignored = shutil.ignore_patterns("_build", ".*")
    return Path(shutil.copytree(small_book, tmp_path / "book", ignore=ignored))


def test_an_untouched_book_is_green(small_book: Path) -> None:
    assert "2 pairs, 0 bad" in green(small_book, "pairs")
    assert "6 marked cells compared in 2 chapters" in green(small_book, "nbval")
    said = green(small_book, "book")
    index = small_book / "_build" / "html" / "index.html"
    assert f"The book: {index}" in said
    assert "2 executed, 0 reused" in said
    assert "0 bad links" in said
    index.unlink()
    said = green(small_book, "book")
    assert "0 executed, 2 reused" in said
    assert index.is_file()
    times = json.loads((small_book / "_build" / "times.json").read_text())
    assert set(times) == {"01_small", "02_other"}
    assert all(time["seconds"] > 0 for time in times.values())


def test_a_chapter_whose_cell_raises_is_red(damaged: Path) -> None:
    edit(damaged / "notebooks/01_small.md", "value = 1 + seed", "value = 1 / (seed - 1)")
    said = red(damaged, "book")
    assert "[1/2] 01_small: FAILED" in said
    assert "cell In [2] raised ZeroDivisionError" in said
    assert "value = 1 / (seed - 1)" in said
    assert "[2/2] 02_other: executed" in said
    stamps = sorted(path.name for path in (damaged / "_build/executed").glob("*.json"))
    assert stamps == ["02_other.json"]
    assert "ZeroDivisionError" in red(damaged, "run", "NB=01_small")
    green(damaged, "sync")  # even with a pair that agrees
    assert "cell 2 was never run" in red(damaged, "pairs")
    assert re.search(
        r"Cell execution caused an exception[\s\S]*ZeroDivision", red(damaged, "nbval")
    )


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("01_small.md", "value = 1 + seed", "value = 2 + seed"), ("01_small.ipynb", "Its", "His")],
)
def test_a_drifted_pair_is_red(damaged: Path, name: str, old: str, new: str) -> None:
    edit(damaged / "notebooks" / name, old, new)
    said = red(damaged, "pairs")
    assert "01_small.ipynb: not in sync with 01_small.md" in said
    assert "2 pairs, 1 bad" in said


def test_a_changed_stored_verdict_is_red(damaged: Path) -> None:
    edit(damaged / "notebooks/01_small.ipynb", "is whole: yes", "is whole: no")
    green(damaged, "pairs")  # the pair agrees: only running the chapter again can tell
    said = red(damaged, "nbval")
    assert "mismatch 'stdout'" in said
    assert "the value is whole: no" in said
    assert "1 failed" in said


def test_a_sphinx_warning_is_red(damaged: Path) -> None:
    with (damaged / "book/intro.md").open("a", encoding="utf-8") as page:
        page.write("\nSee {ref}`nowhere`.\n")
    said = red(damaged, "site")
    assert "undefined label: 'nowhere'" in said
    assert "The pages have warnings" in said


def test_a_misspelt_parameter_is_red(damaged: Path) -> None:
    said = red(damaged, "book", "PARAMETERS=sead=3")
    assert "no chapter has a parameter sead; there are: seed" in said
    assert not (damaged / "_build" / "html").exists()


def test_one_chapter_with_other_parameters(damaged: Path) -> None:
    command = [sys.executable, "scripts/execute.py", "notebooks/01_small.md", "_build/mine.ipynb"]
    done = subprocess.run(
        [*command, "-p", "sead", "3"], cwd=damaged, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "01_small: no parameter sead; it has: seed" in done.stderr
    assert not (damaged / "_build" / "mine.ipynb").exists()
    subprocess.run([*command, "-p", "seed", "-3"], cwd=damaged, check=True)
    cells = json.loads((damaged / "_build" / "mine.ipynb").read_text())["cells"]
    printed = "".join(text for c in cells for o in c.get("outputs", []) for text in o["text"])
    assert "the value is positive: no" in printed


PROBE = """
import book, pathlib, sys
md, root = book.chapters(book.ROOT)[0], book.ROOT
print("same", book.stamp(md, {}))
print("same", book.stamp(md, {}))
print("parameters", book.stamp(md, {"seed": 1}))
for name in ("results/times.json", "lipnb/theory/new.py", "results/toy/none-seed0.json",
             "notebooks/01_small.md", "requirements.txt", "notebooks/02_other.md"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + " ")
    print(name, book.stamp(md, {}))
sys.version += " of another build"
print("python", book.stamp(md, {}))
"""


def test_the_stamp_covers_all_that_a_chapter_depends_on(damaged: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=damaged / "scripts", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    plain = [stamp for name, stamp in lines if name != "parameters"]
    changed = [
        name
        for (name, _), old, new in zip(lines[3:], plain[1:], plain[2:], strict=False)
        if old != new
    ]
    assert plain[0] == plain[1]
    assert dict(lines)["parameters"] not in plain
    assert changed == [
        "lipnb/theory/new.py",
        "results/toy/none-seed0.json",
        "notebooks/01_small.md",
        "requirements.txt",
        "python",
    ]


def test_ci_runs_all_of_these_checks() -> None:
    steps = re.findall(r"^step (.+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert [step.split()[-1] for step in steps] == ["install", "check", "site", "browse", "test"]
    assert "set -euo pipefail" in (ROOT / ".ci/run").read_text()
    planned = {word: green(ROOT, "-n", word) for word in ("check", "site", "test")}
    for command in ("ruff check", "ruff format --check", "mypy", "codespell", "interrogate"):
        assert command in planned["check"]
    for command in ("nb.py check", "check_tree.py", "zizmor", "check-jsonschema"):
        assert command in planned["check"]
    assert "book.py site" in planned["site"]
    assert "--nbval-lax" in planned["test"]
    assert planned["test"].count("pytest") == 2
