"""Residual critic and generator for images of 32 x 32 pixels, as WGAN-GP introduced them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["wgan_critic", "wgan_generator"]

SIZE = 32  # pixels on a side of an image
INITIALIZATIONS = ("xavier", "kaiming")
POOLINGS = ("mean", "sum")


def wgan_critic(
    channels: int = 128,
    *,
    initialization: str = "xavier",
    pooling: str = "mean",
    batch_norm: bool = False,
    dropout: Sequence[float] = (),
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    r"""Build the residual critic of WGAN-GP for CIFAR-10.

    Four residual blocks :math:`x \mapsto s(x) + m(x)`, the first two of which halve height and
    width by average pooling, then ReLU, pooling over all positions, and a linear layer. A main
    path m has two 3 x 3 convolutions with a ReLU before each (in the first block only before the
    second, for its input is an image); a shortcut s is a 1 x 1 convolution in the first two blocks
    and the identity after.

    Parameters
    ----------
    channels : int
        Channels of every hidden layer.
    initialization : {"xavier", "kaiming"}
        Law of the main paths' weights, uniform on [-b, b] with
        :math:`b = \sqrt{12 / (n_{in} + n_{out})}` (WGAN-GP, SN-GAN) or
        :math:`b = \sqrt{6 / n_{in}}` (WGAN-ALP), where n counts the numbers in a window. In
        shortcuts and in the last layer :math:`b = \sqrt{6 / (n_{in} + n_{out})}`; biases are 0.
    pooling : {"mean", "sum"}
        How the positions before the last layer are pooled (WGAN-GP and WGAN-ALP take the mean,
        SN-GAN the sum).
    batch_norm : bool
        Put a `BatchNorm2d` before each of the eight ReLUs. Then f(x) depends on the whole batch
        while training.
    dropout : sequence of float
        Three probabilities of a zero, after the second, third and fourth block, or none at all
        (CT-GAN: 0.2, 0.5, 0.5). The masks come from torch's global generator.
    generator : torch.Generator, optional
        The only source of randomness in the weights, and its device is the network's. By default a
        fresh one with seed 0, so that two calls give the same network.
    dtype : torch.dtype, optional
        Of the parameters; torch's default where not given.

    Returns
    -------
    nn.Sequential
        Network from images (n, 3, 32, 32) to (n, 1), which refuses other shapes with a
        ValueError. ``critic[:-1]`` ends before the linear layer, with shape (n, channels). With
        128 channels and no batch normalisation it has 1 053 825 parameters.

    Raises
    ------
    ValueError
        If an argument is none of those above.

    Examples
    --------
    >>> critic = wgan_critic(8)
    >>> critic(torch.zeros(2, 3, 32, 32)).shape, critic[:-1](torch.zeros(2, 3, 32, 32)).shape
    (torch.Size([2, 1]), torch.Size([2, 8]))

    References
    ----------
    Gulrajani et al. (2017) and the code published with it; Miyato et al. (2018) for the sum; Wei
    et al. (2018) for dropout; Terjek (2020) for the other initialisation and batch normalisation.
    """
    convolution, normalization, linear = _layers(channels, initialization, generator, dtype)
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {POOLINGS}; got {pooling!r}")
    if len(dropout) not in (0, 3) or not all(0 <= share < 1 for share in dropout):
        raise ValueError(
            f"dropout must be empty or three probabilities in [0, 1); got {list(dropout)}"
        )
    c = channels
    first, second, third = ([nn.Dropout(share)] for share in dropout) if dropout else ([], [], [])

    def activation() -> list[nn.Module]:
        """Make a ReLU, normalised before it where asked for."""
        return [normalization(), nn.ReLU()] if batch_norm else [nn.ReLU()]

    def half() -> list[nn.Module]:
        """Make one convolution of a block with what precedes it."""
        return [*activation(), convolution(c, c)]

    return nn.Sequential(
        _Images(),
        _Residual(
            [convolution(3, c), *half(), nn.AvgPool2d(2)],
            [nn.AvgPool2d(2), convolution(3, c, size=1, shortcut=True)],
        ),
        _Residual(
            [*half(), *half(), nn.AvgPool2d(2)],
            [convolution(c, c, size=1, shortcut=True), nn.AvgPool2d(2)],
        ),
        *first,
        _Residual([*half(), *half()], []),
        *second,
        _Residual([*half(), *half()], []),
        *third,
        *activation(),
        nn.AvgPool2d(SIZE // 4, divisor_override=1 if pooling == "sum" else None),
        nn.Flatten(),
        linear(c, 1),
    )


def wgan_generator(
    channels: int = 128,
    *,
    latent: int = 128,
    initialization: str = "xavier",
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    r"""Build the residual generator of WGAN-GP for CIFAR-10.

    A linear layer to 4 x 4 positions, three residual blocks :math:`x \mapsto s(x) + m(x)` that
    double height and width by repeating each position, then batch normalisation, ReLU, a 3 x 3
    convolution to three colours, and tanh. A main path m has two 3 x 3 convolutions with batch
    normalisation and ReLU before each; a shortcut s is a 1 x 1 convolution.

    Parameters
    ----------
    channels : int
        Channels of every hidden layer (SN-GAN has 256).
    latent : int
        Dimension of the input z, a standard Gaussian.
    initialization, generator, dtype
        As in `wgan_critic`; the first and the last layer take the law of the shortcuts.

    Returns
    -------
    nn.Sequential
        Network from (n, latent) to images (n, 3, 32, 32) with values in [-1, 1]. With 128
        channels and 128 latent dimensions it has 1 204 483 parameters.

    Raises
    ------
    ValueError
        If an argument is none of those above.

    Notes
    -----
    WGAN-GP normalises by the statistics of the batch when it samples too, as in training mode;
    WGAN-ALP takes running means, as in evaluation mode, with the decay 0.9 that is torch's
    default.

    Examples
    --------
    >>> wgan_generator(8, latent=5)(torch.zeros(2, 5)).shape
    torch.Size([2, 3, 32, 32])

    References
    ----------
    Gulrajani et al. (2017) and the code published with it; Terjek (2020).
    """
    convolution, normalization, linear = _layers(channels, initialization, generator, dtype)
    if not isinstance(latent, int) or latent < 1:
        raise ValueError(f"latent must be a positive integer; got {latent!r}")
    c, start = channels, SIZE // 8

    def half() -> list[nn.Module]:
        """Make one convolution of a block with what precedes it."""
        return [normalization(), nn.ReLU(), convolution(c, c)]

    def block() -> nn.Module:
        """Make one residual block that doubles the side."""
        norm, relu, first = half()
        return _Residual(
            [norm, relu, nn.Upsample(scale_factor=2), first, *half()],
            [nn.Upsample(scale_factor=2), convolution(c, c, size=1, shortcut=True)],
        )

    return nn.Sequential(
        linear(latent, start * start * c),
        nn.Unflatten(1, (c, start, start)),
        block(),
        block(),
        block(),
        normalization(),
        nn.ReLU(),
        convolution(c, 3, shortcut=True),
        nn.Tanh(),
    )


class _Residual(nn.Module):
    """Sum of a main path and a shortcut."""

    def __init__(self, main: Sequence[nn.Module], shortcut: Sequence[nn.Module]) -> None:
        super().__init__()
        self.main = nn.Sequential(*main)
        self.shortcut = nn.Sequential(*shortcut)  # without layers it is the identity

    def forward(self, x: Tensor) -> Tensor:
        """Return shortcut(x) + main(x)."""
        return self.shortcut(x) + self.main(x)


class _Images(nn.Module):
    """Let images pass and refuse all else: another size would be pooled to a wrong number."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        if x.ndim != 4 or x.shape[1:] != (3, SIZE, SIZE):
            raise ValueError(f"x must have shape (n, 3, {SIZE}, {SIZE}); got {tuple(x.shape)}")
        return x


