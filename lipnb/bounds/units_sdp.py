"""LipSDP for a system of ReLU units, as branch and bound meets them at its nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, solve_triangular

from lipnb.bounds.units import Units

__all__ = ["Relaxation", "certified_slope", "units_sdp"]

Array = NDArray[np.float64]
STEPS = 60


@dataclass(frozen=True, eq=False)
class Relaxation:
    """An upper bound of the largest slope over all gates, and how undecided each gate is.

    Parameters
    ----------
    value : float
        Certified by its multipliers; infinite if none were found.
    multipliers : ndarray of shape (n,)
        One per unit, at least 0.
    doubt : ndarray of shape (n,)
        At least 0, and 0 where the optimal gate is 0 or 1.
    """

    value: float
    multipliers: Array
    doubt: Array


def units_sdp(
    units: Units, sizes: Array, scale: float, *, goal: float = 0.0, deadline: float = math.inf
) -> Relaxation:
    r"""Bound the largest Euclidean slope over all gates in [0, 1] by a semidefinite program.

    With w_i = (A_i, B_i) and e_i the unit vector of unit i in the space of inputs and units,

    .. math::
        \min_{\rho, t \ge 0} \rho \quad\text{s.t.}\quad \rho E_0 - (C, D)^\top (C, D)
        + \sum_i t_i (2 e_i e_i^\top - e_i w_i^\top - w_i e_i^\top) \succeq 0

    and the bound is the square root of rho. The solver is an infeasible-start primal-dual method
    (direction of Helmberg, Kojima and Monteiro, corrector of Mehrotra). Each term of the sum has
    rank two, and the matrix of its Newton system is a sum of four elementwise products.

    Parameters
    ----------
    units : Units
    sizes : ndarray of shape (n,)
        About the largest gradient of each unit; they only scale the program.
    scale : float
        About the largest slope.
    goal : float
        Stop as soon as the bound is at most this, or cannot become so.
    deadline : float
        Stop when `time.perf_counter` reaches this; the bound may then be infinite.

    Returns
    -------
    Relaxation

    Examples
    --------
    >>> from torch import nn
    >>> from lipnb.bounds.units import read_units
    >>> network = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    >>> units = read_units(network)
    >>> slope = abs(network[0].weight.item() * network[2].weight.item())
    >>> abs(units_sdp(units, np.ones(1), slope).value / slope - 1) < 1e-5
    True

    References
    ----------
    Fazlyab et al., Efficient and accurate estimation of Lipschitz constants for deep neural
    networks (2019), theorem 2, with one multiplier per unit; Helmberg et al., An interior-point
    method for semidefinite programming (1996); Mehrotra, On the implementation of a primal-dual
    interior point method (1992).
    """
    sizes = np.where(sizes > 0, sizes, 1.0)
    # An orthogonal change of the input keeps the slopes: fewer inputs than rows suffice.
    stacked = np.vstack([units.inputs / sizes[:, None], units.out_inputs / scale])
    inputs = np.asarray(np.linalg.qr(stacked.T, mode="r")).T
    n = len(sizes)
    rows = np.hstack([inputs[:n], units.couplings * sizes / sizes[:, None]])  # w_i
    out = np.hstack([inputs[n:], units.out_couplings * sizes / scale])
    program, limit = _Program(rows, out), (goal / scale) ** 2
    state = program.start()
    best, multipliers = math.inf, state.t
    for _ in range(STEPS):
        value = certified_slope(rows, out, state.t)
        if value < best:
            best, multipliers = value, state.t
        trace, inner = program.products(state.x_matrix)
        primal = max(abs(trace - 1), float(np.abs(inner + state.x).max(initial=0)))
        reached = float((program.cost * state.x_matrix).sum())
        if best <= limit or (primal < 1e-6 and best - reached < 1e-7 * best):
            break
        if primal < 1e-3 and reached > 1.01 * limit > 0 and best - reached < 0.02 * best:
            break  # no multipliers will reach the goal
        if perf_counter() > deadline:
            break
        try:
            state = program.step(state)
        except (LinAlgError, ValueError):  # no longer positive definite, or no longer finite
            break
    moments = state.x_matrix @ rows.T
    squares = np.maximum((moments * rows.T).sum(axis=0), 1e-300)
    share = np.clip(moments[-n:].diagonal() / squares, 0, 1)
    return Relaxation(
        scale * math.sqrt(best), multipliers, multipliers * squares * share * (1 - share)
    )


@dataclass(frozen=True, eq=False)
class _State:
    """An iterate: rho, t and the slack matrix against the moment matrix X and x."""

    rho: float
    t: Array
    slack: Array
    x_matrix: Array
    x: Array


class _Program:
    """The data of the program, and one step of the interior-point method."""

    def __init__(self, rows: Array, out: Array) -> None:
        n = len(rows)
        self.dimension = rows.shape[1] - n
        self.e = np.eye(rows.shape[1])[:, self.dimension :]
        self.u = self.e - rows.T  # A_i = e_i u_i^T + u_i e_i^T
        self.cost = out.T @ out

    def start(self) -> _State:
        """Return an infeasible start in the interior of the cones."""
        eye, one = np.eye(len(self.cost)), np.ones(self.e.shape[1])
        return _State(2.0, one, eye * (1 + np.trace(self.cost)), eye, one)

    def total(self, rho: float, t: Array) -> Array:
        """Evaluate rho E_0 + sum_i t_i A_i."""
        half = (self.e * t) @ self.u.T
        half = half + half.T
        half[range(self.dimension), range(self.dimension)] += rho
        return half

    def products(self, m: Array) -> tuple[float, Array]:
        """Evaluate <E_0, m> and all <A_i, m> for a symmetric matrix."""
        trace = np.trace(m[: self.dimension, : self.dimension])
        return float(trace), 2 * ((m @ self.u) * self.e).sum(axis=0)

    def newton(self, s: _State, z: Array) -> Array:
        """Return <A_k, X A_l Z> for all pairs, with the row of rho, and the diagonal of t."""
        e, u, x = self.e, self.u, s.x_matrix
        xe, xu, ze, zu = x @ e, x @ u, z @ e, z @ u
        matrix = np.empty((len(s.t) + 1, len(s.t) + 1))
        matrix[1:, 1:] = (u.T @ xe) * (u.T @ ze).T + (u.T @ xu) * (e.T @ ze)
        matrix[1:, 1:] += (e.T @ xe) * (u.T @ zu) + (e.T @ xu) * (e.T @ zu).T + np.diag(s.x / s.t)
        top = slice(0, self.dimension)
        matrix[0, 0] = (x[top, top] * z[top, top]).sum()
        matrix[0, 1:] = (zu[top] * xe[top]).sum(axis=0) + (ze[top] * xu[top]).sum(axis=0)
        matrix[1:, 0] = matrix[0, 1:]
        return _symmetric(matrix)

    def step(self, s: _State) -> _State:
        """Go one step towards the centre and the optimum; raise `LinAlgError` at the end."""
        low, x_low = cholesky(s.slack, lower=True), cholesky(s.x_matrix, lower=True)
        z = _symmetric(cho_solve((low, True), np.eye(len(s.slack))))
        factor = cho_factor(self.newton(s, z))
        order = 2 * len(s.t) + self.dimension
        mu = (float((s.x_matrix * s.slack).sum()) + float(s.x @ s.t)) / order
        zero = np.zeros_like(s.slack), np.zeros_like(s.t)
        d = self._direction(s, z, factor, 0.0, zero)
        trial = _move(s, d, low, x_low)
        after = float((trial.x_matrix * trial.slack).sum()) + float(trial.x @ trial.t)
        centre = mu * min(1.0, max(after / order / mu, 1e-3)) ** 3
        dropped = _symmetric(d.x_matrix @ d.slack @ z), d.x * d.t
        return _move(s, self._direction(s, z, factor, centre, dropped), low, x_low)

    def _direction(
        self, s: _State, z: Array, factor: Any, centre: float, dropped: tuple[Array, Array]
    ) -> _State:
        """Solve the linearised conditions; `dropped` are the second-order terms left out."""
        residual = self.total(s.rho, s.t) - self.cost - s.slack
        ahead = centre * z - _symmetric(s.x_matrix @ residual @ z) - dropped[0]
        trace, inner = self.products(ahead)
        right = np.append(trace - 1, inner + (centre - dropped[1]) / s.t)
        solution = cho_solve(factor, right)
        d_rho, d_t = float(solution[0]), solution[1:]
        step = self.total(d_rho, d_t)
        d_matrix = ahead - s.x_matrix - _symmetric(s.x_matrix @ step @ z)
        d_x = (centre - dropped[1] - s.x * d_t) / s.t - s.x
        return _State(d_rho, d_t, step + residual, d_matrix, d_x)


def _move(s: _State, d: _State, low: Array, x_low: Array) -> _State:
    """Go as far as the cones allow, separately in both halves of the state."""
    p, q = _length(x_low, d.x_matrix, s.x, d.x), _length(low, d.slack, s.t, d.t)
    return _State(
        s.rho + q * d.rho,
        s.t + q * d.t,
        s.slack + q * d.slack,
        s.x_matrix + p * d.x_matrix,
        s.x + p * d.x,
    )


def certified_slope(rows: Array, out: Array, t: Array) -> float:
    r"""Return the best rho for given multipliers, or infinity.

    .. math::
        \rho(t) = \lambda_{\max}(M_{00} + Y^\top H^{-1} Y)

    with H the block of units and Y the block of units and inputs. It is a bound whatever the
    solver did: any t at least 0 with a positive definite H is a certificate.

    Parameters
    ----------
    rows : ndarray of shape (n, n_in + n)
    out : ndarray of shape (n_out, n_in + n)
    t : ndarray of shape (n,)

    Returns
    -------
    float
        The square of a bound, or inf; rounded up.

    Examples
    --------
    The unit relu(2 x), weighted by 3:

    >>> rows, out = np.array([[2.0, 0.0]]), np.array([[0.0, 3.0]])
    >>> round(certified_slope(rows, out, np.array([9.0])) ** 0.5, 6)
    6.0
    """
    n = len(t)
    if not (t >= 0).all():
        return math.inf
    dimension = rows.shape[1] - n
    weighted = t[:, None] * rows
    h = (
        -weighted[:, dimension:]
        - weighted[:, dimension:].T
        - out[:, dimension:].T @ out[:, dimension:]
    )
    h[range(n), range(n)] += 2 * t
    y = -weighted[:, :dimension] - out[:, dimension:].T @ out[:, :dimension]
    h[range(n), range(n)] -= (
        8
        * (n + dimension)
        * np.finfo(float).eps
        * max(np.abs(h).sum(axis=1).max(initial=0), float((out**2).sum()))
    )
    try:
        low = cholesky(h, lower=True)
    except LinAlgError:
        return math.inf
    half = solve_triangular(low, y, lower=True)
    total = out[:, :dimension].T @ out[:, :dimension] + half.T @ half
    return float(np.linalg.eigvalsh(total)[-1]) * (1 + 1e-12) if dimension else 0.0


def _symmetric(m: Array) -> Array:
    """Return the symmetric part."""
    return (m + m.T) / 2


def _length(low: Array, step: Array, x: Array, d_x: Array) -> float:
    """Return how far to go and stay in the cone of positive definite matrices and numbers."""
    inner = solve_triangular(low, solve_triangular(low, step, lower=True).T, lower=True)
    worst = -float(np.linalg.eigvalsh((inner + inner.T) / 2)[0])
    worst = max(worst, float((-d_x / x).max(initial=0)))
    return min(1.0, 0.95 / worst) if worst > 0 else 1.0
