"""Many small networks evaluated as one: stacked weights, one batched product per layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lipnb.models.stacked_nodes import EPSILON, StackedInputGradient, StackedNetwork

__all__ = ["StackedMLP"]


class StackedMLP(nn.Module):
    r"""Independent ReLU networks of one shape, trained side by side.

    Layer l of all M networks is one batched product :math:`Z = W_l H + b_l` with W_l of shape
    (M, out, in); optional batch normalisation sits before each activation.

    Parameters
    ----------
    widths : sequence of int
        Layer widths from input to output; the last must be 1.
    generators : sequence of torch.Generator
        One per network, from which its initial weights are drawn (the law of `nn.Linear`).
    batch_norm : bool
        Whether to normalise before each activation.
    dtype : torch.dtype
        Type of the weights.

    Raises
    ------
    ValueError
        If the widths or generators are unusable.

    Notes
    -----
    The whole network is one autograd node with a hand-written backward pass. It is first-order:
    use `input_gradient` for a gradient that can be differentiated again.

    Examples
    --------
    >>> stack = StackedMLP([2, 8, 1], [torch.Generator().manual_seed(s) for s in (0, 1, 2)])
    >>> stack(torch.zeros(3, 5, 2, dtype=torch.float64)).shape
    torch.Size([3, 5])
    """

    def __init__(
        self,
        widths: Sequence[int],
        generators: Sequence[torch.Generator],
        *,
        batch_norm: bool = False,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1 or widths[-1] != 1:
            raise ValueError(f"widths must be positive and end in 1; got {list(widths)}")
        if not generators:
            raise ValueError("generators must hold one generator per network; got none")
        self.widths = list(widths)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for n_in, n_out in pairwise(widths):
            bound = n_in**-0.5
            draws = [_uniform((n_out, n_in + 1), bound, g, dtype) for g in generators]
            both = torch.stack(draws)
            self.weights.append(nn.Parameter(both[..., :-1].contiguous()))
            self.biases.append(nn.Parameter(both[..., -1:].contiguous()))
        self.gains = nn.ParameterList()
        self.shifts = nn.ParameterList()
        self.means: list[Tensor] = []
        self.variances: list[Tensor] = []
        for index, width in enumerate(widths[1:-1] if batch_norm else []):
            size = (len(generators), width, 1)
            self.gains.append(nn.Parameter(torch.ones(size, dtype=dtype)))
            self.shifts.append(nn.Parameter(torch.zeros(size, dtype=dtype)))
            self.register_buffer(f"mean_{index}", torch.zeros(size, dtype=dtype))
            self.register_buffer(f"variance_{index}", torch.ones(size, dtype=dtype))

    @property
    def copies(self) -> int:
        """Number M of networks."""
        return int(self.weights[0].shape[0])

    def statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Return the running mean and variance of each normalisation."""
        return [
            (self.get_buffer(f"mean_{i}"), self.get_buffer(f"variance_{i}"))
            for i in range(len(self.gains))
        ]

    def forward(
        self, x: Tensor, weights: Sequence[Tensor] | None = None, *, update: bool = False
    ) -> Tensor:
        """Evaluate network m on its own points x[m].

        Parameters
        ----------
        x : Tensor
            Points, shape (M, n, in).
        weights : sequence of Tensor, optional
            Weights to use in place of the parameters (normalised ones, say).
        update : bool
            Whether this pass, in training mode, updates the running statistics.

        Returns
        -------
        Tensor
            Outputs, shape (M, n).
        """
        statistics = self.statistics()
        collected: list[tuple[Tensor, Tensor]] = []
        y = StackedNetwork.apply(
            x.mT.contiguous(),
            self.training,
            statistics,
            collected,
            len(self.weights),
            *(self.weights if weights is None else weights),
            *self.biases,
            *self.gains,
            *self.shifts,
        )
        if update and self.training:
            n = x.shape[1]
            with torch.no_grad():
                for (mean, variance), (new_mean, new_scale) in zip(
                    statistics, collected, strict=True
                ):
                    # Momentum 0.1 and the unbiased variance, as torch.nn.BatchNorm1d has them.
                    new_variance = (new_scale.pow(-2) - EPSILON) * n / (n - 1)
                    mean.lerp_(new_mean.view_as(mean), 0.1)
                    variance.lerp_(new_variance.view_as(variance), 0.1)
        return y.squeeze(1)

    def flat(self) -> Callable[[Tensor], Tensor]:
        """Return the stack as a function of one long batch, (M * n, in) to (M * n,)."""
        return lambda x: self(x.view(self.copies, -1, self.widths[0])).reshape(-1)

    def reference(self, x: Tensor, weights: Sequence[Tensor] | None = None) -> Tensor:
        """Evaluate as `forward` does, in differentiable torch operations (for higher orders)."""
        h = x.mT
        weights = list(self.weights if weights is None else weights)
        for layer, (weight, bias) in enumerate(zip(weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, weight, h)
            if layer == len(weights) - 1:
                return h.squeeze(1)
            if self.gains:
                mean, variance = self.statistics()[layer]
                flat = (1, -1, h.shape[-1])
                h = nn.functional.batch_norm(
                    h.reshape(flat),
                    None if self.training else mean.flatten(),
                    None if self.training else variance.flatten(),
                    self.gains[layer].flatten(),
                    self.shifts[layer].flatten(),
                    self.training,
                    eps=EPSILON,
                ).view(h.shape)
            h = h.relu()
        raise AssertionError("unreachable: the last layer returns")

    def input_gradient(
        self, x: Tensor, weights: Sequence[Tensor] | None = None, *, folded: bool = False
    ) -> Tensor:
        """Return the gradient of every network at its points, differentiable in the weights.

        Without batch normalisation a ReLU network is piecewise linear: its gradient is a product
        of weights with the rows that are switched off removed, and the derivative of that product
        is a second chain of products. With it, torch's double backward is used.

        Parameters
        ----------
        x : Tensor
            Points, shape (M, n, in).
        weights : sequence of Tensor, optional
            Weights to use in place of the parameters.
        folded : bool
            Whether to differentiate the network with its running statistics, as it is evaluated,
            rather than through the statistics of the batch.

        Returns
        -------
        Tensor
            Gradients, shape (M, n, in). Through batch statistics it is the gradient of the sum of
            the outputs, in which every sample moves every other.
        """
        if self.gains and not folded:
            x = x.detach().requires_grad_()
            y = self.reference(x, weights)
            (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            return gradient
        layers, biases = self.fold(weights)
        g: Tensor = StackedInputGradient.apply(x.mT.contiguous(), *layers, *biases)
        return g.mT

    def fold(self, weights: Sequence[Tensor] | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Write the normalisations, with their running statistics, into weights and biases.

        Parameters
        ----------
        weights : sequence of Tensor, optional
            Weights to use in place of the parameters.

        Returns
        -------
        weights, biases : list of Tensor
            Plain layers that compute what the stack computes in evaluation mode, differentiable in
            its parameters.
        """
        layers = list(self.weights if weights is None else weights)
        biases = list(self.biases)
        for i, (mean, variance) in enumerate(self.statistics()):
            scale = self.gains[i] / (variance + EPSILON).sqrt()
            layers[i] = scale * layers[i]
            biases[i] = scale * (biases[i] - mean) + self.shifts[i]
        return layers, biases


def _uniform(
    shape: tuple[int, ...], bound: float, generator: torch.Generator, dtype: torch.dtype
) -> Tensor:
    """Draw uniformly from [-bound, bound] in float64, so that the type does not change the draw."""
    draw = torch.rand(shape, generator=generator, dtype=torch.float64)
    return ((2 * draw - 1) * bound).to(dtype)
