"""Gradient and pair penalties on functions whose answer is known."""

import pytest
import torch
from torch import nn

from lipnb.models import mlp
from lipnb.regularizers import (
    excess_penalty,
    gradient_penalty,
    interpolate,
    lipschitz_penalty,
    max_gradient_penalty,
)

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


def test_points_are_not_differentiated_so_that_a_generator_gets_no_gradient():
    theta = torch.ones(2, dtype=torch.float64, requires_grad=True)
    w = A.clone().requires_grad_()
    made = theta * points(seed=1)
    for pair in ((points(), made), (made, points())):
        loss = lipschitz_penalty(lambda x: x @ w, *pair, one_sided=False).loss
        assert torch.autograd.grad(loss, w)[0].abs().max() > 0.1
        with pytest.raises(RuntimeError, match="not have been used"):
            torch.autograd.grad(lipschitz_penalty(lambda x: x @ w, *pair).loss, theta)


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


@pytest.mark.parametrize("constant", [0.0, 1.0, 5.0, 7.0])
@pytest.mark.parametrize("one_sided", [True, False])
@pytest.mark.parametrize("reduction", ["mean_square", "mean", "mean_both"])
def test_every_reduction_of_a_linear_map_is_closed_form(constant, one_sided, reduction):
    excess = max(5 - constant, 0) if one_sided else abs(5 - constant)
    wanted = {"mean_square": excess**2, "mean": excess, "mean_both": excess + excess**2}[reduction]
    options = {"lipschitz_constant": constant, "one_sided": one_sided, "reduction": reduction}
    penalties = [
        gradient_penalty(linear, points(), **options),
        max_gradient_penalty(linear, points(), **options),
        lipschitz_penalty(linear, points(), points() + 2 * A, **options),
    ]
    for penalty in penalties:
        assert penalty.loss.item() == pytest.approx(wanted)


def test_r1_is_the_penalty_with_k_zero_and_half_gamma():
    # f(x) = |x|^2 / 2 has the gradient x: R1 = gamma / 2 E |x|^2.
    real, gamma = points(), 10.0
    penalty = gradient_penalty(lambda x: x.square().sum(1) / 2, real, lipschitz_constant=0.0)
    closed = gamma / 2 * real.square().sum(1).mean()
    torch.testing.assert_close(gamma / 2 * penalty.loss, closed)
    # On a network: R1 as its authors write it, value and gradients.
    f = mlp([2, 8, 1], nn.Tanh, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(z).sum(), z, create_graph=True)
    theirs = gamma / 2 * gradient.square().sum(1).mean()
    for one_sided in (True, False):  # a norm is never below 0
        mine = (
            gamma / 2 * gradient_penalty(f, real, lipschitz_constant=0.0, one_sided=one_sided).loss
        )
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(
            torch.autograd.grad(mine, f[0].weight, retain_graph=True),
            torch.autograd.grad(theirs, f[0].weight, retain_graph=True),
        )
    assert not torch.allclose(gamma / 2 * gradient_penalty(f, real).loss, theirs, rtol=0.1)


