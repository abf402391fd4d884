"""Moments of polynomials, and certified maxima by semidefinite programs."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from importlib import import_module
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Moments", "Polynomial", "certified_maximum"]

Array = NDArray[np.float64]
Monomial = tuple[int, ...]
Polynomial = dict[Any, float]  # by monomial


@dataclass
class Moments:
    """Linear constraints on moments: matrices, and numbers that are at least 0 or equal 0.

    Variables are numbered, and a monomial is a tuple of numbers in ascending order.

    Parameters
    ----------
    binary : frozenset of int
        Variables that are 0 or 1; the others lie in [-1, 1].
    names : dict
        The number of each moment; () is 1.
    matrices : list of ndarray
        Numbers of the moments in each positive semidefinite matrix.
    positive, zero : lists of Polynomial
        Polynomials that are at least 0, and that are 0.
    """

    binary: frozenset[int]
    names: dict[Monomial, int] = field(default_factory=lambda: {(): 0})
    matrices: list[NDArray[np.int64]] = field(default_factory=list)
    positive: list[Polynomial] = field(default_factory=list)
    zero: list[Polynomial] = field(default_factory=list)

    def times(self, p: Polynomial, q: Polynomial) -> Polynomial:
        """Multiply; a binary variable is its own square."""
        total: Polynomial = {}
        for a, x in p.items():
            for b, y in q.items():
                name = self.reduce(a + b)
                total[name] = total.get(name, 0.0) + x * y
        return total

    def reduce(self, name: Monomial) -> Monomial:
        """Return a product in order, each binary variable once."""
        kept: list[int] = []
        for v in sorted(name):
            if v not in self.binary or v not in kept:
                kept.append(v)
        return tuple(kept)

    def index(self, name: Monomial) -> int:
        """Return the number of a moment, new if need be."""
        return self.names.setdefault(name, len(self.names))

    def matrix(self, variables: list[int], order: int) -> None:
        """Add the matrix of all products of two monomials up to a degree."""
        basis = {
            self.reduce(m): None
            for k in range(order + 1)
            for m in combinations_with_replacement(variables, k)
        }
        entries = [[self.index(self.reduce(a + b)) for b in basis] for a in basis]
        self.matrices.append(np.array(entries))

    def vector(self, p: Polynomial) -> Array:
        """Return the coefficients of a polynomial, one per moment."""
        row = np.zeros(len(self.names))
        for name, value in p.items():
            row[self.names[name]] += value
        return row


def certified_maximum(moments: Moments, objective: Polynomial) -> float:
    """Bound the maximum of a polynomial over all points that satisfy the constraints.

    The relaxation is solved with Clarabel. Objective plus multipliers times constraints is then a
    constant, but for what the solver leaves over: a polynomial with small coefficients, whose
    monomials lie in [-1, 1]. The sum of their absolute values is added.

    Parameters
    ----------
    moments : Moments
        Has a number for each monomial of the constraints and of the objective.
    objective : Polynomial

    Returns
    -------
    float
        Valid whatever the solver did; infinite if it failed.

    Raises
    ------
    ImportError
        If cvxpy is not installed.

    Examples
    --------
    The maximum of x - x^2 for x in [-1, 1]:

    >>> moments = Moments(frozenset())
    >>> moments.matrix([0], 1)
    >>> moments.positive.append({(): 1.0, (0, 0): -1.0})
    >>> moments.zero.append({(): 0.0})
    >>> round(certified_maximum(moments, {(0,): 1.0, (0, 0): -1.0}), 5)
    0.25
    """
    try:
        cvxpy: Any = import_module("cvxpy")
    except ImportError as error:
        raise ImportError("moment_relaxation needs cvxpy: install lipnb[convex]") from error
    target = moments.vector(objective)
    y = cvxpy.Variable(len(target))
    positive = np.array([moments.vector(p) for p in moments.positive])
    zero = np.array([moments.vector(p) for p in moments.zero])
    rows = [y[0] == 1, positive @ y >= 0, zero @ y == 0]
    picks = []
    for entries in moments.matrices:
        pick = np.zeros((entries.size, len(target)))
        pick[np.arange(entries.size), entries.ravel()] = 1.0
        picks.append(pick)
        k = len(entries)
        matrix = cvxpy.reshape(pick @ y, (k, k), order="C")
        rows.append((matrix + matrix.T) / 2 >> 0)
    problem = cvxpy.Problem(cvxpy.Maximize(target @ y), rows)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # inaccurate multipliers are corrected
            problem.solve(solver="CLARABEL")
    except cvxpy.SolverError:
        return math.inf
    if any(row.dual_value is None for row in rows):
        return math.inf
    total = target + positive.T @ np.maximum(np.atleast_1d(rows[1].dual_value), 0)
    best = math.inf
    for sign in (1.0, -1.0):  # the sign of the multipliers of equations is a convention
        left = total + sign * (zero.T @ np.atleast_1d(rows[2].dual_value))
        for pick, row in zip(picks, rows[3:], strict=True):
            values, vectors = np.linalg.eigh((row.dual_value + row.dual_value.T) / 2)
            left = left + pick.T @ ((vectors * np.maximum(values, 0)) @ vectors.T).ravel()
        best = min(best, float(left[0] + np.abs(left[1:]).sum()))
    return best + 1e-12
