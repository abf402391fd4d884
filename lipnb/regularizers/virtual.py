"""Virtual adversarial training, as a case of adversarial Lipschitz regularisation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lipnb.distances import at_least_float32, kullback_leibler, trivial
from lipnb.regularizers._network import FixedNetwork
from lipnb.regularizers.adversarial import adversarial_lipschitz_penalty
from lipnb.regularizers.penalty import Penalty, require_batch, require_output
from lipnb.regularizers.perturbation import Distance, Domain, Radius

__all__ = ["virtual_adversarial_loss"]


def virtual_adversarial_loss(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    output: Tensor | None = None,
    radius: Radius = 8.0,
    xi: float = 1e-2,
    steps: int = 1,
    divergence: Distance = kullback_leibler,
    entropy_weight: float = 0.0,
    domain: Domain | None = None,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Penalty:
    r"""Penalise how much a classifier's answer changes under its virtual adversarial perturbation.

    .. math::
        \mathcal L = \frac1n \sum_i D\bigl(p(\cdot \mid x_i), p(\cdot \mid x_i + r_{vadv})\bigr)
        + w\, \frac1n \sum_i H\bigl(p(\cdot \mid x_i)\bigr), \qquad
        p(\cdot \mid x) = \mathrm{softmax}\, f(x),

    where the first :math:`p(\cdot \mid x_i)` is held fixed, and :math:`r_{vadv}` is the
    perturbation of `adversarial_perturbation` for :math:`d_Y = D`.

    Parameters
    ----------
    f : callable
        Network, (n, ...) to logits (n, classes). If it is an `nn.Module`, its buffers are left as
        they were: running statistics change in the pass of the training loss only.
    x : Tensor
        Points, shape (n, ...), labelled or not.
    output : Tensor, optional
        f(x), if the caller has it already; with its graph if the entropy is to be minimised. Leave
        it out if f is random (dropout): all passes then use the same random numbers.
    radius, steps, domain, start, generator
        As in `adversarial_perturbation`. The radius has the units of x; the sources have 8, on
        whitened images.
    xi : float
        Distance at which the gradient is taken, positive. The authors' code has 1e-6, where in
        float32 the change of f is mostly rounding.
    divergence : callable
        D(y, z) of two batches of logits, shape (n,): `kullback_leibler`, `jensen_shannon`,
        `hellinger` or `mean_squared` from `lipnb.distances`.
    entropy_weight : float
        w, at least 0; 1 is the sources' entropy minimisation.

    Returns
    -------
    Penalty
        Loss (at least 0), divergences (n,) as its slopes, and the number of samples whose
        divergence is not 0.

    Raises
    ------
    ValueError
        As `adversarial_perturbation`, or if the entropy weight is negative or not finite, xi is
        not positive, or f does not return logits.
    TypeError
        If x is not a floating-point tensor.

    Notes
    -----
    It is `adversarial_lipschitz_penalty` with d_Y = D, d_X = 1, K = 0, f(x) held fixed, and the
    plain mean of the slopes.

    References
    ----------
    Miyato et al. (2019); Terjek (2020), equations (10) and (11) and appendix A.2; Grandvalet and
    Bengio (2004) for the entropy.

    Examples
    --------
    >>> f = lambda x: torch.stack([x.sum(1), -x.sum(1)], 1)  # p depends on x_1 + x_2 alone
    >>> penalty = virtual_adversarial_loss(f, torch.zeros(4, 2), radius=2.0)
    >>> penalty.slopes  # log cosh(2 sqrt(2))
    tensor([2.1388, 2.1388, 2.1388, 2.1388])
    """
    require_batch(x)
    if not 0 <= entropy_weight < float("inf"):
        raise ValueError(f"entropy_weight must be finite and at least 0; got {entropy_weight}")
    if entropy_weight and output is None:
        f = FixedNetwork(f, x.device, generator)
        output = f(x.detach())
    penalty = adversarial_lipschitz_penalty(
        f,
        x,
        output=output,
        fixed_output=True,
        lipschitz_constant=0.0,
        radius=radius,
        xi=xi,
        steps=steps,
        output_distance=divergence,
        input_distance=trivial,
        domain=domain,
        reduction="mean",
        start=start,
        generator=generator,
    )
    if output is None or not entropy_weight:
        return penalty
    require_output(output, x.shape[0])
    return penalty._replace(loss=penalty.loss + entropy_weight * _entropy(output).mean())


def _entropy(logits: Tensor) -> Tensor:
    """Return the entropy of each softmax in nats, shape (n,)."""
    log_p = at_least_float32(logits).log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)
