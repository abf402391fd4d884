"""The hand-written passes of StackedMLP against torch's own."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from lipnb.models.stacked import StackedMLP

WIDTHS = [2, 7, 5, 1]


def stack(batch_norm, copies=3, seed=0):
    generators = [torch.Generator().manual_seed(seed + m) for m in range(copies)]
    net = StackedMLP(WIDTHS, generators, batch_norm=batch_norm)
    g = torch.Generator().manual_seed(99)
    for parameter in [*net.gains, *net.shifts]:  # away from 1 and 0
        parameter.data.add_(torch.rand(parameter.shape, generator=g, dtype=parameter.dtype) - 0.5)
    return net


def points(n=50, copies=3):
    g = torch.Generator().manual_seed(7)
    return 8 * torch.rand(copies, n, 2, generator=g, dtype=torch.float64) - 4


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_values_and_gradients_are_those_of_plain_operations(batch_norm, training):
    net, x = stack(batch_norm), points().requires_grad_()
    net(x, update=True)
    net.train(training)
    weight = torch.randn(3, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inputs = [x, *net.parameters()]
    lean = torch.autograd.grad((net(x) * weight).sum(), inputs)
    plain = torch.autograd.grad((net.reference(x) * weight).sum(), inputs)
    torch.testing.assert_close(net(x), net.reference(x), rtol=1e-12, atol=1e-12)
    for one, other in zip(lean, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_each_network_is_an_ordinary_sequential():
    net, x = stack(True), points()
    for _ in range(3):
        net(x, update=True)
    for m in range(3):
        layers = []
        for i, (n_in, n_out) in enumerate(pairwise(WIDTHS)):
            layers.append(nn.Linear(n_in, n_out))
            if i < 2:
                layers += [nn.BatchNorm1d(n_out), nn.ReLU()]
        other = nn.Sequential(*layers).double()
        linears = [k for k in other if isinstance(k, nn.Linear)]
        norms = [k for k in other if isinstance(k, nn.BatchNorm1d)]
        with torch.no_grad():
            for k, w, b in zip(linears, net.weights, net.biases, strict=True):
                k.weight.copy_(w[m])
                k.bias.copy_(b[m, :, 0])
            for k, gain, shift in zip(norms, net.gains, net.shifts, strict=True):
                k.weight.copy_(gain[m, :, 0])
                k.bias.copy_(shift[m, :, 0])
        for _ in range(3):
            trained = other(x[m])
        torch.testing.assert_close(net(x)[m], trained.squeeze(1))
        for k, (mean, variance) in zip(norms, net.statistics(), strict=True):
            torch.testing.assert_close(mean[m, :, 0], k.running_mean)
            torch.testing.assert_close(variance[m, :, 0], k.running_var)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_input_gradient_and_its_derivative(batch_norm):
    net, x = stack(batch_norm), points()
    net(x, update=True)
    if batch_norm:
        net.eval()
    weight = torch.randn(3, 50, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(net.reference(y).sum(), y, create_graph=True)
    lean = net.input_gradient(x, folded=True)
    torch.testing.assert_close(lean, plain, rtol=1e-10, atol=1e-10)
    wanted = torch.autograd.grad((plain * weight).sum(), list(net.weights))
    got = torch.autograd.grad((lean * weight).sum(), list(net.weights))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_folding_keeps_the_function():
    net, x = stack(True), points()
    net(x, update=True)
    net.eval()
    weights, biases = net.fold()
    h = x.mT
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        h = weight @ h + bias
        h = h.relu() if i < 2 else h
    torch.testing.assert_close(h.squeeze(1), net(x))


def test_statistics_move_only_when_asked():
    net, x = stack(True), points()
    before = [s.clone() for pair in net.statistics() for s in pair]
    net(x)
    assert all(torch.equal(a, s) for a, s in zip(before, sum(net.statistics(), ()), strict=True))
    net(x, update=True)
    assert not torch.equal(before[0], net.statistics()[0][0])


def test_networks_do_not_depend_on_their_neighbours():
    alone = StackedMLP(WIDTHS, [torch.Generator().manual_seed(1)])
    torch.testing.assert_close(alone(points()[1:2]), stack(False)(points())[1:2])


def test_errors():
    with pytest.raises(ValueError, match="end in 1"):
        StackedMLP([2, 3], [torch.Generator()])
    with pytest.raises(ValueError, match="one generator per network"):
        StackedMLP([2, 1], [])
