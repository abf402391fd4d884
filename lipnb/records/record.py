"""Making a record: the numbers with everything that is to be known about them."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from lipnb.records.fingerprint import snapshot
from lipnb.records.schema import SCHEMA, Record, validate

__all__ = ["make_record", "synthetic_data", "verdict"]


def verdict(claim: str, holds: bool) -> None:
    """Print a claim with its verdict, and stop if it does not hold.

    Parameters
    ----------
    claim : str
        The claim in words, without numbers that vary between machines.
    holds : bool
        Whether the numbers bear the claim out.

    Raises
    ------
    AssertionError
        If the claim does not hold.

    Examples
    --------
    >>> verdict("two is even", 2 % 2 == 0)
    two is even: yes
    """
    if not holds:
        raise AssertionError(f"{claim}: no")
    print(f"{claim}: yes")


def synthetic_data(name: str, **parameters: Any) -> dict[str, str]:
    """Describe generated data by name and a digest of the generator's parameters.

    Parameters
    ----------
    name : str
        What the data are.
    **parameters
        Everything the generator takes: distribution, sizes, seed.

    Returns
    -------
    dict
        `name` and `sha256`, as a record's `data` wants them.

    Examples
    --------
    >>> ring = synthetic_data("two rings", points=64, low=-4.0, high=4.0)
    >>> ring["name"], ring == synthetic_data("two rings", points=65, low=-4.0, high=4.0)
    ('two rings', False)
    """
    text = json.dumps([name, _plain(parameters)], sort_keys=True, allow_nan=False)
    return {"name": name, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def make_record(
    *,
    experiment: str,
    method: str,
    seed: int,
    parameters: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, float]],
    data: Mapping[str, str],
    code: Sequence[Path | str | ModuleType] | Mapping[str, Any],
    seconds: float,
    started: str | None = None,
    device: str = "cpu",
) -> Record:
    """Gather everything that is to be known about one result.

    Parameters
    ----------
    experiment, method : str
        Letters, digits and `_ . + = -`; together with the seed they name the file, so two variants
        of one method need two names.
    seed : int
        The seed of the run.
    parameters : mapping
        Name to number, string, bool, None, or a list of these.
    metrics : mapping
        Name to `{"value": float, "n": int}`, and `"spread"` (a standard deviation) where there is
        one; `n` is how many samples the value is over.
    data : mapping
        `name` and `sha256`; see `synthetic_data` for generated data. Where the name is a file of
        the repository, `stale_files` compares it.
    code : sequence or mapping
        The files and modules used, or a `snapshot` of them taken before the run.
    seconds : float
        How long the run took.
    started : str, optional
        When it started, ISO 8601 in UTC; by default the time of the snapshot.
    device : str
        The torch device the run was on; its name is recorded.

    Returns
    -------
    dict
        A valid record.

    Raises
    ------
    ValueError
        If a value is missing, not finite, or of another type.

    Examples
    --------
    >>> import lipnb.records
    >>> record = make_record(
    ...     experiment="demo", method="none", seed=0, parameters={"steps": 10},
    ...     metrics={"mse": {"value": 0.25, "n": 64}}, data=synthetic_data("coin", sides=2),
    ...     code=[lipnb.records], seconds=0.5)
    >>> record["metrics"]["mse"]["value"], sorted(record["data"])
    (0.25, ['name', 'sha256'])
    """
    state = dict(code) if isinstance(code, Mapping) else snapshot(code)
    record = {
        "schema": SCHEMA,
        "experiment": experiment,
        "method": method,
        "seed": _plain(seed),
        "parameters": _plain(parameters),
        "metrics": _plain(metrics),
        "data": dict(data),
        "environment": _environment(device),
        **state,
        "seconds": _plain(seconds),
    }
    if started is not None:
        record["started"] = started
    validate(record, f"record of {experiment}/{method}, seed {seed}")
    return record


def _plain(value: Any) -> Any:
    """Turn mappings, sequences, and scalars of numpy or torch into what JSON holds."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def _environment(device: str) -> dict[str, Any]:
    """Describe Python, the two numerical libraries and the processor the numbers came from."""
    import numpy
    import torch

    on_gpu = torch.device(device).type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """Name the processor as Linux does; elsewhere as Python knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
