"""lipnb.models.wgan_convolutional: sizes, layout, laws of the weights, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lipnb.models import convolutional_wgan_critic, convolutional_wgan_generator
from lipnb.training.wgan_networks import build_networks
from lipnb.training.wgan_presets import METHODS, WganSettings, method_settings


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("c", "m", "d"), [(4, 1, 5), (7, 3, 2)])
def test_parameter_counts_follow_from_the_layers(c: int, m: int, d: int) -> None:
    def size(network: nn.Module) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    count = (16 * m * c + c) + (16 * c * 2 * c + 2 * c) + (16 * 2 * c * 4 * c + 4 * c) + 64 * c + 1
    assert size(convolutional_wgan_critic(c, image_channels=m)) == count
    assert count == 160 * c * c + (16 * m + 71) * c + 1  # the formula of the docstring
    found = size(convolutional_wgan_generator(c, image_channels=m, latent=d))
    norms = 2 * (4 * c + 2 * c + c)
    layers = (16 * 8 * c * c + 2 * c) + (16 * 2 * c * c + c) + (16 * c * m + m)
    assert found == (d + 1) * 64 * c + layers + norms
    assert found == 160 * c * c + 64 * d * c + (16 * m + 81) * c + m


def test_the_critic_looks_at_each_image_alone_and_sees_every_pixel() -> None:
    critic = convolutional_wgan_critic(4, generator=seeded(1))
    x = torch.rand(3, 3, 32, 32, generator=seeded(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x)[1].sum(), x)
    assert bool((gradient[1] != 0).all())
    assert bool((gradient[[0, 2]] == 0).all())


def test_pictures_have_their_size_and_range() -> None:
    x = convolutional_wgan_generator(4, latent=6)(10 * torch.randn(5, 6, generator=seeded(0)))
    assert x.shape == (5, 3, 32, 32)
    assert 0.1 < x.abs().max() <= 1


@pytest.mark.parametrize(("law", "bound"), [("xavier", 12 / (16 * 24)), ("kaiming", 6 / (16 * 8))])
def test_weights_fill_the_interval_of_their_law(law: str, bound: float) -> None:
    """The second convolution has 8 channels before it and 16 after."""
    weight = convolutional_wgan_critic(8, initialization=law)[3].weight
    assert weight.shape == (16, 8, 4, 4)
    assert 0.98 * math.sqrt(bound) < weight.abs().max().item() <= math.sqrt(bound)


def test_only_the_generator_given_is_drawn_from() -> None:
    before = torch.random.get_rng_state()
    one, other = (convolutional_wgan_generator(4, generator=seeded(3)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one[0].weight, other[0].weight)
    assert not torch.equal(one[0].weight, convolutional_wgan_generator(4)[0].weight)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (convolutional_wgan_critic, {"channels": 0}, "channels must be a positive integer; got 0"),
        (convolutional_wgan_generator, {"latent": 2.0}, "latent must be a positive integer"),
        (convolutional_wgan_critic, {"initialization": "he"}, "initialization must be one of"),
    ],
)
def test_bad_input_is_refused(
    make: Callable[..., nn.Module], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_other_pictures_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"x must have shape \(n, 3, 32, 32\); got \(1, 3, 64, 64\)"
    ):
        convolutional_wgan_critic(2)(torch.zeros(1, 3, 64, 64))


def test_settings_choose_these_networks() -> None:
    settings = WganSettings(network="convolutional", channels=4, generator_channels=6, latent=3)
    critic, generator = build_networks(settings, (3, 32, 32), 0)
    assert [type(m) for m in critic[1:3]] == [nn.Conv2d, nn.LeakyReLU]
    assert critic(generator(torch.zeros(2, 3))).shape == (2, 1)
    with pytest.raises(ValueError, match=r"must be \(channels, 32, 32\); got \(1, 8, 8\)"):
        build_networks(settings, (1, 8, 8), 0)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_methods_are_refused_whose_layers_these_networks_lack(method: str) -> None:
    if method in ("ct", "alp_batch_norm", "gp_batch_norm"):
        with pytest.raises(ValueError, match="takes no batch_norm and no dropout"):
            method_settings("paper", method, network="convolutional")
    else:
        settings = method_settings("paper", method, network="convolutional", channels=2, latent=2)
        assert len(build_networks(settings, (3, 32, 32), 0)) == 2
