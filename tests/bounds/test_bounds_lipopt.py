"""lipnb.bounds.lipopt: Krivine's certificates against known answers."""

from __future__ import annotations

import importlib
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipnb.bounds import (
    enumerate_regions,
    lipmip,
    lipopt,
    product_bound,
    sampled_bound,
)
from lipnb.bounds.units import affine_pieces, read_units
from lipnb.models import mlp

KNOWN = json.loads((Path(__file__).parent / "known_networks.json").read_text())
NORMS = (1, math.inf)
lipopt_file = importlib.import_module("lipnb.bounds.lipopt")


def network_of(weights: list[Any], biases: list[Any], activation: Any = nn.ReLU) -> nn.Sequential:
    widths = [len(weights[0][0]), *(len(w) for w in weights)]
    network = mlp(widths, activation, dtype=torch.float64)
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        layer.weight.data = torch.tensor(weight, dtype=torch.float64)
        layer.bias.data = torch.tensor(bias, dtype=torch.float64)
    return network


def random_network(seed: int, widths: list[int], activation: Any = nn.ReLU) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    return mlp(widths, activation, generator=generator, dtype=torch.float64)


def signs(seed: int, widths: list[int]) -> nn.Sequential:
    """A network whose weights are 1 or -1."""
    rng = np.random.default_rng(seed)
    weights = [rng.choice([-1.0, 1.0], (b, a)).tolist() for a, b in itertools.pairwise(widths)]
    return network_of(weights, [[0.0] * n for n in widths[1:]])


def over_all_gates(network: nn.Sequential, norm: float) -> float:
    """The largest slope over all gate patterns, possible ones and others."""
    units = read_units(network)
    patterns = itertools.product([False, True], repeat=len(units.biases))
    return max(np.linalg.norm(affine_pieces(units, np.array(g))[2], ord=norm) for g in patterns)


# Known answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_affine_map_has_its_norm(norm: float) -> None:
    network = random_network(0, [4, 3])
    expected = torch.linalg.matrix_norm(network[0].weight.detach(), ord=norm).item()
    bound = lipopt(network, norm=norm)
    assert (bound.kind, bound.value) == ("upper", pytest.approx(expected, rel=1e-9))
    assert bound.value >= expected


@pytest.mark.parametrize("seed", range(4))
def test_lowest_degree_of_signs_is_half_of_the_product_where_that_is_larger(seed: int) -> None:
    # With t = 0 and all gates 1/2, the pairs t_j s_i can have the expectation 1/2 or -1/2 as the
    # signs ask: no certificate of degree 2 sees a contradiction. The sum is n_0 n_1 / 2.
    network = signs(seed, [5, 5, 1])
    truth = over_all_gates(network, math.inf)
    assert lipopt(network).value == pytest.approx(max(12.5, truth), rel=1e-9)
    # One variable more joins three variables, and then the contradictions show.
    values = [lipopt(network, degree=degree).value for degree in (2, 3, 4)]
    assert values[0] >= values[1] * (1 - 1e-9) >= values[2] * (1 - 1e-8) >= truth * (1 - 2e-8)


@pytest.mark.parametrize("widths", [[2, 3, 1], [2, 3, 2, 2], [3, 2, 2, 1]])
@pytest.mark.parametrize("norm", NORMS)
def test_all_variables_give_the_maximum_over_all_gates(widths: list[int], norm: float) -> None:
    network = random_network(3, widths)
    truth = over_all_gates(network, norm)
    full = lipopt(network, norm=norm, degree=20).value
    assert full == pytest.approx(truth, rel=1e-6) and full >= truth * (1 - 1e-12)
    # For p = 1 the program runs from the outputs to the inputs; it has one variable per output.
    assert lipopt(network, norm=norm).value >= truth * (1 - 1e-12)


def test_published_network_reaches_the_exact_constant() -> None:
    network = network_of(**KNOWN["networks"]["iris"])
    exact = lipmip(network)  # all gates that matter can be on at once
    assert lipopt(network).value == pytest.approx(exact.value, rel=1e-6)
    assert lipopt(network).value >= exact.value * (1 - 1e-12)


def test_slopes_of_other_activations() -> None:
    for activation, slope in ((nn.Sigmoid, 0.25), (nn.ELU, 1.0), (lambda: nn.LeakyReLU(3.0), 3.0)):
        network = network_of([[[2.0]], [[-3.0]]], [[0.0], [0.0]], activation)
        assert lipopt(network).value == pytest.approx(6 * slope, rel=1e-9)
    # Away from 0 a sigmoid is flat, and a ReLU is off or on.
    far = network_of([[[1.0]], [[1.0]]], [[5.0], [0.0]], nn.Sigmoid)
    s = torch.sigmoid(torch.tensor(4.0, dtype=torch.float64)).item()
    assert lipopt(far, domain=(-1, 1)).value == pytest.approx(s * (1 - s), rel=1e-6)
    off = network_of([[[1.0]], [[1.0]]], [[-5.0], [0.0]])
    assert lipopt(off, domain=(-1, 1)).value == 0.0
    assert lipopt(off).value == pytest.approx(1.0)


