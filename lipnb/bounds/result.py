"""The one result type that every bound returns."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Bound", "Box"]

# A box as (low, high), one float per input coordinate.
Box = tuple[tuple[float, ...], tuple[float, ...]]

KINDS = ("lower", "upper", "exact")


@dataclass(frozen=True)
class Bound:
    r"""A number together with what it says about a Lipschitz constant L.

    .. math::
        \text{lower: value} \le L, \qquad \text{upper: value} \ge L, \qquad \text{exact: value} = L

    Parameters
    ----------
    value : float
        The bound, at least 0, in units of the output per unit of the input. Only an upper bound
        may be infinite.
    kind : {'lower', 'upper', 'exact'}
        On which side of L the value lies.
    norm : float
        Norm of the input space: 1, 2 or `math.inf`. The output is scalar, or carries the same norm.
    domain : tuple of two tuples of floats, or None
        The box (low, high) on which the bound holds; None means everywhere.
    seconds : float
        Wall-clock time spent.
    status : str
        How the value came about, in words.

    Raises
    ------
    ValueError
        If a field is outside its range.

    Examples
    --------
    >>> Bound(1.0, "exact", 2, None, 0.0, "by hand").kind
    'exact'
    """

    value: float
    kind: str
    norm: float
    domain: Box | None
    seconds: float
    status: str

    def __post_init__(self) -> None:
        """Refuse fields outside their range."""
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {KINDS}; got {self.kind!r}")
        if self.norm not in (1, 2, math.inf):
            raise ValueError(f"norm must be 1, 2 or inf; got {self.norm!r}")
        if math.isnan(self.value) or self.value < 0:
            raise ValueError(f"value must be at least 0; got {self.value}")
        if math.isinf(self.value) and self.kind != "upper":
            raise ValueError(f"only an upper bound may be infinite; got kind {self.kind!r}")
        if not self.seconds >= 0:
            raise ValueError(f"seconds must be at least 0; got {self.seconds}")
