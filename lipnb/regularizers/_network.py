"""How a penalty calls a network: as one fixed function that is left as it was."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__: list[str] = []

Network = Callable[[Tensor], Tensor]
Output = TypeVar("Output")


class FixedNetwork(Generic[Output]):
    """A network as one function: every call sees the same buffers and the same random numbers.

    Dropout then has one mask, and a power iteration one starting vector, for all the passes whose
    outputs are compared. Each call works on copies of the buffers, so that running statistics
    stay as they were.

    With a generator the random numbers are seeded from it, and the global generators are left as
    they were. Without one, the first call draws from the global generators and advances them, and
    later calls repeat its draws.
    """

    def __init__(
        self,
        f: Callable[[Tensor], Output],
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> None:
        self.f, self.device, self.generator = f, device, generator
        self.start: list[Tensor] = []

    def __call__(self, x: Tensor) -> Output:
        """Evaluate f."""
        version = 0 if x.is_inference() else x._version
        with self._random_numbers(), copied_buffers(self.f):
            y = self.f(x)
        if not x.is_inference() and x._version != version:
            raise ValueError("f must leave its input as it was; got one changed in place")
        return y

    @contextlib.contextmanager
    def _random_numbers(self) -> Iterator[None]:
        """Let the global generators start where they started at the first call."""
        # A CUDA graph replays its own random numbers, and their states cannot be read meanwhile.
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            yield
            return
        generators = [torch.default_generator]
        if self.device.type == "cuda":
            index = self.device.index
            generators.append(
                torch.cuda.default_generators[
                    torch.cuda.current_device() if index is None else index
                ]
            )
        before = [g.get_state() for g in generators]
        restore = bool(self.start) or self.generator is not None
        if self.start:
            _set_states(generators, self.start)
        else:
            if self.generator is not None:
                seed = torch.randint(
                    2**31, (), generator=self.generator, device=self.generator.device
                )
                for g in generators:
                    g.manual_seed(int(seed))
            self.start = [g.get_state() for g in generators]
        try:
            yield
        finally:
            if restore:
                _set_states(generators, before)


def _set_states(generators: list[torch.Generator], states: list[Tensor]) -> None:
    """Set the state of each generator."""
    for g, state in zip(generators, states, strict=True):
        g.set_state(state)


@contextlib.contextmanager
def copied_buffers(f: Callable[[Tensor], Any]) -> Iterator[None]:
    """Let the module behind f work on copies of its buffers.

    Copying back afterwards would be wrong: a graph may have saved the buffer.
    """
    module = _module_of(f)
    layers = [] if module is None else [layer for layer in module.modules() if layer._buffers]
    kept = [(layer, dict(layer._buffers)) for layer in layers]
    copies: dict[Tensor, Tensor] = {}  # a buffer may be shared by two layers
    try:
        for layer, buffers in kept:
            for name, buffer in buffers.items():
                if buffer is not None and buffer not in copies:
                    copies[buffer] = buffer.clone()
                layer._buffers[name] = None if buffer is None else copies[buffer]
        yield
    finally:
        for layer, buffers in kept:
            for name, buffer in buffers.items():
                layer._buffers[name] = buffer


def require_independent_samples(f: Network, remedy: str) -> None:
    """Refuse a network whose normalisation mixes the samples of a batch.

    The gradient of the sum of outputs is then not the gradient per sample. Below a last linear
    layer it is 0, however steep the network.
    """
    module = _module_of(f)
    for name, layer in [] if module is None else module.named_modules():
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
            where = f"{name or 'f'} ({type(layer).__name__})"
            raise ValueError(
                "f must treat each sample by itself, for its gradient to be taken per sample;"
                f" got {where}, which normalises with the statistics of the batch. {remedy}"
            )


def _module_of(f: Callable[[Tensor], Any]) -> nn.Module | None:
    """Return the module that f is, or is a method or a partial application of."""
    if isinstance(f, functools.partial):
        return _module_of(f.func)
    owner = f if isinstance(f, nn.Module) else getattr(f, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None
