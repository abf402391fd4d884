"""Dense orthogonal layers: the error after hard training, and which matrices are reached."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from lipnb.constraints import orthogonal
from lipnb.constraints.orthogonal_maps import bjorck, cayley, nearest_orthogonal

METHODS = ["cayley", "bjorck"]
SHAPES = [(16, 16), (24, 7), (7, 24), (17, 16), (1, 5), (5, 1), (1, 1)]  # (out, in)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def error(weight):
    """Largest entry of W W^T - I or W^T W - I, whichever is smaller in size, in float64."""
    w = weight.detach().double()
    w = w if w.shape[0] >= w.shape[1] else w.mT
    return (w.mT @ w - torch.eye(w.shape[1], dtype=w.dtype)).abs().max().item()


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", METHODS)
def test_weights_are_orthogonal_after_hard_training(
    method, shape, dtype, limit, seeded, train_hard
):
    layer = seeded(lambda: nn.Linear(shape[1], shape[0], dtype=dtype))
    assert orthogonal(layer, method=method) is layer
    start = layer.weight.detach().clone()
    assert layer.weight.shape == shape and error(layer.weight) < limit
    train_hard(layer, shape[1])
    for training in (True, False):
        assert error(layer.train(training).weight) < limit
    assert torch.equal(layer.weight, layer.train().weight)  # both modes compute the same
    if max(shape) > 1:
        assert (layer.weight - start).abs().max() > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_larger_layer_and_steps_far_too_long(method, seeded, train_hard):
    layer = orthogonal(seeded(lambda: nn.Linear(96, 128)), method=method)
    train_hard(layer, 96, steps=30, rate=0.3)
    assert error(layer.weight) < 1e-5


def test_cayley_without_its_last_step_is_less_exact():
    # After steps this long I + A is ill-conditioned: the correction is not idle.
    free = 100 * normal(128, 96, dtype=torch.float32)
    base = nearest_orthogonal(normal(128, 96, seed=1, dtype=torch.float32))
    inner = base.mT @ free
    n = free - base @ inner
    a = inner - inner.mT + n.mT @ n
    raw = 2 * torch.linalg.solve(torch.eye(96) + a, base - n, left=False) - base
    assert error(raw) > 10 * error(cayley(free, base))
    assert error(cayley(free, base)) < 2e-6


def test_square_cayley_is_the_textbook_transform():
    base, free = nearest_orthogonal(normal(5, 5)), normal(5, 5, seed=1)
    a = base.mT @ free - (base.mT @ free).mT
    eye = torch.eye(5, dtype=torch.float64)
    expected = base @ torch.linalg.solve(eye + a, eye - a)
    torch.testing.assert_close(cayley(free, base), expected)
    torch.testing.assert_close(cayley(torch.zeros_like(free), base), base)


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (6, 5), (4, 1)])
def test_cayley_reaches_every_matrix_without_the_eigenvalue_minus_one(shape):
    base, target = (nearest_orthogonal(normal(*shape, seed=s)) for s in (0, 1))
    n = shape[1]
    # Solve W = 2 (B - N)(I + A)^-1 - B for A, then for N and the skew part of B^T Y.
    eye = torch.eye(n, dtype=torch.float64)
    a = 2 * torch.linalg.inv(eye + base.mT @ target) - eye
    normal_part = base - 0.5 * (target + base) @ (eye + a)
    free = base @ (a - normal_part.mT @ normal_part) / 2 + normal_part
    torch.testing.assert_close(cayley(free, base), target)


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7)])
@pytest.mark.parametrize("method", METHODS)
def test_the_start_is_the_nearest_orthogonal_matrix(method, shape, seeded):
    layer = seeded(lambda: nn.Linear(shape[1], shape[0], dtype=torch.float64), 3)
    w, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    orthogonal(layer, method=method)
    u, _, v = torch.linalg.svd(w, full_matrices=False)
    if shape != (5, 5) or method == "bjorck" or torch.linalg.det(w) > 0:
        torch.testing.assert_close(layer.weight.detach(), u @ v)
    else:
        u[:, -1] *= -1
        torch.testing.assert_close(layer.weight.detach(), u @ v)
    assert torch.equal(layer.bias, bias)


def test_cayley_reaches_rotations_only_and_bjorck_reflections_too(train_hard):
    for sign in (-1.0, 1.0):
        weight = torch.diag(torch.tensor([1.0, 1.0, sign], dtype=torch.float64))
        for method in METHODS:
            layer = nn.Linear(3, 3, dtype=torch.float64)
            layer.weight.data.copy_(weight)
            orthogonal(layer, method=method)
            expected = 1.0 if method == "cayley" else sign
            assert torch.linalg.det(layer.weight).item() == pytest.approx(expected)
            if method == "cayley":
                train_hard(layer, 3)
                assert torch.linalg.det(layer.weight).item() == pytest.approx(1)


def test_nearest_rotation_beats_all_others():
    w = normal(3, 3, seed=5)
    w = w if torch.linalg.det(w) < 0 else -w
    nearest = nearest_orthogonal(w)
    others = nearest_orthogonal(normal(20000, 3, 3))
    assert torch.linalg.det(nearest).item() == pytest.approx(1)
    assert torch.allclose(torch.linalg.det(others), torch.ones(20000, dtype=torch.float64))
    distances = (others - w).square().sum((1, 2)).sqrt()
    assert (nearest - w).norm() <= distances.min() < 1.1 * (nearest - w).norm()


@pytest.mark.parametrize("method", METHODS)
def test_gradients(method):
    base, free = nearest_orthogonal(normal(2, 5, 3)), normal(2, 5, 3, seed=1).requires_grad_()
    f = bjorck if method == "bjorck" else lambda y: cayley(y, base)
    assert torch.autograd.gradcheck(f, free)
    assert torch.autograd.gradgradcheck(f, free)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smallest", [1.0, 1e-3, 1e-6])
def test_bjorck_converges_from_any_spectrum(smallest, dtype):
    u, v = nearest_orthogonal(normal(40, 30)), nearest_orthogonal(normal(30, 30, seed=1))
    values = torch.logspace(0, math.log10(smallest), 30, dtype=torch.float64)
    for scale in (1e-12, 1.0, 1e12):
        w = (scale * u * values @ v).to(dtype)
        result = bjorck(w)
        assert error(result) < (2e-6 if dtype == torch.float32 else 1e-14)
        if dtype == torch.float64:
            torch.testing.assert_close(result, u @ v, rtol=0, atol=1e-9)


def test_bjorck_scales_by_a_close_upper_bound():
    # With sqrt(m n) times the largest entry, a scale in use elsewhere, 20 steps are too few.
    w = normal(256, 256, dtype=torch.float32)
    x = w / (256 * w.abs().max())
    for _ in range(20):
        x = x + 0.5 * x @ (torch.eye(256) - x.mT @ x)
    assert error(x) > 1e-2
    assert error(bjorck(w)) < 2e-6


@pytest.mark.parametrize("method", METHODS)
def test_state_survives_copies_and_round_trips(method, train_hard, seeded):
    layer, other = (orthogonal(seeded(lambda: nn.Linear(4, 6), s), method=method) for s in (0, 1))
    train_hard(layer, 4, steps=3)
    x = normal(5, 4, dtype=torch.float32)
    assert not torch.allclose(layer(x), other(x), atol=0.1)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), other(x))
    assert torch.equal(layer(x), copy.deepcopy(layer)(x))
    before = copy.deepcopy(layer.state_dict())
    layer.train()(x), layer.eval()(x)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    assert error(layer.double().weight) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_autocast_does_not_reach_the_weight(method):
    dense = orthogonal(nn.Linear(16, 16), method=method)
    kernel = orthogonal(nn.Conv2d(4, 4, 3), method=method)
    for layer in (dense, kernel):
        weight = layer.weight
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer.weight, weight)
            assert layer(torch.ones(1, *((16,) if layer is dense else (4, 3, 3)))).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_moved_to_half_precision_is_orthogonal_up_to_its_rounding(method, dtype):
    for shape in ((24, 16), (16, 24), (16, 16)):
        layer = orthogonal(nn.Linear(*shape), method=method).to(dtype)
        assert layer.weight.dtype == dtype
        assert error(layer.weight) < 4 * torch.finfo(dtype).eps
        layer(torch.ones(2, shape[0], dtype=dtype)).sum().backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters())
    kernel = orthogonal(nn.Conv2d(4, 4, 3), method=method).to(dtype)
    assert kernel(torch.ones(1, 4, 5, 5, dtype=dtype)).isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_after_a_step_uses_the_new_parameters(method):
    layer = orthogonal(nn.Linear(4, 4), method=method).eval()
    old = layer.weight.detach().clone()
    with torch.no_grad():
        layer.parametrizations.weight.original.add_(normal(4, 4, dtype=torch.float32))
    assert (layer.weight - old).abs().max() > 0.1 and error(layer.weight) < 2e-6


@pytest.mark.parametrize("method", METHODS)
def test_assigning_a_weight_keeps_its_nearest_orthogonal_matrix(method):
    layer = orthogonal(nn.Linear(3, 5, dtype=torch.float64), method=method)
    w = normal(5, 3)
    layer.weight = w
    torch.testing.assert_close(layer.weight.detach(), nearest_orthogonal(w))


def test_attaching_needs_no_random_numbers():
    rng = torch.get_rng_state()
    layers = [nn.Linear(4, 4, device="meta").to_empty(device="cpu") for _ in METHODS]
    for layer, method in zip(layers, METHODS, strict=True):
        layer.weight.data.copy_(normal(4, 4))
        orthogonal(layer, method=method)
    assert torch.equal(rng, torch.get_rng_state())


def test_a_constrained_network_preserves_gradients_where_relu_loses_them():
    from lipnb.models import GroupSort, mlp

    x = normal(50, 8).requires_grad_()
    norms = {}
    for activation in (GroupSort, nn.ReLU):
        net = mlp([8, 8, 8, 8, 1], activation, dtype=torch.float64)
        for layer in net:
            if isinstance(layer, nn.Linear):
                orthogonal(layer)
        (gradient,) = torch.autograd.grad(net(x).sum(), x)
        norms[activation] = gradient.norm(dim=1)
    torch.testing.assert_close(norms[GroupSort], torch.ones(50, dtype=torch.float64))
    assert norms[nn.ReLU].mean() < 0.7


def test_errors():
    with pytest.raises(TypeError, match=r"nn\.Linear or nn\.Conv2d; got Conv1d"):
        orthogonal(nn.Conv1d(2, 2, 3))
    with pytest.raises(ValueError, match=r"method must be one of \['bjorck', 'cayley'\]; got 'qr'"):
        orthogonal(nn.Linear(2, 2), method="qr")
    with pytest.raises(ValueError, match="parametrized already"):
        orthogonal(orthogonal(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r"float32 or float64; got torch\.bfloat16"):
        orthogonal(nn.Linear(2, 2, dtype=torch.bfloat16))
    for method in METHODS:
        broken = nn.Linear(2, 2)
        nn.init.constant_(broken.weight, math.inf)
        with pytest.raises(ValueError, match="weight must be finite"):
            orthogonal(broken, method=method)
        assert not parametrize.is_parametrized(broken)
    zero = nn.Linear(2, 2)
    nn.init.zeros_(zero.weight)
    with pytest.raises(ValueError, match="not zero"):
        orthogonal(zero, method="bjorck")
    with pytest.raises(ValueError, match="full rank"):
        bjorck(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    for shape in ((2, 3), (3,)):
        with pytest.raises(ValueError, match="m >= n"):
            bjorck(torch.ones(shape))
        with pytest.raises(ValueError, match="m >= n"):
            cayley(torch.ones(shape), torch.ones(shape))