def test_the_published_penalty_is_reached_through_interpolation():
    # WGAN-GP as its authors' code has it: alpha per sample, norm over all axes, mean of squares.
    f = mlp([2, 8, 1], nn.Tanh, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    real, fake = points(), points(seed=1)
    alpha = torch.rand((40, 1), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z = (real + alpha * (fake - real)).requires_grad_()
    (gradient,) = torch.autograd.grad(f(z).sum(), z, create_graph=True)
    slopes = gradient.square().sum(1).sqrt()
    x = interpolate(real, fake, generator=torch.Generator().manual_seed(2))
    mine = gradient_penalty(f, x)
    torch.testing.assert_close(mine.slopes, slopes)
    torch.testing.assert_close(mine.loss, (slopes - 1).square().mean())


def blind(batch_norm):
    """A steep network whose last layer is linear above the normalisation."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 16), batch_norm, nn.Linear(16, 1)).double()


@pytest.mark.parametrize("penalty", [gradient_penalty, max_gradient_penalty])
def test_batch_statistics_are_refused_because_the_gradient_vanishes(penalty):
    f, x = blind(nn.BatchNorm1d(16)), points()
    with pytest.raises(ValueError, match=r"got 1 \(BatchNorm1d\), which normalises"):
        penalty(f, x)
    seen = penalty(f, x, allow_batch_norm=True).slopes
    true = penalty(f.eval(), x).slopes  # in evaluation mode it is accepted
    assert seen.max() < 1e-10 and true.min() > 0.01
    assert true.min().item() == pytest.approx(true.max().item())  # a linear map


def test_batch_statistics_in_evaluation_mode_are_noticed_too():
    f, x = blind(nn.BatchNorm1d(16, track_running_stats=False)).eval(), points()
    with pytest.raises(ValueError, match="statistics of the batch"):
        gradient_penalty(f, x)
    for harmless in (nn.LayerNorm(16), nn.Identity(), nn.BatchNorm1d(16).eval()):
        f = blind(harmless).train()
        harmless.eval()
        assert gradient_penalty(f, x).slopes.min() > 0


def test_ties_have_slope_zero_and_a_finite_gradient():
    # f(x) = w |x_1|: equal at x and at its mirror image, and the pair is penalised two-sided.
    w = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = points()
    mirrored = x * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    penalty = lipschitz_penalty(lambda x: w * x[:, 0].abs(), x, mirrored, one_sided=False)
    assert penalty.slopes.tolist() == [0.0] * 40 and penalty.loss == 1
    (gradient,) = torch.autograd.grad(penalty.loss, w)
    assert gradient == 0


BAD = [float("nan"), float("inf"), -float("inf")]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("penalty", [gradient_penalty, max_gradient_penalty])
def test_outputs_that_are_not_finite_are_refused(penalty, bad):
    x = points()
    with pytest.raises(ValueError, match="x must be finite"):
        penalty(linear, x * bad)
    with pytest.raises(ValueError, match=r"f\(x\) must be finite; got 40 bad values"):
        penalty(lambda x: linear(x) + bad, x)  # its gradient would be finite
    with pytest.raises(ValueError, match="the gradient norm of f must be finite"):
        penalty(lambda x: (x[:, 0] - x.detach()[:, 0]).abs().sqrt(), x)  # 0 with slope inf


@pytest.mark.parametrize("bad", BAD)
def test_pairs_whose_outputs_are_not_finite_are_refused(bad):
    x = points()
    with pytest.raises(ValueError, match=r"f\(x\) must be finite"):
        lipschitz_penalty(lambda x: linear(x) + bad, x, x + 1)
    with pytest.raises(ValueError, match=r"f\(y\) must be finite"):
        lipschitz_penalty(
            lambda z: linear(z) + bad * (z[0, 0] != x[0, 0]), x, x + 1, output=x[:, 0]
        )
    with pytest.raises(ValueError, match="d_Y must be finite"):
        lipschitz_penalty(linear, x, x + 1, output_distance=lambda y, z: (y - z) * bad)
    with pytest.raises(ValueError, match="d_Y / d_X must be finite"):
        lipschitz_penalty(linear, x, x + 1, input_distance=lambda x, y: 0 * x[:, 0] + 1e-320)
    with pytest.raises(ValueError, match=r"f\(x\) must be finite"):  # also where the slope is 0
        lipschitz_penalty(lambda x: linear(x) + bad, x, x.clone())
    with pytest.raises(ValueError, match=r"f\(y\) must have 40 rows"):
        lipschitz_penalty(lambda x: linear(x)[:3], x, x + 1, output=linear(x))


def test_errors():
    x = points()
    with pytest.raises(ValueError, match="depend on x"):
        gradient_penalty(lambda x: torch.ones(40), x)
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
