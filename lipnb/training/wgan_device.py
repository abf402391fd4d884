"""Where and how a Wasserstein GAN is trained: device, precision, memory format, compiler, graph.

Everything here runs on a CPU too, with fewer features. What needs a GPU (TF32, the CUDA graph,
capturable optimisers) has not been measured by this project yet.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lipnb.regularizers import lipschitz_penalty
from lipnb.training.wgan_presets import WganSettings

__all__ = [
    "DeviceOptions",
    "bfloat16_error",
    "capture",
    "choose_device",
    "compile_networks",
    "require_capturable",
]


@dataclass(frozen=True)
class DeviceOptions:
    """How fast and how exactly to compute.

    Attributes
    ----------
    device : str
        "auto" for the first CUDA device, and the CPU where there is none; or a device of torch.
    channels_last : bool
        Whether images and kernels are laid out with their channels last.
    tf32 : bool
        Whether CUDA devices multiply float32 with mantissas of 10 bits.
    bfloat16 : bool
        Whether the networks compute in bfloat16 (autocast). It is refused at the start if
        `bfloat16_error` is above the tolerance.
    tolerance : float
        Largest relative error of the quotient at the smallest radius, positive.
    graph : bool
        Whether one iteration is captured as a CUDA graph and replayed.
    compiler : str
        Backend of `torch.compile` for both networks, "inductor" for instance; empty for none. It is
        refused where the loss needs second derivatives, which compiled networks lack.

    Raises
    ------
    ValueError
        If the tolerance is not positive, or torch knows no such backend.

    Examples
    --------
    >>> DeviceOptions("cpu").graph
    False
    """

    device: str = "auto"
    channels_last: bool = False
    tf32: bool = False
    bfloat16: bool = False
    tolerance: float = 0.05
    graph: bool = False
    compiler: str = ""

    def __post_init__(self) -> None:
        """Check the tolerance and the compiler."""
        if not 0 < self.tolerance < math.inf:
            raise ValueError(f"tolerance must be positive and finite; got {self.tolerance}")
        if self.compiler:
            known = torch.compiler.list_backends(exclude_tags=())
            if self.compiler not in known:
                raise ValueError(
                    f"compiler must be one of {', '.join(known)}; got {self.compiler!r}"
                )


def choose_device(options: DeviceOptions) -> torch.device:
    """Find the device, and refuse what it cannot do.

    Parameters
    ----------
    options : DeviceOptions
        What is wanted.

    Returns
    -------
    torch.device
        The device.

    Raises
    ------
    ValueError
        If it does not exist, or a CUDA graph is wanted elsewhere than on a CUDA device.

    Examples
    --------
    >>> choose_device(DeviceOptions("cpu"))
    device(type='cpu')
    """
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device must be there; got {name!r}, and torch finds no CUDA device")
    if options.graph and device.type != "cuda":
        raise ValueError(f"a CUDA graph needs a CUDA device; got {name!r}")
    return device


def require_capturable(settings: WganSettings) -> None:
    """Refuse settings whose iteration asks the host for a decision.

    Parameters
    ----------
    settings : WganSettings
        How to train.

    Raises
    ------
    ValueError
        For clipping and spectral normalisation, dropout, and a buffer of worst points.

    Examples
    --------
    >>> require_capturable(WganSettings(objective="clip"))
    Traceback (most recent call last):
        ...
    ValueError: a CUDA graph needs an iteration without decisions of the host; got objective 'clip'
    """
    found = []
    if settings.objective in ("clip", "sn"):
        found.append(f"objective {settings.objective!r}")
    found += [name for name in ("dropout", "worst_points") if getattr(settings, name)]
    if found:
        raise ValueError(
            f"a CUDA graph needs an iteration without decisions of the host; got {', '.join(found)}"
        )


def compile_networks(settings: WganSettings, compiler: str, *networks: nn.Module) -> None:
    """Compile networks in place; their parameters and their names stay as they are.

    Parameters
    ----------
    settings : WganSettings
        How to train.
    compiler : str
        Backend of `torch.compile`; nothing happens if it is empty.
    *networks : nn.Module
        Networks.

    Raises
    ------
    ValueError
        For penalties on a gradient, whose second derivatives a compiled network does not have.

    Notes
    -----
    A compiled network computes the gradients of its weights even where only that of the input is
    asked for: a step of the adversarial search costs three passes instead of two.

    Examples
    --------
    >>> compile_networks(WganSettings(objective="gp"), "inductor", nn.Linear(2, 1))
    Traceback (most recent call last):
        ...
    ValueError: a compiled critic has no second derivatives, which objective 'gp' needs
    """
    if not compiler:
        return
    if settings.objective in ("gp", "lp", "ct", "max_gp", "banach"):
        raise ValueError(
            "a compiled critic has no second derivatives,"
            f" which objective {settings.objective!r} needs"
        )
    for network in networks:
        network.compile(backend=compiler)


@contextlib.contextmanager
def many_compilations(compiler: str) -> Iterator[None]:
    """Let both networks be compiled for every size of a batch that a run has.

    torch counts the compilations of all networks of one class together, and beyond 8 it would go on
    without compiling.
    """
    if not compiler:
        yield
        return
    from torch._dynamo import config

    with config.patch(recompile_limit=64):
        yield


@contextlib.contextmanager
def float32_precision(tf32: bool) -> Iterator[None]:
    """Let CUDA devices multiply float32 as wanted, and put torch's switches back."""
    cudnn: Any = torch.backends.cudnn
    switches: list[Any] = [torch.backends.cuda.matmul, cudnn.conv]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "tf32" if tf32 else "ieee"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def bfloat16_error(
    critic: nn.Module, x: Tensor, radius: float, generator: torch.Generator
) -> float:
    r"""Measure what bfloat16 does to the quotient of a critic at a small radius.

    .. math:: \Bigl(\tfrac1n \sum_i (\tilde s_i - s_i)^2\Bigr)^{1/2} \Big/ \tfrac1n \sum_i s_i,
        \qquad s_i = \frac{|f(x_i) - f(x_i + \epsilon\, u_i)|}{\epsilon}

    with u random unit vectors, s in float32, and s-tilde with f under autocast to bfloat16. The
    outputs of f, a few hundred grey values' worth, are rounded to 8 bits and then subtracted: the
    smaller the radius, the less is left.

    Parameters
    ----------
    critic : nn.Module
        f, (n, ...) to (n, 1), in float32.
    x : Tensor
        Images, shape (n, ...).
    radius : float
        epsilon, positive, in the units of x.
    generator : torch.Generator
        Source of u, on the device of x.

    Returns
    -------
    float
        Relative error, at least 0; infinite if f is constant on all pairs.

    Examples
    --------
    >>> f, g = nn.Linear(50, 1), torch.Generator().manual_seed(0)
    >>> x = torch.ones(200, 50)
    >>> bfloat16_error(f, x, 0.01, g) > 3 * bfloat16_error(f, x, 10.0, g)
    True
    """
    direction = torch.randn(x.shape, generator=generator, device=x.device).flatten(1)
    step = radius * nn.functional.normalize(direction, dim=1).view_as(x)
    with torch.no_grad():
        exact = lipschitz_penalty(critic, x, x + step).slopes
        with torch.autocast(x.device.type, torch.bfloat16):
            rough = lipschitz_penalty(critic, x, x + step).slopes
    mean = float(exact.mean())
    return float((rough - exact).square().mean().sqrt()) / mean if mean > 0 else math.inf


def capture(iteration: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
    """Capture an iteration as a CUDA graph.

    Parameters
    ----------
    iteration : callable
        Reads and writes tensors on the current CUDA device at fixed places, draws from the
        generator, and asks the host for nothing. It must have run a few times before, on another
        stream than the default one. It does not run now.
    generator : torch.Generator
        Its source of randomness.

    Returns
    -------
    callable
        Runs the iteration again, each time with new random numbers.

    Raises
    ------
    RuntimeError
        If there is no CUDA device, or the iteration asks the host for something.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("a CUDA graph needs a CUDA device; torch finds none")
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        iteration()
    return graph.replay
