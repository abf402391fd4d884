"""Write environment.yml (conda) from pyproject.toml; the pins themselves are in requirements.txt.

python scripts/environment.py: write it. python scripts/environment.py --check: only compare.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = """\
# Written by scripts/environment.py from pyproject.toml; change that, then `make lock`.
# conda env create -f environment.yml && conda activate {name}
# pip install --no-deps --no-build-isolation -e .
name: {name}
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python{python}
  - pip
  - pip:
      - -r requirements.txt
"""


def environment(root: Path = ROOT) -> str:
    """The text of environment.yml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return TEMPLATE.format(name=project["name"], python=project["requires-python"])


def main(argv: list[str]) -> int:
    """Write the file, or say whether it is up to date."""
    path, text = ROOT / "environment.yml", environment()
    if "--check" not in argv:
        path.write_text(text, encoding="utf-8")
        return 0
    same = path.is_file() and path.read_text(encoding="utf-8") == text
    print("environment.yml:", "up to date" if same else "differs from pyproject.toml: make lock")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
