"""The limit xi = 0 of the search, and the cost of all variants in matrix products."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lipnb.models import mlp
from lipnb.regularizers import adversarial_lipschitz_penalty, adversarial_perturbation

A = torch.tensor([3.0, 4.0], dtype=torch.float64)


def linear(x):
    return x @ A


def points(n=50, d=2, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def critic(batch_norm=False):
    return mlp([2, 16, 1], nn.Tanh, batch_norm=batch_norm, dtype=torch.float64)


def test_xi_zero_is_the_limit_of_small_xi():
    f, x, start = critic(), points(), points(seed=1)
    limit = adversarial_perturbation(f, x, radius=2.0, xi=0.0, start=start)
    for xi, tolerance in ((1e-3, 1e-2), (1e-6, 1e-5)):
        r = adversarial_perturbation(f, x, radius=2.0, xi=xi, start=start)
        torch.testing.assert_close(r, limit, rtol=0, atol=tolerance)
    # Written out: the gradient at x, with the sign of its angle to the start.
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(z).sum(), z)
    sign = torch.sign((gradient * start).sum(1, keepdim=True))
    torch.testing.assert_close(limit, 2 * sign * gradient / gradient.norm(dim=1, keepdim=True))
    assert (sign < 0).any() and (sign > 0).any()
    for steps in (2, 5):  # more steps stay where they are
        again = adversarial_perturbation(f, x, radius=2.0, xi=0.0, start=start, steps=steps)
        assert torch.equal(again, limit)
    random = adversarial_perturbation(f, x, radius=2.0, xi=0.0, start=start, steps=0)
    torch.testing.assert_close(random, 2 * start / start.norm(dim=1, keepdim=True))


def test_xi_zero_penalty_is_the_same_however_f_of_x_is_given():
    f, x, start = critic(), points(), points(seed=1)
    options = {"xi": 0.0, "start": start, "radius": 2.0, "lipschitz_constant": 0.0}
    z = x.clone().requires_grad_()
    given = {
        "computed inside": None,
        "with its graph down to x": f(z),
        "with its graph, x without": f(x),
        "detached": f(x).detach(),
    }
    slopes, gradients = {}, {}
    for name, output in given.items():
        point = z if name == "with its graph down to x" else x
        penalty = adversarial_lipschitz_penalty(f, point, output=output, **options)
        slopes[name] = penalty.slopes.detach()
        gradients[name] = torch.autograd.grad(penalty.loss, f[0].weight)[0]
    for name in given:
        torch.testing.assert_close(slopes[name], slopes["computed inside"])
        same = torch.allclose(gradients[name], gradients["computed inside"])
        assert same == (name != "detached"), name
    fixed = adversarial_lipschitz_penalty(f, x, fixed_output=True, **options).loss
    torch.testing.assert_close(torch.autograd.grad(fixed, f[0].weight)[0], gradients["detached"])


class _GivesBuffersAway(torch.autograd.Function):
    """Refuses what inductor's graphs refuse: a backward pass after which the graph is kept."""

    @staticmethod
    def forward(ctx, y):
        return y.clone()

    @staticmethod
    def backward(ctx, g):
        if torch._C._autograd._get_current_graph_task_keep_graph():
            raise RuntimeError("compiled with non-empty donated buffers")
        return g


def test_where_the_graph_cannot_be_kept_the_direction_has_a_pass_of_its_own():
    f, start = critic(), points(seed=1)
    options = {"xi": 0.0, "start": start, "radius": 2.0, "lipschitz_constant": 0.0}
    results = []
    for g in (f, lambda x: _GivesBuffersAway.apply(f(x))):
        x = points().requires_grad_()
        for output in (None, g(x)):
            penalty = adversarial_lipschitz_penalty(g, x, output=output, **options)
            gradient = torch.autograd.grad(penalty.loss, f[0].weight)[0]
            results.append((penalty.slopes.detach(), gradient))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])
    assert results[0][0].min() > 0

    def broken(x):
        y = f(x)
        y.register_hook(lambda g: g @ g)  # its own error, which must not be swallowed
        return y

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        adversarial_lipschitz_penalty(broken, points(), **options)


class CountFlops(TorchDispatchMode):
    """Multiplications in matrix products; torch's own counter refuses a gradient of a leaf."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            a, b = args[-2:]
            self.total += a.shape[0] * a.shape[1] * b.shape[1]
        return result


def test_passes_are_as_many_as_the_method_needs():
    layers = []
    for _ in range(4):
        layers += [nn.Linear(8, 8), nn.Tanh()]
    f = nn.Sequential(*layers)
    x = points(16, 8).float()
    layer, forward = 16 * 8 * 8, 4 * 16 * 8 * 8

    def cost(loss, points=x):
        with CountFlops() as counter:
            torch.autograd.grad(loss(f, points), list(f.parameters()))
        return counter.total

    # A plain step: one pass, and two backward but for the gradient of the first layer's input.
    plain = cost(lambda f, x: f(x).sum())
    assert plain == 3 * forward - layer

    def with_alp(f, x, **options):
        y = f(x)
        z = y.sum(1)  # one number per sample
        g = lambda x: f(x).sum(1)  # noqa: E731
        return (
            z.sum()
            + adversarial_lipschitz_penalty(g, x, output=z, lipschitz_constant=0.0, **options).loss
        )

    for k in (0, 1, 5):
        # 3 + 2k + 3: the loss, k times a pass and its gradient in x, a pass and its backward.
        assert cost(lambda f, x, k=k: with_alp(f, x, steps=k)) == (6 + 2 * k) * forward - 2 * layer
    # 3 + 1 + 3: the direction comes from the graph of f(x) ...
    leaf = x.clone().requires_grad_()
    assert cost(lambda f, x: with_alp(f, x, xi=0.0), leaf) == 7 * forward - 2 * layer
    # ... unless that graph does not reach x.
    assert cost(lambda f, x: with_alp(f, x, xi=0.0)) == 8 * forward - 2 * layer
    # Where f(x) is left to the penalty, it computes it once, with a graph down to x.

    def alone(f, x):
        return adversarial_lipschitz_penalty(
            lambda x: f(x).sum(1), x, lipschitz_constant=0.0, xi=0.0
        ).loss

    assert cost(alone) == 7 * forward - 2 * layer


@pytest.mark.parametrize(
    ("f", "options", "message"),
    [
        (linear, {"output_distance": lambda y, z: (y - z).abs()}, "xi must be positive for any"),
        (linear, {"input_distance": lambda y, z: (y - z).abs().sum(1)}, "xi must be positive for"),
        (lambda x: x, {}, "one number per sample"),
        (lambda x: torch.ones(50), {}, "depend on x"),
        (lambda x: linear(x) / 0, {}, "f\\(x\\) must be finite"),
        (lambda x: (linear(x) * 0).sqrt(), {}, "the gradient of f must be finite"),
    ],
)
@pytest.mark.parametrize("call", [adversarial_perturbation, adversarial_lipschitz_penalty])
def test_xi_zero_is_refused_where_it_means_nothing(call, f, options, message):
    with pytest.raises(ValueError, match=message):
        call(f, points(), xi=0.0, **options)


def test_xi_zero_refuses_batch_statistics():
    f = critic(batch_norm=True)
    with pytest.raises(ValueError, match="Use evaluation mode, or a positive xi"):
        adversarial_lipschitz_penalty(f, points(), xi=0.0)
    adversarial_lipschitz_penalty(f, points(), xi=0.1)
    adversarial_lipschitz_penalty(f.eval(), points(), xi=0.0)
