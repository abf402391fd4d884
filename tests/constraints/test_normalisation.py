"""Spectral normalisation of convolutions, and what both kinds of layer have in common."""

import copy
import math

import pytest
import torch
from torch import nn

from lipnb.constraints import convolution, spectral_norm
from lipnb.constraints.convolution import convolution_norm

# in, out, kernel, stride, padding, mode, image
CASES = [
    (3, 4, 3, 1, 1, "zeros", (8, 8)),
    (4, 3, 3, 2, 1, "zeros", (7, 9)),
    (3, 5, 4, 2, 1, "zeros", (8, 8)),
    (2, 3, 5, 3, 0, "zeros", (9, 8)),
    (6, 1, 4, 1, 0, "zeros", (4, 4)),  # one output, as at the end of a critic
    (3, 2, 1, 1, 0, "zeros", (6, 5)),
    (2, 3, 3, 1, 1, "circular", (6, 7)),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def conv(case, seeded, dtype=torch.float32):
    c_in, c_out, kernel, stride, padding, mode, _ = case
    options = {"stride": stride, "padding": padding, "padding_mode": mode, "dtype": dtype}
    return seeded(lambda: nn.Conv2d(c_in, c_out, kernel, **options))


def largest(matrix):
    return torch.linalg.matrix_norm(matrix, 2).item()


@pytest.mark.parametrize("limit", [512, 0])
@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_evaluation_is_a_bound_after_hard_training(
    case, sized, limit, seeded, layer_matrix, train_hard, monkeypatch
):
    monkeypatch.setattr(convolution, "LARGEST_MATRIX", limit)
    size = case[-1] if sized else None
    layer = spectral_norm(conv(case, seeded), input_size=size, generator=generator())
    before = layer.parametrizations.weight.original.detach().clone()
    train_hard(layer, case[0], *case[-1]).eval()
    assert (layer.parametrizations.weight.original - before).abs().max() > 0.1
    norm = largest(layer_matrix(layer, case[0], *case[-1]))
    assert norm <= 1 + 1e-6
    if sized and limit:
        assert norm == pytest.approx(1, abs=1e-6)
    assert norm > 0.6  # no constraint by far too much either


@pytest.mark.parametrize("limit", [512, 0])
@pytest.mark.parametrize("size", [(8, 8), None])
def test_training_converges_to_what_evaluation_computes(size, limit, seeded, monkeypatch):
    monkeypatch.setattr(convolution, "LARGEST_MATRIX", limit)
    layer = spectral_norm(conv(CASES[1], seeded), input_size=size, steps=20, generator=generator())
    first = layer.weight.detach()
    for _ in range(100):
        last = layer.weight.detach()
    exact = layer.eval().weight.detach()
    ratios = [(w.norm() / exact.norm()).item() for w in (first, last)]
    assert ratios[1] == pytest.approx(1, abs=1e-4)
    assert 1 - 1e-6 <= ratios[1] <= ratios[0] < 1.03  # from below: the weight comes out too large


def test_training_follows_slow_steps(seeded):
    layer = spectral_norm(conv(CASES[0], seeded), input_size=(8, 8), generator=generator())
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    x = torch.randn(8, 3, 8, 8, generator=generator())
    for _ in range(30):
        optimizer.zero_grad()
        layer(x).square().mean().neg().backward()
        optimizer.step()
    trained = layer.weight.detach()
    assert (trained / layer.eval().weight.detach()).mean().item() == pytest.approx(1, abs=0.01)


def test_gradient_is_that_of_the_normalised_weight(seeded):
    case = (2, 2, 3, 1, 1, "zeros", (4, 4))
    layer = spectral_norm(conv(case, seeded, torch.float64), input_size=(4, 4), steps=500)
    g = torch.randn(2, 2, 3, 3, generator=generator(), dtype=torch.float64)
    original = layer.parametrizations.weight.original
    (estimated,) = torch.autograd.grad((layer.weight * g).sum(), original)
    (exact,) = torch.autograd.grad((layer.eval().weight * g).sum(), original)
    torch.testing.assert_close(estimated, exact, rtol=1e-3, atol=1e-5)


def layers(seeded):
    yield spectral_norm(seeded(lambda: nn.Linear(12, 4)), generator=generator()), (12,)
    for limit in (512, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(convolution, "LARGEST_MATRIX", limit)
            layer = conv((3, 4, 3, 1, 1, "zeros", None), seeded)
            yield spectral_norm(layer, input_size=(5, 6), generator=generator()), (3, 5, 6)


def test_a_forward_pass_changes_buffers_in_training_and_nothing_in_evaluation(seeded):
    for layer, shape in layers(seeded):
        x = torch.randn(2, *shape, generator=generator())
        rng = torch.get_rng_state()
        for training, changed in ((True, {"parametrizations.weight.0.u"}), (False, set())):
            layer.train(training)
            before = copy.deepcopy(layer.state_dict())
            layer(x)
            after = layer.state_dict()
            assert {k for k in before if not torch.equal(before[k], after[k])} == changed
        assert torch.equal(rng, torch.get_rng_state())


def test_two_forward_passes_in_one_step(seeded):
    for layer, shape in layers(seeded):
        x = torch.randn(4, *shape, generator=generator()).requires_grad_()
        first = layer(x)
        second = layer(2 * x)
        (slope,) = torch.autograd.grad(first.sum(), x, create_graph=True)
        (second.square().mean() + slope.square().mean()).backward()  # double backward as well
        gradient = layer.parametrizations.weight.original.grad
        assert torch.isfinite(gradient).all() and gradient.abs().max() > 0


def test_evaluation_after_a_step_uses_the_new_weight(seeded):
    for layer, _ in layers(seeded):
        layer.eval()
        old = layer.weight.detach()
        with torch.no_grad():
            layer.parametrizations.weight.original.mul_(-3)
        torch.testing.assert_close(layer.weight.detach(), -old)


def test_state_survives_copies_and_round_trips(seeded):
    for (layer, shape), (other, _) in zip(layers(seeded), layers(seeded), strict=True):
        x = torch.randn(4, *shape, generator=generator())
        with torch.no_grad():
            other.parametrizations.weight.original.neg_()
        layer(x).sum().backward()
        other.load_state_dict(layer.state_dict())
        for training in (True, False):
            twins = [m.train(training) for m in (layer, other, copy.deepcopy(layer))]
            outputs = [m(x) for m in twins]
            assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_autocast_does_not_reach_the_weight(seeded):
    layer = conv(CASES[0], seeded)
    twins = [spectral_norm(copy.deepcopy(layer), generator=generator()) for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = [twins[0].weight, twins[0].eval().weight]
    assert torch.equal(inside[0], twins[1].weight)
    assert torch.equal(inside[1], twins[1].eval().weight)


def test_inference_mode_and_double(seeded):
    for layer, shape in layers(seeded):
        with torch.inference_mode():
            layer.eval()(torch.zeros(1, *shape))
        layer.double().train()(torch.zeros(1, *shape, dtype=torch.float64))
        assert layer.weight.dtype == torch.float64


def test_weights_that_become_zero_stay_zero(seeded):
    for layer, _ in layers(seeded):
        nn.init.zeros_(layer.parametrizations.weight.original)
        for training in (True, False):
            assert not layer.train(training).weight.any()


def test_torch_normalises_the_reshaped_kernel_which_is_no_constraint(seeded, layer_matrix):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = nn.utils.parametrizations.spectral_norm(
            conv(CASES[0], seeded), n_power_iterations=50
        )
    assert largest(layer_matrix(theirs.eval(), 3, 8, 8)) > 1.4
    ours = spectral_norm(conv(CASES[0], seeded), input_size=(8, 8)).eval()
    assert convolution_norm(ours, input_size=(8, 8)).item() == pytest.approx(1, abs=1e-6)


def test_equal_generators_give_equal_layers_and_leave_the_global_one_alone(seeded):
    rng = torch.get_rng_state()
    twins = [
        spectral_norm(conv(CASES[0], seeded), input_size=(8, 8), generator=generator(s))
        for s in (0, 0, 1)
    ]
    us = [layer.parametrizations.weight[0].u for layer in twins]
    assert torch.equal(us[0], us[1]) and not torch.equal(us[0], us[2])
    assert torch.equal(rng, torch.get_rng_state())


def test_errors():
    with pytest.raises(TypeError, match=r"nn\.Linear or nn\.Conv2d; got Conv1d"):
        spectral_norm(nn.Conv1d(3, 4, 3))
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        spectral_norm(nn.Conv2d(3, 4, 3), steps=0)
    with pytest.raises(ValueError, match="one group"):
        spectral_norm(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match="input_size"):
        spectral_norm(nn.Conv2d(4, 4, 3), input_size=(8,))
    for value in (0.0, math.inf, math.nan):
        layer = nn.Conv2d(3, 4, 3)
        nn.init.constant_(layer.weight, value)
        with pytest.raises(ValueError, match="finite and not all zero"):
            spectral_norm(layer)
