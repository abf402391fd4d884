"""The pair of networks that settings ask for, and the samples they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lipnb.constraints import spectral_norm
from lipnb.models import (
    convolutional_wgan_critic,
    convolutional_wgan_generator,
    lean,
    small_wgan_critic,
    small_wgan_generator,
    wgan_critic,
    wgan_generator,
)
from lipnb.regularizers._network import copied_buffers
from lipnb.training.wgan_batches import seeded_stream, to_bytes
from lipnb.training.wgan_presets import WganSettings

__all__ = ["WganRun", "build_networks", "sample_images"]

# Objectives that differentiate a gradient, for which lean layers save a third of the passes.
SECOND_ORDER = ("banach", "ct", "gp", "lp", "max_gp")


def build_networks(
    settings: WganSettings, shape: tuple[int, int, int], seed: int
) -> tuple[nn.Sequential, nn.Sequential]:
    """Make an untrained critic and generator for images of a shape.

    Parameters
    ----------
    settings : WganSettings
        Widths, initialisation, normalisation.
    shape : (int, int, int)
        Channels, height and width: (3, 32, 32) for the networks of WGAN-GP, (m, 8, 8) for the small
        ones, (m, 32, 32) for the convolutional ones.
    seed : int
        Decides the weights, from 0 to 4095.

    Returns
    -------
    critic, generator : nn.Sequential
        On the CPU, in training mode. With the objective "sn" every layer of the critic is
        spectrally normalised.

    Raises
    ------
    ValueError
        If there are no networks for this shape.

    Examples
    --------
    >>> critic, generator = build_networks(WganSettings(latent=3, channels=4), (1, 8, 8), 0)
    >>> critic(generator(torch.zeros(2, 3))).shape
    torch.Size([2, 1])
    """
    g = seeded_stream(seed, 0)
    common: dict[str, Any] = {"initialization": settings.initialization, "generator": g}
    of_critic: dict[str, Any] = {"pooling": settings.pooling, "batch_norm": settings.batch_norm}
    widths = settings.channels, settings.generator_channels
    latent = settings.latent
    if settings.network == "convolutional":
        if shape[1:] != (32, 32):
            raise ValueError(
                f"images of convolutional networks must be (channels, 32, 32); got {tuple(shape)}"
            )
        common["image_channels"] = shape[0]
        critic = convolutional_wgan_critic(widths[0], **common)
        generator = convolutional_wgan_generator(widths[1], latent=latent, **common)
    elif shape == (3, 32, 32):
        critic = wgan_critic(widths[0], dropout=settings.dropout, **common, **of_critic)
        generator = wgan_generator(widths[1], latent=latent, **common)
        if settings.objective in SECOND_ORDER and not settings.batch_norm:
            lean(critic)
    elif shape[1:] == (8, 8):
        common["image_channels"] = shape[0]
        dropout = settings.dropout[-1:]
        critic = small_wgan_critic(widths[0], dropout=dropout, **common, **of_critic)
        generator = small_wgan_generator(widths[1], latent=latent, **common)
    else:
        raise ValueError(
            f"images must have shape (3, 32, 32) or (channels, 8, 8); got {tuple(shape)}"
        )
    if settings.objective == "sn":
        _normalise(critic, settings, shape, g)
    return critic, generator


def _normalise(
    critic: nn.Sequential,
    settings: WganSettings,
    shape: tuple[int, int, int],
    g: torch.Generator,
) -> None:
    """Attach spectral normalisation to every layer with a weight."""
    layers = [m for m in critic.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    if settings.spectral == "operator":
        sizes: dict[nn.Module, tuple[int, int]] = {}
        hooks = [
            layer.register_forward_pre_hook(
                lambda module, inputs: sizes.update({module: tuple(inputs[0].shape[2:])})
            )
            for layer in layers
        ]
        with torch.no_grad(), copied_buffers(critic):
            critic(torch.zeros(2, *shape))
        for hook in hooks:
            hook.remove()
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer, input_size=sizes[layer], generator=g)
            else:
                spectral_norm(layer, generator=g)
        return
    with torch.random.fork_rng([]):  # torch draws the first vector from its global generator
        torch.default_generator.manual_seed(int(torch.randint(2**31, (), generator=g)))
        for layer in layers:
            parametrizations.spectral_norm(layer)


def sample_images(
    generator: nn.Module,
    n: int,
    *,
    latent: int,
    sampling: str = "running",
    seed: int = 0,
    batch: int = 100,
) -> Tensor:
    """Make images.

    Parameters
    ----------
    generator : nn.Module
        g, (n, latent) to (n, c, h, w) in [-1, 1]. Its mode and its buffers are left as they were.
    n : int
        How many, at least 1.
    latent : int
        Dimension of z, a standard Gaussian.
    sampling : {"running", "batch"}
        Whether g normalises by its running statistics, or by those of batches of `batch` images, as
        in training. In the second case the last batch is filled up, and the surplus left out.
    seed : int
        Of z, from 0 to 4095; the same z on every device.
    batch : int
        Images at a time.

    Returns
    -------
    Tensor
        uint8, shape (n, c, h, w), on the CPU.

    Raises
    ------
    ValueError
        If n or batch is below 1, or `sampling` is another one.

    Examples
    --------
    >>> from lipnb.models import small_wgan_generator
    >>> sample_images(small_wgan_generator(4), 3, latent=16).shape
    torch.Size([3, 1, 8, 8])
    """
    if n < 1 or batch < 1:
        raise ValueError(f"n and batch must be at least 1; got {n} and {batch}")
    if sampling not in ("running", "batch"):
        raise ValueError(f"sampling must be 'running' or 'batch'; got {sampling!r}")
    parameter = next(generator.parameters())
    g, training = seeded_stream(seed, 3), generator.training
    generator.train(sampling == "batch")
    found = []
    try:
        with torch.no_grad():
            for _ in range(0, n, batch):
                z = torch.randn(batch, latent, generator=g).to(parameter.device, parameter.dtype)
                with copied_buffers(generator):
                    found.append(to_bytes(generator(z).float()).cpu())
    finally:
        generator.train(training)
    return torch.cat(found)[:n].contiguous()


@dataclass(frozen=True)
class WganRun:
    """A trained pair and what was seen on the way.

    Attributes
    ----------
    critic, generator : nn.Module
        The networks. If `settings.average` is positive, the generator holds the averaged weights.
    settings : WganSettings
        How they were trained.
    step : int
        Iterations done, fewer than `settings.iterations` if the run was told to stop.
    history : list of dict
        One line every `log_every` iterations: step, means over the critic steps since the line
        before (gap, penalty before its weight, losses, violations a batch, slope), the largest
        slope, and quantiles of the gradient norms of the critic at real and generated images.
    seconds : float
        Time, earlier parts of a resumed run included.
    """

    critic: nn.Module
    generator: nn.Module
    settings: WganSettings
    step: int
    history: list[dict[str, float]]
    seconds: float

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Make n images, uint8, normalised as `settings.sampling` says."""
        s = self.settings
        return sample_images(self.generator, n, latent=s.latent, sampling=s.sampling, seed=seed)
