"""GeoLIP: the semidefinite bound for the norms 1 and infinity."""

from __future__ import annotations

import math
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
from torch import nn

from lipnb.bounds._arguments import check_positive
from lipnb.bounds.feedback import Feedback, pruned, read_feedback
from lipnb.bounds.layerwise import product_bound
from lipnb.bounds.lipsdp import solve_feedback
from lipnb.bounds.network import check_norm, input_dimension, read_box, read_layers
from lipnb.bounds.result import Bound

__all__ = ["geolip"]


def geolip(
    network: nn.Sequential,
    *,
    norm: float = math.inf,
    domain: tuple[Any, Any] | None = None,
    tolerance: float = 1e-8,
    seconds: float = 60.0,
    max_steps: int = 100,
) -> Bound:
    r"""Bound the constant for the norm infinity or 1 from above by semidefinite programming.

    For one output, the largest slope over the cube is relaxed with a multiplier
    :math:`\lambda_j \ge 0` for each :math:`x_j^2 \le 1`, next to those of the units in `lipsdp`:

    .. math::
        \max_{\|x\|_\infty \le 1} y(x) \le \tfrac12 \min \gamma \quad\text{s.t.}\quad
        \gamma - 2 y - \sum_j \lambda_j (1 - x_j^2)
        - 2 \sum_i t_i (h_i - \alpha_i z_i)(\beta_i z_i - h_i) \ge 0

    The coordinates x_j are thus units too, with slopes in [-1, 1] and the number 1 as their input,
    and the program is that of `lipsdp` for one input and one output, with the same solver and the
    same certificate. The norm infinity of several outputs is the largest over the outputs. The
    norm 1 is the norm infinity of the transposed Jacobian, one program for each input.

    Parameters
    ----------
    network : nn.Sequential
        The layers that `lipsdp` takes.
    norm : {1, inf}
        The p of the input and, for vector outputs, of the output.
    domain : (low, high), optional
        A box, which narrows the slopes; everywhere by default.
    tolerance : float
        Relative duality gap at which the solver stops.
    seconds : float
        Time for all programs; after it the product of the layers' norms serves for the rest.
    max_steps : int
        Of the solver, for each program.

    Returns
    -------
    Bound
        Of kind 'upper', certified like that of `lipsdp`, at most that of `product_bound`.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If an argument is out of range.

    Examples
    --------
    The sum of the absolute values of two inputs: the product of the norms says 4.

    >>> import torch
    >>> up, down = nn.Linear(2, 4, bias=False), nn.Linear(4, 1, bias=False)
    >>> _ = up.weight.data.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]))
    >>> _ = down.weight.data.fill_(1.0)
    >>> round(geolip(nn.Sequential(up, nn.ReLU(), down)).value, 5)
    2.0

    References
    ----------
    Wang et al., A quantitative geometric approach to neural-network smoothness (2022).
    """
    start = perf_counter()
    if norm == 2:
        raise ValueError("norm must be 1 or inf for GeoLIP; got 2; lipsdp takes it")
    check_norm(norm)
    check_positive(tolerance=tolerance, seconds=seconds, max_steps=max_steps)
    box = read_box(domain, input_dimension(read_layers(network)))
    feedback = read_feedback(network, box)
    if norm == 1:
        feedback = feedback.transposed()
    product = product_bound(network, norm=norm).value
    value, status, count = 0.0, "constant", len(feedback.out_inputs)
    for output in range(count):
        program = cube_feedback(feedback, output)
        top, how = solve_feedback(program, "neuron", tolerance, max_steps, start + seconds)
        if top >= value:
            value, status = top, how
    status = f"{status} (largest of {count})"
    if product < value:
        value, status = product, f"{status}; the product of the layers' norms is smaller"
    return Bound(value, "upper", norm, box, perf_counter() - start, status)


def cube_feedback(feedback: Feedback, output: int) -> Feedback:
    """Return the system of one output whose single input drives all coordinates within [-1, 1]."""
    n, d = feedback.inputs.shape
    return pruned(
        replace(
            feedback,
            inputs=np.append(np.ones(d), np.zeros(n))[:, None],
            loop=np.block([[np.zeros((d, d)), np.zeros((d, n))], [feedback.inputs, feedback.loop]]),
            out_inputs=np.zeros((1, 1)),
            out_loop=np.append(feedback.out_inputs[output], feedback.out_loop[output])[None],
            low=np.append(-np.ones(d), feedback.low),
            high=np.append(np.ones(d), feedback.high),
            layers=np.append(np.zeros(d, dtype=np.int64), feedback.layers + 1),
            error=math.sqrt(d) * feedback.error,  # |row|_1 <= sqrt(d) |row|_2
        )
    )
