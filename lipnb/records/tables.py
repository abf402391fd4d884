"""Many records: their table, means with intervals, and where the numbers come from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from lipnb.records.files import RESULTS, read_experiment
from lipnb.records.fingerprint import stale_files
from lipnb.records.schema import Record

__all__ = ["provenance", "read_records", "summarise"]


def read_records(experiment: str, folder: Path | str = RESULTS) -> Any:
    """Read an experiment as a table, one row per record.

    Parameters
    ----------
    experiment : str
        Name of the folder below `folder`.
    folder : Path or str
        The folder of all results.

    Returns
    -------
    pandas.DataFrame
        Columns `method`, `seed`, one per parameter, one per metric (its value); ordered by method
        and seed. Without rows where the experiment has not been run.

    Raises
    ------
    ImportError
        If pandas is not installed.
    ValueError
        If a record is not valid.

    Examples
    --------
    >>> len(read_records("never-run"))
    0
    """
    pandas = _pandas()
    rows = []
    for record in read_experiment(experiment, folder):
        row = {"method": record["method"], "seed": record["seed"]}
        # Lists become tuples so that one can group by them.
        for name, value in record["parameters"].items():
            row[name] = tuple(value) if isinstance(value, list) else value
        row.update((name, metric["value"]) for name, metric in record["metrics"].items())
        rows.append(row)
    return pandas.DataFrame(rows) if rows else pandas.DataFrame(columns=["method", "seed"])


def summarise(
    frame: Any,
    by: str | Sequence[str],
    metrics: str | Sequence[str],
    confidence: float = 0.95,
    *,
    interval: str = "student",
) -> Any:
    r"""Give the mean over seeds with an interval, for each group and metric.

    With mean $m$ and standard deviation $s$ of $n$ values Student's interval is
    $m \pm t_{n-1}\, s / \sqrt{n}$, $t_{n-1}$ being the $(1 + \text{confidence})/2$ quantile.
    The bootstrap's lies between two quantiles of the means of 10000 samples of n values, drawn from
    the n with replacement: it supposes no law, and with few seeds it is too short.

    Parameters
    ----------
    frame : pandas.DataFrame
        From `read_records`, one row per seed.
    by : str or sequence of str
        Columns that make a group.
    metrics : str or sequence of str
        Columns to summarise.
    confidence : float
        Between 0 and 1.
    interval : {"student", "bootstrap"}
        Which interval.

    Returns
    -------
    pandas.DataFrame
        Columns `by`, then `metric`, `mean`, `sd`, `n`, `low`, `high`, one row per group and metric
        in order of appearance. With one value, `sd`, `low` and `high` are NaN.

    Raises
    ------
    ValueError
        If a column is missing, the confidence is no probability, or the interval is another word.

    Examples
    --------
    >>> import pandas
    >>> frame = pandas.DataFrame({"method": ["none"] * 3, "mse": [1.0, 2.0, 3.0]})
    >>> row = summarise(frame, by="method", metrics="mse").iloc[0]
    >>> f"{row['mean']:.1f} in [{row['low']:.2f}, {row['high']:.2f}]"
    '2.0 in [-0.48, 4.48]'
    """
    from scipy.stats import t

    keys = [by] if isinstance(by, str) else list(by)
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    missing = [column for column in [*keys, *names] if column not in frame.columns]
    if missing:
        raise ValueError(f"by and metrics must be columns of the frame; not there: {missing}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1; got {confidence}")
    if interval not in ("student", "bootstrap"):
        raise ValueError(f"interval must be 'student' or 'bootstrap'; got {interval!r}")
    rows = []
    for group, part in frame.groupby(keys, sort=False, dropna=False):
        for name in names:
            values = part[name].dropna()
            n, mean = len(values), float(values.mean())
            sd = float(values.std(ddof=1)) if n > 1 else math.nan
            half = float(t.ppf((1.0 + confidence) / 2.0, n - 1)) * sd / math.sqrt(n) if n else sd
            low, high = mean - half, mean + half
            if interval == "bootstrap" and n > 1:
                low, high = _bootstrap(values.to_numpy(), confidence)
            row = dict(zip(keys, group, strict=True))
            row |= {"metric": name, "mean": mean, "sd": sd, "n": n}
            rows.append(row | {"low": low, "high": high})
    columns = [*keys, "metric", "mean", "sd", "n", "low", "high"]
    return _pandas().DataFrame(rows, columns=columns)


def _bootstrap(values: Any, confidence: float, samples: int = 10_000) -> tuple[float, float]:
    """Quantiles of the means of samples with replacement, the same ones at each call."""
    import numpy

    rows = numpy.random.default_rng(0).integers(len(values), size=(samples, len(values)))
    tail = (1 - confidence) / 2
    low, high = numpy.quantile(values[rows].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def provenance(records: Sequence[Record], root: Path | None = None) -> str:
    """Say in one sentence where numbers come from, and whether today's code would make them again.

    Parameters
    ----------
    records : sequence of dict
        The records behind the numbers.
    root : Path, optional
        The repository.

    Returns
    -------
    str
        Date, processor, versions, commit, and which files changed since.

    Examples
    --------
    >>> provenance([])
    'No record yet.'
    """
    if not records:
        return "No record yet."
    days = sorted({date.fromisoformat(record["started"][:10]) for record in records})
    day = " to ".join(_day(d) for d in dict.fromkeys((days[0], days[-1])))
    devices = _joined(record["environment"]["device"] for record in records)
    versions = _joined(
        f"Python {record['environment']['python']}, torch {record['environment']['torch']}"
        for record in records
    )
    commits = _joined(
        record["source"]["commit"][:7]
        + ("" if record["source"]["clean"] else " with uncommitted changes")
        for record in records
    )
    changed = sorted({name for record in records for name in stale_files(record, root)})
    today = f"changed since then: {', '.join(changed)}" if changed else "made by today's code"
    if not changed and any(stale_files(record, root, replays=False) for record in records):
        today = "the code has changed, and repeats a short run of them bit by bit"
    count = f"{len(records)} record" + ("s" if len(records) > 1 else "")
    return f"{count}, {day}, on {devices}, {versions}, commit {commits}; {today}."


def _day(day: date) -> str:
    """Write a date in words."""
    return f"{day.day} {day:%B %Y}"


def _joined(texts: Iterable[str]) -> str:
    """Join the different texts in order of appearance."""
    return " and ".join(dict.fromkeys(texts))


def _pandas() -> Any:
    """Import pandas, or say how to get it."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("tables of records need pandas: pip install 'lipnb[book]'") from error
    return pandas
