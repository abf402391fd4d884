"""The 2-D toy of Terjek (2020), appendix A.4: its networks, trained side by side."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipnb.constraints import power_iteration
from lipnb.models.stacked import StackedMLP
from lipnb.regularizers import adversarial_perturbation, lipschitz_penalty
from lipnb.training.toy_problem import HALF_WIDTH, target

__all__ = ["PANELS", "Panel", "Settings", "ToyRun", "train_toy"]

WIDTHS = (2, 20, 40, 20, 1)


@dataclass(frozen=True)
class Panel:
    """One trained panel of the figure.

    Attributes
    ----------
    method : str
        "none", "spectral_norm", "lipschitz_penalty" or "adversarial_lipschitz_penalty".
    weight : float
        Weight lambda of the penalty, 0 where there is none.
    steps : int
        Power iterations k of the adversarial search.
    """

    method: str
    weight: float = 0.0
    steps: int = 0

    @property
    def name(self) -> str:
        """Short name, as in the file names of the records."""
        short = {"none": "none", "spectral_norm": "sn", "lipschitz_penalty": "lp"}
        if self.method in short:
            return short[self.method] + (f"-lambda{self.weight:g}" if self.weight else "")
        return f"alp-k{self.steps}-lambda{self.weight:g}"


_LAMBDAS = (0.1, 1.0, 10.0)
PANELS = (
    Panel("none"),
    Panel("spectral_norm"),
    *(Panel("lipschitz_penalty", weight) for weight in _LAMBDAS),
    *(
        Panel("adversarial_lipschitz_penalty", weight, steps)
        for steps in (0, 1, 5)
        for weight in _LAMBDAS
    ),
)


@dataclass(frozen=True)
class Settings:
    """How the networks are trained; the defaults are the run of the book.

    Attributes
    ----------
    iterations : int
        Updates; the paper's number is 2^14.
    batch, regularization_batch : int
        Pairs (x, f(x)) and regularisation points per update.
    optimizer : {"adam", "sgd"}
        Adam with torch's defaults, or SGD with momentum 0.9.
    learning_rate : float
        Constant learning rate.
    radius : (float, float)
        Interval of epsilon, in the units of the square.
    xi : float
        Distance at which the search takes its gradient.
    reduction : {"mean_square", "mean"}
        Whether the excess over 1 is squared.
    batch_norm : bool
        Whether to normalise before each activation.
    running_gradient : bool
        Whether LP differentiates a normalised network with its running statistics, in place of
        those of the batch.
    """

    iterations: int = 2**14
    batch: int = 64
    regularization_batch: int = 1024
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    radius: tuple[float, float] = (1e-6, 1e-5)
    xi: float = 0.1
    reduction: str = "mean_square"
    batch_norm: bool = False
    running_gradient: bool = False


@dataclass
class ToyRun:
    """Trained networks and what was counted on the way.

    Attributes
    ----------
    stack : StackedMLP
        Network m belongs to `labels[m]`, in evaluation mode, constraints folded into the weights.
    labels : list of (Panel, int)
        Panel and seed of each network.
    violations : Tensor
        Share of regularisation points above slope 1, averaged over blocks of 64 updates, shape
        (blocks, M); NaN where nothing was measured.
    loss : Tensor
        Mean squared error on the training pairs, averaged likewise.
    settings : Settings
        How they were trained.
    seconds : float
        Time of the training of all of them, earlier parts of a resumed run included.
    """

    stack: StackedMLP
    labels: list[tuple[Panel, int]]
    violations: Tensor
    loss: Tensor
    settings: Settings = field(default_factory=Settings)
    seconds: float = 0.0


def train_toy(
    panels: Iterable[Panel],
    seeds: Sequence[int],
    settings: Settings | None = None,
    *,
    checkpoint: Path | str | None = None,
    progress: bool = False,
) -> ToyRun:
    """Train every panel with every seed, all side by side.

    The panels must share method and k, so that one batched pass serves all. Initial weights and
    data depend on the seed alone: panels of one seed see the same points, and a network comes out
    the same, up to rounding, whichever others are trained beside it.

    Parameters
    ----------
    panels : iterable of Panel
        Panels of one method and k.
    seeds : sequence of int
        Seeds.
    settings : Settings
        How to train.
    checkpoint : path, optional
        File written every 1024 updates and read at the start: a run that was stopped continues
        where it was and ends bit-identical.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    ToyRun
        The trained networks.

    Raises
    ------
    ValueError
        If the panels differ in method or k, the list is empty, the optimiser is unknown, or the
        checkpoint belongs to another run.
    FloatingPointError
        If a loss is not finite; the message names update and networks.

    Examples
    --------
    >>> run = train_toy([Panel("none")], [0, 1], Settings(iterations=64))
    >>> run.loss.shape
    torch.Size([1, 2])
    """
    settings = settings or Settings()
    panels, seeds = list(panels), list(seeds)
    if not panels or not seeds or len({(p.method, p.steps) for p in panels}) != 1:
        raise ValueError(
            "panels must share one method and k, and seeds must not be empty;"
            f" got {[p.name for p in panels]} and {seeds}"
        )
    labels = [(panel, seed) for panel in panels for seed in seeds]
    trainer = _Trainer(labels, seeds, settings)
    start = trainer.load(checkpoint)
    bar = _progress(range(start, settings.iterations), trainer.kind, progress)
    for step in bar:
        trainer.update(step)
        if checkpoint is not None and (step + 1) % 1024 == 0:
            trainer.save(checkpoint, step + 1)
    return trainer.finish()


class _Trainer:
    """State of one stack in training: networks, optimiser, counters."""

    def __init__(
        self, labels: list[tuple[Panel, int]], seeds: list[int], settings: Settings
    ) -> None:
        self.labels, self.seeds, self.settings = labels, seeds, settings
        self.started = time.perf_counter()
        self.kind = labels[0][0]
        generators = [_generator(seed, 0) for _, seed in labels]
        self.stack = StackedMLP(WIDTHS, generators, batch_norm=settings.batch_norm)
        # The search tolerates float32; the quotient at radius 1e-6 does not.
        generators = [_generator(seed, 0) for _, seed in labels]
        self.shadow = StackedMLP(
            WIDTHS, generators, batch_norm=settings.batch_norm, dtype=torch.float32
        ).requires_grad_(False)
        self.weights = torch.tensor([panel.weight for panel, _ in labels], dtype=torch.float64)
        parameters = list(self.stack.parameters())
        if settings.optimizer == "adam":
            self.optimizer: torch.optim.Optimizer = torch.optim.Adam(
                parameters, settings.learning_rate, fused=True
            )
        elif settings.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(parameters, settings.learning_rate, momentum=0.9)
        else:
            raise ValueError(f"optimizer must be 'adam' or 'sgd'; got {settings.optimizer!r}")
        self.us = []
        if self.kind.method == "spectral_norm":
            for weight in self.stack.weights:
                u = torch.ones(weight.shape[:-1], dtype=weight.dtype)
                self.us.append(power_iteration(weight.detach(), u, steps=15)[1])
        blocks = math.ceil(settings.iterations / 64)
        self.loss = torch.zeros(blocks, len(labels), dtype=torch.float64)
        self.violations = torch.zeros_like(self.loss)
        if self.kind.method in ("none", "spectral_norm"):
            self.violations.fill_(math.nan)

    def draw(self, step: int) -> None:
        """Draw the points of the next 64 updates, seed by seed, as far as the method needs them."""
        n, m = self.settings.batch, self.settings.regularization_batch
        low, high = self.settings.radius
        parts: list[list[Tensor]] = []
        for seed in self.seeds:
            g = _generator(seed, 1 + step // 64)
            x = (2 * torch.rand(64, n, 2, generator=g, dtype=torch.float64) - 1) * HALF_WIDTH
            part = [x]
            if self.kind.method in ("lipschitz_penalty", "adversarial_lipschitz_penalty"):
                z = (2 * torch.rand(64, m, 2, generator=g, dtype=torch.float64) - 1) * HALF_WIDTH
                part.append(z)
            if self.kind.method == "adversarial_lipschitz_penalty":
                part.append(torch.randn(64, m, 2, generator=g))
                part.append(low + (high - low) * torch.rand(64, m, generator=g))
            parts.append(part)
        copies = len(self.labels) // len(self.seeds)
        x, *rest = (
            torch.cat([torch.stack(part, dim=1)] * copies, dim=1)
            for part in zip(*parts, strict=True)
        )
        self.block = (x, target(x), *rest)

    def update(self, step: int) -> None:
        """Take one step of the optimiser."""
        if step % 64 == 0 or not hasattr(self, "block"):
            self.draw(step)
        x, y, *rest = (part[step % 64] for part in self.block)
        weights = self._normalised() if self.us else None
        error = (self.stack(x, weights, update=True) - y).square().mean(dim=1)
        loss = error
        if self.kind.method == "lipschitz_penalty":
            gradient = self.stack.input_gradient(rest[0], folded=self.settings.running_gradient)
            loss = error + self._penalty(torch.linalg.vector_norm(gradient, dim=-1), step)
        elif self.kind.method == "adversarial_lipschitz_penalty":
            loss = error + self._penalty(self._slopes(*rest), step)
        if not bool(torch.isfinite(loss).all()):
            bad = [
                f"{panel.name} seed {seed}"
                for (panel, seed), finite in zip(self.labels, torch.isfinite(loss), strict=True)
                if not finite
            ]
            raise FloatingPointError(f"the loss is not finite at update {step}: {bad}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()  # a sum over networks keeps each one's gradient its own
        self.optimizer.step()
        self.loss[step // 64] += error.detach() / 64

    def _slopes(self, z: Tensor, noise: Tensor, epsilon: Tensor) -> Tensor:
        """Quotients |f(z) - f(z + r_adv)| / |r_adv|, shape (M, m)."""
        f, points = self.stack.flat(), z.reshape(-1, 2)
        output = f(points)
        with torch.no_grad():
            for copy, original in zip(
                self.shadow.parameters(), self.stack.parameters(), strict=True
            ):
                copy.copy_(original)
        r = adversarial_perturbation(
            self.shadow.flat(),
            points.float(),
            output=output.float(),
            radius=epsilon.flatten(),
            xi=self.settings.xi,
            steps=self.kind.steps,
            start=noise.reshape(-1, 2),
        )
        penalty = lipschitz_penalty(f, points, points + r.double(), output=output)
        return penalty.slopes.view(len(self.labels), -1)

    def _penalty(self, slopes: Tensor, step: int) -> Tensor:
        """Weighted penalty of each network, shape (M,)."""
        excess = (slopes - 1).clamp_min(0)
        self.violations[step // 64] += (excess.detach() > 0).double().mean(dim=1) / 64
        if self.settings.reduction == "mean_square":
            excess = excess.square()
        elif self.settings.reduction != "mean":
            raise ValueError(
                f"reduction must be 'mean_square' or 'mean'; got {self.settings.reduction!r}"
            )
        return self.weights * excess.mean(dim=1)

    def _normalised(self) -> list[Tensor]:
        """Weights divided by one power iteration's estimate of their largest singular value."""
        result = []
        for i, weight in enumerate(self.stack.weights):
            sigma, self.us[i] = power_iteration(weight, self.us[i])
            result.append(weight / sigma[:, None, None])
        return result

    def seconds(self) -> float:
        """Time since the start, earlier parts of a resumed run included."""
        return time.perf_counter() - self.started

    def state(self, step: int) -> dict[str, Any]:
        """Everything a run needs to continue after `step` updates."""
        return {
            "run": repr((self.labels, asdict(self.settings))),
            "step": step,
            "seconds": self.seconds(),
            "stack": self.stack.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "us": self.us,
            "loss": self.loss,
            "violations": self.violations,
        }

    def save(self, path: Path | str, step: int) -> None:
        """Write a checkpoint, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        torch.save(self.state(step), partial)
        os.replace(partial, path)

    def load(self, path: Path | str | None) -> int:
        """Continue from a checkpoint, if there is one; return the updates already done."""
        if path is None or not Path(path).exists():
            return 0
        state = torch.load(path, weights_only=True)
        wanted = self.state(0)["run"]
        if state.get("run") != wanted:
            raise ValueError(f"{path} belongs to another run: wanted {wanted}; got {state['run']}")
        self.stack.load_state_dict(state["stack"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.us, self.loss, self.violations = state["us"], state["loss"], state["violations"]
        self.started -= state["seconds"]
        return int(state["step"])

    def finish(self) -> ToyRun:
        """Fold the constraints into the weights and hand the networks over."""
        if self.us:
            with torch.no_grad():
                for weight in self.stack.weights:
                    weight /= torch.linalg.matrix_norm(weight, 2, keepdim=True)
        self.stack.eval().requires_grad_(False)
        seconds = self.seconds()
        return ToyRun(self.stack, self.labels, self.violations, self.loss, self.settings, seconds)


def _generator(seed: int, stream: int) -> torch.Generator:
    """Independent random stream of a seed: 0 for the weights, 1 + b for block b of the data."""
    if not 0 <= seed < 2**12 or not 0 <= stream < 2**20:
        raise ValueError(f"seed must be an integer from 0 to {2**12 - 1}; got {seed}")
    # torch's CPU generator looks at the lowest 32 bits of a seed and at no others.
    return torch.Generator().manual_seed(seed * 2**20 + stream)


def _progress(steps: range, panel: Panel, show: bool) -> Iterable[int]:
    """Wrap the steps in a progress bar, if one is wanted."""
    if not show:
        return steps
    from tqdm import tqdm

    return tqdm(steps, desc=panel.name, mininterval=10)
