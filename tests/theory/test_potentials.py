"""McShane extensions are Lipschitz and extend; certified gaps never exceed the exact distance."""

import math

import numpy as np
import pytest
import torch

from lipnb.theory import certified_gap, mcshane_extension, wasserstein1
from lipnb.theory._clouds import pairwise_distances

NORMS = [1, 2, math.inf]


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("constant", [0.0, 0.5, 3.0])
def test_extension_is_lipschitz_and_the_constant_is_attained(p, constant):
    rng = np.random.default_rng(0)
    points, values = rng.normal(size=(10, 3)), rng.normal(size=10)
    z = 3 * rng.normal(size=(200, 3))
    f = mcshane_extension(points, values, z, lipschitz_constant=constant, p=p)
    excess = np.abs(f[:, None] - f[None]) - constant * pairwise_distances(z, z, p)
    assert excess.max() <= 1e-13
    # The infimum of cones is met: on the axis of one cone it grows at the full rate.
    ray = points[values.argmin()] + np.array([[0.0, 0, 0], [1e-3, 0, 0]])
    f0, f1 = mcshane_extension(points, values, ray, lipschitz_constant=constant, p=p)
    assert f1 - f0 == pytest.approx(1e-3 * constant, abs=1e-12)


def test_extension_keeps_values_that_are_lipschitz_and_lowers_those_that_are_not():
    points = [[0.0], [1.0], [3.0]]
    kept = mcshane_extension(points, [0.0, 1.0, -1.0], points)
    assert kept.tolist() == [0.0, 1.0, -1.0]
    assert mcshane_extension(points, [0.0, 5.0, -1.0], points).tolist() == [0.0, 1.0, -1.0]


def test_extension_is_the_largest_lipschitz_function_below_the_values():
    rng = np.random.default_rng(1)
    points, z = rng.normal(size=(6, 2)), rng.normal(size=(50, 2))
    other = np.linalg.norm(z - 0.3, axis=1)  # 1-Lipschitz
    values = np.linalg.norm(points - 0.3, axis=1) + rng.random(6)
    assert (mcshane_extension(points, values, z) >= other - 1e-12).all()


@pytest.mark.parametrize("p", NORMS)
def test_potential_on_the_clouds_extends_without_change(p):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(8, 2)), rng.normal(size=(9, 2)) + 1
    z, f = np.vstack([x, y]), wasserstein1(x, y, p=p).potential
    np.testing.assert_allclose(mcshane_extension(z, f, z, p=p), f, atol=1e-13)


def test_extension_answers_in_kind():
    z = torch.zeros(2, 1)
    f = mcshane_extension(z, torch.zeros(2, 1), z)
    assert isinstance(f, torch.Tensor) and f.dtype == torch.float64 and f.shape == (2,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lipschitz_constant": -1.0}, "lipschitz_constant must be finite and >= 0; got -1.0"),
        ({"lipschitz_constant": math.inf}, "finite"),
        ({"values": [0.0]}, r"values must have shape \(2,\), one per point; got \(1,\)"),
        ({"z": [[0.0, 0.0]]}, "same dimension; got d = 1 and 2"),
        ({"p": 0.5}, "p must be 1, 2 or inf"),
    ],
)
def test_extension_refuses_wrong_input(options, message):
    good = {"points": [[0.0], [1.0]], "values": [0.0, 1.0], "z": [[0.0]]}
    with pytest.raises(ValueError, match=message):
        mcshane_extension(**(good | options))


def critic_values(kind, x, y, rng):
    """Values of very different critics on both clouds."""
    z = np.vstack([x, y])
    if kind == "random":
        f = rng.normal(size=len(z))
    elif kind == "network":
        w = rng.normal(size=(z.shape[1], 30)) * 5
        f = np.maximum(z @ w + rng.normal(size=30), 0) @ rng.normal(size=30)
    elif kind == "constant":
        f = np.full(len(z), 2.0)
    else:
        f = -7.0 * np.linalg.norm(z, axis=1)
    return f[: len(x)], f[len(x) :]


@pytest.mark.parametrize("kind", ["random", "network", "constant", "cone"])
@pytest.mark.parametrize("p", NORMS)
def test_no_critic_certifies_more_than_the_distance(kind, p):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(7, 2)), rng.normal(size=(9, 2)) + 0.5
        a, b = rng.random(7) * (rng.random(7) > 0.3) + 1e-3, rng.random(9)
        a, b = a / a.sum(), b / b.sum()
        proof = certified_gap(*critic_values(kind, x, y, rng), x, y, a, b, p=p)
        assert 0 <= proof.value <= wasserstein1(x, y, a, b, p=p).value + 1e-12


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
def test_a_multiple_of_the_potential_certifies_exactly_the_distance(scale):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(7, 2)), rng.normal(size=(9, 2)) + 0.5
    exact = wasserstein1(x, y)
    f = scale * exact.potential + 3.0
    proof = certified_gap(f[:7], f[7:, None], x, y)
    assert proof.value == pytest.approx(exact.value, rel=1e-12)
    assert proof.quotient == pytest.approx(scale, rel=1e-12)
    assert proof.gap == pytest.approx(scale * exact.value, rel=1e-12)


def test_the_raw_gap_of_a_steep_critic_is_no_bound():
    x, y = np.array([[2.0]]), np.array([[0.0]])
    proof = certified_gap([6.0], [0.0], x, y)
    assert proof.gap > wasserstein1(x, y).value == proof.value


def test_coinciding_points():
    x, y = [[0.0], [1.0]], [[0.0]]
    assert certified_gap([0.0, 1.0], [0.0], x, y).value == 0.5
    torn = certified_gap([5.0, 1.0], [0.0], x, y)  # no function has two values in one point
    assert torn.quotient == math.inf and torn.value == 0.0
    assert certified_gap([1.0], [1.0], [[0.0]], [[0.0]]).value == 0.0


def test_points_of_zero_weight_do_not_spoil_the_quotient():
    proof = certified_gap([1.0, 1e6], [0.0], [[1.0], [1.0]], [[0.0]], [1.0, 0.0])
    assert proof.quotient == 1.0 and proof.value == 1.0


def test_a_critic_the_wrong_way_round_certifies_nothing():
    proof = certified_gap([0.0], [1.0], [[1.0]], [[0.0]])
    assert proof.gap == -1.0 and proof.quotient == -1.0 and proof.value == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0, 1.0], [0.0], [[0.0]], [[1.0]]), r"f_x must have shape \(1,\)"),
        (([0.0], [np.nan], [[0.0]], [[1.0]]), "f_y must be finite"),
        (([0.0], [0.0], [[0.0]], [[1.0, 1.0]]), "same dimension"),
    ],
)
def test_certificate_refuses_wrong_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        certified_gap(*arguments)
