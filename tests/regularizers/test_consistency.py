"""The consistency term: its exact value for given masks, its reductions, its silences."""

import pytest
import torch
from torch import nn

from lipnb.regularizers import consistency_penalty


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def critic(p=0.5):
    """Values and features with dropout between them."""

    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(0)
                self.hidden = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(p))
                self.last = nn.Linear(16, 1)

        def forward(self, x):
            features = self.hidden(x)
            return self.last(features), features

    return Critic().double()


def points(n=50, seed=0):
    return torch.randn(n, 3, generator=generator(seed), dtype=torch.float64)


class Noise:
    """A random network that shows what it returned."""

    def __init__(self, features=True):
        self.seen, self.features = [], features

    def __call__(self, x):
        values = torch.randn(len(x), dtype=x.dtype)
        features = torch.randn(len(x), 2, 4, dtype=x.dtype)
        self.seen.append((values, features))
        return (values, features) if self.features else values


@pytest.mark.parametrize("margin", [0.0, 6.0])
@pytest.mark.parametrize("weight", [0.0, 0.1, 3.0])
def test_the_loss_is_the_formula_of_the_two_passes(margin, weight):
    f = Noise()
    penalty = consistency_penalty(f, points(), feature_weight=weight, margin=margin)
    (v, h), (w, k) = f.seen
    s = (v - w) ** 2 + weight * ((h - k) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(penalty.slopes, s)
    torch.testing.assert_close(penalty.loss, (s - margin).clamp_min(0).mean())
    assert penalty.violations == (s > margin).sum() and 0 < penalty.violations
    assert margin == 0 or penalty.violations < 50  # the margin is felt
    unclamped = (s - margin).mean()
    assert margin == 0 or penalty.loss > unclamped + 1e-3  # sabotage: two-sided


def test_without_features_only_the_values_count():
    f = Noise(features=False)
    penalty = consistency_penalty(f, points(), feature_weight=3.0)
    torch.testing.assert_close(penalty.slopes, (f.seen[0][0] - f.seen[1][0]) ** 2)


def test_dropout_on_one_feature_has_a_known_mean():
    # f(x) = 2 m x with m in {0, 1}: the difference is 0 or 2 x, each half the time.
    penalty = consistency_penalty(
        nn.Dropout(0.5), torch.full((4000, 1), 3.0), generator=generator()
    )
    assert penalty.slopes.unique().tolist() == [0.0, 36.0]
    # 18 +- 18 / sqrt(4000) = 0.28
    assert penalty.loss.item() == pytest.approx(18.0, abs=4 * 0.28)


@pytest.mark.parametrize("network", [critic().eval(), critic(p=0.0), nn.Linear(3, 1).double()])
def test_it_is_zero_without_randomness(network):
    penalty = consistency_penalty(network, points())
    assert penalty.loss == 0 and penalty.violations == 0
    assert consistency_penalty(critic(), points()).loss > 0.01  # sabotage: with dropout it is not


def test_both_passes_are_differentiated():
    w = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    dropout = nn.Dropout(0.5)
    loss = consistency_penalty(lambda x: w * dropout(x)[:, 0], points(), generator=generator()).loss
    (gradient,) = torch.autograd.grad(loss, w)
    # loss = w^2 c, so that the gradient is 2 loss / w; one detached pass would give another.
    assert gradient.item() == pytest.approx(2 * loss.item() / 2.0)
    assert loss > 0.1


def test_a_given_output_saves_a_pass():
    f, x = critic(), points()
    calls = []
    hook = f.register_forward_pre_hook(lambda *_: calls.append(1))
    output = f(x)
    penalty = consistency_penalty(f, x, output=output)
    assert len(calls) == 2 and penalty.loss > 0.01
    hook.remove()
    other = f(x)
    s = consistency_penalty(lambda x: other, x, output=output).slopes
    exact = (output[0] - other[0]).square()[:, 0] + 0.1 * (output[1] - other[1]).square().mean(1)
    torch.testing.assert_close(s, exact)


def test_it_is_reproducible_and_its_passes_are_independent():
    f, x = critic(), points()
    state = torch.get_rng_state()
    one = consistency_penalty(f, x, generator=generator())
    two = consistency_penalty(f, x, generator=generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.slopes, two.slopes)
    assert not torch.equal(one.slopes, consistency_penalty(f, x, generator=generator(1)).slopes)
    assert one.slopes.min() > 0  # two masks, not one twice
    # Without a generator the global one drives both.
    with torch.random.fork_rng():
        torch.manual_seed(3)
        one = consistency_penalty(f, x)
        again = consistency_penalty(f, x)
        torch.manual_seed(3)
        two = consistency_penalty(f, x)
    assert torch.equal(one.slopes, two.slopes) and not torch.equal(one.slopes, again.slopes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"margin": -1.0}, "margin must be finite and at least 0"),
        ({"margin": float("nan")}, "margin must be finite and at least 0"),
        ({"feature_weight": -0.1}, "feature_weight must be finite and at least 0"),
        ({"x": points() * float("inf")}, "x must be finite"),
        ({"f": lambda x: x}, "one number per sample"),
        ({"f": lambda x: (x[:, 0], x[:3])}, "the features of f\\(x\\) must have 50 rows"),
        ({"f": lambda x: x[:, 0] * float("nan")}, "f\\(x\\) must be finite"),
        ({"f": lambda x: torch.randn(50) * 1e30}, "the difference of two passes must be finite"),
        ({"f": lambda x: (x[:, 0], x / 0)}, "the features of f\\(x\\) must be finite"),
    ],
)
def test_unusable_arguments_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        consistency_penalty(**{"f": critic(), "x": points()} | change)
