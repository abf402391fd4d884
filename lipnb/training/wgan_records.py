"""What a run of a study leaves behind: a record, all its scores, a grid of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from lipnb.records import make_record, write_record
from lipnb.training.wgan_judge import Judge, StudyImages
from lipnb.training.wgan_monitor import write_grid, write_scalars
from lipnb.training.wgan_scored import Plan, WganResult

__all__ = ["few_images", "write_run"]

PIXELS = 56_000  # most bytes of a grid before it is compressed


def write_run(
    result: WganResult,
    plan: Plan,
    judge: Judge,
    data: StudyImages,
    folder: Path | str,
    experiment: str,
    preset: str,
    code: Mapping[str, Any],
) -> Path:
    """Write the grid, the scores, and last the record, whose presence says that the run is done.

    Parameters
    ----------
    result, plan, judge, data
        The run, what it was to do, how it was scored, and the images.
    folder : path
        Folder of all results.
    experiment, preset : str
        Names.
    code : mapping
        A `lipnb.records.snapshot` taken before the run.

    Returns
    -------
    Path
        The record.

    Raises
    ------
    ValueError
        If a number is not finite.
    """
    parameters = {"preset": preset, **asdict(plan.settings)}
    parameters |= {f"score.{name}": value for name, value in judge.protocol.items()}
    parameters["score.best_of"] = len(result.scores)
    options = plan.options
    for name in ("tf32", "bfloat16", "channels_last", "graph", "compiler"):
        parameters[name] = getattr(options, name)
    record = make_record(
        experiment=experiment,
        method=plan.method,
        seed=plan.seed,
        parameters=parameters,
        metrics={
            name: {"value": value, "n": result.counts[name]}
            for name, value in result.metrics.items()
        },
        data={"name": data.train.name, "sha256": data.train.sha256},
        code=code,
        seconds=result.run.seconds,
        device=str(next(result.run.critic.parameters()).device),
    )
    stem = Path(folder) / experiment / f"{plan.method}-seed{plan.seed}"
    write_grid(stem.with_name(f"{stem.name}.png"), few_images(result.samples))
    write_scalars(stem.with_name(f"{stem.name}.jsonl"), result.scores)
    return write_record(record, folder)


def few_images(images: Tensor) -> Tensor:
    """Take the first images, a square number of them, so few that their grid is a small file.

    Parameters
    ----------
    images : Tensor
        uint8, shape (n, c, h, w).

    Returns
    -------
    Tensor
        At most 64 of them.

    Examples
    --------
    >>> import torch
    >>> [len(few_images(torch.zeros(99, c, s, s))) for c, s in ((1, 8), (3, 32))]
    [64, 16]
    """
    n, c, h, w = images.shape
    side = min(8, math.isqrt(n))
    while side > 1 and c * (side * (h + 1) - 1) * (side * (w + 1) - 1) > PIXELS:
        side -= 1
    return images[: side * side]
