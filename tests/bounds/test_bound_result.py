"""lipnb.bounds.result: a Bound says what it is, or is refused."""

from __future__ import annotations

import dataclasses
import math

import pytest

from lipnb.bounds import Bound

GOOD = {"value": 1.0, "kind": "upper", "norm": 2, "domain": None, "seconds": 0.0, "status": ""}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "estimate"}, "kind must be one of"),
        ({"norm": 3}, "norm must be 1, 2 or inf; got 3"),
        ({"value": -1e-9}, "at least 0"),
        ({"value": math.nan}, "at least 0"),
        ({"value": math.inf, "kind": "lower"}, "only an upper bound"),
        ({"value": math.inf, "kind": "exact"}, "only an upper bound"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": math.nan}, "seconds"),
    ],
)
def test_fields_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Bound(**{**GOOD, **change})


def test_a_bound_is_frozen_hashable_and_comparable() -> None:
    bound = Bound(**{**GOOD, "domain": ((0.0,), (1.0,))})
    with pytest.raises(dataclasses.FrozenInstanceError):
        bound.value = 2.0
    assert bound == Bound(**{**GOOD, "domain": ((0.0,), (1.0,))})
    assert len({bound, Bound(**GOOD)}) == 2


def test_an_upper_bound_may_be_infinite() -> None:
    assert Bound(**{**GOOD, "value": math.inf}).value == math.inf
