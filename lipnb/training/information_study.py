"""The study of mutual information: every part, method and seed, each in a record of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from lipnb.records import RESULTS, make_record, read_experiment, synthetic_data, write_record
from lipnb.training.information_parts import PARTS, InformationSettings, Row, study_part

__all__ = ["read_information", "study_information"]

SCORES = ("value", "accuracy", "lipschitz", "effective")
Job = tuple[str, int, InformationSettings]


def study_information(
    methods: Iterable[str],
    seeds: Sequence[int],
    settings: InformationSettings,
    *,
    processes: int = 1,
    folder: Path | str | None = None,
    experiment: str = "information",
    code: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> list[Row]:
    """Compute estimates of several parts by several methods, seed by seed.

    Parameters
    ----------
    methods : iterable of str
        Part and method with a dot between, such as "gaussians.mine".
    seeds : sequence of int
        Seeds.
    settings : InformationSettings
        How large.
    processes : int
        Number of processes; with 1, none is started.
    folder : path, optional
        Folder of all results. If given, a record is written after each method and seed, and those
        that are there already are not computed again.
    experiment : str
        Name of the experiment below it.
    code : mapping, optional
        A `lipnb.records.snapshot` taken before the run; needed with a folder.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    list of dict
        Rows of `study_part` with "part", "method" and "seed", of what was computed now.

    Raises
    ------
    ValueError
        If a method is unknown, or there is a folder and no snapshot.

    Examples
    --------
    >>> few = InformationSettings(rows=100, correlations=((2, (0.9,)),))
    >>> [row] = study_information(["gaussians.ksg"], [0], few)
    >>> row["part"], row["method"], row["seed"], row["rho"]
    ('gaussians', 'ksg', 0, 0.9)
    """
    methods = list(methods)
    known = [f"{part}.{name}" for part, (_, names) in PARTS.items() for name in names]
    if unknown := [name for name in methods if name not in known]:
        raise ValueError(f"methods must be among {known}; got {unknown}")
    if folder is not None and code is None:
        raise ValueError("records need a snapshot of the code; got a folder and no code")
    jobs: list[Job] = [(name, seed, settings) for seed in seeds for name in methods]
    if folder is not None:
        there = Path(folder) / experiment
        jobs = [job for job in jobs if not (there / f"{job[0]}-seed{job[1]}.json").is_file()]
    rows: list[Row] = []
    for job, found, seconds in _progress(_computed(jobs, processes), len(jobs), progress):
        part, _, method = job[0].partition(".")
        rows += [{"part": part, "method": method, "seed": job[1], **row} for row in found]
        if folder is not None and code is not None:
            write_record(_record(job, found, seconds, experiment, code), folder)
    return rows


def read_information(experiment: str = "information", folder: Path | str = RESULTS) -> list[Row]:
    """Read the records of the study as rows.

    Parameters
    ----------
    experiment : str
        Name of the experiment.
    folder : path
        Folder of all results.

    Returns
    -------
    list of dict
        As `study_information` returns them.

    Examples
    --------
    >>> read_information("never-run")
    []
    """
    rows: list[Row] = []
    for record in read_experiment(experiment, folder):
        part, _, method = record["method"].partition(".")
        cases: dict[str, Row] = {}
        for name, metric in record["metrics"].items():
            label, _, score = name.rpartition(" ")
            row = cases.setdefault(label, _read_case(label))
            row[score] = metric["value"]
            if score == "value" and "spread" in metric:
                row["error"] = metric["spread"]
        head = {"part": part, "method": method, "seed": record["seed"]}
        rows += [head | row for row in cases.values()]
    return rows


def _case(row: Row) -> str:
    """Write what a row is about, such as "d=2 rho=0.9"."""
    hidden = {*SCORES, "error", "truth"}
    return " ".join(f"{name}={value}" for name, value in row.items() if name not in hidden)


def _read_case(label: str) -> Row:
    """Read it again."""
    row: Row = {}
    for item in label.split(" "):
        name, _, text = item.partition("=")
        row[name] = text if name in ("task", "law") else float(text)
    return row


def _computed(jobs: Sequence[Job], processes: int) -> Iterable[tuple[Job, list[Row], float]]:
    """Yield each job with its rows and its seconds, in the order of the jobs."""
    if processes == 1:
        yield from map(_job, jobs)
    elif jobs:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            yield from pool.map(_job, jobs)


def _job(job: Job) -> tuple[Job, list[Row], float]:
    """Run one job on one thread; seconds are those of its processor."""
    name, seed, settings = job
    part, _, method = name.partition(".")
    threads, started = torch.get_num_threads(), time.process_time()
    torch.set_num_threads(1)
    try:
        found = study_part(part, method, seed, settings)
    finally:
        torch.set_num_threads(threads)
    return job, found, time.process_time() - started


def _record(
    job: Job, found: Sequence[Row], seconds: float, experiment: str, code: Mapping[str, Any]
) -> Any:
    """Make the record of one method and seed; a metric is named by its case and score."""
    name, seed, settings = job
    metrics = {}
    for row in found:
        for score in ("truth", *SCORES):
            if score in row:
                metric = {"value": row[score], "n": int(row.get("n", settings.rows))}
                if score == "value" and "error" in row:
                    metric["spread"] = row["error"]
                metrics[f"{_case(row)} {score}"] = metric
    given = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(settings).items()
        if key != "correlations"
    }
    for d, correlations in settings.correlations:
        given[f"correlations in {d}"] = list(correlations)
    return make_record(
        experiment=experiment,
        method=name,
        seed=seed,
        parameters=given,
        metrics=metrics,
        data=synthetic_data("pairs with known information", part=name.split(".")[0], seed=seed),
        code=code,
        seconds=seconds,
    )


def _progress(found: Iterable[Any], total: int, show: bool) -> Iterable[Any]:
    """Wrap the results in a progress bar, if one is wanted."""
    if not show:
        return found
    from tqdm import tqdm

    return tqdm(found, total=total, desc="methods x seeds", mininterval=10)
