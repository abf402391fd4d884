"""lipnb.bounds.power: power iteration never passes the truth, and reaches the Jacobians' norms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from lipnb.bounds import enumerate_regions, power_bound, product_bound, sampled_bound
from lipnb.models import GroupSort, mlp


def network_of(seed: int, widths: list[int], activation: Any = nn.ReLU) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    return mlp(widths, activation, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU,
        lambda: nn.ReLU(inplace=True),
        nn.LeakyReLU,
        GroupSort,
        lambda: GroupSort(3),
        nn.Tanh,
    ],
)
def test_reaches_the_largest_sampled_jacobian(activation: Any) -> None:
    network = network_of(0, [4, 6, 6, 5], activation)
    points = torch.randn(64, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sampled = sampled_bound(network, points=points).value
    for steps in (1, 5, 400):
        value = power_bound(network, points=points, steps=steps).value
        assert value <= sampled * (1 + 1e-12)
    assert value == pytest.approx(sampled, rel=1e-6)
    assert power_bound(network, points=points, steps=1).value < 0.999 * sampled


def test_never_above_the_exact_constant() -> None:
    for seed in range(5):
        network = network_of(seed, [2, 4, 3, 3])
        for domain in (None, (-1, 1)):
            exact = enumerate_regions(network, domain=domain).value
            bound = power_bound(network, domain=domain, steps=60)
            sampled = sampled_bound(network, domain=domain).value  # at the same points
            assert 0.99 * sampled <= bound.value <= exact
            assert (bound.kind, bound.norm) == ("lower", 2)


def test_one_point_of_each_linear_region_is_enough() -> None:
    network = network_of(0, [1, 3, 2])
    points = torch.linspace(-9, 9, 200, dtype=torch.float64)[:, None]
    patterns = {tuple((network[0](x) > 0).tolist()) for x in points}
    assert 1 < len(patterns) < 5
    bound = power_bound(network, points=points)
    assert bound.status == f"20 steps of power iteration in {len(patterns)} of 200 points"
    smooth = power_bound(network_of(0, [1, 3, 2], nn.Tanh), points=points)
    assert "in 200 of 200 points" in smooth.status


def test_slopes_at_kinks_do_not_count() -> None:
    network = network_of(0, [1, 2, 1])
    network[0].weight.data = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    network[0].bias.data = torch.full((2,), 1e-12, dtype=torch.float64)  # both on, at 0 alone
    network[2].weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    points = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    bound = power_bound(network, points=points)
    assert bound.value == pytest.approx(1.0)
    assert "1 passed over" in bound.status


def test_many_outputs_and_constant_networks() -> None:
    network = network_of(0, [20, 30, 400])
    assert 0 < power_bound(network, samples=16).value <= product_bound(network).value
    network[0].weight.data.zero_()
    assert power_bound(network, samples=4).value == 0.0


def test_bad_arguments_are_refused() -> None:
    network = mlp([2, 3, 1])
    for change in (
        {"norm": math.inf},
        {"steps": 0},
        {"samples": 0},
        {"domain": (1, 0)},
        {"points": torch.zeros(3, 1)},
    ):
        with pytest.raises(ValueError, match="must"):
            power_bound(network, **change)
    with pytest.raises(TypeError, match="got GELU"):
        power_bound(mlp([2, 3, 1], nn.GELU))
