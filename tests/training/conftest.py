"""What several tests of training share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


def _differing(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of the parts in which two states differ, down to the last bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) and one.dtype == other.dtype else [name]
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return [
            d
            for key in one
            for d in _differing(one[key], other[key], f"{name}.{key}" if name else str(key))
        ]
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        return [
            d
            for i, (a, b) in enumerate(zip(one, other, strict=True))
            for d in _differing(a, b, f"{name}.{i}")
        ]
    return [] if one == other else [name]


@pytest.fixture(name="differing")
def differing_fixture() -> Callable[[Any, Any], list[str]]:
    """Compare two states bit by bit."""
    return _differing
