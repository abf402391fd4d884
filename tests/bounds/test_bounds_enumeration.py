"""lipnb.bounds.enumeration: the exact constant against known answers and other routes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lipnb.bounds import enumerate_regions, linear_regions, product_bound, sampled_bound
from lipnb.models import mlp

NORMS = (1, 2, math.inf)


def network_of(weights: list[list[list[float]]], biases: list[list[float]]) -> nn.Sequential:
    """A ReLU network with given weights, in float64."""
    network = mlp([len(weights[0][0]), *(len(w) for w in weights)], dtype=torch.float64)
    for layer, weight, bias in zip(network[::2], weights, biases, strict=True):
        layer.weight.data = torch.tensor(weight, dtype=torch.float64)
        layer.bias.data = torch.tensor(bias, dtype=torch.float64)
    return network


def random_network(seed: int, widths: list[int]) -> nn.Sequential:
    return mlp(widths, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scalar_pair(bias: float, signs: tuple[float, float] = (1.0, -1.0)) -> nn.Sequential:
    """x -> s_1 relu(x + bias) + s_2 relu(-x + bias)."""
    return network_of([[[1.0], [-1.0]], [list(signs)]], [[bias, bias], [0.0]])


def count(bound_status: str) -> int:
    return int(bound_status.split()[0])


# Known answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_identity_network_has_constant_one_not_two(norm: float) -> None:
    bound = enumerate_regions(scalar_pair(0.0), norm=norm)
    assert (bound.value, bound.kind, count(bound.status)) == (1.0, "exact", 2)
    # Both gates on, as a closed cell {0} would allow, gives the slope 2.
    both_on = product_bound(scalar_pair(0.0), norm=2).value
    assert both_on == pytest.approx(2.0)


def test_biases_of_the_size_of_a_solver_tolerance_do_not_matter() -> None:
    assert enumerate_regions(scalar_pair(-1e-7)).value == 1.0  # flat between the two ramps
    sliver = scalar_pair(1e-7)  # both on for |x| < 1e-7: slope 2, a true one
    assert enumerate_regions(sliver).value == 2.0
    assert enumerate_regions(sliver, margin=1e-6).value == 1.0


def test_absolute_value_and_zero() -> None:
    assert enumerate_regions(scalar_pair(0.0, (1.0, 1.0))).value == 1.0
    assert enumerate_regions(scalar_pair(0.0, (0.0, 0.0))).value == 0.0


@pytest.mark.parametrize("norm", NORMS)
def test_linear_map_has_its_operator_norm_and_one_region(norm: float) -> None:
    network = random_network(0, [4, 3])
    expected = torch.linalg.matrix_norm(network[0].weight.detach(), ord=norm).item()
    bound = enumerate_regions(network, norm=norm, domain=(-1, 1))
    assert bound.value == pytest.approx(expected, rel=1e-14)
    assert count(bound.status) == 1


def test_bump_of_known_slopes_on_growing_boxes() -> None:
    # 3 relu(x) - 8 relu(x - 1) + 5 relu(x - 3): slopes 0, 3, -5, 0.
    network = network_of([[[1.0]] * 3, [[3.0, -8.0, 5.0]]], [[0.0, -1.0, -3.0], [0.0]])
    ends = {-0.5: 0.0, 0.5: 3.0, 1.0: 3.0, 1.5: 5.0, 4.0: 5.0}
    for end, value in ends.items():
        assert enumerate_regions(network, domain=(-1.0, end)).value == value
    assert count(enumerate_regions(network).status) == 4


def graph_network(nodes: int, edges: list[tuple[int, int]]) -> nn.Sequential:
    """sum_i relu(b_i x) with b_i the columns of the incidence matrix."""
    incidence = np.zeros((len(edges), nodes))
    for row, (i, j) in enumerate(edges):
        incidence[row, i], incidence[row, j] = 1.0, -1.0
    return network_of([incidence.T.tolist(), [[1.0] * nodes]], [[0.0] * nodes, [0.0]])


@pytest.mark.parametrize(
    ("nodes", "edges", "cut"),
    [
        (5, [(i, (i + 1) % 5) for i in range(5)], 4),  # odd cycle: all edges but one
        (6, [(i, (i + 1) % 6) for i in range(6)], 6),  # even cycle: all edges
        (4, list(itertools.combinations(range(4), 2)), 4),  # complete graph: 2 x 2
    ],
)
def test_squared_constant_of_a_graph_network_is_its_largest_cut(
    nodes: int, edges: list[tuple[int, int]], cut: int
) -> None:
    bound = enumerate_regions(graph_network(nodes, edges))
    assert bound.value**2 == pytest.approx(cut, rel=1e-12)
    assert count(bound.status) == 2**nodes - 2  # all gates but "all on" and "all off"


# Other routes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [[2, 6, 1], [2, 5, 4, 1], [2, 4, 3, 3, 2]])
def test_equals_the_largest_slope_on_a_dense_grid(widths: list[int]) -> None:
    axis = torch.linspace(-2, 2, 201, dtype=torch.float64) + 1e-4
    grid = torch.cartesian_prod(axis, axis).clamp(-2, 2)
    for seed in range(3):
        network = random_network(seed, widths)
        for norm in NORMS:
            exact = enumerate_regions(network, norm=norm, domain=(-2, 2)).value
            found = sampled_bound(network, norm=norm, points=grid).value
            # A region that the grid of step 0.02 misses has an inradius below 0.0142.
            if found < exact - 1e-12:
                regions = linear_regions(network, domain=(-2, 2))
                norms = [np.linalg.norm(r.weight, ord=norm) for r in regions]
                assert regions[int(np.argmax(norms))].margin < 0.0142
            assert found <= exact


def test_regions_hold_the_network_and_tile_the_box() -> None:
    network = random_network(7, [2, 5, 4, 2])
    regions = linear_regions(network, domain=(-1, 1))
    assert len({r.gates for r in regions}) == len(regions)
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(2000, 2, generator=generator, dtype=torch.float64) * 2 - 1).numpy()
    fx = network(torch.from_numpy(x)).detach().numpy()
    owners = np.zeros(len(x), dtype=int)
    for r in regions:
        inside = (x @ r.normals.T + r.offsets >= 0).all(axis=1)
        owners += inside
        np.testing.assert_allclose(x[inside] @ r.weight.T + r.bias, fx[inside], atol=1e-12)
        assert np.linalg.norm(r.normals, axis=1) == pytest.approx(1.0)
        assert (r.normals @ r.point + r.offsets).min() == pytest.approx(r.margin)
        assert len(r.gates) == 9
    assert (owners == 1).all()


def test_number_of_regions_of_one_hidden_layer_in_general_position() -> None:
    for dimension, units in [(1, 6), (2, 6), (3, 5), (5, 5)]:
        network = random_network(1, [dimension, units, 1])
        expected = sum(math.comb(units, j) for j in range(dimension + 1))
        assert count(enumerate_regions(network).status) == expected


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), norm=st.sampled_from(NORMS))
def test_sandwich_and_smaller_boxes(seed: int, norm: float) -> None:
    network = random_network(seed, [2, 5, 3, 1])
    values = [
        enumerate_regions(network, norm=norm, domain=box).value
        for box in ((-0.1, 0.1), (-1, 1), None)
    ]
    assert values == sorted(values)
    assert sampled_bound(network, norm=norm, samples=100).value <= values[-1]
    assert values[-1] <= product_bound(network, norm=norm).value


# Invariances -----------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(5)), power=st.integers(-30, 30))
def test_permuting_and_rescaling_hidden_units_changes_nothing(
    seed: int, order: list[int], power: int
) -> None:
    network = random_network(seed, [2, 5, 3, 1])
    bound = enumerate_regions(network)
    first, second = network[0], network[2]
    scale = 10.0 ** (power / 2)  # up to 15 orders of magnitude either way
    first.weight.data = first.weight.data[order] * scale
    first.bias.data = first.bias.data[order] * scale
    second.weight.data = second.weight.data[:, order] / scale
    changed = enumerate_regions(network)
    assert changed.value == pytest.approx(bound.value, rel=1e-9)
    assert changed.status == bound.status


def test_orthogonal_change_of_the_input_leaves_the_euclidean_constant() -> None:
    network = random_network(4, [3, 5, 2])
    before = enumerate_regions(network).value
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    network[0].weight.data @= torch.from_numpy(q)
    assert enumerate_regions(network).value == pytest.approx(before, rel=1e-12)


# Degenerate networks ---------------------------------------------------------------------------


def test_dead_zero_and_duplicated_units_change_nothing() -> None:
    network = random_network(5, [2, 4, 1])
    bound = enumerate_regions(network, domain=(-1, 1))
    w, b, v = network[0].weight.detach(), network[0].bias.detach(), network[2].weight.detach()
    # Unit 0 twice with half the weight each, a unit that is never on, one that is constant, and
    # two that cancel each other.
    weight = torch.cat([w, w[:1], w[:1], torch.zeros(2, 2), w[1:2], w[1:2]])
    bias = torch.cat([b, b[:1], b[:1] - 50, torch.tensor([-1.0, 2.0]), b[1:2], b[1:2]])
    out = torch.cat([v, v[:, :1] / 2, torch.tensor([[9.0, 8.0, 7.0, 3.0, -3.0]])], dim=1)
    out[:, 0] /= 2
    degenerate = network_of([weight.tolist(), out.tolist()], [bias.tolist(), [0.0]])
    again = enumerate_regions(degenerate, domain=(-1, 1))
    assert again.value == pytest.approx(bound.value, rel=1e-12)
    assert again.status == bound.status


def test_units_that_cancel_up_to_rounding_draw_no_hyperplane() -> None:
    # The second layer sees 0.3 x - 0.1 x - 0.2 x, which is not exactly zero in floating point.
    first = [[0.3, 0.1], [0.1, 0.1 / 3], [0.2, 0.2 / 3]]
    noise = torch.tensor([[1.0, -1.0, -1.0]], dtype=torch.float64) @ torch.tensor(first).double()
    assert noise.abs().max() > 0
    network = network_of([first, [[1.0, -1.0, -1.0]], [[1.0]]], [[0.0, 0.0, 0.0], [0.5], [0.0]])
    bound = enumerate_regions(network)
    assert bound.value < 1e-12
    assert count(bound.status) == 2


def test_relu_at_either_end_and_batch_norm() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Linear(2, 1, bias=False), nn.ReLU()).double()
    network[1].weight.data = torch.tensor([[3.0, -4.0]], dtype=torch.float64)
    assert enumerate_regions(network).value == 5.0
    assert enumerate_regions(network, norm=math.inf).value == 7.0
    normed = mlp([2, 4, 1], batch_norm=True, dtype=torch.float64)
    normed[1].running_var.fill_(4.0)
    plain = nn.Sequential(*[layer for layer in normed if not isinstance(layer, nn.BatchNorm1d)])
    slopes = [enumerate_regions(net.eval()).value for net in (normed, plain)]
    # Halving the pre-activations without moving their signs halves every slope when biases are 0.
    normed[0].bias.data.zero_()
    halves = [enumerate_regions(net.eval()).value for net in (normed, plain)]
    assert slopes[0] != slopes[1]
    assert halves[0] == pytest.approx(halves[1] / math.sqrt(4 + 1e-5), rel=1e-12)


# Refusals --------------------------------------------------------------------------------------


def test_large_networks_are_refused_with_their_size() -> None:
    with pytest.raises(ValueError, match=r"at most 20 hidden units; got 24 \(\[12, 12\]\)"):
        enumerate_regions(random_network(0, [2, 12, 12, 1]))
    with pytest.raises(ValueError, match=r"20 inputs and hidden layers \[20\] allow 1048576"):
        enumerate_regions(random_network(0, [20, 20, 1]))
    assert count(enumerate_regions(random_network(0, [1, 24, 1]), max_units=24).status) == 25


def test_other_layers_and_bad_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="Linear or ReLU; got Tanh"):
        enumerate_regions(mlp([2, 3, 1], nn.Tanh))
    with pytest.raises(TypeError, match=r"nn\.Sequential"):
        enumerate_regions(nn.Linear(2, 1))
    for change in ({"norm": 3}, {"domain": (1, -1)}, {"margin": 0.0}, {"margin": math.nan}):
        with pytest.raises(ValueError, match="must"):
            enumerate_regions(mlp([2, 3, 1]), **change)
    with pytest.raises(ValueError, match="wider than twice the margin"):
        enumerate_regions(mlp([2, 3, 1]), domain=(0, 1e-9), margin=1e-9)
