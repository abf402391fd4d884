"""lipnb.bounds.branch_and_bound and its semidefinite programs, against known answers."""

from __future__ import annotations

import importlib
import json
import math
import time
from pathlib import Path
from typing import Any

import cvxpy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipnb.bounds import (
    Bound,
    branch_and_bound,
    enumerate_regions,
    lipmip,
    product_bound,
    sampled_bound,
)
from lipnb.bounds.unit_intervals import slope_bound, slope_intervals
from lipnb.bounds.units import affine_pieces, read_units
from lipnb.bounds.units_sdp import Relaxation, certified_slope, units_sdp
from lipnb.models import GroupSort, mlp

NORMS = (1, 2, math.inf)
KNOWN = json.loads((Path(__file__).parent / "known_networks.json").read_text())
KINDS = ("dead", "duplicated", "opposite", "zero", "no bias", "near kink", "whole numbers", "none")
NOTHING = Bound(0.0, "lower", 2, None, 0.0, "nothing is known")
search_file = importlib.import_module("lipnb.bounds.branch_and_bound")


def network_of(weights: list[Any], biases: list[Any], activation: Any = nn.ReLU) -> nn.Sequential:
    widths = [len(weights[0][0]), *(len(w) for w in weights)]
    network = mlp(widths, activation, dtype=torch.float64)
    for layer, weight, bias in zip(linear(network), weights, biases, strict=True):
        layer.weight.data = torch.tensor(weight, dtype=torch.float64)
        layer.bias.data = torch.tensor(bias, dtype=torch.float64)
    return network


def linear(network: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in network if isinstance(layer, nn.Linear)]


def random_network(seed: int, widths: list[int], activation: Any = nn.ReLU) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    return mlp(widths, activation, generator=generator, dtype=torch.float64)


def change(network: nn.Sequential, kind: str, seed: int) -> nn.Sequential:
    """Make a network degenerate in a given way."""
    first, *_, last = linear(network)
    generator = torch.Generator().manual_seed(seed)
    if kind == "dead":
        first.bias.data[:2] = -50.0
    elif kind == "duplicated":
        first.weight.data[1], first.bias.data[1] = first.weight.data[0], first.bias.data[0]
    elif kind == "opposite":
        first.weight.data[1], first.bias.data[1] = -first.weight.data[0], -first.bias.data[0]
    elif kind == "zero":
        first.weight.data[0], first.weight.data[:, 0], last.weight.data[:, 1] = 0.0, 0.0, 0.0
    elif kind == "whole numbers":
        for p in network.parameters():
            p.data = torch.randint(-1, 2, p.shape, generator=generator).double()
    elif kind in ("no bias", "near kink"):
        for layer in linear(network):
            layer.bias.data *= 1e-7 if kind == "near kink" else 0.0
    return network


def identity() -> nn.Sequential:
    """x = relu(x) - relu(-x)."""
    return network_of([[[1.0], [-1.0]], [[1.0, -1.0]]], [[0.0, 0.0], [0.0]])


# Known answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", [None, (-1, 1)])
@pytest.mark.parametrize("norm", NORMS)
def test_identity_has_constant_one_and_not_two(norm: float, domain: Any) -> None:
    bound = branch_and_bound(identity(), norm=norm, domain=domain)
    assert (bound.value, bound.kind) == (pytest.approx(1.0, abs=1e-12), "exact")


def test_sliver_counts_and_gap_does_not() -> None:
    weights = [[[1.0], [-1.0]], [[1.0, -1.0]]]
    gap, sliver = (network_of(weights, [[b, b], [0.0]]) for b in (-1e-7, 1e-7))
    assert branch_and_bound(gap).value == pytest.approx(1.0)
    assert branch_and_bound(sliver).value == pytest.approx(2.0)
    assert branch_and_bound(sliver, margin=1e-6).value == pytest.approx(1.0)


@pytest.mark.parametrize("case", [c for c in KNOWN["constants"] if c["norm"] == "2"], ids=str)
def test_published_constant_everywhere(case: dict[str, Any]) -> None:
    sorting = "groupsort" in case["network"]
    network = network_of(
        **KNOWN["networks"][case["network"]],
        activation=(lambda: GroupSort(2)) if sorting else nn.ReLU,
    )
    bound = branch_and_bound(network, seconds=600)
    assert (bound.kind, bound.value) == ("exact", pytest.approx(case["value"], rel=1e-9))


@pytest.mark.parametrize("norm", NORMS)
def test_affine_map_is_one_node(norm: float) -> None:
    network = random_network(0, [4, 3])
    expected = torch.linalg.matrix_norm(network[0].weight.detach(), ord=norm).item()
    assert branch_and_bound(network, norm=norm).value == pytest.approx(expected, rel=1e-12)


