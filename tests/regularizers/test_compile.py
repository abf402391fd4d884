"""Penalties on a compiled network equal those on the plain one, or say why not."""

import pytest
import torch
from torch import nn

from lipnb.regularizers import (
    adversarial_lipschitz_penalty,
    gradient_penalty,
    lipschitz_penalty,
    virtual_adversarial_loss,
)

# Dynamo looks at .grad of its inputs and hides the warning, unless warnings are errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


def generator():
    return torch.Generator().manual_seed(0)


def network(outputs=1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, outputs)
        )


@pytest.fixture(autouse=True)
def no_earlier_compilations():
    """Torch counts compilations over a whole process, and beyond eight it runs uncompiled."""
    torch.compiler.reset()


@pytest.fixture(scope="module")
def pair():
    """A network and its compiled view, which shares its parameters."""
    f = network()
    return f, torch.compile(f, backend="aot_eager")


X = torch.randn(8, 3, generator=generator())


@pytest.mark.parametrize("training", [True, False])
def test_first_order_penalties_agree_with_eager_ones(pair, training):
    f, compiled = pair
    f.train(training)
    statistics = [b.clone() for b in f.buffers()]
    calls = [
        lambda f: adversarial_lipschitz_penalty(
            f, X, lipschitz_constant=0.0, steps=2, generator=generator()
        ),
        lambda f: lipschitz_penalty(f, X, X.flip(0), generator=generator()),
    ]
    for call in calls:
        results = []
        for g in (f, compiled):
            penalty = call(g)
            gradients = torch.autograd.grad(penalty.loss, list(f.parameters()), allow_unused=True)
            results.append((penalty.slopes, [p for p in gradients if p is not None]))
        torch.testing.assert_close(results[0], results[1])
        assert results[0][0].max() > 0.01
    assert all(map(torch.equal, statistics, f.buffers()))


def test_virtual_adversarial_training_agrees_too():
    f = network(4).eval()
    compiled = torch.compile(f, backend="aot_eager")
    one, other = (virtual_adversarial_loss(g, X, generator=generator()) for g in (f, compiled))
    torch.testing.assert_close(one.slopes, other.slopes)
    assert one.loss > 1e-4


def test_a_gradient_penalty_of_a_compiled_network_fails_with_torchs_error(pair):
    f, compiled = pair
    f.eval()
    with pytest.raises(RuntimeError, match=r"double backward|donated buffers"):
        gradient_penalty(compiled, X).loss.backward()
    gradient_penalty(f, X).loss.backward()  # the way out: the plain network
    assert f[0].weight.grad.abs().max() > 0


def test_batch_norm_is_recognised_in_a_compiled_network(pair):
    f, compiled = pair
    f.train()
    with pytest.raises(ValueError, match=r"1 \(BatchNorm1d\)"):
        gradient_penalty(compiled, X)


def test_the_limit_xi_zero_agrees_too():
    f = nn.Sequential(nn.Linear(3, 16), nn.LeakyReLU(0.1), nn.Dropout(0.3), nn.Linear(16, 1))
    compiled = torch.compile(f, backend="aot_eager")
    for _ in range(2):
        results = []
        for g in (f, compiled):
            penalty = adversarial_lipschitz_penalty(
                g, X, xi=0.0, lipschitz_constant=0.0, generator=generator()
            )
            results.append((penalty.slopes, torch.autograd.grad(penalty.loss, f[0].weight)))
        torch.testing.assert_close(results[0], results[1])
        assert results[0][0].max() > 0.01
