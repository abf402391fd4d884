"""All scores of a set of images, with what they depend on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lipnb.evaluation.extractor import FeatureExtractor
from lipnb.evaluation.scores import (
    class_score,
    frechet_distance,
    kernel_distance,
    precision_recall,
)

__all__ = ["image_features", "score_features", "score_images"]

# Names that only Inception's features may carry, and the names of the same statistics on others.
_NAMES = {
    True: {"class": "inception_score", "frechet": "fid", "kernel": "kid"},
    False: {
        "class": "class_score",
        "frechet": "feature_frechet_distance",
        "kernel": "feature_kernel_distance",
    },
}


def image_features(
    images: Tensor, extractor: FeatureExtractor, *, batch: int = 256
) -> tuple[Tensor, Tensor]:
    """Compute features and logits of images, a batch at a time.

    Parameters
    ----------
    images : Tensor
        uint8, shape (n, channels, side, side).
    extractor : FeatureExtractor
        What computes them.
    batch : int
        Images at a time.

    Returns
    -------
    features, logits : Tensor
        Shapes (n, d) and (n, classes).

    Raises
    ------
    ValueError
        If the images are not uint8, or there are none.

    Examples
    --------
    >>> from lipnb.evaluation import Classifier, classifier_extractor
    >>> extractor = classifier_extractor(Classifier(1, 8, 10), "nothing")
    >>> features, logits = image_features(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), extractor)
    >>> features.shape
    torch.Size([5, 64])
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"images must be uint8 of shape (n, c, s, s), n at least 1;"
            f" got {images.dtype} {tuple(images.shape)}"
        )
    with torch.no_grad():
        found = [extractor.compute(part) for part in torch.split(images, batch)]
    features, logits = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    return features, logits


def score_images(
    reference: Tensor,
    generated: Tensor,
    extractor: FeatureExtractor,
    *,
    reference_name: str,
    splits: int = 10,
    subsets: int = 100,
    neighbours: int = 3,
    seed: int = 0,
    batch: int = 256,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Score generated images against a reference, for a record.

    Parameters
    ----------
    reference, generated : Tensor
        uint8 images, shapes (n, c, s, s) and (m, c, s, s).
    extractor : FeatureExtractor
        Decides on which features, and how the scores are called: only those of Inception are
        called ``inception_score``, ``fid`` and ``kid``, with its variant at the end if it has one.
    reference_name : str
        Which images the reference is, and which split.
    splits, subsets, neighbours : int
        Of `class_score`, `kernel_distance` and `precision_recall`.
    seed : int
        Of the random splits and subsets.
    batch : int
        Images at a time.

    Returns
    -------
    metrics : dict
        Name to value, n (generated images) and, where there is one, spread.
    protocol : dict
        What the numbers depend on: extractor, its sha256, sizes, reference, splits,
        subsets, neighbours, seed.

    Raises
    ------
    ValueError
        If images have another form, or are too few.

    Examples
    --------
    >>> from lipnb.evaluation import Classifier, classifier_extractor
    >>> images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8)
    >>> extractor = classifier_extractor(Classifier(1, 8, 10), "nothing")
    >>> metrics, protocol = score_images(images, images, extractor, reference_name="noise")
    >>> sorted(metrics)
    ['class_score', 'feature_frechet_distance', 'feature_kernel_distance', 'precision', 'recall']
    """
    x, _ = image_features(reference, extractor, batch=batch)
    y, logits = image_features(generated, extractor, batch=batch)
    return score_features(
        x,
        y,
        logits,
        extractor,
        reference_name=reference_name,
        splits=splits,
        subsets=subsets,
        neighbours=neighbours,
        seed=seed,
    )


def score_features(
    reference: Tensor,
    generated: Tensor,
    logits: Tensor,
    extractor: FeatureExtractor,
    *,
    reference_name: str,
    splits: int = 10,
    subsets: int = 100,
    neighbours: int = 3,
    seed: int = 0,
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Score generated images by features that are there already, as `score_images` does.

    Parameters
    ----------
    reference, generated : Tensor
        Features of `image_features`, shapes (n, d) and (m, d).
    logits : Tensor
        Of the generated images, shape (m, classes).
    extractor : FeatureExtractor
        What computed them.
    reference_name, splits, subsets, neighbours, seed
        As in `score_images`.

    Returns
    -------
    metrics, protocol : dict
        As of `score_images`.

    Raises
    ------
    ValueError
        If features have another form, or are too few.

    Examples
    --------
    >>> from lipnb.evaluation import Classifier, classifier_extractor
    >>> images = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8)
    >>> extractor = classifier_extractor(Classifier(1, 8, 10), "nothing")
    >>> x, logits = image_features(images, extractor)
    >>> metrics, _ = score_features(x, x, logits, extractor, reference_name="noise")
    >>> metrics == score_images(images, images, extractor, reference_name="noise")[0]
    True
    """
    x, y = reference, generated
    ending = f"_{extractor.variant}" if extractor.variant else ""
    names = {key: name + ending for key, name in _NAMES[extractor.inception].items()}
    n = len(generated)
    value, spread = class_score(logits, splits=splits, seed=seed)
    kernel, kernel_spread = kernel_distance(x, y, subsets=subsets, seed=seed)
    precision, recall = precision_recall(x, y, neighbours=neighbours)
    metrics: dict[str, dict[str, Any]] = {
        names["class"]: {"value": value, "n": n, "spread": spread},
        names["frechet"]: {"value": frechet_distance(x, y), "n": n},
        names["kernel"]: {"value": kernel, "n": n, "spread": kernel_spread},
        "precision": {"value": precision, "n": n},
        "recall": {"value": recall, "n": n},
    }
    protocol = {
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "reference": reference_name,
        "reference_size": len(reference),
        "generated_size": n,
        "splits": splits,
        "subsets": subsets,
        "neighbours": neighbours,
        "seed": seed,
    }
    return metrics, protocol
