"""Execute a chapter: python workflows/execute.py CHAPTER.md OUT.ipynb -p NAME VALUE ..."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from execute import ChapterError, execute


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("chapter", type=Path)
    parser.add_argument("executed", type=Path)
    parser.add_argument("-p", dest="given", nargs=2, action="append", default=[])
    arguments = parser.parse_args()
    given = {name: yaml.safe_load(value) for name, value in arguments.given}
    try:
        execute(arguments.chapter, arguments.executed, given)
    except ChapterError as error:
        raise SystemExit(f"{arguments.chapter}: {error}") from error


if __name__ == "__main__":
    main()
