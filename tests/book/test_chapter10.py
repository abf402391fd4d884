"""The numbers of chapter 10, computed with the chapter's own functions.

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
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

from lipnb.constraints import plain_copy, spectral_norm
from lipnb.constraints.convolution import convolution_norm
from lipnb.models import mlp
from lipnb.theory import judge_potential

CHAPTER = Path(__file__).parents[2] / "notebooks" / "10_spectral_normalisation.md"
SEED, STEPS, IMAGE_STEPS = 20, 400, 150
ASSIGNED = {"RULES", "OPTIMISERS", "pair", "(side, brighter)"}


@pytest.fixture(scope="module")
def ch():
    """Run the imports, the definitions and the problems of the chapter, nothing else."""
    kept = []
    for cell in jupytext.read(CHAPTER).cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                is_problem = isinstance(node, ast.AnnAssign) or (
                    isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ASSIGNED
                )
                defines = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef
                if isinstance(node, defines) or is_problem:
                    kept.append(node)
    names = {}
    exec(compile(ast.Module(kept, []), str(CHAPTER), "exec"), names)
    return names


def inside(value, interval):
    """Tell whether value lies in the measured interval, widened by half its range."""
    low, high = interval
    return low - (high - low) / 2 <= value <= high + (high - low) / 2


def random(*shape, seed=SEED):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- power iteration --------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[1.0, 0.8, 0.1], [3.0, 2.9, 2.8, 0.0]])
def test_power_iteration_errs_as_the_closed_form_says(ch, values):
    values = torch.tensor(values).double()
    weight, left = ch["with_values"](values, torch.Generator().manual_seed(SEED))
    torch.testing.assert_close(torch.linalg.svdvals(weight), values)
    start = functional.normalize(random(len(values)), dim=0)
    c, rho = left.T @ start, (values[1] / values[0]).item()
    tangent = c[1:].norm() / c[0].abs()
    for k in (1, 2, 5, 20):
        sigma, u = ch["power_iteration"](weight, start, k)
        assert sigma.item() == pytest.approx(ch["closed_form"](values, c, k).item(), abs=1e-12)
        error = 1 - (sigma / values[0]) ** 2
        assert -1e-12 <= error <= tangent**2 * min(rho ** (4 * k - 2), 1 / (4 * k)) + 1e-12
        assert sigma >= values[0] * c[0].abs() ** (0.5 / k) - 1e-12
        turned = left.T @ u
        assert turned[1:].norm() / turned[0].abs() <= rho ** (2 * k) * tangent + 1e-12
        # Sabotage: one step more, or the value of the vector's rate.
        assert abs(ch["closed_form"](values, c, k + 1) - sigma) > 1e-12 or k == 20
        assert k != 5 or error > 0.01 * tangent**2 * rho ** (6 * k)


def test_certificate_fails_no_more_often_than_it_may(ch):
    values = torch.linspace(1, 0.95, 12).double()
    weight, _ = ch["with_values"](values, torch.Generator().manual_seed(SEED))
    starts = random(12, 4000)
    for k in (1, 3, 30):
        estimates = ch["power_iteration"](weight, starts, k)[0]
        for risk in (0.5, 0.05):
            factor = (math.sqrt(24 / math.pi) / risk) ** (0.5 / k)
            assert (factor * estimates < 1).double().mean() <= risk
        assert (estimates < 1).double().mean() > 0.99  # sabotage: no factor


def test_running_estimate_misses_a_takeover(ch):
    single, double, never = (
        ch["takeover"](dtype, rotated)
        for dtype, rotated in ((torch.float32, True), (torch.float64, True), (torch.float64, False))
    )
    assert (np.abs(single[:10] - 1) < 0.05).all() and single[-1] == pytest.approx(2, abs=1e-3)
    assert (np.abs(double[:20] - 1) < 0.05).all() and double[-1] == pytest.approx(2, abs=1e-3)
    assert np.abs(never - 1).max() < 1e-9
    # Sabotage: a fresh start finds the new direction at once.
    after = torch.diag(torch.tensor([1.0, 2.0, 0.4])).double()
    assert ch["power_iteration"](after, random(3), 20)[0].item() == pytest.approx(2, abs=1e-3)


HARD = (1.1367, 1.3760)  # norm of PyTorch's weight in evaluation mode


def test_only_a_decomposition_is_a_bound_after_fast_steps(ch):
    _, remembered = ch["train_hard"](parametrizations.spectral_norm, SEED)
    _, computed = ch["train_hard"](spectral_norm, SEED)
    assert inside(remembered, HARD)
    assert computed == pytest.approx(1, abs=1e-5) and not inside(computed, HARD)


# --- convolutions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "n", "stride"), [((2, 3, 3, 3), 7, 1), ((3, 2, 5, 5), 8, 2), ((2, 2, 2, 2), 6, 3)]
)
def test_norms_of_convolutions(ch, shape, n, stride):
    kernel = random(*shape)
    top = ch["by_frequencies"](kernel, n - n % stride, stride).max().item()
    assert top == pytest.approx(ch["by_matrix"](kernel, n - n % stride, stride, mode="circular"))
    zeros, flat = ch["by_matrix"](kernel, n, stride), ch["reshaped"](kernel).item()
    windows = math.ceil(shape[2] / stride)
    assert flat - 1e-9 <= zeros and top <= windows * flat + 1e-9
    layer = nn.Conv2d(shape[1], shape[0], shape[2], stride, padding=(shape[2] - 1) // 2).double()
    if shape[2] % 2:  # an even kernel is padded on one side more than on the other
        layer.weight.data = kernel
        library = convolution_norm(layer, input_size=(n, n)).item()
        assert zeros == pytest.approx(library)
    if stride == 1:
        assert top > flat + 0.1  # sabotage: the reshaped norm is another number
    elif windows > 1:
        unfolded = torch.linalg.svdvals(torch.fft.fft2(kernel, s=(8, 8)).permute(2, 3, 0, 1))
        assert abs(unfolded.max().item() / stride - top) > 0.1  # sabotage: without the aliases


def test_erratum_the_factor_depends_on_the_kernel(ch):
    ones, delta = torch.ones(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
    delta[0, 0, 1, 2] = 1
    factors = [
        (ch["by_frequencies"](k, 12).max() / ch["reshaped"](k)).item() for k in (ones, delta)
    ]
    assert factors == pytest.approx([3.0, 1.0], abs=1e-6)
    text = (CHAPTER.parents[1] / "book" / "errata.md").read_text(encoding="utf-8")
    assert f"is {factors[0]:.6f}" in text and f"{factors[1]:.6f} if one of them" in text


OVER = (7.8259, 7.8959)  # share of the distance: reshaped norm
FOUND = (0.9345, 0.9530)  # operator norm


def test_critic_of_images_finds_too_much_by_the_reshaped_norm_only(ch):
    share, _ = ch["image_critic"](ch["reshaped"], SEED, IMAGE_STEPS)
    assert inside(share, OVER) and share <= 9

    def operator(kernel):
        return ch["by_frequencies"](kernel, ch["side"] + 1).max().to(kernel.dtype)

    share, f = ch["image_critic"](operator, SEED, IMAGE_STEPS)
    assert inside(share, FOUND) and not inside(share, OVER)
    assert convolution_norm(f[0], input_size=(12, 12)) < 1 + 1e-4


# --- four rules -------------------------------------------------------------------------------


def test_four_rules_end_where_they_should(ch):
    values = torch.tensor([2.0, 1.5, 0.2]).double()
    target, _ = ch["with_values"](values, torch.Generator().manual_seed(SEED))
    best, poor = values.sum().item(), (values.square().sum() / 2).item()
    ends = {rule: ch["ascend"](target, rule, SEED)[0][-1] for rule in ch["RULES"]}
    assert ends["clip"] == pytest.approx(best, abs=1e-9)
    assert 0.98 * best < ends["normalise"] <= best + 1e-9
    assert ends["shrink"] == pytest.approx(poor, abs=1e-6)
    assert ends["detached"] == pytest.approx(poor, rel=0.05)
    assert poor < 0.9 * best  # so that the rules differ by more than the tolerances


PART = {
    "normalise": (0.5847, 0.6159),
    "detached": (0.3490, 0.3605),
    "shrink": (0.3280, 0.3386),
    "clip": (0.4991, 0.5329),
}
RANK = {
    "normalise": (11.66, 12.63),
    "detached": (1.0169, 1.0515),
    "shrink": (1.0, 1.0163),
    "clip": (11.84, 13.45),
}


def part_and_rank(ch, f):
    """Share of the distance, and squared Frobenius over squared spectral norm."""
    scores = judge_potential(f, ch["pair"], 4000, torch.Generator().manual_seed(99))
    s = torch.linalg.svdvals(f[2].weight.detach())
    return scores.wasserstein1 / scores.cost, (s.square().sum() / s[0] ** 2).item()


@pytest.mark.parametrize("rule", PART)
def test_rules_in_a_network(ch, rule):
    part, rank = part_and_rank(ch, ch["train_by_rule"](rule, SEED, STEPS))
    assert inside(part, PART[rule]) and inside(rank, RANK[rule])
    other = {"normalise": "detached", "clip": "shrink"}.get(rule, "normalise")
    assert not inside(part, PART[other]) and not inside(rank, RANK[other])


@pytest.mark.parametrize(("rule", "low", "high"), [("shrink", 1, 1.1), ("normalise", 5, 32)])
def test_plain_gradient_steps_concentrate_as_well(ch, rule, low, high):
    generator, (use, after) = torch.Generator().manual_seed(SEED), ch["RULES"][rule]
    f = mlp([8, 32, 32, 32, 1], nn.ReLU, generator=generator)
    for layer in f[::2] if after is None else ():
        parametrize.register_parametrization(layer, "weight", use)
    sgd = torch.optim.SGD(f.parameters(), lr=1.0)
    for _ in range(300):
        x, y = ch["pair"].sample(128, generator)
        sgd.zero_grad()
        with parametrize.cached():
            (f(y).mean() - f(x).mean()).backward()
        sgd.step()
        for layer in f[::2] if after else ():
            layer.weight.data = after(layer.weight.data)
    assert low - 1e-4 <= part_and_rank(ch, plain_copy(f))[1] <= high


# --- what is left of the class ----------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 5])
def test_no_hidden_layer_beats_the_ceiling_and_the_identity_attains_it(ch, d):
    generator = torch.Generator().manual_seed(SEED)
    x, ceiling = ch["sphere"](20000, d, generator).double(), ch["ceiling"](d)
    by_identity = x.relu().sum(dim=1).mean().item() / math.sqrt(d)
    assert by_identity == pytest.approx(ceiling, rel=0.02)
    gaps = []
    for _ in range(100):
        w, v, b = (torch.randn(s, generator=generator).double() for s in ((2 * d, d), 2 * d, 2 * d))
        w, v, b = w / torch.linalg.matrix_norm(w, 2), v.abs() / v.norm(), 0.1 * b
        gaps.append((((x @ w.T + b).relu() - b.relu()) @ v).mean().item())
    assert 0.5 * ceiling < max(gaps) <= 1.02 * ceiling
    assert 1.2 * by_identity > 1.02 * ceiling  # sabotage: weights of norm 1.2


GAP = {("Adam", 1): (0.3823, 0.3963), ("Adam", 8): (0.3854, 0.4540), ("SGD", 2): (0.3715, 0.4109)}


@pytest.mark.parametrize("case", GAP, ids=str)
def test_trained_gap_at_each_depth(ch, case):
    optimiser, depth = case
    start, end = ch["sphere_critic"](depth, optimiser, SEED, STEPS)
    before, after = (ch["gap_and_slopes"](f, 8) for f in (start, end))
    assert inside(after[0], GAP[case]) and after[1].max() < 0.95
    assert before[0] < 0.05 and not inside(before[0], GAP[case])  # sabotage: no training
    predicted = ch["at_start"](depth, 8, 32)
    assert predicted / 3 < before[1].mean() < 3 * predicted


def test_plain_gradient_descent_does_not_leave_a_deep_start(ch):
    _, end = ch["sphere_critic"](8, "SGD", SEED, 100)
    assert ch["gap_and_slopes"](end, 8)[0] < 0.01


def test_sabotage_without_a_constraint_the_ceiling_is_broken(ch):
    _, end = ch["sphere_critic"](1, "Adam", SEED, 100, constrain=lambda layer, generator: layer)
    assert ch["gap_and_slopes"](end, 8)[0] > 2 * ch["ceiling"](8)
