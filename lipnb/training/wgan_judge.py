"""Held-out images, a classifier of ours, and all scores of a generator against them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lipnb.data import ImageData, load_cifar10, load_digit_images, load_image_folder
from lipnb.evaluation import (
    Classifier,
    FeatureExtractor,
    classifier_extractor,
    image_features,
    inception_extractor,
    score_features,
    train_classifier,
)
from lipnb.theory import wasserstein1
from lipnb.training.wgan_checkpoint import read_checkpoint, write_checkpoint

__all__ = ["Judge", "StudyImages", "make_judge", "study_classifier", "study_images"]

TRANSPORT = 1000  # most images in an exact Wasserstein distance
# How the classifier is trained, by the side of the images.
CLASSIFIERS: dict[int, dict[str, int]] = {
    8: {"width": 16, "epochs": 20},
    32: {"width": 16, "epochs": 2, "shift": 2},
}
# Lossy copies go by a name of their own.
_NAMES = {"cifar10_jpeg": "CIFAR-10 (JPEG copies)"}


class StudyImages(NamedTuple):
    """Images in three parts: what is trained on, and two of one size that are held out.

    Attributes
    ----------
    train : ImageData
        For the generator and the classifier.
    reference : ImageData
        Held out; generated images are scored against them.
    calibration : ImageData
        Held out; the real images that are scored in the same way.
    """

    train: ImageData
    reference: ImageData
    calibration: ImageData


def study_images(source: str, samples: int | None = None) -> StudyImages:
    """Load images in three parts that share none.

    Parameters
    ----------
    source : str
        "digits": 997 images for training, 400 and 400 held out. "folder:PATH": PATH holds the
        folders `train` and `test`, each with one folder a class. "cifar10:PATH": PATH holds
        `cifar-10-batches-py`. In these two the test images are halved at random.
    samples : int, optional
        Images in each part that is held out; by default half of the rest, at most 2000.

    Returns
    -------
    StudyImages
        The parts.

    Raises
    ------
    ValueError
        If the source is another word, or fewer images are held out.

    Examples
    --------
    >>> [len(part) for part in study_images("digits", 300)]
    [997, 300, 300]
    """
    kind, _, place = source.partition(":")
    if source == "digits":
        data = load_digit_images()
        order = _order(len(data))
        train, held_out = _part(data, order[:997], "training images"), _part(data, order[997:], "")
    elif kind == "folder" and place:
        name = _NAMES.get(Path(place).name, Path(place).name)
        train = load_image_folder(Path(place) / "train", name=f"{name}, train")
        held_out = load_image_folder(Path(place) / "test", name=f"{name}, test")
    elif kind == "cifar10" and place:
        train, held_out = (load_cifar10(place, split=split) for split in ("train", "test"))
    else:
        raise ValueError(f"data must be digits, folder:PATH or cifar10:PATH; got {source!r}")
    half = len(held_out) // 2
    samples = min(half, 2000) if samples is None else samples
    if not 2 <= samples <= half:
        raise ValueError(f"samples must be from 2 to {half}, half of the rest; got {samples}")
    order = _order(len(held_out))
    return StudyImages(
        train,
        _part(held_out, order[:samples], "held out, first half"),
        _part(held_out, order[half : half + samples], "held out, second half"),
    )


def _order(n: int) -> Tensor:
    """Put n images in the random order that every study has."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))


def _part(data: ImageData, rows: Tensor, what: str) -> ImageData:
    """Take some images, and say so in the name."""
    name = f"{data.name}, {what}" if what else data.name
    return ImageData(name, data.images[rows].contiguous(), data.labels[rows], data.classes)


