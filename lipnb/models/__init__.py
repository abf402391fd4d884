"""Networks that the chapters train."""

from lipnb.models.groupsort import GroupSort
from lipnb.models.lean import LeanAvgPool2d, LeanReLU, lean
from lipnb.models.mlp import mlp
from lipnb.models.wgan_resnet import wgan_critic, wgan_generator

__all__ = ["GroupSort", "LeanAvgPool2d", "LeanReLU", "lean", "mlp", "wgan_critic", "wgan_generator"]
