"""LipSDP: the library's interior-point method against general solvers.

Ours against Clarabel, SCS and, where it is installed, CVXOPT by way of cvxpy, in one run, in CPU
time on one thread. All get the same program, already made small (the smaller of input and output
serves as input), and the reading of the network is in our time, not in theirs. Theirs holds cvxpy's
translation; it is a small part. Clarabel's cost grows with the sixth power of the size N of the
matrix, so programs above --largest are ours alone. "off" is the relative distance of a solver's raw
value to ours: a negative one is a number below the optimum, which is no bound. CVXOPT is not among
the locked packages; without it its column says "absent".

`bounds_sizes.py` has time and size of every bound.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import cvxpy
import numpy as np
import torch
from torch import nn

from lipnb.bounds import Bound, lipsdp
from lipnb.bounds.balance import balanced_program
from lipnb.bounds.feedback import read_feedback
from lipnb.bounds.interior_point import Program
from lipnb.models import mlp

NETWORKS = [
    [8, 16, 16, 1],
    [784, 50, 10],
    [2, 20, 40, 20, 1],
    [20, 50, 50, 50, 1],
    [20] * 21 + [1],
]
LARGE = [[784, 256, 10], [784, 512, 10], [784, 256, 256, 10], [50] * 11 + [1]]
SOLVERS = ("CLARABEL", "SCS", "CVXOPT")


def random_network(widths: list[int]) -> nn.Sequential:
    """Normal weights of variance 1 / n_in."""
    network = mlp(widths, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for layer in network[::2]:
        noise = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64)
        layer.weight.data = noise / math.sqrt(layer.in_features)
    return network


def cpu_seconds(run: Callable[[], float]) -> tuple[float, float]:
    """Value and CPU time."""
    start = time.process_time()
    value = run()
    return value, time.process_time() - start


def general(program: Program, size: int, solver: str) -> float:
    """Solve the same program with cvxpy, and return the raw bound."""
    n, total = program.rows.shape
    t, rho = cvxpy.Variable(n, nonneg=True), cvxpy.Variable(nonneg=True)
    b = np.hstack([np.zeros((n, total - n)), np.eye(n)])
    a = program.rows
    mixed = a.T @ cvxpy.diag(cvxpy.multiply(program.low + program.high, t)) @ b
    m = 2 * b.T @ cvxpy.diag(t) @ b - mixed - mixed.T - program.cost
    if program.low.any():
        m += 2 * a.T @ cvxpy.diag(cvxpy.multiply(program.low * program.high, t)) @ a
    first = np.diag((np.arange(total) < program.size).astype(float))
    problem = cvxpy.Problem(cvxpy.Minimize(rho), [m + rho * first >> 0])
    problem.solve(solver=solver)
    return math.ldexp(math.sqrt(max(float(rho.value), 0.0)), size)


def against_solvers(networks: list[list[int]], largest: int) -> None:
    """Print the table."""
    installed = cvxpy.installed_solvers()
    names = "".join(f"{name:>12s}  off" for name in ("Clarabel", "SCS", "CVXOPT"))
    print(f"LipSDP-Neuron         N     ours, CPU     gap^2{names}")
    for widths in networks:
        network = random_network(widths)
        feedback = read_feedback(network)
        program, size, _ = balanced_program(feedback, "neuron")
        size += feedback.exponent
        bounds: list[Bound] = []

        def own(network: nn.Sequential = network, bounds: list[Bound] = bounds) -> float:
            bounds.append(lipsdp(network))
            return bounds[-1].value

        value, seconds = min((cpu_seconds(own) for _ in range(3)), key=lambda pair: pair[1])
        gap = bounds[-1].status.rsplit(" ", 1)[-1]
        row = f"{label(widths):18s} {len(program.cost):4d} {seconds:11.3f} s {gap:>9s}"
        for solver in SOLVERS:
            if solver not in installed or len(program.cost) > largest:
                row += f"{'absent' if solver not in installed else '-':>11s}     -"
                continue

            def other(program: Program = program, size: int = size, solver: str = solver) -> float:
                return general(program, size, solver)

            try:
                raw, theirs = cpu_seconds(other)
            except cvxpy.SolverError:
                row += f"{'failed':>11s}     -"
                continue
            row += f" {theirs / seconds:9.1f}x {raw / value - 1:+.0e}"
        print(row, flush=True)


def label(widths: list[int]) -> str:
    """784-50-10, or 20 x 21-1 for many equal ones."""
    if len(widths) > 6:
        return f"{len(widths) - 1} x {widths[0]}, {widths[-1]}"
    return "-".join(map(str, widths))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--largest", type=int, default=60, help="N up to which others run")
    parser.add_argument("--large", action="store_true", help="also networks of 784 inputs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    against_solvers(NETWORKS + (LARGE if given.large else []), given.largest)


if __name__ == "__main__":
    main()