# Against enumeration and the mixed-integer program ---------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    widths=st.sampled_from([[1, 6, 1], [2, 6, 1], [2, 4, 3, 2], [3, 4, 3, 1], [2, 3, 3, 3, 2]]),
    kind=st.sampled_from(KINDS),
    domain=st.sampled_from([None, (-1, 1), (0.2, 0.3), (-5, 50)]),
    norm=st.sampled_from(NORMS),
)
def test_equals_enumeration(
    seed: int, widths: list[int], kind: str, domain: Any, norm: float
) -> None:
    network = change(random_network(seed, widths), kind, seed)
    expected = enumerate_regions(network, norm=norm, domain=domain).value
    bound = branch_and_bound(network, norm=norm, domain=domain, seconds=600)
    assert bound.kind == "exact", bound.status
    assert bound.value == pytest.approx(expected, rel=2e-6, abs=1e-15), bound.status


def trained_network(widths: list[int], activation: Any = nn.ReLU) -> nn.Sequential:
    """A network that has learnt whether a point lies in a ball."""
    generator = torch.Generator().manual_seed(0)
    network = random_network(0, widths, activation)
    x = torch.rand(200, widths[0], generator=generator, dtype=torch.float64) * 2 - 1
    y = (x.norm(dim=1, keepdim=True) < 0.7).double()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        ((network(x) - y) ** 2).mean().backward()
        optimiser.step()
    return network


@pytest.mark.parametrize("domain", [None, (-1, 1)])
def test_trained_network(domain: Any) -> None:
    network = trained_network([2, 8, 4, 1])
    for norm in NORMS:
        expected = enumerate_regions(network, norm=norm, domain=domain).value
        bound = branch_and_bound(network, norm=norm, domain=domain, seconds=600)
        assert (bound.kind, bound.value) == ("exact", pytest.approx(expected, rel=2e-6))


@pytest.mark.parametrize("activation", [lambda: nn.LeakyReLU(0.3), lambda: GroupSort(2)])
def test_other_units_agree_with_the_mixed_integer_program(activation: Any) -> None:
    network = trained_network([2, 6, 4, 1], activation)
    for norm in NORMS:
        found = branch_and_bound(network, norm=norm, domain=(-1, 1))
        assert found.kind == "exact"
        assert lipmip(network, norm=norm, domain=(-1, 1)).value == pytest.approx(
            found.value, rel=2e-6
        )
        assert sampled_bound(network, norm=norm, domain=(-1, 1)).value <= found.value * (1 + 1e-9)


# Invariances -----------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(5)), power=st.integers(-12, 12))
def test_permuting_rescaling_and_rotating_changes_nothing(
    seed: int, order: list[int], power: int
) -> None:
    network = random_network(seed, [3, 5, 3, 2])
    before = branch_and_bound(network).value
    first, second, last = linear(network)
    first.weight.data = first.weight.data[order] * 10.0**power
    first.bias.data = first.bias.data[order] * 10.0**power
    second.weight.data = second.weight.data[:, order] / 10.0**power
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    first.weight.data @= torch.from_numpy(q)
    p, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(2, 2)))
    last.weight.data = torch.from_numpy(p) @ last.weight.data
    assert branch_and_bound(network).value == pytest.approx(before, rel=2e-6)


@pytest.mark.parametrize("power", [-9, 9])
def test_scale_of_the_output(power: int) -> None:
    network = random_network(3, [2, 5, 3, 1])
    before = branch_and_bound(network).value
    network[4].weight.data *= 10.0**power
    assert branch_and_bound(network).value == pytest.approx(before * 10.0**power, rel=2e-6)


# Early stops and failures ----------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_early_stop_gives_an_upper_bound_and_says_so(norm: float) -> None:
    network = random_network(1, [3, 8, 6, 2])
    exact = enumerate_regions(network, norm=norm, domain=(-1, 1)).value
    bound = branch_and_bound(network, norm=norm, domain=(-1, 1), seconds=1e-6)
    assert bound.kind == "upper" and bound.value >= exact
    assert bound.value <= product_bound(network, norm=norm).value
    assert 0 < bound.lower <= exact * (1 + 1e-12)
    assert bound.status.startswith(f"time is up: at least {bound.lower:.6g},")


