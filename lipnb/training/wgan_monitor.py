"""Looking at a Wasserstein GAN in training: gradient norms, grids of samples, lines of numbers.

The numbers are JSON lines; `EventLog` writes them, and the grids, for TensorBoard too.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lipnb.training.wgan_checkpoint import write_atomically

__all__ = [
    "EventLog",
    "gradient_norm_quantiles",
    "image_grid",
    "read_scalars",
    "write_grid",
    "write_scalars",
]


def gradient_norm_quantiles(
    critic: nn.Module, x: Tensor, levels: Sequence[float] = (0.05, 0.5, 0.95, 1.0)
) -> list[float]:
    r"""Quantiles of the gradient norms of a critic.

    .. math:: \|\nabla f(x_i)\|_2

    Parameters
    ----------
    critic : nn.Module
        f, (n, ...) to (n, 1). It is evaluated in evaluation mode, so that batch normalisation uses
        its running statistics and each gradient is that of one image, and put back.
    x : Tensor
        Images, shape (n, ...), n at least 1.
    levels : sequence of float
        From 0 to 1; 1 is the largest.

    Returns
    -------
    list of float
        One number a level, at least 0.

    Raises
    ------
    ValueError
        If x is empty.

    Examples
    --------
    >>> f = nn.Linear(2, 1)
    >>> _ = f.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
    >>> gradient_norm_quantiles(f, torch.zeros(5, 2), [0.5])
    [5.0]
    """
    if len(x) == 0:
        raise ValueError(f"x must hold at least one image; got shape {tuple(x.shape)}")
    training = critic.training
    critic.eval()
    try:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(critic(x).sum(), x)
    finally:
        critic.train(training)
    norms = gradient.flatten(1).double().norm(dim=1)
    found: list[float] = norms.quantile(norms.new_tensor(list(levels))).tolist()
    return found


def image_grid(images: Tensor, columns: int | None = None) -> Tensor:
    """Lay images out in rows, one pixel apart.

    Parameters
    ----------
    images : Tensor
        uint8, shape (n, c, h, w), n at least 1.
    columns : int, optional
        Images in a row; by default as many as rows, or one more.

    Returns
    -------
    Tensor
        uint8, shape (c, rows (h + 1) - 1, columns (w + 1) - 1); places without an image are black.

    Raises
    ------
    ValueError
        If the images are not bytes, or there are none.

    Examples
    --------
    >>> image_grid(torch.ones(3, 1, 2, 2, dtype=torch.uint8))[0]
    tensor([[1, 1, 0, 1, 1],
            [1, 1, 0, 1, 1],
            [0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 0, 0, 0]], dtype=torch.uint8)
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"images must be uint8 of shape (n, c, h, w), n at least 1;"
            f" got {images.dtype} {tuple(images.shape)}"
        )
    n, c, h, w = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    grid = images.new_zeros(c, rows * (h + 1) - 1, columns * (w + 1) - 1)
    for number, image in enumerate(images):
        top, left = (number // columns) * (h + 1), (number % columns) * (w + 1)
        grid[:, top : top + h, left : left + w] = image
    return grid


def write_grid(path: Path | str, images: Tensor) -> None:
    """Write a grid of images as PNG, wholly or not at all.

    Parameters
    ----------
    path : path
        The file.
    images : Tensor
        uint8, shape (n, c, h, w) with one or three channels.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_grid(Path(folder, "a.png"), torch.zeros(4, 1, 8, 8, dtype=torch.uint8))
    ...     with Image.open(Path(folder, "a.png")) as image:
    ...         image.size
    (17, 17)
    """
    pixels = image_grid(images).permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def write_scalars(path: Path | str, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write numbers as JSON lines, wholly or not at all.

    Parameters
    ----------
    path : path
        The file.
    lines : iterable of mapping
        Name to number, one mapping a line.

    Raises
    ------
    ValueError
        If a number is not finite.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_scalars(Path(folder, "a.jsonl"), [{"step": 1, "gap": 0.5}])
    ...     read_scalars(Path(folder, "a.jsonl"))
    [{'step': 1, 'gap': 0.5}]
    """
    text = "".join(json.dumps(dict(line), allow_nan=False) + "\n" for line in lines)
    write_atomically(path, text.encode())


def read_scalars(path: Path | str) -> list[dict[str, Any]]:
    r"""Read what `write_scalars` wrote, and lines that were appended since.

    Parameters
    ----------
    path : path
        The file.

    Returns
    -------
    list of dict
        One a line. A last line that was cut off is left out.

    Raises
    ------
    ValueError
        If another line is not JSON; the message names file and line.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.jsonl").write_text('{"step": 1}\n{"st')
    ...     read_scalars(Path(folder, "a.jsonl"))
    [{'step': 1}]
    """
    found = []
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line break is not whole
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: wanted JSON; {error}") from error
    return found


class EventLog:
    """Scalars and grids of one run as TensorBoard reads them.

    Parameters
    ----------
    folder : path
        Where the event files go.
    step : int
        Iterations done before; what an earlier process wrote beyond them is not shown.

    Raises
    ------
    ImportError
        If the package tensorboard is not there.

    Examples
    --------
    >>> log = EventLog("run/events")  # doctest: +SKIP
    >>> log.write(100, {"gap": 0.5})  # doctest: +SKIP
    """

    def __init__(self, folder: Path | str, step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError("events need the package tensorboard (extra gan)") from error
        self.writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, line: Mapping[str, float]) -> None:
        """Add the numbers of one line of the log.

        Parameters
        ----------
        step : int
            Iterations done.
        line : mapping
            Name to number; a number at the end of a name groups names.
        """
        for name, value in line.items():
            stem, _, level = name.rpartition("_")
            tag = f"{stem}/{level}" if level.replace(".", "").isdigit() else name
            self.writer.add_scalar(tag, value, step)
        self.writer.flush()

    def write_images(self, step: int, images: Tensor) -> None:
        """Add a grid of samples.

        Parameters
        ----------
        step : int
            Iterations done.
        images : Tensor
            uint8, shape (n, c, h, w).
        """
        self.writer.add_image("samples", image_grid(images), step)
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()
