"""Chapter 14: its own functions against exact answers, each with something broken on purpose.

Intervals are measured: the smallest and largest value over seeds 0 to 9, widened on each side by
half of that range.
"""

import ast
import math
import re
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch
from torch import nn

import lipnb.bounds as lib
from lipnb.constraints import plain_copy
from lipnb.training.critic_methods import METHODS, train_method
from lipnb.training.critic_problems import problem

ROOT = Path(__file__).parents[2]
CHAPTER = ROOT / "notebooks" / "14_exact_programs.md"


@pytest.fixture
def ch():
    """The imports and definitions of the chapter, nothing else."""
    kept = []
    for cell in jupytext.read(CHAPTER).cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef):
                    kept.append(node)
    names = {"seed": 0, "iterations": 200}
    exec(compile(ast.Module(kept, []), str(CHAPTER), "exec"), names)
    return names


def inside(value, interval):
    """Tell whether value lies in the measured interval, widened by half its range."""
    low, high = interval
    return low - (high - low) / 2 <= value <= high + (high - low) / 2


def shallow(ch, number, widths=(2, 7, 1)):
    """A random network with one hidden layer, and its w, b, c."""
    network = ch["random_network"](list(widths), number)
    return network, (
        network[0].weight.numpy(),
        network[0].bias.numpy(),
        network[2].weight.numpy()[0],
    )


# --- semidefinite programs --------------------------------------------------------------------


@pytest.mark.parametrize("widths", [[3, 7, 2], [2, 5, 5, 1]])
def test_the_program_is_the_library_s_and_certified(ch, widths):
    network = ch["random_network"](widths, 20)
    weights = ch["weights_of"](network)
    value, t, _ = ch["lip_sdp"](weights)
    library = lib.lipsdp(network).value
    assert value == pytest.approx(library, rel=1e-6)
    proved = ch["certificate"](t, [torch.tensor(w) for w in weights]).item()
    assert proved == pytest.approx(library, rel=1e-5) and proved > library * (1 - 1e-7)
    matrix = ch["matrix_of"](weights, value**2 * (1 + 1e-6), t)
    assert np.linalg.eigvalsh(matrix)[0] > -1e-9
    lower = ch["matrix_of"](weights, value**2 * 0.99, t)  # sabotage: one per cent less
    assert np.linalg.eigvalsh(lower)[0] < -1e-6


def test_any_multipliers_prove_and_bad_ones_are_refused(ch):
    network = ch["random_network"]([3, 6, 6, 2], 21)
    weights = [torch.tensor(w) for w in ch["weights_of"](network)]
    exact = lib.branch_and_bound(network).value
    _, t, _ = ch["lip_sdp"](ch["weights_of"](network))
    rng = np.random.default_rng(0)
    proofs = []
    for _ in range(20):
        try:
            proofs.append(ch["certificate"](t * rng.uniform(0.9, 1.5, len(t)), weights).item())
        except torch.linalg.LinAlgError:
            proofs.append(math.inf)
    assert min(proofs) >= exact and sum(map(math.isfinite, proofs)) > 5
    with pytest.raises(torch.linalg.LinAlgError):
        ch["certificate"](0.1 * t, weights)


def test_the_dual_matrix_gives_the_derivative(ch):
    network = ch["random_network"]([3, 7, 2], 22)
    assert max(ch["derivative_errors"](network)) < 1e-3
    program = ch["lip_sdp"]

    def broken(weights, **options):  # sabotage: another matrix in place of the dual one
        *found, dual = program(weights, **options)
        return (*found, np.eye(len(dual)) / len(dual))

    ch["lip_sdp"] = broken
    assert ch["derivative_errors"](network)[1] > 0.1


def test_order_of_the_bounds(ch):
    for number in range(23, 26):
        network = ch["random_network"]([3, 5, 4, 2], number)
        weights = ch["weights_of"](network)
        gates = (np.split(np.array(a), [5]) for a in product([0.0, 1.0], repeat=9))
        formal = max(
            np.linalg.norm(weights[2] * b @ (weights[1] * a @ weights[0]), 2) for a, b in gates
        )
        unit, layer = (ch["lip_sdp"](weights, shared)[0] for shared in (False, True))
        chain = [lib.branch_and_bound(network).value, formal, unit, layer]
        chain.append(lib.product_bound(network).value)
        assert all(a <= b * (1 + 1e-6) for a, b in pairwise(chain))


