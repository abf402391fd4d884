"""lipnb.models.lean: the numbers of torch, to the last bit, and less work in the second order."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from lipnb.flops import count_flops
from lipnb.models import LeanAvgPool2d, LeanReLU, lean, mlp, wgan_critic
from lipnb.regularizers import gradient_penalty

POOLINGS = [
    {"kernel_size": 2},
    {"kernel_size": (3, 2), "stride": (1, 2)},
    {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
    {"kernel_size": 2, "stride": 2, "ceil_mode": True, "divisor_override": 3},
]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def orders(f: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Value, gradients of first order, and the gradients of a gradient penalty."""
    x = x.clone().requires_grad_()
    y = f(x)
    first = torch.autograd.grad(y.square().sum(), [x, *parameters], retain_graph=True)
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    penalty = (gradient.flatten(1).norm(dim=1) - 1).square().sum() + y.square().sum()
    return [y, *first, gradient, *torch.autograd.grad(penalty, [x, *parameters])]


def bits_apart(one: list[Tensor], two: list[Tensor]) -> float:
    assert all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(one, two, strict=True))
    return max((a - b).abs().max().item() for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_critic_has_the_same_gradients_to_the_last_bit(
    dtype: torch.dtype, batch_norm: bool
) -> None:
    stock = wgan_critic(4, batch_norm=batch_norm, dtype=dtype)
    ours = lean(deepcopy(stock))
    x = draw(2, 3, 32, 32, dtype=dtype)
    one, two = (orders(net, x, list(net.parameters())) for net in (stock, ours))
    assert bits_apart(one, two) == 0.0
    values, input_gradient, second_order_of_last_weight = one[0], one[1], one[-2]
    for t in (values, input_gradient, second_order_of_last_weight):
        assert t.abs().max() > 1e-3


def test_a_wrong_mask_would_be_seen() -> None:
    stock = mlp([3, 5, 1], dtype=torch.float64)
    ours = deepcopy(stock)
    parameters = [list(net.parameters()) for net in (stock, ours)]
    x = draw(4, 3)
    for activation, same in ((LeanReLU(), True), (nn.LeakyReLU(1e-9), False)):
        ours[1] = activation
        assert (bits_apart(*map(orders, (stock, ours), (x, x), parameters)) == 0.0) is same


def test_derivatives_of_relu_agree_with_differences() -> None:
    x = draw(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(LeanReLU(), x)
    assert torch.autograd.gradgradcheck(LeanReLU(), x)


@pytest.mark.parametrize("options", POOLINGS)
def test_derivatives_of_pooling_agree_with_differences(options: dict[str, object]) -> None:
    x = draw(2, 2, 7, 6).requires_grad_()
    assert torch.autograd.gradcheck(LeanAvgPool2d(**options), x)
    assert torch.autograd.gradgradcheck(LeanAvgPool2d(**options), x)


@pytest.mark.parametrize("options", POOLINGS)
def test_pooling_has_the_numbers_of_torch(options: dict[str, object]) -> None:
    stock, ours = nn.AvgPool2d(**options), LeanAvgPool2d(**options)
    for x in (draw(2, 3, 7, 6), draw(3, 7, 6)):
        assert bits_apart(orders(stock, x, []), orders(ours, x, [])) == 0.0


def test_third_order() -> None:
    x = draw(3, 2, 4, 4).requires_grad_()
    results = []
    for relu, pool in ((nn.ReLU(), nn.AvgPool2d(2)), (LeanReLU(), LeanAvgPool2d(2))):
        y = pool(relu(x.pow(4))).pow(3).sum()
        for _ in range(3):
            (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        results.append(y)
    assert bits_apart(results[:1], results[1:]) == 0.0
    assert results[0].abs().max() > 1


def test_channels_last_stays_channels_last() -> None:
    x = draw(2, 4, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
    y = LeanAvgPool2d(2)(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    for tensor in (y, gradient):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    (stock,) = torch.autograd.grad(nn.AvgPool2d(2)(x).square().sum(), x)
    assert torch.equal(gradient, stock)


def test_an_activation_at_zero_has_the_gradient_zero() -> None:
    x = torch.tensor([-0.0, 0.0, 1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(LeanReLU()(x).sum(), x)
    assert gradient.tolist() == [0.0, 0.0, 1.0]


def test_pooling_keeps_no_input_for_the_backward_pass() -> None:
    kept: list[int] = []
    x = draw(2, 3, 8, 8).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        LeanAvgPool2d(2)(x)
        assert kept == []
        nn.AvgPool2d(2)(x)
        assert kept == [x.numel()]


def penalty_cost(network: nn.Module, x: Tensor) -> float:
    """Cost of a gradient penalty in forward passes."""
    forward = count_flops(lambda: network(x))
    return count_flops(lambda: gradient_penalty(network, x).loss.backward()) / forward


@pytest.mark.parametrize("make", [lambda: wgan_critic(16), lambda: mlp([64, 64, 64, 64, 1])])
def test_a_gradient_penalty_takes_4_passes_instead_of_6(make: Callable[[], nn.Module]) -> None:
    network = make()
    x = draw(2, 3, 32, 32, dtype=torch.float32)
    x = x if isinstance(network[-2], nn.Flatten) else x.flatten()[: 2 * 64].view(2, 64)
    # Of the wasted backward pass torch leaves out the parts above the last ReLU.
    assert 5.7 < penalty_cost(network, x) <= 6.0
    assert penalty_cost(lean(network), x) == pytest.approx(4.0, rel=0.03)


def test_lean_changes_classes_only() -> None:
    class Own(nn.ReLU):
        pass

    relu, own = nn.ReLU(inplace=True), Own()
    seen = []
    relu.register_forward_hook(lambda *_: seen.append(1))
    network = nn.Sequential(nn.Linear(2, 2), relu, nn.Sequential(nn.AvgPool2d(2), relu), own).eval()
    parameters = list(network.parameters())
    assert lean(network) is network
    assert type(network[1]) is LeanReLU and network[2][1] is network[1]
    assert type(network[2][0]) is LeanAvgPool2d and network[2][0].kernel_size == 2
    assert type(network[3]) is Own
    assert not network[1].training
    assert all(p is q for p, q in zip(parameters, network.parameters(), strict=True))
    x = draw(3)
    before = x.clone()
    network[1](x)
    assert seen == [1] and torch.equal(x, before)
    assert isinstance(lean(nn.ReLU()), LeanReLU)
    assert type(deepcopy(lean(network))[1]) is LeanReLU


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(TypeError, match=r"network must be an nn.Module; got builtin"):
        lean(torch.relu)
