"""lipnb.bounds.walk: a walk climbs where gradient ascent stands still."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lipnb.bounds import (
    enumerate_regions,
    operator_norm,
    pair_quotients,
    product_bound,
    sampled_bound,
    walk_bound,
)
from lipnb.bounds.walk import steepest_direction
from lipnb.models import GroupSort, mlp

NORMS = (1, 2, math.inf)


def slope_gradient(activation: type[nn.Module]) -> torch.Tensor:
    """The gradient of a network's slope at x, which an ascent would follow."""
    network = mlp([3, 8, 8, 1], activation, dtype=torch.float64)
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x.requires_grad_()
    (slopes,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    # Zero times x makes an x on which the slopes depend even if they do not.
    total = slopes.norm(dim=1).sum() + 0 * x.sum()
    return torch.autograd.grad(total, x)[0]


def test_gradient_ascent_on_the_slope_does_not_move_for_relu() -> None:
    assert torch.equal(slope_gradient(nn.ReLU), torch.zeros(16, 3, dtype=torch.float64))
    # The same ascent moves where the activation is curved, so the zeros come from ReLU.
    assert slope_gradient(nn.Tanh).abs().min() > 0


@pytest.mark.parametrize("norm", NORMS)
def test_walk_finds_the_exact_constant_of_small_networks(norm: float) -> None:
    met = 0
    for seed in range(6):
        network = mlp(
            [2, 5, 4, 2], generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        exact = enumerate_regions(network, norm=norm).value
        value = walk_bound(network, norm=norm, steps=100).value
        assert 0.7 * exact <= value <= exact
        met += value >= exact * (1 - 1e-9)
    assert met >= 3


def test_a_walk_climbs_above_as_many_samples() -> None:
    higher = 0
    for seed in range(4):
        network = mlp(
            [8, 16, 16, 1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        sampled = sampled_bound(network, samples=32 * 151, domain=(-1, 1)).value
        higher += walk_bound(network, steps=150, domain=(-1, 1)).value > sampled
    assert higher >= 3


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("domain", [None, (-1, 1), ([-1, 0, 2, 0], [1, 0.5, 3, 4])])
def test_witness_shows_the_bound(norm: float, domain: tuple[object, object] | None) -> None:
    network = mlp([4, 6, 6, 3], dtype=torch.float64)
    bound = walk_bound(network, norm=norm, domain=domain, steps=60)
    pair = torch.tensor([bound.x, bound.y], dtype=torch.float64)
    assert pair_quotients(network, pair[:1], pair[1:], norm=norm).item() == pytest.approx(
        bound.quotient, rel=1e-10
    )
    assert bound.quotient == pytest.approx(bound.value, rel=1e-6)
    assert bound.quotient <= product_bound(network, norm=norm).value
    if bound.domain is not None:
        low, high = (torch.tensor(side, dtype=torch.float64) for side in bound.domain)
        assert ((pair >= low) & (pair <= high)).all()


@pytest.mark.parametrize("scale", [1e-60, 1e3])
def test_units_of_the_input_do_not_matter(scale: float) -> None:
    network = mlp([3, 6, 1], dtype=torch.float64)
    plain = walk_bound(network, steps=50).value
    network[0].weight.data *= scale
    assert walk_bound(network, steps=50).value == pytest.approx(scale * plain, rel=1e-6)


def test_kinks_do_not_count() -> None:
    network = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    network[0].weight.data = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    network[0].bias.data.zero_()
    network[2].weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    assert walk_bound(network, steps=20).value == pytest.approx(1.0, abs=1e-12)


def test_curved_and_sorting_activations() -> None:
    for activation in (nn.Tanh, nn.ELU, GroupSort):
        network = mlp([2, 4, 4, 2], activation, dtype=torch.float64)
        bound = walk_bound(network, steps=40)
        assert 0 < bound.value <= product_bound(network).value
        assert bound.quotient == pytest.approx(bound.value, rel=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_direction_is_stretched_by_the_norm(norm: float) -> None:
    matrix = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = steepest_direction(matrix, norm)
    assert torch.linalg.vector_norm(v, ord=norm).item() == pytest.approx(1)
    stretched = torch.linalg.vector_norm(matrix @ v, ord=norm).item()
    assert stretched == pytest.approx(operator_norm(matrix, norm).item())


def test_the_generator_alone_decides() -> None:
    network = mlp([3, 8, 1], dtype=torch.float64)
    first, again = (walk_bound(network, steps=5) for _ in range(2))
    other = walk_bound(network, steps=5, generator=torch.Generator().manual_seed(9))
    assert first.x == again.x != other.x


def test_bad_arguments_are_refused() -> None:
    network = mlp([2, 3, 1])
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        walk_bound(network, steps=0)
    with pytest.raises(ValueError, match="norm must be 1, 2 or inf; got 3"):
        walk_bound(network, norm=3)
    with pytest.raises(TypeError, match="got Hardtanh"):
        walk_bound(mlp([2, 3, 1], nn.Hardtanh))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("start", [0.0, 1e6, 1e12, -3e15])
def test_the_witness_lies_in_a_box_however_far_that_is_from_zero(norm: float, start: float) -> None:
    network = mlp([2, 5, 1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = start, start + max(1e-3, 4 * math.ulp(start))
    bound = walk_bound(network, norm=norm, domain=(low, high), steps=5)
    for point in (bound.x, bound.y):
        assert all(low <= coordinate <= high for coordinate in point)
    assert bound.x != bound.y
    assert 0 < bound.value <= product_bound(network, norm=norm).value
    x, y = (torch.tensor([point], dtype=torch.float64) for point in (bound.x, bound.y))
    assert bound.quotient == pair_quotients(network, x, y, norm=norm).item()


def test_boxes_whose_distances_overflow_are_refused() -> None:
    with pytest.raises(ValueError, match="domain must lie within"):
        walk_bound(mlp([2, 3, 1]), domain=(-1e300, 1e300))
