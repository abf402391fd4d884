"""Distances against closed forms, in both precisions, at equality and far apart."""

import math

import pytest
import torch

from lipnb.distances import (
    euclidean,
    hellinger,
    jensen_shannon,
    kullback_leibler,
    mean_squared,
    trivial,
)

ON_LOGITS = [kullback_leibler, jensen_shannon, hellinger]
ALL = [*ON_LOGITS, euclidean, mean_squared]


def logits(seed=0, n=200, classes=10, spread=3.0):
    g = torch.Generator().manual_seed(seed)
    return spread * torch.randn(n, classes, generator=g, dtype=torch.float64)


def textbook(distance, y, z):
    """The definitions, written out on probabilities."""
    p, q = y.softmax(1), z.softmax(1)
    if distance is kullback_leibler:
        return (p * (p / q).log()).sum(1)
    if distance is jensen_shannon:
        m = (p + q) / 2
        return ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)) / 2
    return (1 - (p * q).sqrt().sum(1)).sqrt()


@pytest.mark.parametrize("distance", ON_LOGITS)
def test_logit_distances_are_the_textbook_ones(distance):
    y, z = logits(), logits(1)
    torch.testing.assert_close(distance(y, z), textbook(distance, y, z))
    # Only the distribution counts, not the level of the logits.
    torch.testing.assert_close(distance(y + 7, z - 5), distance(y, z))


def test_two_classes_by_hand():
    y = torch.tensor([[math.log(1.0), math.log(3.0)]])  # 1/4, 3/4
    z = torch.zeros(1, 2)  # 1/2, 1/2
    kl = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert kullback_leibler(y, z).item() == pytest.approx(kl, rel=1e-6)
    assert kullback_leibler(z, y).item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-6)
    affinity = math.sqrt(1 / 8) + math.sqrt(3 / 8)
    assert hellinger(y, z).item() == pytest.approx(math.sqrt(1 - affinity), rel=1e-6)
    square = math.log(3.0) ** 2
    assert mean_squared(y, z).item() == pytest.approx(square / 2, rel=1e-6)
    assert euclidean(y, z).item() == pytest.approx(math.log(3.0), rel=1e-6)


@pytest.mark.parametrize("distance", ON_LOGITS)
@pytest.mark.parametrize("change", [1e-6, 1e-4, 1e-2])
def test_close_distributions_keep_their_digits_in_float32(distance, change):
    y = logits().float()
    z = y + change * logits(1).float()
    exact, found = distance(y.double(), z.double()), distance(y, z).double()
    assert found.min() >= 0
    # log(q / p) is good to about 1e-6, and a divergence is of second order in it.
    order = 1 if distance is hellinger else 2
    assert ((found - exact).abs() < 1e-5 * change ** (order - 1) + 1e-11).all()
    if change == 1e-2:
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=0)
        if distance is kullback_leibler:  # sabotage: the usual formula does not
            log_p, log_q = y.log_softmax(1), z.log_softmax(1)
            usual = (log_p.exp() * (log_p - log_q)).sum(1).double()
            assert ((usual - exact).abs() > 1e-3 * exact).any()


def test_the_usual_formula_falls_below_zero_and_ours_does_not():
    y = logits(n=2000).float()
    z = y + 1e-5 * logits(1, n=2000).float()
    log_p, log_q = y.log_softmax(1), z.log_softmax(1)
    assert (log_p.exp() * (log_p - log_q)).sum(1).min() < 0
    for distance in ON_LOGITS:
        assert distance(y, z).min() >= 0


@pytest.mark.parametrize("distance", [kullback_leibler, jensen_shannon])
def test_an_exponential_that_errs_by_an_ulp_does_no_harm(distance, monkeypatch):
    # On another device e^t - 1 may come out an ulp below t: the sum is then negative.
    exact = torch.Tensor.expm1
    monkeypatch.setattr(torch.Tensor, "expm1", lambda t: exact(t) - 1e-7 * t.abs())
    y = logits().float()
    z = (y + 1e-6 * logits(1, spread=1.0).float()).requires_grad_()
    value = distance(y, z)
    assert value.min() == 0
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert (gradient.abs().amax(1) > 0).all()  # sabotage: a clamp would switch it off


