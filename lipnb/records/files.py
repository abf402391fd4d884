"""Records on disk: written wholly or not at all, checked when read."""

from __future__ import annotations

import json
import os
from pathlib import Path

from lipnb.records.fingerprint import repository_root
from lipnb.records.schema import Record, file_name, validate

__all__ = ["RESULTS", "read_experiment", "read_record", "write_record"]

RESULTS = repository_root() / "results"


def write_record(record: Record, folder: Path | str = RESULTS) -> Path:
    """Write a record to `<folder>/<experiment>/<method>-seed<k>.json`, wholly or not at all.

    Parameters
    ----------
    record : dict
        From `make_record`.
    folder : Path or str
        The folder of all results.

    Returns
    -------
    Path
        The file; one of the same name is replaced in a single step.

    Raises
    ------
    ValueError
        If the record is not valid; nothing is written then.

    Examples
    --------
    >>> write_record({"schema": 1})
    Traceback (most recent call last):
        ...
    ValueError: record: wanted the key 'experiment'
    """
    validate(record, "record")
    path = Path(folder) / record["experiment"] / file_name(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n"
    # The whole text reaches the disk under another name first: a kill leaves the old record.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def read_record(path: Path | str) -> Record:
    """Read one record and check it.

    Parameters
    ----------
    path : Path or str
        A file that `write_record` wrote.

    Returns
    -------
    dict
        The record.

    Raises
    ------
    ValueError
        If the file is not JSON, has another schema version, lacks a key, or holds a number that is
        not finite; the message names the file.

    Examples
    --------
    >>> read_record("no/such.json")
    Traceback (most recent call last):
        ...
    ValueError: no/such.json: wanted a record; the file does not exist
    """
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except FileNotFoundError:
        raise ValueError(f"{path}: wanted a record; the file does not exist") from None
    except ValueError as error:
        raise ValueError(f"{path}: wanted JSON of finite numbers; {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path}: wanted an object; got {type(record).__name__}")
    validate(record, str(path))
    return record


def read_experiment(experiment: str, folder: Path | str = RESULTS) -> list[Record]:
    """Read every record of an experiment, ordered by method and seed.

    Parameters
    ----------
    experiment : str
        Name of the folder below `folder`.
    folder : Path or str
        The folder of all results.

    Returns
    -------
    list of dict
        The records; empty where the experiment has not been run.

    Raises
    ------
    ValueError
        If a record is not valid, or a file's name contradicts what it holds.

    Examples
    --------
    >>> read_experiment("never-run")
    []
    """
    records = []
    for path in sorted((Path(folder) / experiment).glob("*-seed*.json")):
        record = read_record(path)
        if record["experiment"] != experiment or file_name(record) != path.name:
            raise ValueError(
                f"{path}: wanted a record of that experiment, method and seed; got "
                f"{record['experiment']}/{file_name(record)}"
            )
        records.append(record)
    return sorted(records, key=lambda record: (record["method"], record["seed"]))


def _refuse(constant: str) -> None:
    """Stop at NaN and Infinity, which are no JSON."""
    raise ValueError(f"got {constant}")
