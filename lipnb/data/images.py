"""The form in which every loader returns its images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ImageData"]


@dataclass(frozen=True)
class ImageData:
    """Images with labels, as bytes.

    Attributes
    ----------
    name : str
        What they are, for records.
    images : Tensor
        uint8, shape (n, channels, height, width), n at least 1.
    labels : Tensor
        int64, shape (n,), numbers of classes from 0.
    classes : tuple of str
        Names of the classes.

    Raises
    ------
    ValueError
        If images or labels have another type or shape, or a label names no class.

    Examples
    --------
    >>> images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    >>> data = ImageData("blank", images, torch.tensor([0, 0]), ("blank",))
    >>> len(data), data.shape, len(data.sha256)
    (2, (1, 8, 8), 64)
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check types and shapes."""
        x, y = self.images, self.labels
        if x.dtype != torch.uint8 or x.ndim != 4 or x.numel() == 0:
            raise ValueError(
                f"images must be uint8 of shape (n, c, h, w), none of them 0;"
                f" got {x.dtype} {tuple(x.shape)}"
            )
        if y.dtype != torch.int64 or y.shape != x.shape[:1]:
            raise ValueError(
                f"labels must be int64 of shape ({len(x)},); got {y.dtype} {tuple(y.shape)}"
            )
        if not 0 <= int(y.min()) <= int(y.max()) < len(self.classes):
            raise ValueError(
                f"labels must lie from 0 to {len(self.classes) - 1};"
                f" got {int(y.min())} to {int(y.max())}"
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def sha256(self) -> str:
        """Digest of shape, images and labels, in hexadecimal."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for part in (self.images, self.labels):
            digest.update(part.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()
