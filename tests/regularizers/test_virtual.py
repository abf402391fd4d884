"""Virtual adversarial training: closed forms, VAT from scratch, and ALR with VAT's choices."""

import inspect

import pytest
import torch
from torch import nn

from lipnb.distances import (
    hellinger,
    jensen_shannon,
    kullback_leibler,
    mean_squared,
    trivial,
)
from lipnb.models import mlp
from lipnb.regularizers import (
    adversarial_lipschitz_penalty,
    adversarial_perturbation,
    virtual_adversarial_loss,
)

DIVERGENCES = [kullback_leibler, jensen_shannon, hellinger, mean_squared]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n=30, d=5, seed=0):
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def classifier():
    return mlp([5, 16, 4], nn.Tanh, generator=generator(), dtype=torch.float64)


def vat_from_scratch(f, x, start, radius, xi, steps):
    """The method as its authors state it, on probabilities."""
    p = f(x).softmax(1).detach()

    def divergence(r):
        q = f(x + r).softmax(1)
        return (p * (p.log() - q.log())).sum(1)

    d = start
    for _ in range(steps):
        r = (xi * d / d.norm(dim=1, keepdim=True)).requires_grad_()
        (d,) = torch.autograd.grad(divergence(r).sum(), r)
    return divergence(radius * d / d.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("steps", [1, 3])
def test_it_is_the_method_of_its_authors(steps):
    f, x, start = classifier(), points(), points(seed=1)
    penalty = virtual_adversarial_loss(f, x, radius=2.0, start=start, steps=steps, xi=1e-3)
    mine = vat_from_scratch(f, x, start, 2.0, 1e-3, steps)
    torch.testing.assert_close(penalty.slopes, mine)
    torch.testing.assert_close(penalty.loss, mine.mean())
    one, other = (torch.autograd.grad(loss, f[0].weight)[0] for loss in (penalty.loss, mine.mean()))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_it_is_alr_with_trivial_d_x_and_k_0(divergence):
    f, x = classifier(), points()
    vat = virtual_adversarial_loss(
        f, x, radius=2.0, xi=0.1, divergence=divergence, generator=generator(4)
    )
    alr = adversarial_lipschitz_penalty(
        f,
        x,
        output=f(x).detach(),
        lipschitz_constant=0.0,
        radius=2.0,
        xi=0.1,
        output_distance=divergence,
        input_distance=trivial,
        reduction="mean",
        generator=generator(4),
    )
    assert torch.equal(vat.slopes, alr.slopes) and torch.equal(vat.loss, alr.loss)
    one, other = (torch.autograd.grad(p.loss, f[0].weight)[0] for p in (vat, alr))
    assert torch.equal(one, other) and one.abs().max() > 0
    # With d_X the Euclidean distance, it is the same up to the factor epsilon.
    scaled = adversarial_lipschitz_penalty(
        f,
        x,
        lipschitz_constant=0.0,
        radius=2.0,
        xi=0.1,
        output_distance=divergence,
        reduction="mean",
        generator=generator(4),
    )
    torch.testing.assert_close(vat.loss, 2.0 * scaled.loss)
    # Sabotage: a trained f(x) has another gradient.
    (both,) = torch.autograd.grad(scaled.loss, f[0].weight)
    assert not torch.allclose(2.0 * both, one, rtol=0.1)


def test_the_direction_of_a_linear_classifier_is_known():
    # f(x) = (a.x, -a.x): all divergences grow along +-a, and KL at x = 0 is log cosh(|a| eps).
    a = torch.tensor([3.0, 4.0, 0.0, 0.0, 0.0], dtype=torch.float64)

    def f(x):
        return torch.stack([x @ a, -(x @ a)], 1)

    x = torch.zeros(10, 5, dtype=torch.float64)
    radius = torch.linspace(0.1, 2.0, 10, dtype=torch.float64)
    t = 5 * radius
    closed = {
        kullback_leibler: t.cosh().log(),
        mean_squared: t.square(),
        # sum sqrt(q / 2) with q = e^{+-t} / (2 cosh t)
        hellinger: (1 - (t / 2).cosh() / t.cosh().sqrt()).sqrt(),
    }
    for divergence, wanted in closed.items():
        penalty = virtual_adversarial_loss(f, x, radius=radius, divergence=divergence)
        torch.testing.assert_close(penalty.slopes, wanted)
        assert penalty.violations == 10


def test_iteration_finds_the_leading_eigenvector_of_the_fisher_matrix():
    f, x = classifier(), points()
    r = adversarial_perturbation(
        f, x, radius=1.0, xi=1e-4, steps=300, output_distance=kullback_leibler
    )
    for point, direction in zip(x, r, strict=True):
        jacobian = torch.autograd.functional.jacobian(f, point)
        p = f(point).softmax(0)
        fisher = jacobian.T @ (p.diag() - p.outer(p)) @ jacobian
        leading = torch.linalg.eigh(fisher).eigenvectors[:, -1]
        assert abs(leading @ direction) > 0.999


def test_entropy_minimisation_adds_the_mean_entropy_with_its_gradient():
    f, x, start = classifier(), points(), points(seed=1)
    p = f(x).softmax(1)
    entropy = -(p * p.log()).sum(1).mean()
    plain = virtual_adversarial_loss(f, x, start=start)
    for output in (None, f(x)):
        both = virtual_adversarial_loss(f, x, output=output, start=start, entropy_weight=0.5)
        torch.testing.assert_close(both.loss, plain.loss + 0.5 * entropy)
        torch.testing.assert_close(both.slopes, plain.slopes)
        (found,) = torch.autograd.grad(both.loss, f[0].weight)
        parts = [
            torch.autograd.grad(part, f[0].weight, retain_graph=True)[0]
            for part in (plain.loss, entropy)
        ]
        torch.testing.assert_close(found, parts[0] + 0.5 * parts[1])
        assert parts[1].abs().max() > 1e-4


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_default_xi_is_no_noise_in_float32_and_the_authors_is(divergence):
    x, start = points(64), points(64, seed=1)

    def direction(dtype, xi):
        return adversarial_perturbation(
            classifier().to(dtype),
            x.to(dtype),
            radius=1.0,
            xi=xi,
            start=start.to(dtype),
            output_distance=divergence,
        ).double()

    ours = inspect.signature(virtual_adversarial_loss).parameters["xi"].default
    exact = direction(torch.float64, 1e-4)
    cosine = {xi: (direction(torch.float32, xi) * exact).sum(1) for xi in (ours, 1e-6)}
    assert cosine[ours].min() > 0.99
    assert cosine[1e-6].min() < 0.9


def test_dropout_has_one_mask_for_all_passes():
    f = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Dropout(0.5), nn.Linear(32, 4)).double()
    x = points()
    # With a vanishing radius the divergence vanishes, if and only if the masks agree.
    for kwargs in ({}, {"entropy_weight": 1e-9}, {"steps": 0}, {"generator": generator()}):
        penalty = virtual_adversarial_loss(f, x, radius=1e-9, **kwargs)
        assert penalty.slopes.max() < 1e-12, kwargs
    own_mask = virtual_adversarial_loss(f, x, radius=1e-9, output=f(x))
    assert own_mask.slopes.min() > 1e-6  # documented: a given f(x) has a mask of its own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entropy_weight": -1.0}, "entropy_weight must be finite and at least 0"),
        ({"entropy_weight": float("nan")}, "entropy_weight must be finite and at least 0"),
        ({"xi": 0.0}, "xi must be positive for any distance but the default"),
        ({"radius": 0.0}, "radius must be positive"),
        ({"x": points() * float("nan")}, "x must be finite"),
        ({"x": points() * float("nan"), "entropy_weight": 1.0}, "x must be finite"),
        ({"f": lambda x: x.sum(1)}, "at least two classes"),
        ({"f": lambda x: x * float("nan")}, "f\\(x\\) must be finite"),
        ({"f": lambda x: x * float("inf"), "entropy_weight": 1.0}, "f\\(x\\) must be finite"),
    ],
)
def test_unusable_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        virtual_adversarial_loss(**{"f": classifier(), "x": points()} | change)
