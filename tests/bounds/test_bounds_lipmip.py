"""lipnb.bounds.lipmip: the mixed-integer program against known answers and enumeration."""

from __future__ import annotations

import importlib
import json
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lipnb.bounds.highs
from lipnb.bounds import enumerate_regions, lipmip, product_bound, sampled_bound
from lipnb.models import GroupSort, mlp

NORMS = (1, 2, math.inf)
lipmip_file = importlib.import_module("lipnb.bounds.lipmip")  # the package exports its function
KNOWN = json.loads((Path(__file__).parent / "known_networks.json").read_text())
DEGENERATE = ("dead", "duplicated", "opposite", "zero", "no bias", "near kink", "whole numbers")


def network_of(weights: list[Any], biases: list[Any], activation: Any = nn.ReLU) -> nn.Sequential:
    widths = [len(weights[0][0]), *(len(w) for w in weights)]
    network = mlp(widths, activation, dtype=torch.float64)
    for layer, weight, bias in zip(linear(network), weights, biases, strict=True):
        layer.weight.data = torch.tensor(weight, dtype=torch.float64)
        layer.bias.data = torch.tensor(bias, dtype=torch.float64)
    return network


def identity() -> nn.Sequential:
    """x = relu(x) - relu(-x)."""
    return network_of([[[1.0], [-1.0]], [[1.0, -1.0]]], [[0.0, 0.0], [0.0]])


def linear(network: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in network if isinstance(layer, nn.Linear)]


def random_network(seed: int, widths: list[int], activation: Any = nn.ReLU) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    return mlp(widths, activation, generator=generator, dtype=torch.float64)


def degenerate_network(kind: str, seed: int, widths: list[int]) -> nn.Sequential:
    network = random_network(seed, widths)
    first, *_, last = linear(network)
    if kind == "dead":
        first.bias.data[:2] = -50.0
    elif kind == "duplicated":
        first.weight.data[1], first.bias.data[1] = first.weight.data[0], first.bias.data[0]
    elif kind == "opposite":
        first.weight.data[1], first.bias.data[1] = -first.weight.data[0], -first.bias.data[0]
        first.weight.data[2] = -2 * first.weight.data[0]
        first.bias.data[2] = -2 * first.bias.data[0]
    elif kind == "zero":
        first.weight.data[0], first.weight.data[:, 0], last.weight.data[:, 1] = 0.0, 0.0, 0.0
    else:
        generator = torch.Generator().manual_seed(seed)
        for layer in linear(network):
            if kind == "whole numbers":
                for p in (layer.weight, layer.bias):
                    p.data = torch.randint(-1, 2, p.shape, generator=generator).double()
            else:
                layer.bias.data *= {"no bias": 0.0, "near kink": 1e-7}[kind]
    return network


def check_exact(network: nn.Sequential, norm: float, domain: Any) -> None:
    expected = enumerate_regions(network, norm=norm, domain=domain).value
    bound = lipmip(network, norm=norm, domain=domain, seconds=600)
    assert bound.kind == "exact" and bound.lower == bound.value, bound.status
    assert bound.value == pytest.approx(expected, rel=2e-6, abs=1e-15), bound.status


# Known answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", [None, (-1, 1)])
@pytest.mark.parametrize("norm", NORMS)
def test_identity_has_constant_one_and_not_two(norm: float, domain: Any) -> None:
    bound = lipmip(identity(), norm=norm, domain=domain)
    assert (bound.value, bound.kind) == (pytest.approx(1.0, abs=1e-12), "exact")


def test_without_the_margin_test_the_identity_has_constant_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lipmip_file, "conflict", lambda *_: None)
    wrong = lipmip(identity(), domain=(-1, 1))
    assert wrong.value == pytest.approx(2.0)


@pytest.mark.parametrize("domain", [None, (-1, 1)])
def test_sliver_counts_and_gap_does_not(domain: Any) -> None:
    weights = [[[1.0], [-1.0]], [[1.0, -1.0]]]
    gap = lipmip(network_of(weights, [[-1e-7, -1e-7], [0.0]]), domain=domain)
    assert (gap.value, gap.kind) == (pytest.approx(1.0), "exact")
    sliver = network_of(weights, [[1e-7, 1e-7], [0.0]])
    assert lipmip(sliver, domain=domain).value == pytest.approx(2.0)
    assert lipmip(sliver, domain=domain, margin=1e-6).value == pytest.approx(1.0)


def test_bump_on_growing_boxes() -> None:
    # 3 relu(x) - 8 relu(x - 1) + 5 relu(x - 3): slopes 0, 3, -5, 0.
    network = network_of([[[1.0]] * 3, [[3.0, -8.0, 5.0]]], [[0.0, -1.0, -3.0], [0.0]])
    for end, value in {-0.5: 0.0, 0.5: 3.0, 1.0: 3.0, 1.5: 5.0, 4.0: 5.0}.items():
        bound = lipmip(network, domain=(-1.0, end))
        assert (bound.value, bound.kind) == (pytest.approx(value, abs=1e-12), "exact")


