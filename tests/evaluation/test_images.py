"""Scores of images: worse images score worse, names say what was computed, weights are checked."""

from __future__ import annotations

import hashlib
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

import lipnb.evaluation.extractor as extractor_module
from lipnb.evaluation import (
    Classifier,
    FeatureExtractor,
    classifier_extractor,
    image_features,
    inception_extractor,
    resize_clean,
    score_images,
    train_classifier,
)


def digits() -> tuple[Tensor, Tensor]:
    """Images, 0 to 255, and labels in a fixed random order."""
    data = load_digits()
    images = torch.tensor(data.images / 16 * 255).round().to(torch.uint8)[:, None]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.tensor(data.target)[order]


IMAGES, LABELS = digits()
REFERENCE, OTHERS = IMAGES[600:1200], IMAGES[1200:]


@pytest.fixture(scope="module")
def extractor() -> FeatureExtractor:
    classifier = train_classifier(IMAGES[:600], LABELS[:600], width=16)
    accuracy = (classifier(OTHERS)[1].argmax(dim=1) == LABELS[1200:]).double().mean().item()
    assert accuracy > 0.95
    return classifier_extractor(classifier, "digits, 600 images")


def noisy(images: Tensor, scale: float) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return (images + scale * torch.randn(images.shape, generator=g)).clamp(0, 255).to(torch.uint8)


def scores(images: Tensor, extractor: FeatureExtractor) -> dict[str, float]:
    metrics, _ = score_images(REFERENCE, images, extractor, reference_name="600 to 1199", subsets=5)
    return {name: metric["value"] for name, metric in metrics.items()}


def test_more_noise_scores_worse(extractor: FeatureExtractor) -> None:
    rows = [scores(noisy(OTHERS, s), extractor) for s in (0, 16, 32, 64, 128)]
    for better, worse in pairwise(rows):
        assert better["feature_frechet_distance"] < worse["feature_frechet_distance"]
        assert better["feature_kernel_distance"] < worse["feature_kernel_distance"]
        assert better["class_score"] > worse["class_score"]
    real, last = rows[0], rows[-1]
    assert last["feature_frechet_distance"] > 30 * real["feature_frechet_distance"]
    assert abs(real["feature_kernel_distance"]) < 0.02 * last["feature_kernel_distance"]
    assert min(real["precision"], real["recall"]) > 0.8
    assert last["precision"] < 0.2


def test_blur_scores_worse(extractor: FeatureExtractor) -> None:
    blurred = F.avg_pool2d(OTHERS.float(), 3, 1, 1).to(torch.uint8)
    real, bad = scores(OTHERS, extractor), scores(blurred, extractor)
    assert bad["feature_frechet_distance"] > 10 * real["feature_frechet_distance"]
    assert bad["precision"] < real["precision"] - 0.3


def test_missing_classes_cost_recall_and_not_precision(extractor: FeatureExtractor) -> None:
    few = OTHERS[LABELS[1200:] < 3]
    few = few[torch.randint(len(few), (len(OTHERS),), generator=torch.Generator().manual_seed(0))]
    real, missing = scores(OTHERS, extractor), scores(few, extractor)
    assert missing["precision"] > real["precision"] - 0.05
    assert missing["recall"] < 0.5
    assert missing["class_score"] < 4 < real["class_score"]


def test_one_image_repeated_has_no_variety(extractor: FeatureExtractor) -> None:
    found = scores(OTHERS[:1].expand(600, -1, -1, -1), extractor)
    assert found["class_score"] == pytest.approx(1, abs=1e-5)
    assert found["recall"] == 0


def test_names_are_kept_for_inception(extractor: FeatureExtractor) -> None:
    assert not {"fid", "kid", "inception_score"} & set(scores(OTHERS, extractor))
    named = FeatureExtractor("inception-2015-12-05", "0" * 64, True, extractor.compute)
    assert {"fid", "kid", "inception_score"} < set(scores(OTHERS, named))


def test_the_protocol_says_what_the_numbers_depend_on(extractor: FeatureExtractor) -> None:
    metrics, protocol = score_images(
        REFERENCE, OTHERS[:100], extractor, reference_name="here", subsets=5
    )
    assert protocol["extractor"] == "classifier of digits, 600 images"
    assert (protocol["reference_size"], protocol["generated_size"]) == (600, 100)
    assert protocol["reference"] == "here"
    assert all(metric["n"] == 100 for metric in metrics.values())


def test_batches_change_nothing(extractor: FeatureExtractor) -> None:
    whole, parts = (image_features(OTHERS[:50], extractor, batch=b)[0] for b in (50, 7))
    assert torch.allclose(whole, parts, atol=1e-5)


