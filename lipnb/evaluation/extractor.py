"""What turns images into features: the Inception network of 2015, or a classifier of ours."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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
    """

    name: str
    sha256: str
    inception: bool
    compute: Callable[[Tensor], tuple[Tensor, Tensor]]


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


def inception_extractor(path: Path | str | None = None) -> FeatureExtractor:
    """Load the Inception network whose scores are called IS, FID and KID.

    Parameters
    ----------
    path : path, optional
        File with the weights. By default they are fetched (91 MB) into the cache of `torch.hub`.

    Returns
    -------
    FeatureExtractor
        Of 2048 features and 1008 logits without bias, as the original scores have them. It takes
        images of any size with three channels, and resizes them as TensorFlow 1 did.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not the published one. Nothing of it is then loaded.

    References
    ----------
    The weights are those of the graph of 5 December 2015, as converted for torch-fidelity.

    Examples
    --------
    >>> extractor = inception_extractor("weights.pth")  # doctest: +SKIP
    """
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
    network = _fidelity("feature_extractor_inceptionv3").FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
    )
    return FeatureExtractor("inception-2015-12-05", digest, True, network)
