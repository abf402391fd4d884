"""Execute one chapter with papermill, in notebooks/, after checking the names of its parameters.

python scripts/execute.py notebooks/NAME.md OUTPUT.ipynb -p seed 3 -p sizes "[1, 2]"

papermill itself only warns about a misspelt parameter and then computes the default; here it is
an error. The input is always the .md of the chapter, so no stored output can be mistaken for one
that was computed.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import papermill
import yaml
from nb import NOTEBOOKS, dumps, from_md, kernel_environment
from papermill.exceptions import PapermillExecutionError


class ChapterError(Exception):
    """A chapter that cannot be executed, or that failed while it was."""


def parameters_of(md: Path) -> dict[str, Any]:
    """What papermill knows about each parameter of a chapter."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no parameters cell is nothing to complain of
        ipynb = Path(folder) / f"{md.stem}.ipynb"
        ipynb.write_text(dumps(from_md(md)), encoding="utf-8")
        return dict(papermill.inspect_notebook(str(ipynb)))


def check_parameters(md: Path, parameters: dict[str, Any]) -> None:
    """Refuse names that the chapter does not have."""
    known = parameters_of(md)
    unknown = ", ".join(sorted(set(parameters) - set(known)))
    if unknown:
        raise ChapterError(f"no parameter {unknown}; it has: {', '.join(known) or 'none'}")


def execute(md: Path, output: Path, parameters: dict[str, Any], progress: bool = False) -> None:
    """Execute the chapter `md` into `output`; raise ChapterError when anything fails."""
    output = output.resolve()
    kernel_environment()
    check_parameters(md, parameters)
    logging.getLogger("papermill").setLevel(logging.WARNING)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / f"{md.stem}.ipynb"
        prepared.write_text(dumps(from_md(md)), encoding="utf-8")
        try:
            papermill.execute_notebook(
                str(prepared),
                str(output),
                parameters=parameters,
                cwd=str(NOTEBOOKS),
                kernel_name="python3",
                progress_bar=progress,
            )
        except PapermillExecutionError as error:
            raise ChapterError(failure(output, error)) from error
        except Exception as error:  # a dead kernel, an unwritable folder
            raise ChapterError(f"{type(error).__name__}: {error}") from error


def failure(output: Path, error: PapermillExecutionError) -> str:
    """Say which cell failed, show it, and give the error; the rest is in the saved notebook."""
    lines = error.source.strip().splitlines()
    shown = "\n".join(f"    {line}" for line in lines[:12]) + ("\n    ..." if lines[12:] else "")
    what = f"cell In [{error.exec_count}] raised {error.ename}: {error.evalue}"
    return f"{what}\n{shown}\n  whole traceback: {output}"


def main(argv: list[str] | None = None) -> int:
    """Execute one chapter; values of parameters are read as YAML."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("chapter", type=Path, help="its .md (or .ipynb: the .md beside it is read)")
    parser.add_argument("output", type=Path)
    parser.add_argument(
        "-p", dest="given", nargs=2, action="append", default=[], metavar=("NAME", "VALUE")
    )
    args = parser.parse_args(argv)
    parameters = {name: yaml.safe_load(value) for name, value in args.given}
    md = args.chapter.resolve().with_suffix(".md")
    if not md.is_file():
        parser.error(f"no such chapter: {args.chapter}")
    try:
        execute(md, args.output, parameters, progress=sys.stderr.isatty())
    except ChapterError as error:
        print(f"{md.stem}: {error}", file=sys.stderr)
        return 1
    print(f"{md.stem}: executed into {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
