"""The best certified lower and upper bound within a budget of time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import nn

from lipnb.bounds._arguments import check_positive
from lipnb.bounds.branch_and_bound import branch_and_bound
from lipnb.bounds.eclipse import eclipse_fast
from lipnb.bounds.feedback import Feedback, read_feedback
from lipnb.bounds.geolip import geolip
from lipnb.bounds.layerwise import product_bound
from lipnb.bounds.liplt import liplt
from lipnb.bounds.lipmip import lipmip
from lipnb.bounds.lipsdp import lipsdp
from lipnb.bounds.network import Affine, check_norm, input_dimension, read_box, read_layers
from lipnb.bounds.polygons import enumerate_polygons
from lipnb.bounds.result import Bound
from lipnb.bounds.search_bound import SearchBound
from lipnb.bounds.seqlip import seqlip
from lipnb.bounds.walk import walk_bound

__all__ = ["Bracket", "lipschitz_bracket"]

CLOSED = 1e-6  # relative width at which a bracket counts as closed
STEP = 1.5e-9  # seconds that a step of the interior-point method takes, over N^3
WALKS = 4
LARGEST_SEARCH = 200  # units up to which a search is begun: it cannot stop within its first step


class Bracket(NamedTuple):
    """Bounds on both sides of a Lipschitz constant, with lower.value <= upper.value.

    Parameters
    ----------
    lower : Bound
        Of kind 'lower' or 'exact'.
    upper : Bound
        Of kind 'upper' or 'exact'.
    """

    lower: Bound
    upper: Bound


def lipschitz_bracket(
    network: nn.Sequential,
    *,
    norm: float = 2,
    domain: tuple[Any, Any] | None = None,
    seconds: float = 10.0,
) -> Bracket:
    r"""Bracket the Lipschitz constant by the best methods that fit into a budget.

    .. math::
        \text{lower} \le \|f\|_L \le \text{upper}

    From below: random walks. From above: product of norms, LipLT, ECLipsE-Fast and SeqLip, which
    cost little; then LipSDP and, for p = 1 or inf, GeoLIP where a solve is likely to fit. A bound
    for p = 2 times the root of the number of inputs holds for p = inf, and times that of the
    outputs for p = 1. With the time that is left, the polygons of networks of one or two inputs are
    enumerated, and branch and bound (p = 2) or LipMIP (p = 1 or inf) try to close the bracket.
    Methods that do not know a layer of the network are left out.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included) and the activations of
        `activation_constant`.
    norm : {1, 2, inf}
        The p of the input and, for vector outputs, of the output.
    domain : (low, high), optional
        A box; everywhere by default.
    seconds : float
        Wall-clock time. The methods that cost little run whatever it is.

    Returns
    -------
    Bracket
        Two bounds, each with the method in its status. Both are the same if the constant was
        found: 'exact' means within a relative tolerance of 1e-6, and up to regions that are
        thinner than the margin in the status.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If an argument is out of range.
    RuntimeError
        If a lower bound exceeds an upper one: then one of them is wrong.

    Examples
    --------
    >>> from lipnb.models import mlp
    >>> lower, upper = lipschitz_bracket(mlp([4, 8, 8, 1], dtype=torch.float64), seconds=1.0)
    >>> 0.5 < lower.value / upper.value <= 1
    True

    References
    ----------
    The single methods say theirs.
    """
    start = perf_counter()
    check_norm(norm)
    check_positive(seconds=seconds)
    box = read_box(domain, input_dimension(read_layers(network)))
    deadline = start + seconds
    lower = walk_bound(network, norm=norm, domain=box, steps=50)
    upper = product_bound(network, norm=norm, domain=box)
    best: Bound = lower
    for method in _methods(network, norm, box, deadline, lower.seconds):
        if best.value >= upper.value * (1 - CLOSED):
            break
        bound = _attempt(method)
        if bound is None:
            continue
        if bound.kind == "exact":
            _check(best, bound, upper)
            return Bracket(bound, bound)
        if bound.kind == "lower" and bound.value > best.value:
            best = bound
        if isinstance(bound, SearchBound) and bound.lower > best.value:
            best = Bound(bound.lower, "lower", norm, box, bound.seconds, bound.status)
        if bound.kind == "upper" and bound.value < upper.value:
            upper = bound
    _check(best, upper)
    return Bracket(best, upper)


def _methods(
    network: nn.Sequential, norm: float, box: Any, deadline: float, walk_seconds: float
) -> Iterator[Callable[[], Bound]]:
    """Yield what to try as long as time is left; 50 steps of a walk took walk_seconds."""

    def left() -> float:
        """Return the seconds that are left."""
        return max(0.0, deadline - perf_counter())

    yield partial(liplt, network, norm=norm, domain=box)
    yield partial(_converted, eclipse_fast, network, norm, box)
    if norm == 2:
        yield partial(seqlip, network, domain=box, max_units=8)
    try:
        feedback: Feedback | None = read_feedback(network, box)
    except TypeError:
        feedback = None
    if feedback and _program_seconds(feedback, 2) < 0.7 * left():
        yield partial(_converted, lipsdp, network, norm, box, seconds=0.7 * left() + 1e-3)
    if feedback and norm != 2 and _program_seconds(feedback, norm) < left() / 2:
        yield partial(geolip, network, norm=norm, domain=box, seconds=left() / 2 + 1e-3)
    budget = left()
    for seed in range(1, WALKS):
        if left() < 0.8 * budget or 4 * walk_seconds > 0.2 * budget:
            break
        generator = torch.Generator().manual_seed(seed)
        yield partial(walk_bound, network, norm=norm, domain=box, steps=200, generator=generator)
    if input_dimension(read_layers(network)) <= 2 and left() > 0:
        yield partial(
            enumerate_polygons, network, norm=norm, domain=box, seconds=0.7 * left() + 1e-3
        )
    if feedback and left() > 0 and len(feedback.low) <= LARGEST_SEARCH:
        method: Callable[..., Bound] = branch_and_bound if norm == 2 else lipmip
        yield partial(method, network, norm=norm, domain=box, seconds=left() + 1e-3)


def _converted(
    method: Callable[..., Bound], network: nn.Sequential, norm: float, box: Any, **options: Any
) -> Bound:
    r"""Return a bound for the norm 1 or inf from one for the norm 2.

    A matrix J of shape (m, n) has |J|_inf <= sqrt(n) |J|_2 and |J|_1 <= sqrt(m) |J|_2.
    """
    bound = method(network, domain=box, **options)
    if norm == 2:
        return bound
    chain = [layer for layer in read_layers(network) if isinstance(layer, Affine)]
    size = chain[0].weight.shape[1] if norm == math.inf else chain[-1].weight.shape[0]
    value = math.sqrt(size) * bound.value * (1 + 1e-15)
    status = f"sqrt({size}) times the bound for the norm 2; {bound.status}"
    return replace(bound, value=value, norm=norm, status=status)


def _program_seconds(feedback: Feedback, norm: float) -> float:
    """Estimate what LipSDP or GeoLIP takes."""
    (outputs, inputs), n = feedback.out_inputs.shape, len(feedback.low)
    if norm == 2:
        return 25 * STEP * (n + min(inputs, outputs, n)) ** 3
    if norm == 1:
        inputs, outputs = outputs, inputs
    return outputs * 25 * STEP * (n + inputs) ** 3


def _attempt(method: Callable[[], Bound]) -> Bound | None:
    """Run a method; None if it does not know a layer, is too small, or its solver fails."""
    try:
        return method()
    except (TypeError, ValueError, RuntimeError):
        return None


def _check(*bounds: Bound) -> None:
    """Raise if the first bounds are above the last ones."""
    values = [bound.value for bound in bounds]
    if any(a > b * (1 + CLOSED) for a, b in pairwise(values)):
        raise RuntimeError(f"bounds contradict each other: {bounds}")
