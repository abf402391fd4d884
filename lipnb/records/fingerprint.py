"""Which code, lock file and data a result was made from, and what changed since."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from lipnb.records.digest import file_digest

__all__ = ["repository_root", "snapshot", "stale_files"]

_LOCK = "requirements.txt"
_UNKNOWN = "unknown"
_COMPUTES = ("torch", "numpy")
_SHOWN = ("lipnb.records", "lipnb.plotting")
_NAMES = ("__all__", "__version__")
_PACKAGE_PARENT = Path(__file__).resolve().parents[2]


def repository_root() -> Path:
    """Return the folder of the book: the one that holds `pyproject.toml` and `lipnb/`.

    Returns
    -------
    Path
        The folder above this package if it is a checkout, else the nearest such folder above the
        working directory, else the working directory itself.

    Examples
    --------
    >>> repository_root().is_absolute()
    True
    """
    here = Path.cwd()
    for folder in (_PACKAGE_PARENT, here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "lipnb").is_dir():
            return folder
    return here


def snapshot(code: Sequence[Path | str | ModuleType], root: Path | None = None) -> dict[str, Any]:
    """Note commit, code, lock file and time; call it before a long run.

    A file edited while the run computes is then not mistaken for the one that was loaded.

    Parameters
    ----------
    code : sequence of Path, str or module
        What the run uses: a module stands for itself and for whatever it imports from the
        library, a package for all its files and theirs, a chapter is given by its `.md`.
    root : Path, optional
        The repository.

    Returns
    -------
    dict
        `source`, `lock`, `code` and `started`, for `make_record(code=...)`.

    Examples
    --------
    >>> import lipnb.records
    >>> sorted(snapshot([lipnb.records]))
    ['code', 'lock', 'source', 'started']
    """
    root = root or repository_root()
    lock = root / _LOCK
    return {
        "source": _source_state(root),
        "lock": {"name": _LOCK, "sha256": file_digest(lock) if lock.is_file() else _UNKNOWN},
        "code": _code_files(code, root),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def stale_files(
    record: Mapping[str, Any], root: Path | None = None, *, replays: bool = True
) -> list[str]:
    """List the code files, lock file and data file that changed since a record was made.

    Parameters
    ----------
    record : mapping
        With the `code`, `lock` and `data` of a record.
    root : Path, optional
        The repository.
    replays : bool
        Whether changed code is forgiven as long as the files of a replay stand: a short run with
        the code of the record's commit and with theirs gave the same numbers
        (`workflows/replay.py`).

    Returns
    -------
    list of str
        Changed or missing code files, the lock file if its pins of torch and numpy are no longer
        those of the record, the data file if it changed.
        Empty when nothing changed. Generated data are covered by the code that generates them.
        An `__init__.py` that only re-exports computes nothing, and is passed over.

    Examples
    --------
    >>> import lipnb.records
    >>> state = snapshot([lipnb.records]) | {"data": {"name": "two rings", "sha256": "0"}}
    >>> stale_files(state)
    []
    >>> state["code"]["lipnb/gone.py"] = "0"
    >>> stale_files(state)
    ['lipnb/gone.py']
    """
    root = root or repository_root()
    known = dict(record["code"])
    lock, data = record["lock"], record["data"]
    if lock["sha256"] != _UNKNOWN and not _same_pins(record.get("environment", {}), root):
        known[lock["name"]] = lock["sha256"]
    if (root / data["name"]).is_file():
        known[data["name"]] = data["sha256"]
    changed = [name for name, digest in known.items() if not _unchanged(name, digest, root)]
    replayed = _replayed(record, root) if replays else {}
    if changed and replayed and not set(changed) - set(record["code"]):
        changed = [name for name, digest in replayed.items() if not _unchanged(name, digest, root)]
    return changed


def _replayed(record: Mapping[str, Any], root: Path) -> dict[str, str]:
    """Return the files, with digests, that gave the numbers of a record's commit in a short run."""
    path = root / "results" / str(record.get("experiment")) / "replayed.json"
    if not path.is_file():
        return {}
    runs = json.loads(path.read_text(encoding="utf-8"))
    return dict(runs.get(record["source"]["commit"], {}).get("code", {}))


