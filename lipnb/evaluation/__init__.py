"""Scores of image generators, on features of any network, named for what they are."""

from lipnb.evaluation.classifier import Classifier, train_classifier
from lipnb.evaluation.extractor import (
    FeatureExtractor,
    classifier_extractor,
    inception_extractor,
    resize_clean,
)
from lipnb.evaluation.report import image_features, score_features, score_images
from lipnb.evaluation.scores import (
    class_score,
    frechet_distance,
    gaussian_frechet_distance,
    kernel_distance,
    precision_recall,
)

__all__ = [
    "Classifier",
    "FeatureExtractor",
    "class_score",
    "classifier_extractor",
    "frechet_distance",
    "gaussian_frechet_distance",
    "image_features",
    "inception_extractor",
    "kernel_distance",
    "precision_recall",
    "resize_clean",
    "score_features",
    "score_images",
    "train_classifier",
]
