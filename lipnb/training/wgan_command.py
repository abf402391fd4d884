"""The command line of the training engine: python -m lipnb.training.wgan --help."""

from __future__ import annotations

import argparse
import ast
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lipnb.data import ImageData, load_cifar10, load_digit_images, load_image_folder
from lipnb.training.wgan import train_wgan
from lipnb.training.wgan_device import DeviceOptions
from lipnb.training.wgan_presets import METHODS, PRESETS, method_settings

__all__ = ["load_data", "main"]


def load_data(source: str, split: str = "train") -> ImageData:
    """Load the images that a word of the command line names.

    Parameters
    ----------
    source : str
        "digits"; "cifar10:FOLDER", with `cifar-10-batches-py` in it; or "folder:FOLDER", with one
        folder a class in it, read in colours.
    split : str
        Of CIFAR-10.

    Returns
    -------
    ImageData
        The images.

    Raises
    ------
    ValueError
        If the word is another one, or as the loaders.

    Examples
    --------
    >>> load_data("digits").shape
    (1, 8, 8)
    """
    kind, _, place = source.partition(":")
    if source == "digits":
        return load_digit_images()
    if kind == "cifar10" and place:
        return load_cifar10(place, split=split)
    if kind == "folder" and place:
        return load_image_folder(place)
    raise ValueError(f"data must be digits, cifar10:FOLDER or folder:FOLDER; got {source!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says.

    Parameters
    ----------
    argv : sequence of str, optional
        The words after the command; by default those of the process.

    Returns
    -------
    int
        0 when the run is complete, 3 when it stopped before its last iteration and can be resumed.

    Raises
    ------
    SystemExit
        If a word is not understood, or a setting is refused, with status 2.

    Examples
    --------
    >>> main(["--preset", "mine", "--data", "digits", "--output", "run"])  # doctest: +SKIP
    """
    parser = argparse.ArgumentParser(
        prog="python -m lipnb.training.wgan",
        description="Train a Wasserstein GAN on images. The output folder gets checkpoint.pt,"
        " scalars.jsonl, settings.json and grids of samples.",
    )
    add = parser.add_argument
    add("--preset", required=True, choices=list(PRESETS), help="named settings")
    add("--method", choices=list(METHODS), help="another method than the preset's")
    add("--data", required=True, help="digits, cifar10:FOLDER or folder:FOLDER (class folders)")
    add("--output", required=True, type=Path, help="folder of the run")
    add("--steps", type=int, help="iterations, over which the learning rate decays")
    add("--set", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="changes")
    add("--seed", type=int, default=0)
    add("--resume", action="store_true", help="go on from the checkpoint, if there is one")
    add("--until", type=int, help="stop after this iteration")
    add("--minutes", type=float, default=math.inf, help="stop after this time")
    add("--log-every", type=int, default=100)
    add("--sample-every", type=int, default=1000)
    add("--checkpoint-every", type=int, default=1000)
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    for name in ("channels-last", "tf32", "bfloat16", "graph"):
        add(f"--{name}", action="store_true", help="see lipnb.training.wgan_device")
    add("--compiler", default="", help="backend of torch.compile, inductor for instance")
    add("--tensorboard", action="store_true", help="write events into the output folder too")
    add("--quiet", action="store_true", help="no progress bar")
    given = parser.parse_args(argv)
    changes: dict[str, Any] = {name: _value(text) for name, text in given.changes}
    if given.steps is not None:
        changes["iterations"] = given.steps
    try:
        settings = method_settings(given.preset, given.method, **changes)
        options = DeviceOptions(
            given.device,
            channels_last=given.channels_last,
            tf32=given.tf32,
            bfloat16=given.bfloat16,
            graph=given.graph,
            compiler=given.compiler,
        )
        run = train_wgan(
            settings,
            load_data(given.data, settings.split),
            seed=given.seed,
            output=given.output,
            resume=given.resume,
            until=given.until,
            limit_seconds=60 * given.minutes,
            log_every=given.log_every,
            sample_every=given.sample_every,
            checkpoint_every=given.checkpoint_every,
            options=options,
            tensorboard=given.tensorboard,
            progress=not given.quiet,
        )
    except (ValueError, TypeError, OSError, ImportError) as error:
        parser.error(str(error))
    print(f"{run.step} of {settings.iterations} iterations, {run.seconds:.0f} s; {given.output}")
    return 0 if run.step == settings.iterations else 3


def _value(text: str) -> Any:
    """Read a number, a tuple, True, False or None; anything else is a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
