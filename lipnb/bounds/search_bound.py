"""What a search returns: a bound that knows both of its sides."""

from __future__ import annotations

from dataclasses import dataclass

from lipnb.bounds.result import Bound, Box  # noqa: F401 (the documented signature names Box)

__all__ = ["SearchBound"]


@dataclass(frozen=True)
class SearchBound(Bound):
    """An exact or upper bound together with the largest slope that was found on the way.

    Parameters
    ----------
    lower : float
        At most the constant, and `value` itself if the bound is exact.

    Raises
    ------
    ValueError
        If lower lies outside [0, value].

    Examples
    --------
    >>> SearchBound(3.0, "upper", 2, None, 0.0, "time is up", 2.5).lower
    2.5
    """

    lower: float

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        super().__post_init__()
        if not 0 <= self.lower <= self.value:
            raise ValueError(f"lower must lie in [0, {self.value}]; got {self.lower}")
