"""The numbers of chapter 04, computed with the chapter's own functions.

Intervals are measured: the smallest and largest value over seeds 0 to 6 (one machine, float32,
the chapter's numbers of steps), widened on each side by half of that range. Each claim has a twin
in which something is broken on purpose and the number must leave its interval.
"""

import ast
import re
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch

from lipnb.theory import kl_divergence, moreau_yosida_kl, unconstrained_wasserstein, wasserstein1

ROOT = Path(__file__).parents[2]
CHAPTER = ROOT / "notebooks" / "04_moreau_yosida.md"


def chapter():
    """Run the imports and the definitions of the chapter, nothing else."""
    kept = []
    for cell in jupytext.read(CHAPTER).cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef):
                    kept.append(node)
    names = {}
    exec(compile(ast.Module(kept, []), str(CHAPTER), "exec"), names)
    return names


@pytest.fixture
def ch():
    return chapter()


def inside(value, interval):
    """Tell whether value lies in the measured interval, widened by half its range."""
    low, high = interval
    return low - (high - low) / 2 <= value <= high + (high - low) / 2


# --- the solver written out ---------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.3, 3.0, 30.0])
@pytest.mark.parametrize("seed", [20, 21])
def test_the_chapters_solver_is_exact_and_equals_the_library(ch, seed, strength):
    x, y, a, b = ch["arc_and_patches"](seed)
    primal, dual, plan, f = ch["both_sides"](a, b, x, y, strength)
    assert -1e-12 < primal - dual < 1e-9
    points = np.vstack([x, y])
    distance = ch["cdist"](points, points)
    mu, nu = np.append(a, np.zeros(len(y))), np.append(np.zeros(len(x)), b)
    assert moreau_yosida_kl(mu, nu, distance, strength).value == pytest.approx(primal, abs=1e-8)
    # The gap is the divergence from the tilted law plus the slack on the routes that are used.
    f_x, f_y = f[: len(x)], f[len(x) :]
    tilted = b * np.exp(f_y - f_y.max())
    slack = strength * ch["cdist"](x, y) - f_x[:, None] + f_y
    parts = kl_divergence(plan.sum(axis=0), tilted / tilted.sum()), (plan * slack).sum()
    assert min(parts) > -1e-12 and sum(parts) == pytest.approx(primal - dual, abs=1e-11)


@pytest.mark.parametrize("broken", ["sign of the prices", "an early stop"])
def test_sabotage_a_wrong_solver_is_seen_in_the_gap(ch, broken):
    x, y, a, b = ch["arc_and_patches"](20)
    solve = ch["newton_path"]
    if broken == "an early stop":
        ch["newton_path"] = lambda mu, nu, c: solve(mu, nu, c, tolerance=1e-1)
    else:
        ch["newton_path"] = lambda mu, nu, c: (solve(mu, nu, c)[0], -solve(mu, nu, c)[1])
    primal, dual, _, _ = ch["both_sides"](a, b, x, y, 3.0)
    assert primal - dual > 1e-3


def test_huber_and_lines(ch):
    for mean, strength, deviation in ((1.7, 0.6, 1.0), (0.8, 1.3, 1.4)):
        _, mu, nu, distance = ch["normal_pair"](mean, deviation)
        value = moreau_yosida_kl(mu, nu, distance, strength).value
        assert value == pytest.approx(ch["huber"](mean, strength, deviation), abs=1e-5)
        assert value != pytest.approx(ch["huber"](mean, strength, 1.1 * deviation), abs=1e-3)
    assert moreau_yosida_kl(*ch["lines"](-0.7), 2.0).value == pytest.approx(1.4, abs=1e-8)


# --- the power formula --------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.25, 2.0, 3.0])
def test_a_search_over_all_functions_finds_the_power(ch, alpha):
    rng = np.random.default_rng(20)
    points, (mu, nu) = rng.normal(size=(6, 2)), rng.dirichlet(np.ones(6), 2)
    distance, exact = ch["cdist"](points, points), wasserstein1(points, points, mu, nu).value
    found = ch["maximise"](mu, nu, distance, alpha)
    assert found == pytest.approx(exact**alpha, rel=1e-4)
    library = unconstrained_wasserstein(mu, nu, distance, alpha)
    assert library.value == pytest.approx(exact**alpha, rel=1e-9)
    price = ch["price"]
    ch["price"] = lambda s, alpha: 1.1 * price(s, alpha)  # sabotage: another constant in front
    assert ch["maximise"](mu, nu, distance, alpha) < 0.99 * exact**alpha


