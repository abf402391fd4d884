"""lipnb.models.mlp: layout, law of the weights, and where the randomness comes from."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lipnb.models import mlp


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_layout_with_and_without_batch_norm() -> None:
    kinds = [type(layer) for layer in mlp([2, 5, 3, 1])]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    kinds = [type(layer) for layer in mlp([2, 5, 3, 1], nn.Tanh, batch_norm=True)]
    block = [nn.Linear, nn.BatchNorm1d, nn.Tanh]
    assert kinds == [*block, *block, nn.Linear]
    assert [type(layer) for layer in mlp([4, 2])] == [nn.Linear]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_seeds_give_the_numbers_of_torch(dtype: torch.dtype) -> None:
    ours = mlp([3, 7, 2], generator=seeded(5), dtype=dtype)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        theirs = nn.Sequential(
            nn.Linear(3, 7, dtype=dtype), nn.ReLU(), nn.Linear(7, 2, dtype=dtype)
        )
    for p, q in zip(ours.parameters(), nn.Sequential(*theirs).parameters(), strict=True):
        assert p.dtype == dtype
        assert torch.equal(p, q)
        assert p.requires_grad


def test_weights_fill_their_interval_and_stay_inside() -> None:
    layer = mlp([25, 4000], generator=seeded(1))[0]
    bound = 25**-0.5
    for values in (layer.weight, layer.bias):
        assert values.abs().max() <= bound
        # The variance of a uniform law on [-b, b] is b^2/3; 4000 draws scatter by about 1.5 %.
        assert abs(values.var().item() * 3 / bound**2 - 1) < 0.08


def test_global_rng_is_neither_read_nor_moved() -> None:
    before = torch.get_rng_state()
    first = mlp([2, 8, 8, 1], batch_norm=True)
    assert torch.equal(before, torch.get_rng_state())
    with torch.random.fork_rng():
        torch.manual_seed(123)
        second = mlp([2, 8, 8, 1], batch_norm=True)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


def test_different_seeds_differ() -> None:
    first, second = (mlp([2, 3, 1], generator=seeded(s)) for s in (0, 1))
    assert not torch.equal(first[0].weight, second[0].weight)


def test_each_activation_is_its_own_layer() -> None:
    network = mlp([2, 3, 3, 1], lambda: nn.PReLU(init=0.1))
    assert network[1] is not network[3]


@pytest.mark.parametrize("widths", [[2], [], [2, 0, 1], [2, 1.5, 1], [2, -3, 1]])
def test_bad_widths_are_refused(widths: list[int]) -> None:
    with pytest.raises(ValueError, match="at least two positive integers"):
        mlp(widths)
