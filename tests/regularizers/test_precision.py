"""Half precision, autocast and memory formats."""

import pytest
import torch
from torch import nn

from lipnb.distances import kullback_leibler
from lipnb.regularizers import (
    adversarial_lipschitz_penalty,
    adversarial_perturbation,
    consistency_penalty,
    gradient_penalty,
    lipschitz_penalty,
    max_gradient_penalty,
    perturbation,
    virtual_adversarial_loss,
)

HALF = [torch.bfloat16, torch.float16]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n=128, d=64, seed=0):
    return torch.randn(n, d, generator=generator(seed))


class Head(nn.Module):
    """A last layer that can leave autocast."""

    def __init__(self, outputs, wide):
        super().__init__()
        self.layer, self.wide = nn.Linear(128, outputs), wide

    def forward(self, x):
        if not self.wide:
            return self.layer(x)
        with torch.autocast("cpu", enabled=False):
            return self.layer(x.float())


def network(outputs=1, wide=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(64, 128),
            nn.LeakyReLU(0.2),
            nn.Linear(128, 128),
            nn.LeakyReLU(0.2),
            Head(outputs, wide),
        )


def cosine(one, other):
    return nn.functional.cosine_similarity(one.float().flatten(1), other.float().flatten(1))


@pytest.mark.parametrize("dtype", HALF)
def test_autocast_ends_in_float32_and_finds_the_direction(dtype):
    f, x, start = network(), points(), points(seed=1)
    exact = adversarial_perturbation(f, x, start=start, radius=1.0, xi=1.0)
    alp = {"start": start, "radius": 1.0, "xi": 1.0, "lipschitz_constant": 0.0}
    with torch.autocast("cpu", dtype):
        assert f(x).dtype == dtype
        r = adversarial_perturbation(f, x, start=start, radius=1.0, xi=1.0)
        penalties = [
            adversarial_lipschitz_penalty(f, x, **alp),
            lipschitz_penalty(f, x, points(seed=2), lipschitz_constant=0.0),
            gradient_penalty(f, x, lipschitz_constant=0.0),
            max_gradient_penalty(f, x),
            consistency_penalty(nn.Sequential(f, nn.Dropout()), x),
            virtual_adversarial_loss(network(4), x, xi=1.0),
        ]
    assert r.dtype == torch.float32
    torch.testing.assert_close(r.norm(dim=1), torch.ones(128))
    assert cosine(r, exact).mean() > 0.97
    for penalty in penalties:
        assert penalty.slopes.dtype == penalty.loss.dtype == torch.float32
        assert torch.isfinite(penalty.loss) and penalty.loss > 0
    true = adversarial_lipschitz_penalty(f, x, **alp).slopes
    close = gradient_penalty(f, x).slopes
    assert penalties[0].slopes.mean().item() == pytest.approx(true.mean().item(), rel=0.02)
    assert penalties[2].slopes.mean().item() == pytest.approx(close.mean().item(), rel=0.01)


def test_bfloat16_outputs_tie_and_a_wide_last_layer_does_not():
    x, start = points(), points(seed=1)
    step = 0.1 * start / start.norm(dim=1, keepdim=True)
    ties, kept = {}, {}
    for wide in (False, True):
        f = network(wide=wide)
        with torch.autocast("cpu", torch.bfloat16):
            ties[wide] = f(x + step) == f(x)
            r = adversarial_perturbation(f, x, start=start, radius=0.1, xi=0.1)
        assert torch.isfinite(r).all()
        kept[wide] = (r - step).abs().amax(1) < 1e-6
    assert ties[False].float().mean() > 0.05 and not ties[True].any()
    # A tie has no direction: the random one is kept. All others move.
    assert torch.equal(kept[False], ties[False][:, 0])
    assert not kept[True].any()


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_inputs_and_networks(dtype):
    f, x = network().to(dtype), points().to(dtype)
    r = adversarial_perturbation(f, x, radius=(0.5, 2.0), xi=1.0, generator=generator())
    assert r.dtype == dtype
    exact = adversarial_perturbation(
        f.float(), x.float(), radius=(0.5, 2.0), xi=1.0, generator=generator()
    )
    f.to(dtype)
    torch.testing.assert_close(r.float().norm(dim=1), exact.norm(dim=1), rtol=0.01, atol=0)
    assert cosine(r, exact).abs().mean() > 0.97  # rounding can turn the sign of the rise
    penalty = adversarial_lipschitz_penalty(f, x, xi=1.0, generator=generator())
    assert penalty.slopes.dtype == torch.float32
    penalty.loss.backward()
    assert all(p.grad.dtype == dtype and torch.isfinite(p.grad).all() for p in f.parameters())


