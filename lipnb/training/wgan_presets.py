"""Every choice in the training of a Wasserstein GAN on images, and four named sets of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

__all__ = ["METHODS", "PRESETS", "WganSettings", "method_settings", "preset_rows"]

# What each choice may be, where it is one of a few names.
_CHOICES = {
    "objective": (
        "alp", "banach", "clip", "ct", "explicit", "gp", "lp", "max_gp", "none", "sn",
        "unconstrained",
    ),
    "value_loss": ("linear", "hinge", "exponential", "logistic", "root"),
    "start_direction": ("gaussian", "cube"),
    "spectral": ("kernel", "operator"),
    "initialization": ("xavier", "kaiming"),
    "pooling": ("mean", "sum"),
    "network": ("residual", "convolutional"),
    "statistics": ("every_pass", "generator_step"),
    "sampling": ("batch", "running"),
    "optimizer": ("adam", "rmsprop"),
    "decay": ("linear", "constant"),
    "split": ("train", "test", "all"),
}  # fmt: skip


@dataclass(frozen=True)
class WganSettings:
    r"""How a generator g and a critic f are trained; the defaults are those of `gulrajani`.

    Attributes
    ----------
    objective : str
        What holds the critic's slope: "gp", "lp", "explicit" (pairs of a real and a generated
        image), "ct", "banach", "max_gp", "alp", "unconstrained" (a power of the largest
        quotient), "clip", "sn", or "none".
    value_loss : str
        What is minimised beside the penalty, "linear" for E f(g(z)) - E f(x); see
        `lipnb.training.wgan_objectives`.
    weight : float
        lambda (rho of "max_gp"). Objective "banach" takes its own from the data.
    lipschitz_constant : float
        K, the slope above which the penalty sets in.
    one_sided : bool
        Whether smaller slopes are free.
    radius : (float, float)
        Interval of epsilon, the length of an adversarial perturbation.
    xi : float
        Distance at which the search takes its gradient.
    search_steps : int
        k, gradients of the search.
    start_direction : str
        Law of r_0 before it is scaled to length 1: "gaussian", or "cube" for the uniform law on a
        cube.
    domain : (float, float) or None
        Box to which perturbed images are clamped.
    consistency_weight, consistency_margin : float
        lambda_2 and M' of "ct".
    power : float
        alpha of "unconstrained", above 1.
    sobolev : (float, float)
        (s, p) of the space of "banach".
    worst_points : int
        Points that "max_gp" keeps from step to step; 0 for none.
    clip : float
        c of "clip".
    spectral : str
        Which norm "sn" divides by: "kernel", the largest singular value of the reshaped kernel, as
        in SN-GAN; "operator", that of the convolution itself.
    drift : float
        Weight of E f(x)^2.
    channels, generator_channels, latent : int
        Channels of the hidden layers of critic and generator, and dimension of z.
    initialization, pooling : str
        As in `lipnb.models.wgan_critic`; generator and critic are initialised alike.
    batch_norm : bool
        Whether the critic is batch-normalised. Real and generated images then pass in batches of
        their own, and a penalty makes its own pass of f(x).
    dropout : tuple of float
        As in `lipnb.models.wgan_critic`; the small critic takes the last one.
    statistics : str
        Which passes move the generator's running statistics: "every_pass", or those of the
        "generator_step" alone.
    sampling : str
        With which statistics samples are made: those of the "batch", or "running" ones.
    optimizer : str
        "adam" or "rmsprop" (decay 0.99).
    learning_rate, betas, epsilon
        Of the optimiser; RMSProp has no betas.
    decay : str
        "linear" to 0 at the last iteration, or "constant".
    shared_counter : bool
        Whether Adam corrects its bias by the count of all steps of both networks, as if one object
        held both.
    iterations : int
        Updates of the generator (one fewer if it comes first).
    critic_steps : int
        Updates of the critic for each.
    batch, generator_batch : int
        Real images (and as many generated ones) in a critic step; generated ones in the other.
    generator_first : bool
        Whether an iteration starts with the generator, and the very first has none.
    split : str
        Images of CIFAR-10 that are trained on: "train", "test" or "all".
    flip : bool
        Whether images are mirrored at random, left to right.
    dequantise : bool
        Whether bytes b become (b + u) / 128 - 1 with u uniform on [0, 1); else b / 127.5 - 1.
    average : float
        Decay of the average of the generator's weights that samples are made with; 0 for none.
    network : str
        "residual" for the networks of WGAN-GP, or their small form for images of 8 x 8 pixels;
        "convolutional" for a cheaper pair at 32 x 32, whose critic takes no batch normalisation, no
        dropout, and has no pooling.

    Raises
    ------
    ValueError
        If a number is out of its range or a name unknown.

    Examples
    --------
    >>> WganSettings().objective, WganSettings().weight
    ('gp', 10.0)
    >>> WganSettings(pooling="max")
    Traceback (most recent call last):
        ...
    ValueError: pooling must be one of mean, sum; got 'max'
    """

    objective: str = "gp"
    value_loss: str = "linear"
    weight: float = 10.0
    lipschitz_constant: float = 1.0
    one_sided: bool = False
    radius: tuple[float, float] = (0.1, 10.0)
    xi: float = 10.0
    search_steps: int = 1
    start_direction: str = "gaussian"
    domain: tuple[float, float] | None = None
    consistency_weight: float = 2.0
    consistency_margin: float = 0.0
    power: float = 2.0
    sobolev: tuple[float, float] = (0.0, 2.0)
    worst_points: int = 0
    clip: float = 0.01
    spectral: str = "kernel"
    drift: float = 0.0
    channels: int = 128
    generator_channels: int = 128
    latent: int = 128
    initialization: str = "xavier"
    pooling: str = "mean"
    batch_norm: bool = False
    dropout: tuple[float, ...] = ()
    statistics: str = "every_pass"
    sampling: str = "batch"
    optimizer: str = "adam"
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.0, 0.9)
    epsilon: float = 1e-8
    decay: str = "linear"
    shared_counter: bool = False
    iterations: int = 100_000
    critic_steps: int = 5
    batch: int = 64
    generator_batch: int = 128
    generator_first: bool = True
    split: str = "train"
    flip: bool = False
    dequantise: bool = True
    average: float = 0.0
    network: str = "residual"

    def __post_init__(self) -> None:
        """Check every number and name."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}"
                )
        counts = ("channels", "generator_channels", "latent", "iterations", "critic_steps")
        for name in (*counts, "batch", "generator_batch"):
            _require(name, getattr(self, name), "a positive integer", _is_count(self, name, 1))
        for name in ("search_steps", "worst_points"):
            _require(name, getattr(self, name), "an integer from 0", _is_count(self, name, 0))
        for name in ("weight", "lipschitz_constant", "xi", "drift", "consistency_weight"):
            _require(name, getattr(self, name), "finite and at least 0", _is_size(self, name))
        for name in ("learning_rate", "epsilon", "clip"):
            good = _is_size(self, name) and getattr(self, name) > 0
            _require(name, getattr(self, name), "finite and positive", good)
        _require("power", self.power, "finite and above 1", 1 < self.power < math.inf)
        _require("average", self.average, "in [0, 1)", 0 <= self.average < 1)
        low, high = self.radius
        _require("radius", self.radius, "(low, high), 0 < low <= high", 0 < low <= high < math.inf)
        if self.domain is not None:
            low, high = self.domain
            wide = low <= -1 and high >= 1
            _require("domain", self.domain, "None or a box that holds [-1, 1]", wide)
        if self.network == "convolutional" and (self.batch_norm or self.dropout):
            raise ValueError("a convolutional critic takes no batch_norm and no dropout; got one")
        if self.optimizer == "rmsprop" and self.shared_counter:
            raise ValueError("shared_counter must be False for rmsprop, which has no counter")
        if self.shared_counter and self.generator_first:
            raise ValueError("shared_counter must be False where the generator comes first")


