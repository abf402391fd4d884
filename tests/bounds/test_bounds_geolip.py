"""lipnb.bounds.geolip: against the program as published, and against exact constants."""

from __future__ import annotations

import math
from typing import Any

import cvxpy
import numpy as np
import pytest
import torch
from torch import nn

from lipnb.bounds import enumerate_regions, geolip, lipsdp, product_bound, sampled_bound
from lipnb.bounds.chain import read_chain
from lipnb.models import GroupSort, mlp

NORMS = (1, math.inf)


def random_network(seed: int, widths: list[int], activation: Any = nn.ReLU) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    return mlp(widths, activation, generator=generator, dtype=torch.float64)


def oracle(network: nn.Sequential) -> float:
    """GeoLIP for a ReLU network with one output, over (1, x, h), for cvxpy and Clarabel."""
    chain = read_chain(network)
    hidden, d = [len(w) for w in chain.weights[:-1]], chain.weights[0].shape[1]
    n = sum(hidden)
    a = np.zeros((n, 1 + d + n))
    row, column = 0, 1
    for w in chain.weights[:-1]:
        a[row : row + len(w), column : column + w.shape[1]] = w
        row, column = row + len(w), column + w.shape[1]
    b = np.hstack([np.zeros((n, 1 + d)), np.eye(n)])
    gamma, lam, t = cvxpy.Variable(), cvxpy.Variable(d, nonneg=True), cvxpy.Variable(n, nonneg=True)
    linear = np.zeros((1 + d + n, 1 + d + n))
    linear[0, -hidden[-1] :] = linear[-hidden[-1] :, 0] = chain.weights[-1][0]
    first = np.zeros_like(linear)
    first[0, 0] = 1.0
    cube = np.hstack([np.zeros((d, 1)), np.eye(d), np.zeros((d, n))])
    m = (gamma - cvxpy.sum(lam)) * first + cube.T @ cvxpy.diag(lam) @ cube - linear
    m += 2 * b.T @ cvxpy.diag(t) @ b - a.T @ cvxpy.diag(t) @ b - b.T @ cvxpy.diag(t) @ a
    problem = cvxpy.Problem(cvxpy.Minimize(gamma), [m >> 0])
    problem.solve(solver=cvxpy.CLARABEL)
    return float(gamma.value) / 2


@pytest.mark.parametrize("widths", [[3, 5, 1], [2, 4, 4, 1], [4, 3, 3, 3, 1]])
def test_optimum_is_that_of_the_published_program(widths: list[int]) -> None:
    network = random_network(0, widths)
    bound = geolip(network)
    assert bound.value == pytest.approx(oracle(network), rel=2e-6)
    assert "converged" in bound.status


@pytest.mark.parametrize("norm", NORMS)
def test_affine_network_is_met_exactly(norm: float) -> None:
    layer = nn.Linear(3, 2).double()
    expected = torch.linalg.matrix_norm(layer.weight.detach(), ord=norm).item()
    value = geolip(nn.Sequential(layer), norm=norm).value
    assert expected <= value <= expected * (1 + 1e-6)


def test_norm_of_one_is_the_norm_infinity_of_the_transposed_weights() -> None:
    network = random_network(3, [3, 5, 4, 2])
    turned = mlp([2, 4, 5, 3], dtype=torch.float64)
    weights = [layer.weight.detach().T.clone() for layer in network[::2]]
    for layer, weight in zip(turned[::2], weights[::-1], strict=True):
        layer.weight.data = weight
    assert geolip(network, norm=1).value == pytest.approx(geolip(turned).value, rel=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_exact_constant_is_below_and_the_product_above(norm: float) -> None:
    for seed in range(6):
        network = random_network(seed, [2, 5, 4, 2])
        exact = enumerate_regions(network, norm=norm).value
        value = geolip(network, norm=norm).value
        assert exact <= value < product_bound(network, norm=norm).value
        # |x|_2 <= sqrt(2) |x|_inf for two inputs, and for the other norms alike.
        assert value <= math.sqrt(2) * lipsdp(network).value * (1 + 1e-6)
        box = (-0.2, 0.2)
        local = geolip(network, norm=norm, domain=box).value
        assert enumerate_regions(network, norm=norm, domain=box).value <= local
        assert local <= value * (1 + 1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", [nn.Tanh, GroupSort, lambda: nn.LeakyReLU(-0.4)])
def test_other_activations(norm: float, activation: Any) -> None:
    network = random_network(1, [3, 6, 4, 2], activation)
    lower = sampled_bound(network, norm=norm, samples=2000).value
    assert lower <= geolip(network, norm=norm).value <= product_bound(network, norm=norm).value


def test_an_output_that_is_constant() -> None:
    network = random_network(1, [3, 4, 2])
    network[2].weight.data[0] = 0.0
    value = geolip(network).value
    assert value >= enumerate_regions(network, norm=math.inf).value > 0
    network[2].weight.data[1] = 0.0
    assert geolip(network).value == 0.0


def test_out_of_time_it_is_still_a_bound() -> None:
    network = random_network(0, [2, 5, 4, 2])
    value = geolip(network, seconds=1e-9).value
    exact = enumerate_regions(network, norm=math.inf).value
    assert exact <= value <= product_bound(network, norm=math.inf).value


def test_bad_arguments_are_refused() -> None:
    network = mlp([2, 3, 1])
    with pytest.raises(ValueError, match="got 2; lipsdp takes it"):
        geolip(network, norm=2)
    with pytest.raises(ValueError, match="norm must be 1, 2 or inf; got 3"):
        geolip(network, norm=3)
    with pytest.raises(ValueError, match="seconds must be positive"):
        geolip(network, seconds=-1)
    with pytest.raises(TypeError, match="got Hardtanh"):
        geolip(mlp([2, 3, 1], nn.Hardtanh))