@pytest.mark.parametrize("norm", NORMS)
def test_affine_map_needs_no_program(norm: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(lipmip_file, "maximise")
    network = random_network(0, [4, 1 if norm == 2 else 3])
    expected = torch.linalg.matrix_norm(network[0].weight.detach(), ord=norm).item()
    assert lipmip(network, norm=norm).value == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("norm", ["1", "inf"])
def test_published_network(norm: str) -> None:
    case = next(c for c in KNOWN["constants"] if c["norm"] == norm and c["domain"])
    network = network_of(**KNOWN["networks"][case["network"]])
    bound = lipmip(network, norm=float(norm), domain=tuple(case["domain"]))
    assert (bound.kind, bound.value) == ("exact", pytest.approx(case["value"], rel=1e-9))


def test_published_network_everywhere_is_above_its_box() -> None:
    network = network_of(**KNOWN["networks"]["iris"])
    values = [lipmip(network, domain=d, seconds=600).value for d in ((-1, 1), (-2, 2), None)]
    assert values == sorted(values) and values[0] < values[2]
    assert sampled_bound(network, norm=math.inf).value <= values[2]


# Against enumeration ---------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    widths=st.sampled_from([[1, 5, 1], [2, 5, 1], [2, 4, 3, 1], [3, 4, 3, 2], [2, 4, 2]]),
    domain=st.sampled_from([None, (-1, 1), (0.2, 0.3), (-5, 50)]),
    norm=st.sampled_from(NORMS),
)
def test_random_networks(seed: int, widths: list[int], domain: Any, norm: float) -> None:
    widths = [*widths[:-1], 1] if norm == 2 else widths
    check_exact(random_network(seed, widths), norm, domain)


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("domain", [None, (-1, 1)])
def test_degenerate_networks(kind: str, domain: Any) -> None:
    check_exact(degenerate_network(kind, 1, [2, 5, 1]), 2, domain)
    check_exact(degenerate_network(kind, 2, [2, 4, 3, 2]), math.inf, domain)


@pytest.mark.parametrize("power", [-8, -3, 3, 8])
def test_scales(power: int) -> None:
    network = random_network(3, [2, 4, 3, 1])
    before = lipmip(network, domain=(-1, 1)).value
    network[0].weight.data *= 10.0**power
    network[0].bias.data *= 10.0**power
    network[2].weight.data /= 10.0**power
    network[4].weight.data *= 10.0**power
    assert lipmip(network, domain=(-1, 1)).value == pytest.approx(before * 10.0**power, rel=1e-6)


def trained_network(widths: list[int]) -> nn.Sequential:
    """A network that has learnt a circle's indicator."""
    generator = torch.Generator().manual_seed(0)
    network = mlp(widths, generator=generator, dtype=torch.float64)
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
    for norm in NORMS:
        check_exact(trained_network([2, 8, 4, 1]), norm, domain)


def test_leaky_and_sorting_units_equal_their_relu_form() -> None:
    leaky = random_network(4, [2, 4, 1], lambda: nn.LeakyReLU(0.3))
    a, b = linear(leaky)
    first = torch.cat([a.weight, -a.weight]).tolist(), torch.cat([a.bias, -a.bias]).tolist()
    relu = network_of(
        [first[0], torch.cat([b.weight, -0.3 * b.weight], dim=1).tolist()], [first[1], [0.0]]
    )
    expected = enumerate_regions(relu, norm=math.inf).value
    assert lipmip(leaky, norm=math.inf).value == pytest.approx(expected, rel=1e-6)
    # Sorting is an isometry of every region: |x - y| and max(x, y) have constants 2 and 1.
    pair = nn.Sequential(GroupSort(2), nn.Linear(2, 1)).double()
    for weight, value in (([-1.0, 1.0], 2.0), ([0.0, 1.0], 1.0)):
        pair[1].weight.data = torch.tensor([weight], dtype=torch.float64)
        assert lipmip(pair, domain=(-1, 1)).value == pytest.approx(value)


# Invariances -----------------------------------------------------------------------------------


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(4)), power=st.integers(-6, 6))
def test_permuting_and_rescaling_units_changes_nothing(
    seed: int, order: list[int], power: int
) -> None:
    network = random_network(seed, [2, 4, 3, 1])
    before = lipmip(network, norm=1).value
    first, second, _ = linear(network)
    first.weight.data = first.weight.data[order] * 10.0**power
    first.bias.data = first.bias.data[order] * 10.0**power
    second.weight.data = second.weight.data[:, order] / 10.0**power
    assert lipmip(network, norm=1).value == pytest.approx(before, rel=2e-6)


