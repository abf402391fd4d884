"""The estimator from nearest neighbours against its definition, closed forms and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma

from lipnb.theory import ksg_mutual_information
from lipnb.training import correlated_gaussians, information_task


def by_definition(x, y, k):
    """All distances, one after the other."""
    n = len(x)
    dx = np.abs(x[:, None] - x).max(-1)
    dy = np.abs(y[:, None] - y).max(-1)
    total = 0.0
    for i in range(n):
        others = np.arange(n) != i
        epsilon = np.sort(np.maximum(dx, dy)[i][others])[k - 1]
        nx, ny = (dx[i][others] < epsilon).sum(), (dy[i][others] < epsilon).sum()
        total += digamma(nx + 1) + digamma(ny + 1)
    return digamma(k) + digamma(n) - total / n


@pytest.mark.parametrize(("dims", "k"), [((1, 1), 1), ((1, 1), 3), ((2, 3), 3), ((3, 1), 10)])
def test_it_is_the_definition(dims, k):
    rng = np.random.default_rng(k)
    x = rng.normal(size=(80, dims[0]))
    y = x[:, :1] + rng.normal(size=(80, dims[1]))
    assert ksg_mutual_information(x, y, k) == pytest.approx(by_definition(x, y, k), rel=1e-12)


def test_partial_ties_follow_the_definition():
    """Equal x with different y are allowed: counting is strict."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, size=(100, 1)).astype(float)
    y = x + rng.normal(size=(100, 1))
    assert ksg_mutual_information(x, y) == pytest.approx(by_definition(x, y, 3), rel=1e-12)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_normal_pairs(rho):
    """Measured on 40 seeds: a bias of 0.01 at rho = 0.9 and n = 3000, a scatter of 0.017."""
    task = correlated_gaussians(rho)
    found = [
        ksg_mutual_information(*task.sample(3000, torch.Generator().manual_seed(seed)))
        for seed in range(5)
    ]
    assert 0 < np.std(found, ddof=1) < 0.03
    assert abs(np.mean(found) - task.truth) < 0.01 + 4 * 0.017 / math.sqrt(5)


def test_sabotage_shuffled_partners_show_nothing():
    x, y = correlated_gaussians(0.9).sample(3000, torch.Generator().manual_seed(0))
    assert abs(ksg_mutual_information(x, y.roll(1, 0))) < 0.05


@pytest.mark.parametrize(
    "name",
    ["additive-0.1", "additive-0.75", "student-1-dof1", "bimodal-1", "wiggly-1", "swiss-roll"],
)
def test_truths_of_tasks_in_low_dimension(name):
    task = information_task(name)
    x, y = task.sample(20000, torch.Generator().manual_seed(0))
    if name.startswith("student"):  # tails to 10^5; asinh keeps the information
        x, y = x.asinh(), y.asinh()
    assert ksg_mutual_information(x, y) == pytest.approx(task.truth, abs=0.035)


def test_against_scikit_learn():
    module = pytest.importorskip("sklearn.feature_selection")
    x, y = correlated_gaussians(0.8).sample(1000, torch.Generator().manual_seed(1))
    # scikit-learn divides by the standard deviation and adds noise of relative size 1e-10.
    x, y = x / x.std(unbiased=False), y / y.std(unbiased=False)
    theirs = module.mutual_info_regression(x.numpy(), y[:, 0].numpy(), random_state=0)[0]
    assert ksg_mutual_information(x, y) == pytest.approx(theirs, abs=1e-6)


def test_bad_input_is_refused():
    x = np.arange(10.0)[:, None]
    with pytest.raises(ValueError, match="equally many rows"):
        ksg_mutual_information(x, x[:-1])
    with pytest.raises(ValueError, match="must be finite"):
        ksg_mutual_information(x, np.where(x == 3, np.nan, x))
    with pytest.raises(ValueError, match=r"for points on a line pass x\[:, None\]"):
        ksg_mutual_information(x[:, 0], x)
    for k in (0, 10):
        with pytest.raises(ValueError, match="neighbours must be from 1 to"):
            ksg_mutual_information(x, x, k)
    with pytest.raises(TypeError, match="neighbours must be an integer"):
        ksg_mutual_information(x, x, 2.5)
    with pytest.raises(ValueError, match="must not repeat: got 10 pairs"):
        ksg_mutual_information(x * 0, x * 0)