def test_training_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    one, two = (
        classifier_extractor(train_classifier(IMAGES[:100], LABELS[:100], width=8, epochs=1), "x")
        for _ in range(2)
    )
    other = train_classifier(IMAGES[:100], LABELS[:100], width=8, epochs=1, seed=1)
    assert one.sha256 == two.sha256 != classifier_extractor(other, "x").sha256
    assert torch.equal(torch.get_rng_state(), state)


def test_the_digest_sees_running_statistics() -> None:
    classifier = Classifier(1, 8, 10, width=8)
    before = classifier_extractor(classifier, "x").sha256
    classifier.blocks[0][1].running_mean += 1  # type: ignore[index]
    assert classifier_extractor(classifier, "x").sha256 != before


def test_shifts_are_shifts() -> None:
    """A classifier trained with shifts is surer of a shifted image."""
    moved = torch.roll(OTHERS, 1, dims=3)
    right = {
        shift: (
            train_classifier(IMAGES[:600], LABELS[:600], width=16, shift=shift)(moved)[1]
            .argmax(dim=1)
            .eq(LABELS[1200:])
            .double()
            .mean()
            .item()
        )
        for shift in (0, 1)
    }
    assert right[1] > right[0] + 0.05


@pytest.mark.parametrize("side", [2, 6, 12])
def test_sides_that_cannot_be_halved_are_refused(side: int) -> None:
    with pytest.raises(ValueError, match=f"power of 2, at least 4; got {side}"):
        Classifier(1, side, 10)


def test_floats_and_other_shapes_are_refused(extractor: FeatureExtractor) -> None:
    with pytest.raises(ValueError, match="uint8 of shape"):
        image_features(OTHERS.float(), extractor)
    with pytest.raises(ValueError, match="n at least 1"):
        image_features(OTHERS[:0], extractor)
    with pytest.raises(ValueError, match=r"\(n, 1, 8, 8\)"):
        image_features(OTHERS.repeat(1, 3, 1, 1), extractor)
    with pytest.raises(ValueError, match="int64 from 0"):
        train_classifier(OTHERS, LABELS)
    with pytest.raises(ValueError, match="images must be uint8"):
        train_classifier(OTHERS.float(), LABELS[1200:])


def test_other_weights_are_never_called_inception(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no weights of Inception at"):
        inception_extractor(tmp_path / "none.pth")
    wrong = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.zeros(2)}, wrong)
    with pytest.raises(ValueError, match="must have the sha256 6726825d0af5"):
        inception_extractor(wrong)


def test_the_right_digest_lets_the_weights_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights under a digest of their own: features and logits have Inception's sizes."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = tmp_path / "random.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        monkeypatch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url",
            lambda *_, **__: (_ for _ in ()).throw(zipfile.BadZipFile),
        )
        monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.save({}, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(extractor_module, "INCEPTION_SHA256", digest)
        found = inception_extractor(path)
        torch.manual_seed(0)  # the same random weights again
        clean = inception_extractor(path, resize="clean")
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    features, logits = image_features(images, found)
    assert found.inception
    assert found.sha256 == digest
    assert (features.shape, logits.shape) == ((2, 2048), (2, 1008))
    # The clean variant is the same network behind another resizing, and puts the first one back.
    assert (found.variant, clean.variant) == ("", "clean")
    sharp, _ = image_features(images, clean)
    assert (sharp - features).abs().max() > 1e-3 * features.abs().max()
    assert torch.equal(image_features(images, found)[0], features)
    flat = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    one, other = (image_features(flat, e)[0] for e in (found, clean))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="resize must be 'tensorflow1' or 'clean'; got 'bicubic'"):
        inception_extractor(path, resize="bicubic")


@pytest.mark.parametrize("size", [7, 32, 50, 299])
def test_clean_resizing_is_bicubic_without_aliasing_and_without_rounding(size: int) -> None:
    g = torch.Generator().manual_seed(3)
    x = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=g)
    wanted = F.interpolate(x.float(), (size, size), mode="bicubic", antialias=True).clamp(0, 255)
    found = resize_clean(x, size)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-2)
    if size == 32:
        assert torch.equal(found, x.float())
    else:
        assert (found - found.round()).abs().max() > 0.4
        rough = F.interpolate(x.float(), (size, size), mode="bilinear")
        assert (rough - wanted).abs().max() > 5


def test_clean_scores_have_names_of_their_own(extractor: FeatureExtractor) -> None:
    named = FeatureExtractor("inception, clean", "0" * 64, True, extractor.compute, "clean")
    found = set(scores(OTHERS, named))
    assert {"fid_clean", "kid_clean", "inception_score_clean"} < found
    assert not {"fid", "kid", "inception_score"} & found
