"""Banach norms: duality with equality, closed forms, stability, and the penalty that uses them."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from lipnb.regularizers import (
    banach_scales,
    gradient_penalty,
    lebesgue_norm,
    sobolev_dual_norm,
    sobolev_norm,
)

SHAPES = [(5, 3, 8, 6), (4, 2, 9), (3, 1, 4, 5, 7)]
SPACES = [(0.0, 2.0), (0.0, 10.0), (1.0, 2.0), (-1.5, 3.0), (2.0, 1.25), (0.7, 30.0)]


def images(shape=(5, 3, 8, 6), seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(x, s, p, scale=5.0):
    """The definition with the full complex transform and an explicit grid of frequencies."""
    square = torch.zeros(x.shape[2:], dtype=torch.float64)
    for axis, size in enumerate(x.shape[2:]):
        i = torch.arange(size, dtype=torch.float64)
        along = torch.minimum(i, size - i) / (size / 2)
        shape = [1] * (x.ndim - 2)
        shape[axis] = size
        square = square + along.square().reshape(shape)
    axes = tuple(range(2, x.ndim))
    filtered = torch.fft.ifftn(
        torch.fft.fftn(x, dim=axes) * (1 + scale * square) ** (s / 2), dim=axes
    )
    assert filtered.imag.abs().max() < 1e-12
    return filtered.real, filtered.real.abs().pow(p).flatten(1).sum(1).pow(1 / p)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("s", "p"), SPACES)
def test_the_norm_is_its_definition(shape, s, p):
    x = images(shape)
    torch.testing.assert_close(sobolev_norm(x, s, p), by_hand(x, s, p)[1])
    torch.testing.assert_close(sobolev_norm(x, s, p, scale=0.0), lebesgue_norm(x, p))


def maximiser(g, s, p):
    """The point at which <g, x> / |x| is largest: x = A u, u = sign(h) |h|^{q-1}, h = A g."""
    q = p / (p - 1)
    h = by_hand(g, -s, 2.0)[0]
    return by_hand(h.sign() * h.abs() ** (q - 1), -s, 2.0)[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("s", "p"), SPACES)
def test_hoelder_holds_and_is_attained(shape, s, p):
    g = images(shape)
    dual = sobolev_dual_norm(g, s, p)
    for seed in range(1, 20):
        x = images(shape, seed)
        product = (g * x).flatten(1).sum(1)
        assert (product.abs() <= sobolev_norm(x, s, p) * dual * (1 + 1e-12)).all()
    x = maximiser(g, s, p)
    product = (g * x).flatten(1).sum(1)
    torch.testing.assert_close(product, sobolev_norm(x, s, p) * dual)


@pytest.mark.parametrize(("s", "p"), [space for space in SPACES if space != (0.0, 2.0)])
def test_a_wrong_exponent_or_sign_breaks_hoelder(s, p):
    g = images()
    x = maximiser(g, s, p)
    product = (g * x).flatten(1).sum(1)
    wrong = {"sign": sobolev_norm(g, s, p / (p - 1)), "exponent": sobolev_norm(g, -s, p)}
    if s == 0:
        del wrong["sign"]
    if p == 2:
        del wrong["exponent"]
    for name, dual in wrong.items():
        assert not torch.allclose(product, sobolev_norm(x, s, p) * dual, rtol=1e-3), name


@pytest.mark.parametrize(("p", "q"), [(1.0, math.inf), (math.inf, 1.0), (2.0, 2.0), (3.0, 1.5)])
def test_dual_exponents(p, q):
    g = images()
    torch.testing.assert_close(sobolev_dual_norm(g, 0.0, p), lebesgue_norm(g, q))


def test_one_frequency_is_multiplied_by_the_filter():
    # cos(2 pi 3 i / 16) along one axis: |xi|^2 = c (3 / 8)^2.
    i = torch.arange(16, dtype=torch.float64)
    x = torch.cos(2 * math.pi * 3 * i / 16).reshape(1, 1, 16)
    factor = (1 + 5 * (3 / 8) ** 2) ** (1.7 / 2)
    torch.testing.assert_close(sobolev_norm(x, 1.7, 4.0), factor * lebesgue_norm(x, 4.0))
    torch.testing.assert_close(sobolev_dual_norm(x, 1.7, 4.0), lebesgue_norm(x, 4 / 3) / factor)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 10.0, 100.0, 1e4, math.inf])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_no_power_over_or_underflows(p, size):
    x = torch.tensor([[3.0, -4.0, 0.0], [1.0, 1.0, 1.0]]) * size
    wanted = [
        4 * (1 + 0.75**p) ** (1 / p) if p < math.inf else 4.0,
        3 ** (1 / p),
    ]
    assert (lebesgue_norm(x, p) / size).tolist() == pytest.approx(wanted, rel=1e-5)
    if p in (10.0, 100.0) and size != 1.0:  # sabotage: the formula as it stands
        plain = x.abs().pow(p).sum(1).pow(1 / p)
        assert ((plain == 0) | plain.isinf()).all()


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 10.0, 100.0, math.inf])
def test_gradients_are_right_and_zero_at_zero(p):
    x = images((4, 7)).requires_grad_()
    assert torch.autograd.gradcheck(partial(lebesgue_norm, p=p), (x,))
    zero = torch.zeros(3, 7, requires_grad=True)
    value = lebesgue_norm(zero, p)
    (gradient,) = torch.autograd.grad(value.sum(), zero)
    assert value.tolist() == [0.0] * 3 and gradient.abs().max() == 0
    some = torch.tensor([[0.0, 2.0, 0.0]], requires_grad=True)  # zeros beside a number
    (gradient,) = torch.autograd.grad(lebesgue_norm(some, p).sum(), some)
    assert gradient.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize(("s", "p"), SPACES)
def test_penalty_of_a_linear_map_is_closed_form(s, p):
    a = images((1, 3, 8, 6), seed=7)
    penalty = gradient_penalty(
        lambda x: (a * x).sum((1, 2, 3)),
        images(),
        lipschitz_constant=2.0,
        dual_norm=partial(sobolev_dual_norm, s=s, p=p),
    )
    q = p / (p - 1)
    exact = by_hand(a, -s, q)[1].item()
    assert penalty.slopes.tolist() == pytest.approx([exact] * 5)
    assert penalty.loss.item() == pytest.approx((exact - 2) ** 2)


def test_s_0_p_2_is_the_euclidean_penalty_in_value_and_gradient():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        f = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(96, 1)).double()
    losses = [
        gradient_penalty(f, images(), dual_norm=norm).loss
        for norm in (None, sobolev_dual_norm, partial(sobolev_norm, s=0.0, p=2.0), lebesgue_norm)
    ]
    gradients = [torch.autograd.grad(loss, f[0].weight)[0] for loss in losses]
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        torch.testing.assert_close(loss, losses[0])
        torch.testing.assert_close(gradient, gradients[0])
    other = gradient_penalty(f, images(), dual_norm=partial(sobolev_dual_norm, s=1.0)).loss
    assert not torch.allclose(other, losses[0], rtol=1e-2)


@pytest.mark.parametrize(("s", "p"), SPACES)
def test_parameter_gradients_are_those_of_numerical_differentiation(s, p):
    x = images((2, 1, 4, 4))
    weight = images((1, 1, 4, 4), seed=3).requires_grad_()

    def loss(weight):
        norm = partial(sobolev_dual_norm, s=s, p=p)
        return gradient_penalty(lambda x: (weight * x.sin()).sum((1, 2, 3)), x, dual_norm=norm).loss

    assert torch.autograd.gradcheck(loss, (weight,))


def test_zero_gradient_gives_no_nan():
    w = torch.zeros(1, 3, 8, 6, requires_grad=True)
    for s, p in SPACES:
        norm = partial(sobolev_dual_norm, s=s, p=p)
        x = images().float()
        loss = gradient_penalty(lambda x: (w * x).sum((1, 2, 3)), x, dual_norm=norm).loss
        (gradient,) = torch.autograd.grad(loss, w)
        assert loss == 1 and gradient.abs().max() == 0


def test_scales_give_the_loss_of_the_paper():
    x, s, p = images(seed=1), -0.5, 10.0
    norm, dual = partial(sobolev_norm, s=s, p=p), partial(sobolev_dual_norm, s=s, p=p)
    weight, gamma = banach_scales(x, norm, dual)
    assert weight == pytest.approx(by_hand(x, s, p)[1].mean().item())
    assert gamma == pytest.approx(by_hand(x, -s, p / (p - 1))[1].mean().item())
    # The authors' code has the other sign here, a different number.
    assert gamma != pytest.approx(by_hand(x, s, p / (p - 1))[1].mean().item(), rel=0.1)
    a = images((1, 3, 8, 6), seed=7)
    penalty = gradient_penalty(
        lambda x: (a * x).sum((1, 2, 3)), x, lipschitz_constant=gamma, dual_norm=dual
    )
    paper = weight * (by_hand(a, -s, p / (p - 1))[1].item() / gamma - 1) ** 2
    assert (weight / gamma**2 * penalty.loss).item() == pytest.approx(paper)


def test_half_precision_is_widened():
    x = images((4, 3, 8, 8)).half()
    for norm in (lebesgue_norm, partial(sobolev_norm, s=1.0), partial(sobolev_dual_norm, s=1.0)):
        assert norm(x).dtype == torch.float32
        torch.testing.assert_close(norm(x), norm(x.float()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: lebesgue_norm(x, 0.5), "p must be at least 1"),
        (lambda x: lebesgue_norm(x, math.nan), "p must be at least 1"),
        (lambda x: sobolev_dual_norm(x, 0.0, 0.9), "p must be at least 1"),
        (lambda x: sobolev_norm(x, math.inf), "s and scale must be finite"),
        (lambda x: sobolev_norm(x, 1.0, scale=-1.0), "s and scale must be finite"),
        (lambda x: sobolev_norm(x.flatten(1), 1.0), "with an axis of space"),
        (lambda x: lebesgue_norm(x[:0]), "must not be empty"),
        (lambda x: banach_scales(0 * x, lebesgue_norm, lebesgue_norm), "must be positive"),
        (lambda x: banach_scales(x * math.nan, lebesgue_norm, lebesgue_norm), "x must be finite"),
        (
            lambda x: gradient_penalty(lambda x: x.flatten(1).sum(1), x, dual_norm=torch.sum),
            "dual_norm must return one number per sample",
        ),
    ],
)
def test_unusable_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(images())
