"""lipnb.models.wgan_resnet: sizes, layout, laws of the weights, and exact algebra of resizing."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from lipnb.models import wgan_critic, wgan_generator


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, 3, 32, 32, generator=seeded(3), dtype=dtype) * 2 - 1


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def kinds(network: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in network.modules() if type(module) is kind]


def test_parameter_counts_are_the_published_ones() -> None:
    assert size(wgan_critic()) == 1_053_825
    assert size(wgan_generator()) == 1_204_483


def test_parameter_counts_follow_from_the_layers() -> None:
    c = 6
    square, point = 9 * c * c + c, c * c + c
    first = (27 * c + c) + square + (3 * c + c)
    assert size(wgan_critic(c)) == first + 2 * square + point + 4 * square + c + 1
    block = 2 * square + point + 2 * 2 * c  # two normalisations, two numbers a channel
    last = 2 * c + 27 * c + 3
    assert size(wgan_generator(c, latent=5)) == (5 + 1) * 16 * c + 3 * block + last


def naive_critic(critic: nn.Sequential, x: Tensor) -> Tensor:
    """The critic again, from the parameters alone: pooling by four strided slices."""

    def pool(h: Tensor) -> Tensor:
        corners = [h[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return sum(corners[1:], corners[0]) / 4

    def conv(h: Tensor) -> Tensor:
        weight, bias = next(layers)
        return nn.functional.conv2d(h, weight, bias, padding=weight.shape[-1] // 2)

    def positive(h: Tensor) -> Tensor:
        return torch.where(h > 0, h, 0)

    layers = iter([(m.weight, m.bias) for m in kinds(critic, nn.Conv2d)])
    h = pool(conv(positive(conv(x))))
    h = h + conv(pool(x))
    main = pool(conv(positive(conv(positive(h)))))
    h = main + pool(conv(h))
    for _ in range(2):
        h = h + conv(positive(conv(positive(h))))
    return positive(h).mean((2, 3)) @ critic[-1].weight.T + critic[-1].bias


def naive_generator(network: nn.Sequential, z: Tensor) -> Tensor:
    """The generator again: upsampling by channels that are copied four times and interleaved."""

    def upsample(h: Tensor) -> Tensor:
        n, c, height, width = h.shape
        copies = torch.cat([h, h, h, h], dim=1).view(n, 2, 2, c, height, width)
        return copies.permute(0, 3, 4, 1, 5, 2).reshape(n, c, 2 * height, 2 * width)

    def conv(h: Tensor) -> Tensor:
        weight, bias = next(layers)
        return nn.functional.conv2d(h, weight, bias, padding=weight.shape[-1] // 2)

    def positive(h: Tensor) -> Tensor:  # after normalisation by the statistics of the batch
        centred = h - h.mean((0, 2, 3), keepdim=True)
        return (centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()).relu()

    layers = iter([(m.weight, m.bias) for m in kinds(network, nn.Conv2d)])
    h = (z @ network[0].weight.T + network[0].bias).view(len(z), -1, 4, 4)
    for _ in range(3):
        main = conv(positive(conv(upsample(positive(h)))))
        h = main + conv(upsample(h))
    return torch.tanh(conv(positive(h)))


def test_the_critic_equals_its_naive_version() -> None:
    critic = wgan_critic(5, dtype=torch.float64)
    for parameter in critic.parameters():  # biases away from zero
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=seeded(1)).double())
    x = images(dtype=torch.float64)
    torch.testing.assert_close(critic(x), naive_critic(critic, x), rtol=1e-12, atol=1e-12)
    assert critic(x).std() > 1e-3


def test_the_generator_equals_its_naive_version() -> None:
    network = wgan_generator(5, latent=7, dtype=torch.float64)
    z = torch.randn(3, 7, generator=seeded(2), dtype=torch.float64)
    torch.testing.assert_close(network(z), naive_generator(network, z), rtol=1e-10, atol=1e-10)
    assert network(z).std() > 1e-3


def test_a_shortcut_may_be_pooled_or_upsampled_before_or_after_its_convolution() -> None:
    x = images(dtype=torch.float64)
    weight = torch.randn(4, 3, 1, 1, generator=seeded(0), dtype=torch.float64)
    point = lambda h: nn.functional.conv2d(h, weight)  # noqa: E731
    for resize in (nn.AvgPool2d(2), nn.Upsample(scale_factor=2)):
        torch.testing.assert_close(point(resize(x)), resize(point(x)), rtol=1e-12, atol=1e-12)


def test_sum_pooling_is_64_times_the_mean_before_the_last_layer() -> None:
    x = images()
    mean, total = (wgan_critic(4, pooling=pooling)[:-1](x) for pooling in ("mean", "sum"))
    assert mean.shape == (2, 4)
    torch.testing.assert_close(total, 64 * mean)


def test_batch_normalisation_sits_before_each_of_the_eight_relus() -> None:
    critic = wgan_critic(4, batch_norm=True)
    assert len(kinds(critic, nn.BatchNorm2d)) == len(kinds(critic, nn.ReLU)) == 8
    order = [m for m in critic.modules() if not list(m.children())]
    for module, following in pairwise(order):
        assert (type(following) is nn.ReLU) == (type(module) is nn.BatchNorm2d)
    assert type(order[1]) is nn.Conv2d  # no normalisation of the image
    assert len(kinds(wgan_generator(4), nn.BatchNorm2d)) == 7
    assert not kinds(wgan_critic(4), nn.BatchNorm2d)


def test_dropout_follows_the_blocks_and_only_acts_in_training() -> None:
    critic = wgan_critic(4, dropout=(0.2, 0.5, 0.5))
    assert [module.p for module in kinds(critic, nn.Dropout)] == [0.2, 0.5, 0.5]
    plain, x = wgan_critic(4), images()
    assert torch.equal(critic.eval()(x), plain(x))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(critic.train()(x), plain(x))


@pytest.mark.parametrize("initialization", ["xavier", "kaiming"])
def test_weights_fill_their_interval(initialization: str) -> None:
    c = 32
    critic = wgan_critic(c, initialization=initialization)
    wide = wgan_generator(c, initialization=initialization)
    for layer in kinds(critic, nn.Conv2d) + kinds(wide, nn.Conv2d):
        n_out, n_in, k, _ = layer.weight.shape
        if k == 1 or n_out == 3:  # shortcuts, and the layer before tanh
            bound = math.sqrt(6 / (k * k * (n_in + n_out)))
        elif initialization == "xavier":
            bound = math.sqrt(12 / (k * k * (n_in + n_out)))
        else:
            bound = math.sqrt(6 / (k * k * n_in))
        # The largest of at least 96 uniform draws lies below 0.9 of its bound once in 20 000.
        assert 0.9 * bound < layer.weight.abs().max() <= bound * (1 + 1e-6)
        assert layer.bias.abs().max() == 0
    for layer, bound in ((critic[-1], math.sqrt(6 / 33)), (wide[0], math.sqrt(6 / (128 + 512)))):
        assert 0.8 * bound < layer.weight.abs().max() <= bound * (1 + 1e-6)


def test_first_limits_at_full_size() -> None:
    for initialization, limit in (("xavier", 0.101), ("kaiming", 0.471)):
        weight = wgan_critic(initialization=initialization)[1].main[0].weight
        assert round(weight.abs().max().item(), 3) == limit


def test_randomness_comes_from_the_generator_alone() -> None:
    before = torch.get_rng_state()
    for make in (wgan_critic, wgan_generator):
        one, two, other = (make(4, generator=seeded(seed)) for seed in (5, 5, 6))
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            assert torch.equal(p, q)
        weights = [kinds(network, nn.Conv2d)[0].weight for network in (one, other)]
        assert not torch.equal(*weights)
    assert torch.equal(before, torch.get_rng_state())


def test_the_type_of_the_parameters_is_the_one_asked_for() -> None:
    for network in (wgan_critic(2, batch_norm=True, dtype=torch.float64), wgan_generator(2)):
        wanted = torch.float64 if isinstance(network[-1], nn.Linear) else torch.float32
        assert {p.dtype for p in network.parameters()} == {wanted}


def test_pictures_lie_between_minus_one_and_one() -> None:
    network = wgan_generator(4)
    x = network(10 * torch.randn(3, 128, generator=seeded(0)))
    assert x.shape == (3, 3, 32, 32)
    assert x.abs().max() <= 1
    assert wgan_critic(4)(x).shape == (3, 1)


@pytest.mark.parametrize("shape", [(2, 3, 33, 33), (2, 3, 64, 64), (2, 1, 32, 32), (3, 32, 32)])
def test_other_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(n, 3, 32, 32\); got"):
        wgan_critic(2)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels must be a positive integer; got 0"),
        ({"channels": 2.0}, "channels must be a positive integer; got 2.0"),
        ({"initialization": "glorot"}, "initialization must be one of"),
        ({"pooling": "max"}, "pooling must be one of"),
        ({"dropout": (0.5,)}, "dropout must be empty or three probabilities"),
        ({"dropout": (0.5, 0.5, 1.0)}, "dropout must be empty or three probabilities"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wgan_critic(**options)
    with pytest.raises(ValueError, match="latent must be a positive integer; got 0"):
        wgan_generator(2, latent=0)