def _layers(
    channels: int,
    initialization: str,
    generator: torch.Generator | None,
    dtype: torch.dtype | None,
) -> tuple[Callable[..., nn.Conv2d], Callable[[], nn.BatchNorm2d], Callable[..., nn.Linear]]:
    """Return what makes the layers of one network, after checking what they are made of."""
    if not isinstance(channels, int) or channels < 1:
        raise ValueError(f"channels must be a positive integer; got {channels!r}")
    if initialization not in INITIALIZATIONS:
        raise ValueError(f"initialization must be one of {INITIALIZATIONS}; got {initialization!r}")
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    dtype = torch.get_default_dtype() if dtype is None else dtype
    return (
        partial(_convolution, generator, dtype, initialization),
        partial(nn.BatchNorm2d, channels, device=generator.device, dtype=dtype),
        partial(_linear, generator, dtype),
    )


def _convolution(
    generator: torch.Generator,
    dtype: torch.dtype,
    initialization: str,
    n_in: int,
    n_out: int,
    *,
    size: int = 3,
    shortcut: bool = False,
) -> nn.Conv2d:
    """Make a convolution that keeps height and width; with `shortcut`, under the law of those."""
    # Built on the meta device, because torch's own initialisation draws from the global RNG.
    layer = nn.Conv2d(n_in, n_out, size, padding=size // 2, device="meta", dtype=dtype)
    layer = layer.to_empty(device=generator.device)
    if initialization == "kaiming" and not shortcut:
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
    else:
        gain = 1.0 if shortcut else math.sqrt(2)
        nn.init.xavier_uniform_(layer.weight, gain, generator=generator)
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


def _linear(generator: torch.Generator, dtype: torch.dtype, n_in: int, n_out: int) -> nn.Linear:
    """Make a linear layer under the law of the shortcuts."""
    layer = nn.Linear(n_in, n_out, device="meta", dtype=dtype).to_empty(device=generator.device)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
