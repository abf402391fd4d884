"""lipnb.bounds.layerwise: the product of the layers' norms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lipnb.bounds import activation_constant, enumerate_regions, product_bound
from lipnb.models import GroupSort, mlp

NORMS = (1, 2, math.inf)


@pytest.mark.parametrize("norm", NORMS)
def test_one_linear_layer_is_met_exactly(norm: float) -> None:
    network = mlp([3, 4], generator=torch.Generator().manual_seed(2))
    weight = network[0].weight.detach().double()
    expected = torch.linalg.matrix_norm(weight, ord=norm).item()
    bound = product_bound(network, norm=norm, domain=(0, 1))
    assert expected <= bound.value <= expected * (1 + 1e-13)
    assert (bound.kind, bound.norm, bound.domain) == ("upper", norm, ((0.0,) * 3, (1.0,) * 3))


@pytest.mark.parametrize("norm", NORMS)
def test_product_is_above_the_exact_constant(norm: float) -> None:
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        network = mlp([2, 4, 3, 2], generator=generator, dtype=torch.float64)
        exact = enumerate_regions(network, norm=norm).value
        assert exact < product_bound(network, norm=norm).value


def test_nonnegative_weights_of_rank_one_make_it_tight() -> None:
    # Every layer stretches the direction (1, ..., 1) by its norm, and all units can be on together.
    network = mlp([3, 5, 4, 2], dtype=torch.float64)
    for layer in network:
        if isinstance(layer, nn.Linear):
            layer.weight.data.fill_(0.5)
    exact = enumerate_regions(network).value
    assert product_bound(network).value == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU(),
        nn.Tanh(),
        nn.Sigmoid(),
        nn.Softplus(3.0),
        nn.ELU(0.5),
        nn.ELU(2.5),
        nn.LeakyReLU(-3.0),
    ],
)
def test_activation_constants_are_the_largest_slope(layer: nn.Module) -> None:
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    slope = (layer(x).diff() / x.diff()).abs().max().item()
    assert slope == pytest.approx(activation_constant(layer), rel=1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [2, 4, None])
def test_groupsort_has_constant_one_and_attains_it(size: int | None, norm: float) -> None:
    layer, generator = GroupSort(size), torch.Generator().manual_seed(0)
    x = torch.randn(100, 8, generator=generator, dtype=torch.float64)
    y = x + 1e-6 * torch.randn(100, 8, generator=generator, dtype=torch.float64)
    images, points = (
        torch.linalg.vector_norm(d, norm, dim=1) for d in (layer(x) - layer(y), x - y)
    )
    assert (images / points).max().item() == pytest.approx(activation_constant(layer), rel=1e-6)
    network = mlp([2, 8, 8, 1], lambda: layer, dtype=torch.float64)
    weights = [network[i].weight.detach() for i in (0, 2, 4)]
    product = math.prod(torch.linalg.matrix_norm(w, ord=norm).item() for w in weights)
    assert product_bound(network, norm=norm).value == pytest.approx(product, rel=1e-12)


def test_activation_constants_enter_the_product() -> None:
    layers = [nn.Linear(1, 1), nn.Sigmoid(), nn.Linear(1, 1), nn.LeakyReLU(4.0)]
    for layer in layers[::2]:
        layer.weight.data.fill_(3.0)
    assert product_bound(nn.Sequential(*layers)).value == pytest.approx(9.0)


@pytest.mark.parametrize("layer", [nn.Softmax(dim=1), nn.PReLU(), nn.Dropout(), nn.Conv1d(1, 1, 1)])
def test_other_layers_are_refused(layer: nn.Module) -> None:
    with pytest.raises(TypeError, match=f"got {type(layer).__name__}"):
        product_bound(nn.Sequential(nn.Linear(2, 2), layer))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="norm must be"):
        product_bound(mlp([2, 1]), norm=0.5)
    with pytest.raises(ValueError, match="low"):
        product_bound(mlp([2, 1]), domain=(1, 0))
