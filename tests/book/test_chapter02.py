"""The numbers of chapter 02, computed with the chapter's own functions.

Intervals are measured: the smallest and largest value over seeds 0 to 9 (one machine, float32,
the chapter's numbers of steps), widened on each side by half of that range. Each claim has a twin
in which something is broken on purpose and the number must leave its interval.
"""

import ast
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import quad
from scipy.spatial.distance import cdist

from lipnb.theory import certified_gap, wasserstein1

CHAPTER = Path(__file__).parents[2] / "notebooks" / "02_wasserstein_duality.md"


def chapter():
    """Run the imports and the definitions of the chapter, nothing else."""
    kept = []
    for cell in jupytext.read(CHAPTER).cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                is_losses = isinstance(node, ast.Assign) and ast.unparse(node.targets) == "losses"
                if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef) or is_losses:
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


# --- the linear program and the potential -----------------------------------------------------


def potential_errors(ch, seed, sign=1.0):
    """Return how far the chapter's potential is from value, slackness and the Lipschitz bound."""
    x, y, a, b = ch["arc_and_patches"](seed)
    value, plan, _, v = ch["linear_program"](cdist(x, y), a, b)
    f_x, f_y = (ch["c_transform"](y, sign * v, z) for z in (x, y))
    points, f = np.vstack([x, y]), np.append(f_x, f_y)
    slack = np.abs(f_x[:, None] - f_y - cdist(x, y))[plan > 1e-9].max()
    excess = (np.abs(f[:, None] - f) - cdist(points, points)).max()
    return (
        abs(value - wasserstein1(x, y, a, b).value),
        abs(a @ f_x - b @ f_y - value),
        slack,
        excess,
    )


@pytest.mark.parametrize("seed", range(5))
def test_linear_program_and_potential_are_exact(ch, seed):
    assert max(potential_errors(ch, seed)) < 1e-9


def test_sabotage_prices_with_the_wrong_sign(ch):
    value, attained, slack, excess = potential_errors(ch, 0, sign=-1.0)
    assert value < 1e-9 and excess < 1e-9  # any prices give a 1-Lipschitz function ...
    assert attained > 0.1 and slack > 0.1  # ... but only the right ones give the best


# --- the critic -------------------------------------------------------------------------------

OVERSHOOT = {1.0: (0.9948, 1.0288), 10.0: (0.9972, 1.0088)}  # raw gap / (W + W^2 / (2 lambda))
CERTIFIED = {1.0: (0.8843, 0.9593), 10.0: (0.9604, 0.9836)}  # certified value / W


def critic_ratios(ch, seed, strength, steps=800):
    """Return the two ratios above, and the largest certified value met on the way, over W."""
    x, y, a, b = ch["arc_and_patches"](seed)
    exact = wasserstein1(x, y, a, b).value
    history = ch["train_critic"](x, y, a, b, strength, seed, steps)[1]
    raw, proved = history[-1, 1] / exact, history[-1, 2] / exact
    forecast = 1 + exact / (2 * strength) if strength else 1.0
    return raw / forecast, proved, history[:, 2].max() / exact


@pytest.mark.parametrize("seed", [20])
@pytest.mark.parametrize("strength", [1.0, 10.0])
def test_raw_gap_overshoots_as_predicted_and_certificate_stays_below(ch, strength, seed):
    raw, proved, highest = critic_ratios(ch, seed, strength)
    assert inside(raw, OVERSHOOT[strength])
    assert inside(proved, CERTIFIED[strength])
    assert highest <= 1 + 1e-9


def test_sabotage_no_penalty(ch):
    raw, proved, highest = critic_ratios(ch, 0, 0.0, steps=200)
    assert raw > 20 and not inside(raw, OVERSHOOT[10.0])
    assert not inside(proved, CERTIFIED[10.0])
    assert highest <= 1 + 1e-9  # the certificate holds even here


def test_sabotage_penalty_cut_off_from_the_graph(ch):
    penalty = ch["one_sided_penalty"]
    ch["one_sided_penalty"] = lambda f, z: penalty(f, z).detach()
    raw, _, _ = critic_ratios(ch, 0, 10.0, steps=200)
    assert not inside(raw, OVERSHOOT[10.0])


def test_sabotage_penalty_with_the_wrong_sign(ch):
    penalty = ch["one_sided_penalty"]
    ch["one_sided_penalty"] = lambda f, z: -penalty(f, z)
    raw, _, _ = critic_ratios(ch, 0, 10.0, steps=100)
    assert not inside(raw, OVERSHOOT[10.0])


def test_certificate_equals_the_library(ch):
    x, y, a, b = ch["arc_and_patches"](3)
    ch.update(x=x, y=y, a=a, b=b)
    rng = np.random.default_rng(3)
    f_x, f_y = rng.normal(size=len(x)) + 1, rng.normal(size=len(y))
    gap, proved = ch["certified"](f_x, f_y)
    library = certified_gap(f_x, f_y, x, y, a, b)
    assert gap == pytest.approx(library.gap) and proved == pytest.approx(library.value)


