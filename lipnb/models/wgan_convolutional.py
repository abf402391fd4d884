"""Plain convolutional critic and generator for 32 x 32 pixels, for machines without a GPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipnb.models.wgan_resnet import INITIALIZATIONS

__all__ = ["convolutional_wgan_critic", "convolutional_wgan_generator"]

SIDE = 32  # pixels on a side of an image


def convolutional_wgan_critic(
    channels: int = 16,
    *,
    image_channels: int = 3,
    initialization: str = "xavier",
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    r"""Build a critic of three convolutions and a linear layer.

    Each convolution has a window of 4 x 4, halves height and width, and is followed by a leaky ReLU
    of slope 0.2; widths are c, 2 c and 4 c. There is no normalisation: a penalty looks at each
    image alone.

    Parameters
    ----------
    channels : int
        Channels c after the first convolution.
    image_channels : int
        Channels m of an image.
    initialization : {"xavier", "kaiming"}
        Law of the weights of convolutions, as in `wgan_critic`; the linear layer has that of
        Glorot, biases are 0.
    generator : torch.Generator, optional
        The only source of randomness; by default a fresh one with seed 0.

    Returns
    -------
    nn.Sequential
        Network from images (n, m, 32, 32) to (n, 1), which refuses other shapes with a ValueError.
        ``critic[:-1]`` ends before the linear layer, with shape (n, 64 c). It has
        :math:`160 c^2 + (16 m + 71) c + 1` parameters.

    Raises
    ------
    ValueError
        If an argument is none of those above.

    References
    ----------
    The layout is that of Radford et al. (2016), narrower, and without batch normalisation.

    Examples
    --------
    >>> critic = convolutional_wgan_critic(4)
    >>> critic(torch.zeros(2, 3, 32, 32)).shape, critic[:-1](torch.zeros(2, 3, 32, 32)).shape
    (torch.Size([2, 1]), torch.Size([2, 256]))
    """
    _require_counts(channels=channels, image_channels=image_channels)
    generator = _checked(initialization, generator)
    c, m = channels, image_channels
    layers: list[nn.Module] = [_Images(m)]
    for n_in, n_out in ((m, c), (c, 2 * c), (2 * c, 4 * c)):
        convolution = nn.Conv2d(n_in, n_out, 4, stride=2, padding=1, device="meta")
        layers += [_filled(convolution, initialization, generator), nn.LeakyReLU(0.2)]
    last = _filled(nn.Linear(64 * c, 1, device="meta"), "", generator)
    return nn.Sequential(*layers, nn.Flatten(), last)


def convolutional_wgan_generator(
    channels: int = 16,
    *,
    image_channels: int = 3,
    latent: int = 32,
    initialization: str = "xavier",
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    r"""Build a generator of a linear layer and three transposed convolutions.

    The mirror image of the critic: 4 c channels at 4 x 4 positions, then 2 c, c, and the colours,
    with batch normalisation and ReLU before each transposed convolution, and tanh at the end.

    Parameters
    ----------
    channels : int
        Channels c before the last layer.
    image_channels : int
        Channels m of an image.
    latent : int
        Dimension d of the input z, a standard Gaussian.
    initialization, generator
        As in `convolutional_wgan_critic`.

    Returns
    -------
    nn.Sequential
        Network from (n, d) to images (n, m, 32, 32) with values in [-1, 1]. It has
        :math:`160 c^2 + 64 d c + (16 m + 81) c + m` parameters.

    Raises
    ------
    ValueError
        If an argument is none of those above.

    References
    ----------
    The layout is that of Radford et al. (2016), narrower.

    Examples
    --------
    >>> convolutional_wgan_generator(4, latent=5)(torch.zeros(2, 5)).shape
    torch.Size([2, 3, 32, 32])
    """
    _require_counts(channels=channels, image_channels=image_channels, latent=latent)
    generator = _checked(initialization, generator)
    c, m = channels, image_channels
    first = _filled(nn.Linear(latent, 64 * c, device="meta"), "", generator)
    layers: list[nn.Module] = [first, nn.Unflatten(1, (4 * c, 4, 4))]
    for n_in, n_out in ((4 * c, 2 * c), (2 * c, c), (c, m)):
        convolution = nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1, device="meta")
        norm = nn.BatchNorm2d(n_in, device=generator.device)
        layers += [norm, nn.ReLU(), _filled(convolution, initialization, generator)]
    return nn.Sequential(*layers, nn.Tanh())


class _Images(nn.Module):
    """Let images pass and refuse all else."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shape = (channels, SIDE, SIDE)

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        if x.ndim != 4 or tuple(x.shape[1:]) != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise ValueError(f"x must have shape (n, {wanted}); got {tuple(x.shape)}")
        return x


def _filled(
    layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, law: str, generator: torch.Generator
) -> nn.Module:
    """Give a layer its first weights; torch's own initialisation would draw from the global RNG."""
    layer.to_empty(device=generator.device)
    if law == "kaiming":
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
    else:
        gain = math.sqrt(2) if law == "xavier" else 1.0
        nn.init.xavier_uniform_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


def _require_counts(**counts: int) -> None:
    """Refuse anything but positive integers."""
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a positive integer; got {count!r}")


def _checked(initialization: str, generator: torch.Generator | None) -> torch.Generator:
    """Check the law of the weights, and return the source of randomness."""
    if initialization not in INITIALIZATIONS:
        raise ValueError(f"initialization must be one of {INITIALIZATIONS}; got {initialization!r}")
    return torch.Generator().manual_seed(0) if generator is None else generator
