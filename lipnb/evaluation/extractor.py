"""What turns images into features: the Inception network of 2015, or a classifier of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.hub import download_url_to_file, get_dir

from lipnb.evaluation.classifier import Classifier
from lipnb.evaluation.scores import _fidelity

__all__ = [
    "INCEPTION_SHA256",
    "INCEPTION_URL",
    "FeatureExtractor",
    "classifier_extractor",
    "inception_extractor",
    "resize_clean",
]

INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


@dataclass(frozen=True)
class FeatureExtractor:
    """A function from images to features and logits, and who it is.

    Attributes
    ----------
    name : str
        Named in every score.
    sha256 : str
        Digest of its weights.
    inception : bool
        Whether its scores may be called IS, FID and KID.
    compute : callable
        From uint8 images (n, channels, side, side) to features (n, d) and logits (n, classes).
    variant : str
        Ends the names IS, FID and KID, where they are not those of the first papers: "clean".
    """

    name: str
    sha256: str
    inception: bool
    compute: Callable[[Tensor], tuple[Tensor, Tensor]]
    variant: str = ""


def classifier_extractor(classifier: Classifier, name: str) -> FeatureExtractor:
    """Take the features of a classifier.

    Parameters
    ----------
    classifier : Classifier
        A trained one.
    name : str
        Says on what it was trained.

    Returns
    -------
    FeatureExtractor
        Its scores are never called IS, FID or KID.

    Examples
    --------
    >>> extractor = classifier_extractor(Classifier(1, 8, 10), "nothing, weights of the start")
    >>> extractor.inception, len(extractor.sha256)
    (False, 64)
    """
    digest = hashlib.sha256()
    for key, value in sorted(classifier.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return FeatureExtractor(f"classifier of {name}", digest.hexdigest(), False, classifier)


def resize_clean(x: Tensor, size: int = 299) -> Tensor:
    """Resize images as "clean" scores do: bicubic, without aliasing, without rounding.

    Parameters
    ----------
    x : Tensor
        Images, shape (n, channels, height, width), in grey values from 0 to 255.
    size : int
        Pixels of each side of the result.

    Returns
    -------
    Tensor
        float32, shape (n, channels, size, size), from 0 to 255.

    References
    ----------
    Parmar, Zhang & Zhu (2022): each channel is resized as a float image by Pillow, then cut to the
    range of grey values.

    Examples
    --------
    >>> resize_clean(torch.full((1, 3, 4, 4), 7.0), 5).unique().tolist()
    [7.0]
    """
    planes = x.detach().cpu().to(torch.float32).flatten(0, 1).numpy()
    resized = [
        np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC))
        for plane in planes
    ]
    found = torch.from_numpy(np.stack(resized)).clamp(0, 255)
    return found.view(*x.shape[:2], size, size).to(x.device)


def inception_extractor(
    path: Path | str | None = None,
    *,
    resize: str = "tensorflow1",
    device: torch.device | str = "cpu",
) -> FeatureExtractor:
    """Load the Inception network whose scores are called IS, FID and KID.

    Parameters
    ----------
    path : path, optional
        File with the weights. By default they are fetched (91 MB) into the cache of `torch.hub`.
    resize : {"tensorflow1", "clean"}
        How images become 299 pixels wide: bilinear, as TensorFlow 1 did it for the first scores, or
        by `resize_clean`. The scores of the second are called ``fid_clean`` and so on.
    device : torch.device or str
        Where to compute.

    Returns
    -------
    FeatureExtractor
        Of 2048 features and 1008 logits without bias, as the original scores have them. It takes
        images of any size with three channels.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not the published one (nothing of it is then loaded), or `resize` is another
        word.

    References
    ----------
    The weights are those of the graph of 5 December 2015, as converted for torch-fidelity. Clean
    scores: Parmar, Zhang & Zhu (2022).

    Examples
    --------
    >>> extractor = inception_extractor("weights.pth")  # doctest: +SKIP
    """
    if resize not in ("tensorflow1", "clean"):
        raise ValueError(f"resize must be 'tensorflow1' or 'clean'; got {resize!r}")
    file = Path(path) if path is not None else Path(get_dir(), "checkpoints", INCEPTION_URL[-43:])
    if path is None and not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(INCEPTION_URL, str(file), hash_prefix=INCEPTION_SHA256, progress=True)
    if not file.is_file():
        raise FileNotFoundError(f"no weights of Inception at {file}; they are at {INCEPTION_URL}")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != INCEPTION_SHA256:
        raise ValueError(
            f"{file} must have the sha256 {INCEPTION_SHA256}; got {digest}:"
            " it is damaged, or holds other weights"
        )
    module = _fidelity("feature_extractor_inceptionv3")
    network = module.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
    ).to(device)

    def compute(images: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network on its device."""
        features, logits = network(images.to(device))
        return features, logits

    def compute_clean(images: Tensor) -> tuple[Tensor, Tensor]:
        """Run it with another function in place of its own resizing."""
        with mock.patch.object(
            module, "interpolate_bilinear_2d_like_tensorflow1x", lambda x, **_: resize_clean(x)
        ):
            return compute(images)

    if resize == "clean":
        return FeatureExtractor("inception-2015-12-05, clean", digest, True, compute_clean, "clean")
    return FeatureExtractor("inception-2015-12-05", digest, True, compute)
