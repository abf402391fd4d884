"""lipnb.bounds.length_unit: kinks that lie very close to each other, or very far away."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lipnb.bounds import (
    branch_and_bound,
    enumerate_regions,
    linear_regions,
    lipmip,
    lipschitz_bracket,
    walk_bound,
)
from lipnb.bounds.length_unit import in_unit, length_unit, scaled_box
from lipnb.bounds.units import read_units
from lipnb.models import mlp

NORMS = (1, 2, math.inf)


def ramp(steepness: float) -> nn.Sequential:
    """min(max(k x, 0), 1): the constant is k, on an interval of length 1 / k."""
    network = mlp([1, 2, 1], dtype=torch.float64)
    network[0].weight.data.fill_(steepness)
    network[0].bias.data = torch.tensor([0.0, -1.0], dtype=torch.float64)
    network[2].weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    return network


@pytest.mark.parametrize("steepness", [1e-30, 1e-12, 1.0, 1e8, 1e10, 1e13])
def test_a_ramp_is_found_however_steep(steepness: float) -> None:
    network = ramp(steepness)
    for norm in NORMS:
        for method in (enumerate_regions, branch_and_bound, lipmip):
            bound = method(network, norm=norm)
            assert bound.kind == "exact"
            assert bound.value == pytest.approx(steepness, rel=1e-12)
        box = (-1 / steepness, 2 / steepness)
        assert branch_and_bound(network, norm=norm, domain=box).value == pytest.approx(steepness)
    lower, upper = lipschitz_bracket(network, seconds=1)
    assert lower.value <= steepness * (1 + 1e-12) <= upper.value * (1 + 2e-12)
    assert lower.value == pytest.approx(steepness, rel=1e-6)
    bound = walk_bound(network)
    assert 0.999999 * steepness <= bound.value <= steepness


def test_regions_come_back_in_the_unit_of_the_input() -> None:
    network = ramp(2.0**40)
    flat, steep = 0.0, 2.0**40
    regions = sorted(linear_regions(network), key=lambda r: float(r.point[0]))
    assert [abs(r.weight.item()) for r in regions] == [flat, steep, flat]
    for region in regions:
        assert (region.normals @ region.point + region.offsets >= region.margin * 0.999).all()
        x = torch.from_numpy(region.point[None])
        assert network(x).item() == pytest.approx(
            (region.weight @ region.point + region.bias).item()
        )
    assert 0 < regions[1].point[0] < 2.0**-40


def test_an_explicit_margin_is_one_of_the_input() -> None:
    network = ramp(1e6)  # half of the interval is 5e-7 wide
    for method in (enumerate_regions, branch_and_bound, lipmip):
        assert method(network, margin=4e-7).value == pytest.approx(1e6)
        assert method(network, margin=6e-7).value == 0.0


def test_ordinary_networks_keep_their_unit() -> None:
    units = read_units(mlp([3, 8, 8, 1], generator=torch.Generator().manual_seed(0)))
    assert length_unit(units, None) == 1.0
    box = ((0.0,) * 3, (1e-6,) * 3)
    unit = length_unit(units, box)
    assert unit == 2.0**-21
    assert scaled_box(box, unit) == ((0.0,) * 3, (1e-6 * 2**21,) * 3)
    assert (in_unit(units, unit).inputs == units.inputs * unit).all()


@pytest.mark.parametrize("exponent", [-60, -20, 20, 60])
def test_the_constant_scales_with_the_input(exponent: int) -> None:
    network = mlp([2, 5, 4, 2], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    methods = (enumerate_regions, branch_and_bound, walk_bound)
    before = [method(network, norm=math.inf).value for method in methods]
    network[0].weight.data *= 2.0**exponent
    for method, value in zip(methods[:2], before, strict=False):
        after = method(network, norm=math.inf).value
        assert after == pytest.approx(value * 2.0**exponent, rel=1e-6)
    assert walk_bound(network, norm=math.inf).value >= 0.5 * before[0] * 2.0**exponent
