"""One run of the training engine: its log, its checkpoints, and what it says when it fails."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipnb.data import ImageData
from lipnb.training.wgan_batches import seeded_stream, to_floats
from lipnb.training.wgan_checkpoint import read_checkpoint, write_atomically, write_checkpoint
from lipnb.training.wgan_device import DeviceOptions, bfloat16_error
from lipnb.training.wgan_monitor import (
    EventLog,
    gradient_norm_quantiles,
    write_grid,
    write_scalars,
)
from lipnb.training.wgan_networks import WganRun
from lipnb.training.wgan_presets import WganSettings
from lipnb.training.wgan_steps import AlternatingSteps

__all__: list[str] = []

LEVELS = (0.05, 0.5, 0.95, 1.0)


class Trainer:
    """A run: its steps, its history, its folder."""

    def __init__(
        self,
        settings: WganSettings,
        data: ImageData,
        seed: int,
        options: DeviceOptions,
        device: torch.device,
        log_every: int,
    ) -> None:
        self.settings, self.seed, self.options = settings, seed, options
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
            "compiler": options.compiler,
        }
        self.steps = AlternatingSteps(settings, data.images, seed, options, device)
        self.step = self.window = 0
        self.history: list[dict[str, float]] = []
        self.folder: Path | None = None
        self.events: EventLog | None = None
        self.earlier, self.started = 0.0, time.perf_counter()
        self.reals = self._fixed_images()
        if options.bfloat16:
            self._require_bfloat16()

    def run(self, step: int) -> None:
        """Do iteration `step`, counted from 0, and stop where a loss is not finite."""
        self.step = step
        try:
            self.steps.advance(step)
        except ValueError as error:  # the penalties refuse what is not finite
            if "finite" not in str(error):
                raise
            raise FloatingPointError(self._diagnosis(str(error))) from error
        # A replayed graph is asked at the next line of the log, for each question makes it wait.
        if self.steps.replay is None:
            self._require_finite()
        self.step = step + 1
        self.window += 1

    def _require_finite(self) -> None:
        """Stop if a loss was not finite."""
        if not bool(self.steps.finite):
            raise FloatingPointError(self._diagnosis("a loss"))

    def log(self, step: int) -> dict[str, float]:
        """Add a line to the history; return what a progress bar shows."""
        self._require_finite()
        s, sums = self.settings, self.steps.totals()
        line = {name: value / (self.window * s.critic_steps) for name, value in sums.items()}
        line["generator_loss"] = sums["generator_loss"] / self.window
        line["largest_slope"] = float(self.steps.peak)
        if s.objective in ("none", "clip", "sn"):  # which measure no slope
            for name in ("penalty", "violations", "slope", "largest_slope"):
                del line[name]
        fakes = to_floats(
            self.result(step).sample(len(self.reals)).to(self.steps.device), dequantise=False
        )
        for name, x in (("real", self.reals), ("fake", fakes)):
            norms = gradient_norm_quantiles(self.steps.critic, x, LEVELS)
            for level, norm in zip(LEVELS, norms, strict=True):
                line[f"gradient_norm_{name}_{level:g}"] = norm
        if self.options.bfloat16:
            line["bfloat16_error"] = self._bfloat16_error()
        self.history.append({"step": step, **line})
        self.steps.sums.zero_()
        self.steps.peak.zero_()
        self.window = 0
        if self.folder is not None:
            write_scalars(self.folder / "scalars.jsonl", self.history)
        if self.events is not None:
            self.events.write(step, line)
        return {name: round(line[name], 3) for name in ("gap", "violations") if name in line}

    def draw(self, step: int) -> None:
        """Write a grid of fixed z."""
        if self.folder is None:
            return
        images = self.result(step).sample(64)
        write_grid(self.folder / f"samples-{step:06d}.png", images)
        if self.events is not None:
            self.events.write_images(step, images)

    def result(self, step: int) -> WganRun:
        """Hand the networks over as they are."""
        seconds = self.earlier + time.perf_counter() - self.started
        generator = self.steps.generator if self.steps.average is None else self.steps.average
        return WganRun(self.steps.critic, generator, self.settings, step, self.history, seconds)

    def _fixed_images(self) -> Tensor:
        """Real images at which gradient norms are taken, the same in every line of the log."""
        g = seeded_stream(self.seed, 4)
        images = self.steps.stream.images
        rows = torch.randperm(len(images), generator=g)[:100].to(self.steps.device)
        return to_floats(images[rows], dequantise=False).contiguous(memory_format=self.steps.layout)

    def _bfloat16_error(self) -> float:
        """Relative error of the quotient at the smallest radius, at fixed images."""
        g = seeded_stream(self.seed, 5, self.steps.device)
        return bfloat16_error(self.steps.critic, self.reals, self.settings.radius[0], g)

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
        for name, network in (("critic", self.steps.critic), ("generator", self.steps.generator)):
            found = {
                key: bool(torch.isfinite(value).all()) for key, value in network.named_parameters()
            }
            if wrong := [key for key, finite in found.items() if not finite]:
                bad.append(f"{name} {len(wrong)} of {len(found)} ({wrong[0]} first)")
        sums = self.steps.totals()
        first = next((name for name, value in sums.items() if not math.isfinite(value)), "")
        saved = "none" if self.folder is None else str(self.folder / "checkpoint.pt")
        if self.folder is not None and not (self.folder / "checkpoint.pt").is_file():
            saved = "none yet"
        return (
            f"the loss is not finite in iteration {self.step + 1}: {what}"
            + (f"; first bad part: {first}" if first else "")
            + f"; largest slope since the last line of the log {float(self.steps.peak):.4g}"
            + f"; parameters that are not finite: {', '.join(bad) or 'none'}"
            + f"; last good checkpoint: {saved}"
        )

    def open(self, folder: Path | None, resume: bool, tensorboard: bool) -> int:
        """Take up the run in a folder, or begin one; return the iterations done."""
        if folder is None:
            if resume or tensorboard:
                what = "resume" if resume else "tensorboard"
                raise ValueError(f"{what} needs an output folder; got none")
            return 0
        self.folder, path = folder, folder / "checkpoint.pt"
        if path.exists() and not resume:
            raise ValueError(f"{path} is there already: resume the run, or name another folder")
        if path.exists():
            self.load(read_checkpoint(path, self.run_name, device=self.steps.device))
        text = json.dumps(self.run_name, indent=2) + "\n"
        write_atomically(folder / "settings.json", text.encode())
        write_scalars(folder / "scalars.jsonl", self.history)
        if tensorboard:
            self.events = EventLog(folder / "events", self.step)
        return self.step

    def close(self) -> None:
        """Close what is open."""
        if self.events is not None:
            self.events.close()

    def save(self, step: int) -> None:
        """Write a checkpoint of a state whose losses were finite."""
        if self.folder is None:
            return
        self._require_finite()
        write_checkpoint(self.folder / "checkpoint.pt", self.state(step))

    def state(self, step: int) -> dict[str, Any]:
        """Everything a run needs to continue after `step` iterations."""
        return {
            "run": self.run_name,
            "step": step,
            "seconds": self.result(step).seconds,
            "window": self.window,
            "history": self.history,
            **self.steps.state(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Put a state back."""
        self.steps.load(state)
        self.window, self.history = int(state["window"]), list(state["history"])
        self.step, self.earlier = int(state["step"]), float(state["seconds"])