@pytest.mark.parametrize("calls", [0, 1, 5])
def test_failure_of_the_solver_keeps_the_bound(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(1, [3, 8, 6, 2])
    exact = enumerate_regions(network).value
    solve, seen = search_file.inner_balls, []

    def fail_later(*arguments: Any) -> Any:
        seen.append(1)
        if len(seen) > calls:
            raise RuntimeError("no optimum")
        return solve(*arguments)

    monkeypatch.setattr(search_file, "inner_balls", fail_later)
    bound = branch_and_bound(network)
    assert bound.kind == "upper" and bound.value >= exact and "no optimum" in bound.status


def test_a_large_network_stops_in_time() -> None:
    network = random_network(0, [60, 120, 120, 3])
    start = time.process_time()
    bound = branch_and_bound(network, seconds=0.5)
    assert time.process_time() - start < 10
    assert bound.kind == "upper" and bound.lower <= bound.value
    assert bound.value <= product_bound(network).value


def test_useless_relaxations_cost_time_and_no_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(2, [2, 6, 3, 1])
    exact = enumerate_regions(network).value

    def nothing(units: Any, *_: Any, **__: Any) -> Relaxation:
        n = len(units.biases)
        return Relaxation(math.inf, np.ones(n), np.zeros(n))

    monkeypatch.setattr(search_file, "units_sdp", nothing)
    assert branch_and_bound(network).value == pytest.approx(exact, rel=2e-6)


def test_a_relaxation_that_is_too_small_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # The sabotage of the tests above: such a bound drops nodes that hold the largest slope.
    wrong = 0
    monkeypatch.setattr(search_file, "sampled_bound", lambda *_, **__: NOTHING)
    for seed in range(5):
        network = random_network(seed, [2, 6, 3, 1])
        exact = enumerate_regions(network).value
        with monkeypatch.context() as patch:
            patch.setattr(search_file, "units_sdp", half_of_the_truth)
            wrong += branch_and_bound(network).value < exact * (1 - 1e-3)
        assert branch_and_bound(network).value == pytest.approx(exact, rel=2e-6)
    assert wrong > 0


def half_of_the_truth(units: Any, sizes: Any, scale: float, **options: Any) -> Relaxation:
    relaxation = units_sdp(units, sizes, scale)
    return Relaxation(relaxation.value / 2, relaxation.multipliers, relaxation.doubt)


def test_bad_arguments_are_refused() -> None:
    network = mlp([2, 3, 1])
    for change in (
        {"norm": 3},
        {"domain": (1, -1)},
        {"seconds": 0},
        {"seconds": math.nan},
        {"tolerance": 0},
        {"margin": 1.0},
    ):
        with pytest.raises(ValueError, match="must"):
            branch_and_bound(network, **change)
    with pytest.raises(ValueError, match="wider than twice the margin"):
        branch_and_bound(network, domain=(0, 1e-9), margin=1e-9)
    with pytest.raises(TypeError, match="got Tanh"):
        branch_and_bound(mlp([2, 3, 1], nn.Tanh))


# The semidefinite program ----------------------------------------------------------------------


def solve(network: nn.Sequential) -> Relaxation:
    units = read_units(network)
    low, high, out_low, out_high = slope_intervals(units)
    sizes = np.linalg.norm(np.maximum(np.abs(low), np.abs(high)), axis=1)
    return units_sdp(units, sizes, slope_bound(out_low, out_high, 2))


def clarabel(network: nn.Sequential) -> float:
    """LipSDP-Neuron with cvxpy, straight from its formula."""
    units = read_units(network)
    n, dimension = units.inputs.shape
    a = np.hstack([units.inputs, units.couplings])
    b = np.hstack([np.zeros((n, dimension)), np.eye(n)])
    out = np.hstack([units.out_inputs, units.out_couplings])
    e0 = np.diag(np.append(np.ones(dimension), np.zeros(n)))
    rho, t = cvxpy.Variable(), cvxpy.Variable(n, nonneg=True)
    cross = a.T @ cvxpy.diag(t) @ b
    matrix = rho * e0 - out.T @ out + 2 * b.T @ cvxpy.diag(t) @ b - cross - cross.T
    problem = cvxpy.Problem(cvxpy.Minimize(rho), [(matrix + matrix.T) / 2 >> 0])
    problem.solve(solver="CLARABEL")
    return math.sqrt(problem.value)


@pytest.mark.parametrize("widths", [[2, 5, 1], [5, 4, 3, 2], [1, 3, 3, 3, 1], [3, 1, 1]])
def test_program_equals_clarabel(widths: list[int]) -> None:
    for activation in (nn.ReLU, lambda: nn.LeakyReLU(0.2)):
        network = random_network(1, widths, activation)
        assert solve(network).value == pytest.approx(clarabel(network), rel=1e-5)


def test_program_of_a_published_network() -> None:
    network = network_of(**KNOWN["networks"]["iris"])
    assert solve(network).value == pytest.approx(11.63534, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS))
def test_every_gate_pattern_stays_below_the_program(seed: int, kind: str) -> None:
    network = change(random_network(seed, [3, 5, 3, 2]), kind, seed)
    units, rng = read_units(network), np.random.default_rng(seed)
    relaxation = solve(network) if units.inputs.any() and units.out_couplings.any() else None
    for _ in range(30):
        slope = np.linalg.norm(affine_pieces(units, rng.random(8) < 0.6)[2], ord=2)
        assert relaxation is None or slope <= relaxation.value * (1 + 1e-12)


def test_any_multipliers_are_a_certificate_or_none() -> None:
    units = read_units(random_network(3, [3, 5, 3, 2]))
    rows = np.hstack([units.inputs, units.couplings])
    out = np.hstack([units.out_inputs, units.out_couplings])
    rng, largest, finite = np.random.default_rng(0), 0.0, 0
    for _ in range(200):
        largest = max(largest, np.linalg.norm(affine_pieces(units, rng.random(8) < 0.7)[2], ord=2))
    for _ in range(100):
        value = certified_slope(rows, out, np.exp(rng.normal(scale=1.5, size=8)))
        finite += math.isfinite(value)
        assert math.sqrt(value) >= largest
    assert finite > 10
    assert certified_slope(rows, out, np.zeros(8)) == math.inf
    assert certified_slope(rows, out, -np.ones(8)) == math.inf