# --- integer and polynomial programs, search --------------------------------------------------


def test_integer_program_and_search_find_the_steepest_region(ch):
    for number in range(30, 33):
        network, (w, b, c) = shallow(ch, number)
        box = lib.enumerate_regions(network, norm=math.inf, domain=(-1, 1)).value
        program = ch["slope_program"](w, b, c, 1.0)
        assert -program.fun == pytest.approx(box, rel=1e-5)
        exact = lib.enumerate_regions(network).value
        assert ch["search"](w, b, c)[0] == pytest.approx(exact, rel=1e-9)


def test_sabotage_search_without_free_gates_in_the_bound(ch):
    misses = 0
    honest = [ch["search"](*shallow(ch, number)[1])[0] for number in range(30, 36)]
    ch["node_bound"] = lambda rows, gates: np.linalg.norm(np.array(gates) @ rows[: len(gates)])
    for number, value in zip(range(30, 36), honest, strict=True):
        misses += ch["search"](*shallow(ch, number)[1])[0] < value * (1 - 1e-6)
    assert misses > 0


def test_krivine_is_lipopt_and_ends_at_the_formal_constant(ch):
    rng = np.random.default_rng(3)
    w, c = rng.normal(size=(4, 2)), rng.choice([-1.0, 1.0], 4)
    network = ch["network_of"]((w, 0.0), (c[None], 0.0))
    values = []
    for k in (2, 3, 6):
        sets = [s for s in ch["combinations"](range(6), k) if s[0] < 2 and s[-1] > 1]
        values.append(ch["krivine"](ch["slope_polynomial"](w, c), sets))
        assert values[-1] == pytest.approx(lib.lipopt(network, degree=k).value, rel=1e-6)
    formal = max(np.abs(np.array(a) * c @ w).sum() for a in product([0, 1], repeat=4))
    assert values == sorted(values, reverse=True) and values[-1] == pytest.approx(formal)


@pytest.mark.parametrize("delta", [0.15, 0.7])
def test_moments_are_those_of_the_pencil(ch, delta):
    assert ch["moments"](delta, False) == pytest.approx(2 / (1 + delta), abs=1e-5)
    assert ch["moments"](delta, True) == pytest.approx(1.0, abs=1e-5)
    # Without the gap the gates do not exclude each other: order two must not say 1.
    assert ch["moments"](0.0, True) == pytest.approx(2.0, abs=1e-4)


def test_graph_networks_are_cuts_and_their_relaxation(ch):
    edges = [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 2), (0, 4)]
    network = ch["graph_network"](5, edges)
    sides = np.array(list(product([0, 1], repeat=5)))
    cut = max(sum(sides[:, i] != sides[:, j] for i, j in edges))
    assert lib.branch_and_bound(network).value ** 2 == pytest.approx(cut, rel=1e-5)
    relaxed = ch["goemans_williamson"](5, edges)
    assert lib.lipsdp(network).value ** 2 == pytest.approx(relaxed, rel=1e-5)
    assert relaxed > cut + 0.01


# --- the critics ------------------------------------------------------------------------------

# Seeds 0 to 9: the constant, and LipSDP over the constant.
CONSTANTS = {
    "clip": (0.0033, 0.0079),
    "lp": (0.7232, 1.1895),
    "orthogonal-maxmin": (0.9382, 0.9913),
}
EXCESS = {
    "clip": (1.0649, 1.2265),
    "lp": (1.0794, 1.2066),
    "orthogonal-maxmin": (1.0087, 1.0552),
}


def closed(name, seed, **changes):
    """Train a critic as the chapter does; return its constant and LipSDP over it."""
    settings = {"iterations": 200, "batch": 256, "learning_rate": 1e-3}
    method = replace(METHODS[name], **changes)
    run = train_method(method, problem("mixture"), seed, width=16, **settings)
    critic = plain_copy(run.critic).double().requires_grad_(False)
    bound = lib.branch_and_bound(critic)
    assert bound.kind == "exact"
    return bound.value, lib.lipsdp(critic).value / bound.value


