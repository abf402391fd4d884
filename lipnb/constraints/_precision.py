"""Weights are computed in their own precision, also where the network runs in a lower one."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

__all__ = ["without_autocast"]

Function = TypeVar("Function", bound=Callable[..., Any])


def without_autocast(function: Function) -> Function:
    """Run a function of tensors outside any autocast, which would round its products to bfloat16.

    Parameters
    ----------
    function : callable
        With at least one tensor among its positional arguments.

    Returns
    -------
    callable
        The same function.
    """

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        """Call the function in the precision of its inputs."""
        device = next(a.device.type for a in args if isinstance(a, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return cast(Function, run)
