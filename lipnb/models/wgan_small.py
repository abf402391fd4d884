"""Residual critic and generator for images of 8 x 8 pixels: the networks of WGAN-GP, cut short."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipnb.models.wgan_resnet import POOLINGS, _layers, _Residual

__all__ = ["small_wgan_critic", "small_wgan_generator"]

SIDE = 8  # pixels on a side of an image


def small_wgan_critic(
    channels: int = 32,
    *,
    image_channels: int = 1,
    initialization: str = "xavier",
    pooling: str = "mean",
    batch_norm: bool = False,
    dropout: Sequence[float] = (),
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    r"""Build a critic for images of 8 x 8 pixels, such as the digits of scikit-learn.

    The first block of `wgan_critic`, which halves height and width, one block that keeps them, then
    ReLU, pooling over the 4 x 4 positions, and a linear layer.

    Parameters
    ----------
    channels : int
        Channels c of every hidden layer.
    image_channels : int
        Channels m of an image, 1 for grey values.
    initialization, pooling, generator, dtype
        As in `wgan_critic`.
    batch_norm : bool
        Put a `BatchNorm2d` before each of the four ReLUs.
    dropout : sequence of float
        One probability of a zero, after the last block, or none at all.

    Returns
    -------
    nn.Sequential
        Network from images (n, m, 8, 8) to (n, 1), which refuses other shapes with a ValueError.
        ``critic[:-1]`` ends before the linear layer, with shape (n, c). Without batch
        normalisation it has :math:`27 c^2 + 10 m c + 6 c + 1` parameters.

    Raises
    ------
    ValueError
        If an argument is none of those above.

    Examples
    --------
    >>> critic = small_wgan_critic(4)
    >>> critic(torch.zeros(2, 1, 8, 8)).shape, critic[:-1](torch.zeros(2, 1, 8, 8)).shape
    (torch.Size([2, 1]), torch.Size([2, 4]))

    References
    ----------
    The blocks are those of Gulrajani et al. (2017); the size is ours.
    """
    convolution, normalization, linear = _layers(channels, initialization, generator, dtype)
    _require_count("image_channels", image_channels)
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {POOLINGS}; got {pooling!r}")
    if len(dropout) > 1 or not all(0 <= share < 1 for share in dropout):
        raise ValueError(f"dropout must be empty or one probability in [0, 1); got {list(dropout)}")
    c, m = channels, image_channels

    def activation() -> list[nn.Module]:
        """Make a ReLU, normalised before it where asked for."""
        return [normalization(), nn.ReLU()] if batch_norm else [nn.ReLU()]

    def half() -> list[nn.Module]:
        """Make one convolution of a block with what precedes it."""
        return [*activation(), convolution(c, c)]

    return nn.Sequential(
        _SmallImages(m),
        _Residual(
            [convolution(m, c), *half(), nn.AvgPool2d(2)],
            [nn.AvgPool2d(2), convolution(m, c, size=1, shortcut=True)],
        ),
        _Residual([*half(), *half()], []),
        *(nn.Dropout(share) for share in dropout),
        *activation(),
        nn.AvgPool2d(SIDE // 2, divisor_override=1 if pooling == "sum" else None),
        nn.Flatten(),
        linear(c, 1),
    )


def small_wgan_generator(
    channels: int = 32,
    *,
    image_channels: int = 1,
    latent: int = 16,
    initialization: str = "xavier",
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    r"""Build a generator of images of 8 x 8 pixels.

    A linear layer to 4 x 4 positions, one block of `wgan_generator` that doubles height and width,
    then batch normalisation, ReLU, a 3 x 3 convolution to the colours, and tanh.

    Parameters
    ----------
    channels : int
        Channels c of every hidden layer.
    image_channels : int
        Channels m of an image, 1 for grey values.
    latent : int
        Dimension d of the input z, a standard Gaussian.
    initialization, generator, dtype
        As in `wgan_generator`.

    Returns
    -------
    nn.Sequential
        Network from (n, d) to images (n, m, 8, 8) with values in [-1, 1]. It has
        :math:`19 c^2 + 16 d c + 25 c + 9 m c + m` parameters.

    Raises
    ------
    ValueError
        If an argument is none of those above.

    Examples
    --------
    >>> small_wgan_generator(4, latent=5)(torch.zeros(2, 5)).shape
    torch.Size([2, 1, 8, 8])

    References
    ----------
    The block is that of Gulrajani et al. (2017); the size is ours.
    """
    convolution, normalization, linear = _layers(channels, initialization, generator, dtype)
    _require_count("image_channels", image_channels)
    _require_count("latent", latent)
    c, start = channels, SIDE // 2
    block = _Residual(
        [
            normalization(),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            convolution(c, c),
            normalization(),
            nn.ReLU(),
            convolution(c, c),
        ],
        [nn.Upsample(scale_factor=2), convolution(c, c, size=1, shortcut=True)],
    )
    return nn.Sequential(
        linear(latent, start * start * c),
        nn.Unflatten(1, (c, start, start)),
        block,
        normalization(),
        nn.ReLU(),
        convolution(c, image_channels, shortcut=True),
        nn.Tanh(),
    )


class _SmallImages(nn.Module):
    """Let images pass and refuse all else: another size would be pooled to a wrong number."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shape = (channels, SIDE, SIDE)

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        if x.ndim != 4 or tuple(x.shape[1:]) != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise ValueError(f"x must have shape (n, {wanted}); got {tuple(x.shape)}")
        return x


def _require_count(name: str, count: int) -> None:
    """Refuse anything but a positive integer."""
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"{name} must be a positive integer; got {count!r}")
