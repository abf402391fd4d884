"""Toy networks trained side by side against one after another: ratios of CPU time in one run.

The plain loop is what one writes first: nn.Sequential, the penalties of lipnb, torch's Adam, one
network after the other. The stack trains the same networks on as many points per update. Rounds of
both are interleaved, on one thread, and the ratio is taken round by round. Both sides compute in
float64, which the quotients of ALP need; the unpenalised networks are measured in float32 as well,
where less time goes into products and more into overhead, which is what the stack saves.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from lipnb.models import mlp
from lipnb.regularizers import adversarial_lipschitz_penalty, gradient_penalty
from lipnb.training.toy import WIDTHS, Panel, Settings, _Trainer
from lipnb.training.toy_problem import HALF_WIDTH, target

ALP = "adversarial_lipschitz_penalty"
# Kind, and the ratio to beat: what a first batched version reached elsewhere.
KINDS = {
    "none": (Panel("none"), 12.0),
    "none, float32": (Panel("none"), 12.0),
    "LP": (Panel("lipschitz_penalty", 1.0), 3.0),
    "ALP k=1": (Panel(ALP, 1.0, 1), 2.2),
    "ALP k=5": (Panel(ALP, 1.0, 5), 1.8),
}


class PlainLoop:
    """The same networks, one after another."""

    def __init__(
        self, panel: Panel, copies: int, settings: Settings, dtype: torch.dtype = torch.float64
    ) -> None:
        self.panel, self.settings, self.dtype = panel, settings, dtype
        self.g = torch.Generator().manual_seed(0)
        self.networks = [mlp(WIDTHS, generator=self.g, dtype=dtype) for _ in range(copies)]
        self.optimizers = [torch.optim.Adam(net.parameters(), 1e-3) for net in self.networks]

    def points(self, n: int) -> torch.Tensor:
        return (2 * torch.rand(n, 2, generator=self.g, dtype=self.dtype) - 1) * HALF_WIDTH

    def update(self) -> None:
        for net, optimizer in zip(self.networks, self.optimizers, strict=True):
            x = self.points(self.settings.batch)
            loss = (net(x).squeeze(1) - target(x)).square().mean()
            if self.panel.method == "lipschitz_penalty":
                z = self.points(self.settings.regularization_batch)
                loss = loss + self.panel.weight * gradient_penalty(net, z, one_sided=True).loss
            elif self.panel.method == ALP:
                z = self.points(self.settings.regularization_batch)
                penalty = adversarial_lipschitz_penalty(
                    net,
                    z,
                    radius=self.settings.radius,
                    xi=self.settings.xi,
                    steps=self.panel.steps,
                    generator=self.g,
                )
                loss = loss + self.panel.weight * penalty.loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class SingleTrainer(_Trainer):
    """The stack in float32."""

    def __init__(self, panel: Panel, seeds: list[int], settings: Settings) -> None:
        super().__init__([(panel, seed) for seed in seeds], seeds, settings)
        parameters = list(self.stack.float().parameters())
        self.optimizer = torch.optim.Adam(parameters, settings.learning_rate, fused=True)

    def draw(self, step: int) -> None:
        super().draw(step)
        self.block = tuple(part.float() for part in self.block)


def measure(
    panel: Panel, copies: int, rounds: int, updates: int, *, single: bool
) -> list[tuple[float, float]]:
    """CPU milliseconds per update of all networks, plain and stacked, round by round."""
    settings, seeds = Settings(), list(range(copies))
    if single:
        plain = PlainLoop(panel, copies, settings, torch.float32)
        stack: _Trainer = SingleTrainer(panel, seeds, settings)
    else:
        plain = PlainLoop(panel, copies, settings)
        stack = _Trainer([(panel, seed) for seed in seeds], seeds, settings)
    step = 0
    times = []
    for turn in range(rounds + 1):
        start = time.process_time()
        for _ in range(updates):
            plain.update()
        middle = time.process_time()
        for _ in range(updates):
            stack.update(step)
            step += 1
        end = time.process_time()
        if turn:  # the first round warms up
            times.append(((middle - start) / updates * 1e3, (end - middle) / updates * 1e3))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=64)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{given.copies} networks, one thread, {given.rounds} rounds of {given.updates} updates")
    print("kind           plain ms  stack ms  ratio: median (lowest to highest)  to beat")
    for name, (panel, wanted) in KINDS.items():
        single = name.endswith("float32")
        times = measure(panel, given.copies, given.rounds, given.updates, single=single)
        ratios = [plain / stack for plain, stack in times]
        plain, stack = (statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"{name:13s} {plain:9.1f} {stack:9.1f}  {statistics.median(ratios):5.2f}"
            f" ({min(ratios):.2f} to {max(ratios):.2f}) {wanted:22.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
