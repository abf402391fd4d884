"""lipnb.bounds.search_bound: a bound with both of its sides."""

from __future__ import annotations

import math

import pytest

from lipnb.bounds import Bound, SearchBound


def test_it_is_a_bound_with_a_lower_side() -> None:
    bound = SearchBound(math.inf, "upper", 2, None, 0.0, "nothing known", 0.0)
    assert isinstance(bound, Bound) and bound.lower == 0.0


@pytest.mark.parametrize("lower", [-1.0, 3.1, math.nan])
def test_lower_sides_out_of_range_are_refused(lower: float) -> None:
    with pytest.raises(ValueError, match=r"lower must lie in \[0, 3.0\]; got"):
        SearchBound(3.0, "upper", 2, None, 0.0, "", lower)


def test_the_fields_of_a_bound_are_checked_too() -> None:
    with pytest.raises(ValueError, match="norm must be 1, 2 or inf"):
        SearchBound(3.0, "upper", 3, None, 0.0, "", 1.0)
