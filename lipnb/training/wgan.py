"""Train a Wasserstein GAN on images: alternating steps, a log, checkpoints that resume exactly."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipnb.constraints import clip_weights
from lipnb.data import ImageData
from lipnb.regularizers import WorstPoints
from lipnb.regularizers._network import copied_buffers
from lipnb.training.wgan_batches import ImageStream, seeded_stream, to_floats
from lipnb.training.wgan_checkpoint import read_checkpoint, write_atomically, write_checkpoint
from lipnb.training.wgan_device import (
    DeviceOptions,
    bfloat16_error,
    capture,
    choose_device,
    float32_precision,
    require_capturable,
)
from lipnb.training.wgan_monitor import gradient_norm_quantiles, write_grid, write_scalars
from lipnb.training.wgan_networks import build_networks, sample_images
from lipnb.training.wgan_objectives import Memory, critic_terms, generator_loss
from lipnb.training.wgan_presets import WganSettings

__all__ = ["WganRun", "train_wgan"]

WARM_UP = 3  # iterations before a graph is captured
# What is added up between two lines of the log, once a critic step (the last: a generator step).
SUMS = ("gap", "penalty", "critic_loss", "violations", "slope", "generator_loss")
LEVELS = (0.05, 0.5, 0.95, 1.0)


@dataclass(frozen=True)
class WganRun:
    """A trained pair and what was seen on the way.

    Attributes
    ----------
    critic, generator : nn.Module
        The networks. If `settings.average` is positive, the generator holds the averaged weights.
    settings : WganSettings
        How they were trained.
    step : int
        Iterations done, fewer than `settings.iterations` if the run was told to stop.
    history : list of dict
        One line every `log_every` iterations: step, means over the critic steps since the line
        before (gap, penalty before its weight, losses, violations a batch, slope), the largest
        slope, and quantiles of the gradient norms of the critic at real and generated images.
    seconds : float
        Time, earlier parts of a resumed run included.
    """

    critic: nn.Module
    generator: nn.Module
    settings: WganSettings
    step: int
    history: list[dict[str, float]]
    seconds: float

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Make n images, uint8, normalised as `settings.sampling` says."""
        s = self.settings
        return sample_images(self.generator, n, latent=s.latent, sampling=s.sampling, seed=seed)


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
        torch.random.fork_rng([device] if device.type == "cuda" else []),
    ):
        trainer = _Trainer(settings, data, seed, options, device, log_every)
        folder = None if output is None else Path(output)
        start = trainer.open(folder, resume)
        with _bar(start, until, f"{settings.objective} seed {seed}", progress) as bar:
            for step in range(start, until):
                trainer.run(step)
                done = step + 1
                over = time.perf_counter() - started > limit_seconds
                if done % log_every == 0 or done == settings.iterations:
                    bar.set_postfix(trainer.log(done), refresh=False)
                if folder is not None and done % sample_every == 0:
                    write_grid(folder / f"samples-{done:06d}.png", trainer.result(done).sample(64))
                if done % checkpoint_every == 0 or done == until or over:
                    trainer.save(done)
                bar.update()
                if over:
                    break
        return trainer.result(trainer.step)


