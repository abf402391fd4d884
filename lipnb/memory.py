"""Counting the memory of tensors: what a step needs, whatever allocator lies below."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["peak_bytes"]


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that were made inside and are still alive, and their peak."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known = tuple(known)  # kept, so that no new storage gets an old number
        self.seen = {id(tensor.untyped_storage()) for tensor in self.known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and note the tensors it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.watch(leaf.untyped_storage())
        return result

    def watch(self, storage: torch.UntypedStorage) -> None:
        """Count a storage until it is freed; views share the one of their base."""
        number, size = id(storage), storage.nbytes()
        if number not in self.seen:
            self.seen.add(number)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.freed, number, size)

    def freed(self, number: int, size: int) -> None:
        """Take a storage off the count."""
        self.seen.discard(number)
        self.now -= size


def peak_bytes(function: Callable[[], object], *known: Tensor) -> int:
    r"""Run a function and find the largest memory its tensors held at one time.

    .. math:: \max_t \sum_{s\ \text{made inside and alive at}\ t} \text{bytes}(s)

    Parameters
    ----------
    function : callable
        Called once, without arguments. Forward and backward passes of any order count, and what
        autograd keeps between them.
    *known : Tensor
        Tensors that were there before: inputs, parameters. In-place writes to them, and views of
        them, count nothing.

    Returns
    -------
    int
        Number of bytes, at least 0.

    Raises
    ------
    TypeError
        If `function` is not callable.

    Notes
    -----
    Counted are whole storages, as the operations make them. Work space inside an operation and
    the rounding of an allocator are not seen, so the count does not depend on the machine.

    Examples
    --------
    >>> x = torch.ones(1000)
    >>> peak_bytes(lambda: (x + 1) * 2, x)  # the sum and the product, 4000 bytes each
    8000
    """
    if not callable(function):
        raise TypeError(f"function must be callable; got {type(function).__name__}")
    live = _Live(known)
    with live:
        function()
    return live.peak
