"""Distances between two sets of features, and the score of a set of class probabilities."""

from __future__ import annotations

from itertools import pairwise
from types import ModuleType

import torch
from torch import Tensor

__all__ = [
    "class_score",
    "frechet_distance",
    "gaussian_frechet_distance",
    "kernel_distance",
    "precision_recall",
]


def gaussian_frechet_distance(
    mean_x: Tensor, covariance_x: Tensor, mean_y: Tensor, covariance_y: Tensor
) -> float:
    r"""Squared Fréchet distance between two normal laws.

    .. math::
        \|m_x - m_y\|_2^2
        + \operatorname{tr}\bigl(\Sigma_x + \Sigma_y - 2 (\Sigma_x \Sigma_y)^{1/2}\bigr)

    It is the squared Wasserstein distance of order two between them.

    Parameters
    ----------
    mean_x, mean_y : Tensor
        Means, shape (d,).
    covariance_x, covariance_y : Tensor
        Covariances, shape (d, d), symmetric and positive semidefinite.

    Returns
    -------
    float
        At least 0, in squared units of the features.

    Raises
    ------
    ValueError
        If shapes do not fit, a number is not finite, or a covariance is not symmetric.

    References
    ----------
    Heusel et al. (2017), equation (6); computed by torch-fidelity.

    Examples
    --------
    >>> one, eye = torch.ones(2), torch.eye(2)
    >>> round(gaussian_frechet_distance(one, eye, 3 * one, 4 * eye), 6)  # 8 + 2 (2 - 1)^2
    10.0
    """
    means = [_finite(m, "a mean", 1).double() for m in (mean_x, mean_y)]
    covariances = [_finite(c, "a covariance", 2).double() for c in (covariance_x, covariance_y)]
    d = len(means[0])
    shapes = [tuple(part.shape) for part in means + covariances]
    if shapes != [(d,), (d,), (d, d), (d, d)]:
        raise ValueError(f"means must be (d,) and covariances (d, d) for one d; got {shapes}")
    for c in covariances:
        if not torch.allclose(c, c.T, rtol=1e-6, atol=1e-9 * max(1.0, float(c.abs().max()))):
            raise ValueError("a covariance must be symmetric; it is not")
    x, y = (
        {"mu": m.cpu().numpy(), "sigma": c.cpu().numpy()}
        for m, c in zip(means, covariances, strict=True)
    )
    found = _fidelity("metric_fid").fid_statistics_to_metric(x, y, verbose=False)
    return max(0.0, float(found["frechet_inception_distance"]))  # rounding can leave -1e-15


def frechet_distance(x: Tensor, y: Tensor) -> float:
    r"""Squared Fréchet distance of two sets of features, each taken for a normal law.

    .. math::
        \|\bar x - \bar y\|_2^2
        + \operatorname{tr}\bigl(\hat\Sigma_x + \hat\Sigma_y
        - 2 (\hat\Sigma_x \hat\Sigma_y)^{1/2}\bigr)

    On the 2048 features of the Inception network of 2015 this is the FID; on others it is not.

    Parameters
    ----------
    x, y : Tensor
        Features, shapes (n, d) and (m, d), n and m at least 2.

    Returns
    -------
    float
        At least 0. It is biased upwards, roughly like 1 / n: compare only equal sizes.

    Raises
    ------
    ValueError
        If shapes do not fit, a set has fewer than two rows, or a number is not finite.

    References
    ----------
    Heusel et al. (2017), equation (6); computed by torch-fidelity.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [2.0]])
    >>> frechet_distance(x, x + 3)
    9.0
    """
    x, y = _features(x, y, at_least=2)
    statistics = [
        (part.mean(dim=0), torch.cov(part.T).reshape(2 * part.shape[1:])) for part in (x, y)
    ]
    return gaussian_frechet_distance(*statistics[0], *statistics[1])


def kernel_distance(
    x: Tensor, y: Tensor, *, subset: int | None = None, subsets: int = 100, seed: int = 0
) -> tuple[float, float]:
    r"""Squared maximum mean discrepancy of two sets of features, with a cubic kernel.

    .. math::
        \frac1{n(n - 1)} \sum_{i \ne j} \bigl[k(x_i, x_j) + k(y_i, y_j)\bigr]
        - \frac2{n^2} \sum_{i, j} k(x_i, y_j), \qquad
        k(x, y) = \bigl(\tfrac1d \langle x, y\rangle + 1\bigr)^3,

    the mean over random subsets of n rows of each. On Inception's features this is the KID.

    Parameters
    ----------
    x, y : Tensor
        Features, shapes (n, d) and (m, d).
    subset : int, optional
        Rows in a subset, at least 2; by default 1000 or as many as there are.
    subsets : int
        Number of subsets.
    seed : int
        Decides them.

    Returns
    -------
    mean : float
        Unbiased, so it may be negative.
    spread : float
        Standard deviation over the subsets; subsets overlap, so it is no standard error.

    Raises
    ------
    ValueError
        If shapes do not fit, a subset is larger than a set, or a number is not finite.

    References
    ----------
    Bińkowski et al. (2018), equation (4) and section 3.1; computed by torch-fidelity.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(2, 200, 3, generator=g)
    >>> abs(kernel_distance(x, y)[0]) < 0.1 < kernel_distance(x, y + 1)[0]
    True
    """
    x, y = _features(x, y, at_least=2)
    size = min(1000, len(x), len(y)) if subset is None else subset
    if not 2 <= size <= min(len(x), len(y)) or subsets < 1:
        raise ValueError(
            f"subset must lie between 2 and the smaller set's {min(len(x), len(y))}, and subsets"
            f" be at least 1; got {subset} and {subsets}"
        )
    found = _fidelity("metric_kid").kid_features_to_metric(
        x, y, kid_subset_size=size, kid_subsets=subsets, rng_seed=seed, verbose=False
    )
    return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]