def study_classifier(
    images: ImageData,
    *,
    cache: Path | str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Classifier:
    """Train the classifier whose features are compared, or load it.

    Parameters
    ----------
    images : ImageData
        What to train on.
    cache : path, optional
        Folder of trained classifiers. One that was trained on the same images in the same way is
        loaded from there; else the new one is stored.
    changes : mapping, optional
        Arguments of `train_classifier`, in place of those for images of this size.

    Returns
    -------
    Classifier
        In evaluation mode, its weights frozen.

    Raises
    ------
    ValueError
        If a stored one is damaged.

    Examples
    --------
    >>> train = study_images("digits").train
    >>> f = study_classifier(train, changes={"epochs": 1, "width": 8})
    >>> f.shape
    (1, 8, 8)
    """
    how: dict[str, Any] = {**CLASSIFIERS.get(images.shape[1], {}), **(changes or {})}
    name = {"data_sha256": images.sha256, "torch": str(torch.__version__), **how}
    if cache is None:
        return train_classifier(images.images, images.labels, **how)
    words = "-".join(f"{key}{value}" for key, value in sorted(how.items()))
    path = Path(cache) / f"classifier-{images.sha256[:12]}-{words}.pt"
    if path.is_file():
        width, classes = how.get("width", 32), int(images.labels.max()) + 1
        f = Classifier(images.shape[0], images.shape[1], classes, width)
        f.load_state_dict(read_checkpoint(path, name)["weights"])
        return f.eval().requires_grad_(False)
    f = train_classifier(images.images, images.labels, **how)
    write_checkpoint(path, {"run": name, "weights": f.state_dict()})
    return f


@dataclass(frozen=True)
class Judge:
    """What scores generated images, the same for every run of a study.

    Attributes
    ----------
    extractor : FeatureExtractor
        Network of the features.
    images, reference : Tensor
        The held-out images, uint8, and their features, shape (n, d).
    reference_name : str
        Which images these are.
    scored : tuple of str
        Names of the scores.
    real : dict
        Scores of as many other held-out images: what a perfect generator would get.
    protocol : dict
        What the scores depend on.
    """

    extractor: FeatureExtractor
    images: Tensor
    reference: Tensor
    reference_name: str
    scored: tuple[str, ...]
    real: dict[str, float]
    protocol: dict[str, Any]

    def score(self, images: Tensor) -> dict[str, float]:
        """Score uint8 images, as many as the reference has."""
        return _scores(images, self.extractor, self.reference, self.reference_name)[0]


def make_judge(
    data: StudyImages,
    *,
    inception: Path | str | None = None,
    cache: Path | str | None = None,
    classifier: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> Judge:
    """Prepare the scoring: features of the reference, and the scores of real images.

    Parameters
    ----------
    data : StudyImages
        The images.
    inception : path, optional
        File with the weights of Inception. Without it the features are those of a classifier of
        ours, and no score is called IS, FID or KID.
    cache, classifier
        As `cache` and `changes` of `study_classifier`.
    device : device
        Where features are computed.

    Returns
    -------
    Judge
        The scoring. With a classifier, its `real` has ``classifier_accuracy`` on the reference too.

    Raises
    ------
    ValueError
        If the held-out parts differ in size, or as the functions above.

    Examples
    --------
    >>> judge = make_judge(study_images("digits", 100), classifier={"epochs": 2, "width": 8})
    >>> sorted(judge.real)[:3]
    ['class_score', 'classifier_accuracy', 'feature_frechet_distance']
    """
    if len(data.reference) != len(data.calibration):
        raise ValueError(
            "reference and calibration must be of one size;"
            f" got {len(data.reference)} and {len(data.calibration)}"
        )
    if inception is not None:
        extractor = inception_extractor(inception, device=device)
    else:
        f = study_classifier(data.train, cache=cache, changes=classifier)
        extractor = classifier_extractor(f, data.train.name)
        extractor = replace(extractor, compute=_On(f.to(device), str(device)))
    reference, logits = image_features(data.reference.images, extractor)
    name = f"{data.reference.name}, {len(data.reference)} images"
    real, protocol = _scores(data.calibration.images, extractor, reference, name)
    scored = tuple(real)
    if inception is None:
        right = logits.argmax(dim=1) == data.reference.labels
        real["classifier_accuracy"] = right.double().mean().item()
    protocol["reference_sha256"] = data.reference.sha256
    return Judge(extractor, data.reference.images, reference, name, scored, real, protocol)


@dataclass(frozen=True)
class _On:
    """A network that takes images from the CPU, whatever its device."""

    network: Any
    device: str

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits."""
        features, logits = self.network(images.to(self.device))
        return features, logits


def _scores(
    images: Tensor, extractor: FeatureExtractor, reference: Tensor, name: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """All scores of images by features, and what they depend on."""
    features, logits = image_features(images, extractor)
    metrics, protocol = score_features(
        reference,
        features,
        logits,
        extractor,
        reference_name=name,
        splits=10 if extractor.inception else 1,
        subsets=1 if len(images) <= 1000 else 20,
    )
    scores = {key: float(metric["value"]) for key, metric in metrics.items()}
    cut = min(TRANSPORT, len(images), len(reference))
    transport = wasserstein1(reference[:cut].double(), features[:cut].double())
    scores["feature_wasserstein1"] = transport.value
    return scores, {**protocol, "transport_size": cut}
