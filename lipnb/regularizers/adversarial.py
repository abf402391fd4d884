"""Adversarial Lipschitz regularisation: the perturbation r_adv and the penalty on its slope."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from lipnb.distances import euclidean
from lipnb.regularizers.pairs import lipschitz_penalty
from lipnb.regularizers.penalty import Penalty, require_batch, require_finite, require_output

__all__ = ["adversarial_lipschitz_penalty", "adversarial_perturbation"]

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
        f(x), if the caller has it already. It is not differentiated through.
    radius : float, (float, float) or Tensor
        Length epsilon of the perturbation in the units of x: one number, an interval from which
        each sample draws its own uniformly, or one number per sample, shape (n,).
    xi : float
        Distance at which the gradient is taken, in the units of x.
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
        Directions to start from, in place of random ones; of the shape of x, any length but 0.
    generator : torch.Generator, optional
        Source of all randomness, on the device of x. If given, the global generators are left as
        they were, even if f draws from them (dropout).

    Returns
    -------
    Tensor
        r_adv with the shape and dtype of x, detached.

    Raises
    ------
    ValueError
        If a shape, the radius, xi, the number of steps or the domain is unusable, if x is not
        finite or lies outside the domain, or if the gradient of the distance is not finite.
    TypeError
        If x is not a floating-point tensor.

    Notes
    -----
    Only first derivatives are taken. With one output and the default distance a step returns
    plus or minus the normalised gradient of f at a random point at distance xi. The length
    comes out as epsilon up to rounding also for an interval of zero width.

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
    require_batch(x)
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps must be an integer of at least 0; got {steps!r}")
    if not 0 < xi < float("inf"):
        raise ValueError(f"xi must be positive and finite; got {xi}")
    x = x.detach()
    clamp = _clamp_to(domain, x)
    epsilon = _draw_radius(radius, x, generator)
    if start is None:
        start = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    elif start.shape != x.shape:
        raise ValueError(
            f"start must have the shape of x, {tuple(x.shape)}; got {tuple(start.shape)}"
        )
    # A start of length zero has no direction; the diagonal stands in for it.
    direction = _normalise(start.to(x), torch.full_like(x, x[0].numel() ** -0.5))
    if steps:
        distance = output_distance or euclidean
        with _unchanged(f, x.device, generator), torch.enable_grad():
            if output is None:
                with torch.no_grad():
                    output = f(x)
            require_output(output, x.shape[0])
            output = output.detach()
            for _ in range(steps):
                r = (xi * direction).requires_grad_()
                moved = clamp(x + r)
                rise = distance(output, f(moved))  # d_Y(f(x), f(x + xi r_i))
                if input_distance is not None:
                    rise = rise / input_distance(x, moved).clamp_min(torch.finfo(x.dtype).tiny)
                (gradient,) = torch.autograd.grad(rise.sum(), r)
                require_finite(gradient, "the gradient of output_distance(f(x), f(x + r))")
                direction = _normalise(gradient, direction)
    r = epsilon.reshape(-1, *[1] * (x.ndim - 1)) * direction
    return r if domain is None else clamp(x + r) - x


def adversarial_lipschitz_penalty(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    output: Tensor | None = None,
    lipschitz_constant: float = 1.0,
    radius: Radius = (0.1, 10.0),
    xi: float = 10.0,
    steps: int = 1,
    output_distance: Distance | None = None,
    input_distance: Distance | None = None,
    domain: Domain | None = None,
    one_sided: bool = True,
    reduction: str = "mean_square",
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Penalty:
    r"""Penalise the slope of f towards its adversarial perturbation.

    .. math::
        s_i = \frac{d_Y(f(x_i), f(x_i + r_{adv}))}{d_X(x_i, x_i + r_{adv})}, \qquad
        \mathcal L = \frac1n \sum_i (s_i - K)_+^2 .

    Parameters
    ----------
    f : callable
        Network, (n, ...) to (n,) or (n, ...).
    x : Tensor
        Points, shape (n, ...).
    output : Tensor, optional
        f(x) with its graph, if the training loss has computed it already. Pass it detached to
        keep f(x) fixed, as virtual adversarial training does.
    lipschitz_constant : float
        Target K, at least 0.
    radius, xi, steps, output_distance, input_distance, domain, start, generator
        As in `adversarial_perturbation`. The quotient uses `input_distance` too, by default the
        Euclidean distance, from x to the point that was really evaluated (after the clamp).
    one_sided : bool
        Whether slopes below K are free.
    reduction : {"mean_square", "mean", "mean_both"}
        Which function of the excess is averaged.

    Returns
    -------
    Penalty
        Loss (at least 0), slopes (n,) and the number of slopes above K. A sample whose
        perturbation the domain has shortened to nothing has slope 0.

    Raises
    ------
    ValueError, TypeError
        As `adversarial_perturbation`, or if `lipschitz_constant` or `reduction` is unusable.

    Notes
    -----
    Given f(x), the cost is k forward passes, k backward passes with respect to the input, and one
    forward pass whose parameters are differentiated. No second derivatives.

    References
    ----------
    Terjek (2020), equations (15), (17) and, for ``one_sided=False``, (19).

    Examples
    --------
    >>> a = torch.tensor([3.0, 4.0])
    >>> penalty = adversarial_lipschitz_penalty(lambda x: x @ a, torch.zeros(5, 2))
    >>> round(penalty.loss.item(), 3), penalty.violations.item()
    (16.0, 5)
    """
    require_batch(x)
    if output is None:
        output = f(x)
    require_output(output, x.shape[0])
    r = adversarial_perturbation(
        f,
        x,
        output=output,
        radius=radius,
        xi=xi,
        steps=steps,
        output_distance=output_distance,
        input_distance=input_distance,
        domain=domain,
        start=start,
        generator=generator,
    )
    return lipschitz_penalty(
        f,
        x.detach(),
        _clamp_to(domain, x)(x.detach() + r),
        output=output,
        lipschitz_constant=lipschitz_constant,
        one_sided=one_sided,
        output_distance=output_distance,
        input_distance=input_distance,
        reduction=reduction,
    )


def _normalise(gradient: Tensor, fallback: Tensor) -> Tensor:
    """Scale each sample to unit length; where it is zero take the fallback."""
    flat = gradient.flatten(1)
    largest = flat.abs().amax(dim=1, keepdim=True)
    # Dividing by the largest entry first keeps the squares of tiny gradients from underflowing.
    scaled = flat / largest.where(largest > 0, torch.ones_like(largest))
    length = scaled.square().sum(dim=1, keepdim=True).sqrt()
    unit = scaled / length.where(length > 0, torch.ones_like(length))
    return torch.where(largest > 0, unit, fallback.flatten(1)).reshape(gradient.shape)


def _draw_radius(radius: Radius, x: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return one epsilon per sample, shape (n,)."""
    n = x.shape[0]
    if isinstance(radius, Tensor) and radius.ndim:
        if radius.shape != (n,) or not bool((radius > 0).all()):
            raise ValueError(
                f"a radius per sample must be positive, of shape ({n},);"
                f" got shape {tuple(radius.shape)}, smallest {radius.min().item()}"
            )
        require_finite(radius, "radius")
        return radius.to(x)
    low, high = radius if isinstance(radius, (tuple, list)) else (radius, radius)
    low, high = float(low), float(high)
    if not 0 < low <= high < float("inf"):
        raise ValueError(f"radius must be positive, or (low, high) with low <= high; got {radius}")
    share = torch.rand(n, generator=generator, device=x.device, dtype=x.dtype)
    return low + (high - low) * share


def _clamp_to(domain: Domain | None, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the projection onto the domain, after checking that x lies inside."""
    if domain is None:
        return lambda point: point
    low, high = (torch.as_tensor(side, dtype=x.dtype, device=x.device) for side in domain)
    if bool((low >= high).any()):
        raise ValueError(f"domain must be (low, high) with low < high; got {domain}")
    if bool(((x < low) | (x > high)).any()):
        raise ValueError(
            f"x must lie inside the domain {domain};"
            f" got values from {x.min().item()} to {x.max().item()}"
        )
    return lambda point: point.clamp(low, high)


@contextlib.contextmanager
def _unchanged(
    f: Callable[[Tensor], Tensor], device: torch.device, generator: torch.Generator | None
) -> Iterator[None]:
    """Put buffers and, with a generator, the global random state back after the search."""
    buffers = list(f.buffers()) if isinstance(f, nn.Module) else []
    before = [(buffer, buffer.clone()) for buffer in buffers]
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices, enabled=generator is not None):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                # Through .data, since a graph may have saved the buffer: it gets back the very
                # value that the graph saw, and must not be told of a change.
                buffer.data.copy_(value)
