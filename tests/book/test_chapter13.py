"""The numbers of chapter 13, computed with the chapter's own functions.

Intervals are measured: the smallest and largest value over seeds 0 to 7 (one machine, float64,
100 steps of training for the fitted networks), widened on each side by half of that range. Each
claim has a twin in which something is broken on purpose and the claim must fall.
"""

import ast
import math
import textwrap
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch
from torch import nn

import lipnb.bounds as lib
from lipnb.models import mlp

CHAPTER = Path(__file__).parents[2] / "notebooks" / "13_lower_and_upper_bounds.md"
NORMS = (1, 2, math.inf)


def chapter():
    """Run the imports and the definitions of the chapter, nothing else."""
    constants = {"BOUNDS", "NORMS", "ring", "tight"}
    kept = ast.parse("seed, fit_steps = 0, 100").body
    for cell in jupytext.read(CHAPTER).cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                is_constant = (
                    isinstance(node, ast.Assign) and ast.unparse(node.targets) in constants
                )
                if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef) or is_constant:
                    kept.append(node)
    names = {}
    exec(compile(ast.Module(kept, []), str(CHAPTER), "exec"), names)
    return names


@pytest.fixture
def ch():
    return chapter()


def broken(ch, name, old, new):
    """Put a definition with a changed line into the chapter's names."""
    for cell in jupytext.read(CHAPTER).cells:
        if cell.cell_type == "code" and f"def {name}(" in cell.source:
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.FunctionDef) and node.name == name:
                    source = textwrap.dedent(ast.get_source_segment(cell.source, node))
                    assert source.count(old) == 1, old
                    exec(source.replace(old, new), ch)


def inside(value, interval):
    """Tell whether value lies in the measured interval, widened by half its range."""
    low, high = interval
    return low - (high - low) / 2 <= value <= high + (high - low) / 2


# --- exact values in the plane ----------------------------------------------------------------


@pytest.mark.parametrize("widths", [[2, 9, 1], [2, 4, 5, 6, 2]])
def test_polygons_are_the_regions_of_the_library(ch, widths):
    network = ch["random_network"](widths, 11)
    pieces = ch["polygons"](network)
    assert len(pieces) == len(lib.linear_regions(network))
    for p in NORMS:
        assert ch["steepest"](network, p)[0] == pytest.approx(
            lib.enumerate_regions(network, norm=p).value, rel=1e-9
        )
    for corners, weight, bias in pieces:
        x = torch.tensor(corners.mean(axis=0))
        assert np.allclose(network(x).numpy(), weight @ x.numpy() + bias, atol=1e-8)


def test_polygons_agree_with_branch_and_bound_on_a_deep_network(ch):
    network = ch["random_network"]([2, 8, 8, 8, 1], 3)
    found = lib.branch_and_bound(network, seconds=60)
    assert found.kind == "exact"
    assert ch["steepest"](network)[0] == pytest.approx(found.value, rel=1e-5)


def test_sabotage_polygons_that_keep_closed_units(ch):
    network = ch["random_network"]([2, 6, 6, 1], 0)
    truth = lib.enumerate_regions(network).value
    broken(ch, "polygons", "(negative, *off)", "(negative, m, c)")
    assert abs(ch["steepest"](network)[0] / truth - 1) > 1e-3


# --- from below -------------------------------------------------------------------------------


def kinked(ch):
    """2 id(x + 1) - id(x) with id(x) = relu(x) - relu(-x): constant 1, reported as 2 at zero."""
    first, shift = [[1.0], [-1.0], [1.0], [-1.0]], torch.tensor([1.0, -1.0, 0.0, 0.0]).double()
    return ch["network_of"]((first, shift), ([[2.0, -2.0, -1.0, 1.0]], 0.0))


def test_slopes_at_kinks_do_not_count(ch):
    x = torch.linspace(-2, 2, 9).double()[:, None]  # holds the kinks at -1 and 0
    assert ch["sampled"](kinked(ch), x) == pytest.approx(1)
    broken(ch, "sampled", "margin > 2e-9", "margin > -1")
    assert ch["sampled"](kinked(ch), x) == pytest.approx(2)


def test_margin_is_a_radius(ch):
    network = ch["random_network"]([3, 7, 7, 2], 5)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(50, 3, dtype=torch.float64, generator=generator)
    gates, margin, _ = ch["look"](network, x)
    way = torch.randn(50, 3, dtype=torch.float64, generator=generator)
    unit = way / way.norm(dim=1, keepdim=True)
    near, _, _ = ch["look"](network, x + 0.999 * margin[:, None] * unit)
    assert torch.equal(gates, near)
    far, _, _ = ch["look"](network, x + 50 * margin[:, None] * unit)
    assert not torch.equal(gates, far)


