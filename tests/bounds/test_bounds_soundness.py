"""No upper bound below a lower one: the whole chain on random, trained and degenerate networks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipnb.bounds import (
    eclipse_fast,
    enumerate_regions,
    geolip,
    liplt,
    lipsdp,
    product_bound,
    sampled_bound,
    seqlip,
)
from lipnb.bounds.feedback import read_feedback
from lipnb.models import mlp

Array = np.ndarray[Any, np.dtype[np.float64]]
LOOSE = 1 + 1e-6  # what the solver's tolerance may cost where two optima are compared


def network_of(weights: list[Array], biases: list[Array]) -> nn.Sequential:
    network = mlp([weights[0].shape[1], *(len(w) for w in weights)], dtype=torch.float64)
    for layer, weight, bias in zip(network[::2], weights, biases, strict=True):
        layer.weight.data = torch.from_numpy(weight.copy())
        layer.bias.data = torch.from_numpy(bias.copy())
    return network


def formal_constant(network: nn.Sequential) -> float:
    """The largest norm over all gate patterns, also the impossible ones."""
    feedback = read_feedback(network)
    n = len(feedback.low)
    gates = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(float)
    # I - B diag(d) is unit triangular: forward substitution, unit by unit, for all patterns.
    z = np.empty((len(gates), n, feedback.inputs.shape[1]))
    for i in range(n):
        z[:, i] = feedback.inputs[i] + np.einsum(
            "gj,gj,gjk->gk",
            np.broadcast_to(feedback.loop[i, :i], (len(gates), i)),
            gates[:, :i],
            z[:, :i],
        )
    j = feedback.out_inputs + np.einsum("oj,gj,gjk->gok", feedback.out_loop, gates, z)
    largest = float(np.linalg.norm(j, ord=2, axis=(1, 2)).max())
    return float(np.ldexp(largest, feedback.exponent))


def check_chain(network: nn.Sequential, *, exact: bool = False) -> None:
    """sampled <= exact <= formal <= LipSDP-Neuron <= -Layer <= ECLipsE-Fast <= product."""
    sampled = sampled_bound(network, samples=64).value
    formal = formal_constant(network)
    neuron, layer = lipsdp(network).value, lipsdp(network, multipliers="layer").value
    eclipse, product = eclipse_fast(network).value, product_bound(network).value
    tiny = 1e-13 * formal
    assert sampled <= formal + tiny
    assert formal <= neuron + tiny
    assert neuron <= layer * LOOSE
    assert layer <= eclipse * LOOSE
    assert eclipse <= product * (1 + 1e-10)
    assert formal <= liplt(network).value <= product * (1 + 1e-10)
    assert formal <= seqlip(network).value + tiny
    assert seqlip(network).value <= product * (1 + 1e-10)
    if exact:
        true = enumerate_regions(network).value
        assert sampled <= true <= formal + tiny


def draw(generator: np.random.Generator, kind: int) -> nn.Sequential:
    """A random network; the kind decides what is wrong with it."""
    widths = [int(generator.integers(1, 4)) for _ in range(int(generator.integers(3, 5)))]
    shapes = list(zip(widths[1:], widths, strict=False))
    weights = [generator.normal(size=shape) for shape in shapes]
    biases = [generator.normal(size=shape[0]) for shape in shapes]
    inner = int(generator.integers(0, len(weights) - 1))
    if kind == 1:  # dead units, for two different reasons
        weights[inner][0] = 0.0
        biases[inner][-1] = -1e3
    elif kind == 2:  # a duplicated neuron
        weights[inner] = np.vstack([weights[inner], weights[inner][:1]])
        biases[inner] = np.append(biases[inner], biases[inner][:1])
        weights[inner + 1] = np.hstack([weights[inner + 1], weights[inner + 1][:, :1]])
    elif kind == 3:  # many zeros
        weights = [w * (generator.random(w.shape) < 0.5) for w in weights]
    elif kind == 4:  # kinks on top of each other: z and -z, without a bias
        weights[0] = np.vstack([weights[0][:1], -weights[0][:1]])
        biases[0] = np.zeros(2)
        weights[1] = generator.normal(size=(len(weights[1]), 2))
    elif kind == 5:  # scales of layers and of units far apart
        weights = [w * 10.0 ** generator.uniform(-12, 12) for w in weights]
        weights[inner] *= 10.0 ** generator.uniform(-4, 4, size=(len(weights[inner]), 1))
    elif kind == 6:  # integers, so that singular values and optima coincide
        weights = [np.round(w) for w in weights]
    return network_of(weights, biases)


@pytest.mark.parametrize("kind", range(7))
def test_chain_on_random_and_degenerate_networks(kind: int) -> None:
    generator = np.random.default_rng(kind)
    for trial in range(40):
        check_chain(draw(generator, kind), exact=trial % 8 == 0 and kind != 5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.integers(0, 6),
    exponents=st.lists(st.integers(-200, 200), min_size=3, max_size=3),
)
def test_chain_at_any_scale(seed: int, kind: int, exponents: list[int]) -> None:
    network = draw(np.random.default_rng(seed), kind)
    for layer, exponent in zip(network[::2], exponents, strict=False):
        layer.weight.data *= 2.0**exponent
    check_chain(network)


def test_chain_on_trained_networks() -> None:
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        network = mlp([2, 6, 5, 1], generator=generator, dtype=torch.float64)
        x = torch.rand(128, 2, generator=generator, dtype=torch.float64) * 4 - 2
        y = (x.abs().sum(dim=1, keepdim=True) > 2).double()
        optimiser = torch.optim.Adam(network.parameters(), lr=2e-2)
        for _ in range(100):
            optimiser.zero_grad()
            (network(x) - y).square().mean().backward()
            optimiser.step()
        check_chain(network, exact=seed == 0)


@pytest.mark.parametrize("norm", [1, math.inf])
def test_other_norms(norm: float) -> None:
    generator = np.random.default_rng(11)
    for trial in range(28):
        network = draw(generator, trial % 7)
        sampled = sampled_bound(network, norm=norm, samples=64).value
        for bound in (geolip, liplt, product_bound):
            assert sampled <= bound(network, norm=norm).value
        product = product_bound(network, norm=norm).value
        assert geolip(network, norm=norm).value <= product
        assert liplt(network, norm=norm).value <= product * (1 + 1e-10)


def test_boxes() -> None:
    generator = np.random.default_rng(12)
    for trial in range(28):
        network = draw(generator, trial % 5)
        low = generator.normal(size=network[0].weight.shape[1])
        box = (low.tolist(), (low + 10.0 ** generator.uniform(-3, 1)).tolist())
        sampled = sampled_bound(network, domain=box, samples=64).value
        assert sampled <= lipsdp(network, domain=box).value <= lipsdp(network).value * LOOSE
        slopes = sampled_bound(network, domain=box, norm=math.inf, samples=64).value
        assert slopes <= geolip(network, domain=box).value


@pytest.mark.parametrize("name", ["lipsdp", "seqlip", "liplt", "eclipse_fast", "product_bound"])
def test_a_bound_that_is_too_small_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of([np.array([[2.0]]), np.array([[3.0]])], [np.zeros(1), np.zeros(1)])
    check_chain(network, exact=True)
    method = globals()[name]

    def smaller(*args: Any, **options: Any) -> Any:
        bound = method(*args, **options)
        return replace(bound, value=0.9999 * bound.value)

    monkeypatch.setitem(globals(), name, smaller)
    with pytest.raises(AssertionError):
        check_chain(network, exact=True)


@pytest.mark.parametrize(
    ("weights", "exact"),
    [
        ([[[1.0], [1e-200]], [[0.0, 1.0]]], 1e-200),
        ([[[1.0], [1e-200]], [[1.0, 1.0]]], 1.0),
        ([[[1.0], [1e-200]], [[1e-200, 1e200]]], 1.0),
        ([[[1e-310], [1e-320]], [[1.0, 1.0]]], 1e-310),
        ([[[1e-250], [1.0]], [[1.0, 0.0], [0.0, 1e-250]], [[1.0, 1.0]]], 2e-250),
    ],
)
def test_entries_at_both_ends_of_the_range_of_floats(weights: Any, exact: float) -> None:
    """Squares of such entries are 0 or inf; what is left is a larger bound, not a wrong one."""
    matrices = [np.array(w) for w in weights]
    network = network_of(matrices, [np.zeros(len(w)) for w in matrices])
    for method in (lipsdp, seqlip, liplt, eclipse_fast, geolip):
        norm = math.inf if method is geolip else 2
        assert exact * (1 - 1e-12) <= method(network).value
        assert method(network).value <= product_bound(network, norm=norm).value * (1 + 1e-10)
    assert lipsdp(network, multipliers="layer").value >= exact * (1 - 1e-12)


def test_what_cancels_up_to_rounding_is_covered() -> None:
    """W_2 W_1 = 0 up to rounding, with a linear activation: the computed product may be 0."""
    generator = np.random.default_rng(0)
    for _ in range(20):
        basis = np.linalg.qr(generator.normal(size=(6, 6)))[0]
        first, last = basis[:, :3] @ generator.normal(size=(3, 4)), basis[:, 3:].T
        network = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(1.0), nn.Linear(6, 3)).double()
        network[0].weight.data, network[2].weight.data = map(torch.from_numpy, (first, last))
        exact = float(np.linalg.norm((last.astype(np.longdouble) @ first).astype(float), ord=2))
        for method in (lipsdp, seqlip, liplt):
            assert exact <= method(network).value < 1e-10
        sliding = nn.Sequential(*network, nn.ReLU(), nn.Linear(3, 3, bias=False)).double()
        sliding[4].weight.data = torch.eye(3, dtype=torch.float64)
        # One hidden layer with all gates on is the same matrix: at least its norm.
        assert exact <= lipsdp(sliding).value < 1e-10
