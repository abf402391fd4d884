"""The penalty on the largest gradient norm, and its buffer."""

import pytest
import torch
from torch import nn

from lipnb.models import mlp
from lipnb.regularizers import WorstPoints, gradient_penalty, max_gradient_penalty


def parabola(x):
    """f(x) = |x|^2 / 2, whose gradient at x is x."""
    return x.square().flatten(1).sum(1) / 2


def points(*norms):
    """Points of given norms in directions of their own."""
    x = torch.randn(len(norms), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True) * torch.tensor(norms, dtype=torch.float64)[:, None]


CASES = [
    # K, one-sided, loss, violations of norms 0.5, 3, 0.9 and 2
    (0.0, False, 9.0, 4),
    (0.0, True, 9.0, 4),
    (1.0, False, 4.0, 2),
    (1.0, True, 4.0, 2),
    (5.0, False, 4.0, 0),
    (5.0, True, 0.0, 0),
]


@pytest.mark.parametrize(("constant", "one_sided", "loss", "violations"), CASES)
def test_closed_form(constant, one_sided, loss, violations):
    x = points(0.5, 3.0, 0.9, 2.0)
    penalty = max_gradient_penalty(parabola, x, lipschitz_constant=constant, one_sided=one_sided)
    assert penalty.loss.item() == pytest.approx(loss)
    assert penalty.slopes.tolist() == pytest.approx([0.5, 3.0, 0.9, 2.0])
    assert penalty.violations == violations


def test_the_default_is_the_squared_constant_of_a_linear_map():
    a = torch.tensor([3.0, 4.0])
    assert max_gradient_penalty(lambda x: x @ a, torch.zeros(5, 2)).loss == 25
    for reduction, wanted in (("mean", 5.0), ("mean_both", 30.0)):
        penalty = max_gradient_penalty(lambda x: x @ a, torch.zeros(5, 2), reduction=reduction)
        assert penalty.loss == wanted


def test_the_gradient_comes_from_the_worst_sample_alone():
    # f(x_i) = w_i |x_i|^2 / 2 with one weight per sample: only the steepest one's gradient is left.
    w = torch.ones(4, dtype=torch.float64, requires_grad=True)
    x = points(0.5, 3.0, 1.0, 2.0)
    (gradient,) = torch.autograd.grad(max_gradient_penalty(lambda x: w * parabola(x), x).loss, w)
    assert gradient.tolist() == pytest.approx([0.0, 18.0, 0.0, 0.0])  # d (w |x|)^2 / dw
    (mean,) = torch.autograd.grad(
        gradient_penalty(lambda x: w * parabola(x), x, lipschitz_constant=0.0).loss, w
    )
    assert (mean > 0).all()  # sabotage: the mean over samples feels them all
    # Ties: one of the steepest, not a mixture, not none.
    (gradient,) = torch.autograd.grad(
        max_gradient_penalty(lambda x: w * parabola(x), points(3.0)[[0, 0, 0, 0]]).loss, w
    )
    assert sorted(gradient.tolist()) == pytest.approx([0.0, 0.0, 0.0, 18.0])


def test_it_is_the_gradient_penalty_of_the_worst_sample():
    f = mlp([3, 8, 1], nn.Tanh, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = points(0.5, 3.0, 1.0, 2.0, 0.1)
    penalty = max_gradient_penalty(f, x)
    worst = x[penalty.slopes.argmax()][None]
    alone = gradient_penalty(f, worst, lipschitz_constant=0.0)
    torch.testing.assert_close(penalty.loss, alone.loss)
    for one, other in zip(
        torch.autograd.grad(penalty.loss, f[0].weight),
        torch.autograd.grad(alone.loss, f[0].weight),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_the_buffer_keeps_the_steepest_points_of_all_steps():
    worst = WorstPoints(2)
    assert max_gradient_penalty(parabola, points(1.0, 3.0, 2.0), worst=worst).slopes.shape == (3,)
    assert worst.points.norm(dim=1).tolist() == pytest.approx([3.0, 2.0])
    # A calm batch: the penalty still feels the point of the step before.
    penalty = max_gradient_penalty(parabola, points(0.5, 2.5), worst=worst)
    assert penalty.slopes.tolist() == pytest.approx([0.5, 2.5, 3.0, 2.0])
    assert penalty.loss.item() == pytest.approx(9.0)
    assert worst.points.norm(dim=1).tolist() == pytest.approx([3.0, 2.5])
    # Slopes are those of today's function, so a point that has been mended drops out.
    max_gradient_penalty(lambda x: -parabola(x) + 3 * x.norm(dim=1), points(0.1, 1.0), worst=worst)
    assert worst.points.norm(dim=1).tolist() == pytest.approx([0.1, 1.0])
    without = max_gradient_penalty(parabola, points(0.5, 2.5))
    assert without.loss.item() == pytest.approx(6.25)


def test_the_buffer_is_detached_and_of_few_points_at_first():
    worst = WorstPoints(10)
    x = points(1.0, 2.0).requires_grad_()
    max_gradient_penalty(parabola, x, worst=worst)
    assert worst.points.shape == (2, 3) and not worst.points.requires_grad
    restored = WorstPoints(10, worst.points.clone().float())
    assert max_gradient_penalty(parabola, x, worst=restored).slopes.dtype == torch.float64


def test_unusable_arguments_are_refused():
    x = points(1.0, 2.0)
    for capacity in (0, -1, 1.5):
        with pytest.raises(ValueError, match="capacity must be an integer of at least 1"):
            WorstPoints(capacity)
    with pytest.raises(ValueError, match="worst must hold points of shape"):
        max_gradient_penalty(parabola, x, worst=WorstPoints(1, torch.ones(1, 4)))
    with pytest.raises(ValueError, match="lipschitz_constant"):
        max_gradient_penalty(parabola, x, lipschitz_constant=-1.0)
    with pytest.raises(ValueError, match="x must be finite"):
        max_gradient_penalty(parabola, x * float("nan"))
    with pytest.raises(ValueError, match="one number per sample"):
        max_gradient_penalty(lambda x: x, x)
