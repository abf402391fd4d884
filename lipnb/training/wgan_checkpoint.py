"""Checkpoints that are whole or refused: written in one step, sealed by a digest."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["read_checkpoint", "write_atomically", "write_checkpoint"]

_HEADER = re.compile(rb"lipnb checkpoint 1 ([0-9a-f]{64})\n")
_LENGTH = len(b"lipnb checkpoint 1 ") + 64 + 1


def write_atomically(path: Path | str, content: bytes) -> None:
    """Write a file wholly or not at all.

    Parameters
    ----------
    path : path
        The file; one of the same name is replaced in a single step. Its folder is made.
    content : bytes
        What it shall hold.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder, "new", "a"), b"whole")
    ...     Path(folder, "new", "a").read_bytes()
    b'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_checkpoint(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write the state of a run, sealed by its SHA-256.

    Parameters
    ----------
    path : path
        The file.
    state : mapping
        Tensors, numbers, strings, lists and dicts of them. "run" says which run it belongs to: a
        dict.

    Raises
    ------
    ValueError
        If the state does not say to which run it belongs.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_checkpoint(Path(folder, "c"), {"run": {"seed": 0}, "step": 3})
    ...     read_checkpoint(Path(folder, "c"), {"seed": 0})["step"]
    3
    """
    if not isinstance(state.get("run"), dict):
        raise ValueError(f"state must hold a dict 'run'; got {state.get('run')!r}")
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    write_atomically(path, f"lipnb checkpoint 1 {digest}\n".encode() + content)


def read_checkpoint(
    path: Path | str, run: Mapping[str, Any], *, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Read the state of a run.

    Parameters
    ----------
    path : path
        A file of `write_checkpoint`.
    run : mapping
        What the run is that shall continue. Nothing of a state of another run is returned.
    device : device
        Where the tensors shall be.

    Returns
    -------
    dict
        The state. It is unpickled with ``weights_only=True``, after its digest was checked.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is no checkpoint, is damaged, or belongs to another run; the message names the
        file, and what differs.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_checkpoint(Path(folder, "c"), {"run": {"seed": 0}})
    ...     try:
    ...         read_checkpoint(Path(folder, "c"), {"seed": 1})
    ...     except ValueError as error:
    ...         str(error).endswith("belongs to another run: seed is 0 there and 1 here")
    True
    """
    content = Path(path).read_bytes()
    header = _HEADER.match(content)
    if header is None:
        raise ValueError(f"{path} must be a checkpoint of lipnb; it does not begin like one")
    body = content[_LENGTH:]
    if hashlib.sha256(body).hexdigest() != header[1].decode():
        raise ValueError(f"{path} is damaged: its content is not what was written; delete it")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(body), weights_only=True, map_location=device)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors, numbers and words") from error
    there, here = dict(state["run"]), dict(run)
    if there != here:
        differing = [
            f"{key} is {there.get(key)!r} there and {here.get(key)!r} here"
            for key in sorted({*there, *here})
            if there.get(key) != here.get(key)
        ]
        raise ValueError(f"{path} belongs to another run: {'; '.join(differing)}")
    return state
