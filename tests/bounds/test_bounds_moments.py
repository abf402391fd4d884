"""lipnb.bounds.moments: the moment relaxation against known answers."""

from __future__ import annotations

import importlib
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipnb.bounds import (
    enumerate_regions,
    geolip,
    lipopt,
    moment_relaxation,
    product_bound,
)
from lipnb.models import GroupSort, mlp

matrices_file = importlib.import_module("lipnb.bounds.moment_matrices")


def random_network(seed: int, widths: list[int], activation: Any = nn.ReLU) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    return mlp(widths, activation, generator=generator, dtype=torch.float64)


def opposite(bias: float) -> nn.Sequential:
    """relu(x + bias) - relu(-x + bias)."""
    network = mlp([1, 2, 1], dtype=torch.float64)
    network[0].weight.data = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    network[0].bias.data.fill_(bias)
    network[2].weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    return network


def test_affine_map_has_its_norm() -> None:
    network = random_network(0, [3, 1])
    weight = network[0].weight.detach()
    for norm, order in ((1, math.inf), (math.inf, 1)):
        expected = torch.linalg.vector_norm(weight, ord=order).item()
        bound = moment_relaxation(network, norm=norm)
        assert (bound.kind, bound.value) == ("upper", pytest.approx(expected, rel=1e-6))
        assert bound.value >= expected


def test_gates_that_exclude_each_other() -> None:
    # With a gap between both ramps the constant is 1. Methods that do not see biases say 2.
    for bias in (-0.5, -0.1):
        network = opposite(bias)
        assert enumerate_regions(network, domain=(-1, 1)).value == 1.0
        assert lipopt(network, domain=(-1, 1)).value == pytest.approx(2.0)
        # Order 1, by hand: the sum of u_1 (x + b) >= 0 and u_2 (b - x) >= 0, and of
        # (1 + x) (1 - u_1) >= 0 and (1 - x) (1 - u_2) >= 0, is 2 >= (1 - b) (u_1 + u_2).
        shor = moment_relaxation(network, domain=(-1, 1), pairs=False).value
        assert shor == pytest.approx(2 / (1 - bias), rel=1e-4)
        pairs = moment_relaxation(network, domain=(-1, 1)).value
        assert 1.0 <= pairs == pytest.approx(1.0, rel=1e-4)
        assert moment_relaxation(network).value == pytest.approx(2.0)  # gates are free


def test_at_a_kink_both_gates_are_free() -> None:
    # A relaxation with closed conditions cannot tell a kink from a region: true value 1.
    assert moment_relaxation(opposite(0.0), domain=(-1, 1)).value == pytest.approx(2.0, rel=1e-4)


def test_sharper_than_geolip_and_lipopt_on_signs() -> None:
    rng = np.random.default_rng(1)
    network = mlp([4, 5, 1], dtype=torch.float64)
    for layer in (network[0], network[2]):
        signs = rng.choice([-1.0, 1.0], tuple(layer.weight.shape))
        layer.weight.data = torch.from_numpy(signs)
    gates = itertools.product([0.0, 1.0], repeat=5)
    weight, out = network[0].weight.detach().numpy(), network[2].weight.detach().numpy()[0]
    truth = max(np.abs((out * g) @ weight).sum() for g in gates)
    value = moment_relaxation(network, pairs=False).value
    others = lipopt(network).value, geolip(network).value
    assert truth * (1 - 1e-9) <= value <= min(others) * (1 + 1e-4)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    widths=st.sampled_from([[1, 3, 1], [2, 3, 1], [2, 2, 2, 1]]),
    norm=st.sampled_from([1, math.inf]),
    domain=st.sampled_from([None, (-1, 1), (0.1, 0.4)]),
    kind=st.sampled_from(["", "dead", "duplicated", "zero", "huge", "tiny"]),
    pairs=st.booleans(),
)
def test_above_the_exact_constant(
    seed: int, widths: list[int], norm: float, domain: Any, kind: str, pairs: bool
) -> None:
    network = random_network(seed, widths)
    first = network[0]
    if kind == "dead":
        first.bias.data[0] = -50.0
    elif kind == "duplicated":
        first.weight.data[1], first.bias.data[1] = first.weight.data[0], first.bias.data[0]
    elif kind == "zero":
        first.weight.data[0] = 0.0
    elif kind:
        network[-1].weight.data *= 1e9 if kind == "huge" else 1e-9
    exact = enumerate_regions(network, norm=norm, domain=domain).value
    bound = moment_relaxation(network, norm=norm, domain=domain, pairs=pairs)
    assert exact * (1 - 1e-12) <= bound.value
    assert bound.value <= product_bound(network, norm=norm).value


def test_other_units() -> None:
    leaky = random_network(1, [1, 3, 1], lambda: nn.LeakyReLU(0.3))
    x = torch.linspace(-1, 1, 2001, dtype=torch.float64)[:, None]
    slope = (leaky(x).diff(dim=0) / x.diff(dim=0)).abs().max().item()
    assert slope * (1 - 1e-9) <= moment_relaxation(leaky, domain=(-1, 1)).value <= 1.5 * slope
    largest = nn.Sequential(GroupSort(2), nn.Linear(2, 1)).double()  # max(x, y)
    largest[1].weight.data = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    assert moment_relaxation(largest, domain=(-1, 1)).value == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("change", ["noise", "none", "failure"])
def test_any_multipliers_give_a_valid_bound(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import cvxpy

    network = opposite(-0.5)
    solve, rng = cvxpy.Problem.solve, np.random.default_rng(0)

    def spoil(problem: Any, **options: Any) -> None:
        if change == "failure":
            raise cvxpy.SolverError("made up")
        solve(problem, **options)
        for row in problem.constraints:
            for variable in row.dual_variables:
                value = np.asarray(variable.value)
                noise = 0.02 * rng.normal(size=value.shape)
                variable.save_value(
                    value + (noise + noise.T) / 2 if change == "noise" else 0 * value
                )

    honest = moment_relaxation(network, domain=(-1, 1)).value
    monkeypatch.setattr(cvxpy.Problem, "solve", spoil)
    bound = moment_relaxation(network, domain=(-1, 1)).value
    assert honest * (1 + 1e-3) < bound <= 2.0 * (1 + 1e-9)


def test_a_missing_solver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(matrices_file, "import_module", fail)
    with pytest.raises(ImportError, match=r"needs cvxpy: install lipnb\[convex\]"):
        moment_relaxation(random_network(0, [1, 2, 1]))


def test_bad_arguments_are_refused() -> None:
    network = mlp([2, 3, 1])
    for change in ({"norm": 3}, {"norm": 2}, {"domain": (1, -1)}):
        with pytest.raises(ValueError, match="must"):
            moment_relaxation(network, **change)
    with pytest.raises(ValueError, match="one output; got 2"):
        moment_relaxation(mlp([2, 3, 2]))
    with pytest.raises(ValueError, match="at most 60 variables"):
        moment_relaxation(mlp([10, 40, 1]))
    with pytest.raises(ValueError, match="at most 5000 moments"):
        moment_relaxation(mlp([10, 12, 1]))
    with pytest.raises(TypeError, match="got Tanh"):
        moment_relaxation(mlp([2, 3, 1], nn.Tanh))