@pytest.mark.parametrize("distance", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_at_equality_value_and_gradients_are_zero(distance, dtype):
    y = logits().to(dtype).requires_grad_()
    z = y.detach().clone().requires_grad_()
    value = distance(y, z)
    for gradient in torch.autograd.grad(value.sum(), (y, z)):
        assert gradient.dtype == dtype
        assert gradient.abs().max() == 0
    assert value.abs().max() == 0
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("distance", ON_LOGITS)
@pytest.mark.parametrize("size", [50.0, 200.0, 1e4])
def test_certain_answers_give_finite_values_and_gradients(distance, size):
    y = torch.tensor([[size, -size], [size, -size]], requires_grad=True)
    z = torch.tensor([[-size, size], [size, -size]], requires_grad=True)
    value = distance(y, z)
    limit = {kullback_leibler: 2 * size, jensen_shannon: math.log(2), hellinger: 1.0}[distance]
    assert value.tolist() == pytest.approx([limit, 0.0])
    for gradient in torch.autograd.grad(value.sum(), (y, z)):
        assert torch.isfinite(gradient).all()


def test_the_gradient_of_the_divergence_is_the_difference_of_the_distributions():
    y, z = logits().float(), logits(1).float().requires_grad_()
    (gradient,) = torch.autograd.grad(kullback_leibler(y, z).sum(), z)
    torch.testing.assert_close(gradient, z.detach().softmax(1) - y.softmax(1))
    # The first argument has a gradient too; both are those of numerical differentiation.
    y, z = logits(n=4, classes=3).requires_grad_(), logits(1, n=4, classes=3).requires_grad_()
    for distance in ALL:
        assert torch.autograd.gradcheck(distance, (y, z))
        assert torch.autograd.gradgradcheck(distance, (y, z))


def test_bounds_and_symmetry():
    y, z = logits(spread=20.0), logits(1, spread=20.0)
    js, h = jensen_shannon(y, z), hellinger(y, z)
    assert 0 <= js.min() and js.max() <= math.log(2) + 1e-12
    assert 0 <= h.min() and h.max() <= 1 + 1e-12
    assert js.max() > 0.999 * math.log(2) and h.max() > 0.999
    torch.testing.assert_close(js, jensen_shannon(z, y))
    torch.testing.assert_close(h, hellinger(z, y))
    # Pinsker-like chain: squared Hellinger <= KL / 2.
    assert (h.square() <= kullback_leibler(y, z) / 2 + 1e-12).all()
    assert not torch.allclose(kullback_leibler(y, z), kullback_leibler(z, y))


def test_half_precision_is_widened_before_the_difference():
    # 1 and 1 + 2^-7 are neighbours in bfloat16; the difference of scaled ones is not one of its
    # numbers, and the square of 300 overflows float16.
    y = torch.tensor([[256.0, 1.0]], dtype=torch.bfloat16)
    z = torch.tensor([[0.0, 1.0078125]], dtype=torch.bfloat16)
    assert euclidean(y, z).item() == pytest.approx(math.hypot(256.0, 0.0078125), rel=1e-7)
    y = torch.tensor([[300.0, 0.0]], dtype=torch.float16)
    assert mean_squared(y, 0 * y).item() == 45000.0
    assert torch.isinf((y.square()).mean(1)).all()  # sabotage: without widening


def test_the_trivial_distance_is_one_and_has_no_gradient():
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    value = trivial(x, x)
    assert value.tolist() == [1.0] * 5 and value.dtype == torch.float64
    assert not value.requires_grad


@pytest.mark.parametrize("distance", [*ALL, trivial])
def test_shapes_that_would_broadcast_are_refused(distance):
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(1, 3\)"):
        distance(torch.ones(4, 3), torch.ones(1, 3))


@pytest.mark.parametrize("distance", ON_LOGITS)
@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 2)])
def test_what_is_no_batch_of_logits_is_refused(distance, shape):
    with pytest.raises(ValueError, match="at least two classes"):
        distance(torch.ones(shape), torch.ones(shape))