def precision_recall(
    reference: Tensor, generated: Tensor, *, neighbours: int = 3
) -> tuple[float, float]:
    r"""Shares of generated features near the reference, and of the reference near them.

    A point is near a set if it lies in the ball of one of its points, whose radius is the
    distance of that point to its k-th neighbour within the set:

    .. math::
        \text{precision} = \frac1m \sum_j
        \mathbb 1\bigl[\exists i: \|y_j - x_i\|_2 \le r_k(x_i)\bigr], \qquad
        \text{recall} = \frac1n \sum_i
        \mathbb 1\bigl[\exists j: \|x_i - y_j\|_2 \le r_k(y_j)\bigr].

    Parameters
    ----------
    reference, generated : Tensor
        Features x and y, shapes (n, d) and (m, d).
    neighbours : int
        k, at least 1 and less than n and m.

    Returns
    -------
    precision, recall : float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If shapes do not fit, there are too few rows, or a number is not finite.

    References
    ----------
    Kynkäänniemi et al. (2019), equations (1) and (2); computed by torch-fidelity.

    Examples
    --------
    >>> x = torch.arange(10.0)[:, None]
    >>> precision_recall(x, x), precision_recall(x, x + 100), precision_recall(x, x[:5])
    ((1.0, 1.0), (0.0, 0.0), (1.0, 0.8))
    """
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1; got {neighbours}")
    x, y = _features(reference, generated, at_least=neighbours + 1)
    found = _fidelity("metric_prc").prc_features_to_metric(
        y, x, prc_neighborhood=neighbours, prc_batch_size=10000, save_cpu_ram=False, verbose=False
    )
    # Both are shares; torch-fidelity returns them in single precision.
    return round(found["precision"] * len(y)) / len(y), round(found["recall"] * len(x)) / len(x)


def class_score(logits: Tensor, *, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    r"""Exponential of the mutual information between image and label, by a classifier.

    .. math::
        \exp \Bigl(\frac1n \sum_i D_{KL}\bigl(p(\cdot \mid x_i) \,\|\, \bar p\bigr)\Bigr),
        \qquad \bar p = \frac1n \sum_i p(\cdot \mid x_i),

    the mean over splits of the rows. With the logits of Inception this is the Inception score.

    Parameters
    ----------
    logits : Tensor
        Of images, shape (n, classes).
    splits : int
        Number of parts, each with at least 2 rows.
    seed : int
        Decides who is in which part.

    Returns
    -------
    mean : float
        From 1 (every answer alike) to the number of classes (sure answers, all classes alike).
        Few rows in a part bias it downwards.
    spread : float
        Standard deviation over the parts.

    Raises
    ------
    ValueError
        If there are too few rows, or a number is not finite.

    References
    ----------
    Salimans et al. (2016), section 4.

    Examples
    --------
    >>> sure = 100 * torch.eye(10).repeat(20, 1)
    >>> round(class_score(sure, splits=1)[0], 6), round(class_score(0 * sure)[0], 6)
    (10.0, 1.0)
    """
    logits = _finite(logits, "logits", 2)
    if splits < 1 or len(logits) < 2 * splits:
        raise ValueError(
            f"each of the splits needs 2 rows; got {len(logits)} rows, {splits} splits"
        )
    logits = logits.detach().cpu().double()
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    p = logits[order].softmax(dim=1)
    cuts = [i * len(p) // splits for i in range(splits + 1)]
    scores = []
    for start, end in pairwise(cuts):
        part, mean = p[start:end], p[start:end].mean(dim=0)
        # xlogy: a class that nobody is given counts nothing, where 0 * (log 0 - log 0) is NaN
        divergence = (torch.xlogy(part, part) - torch.xlogy(part, mean)).sum(dim=1)
        scores.append(divergence.mean().exp())
    found = torch.stack(scores)
    return float(found.mean()), float(found.std(correction=0))


def _features(x: Tensor, y: Tensor, at_least: int) -> tuple[Tensor, Tensor]:
    """Check two sets of features and return them in double precision, on the CPU."""
    x, y = (_finite(part, "features", 2).detach().cpu().double() for part in (x, y))
    if x.shape[1] != y.shape[1] or min(len(x), len(y)) < at_least:
        raise ValueError(
            f"features must be (n, d) and (m, d), n and m at least {at_least};"
            f" got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    return x, y


def _finite(values: Tensor, name: str, dimensions: int) -> Tensor:
    """Refuse what is not a tensor of finite numbers with so many dimensions."""
    if not isinstance(values, Tensor) or values.ndim != dimensions or values.numel() == 0:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"{name} must be a non-empty tensor of {dimensions} dimensions; got {shape}"
        )
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} must be finite; got NaN or infinity")
    return values


def _fidelity(module: str) -> ModuleType:
    """Import a module of torch-fidelity, which only this package needs."""
    import importlib

    try:
        return importlib.import_module(f"torch_fidelity.{module}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "scores of generators need torch-fidelity; install lipnb with the extra 'gan'"
        ) from error
