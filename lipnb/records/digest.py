"""Digests of code that see a changed number and not a changed comment."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

__all__ = ["file_digest"]

# Fields that hold no behaviour: contexts and u"" prefixes follow from the rest, and type comments
# and type parameters exist in some Python versions only.
_SKIPPED = {"ctx", "kind", "type_comment", "type_ignores", "type_params"}
_FENCE = re.compile(r"(?P<ticks>`{3,}|~{3,})(?P<info>.*)")


def file_digest(path: Path | str) -> str:
    """Digest a file so that equal digests mean equal behaviour.

    A `.py` file counts by its syntax tree, without comments, docstrings and layout; a chapter's
    `.md` by the code of its cells only, so that prose may change; any other file by its bytes.

    Parameters
    ----------
    path : Path or str
        The file.

    Returns
    -------
    str
        A SHA-256 in hexadecimal, the same in every supported Python version.

    Raises
    ------
    ValueError
        If the file is missing, or is an `.ipynb` (whose outputs would count: give its `.md`).

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder, "step.py")
    ...     _ = file.write_text("rate = 0.1")
    ...     before = file_digest(file)
    ...     _ = file.write_text("rate = .1  # the same number")
    ...     same = file_digest(file) == before
    ...     _ = file.write_text("rate = 0.2")
    ...     same, file_digest(file) == before
    (True, False)
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"a digest needs a file; got {path}")
    if path.suffix == ".ipynb":
        raise ValueError(f"an .ipynb holds outputs; wanted the chapter's .md, got {path}")
    if path.suffix == ".py":
        content = _code_form(path.read_text(encoding="utf-8")).encode()
    elif path.suffix == ".md":
        cells = "\n".join(_code_cells(path.read_text(encoding="utf-8")))
        content = _code_form(cells).encode()
    else:
        content = path.read_bytes()
    return hashlib.sha256(content).hexdigest()


def _code_cells(text: str) -> Iterator[str]:
    """Yield the code of each `{code-cell}` of a MyST notebook, without its header."""
    fence = ""
    cell: list[str] | None = None
    for line in text.splitlines():
        found = _FENCE.match(line)
        if not fence and found:
            fence = found["ticks"]
            cell = [] if found["info"].strip().startswith("{code-cell}") else None
        elif fence and line.startswith(fence) and not line.strip(fence[0]).strip():
            if cell is not None:
                yield "\n".join(_without_header(cell))
            fence, cell = "", None
        elif cell is not None:
            cell.append(line)


def _without_header(lines: list[str]) -> list[str]:
    """Drop the options of a cell: a block between two `---`, or leading lines such as `:tags:`."""
    if lines and lines[0].strip() == "---":
        end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == "---"), 0)
        return lines[end + 1 :]
    while lines and lines[0].startswith(":"):
        lines = lines[1:]
    return lines


@lru_cache(maxsize=256)
def _code_form(source: str) -> str:
    """Return the canonical form of code, or its text where it is no plain Python (magics)."""
    try:
        return _canonical(ast.parse(source))
    except SyntaxError:
        return source


def _canonical(node: object) -> str:
    """Write a syntax tree as type names and non-empty fields, alike in every Python version."""
    if isinstance(node, list):
        return "[" + ",".join(_canonical(item) for item in node) + "]"
    if not isinstance(node, ast.AST):
        return f"{type(node).__name__}:{node!r}"
    fields = []
    for name, value in sorted(ast.iter_fields(node)):
        if isinstance(value, list):
            value = [item for item in value if not _is_bare_string(item)]
            if isinstance(node, ast.JoinedStr):
                value = _merged(value)
        if name not in _SKIPPED and value is not None and value != []:
            fields.append(f"{name}={_canonical(value)}")
    return f"{type(node).__name__}({','.join(fields)})"


def _is_bare_string(node: object) -> bool:
    """Tell whether a statement is only a string, as docstrings are."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _merged(parts: list[ast.expr]) -> list[ast.expr]:
    """Join neighbouring texts of an f-string, which Python versions cut differently."""
    merged: list[ast.expr] = []
    for part in parts:
        text = part.value if isinstance(part, ast.Constant) else None
        last = merged[-1] if merged else None
        if isinstance(text, str) and isinstance(last, ast.Constant):
            merged[-1] = ast.Constant(str(last.value) + text)
        elif text != "":
            merged.append(part)
    return merged