# --- two lines --------------------------------------------------------------------------------


def jensen_shannon_by_quad(theta, width):
    """Compute the divergence of two Gaussians from its definition."""

    def density(x, centre):
        return np.exp(-((x - centre) ** 2) / (2 * width**2)) / (width * np.sqrt(2 * np.pi))

    def integrand(x):
        p, q = density(x, 0.0), density(x, theta)
        m = (p + q) / 2
        return sum(0.5 * s * np.log(s / m) for s in (p, q) if s > 0)

    return quad(integrand, -8 * width, theta + 8 * width, limit=400, epsabs=1e-12)[0]


@pytest.mark.parametrize("width", [1.0, 0.3])
def test_thick_lines_match_the_definition(ch, width):
    theta = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=torch.float64)
    values = ch["jensen_shannon_thick"](theta, width)
    truth = [jensen_shannon_by_quad(t, width) for t in theta.tolist()]
    np.testing.assert_allclose(values.numpy(), truth, atol=1e-9)
    wrong = ch["jensen_shannon_thick"](theta, 1.1 * width)  # sabotage: another width
    assert not np.allclose(wrong.numpy(), truth, atol=1e-3)


def test_thin_lines_have_no_gradient_and_w1_has(ch):
    line, js = ch["line_at"], ch["jensen_shannon_atoms"]
    assert js(line(0.0), line(0.0)) == 0.0
    for theta in (-1.5, 0.01, 1.0):
        assert js(line(0.0), line(theta)) == pytest.approx(np.log(2), abs=1e-12)
        assert wasserstein1(line(0.0), line(theta)).value == pytest.approx(abs(theta), abs=1e-12)
    half = np.vstack([line(0.0)[:25], line(1.0)[:25]])  # half of the points coincide
    assert js(line(0.0), half) < np.log(2) - 0.1


# --- informativeness --------------------------------------------------------------------------

COSINES = {
    ("two_boxes", "least squares", 0.0): (0.0561, 0.2549),
    ("two_boxes", "least squares", 0.1): (0.2374, 0.6706),
    ("two_boxes", "softplus", 0.0): (0.9463, 0.9922),
    ("two_boxes", "softplus", 0.1): (0.9978, 0.9996),
    ("heap_in_ring", "least squares", 0.0): (-0.2972, 0.0),
    ("heap_in_ring", "least squares", 0.1): (0.8407, 0.9666),
    ("heap_in_ring", "softplus", 0.0): (-0.0878, 0.5906),
    ("heap_in_ring", "softplus", 0.1): (0.9597, 0.9922),
}


def mean_cosine(ch, design, loss, rho, seed, sign=1):
    """Return the score of one discriminator, trained from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    fake, real = ch[design](64, generator)
    partner = real[wasserstein1(fake, real).plan.argmax(dim=1)]
    f = ch["train_discriminator"](fake, real, loss, rho, generator, 500)
    return F.cosine_similarity(sign * ch["arrows"](f, fake), partner - fake).mean().item()


@pytest.mark.parametrize("case", COSINES, ids=str)
def test_arrows_are_as_informative_as_stated(ch, case):
    assert inside(mean_cosine(ch, *case, seed=0), COSINES[case])


def test_sabotage_arrows_without_penalty_or_reversed(ch):
    bound = COSINES["heap_in_ring", "softplus", 0.1]
    assert not inside(mean_cosine(ch, "heap_in_ring", "softplus", 0.0, seed=0), bound)
    assert not inside(mean_cosine(ch, "heap_in_ring", "softplus", 0.1, seed=0, sign=-1), bound)


# --- the floor --------------------------------------------------------------------------------

# Mean over ten pairs of standard normal samples of n points in d dimensions.
FLOORS = {
    (1, 16): (0.3239, 0.5387),
    (1, 256): (0.0973, 0.1343),
    (32, 16): (6.7104, 6.9009),
    (32, 256): (5.8876, 5.914),
}


def mean_floor(d, n, seed, p=2):
    """Return the exact distance of two samples of one law, averaged over ten pairs."""
    rng = np.random.default_rng(seed)
    return np.mean([wasserstein1(*rng.normal(size=(2, n, d)), p=p).value for _ in range(10)])


@pytest.mark.parametrize("case", FLOORS, ids=str)
def test_two_samples_of_one_law_are_apart(case):
    assert inside(mean_floor(*case, seed=30), FLOORS[case])


def test_sabotage_another_norm_or_sample_size():
    assert not inside(mean_floor(32, 256, seed=30, p=np.inf), FLOORS[32, 256])
    assert not inside(mean_floor(32, 64, seed=30), FLOORS[32, 256])
