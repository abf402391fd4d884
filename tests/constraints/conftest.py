"""What the tests of constraints share: the matrix of a layer, and a training that moves weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


def layer_matrix(layer: nn.Module, *shape: int) -> Tensor:
    """Matrix (outputs, inputs) in float64 of an affine layer on inputs of a shape, without bias."""
    dtype = next(layer.parameters()).dtype
    basis = torch.eye(torch.Size(shape).numel(), dtype=dtype).view(-1, *shape)
    with torch.no_grad():
        columns = layer(basis) - layer(torch.zeros(1, *shape, dtype=dtype))
    return columns.flatten(1).T.double()


def train_hard(layer: nn.Module, *shape: int, steps: int = 50, rate: float = 1e-2) -> nn.Module:
    """Adam on least squares, with targets ten times what a norm of 1 can reach."""
    g = torch.Generator().manual_seed(123)
    dtype = next(layer.parameters()).dtype
    x = torch.randn(16, *shape, generator=g, dtype=torch.float64).to(dtype)
    with torch.no_grad():
        y = 10 * torch.randn(layer(x).shape, generator=g, dtype=torch.float64).to(dtype)
    optimizer = torch.optim.Adam(layer.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimizer.step()
    return layer


@pytest.fixture(autouse=True)
def _global_generator():
    """Layers draw their weights from the global generator: the same in every order of tests."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(name="layer_matrix")
def _layer_matrix():
    return layer_matrix


@pytest.fixture(name="train_hard")
def _train_hard():
    return train_hard


@pytest.fixture
def seeded():
    """Build a layer from a seed, without moving the global generator."""

    def build(make, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return make()

    return build
