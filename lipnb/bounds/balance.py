"""The program of LipSDP in units in which a solver does well."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lipnb.bounds.feedback import Feedback
from lipnb.bounds.interior_point import Program

__all__ = ["balanced_program"]

Array = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)


def balanced_program(feedback: Feedback, multipliers: str) -> tuple[Program, int, float]:
    """Write LipSDP's program in units of its own, for the smaller of input and output as input.

    Parameters
    ----------
    feedback : Feedback
        With one unit at least.
    multipliers : {'neuron', 'layer'}

    Returns
    -------
    program : Program
        Multipliers of 1 are nearly feasible for it.
    exponent : int
        The system's constant is at most sqrt(rho) 2^exponent.
    relative : float
        Bound on the relative rounding error of an orthogonal reduction of the inputs.

    Examples
    --------
    784 inputs and 10 outputs: the matrix has 50 + 10 rows.

    >>> from lipnb.bounds.feedback import read_feedback
    >>> from lipnb.models import mlp
    >>> balanced_program(read_feedback(mlp([784, 50, 10])), "neuron")[0].cost.shape
    (60, 60)
    """
    n, turned = len(feedback.low), feedback.out_inputs.shape[0] < feedback.out_inputs.shape[1]
    scale, size = _balance(feedback, multipliers)
    if turned:
        feedback, scale = feedback.transposed(), np.ldexp(1 / scale[::-1], -size)
    inputs, direct, relative = feedback.inputs, feedback.out_inputs, 4 * EPS
    seen = np.vstack([inputs, direct])
    busy = seen.any(axis=1)
    if seen.shape[1] > busy.sum() > 0:
        # Only the span of the rows matters; an orthogonal map turns it into few coordinates.
        triangle = np.asarray(np.linalg.qr(seen[busy].T, mode="r")).T
        small = np.zeros((len(seen), triangle.shape[1]))
        small[busy] = triangle
        relative += 64 * EPS * sum(seen.shape)
        inputs, direct = small[:n], small[n:]
    rows = np.hstack([inputs, feedback.loop / scale]) * scale[:, None]
    output = np.ldexp(np.hstack([direct, feedback.out_loop / scale]), -size)
    groups = np.arange(n)
    if multipliers == "layer":
        groups = np.unique(feedback.layers, return_inverse=True)[1]
    low, high = feedback.low, feedback.high
    program = Program(rows, low, high, output.T @ output, inputs.shape[1], groups)
    return program, size, relative


def _balance(feedback: Feedback, multipliers: str) -> tuple[Array, int]:
    """Return scales of the units that make multipliers near 1 feasible, and that of the output.

    Rows and columns are balanced first. Then one multiplier per layer follows in closed form as
    in `eclipse_fast`. All scales are powers of two, so that nothing is rounded.
    """
    n, d = feedback.inputs.shape
    scale = np.ones(n)
    columns = np.vstack([feedback.loop, feedback.out_loop])
    ends = np.ones(len(columns) - n)
    if multipliers == "neuron":
        for _ in range(4):
            # Largest entries, not sums of squares, which are zero for entries below 1e-162.
            into = np.abs(np.hstack([feedback.inputs, feedback.loop / scale])).max(axis=1)
            out = np.abs(columns * np.append(scale, ends)[:, None]).max(axis=0)
            scale = np.exp2(np.round((np.log2(out) - np.log2(into)) / 2))
    rows = np.hstack([feedback.inputs, feedback.loop / scale]) * scale[:, None]
    output = np.hstack([feedback.out_inputs, feedback.out_loop / scale])
    steep = np.maximum(np.abs(feedback.low), np.abs(feedback.high))
    known = np.eye(d)
    for label in np.unique(feedback.layers):
        unit = np.flatnonzero(feedback.layers == label)
        w = steep[unit, None] * rows[unit, : len(known)]
        top = float(np.linalg.eigvalsh(w @ np.linalg.solve(known, w.T))[-1])
        t = 1 / max(top, 1e-300)
        root = 2.0 ** round(math.log2(t) / 2)
        coupling = -(t / root) * w
        known = np.block([[known, coupling.T], [coupling, 2 * t / root**2 * np.eye(len(unit))]])
        scale[unit] *= root
        rows[:, d + unit] /= root
        output[:, d + unit] /= root
    top = float(np.linalg.eigvalsh(output @ np.linalg.solve(known, output.T))[-1])
    return scale, math.frexp(math.sqrt(top))[1] if top > 0 else 0
