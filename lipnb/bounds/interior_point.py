"""A primal-dual interior-point method for semidefinite programs of slope-restricted units."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, lapack

__all__ = ["Program", "solve"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Program:
    r"""Minimise rho such that a matrix is positive semidefinite.

    .. math::
        M(\rho, t) = \rho E - C + \sum_i t_i (p_i q_i^T + q_i p_i^T) \succeq 0, \quad t \ge 0,
        \qquad p_i = e_i - \alpha_i w_i, \quad q_i = e_i - \beta_i w_i

    E is the identity on the first d coordinates and zero elsewhere, and e_i are the last n
    coordinates: those of the units. Multipliers of the same group are equal.

    Parameters
    ----------
    rows : ndarray of shape (n, N)
        w_i.
    low, high : ndarray of shape (n,)
        alpha and beta.
    cost : ndarray of shape (N, N)
        C, symmetric.
    size : int
        d, at least 1.
    groups : ndarray of shape (n,)
        The index of the multiplier of each unit, from 0.
    """

    rows: Array
    low: Array
    high: Array
    cost: Array
    size: int
    groups: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Find the columns that each run of rows uses: a chain's rows see one layer only."""
        used = self.rows != 0
        first = np.where(used.any(axis=1), used.argmax(axis=1), 0)
        width = used.shape[1]
        last = np.where(used.any(axis=1), width - used[:, ::-1].argmax(axis=1), 1)
        starts = [0, *(np.flatnonzero(np.diff(first) | np.diff(last)) + 1).tolist()]
        spans = [
            (slice(i, j), slice(int(first[i]), int(last[i])))
            for i, j in zip(starts, [*starts[1:], len(first)], strict=True)
        ]
        if sum((r.stop - r.start) * (c.stop - c.start) for r, c in spans) * 2 > self.rows.size:
            spans = [(slice(0, len(first)), slice(0, width))]
        object.__setattr__(self, "_spans", spans)
        object.__setattr__(self, "_one_hot", np.eye(int(self.groups.max()) + 1)[self.groups])

    def times(self, matrix: Array) -> Array:
        """Return rows @ matrix."""
        parts = [self.rows[r, c] @ matrix[c] for r, c in self._spans]  # type: ignore[attr-defined]
        return np.concatenate(parts)

    def collect(self, values: Array) -> Array:
        """Return the sums over the units of each group."""
        return np.bincount(self.groups, weights=values).astype(np.float64)

    def collect_matrix(self, values: Array) -> Array:
        """Return the sums over pairs of groups."""
        one_hot: Array = self._one_hot  # type: ignore[attr-defined]
        return values if len(one_hot) == one_hot.shape[1] else one_hot.T @ values @ one_hot

    def matrix(self, rho: float, t: Array) -> Array:
        """Return M(rho, t) + C for multipliers t of the units."""
        n, total = self.rows.shape
        m = np.zeros((total, total))
        m[total - n :] -= ((self.low + self.high) * t)[:, None] * self.rows
        m = m + m.T
        weights = 2 * self.low * self.high * t
        for r, c in self._spans if weights.any() else []:  # type: ignore[attr-defined]
            w = self.rows[r, c]
            m[c, c] += w.T @ (weights[r, None] * w)
        m[np.arange(total - n, total), np.arange(total - n, total)] += 2 * t
        m[np.arange(self.size), np.arange(self.size)] += rho
        return m


@dataclass(frozen=True, eq=False)
class _Forms:
    """Values of the quadratic forms of p and q under a symmetric matrix."""

    pp: Array
    pq: Array
    qq: Array
    p_first: Array
    q_first: Array


