"""Images in class folders, of any kind that Pillow reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lipnb.data.images import ImageData

__all__ = ["load_image_folder"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def load_image_folder(root: Path | str, *, channels: int = 3, name: str | None = None) -> ImageData:
    """Load a folder whose subfolders are classes and hold one image file each sample.

    Parameters
    ----------
    root : path
        Folder with one subfolder a class: `root/cat/0001.png`. Classes and files are taken in the
        order of their names. Hidden files and folders, and files of other kinds, are passed over.
    channels : {1, 3}
        Whether images are read as grey or as colours.
    name : str, optional
        What the images are, for records; by default the name of the folder. Say so here if the
        files are lossy copies.

    Returns
    -------
    ImageData
        All images, which must have one size.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist or holds no class folders.
    ValueError
        If a class folder holds no image, a file is damaged, or its image has another size than the
        first one; the message names the file.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for kind, grey in (("dark", 0), ("light", 255)):
    ...         Path(folder, kind).mkdir()
    ...         Image.new("L", (8, 8), grey).save(Path(folder, kind, "0.png"))
    ...     data = load_image_folder(folder, channels=1)
    >>> data.classes, data.images.flatten(1).float().mean(dim=1)
    (('dark', 'light'), tensor([  0., 255.]))
    """
    root = Path(root)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3; got {channels!r}")
    if not root.is_dir():
        raise FileNotFoundError(f"root must be a folder of class folders; {root} does not exist")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise FileNotFoundError(f"root must hold a folder for each class; {root} holds none")
    files, labels = [], []
    for number, folder in enumerate(folders):
        found = sorted(
            p
            for p in folder.iterdir()
            if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")
        )
        if not found:
            raise ValueError(f"a class folder must hold images; {folder} holds none")
        files += found
        labels += [number] * len(found)
    first = _read(files[0], channels)
    images = np.empty((len(files), *first.shape), dtype=np.uint8)
    for row, file in enumerate(files):
        image = _read(file, channels)
        if image.shape != first.shape:
            raise ValueError(
                f"all images must have one size; {files[0]} has {first.shape[1]} x"
                f" {first.shape[0]} pixels, but {file} has {image.shape[1]} x {image.shape[0]}"
            )
        images[row] = image
    return ImageData(
        name or root.resolve().name,
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.tensor(labels),
        tuple(folder.name for folder in folders),
    )


def _read(file: Path, channels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Decode one image to bytes, shape (height, width, channels)."""
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for broken files
        raise ValueError(f"{file} must be an image; it cannot be decoded: {error}") from error
    return pixels.reshape(*pixels.shape[:2], channels)
