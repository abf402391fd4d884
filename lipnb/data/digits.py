"""The handwritten digits that come with scikit-learn: no file to fetch."""

from __future__ import annotations

import torch

from lipnb.data.images import ImageData

__all__ = ["load_digit_images"]


def load_digit_images() -> ImageData:
    r"""Return the digits of scikit-learn as grey images.

    .. math:: \text{byte} = \operatorname{round}(255\, v / 16), \qquad v \in \{0, \dots, 16\}

    Returns
    -------
    ImageData
        1797 images of shape (1, 8, 8) with 17 grey levels from 0 to 255, in ten classes, in the
        order of scikit-learn.

    Raises
    ------
    ImportError
        If scikit-learn is not installed.

    References
    ----------
    Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI repository (1998): its test
    set.

    Examples
    --------
    >>> data = load_digit_images()
    >>> len(data), data.shape, len(data.images.unique())
    (1797, (1, 8, 8), 17)
    """
    from sklearn.datasets import load_digits

    levels, labels = load_digits(return_X_y=True)
    images = (torch.from_numpy(levels) * (255 / 16)).round().to(torch.uint8)
    return ImageData(
        "digits of scikit-learn",
        images.view(-1, 1, 8, 8),
        torch.from_numpy(labels).long(),
        tuple("0123456789"),
    )
