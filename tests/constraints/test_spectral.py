"""Spectral normalisation of dense layers: a bound in evaluation, an estimate in training."""

import copy

import pytest
import torch
from torch import nn

from lipnb.constraints import power_iteration, spectral, spectral_norm


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_power_iteration_converges_to_the_singular_value_in_stacks():
    w = torch.randn(5, 12, 7, generator=generator(), dtype=torch.float64)
    u = torch.randn(5, 12, generator=generator(1), dtype=torch.float64)
    exact = torch.linalg.matrix_norm(w, 2)
    few, _ = power_iteration(w, u, steps=1)
    many, _ = power_iteration(w, u, steps=2000)
    torch.testing.assert_close(many, exact, rtol=1e-6, atol=0)
    assert (few < exact).all() and (few < 0.97 * exact).any()


def test_power_iteration_gradient_is_u_v_transposed():
    w = torch.randn(6, 4, generator=generator(), dtype=torch.float64).requires_grad_()
    sigma, _ = power_iteration(w, torch.ones(6, dtype=torch.float64), steps=500)
    (grad,) = torch.autograd.grad(sigma, w)
    left, _, right = torch.linalg.svd(w.detach())
    torch.testing.assert_close(grad, torch.outer(left[:, 0], right[0]))


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 6)])
def test_evaluation_is_exact_right_after_hard_steps(shape):
    layer = spectral_norm(nn.Linear(shape[1], shape[0]).double(), generator=generator())
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    for step in range(5):
        x = torch.randn(32, shape[1], generator=generator(step), dtype=torch.float64)
        (-layer(x).square().mean()).backward()
        optimizer.step()
    layer.eval()
    sigma = torch.linalg.matrix_norm(layer.weight, 2).item()
    assert sigma == pytest.approx(1.0, abs=1e-12)
    u = layer.parametrizations.weight[0].u.clone()
    layer(x)
    assert torch.equal(u, layer.parametrizations.weight[0].u)  # evaluation changes no state


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_constrained_up_to_its_rounding(dtype):
    layer = spectral_norm(nn.Linear(32, 24), generator=generator()).to(dtype)
    made = spectral_norm(nn.Linear(32, 24, dtype=dtype), generator=generator())
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(100)
    for training, slack in ((True, 0.02), (False, 4 * torch.finfo(dtype).eps)):
        for one in (layer.train(training), made.train(training)):
            for _ in range(30 if training else 1):
                weight = one.weight
            assert weight.dtype == dtype
            sigma = torch.linalg.matrix_norm(weight.detach().double(), 2).item()
            assert sigma == pytest.approx(1.0, abs=slack)


def test_autocast_does_not_reach_the_weight():
    layer = spectral_norm(nn.Linear(16, 16), generator=generator())
    for training in (True, False):
        plain = copy.deepcopy(layer).train(training).weight
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer.train(training).weight, plain)


def test_state_survives_copy_and_round_trip():
    layer = spectral_norm(nn.Linear(4, 3).double(), generator=generator()).eval()
    other = spectral_norm(nn.Linear(4, 3).double(), generator=generator(1)).eval()
    x = torch.randn(5, 4, generator=generator(), dtype=torch.float64)
    assert not torch.allclose(layer(x), other(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), other(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


def test_errors():
    with pytest.raises(TypeError, match=r"nn\.Linear; got Conv2d"):
        spectral.spectral_norm(nn.Conv2d(3, 4, 3))  # the dense part alone
    with pytest.raises(ValueError, match="steps must be at least 1"):
        spectral_norm(nn.Linear(2, 2), steps=0)
    with pytest.raises(ValueError, match="u must have shape"):
        power_iteration(torch.ones(3, 2), torch.ones(2))
    zero = nn.Linear(2, 2)
    nn.init.zeros_(zero.weight)
    with pytest.raises(ValueError, match="not all zero"):
        spectral_norm(zero)
