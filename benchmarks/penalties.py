"""What a penalty costs on the critic of WGAN-GP: ratios to a plain critic step, in one run.

A step is the critic's loss on N real and N generated images (given, so the generator costs
nothing), its backward pass, and Adam's update. Counted are the operations of convolutions and
matrix products, which do not depend on the machine. Timed is CPU time on one thread: the variants
take turns in random order, each turn is divided by the plain step of its round, and the median over
rounds is printed with the lowest and the highest. Memory is the largest number of bytes of tensors
that are alive at once, of those that the step makes, gradients included; what a kernel allocates
within itself is not seen. The column of theory adds up passes: a plain step is three passes over
the 2N images (forward, backward to the activations, backward to the weights).

"ALR class" restates what the class published with adversarial Lipschitz regularisation does: it
copies the network, evaluates f(x) anew in each iteration, and lets every backward pass run through
the parameters. Its arithmetic is otherwise that of "ALP", the clamp to the images' range included.
"CT" has dropout in its critic. "xi -> 0" takes the direction from the graph of f(x).

There is no peer to install: of the packages looked at, wgangp-pytorch 0.1.4 has a gradient penalty
of the same passes as "GP" (with norms over the colours of a pixel in place of the whole image),
wgandiv-pytorch 0.1.2 has the penalty of another divergence, wgan-pytorch 0.1.2 has none, pidgan has
the adversarial penalty for TensorFlow only, and deel-torchlip 1.0.5, orthogonium 0.0.4 and geotorch
0.4.0 have layers and no penalties.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipnb.constraints import clip_weights
from lipnb.flops import count_flops
from lipnb.memory import peak_bytes
from lipnb.models import lean, wgan_critic
from lipnb.regularizers import (
    adversarial_lipschitz_penalty,
    consistency_penalty,
    gradient_penalty,
    interpolate,
    lipschitz_penalty,
)

RADIUS, XI, RANGE = (0.1, 10.0), 10.0, (-1.0, 1.0)
DROPOUT = (0.2, 0.5, 0.5)  # of CT-GAN; masks cost no operations that are counted
WEIGHT = 10.0

# From f, images x (real ones, then generated ones) and a generator to f(x) and a penalty's loss.
Method = Callable[[nn.Sequential, Tensor, torch.Generator], tuple[Tensor, Tensor | float]]


def plain(f: nn.Sequential, x: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor | float]:
    return f(x), 0.0


def explicit_pairs(
    f: nn.Sequential, x: Tensor, g: torch.Generator
) -> tuple[Tensor, Tensor | float]:
    y = f(x)
    (real, generated), (f_real, f_generated) = x.chunk(2), y.chunk(2)
    return y, lipschitz_penalty(lambda _: f_generated, real, generated, output=f_real).loss


def consistency(f: nn.Sequential, x: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor | float]:
    def passed(x: Tensor) -> tuple[Tensor, Tensor]:
        features = f[:-1](x)
        return f[-1](features), features

    y, features = passed(x)
    real, y_real, features_real = (tensor.chunk(2)[0] for tensor in (x, y, features))
    return y, consistency_penalty(passed, real, output=(y_real, features_real), generator=g).loss


def gradient(*, one_sided: bool) -> Method:
    def method(f: nn.Sequential, x: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor | float]:
        y = f(x)
        middle = interpolate(*x.chunk(2), generator=g)
        return y, gradient_penalty(f, middle, one_sided=one_sided).loss

    return method


def adversarial(steps: int, *, every: int = 1, xi: float = XI) -> Method:
    def method(f: nn.Sequential, x: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor | float]:
        x = x.detach().requires_grad_(xi == 0)
        y = f(x)
        # A slice would not be the x that y was computed from, as the limit of xi needs it.
        some = (x, y) if every == 1 else (x[::every], y[::every])
        penalty = adversarial_lipschitz_penalty(
            f,
            some[0],
            output=some[1],
            radius=RADIUS,
            xi=xi,
            steps=steps,
            domain=RANGE,
            generator=g,
        )
        return y, penalty.loss

    return method


def alr_class(steps: int) -> Method:
    """The passes of the class, in our words: its search comes first and shares nothing."""

    def unit(r: Tensor) -> Tensor:
        return nn.functional.normalize(r.flatten(1), dim=1).view_as(r)

    def search(f: nn.Sequential, x: Tensor, g: torch.Generator) -> Tensor:
        r = unit(torch.rand(x.shape, generator=g) - 0.5)
        for _ in range(steps):
            f.zero_grad()
            r.requires_grad_()
            moved = (x + XI * r).clamp(*RANGE)
            (f(x) - f(moved)).abs().mean().backward()
            assert r.grad is not None
            r = unit(r.grad).detach()
        low, high = RADIUS
        r = r * (low + (high - low) * torch.rand(len(x), 1, 1, 1, generator=g))
        length = r.flatten(1).norm(dim=1)
        outside = (length < low) | (length > high)
        return torch.where(outside.view(-1, 1, 1, 1), unit(torch.rand(x.shape, generator=g)), r)

    def method(f: nn.Sequential, x: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor | float]:
        moved = (x + search(copy.deepcopy(f), x, g)).clamp(*RANGE)
        y = f(x)
        run = (x - moved).flatten(1).norm(dim=1).clamp_min(1e-10)
        slope = (y - f(moved)).abs().squeeze(1) / run
        return y, (slope - 1).clamp_min(0).square().mean()

    return method


@dataclass
class Variant:
    """One row: a critic step, and the passes that it should cost, over those of a plain one."""

    theory: float
    method: Method = plain
    lean: bool = False
    dropout: tuple[float, ...] = ()
    clip: float | None = None


# Three passes of the plain step, and what is added to them. Of the N points of a gradient penalty
# each takes 6 or 4; of those of ALP each takes k passes forward and k back to the input, then one
# forward and two back. In the limit of xi the search is one pass back through the graph of f(x).
VARIANTS = {
    "plain": Variant(1.0),
    "plain, lean layers": Variant(1.0, lean=True),
    "weight clipping": Variant(1.0, clip=0.01),
    "explicit pairs": Variant(1.0, explicit_pairs),
    "CT": Variant(1 + 3 / 6, consistency, dropout=DROPOUT),
    "GP": Variant(1 + 6 / 6, gradient(one_sided=False)),
    "GP, lean layers": Variant(1 + 4 / 6, gradient(one_sided=False), lean=True),
    "LP": Variant(1 + 6 / 6, gradient(one_sided=True)),
    "LP, lean layers": Variant(1 + 4 / 6, gradient(one_sided=True), lean=True),
    "ALP k=0": Variant(1 + 3 / 3, adversarial(0)),
    "ALP k=1": Variant(1 + 5 / 3, adversarial(1)),
    "ALP k=1, lean layers": Variant(1 + 5 / 3, adversarial(1), lean=True),
    "ALP k=5": Variant(1 + 13 / 3, adversarial(5)),
    "ALP k=1, N points": Variant(1 + 5 / 6, adversarial(1, every=2)),
    "ALP k=1, xi -> 0": Variant(1 + 4 / 3, adversarial(1, xi=0.0)),
    "ALR class k=1": Variant(1 + 9 / 3, alr_class(1)),
    "ALR class k=5": Variant(1 + 33 / 3, alr_class(5)),
}


class Stepper:
    """A critic of its own, and one training step of it."""

    def __init__(self, variant: Variant, channels: int, batch: int) -> None:
        self.variant = variant
        self.generator = torch.Generator().manual_seed(0)
        critic = wgan_critic(channels, dropout=variant.dropout, generator=self.generator)
        self.critic = lean(critic) if variant.lean else critic
        self.x = 2 * torch.rand(2 * batch, 3, 32, 32, generator=self.generator) - 1
        self.optimizer = torch.optim.Adam(self.critic.parameters(), 2e-4, betas=(0.0, 0.9))

    def gradients(self) -> None:
        self.optimizer.zero_grad()
        y, penalty = self.variant.method(self.critic, self.x, self.generator)
        real, generated = y.chunk(2)
        (generated.mean() - real.mean() + WEIGHT * penalty).backward()

    def update(self) -> None:
        self.gradients()
        self.optimizer.step()
        if self.variant.clip is not None:
            clip_weights(self.critic, self.variant.clip)


def peak_memory(stepper: Stepper) -> int:
    """Largest number of bytes of live tensors in a step, without Adam's."""
    stepper.optimizer.zero_grad()
    return peak_bytes(stepper.gradients, stepper.x, *stepper.critic.parameters())


