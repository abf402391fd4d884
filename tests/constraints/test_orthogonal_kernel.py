"""Orthogonal convolutions against their dense matrices."""

import copy
import itertools

import pytest
import torch
from torch import nn

from lipnb.constraints import orthogonal
from lipnb.constraints.convolution import convolution_norm
from lipnb.constraints.orthogonal_kernel import compose_shift

CHANNELS = [(4, 4), (3, 6), (6, 3), (5, 4), (1, 3), (3, 1), (1, 1), (2, 2)]  # (in, out)
METHODS = ["cayley", "bjorck"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def conv(channels, kernel, dtype=torch.float32, padding="same", mode="circular"):
    return nn.Conv2d(*channels, kernel, padding=padding, padding_mode=mode, dtype=dtype)


def error(matrix):
    """Largest entry of A A^T - I or A^T A - I, whichever is smaller in size."""
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return (gram - torch.eye(len(gram), dtype=gram.dtype)).abs().max().item()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kernel", [1, 2, 3, (1, 4), (3, 2), 5])
@pytest.mark.parametrize("channels", CHANNELS)
def test_the_layer_is_orthogonal_on_every_torus(channels, kernel, layer_matrix):
    layer = orthogonal(conv(channels, kernel, torch.float64), generator=generator())
    for size in ((5, 6), (2, 3), (1, 4)):
        pads = layer._reversed_padding_repeated_twice
        if size[0] >= max(pads[2:]) and size[1] >= max(pads[:2]):  # torch wraps only once
            assert error(layer_matrix(layer, channels[0], *size)) < 1e-13
    assert layer.weight.shape[2:] == layer.kernel_size


@pytest.mark.parametrize("channels", [(4, 4), (3, 6), (6, 3)])
@pytest.mark.parametrize("method", METHODS)
def test_it_stays_orthogonal_in_hard_training(method, channels, layer_matrix, train_hard):
    layer = orthogonal(conv(channels, 3), method=method, generator=generator())
    start = layer.weight.detach().clone()
    train_hard(layer, channels[0], 6, 6)
    assert (layer.weight - start).abs().max() > 0.1
    for training in (True, False):
        matrix = layer_matrix(layer.train(training), channels[0], 6, 6)
        assert error(matrix) < 1e-5
        assert torch.linalg.matrix_norm(matrix, 2) < 1 + 1e-5
    # The border taps carry weight: this is no disguised 1 x 1 convolution.
    assert layer.weight[:, :, 0, 0].abs().max() > 0.05


@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("channels", [(4, 4), (3, 6), (6, 3)])
def test_zero_padding_is_one_lipschitz_and_loses_nothing_in_two_cases(
    padding, channels, layer_matrix
):
    layer = orthogonal(conv(channels, 3, torch.float64, padding, "zeros"), generator=generator())
    matrix = layer_matrix(layer, channels[0], 6, 5)
    values = torch.linalg.svdvals(matrix)
    assert values[0] <= 1 + 1e-12
    assert convolution_norm(layer).item() == pytest.approx(1, abs=0.01)
    every_pixel_counts_fully = padding == 2 and channels[0] <= channels[1]
    every_output_sees_the_whole_kernel = padding == 0 and channels[0] >= channels[1]
    if every_pixel_counts_fully or every_output_sees_the_whole_kernel:
        assert error(matrix) < 1e-13
    else:
        assert values[-1] < 0.99


def test_less_circular_padding_is_one_lipschitz(layer_matrix):
    layer = orthogonal(conv((4, 4), 3, torch.float64, 0), generator=generator())
    assert torch.linalg.matrix_norm(layer_matrix(layer, 4, 5, 5), 2) <= 1 + 1e-12


def test_every_factor_moves_half_of_the_channels():
    # Channel by channel, the kernel of plain coordinates is a table of single ones.
    kernel = torch.eye(4)[:, :, None, None]
    half = torch.eye(4)[:, :2]
    moved = compose_shift(kernel, half, 2)
    assert moved[:, :, 0, 0].diag().tolist() == [1, 1, 0, 0]
    assert moved[:, :, 1, 0].diag().tolist() == [0, 0, 1, 1]
    back = compose_shift(moved, half, 2, moved=True)
    assert torch.equal(back[:, :, 1, 0], torch.eye(4)) and back.sum() == 4


def test_one_channel_keeps_its_pixels_in_place():
    # A filter of one channel that preserves norms has a single tap; it is the middle one.
    for kernel in (3, 5):
        weight = orthogonal(conv((1, 1), kernel)).weight.detach()
        middle = kernel // 2
        assert weight[0, 0, middle, middle].abs().item() == pytest.approx(1)
        assert weight.abs().sum().item() == pytest.approx(1)


def test_shift_of_the_image_shifts_the_output():
    layer = orthogonal(conv((3, 4), 3), generator=generator())
    x = torch.randn(2, 3, 6, 6, generator=generator(1))
    shifted = layer(x.roll((2, 1), (2, 3)))
    torch.testing.assert_close(shifted, layer(x).roll((2, 1), (2, 3)), rtol=0, atol=1e-5)


def test_a_kernel_of_one_pixel_is_the_dense_layer():
    dense, pixel = nn.Linear(4, 3), conv((4, 3), 1)
    pixel.weight.data.copy_(dense.weight.data[:, :, None, None])
    orthogonal(dense), orthogonal(pixel)
    torch.testing.assert_close(dense.weight, pixel.weight[:, :, 0, 0])


@pytest.mark.parametrize("method", METHODS)
def test_kernels_are_drawn_from_the_generator_alone(method):
    layers = [conv((3, 4), 3) for _ in range(3)]  # with different weights, which are forgotten
    rng = torch.get_rng_state()
    for layer, seed in zip(layers, (0, 0, 1), strict=True):
        orthogonal(layer, method=method, generator=generator(seed))
    weights = [layer.weight for layer in layers]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(rng, torch.get_rng_state())


@pytest.mark.parametrize("method", METHODS)
def test_state_survives_copies_and_round_trips(method, train_hard):
    layer, other = (
        orthogonal(conv((3, 4), 3), method=method, generator=generator(s)) for s in (0, 1)
    )
    train_hard(layer, 3, 5, 5, steps=3)
    x = torch.randn(2, 3, 5, 5, generator=generator())
    assert not torch.allclose(layer(x), other(x), atol=0.1)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), other(x))
    assert torch.equal(layer(x), copy.deepcopy(layer)(x))
    before = copy.deepcopy(layer.state_dict())
    layer.train()(x), layer.eval()(x)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())


def test_gradients_reach_every_parameter():
    for method, kernel in itertools.product(METHODS, (1, 3)):
        layer = orthogonal(conv((4, 4), kernel), method=method, generator=generator())
        target = torch.randn(layer.weight.shape, generator=generator(1))
        (layer.weight * target).sum().backward()
        parameters = list(layer.parametrizations.parameters())
        assert len(parameters) == (1 if kernel == 1 else 2)
        assert all(p.grad.abs().max() > 1e-3 for p in parameters)


def test_errors():
    with pytest.raises(ValueError, match="stride 1; got"):
        orthogonal(nn.Conv2d(4, 4, 3, stride=2))
    with pytest.raises(ValueError, match="one group"):
        orthogonal(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match="got 'replicate'"):
        orthogonal(nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate"))
    with pytest.raises(ValueError, match="kernel size - 1"):
        orthogonal(nn.Conv2d(4, 4, 3, padding=2, padding_mode="circular"))
    layer = orthogonal(nn.Conv2d(4, 4, 3))
    with pytest.raises(ValueError, match="plain to be assigned"):
        layer.weight = torch.zeros(4, 4, 3, 3)
