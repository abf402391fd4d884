"""Train a Wasserstein GAN on images: alternating steps, a log, checkpoints that resume exactly."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lipnb.data import ImageData
from lipnb.training.wgan_device import (
    DeviceOptions,
    choose_device,
    float32_precision,
    many_compilations,
)
from lipnb.training.wgan_networks import WganRun
from lipnb.training.wgan_presets import WganSettings
from lipnb.training.wgan_trainer import Trainer

__all__ = ["train_wgan"]


def train_wgan(
    settings: WganSettings,
    data: ImageData,
    *,
    seed: int = 0,
    output: Path | str | None = None,
    resume: bool = False,
    until: int | None = None,
    limit_seconds: float = math.inf,
    log_every: int = 100,
    sample_every: int = 1000,
    checkpoint_every: int = 1000,
    options: DeviceOptions | None = None,
    tensorboard: bool = False,
    progress: bool = False,
) -> WganRun:
    r"""Train a generator against a critic.

    .. math::
        \min_f\; \mathbb E f(g(z)) - \mathbb E f(x) + \lambda\, \mathcal L(f)
        \quad\text{and}\quad \min_g\; -\mathbb E f(g(z))

    in turn, several steps of the first for each of the second. The critic is high on real images.

    Parameters
    ----------
    settings : WganSettings
        Every choice; `lipnb.training.wgan_presets` names sets of them.
    data : ImageData
        Images of shape (3, 32, 32) or (m, 8, 8).
    seed : int
        Decides weights, order of images and all noise, from 0 to 4095.
    output : path, optional
        Folder for `checkpoint.pt`, `scalars.jsonl` (the history), `settings.json`, and grids
        `samples-000100.png` of fixed z.
    resume : bool
        Whether to go on from the checkpoint in `output`, if there is one. On a CPU the run ends bit
        for bit as if it had not been stopped.
    until : int, optional
        Iteration to stop at, by default the last one. It does not change the learning rate.
    limit_seconds : float
        Stop after the iteration in which this time is over, with a checkpoint.
    log_every, sample_every, checkpoint_every : int
        In iterations, at least 1. A checkpoint is written at the end too.
    options : DeviceOptions, optional
        Device and precision.
    tensorboard : bool
        Whether to write the log and the grids into `output/events` too, as TensorBoard reads them
        (needs the package tensorboard).
    progress : bool
        Whether to show a progress bar, with rate and remaining time (needs tqdm).

    Returns
    -------
    WganRun
        The networks and the history.

    Raises
    ------
    ValueError
        If a number is out of its range, the images fit no network or are too few, `output` holds
        the checkpoint of another run, a damaged one, or one at all without `resume`, or bfloat16 is
        too rough.
    FloatingPointError
        If a loss is not finite. The message names the iteration, the part that went bad first, and
        the last good checkpoint.

    Notes
    -----
    The passes of a critic step are the fewest the method allows: f(x) of the loss serves the
    penalty too (`critic_terms`). With batch normalisation or dropout it cannot.

    References
    ----------
    Arjovsky et al. (2017), Algorithm 1; Gulrajani et al. (2017), Algorithm 1; Terjek (2020),
    equation (17).

    Examples
    --------
    >>> from lipnb.data import load_digit_images
    >>> from lipnb.training.wgan_presets import method_settings
    >>> tiny = {"channels": 4, "generator_channels": 4, "latent": 3, "iterations": 2, "batch": 8}
    >>> settings = method_settings("standard", "alp", **tiny, xi=1.0, radius=(0.1, 1.0))
    >>> run = train_wgan(settings, load_digit_images(), log_every=1)
    >>> run.step, len(run.history), run.sample(5).shape
    (2, 2, torch.Size([5, 1, 8, 8]))
    """
    options = options or DeviceOptions()
    until = settings.iterations if until is None else until
    if not 0 <= until <= settings.iterations:
        raise ValueError(f"until must lie from 0 to {settings.iterations}; got {until}")
    if min(log_every, sample_every, checkpoint_every) < 1:
        raise ValueError(
            "log_every, sample_every and checkpoint_every must be at least 1;"
            f" got {log_every}, {sample_every}, {checkpoint_every}"
        )
    started = time.perf_counter()
    device = choose_device(options)
    with (
        float32_precision(options.tf32),
        many_compilations(options.compiler),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
    ):
        trainer = Trainer(settings, data, seed, options, device, log_every)
        folder = None if output is None else Path(output)
        start = trainer.open(folder, resume, tensorboard)
        with (
            contextlib.closing(trainer),
            _bar(start, until, f"{settings.objective} seed {seed}", progress) as bar,
        ):
            for step in range(start, until):
                trainer.run(step)
                done = step + 1
                over = time.perf_counter() - started > limit_seconds
                if done % log_every == 0 or done == settings.iterations:
                    bar.set_postfix(trainer.log(done), refresh=False)
                if done % sample_every == 0:
                    trainer.draw(done)
                if done % checkpoint_every == 0 or done == until or over:
                    trainer.save(done)
                bar.update()
                if over:
                    break
        return trainer.result(trainer.step)


@contextlib.contextmanager
def _bar(start: int, until: int, label: str, show: bool) -> Iterator[Any]:
    """Show a progress bar, if one is wanted."""
    if not show:
        yield _Silent()
        return
    from tqdm import tqdm

    with tqdm(total=until, initial=start, desc=label, unit="it", file=sys.stderr) as bar:
        yield bar


class _Silent:
    """A progress bar that shows nothing."""

    def update(self) -> None:
        """Count."""

    def set_postfix(self, values: dict[str, float], refresh: bool = True) -> None:
        """Note."""


if __name__ == "__main__":
    from lipnb.training.wgan_command import main

    sys.exit(main())
