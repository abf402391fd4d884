"""lipnb.bounds.units, unit_intervals, cells: the parts that the exact methods share."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from lipnb.bounds.cells import conflict, half_spaces
from lipnb.bounds.network import read_box
from lipnb.bounds.unit_intervals import (
    dual_norms,
    preactivation_bounds,
    simplify,
    slope_bound,
    slope_intervals,
)
from lipnb.bounds.units import Units, affine_pieces, read_units, settle
from lipnb.models import GroupSort, mlp

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "negative": lambda: nn.LeakyReLU(-1.5),
    "pairs": lambda: GroupSort(2),
}


def random_network(
    seed: int, widths: list[int], activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    return mlp(widths, activation, generator=generator, dtype=torch.float64)


def run(units: Units, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pre-activations and output of the system at a point."""
    z, r = np.zeros(len(units.biases)), np.zeros(len(units.biases))
    for block in units.blocks():
        z[block] = units.inputs[block] @ x + units.couplings[block] @ r + units.biases[block]
        r[block] = np.maximum(z[block], 0)
    return z, units.out_inputs @ x + units.out_couplings @ r + units.out_biases


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_system_is_the_network_and_its_slope(name: str) -> None:
    network = random_network(1, [3, 6, 4, 2], ACTIVATIONS[name])
    units = read_units(network)
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = network(x).detach().numpy()
    for point, value in zip(x, expected, strict=True):
        z, fx = run(units, point.numpy())
        np.testing.assert_allclose(fx, value, atol=1e-12)
        slopes, offsets, jacobian = affine_pieces(units, z > 0)
        np.testing.assert_allclose(slopes @ point.numpy() + offsets, z, atol=1e-12)
        autograd = torch.autograd.functional.jacobian(lambda q: network(q[None])[0], point)
        np.testing.assert_allclose(jacobian, autograd.numpy(), atol=1e-12)
        # Settling some gates at their values changes nothing there.
        on, off = (z > 0) & (np.arange(len(z)) % 2 == 0), (z <= 0) & (np.arange(len(z)) % 3 == 0)
        smaller = settle(units, on, off)
        assert len(smaller.biases) == len(z) - on.sum() - off.sum()
        np.testing.assert_allclose(run(smaller, point.numpy())[1], value, atol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_intervals_hold_every_point(name: str) -> None:
    units = read_units(random_network(2, [3, 6, 4, 4, 1], ACTIVATIONS[name]))
    low, high = np.array([-1.0, 0.0, -0.2]), np.array([1.0, 0.5, 0.2])
    lower, upper = preactivation_bounds(units, low, high)
    _, _, out_low, out_high = slope_intervals(units)
    rng = np.random.default_rng(0)
    points = low + (high - low) * rng.random((500, 3))
    values = np.array([run(units, x)[0] for x in points])
    assert (lower <= values.min(axis=0)).all() and (values.max(axis=0) <= upper).all()
    # First-layer intervals are attained at a corner.
    first = units.blocks()[0]
    reach = np.abs(units.inputs[first]) @ (high - low)
    np.testing.assert_allclose(upper[first] - lower[first], reach, rtol=1e-9)
    for z in values[:50]:
        jacobian = affine_pieces(units, z > 0)[2]
        assert (out_low - 1e-12 <= jacobian).all() and (jacobian <= out_high + 1e-12).all()
        for norm in (1, 2, math.inf):
            assert np.linalg.norm(jacobian, ord=norm) <= slope_bound(out_low, out_high, norm)


def test_linear_bounds_are_needed_to_see_a_cancellation() -> None:
    # relu(x + 2) - relu(x + 3) is -1 on [-1, 1]; intervals alone say [-3, 1].
    first = [[1.0], [1.0]]
    network = mlp([1, 2, 1, 1], dtype=torch.float64)
    network[0].weight.data = torch.tensor(first, dtype=torch.float64)
    network[0].bias.data = torch.tensor([2.0, 3.0], dtype=torch.float64)
    network[2].weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    network[2].bias.data.zero_()
    units = read_units(network)
    lower, upper = preactivation_bounds(units, -np.ones(1), np.ones(1))
    assert lower[2] == pytest.approx(-1, abs=1e-9) and upper[2] == pytest.approx(-1, abs=1e-9)
    assert len(simplify(units, read_box((-1, 1), 1)).biases) == 0
    assert len(simplify(units, None).biases) == 3


def test_constant_units_are_settled_without_a_box() -> None:
    network = random_network(0, [2, 3, 1])
    network[0].weight.data[0] = 0.0
    network[0].bias.data[0] = 2.0
    units = simplify(read_units(network), None)
    assert len(units.biases) == 2
    x = torch.ones(1, 2, dtype=torch.float64)
    assert run(units, np.ones(2))[1] == pytest.approx(network(x).item())


def test_dual_norms_of_a_row() -> None:
    row = np.array([[3.0, -4.0]])
    assert [dual_norms(row, p).item() for p in (1, 2, math.inf)] == [4.0, 5.0, 7.0]


def test_conflict_names_few_units_and_all_others_stay_free() -> None:
    network = random_network(3, [2, 8, 1])
    network[0].weight.data[5] = -network[0].weight.data[2]  # never on together, away from a kink
    network[0].bias.data[5] = -network[0].bias.data[2]
    units = read_units(network)
    x = np.array([0.3, -0.2])
    gates = run(units, x)[0] > 0
    assert conflict(units, gates, None, 1e-9) is None
    gates[[2, 5]] = True
    marked = conflict(units, gates, None, 1e-9)
    assert marked is not None and 2 <= marked.sum() <= 3  # two parallel or three in the plane
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = np.where(marked, gates, rng.random(8) < 0.5)
        assert conflict(units, other, None, 1e-9) is not None


def test_conflict_of_a_deep_unit_includes_the_gates_it_depends_on() -> None:
    network = random_network(5, [2, 3, 2, 1])
    units = read_units(network)
    gates = run(units, np.zeros(2))[0] > 0
    box = read_box((-1e-3, 1e-3), 2)  # nothing changes its sign on it
    flipped = gates.copy()
    flipped[3] = not flipped[3]
    assert conflict(units, gates, box, 1e-9) is None
    marked = conflict(units, flipped, box, 1e-9)
    assert marked is not None and marked.tolist() == [True, True, True, True, False]


def test_conflict_of_a_constant_unit_is_its_sign() -> None:
    network = random_network(0, [2, 2, 1])
    network[0].weight.data[0] = 0.0
    network[0].bias.data[0] = -1.0
    units = read_units(network)
    marked = conflict(units, np.array([True, True]), None, 1e-9)
    assert marked is not None and marked.tolist() == [True, False]
    assert conflict(units, np.array([False, True]), None, 1e-9) is None
    zero = half_spaces(np.zeros((2, 1)), np.array([0.0, -1.0]), np.array([True, True]))[1]
    assert zero.tolist() == [math.inf, -math.inf]


def test_layers_beyond_the_theory_are_refused() -> None:
    for layer in (nn.Tanh(), GroupSort(4), nn.ELU()):
        with pytest.raises(TypeError, match=f"GroupSort in pairs; got {type(layer).__name__}"):
            read_units(nn.Sequential(nn.Linear(2, 4), layer, nn.Linear(4, 1)))
    with pytest.raises(ValueError, match="even number of channels; got 3"):
        read_units(nn.Sequential(nn.Linear(2, 3), GroupSort(2)))
