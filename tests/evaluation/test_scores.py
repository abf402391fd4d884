"""lipnb.evaluation.scores: closed forms, identities, and what each must refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from lipnb.evaluation import (
    class_score,
    frechet_distance,
    gaussian_frechet_distance,
    kernel_distance,
    precision_recall,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def covariance(d: int, seed: int) -> Tensor:
    a = torch.randn(d, d + 2, generator=seeded(seed), dtype=torch.float64)
    return a @ a.T / d


def test_gaussian_distance_of_commuting_covariances_is_the_closed_form() -> None:
    basis = torch.linalg.qr(torch.randn(5, 5, generator=seeded(0), dtype=torch.float64))[0]
    s, t = torch.rand(2, 5, generator=seeded(1), dtype=torch.float64)
    m = torch.randn(2, 5, generator=seeded(2), dtype=torch.float64)
    found = gaussian_frechet_distance(
        m[0], basis @ torch.diag(s) @ basis.T, m[1], basis @ torch.diag(t) @ basis.T
    )
    known = (m[0] - m[1]).square().sum() + (s.sqrt() - t.sqrt()).square().sum()
    assert found == pytest.approx(known.item(), rel=1e-9)


def test_gaussian_distance_with_any_covariances_against_scipy() -> None:
    a, b, m = covariance(6, 0), covariance(6, 1), torch.zeros(6, dtype=torch.float64)
    root = scipy.linalg.sqrtm((a @ b).numpy()).real
    known = float(np.trace(a.numpy() + b.numpy() - 2 * root))
    assert gaussian_frechet_distance(m, a, m, b) == pytest.approx(known, rel=1e-8)
    assert gaussian_frechet_distance(m, b, m, a) == pytest.approx(known, rel=1e-8)


def test_frechet_distance_of_a_set_to_itself_and_to_a_shift() -> None:
    x = torch.randn(300, 7, generator=seeded(0))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x[torch.randperm(300, generator=seeded(1))]) < 1e-9
    assert frechet_distance(x, x + 2) == pytest.approx(4 * 7, rel=1e-5)
    assert frechet_distance(x, 3 * x) == pytest.approx(
        float(4 * x.double().mean(0).square().sum() + 4 * x.double().var(0).sum()), rel=1e-6
    )


def test_frechet_distance_of_singular_covariances() -> None:
    x = torch.randn(4, 50, generator=seeded(0))  # rank 3 in 50 dimensions
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_is_biased_upwards_like_one_over_n() -> None:
    """Halves with the number of samples: what makes unequal sizes incomparable."""
    draws = torch.randn(2, 40, 1600, 10, generator=seeded(0))
    mean = {
        n: np.mean([frechet_distance(*pair[:, :n]) for pair in draws.transpose(0, 1)])
        for n in (200, 400, 800)
    }
    assert 0.45 < mean[400] / mean[200] < 0.55
    assert 0.45 < mean[800] / mean[400] < 0.55


def test_kernel_distance_is_the_unbiased_formula() -> None:
    x = torch.randn(30, 4, generator=seeded(0), dtype=torch.float64)
    y = torch.randn(30, 4, generator=seeded(1), dtype=torch.float64) + 0.3

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / 4 + 1) ** 3

    n, inside = 30, 0.0
    for a in (x, y):
        k = kernel(a, a)
        inside += float(k.sum() - k.trace()) / (n * (n - 1))
    known = inside - 2 * float(kernel(x, y).mean())
    found, spread = kernel_distance(x, y, subsets=5)  # a subset is all of it
    assert found == pytest.approx(known, rel=1e-9)
    assert spread == pytest.approx(0, abs=1e-9)


def test_kernel_distance_has_no_bias_where_the_frechet_distance_has() -> None:
    draws = torch.randn(2, 60, 100, 5, generator=seeded(0))
    pairs = list(draws.transpose(0, 1))
    kernel = [kernel_distance(*pair, subsets=1)[0] for pair in pairs]
    error = np.std(kernel) / math.sqrt(len(kernel))
    assert abs(np.mean(kernel)) < 3 * error
    frechet = [frechet_distance(*pair) for pair in pairs]
    assert np.mean(frechet) > 10 * np.std(frechet) / math.sqrt(len(frechet))


def test_kernel_distance_depends_on_its_seed_alone() -> None:
    x, y = torch.randn(2, 80, 3, generator=seeded(0))
    state = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    one = kernel_distance(x, y, subset=20, subsets=3, seed=4)
    assert one == kernel_distance(x, y, subset=20, subsets=3, seed=4)
    assert one != kernel_distance(x, y, subset=20, subsets=3, seed=5)
    assert (np.random.get_state()[1] == state).all()  # type: ignore[index]  # noqa: NPY002


def test_precision_and_recall_tell_a_missing_half_from_a_wrong_half() -> None:
    x = torch.randn(400, 2, generator=seeded(0))
    x[200:] += 100  # two islands
    fresh = torch.randn(400, 2, generator=seeded(1))
    precision, recall = precision_recall(x, fresh)  # one island missing
    assert precision > 0.9
    assert 0.4 < recall < 0.5
    wrong = torch.cat([fresh[:200], fresh[200:] - 100])
    precision, recall = precision_recall(x, wrong)
    assert 0.4 < precision < 0.5
    assert 0.4 < recall < 0.5


def test_class_score_of_known_answers() -> None:
    logits = torch.full((600, 3), -1e3)
    logits[torch.arange(600), torch.arange(600) % 3] = 0
    assert class_score(logits, splits=1)[0] == pytest.approx(3)
    assert class_score(logits[::3])[0] == pytest.approx(1)  # one class only
    p = torch.tensor([0.9, 0.1])
    mixed = torch.stack([p, p.flip(0)]).log().repeat(50, 1)
    known = math.exp(math.log(2) + float((p * p.log()).sum()))
    assert class_score(mixed, splits=1)[0] == pytest.approx(known, rel=1e-6)


def test_class_score_is_that_of_torch_fidelity() -> None:
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * torch.randn(1000, 10, generator=seeded(0))
    known = isc_features_to_metric(logits, splits=1)["inception_score_mean"]
    assert class_score(logits, splits=1)[0] == pytest.approx(known, rel=1e-9)


def test_class_score_is_lower_with_few_rows_in_a_part() -> None:
    logits = 4 * torch.randn(2000, 10, generator=seeded(0))
    one, many = class_score(logits, splits=1)[0], class_score(logits, splits=200)[0]
    assert many < 0.9 * one


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: frechet_distance(x, x[:, :2]), "n, d"),
        (lambda x: frechet_distance(x[:1], x), "at least 2"),
        (lambda x: frechet_distance(x[0], x), "2 dimensions"),
        (lambda x: frechet_distance(x, x * math.nan), "finite"),
        (lambda x: kernel_distance(x, x / 0), "finite"),
        (lambda x: kernel_distance(x, x, subset=11), "between 2 and the smaller set's 10"),
        (lambda x: kernel_distance(x, x, subsets=0), "at least 1"),
        (lambda x: precision_recall(x, x, neighbours=0), "at least 1"),
        (lambda x: precision_recall(x, x[:3]), "at least 4"),
        (lambda x: class_score(x), "2 rows"),
        (lambda x: class_score(x[:, :0], splits=1), "non-empty"),
        (lambda x: class_score(x.tolist()), "list"),
        (lambda x: gaussian_frechet_distance(x[0], x[:3], x[0], x[:3]), "one d"),
        (
            lambda x: gaussian_frechet_distance(x[0], x[:3] @ x[:3].T + x[:3, :3], x[0], x[:3, :3]),
            "one d|symmetric",
        ),
        (lambda x: gaussian_frechet_distance(x[0], x[:4], x[0], x[:4]), "symmetric"),
    ],
)
def test_refuses(call, message) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(10, 4, generator=seeded(0))
    with pytest.raises(ValueError, match=message):
        call(x)