def _forms(program: Program, x: Array) -> _Forms:
    """Return p_i x p_j, p_i x q_j, q_i x q_j, and the first d entries of x p_i and x q_i."""
    n, d = len(program.rows), program.size
    wx = program.times(x)
    g, h, first = wx[:, -n:], x[-n:, -n:], x[-n:, :d]
    a, b = program.low, program.high
    r = program.times(wx.T)
    q_first = first - b[:, None] * wx[:, :d]
    if not a.any():
        bg = b[:, None] * g
        return _Forms(h, h - bg.T, h - bg - bg.T + np.outer(b, b) * r, first, q_first)

    def form(left: Array, right: Array) -> Array:
        """Return (e_i - left_i w_i) x (e_j - right_j w_j)."""
        return h - left[:, None] * g - right * g.T + np.outer(left, right) * r

    return _Forms(form(a, a), form(a, b), form(b, b), first - a[:, None] * wx[:, :d], q_first)


def _adjoint(program: Program, forms: _Forms, trace: float) -> Array:
    """Return <E, X> and <F_g, X> for all groups."""
    return np.append(trace, program.collect(2 * np.diag(forms.pq)))


def _schur(program: Program, x: _Forms, z: _Forms, trace: float) -> Array:
    """Return the matrix <F_k, X F_l Z> of the step's equations."""
    b = x.pq.T * z.pq
    b += b.T
    b += x.qq * z.pp
    b += x.pp * z.qq
    side = np.einsum("ij,ij->i", x.p_first, z.q_first)
    side += np.einsum("ij,ij->i", x.q_first, z.p_first)
    inner = program.collect_matrix(b)
    schur = np.empty((len(inner) + 1, len(inner) + 1))
    schur[0, 0], schur[1:, 1:] = trace, inner
    schur[0, 1:] = schur[1:, 0] = program.collect(side)
    return schur


