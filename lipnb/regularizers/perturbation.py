"""The adversarial perturbation r_adv: the direction in which a network changes most."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lipnb.distances import at_least_float32, euclidean
from lipnb.regularizers._network import FixedNetwork, Network, require_independent_samples
from lipnb.regularizers.gradient import input_gradient
from lipnb.regularizers.penalty import (
    readable,
    require_batch,
    require_finite,
    require_numbers,
    require_output,
)

__all__ = ["adversarial_perturbation"]

Distance = Callable[[Tensor, Tensor], Tensor]
Radius = float | tuple[float, float] | Tensor
Domain = tuple[float | Tensor, float | Tensor]


def adversarial_perturbation(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    output: Tensor | None = None,
    radius: Radius = (0.1, 10.0),
    xi: float = 10.0,
    steps: int = 1,
    output_distance: Distance | None = None,
    input_distance: Distance | None = None,
    domain: Domain | None = None,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Search, for each sample, the direction in which f changes most.

    Start from a random unit vector :math:`r_0` and repeat, for :math:`i < k`,

    .. math::
        r_{i+1} = \frac{g_i}{\|g_i\|_2}, \qquad
        g_i = \nabla_r\, d_Y\bigl(f(x), f(x + r)\bigr)\big|_{r = \xi r_i}, \qquad
        r_{adv} = \epsilon\, r_k, \quad \epsilon \sim P_\epsilon .

    Where the gradient is exactly zero the previous direction is kept, so the length of every
    perturbation is :math:`\epsilon`, unless the domain shortens it.

    Parameters
    ----------
    f : callable
        Network, (n, ...) to (n,) or (n, ...). If it is an `nn.Module`, its buffers (running
        statistics, power-iteration vectors) are left as they were.
    x : Tensor
        Points, shape (n, ...). In the units of the data.
    output : Tensor, optional
        f(x), if the caller has it already. It is not differentiated through, unless xi is 0. Leave
        it out if f is random (dropout): all passes then use the same random numbers.
    radius : float, (float, float) or Tensor
        Length epsilon of the perturbation in the units of x: one number, an interval from which
        each sample draws its own uniformly, or one number per sample, shape (n,).
    xi : float
        Distance at which the gradient is taken, in the units of x. 0 stands for the limit: the
        direction is that of the gradient at x itself, with the sign in which r_0 rises.
    steps : int
        Number k of iterations; 0 leaves the random direction and never calls f.
    output_distance : callable, optional
        d_Y(y, y'), one number per sample, shape (n,); by default the Euclidean distance.
    input_distance : callable, optional
        d_X(x, x'), shape (n,). If given, the search climbs the quotient d_Y / d_X; if not, d_Y.
    domain : (low, high), optional
        Box, of numbers or of tensors that broadcast with x, to which the perturbed points are
        clamped, in the search and at the end.
    start : Tensor, optional
        Directions to start from, in place of random ones; finite, of the shape of x, any length
        but 0.
    generator : torch.Generator, optional
        Source of all randomness, on the device of x. If given, the global generators are left as
        they were, even if f draws from them (dropout).

    Returns
    -------
    Tensor
        r_adv with the shape, dtype and memory format of x, detached.

    Raises
    ------
    ValueError
        If a shape, the radius, xi, the number of steps or the domain is unusable, if x is not
        finite or lies outside the domain, if f(x) or the gradient of the distance is not finite or
        f does not depend on x; and, if xi is 0, for any distance but the default, for more than one
        output per sample, and for a network that normalises with batch statistics.
    TypeError
        If x is not a floating-point tensor.

    Notes
    -----
    Only first derivatives are taken. With one output and the default distance a step returns
    plus or minus the normalised gradient of f at a random point at distance xi. The length
    comes out as epsilon up to rounding also for an interval of zero width.

    Distances and directions are computed in float32 or wider, whatever f returns. Under bfloat16
    the outputs f(x) and f(x + r) still often agree in all their bits, and such a sample keeps its
    random direction. A last layer that computes in float32 removes these ties; a larger xi lifts
    the change of f above the rounding of the other layers.

    With xi = 0, an x that requires a gradient, and an output computed from it, the direction costs
    one backward pass through the graph of that output; else, and where a compiled network refuses
    to keep its graph, it costs a forward and a backward pass of its own.

    References
    ----------
    Terjek (2020), equations (14), (24) and (25).

    Examples
    --------
    >>> a = torch.tensor([3.0, 4.0])
    >>> r = adversarial_perturbation(lambda x: x @ a, torch.zeros(5, 2), radius=2.0)
    >>> (r / 2.0).abs()[0]
    tensor([0.6000, 0.8000])
    """
    require_search(f, x, xi, steps, output_distance, input_distance)
    clamp = clamp_to(domain, x)
    epsilon, direction = draw_start(x, radius, start, generator)
    direction = climb(
        FixedNetwork(f, x.device, generator),
        x,
        output,
        direction,
        xi=xi,
        steps=steps,
        output_distance=output_distance,
        input_distance=input_distance,
        clamp=clamp,
    )
    point = at_least_float32(x.detach())
    r = epsilon * direction
    return (r if domain is None else clamp(point + r) - point).to(x.dtype)


