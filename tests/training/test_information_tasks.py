"""Tasks with a known mutual information: their truths, and their samples."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from lipnb.training import information_maps as maps
from lipnb.training.information_tasks import (
    INFORMATION_TASKS,
    additive_task,
    correlated_gaussians,
    gaussian_task,
    information_task,
    student_task,
)

# As the benchmark of Czyz et al. states them, to five digits.
PUBLISHED = {
    "normal-1": 0.41334,
    "normal-cdf-1": 0.41334,
    "bimodal-1": 0.41334,
    "wiggly-1": 0.41334,
    "half-cube-1": 0.41334,
    "swiss-roll": 0.41334,
    "additive-0.1": 1.70944,
    "additive-0.75": 0.33333,
    "student-1-dof1": 0.22417,
    "student-2-dof1": 0.43195,
    "student-2-dof2": 0.19315,
    "student-3-dof2": 0.29092,
    "student-3-dof3": 0.17871,
    "student-5-dof2": 0.44815,
    "student-5-dof3": 0.29854,
    "asinh-student-5-dof2": 0.44815,
    "dense-2": 0.29389,
    "dense-3": 0.41334,
    "dense-5": 0.59281,
    "dense-25": 1.29218,
    "dense-50": 1.62427,
    "sparse-2": 1.02165,
    "sparse-25": 1.02165,
    "half-cube-sparse-25": 1.02165,
    "spiral-sparse-5": 1.02165,
    "spiral-normal-cdf-sparse-3": 1.02165,
}


def draw(task, n=4000, seed=0):
    return task.sample(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", PUBLISHED)
def test_truth_is_the_published_number(name):
    assert information_task(name).truth == pytest.approx(PUBLISHED[name], abs=6e-6)


def test_mine_truths():
    per_component = {0.1: 0.005025, 0.3: 0.04716, 0.5: 0.14384, 0.9: 0.83037, 0.99: 1.95852}
    for rho, value in per_component.items():
        for sign in (1, -1):
            assert correlated_gaussians(sign * rho, 20).truth == pytest.approx(20 * value, abs=2e-4)
    assert correlated_gaussians(0.0).truth == 0


def test_the_truth_of_a_student_pair_by_integration():
    """I(X; Y) straight from the densities, on a grid of angles that reaches far into the tails."""
    joint, one = stats.multivariate_t(shape=np.eye(2), df=3), stats.t(df=3)
    angle = (np.arange(600) + 0.5) / 600 * math.pi / 2
    x = np.tan(angle)
    weight = (1 + x * x) * math.pi / 1200
    p = joint.pdf(np.stack(np.meshgrid(x, x), axis=-1))
    log_ratio = np.log(p) - one.logpdf(x)[:, None] - one.logpdf(x)
    value = 4 * (p * log_ratio * weight * weight[:, None]).sum()
    assert student_task("pair", 1, 3).truth == pytest.approx(value, abs=2e-5)


@pytest.mark.parametrize("noise", [0.1, 0.5, 0.75, 2.0])
def test_the_truth_of_the_additive_task_by_integration(noise):
    """I = h(Y) - h(Y | X), with the trapezoid density of Y on a fine grid."""
    y = np.linspace(-noise, 1 + noise, 400001)
    density = (np.clip(y + noise, 0, 1) - np.clip(y - noise, 0, 1)) / (2 * noise)
    terms = np.where(density > 0, -density * np.log(np.where(density > 0, density, 1)), 0)
    entropy = np.trapezoid(terms, y)
    assert additive_task(noise).truth == pytest.approx(entropy - math.log(2 * noise), abs=1e-6)


@pytest.mark.parametrize("name", INFORMATION_TASKS)
def test_samples_are_finite_reproducible_and_of_their_shape(name):
    task = information_task(name)
    x, y = draw(task, 50)
    again = draw(task, 50)
    assert torch.equal(x, again[0]) and torch.equal(y, again[1])
    assert x.shape[0] == y.shape[0] == 50 and x.dtype == y.dtype == torch.float64
    assert torch.isfinite(x).all() and torch.isfinite(y).all()
    assert not torch.equal(x, draw(task, 50, seed=1)[0])


def test_moments_of_the_normal_tasks():
    x, y = draw(information_task("sparse-5"), 20000)
    z = torch.cat([x, y], dim=1).numpy()
    c = np.corrcoef(z.T)
    expected = np.eye(10)
    expected[[0, 1, 5, 6], [5, 6, 0, 1]] = 0.8
    assert np.abs(c - expected).max() < 0.04
    x, y = draw(information_task("dense-3"), 20000)
    c = np.cov(torch.cat([x, y], dim=1).numpy().T)
    assert np.abs(c - (np.eye(6) + 1) / 2).max() < 0.05


def test_student_coordinates_share_one_factor():
    x, y = draw(student_task("s", 1, 3), 20000)
    assert stats.kstest(x[:, 0].numpy(), stats.t(df=3).cdf).pvalue > 0.001
    assert abs(stats.spearmanr(x[:, 0], y[:, 0]).statistic) < 0.03
    assert stats.spearmanr(x[:, 0].abs(), y[:, 0].abs()).statistic > 0.1


# --- the maps ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "map_", [maps.normal_cdf, maps.half_cube, maps.wiggly_x, maps.wiggly_y, maps.bimodal_x]
)
def test_maps_of_a_line_grow(map_):
    x = torch.linspace(-5, 5, 20001, dtype=torch.float64)
    assert (map_(x).diff() > 0).all()


def test_the_bimodal_maps_have_their_mixtures():
    z = torch.linspace(-7, 7, 57, dtype=torch.float64)
    for map_, share, a, b in ((maps.bimodal_x, 0.3, 0, 5), (maps.bimodal_y, 0.5, -1, 3)):
        image = map_(z).numpy()
        mixture = share * stats.norm.cdf(image - a) + (1 - share) * stats.norm.cdf(image - b)
        upper = share * stats.norm.sf(image - a) + (1 - share) * stats.norm.sf(image - b)
        assert np.allclose(mixture, stats.norm.cdf(z), rtol=1e-4, atol=0)
        assert np.allclose(upper, stats.norm.sf(z), rtol=1e-4, atol=0)


def test_spirals_turn_and_can_be_turned_back():
    x = torch.randn(100, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for spiral, i, j in ((maps.spiral_x, 0, 1), (maps.spiral_y, 1, 2)):
        y = spiral(x)
        assert torch.allclose(y.norm(dim=1), x.norm(dim=1))
        rest = [k for k in range(5) if k not in (i, j)]
        assert torch.equal(y[:, rest], x[:, rest])
        angle = y.square().sum(1) / 5
        complex_ = torch.complex(y[:, i], y[:, j]) * torch.exp(-1j * angle)
        assert torch.allclose(complex_, torch.complex(x[:, i], x[:, j]))


def test_the_swiss_roll_is_a_spiral_of_one_radius_per_angle():
    x = torch.linspace(-3, 3, 100, dtype=torch.float64)[:, None]
    radius = maps.swiss_roll(x).norm(dim=1) * 21
    assert torch.allclose(radius, 1.5 * math.pi * (1 + 2 * torch.special.ndtr(x[:, 0])))
    assert (radius.diff() > 0).all()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="name must be one of"):
        information_task("nothing")
    with pytest.raises(ValueError, match="n must be at least 1"):
        draw(information_task("normal-1"), 0)
    with pytest.raises(ValueError, match="correlation must be in"):
        correlated_gaussians(1.0)
    with pytest.raises(ValueError, match="noise must be positive"):
        additive_task(0.0)
    with pytest.raises(ValueError, match="must be at least 1"):
        student_task("s", 0, 1)
    with pytest.raises(ValueError, match="positive definite"):
        gaussian_task("g", np.ones((2, 2)), 1)
