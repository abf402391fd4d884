"""CIFAR-10 from the files that its authors publish, through torchvision."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch

from lipnb.data.images import ImageData

__all__ = ["load_cifar10"]

SPLITS = ("train", "test", "all")


def load_cifar10(root: Path | str, *, split: str = "train", download: bool = False) -> ImageData:
    """Load CIFAR-10 with torchvision, each file checked against its published digest.

    Parameters
    ----------
    root : path
        Folder that holds `cifar-10-batches-py`, the folder of the unpacked archive.
    split : {"train", "test", "all"}
        The 50 000 training images, the 10 000 test images, or both in this order, as the code of
        WGAN-ALP trained on.
    download : bool
        Whether torchvision may fetch and unpack the archive (170 MB) if a file is missing or
        damaged. By default nothing is fetched.

    Returns
    -------
    ImageData
        Images of shape (3, 32, 32) in ten classes.

    Raises
    ------
    FileNotFoundError
        If a file is missing; the message names it.
    ValueError
        If a file is damaged, which means that its MD5 is not the published one, or the split is
        unknown.
    ImportError
        If torchvision is not installed (``pip install lipnb[gan]``).

    References
    ----------
    Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009).

    Examples
    --------
    >>> load_cifar10("no_such_folder")
    Traceback (most recent call last):
        ...
    FileNotFoundError: CIFAR-10 needs the file no_such_folder/cifar-10-batches-py/batches.meta; \
it is missing
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}; got {split!r}")
    try:
        datasets: Any = importlib.import_module("torchvision.datasets")
    except ImportError as error:
        raise ImportError("CIFAR-10 needs torchvision: pip install lipnb[gan]") from error
    if not download:
        _check(datasets, Path(root))
    parts = [
        datasets.CIFAR10(str(root), train=which == "train", download=download)
        for which in ("train", "test")
        if split in (which, "all")
    ]
    images = torch.cat([torch.from_numpy(part.data) for part in parts]).permute(0, 3, 1, 2)
    labels = torch.cat([torch.tensor(part.targets) for part in parts])
    return ImageData(f"CIFAR-10, {split}", images.contiguous(), labels, tuple(parts[0].classes))


def _check(datasets: Any, root: Path) -> None:
    """Name the first file that is missing or not the published one."""
    cifar = datasets.CIFAR10
    wanted = [(cifar.meta["filename"], cifar.meta["md5"]), *cifar.train_list, *cifar.test_list]
    for name, md5 in wanted:
        path = root / cifar.base_folder / name
        if not path.is_file():
            raise FileNotFoundError(f"CIFAR-10 needs the file {path}; it is missing")
        if not datasets.utils.check_integrity(str(path), md5):
            raise ValueError(
                f"{path} must have the published MD5 {md5}; it has another one: damaged or foreign"
            )