def solve(
    program: Program,
    *,
    rho: float,
    tolerance: float,
    max_steps: int,
    watch: Callable[[Array], bool],
) -> tuple[Array, float, int, str]:
    r"""Solve a program by an infeasible-start method with predictor and corrector.

    The iterates are y = (rho, t), the slack S of M, and the multiplier X of M. With Z = S^{-1} the
    direction is that of Helmberg, Kojima and Monteiro:

    .. math::
        dS = M(dy) + R, \qquad dX = \sigma \mu Z - X - \tfrac12 (X\, dS\, Z + Z\, dS\, X)

    Parameters
    ----------
    program : Program
    rho : float
        Where to start; t starts at 1.
    tolerance : float
        Relative duality gap and infeasibility at which to stop.
    max_steps : int
    watch : callable
        Sees the multipliers of the units after every step; a true answer stops the method.

    Returns
    -------
    t : ndarray of shape (n,)
        Multipliers of the units. They need not be feasible to the last digit: certify them.
    dual : float
        <C, X> of the last X, close to the optimum if `reason` is 'converged'.
    steps : int
    reason : str
        'converged', 'stopped', 'stalled' or 'out of steps'.

    References
    ----------
    Helmberg et al., An interior-point method for semidefinite programming (1996); Toh, Todd and
    Tutuncu, SDPT3 (1999), for starting points and step lengths.
    """
    total, d, count = len(program.cost), program.size, int(program.groups.max()) + 1
    y = np.append(rho, np.ones(count))
    m = program.matrix(y[0], y[1:][program.groups]) - program.cost
    scale = max(1.0, float(np.linalg.norm(m)) / math.sqrt(total))
    s = 2 * scale * np.eye(total)
    x = np.eye(total) / d
    slack = np.full(count, 1.0 / d)  # the multiplier of t >= 0
    b = np.zeros(count + 1)
    b[0] = 1.0
    dual, reason = -math.inf, "out of steps"
    step = 0
    for _ in range(max_steps):
        step += 1
        residual = program.matrix(y[0], y[1:][program.groups]) - program.cost - s
        missing = float(np.linalg.norm(residual)) / (1 + float(np.linalg.norm(program.cost)))
        if missing < 1e-13:
            residual = np.zeros_like(residual)
        factor, failed = lapack.dpotrf(s, lower=1)
        z, failed_too = lapack.dpotri(factor, lower=1)
        if failed or failed_too:
            reason = "stalled"
            break
        z = np.tril(z) + np.tril(z, -1).T
        fx, fz = _forms(program, x), _forms(program, z)
        ax = _adjoint(program, fx, float(np.trace(x[:d, :d])))
        ax[1:] += slack
        az = _adjoint(program, fz, float(np.trace(z[:d, :d])))
        dual = float(np.sum(program.cost * x))
        mu = (float(np.sum(x * s)) + float(slack @ y[1:])) / (total + count)
        gap = abs(y[0] - dual) / (1e-12 + abs(y[0]) + abs(dual))
        if max(gap, missing, float(np.linalg.norm(ax - b))) < tolerance:
            reason = "converged"
            break
        schur = _schur(program, fx, fz, float(np.sum(x[:d, :d] * z[:d, :d])))
        schur[np.arange(1, count + 1), np.arange(1, count + 1)] += slack / y[1:]
        scaling = 1 / np.sqrt(np.diag(schur))
        try:
            solver = cho_factor(scaling[:, None] * schur * scaling + 1e-15 * np.eye(count + 1))
        except np.linalg.LinAlgError:
            reason = "stalled"
            break

        def direction(
            target: float, extra: Array | None, extra_slack: Array | float
        ) -> tuple[Array, Array, Array, Array]:
            """Return dy, dS, dX and the change of the slack's multiplier."""
            right = target * (az + np.append(0.0, 1 / y[1:])) - b  # noqa: B023
            right[1:] -= extra_slack
            fixed = np.zeros_like(x) if extra is None else extra  # noqa: B023
            if residual.any():  # noqa: B023
                fixed = fixed + _symmetric(x @ residual @ z)  # noqa: B023
            if fixed.any():
                forms = _forms(program, fixed)
                right -= _adjoint(program, forms, float(np.trace(fixed[:d, :d])))
            dy = scaling * cho_solve(solver, scaling * right)  # noqa: B023
            ds = program.matrix(dy[0], dy[1:][program.groups]) + residual  # noqa: B023
            dx = target * z - x - _symmetric(x @ ds @ z)  # noqa: B023
            if extra is not None:
                dx -= extra
            change = target / y[1:] - slack - slack * dy[1:] / y[1:] - extra_slack  # noqa: B023
            return dy, ds, dx, change

        dy, ds, dx, change = direction(0.0, None, 0.0)
        primal = min(_length(x, dx), _ratio(slack, change))
        other = min(_length(s, ds), _ratio(y[1:], dy[1:]))
        after = float(np.sum((x + primal * dx) * (s + other * ds)))
        after += float((slack + primal * change) @ (y[1:] + other * dy[1:]))
        after = max(0.0, after / (total + count))
        sigma = min(1.0, (after / mu) ** (3 if min(primal, other) > 0.5 else 1))
        sigma = max(sigma, 1e-6)
        dy, ds, dx, change = direction(sigma * mu, _symmetric(dx @ ds @ z), change * dy[1:] / y[1:])
        primal = 0.97 * min(_length(x, dx), _ratio(slack, change) / 0.97)
        other = 0.97 * min(_length(s, ds), _ratio(y[1:], dy[1:]) / 0.97)
        primal, other = min(primal, 1.0), min(other, 1.0)
        x, slack = x + primal * dx, slack + primal * change
        s, y = s + other * ds, y + other * dy
        if not np.isfinite(y).all():
            reason = "stalled"
            break
        if watch(y[1:][program.groups]):
            reason = "stopped"
            break
        if max(primal, other) < 1e-6:
            reason = "stalled"
            break
    return y[1:][program.groups], dual, step, reason


def _symmetric(matrix: Array) -> Array:
    """Return the symmetric part."""
    return (matrix + matrix.T) / 2


def _length(matrix: Array, change: Array) -> float:
    """Return about the largest step that keeps a matrix positive definite, at most 1 / 0.97."""
    step = 1 / 0.97
    for _ in range(80):
        if lapack.dpotrf(matrix + step * change, lower=1, overwrite_a=1)[1] == 0:
            return step
        step *= 0.9
    return 0.0


def _ratio(values: Array, change: Array) -> float:
    """Return 0.97 of the largest step that keeps numbers positive."""
    falling = change < 0
    return 0.97 * float(np.min(-values[falling] / change[falling], initial=2.0))