# Soundness -------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    widths=st.sampled_from([[2, 4, 1], [3, 4, 2], [2, 3, 3, 1], [1, 3, 2, 2]]),
    domain=st.sampled_from([None, (-1, 1), (0.3, 0.4)]),
    norm=st.sampled_from(NORMS),
    kind=st.sampled_from(["", "dead", "duplicated", "zero", "huge", "tiny"]),
)
def test_above_the_exact_constant(
    seed: int, widths: list[int], domain: Any, norm: float, kind: str
) -> None:
    network = random_network(seed, widths)
    first = network[0]
    if kind == "dead":
        first.bias.data[:2] = -50.0
    elif kind == "duplicated":
        first.weight.data[1], first.bias.data[1] = first.weight.data[0], first.bias.data[0]
    elif kind == "zero":
        first.weight.data[0], first.weight.data[:, 0] = 0.0, 0.0
    elif kind:
        network[-1].weight.data *= 1e9 if kind == "huge" else 1e-9
    exact = enumerate_regions(network, norm=norm, domain=domain).value
    bound = lipopt(network, norm=norm, domain=domain)
    assert exact <= bound.value * (1 + 1e-12)
    assert bound.value <= product_bound(network, norm=norm).value * (1 + 1e-9)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.ELU, nn.Softplus])
def test_smooth_networks_stay_below(activation: Any) -> None:
    network = random_network(2, [2, 5, 3, 2], activation)
    for domain in (None, (-1, 1)):
        for norm in NORMS:
            found = sampled_bound(network, norm=norm, domain=domain, samples=4000).value
            assert 0 < found <= lipopt(network, norm=norm, domain=domain).value


def test_permuting_and_rescaling_units_changes_nothing() -> None:
    network = random_network(1, [3, 4, 3, 2])
    before = lipopt(network).value
    order, scale = torch.tensor([2, 0, 3, 1]), torch.tensor([1e-3, 1.0, 50.0, 2.0]).double()
    network[0].weight.data = network[0].weight.data[order] * scale[:, None]
    network[0].bias.data = network[0].bias.data[order] * scale
    network[2].weight.data = network[2].weight.data[:, order] / scale
    assert lipopt(network).value == pytest.approx(before, rel=1e-7)


@pytest.mark.parametrize("change", ["noise", "zero", "negative", "huge"])
def test_any_coefficients_give_a_valid_bound(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = signs(1, [3, 3, 1])
    truth, solve = over_all_gates(network, math.inf), lipopt_file.linprog
    rng = np.random.default_rng(0)

    def spoil(*arguments: Any, **options: Any) -> Any:
        result = solve(*arguments, **options)
        noise = {
            "noise": 0.1 * rng.normal(size=len(result.x)),
            "zero": -result.x,
            "negative": -2 * result.x,
            "huge": 1e6 * result.x,
        }
        return SimpleNamespace(x=result.x + noise[change], status=0)

    honest = lipopt(network).value
    monkeypatch.setattr(lipopt_file, "linprog", spoil)
    assert lipopt(network).value > honest * (1 + 1e-6) >= truth


def test_failure_of_the_solver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(0, [3, 4, 2])
    failed = SimpleNamespace(x=None, status=4, message="made up")
    monkeypatch.setattr(lipopt_file, "linprog", lambda *_, **__: failed)
    bound = lipopt(network)
    assert bound.status.endswith("HiGHS stopped early in 2 of 2 programs")
    assert enumerate_regions(network, norm=math.inf).value <= bound.value
    assert bound.value <= product_bound(network, norm=math.inf).value * (1 + 1e-9)


def test_time_limit() -> None:
    network = random_network(0, [6, 12, 10, 1])
    bound = lipopt(network, seconds=1e-3)
    assert bound.status.endswith("HiGHS stopped early in 1 of 1 programs")
    assert lipopt(network).value < bound.value


def test_bad_arguments_are_refused() -> None:
    network = mlp([2, 3, 1])
    for change in ({"norm": 3}, {"norm": 2}, {"domain": (1, -1)}, {"degree": 1}, {"seconds": 0}):
        with pytest.raises(ValueError, match="must"):
            lipopt(network, **change)
    with pytest.raises(ValueError, match="at most 200000 products of degree 3"):
        lipopt(mlp([30, 100, 20, 1]))
    with pytest.raises(TypeError, match="got Softmax"):
        lipopt(nn.Sequential(nn.Linear(2, 2), nn.Softmax(dim=1), nn.Linear(2, 1)))