def require_search(
    f: Network,
    x: Tensor,
    xi: float,
    steps: int,
    output_distance: Distance | None,
    input_distance: Distance | None,
) -> None:
    """Refuse what the search cannot work with."""
    require_batch(x)
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps must be an integer of at least 0; got {steps!r}")
    if not 0 <= xi < float("inf"):
        raise ValueError(f"xi must be finite and at least 0; got {xi}")
    if xi == 0 and steps:
        if output_distance is not None or input_distance is not None:
            raise ValueError("xi must be positive for any distance but the default; got 0")
        require_independent_samples(f, "Use evaluation mode, or a positive xi.")


def draw_start(
    x: Tensor, radius: Radius, start: Tensor | None, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return epsilon, shape (n, 1, ...), and the unit vectors r_0, in float32 or wider."""
    wide = at_least_float32(x.detach())
    epsilon = _draw_radius(radius, wide, generator)
    if start is None:
        start = torch.randn(x.shape, generator=generator, device=x.device, dtype=wide.dtype)
    elif start.shape != x.shape:
        raise ValueError(
            f"start must have the shape of x, {tuple(x.shape)}; got {tuple(start.shape)}"
        )
    else:
        require_finite(start, "start")
    start = torch.empty_like(wide).copy_(start)  # in the memory format of x
    # A start of length zero has no direction; the diagonal stands in for it.
    direction = normalise(start, torch.full_like(wide, x[0].numel() ** -0.5))
    return epsilon.reshape(-1, *[1] * (x.ndim - 1)), direction


def climb(
    f: FixedNetwork[Tensor],
    x: Tensor,
    output: Tensor | None,
    direction: Tensor,
    *,
    xi: float,
    steps: int,
    output_distance: Distance | None,
    input_distance: Distance | None,
    clamp: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the unit vectors r_k."""
    if not steps:
        return direction
    with torch.enable_grad():
        if xi == 0:
            return _along_gradient(f, x, output, direction)
        x = x.detach()
        if output is None:
            output = f(x)
        require_output(output, x.shape[0])
        output = output.detach()
        for _ in range(steps):
            r = (xi * direction).requires_grad_()
            moved = move(x, r, clamp)
            other = at_least_float32(f(moved))
            rise = (output_distance or euclidean)(output, other)  # d_Y(f(x), f(x + xi r_i))
            require_numbers(rise, x.shape[0], "output_distance")
            if output.dtype == torch.float16:
                rise = _scaled_for_half(rise, other)
            if input_distance is not None:
                run = input_distance(x, moved)
                require_numbers(run, x.shape[0], "input_distance")
                rise = rise / run.clamp_min(torch.finfo(r.dtype).tiny)
            gradient = input_gradient(rise, r)
            require_finite(gradient, "the gradient of output_distance(f(x), f(x + r))")
            direction = normalise(gradient, direction)
    return direction


def move(x: Tensor, r: Tensor, clamp: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the point x + r in the domain, with the dtype of x."""
    return clamp(at_least_float32(x) + r).to(x.dtype)


def normalise(gradient: Tensor, fallback: Tensor) -> Tensor:
    """Scale each sample to unit length; where it is zero take the fallback."""
    axes = tuple(range(1, gradient.ndim))
    largest = gradient.abs().amax(dim=axes, keepdim=True)
    # Dividing by the largest entry first keeps the squares of tiny gradients from underflowing.
    scaled = gradient / largest.where(largest > 0, torch.ones_like(largest))
    length = scaled.square().sum(dim=axes, keepdim=True).sqrt()
    unit = scaled / length.where(length > 0, torch.ones_like(length))
    return torch.where(largest > 0, unit, fallback)


def clamp_to(domain: Domain | None, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the projection onto the domain, after checking that x lies inside."""
    if domain is None:
        return lambda point: point
    if not isinstance(domain, (tuple, list)) or len(domain) != 2:
        raise ValueError(f"domain must be (low, high); got {domain!r}")
    low, high = (torch.as_tensor(side, dtype=x.dtype, device=x.device) for side in domain)
    if readable(x) and not bool((low < high).all()):
        raise ValueError(f"domain must be (low, high) with low < high; got {domain}")
    if readable(x) and bool(((x < low) | (x > high)).any()):
        raise ValueError(
            f"x must lie inside the domain {domain};"
            f" got values from {x.min().item()} to {x.max().item()}"
        )
    low, high = at_least_float32(low), at_least_float32(high)
    return lambda point: point.clamp(low, high)


def _along_gradient(
    f: FixedNetwork[Tensor], x: Tensor, output: Tensor | None, direction: Tensor
) -> Tensor:
    """Return the limit of one step for xi to 0: the gradient at x, with the sign of its rise."""
    gradient = None
    if output is not None:
        require_output(output, x.shape[0], scalar=True)
        if output.requires_grad and x.requires_grad:
            gradient = _gradient_from_graph(output, x)
    if gradient is None:  # the output has no graph down to x, or none that can be kept
        x = x.detach().requires_grad_()
        output = f(x)
        require_output(output, x.shape[0], scalar=True)
        gradient = input_gradient(output, x)
    require_finite(gradient, "the gradient of f")
    unit = normalise(at_least_float32(gradient), direction)
    # |f(x) - f(x + xi r_0)| rises along the gradient if r_0 leans towards it, else against it.
    along = (unit * direction).sum(dim=tuple(range(1, x.ndim)), keepdim=True)
    return torch.where(along < 0, -unit, unit)


def _gradient_from_graph(output: Tensor, x: Tensor) -> Tensor | None:
    """Return the gradient of the sum of outputs and keep their graph; None where that fails."""
    try:
        (gradient,) = torch.autograd.grad(output.sum(), x, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        # Inductor reuses the buffers of a graph in its backward pass, and so refuses to keep it.
        if "donated buffers" not in str(error):
            raise
        return None
    return gradient


def _scaled_for_half(rise: Tensor, other: Tensor) -> Tensor:
    """Scale each sample's rise so that its gradient does not vanish on its way through float16."""
    (slope,) = torch.autograd.grad(rise.sum(), other, retain_graph=True)
    largest = slope.reshape(len(slope), -1).abs().amax(dim=1)
    return rise / largest.where(largest > 0, torch.ones_like(largest))


def _draw_radius(radius: Radius, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return one epsilon per sample, shape (n,)."""
    n = x.shape[0]
    if isinstance(radius, Tensor) and radius.ndim:
        if radius.shape != (n,) or (readable(x) and not bool((radius > 0).all())):
            raise ValueError(
                f"a radius per sample must be positive, of shape ({n},);"
                f" got shape {tuple(radius.shape)}, smallest {radius.min().item()}"
            )
        require_finite(radius, "radius")
        return radius.to(x)
    pair = radius if isinstance(radius, (tuple, list)) else (radius, radius)
    low, high = map(float, pair) if len(pair) == 2 else (0.0, 0.0)
    if not 0 < low <= high < float("inf"):
        raise ValueError(f"radius must be positive, or (low, high) with low <= high; got {radius}")
    share = torch.rand(n, generator=generator, device=x.device, dtype=x.dtype)
    return low + (high - low) * share
