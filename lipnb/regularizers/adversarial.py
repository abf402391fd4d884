"""Adversarial Lipschitz regularisation: the penalty on the slope towards r_adv."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lipnb.regularizers._network import FixedNetwork
from lipnb.regularizers.pairs import lipschitz_penalty
from lipnb.regularizers.penalty import Penalty
from lipnb.regularizers.perturbation import (
    Distance,
    Domain,
    Radius,
    clamp_to,
    climb,
    draw_start,
    move,
    require_search,
)

__all__ = ["adversarial_lipschitz_penalty"]


def adversarial_lipschitz_penalty(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    output: Tensor | None = None,
    fixed_output: bool = False,
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
        Network, (n, ...) to (n,) or (n, ...). If it is an `nn.Module`, its buffers are left as
        they were: running statistics change in the pass of the training loss only.
    x : Tensor
        Points, shape (n, ...). They are not differentiated.
    output : Tensor, optional
        f(x) with its graph, if the training loss has computed it already. Leave it out if f is
        random (dropout): all passes then use the same random numbers.
    fixed_output : bool
        Whether f(x) is held fixed, as virtual adversarial training does, so that f(x + r_adv) alone
        is differentiated.
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
        Loss (at least 0), slopes (n,) in float32 or wider, and the number of slopes above K. A
        sample whose perturbation the domain has shortened to nothing has slope 0.

    Raises
    ------
    ValueError, TypeError
        As `adversarial_perturbation`, or if `lipschitz_constant` or `reduction` is unusable.

    Notes
    -----
    Given f(x), the cost is k forward passes, k backward passes with respect to the input, and one
    forward pass whose parameters are differentiated. No second derivatives, so that f may be
    compiled, and nothing more is needed under `DistributedDataParallel`.

    With xi = 0 and f(x) computed from an x that requires a gradient (or left to this function), a
    single backward pass through the graph of f(x) gives the direction, and no other forward pass
    than those of f(x) and f(x + r_adv) is made. That graph is kept. A network compiled by torch's
    default backend refuses this, and the direction then costs two passes of its own.

    In training mode torch's spectral normalisation changes its estimate with every pass, and a
    given output was computed with another one than f(x + r_adv) will be; leave the output out, or
    compute it and the penalty inside one ``torch.nn.utils.parametrize.cached()``.

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
    require_search(f, x, xi, steps, output_distance, input_distance)
    clamp = clamp_to(domain, x)
    epsilon, direction = draw_start(x, radius, start, generator)
    network = FixedNetwork(f, x.device, generator)
    if output is None:
        x = x.detach().requires_grad_(xi == 0 and steps > 0)
        output = network(x)
    direction = climb(
        network,
        x,
        output,
        direction,
        xi=xi,
        steps=steps,
        output_distance=output_distance,
        input_distance=input_distance,
        clamp=clamp,
    )
    x = x.detach()
    return lipschitz_penalty(
        network,
        x,
        move(x, epsilon * direction, clamp),
        output=output.detach() if fixed_output else output,
        lipschitz_constant=lipschitz_constant,
        one_sided=one_sided,
        output_distance=output_distance,
        input_distance=input_distance,
        reduction=reduction,
    )
