"""The numbers of chapter 11, computed with the chapter's own functions.

Intervals are measured: the smallest and largest value over seeds 0 to 6 (one machine, float32,
the chapter's numbers of steps), widened on each side by half of that range. The seed tested here
is none of them. Each claim has a twin in which something is broken on purpose.
"""

import ast
import math
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch
from torch import nn

from lipnb.constraints import orthogonal, spectral_norm
from lipnb.models import GroupSort

CHAPTER = Path(__file__).parents[2] / "notebooks" / "11_gradient_norm_preservation.md"
SEED, STEPS, SMALL_STEPS = 20, 400, 300
ASSIGNED = {"(ends, middle)", "pair", "kinds"}


@pytest.fixture(scope="module")
def ch():
    """Run the imports, the definitions and the problems of the chapter, nothing else."""
    kept = []
    for cell in jupytext.read(CHAPTER).cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                is_problem = (
                    isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ASSIGNED
                )
                if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef) or is_problem:
                    kept.append(node)
    names = {}
    exec(compile(ast.Module(kept, []), str(CHAPTER), "exec"), names)
    return names


def inside(value, interval):
    """Tell whether value lies in the measured interval, widened by half its range."""
    low, high = interval
    return low - (high - low) / 2 <= value <= high + (high - low) / 2


# --- the letter V -----------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3, 7])
def test_turning_network_has_the_gap_of_the_formula(ch, depth):
    f = ch["turning_network"](depth)
    _, gap = ch["best_turn"](depth)
    assert ch["vee_gap"](f, torch.float64) == pytest.approx(gap, abs=1e-6)
    assert gap >= (1 + math.cos(math.pi / depth) ** depth) / 2 - 1e-6  # the simple choice
    assert gap <= math.sqrt(depth / (depth + 1))
    for layer in f[::2]:
        assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=1e-12)
    f[0].bias.data -= 1.0  # sabotage: the unit that should be linear is cut off as well
    assert abs(ch["vee_gap"](f, torch.float64) - gap) > 0.05


def test_no_single_layer_of_relu_beats_one_half(ch):
    generator = torch.Generator().manual_seed(SEED)
    w, v, b = torch.randn(3, 20000, 3, generator=generator, dtype=torch.float64)
    w, v, b = nn.functional.normalize(w), nn.functional.normalize(v), 0.2 * b

    def networks(x):  # (points, networks)
        return ((x[:, :, None] * w + b).relu() * v).sum(dim=2)

    x = torch.tensor([[1.0], [-1.0], [0.0]], dtype=torch.float64)
    values = networks(x)
    gaps = (values[0] + values[1]) / 2 - values[2]
    assert 0.4 < gaps.max() <= 0.5
    assert (2 * gaps).max() > 0.5  # sabotage: an output weight of norm two


@pytest.mark.parametrize("depth", [1, 2])
def test_training_finds_the_v_by_sorting_only(ch, depth):
    by_sorting = ch["trained_vee"](depth, GroupSort, orthogonal, SEED, SMALL_STEPS)
    by_relu = ch["trained_vee"](depth, nn.ReLU, spectral_norm, SEED, SMALL_STEPS)
    assert 0.999 < by_sorting < 1 + 1e-5
    assert by_relu <= math.sqrt(depth / (depth + 1)) and by_relu < 0.75
    assert depth > 1 or by_relu < 0.5 + 1e-4


def test_sabotage_without_a_constraint_the_gap_has_no_bound(ch):
    free = ch["trained_vee"](1, nn.ReLU, lambda layer, generator: layer, SEED, 100)
    assert free > 1.1


# --- sorting and orthogonal weights -----------------------------------------------------------


def test_maxmin_equals_the_library_and_keeps_gradients(ch):
    generator = torch.Generator().manual_seed(SEED)
    x, g = torch.randn(2, 50, 8, generator=generator, dtype=torch.float64)
    x.requires_grad_()
    torch.testing.assert_close(ch["maxmin"](x), GroupSort()(x))
    (back,) = torch.autograd.grad(ch["maxmin"](x), x, g)
    torch.testing.assert_close(back.norm(dim=1), g.norm(dim=1))
    (lost,) = torch.autograd.grad(x.relu(), x, g)  # sabotage
    assert (lost.norm(dim=1) < 0.999 * g.norm(dim=1)).any()


