"""lipnb.bounds.polygons: against the other exact methods, and far beyond their size."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lipnb.bounds import (
    branch_and_bound,
    enumerate_polygons,
    enumerate_regions,
    lipschitz_bracket,
    lipsdp,
    polygons,
    product_bound,
    walk_bound,
)
from lipnb.models import GroupSort, mlp

NORMS = (1, 2, math.inf)
DOMAINS = (None, (-1, 1), (0, 0.01), ([-100, 0], [1000, 2]))


def network_of(seed: int, widths: list[int], activation: Any = nn.ReLU) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    return mlp(widths, activation, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("domain", DOMAINS)
def test_relu_networks_against_the_linear_programs(domain: Any) -> None:
    for seed, norm in enumerate((*NORMS, 2)):
        network = network_of(seed, [2, 4, 3, 1 + seed % 3])
        if seed == 2:  # integers: kinks on top of each other, and corners where many lines meet
            for layer in network[::2]:
                layer.weight.data = (3 * layer.weight.data).round()
                layer.bias.data = (3 * layer.bias.data).round()
        if seed == 3:  # all kinks meet in the origin
            for layer in network[::2]:
                layer.bias.data.zero_()
        found = enumerate_polygons(network, norm=norm, domain=domain)
        exact = enumerate_regions(network, norm=norm, domain=domain)
        assert found.kind == "exact"
        assert found.value == pytest.approx(exact.value, rel=1e-12)
        assert (found.norm, found.domain) == (exact.norm, exact.domain)
        if domain is not None:  # the plane is cut into quadrants first
            assert found.status.split()[0] == exact.status.split()[0]


@pytest.mark.parametrize("activation", [nn.LeakyReLU, lambda: nn.LeakyReLU(-0.5), GroupSort])
@pytest.mark.parametrize("inputs", [1, 2])
def test_other_activations_against_branch_and_bound(activation: Any, inputs: int) -> None:
    for seed, norm in enumerate(NORMS):
        network = network_of(seed, [inputs, 4, 2, 2], activation)
        for domain in (None, (-0.5, 2)):
            exact = branch_and_bound(network, norm=norm, domain=domain)
            assert exact.kind == "exact"
            value = enumerate_polygons(network, norm=norm, domain=domain).value
            assert value == pytest.approx(exact.value, rel=2e-6)


def test_eighty_units_are_solved() -> None:
    network = network_of(1, [2, 20, 40, 20, 1])
    for layer in network[::2]:
        layer.weight.data *= 2.0
    for domain in (None, (-1, 1)):
        bound = enumerate_polygons(network, domain=domain)
        assert bound.kind == "exact"
        assert int(bound.status.split()[0]) > 500
        assert walk_bound(network, domain=domain).value <= bound.value * (1 + 1e-12)
        assert bound.value < lipsdp(network).value


def test_a_piece_counts_if_a_ball_fits_into_it() -> None:
    network = network_of(0, [1, 2, 1])
    network[0].weight.data = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    network[2].weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    for bias, constant in ((0.0, 1.0), (-1e-7, 1.0), (1e-7, 2.0)):
        network[0].bias.data.fill_(bias)
        assert enumerate_polygons(network).value == constant
    assert enumerate_polygons(network, margin=2e-7).value == 1.0


def test_thin_strips_and_wedges_without_end() -> None:
    """relu(y) - relu(y + turn x - w): one unit alone has the slope 1 or hypot(1, turn)."""
    network = network_of(0, [2, 2, 1])
    for turn in (0.0, 1e-9, 1e-3):
        network[0].weight.data = torch.tensor([[0.0, 1.0], [turn, 1.0]], dtype=torch.float64)
        network[2].weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
        for width in (1e-3, 1.0):
            network[0].bias.data = torch.tensor([0.0, -width], dtype=torch.float64)
            assert enumerate_polygons(network).value == pytest.approx(
                math.hypot(1, turn), rel=1e-15
            )


def test_an_early_stop_gives_a_bracket() -> None:
    network = network_of(1, [2, 20, 20, 1])
    exact = enumerate_polygons(network).value
    early = enumerate_polygons(network, seconds=1e-9)
    assert early.kind == "upper"
    assert "time is up" in early.status
    assert early.lower <= exact <= early.value <= product_bound(network).value


def test_bracket_is_closed_where_branch_and_bound_would_not_get_far() -> None:
    network = network_of(1, [2, 24, 24, 1])
    lower, upper = lipschitz_bracket(network, seconds=20)
    assert lower == upper
    assert lower.kind == "exact"
    assert "linear pieces" in lower.status
    assert lower.value == pytest.approx(enumerate_polygons(network).value)


def test_a_cut_that_loses_a_side_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = polygons._is_wide
    network = network_of(0, [2, 5, 4, 1])
    exact = enumerate_regions(network).value
    assert enumerate_polygons(network).value == pytest.approx(exact)
    monkeypatch.setattr(
        polygons, "_is_wide", lambda corners, *rest: corners[0, 0] <= 0 and whole(corners, *rest)
    )
    assert enumerate_polygons(network).value < 0.999 * exact


def test_other_networks_and_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="one or two inputs; got 3"):
        enumerate_polygons(mlp([3, 4, 1]))
    with pytest.raises(TypeError, match="got Tanh"):
        enumerate_polygons(mlp([2, 4, 1], nn.Tanh))
    for change in ({"norm": 3}, {"domain": (1, 0)}, {"seconds": 0}, {"margin": -1.0}):
        with pytest.raises(ValueError, match="must"):
            enumerate_polygons(mlp([2, 4, 1]), **change)
