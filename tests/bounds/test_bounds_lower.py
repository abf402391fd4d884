"""lipnb.bounds.lower: sampled slopes never exceed the constant, not even at kinks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lipnb.bounds import enumerate_regions, pair_quotients, product_bound, sampled_bound
from lipnb.models import GroupSort, mlp

NORMS = (1, 2, math.inf)


def sequence(*weights: list[list[float]], biases: list[list[float]]) -> nn.Sequential:
    """A ReLU network with given weights, in float64."""
    widths = [len(weights[0][0]), *(len(w) for w in weights)]
    network = mlp(widths, dtype=torch.float64)
    for layer, weight, bias in zip(network[::2], weights, biases, strict=True):
        layer.weight.data = torch.tensor(weight, dtype=torch.float64)
        layer.bias.data = torch.tensor(bias, dtype=torch.float64)
    return network


def identity() -> nn.Sequential:
    return sequence([[1.0], [-1.0]], [[1.0, -1.0]], biases=[[0.0, 0.0], [0.0]])


def twice_minus_once() -> nn.Sequential:
    """f(x) = 2 id(x + 1) - id(x) = x + 2, where autograd reports 2 at x = 0 and -1 at x = -1."""
    first = [[1.0], [-1.0], [1.0], [-1.0]]
    return sequence(first, [[2.0, -2.0, -1.0, 1.0]], biases=[[1.0, -1.0, 0.0, 0.0], [0.0]])


def autograd_slope(network: nn.Module, at: float) -> float:
    x = torch.tensor([[at]], dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(network(x).sum(), x)[0].item()


def test_autograd_reports_numbers_at_kinks_that_are_no_slopes() -> None:
    assert autograd_slope(identity(), 0.0) == 0.0
    assert autograd_slope(twice_minus_once(), 0.0) == 2.0
    assert autograd_slope(twice_minus_once(), -1.0) == -1.0
    assert autograd_slope(twice_minus_once(), 0.3) == 1.0


def test_points_at_kinks_are_passed_over() -> None:
    network = twice_minus_once()
    kinks = torch.tensor([[0.0], [-1.0], [5e-10]], dtype=torch.float64)
    bound = sampled_bound(network, points=kinks)
    assert bound.value == 0.0
    assert "3 passed over" in bound.status
    with_one = torch.cat([kinks, torch.tensor([[0.25]], dtype=torch.float64)])
    assert sampled_bound(network, points=with_one).value == pytest.approx(1.0, abs=1e-12)


def test_units_that_are_zero_everywhere_near_a_point_are_no_kinks() -> None:
    # The second layer's only unit is 0 for x < 0, without a change of sign nearby.
    network = sequence([[1.0]], [[1.0], [0.0]], [[1.0, 1.0]], biases=[[0.0], [0.0, 0.0], [0.0]])
    points = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    assert sampled_bound(network, points=points).value == pytest.approx(1.0, abs=1e-12)
    assert "passed over" not in sampled_bound(network, points=points[:1]).status


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    widths=st.sampled_from([[1, 4, 1], [2, 5, 1], [2, 4, 3, 2], [3, 4, 3]]),
    norm=st.sampled_from(NORMS),
    box=st.sampled_from([None, (-1.0, 0.5)]),
)
def test_never_above_the_exact_constant(
    seed: int, widths: list[int], norm: float, box: tuple[float, float] | None
) -> None:
    generator = torch.Generator().manual_seed(seed)
    network = mlp(widths, generator=generator, dtype=torch.float64)
    lower = sampled_bound(network, norm=norm, domain=box, samples=200, generator=generator)
    exact = enumerate_regions(network, norm=norm, domain=box)
    # 0 where every sampled point lies in a region on which the network is constant.
    assert 0 <= lower.value <= exact.value
    assert (lower.kind, lower.norm, lower.domain) == ("lower", norm, exact.domain)


@pytest.mark.parametrize("norm", NORMS)
def test_value_is_the_largest_jacobian_norm(norm: float) -> None:
    generator = torch.Generator().manual_seed(3)
    network = mlp([3, 6, 2], nn.Tanh, generator=generator, dtype=torch.float64)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    jacobians = torch.autograd.functional.jacobian(lambda v: network(v).sum(0), x)
    expected = torch.linalg.matrix_norm(jacobians.transpose(0, 1), ord=norm).max().item()
    value = sampled_bound(network, norm=norm, points=x).value
    assert value == pytest.approx(expected, rel=1e-12)
    assert value <= expected


def test_draws_come_from_the_given_generator_and_fill_the_box() -> None:
    network = mlp([2, 8, 1], nn.Tanh)
    before = torch.get_rng_state()
    one, two, other = (
        sampled_bound(network, samples=9, generator=torch.Generator().manual_seed(s)).value
        for s in (1, 1, 2)
    )
    assert one == two != other
    assert torch.equal(before, torch.get_rng_state())
    # Steep only on the thin end 0.9 < x < 1 of the box (0, 1).
    ramp = sequence([[1.0]], [[7.0]], biases=[[-0.9], [0.0]])
    assert sampled_bound(ramp, domain=(0, 1)).value == pytest.approx(7.0)
    assert sampled_bound(ramp, domain=(0, 0.89)).value == 0.0


def test_network_is_left_alone() -> None:
    network = mlp([2, 4, 1], lambda: nn.ReLU(inplace=True))
    bias = network[0].bias.clone()
    sampled_bound(network)
    assert torch.equal(bias, network[0].bias)
    assert all(p.grad is None for p in network.parameters())
    assert network.training


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 0},
        {"points": torch.zeros(3)},
        {"points": torch.zeros(3, 1)},
        {"points": torch.zeros(0, 2)},
        {"points": torch.full((1, 2), math.nan)},
        {"points": torch.full((1, 2), 3.0), "domain": (0, 1)},
        {"norm": 4},
    ],
)
def test_bad_arguments_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        sampled_bound(mlp([2, 3, 1]), **change)
    with pytest.raises(TypeError, match="got PReLU"):
        sampled_bound(nn.Sequential(nn.Linear(2, 2), nn.PReLU()))


def double(x: Tensor) -> Tensor:
    return 2 * x


@pytest.mark.parametrize("norm", NORMS)
def test_quotients_of_a_multiple_of_the_identity(norm: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 50, 3, generator=generator, dtype=torch.float64)
    q = pair_quotients(double, x, y, norm=norm)
    torch.testing.assert_close(q, torch.full((50,), 2.0, dtype=torch.float64))


def test_quotients_stay_below_the_exact_constant() -> None:
    generator = torch.Generator().manual_seed(1)
    network = mlp([2, 6, 3], generator=generator, dtype=torch.float64)
    x, y = torch.randn(2, 500, 2, generator=generator, dtype=torch.float64)
    for norm in NORMS:
        largest = pair_quotients(network, x, y, norm=norm).max().item()
        assert 0 < largest <= enumerate_regions(network, norm=norm).value


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.zeros(2, 1), torch.zeros(2, 1)),
        (torch.zeros(2, 1), torch.ones(3, 1)),
        (torch.zeros(2), torch.ones(2)),
        (torch.full((1, 1), math.inf), torch.ones(1, 1)),
    ],
)
def test_bad_pairs_are_refused(x: Tensor, y: Tensor) -> None:
    with pytest.raises(ValueError, match=r"same shape|distinct"):
        pair_quotients(double, x, y)


def test_layers_that_look_at_a_batch_of_channels_are_sampled_too() -> None:
    network = mlp([3, 8, 8, 1], GroupSort, generator=torch.Generator().manual_seed(0))
    low = sampled_bound(network, samples=200).value
    x = torch.randn(200, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x).sum(), x)
    assert 0.8 * gradient.norm(dim=1).max() < low <= product_bound(network).value


def test_a_tie_of_sorted_channels_is_a_kink() -> None:
    # max(x, -x) - max(-x, x) is zero, but at x = 0 automatic differentiation reports slope 2.
    weights = [[1.0], [-1.0], [-1.0], [1.0]], [[1.0, 0.0, -1.0, 0.0]]
    network = sequence(*weights, biases=[[0.0] * 4, [0.0]])
    network[1] = GroupSort()
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None].requires_grad_()
    (slope,) = torch.autograd.grad(network(x).sum(), x)
    assert not network(x).any() and slope[4] == 2
    assert sampled_bound(network, points=x).value == 0
