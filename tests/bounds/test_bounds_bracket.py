"""lipnb.bounds.bracket: both sides, within a budget."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from lipnb.bounds import enumerate_regions, lipschitz_bracket, lipsdp, product_bound, walk_bound
from lipnb.bounds.search_bound import SearchBound
from lipnb.models import GroupSort, mlp

NORMS = (1, 2, math.inf)
MODULE = sys.modules["lipnb.bounds.bracket"]


def random_network(seed: int, widths: list[int], activation: Any = nn.ReLU) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    return mlp(widths, activation, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("domain", [None, (-1, 0.5)])
def test_small_networks_are_solved(norm: float, domain: Any) -> None:
    network = random_network(0, [2, 4, 3, 2])
    lower, upper = lipschitz_bracket(network, norm=norm, domain=domain, seconds=20)
    exact = enumerate_regions(network, norm=norm, domain=domain).value
    assert lower.value == pytest.approx(exact, rel=2e-6)
    assert upper.value == pytest.approx(exact, rel=2e-6)
    assert {lower.norm, upper.norm} == {norm}
    assert lower.domain == upper.domain


@pytest.mark.parametrize("norm", NORMS)
def test_a_short_budget_gives_a_wider_bracket(norm: float) -> None:
    network = random_network(1, [6, 24, 24, 2])
    lower, upper = lipschitz_bracket(network, norm=norm, seconds=1e-6)
    assert (lower.kind, upper.kind) == ("lower", "upper")
    assert 0 < lower.value <= upper.value <= product_bound(network, norm=norm).value


@pytest.mark.parametrize("activation", [nn.Tanh, GroupSort, nn.Softplus, lambda: GroupSort(3)])
def test_methods_that_do_not_know_a_layer_are_left_out(activation: Any) -> None:
    network = random_network(1, [3, 6, 6, 1], activation)
    lower, upper = lipschitz_bracket(network, seconds=1.0)
    assert 0 < lower.value <= upper.value <= product_bound(network).value
    assert lower.kind in ("lower", "exact")


def test_a_failing_method_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the solver has crashed")

    for name in ("lipsdp", "branch_and_bound", "seqlip", "eclipse_fast", "enumerate_polygons"):
        monkeypatch.setattr(MODULE, name, fail)
    network = random_network(0, [2, 4, 3, 2])
    lower, upper = lipschitz_bracket(network, seconds=1.0)
    assert lower.value <= enumerate_regions(network).value <= upper.value


def test_a_wrong_upper_bound_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(network: nn.Sequential, **options: Any) -> Any:
        bound = product_bound(network, **options)
        return replace(bound, value=bound.value / 100)

    monkeypatch.setattr(MODULE, "liplt", halved)
    with pytest.raises(RuntimeError, match="contradict each other"):
        lipschitz_bracket(random_network(0, [2, 4, 3, 2]), seconds=1.0)


def test_a_search_that_stops_early_may_raise_the_lower_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = random_network(0, [3, 4, 3, 2])
    exact = enumerate_regions(network).value
    found = SearchBound(exact * 1.001, "upper", 2, None, 0.5, "time is up", exact * (1 - 1e-9))
    monkeypatch.setattr(MODULE, "branch_and_bound", lambda *_, **__: found)
    walk = walk_bound(network, steps=1)
    monkeypatch.setattr(MODULE, "walk_bound", lambda *_, **__: replace(walk, value=0.01))
    lower, upper = lipschitz_bracket(network, seconds=5.0)
    assert lower.value == found.lower
    assert lower.kind == "lower"
    assert upper.value <= found.value


def test_a_bound_for_the_norm_2_serves_for_the_others() -> None:
    for norm, widths in ((1, [2, 4, 3, 5]), (math.inf, [5, 4, 3, 2])):
        network = random_network(0, widths)
        bound = MODULE._converted(lipsdp, network, norm, None)
        exact = enumerate_regions(network, norm=norm).value
        assert bound.norm == norm
        assert lipsdp(network).value < exact <= bound.value
        assert bound.value == pytest.approx(math.sqrt(5) * lipsdp(network).value)


def test_affine_and_constant_networks() -> None:
    lower, upper = lipschitz_bracket(nn.Sequential(nn.Linear(3, 2)))
    assert lower.value == pytest.approx(upper.value, rel=1e-6)
    network = random_network(0, [2, 4, 1])
    network[2].weight.data.zero_()
    lower, upper = lipschitz_bracket(network)
    assert lower.value == upper.value == 0.0


def test_bad_arguments_are_refused() -> None:
    network = mlp([2, 3, 1])
    with pytest.raises(ValueError, match="seconds must be positive"):
        lipschitz_bracket(network, seconds=0)
    with pytest.raises(ValueError, match="norm must be 1, 2 or inf"):
        lipschitz_bracket(network, norm=3)
    with pytest.raises(TypeError, match="got Hardtanh"):
        lipschitz_bracket(mlp([2, 3, 1], nn.Hardtanh))


@pytest.mark.parametrize("size", [3, None])
@pytest.mark.parametrize("norm", NORMS)
def test_sorting_of_larger_groups_on_a_box(size: int | None, norm: float) -> None:
    network = random_network(1, [3, 6, 6, 1], lambda: GroupSort(size))
    lower, upper = lipschitz_bracket(network, norm=norm, domain=(-1, 1), seconds=0.1)
    assert 0 < lower.value <= upper.value <= product_bound(network, norm=norm).value
    with pytest.raises(TypeError, match="groups of two"):
        lipsdp(network, domain=(-1, 1))
