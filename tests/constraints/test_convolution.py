"""Norms of convolutions against the singular values of their dense matrices."""

import math

import pytest
import torch
from torch import nn

from lipnb.constraints import convolution
from lipnb.constraints.convolution import convolution_norm, read_convolution
from lipnb.constraints.linear_map import polyphase

# in, out, kernel, stride, padding, mode, image
CASES = [
    (3, 4, 3, 1, 1, "zeros", (8, 8)),
    (3, 4, 3, 1, 0, "zeros", (7, 5)),
    (4, 3, 3, 2, 1, "zeros", (7, 8)),
    (3, 5, 4, 2, 1, "zeros", (8, 8)),
    (2, 3, 5, 3, 2, "zeros", (8, 7)),
    (2, 3, 3, 4, 1, "zeros", (8, 9)),  # pixels between the windows are never seen
    (2, 2, 3, 1, 5, "zeros", (4, 4)),  # outputs that see only padding
    (1, 2, 7, 1, 3, "zeros", (2, 2)),  # a kernel larger than the image
    (4, 2, (3, 5), (1, 2), (2, 0), "zeros", (6, 9)),
    (3, 2, 1, 2, 0, "zeros", (5, 5)),
    (2, 3, 3, 1, 1, "circular", (6, 7)),
    (2, 3, 5, 1, 1, "circular", (6, 7)),  # less padding than the kernel reaches
    (2, 3, 4, 1, "same", "circular", (6, 5)),
]


def layer_of(case, seeded, seed=0):
    c_in, c_out, kernel, stride, padding, mode, _ = case
    options = {"stride": stride, "padding": padding, "padding_mode": mode, "dtype": torch.float64}
    return seeded(lambda: nn.Conv2d(c_in, c_out, kernel, **options), seed)


def largest(matrix):
    return torch.linalg.matrix_norm(matrix, 2).item()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", CASES)
def test_small_layers_have_their_exact_norm_and_larger_ones_a_bound(
    case, seeded, layer_matrix, monkeypatch
):
    image = case[-1]
    for seed in range(3):
        layer = layer_of(case, seeded, seed)
        exact = largest(layer_matrix(layer, case[0], *image))
        with monkeypatch.context() as patch:
            assert convolution_norm(layer, input_size=image).item() == pytest.approx(exact)
            patch.setattr(convolution, "LARGEST_MATRIX", 0)
            assert read_convolution(layer, image).by_frequencies
            torus = convolution_norm(layer, input_size=image).item()
        assert exact <= torus * (1 + 1e-12)
        assert exact <= convolution_norm(layer).item() * (1 + 1e-12)
        assert torus < 1.35 * exact or min(image) < 5  # the border matters more in small images