def test_the_quotient_divides_by_the_step_that_was_really_made():
    # f = x_1 in bfloat16: at 100 the numbers are half a unit apart, and a step of 0.3 is 0 or 0.5.
    x = torch.tensor([[100.0, 0.0]]).bfloat16()
    start = torch.tensor([[1.0, 0.0]])
    for radius, slope in ((0.2, 0.0), (0.3, 1.0), (0.6, 1.0)):
        penalty = adversarial_lipschitz_penalty(
            lambda x: x[:, 0], x, radius=radius, steps=0, start=start, lipschitz_constant=0.0
        )
        assert penalty.slopes.item() == slope  # dividing by the radius would give 1.67 at 0.3


def test_domain_is_kept_in_half_precision():
    x = points().bfloat16().clamp(-1, 1)
    seen = []

    def f(x):
        seen.append(x)
        return x.float().sum(1)

    adversarial_lipschitz_penalty(f, x, domain=(-1.0, 1.0), radius=3.0, xi=3.0)
    assert all(z.dtype == torch.bfloat16 and z.abs().max() <= 1 for z in seen)


def test_float16_does_not_swallow_the_gradient_of_a_small_divergence(monkeypatch):
    f, x, start = network(10), points(), points(seed=1)

    def small(y, z):
        return 1e-4 * kullback_leibler(y, z)

    def direction():
        return adversarial_perturbation(
            f, x, start=start, radius=1.0, xi=1.0, output_distance=small
        )

    exact = direction()
    with torch.autocast("cpu", torch.float16):
        found = direction()
        monkeypatch.setattr(perturbation, "_scaled_for_half", lambda rise, other: rise)
        unscaled = direction()
    assert cosine(found, exact).mean() > 0.99
    assert cosine(unscaled, exact).mean() < 0.5  # sabotage


def test_float16_gradient_norms_do_not_overflow():
    a = torch.full((64,), 300.0, dtype=torch.float16)
    x = torch.zeros(3, 64, dtype=torch.float16)
    penalty = gradient_penalty(lambda x: x @ a, x, lipschitz_constant=0.0)
    assert penalty.slopes.tolist() == [2400.0] * 3
    assert penalty.slopes.dtype == torch.float32 and penalty.loss.item() == 2400.0**2
    assert torch.isinf(a.square().sum())  # sabotage: in float16


def convolutional():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.LeakyReLU(0.2), nn.Conv2d(8, 4, 3), nn.Flatten(),
            nn.LeakyReLU(0.2), nn.Linear(4 * 4 * 4, 1),
        ).double()  # fmt: skip


@pytest.mark.parametrize("domain", [None, (-1.0, 1.0)])
@pytest.mark.parametrize("xi", [0.0, 2.0])
def test_channels_last_is_kept_and_gives_the_same_values(domain, xi):
    f, seen = convolutional(), []
    x = torch.rand(5, 3, 13, 13, generator=generator(), dtype=torch.float64) * 2 - 1

    def watched(x):
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return f(x)

    options = {"domain": domain, "xi": xi, "lipschitz_constant": 0.0}
    plain = adversarial_lipschitz_penalty(watched, x, generator=generator(), **options)
    assert not any(seen)
    seen.clear()
    last = x.contiguous(memory_format=torch.channels_last)
    f.to(memory_format=torch.channels_last)
    penalty = adversarial_lipschitz_penalty(watched, last, generator=generator(), **options)
    assert len(seen) == (2 if xi == 0 else 3) and all(seen)
    torch.testing.assert_close(penalty.slopes, plain.slopes)
    for steps in (0, 1):
        r = adversarial_perturbation(f, last, domain=domain, xi=xi, steps=steps)
        assert r.is_contiguous(memory_format=torch.channels_last)
    seen.clear()
    torch.testing.assert_close(
        gradient_penalty(watched, last).slopes, gradient_penalty(f, x).slopes
    )
    assert all(seen)
