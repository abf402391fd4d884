"""One run of a study: trained in stretches, scored between them; many runs on several processes."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lipnb.data import ImageData
from lipnb.training.wgan import train_wgan
from lipnb.training.wgan_batches import to_floats
from lipnb.training.wgan_checkpoint import read_checkpoint, write_checkpoint
from lipnb.training.wgan_device import DeviceOptions
from lipnb.training.wgan_judge import Judge, StudyImages
from lipnb.training.wgan_monitor import gradient_norm_quantiles
from lipnb.training.wgan_networks import WganRun, build_networks
from lipnb.training.wgan_presets import WganSettings

__all__ = ["Plan", "WganResult", "run_plans", "scored_run"]

LEVELS = (0.05, 0.5, 0.95, 1.0)
NORMS = 1000  # most images at which gradient norms are taken


class WganResult(NamedTuple):
    """What one run of a study found.

    Attributes
    ----------
    metrics : dict
        Name to number. ``final.`` precedes the scores at the end; ``best.`` those at the scored
        iteration with the smallest Fréchet distance, ``best.iteration``; ``real.`` those of
        held-out real images. Quantiles of the critic's gradient norms at the end are
        ``gradient_norm_real_0.5`` and so on; ``cpu_seconds`` is the time of processor that training
        and scoring took, without what a kill destroyed.
    counts : dict
        Name to the number of images that the metric is over.
    scores : list of dict
        One mapping for each scored iteration: step, scores, CPU seconds until then.
    history : list of dict
        Of `WganRun`.
    samples : Tensor
        The generated images of the final scores, uint8.
    run : WganRun
        The trained networks.
    """

    metrics: dict[str, float]
    counts: dict[str, int]
    scores: list[dict[str, float]]
    history: list[dict[str, float]]
    samples: Tensor
    run: WganRun


@dataclass(frozen=True)
class Plan:
    """What one run of a study is to do.

    Attributes
    ----------
    method, seed : str, int
        Who it is.
    settings : WganSettings
        How to train.
    options : DeviceOptions
        Device and precision.
    folder : path or None
        Where the run keeps its state.
    score_every, log_every, checkpoint_every : int
        In iterations, at least 1.
    progress : bool
        Whether to show a progress bar.
    """

    method: str
    seed: int
    settings: WganSettings
    options: DeviceOptions
    folder: Path | None
    score_every: int
    log_every: int
    checkpoint_every: int
    progress: bool = False


def scored_run(plan: Plan, train: ImageData, judge: Judge) -> WganResult:
    """Train one method with one seed, or go on with it, and score it every so many iterations.

    Parameters
    ----------
    plan : Plan
        What to do.
    train : ImageData
        What to train on.
    judge : Judge
        How to score.

    Returns
    -------
    WganResult
        What was found.

    Raises
    ------
    ValueError
        If the folder of the plan holds another run.
    FloatingPointError
        If a loss is not finite.
    """
    if min(plan.score_every, plan.log_every, plan.checkpoint_every) < 1:
        raise ValueError(
            "score_every, log_every and checkpoint_every must be at least 1;"
            f" got {plan.score_every}, {plan.log_every}, {plan.checkpoint_every}"
        )
    n, end = len(judge.reference), plan.settings.iterations
    stops = [*range(plan.score_every, end, plan.score_every), end]
    with TemporaryDirectory() if plan.folder is None else nullcontext(plan.folder) as place:
        path = Path(place) / "scores.pt"
        name = {**judge.protocol, "score_every": plan.score_every, "seed": plan.seed}
        lines = list(read_checkpoint(path, name)["lines"]) if path.is_file() else []
        run = None
        # A stretch ends with a checkpoint, and its scores are stored before the next one begins.
        for stop in stops[min(len(lines), len(stops) - 1) :]:
            started = time.process_time()
            run = train_wgan(
                plan.settings,
                train,
                seed=plan.seed,
                output=place,
                resume=True,
                until=stop,
                log_every=plan.log_every,
                sample_every=end,
                checkpoint_every=plan.checkpoint_every,
                options=plan.options,
                progress=plan.progress,
            )
            if len(lines) == len(stops):
                break
            scores = judge.score(run.sample(n, plan.seed))
            spent = time.process_time() - started + (lines[-1]["cpu_seconds"] if lines else 0.0)
            lines.append({"step": stop, **scores, "cpu_seconds": spent})
            write_checkpoint(path, {"run": name, "lines": lines})
    assert run is not None  # there is always a last stretch
    return _result(run, lines, judge, plan.seed)


def _result(run: WganRun, lines: list[dict[str, float]], judge: Judge, seed: int) -> WganResult:
    """Set final, best and real scores side by side."""
    distance = "fid" if judge.extractor.inception else "feature_frechet_distance"
    best = min(lines, key=lambda line: line[distance])
    metrics: dict[str, float] = {}
    for when, line in (("final", lines[-1]), ("best", best), ("real", judge.real)):
        for name in (*judge.scored, "classifier_accuracy"):
            if name in line:
                metrics[f"{when}.{name}"] = line[name]
    metrics["best.iteration"] = best["step"]
    n = len(judge.reference)
    samples = run.sample(n, seed)
    device = next(run.critic.parameters()).device
    counts = dict.fromkeys(metrics, n)
    for name in metrics:
        if name.endswith("feature_wasserstein1"):
            counts[name] = judge.protocol["transport_size"]
    for name, images in (("real", judge.images), ("fake", samples)):
        x = to_floats(images[:NORMS].to(device), dequantise=False)
        norms = gradient_norm_quantiles(run.critic, x, LEVELS)
        for level, norm in zip(LEVELS, norms, strict=True):
            metrics[f"gradient_norm_{name}_{level:g}"] = norm
            counts[f"gradient_norm_{name}_{level:g}"] = len(x)
    metrics["cpu_seconds"] = lines[-1]["cpu_seconds"]
    counts |= {"best.iteration": len(lines), "cpu_seconds": 1}
    return WganResult(metrics, counts, lines, run.history, samples, run)


Found = tuple[Plan, WganResult | Exception]


def run_plans(
    plans: Sequence[Plan], data: StudyImages, judge: Judge, processes: int, progress: bool = False
) -> Iterable[Found]:
    """Run plans one after the other, or on several processes.

    Parameters
    ----------
    plans : sequence of Plan
        What to do.
    data : StudyImages
        The images.
    judge : Judge
        How to score.
    processes : int
        Number of processes; with 1, none is started.
    progress : bool
        Whether to show a progress bar over the runs.

    Yields
    ------
    plan, result
        In the order of the plans; of a run that failed, its exception.
    """
    if processes == 1 or len(plans) == 1:
        return _shown((_attempt(plan, data.train, judge) for plan in plans), len(plans), progress)
    return _shown(_parallel(plans, data, judge, processes), len(plans), progress)


def _parallel(
    plans: Sequence[Plan], data: StudyImages, judge: Judge, processes: int
) -> Iterable[Found]:
    """Run plans on several processes; bytes come back, for their sender may have left."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = [(plan, pool.submit(_packed, plan, data.train, judge)) for plan in plans]
        for plan, future in waiting:
            try:
                yield plan, _unpacked(future.result(), plan, data.train.shape)
            except Exception as error:
                yield plan, error


