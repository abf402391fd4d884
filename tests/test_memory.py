"""lipnb.memory: known computations, and that what is forgotten would be noticed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lipnb.memory import peak_bytes

SIZE = 4000  # bytes of a thousand numbers


def test_what_dies_does_not_add_up() -> None:
    x = torch.ones(1000)

    def chain() -> None:
        y = x
        for _ in range(5):
            y = y + 1

    assert peak_bytes(chain, x) == 2 * SIZE


def test_what_autograd_keeps_counts_and_what_it_does_not_keep_does_not() -> None:
    x = torch.ones(1000, requires_grad=True)
    assert peak_bytes(lambda: x.exp().exp().exp().exp().sum(), x) == 4 * SIZE + 4
    with torch.no_grad():
        assert peak_bytes(lambda: x.exp().exp().exp().exp().sum(), x) == 2 * SIZE


def test_the_gradient_counts() -> None:
    x = torch.ones(1000, requires_grad=True)
    kept = x.exp()
    assert peak_bytes(lambda: kept.sum().backward(), x, kept) >= SIZE
    assert x.grad is not None


def test_views_and_writes_in_place_take_no_room() -> None:
    x = torch.ones(1000)
    assert peak_bytes(lambda: x.view(10, 100)[1:].T.add_(1), x) == 0
    assert peak_bytes(lambda: x.view(10, 100)[1:].T.add(1), x) == 900 * 4


def test_a_tensor_that_is_not_named_as_known_counts_when_it_is_seen() -> None:
    x = torch.ones(1000)
    assert peak_bytes(lambda: x.view(10, 100)) == SIZE
    assert peak_bytes(lambda: x.view(10, 100), x) == 0


def test_a_deeper_network_needs_more_by_its_activations() -> None:
    def needed(depth: int) -> int:
        layers = [nn.Sequential(nn.Linear(10, 10), nn.Tanh()) for _ in range(depth)]
        f, x = nn.Sequential(*layers), torch.ones(1000, 10)
        return peak_bytes(lambda: f(x).sum(), x, *f.parameters())

    # of each layer the outcome of tanh stays; the product before it dies
    assert needed(7) - needed(6) == needed(6) - needed(5) == 10 * SIZE


def test_refuses_what_it_cannot_call() -> None:
    with pytest.raises(TypeError, match="callable; got int"):
        peak_bytes(3)  # type: ignore[arg-type]