class _Trainer:
    """State of one run: networks, optimisers, random numbers, counters."""

    def __init__(
        self,
        settings: WganSettings,
        data: ImageData,
        seed: int,
        options: DeviceOptions,
        device: torch.device,
        log_every: int,
    ) -> None:
        self.settings, self.seed, self.options, self.device = settings, seed, options, device
        self.run_name = {
            **asdict(settings),
            "seed": seed,
            "data": data.name,
            "data_sha256": data.sha256,
            "log_every": log_every,
            "device": device.type,
            "tf32": options.tf32,
            "bfloat16": options.bfloat16,
            "channels_last": options.channels_last,
            "graph": options.graph,
        }
        if options.graph:
            require_capturable(settings)
        self.layout = torch.channels_last if options.channels_last else torch.contiguous_format
        critic, generator = build_networks(settings, data.shape, seed)
        self.critic = critic.to(device, memory_format=self.layout)  # type: ignore[call-overload]
        self.generator = generator.to(device, memory_format=self.layout)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.generator) if settings.average else None
        self.optimizers = {
            "critic": self._optimizer(critic),
            "generator": self._optimizer(generator),
        }
        self.stream = ImageStream(
            data.images.to(device), settings.critic_steps * settings.batch, seed
        )
        self.noise = seeded_stream(seed, 1, device)
        torch.default_generator.manual_seed(seeded_stream(seed, 2).initial_seed())
        if device.type == "cuda":
            torch.cuda.manual_seed(seeded_stream(seed, 2).initial_seed())
        worst = WorstPoints(settings.worst_points) if settings.worst_points else None
        self.memory = Memory(worst, torch.ones((), device=device))
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=device)
        self.peak = torch.zeros((), dtype=torch.float64, device=device)
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        self.rates = torch.zeros(settings.critic_steps + 1, device=device)
        self.step = self.window = 0
        self.history: list[dict[str, float]] = []
        self.folder: Path | None = None
        self.earlier, self.started = 0.0, time.perf_counter()
        self.replay: Any = None
        self.warm = 0
        self.reals = self._fixed_images()
        if options.bfloat16:
            self._require_bfloat16()

    # -- one iteration ---------------------------------------------------------------------------

    def run(self, step: int) -> None:
        """Do iteration `step`, counted from 0."""
        self.step = step
        self.stream.go_to(step)
        self.rates.copy_(torch.tensor(learning_rates(self.settings, step)))
        try:
            if self.replay is not None:
                self.replay()
            elif self.options.graph:
                self._warm_up(step)
            else:
                self.iterate(first=step == 0)
        except ValueError as error:  # the penalties refuse what is not finite
            if "finite" not in str(error):
                raise
            raise FloatingPointError(self._diagnosis(str(error))) from error
        if self.replay is None and not bool(self.finite):
            raise FloatingPointError(self._diagnosis("a loss"))
        self.step = step + 1
        self.window += 1

    def iterate(self, first: bool = False) -> None:
        """Train the critic several times and the generator once, without asking for any value."""
        s = self.settings
        images = self.stream.take()
        if s.generator_first and not first:
            self._generator_step()
        for number, part in enumerate(torch.split(images, s.batch)):
            self._critic_step(part, number)
        if not s.generator_first:
            self._generator_step()

    def _critic_step(self, images: Tensor, number: int) -> None:
        """Take one step of the critic's optimiser."""
        s = self.settings
        real = to_floats(images, flip=s.flip, dequantise=s.dequantise, generator=self.noise)
        real = real.contiguous(memory_format=self.layout)
        with torch.no_grad():
            fake = self._generate(s.batch, moves=s.statistics == "every_pass").float()
        optimizer = self.optimizers["critic"]
        # A constrained layer is evaluated several times a step; its weight is computed once.
        with self._autocast(), parametrize.cached():
            terms = critic_terms(s, self.critic, real, fake, self.memory, self.noise)
            optimizer.zero_grad(set_to_none=True)
            terms.loss.backward()  # type: ignore[no-untyped-call]
        self._update(optimizer, number)
        if s.objective == "clip":
            clip_weights(self.critic, s.clip)
        zero = torch.zeros_like(terms.gap)
        slopes = terms.slopes
        parts = [terms.gap, terms.penalty, terms.loss.detach(), terms.violations]
        parts += [zero if slopes is None else slopes.mean(), zero]
        self.sums += torch.stack([part.double() for part in parts])
        if slopes is not None:
            torch.maximum(self.peak, slopes.max().double(), out=self.peak)
        self.finite &= torch.isfinite(terms.loss.detach())

    def _generator_step(self) -> None:
        """Take one step of the generator's optimiser; the critic stays as it is."""
        s, optimizer = self.settings, self.optimizers["generator"]
        self.critic.requires_grad_(False)
        with self._autocast(), copied_buffers(self.critic), parametrize.cached():
            fake = self._generate(s.generator_batch, moves=True)
            loss = generator_loss(self.critic, fake, self.memory.scale)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        self.critic.requires_grad_(True)
        self._update(optimizer, s.critic_steps)
        if self.average is not None:
            with torch.no_grad():
                for mean, weight in zip(
                    self.average.parameters(), self.generator.parameters(), strict=True
                ):
                    mean.lerp_(weight, 1 - s.average)
                for kept, buffer in zip(
                    self.average.buffers(), self.generator.buffers(), strict=True
                ):
                    kept.copy_(buffer)
        self.sums[-1] += loss.detach()
        self.finite &= torch.isfinite(loss.detach())

    def _generate(self, n: int, *, moves: bool) -> Tensor:
        """Make images; `moves` says whether the pass moves the running statistics."""
        shape = (n, self.settings.latent)
        z = torch.randn(shape, generator=self.noise, device=self.device)
        with contextlib.nullcontext() if moves else copied_buffers(self.generator):
            with self._autocast():
                return self.generator(z).contiguous(memory_format=self.layout)

    def _update(self, optimizer: torch.optim.Optimizer, number: int) -> None:
        """Step with this sub-step's learning rate, which lies on the device."""
        for group in optimizer.param_groups:
            group["lr"].copy_(self.rates[number])
        optimizer.step()

    def _optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Make an optimiser whose learning rate is a tensor on the device."""
        s, cuda = self.settings, self.device.type == "cuda"
        rate = torch.tensor(s.learning_rate, device=self.device)
        if s.optimizer == "rmsprop":
            return torch.optim.RMSprop(
                network.parameters(), rate, eps=s.epsilon, foreach=False, capturable=cuda
            )
        return torch.optim.Adam(
            network.parameters(), rate, s.betas, s.epsilon, fused=True, capturable=cuda
        )

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        """Compute in bfloat16, if that is wanted."""
        if not self.options.bfloat16:
            return contextlib.nullcontext()
        # A cache of weights would outlive the step that changes them inside a captured graph.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def _warm_up(self, step: int) -> None:
        """Run the first iterations on a side stream; then capture, and replay from now on."""
        if self.warm < WARM_UP:
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self.iterate(first=step == 0)
            torch.cuda.current_stream().wait_stream(side)
            self.warm += 1
            return
        self.replay = capture(self.iterate, self.noise)
        self.replay()

    # -- what is seen ----------------------------------------------------------------------------

    def log(self, step: int) -> dict[str, float]:
        """Add a line to the history; return what a progress bar shows."""
        if not bool(self.finite):
            raise FloatingPointError(self._diagnosis("a loss"))
        s = self.settings
        sums = dict(zip(SUMS, self.sums.tolist(), strict=True))
        line = {name: value / (self.window * s.critic_steps) for name, value in sums.items()}
        line["generator_loss"] = sums["generator_loss"] / self.window
        line["largest_slope"] = float(self.peak)
        if s.objective in ("none", "clip", "sn"):  # which measure no slope
            for name in ("penalty", "violations", "slope", "largest_slope"):
                del line[name]
        fakes = to_floats(
            self.result(step).sample(len(self.reals)).to(self.device), dequantise=False
        )
        for name, x in (("real", self.reals), ("fake", fakes)):
            norms = gradient_norm_quantiles(self.critic, x, LEVELS)
            for level, norm in zip(LEVELS, norms, strict=True):
                line[f"gradient_norm_{name}_{level:g}"] = norm
        if self.options.bfloat16:
            line["bfloat16_error"] = self._bfloat16_error()
        self.history.append({"step": step, **line})
        self.sums.zero_()
        self.peak.zero_()
        self.window = 0
        if self.folder is not None:
            write_scalars(self.folder / "scalars.jsonl", self.history)
        return {name: round(line[name], 3) for name in ("gap", "violations") if name in line}

    def result(self, step: int) -> WganRun:
        """Hand the networks over as they are."""
        seconds = self.earlier + time.perf_counter() - self.started
        generator = self.generator if self.average is None else self.average
        return WganRun(self.critic, generator, self.settings, step, self.history, seconds)

    def _fixed_images(self) -> Tensor:
        """Real images at which gradient norms are taken, the same in every line of the log."""
        g = seeded_stream(self.seed, 4)
        images = self.stream.images
        rows = torch.randperm(len(images), generator=g)[:100].to(self.device)
        return to_floats(images[rows], dequantise=False).contiguous(memory_format=self.layout)

    def _bfloat16_error(self) -> float:
        """Relative error of the quotient at the smallest radius, at fixed images."""
        g = seeded_stream(self.seed, 5, self.device)
        return bfloat16_error(self.critic, self.reals, self.settings.radius[0], g)

    def _require_bfloat16(self) -> None:
        """Refuse bfloat16 where it would decide the quotients."""
        error = self._bfloat16_error()
        if not error <= self.options.tolerance:
            raise ValueError(
                f"bfloat16 must get the quotient at radius {self.settings.radius[0]:g} right to"
                f" {self.options.tolerance:g}; its relative error is {error:.3g}"
            )

    def _diagnosis(self, what: str) -> str:
        """Say what went bad, where, and what is left."""
        bad = []
        for name, network in (("critic", self.critic), ("generator", self.generator)):
            found = {
                key: bool(torch.isfinite(value).all()) for key, value in network.named_parameters()
            }
            if wrong := [key for key, finite in found.items() if not finite]:
                bad.append(f"{name} {len(wrong)} of {len(found)} ({wrong[0]} first)")
        sums = dict(zip(SUMS, self.sums.tolist(), strict=True))
        first = next((name for name, value in sums.items() if not math.isfinite(value)), "")
        saved = "none" if self.folder is None else str(self.folder / "checkpoint.pt")
        if self.folder is not None and not (self.folder / "checkpoint.pt").is_file():
            saved = "none yet"
        return (
            f"the loss is not finite in iteration {self.step + 1}: {what}"
            + (f"; first bad part: {first}" if first else "")
            + f"; largest slope since the last line of the log {float(self.peak):.4g}"
            + f"; parameters that are not finite: {', '.join(bad) or 'none'}"
            + f"; last good checkpoint: {saved}"
        )

    # -- checkpoints -----------------------------------------------------------------------------

    def open(self, folder: Path | None, resume: bool) -> int:
        """Take up the run in a folder, or begin one; return the iterations done."""
        if folder is None:
            if resume:
                raise ValueError("resume needs an output folder; got none")
            return 0
        self.folder, path = folder, folder / "checkpoint.pt"
        if path.exists() and not resume:
            raise ValueError(f"{path} is there already: resume the run, or name another folder")
        if path.exists():
            self.load(read_checkpoint(path, self.run_name, device=self.device))
        text = json.dumps(self.run_name, indent=2) + "\n"
        write_atomically(folder / "settings.json", text.encode())
        write_scalars(folder / "scalars.jsonl", self.history)
        return self.step

    def save(self, step: int) -> None:
        """Write a checkpoint of a state whose losses were finite."""
        if self.folder is None:
            return
        if not bool(self.finite):
            raise FloatingPointError(self._diagnosis("a loss"))
        write_checkpoint(self.folder / "checkpoint.pt", self.state(step))

    def state(self, step: int) -> dict[str, Any]:
        """Everything a run needs to continue after `step` iterations."""
        worst = self.memory.worst
        return {
            "run": self.run_name,
            "step": step,
            "seconds": self.result(step).seconds,
            "critic": self.critic.state_dict(),
            "generator": self.generator.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizers": {k: o.state_dict() for k, o in self.optimizers.items()},
            "noise": self.noise.get_state(),
            "global": [g.get_state() for g in self._global_generators()],
            "worst": None if worst is None else worst.points,
            "scale": self.memory.scale,
            "sums": self.sums,
            "peak": self.peak,
            "window": self.window,
            "history": self.history,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Put a state back."""
        self.critic.load_state_dict(state["critic"])
        self.generator.load_state_dict(state["generator"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.noise.set_state(state["noise"].cpu())
        for generator, kept in zip(self._global_generators(), state["global"], strict=True):
            generator.set_state(kept.cpu())
        if self.memory.worst is not None:
            self.memory.worst.points = state["worst"]
        self.memory.scale.copy_(state["scale"])
        self.sums.copy_(state["sums"])
        self.peak.copy_(state["peak"])
        self.window, self.history = int(state["window"]), list(state["history"])
        self.step, self.earlier = int(state["step"]), float(state["seconds"])

    def _global_generators(self) -> list[torch.Generator]:
        """Return the generators that dropout draws from."""
        if self.device.type != "cuda":
            return [torch.default_generator]
        index = torch.cuda.current_device() if self.device.index is None else self.device.index
        return [torch.default_generator, torch.cuda.default_generators[index]]


def learning_rates(settings: WganSettings, step: int) -> list[float]:
    """Learning rate of each critic step of an iteration, then that of the generator step."""
    s, n = settings, settings.critic_steps
    share = 1 - step / s.iterations if s.decay == "linear" else 1.0
    rates = [s.learning_rate * share] * (n + 1)
    if s.shared_counter:
        # One Adam for both networks: its count t includes the steps of the other network.
        own = [step * n + j + 1 for j in range(n)] + [step + 1]
        common = [step * (n + 1) + j + 1 for j in range(n + 1)]
        for j, (t, shared) in enumerate(zip(own, common, strict=True)):
            rates[j] *= _correction(s.betas, shared) / _correction(s.betas, t)
    return rates


def _correction(betas: tuple[float, float], t: int) -> float:
    """Factor by which Adam corrects the bias of its averages after t steps."""
    return math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)


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
