"""Gradient and pair penalties on functions whose answer is known."""

import pytest
import torch
from torch import nn

from lipnb.regularizers import excess_penalty, gradient_penalty, lipschitz_penalty

A = torch.tensor([3.0, 4.0], dtype=torch.float64)


def linear(x):
    return x @ A


def points(n=40, seed=0):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("constant", [0.0, 1.0, 6.0])
@pytest.mark.parametrize("one_sided", [True, False])
def test_gradient_penalty_of_a_linear_map(constant, one_sided):
    penalty = gradient_penalty(linear, points(), lipschitz_constant=constant, one_sided=one_sided)
    excess = max(5 - constant, 0) if one_sided else 5 - constant
    assert penalty.loss.item() == pytest.approx(excess**2)
    assert penalty.violations == (40 if constant < 5 else 0)


def test_gradient_penalty_is_per_sample_over_all_axes():
    x = torch.randn(7, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    penalty = gradient_penalty(lambda x: x.square().flatten(1).sum(1) / 2, x)
    torch.testing.assert_close(penalty.slopes, x.flatten(1).norm(dim=1))


def test_gradient_penalty_has_the_right_parameter_gradient():
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x = points()
    weight = net[0].weight

    def loss(value):
        with torch.no_grad():
            weight.copy_(value)
        return gradient_penalty(net, x).loss

    start = weight.detach().clone()
    (grad,) = torch.autograd.grad(loss(start), weight)
    step = torch.zeros_like(start)
    step[3, 1] = 1e-6
    numeric = (loss(start + step).item() - loss(start - step).item()) / 2e-6
    assert grad[3, 1].item() == pytest.approx(numeric, rel=1e-6)


def test_zero_gradient_gives_no_nan():
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    loss = gradient_penalty(lambda x: x @ w, points()).loss
    (grad,) = torch.autograd.grad(loss, w)
    assert torch.isfinite(grad).all() and loss.item() == pytest.approx(1.0)


def test_pairs_of_a_linear_map_and_identical_pairs():
    x, y = points(), points(seed=1)
    penalty = lipschitz_penalty(linear, x, y)
    torch.testing.assert_close(penalty.slopes, ((x - y) @ A).abs() / (x - y).norm(dim=1))
    same = lipschitz_penalty(linear, x, x.clone())
    assert same.loss == 0 and same.slopes.tolist() == [0.0] * 40
    two_sided = lipschitz_penalty(linear, x, x.clone(), one_sided=False)
    assert two_sided.loss.item() == pytest.approx(1.0)


def test_identical_pairs_give_finite_gradients():
    w = torch.ones(2, dtype=torch.float64, requires_grad=True)
    x = points()
    loss = lipschitz_penalty(lambda x: x @ w, x, x.clone(), one_sided=False).loss
    (grad,) = torch.autograd.grad(loss, w)
    assert torch.isfinite(grad).all()


def test_random_pairs_miss_what_gradients_see():
    # A ridge: slope 5 on a thin strip. Random pairs straddle it and report far less.
    def ridge(x):
        return 5 * x[:, 0].clamp(-0.05, 0.05)

    x, y = points(2000), points(2000, seed=1)
    assert gradient_penalty(ridge, x).slopes.max().item() == pytest.approx(5.0)
    assert lipschitz_penalty(ridge, x, y).slopes.median() < 1


def test_errors():
    x = points()
    with pytest.raises(ValueError, match="one number per sample"):
        gradient_penalty(lambda x: x, x)
    with pytest.raises(ValueError, match="depend on x"):
        gradient_penalty(lambda x: torch.ones(40, requires_grad=True), x)
    with pytest.raises(ValueError, match="one shape"):
        lipschitz_penalty(linear, x, x[:3])
    with pytest.raises(ValueError, match="y must be finite"):
        lipschitz_penalty(linear, x, x * float("nan"))
    with pytest.raises(ValueError, match="reduction must be one of"):
        excess_penalty(torch.ones(3), reduction="median")
