"""Every bound over widths and depths, and the exact methods on published networks.

First two tables: random networks of 4 inputs and one output, weights normal with variance 1 / n_in
and biases normal with deviation 0.1, for the norms 2 and inf. Each cell holds the bound over the
best lower bound that any method found (1 is the truth, as far as it is known), and the CPU seconds
on one thread. Searches stop after --seconds; a "*" marks a value that is exact to 1e-6. A dash
marks a size that the method refuses.

Third table: networks trained by others, and one of 80 units with two inputs. Searches stop after
--seconds times 6. The bracket is lower..upper, or the exact value.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lipnb.bounds import (
    Bound,
    SearchBound,
    branch_and_bound,
    eclipse_fast,
    enumerate_polygons,
    geolip,
    liplt,
    lipmip,
    lipopt,
    lipsdp,
    moment_relaxation,
    product_bound,
    sampled_bound,
    seqlip,
    walk_bound,
)
from lipnb.models import mlp

KNOWN = Path(__file__).parents[1] / "tests" / "bounds" / "known_networks.json"
Method = Callable[..., Bound]


def layer_sdp(network: nn.Sequential, **options: Any) -> Bound:
    """LipSDP with one multiplier per layer."""
    return lipsdp(network, multipliers="layer", **options)


def small_seqlip(network: nn.Sequential, **options: Any) -> Bound:
    """SeqLip where it takes some seconds at most."""
    return seqlip(network, max_units=12, **options)


def small_moments(network: nn.Sequential, **options: Any) -> Bound:
    """The moment relaxation where it takes some seconds at most."""
    units = sum(layer.out_features for layer in network[:-1] if isinstance(layer, nn.Linear))
    if units > 4:
        raise ValueError(f"network must have at most 4 units; got {units}")
    return moment_relaxation(network, **options)


BOTH: dict[str, Method] = {
    "sampled": sampled_bound,
    "walk": walk_bound,
    "product": product_bound,
    "LipLT": liplt,
}
EUCLIDEAN: dict[str, Method] = BOTH | {
    "ECLipsE": eclipse_fast,
    "SeqLip": small_seqlip,
    "SDP-Layer": layer_sdp,
    "SDP-Neuron": lipsdp,
    "B&B": branch_and_bound,
}
CUBE: dict[str, Method] = BOTH | {
    "LiPopt": lipopt,
    "moments": small_moments,
    "GeoLIP": geolip,
    "B&B": branch_and_bound,
    "LipMIP": lipmip,
}
SEARCHES = (branch_and_bound, lipmip, enumerate_polygons)


def random_network(widths: list[int], gain: float = 1.0) -> nn.Sequential:
    """Normal weights of variance gain / n_in, and small biases."""
    network = mlp(widths, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for layer in network[::2]:
        noise = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
        layer.weight.data = noise * math.sqrt(gain / layer.in_features)
        noise = torch.randn(layer.bias.shape, generator=generator, dtype=torch.float64)
        layer.bias.data = 0.1 * noise
    return network


def measured(method: Method, network: nn.Sequential, **options: Any) -> tuple[Bound, float] | None:
    """A bound and its CPU time, or nothing where the method refuses the network."""
    start = time.process_time()
    try:
        bound = method(network, **options)
    except (TypeError, ValueError):
        return None
    return bound, time.process_time() - start


def over_sizes(
    methods: dict[str, Method], norm: float, widths: list[int], depths: list[int], seconds: float
) -> None:
    """Print one of the first two tables."""
    print(f"\nnorm {norm}: bound / best lower bound (CPU seconds); 4 inputs, one output")
    print("width depth " + "".join(f"{name:>17s}" for name in methods))
    for depth in depths:
        for width in widths:
            network = random_network([4, *([width] * depth), 1])
            found = {}
            for name, method in methods.items():
                limit = {"seconds": seconds} if method in SEARCHES or method is lipopt else {}
                found[name] = measured(method, network, norm=norm, **limit)
            bounds = [pair[0] for pair in found.values() if pair]
            lower = max(b.value for b in bounds if b.kind != "upper")
            lower = max([lower, *(b.lower for b in bounds if isinstance(b, SearchBound))])
            row = f"{width:5d} {depth:5d} "
            for pair in found.values():
                cell = "-"
                if pair:
                    star = "*" if pair[0].kind == "exact" else ""
                    cell = f"{pair[0].value / lower:.3g}{star} ({pair[1]:.0e})"
                row += cell.rjust(17)
            print(row, flush=True)


def published(seconds: float) -> None:
    """Print the third table."""
    print("\nexact methods: bracket (CPU seconds)")
    print(f"{'network':24s} {'norm':>4s}" + f"{'B&B':>28s}{'LipMIP':>28s}{'polygons':>28s}")
    cases: list[tuple[str, nn.Sequential, Any]] = []
    for name, data in json.loads(KNOWN.read_text())["networks"].items():
        if "groupsort" in name:
            continue
        widths = [len(data["weights"][0][0]), *(len(w) for w in data["weights"])]
        network = mlp(widths, dtype=torch.float64)
        for layer, w, b in zip(network[::2], data["weights"], data["biases"], strict=True):
            layer.weight.data = torch.tensor(w, dtype=torch.float64)
            layer.bias.data = torch.tensor(b, dtype=torch.float64)
        label = f"{name} {'-'.join(map(str, widths))}"
        cases += [(f"{label} box 1", network, (-1, 1)), (label, network, None)]
    plane = random_network([2, 20, 40, 20, 1], gain=2.0)
    cases += [("2-20-40-20-1 box 1", plane, (-1, 1)), ("2-20-40-20-1", plane, None)]
    for label, network, domain in cases:
        for norm in (2, math.inf) if domain else (2,):
            row = f"{label:24s} {norm:>4}"
            for method in SEARCHES:
                pair = measured(method, network, norm=norm, domain=domain, seconds=seconds)
                cell = "-"
                if pair and isinstance(pair[0], SearchBound):
                    bound = pair[0]
                    exact = bound.kind == "exact"
                    cell = (
                        f"{bound.value:.6g}" if exact else f"{bound.lower:.4g}..{bound.value:.4g}"
                    )
                    cell += f" ({pair[1]:.2g})"
                row += cell.rjust(28)
            print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="after which a search stops")
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 4, 8])
    given = parser.parse_args()
    torch.set_num_threads(1)
    for methods, norm in ((EUCLIDEAN, 2), (CUBE, math.inf)):
        over_sizes(methods, norm, given.widths, given.depths, given.seconds)
    published(6 * given.seconds)


if __name__ == "__main__":
    main()
