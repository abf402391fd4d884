"""lipnb.models.GroupSort: what sorting is, and what it does to distances and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lipnb.models import GroupSort, mlp

SIZES = (2, 3, 4, 6, None)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 12), (2, 12, 3), (2, 12, 3, 4)])
@pytest.mark.parametrize("size", SIZES)
def test_groups_of_neighbouring_channels_are_sorted(
    size: int | None, shape: tuple[int, ...]
) -> None:
    x = draw(*shape)
    y = GroupSort(size)(x)
    width = size or 12
    for start in range(0, 12, width):
        group = slice(start, start + width)
        torch.testing.assert_close(y[:, group], x[:, group].sort(dim=1).values)
    assert y.shape == x.shape


def test_pairs_in_order_are_kept_to_the_last_bit() -> None:
    x = torch.tensor([[1e-3, 1e8], [1e8, 1e-3], [-7.0, -7.0]])
    y = GroupSort()(x)
    assert torch.equal(y[0], x[0]) and torch.equal(y[2], x[2])
    torch.testing.assert_close(y[1], x[0], rtol=0, atol=8.0)  # one rounding of the difference


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ties", [False, True])
def test_the_jacobian_is_the_permutation_that_sorts(size: int | None, ties: bool) -> None:
    x = draw(12)
    if ties:
        x = x.round()
    layer = GroupSort(size)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0], x)
    assert set(jacobian.flatten().tolist()) == {0.0, 1.0}
    assert jacobian.sum(0).eq(1).all() and jacobian.sum(1).eq(1).all()
    torch.testing.assert_close(jacobian @ x, layer(x[None])[0])


def test_the_mean_and_difference_form_loses_the_gradient_at_ties() -> None:
    def form(v: torch.Tensor) -> torch.Tensor:
        mean, half = v.mean(), (v[0] - v[1]).abs() / 2
        return torch.stack([mean - half, mean + half])

    x = torch.ones(2, dtype=torch.float64)
    assert torch.autograd.functional.jacobian(form, x).eq(0.5).all()  # why it is not used


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("size", SIZES)
def test_distances_do_not_grow_and_gradients_keep_their_norm(size: int | None, norm: float) -> None:
    layer = GroupSort(size)
    x, y = draw(2000, 12).requires_grad_(), draw(2000, 12, seed=1)
    before = torch.linalg.vector_norm(x - y, ord=norm, dim=1)
    after = torch.linalg.vector_norm(layer(x) - layer(y), ord=norm, dim=1)
    assert (after <= before * (1 + 1e-12)).all()
    assert (after < 0.99 * before).any()  # points on two sides of a kink come closer
    u = draw(2000, 12, seed=2)
    (gradient,) = torch.autograd.grad((layer(x) * u).sum(), x)
    lengths = [torch.linalg.vector_norm(g, ord=norm, dim=1) for g in (gradient, u)]
    torch.testing.assert_close(*lengths, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_second_derivatives_vanish_and_exist(size: int | None) -> None:
    x = draw(3, 12).requires_grad_()
    (gradient,) = torch.autograd.grad(GroupSort(size)(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    torch.testing.assert_close(second, torch.full_like(x, 2.0))  # of the square alone


def test_it_is_an_activation_for_mlp() -> None:
    network = mlp([3, 8, 8, 1], activation=GroupSort)
    assert [type(layer) for layer in network][1::2] == [GroupSort, GroupSort]
    assert network(torch.zeros(5, 3)).shape == (5, 1)
    full = mlp([3, 8, 1], lambda: GroupSort(None))
    assert repr(full[1]) == "GroupSort(group_size=None)"
    assert GroupSort()(torch.zeros(0, 4)).shape == (0, 4)


def test_two_units_are_the_absolute_value() -> None:
    network = nn.Sequential(nn.Linear(1, 2, bias=False), GroupSort(), nn.Linear(2, 1, bias=False))
    network[0].weight.data.copy_(torch.tensor([[0.5], [-0.5]]))
    network[2].weight.data.copy_(torch.tensor([[-1.0, 1.0]]))
    x = torch.linspace(-2, 2, 9)[:, None]
    torch.testing.assert_close(network(x), x.abs())


@pytest.mark.parametrize("size", [0, 1, -2, 2.0, True, "2"])
def test_bad_sizes_are_refused(size: object) -> None:
    with pytest.raises(ValueError, match="group_size must be an integer of at least 2"):
        GroupSort(size)


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="channels must be a multiple of 2; got 5"):
        mlp([3, 5, 1], GroupSort)(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="multiple of 4; got 6"):
        GroupSort(4)(torch.zeros(2, 6, 4))
    with pytest.raises(ValueError, match=r"x must have shape \(n, channels, ...\); got \(4,\)"):
        GroupSort()(torch.zeros(4))
