"""Counting floating-point operations: what a step costs, whatever else the machine is doing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["count_flops"]

aten = torch.ops.aten

# Products with a vector, for which torch keeps no formula: 2 for each entry that is multiplied.
_VECTOR_PRODUCTS: dict[Any, Callable[..., int]] = {
    aten.mv: lambda matrix, vector, **_: 2 * matrix.numel(),
    aten.addmv: lambda start, matrix, vector, **_: 2 * matrix.numel(),
    aten.dot: lambda x, y, **_: 2 * x.numel(),
    aten.vdot: lambda x, y, **_: 2 * x.numel(),
}


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Add up the formula of every operation that torch runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and add what it costs."""
        kwargs = kwargs or {}
        packet = func._overloadpacket
        formula = _VECTOR_PRODUCTS.get(packet) or flop_registry.get(packet)
        if formula is None:
            # In inference mode a composite operation arrives whole: look at its parts.
            with self:
                result = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if result is NotImplemented else result
        result = func(*args, **kwargs)
        self.total += formula(*args, **kwargs, out_val=result)
        return result


def count_flops(function: Callable[[], object]) -> int:
    r"""Run a function and count the floating-point operations of its products.

    An addition and a multiplication count one each, so that a product of matrices

    .. math:: (m \times k) \cdot (k \times n) \quad\text{costs}\quad 2\,m\,k\,n .

    Parameters
    ----------
    function : callable
        Called once, without arguments. Whatever it computes is counted: forward passes, backward
        passes of any order, with `backward` or with `torch.autograd.grad`.

    Returns
    -------
    int
        Number of operations, at least 0.

    Raises
    ------
    TypeError
        If `function` is not callable.

    Notes
    -----
    Counted are convolutions, products of matrices, of a matrix with a vector, and of two vectors,
    by the shapes of their operands; the padding of a convolution counts as if it were data.
    Activations, poolings, normalisations and optimisers count nothing: they move memory. The
    count does not depend on the machine or on its load. `torch.utils.flop_counter.FlopCounterMode`
    counts by module too, but cannot follow `torch.autograd.grad` with respect to a leaf.

    Examples
    --------
    >>> a, b = torch.ones(2, 3), torch.ones(3, 4)
    >>> count_flops(lambda: a @ b)
    48
    """
    if not callable(function):
        raise TypeError(f"function must be callable; got {type(function).__name__}")
    counter = _Counter()
    with counter:
        function()
    return counter.total