def _same_pins(environment: Mapping[str, Any], root: Path) -> bool:
    """Tell whether the lock file still pins the libraries that computed a record.

    Another package in the lock file, or a comment, changes its digest and no number.
    """
    lock = root / _LOCK
    if not lock.is_file() or "torch" not in environment:
        return False
    pins = set(re.findall(r"^([\w-]+)==([^\s;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
    used = {
        name: str(environment[name]).partition("+")[0] for name in _COMPUTES if name in environment
    }
    return set(used.items()) <= pins


def _unchanged(name: str, digest: str, root: Path) -> bool:
    """Compare a file of a record, below the repository or beside the installed package."""
    path = next((p for p in (root / name, _PACKAGE_PARENT / name) if p.is_file()), None)
    return path is not None and (_only_exports(path) or file_digest(path) == digest)


def _code_files(code: Sequence[Path | str | ModuleType], root: Path) -> dict[str, str]:
    """Map each file of a run, by its path below the repository, to its digest."""
    files: set[Path] = set()
    for entry in code:
        if not isinstance(entry, ModuleType):
            files.add(root / entry)
        elif hasattr(entry, "__path__"):
            files.update(file for folder in entry.__path__ for file in Path(folder).rglob("*.py"))
        elif entry.__file__ is None:
            raise ValueError(f"code must be files or modules with a file; got {entry!r}")
        else:
            files.add(Path(entry.__file__))
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        found = (set(_imported(file)) if file.is_file() else set()) - files
        files |= found
        waiting += found
    kept = (file for file in files if not _only_exports(file))
    return dict(sorted((_relative(file, root), file_digest(file)) for file in kept))


def _imported(file: Path) -> Iterator[Path]:
    """Yield the library's files that a module imports.

    Names are followed through an `__init__.py` to the file that defines them. Records and plots
    show numbers and compute none, so `lipnb.records` and `lipnb.plotting` are left out.
    """
    if file.suffix != ".py":
        return
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [(alias.name, "") for alias in node.names]
        else:
            continue
        for module, name in names:
            if module.split(".")[0] == "lipnb" and not module.startswith(_SHOWN):
                yield from _definitions(module, name)


def _definitions(module: str, name: str) -> Iterator[Path]:
    """Yield the file of a module, or of the submodule that a package takes the name from."""
    base = _PACKAGE_PARENT.joinpath(*module.split("."))
    if base.with_suffix(".py").is_file():
        yield base.with_suffix(".py")
    elif (base / f"{name}.py").is_file():
        yield base / f"{name}.py"
    elif (init := base / "__init__.py").is_file():
        exports = [
            n for n in ast.parse(init.read_text("utf-8")).body if isinstance(n, ast.ImportFrom)
        ]
        sources = [n.module for n in exports if name in {a.asname or a.name for a in n.names}]
        yield from _definitions(sources[0], name) if sources and sources[0] else [init]


def _only_exports(file: Path) -> bool:
    """Tell whether a file is an `__init__.py` of nothing but imports, names and strings."""
    if file.name != "__init__.py":
        return False
    return all(
        isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in _NAMES)
        for node in ast.parse(file.read_text(encoding="utf-8")).body
    )


def _source_state(root: Path) -> dict[str, str | bool]:
    """Return the commit, and whether the tree was clean: `results/` aside, where the run writes."""
    commit = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--", ".", ":!results")
    return {"commit": commit or _UNKNOWN, "clean": bool(commit) and changes == ""}


def _git(root: Path, *arguments: str) -> str | None:
    """Return what git prints, or None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _relative(file: Path, root: Path) -> str:
    """Return the path below the repository, or below the folder the package is installed in."""
    for folder in (root.resolve(), _PACKAGE_PARENT):
        if file.resolve().is_relative_to(folder):
            return file.resolve().relative_to(folder).as_posix()
    raise ValueError(f"code must lie in the repository {root}; got {file}")