@pytest.mark.parametrize("name", ["clip", "lp", "orthogonal-maxmin"])
def test_constants_of_the_critics(name):
    value, excess = closed(name, 20)
    assert inside(value, CONSTANTS[name]) and inside(excess, EXCESS[name])


def test_sabotage_constraints_taken_off():
    free, _ = closed("orthogonal-maxmin", 20, constrain=None)
    assert not inside(free, CONSTANTS["orthogonal-maxmin"])
    unclipped, _ = closed("clip", 20, after_step=None)
    assert not inside(unclipped, CONSTANTS["clip"])


# --- how the search grows ---------------------------------------------------------------------


def test_nodes_double_with_every_few_units(ch):
    counts = {}
    for width in (2, 4, 6):
        nodes = []
        for number in range(20, 24):
            bound = lib.branch_and_bound(ch["random_network"]([4, width, width, 1], number))
            nodes.append(int(bound.status.split()[0]))
        counts[width] = np.mean(nodes)
    assert counts[2] * 3 < counts[6] and counts[4] < counts[6]


# --- what not to trust ------------------------------------------------------------------------


def ramp(ch):
    return ch["network_of"](([[1.0], [1.0]], [0.0, -2.0]), ([[1.0, -1.0]], 0.0))


def test_coupled_multipliers_are_below_a_slope(ch):
    network = ramp(ch)
    coupled = ch["lip_sdp_network"](ch["weights_of"](network))
    assert coupled < 0.01
    points = torch.tensor([[0.5]], dtype=torch.float64)
    assert lib.sampled_bound(network, points=points).value == pytest.approx(1)
    assert lib.lipsdp(network).value == pytest.approx(1, rel=1e-6)
    assert f"{coupled:.1f}" == printed(r"it returns ([\d.]+) for a function with constant 1")


def test_the_errata_speak_of_numbers_that_are_so(ch):
    loose = lib.lipsdp(ch["network_of"](([[1.0], [-1.0]], 0.0), ([[1.0, -1.0]], 0.0))).value
    assert f"{loose:.1f}" == printed(r"Both return ([\d.]+) for the identity")


def printed(pattern):
    """The number that book/errata.md prints."""
    text = " ".join((ROOT / "book" / "errata.md").read_text(encoding="utf-8").split())
    (number,) = re.findall(pattern, text)
    return number


def test_a_kink_misleads_the_plain_program_only(ch):
    both = np.array([[1.0], [-1.0]])
    c = np.array([1.0, -1.0])
    assert -ch["slope_program"](both, np.zeros(2), c, 1.0).fun == pytest.approx(2)
    assert -ch["slope_program"](both, -0.1 * np.ones(2), c, 1.0).fun == pytest.approx(1)
    assert abs(ch["margin"](both, np.zeros(2), (1, 1))) < 1e-9
    assert ch["margin"](both, np.zeros(2), (1, 0)) == pytest.approx(1)


def test_halved_and_greedy_numbers_are_below_slopes(ch):
    relu = ch["network_of"](([[1.0]], 0.0), ([[1.0]], 0.0))
    weights = ch["weights_of"](relu)
    assert ch["averaged"](weights, 2) == 0.5 and ch["averaged"](weights, 1) == 1.0
    w, c = np.array([[1.0, 0.0], [2.0, 2.0], [0.0, -2.0]]), np.array([-1.0, 1.0, 1.0])
    network = ch["network_of"]((w, 0.0), (c[None], 0.0))
    slope = lib.enumerate_regions(network).value
    assert ch["greedy"](w, c) < 0.8 * slope and slope == pytest.approx(math.sqrt(8))


def test_methods_refuse_what_the_tables_say(ch):
    tanh = ch["random_network"]([2, 4, 1], 40, nn.Tanh)
    assert ch["ask"](lib.branch_and_bound, tanh) is None
    assert ch["ask"](lib.lipsdp, tanh).kind == "upper"
    assert ch["ask"](lib.lipsdp, tanh, norm=math.inf) is None