def _attempt(plan: Plan, train: ImageData, judge: Judge) -> Found:
    """Run one plan on one thread, and hand over its result or its error."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return plan, scored_run(plan, train, judge)
    except Exception as error:
        return plan, error
    finally:
        torch.set_num_threads(threads)


def _packed(plan: Plan, train: ImageData, judge: Judge) -> bytes:
    """Run one plan in a process of its own; networks travel as their weights."""
    found = _attempt(plan, train, judge)[1]
    if isinstance(found, Exception):
        raise found
    networks = found.run.critic.state_dict(), found.run.generator.state_dict()
    rest = found.run.step, found.run.seconds
    buffer = io.BytesIO()
    torch.save([found._replace(run=None)._asdict(), networks, rest], buffer)  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpacked(content: bytes, plan: Plan, shape: tuple[int, int, int]) -> WganResult:
    """Build the networks again."""
    fields, states, (step, seconds) = torch.load(io.BytesIO(content), weights_only=True)
    critic, generator = build_networks(plan.settings, shape, plan.seed)
    for network, state in zip((critic, generator), states, strict=True):
        network.load_state_dict(state)
    run = WganRun(critic, generator, plan.settings, step, fields["history"], seconds)
    return WganResult(**{**fields, "run": run})


def _shown(found: Iterable[Found], total: int, show: bool) -> Iterable[Found]:
    """Wrap the runs in a progress bar, if one is wanted."""
    if not show:
        return found
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(found, total=total, desc="methods x seeds", mininterval=10)
    return bar
