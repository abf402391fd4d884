"""From bytes to batches on any device, and from samples back to bytes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ImageStream", "seeded_stream", "to_bytes", "to_floats"]

FIRST_EPOCH = 16  # smaller streams of a seed are not orders of images


def seeded_stream(seed: int, stream: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make the generator of one independent stream of random numbers of a seed.

    Parameters
    ----------
    seed : int
        From 0 to 4095.
    stream : int
        From 0 to 1048575.
    device : device
        Of the generator.

    Returns
    -------
    torch.Generator
        A fresh one.

    Raises
    ------
    ValueError
        If a number is out of its range.

    Examples
    --------
    >>> seeded_stream(1, 2).initial_seed() == 2**20 + 2
    True
    """
    if not 0 <= seed < 2**12 or not 0 <= stream < 2**20:
        raise ValueError(
            f"seed must be an integer from 0 to {2**12 - 1}, stream from 0 to {2**20 - 1};"
            f" got {seed} and {stream}"
        )
    # torch's CPU generator looks at the lowest 32 bits of a seed and at no others.
    return torch.Generator(device).manual_seed(seed * 2**20 + stream)


def to_floats(
    images: Tensor,
    *,
    flip: bool = False,
    dequantise: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Turn bytes into numbers in [-1, 1], mirrored and dequantised at random.

    .. math:: x = \frac{b + u}{128} - 1, \quad u \sim U[0, 1)^d \qquad\text{or}\qquad
        x = \frac{b}{127.5} - 1

    Parameters
    ----------
    images : Tensor
        Bytes b, uint8, shape (n, c, h, w).
    flip : bool
        Whether each image is mirrored left to right with probability one half.
    dequantise : bool
        Whether noise u is added, so that no two grey values differ by a whole step.
    generator : torch.Generator, optional
        Source of randomness, on the device of the images.

    Returns
    -------
    Tensor
        float32, same shape.

    References
    ----------
    The noise is that of the code of Gulrajani et al. (2017): 2 (b / 256 - 1 / 2) + U(0, 1 / 128).

    Examples
    --------
    >>> images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    >>> to_floats(images, dequantise=False).flatten()
    tensor([-1.,  1.])
    """
    x = images.float()
    if flip:
        coin = torch.rand(len(x), 1, 1, 1, generator=generator, device=x.device)
        x = torch.where(coin < 0.5, x.flip(3), x)
    if not dequantise:
        return x / 127.5 - 1
    noise = torch.rand(x.shape, generator=generator, device=x.device)
    return (x + noise) / 128 - 1


def to_bytes(x: Tensor) -> Tensor:
    r"""Turn samples in [-1, 1] into bytes: the grey value whose dequantised interval holds x.

    .. math:: b = \lfloor 127.995\, (x + 1) \rfloor

    Parameters
    ----------
    x : Tensor
        Images, any shape, values in [-1, 1].

    Returns
    -------
    Tensor
        uint8, same shape, contiguous.

    Raises
    ------
    ValueError
        If a value is not in [-1, 1].

    References
    ----------
    Rounding of the code of Gulrajani et al. (2017).

    Examples
    --------
    >>> to_bytes(torch.tensor([-1.0, 0.0, 1.0]))
    tensor([  0, 127, 255], dtype=torch.uint8)
    """
    if not bool((x.abs() <= 1).all()):
        raise ValueError(
            f"x must lie in [-1, 1]; got values from {x.min().item()} to {x.max().item()}"
        )
    return ((x + 1) * 127.995).floor().to(torch.uint8).contiguous()


class ImageStream:
    """Real images in random order, a block an iteration, none twice within an epoch.

    The order of an epoch depends on the seed and the number of the epoch alone, so that a run can
    start in the middle. Images stay bytes, on the device of training.

    Parameters
    ----------
    images : Tensor
        uint8, shape (n, c, h, w), on the device of training.
    block : int
        Images an iteration takes, at most n. What is left of an epoch is passed over.
    seed : int
        Seed of the order, from 0 to 4095.

    Raises
    ------
    ValueError
        If there are fewer images than a block, or the seed is out of its range.

    Examples
    --------
    >>> images = torch.arange(7, dtype=torch.uint8).view(7, 1, 1, 1)
    >>> stream = ImageStream(images, block=3, seed=0)
    >>> seen = []
    >>> for step in (0, 1):  # one epoch, a seventh image left over
    ...     stream.go_to(step)
    ...     seen += stream.rows().tolist()
    >>> len(set(seen))
    6
    """

    def __init__(self, images: Tensor, block: int, seed: int) -> None:
        if not 1 <= block <= len(images):
            raise ValueError(
                f"an iteration takes {block} images, at least 1 and at most all; got {len(images)}"
            )
        seeded_stream(seed, 0)  # refuses a seed out of range
        self.images, self.block, self.seed = images, block, seed
        self.blocks = len(images) // block
        self.epoch = -1
        # One buffer for all epochs and a counter on the device: a captured graph reads them there.
        self.order = torch.zeros(self.blocks, block, dtype=torch.int64, device=images.device)
        self.position = torch.zeros(1, dtype=torch.int64, device=images.device)

    def go_to(self, step: int) -> None:
        """Point at the block of an iteration, and shuffle where it begins an epoch."""
        epoch, position = divmod(step, self.blocks)
        if epoch != self.epoch:
            generator = seeded_stream(self.seed, FIRST_EPOCH + epoch)
            order = torch.randperm(len(self.images), generator=generator)
            self.order.copy_(order[: self.order.numel()].view_as(self.order))
            self.epoch = epoch
        self.position.fill_(position)

    def rows(self) -> Tensor:
        """Numbers of the images of this iteration, shape (block,)."""
        return self.order.index_select(0, self.position).squeeze(0)

    def take(self) -> Tensor:
        """Bytes of the images of this iteration, shape (block, c, h, w)."""
        return self.images.index_select(0, self.rows())
