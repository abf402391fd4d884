"""The alternating steps of a Wasserstein GAN: what one iteration computes, on any device."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipnb.constraints import clip_weights
from lipnb.regularizers import WorstPoints
from lipnb.regularizers._network import copied_buffers
from lipnb.training.wgan_batches import ImageStream, seeded_stream, to_floats
from lipnb.training.wgan_device import (
    DeviceOptions,
    capture,
    compile_networks,
    require_capturable,
)
from lipnb.training.wgan_networks import build_networks
from lipnb.training.wgan_objectives import Memory, critic_terms, generator_loss
from lipnb.training.wgan_presets import WganSettings

__all__ = ["AlternatingSteps", "learning_rates"]

WARM_UP = 3  # iterations before a graph is captured
# What is added up, once a critic step (the last: once a generator step).
SUMS = ("gap", "penalty", "critic_loss", "violations", "slope", "generator_loss")


class AlternatingSteps:
    """Networks, optimisers and random numbers of one run, and its iterations.

    Parameters
    ----------
    settings : WganSettings
        How to train.
    images : Tensor
        uint8, shape (n, c, h, w); they move to the device.
    seed : int
        From 0 to 4095. torch's global generators are seeded too, for dropout: fork them.
    options : DeviceOptions
        Precision, memory format, graph.
    device : torch.device
        Where.

    Raises
    ------
    ValueError
        If the images fit no network or are too few, or a graph or a compiler cannot be had.

    Examples
    --------
    >>> settings = WganSettings(channels=2, generator_channels=2, latent=2, batch=4)
    >>> images = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    >>> with torch.random.fork_rng():
    ...     steps = AlternatingSteps(settings, images, 0, DeviceOptions(), torch.device("cpu"))
    ...     steps.advance(0)
    >>> bool(steps.finite), steps.totals()["violations"]
    (True, 0.0)
    """

    def __init__(
        self,
        settings: WganSettings,
        images: Tensor,
        seed: int,
        options: DeviceOptions,
        device: torch.device,
    ) -> None:
        self.settings, self.options, self.device = settings, options, device
        if options.graph:
            require_capturable(settings)
        self.layout = torch.channels_last if options.channels_last else torch.contiguous_format
        critic, generator = build_networks(settings, _shape(images), seed)
        self.critic = critic.to(device, memory_format=self.layout)  # type: ignore[call-overload]
        self.generator = generator.to(device, memory_format=self.layout)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.generator) if settings.average else None
        compile_networks(settings, options.compiler, self.critic, self.generator)
        self.optimizers = {
            "critic": self._optimizer(critic),
            "generator": self._optimizer(generator),
        }
        self.stream = ImageStream(images.to(device), settings.critic_steps * settings.batch, seed)
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
        self.replay: Any = None
        self.warm = 0

    def advance(self, step: int) -> None:
        """Do iteration `step`, counted from 0."""
        self.stream.go_to(step)
        self.rates.copy_(torch.tensor(learning_rates(self.settings, step)))
        if self.replay is not None:
            self.replay()
        elif self.options.graph:
            self._warm_up(step)
        else:
            self.iterate(first=step == 0)

    def totals(self) -> dict[str, float]:
        """Return the sums since they were last set to zero, by name."""
        return dict(zip(SUMS, self.sums.tolist(), strict=True))

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

    def state(self) -> dict[str, Any]:
        """Everything that the next iteration depends on."""
        worst = self.memory.worst
        return {
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

    def _global_generators(self) -> list[torch.Generator]:
        """Return the generators that dropout draws from."""
        if self.device.type != "cuda":
            return [torch.default_generator]
        index = torch.cuda.current_device() if self.device.index is None else self.device.index
        return [torch.default_generator, torch.cuda.default_generators[index]]


def _shape(images: Tensor) -> tuple[int, int, int]:
    """Return channels, height and width."""
    channels, height, width = images.shape[1:]
    return channels, height, width


def learning_rates(settings: WganSettings, step: int) -> list[float]:
    r"""Compute the learning rates of one iteration.

    .. math:: \eta_i = \eta\, \Bigl(1 - \frac{i}{I}\Bigr)

    If both networks share the counter of one Adam, the rate of a network's step number t, which is
    step number T of both, is multiplied by what the corrections of the bias differ in:

    .. math:: \frac{\sqrt{1 - \beta_2^T}\,/\,(1 - \beta_1^T)}
        {\sqrt{1 - \beta_2^t}\,/\,(1 - \beta_1^t)}

    Parameters
    ----------
    settings : WganSettings
        With the number I of iterations.
    step : int
        Iteration i, from 0.

    Returns
    -------
    list of float
        One rate for each critic step, then that of the generator step.

    Examples
    --------
    >>> learning_rates(WganSettings(iterations=4, learning_rate=1.0, critic_steps=1), 1)
    [0.75, 0.75]
    """
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
