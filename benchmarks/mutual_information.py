"""Estimators of mutual information side by side against one at a time: CPU time in one run.

Both sides train the same critics on the same data with the same seeds, and come out alike up to
rounding; the benchmark checks that before it prints a ratio. Rounds of both are interleaved, on
one thread, and the ratio is taken round by round. Reading the data, evaluation and diagnostics are
included on both sides.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from lipnb.training import correlated_gaussians, estimate_many, estimate_mutual_information

# What, and its settings; the first three are the sweep over rho of MINE's experiments.
KINDS: dict[str, dict[str, object]] = {
    "width 16, batch 64": {"width": 16, "batch": 64},
    "width 32, batch 128": {"width": 32, "batch": 128},
    "width 64, batch 256": {"width": 64, "batch": 256},
    "orthogonal": {"width": 32, "batch": 128, "lipschitz_constant": 4.0},
    "spectral": {"width": 32, "batch": 128, "lipschitz_constant": 4.0, "method": "sn"},
    "one-sided GP": {"width": 32, "batch": 128, "lipschitz_constant": 4.0, "method": "lp"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=13)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    torch.set_num_threads(1)
    seeds = list(range(given.copies))
    grid = torch.linspace(-0.9, 0.9, given.copies).tolist()
    pairs = [
        correlated_gaussians(rho, 2).sample(1000, torch.Generator().manual_seed(seed))
        for rho, seed in zip(grid, seeds, strict=True)
    ]
    print(f"{given.copies} estimators, one thread, {given.rounds} rounds of {given.steps} steps")
    print("kind                 one at a time s  together s  ratio: median (lowest to highest)")
    for name, settings in KINDS.items():
        settings = {"steps": given.steps, "check_every": given.steps} | settings
        times = []
        for turn in range(given.rounds + 1):
            start = time.process_time()
            alone = [
                estimate_mutual_information(x, y, seed=seed, **settings)
                for (x, y), seed in zip(pairs, seeds, strict=True)
            ]
            middle = time.process_time()
            together = estimate_many(pairs, seeds=seeds, **settings)
            end = time.process_time()
            for one, other in zip(alone, together, strict=True):
                if abs(one.value - other.value) > 0.02:
                    raise SystemExit(f"{name}: {one.value} alone, {other.value} together")
            if turn:  # the first round warms up
                times.append((middle - start, end - middle))
        ratios = [apart / joint for apart, joint in times]
        apart, joint = (statistics.median(column) for column in zip(*times, strict=True))
        print(
            f"{name:20s} {apart:16.2f} {joint:11.2f}  {statistics.median(ratios):6.2f}"
            f" ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
