"""Projection onto norm balls: the norm of the dense matrix, and weights inside left alone."""

import itertools
import math

import pytest
import torch
from torch import nn

from lipnb.bounds import product_bound
from lipnb.constraints import orthogonal, project_norm, spectral_norm
from lipnb.models import mlp

NORMS = (1, 2, math.inf)


def matrix_norm(matrix, norm):
    return torch.linalg.matrix_norm(matrix, ord=norm).item()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("bound", [0.5, 2.0])
def test_a_dense_layer_lands_on_the_ball(norm, bound, seeded):
    layer = seeded(lambda: nn.Linear(7, 5, dtype=torch.float64))
    with torch.no_grad():
        layer.weight.mul_(10)
    before = layer.weight.detach().clone()
    assert project_norm(layer, norm, bound=bound) is layer
    after = layer.weight.detach()
    assert matrix_norm(after, norm) == pytest.approx(bound, rel=1e-12)
    torch.testing.assert_close(after / bound, before / matrix_norm(before, norm))


@pytest.mark.parametrize("norm", NORMS)
def test_weights_inside_are_not_touched(norm, seeded):
    for layer in (nn.Linear(7, 5), nn.Conv2d(3, 4, 3)):
        nn.init.uniform_(layer.weight, 0, 0.01, generator=torch.Generator().manual_seed(0))
        before = layer.weight.detach().clone()
        project_norm(layer, norm)
        assert torch.equal(layer.weight, before)  # no inflation, not even a rounding


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "mode"),
    [
        (3, 1, 1, "zeros"),
        (3, 2, 1, "zeros"),
        ((2, 3), (3, 1), (0, 2), "zeros"),
        (4, 2, 1, "zeros"),
        (2, 5, 0, "zeros"),
        (3, 1, 1, "circular"),
    ],
)
def test_a_convolution_lands_on_the_ball(kernel, stride, padding, mode, norm, seeded, layer_matrix):
    options = {"stride": stride, "padding": padding, "padding_mode": mode, "dtype": torch.float64}
    layer = seeded(lambda: nn.Conv2d(2, 3, kernel, **options))
    with torch.no_grad():
        layer.weight.mul_(10)
    assert matrix_norm(layer_matrix(layer, 2, 9, 10), norm) > 2
    project_norm(layer, norm, input_size=(9, 10))
    # For 1 and inf some pixel of these images meets the whole kernel: the sums are exact.
    assert matrix_norm(layer_matrix(layer, 2, 9, 10), norm) == pytest.approx(1, rel=1e-12)
    for size in itertools.product((4, 7), (5, 6)):
        project_norm(layer, norm)  # for every size
        assert matrix_norm(layer_matrix(layer, 2, *size), norm) <= 1 + 1e-12


@pytest.mark.parametrize("norm", NORMS)
def test_training_with_projection_stays_on_the_ball(norm, seeded):
    net = mlp([3, 8, 8, 1])
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    layers = [net[0], net[2], net[4]]
    outside = 0
    for _ in range(50):
        optimizer.zero_grad()
        (net(x).squeeze() - 50 * x.sum(1)).square().mean().backward()
        optimizer.step()
        outside += max(matrix_norm(layer.weight.detach(), norm) for layer in layers) > 1.001
        assert project_norm(net, norm) is net
        for layer in layers:
            assert matrix_norm(layer.weight.detach().double(), norm) <= 1 + 1e-6
    assert outside > 20  # the steps leave the ball, the projection brings back
    assert 0.6 < product_bound(net, norm=norm).value <= 1 + 1e-5


def test_two_power_iterations_from_a_fresh_vector_leave_the_ball_far_away():
    g = torch.Generator().manual_seed(0)
    sigmas = []
    for _ in range(20):
        w = torch.randn(64, 64, generator=g, dtype=torch.float64)
        v = torch.randn(64, generator=g, dtype=torch.float64)
        for _ in range(2):
            u = w @ v
            v = w.T @ u / u.norm()
        sigmas.append(matrix_norm(w, 2) / (w @ v).norm().item() * v.norm().item())
    assert 1.03 < sum(sigmas) / 20 < 1.2
    layer = nn.Linear(64, 64, dtype=torch.float64)
    layer.weight.data.copy_(w)
    assert matrix_norm(project_norm(layer).weight.detach(), 2) == pytest.approx(1, rel=1e-12)


def test_every_layer_of_a_network_is_projected_and_others_are_left(seeded):
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Sequential(nn.Flatten(), nn.Linear(32, 1)),
        )
    )
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(2.0)
    project_norm(net, math.inf)
    assert net[0].weight[0].sum().item() == pytest.approx(1)
    assert net[2][1].weight.sum().item() == pytest.approx(1)
    for p in (net[0].bias, net[1].weight, net[1].bias, net[2][1].bias):
        assert p.eq(2.0).all()


def test_errors_change_nothing():
    for norm in (0, 3, -math.inf, "nuc"):
        with pytest.raises(ValueError, match="norm must be 1, 2 or inf"):
            project_norm(nn.Linear(2, 2), norm)
    for bound in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="bound must be"):
            project_norm(nn.Linear(2, 2), bound=bound)
    with pytest.raises(TypeError, match=r"nn\.Module; got list"):
        project_norm([nn.Linear(2, 2)])
    with pytest.raises(ValueError, match="got ReLU"):
        project_norm(nn.ReLU())
    broken = nn.Linear(2, 2)
    nn.init.constant_(broken.weight, math.nan)
    bad = {
        "weight of 1 must be plain": spectral_norm(nn.Linear(2, 2)),
        "got a parametrized": orthogonal(nn.Conv2d(2, 2, 3)),
        "weight of 1 must be finite": broken,
        "one group": nn.Conv2d(2, 2, 3, groups=2),
    }
    for norm, (match, layer) in itertools.product(NORMS, bad.items()):
        first = nn.Linear(2, 2)
        nn.init.constant_(first.weight, 9.0)
        with pytest.raises(ValueError, match=match):
            project_norm(nn.Sequential(first, layer), norm)
        assert first.weight.eq(9.0).all()
