"""Execute a notebook: python workflows/execute.py IN.ipynb OUT.ipynb -p NAME VALUE ...

A name that the notebook's parameters cell does not have is an error (papermill alone only warns).
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import papermill
import yaml


def check_names(notebook: Path, given: dict[str, object]) -> None:
    """Refuse parameters that the notebook does not have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = papermill.inspect_notebook(str(notebook))
    if unknown := sorted(set(given) - set(known)):
        raise SystemExit(f"{notebook}: parameters must be among {sorted(known)}; got {unknown}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("executed", type=Path)
    parser.add_argument("-p", dest="given", nargs=2, action="append", default=[])
    arguments = parser.parse_args()
    given = {name: yaml.safe_load(value) for name, value in arguments.given}
    check_names(arguments.notebook, given)
    arguments.executed.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        str(arguments.notebook),
        str(arguments.executed),
        parameters=given,
        cwd=str(arguments.notebook.parent),
        progress_bar=False,
        log_output=True,
        kernel_name="python3",
    )


if __name__ == "__main__":
    main()