@pytest.mark.parametrize("p", NORMS)
def test_sampled_slopes_are_the_library_s(ch, p):
    network = ch["random_network"]([4, 9, 5, 3], 2)
    x = torch.randn(300, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert ch["sampled"](network, x, p) == pytest.approx(
        lib.sampled_bound(network, points=x, norm=p).value, rel=1e-10
    )


def test_gradient_of_the_slope_is_zero_for_relu_alone(ch):
    x = torch.randn(100, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    network = ch["random_network"]([5, 8, 8, 1], 1)
    slopes, uphill = ch["slope_and_its_gradient"](network, x)
    assert uphill.abs().max() == 0 and slopes.std() > 0.1
    smooth = nn.Sequential(*[nn.Tanh() if isinstance(m, nn.ReLU) else m for m in network])
    assert ch["slope_and_its_gradient"](smooth, x)[1].norm(dim=1).median() > 0.01


SHARES = {"walk": (0.9771, 0.9899), "samples": (0.9338, 0.9482)}


def shares(ch, number, steps=300):
    """Return the shares of the exact constant that walk and samples find, mean of three."""
    found = []
    for k in range(3):
        network, truth = ch["hidden_orthant"](3 * number + k)
        generator = torch.Generator().manual_seed(1000 + number)
        walked = ch["walk"](network, steps, generator)[-1]
        x = torch.randn(32 * steps, 32, dtype=torch.float64, generator=generator)
        found.append([walked / truth, ch["sampled"](network, x) / truth])
    return np.mean(found, axis=0)


def test_the_walk_finds_more_than_samples(ch):
    walked, met = shares(ch, 20)
    assert inside(walked, SHARES["walk"]) and inside(met, SHARES["samples"])
    assert met < walked <= 1 + 1e-9


def test_sabotage_a_walk_that_goes_downhill(ch):
    broken(ch, "walk", "new > slope)[:, None], y, x", "new < slope)[:, None], y, x")
    assert not inside(shares(ch, 20)[0], SHARES["walk"])


def test_hidden_orthant_is_its_formal_constant(ch):
    network, truth = ch["hidden_orthant"](0, d=6, k=5)
    assert ch["formal"](network) == pytest.approx(truth)
    assert lib.enumerate_regions(network).value == pytest.approx(truth)


# --- from above -------------------------------------------------------------------------------


def ladder(ch, number):
    """Return exact and formal constant, and the chapter's own bounds."""
    network = ch["random_network"]([2, 6, 6, 1], 500 + number) if number else ch["orthant"](2)
    weights = [layer.weight for layer in network[::2]]
    middle = [ch[name](weights).item() for name in ("seq_lip", "lip_lt", "eclipse")]
    product = ch["norms_multiplied"](weights).item()
    return ch["steepest"](network)[0], ch["formal"](network), middle, product


def in_order(ch, number):
    exact, formal, middle, product = ladder(ch, number)
    one = 1 + 1e-9
    return exact <= formal * one and formal <= min(middle) * one and max(middle) <= product * one


@pytest.mark.parametrize("number", range(4))
def test_bounds_are_in_order(ch, number):
    assert in_order(ch, number)


@pytest.mark.parametrize(
    "change",
    [
        ("lip_lt", "total + factor * operator_norm(segment, p))", "total)"),
        ("eclipse", "multiplier**2 / 4", "multiplier**2 / 16"),
        ("neighbours", "s.sqrt()", "s"),
        ("formal", "(a[:, :, None] * j)", "((1 + a[:, :, None]) * j)"),
    ],
    ids=str,
)
def test_sabotage_bounds_with_a_wrong_factor(ch, change):
    broken(ch, *change)
    assert not all(in_order(ch, number) for number in range(4))


@pytest.mark.parametrize("k", [3, 4, 7])
def test_known_chain(ch, k):
    network = ch["alternating"](k)
    fibonacci = [1, 1]
    while len(fibonacci) < k + 2:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    assert lib.liplt(network).value == pytest.approx(fibonacci[k + 1])
    assert lib.walk_bound(network).value == pytest.approx(2 ** math.ceil(k / 2))
    assert lib.product_bound(network).value == pytest.approx(2**k)


# --- why the product is loose -----------------------------------------------------------------

LOOSE = {"rho": (0.5597, 0.6759), "mu": (0.6614, 0.8263), "excess": (1.2077, 1.8757)}
GROWTH = {"product": (2.1698, 2.5254), "exact": (0.9138, 1.272)}


def looseness(ch, number):
    """Return mean factors along the witness of a fitted network, and product over exact."""
    network = ch["fitted"](5, number)
    exact, rho, mu = ch["factors"](network)
    product = lib.product_bound(network).value
    assert product * rho.prod() * mu.prod() == pytest.approx(exact, rel=1e-9)
    return {
        "rho": math.exp(np.log(rho[1:-1]).mean()),
        "mu": math.exp(np.log(mu).mean()),
        "excess": math.log10(product / exact),
    }


def test_factors_along_the_witness(ch):
    found = looseness(ch, 21)
    assert all(inside(found[key], LOOSE[key]) for key in LOOSE), found


def test_sabotage_a_direction_that_is_not_the_witness(ch):
    broken(ch, "factors", ".Vh[0]", ".Vh[1]")
    with pytest.raises(AssertionError):
        looseness(ch, 21)


def growth(ch, number):
    """Return the factors per layer of product and exact constant of random networks."""
    depths = [1, 2, 3, 4]
    rows = []
    for depth in depths:
        networks = [ch["random_network"]([2, *[8] * depth, 1], 3 * number + k) for k in range(3)]
        pairs = [[lib.product_bound(f).value, ch["steepest"](f)[0]] for f in networks]
        rows.append(np.log(pairs).mean(axis=0))
    rate = np.exp(np.polyfit(depths, rows, 1)[0])
    return dict(zip(GROWTH, rate, strict=True))


def test_growth_with_depth(ch):
    found = growth(ch, 22)
    assert all(inside(found[key], GROWTH[key]) for key in GROWTH), found
    assert GROWTH["exact"][1] < GROWTH["product"][0]


def test_sabotage_orthogonal_layers_do_not_grow(ch):
    generator = torch.Generator().manual_seed(0)

    def orthogonal_network(widths, number):
        network = mlp(widths, dtype=torch.float64, generator=generator).requires_grad_(False)
        for layer in network[::2]:
            nn.init.orthogonal_(layer.weight, generator=generator)
        return network

    ch["random_network"] = orthogonal_network
    assert not inside(growth(ch, 22)["product"], GROWTH["product"])


# --- the critics ------------------------------------------------------------------------------

BRACKETS = {
    "gp": ((0.9297, 1.7577), (1.25, 2.5759)),
    "sn": ((0.4917, 0.7183), (0.7103, 0.8678)),
}


def bracketed(ch, name, number):
    """Return a critic of the chapter's size with its bracket for three norms."""
    ch["seed"] = number
    network = ch["critic"](name, 200)
    return network, ch["bracket"]({p: ch["cheap"](network, p) for p in NORMS}, d=2)


@pytest.mark.parametrize("name", BRACKETS)
def test_critics_are_bracketed(ch, name):
    network, found = bracketed(ch, name, 3)
    pieces = torch.tensor(np.stack([m for _, m, _ in ch["polygons"](network)]))
    for p, (low, up) in found.items():
        exact = lib.operator_norm(pieces, p).max().item()
        assert low * (1 - 1e-9) <= exact <= up * (1 + 1e-9)
    assert all(inside(found[2][k], BRACKETS[name][k]) for k in (0, 1)), found[2]


def test_sabotage_a_critic_without_normalisation(ch):
    _, found = bracketed(ch, "none", 3)
    assert not inside(found[2][1], BRACKETS["sn"][1])


def test_groupsort_is_bracketed_by_product_and_seqlip(ch):
    network, found = bracketed(ch, "orthogonal-maxmin", 3)
    assert set(ch["cheap"](network, 2)[1]) == {"SeqLip", "product"}
    assert 0.9 < found[2][0] <= found[2][1] < 1 + 1e-5
    assert found[math.inf][1] < 1.4143 < lib.product_bound(network, norm=math.inf).value


# --- what fails -------------------------------------------------------------------------------

GREEDY = (0.025, 0.055)  # of 200 networks, the share on which the greedy value is too small


def greedy_short(ch, number):
    found = []
    for k in range(200):
        network = ch["random_network"]([8, 8, 1], 200 * number + k)
        weights = [layer.weight for layer in network[::2]]
        (pair,) = ch["neighbours"](weights)
        found.append(ch["greedy"](*pair) < ch["seq_lip"](weights).item() * (1 - 1e-9))
    return np.mean(found)


def test_greedy_seqlip_is_too_small_now_and_then(ch):
    found = greedy_short(ch, 40)
    assert found > 0 and inside(found, GREEDY)


def test_and_network(ch):
    for d in (3, 9):
        network = ch["all_of"](d)
        inside_needle = torch.full((1, d), 1 - 1 / (4 * d)).double()
        assert ch["sampled"](network, inside_needle) == pytest.approx(math.sqrt(d))
        assert lib.liplt(network).value == pytest.approx(math.sqrt(d))
    assert lib.sampled_bound(network, samples=4000).value == 0


def test_segments_average_to_liplt(ch):
    network = ch["random_network"]([3, 5, 5, 5, 2], 4)
    terms = ch["by_segments"]([layer.weight for layer in network[::2]])
    assert len(terms) == 8
    assert terms.mean() == pytest.approx(lib.liplt(network).value)