def _is_count(settings: WganSettings, name: str, low: int) -> bool:
    """Tell whether a choice is an integer from `low`."""
    value = getattr(settings, name)
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _is_size(settings: WganSettings, name: str) -> bool:
    """Tell whether a choice is a finite number from 0."""
    return 0 <= getattr(settings, name) < math.inf


def _require(name: str, value: object, wanted: str, good: bool) -> None:
    """Refuse a value that is not good."""
    if not good:
        raise ValueError(f"{name} must be {wanted}; got {value!r}")


_GULRAJANI = WganSettings()
_PAPER = replace(_GULRAJANI, objective="alp", weight=100.0, one_sided=True)

#: Settings by name. `gulrajani`: the code of WGAN-GP without labels. `paper`: WGAN-ALP as printed,
#: open choices as in `gulrajani`, on which the paper builds. `author_code`: the defaults of the
#: published code of WGAN-ALP. `standard`: the paper's penalty under what is common today.
PRESETS: dict[str, WganSettings] = {
    "paper": _PAPER,
    "author_code": replace(
        _PAPER,
        weight=10.0,
        start_direction="cube",
        domain=(-1.0, 1.0),
        initialization="kaiming",
        statistics="generator_step",
        sampling="running",
        shared_counter=True,
        generator_first=False,
        split="all",
        flip=True,
    ),
    "gulrajani": _GULRAJANI,
    "standard": replace(_PAPER, sampling="running", generator_first=False, flip=True),
}

