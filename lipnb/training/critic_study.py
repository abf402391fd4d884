"""All recipes on all problems: trained on several processes, judged, recorded."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from lipnb.records import RESULTS, make_record, read_experiment, synthetic_data, write_record
from lipnb.training.critic_methods import METHODS, train_method
from lipnb.training.critic_problems import judge_critic, problem

__all__ = ["CriticSettings", "read_study", "study_critics", "study_method", "study_rows"]

# How many samples a score is over.
_COUNTS = {"cosine": 2000, "gradient_error": 16384, "lower": 6144, "upper": 1, "seconds": 1}


@dataclass(frozen=True)
class CriticSettings:
    """How every critic of a study is trained, whatever its method.

    Attributes
    ----------
    problems : tuple of str
        Names of problems.
    iterations, batch, width : int
        Steps, points of each law per step, units of each of the two hidden layers.
    learning_rate : float
        Of Adam at the start.
    """

    problems: tuple[str, ...]
    iterations: int = 1000
    batch: int = 256
    width: int = 128
    learning_rate: float = 1e-3


def study_method(name: str, seed: int, settings: CriticSettings) -> dict[str, dict[str, float]]:
    """Train and judge one method with one seed on every problem.

    Parameters
    ----------
    name : str
        Key of `METHODS`.
    seed : int
        Seed of weights and batches.
    settings : CriticSettings
        How to train.

    Returns
    -------
    dict
        Problem to scores: those of `judge_critic`, ``seconds`` (CPU time of the training) and,
        where a penalty measured slopes, ``violations``, their share above 1 in the last tenth.

    Examples
    --------
    >>> settings = CriticSettings(("mixture",), iterations=10, batch=8, width=8)
    >>> sorted(study_method("lp", 0, settings)["mixture"])[:4]
    ['certified', 'cosine', 'gap_error', 'lower']
    """
    found = {}
    for which in settings.problems:
        run = train_method(
            METHODS[name],
            problem(which),
            seed,
            width=settings.width,
            iterations=settings.iterations,
            batch=settings.batch,
            learning_rate=settings.learning_rate,
        )
        judge = torch.Generator().manual_seed(2**20 + seed)  # the same points for every method
        scores = judge_critic(run.critic, problem(which), judge)
        scores["seconds"] = run.seconds
        violations = run.violations[-max(1, settings.iterations // 10) :].mean().item()
        if violations == violations:
            scores["violations"] = violations
        found[which] = scores
    return found


def study_critics(
    methods: Iterable[str],
    seeds: Sequence[int],
    settings: CriticSettings,
    *,
    processes: int = 2,
    folder: Path | str | None = None,
    experiment: str = "critics",
    code: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> dict[tuple[str, int], dict[str, dict[str, float]]]:
    """Train every method with every seed on every problem, one process per core.

    Parameters
    ----------
    methods : iterable of str
        Keys of `METHODS`.
    seeds : sequence of int
        Seeds.
    settings : CriticSettings
        How to train, and on which problems.
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
    dict
        (method, seed) to problem to scores, of what was computed now.

    Raises
    ------
    ValueError
        If a method is unknown, or there is a folder and no snapshot.
    """
    methods = list(methods)
    if unknown := [name for name in methods if name not in METHODS]:
        raise ValueError(f"methods must be among {sorted(METHODS)}; got {unknown}")
    if folder is not None and code is None:
        raise ValueError("records need a snapshot of the code; got a folder and no code")
    jobs = [(name, seed, settings) for seed in seeds for name in methods]
    if folder is not None:
        there = Path(folder) / experiment
        jobs = [job for job in jobs if not (there / f"{job[0]}-seed{job[1]}.json").is_file()]
    done = {}
    for job, found, seconds in _progress(_computed(jobs, processes), len(jobs), progress):
        done[job[:2]] = found
        if folder is not None and code is not None:
            write_record(_record(job, found, seconds, experiment, code), folder)
    return done


def study_rows(
    found: Mapping[tuple[str, int], Mapping[str, Mapping[str, float]]],
) -> list[dict[str, Any]]:
    """Lay the scores of `study_critics` out as rows of a table.

    Parameters
    ----------
    found : mapping
        (method, seed) to problem to scores.

    Returns
    -------
    list of dict
        One per method, seed and problem, with these three and the scores.

    Examples
    --------
    >>> study_rows({("lp", 0): {"mixture": {"ratio": 1.0}}})
    [{'method': 'lp', 'seed': 0, 'problem': 'mixture', 'ratio': 1.0}]
    """
    return [
        {"method": method, "seed": seed, "problem": which, **scores}
        for (method, seed), problems in found.items()
        for which, scores in problems.items()
    ]


def read_study(experiment: str = "critics", folder: Path | str = RESULTS) -> list[dict[str, Any]]:
    """Read the records of a study as rows of a table.

    Parameters
    ----------
    experiment : str
        Name of the experiment.
    folder : path
        Folder of all results.

    Returns
    -------
    list of dict
        As `study_rows` returns them, methods in the order of `METHODS`.

    Examples
    --------
    >>> read_study("never-run")
    []
    """
    found: dict[tuple[str, int], dict[str, dict[str, float]]] = {}
    for record in read_experiment(experiment, folder):
        problems = found.setdefault((record["method"], record["seed"]), {})
        for name, metric in record["metrics"].items():
            which, _, score = name.rpartition(".")
            problems.setdefault(which, {})[score] = metric["value"]
    order = list(METHODS)
    return study_rows(
        dict(sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))
    )


Job = tuple[str, int, CriticSettings]
Found = tuple[Job, dict[str, dict[str, float]], float]


def _computed(jobs: Sequence[Job], processes: int) -> Iterable[Found]:
    """Yield each job with its scores and its seconds, in the order of the jobs."""
    if processes == 1:
        yield from map(_job, jobs)
    elif jobs:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            yield from pool.map(_job, jobs)


def _job(job: Job) -> Found:
    """Run one job on one thread."""
    threads, started = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(1)
    try:
        found = study_method(*job)
    finally:
        torch.set_num_threads(threads)
    return job, found, time.perf_counter() - started


def _record(
    job: Job,
    found: Mapping[str, Mapping[str, float]],
    seconds: float,
    experiment: str,
    code: Mapping[str, Any],
) -> Any:
    """Make the record of one method and seed; a metric is named problem.score."""
    name, seed, settings = job
    return make_record(
        experiment=experiment,
        method=name,
        seed=seed,
        parameters={
            "iterations": settings.iterations,
            "batch": settings.batch,
            "width": settings.width,
            "learning_rate": settings.learning_rate,
            "problems": list(settings.problems),
            "weight": METHODS[name].weight if METHODS[name].penalty is not None else 0.0,
        },
        metrics={
            f"{which}.{score}": {"value": value, "n": _COUNTS.get(score, 2048)}
            for which, scores in found.items()
            for score, value in scores.items()
        },
        data=synthetic_data("two laws with known W1", problems=list(settings.problems), seed=seed),
        code=code,
        seconds=seconds,
    )


def _progress(found: Iterable[Found], total: int, show: bool) -> Iterable[Found]:
    """Wrap the results in a progress bar, if one is wanted."""
    if not show:
        return found
    from tqdm import tqdm

    return tqdm(found, total=total, desc="methods x seeds", mininterval=10)