def test_rotating_the_input_keeps_the_euclidean_constant_only() -> None:
    network = random_network(6, [3, 5, 1])
    before = [lipmip(network, norm=p).value for p in (2, math.inf)]
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    network[0].weight.data @= torch.from_numpy(q)
    after = [lipmip(network, norm=p).value for p in (2, math.inf)]
    assert after[0] == pytest.approx(before[0], rel=2e-6)
    assert after[1] != pytest.approx(before[1], rel=1e-3)


# Early stops and failures ----------------------------------------------------------------------


def test_early_stop_gives_an_upper_bound_and_says_so() -> None:
    network = network_of(**KNOWN["networks"]["wine"])
    exact = next(c for c in KNOWN["constants"] if c["norm"] == "inf")["value"]
    for seconds in (1e-6, 0.1):
        bound = lipmip(network, domain=(-1, 1), seconds=seconds)
        assert bound.kind == "upper" and bound.value >= exact
        assert bound.status.startswith("time is up: at least ")
        assert 0 < bound.lower <= exact * (1 + 1e-12)
        assert f"at least {bound.lower:.6g}," in bound.status
        assert bound.value <= product_bound(network, norm=math.inf).value * (1 + 1e-5)


@pytest.mark.parametrize(
    ("status", "dual", "match"),
    [
        (4, None, "HiGHS stopped"),
        (2, None, "HiGHS stopped"),  # a program without cuts has a solution
        (3, None, "HiGHS stopped"),
        (1, None, "time is up"),
        (1, -math.inf, "time is up"),
        (0, -1e-9, "HiGHS contradicts a slope that was found"),
        (0, math.nan, "time is up"),
    ],
)
def test_failures_of_the_solver_never_spoil_the_bound(
    status: int, dual: float | None, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = random_network(1, [2, 6, 1])
    exact = enumerate_regions(network, norm=math.inf).value

    def fail(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(status=status, mip_dual_bound=dual, x=None, message="made up")

    monkeypatch.setattr(lipnb.bounds.highs, "milp", fail)
    bound = lipmip(network)
    assert bound.kind == "upper" and bound.value >= exact
    assert match in bound.status


def test_a_failed_program_is_solved_once_more_with_presolve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = random_network(1, [2, 6, 1])
    exact = enumerate_regions(network, norm=math.inf).value
    solve, presolved = lipnb.bounds.highs.milp, []

    def fail_without(*arguments: Any, options: dict[str, Any], **others: Any) -> Any:
        presolved.append(options["presolve"])
        if not options["presolve"]:
            return SimpleNamespace(status=4, mip_dual_bound=None, x=None, message="made up")
        return solve(*arguments, options=options, **others)

    monkeypatch.setattr(lipnb.bounds.highs, "milp", fail_without)
    bound = lipmip(network, seconds=600)
    assert (bound.kind, bound.value) == ("exact", pytest.approx(exact, rel=2e-6))
    assert presolved[:2] == [False, True]


def test_failure_in_the_middle_keeps_what_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    solve, calls = lipmip_file.maximise, []

    def stop_later(model: Any, seconds: float) -> Any:
        calls.append(seconds)
        if len(calls) > 1:
            return SimpleNamespace(status=4, mip_dual_bound=None, x=None, message="made up")
        return solve(model, seconds)

    monkeypatch.setattr(lipmip_file, "maximise", stop_later)
    bound = lipmip(identity(), domain=(-1, 1))
    assert len(calls) == 2
    assert (bound.kind, bound.value) == ("upper", pytest.approx(2.0, rel=1e-5))
    assert bound.status.startswith("HiGHS stopped (made up): at least 1, ")


def test_failure_of_the_margin_test_stops_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no optimum")

    monkeypatch.setattr(lipmip_file, "conflict", fail)
    bound = lipmip(identity(), domain=(-1, 1))
    assert bound.kind == "upper" and bound.value >= 2 and "no optimum" in bound.status


def test_cpu_time_follows_the_limit() -> None:
    start = time.process_time()
    network = random_network(0, [8, 16, 16, 1])
    assert lipmip(network, seconds=0.5).kind == "upper"
    assert time.process_time() - start < 5


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    lipmip(degenerate_network("no bias", 2, [2, 4, 3, 2]))
    assert capfd.readouterr().out == ""


def test_bad_arguments_are_refused() -> None:
    network = mlp([2, 3, 1])
    for change in (
        {"norm": 3},
        {"domain": (1, -1)},
        {"seconds": 0},
        {"seconds": math.inf},
        {"tolerance": -1},
        {"margin": 0.0},
    ):
        with pytest.raises(ValueError, match="must"):
            lipmip(network, **change)
    with pytest.raises(ValueError, match="one output for norm 2; got 2"):
        lipmip(mlp([2, 3, 2]), norm=2)
    with pytest.raises(ValueError, match="wider than twice the margin"):
        lipmip(network, domain=(0, 1e-9), margin=1e-9)
    with pytest.raises(TypeError, match="got Tanh"):
        lipmip(mlp([2, 3, 1], nn.Tanh))
