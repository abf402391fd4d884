"""Samplers of points: shapes, laws, invariants, refusals."""

import math

import pytest
import torch

from lipnb.regularizers import interpolate, lipschitz_penalty, local_perturbation, random_pairs


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=6, seed=0):
    return torch.randn(n, 3, 4, 5, generator=generator(seed), dtype=torch.float64)


def test_one_alpha_per_sample():
    real, fake = images(500), images(500, seed=1)
    points = interpolate(real, fake, generator=generator())
    alpha = ((points - real) / (fake - real)).flatten(1)
    torch.testing.assert_close(alpha, alpha[:, :1].expand_as(alpha), rtol=1e-7, atol=1e-7)
    alpha = alpha[:, 0]
    assert 0 <= alpha.min() < 0.02 and 0.98 < alpha.max() <= 1
    # The mean of 500 uniform numbers has the standard deviation 0.013.
    assert alpha.mean().item() == pytest.approx(0.5, abs=0.05)
    assert alpha.std().item() == pytest.approx(math.sqrt(1 / 12), abs=0.03)


def test_interpolates_are_detached_and_keep_type():
    real, fake = images().float(), images(seed=1).float().requires_grad_()
    points = interpolate(real, 2 * fake)
    assert not points.requires_grad and points.dtype == torch.float32
    half = interpolate(real.bfloat16(), fake.detach().bfloat16(), generator=generator())
    assert half.dtype == torch.bfloat16
    wide = interpolate(
        real.bfloat16().float(), fake.detach().bfloat16().float(), generator=generator()
    )
    assert torch.equal(half, wide.bfloat16())  # rounded once, at the end


@pytest.mark.parametrize("n", [2, 3, 17])
def test_partners_are_a_permutation_without_fixed_points(n):
    x = torch.arange(float(n)).reshape(n, 1)
    for seed in range(50):
        same, y = random_pairs(x, generator=generator(seed))
        assert torch.equal(same, x)
        assert (y != x).all()
        assert torch.equal(y.flatten().sort().values, x.flatten())


def test_every_partner_is_equally_likely():
    x = torch.arange(4.0).reshape(4, 1)
    g = generator()
    counts = torch.zeros(4, 4)
    for _ in range(3000):
        y = random_pairs(x, generator=g)[1].flatten().long()
        counts[torch.arange(4), y] += 1
    assert (counts.diagonal() == 0).all()
    others = counts[~torch.eye(4, dtype=torch.bool)]
    # 1000 each; the standard deviation is sqrt(3000 * 1/3 * 2/3) = 26.
    assert (others - 1000).abs().max() < 5 * 26


def test_pairs_go_into_the_penalty():
    a = torch.ones(60, dtype=torch.float64)
    x, y = random_pairs(images(20), generator=generator())
    slopes = lipschitz_penalty(lambda x: x.flatten(1) @ a, x, y).slopes
    difference = (x - y).flatten(1)
    torch.testing.assert_close(slopes, (difference @ a).abs() / difference.norm(dim=1))
    assert slopes.min() > 0  # no sample meets itself


def test_local_perturbation_has_the_law_of_the_source():
    x = 3 * images(2000)
    points = local_perturbation(x, scale=0.5, generator=generator())
    step = (points - x) / (0.5 * x.std())
    assert 0 <= step.min() and step.max() <= 1
    # (1 - alpha) u: mean 1/4; its largest entry per sample is close to 1 - alpha, mean 1/2.
    assert step.mean().item() == pytest.approx(0.25, abs=0.01)
    largest = step.flatten(1).amax(1)
    assert largest.mean().item() == pytest.approx(0.5, abs=0.03)
    # One alpha per sample, one u per coordinate: within a sample the steps are uniform.
    inside = (step.flatten(1) / largest.unsqueeze(1)).std(1).mean().item()
    assert inside == pytest.approx(math.sqrt(1 / 12), abs=0.02)
    assert torch.equal(local_perturbation(x, scale=0.0), x)


@pytest.mark.parametrize(
    "sampler",
    [
        lambda x, g: interpolate(x, -x, generator=g),
        lambda x, g: random_pairs(x, generator=g)[1],
        lambda x, g: local_perturbation(x, generator=g),
    ],
)
def test_samplers_are_reproducible_and_keep_the_memory_format(sampler):
    x = images().contiguous(memory_format=torch.channels_last).requires_grad_()
    state = torch.get_rng_state()
    one, two = sampler(x, generator()), sampler(x, generator())
    assert torch.equal(one, two) and not torch.equal(one, sampler(x, generator(1)))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.is_contiguous(memory_format=torch.channels_last) and not one.requires_grad
    torch.testing.assert_close(one.contiguous(), sampler(x.detach().contiguous(), generator()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: interpolate(x, x[:3]), "real and fake must have one shape"),
        (lambda x: interpolate(x, x[:1]), "real and fake must have one shape"),
        (lambda x: interpolate(x, x * math.nan), "fake must be finite"),
        (lambda x: interpolate(x * math.inf, x), "real must be finite"),
        (lambda x: random_pairs(x[:1]), "at least two samples"),
        (lambda x: random_pairs(x * math.nan), "x must be finite"),
        (lambda x: local_perturbation(x, scale=-1.0), "scale must be finite"),
        (lambda x: local_perturbation(x, scale=math.inf), "scale must be finite"),
        (lambda x: local_perturbation(x[:1, :1, 0, 0]), "at least two numbers"),
    ],
)
def test_unusable_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(images())
    with pytest.raises(TypeError, match="floating point"):
        random_pairs(torch.ones(3, 2, dtype=torch.long))