_LIPSCHITZ_GAN = {"value_loss": "exponential", "weight": 0.1, "lipschitz_constant": 0.0}

#: What each method changes in a preset, with the numbers of its own source.
METHODS: dict[str, dict[str, Any]] = {
    "none": {"objective": "none"},
    "clip": {
        "objective": "clip",
        "optimizer": "rmsprop",
        "learning_rate": 5e-5,
        "decay": "constant",
        "shared_counter": False,
    },
    "gp": {"objective": "gp", "weight": 10.0, "one_sided": False},
    "lp": {"objective": "lp", "weight": 10.0, "one_sided": True},
    "explicit": {"objective": "explicit", "weight": 10.0, "one_sided": True},
    "ct": {
        "objective": "ct",
        "weight": 10.0,
        "one_sided": False,
        "dropout": (0.2, 0.5, 0.5),
    },
    "sn": {"objective": "sn", "value_loss": "hinge", "pooling": "sum"},
    "banach": {"objective": "banach", "one_sided": False, "sobolev": (0.0, 10.0), "drift": 1e-5},
    "max_gp": {"objective": "max_gp", "one_sided": False, **_LIPSCHITZ_GAN},
    "alp": {"objective": "alp", "weight": 100.0, "one_sided": True},
    "alp_two_sided": {"objective": "alp", "weight": 10.0, "one_sided": False},
    "alp_batch_norm": {
        "objective": "alp",
        "weight": 100.0,
        "one_sided": True,
        "batch_norm": True,
    },
    "gp_batch_norm": {"objective": "gp", "weight": 10.0, "one_sided": False, "batch_norm": True},
    "unconstrained": {"objective": "unconstrained", "weight": 1.0, "power": 2.0},
}


def method_settings(preset: str, method: str | None = None, **changes: Any) -> WganSettings:
    """Take a preset, change it to another method, and change single choices.

    Parameters
    ----------
    preset : str
        Key of `PRESETS`.
    method : str, optional
        Key of `METHODS`; by default the preset's own.
    **changes
        Attributes of `WganSettings`; they win.

    Returns
    -------
    WganSettings
        The settings.

    Raises
    ------
    ValueError
        If preset, method or attribute is unknown, or a value out of its range.

    Examples
    --------
    >>> settings = method_settings("standard", "lp", weight=0.1)
    >>> settings.objective, settings.weight, settings.flip
    ('lp', 0.1, True)
    """
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {preset!r}")
    if method is not None and method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    known = [field.name for field in fields(WganSettings)]
    if unknown := sorted(set(changes) - set(known)):
        raise ValueError(f"settings must be among {', '.join(known)}; got {', '.join(unknown)}")
    return replace(PRESETS[preset], **{**METHODS.get(method or "", {}), **changes})


def preset_rows(names: Sequence[str] = tuple(PRESETS)) -> list[list[str]]:
    """Lay out in what presets differ.

    Parameters
    ----------
    names : sequence of str
        Keys of `PRESETS`.

    Returns
    -------
    list of list of str
        One row for each choice that is not the same in all of them: its name, and its value in
        each preset.

    Raises
    ------
    ValueError
        If a name is unknown.

    Examples
    --------
    >>> for row in preset_rows(["paper", "gulrajani"]):
    ...     print(row)
    ['objective', 'alp', 'gp']
    ['weight', '100', '10']
    ['one_sided', 'yes', 'no']
    """
    columns = [method_settings(name) for name in names]
    rows = []
    for field in fields(WganSettings):
        values = [getattr(column, field.name) for column in columns]
        if any(value != values[0] for value in values):
            rows.append([field.name, *(_shown(value) for value in values)])
    return rows


def _shown(value: object) -> str:
    """Write a value as a reader would."""
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    return f"{value:g}" if isinstance(value, float) else str(value)
