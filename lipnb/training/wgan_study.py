"""Experiment x method x seed for Wasserstein GANs on images: trained, scored on the way, recorded.

Final and best scores are kept apart: the best of many looks is an optimistic number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lipnb.training.wgan_device import DeviceOptions, choose_device
from lipnb.training.wgan_judge import StudyImages, make_judge, study_images
from lipnb.training.wgan_presets import METHODS, method_settings
from lipnb.training.wgan_records import write_run
from lipnb.training.wgan_scored import Plan, WganResult, run_plans

__all__ = ["SMALL_CHANGES", "study_wgan", "wgan_rows"]

#: What makes a preset small enough for a processor without a GPU, by the data. Pixels are fewer, so
#: distances are shorter: the radii of the perturbations shrink as the square root of their number.
SMALL_CHANGES: dict[str, dict[str, Any]] = {
    "digits": {
        "channels": 12,
        "generator_channels": 12,
        "latent": 16,
        "batch": 32,
        "generator_batch": 64,
        "critic_steps": 3,
        "learning_rate": 2e-3,
        "xi": 1.4,
        "radius": (0.014, 1.4),
    },
}


def study_wgan(
    methods: Iterable[str],
    seeds: Sequence[int],
    *,
    preset: str = "paper",
    data: str | StudyImages = "digits",
    iterations: int | None = None,
    changes: Mapping[str, Any] | None = None,
    experiment: str = "wgan",
    folder: Path | str | None = None,
    checkpoints: Path | str | None = None,
    code: Mapping[str, Any] | None = None,
    samples: int | None = None,
    score_every: int | None = None,
    log_every: int | None = None,
    checkpoint_every: int | None = None,
    inception: Path | str | None = None,
    classifier: Mapping[str, Any] | None = None,
    options: DeviceOptions | None = None,
    processes: int = 1,
    progress: bool = False,
) -> dict[tuple[str, int], WganResult]:
    """Train every method with every seed, score it on the way and at the end, record it.

    Parameters
    ----------
    methods : iterable of str
        Keys of `METHODS` of `lipnb.training.wgan_presets`.
    seeds : sequence of int
        Seeds, from 0 to 4095. All methods run with the first seed before the second begins.
    preset : str
        Key of `PRESETS`.
    data : str or StudyImages
        As in `study_images`, or its parts.
    iterations : int, optional
        Updates of the generator, by default the preset's.
    changes : mapping, optional
        Settings that differ from preset and method, the same for all methods; see `SMALL_CHANGES`.
    experiment : str
        Name of the experiment: its folder in `folder` and in `checkpoints`.
    folder : path, optional
        Folder of all results. If given, each run leaves `<method>-seed<k>.json`, a record,
        `<method>-seed<k>.jsonl`, all its scores, and `<method>-seed<k>.png`, samples. A run that is
        recorded there is not computed again.
    checkpoints : path, optional
        Folder in which `<experiment>/<method>-seed<k>` keeps the state of a run. A run that was
        stopped goes on from there; on a CPU it ends bit for bit as if nothing had happened.
    code : mapping, optional
        A `lipnb.records.snapshot` taken before; needed with a folder.
    samples : int, optional
        Images in each score, generated, reference and calibration; by default those of
        `study_images`, with Inception 5000.
    score_every, log_every : int, optional
        Iterations between scores, and between lines of the history; by default a tenth and a
        twentieth of the run.
    checkpoint_every : int, optional
        Iterations between checkpoints, by default as between scores.
    inception : path, optional
        Weights of Inception. Without them no score is called IS, FID or KID; see `make_judge`.
    classifier : mapping, optional
        How the classifier is trained; see `study_classifier`.
    options : DeviceOptions, optional
        Device and precision.
    processes : int
        Number of processes, each with one thread; with 1, none is started.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    dict
        (method, seed) to `WganResult`, of what was computed now.

    Raises
    ------
    ValueError
        If a name is unknown, a number out of its range, there is a folder and no snapshot, a
        checkpoint belongs to another run, or a preset trains on images that are held out.
    ExceptionGroup
        If runs failed: of their errors, each with a note that names the run. The others are
        complete by then, and recorded.

    Examples
    --------
    >>> tiny = {"channels": 4, "generator_channels": 4, "latent": 3, "batch": 8}
    >>> found = study_wgan(
    ...     ["gp"], [0], data="digits", iterations=2, changes=tiny, samples=50,
    ...     classifier={"epochs": 2, "width": 8},
    ... )
    >>> result = found["gp", 0]
    >>> [line["step"] for line in result.scores], result.samples.shape
    ([1, 2], torch.Size([50, 1, 8, 8]))
    >>> names = [f"{when}.feature_frechet_distance" for when in ("final", "best", "real")]
    >>> all(result.metrics[name] > 0 for name in names)
    True
    """
    methods, seeds = list(dict.fromkeys(methods)), list(dict.fromkeys(seeds))
    if unknown := [name for name in methods if name not in METHODS]:
        raise ValueError(f"methods must be among {', '.join(METHODS)}; got {unknown}")
    if folder is not None and code is None:
        raise ValueError("records need a snapshot of the code; got a folder and no code")
    if processes < 1:
        raise ValueError(f"processes must be at least 1; got {processes}")
    if inception is not None and processes > 1:
        raise ValueError(f"processes must be 1 with Inception; got {processes}")
    chosen = dict(changes or {})
    if iterations is not None:
        chosen["iterations"] = iterations
    settings = {name: method_settings(preset, name, **_tuples(chosen)) for name in methods}
    if split := {s.split for s in settings.values()} - {"train"}:
        raise ValueError(
            f"a study holds images out, so split must be 'train'; got {split.pop()!r}:"
            " say changes={'split': 'train'}"
        )
    wanted = [(name, seed) for seed in seeds for name in methods]
    if folder is not None:
        there = Path(folder) / experiment
        wanted = [job for job in wanted if not (there / f"{job[0]}-seed{job[1]}.json").is_file()]
    if not wanted:
        return {}
    if samples is None and inception is not None:
        samples = 5000
    parts = study_images(data, samples) if isinstance(data, str) else data
    options = options or DeviceOptions()
    judge = make_judge(
        parts,
        inception=inception,
        cache=checkpoints,
        classifier=classifier,
        device=choose_device(options),
    )
    every = score_every or max(1, math.ceil(next(iter(settings.values())).iterations / 10))
    plans = [
        Plan(
            name,
            seed,
            settings[name],
            options,
            None if checkpoints is None else Path(checkpoints) / experiment / f"{name}-seed{seed}",
            score_every=every,
            log_every=log_every or max(1, every // 2),
            checkpoint_every=checkpoint_every or every,
            progress=progress and processes == 1,
        )
        for name, seed in wanted
    ]
    done: dict[tuple[str, int], WganResult] = {}
    failed: list[Exception] = []
    for plan, found in run_plans(plans, parts, judge, processes, progress):
        if isinstance(found, Exception):
            found.add_note(f"in {experiment}, {plan.method}, seed {plan.seed}")
            failed.append(found)
            continue
        done[plan.method, plan.seed] = found
        if folder is not None and code is not None:
            write_run(found, plan, judge, parts, folder, experiment, preset, code)
    if failed:
        raise ExceptionGroup(f"{len(failed)} of {len(plans)} runs failed", failed)
    return done


def wgan_rows(found: Mapping[tuple[str, int], WganResult]) -> list[dict[str, Any]]:
    """Lay results out as rows of a table.

    Parameters
    ----------
    found : mapping
        (method, seed) to result, from `study_wgan`.

    Returns
    -------
    list of dict
        One a run: method, seed, and all metrics.

    Examples
    --------
    >>> wgan_rows({})
    []
    """
    return [
        {"method": method, "seed": seed, **result.metrics}
        for (method, seed), result in found.items()
    ]


def _tuples(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Turn lists into tuples, which settings hold and YAML does not know."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in changes.items()}
