"""The schema of a record: its keys, their types, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

__all__ = ["SCHEMA", "Record", "file_name", "validate"]

SCHEMA = 1

Record = dict[str, Any]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]*")
# Every key of a record, the type of its value, and the keys inside where they are fixed.
_KEYS: dict[str, tuple[type | tuple[type, ...], tuple[str, ...]]] = {
    "schema": (int, ()),
    "experiment": (str, ()),
    "method": (str, ()),
    "seed": (int, ()),
    "parameters": (dict, ()),
    "metrics": (dict, ()),
    "data": (dict, ("name", "sha256")),
    "environment": (dict, ("python", "torch", "numpy", "platform", "device", "threads")),
    "source": (dict, ("commit", "clean")),
    "lock": (dict, ("name", "sha256")),
    "code": (dict, ()),
    "started": (str, ()),
    "seconds": ((int, float), ()),
}


def file_name(record: Record) -> str:
    """Return the name of the file a record belongs into."""
    return f"{record['method']}-seed{record['seed']}.json"


def validate(record: Record, where: str) -> None:
    """Refuse whatever is not a record of this schema, naming where it stands and what is wrong."""

    def want(holds: bool, what: str) -> None:
        """Stop unless `holds`."""
        if not holds:
            raise ValueError(f"{where}: wanted {what}")

    version = record.get("schema")
    want(version == SCHEMA, f"schema {SCHEMA}; got {version!r}")
    for key, (kind, inner) in _KEYS.items():
        want(key in record, f"the key {key!r}")
        value = record[key]
        want(_is_a(value, kind), f"{key} of another type; got {value!r}")
        want(all(name in value for name in inner), f"{key} with the keys {inner}; got {value!r}")
    unknown = sorted(set(record) - set(_KEYS))
    want(not unknown, f"only the keys of schema {SCHEMA}; got {unknown}")
    for key in ("experiment", "method"):
        name = record[key]
        want(_NAME.fullmatch(name) is not None, f"{key} of letters, digits and _.+=-; got {name!r}")
    want(record["seed"] >= 0, f"a seed that is not negative; got {record['seed']}")
    want(_is_time(record["started"]), f"started in ISO 8601; got {record['started']!r}")
    want(_is_finite(record["seconds"]), f"finite seconds; got {record['seconds']}")
    for name, value in record["parameters"].items():
        items = value if isinstance(value, list) else [value]
        want(all(map(_is_scalar, items)), f"finite parameters; got {name}={value!r}")
    want(bool(record["metrics"]), "at least one metric")
    for name, metric in record["metrics"].items():
        _validate_metric(name, metric, want)
    columns = ["method", "seed", *record["parameters"], *record["metrics"]]
    want(len(set(columns)) == len(columns), f"parameters and metrics of different names; {columns}")


def _validate_metric(name: str, metric: Any, want: Callable[[bool, str], None]) -> None:
    """Check one metric: a finite value over n samples, perhaps with its spread."""
    want(_is_a(metric, dict), f"metric {name} a mapping with value and n; got {metric!r}")
    keys = set(metric)
    want({"value", "n"} <= keys <= {"value", "n", "spread"}, f"metric {name} with value and n")
    want(_is_finite(metric["value"]), f"metric {name} a finite value; got {metric['value']!r}")
    n, spread = metric["n"], metric.get("spread", 0.0)
    want(_is_a(n, int) and n > 0, f"metric {name} over n > 0 samples; got {n!r}")
    want(_is_finite(spread) and spread >= 0, f"metric {name} a finite spread; got {spread!r}")


def _is_a(value: Any, kind: type | tuple[type, ...]) -> bool:
    """Like isinstance, but True and False are no numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    """Tell whether a value is a number neither infinite nor NaN."""
    return _is_a(value, (int, float)) and math.isfinite(value)


def _is_time(text: str) -> bool:
    """Tell whether a text is a date and time in ISO 8601."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _is_scalar(value: Any) -> bool:
    """Tell whether a value may be a parameter."""
    return value is None or isinstance(value, str | bool) or _is_finite(value)