def measure(steppers: dict[str, Stepper], rounds: int, updates: int) -> dict[str, list[float]]:
    """CPU seconds per update and variant, round by round."""
    times: dict[str, list[float]] = {name: [] for name in steppers}
    order = list(steppers)
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        # A variant inherits memory and caches from the one before it: so none has a fixed place,
        # and the first step of a turn is not timed.
        shuffle(order)
        for name in order:
            steppers[name].update()
            start = time.process_time()
            for _ in range(updates):
                steppers[name].update()
            times[name].append((time.process_time() - start) / updates)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8, help="N: real images, and generated ones")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=2, help="steps per variant and round")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # dropout draws from the global generator
    steppers = {name: Stepper(v, given.channels, given.batch) for name, v in VARIANTS.items()}
    flops = {name: count_flops(stepper.gradients) for name, stepper in steppers.items()}
    memory = {name: peak_memory(stepper) for name, stepper in steppers.items()}
    times = measure(steppers, given.rounds, given.updates)
    plain = times["plain"]
    print(
        f"critic of WGAN-GP, {given.channels} channels, N = {given.batch}; one thread,"
        f" {given.rounds} rounds of {given.updates} updates\n"
        f"plain step: {flops['plain'] / 1e9:.2f} GFLOP, {memory['plain'] / 2**20:.1f} MiB of"
        f" tensors, {statistics.median(plain) * 1e3:.1f} ms of CPU time; below, ratios to it\n"
        "penalty                theory  FLOP  CPU time: median (lowest to highest)  memory"
    )
    for name, variant in VARIANTS.items():
        ratios = [one / two for one, two in zip(times[name], plain, strict=True)]
        print(
            f"{name:21s} {variant.theory:7.2f} {flops[name] / flops['plain']:5.2f}"
            f" {statistics.median(ratios):9.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            f" {memory[name] / memory['plain']:18.2f}"
        )


if __name__ == "__main__":
    main()
