"""Networks that the chapters train."""

from lipnb.models.groupsort import GroupSort
from lipnb.models.lean import LeanAvgPool2d, LeanReLU, lean
from lipnb.models.mlp import mlp
from lipnb.models.wgan_convolutional import (
    convolutional_wgan_critic,
    convolutional_wgan_generator,
)
from lipnb.models.wgan_resnet import wgan_critic, wgan_generator
from lipnb.models.wgan_small import small_wgan_critic, small_wgan_generator

__all__ = [
    "GroupSort",
    "LeanAvgPool2d",
    "LeanReLU",
    "convolutional_wgan_critic",
    "convolutional_wgan_generator",
    "lean",
    "mlp",
    "small_wgan_critic",
    "small_wgan_generator",
    "wgan_critic",
    "wgan_generator",
]
