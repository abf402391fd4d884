"""Records of results: what was computed, from what, by which code."""

from __future__ import annotations

__all__ = ["verdict"]


def verdict(claim: str, holds: bool) -> None:
    """Print a claim with its verdict, and stop if it does not hold.

    Parameters
    ----------
    claim : str
        The claim in words, without numbers that vary between machines.
    holds : bool
        Whether the numbers bear the claim out.

    Raises
    ------
    AssertionError
        If the claim does not hold.

    Examples
    --------
    >>> verdict("two is even", 2 % 2 == 0)
    two is even: yes
    """
    if not holds:
        raise AssertionError(f"{claim}: no")
    print(f"{claim}: yes")