@pytest.mark.parametrize("case", CASES[:5])
def test_the_torus_map_has_the_norm_that_its_frequencies_say(case, seeded, monkeypatch):
    monkeypatch.setattr(convolution, "LARGEST_MATRIX", 0)
    layer = layer_of(case, seeded)
    map_ = read_convolution(layer, case[-1])
    assert map_.by_frequencies
    n = case[0] * math.prod(map_.size)
    basis = torch.eye(n, dtype=torch.float64).view(n, case[0], *map_.size)
    matrix = map_.apply(layer.weight.detach(), basis).flatten(1)
    assert map_.norm(layer.weight).item() == pytest.approx(largest(matrix), rel=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_maps_are_the_layer_and_adjoints_their_transposes(case, seeded, monkeypatch):
    layer, g = layer_of(case, seeded), torch.Generator().manual_seed(1)
    kernel = layer.weight.detach()
    x = torch.randn(2, case[0], *case[-1], generator=g, dtype=torch.float64)
    own = read_convolution(layer, case[-1])
    torch.testing.assert_close(own.apply(kernel, x), layer(x) - layer.bias[:, None, None])
    monkeypatch.setattr(convolution, "LARGEST_MATRIX", 0)
    for map_ in (own, read_convolution(layer, case[-1]), read_convolution(layer)):
        x = torch.randn(1, case[0], *map_.size, generator=g, dtype=torch.float64)
        y = map_.apply(kernel, x)
        assert y.shape[2:] == map_.output_size(kernel)
        u = torch.randn(y.shape, generator=g, dtype=torch.float64)
        torch.testing.assert_close((y * u).sum(), (x * map_.adjoint(kernel, u)).sum())


def test_the_bound_comes_close_as_images_grow(seeded, layer_matrix, monkeypatch):
    monkeypatch.setattr(convolution, "LARGEST_MATRIX", 0)
    layer = seeded(lambda: nn.Conv2d(1, 2, 3, padding=1, dtype=torch.float64), 1)
    excess = []
    for n in (4, 8, 16):
        exact = largest(layer_matrix(layer, 1, n, n))
        excess.append(convolution_norm(layer, input_size=(n, n)).item() / exact - 1)
    assert excess[0] > 2 * excess[1] > 4 * excess[2] > 0
    assert excess[2] < 0.02


def test_closed_forms(seeded):
    ones = nn.Conv2d(1, 1, 3, padding=1, bias=False, dtype=torch.float64)
    nn.init.ones_(ones.weight)
    # A box of three cells on a segment of n has the largest eigenvalue 1 + 2 cos(pi / (n + 1)).
    exact = (1 + 2 * math.cos(math.pi / 6)) * (1 + 2 * math.cos(math.pi / 9))
    assert convolution_norm(ones, input_size=(5, 8)).item() == pytest.approx(exact, rel=1e-12)
    assert convolution_norm(ones).item() == pytest.approx(9 / math.cos(math.pi / 32) ** 2)
    assert convolution_norm(ones, input_size=(40, 40)).item() == pytest.approx(9)
    patches = seeded(lambda: nn.Conv2d(3, 5, 4, stride=4, dtype=torch.float64))
    reshaped = largest(patches.weight.detach().flatten(1))
    assert convolution_norm(patches).item() == pytest.approx(reshaped)


def test_the_margin_covers_the_worst_kernel_between_two_frequencies():
    # I + R(angle) z has singular value 2 exactly where z = exp(i angle), half-way in the grid.
    angle = math.pi / convolution.OVERSAMPLING
    c, s = math.cos(angle), math.sin(angle)
    layer = nn.Conv2d(2, 2, (1, 2), dtype=torch.float64)
    rotation = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    layer.weight.data.copy_(torch.stack([torch.eye(2), rotation], dim=-1)[:, :, None])
    map_ = read_convolution(layer)
    assert map_.norm(layer.weight).item() == pytest.approx(2.0, rel=1e-12)
    assert map_.norm(layer.weight).item() / map_.margin < 1.999  # the grid alone is no bound


def test_a_bound_for_every_size(seeded, layer_matrix):
    layer = seeded(lambda: nn.Conv2d(2, 2, 3, stride=2, padding=1, dtype=torch.float64), 3)
    bound = convolution_norm(layer).item()
    sizes = [largest(layer_matrix(layer, 2, n, m)) for n in (1, 4, 9, 13) for m in (3, 12)]
    assert max(sizes) <= bound < 1.06 * max(sizes)


def test_the_reshaped_kernel_is_no_bound(seeded, layer_matrix):
    layer = seeded(lambda: nn.Conv2d(4, 4, 3, padding=1, dtype=torch.float64))
    exact = largest(layer_matrix(layer, 4, 8, 8))
    assert exact > 1.2 * largest(layer.weight.detach().flatten(1))


@pytest.mark.parametrize("size", [None, (5, 4), (40, 40)])
def test_the_norm_is_differentiable(size, seeded):
    layer = seeded(lambda: nn.Conv2d(2, 3, 2, padding=1, dtype=torch.float64))
    map_ = read_convolution(layer, size)
    assert torch.autograd.gradcheck(map_.norm, layer.weight, fast_mode=True)


def test_extreme_scales_and_zero():
    layer = nn.Conv2d(1, 1, 1, dtype=torch.float64)
    for value in (0.0, 1e-200, 1e200):
        nn.init.constant_(layer.weight, value)
        assert convolution_norm(layer, input_size=(3, 3)).item() == pytest.approx(value)
        assert convolution_norm(layer).item() == pytest.approx(value)


def test_polyphase_turns_a_stride_into_channels():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 8, 9, generator=g)
    kernel = torch.randn(4, 3, 3, 5, generator=g)
    strided = nn.functional.conv2d(x, kernel, stride=(2, 3))
    blocks = x.view(2, 3, 4, 2, 3, 3).permute(0, 1, 3, 5, 2, 4).reshape(2, 18, 4, 3)
    torch.testing.assert_close(nn.functional.conv2d(blocks, polyphase(kernel, (2, 3))), strided)


def test_errors():
    with pytest.raises(TypeError, match=r"nn\.Conv2d; got Linear"):
        read_convolution(nn.Linear(2, 2))
    bad = {
        "dilation 1": nn.Conv2d(2, 2, 3, dilation=2),
        "one group": nn.Conv2d(2, 2, 3, groups=2),
        "got 'reflect'": nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        "stride 1 and pad": nn.Conv2d(2, 2, 3, stride=2, padding=1, padding_mode="circular"),
        "kernel size - 1": nn.Conv2d(2, 2, 3, padding=2, padding_mode="circular"),
    }
    for match, layer in bad.items():
        with pytest.raises(ValueError, match=match):
            convolution_norm(layer)
    layer = nn.Conv2d(2, 2, 3)
    for size in (8, (8,), (8, 0), (8.0, 8.0), "88"):
        with pytest.raises(ValueError, match="input_size must be"):
            convolution_norm(layer, input_size=size)
    with pytest.raises(ValueError, match="must hold the kernel"):
        convolution_norm(layer, input_size=(2, 8))
    nn.init.constant_(layer.weight, math.nan)
    with pytest.raises(ValueError, match="finite"):
        convolution_norm(layer)
