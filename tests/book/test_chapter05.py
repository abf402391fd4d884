"""The numbers of chapter 05, computed with the chapter's own functions.

Intervals are measured: the smallest and largest value over seeds 0 to 19 (one machine, float64,
the chapter's numbers of steps), widened on each side by half of that range. Each claim has a twin
in which something is broken on purpose and the number must leave its interval.
"""

import ast
import copy
import math
from pathlib import Path

import jupytext
import pytest
import torch

from lipnb.bounds import enumerate_regions, sampled_bound
from lipnb.constraints import clip_weights
from lipnb.models import mlp
from lipnb.training.critic import train_critic

CHAPTER = Path(__file__).parents[2] / "notebooks" / "05_weight_clipping.md"
SEED = 20


def chapter():
    """Run the imports and the definitions of the chapter, nothing else."""
    kept = []
    for cell in jupytext.read(CHAPTER).cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef):
                    kept.append(node)
    names = {"seed": SEED, "c": 0.1}
    exec(compile(ast.Module(kept, []), str(CHAPTER), "exec"), names)
    names["pair"], names["x"], names["y"] = names["four_wells"](SEED)
    return names


@pytest.fixture(autouse=True, scope="module")
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def ch():
    return chapter()


def inside(value, interval):
    """Tell whether value lies in the measured interval, widened by half its range."""
    low, high = interval
    return low - (high - low) / 2 <= value <= high + (high - low) / 2


# --- the constant of the box ------------------------------------------------------------------


def filled(widths, c):
    network = mlp(widths).requires_grad_(False)
    for w in network.parameters():
        w.fill_(c)
    return network


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_the_constant_of_the_box_is_attained(ch, p):
    widths, c = [3, 4, 3, 1], 0.7
    network, bound = filled(widths, c), ch["box_constant"](widths, c, p)
    assert enumerate_regions(network, norm=p).value == pytest.approx(bound)
    network[2].weight[0, 0] = -c  # sabotage: one wrong sign
    assert enumerate_regions(network, norm=p).value < 0.99 * bound


