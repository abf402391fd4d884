"""A small classifier of images, trained by the project, whose features are compared."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Classifier", "train_classifier"]


class Classifier(nn.Module):
    r"""Convolutional classifier of uint8 images with one layer of features.

    .. math:: f(x) = W\, \varphi(x) + b, \qquad \varphi(x) \in \mathbb R^{d}

    Blocks of convolution 3 x 3, batch normalisation, ReLU and mean pooling halve the side until
    it is 2; a dense layer with ReLU makes the features of what is left.

    Parameters
    ----------
    channels, side, classes : int
        Of the images and labels; the side must be a power of 2, at least 4.
    width : int
        Channels of the first block, doubled with each further one; as many features as channels
        in the last one.

    Raises
    ------
    ValueError
        If the side is not a power of 2, or less than 4.

    Examples
    --------
    >>> f = Classifier(channels=1, side=8, classes=10, width=16)
    >>> features, logits = f(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    >>> features.shape, logits.shape
    (torch.Size([3, 32]), torch.Size([3, 10]))
    """

    def __init__(self, channels: int, side: int, classes: int, width: int = 32) -> None:
        super().__init__()
        if side < 4 or side & (side - 1):
            raise ValueError(f"side must be a power of 2, at least 4; got {side}")
        blocks = side.bit_length() - 2
        widths = [channels, *(width * 2**i for i in range(blocks))]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.AvgPool2d(2)
                )
                for a, b in pairwise(widths)
            )
        )
        self.features = nn.Sequential(
            nn.Flatten(), nn.Linear(4 * widths[-1], widths[-1]), nn.ReLU()
        )
        self.head = nn.Linear(widths[-1], classes)
        self.shape = (channels, side, side)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits of uint8 images."""
        if images.dtype != torch.uint8 or images.shape[1:] != self.shape:
            raise ValueError(
                f"images must be uint8 of shape (n, {', '.join(map(str, self.shape))});"
                f" got {images.dtype} {tuple(images.shape)}"
            )
        features = self.features(self.blocks(images.to(self.head.weight.dtype) / 127.5 - 1))
        return features, self.head(features)


def train_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    width: int = 32,
    epochs: int = 20,
    batch: int = 64,
    learning_rate: float = 3e-3,
    shift: int = 0,
    seed: int = 0,
) -> Classifier:
    r"""Train a classifier whose features shall tell good images from bad ones.

    .. math:: \min_f\; -\frac1n \sum_i \log p(y_i \mid x_i), \qquad p = \operatorname{softmax} f

    Adam with one cycle of the learning rate; images are shifted by up to `shift` pixels.

    Parameters
    ----------
    images : Tensor
        uint8, shape (n, channels, side, side).
    labels : Tensor
        Classes from 0, shape (n,), int64.
    width : int
        Of the classifier.
    epochs, batch : int
        Passes over the images, and images in a step.
    learning_rate : float
        Largest rate of Adam.
    shift : int
        Pixels, at least 0.
    seed : int
        Decides weights, order and shifts. The global generator is left as it was.

    Returns
    -------
    Classifier
        In evaluation mode, its weights frozen.

    Raises
    ------
    ValueError
        If images or labels have another form.

    Examples
    --------
    >>> images = torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8)
    >>> labels = torch.arange(64) % 2
    >>> images[:, :, :4] = 255 * labels.view(-1, 1, 1, 1).to(torch.uint8)
    >>> f = train_classifier(images, labels, width=8, epochs=10, batch=8)
    >>> bool((f(images)[1].argmax(dim=1) == labels).all())
    True
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3] or images.dtype != torch.uint8:
        raise ValueError(
            f"images must be uint8 of shape (n, c, s, s); got {images.dtype} {tuple(images.shape)}"
        )
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64 or int(labels.min()) < 0:
        raise ValueError(
            f"labels must be int64 from 0, one per image; got {labels.dtype} {tuple(labels.shape)}"
        )
    n, channels, side, _ = images.shape
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        f = Classifier(channels, side, int(labels.max()) + 1, width)
    steps = math.ceil(n / batch)
    adam = torch.optim.Adam(f.parameters(), lr=learning_rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(adam, learning_rate, total_steps=epochs * steps)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(n, generator=generator), batch):
            x = images[rows]
            if shift:
                down, right = torch.randint(2 * shift + 1, (2,), generator=generator).tolist()
                padded = F.pad(x, (shift, shift, shift, shift), mode="constant")
                x = padded[:, :, down : down + side, right : right + side]
            loss = F.cross_entropy(f(x)[1], labels[rows])
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            cycle.step()
    return f.eval().requires_grad_(False)
