"""lipnb.models.wgan_small: sizes, layout, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from lipnb.models import small_wgan_critic, small_wgan_generator


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def kinds(network: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in network.modules() if type(module) is kind]


@pytest.mark.parametrize(("c", "m", "d"), [(4, 1, 5), (7, 3, 2)])
def test_parameter_counts_follow_from_the_layers(c: int, m: int, d: int) -> None:
    square, point = 9 * c * c + c, m * c + c
    count = (9 * m * c + c) + square + point + 2 * square + c + 1
    assert size(small_wgan_critic(c, image_channels=m)) == count
    assert count == 27 * c * c + 10 * m * c + 6 * c + 1  # the formula of the docstring
    count = (d + 1) * 16 * c + 2 * square + c * c + c + 3 * 2 * c + 9 * c * m + m
    assert size(small_wgan_generator(c, image_channels=m, latent=d)) == count
    assert count == 19 * c * c + 16 * d * c + 25 * c + 9 * m * c + m


def test_pictures_have_their_size_and_range() -> None:
    x = small_wgan_generator(4, image_channels=3)(10 * torch.randn(5, 16, generator=seeded(0)))
    assert x.shape == (5, 3, 8, 8)
    assert 0.1 < x.abs().max() <= 1
    assert small_wgan_critic(4, image_channels=3)(x).shape == (5, 1)


def test_batch_normalisation_sits_before_each_relu() -> None:
    critic = small_wgan_critic(4, batch_norm=True)
    assert len(kinds(critic, nn.BatchNorm2d)) == len(kinds(critic, nn.ReLU)) == 4
    order = [m for m in critic.modules() if not list(m.children())]
    for module, following in pairwise(order):
        assert (type(following) is nn.ReLU) == (type(module) is nn.BatchNorm2d)
    assert not kinds(small_wgan_critic(4), nn.BatchNorm2d)


def test_sum_pooling_is_16_times_the_mean_before_the_last_layer() -> None:
    x = torch.rand(2, 1, 8, 8, generator=seeded(1))
    mean, total = (small_wgan_critic(4, pooling=pooling)[:-1](x) for pooling in ("mean", "sum"))
    torch.testing.assert_close(total, 16 * mean)


def test_dropout_acts_in_training_only() -> None:
    critic, plain = small_wgan_critic(8, dropout=(0.5,)), small_wgan_critic(8)
    x = torch.rand(2, 1, 8, 8, generator=seeded(1))
    assert torch.equal(critic.eval()(x), plain(x))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(critic.train()(x), plain(x))


def test_randomness_comes_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    for make in (small_wgan_critic, small_wgan_generator):
        one, two, other = (make(4, generator=seeded(seed)) for seed in (5, 5, 6))
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            assert torch.equal(p, q)
        assert not torch.equal(*(kinds(net, nn.Conv2d)[0].weight for net in (one, other)))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("shape", [(2, 1, 9, 9), (2, 3, 8, 8), (1, 8, 8)])
def test_other_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(n, 1, 8, 8\); got"):
        small_wgan_critic(2)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_channels": 0}, "image_channels must be a positive integer; got 0"),
        ({"pooling": "max"}, "pooling must be one of"),
        ({"initialization": "normal"}, "initialization must be one of"),
        ({"dropout": (0.5, 0.5)}, "dropout must be empty or one probability"),
        ({"dropout": (1.0,)}, "dropout must be empty or one probability"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_wgan_critic(**options)
    with pytest.raises(ValueError, match="latent must be a positive integer; got 0"):
        small_wgan_generator(latent=0)
