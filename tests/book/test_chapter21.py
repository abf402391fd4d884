"""The numbers of chapter 21, computed with the chapter's own functions.

Intervals are measured: the smallest and largest value over seeds 0 to 5 (one machine, float32, the
chapter's numbers of steps), widened on each side by half of that range. Each claim has a twin in
which something is broken on purpose and the number must leave its interval.
"""

import ast
import math
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch

from lipnb.models import mlp
from lipnb.theory import variational
from lipnb.training import correlated_gaussians
from lipnb.training.information_parts import exact_regularisation, finite_laws

CHAPTER = Path(__file__).parents[2] / "notebooks" / "21_mutual_information.md"


@pytest.fixture
def ch():
    """Run the imports and the definitions of the chapter, nothing else."""
    kept = [
        node
        for cell in jupytext.read(CHAPTER).cells
        if cell.cell_type == "code"
        for node in ast.parse(cell.source).body
        if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)
    ]
    names = {}
    exec(compile(ast.Module(kept, []), str(CHAPTER), "exec"), names)
    return names


def inside(value, interval):
    """Tell whether value lies in the measured interval, widened by half its range."""
    low, high = interval
    return low - (high - low) / 2 <= value <= high + (high - low) / 2


# --- the objective ------------------------------------------------------------------------------


def objective_errors(ch, seed, rate=0.3):
    """Largest differences of gradients and states to the library, over a few steps."""
    g = torch.Generator().manual_seed(seed)
    ours, theirs, found = None, None, []
    for step in range(5):
        f = (torch.randn(2, 32, generator=g, dtype=torch.float64) * (1 + step)).requires_grad_()
        mine, ours = ch["mine_objective"](f[0], f[1], ours, rate=rate)
        (left,) = torch.autograd.grad(mine, f)
        library, theirs = variational.mine(f[0], f[1], theirs, rate=0.3)
        (right,) = torch.autograd.grad(library.objective, f)
        value = ch["donsker_varadhan"](f[0], f[1]) - library.value
        found.append([(left - right).abs().max().item(), abs(value.item())])
    return np.max(found, axis=0)


@pytest.mark.parametrize("seed", range(4))
def test_the_objective_is_the_library_s(ch, seed):
    assert (objective_errors(ch, seed) < 1e-12).all()


def test_sabotage_another_rate(ch):
    gradient, value = objective_errors(ch, 0, rate=0.5)
    assert gradient > 1e-3 and value < 1e-12  # the value does not depend on the average


# --- training -----------------------------------------------------------------------------------

NORMAL = (0.9650, 0.9971)  # value over the information of a normal pair, 400 steps
COPY = {0.5: (0.8808, 0.9554), 2.0: (0.8983, 0.9263)}  # value over I_lambda of the copy, 300 steps


def normal_share(ch, seed):
    g = torch.Generator().manual_seed(seed)
    critic = ch["train"](mlp([2, 32, 32, 1], generator=g), ch["sample_normal"], 400, g)
    return ch["judged"](critic, ch["sample_normal"], g) / correlated_gaussians(0.9).truth


def copy_share(ch, seed, constant, critic=None):
    g = torch.Generator().manual_seed(seed)
    critic = critic or ch["lipschitz_critic"](constant, g)
    critic = ch["train"](critic, ch["sample_copy"], 300, g, 0.1)
    exact = exact_regularisation(finite_laws()["copy"], constant)
    return ch["judged"](critic, ch["sample_copy"], g) / exact


def test_mine_finds_a_normal_pair(ch):
    assert inside(normal_share(ch, 20), NORMAL)


@pytest.mark.parametrize("constant", COPY)
def test_a_bounded_critic_finds_what_is_seen_at_its_slope(ch, constant):
    assert inside(copy_share(ch, 20, constant), COPY[constant])


def test_sabotage_objective_with_the_wrong_sign(ch):
    objective = ch["mine_objective"]
    ch["mine_objective"] = lambda *args: (-objective(*args)[0], objective(*args)[1])
    assert not inside(normal_share(ch, 0), NORMAL)


def test_sabotage_pairs_not_shuffled(ch):
    sample = ch["sample_normal"]

    def independent(n, generator):
        x, y = sample(n, generator)
        return x, y.roll(1, 0)

    g = torch.Generator().manual_seed(0)
    critic = ch["train"](mlp([2, 32, 32, 1], generator=g), independent, 200, g)
    assert not inside(ch["judged"](critic, sample, g) / correlated_gaussians(0.9).truth, NORMAL)


def test_sabotage_no_bound_on_the_slope(ch):
    g = torch.Generator().manual_seed(0)
    share = copy_share(ch, 0, 0.5, mlp([2, 32, 32, 1], generator=g))
    assert share > 1.5 and not inside(share, COPY[0.5])


# --- the noise ----------------------------------------------------------------------------------


def noise(critic, seed, n=200_000, d=2):
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        weights = critic(z).double().exp()
    return (weights.var() / weights.mean() ** 2).item()


@pytest.mark.parametrize("slope", [0.5, 1.0, 1.5])
def test_no_bounded_critic_is_noisier_than_a_linear_one(ch, slope):
    bound = math.expm1(slope**2)
    assert noise(lambda z: slope * z[:, :1], 0) == pytest.approx(bound, rel=0.15)
    for seed in range(3):
        critic = ch["lipschitz_critic"](slope, torch.Generator().manual_seed(seed))
        assert noise(critic, seed) < bound


def test_sabotage_a_slope_that_is_too_large():
    assert noise(lambda z: 1.5 * z[:, :1], 0) > 2 * math.expm1(1)


# --- numbers of the text --------------------------------------------------------------------------


def test_correlations_of_the_text_have_the_information_of_the_text():
    assert correlated_gaussians(0.7, 20).truth == pytest.approx(6.733, abs=1e-3)
    assert correlated_gaussians(0.99, 20).truth == pytest.approx(39.17, abs=1e-2)
