"""Images to train on: embedded digits, CIFAR-10, and any folder of class folders."""

from lipnb.data.cifar10 import load_cifar10
from lipnb.data.digits import load_digit_images
from lipnb.data.folder import load_image_folder
from lipnb.data.images import ImageData

__all__ = ["ImageData", "load_cifar10", "load_digit_images", "load_image_folder"]
