"""Plain copies compute the same; a cached step computes each weight once."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from lipnb.bounds import product_bound
from lipnb.constraints import orthogonal, plain_copy, spectral_norm
from lipnb.models import GroupSort, mlp
from lipnb.regularizers import adversarial_lipschitz_penalty


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def image_network(constrain):
    return nn.Sequential(
        constrain(nn.Conv2d(2, 4, 3, padding=1)),
        nn.BatchNorm2d(4),
        GroupSort(),
        nn.Sequential(constrain(nn.Conv2d(4, 4, 1)), nn.Flatten(), constrain(nn.Linear(100, 10))),
        nn.Dropout(),
    )


def sized_norm(layer):
    return spectral_norm(layer, input_size=(5, 5), generator=generator())


def by_bjorck(layer):
    return orthogonal(layer, method="bjorck", generator=generator())


CONSTRAINTS = [
    sized_norm,
    lambda layer: spectral_norm(layer, generator=generator()),
    lambda layer: orthogonal(layer, generator=generator()),
    by_bjorck,
    parametrizations.weight_norm,  # two originals
    parametrizations.spectral_norm,
    nn.Identity(),  # no constraint at all
]


@pytest.mark.parametrize("constrain", CONSTRAINTS)
def test_it_computes_what_the_network_computes_in_evaluation_mode(constrain, train_hard):
    net = train_hard(image_network(constrain), 2, 5, 5, steps=5)
    x = torch.randn(20, 2, 5, 5, generator=generator())
    state = {k: v.clone() for k, v in net.state_dict().items()}
    plain = plain_copy(net)
    assert net.training and not any(m.training for m in plain.modules())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert (plain(x) - net.eval()(x)).abs().max() < 1e-6
    # Ordinary layers with ordinary parameters, which an ordinary network can load.
    assert [type(m) for m in plain.modules()] == [
        type(m) for m in image_network(nn.Identity()).modules()
    ]
    other = image_network(nn.Identity()).eval()
    other.load_state_dict(plain.state_dict())
    assert torch.equal(other(x), plain(x))
    assert all(p.is_leaf and p.requires_grad for p in plain.parameters())


@pytest.mark.parametrize("constrain", CONSTRAINTS[:-1])
def test_the_original_keeps_its_constraint(constrain, train_hard):
    # torch's own remove_parametrizations takes it away: a deep copy shares the class.
    net = image_network(constrain)
    plain = plain_copy(net)
    before = plain[0].weight.detach().clone()
    train_hard(net, 2, 5, 5, steps=3)
    assert parametrize.is_parametrized(net[0]) and net[0].weight.grad_fn is not None
    assert not torch.equal(plain_copy(net)[0].weight, before)
    assert torch.equal(plain[0].weight, before)  # no shared memory
    with torch.no_grad():
        plain[0].weight.zero_()
    assert net[0].weight.abs().max() > 0


def test_frozen_shared_and_buffered_tensors():
    layer = orthogonal(nn.Linear(3, 3))
    layer.requires_grad_(False)
    parametrize.register_parametrization(layer, "bias", nn.Tanh())
    layer.register_buffer("table", torch.ones(2))
    parametrize.register_parametrization(layer, "table", nn.Softplus())
    plain = plain_copy(nn.Sequential(layer, layer))
    assert plain[0] is plain[1] and type(plain[0]) is nn.Linear
    assert {n for n, p in plain[0].named_parameters() if not p.requires_grad} == {"weight", "bias"}
    torch.testing.assert_close(plain[0].bias, layer.bias)
    assert torch.equal(plain[0].table, layer.table)
    assert set(plain[0].state_dict()) == {"weight", "bias", "table"}


def test_a_cached_old_weight_is_not_folded():
    layer = spectral_norm(nn.Linear(3, 3), generator=generator()).eval()
    with parametrize.cached():
        old = layer.weight.detach().clone()
        with torch.no_grad():
            layer.parametrizations.weight.original.neg_()
        assert torch.equal(layer.weight, old)  # stale, as torch means it to be
        torch.testing.assert_close(plain_copy(layer).weight.detach(), -old)
    torch.testing.assert_close(layer.weight.detach(), -old)


def test_bounds_read_constrained_and_plain_networks_alike():
    net = mlp([2, 8, 8, 1], GroupSort)
    for layer in net:
        if isinstance(layer, nn.Linear):
            orthogonal(layer)
    assert product_bound(net.eval()).value == pytest.approx(1, abs=1e-6)
    assert product_bound(plain_copy(net)).value == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("constrain", CONSTRAINTS[:4])
def test_a_cached_training_step_computes_each_weight_once(constrain, cached):
    steps = 5
    net = nn.Sequential(
        constrain(nn.Conv2d(2, 4, 3, padding=1)),
        GroupSort(),
        nn.Flatten(),
        constrain(nn.Linear(100, 1)),
    )
    calls = []
    for index in (0, 3):
        net[index].parametrizations.weight.register_forward_hook(
            lambda *_, i=index: calls.append(i)
        )
    x = torch.randn(6, 2, 5, 5, generator=generator())
    before = [p.detach().clone() for p in net.parameters()]
    with parametrize.cached() if cached else contextlib.nullcontext():
        y = net(x)
        penalty = adversarial_lipschitz_penalty(
            net, x, output=y, steps=steps, generator=generator()
        )
        (y.mean() + 10 * penalty.loss).backward()
    # f(x), k points of the search, and the perturbed point.
    assert sorted(calls) == ([0, 3] if cached else [0] * (steps + 2) + [3] * (steps + 2))
    torch.optim.SGD(net.parameters(), lr=1.0).step()
    moved = [(p - b).abs().max() > 0 for p, b in zip(net.parameters(), before, strict=True)]
    assert all(
        m for m, (n, _) in zip(moved, net.named_parameters(), strict=True) if "bias" not in n
    )
    calls.clear()
    net(x)
    assert calls == [0, 3]  # outside, the next use is computed from the new parameters


def test_the_cached_step_has_the_gradient_of_the_plain_one():
    gradients = []
    for cached in (True, False):
        net = mlp([3, 8, 1], GroupSort, dtype=torch.float64)
        for layer in (net[0], net[2]):
            orthogonal(layer)
        x = torch.randn(6, 3, generator=generator(), dtype=torch.float64)
        with parametrize.cached() if cached else contextlib.nullcontext():
            penalty = adversarial_lipschitz_penalty(
                net, x, steps=3, lipschitz_constant=0.5, generator=generator()
            )
            penalty.loss.backward()
        gradients.append([p.grad for p in net.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    assert gradients[0][0].abs().max() > 0


def test_only_modules_are_copied():
    with pytest.raises(TypeError, match=r"nn\.Module; got dict"):
        plain_copy({})
