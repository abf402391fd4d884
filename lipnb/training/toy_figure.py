"""All panels of the toy figure: trained on several processes, recorded and restored."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipnb.models.stacked import StackedMLP
from lipnb.records import make_record, synthetic_data, write_record
from lipnb.training.toy import WIDTHS, Panel, Settings, ToyRun, train_toy
from lipnb.training.toy_problem import surface_metrics

__all__ = ["FigureRun", "load_networks", "method_name", "record_figure", "train_figure"]

RESOLUTION = 400


@dataclass
class FigureRun:
    """One trained network of the figure.

    Attributes
    ----------
    panel : Panel
        Which panel it belongs to.
    seed : int
        Its seed.
    settings : Settings
        How it was trained.
    metrics : dict
        Name to value, as `surface_metrics` returns them, and ``violations``, the share of
        regularisation points above slope 1 over the last 1024 updates, where any were measured.
    network : StackedMLP
        The network alone, normalisations folded in.
    seconds : float
        Time of the batched run it was part of.
    """

    panel: Panel
    seed: int
    settings: Settings
    metrics: dict[str, float]
    network: StackedMLP
    seconds: float


def method_name(panel: Panel, batch_norm: bool) -> str:
    """Name of a panel in records and files.

    Parameters
    ----------
    panel : Panel
        The panel.
    batch_norm : bool
        Whether it is the batch-normalised twin.

    Returns
    -------
    str
        The name.

    Examples
    --------
    >>> method_name(Panel("lipschitz_penalty", 10.0), True)
    'lp-lambda10-bn'
    """
    return panel.name + ("-bn" if batch_norm else "")


def train_figure(
    cases: Iterable[tuple[Panel, bool]],
    seeds: Sequence[int],
    settings: Settings | None = None,
    *,
    processes: int | None = None,
    checkpoints: Path | str | None = None,
    progress: bool = False,
) -> list[FigureRun]:
    """Train all panels, those of one kind side by side, on one process per core.

    Parameters
    ----------
    cases : iterable of (Panel, bool)
        Panels, each with whether its batch-normalised twin is meant.
    seeds : sequence of int
        Seeds.
    settings : Settings
        How to train; `batch_norm` is set from the cases.
    processes : int, optional
        Number of processes; by default two, or one on a single core. With 1, none is started.
    checkpoints : path, optional
        Folder of checkpoints, from which a stopped run continues.
    progress : bool
        Whether to show a progress bar per kind.

    Returns
    -------
    list of FigureRun
        In the order of the cases, then the seeds.
    """
    settings, cases = settings or Settings(), list(cases)
    groups: dict[tuple[str, int, bool], list[Panel]] = {}
    for panel, twin in cases:
        groups.setdefault((panel.method, panel.steps, twin), []).append(panel)
    jobs = []
    for (_, _, twin), group in groups.items():
        file = None
        if checkpoints is not None:
            file = Path(checkpoints) / f"{method_name(group[0], twin)}-{seeds[0]}.pt"
        jobs.append((group, list(seeds), replace(settings, batch_norm=twin), file, progress))
    # The longest first, so that no core is left waiting for it at the end.
    jobs.sort(key=_cost, reverse=True)
    processes = processes or min(2, os.cpu_count() or 1)
    if processes == 1:
        results = [_train(job) for job in jobs]
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            results = list(pool.map(_train, jobs))
    found = {
        (run.panel, run.settings.batch_norm, run.seed): run for runs in results for run in runs
    }
    return [found[panel, twin, seed] for panel, twin in cases for seed in seeds]


def _cost(job: tuple[Any, ...]) -> float:
    """Relative time of a job: passes per update, doubled by normalisation."""
    group, _, settings, *_ = job
    passes = {"none": 0.1, "spectral_norm": 0.2, "lipschitz_penalty": 8.0}
    return (passes.get(group[0].method, 6.0 + 2.0 * group[0].steps)) * (1 + settings.batch_norm)


def _train(job: tuple[Any, ...]) -> list[FigureRun]:
    """Train one kind of panel, on one thread."""
    group, seeds, settings, checkpoint, progress = job
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = train_toy(group, seeds, settings, checkpoint=checkpoint, progress=progress)
    finally:
        torch.set_num_threads(threads)
    return list(_split(run))


def _split(run: ToyRun) -> Iterable[FigureRun]:
    """Take a stack apart into its networks, measured one by one."""
    rows = surface_metrics(run.stack, RESOLUTION)
    weights, biases = run.stack.fold()
    for m, ((panel, seed), row) in enumerate(zip(run.labels, rows, strict=True)):
        violations = run.violations[-16:, m].mean().item()
        if violations == violations:
            row["violations"] = violations
        network = _network([w[m] for w in weights], [b[m] for b in biases])
        yield FigureRun(panel, seed, run.settings, row, network, run.seconds)


def _network(weights: Sequence[torch.Tensor], biases: Sequence[torch.Tensor]) -> StackedMLP:
    """One plain network from given layers."""
    network = StackedMLP(WIDTHS, [torch.Generator().manual_seed(0)])
    with torch.no_grad():
        for parameter, value in zip(network.weights, weights, strict=True):
            parameter.copy_(value)
        for parameter, value in zip(network.biases, biases, strict=True):
            parameter.copy_(value)
    return network.eval().requires_grad_(False)


def record_figure(
    runs: Sequence[FigureRun],
    *,
    folder: Path | str,
    experiment: str = "toy",
    code: Mapping[str, Any],
) -> list[Path]:
    """Write one record per network, and the networks of each seed in one file.

    Parameters
    ----------
    runs : sequence of FigureRun
        Trained networks.
    folder : path
        Folder of all results.
    experiment : str
        Name of the experiment below it.
    code : mapping
        A `lipnb.records.snapshot` taken before the run.

    Returns
    -------
    list of Path
        The files written.
    """
    paths = []
    for run in runs:
        settings = asdict(run.settings)
        settings["radius"] = list(settings["radius"])
        metrics = {name: {"value": v, "n": RESOLUTION**2} for name, v in run.metrics.items()}
        if "violations" in metrics:
            updates = min(1024, run.settings.iterations)
            metrics["violations"]["n"] = updates * run.settings.regularization_batch
        record = make_record(
            experiment=experiment,
            method=method_name(run.panel, run.settings.batch_norm),
            seed=run.seed,
            parameters={
                "regularizer": run.panel.method,
                "weight": run.panel.weight,
                "steps": run.panel.steps,
                "widths": list(WIDTHS),
                **settings,
            },
            metrics=metrics,
            data=synthetic_data(
                "uniform points on [-4, 4]^2",
                seed=run.seed,
                batch=run.settings.batch,
                regularization_batch=run.settings.regularization_batch,
            ),
            code=code,
            seconds=run.seconds,
        )
        paths.append(write_record(record, folder))
    for seed in dict.fromkeys(run.seed for run in runs):
        arrays = {
            f"{method_name(run.panel, run.settings.batch_norm)}/{kind}{i}": value[0]
            .numpy()
            .astype(np.float32)
            for run in runs
            if run.seed == seed
            for kind, values in (("weight", run.network.weights), ("bias", run.network.biases))
            for i, value in enumerate(values)
        }
        path = Path(folder) / experiment / f"networks-seed{seed}.npz"
        partial = path.with_suffix(".partial.npz")
        np.savez_compressed(partial, **arrays)
        os.replace(partial, path)
        paths.append(path)
    return paths


def load_networks(
    folder: Path | str, seed: int, *, experiment: str = "toy"
) -> dict[str, StackedMLP]:
    """Read the networks of one seed.

    Parameters
    ----------
    folder : path
        Folder of all results.
    seed : int
        The seed.
    experiment : str
        Name of the experiment below it.

    Returns
    -------
    dict
        Name (see `method_name`) to network, in evaluation mode, float64 from float32 storage.

    Raises
    ------
    FileNotFoundError
        If the seed was not run.
    ValueError
        If the file does not hold networks of the toy.
    """
    path = Path(folder) / experiment / f"networks-seed{seed}.npz"
    if not path.is_file():
        raise FileNotFoundError(f"no networks of {experiment}, seed {seed}: wanted {path}")
    layers = len(WIDTHS) - 1
    networks = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in dict.fromkeys(key.split("/")[0] for key in arrays.files):
            keys = [f"{name}/{kind}{i}" for kind in ("weight", "bias") for i in range(layers)]
            if missing := [key for key in keys if key not in arrays.files]:
                raise ValueError(f"{path} must hold {missing[0]}; got {arrays.files[:4]} ...")
            values = [torch.from_numpy(arrays[key]) for key in keys]
            networks[name] = _network(values[:layers], values[layers:])
    return networks
