"""Projection onto balls of the spectral norm, with norms tracked from step to step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from lipnb.constraints.convolution import read_convolution
from lipnb.constraints.projection import project_norm
from lipnb.distances import at_least_float32

__all__ = ["NormProjection"]

# Iterations before the first step; they come within about one percent of the norm.
FIRST_STEPS = 50

Map = Callable[[Tensor], Tensor]


class NormProjection:
    r"""Shrink the weights whose spectral norm is too large, at the cost of a few products.

    Each layer has a vector u that persists from call to call. A call runs, for the current W,

    .. math::
        v \leftarrow \frac{W^\top u}{\|W^\top u\|_2}, \qquad u \leftarrow \frac{W v}{\|W v\|_2},
        \qquad \sigma = u^\top W v, \qquad W \leftarrow \frac{W}{\max(1, \sigma / \lambda)} .

    `project_norm` computes every norm in full, which for wide layers and for convolutions costs
    more than the step of training that it follows. Here it is called once, at the start. From then
    on :math:`\sigma` follows the norm from below: closely where the weights move slowly, for then u
    has had many iterations, and only from afar where they jump. So the constraint holds roughly
    during training. Call `project_norm` once after it, and it holds.

    Parameters
    ----------
    module : nn.Module
        A dense layer, a `nn.Conv2d`, or a network, in which every layer of these two kinds is
        projected. Changed in place, at once and by each call.
    bound : float
        Radius lambda of the ball, positive.
    steps : int
        Power iterations per call, at least 1.
    input_size : (int, int), optional
        Height and width of the images that every convolution sees, as in `project_norm`.
    generator : torch.Generator, optional
        Source of the first vectors, on the CPU; torch's global one by default.

    Attributes
    ----------
    vectors : list of Tensor
        The vector u of each layer, of the shape of its output (one sample). To resume a training,
        save these tensors and put them back.

    Raises
    ------
    TypeError
        As `project_norm`.
    ValueError
        As `project_norm`, or if `steps` is below 1; and by a call, if a weight is no longer finite.

    References
    ----------
    Gouk et al. (2021), whose code starts from a fresh vector each time; Miyato et al. (2018) for
    vectors that persist.

    Examples
    --------
    >>> layer = nn.Linear(3, 4)
    >>> projection = NormProjection(layer, bound=0.5)
    >>> for _ in range(50):
    ...     _ = layer.weight.data.add_(0.01)
    ...     projection()
    >>> 0.49 < torch.linalg.matrix_norm(layer.weight, 2).item() < 0.505
    True
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        bound: float = 1.0,
        steps: int = 1,
        input_size: tuple[int, int] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be an integer of at least 1; got {steps!r}")
        project_norm(module, 2, bound=bound, input_size=input_size)  # refuses what it cannot do
        self.bound, self.steps, self.input_size = bound, steps, input_size
        self.layers = [
            layer for layer in module.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))
        ]
        self.vectors = [self._start(layer, generator) for layer in self.layers]

    @torch.no_grad()
    def __call__(self) -> None:
        """Project; call it after each step of the optimiser."""
        # All norms before the first change: an error leaves the network as it was.
        found = [
            self._iterate(layer, u, self.steps)
            for layer, u in zip(self.layers, self.vectors, strict=True)
        ]
        for sigma, _ in found:
            if not bool(torch.isfinite(sigma)):
                raise ValueError("weights must be finite; got NaN or infinity")
        for i, (sigma, u) in enumerate(found):
            if sigma > 0:  # a weight of zeros would turn u into zeros for good
                self.vectors[i] = u
            if sigma > self.bound:
                self.layers[i].weight.mul_(self.bound / sigma)

    @torch.no_grad()
    def _start(self, layer: nn.Linear | nn.Conv2d, generator: torch.Generator | None) -> Tensor:
        """Draw u, and bring it near to the leading vector."""
        weight = layer.weight
        shape: tuple[int, ...] = (len(weight),)
        if isinstance(layer, nn.Conv2d):
            shape = (1, *shape, *read_convolution(layer, self.input_size).output_size(weight))
        dtype = at_least_float32(weight[:0]).dtype
        u = _unit(torch.randn(shape, generator=generator, dtype=dtype).to(weight.device))
        sigma, leading = self._iterate(layer, u, FIRST_STEPS)
        return leading if sigma > 0 else u

    def _iterate(
        self, layer: nn.Linear | nn.Conv2d, u: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        """Run power iterations; return the estimate, for convolutions with its margin, and u."""
        weight = at_least_float32(layer.weight)
        apply: Map
        adjoint: Map
        if isinstance(layer, nn.Conv2d):
            map_ = read_convolution(layer, self.input_size)
            apply, adjoint = partial(map_.apply, weight), partial(map_.adjoint, weight)
            margin = map_.margin
        else:
            apply, adjoint, margin = partial(torch.mv, weight), partial(torch.mv, weight.T), 1.0
        for _ in range(steps):
            v = _unit(adjoint(u))
            u = _unit(apply(v))
        return margin * (u * apply(v)).sum(), u


def _unit(x: Tensor) -> Tensor:
    """Scale to length 1; zeros stay zeros."""
    length = torch.linalg.vector_norm(x)
    return x / length if length > 0 else x