def test_two_camps_multiply_by_half_the_width(ch):
    n, c, depth, generator = 6, 0.4, 3, torch.Generator().manual_seed(SEED)
    sign = torch.tensor([1.0, -1.0]).repeat(n // 2)
    network = mlp([2, *[n] * depth, 1], generator=generator).requires_grad_(False)
    for layer in network[2:-1:2]:
        layer.weight[:] = c * torch.outer(sign, sign)
    network[-1].weight[0] = c * sign
    for layer in network[::2]:
        layer.bias.zero_()
    z = torch.randn(30, 2, generator=generator)
    camps = network[:2](z) @ sign / (n // 2)  # p - m
    forecast = (c * n / 2) ** depth * camps
    torch.testing.assert_close(network(z)[:, 0], forecast)
    network[2].weight[0, 1] *= -1  # sabotage: one unit changes camp
    assert not torch.allclose(network(z)[:, 0], forecast)


# --- the linear critic and the clamp ----------------------------------------------------------


def trained_linear(ch, steps=200):
    generator = torch.Generator().manual_seed(SEED)
    y = torch.randn(40, 3, generator=generator)
    t = torch.tensor([0.9, -0.2, 0.4])
    f = mlp([3, 1], generator=generator)
    ch["train_clipped"](f, lambda n, g: (y + t, y), 0.25, SEED, steps)
    return f[0].weight.detach()[0], t


def test_the_linear_critic_ends_in_the_corner(ch):
    w, t = trained_linear(ch)
    assert torch.equal(w, 0.25 * t.sign())
    assert (w @ t).item() == pytest.approx(0.25 * t.abs().sum().item())


def test_sabotage_no_clamp(ch):
    ch["clip"] = lambda network, c: None
    w, t = trained_linear(ch)
    assert (w.abs() > 0.25).any() and not torch.equal(w, 0.25 * t.sign())


def test_clip_equals_the_library_and_clips_biases(ch):
    network = mlp([2, 9, 9, 1], generator=torch.Generator().manual_seed(SEED))
    ours, theirs = copy.deepcopy(network), clip_weights(copy.deepcopy(network), 0.1)
    ch["clip"](ours, 0.1)
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    assert not torch.equal(network[0].bias, ours[0].bias)
    assert max(w.abs().max() for w in ours.parameters()) == 0.1


# --- what the gap prefers ---------------------------------------------------------------------

SHARE = {
    "penalised": (0.8000, 0.9020),
    "clipped": (0.4092, 0.6264),
    "squeezed, then clipped": (0.4889, 0.6313),
}
COSINE = {"penalised": (0.9017, 0.9560), "clipped": (0.4756, 0.6259)}
GAP = {"clipped": (1.355, 2.586), "squeezed": (0.0057, 0.0114)}


def clipped(ch, steps=400):
    f = ch["start"]()
    ch["train_clipped"](f, ch["pair"].sample, 0.1, SEED, steps)
    return ch["judge"](f, ch["pair"], ch["x"], ch["y"]), f


@pytest.fixture(scope="module")
def penalised(float64):
    ch = chapter()
    f, generator = ch["start"](), torch.Generator().manual_seed(SEED)
    train_critic(
        f, ch["pair"].sample, penalty=ch["on_segments"], iterations=400, generator=generator
    )
    return f


def test_the_box_holds_a_good_critic_and_clipping_gives_it_up(ch, penalised):
    pair, x, y = ch["pair"], ch["x"], ch["y"]
    good = ch["judge"](penalised, pair, x, y)
    squeezed, t = ch["squeeze"](penalised, 0.1)
    small = ch["judge"](squeezed, pair, x, y)
    assert max(w.abs().max() for w in squeezed.parameters()) <= 0.1 * (1 + 1e-12)
    assert torch.allclose(squeezed(x), t * penalised(x))
    assert small[1] == pytest.approx(good[1], rel=1e-6)
    assert inside(good[1], SHARE["penalised"]) and inside(good[2], COSINE["penalised"])
    assert inside(small[0], GAP["squeezed"])

    path = ch["watched"](squeezed)
    assert inside(path[-1, 1], SHARE["squeezed, then clipped"])
    assert path[-1, 0] > 50 * path[0, 0]
    assert not inside(good[1], SHARE["squeezed, then clipped"])


def test_sabotage_squeeze_without_biases(ch, penalised):
    squeezed, _ = ch["squeeze"](penalised, 0.1)
    for layer, original in zip(squeezed[::2], penalised[::2], strict=True):
        layer.bias.data = original.bias.data.clamp(-0.1, 0.1)  # in the box, but not scaled along
    share = ch["judge"](squeezed, ch["pair"], ch["x"], ch["y"])[1]
    assert not inside(share, SHARE["penalised"])


def living_energy(ch, f):
    """First energies of the matrices between living units, and agreement with the corner."""
    x, y = ch["x"], ch["y"]
    points = torch.cat([x, y])
    masks = ch["living"](f, points)
    energy = [ch["first_energy"](m) for m in ch["middle"](f, masks)]
    with torch.no_grad():
        h = f[:-1](points)
    corner = 0.1 * (h[: len(x)].mean(dim=0) - h[len(x) :].mean(dim=0)).sign()
    agree = (f[-1].weight[0] == corner)[masks[-1]].double().mean().item()
    return energy, agree


FIRST_ENERGY, SECOND_ENERGY = (0.8095, 0.9642), (0.7014, 0.8241)


def test_clipped_critics_are_simple_and_sit_in_corners(ch):
    (gap, share, cosine), f = clipped(ch)
    assert inside(gap, GAP["clipped"])
    assert inside(share, SHARE["clipped"]) and inside(cosine, COSINE["clipped"])
    energy, agree = living_energy(ch, f)
    assert inside(energy[0], FIRST_ENERGY) and inside(energy[1], SECOND_ENERGY)
    assert agree > 0.95


def test_sabotage_the_critic_is_not_clipped(ch):
    ch["clip"] = lambda network, c: None
    (gap, _, _), f = clipped(ch, steps=200)
    assert not inside(gap, GAP["clipped"])
    _, agree = living_energy(ch, f)
    assert agree < 0.5


def test_sabotage_a_penalised_critic_is_not_simple(ch, penalised):
    energy, agree = living_energy(ch, penalised)
    assert not inside(energy[0], FIRST_ENERGY) and not inside(energy[1], SECOND_ENERGY)
    assert agree < 0.5


def test_sabotage_the_laws_are_swapped(ch):
    sample = ch["pair"].sample
    f = ch["start"]()
    ch["train_clipped"](f, lambda n, g: sample(n, g)[::-1], 0.1, SEED, 100)
    gap, share, cosine = ch["judge"](f, ch["pair"], ch["x"], ch["y"])
    assert gap < 0 and share == 0 and cosine < 0


# --- neurons ----------------------------------------------------------------------------------

REACHED, RIDGE, PLACES = (0.7800, 0.8714), (0.2039, 0.2842), (32, 47)


def crowd(ch, n=256, steps=300):
    f = ch["start"]((2, n, 1))
    for w in f.parameters():
        w.data *= 0.1 * math.sqrt(2)
    loners = [ch["neuron"](f, j) for j in range(3)]
    for g in (f, *loners):
        ch["train_clipped"](g, ch["whole"], 0.1, SEED, steps)
    rows = ch["parameters"](f)
    alone = torch.cat([ch["parameters"](g) for g in loners])
    return f, rows, (alone - rows[:3]).abs().max().item()


def test_neurons_climb_alone_to_few_places(ch):
    pair, x, y = ch["pair"], ch["x"], ch["y"]
    f, rows, apart = crowd(ch)
    assert apart < 1e-9
    surface = ch["faces"](41)
    pulls = ch["pull"](surface, x, y).abs()
    gap = ch["judge"](f, pair, x, y)[0] * (x - y).norm(dim=1).mean().item()
    assert inside(gap / (256 * 0.01 * pulls.max().item()), REACHED)
    assert inside(len(torch.unique((10 * rows[:, :3]).round(), dim=0)), PLACES)
    w = surface[pulls.argmax()]
    ridge = ch["judge"](lambda z: torch.relu(z @ w[:2] + w[2])[:, None], pair, x, y)
    assert inside(ridge[1], RIDGE)


def test_the_pull_is_the_gap_of_one_neuron(ch):
    x, y = ch["x"], ch["y"]
    z = torch.tensor([[0.3, -0.8, 0.1], [1.0, 0.5, -0.7]])
    for row, pull in zip(z, ch["pull"](z, x, y), strict=True):
        on = [torch.relu(p @ row[:2] + row[2]).mean() for p in (x, y)]
        torch.testing.assert_close(pull, on[0] - on[1])
    torch.testing.assert_close(ch["pull"](0.1 * z, x, y), 0.1 * ch["pull"](z, x, y))


def test_sabotage_no_clamp_for_the_crowd(ch):
    ch["clip"] = lambda network, c: None
    f, _, apart = crowd(ch, n=32, steps=200)
    assert apart < 1e-9  # even then they do not talk
    gap = ch["judge"](f, ch["pair"], ch["x"], ch["y"])[0]
    gap *= (ch["x"] - ch["y"]).norm(dim=1).mean().item()
    best = ch["pull"](ch["faces"](41), ch["x"], ch["y"]).abs().max().item()
    assert not inside(gap / (32 * 0.01 * best), REACHED)


def test_sabotage_a_penalty_makes_neurons_talk(ch):
    f = ch["start"]((2, 32, 1))
    for w in f.parameters():
        w.data *= 2.0
    alone = ch["neuron"](f, 0)
    for g in (f, alone):
        generator = torch.Generator().manual_seed(SEED)
        train_critic(
            g,
            ch["whole"],
            penalty=ch["on_segments"],
            after_step=lambda g: ch["clip"](g, 1.0),
            iterations=50,
            learning_rate=0.02,
            generator=generator,
        )
    assert (ch["parameters"](alone) - ch["parameters"](f)[:1]).abs().max() > 1e-3


# --- depth ------------------------------------------------------------------------------------

GROWTH = {0.5: (0.4595, 0.5619), 2.0: (1.522, 2.050)}


def mean_slope(ch, product, depth, steps, eps=1e-30, c=None):
    f = ch["start"]((2, *[32] * depth, 1))
    ch["train_clipped"](f, ch["pair"].sample, c or product / 16, SEED, steps, eps=eps)
    return ch["mean_slope"](f, torch.cat([ch["x"], ch["y"]]))


@pytest.mark.parametrize("product", GROWTH)
def test_slope_grows_by_half_of_c_n_per_layer(ch, product):
    shallow, deep = (mean_slope(ch, product, depth, 250) for depth in (1, 8))
    assert inside((deep / shallow) ** (1 / 7), GROWTH[product])


def test_sabotage_untrained_networks_grow_otherwise(ch):
    for product, interval in GROWTH.items():
        shallow, deep = (mean_slope(ch, product, depth, 0) for depth in (1, 8))
        assert not inside((deep / shallow) ** (1 / 7), interval)


def test_a_small_number_in_the_divisor_stops_deep_critics(ch):
    initial = mean_slope(ch, None, 8, 0, c=0.01)
    assert mean_slope(ch, None, 8, 100, eps=1e-8, c=0.01) < 3 * initial
    assert mean_slope(ch, None, 8, 100, eps=1e-30, c=0.01) > 100 * initial


def test_layer_slopes_agree_with_the_mean_slope(ch):
    f, points = ch["start"]((2, 5, 5, 1)), torch.cat([ch["x"], ch["y"]])[:20]
    rows = ch["layer_slopes"](f, points)
    assert rows[-1] == 1.0 and len(rows) == 3
    first = torch.nn.Sequential(torch.nn.Identity(), *f[1:])  # f after its first layer
    assert rows[0] == pytest.approx(ch["mean_slope"](first, f[0](points).detach()))


# --- what fails -------------------------------------------------------------------------------

NORMALISED = {1.0: (0.5954, 0.7768), 0.01: (60.46, 78.44)}


@pytest.mark.parametrize("scale", NORMALISED)
def test_batch_normalisation_voids_the_box(ch, scale):
    points, slope = scale * torch.cat([ch["x"], ch["y"]]), {}
    for batch_norm in (True, False):
        f = mlp([2, 32, 32, 1], batch_norm=batch_norm, generator=ch["seeded"]())
        ch["train_clipped"](f, ch["shrunk"](scale), 0.1, SEED, 250)
        slope[batch_norm] = sampled_bound(f, points=points).value
    assert inside(slope[True], NORMALISED[scale])
    assert slope[False] < ch["box_constant"]([2, 32, 32, 1], 0.1)  # the twin without it
    assert not inside(slope[False], NORMALISED[scale])


@pytest.mark.parametrize("with_bias", [False, True])
def test_without_biases_c_is_a_unit_to_the_last_bit(ch, with_bias):
    outputs = []
    for factor in (1.0, 0.5):
        f = ch["start"]((2, 16, 16, 1))
        for layer in f[::2]:
            if not with_bias:
                layer.register_parameter("bias", None)
            for w in layer.parameters():
                w.data *= factor
        ch["train_clipped"](f, ch["whole"], 0.25 * factor, SEED, 60, eps=1e-8 * factor**2)
        outputs.append(f(ch["y"]).detach())
    assert torch.equal(outputs[0] / 8, outputs[1]) is not with_bias
