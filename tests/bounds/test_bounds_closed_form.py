"""lipnb.bounds: LipLT, ECLipsE-Fast and SeqLip against each other and against exact constants."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from torch import nn

from lipnb.bounds import (
    Bound,
    eclipse_fast,
    enumerate_regions,
    liplt,
    product_bound,
    sampled_bound,
    seqlip,
    walk_bound,
)
from lipnb.bounds.chain import read_chain, round_up, slope_range
from lipnb.models import GroupSort, mlp

NORMS = (1, 2, math.inf)
Method = Callable[..., Bound]
METHODS: list[Method] = [liplt, eclipse_fast, seqlip]


def network_of(
    *weights: object, activation: Callable[[], nn.Module] = nn.ReLU, bias: float = 0.0
) -> nn.Sequential:
    matrices = [torch.as_tensor(np.asarray(w), dtype=torch.float64) for w in weights]
    widths = [matrices[0].shape[1], *(len(w) for w in matrices)]
    network = mlp(widths, activation, dtype=torch.float64)
    for layer, weight in zip(network[::2], matrices, strict=True):
        layer.weight.data = weight.clone()
        layer.bias.data.fill_(bias)
    return network


def random_network(seed: int, widths: list[int]) -> nn.Sequential:
    return mlp(widths, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS)
def test_one_layer_is_met_exactly(method: Method) -> None:
    matrix = [[3.0, 1.0], [0.0, 2.0], [1.0, 1.0]]
    expected = np.linalg.norm(matrix, ord=2)
    bound = method(network_of(matrix), domain=(0, 1))
    assert expected <= bound.value <= expected * (1 + 1e-12)
    assert (bound.kind, bound.norm, bound.domain) == ("upper", 2, ((0.0, 0.0), (1.0, 1.0)))


@pytest.mark.parametrize("method", METHODS)
def test_aligned_layers_are_met_exactly(method: Method) -> None:
    # All entries 1/2: the direction of ones is stretched by every norm, with all units on.
    network = network_of(np.full((4, 3), 0.5), np.full((5, 4), 0.5), np.full((2, 5), 0.5))
    exact = enumerate_regions(network).value
    assert method(network).value == pytest.approx(exact, rel=1e-11)


def test_layers_that_stretch_different_axes_by_hand() -> None:
    network = network_of(np.diag([2.0, 1.0]), np.diag([1.0, 2.0]))
    assert enumerate_regions(network).value == 2.0
    assert seqlip(network).value == pytest.approx(2.0)
    assert liplt(network).value == pytest.approx(0.5 * 2 + 0.5 * 2 * 2)
    # lambda = 1 / (2 * 4 / 4) = 1/2, X = diag(1/4, 7/16), and the largest of 1/X and 4/X.
    assert eclipse_fast(network).value == pytest.approx(math.sqrt(64 / 7))
    assert product_bound(network).value == pytest.approx(4.0)


def test_liplt_is_the_average_of_the_products_over_all_segments() -> None:
    weights = [np.random.default_rng(0).normal(size=(4, 4)) for _ in range(4)]
    for norm in NORMS:
        total = 0.0
        for count in range(4):
            for cuts in combinations(range(1, 4), count):
                ends = [0, *cuts, 4]
                segments = [weights[i:j] for i, j in pairwise(ends)]
                total += math.prod(
                    float(np.linalg.norm(np.linalg.multi_dot([*s[::-1], np.eye(4)]), ord=norm))
                    for s in segments
                )
        # 2^{-(m - 1)} with m - 1 activations; 2^{-m} would halve every bound.
        value = liplt(network_of(*weights), norm=norm).value
        assert value == pytest.approx(total / 8, rel=1e-12)
    assert liplt(network_of([[1.0]], [[1.0]])).value == pytest.approx(1.0)  # f = relu


@pytest.mark.parametrize("norm", NORMS)
def test_liplt_lies_between_the_exact_constant_and_the_product(norm: float) -> None:
    for seed in range(10):
        network = random_network(seed, [2, 5, 4, 2])
        exact = enumerate_regions(network, norm=norm).value
        value = liplt(network, norm=norm).value
        assert exact <= value < product_bound(network, norm=norm).value


@pytest.mark.parametrize("method", [eclipse_fast, seqlip])
def test_l2_bounds_lie_between_the_exact_constant_and_the_product(method: Method) -> None:
    for seed in range(10):
        network = random_network(seed, [2, 5, 4, 2])
        exact = enumerate_regions(network).value
        assert exact <= method(network).value < product_bound(network).value


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "activation",
    [nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU, lambda: nn.ELU(2.5), lambda: nn.LeakyReLU(0.3)],
)
def test_other_activations(method: Method, activation: Callable[[], nn.Module]) -> None:
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        network = mlp([2, 5, 4, 2], activation, generator=generator, dtype=torch.float64)
        lower = sampled_bound(network, samples=200).value
        assert lower <= method(network).value <= product_bound(network).value


@pytest.mark.parametrize("method", METHODS)
def test_a_linear_activation_leaves_the_product_of_matrices(method: Method) -> None:
    # LeakyReLU(1) is the identity. LipLT and SeqLip see it; ECLipsE-Fast widens [1, 1] to [0, 1].
    a, b = np.diag([2.0, 1.0]), np.diag([1.0, 2.0])
    value = method(network_of(a, b, activation=lambda: nn.LeakyReLU(1.0))).value
    assert value >= 2.0
    assert method is eclipse_fast or value == pytest.approx(2.0)


@pytest.mark.parametrize("method", [liplt, seqlip])
def test_negative_slopes(method: Method) -> None:
    # |z| = LeakyReLU(-1): J = W2 diag(+-1) W1 reaches |W2| |W1| here, where [0, 1] gives less.
    network = network_of([[1.0], [-1.0]], [[1.0, 1.0]], activation=lambda: nn.LeakyReLU(-1.0))
    assert method(network).value == pytest.approx(2.0)


def test_eclipse_refuses_negative_slopes() -> None:
    # Ignoring alpha beta < 0, the published program returns 1 for slopes [-0.13, 1.13]; truth 1.13.
    network = network_of([[1.0]], [[1.0]], activation=lambda: nn.LeakyReLU(-0.13))
    with pytest.raises(ValueError, match="slopes must be at least 0"):
        eclipse_fast(network)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("exponent", [-600, 600])
def test_huge_and_tiny_weights(method: Method, exponent: int) -> None:
    network = random_network(1, [2, 5, 4, 2])
    plain = method(network).value
    network[0].weight.data *= 2.0**exponent
    assert method(network).value == math.ldexp(plain, exponent)
    network[2].weight.data *= 2.0**-exponent
    assert method(network).value == plain


@pytest.mark.parametrize("method", METHODS)
def test_a_product_below_the_smallest_float_is_not_zero(method: Method) -> None:
    assert 0 < method(network_of([[1e-200]], [[1e-200]])).value < 1e-300


@pytest.mark.parametrize("method", METHODS)
def test_a_product_above_the_largest_float_is_infinite(method: Method) -> None:
    assert method(network_of([[1e200]], [[1e200]])).value == math.inf


@pytest.mark.parametrize("method", METHODS)
def test_constant_networks_have_constant_zero(method: Method) -> None:
    assert method(network_of([[1.0], [2.0]], np.zeros((2, 2)), [[1.0, 1.0]])).value == 0.0
    # Weights that are not zero, with a product that is.
    network = network_of([[1.0], [0.0]], [[0.0, 1.0]])
    assert 0.0 <= method(network).value <= 1.0


def test_greedy_seqlip_is_not_a_bound() -> None:
    """Flipping one gate at a time stops below the maximum over all gates."""
    missed = 0
    for seed in range(20):
        network = random_network(seed, [3, 8, 8, 3])
        a, b = (network[i].weight.detach().numpy() for i in (4, 2))
        missed += greedy(a, b) < every(a, b) * (1 - 1e-9)
    assert missed > 0


def every(after: np.ndarray, before: np.ndarray) -> float:
    gates = ((np.arange(2 ** len(before))[:, None] >> np.arange(len(before))) & 1).astype(float)
    norms = [np.linalg.norm(after * g @ before, ord=2) for g in gates]
    return float(max(norms))


def greedy(after: np.ndarray, before: np.ndarray) -> float:
    gates = np.ones(len(before))
    best = float(np.linalg.norm(after @ before, ord=2))
    while True:
        flips = []
        for i in range(len(gates)):
            flipped = gates.copy()
            flipped[i] = 1 - flipped[i]
            flips.append((float(np.linalg.norm(after * flipped @ before, ord=2)), i))
        value, i = max(flips)
        if value <= best:
            return best
        best, gates[i] = value, 1 - gates[i]


def test_seqlip_of_one_hidden_layer_is_the_maximum_over_all_gates() -> None:
    for seed in range(10):
        network = random_network(seed, [3, 6, 2])
        a, b = (network[i].weight.detach().numpy() for i in (2, 0))
        # With V in place of V^T, as has been published, most of these fail.
        assert seqlip(network).value == pytest.approx(every(a, b), rel=1e-12)


def test_seqlip_refuses_wide_layers() -> None:
    with pytest.raises(ValueError, match=r"at most max_units = 14 units.*got 15"):
        seqlip(mlp([2, 15, 1]))
    assert seqlip(mlp([2, 3, 1]), max_units=3).value > 0


def test_other_norms_and_layers_are_refused() -> None:
    network = mlp([2, 4, 1])
    for method in (eclipse_fast, seqlip):
        with pytest.raises(ValueError, match="norm must be 2"):
            method(network, norm=1)
    with pytest.raises(ValueError, match="norm must be 1, 2 or inf"):
        liplt(network, norm=3)
    for method in (liplt, eclipse_fast):
        with pytest.raises(TypeError, match="got GroupSort; seqlip"):
            method(mlp([2, 4, 1], GroupSort))
    with pytest.raises(TypeError, match="groups of two"):
        seqlip(mlp([2, 4, 1], lambda: GroupSort(4)))
    with pytest.raises(ValueError, match="even number of channels"):
        seqlip(mlp([2, 3, 1], GroupSort))


def test_chain_puts_identities_between_activations() -> None:
    inner = nn.Linear(2, 3).double()
    chain = read_chain(nn.Sequential(nn.ReLU(), inner, nn.Tanh(), nn.ReLU()))
    shapes = [w.shape for w in chain.weights]
    assert shapes == [(2, 2), (3, 2), (3, 3), (3, 3)]
    assert chain.slopes == ((0.0, 1.0),) * 3


def test_chain_multiplies_neighbouring_affine_maps() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    chain = read_chain(network)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        expected = network[1](network[0](x)).numpy()
    np.testing.assert_allclose(x.numpy() @ chain.weights[0].T + chain.biases[0], expected)


def test_scaled_weights_are_the_weights_times_powers_of_two() -> None:
    chain = read_chain(random_network(0, [2, 3, 4, 1]))
    weights, exponent = chain.scaled()
    ratios = [w.flat[0] / v.flat[0] for w, v in zip(chain.weights, weights, strict=True)]
    assert math.prod(ratios) == 2.0**exponent
    assert all(0.5 <= np.linalg.norm(w) < 1 for w in weights)


@pytest.mark.parametrize("layer", [nn.ELU(0.5), nn.ELU(2.5), nn.ELU(-1.0), nn.LeakyReLU(-3.0)])
def test_slope_range_is_that_of_quotients(layer: nn.Module) -> None:
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    quotients = layer(x).diff() / x.diff()
    low, high = slope_range(layer)
    assert quotients.min().item() == pytest.approx(low, abs=1e-3)
    assert quotients.max().item() == pytest.approx(high, abs=1e-3)


def test_rounding_up_never_gives_less() -> None:
    assert round_up(1.0, 0, 0.0) == 1.0
    assert round_up(0.3, -1074, 0.0) >= 5e-324
    assert round_up(1.0, 1024, 0.0) == math.inf
    assert round_up(0.0, 10, 1.0) == 0.0


def test_seqlip_of_sorted_pairs_against_all_exchanges() -> None:
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        network = mlp([3, 6, 2], GroupSort, generator=generator, dtype=torch.float64)
        first, last = (layer.weight.detach() for layer in network[::2])
        norms = []
        for exchanged in itertools.product((False, True), repeat=3):
            order = [2 * i + (k != e) for i, e in enumerate(exchanged) for k in (0, 1)]
            norms.append(torch.linalg.matrix_norm(last @ first[order], ord=2).item())
        assert seqlip(network).value == pytest.approx(max(norms), rel=1e-12)
        assert max(norms) > 1.01 * min(norms)
    # Several layers, and one that is not sorted between them: below the product, above the walk.
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        sizes = [(3, 6), (6, 4), (4, 4), (4, 2)]
        layers = [nn.Linear(a, b, dtype=torch.float64) for a, b in sizes]
        for layer in layers:
            layer.weight.data = torch.randn(
                layer.weight.shape, generator=generator, dtype=torch.float64
            )
        a, b, c, d = layers
        network = nn.Sequential(a, GroupSort(), b, nn.ReLU(), c, GroupSort(), d)
        bound = seqlip(network).value
        assert walk_bound(network, steps=20).value <= bound <= product_bound(network).value
