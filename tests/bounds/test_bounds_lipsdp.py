"""lipnb.bounds.lipsdp: the optimum of an independent solver, and a certificate that needs none."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import cvxpy
import numpy as np
import pytest
import torch
from torch import nn

from lipnb.bounds import (
    eclipse_fast,
    enumerate_regions,
    lipsdp,
    product_bound,
    sampled_bound,
)
from lipnb.bounds.balance import balanced_program
from lipnb.bounds.certificate import certified_square
from lipnb.bounds.chain import read_chain
from lipnb.bounds.feedback import read_feedback
from lipnb.bounds.interior_point import Program, solve
from lipnb.models import GroupSort, mlp

Array = np.ndarray[Any, np.dtype[np.float64]]


def network_of(*weights: Any, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    matrices = [torch.as_tensor(np.asarray(w), dtype=torch.float64) for w in weights]
    network = mlp(
        [matrices[0].shape[1], *(len(w) for w in matrices)], activation, dtype=torch.float64
    )
    for layer, weight in zip(network[::2], matrices, strict=True):
        layer.weight.data = weight.clone()
        layer.bias.data.zero_()
    return network


def random_network(
    seed: int, widths: list[int], activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    return mlp(widths, activation, generator=generator, dtype=torch.float64)


def oracle(network: nn.Sequential, multipliers: str = "neuron") -> float:
    """The program as published (A, B and all), written for cvxpy and solved by Clarabel."""
    chain = read_chain(network)
    hidden, n_in = [len(w) for w in chain.weights[:-1]], chain.weights[0].shape[1]
    n = sum(hidden)
    a = np.zeros((n, n_in + n))
    row = column = 0
    for w in chain.weights[:-1]:
        a[row : row + len(w), column : column + w.shape[1]] = w
        row, column = row + len(w), column + w.shape[1]
    b = np.hstack([np.zeros((n, n_in)), np.eye(n)])
    low = np.repeat([low for low, _ in chain.slopes], hidden)
    high = np.repeat([high for _, high in chain.slopes], hidden)
    if multipliers == "layer":
        t = cvxpy.hstack([cvxpy.Variable(nonneg=True) * np.ones(width) for width in hidden])
    else:
        t = cvxpy.Variable(n, nonneg=True)
    rho = cvxpy.Variable(nonneg=True)
    m = -2 * a.T @ cvxpy.diag(cvxpy.multiply(low * high, t)) @ a
    m += a.T @ cvxpy.diag(cvxpy.multiply(low + high, t)) @ b
    m += b.T @ cvxpy.diag(cvxpy.multiply(low + high, t)) @ a
    m -= 2 * b.T @ cvxpy.diag(t) @ b
    first = np.diag(np.append(np.ones(n_in), np.zeros(n)))
    last = np.zeros((n_in + n, n_in + n))
    unit = product_bound(network).value  # Clarabel's tolerances are absolute
    final = chain.weights[-1] / unit
    last[-hidden[-1] :, -hidden[-1] :] = final.T @ final
    problem = cvxpy.Problem(cvxpy.Minimize(rho), [m - rho * first + last << 0])
    problem.solve(solver=cvxpy.CLARABEL)
    return unit * math.sqrt(rho.value)


ACTIVATIONS: list[Callable[[], nn.Module]] = [
    nn.ReLU,
    nn.Sigmoid,
    lambda: nn.LeakyReLU(0.2),
    lambda: nn.LeakyReLU(-0.3),
]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("widths", [[3, 5, 2], [2, 4, 4, 3], [4, 3, 3, 3, 1]])
def test_optimum_is_that_of_an_independent_solver(
    activation: Callable[[], nn.Module], widths: list[int]
) -> None:
    network = random_network(3, widths, activation)
    for layer in network[::2]:
        layer.weight.data *= 4  # slopes of 1/4 would else leave Clarabel with tiny numbers
    bound = lipsdp(network)
    assert bound.value == pytest.approx(oracle(network), rel=2e-6)
    assert "converged" in bound.status
    assert (bound.kind, bound.norm, bound.domain) == ("upper", 2, None)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_multiplier_per_layer(activation: Callable[[], nn.Module]) -> None:
    network = random_network(5, [3, 5, 4, 2], activation)
    value = lipsdp(network, multipliers="layer").value
    assert value == pytest.approx(oracle(network, "layer"), rel=2e-6)
    assert lipsdp(network).value <= value * (1 + 1e-7)


def test_layers_that_stretch_different_axes() -> None:
    network = network_of(np.diag([2.0, 1.0]), np.diag([1.0, 2.0]))
    # With a multiplier per neuron the program splits into two scalar chains.
    assert lipsdp(network).value == pytest.approx(2.0, rel=1e-6)
    assert 2.0 < lipsdp(network, multipliers="layer").value < 4.0


def test_nonnegative_weights_are_met_exactly() -> None:
    # All units on dominates every other pattern, and is reached.
    generator = np.random.default_rng(0)
    weights = [generator.uniform(size=s) for s in [(10, 2), (12, 10), (8, 12), (2, 8)]]
    exact = float(np.linalg.norm(np.linalg.multi_dot(weights[::-1]), ord=2))
    value = lipsdp(network_of(*weights)).value
    assert exact <= value <= exact * (1 + 1e-6)


def test_symmetric_slopes_give_the_smallest_gain() -> None:
    # |z| = LeakyReLU(-1) on one unit: |w2| |w1|.
    network = network_of([[3.0]], [[2.0]], activation=lambda: nn.LeakyReLU(-1.0))
    assert lipsdp(network).value == pytest.approx(6.0, rel=1e-6)
    network = network_of([[1.0]], [[1.0]], activation=lambda: nn.LeakyReLU(-0.13))
    assert lipsdp(network).value == pytest.approx(1.0, rel=1e-6)


def test_network_variant_is_unsound() -> None:
    """Coupled multipliers prove rho = 0 for a function with constant 1."""
    network = network_of([[1.0], [1.0]], [[1.0, -1.0]])
    network[0].bias.data[1] = -2.0
    assert enumerate_regions(network).value == 1.0
    a, b = np.array([[1.0, 0, 0], [1, 0, 0]]), np.array([[0.0, 1, 0], [0, 0, 1]])
    coupled = 0.5 * np.outer([1, -1], [1, -1])  # (e_1 - e_2)(e_1 - e_2)^T, not diagonal
    last = np.outer([0, 1, -1], [0, 1, -1])
    rho = 0.0
    m = a.T @ coupled @ b + b.T @ coupled @ a - 2 * b.T @ coupled @ b + last
    assert np.linalg.eigvalsh(m - rho * np.diag([1, 0, 0])).max() <= 1e-15
    # The inequality behind it fails for z = (0, -2) -> (1, -1), with values (0, 0) -> (1, 0).
    dz, dh = np.array([1.0, 1.0]), np.array([1.0, 0.0])
    assert (dz[0] - dz[1]) * (dh[0] - dh[1]) < (dh[0] - dh[1]) ** 2
    # Diagonal multipliers do not fall for it.
    assert lipsdp(network).value >= 1.0


def smallbalanced_program(seed: int = 0) -> tuple[Program, float]:
    """A program, and what its rho has to exceed: the square of the formal constant, scaled."""
    network = random_network(seed, [3, 4, 4, 3])
    feedback = read_feedback(network)
    program, size, _ = balanced_program(feedback, "neuron")
    gates = ((np.arange(2**8)[:, None] >> np.arange(8)) & 1).astype(float)
    largest = max(np.linalg.norm(feedback.jacobian(g), ord=2) for g in gates)
    return program, float(np.ldexp(largest, -size)) ** 2


def test_every_multiplier_gives_a_valid_number_or_none() -> None:
    generator = np.random.default_rng(0)
    finite = 0
    for seed in range(5):
        program, least = smallbalanced_program(seed)
        for _ in range(200):
            t = np.exp(generator.normal(scale=0.7, size=8))
            rho = certified_square(program, t)
            assert rho > least
            finite += math.isfinite(rho)
            if math.isfinite(rho):
                m = program.matrix(rho, t) - program.cost
                assert np.linalg.eigvalsh(m)[0] > 0
                below = program.matrix(rho * (1 - 1e-6), t) - program.cost
                assert np.linalg.eigvalsh(below)[0] < 0
    assert finite > 100
    for bad in (np.full(8, np.nan), np.full(8, np.inf), np.full(8, -1.0), np.zeros(8)):
        assert certified_square(program, bad) == math.inf


Solver = Callable[..., tuple[Array, float, int, str]]


def broken(make: Callable[[int], Array]) -> Solver:
    def answer(program: Program, **options: Any) -> tuple[Array, float, int, str]:
        t = make(len(program.low))
        options["watch"](t)
        return t, 0.0, 1, "stopped"

    return answer


@pytest.mark.parametrize(
    "make",
    [
        np.zeros,
        lambda n: np.full(n, np.nan),
        lambda n: np.full(n, 1e300),
        lambda n: np.full(n, 1e-9),
        lambda n: -np.ones(n),
        lambda n: np.linspace(0.5, 2.0, n),
    ],
)
def test_a_solver_that_fails_does_no_harm(
    make: Callable[[int], Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["lipnb.bounds.lipsdp"], "solve", broken(make))
    for seed in range(3):
        network = random_network(seed, [2, 5, 4, 2])
        value = lipsdp(network).value
        assert enumerate_regions(network).value <= value <= product_bound(network).value


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_stopped_early_it_is_still_a_bound(steps: int) -> None:
    network = random_network(1, [2, 5, 4, 2])
    bound = lipsdp(network, max_steps=steps)
    assert enumerate_regions(network).value <= bound.value <= product_bound(network).value
    assert "out of steps" in bound.status
    assert lipsdp(network, seconds=1e-9).status.count("stopped") == 1


def test_primal_and_dual_meet() -> None:
    program, _ = smallbalanced_program()
    seen: list[float] = []

    def watch(t: Array) -> bool:
        seen.append(certified_square(program, t))
        return False

    t, dual, _, reason = solve(program, rho=2.0, tolerance=1e-9, max_steps=60, watch=watch)
    assert reason == "converged"
    assert dual * (1 - 1e-7) <= min(seen) <= dual * (1 + 1e-7)
    assert (t > 0).all()


def test_transposed_network_has_the_same_optimum() -> None:
    network = random_network(2, [6, 5, 4, 2])
    weights = [layer.weight.detach().numpy().T for layer in network[::2]]
    value = lipsdp(network).value
    assert lipsdp(network_of(*weights[::-1])).value == pytest.approx(value, rel=1e-7)


def test_permutation_rescaling_and_rotation_change_nothing() -> None:
    network = random_network(4, [3, 6, 5, 2])
    value = lipsdp(network).value
    w1, w2, w3 = (layer.weight.detach().numpy() for layer in network[::2])
    generator = np.random.default_rng(1)
    order = generator.permutation(6)
    assert lipsdp(network_of(w1[order], w2[:, order], w3)).value == pytest.approx(value, rel=1e-7)
    scale = np.exp(generator.normal(scale=4.0, size=5))
    rescaled = network_of(w1, scale[:, None] * w2, w3 / scale)
    assert lipsdp(rescaled).value == pytest.approx(value, rel=1e-6)
    rotation = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    assert lipsdp(network_of(w1 @ rotation, w2, w3)).value == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize("exponent", [-500, -60, 60, 500])
def test_huge_and_tiny_weights(exponent: int) -> None:
    network = random_network(4, [3, 6, 5, 2])
    value = lipsdp(network).value
    network[2].weight.data *= 2.0**exponent
    assert lipsdp(network).value == pytest.approx(math.ldexp(value, exponent), rel=1e-12)


def test_many_inputs_or_outputs_cost_little() -> None:
    wide = random_network(0, [40, 5, 30])
    assert balanced_program(read_feedback(wide), "neuron")[0].cost.shape == (10, 10)
    assert lipsdp(wide).value == pytest.approx(oracle(wide), rel=1e-6)


def test_deep_networks_converge() -> None:
    network = random_network(0, [6] * 16 + [1])
    for layer in network[::2]:
        layer.weight.data *= 2.5
    bound = lipsdp(network)
    assert "converged" in bound.status
    assert bound.value < eclipse_fast(network).value / 2
    assert bound.value >= sampled_bound(network).value


def test_sorting_with_orthogonal_layers_has_constant_one() -> None:
    generator = np.random.default_rng(0)
    weights = [np.linalg.qr(generator.normal(size=(4, 4)))[0] for _ in range(3)]
    value = lipsdp(network_of(*weights, activation=GroupSort)).value
    assert 1.0 <= value <= 1 + 1e-6
    network = random_network(0, [3, 6, 6, 2], GroupSort)
    value = lipsdp(network).value
    assert sampled_bound(network, samples=3000).value <= value <= product_bound(network).value


def test_units_without_effect() -> None:
    network = random_network(0, [3, 5, 4, 2])
    value = lipsdp(network).value
    w1, w2, w3 = (layer.weight.detach().numpy() for layer in network[::2])
    deaf = network_of(np.vstack([w1, np.zeros(3)]), np.hstack([w2, np.ones((4, 1))]), w3)
    unheard = network_of(np.vstack([w1, np.ones(3)]), np.hstack([w2, np.zeros((4, 1))]), w3)
    assert lipsdp(deaf).value == pytest.approx(value, rel=1e-7)
    assert lipsdp(unheard).value == pytest.approx(value, rel=1e-7)
    double = network_of(np.vstack([w1, w1]), np.hstack([w2, w2]) / 2, w3)
    assert lipsdp(double).value == pytest.approx(value, rel=1e-6)
    assert lipsdp(network_of(w1, 0 * w2, w3)).value == 0.0


def test_box_where_every_unit_is_decided_gives_the_affine_piece() -> None:
    network = random_network(1, [2, 5, 4, 2])
    exact = enumerate_regions(network, domain=(0.5, 0.5001)).value
    bound = lipsdp(network, domain=(0.5, 0.5001))
    assert bound.value == pytest.approx(exact, rel=1e-12)
    assert "affine" in bound.status


@pytest.mark.parametrize("radius", [0.05, 0.3])
def test_box_narrows_the_slopes(radius: float) -> None:
    closer = 0
    for seed in range(4):
        network = random_network(seed, [2, 5, 4, 2])
        bound = lipsdp(network, domain=(-radius, radius))
        exact = enumerate_regions(network, domain=(-radius, radius)).value
        everywhere = lipsdp(network).value
        assert exact <= bound.value <= everywhere * (1 + 1e-6)
        assert bound.domain == ((-radius,) * 2, (radius,) * 2)
        closer += bound.value < 0.99 * everywhere
    assert closer >= 1


@pytest.mark.parametrize(
    "activation",
    [
        nn.Tanh,
        nn.Sigmoid,
        nn.Softplus,
        nn.ELU,
        lambda: nn.ELU(1.7),
        lambda: nn.LeakyReLU(-0.5),
        GroupSort,
        nn.ReLU,
    ],
)
def test_local_bound_of_other_activations(activation: Callable[[], nn.Module]) -> None:
    network = random_network(2, [2, 6, 4, 2], activation)
    for domain in ((1.0, 1.4), (-0.5, 0.5), ([-3, 0], [-2, 4])):
        lower = sampled_bound(network, domain=domain, samples=4000).value
        assert lower <= lipsdp(network, domain=domain).value <= lipsdp(network).value * (1 + 1e-6)
    # On a small box the slopes are nearly constant, and so is the Jacobian.
    tiny = ([0.9, 0.2], [0.9001, 0.2001])
    lower = sampled_bound(network, domain=tiny).value
    assert lower <= lipsdp(network, domain=tiny).value <= lower * 1.001


def test_bad_arguments_are_refused() -> None:
    network = mlp([2, 3, 1])
    with pytest.raises(ValueError, match="norm must be 2 for LipSDP; got 1; geolip"):
        lipsdp(network, norm=1)
    with pytest.raises(ValueError, match="multipliers must be one of"):
        lipsdp(network, multipliers="network")
    for name in ("tolerance", "seconds", "max_steps"):
        with pytest.raises(ValueError, match=f"{name} must be positive"):
            lipsdp(network, **{name: 0})
    with pytest.raises(TypeError, match="got Hardtanh"):
        lipsdp(mlp([2, 3, 1], nn.Hardtanh))
    with pytest.raises(TypeError, match="groups of two"):
        lipsdp(mlp([2, 6, 1], lambda: GroupSort(3)))
