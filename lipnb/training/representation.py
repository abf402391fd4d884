"""Representations learnt by maximising dependency, on stacked digits with a known information."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipnb.models import mlp
from lipnb.regularizers import gradient_penalty, interpolate
from lipnb.regularizers.gradient import gradient_norms
from lipnb.theory import variational

__all__ = [
    "REPRESENTATIONS",
    "PairCritic",
    "Representation",
    "StackedDigits",
    "linear_probe",
    "probe_pixels",
    "stacked_digits",
    "train_representation",
]

# Name to whether and how the slope of the critic is penalised.
REPRESENTATIONS = ("cpc", "gp", "lp")


@dataclass(frozen=True)
class StackedDigits:
    r"""Pairs of stacks of handwritten digits: the same classes, other images.

    .. math:: I(X; Y) = k \log 10

    Classes of the k digits of a stack are uniform and independent. The images of X and of Y are
    drawn independently from those of each class, so X and Y share the classes and nothing else.

    Attributes
    ----------
    images : Tensor
        Grey values in [0, 1], shape (images, 64).
    classes : list of Tensor
        For each of ten classes the indices of its images.
    digits : int
        Number k of digits in a stack.
    """

    images: Tensor
    classes: list[Tensor]
    digits: int

    @property
    def information(self) -> float:
        """I(X; Y) in nats."""
        return self.digits * math.log(10)

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw n pairs: x and y, shapes (n, 64 k), and the classes, (n, k)."""
        labels = torch.randint(10, (n, self.digits), generator=generator)
        return self._render(labels, generator), self._render(labels, generator), labels

    def _render(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Choose an image for every label and put those of a row side by side."""
        sizes = torch.tensor([len(part) for part in self.classes])
        table = nn.utils.rnn.pad_sequence(self.classes, batch_first=True)
        uniform = torch.rand(labels.shape, generator=generator, dtype=torch.float64)
        chosen = table[labels, (uniform * sizes[labels]).long()]
        return self.images[chosen].flatten(1)


def stacked_digits(digits: int) -> tuple[StackedDigits, StackedDigits]:
    """Return two sources of stacks, for training and for testing, that share no image.

    Parameters
    ----------
    digits : int
        Number k of digits in a stack, at least 1.

    Returns
    -------
    training, test : StackedDigits
        Of two thirds and of one third of the digits that come with scikit-learn.

    Raises
    ------
    ValueError
        If there is no digit.

    Examples
    --------
    >>> training, _ = stacked_digits(3)
    >>> x, y, labels = training.sample(5, torch.Generator().manual_seed(0))
    >>> x.shape, labels.shape, round(training.information, 3)
    (torch.Size([5, 192]), torch.Size([5, 3]), 6.908)
    """
    if digits < 1:
        raise ValueError(f"digits must be at least 1; got {digits}")
    from sklearn.datasets import load_digits

    values, numbers = load_digits(return_X_y=True)
    images, labels = torch.from_numpy(values / 16).float(), torch.from_numpy(numbers)
    index = torch.arange(len(labels))
    parts = []
    for chosen in (index % 3 != 0, index % 3 == 0):
        classes = [index[chosen & (labels == c)] for c in range(10)]
        parts.append(StackedDigits(images, classes, digits))
    return parts[0], parts[1]


class PairCritic(nn.Module):
    r"""A critic of pairs that is a product of two representations.

    .. math:: f(x, y) = \langle g(x), h(y) \rangle

    Parameters
    ----------
    dimension : int
        Number of coordinates of x, and of y.
    width, features : int
        Units of the hidden layer, and of the representations.
    generator : torch.Generator
        Source of the weights.

    Examples
    --------
    >>> critic = PairCritic(3, 8, 4, torch.Generator().manual_seed(0))
    >>> critic.table(torch.zeros(5, 3), torch.zeros(5, 3)).shape, critic(torch.zeros(5, 6)).shape
    (torch.Size([5, 5]), torch.Size([5, 1]))
    """

    def __init__(
        self, dimension: int, width: int, features: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.dimension = dimension
        self.g = mlp([dimension, width, features], generator=generator)
        self.h = mlp([dimension, width, features], generator=generator)

    def table(self, x: Tensor, y: Tensor) -> Tensor:
        """Score every x with every y, (n, n)."""
        scores: Tensor = self.g(x) @ self.h(y).T
        return scores

    def forward(self, z: Tensor) -> Tensor:
        """Score rows (x, y), (n, 2 d) to (n, 1)."""
        x, y = z[:, : self.dimension], z[:, self.dimension :]
        scores: Tensor = (self.g(x) * self.h(y)).sum(1, keepdim=True)
        return scores


@dataclass(frozen=True)
class Representation:
    """What came out of a training.

    Attributes
    ----------
    critic : PairCritic
        Its g is the representation.
    value : float
        InfoNCE on test pairs, in nats, at most the logarithm of the batch.
    accuracy : float
        Of a linear probe on g(x): share of digits of test stacks that it names.
    lipschitz : float
        Largest gradient norm of f at 500 test pairs: a lower bound on its Lipschitz constant.
    """

    critic: PairCritic
    value: float
    accuracy: float
    lipschitz: float


def train_representation(
    method: str,
    digits: int,
    seed: int,
    *,
    steps: int = 600,
    batch: int = 64,
    width: int = 128,
    features: int = 64,
    weight: float = 1.0,
    learning_rate: float = 1e-3,
) -> Representation:
    r"""Train a critic of pairs by InfoNCE, with or without a penalty on its slope, and probe it.

    .. math::
        \max_{g, h}\; \mathbb E \log \frac{e^{f(x_i, y_i)}}{\frac1n \sum_j e^{f(x_i, y_j)}}
            - \lambda\, \mathbb E \bigl(\|\nabla f\| - 1\bigr)^2

    Parameters
    ----------
    method : {"cpc", "gp", "lp"}
        Without the second term; with it; or with the positive part in the bracket only.
    digits : int
        Number k of digits in a stack.
    seed : int
        Decides weights and batches.
    steps, batch, width, features : int
        Steps of Adam, pairs in a batch, units in the hidden layer, and of the representation.
    weight : float
        Weight lambda of the penalty, taken on segments from pairs to wrong pairs.
    learning_rate : float
        Of Adam; it decays to 0 along a cosine.

    Returns
    -------
    Representation
        The critic with its scores.

    Raises
    ------
    ValueError
        If the method is unknown or a number is below 1.

    References
    ----------
    Oord et al. (2018); Ozair et al. (2019).

    Examples
    --------
    >>> found = train_representation("lp", 2, 0, steps=3, batch=8, width=8, features=4)
    >>> 0 <= found.accuracy <= 1
    True
    """
    if method not in REPRESENTATIONS:
        raise ValueError(f"method must be one of {REPRESENTATIONS}; got {method!r}")
    if min(steps, width, features) < 1 or batch < 2:
        raise ValueError(
            "steps, width and features must be at least 1, batch at least 2;"
            f" got {steps}, {width}, {features}, {batch}"
        )
    training, test = stacked_digits(digits)
    generator = torch.Generator().manual_seed(seed)
    critic = PairCritic(64 * digits, width, features, generator)
    adam = torch.optim.Adam(critic.parameters(), learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        x, y, _ = training.sample(batch, generator)
        loss = -variational.info_nce(critic.table(x, y)).objective
        if method != "cpc":
            right, wrong = torch.cat([x, y], 1), torch.cat([x, y.roll(1, 0)], 1)
            points = interpolate(right, wrong, generator=generator)
            found = gradient_penalty(critic, points, one_sided=method == "lp")
            loss = loss + weight * found.loss
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
        decay.step()
    return _judge(critic, training, test, batch, generator)


def _judge(
    critic: PairCritic,
    training: StackedDigits,
    test: StackedDigits,
    batch: int,
    generator: torch.Generator,
) -> Representation:
    """Measure the bound, the probe and the slope."""
    rounds = [test.sample(batch, generator) for _ in range(20)]
    with torch.no_grad():
        bounds = [float(variational.info_nce(critic.table(x, y)).value) for x, y, _ in rounds]
        x, _, labels = training.sample(4000, generator)
        x_test, y_test, labels_test = test.sample(2000, generator)
        accuracy = linear_probe(critic.g(x), labels, critic.g(x_test), labels_test)
    pairs = torch.cat([x_test, y_test], 1)[:500]
    slopes = gradient_norms(
        critic, pairs, dual_norm=None, allow_batch_norm=False, generator=generator
    )
    return Representation(critic, sum(bounds) / len(bounds), accuracy, float(slopes.detach().max()))


def probe_pixels(digits: int, seed: int) -> float:
    """Probe the images themselves: the same classifiers, without a representation.

    Parameters
    ----------
    digits : int
        Number k of digits in a stack.
    seed : int
        Decides the stacks.

    Returns
    -------
    float
        Share of digits named, as in `Representation.accuracy`.

    Examples
    --------
    >>> probe_pixels(1, 0) > 0.85
    True
    """
    training, test = stacked_digits(digits)
    generator = torch.Generator().manual_seed(seed)
    x, _, labels = training.sample(4000, generator)
    x_test, _, labels_test = test.sample(2000, generator)
    return linear_probe(x, labels, x_test, labels_test)


def linear_probe(features: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor) -> float:
    """Fit linear classifiers by least squares, one per digit of a stack, and test them.

    Parameters
    ----------
    features, test : Tensor
        Representations for training and testing, shapes (n, d) and (m, d).
    labels, test_labels : Tensor
        Classes 0 to 9, shapes (n, k) and (m, k).

    Returns
    -------
    float
        Share of the m k digits that are named correctly, in [0, 1].

    Examples
    --------
    >>> labels = torch.arange(10)[:, None]
    >>> linear_probe(torch.eye(10), labels, torch.eye(10), labels)
    1.0
    """
    mean, spread = features.mean(0), features.std(0).clamp_min(1e-6)
    a, b = ((z - mean).double() / spread for z in (features, test))
    a, b = (torch.cat([z, torch.ones_like(z[:, :1])], 1) for z in (a, b))
    goal = nn.functional.one_hot(labels, 10).double().flatten(1)
    ridge = 1e-3 * len(a) * torch.eye(a.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(a.T @ a + ridge, a.T @ goal)
    named = (b @ weights).view(len(b), -1, 10).argmax(dim=2)
    return float((named == test_labels).double().mean())