def test_cayley_and_bjorck_are_orthogonal(ch):
    generator = torch.Generator().manual_seed(SEED)
    free, base = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
    eye, base = torch.eye(6, dtype=torch.float64), torch.linalg.qr(base).Q
    w = ch["cayley"](free, base)
    torch.testing.assert_close(w.T @ w, eye)
    assert torch.linalg.det(w).item() == pytest.approx(torch.linalg.det(base).item())
    wrong = ch["cayley"](free, base + 0.1)  # sabotage: the base point is not orthogonal
    assert (wrong.T @ wrong - eye).abs().max() > 0.01
    near, path = ch["bjorck"](free, 60)
    torch.testing.assert_close(near.T @ near, eye)
    s = path[:-1]
    torch.testing.assert_close((s * (3 - s**2) / 2).sort().values, path[1:].sort().values)
    early, _ = ch["bjorck"](free, 5)  # sabotage: too few steps
    assert (early.T @ early - eye).abs().max() > 0.01


def test_weights_are_orthogonal_after_hard_training(ch):
    kept = ch["after_training"](orthogonal, SEED)
    normalised = ch["after_training"](spectral_norm, SEED)
    assert (kept - 1).abs().max() < 1e-5
    assert normalised[0].item() == pytest.approx(1, abs=1e-4) and normalised[-1] < 0.25


def test_convolution_is_orthogonal_on_a_torus_only(ch):
    ch["seed"] = SEED
    torus, zeros = (ch["spectrum_of_convolution"](m) for m in ("circular", "zeros"))
    assert (torus - 1).abs().max() < 1e-12
    assert zeros[0] < 1 + 1e-12 and zeros[-1] < 0.9


# --- four critics -----------------------------------------------------------------------------

SHARE = {  # of the distance
    ("ReLU", "SN"): (0.5098, 0.5534),
    ("ReLU", "orthogonal"): (0.6539, 0.6611),
    ("MaxMin", "SN"): (0.6921, 0.7407),
    ("MaxMin", "orthogonal"): (0.9072, 0.9288),
}
COSINE = {  # with the gradient of the potential
    ("ReLU", "SN"): (0.6510, 0.6789),
    ("ReLU", "orthogonal"): (0.7467, 0.7667),
    ("MaxMin", "SN"): (0.8209, 0.8494),
    ("MaxMin", "orthogonal"): (0.9258, 0.9480),
}


@pytest.fixture(scope="module")
def critics(ch):
    return {kind: ch["train_on_pair"](kind, SEED, STEPS) for kind in SHARE}


@pytest.mark.parametrize("kind", SHARE, ids=str)
def test_critics_find_what_was_measured(ch, critics, kind):
    share, cosine = ch["judge"](critics[kind])
    assert inside(share, SHARE[kind])
    assert inside(cosine, COSINE[kind])


def test_sabotage_each_kind_leaves_the_intervals_of_the_others(ch, critics):
    for kind, f in critics.items():
        share, _ = ch["judge"](f)
        assert not any(inside(share, SHARE[other]) for other in SHARE if other != kind)
    share, cosine = ch["judge"](lambda x: -critics["MaxMin", "orthogonal"](x))
    assert share < 0 and cosine < 0


def test_gradients_keep_their_length_back_to_the_first_layer(ch, critics):
    _, z = ch["pair"].sample(500, torch.Generator().manual_seed(SEED))
    back = {kind: ch["lengths"](f, z.clone()).detach() for kind, f in critics.items()}
    assert (back["MaxMin", "orthogonal"][:-1] - 1).abs().max() < 1e-4
    for kind in (("ReLU", "SN"), ("ReLU", "orthogonal"), ("MaxMin", "SN")):
        assert back[kind][-2].mean() < 0.97
    for b in back.values():
        assert (np.diff(b.numpy(), axis=0) < 1e-5).all()  # no step lengthens


def test_slopes_near_one_point_the_same_way_with_relu_only(ch, critics):
    ch["z"] = ch["pair"].sample(2000, torch.Generator().manual_seed(SEED))[1]
    assert ch["worst_excess"](critics["ReLU", "SN"]) < 1e-3
    assert ch["worst_excess"](critics["ReLU", "orthogonal"]) < 1e-3
    assert ch["worst_excess"](critics["MaxMin", "orthogonal"]) > 0.1


# --- exercises --------------------------------------------------------------------------------


def test_mirrored_network_is_a_scaled_v(ch):
    f = ch["turning_network"](5)
    g, t = ch["mirrored"](f), torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None]
    torch.testing.assert_close(g(t), (f(t) + f(-t)) / 2)
    gap = ch["best_turn"](5)[1]
    torch.testing.assert_close(g(t) - g(0 * t), gap * t.abs(), atol=1e-6, rtol=0)
    assert max(torch.linalg.matrix_norm(m.weight, 2).item() for m in g[::2]) < 1 + 1e-9


def test_leaky_relu_makes_it_worse(ch):
    assert ch["leaky_gap"](nn.LeakyReLU(0.3)) == pytest.approx(0.35, abs=1e-6)
    assert ch["leaky_gap"](torch.abs) == pytest.approx(1.0, abs=1e-6)