# --- critics ------------------------------------------------------------------------------------

# Multiples of the prediction at alpha = 2: gap, slope on the segments, certified value.
CRITICS = {
    "gradient_slopes": ((0.980, 0.990), (0.988, 0.997), (0.992, 0.996)),
    "adversarial_slopes": ((0.973, 0.982), (1.057, 1.095), (0.986, 0.993)),
    "pair_slopes": ((0.984, 0.992), (1.135, 1.272), (0.994, 0.998)),
}
NEARBY = (1.018, 1.249), (1.224, 2.133)  # gap and slope if the search looks nearby only


def outcomes(ch, slopes, seed=20, alpha=2.0, **options):
    gap, slope, _, certified = ch["unconstrained_critic"](seed, alpha, ch[slopes], **options)
    return gap, slope, certified


@pytest.mark.parametrize("slopes", CRITICS)
def test_unconstrained_critics_land_on_the_predicted_slope(ch, slopes):
    found = outcomes(ch, slopes)
    assert all(inside(v, interval) for v, interval in zip(found, CRITICS[slopes], strict=True))
    assert found[2] <= 1 + 1e-6


def test_looking_nearby_overshoots(ch):
    gap, slope, _ = outcomes(ch, "nearby")
    assert inside(gap, NEARBY[0]) and inside(slope, NEARBY[1])


@pytest.mark.parametrize("broken", ["off", "detached", "sign", "mean"])
def test_sabotage_of_the_price(ch, broken):
    make = ch["power_price"]

    def wrong(slopes, alpha):
        def penalty(*arguments):
            if broken == "mean":  # the mean slope in place of the largest
                found = slopes(*arguments)
                return ch["Penalty"](ch["price"](found.mean(), alpha), found, torch.zeros(()))
            good = make(slopes, alpha)(*arguments)
            loss = {"off": 0.0 * good.loss, "detached": good.loss.detach(), "sign": -good.loss}
            return ch["Penalty"](loss[broken], good.slopes, good.violations)

        return penalty

    ch["power_price"] = wrong
    steps = 400 if broken == "mean" else 100  # enough to be far away
    gap, slope, _ = outcomes(ch, "gradient_slopes", steps=steps)
    intervals = CRITICS["gradient_slopes"]
    assert not inside(gap, intervals[0]) and not inside(slope, intervals[1])


def test_a_large_unit_of_length_and_a_large_exponent(ch):
    gap, _, certified = outcomes(ch, "gradient_slopes", alpha=6.0, scale=10.0)
    assert gap < 0.05 and inside(certified, (0.683, 0.889))
    gap, _, _ = outcomes(ch, "gradient_slopes", alpha=6.0)  # in unit one it is nearly there
    assert inside(gap, (0.896, 0.955))


# --- samples ------------------------------------------------------------------------------------

SAMPLES = {(2, 256): (0.99, 1.09), (8, 256): (2.18, 2.25)}  # mean over four draws, fare 1


def mean_of_samples(ch, d, n, strength=1.0):
    rng = np.random.default_rng(20)
    return np.mean([ch["sampled"](n, d, strength, rng) for _ in range(4)])


@pytest.mark.parametrize("case", SAMPLES, ids=str)
def test_samples_in_high_dimension_stay_far_from_their_laws(ch, case):
    assert inside(mean_of_samples(ch, *case), SAMPLES[case])


def test_sabotage_fewer_points_or_another_fare(ch):
    assert not inside(mean_of_samples(ch, 8, 64), SAMPLES[8, 256])
    assert not inside(mean_of_samples(ch, 2, 256, strength=2.0), SAMPLES[2, 256])


# --- the page of errata -------------------------------------------------------------------------


def test_the_number_in_the_erratum():
    page = (ROOT / "book" / "errata.md").read_text(encoding="utf-8")
    section = page.split("(erratum-infinite)=")[1].split("\n(erratum-")[0]
    number = re.search(r"D_3\(\\mu \\\| \\nu\) = ([\d.]+)", section)
    assert number, "the page gives no value"
    mu, nu, distance = [1.0, 0.0], [0.0, 1.0], [[0.0, 1.0], [1.0, 0.0]]
    assert kl_divergence(mu, nu) == np.inf
    value = moreau_yosida_kl(mu, nu, distance, 3.0).value
    assert abs(value - float(number[1])) < 5e-7
    assert abs(moreau_yosida_kl(mu, nu, distance, 2.9).value - float(number[1])) > 0.05
