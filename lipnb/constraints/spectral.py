"""Spectral normalisation of dense layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipnb.constraints._precision import without_autocast
from lipnb.distances import at_least_float32

__all__ = ["power_iteration", "spectral_norm"]


def power_iteration(weight: Tensor, u: Tensor, *, steps: int = 1) -> tuple[Tensor, Tensor]:
    r"""Estimate the largest singular value of one matrix, or of each in a stack.

    .. math::
        v = \frac{W^\top u}{\|W^\top u\|_2}, \qquad u = \frac{W v}{\|W v\|_2}, \qquad
        \sigma = u^\top W v .

    Parameters
    ----------
    weight : Tensor
        Matrices, shape (..., out, in).
    u : Tensor
        Current left vectors, shape (..., out).
    steps : int
        Number of iterations, at least 1.

    Returns
    -------
    sigma : Tensor
        Estimates, shape (...), at most the true value; differentiable in `weight`.
    u : Tensor
        The new left vectors, detached.

    Raises
    ------
    ValueError
        If the shapes do not fit or `steps` is below 1.

    References
    ----------
    Miyato et al. (2018), Algorithm 1.

    Examples
    --------
    >>> sigma, u = power_iteration(torch.diag(torch.tensor([3.0, 1.0])), torch.ones(2), steps=20)
    >>> round(sigma.item(), 4)
    3.0
    """
    if weight.ndim < 2 or u.shape != weight.shape[:-1]:
        raise ValueError(
            f"u must have shape {tuple(weight.shape[:-1])} for weight of shape"
            f" {tuple(weight.shape)}; got {tuple(u.shape)}"
        )
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    with torch.no_grad():
        for _ in range(steps):
            v = nn.functional.normalize((weight.mT @ u.unsqueeze(-1)).squeeze(-1), dim=-1)
            u = nn.functional.normalize((weight @ v.unsqueeze(-1)).squeeze(-1), dim=-1)
    sigma = (u.unsqueeze(-2) @ weight @ v.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    return sigma, u


class _SpectralNorm(nn.Module):
    """Parametrization W -> W / sigma(W): estimated while training, exact in evaluation."""

    u: Tensor

    def __init__(self, weight: Tensor, steps: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.steps = steps
        u = torch.randn(weight.shape[0], generator=generator, dtype=weight.dtype)
        u = u.to(weight.device)
        # A start near the leading vector, so that the first training steps are constrained too.
        self.register_buffer("u", power_iteration(weight.detach(), u, steps=15)[1])

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normalised weight."""
        sigma = self._norm(at_least_float32(weight))
        return weight / sigma.clamp_min(torch.finfo(sigma.dtype).tiny)

    @without_autocast
    def _norm(self, weight: Tensor) -> Tensor:
        """Return the norm, in float32 or wider: for half precision has no singular values."""
        if not self.training:
            return torch.linalg.matrix_norm(weight, 2)
        sigma, u = power_iteration(weight, self.u.to(weight.dtype, copy=True), steps=self.steps)
        self.u.copy_(u)
        return sigma


def spectral_norm(
    layer: nn.Linear, *, steps: int = 1, generator: torch.Generator | None = None
) -> nn.Linear:
    r"""Constrain a dense layer to be 1-Lipschitz in the Euclidean norm.

    .. math:: \bar W = W / \sigma_1(W)

    Each evaluation in training mode runs `steps` power iterations from a vector that persists, so
    the constraint holds approximately. In evaluation mode the singular value is computed exactly.

    Parameters
    ----------
    layer : nn.Linear
        Layer, changed in place.
    steps : int
        Power iterations per evaluation in training mode.
    generator : torch.Generator, optional
        Source of the first vector, on the CPU; torch's global one by default.

    Returns
    -------
    nn.Linear
        The same layer; its `weight` is now computed from `parametrizations.weight.original`.

    Raises
    ------
    TypeError
        If the layer is not dense: the norm of a convolution is not that of its reshaped kernel.
    ValueError
        If `steps` is below 1 or the weight is zero or not finite.

    References
    ----------
    Miyato et al. (2018), equation (8).

    Examples
    --------
    >>> layer = spectral_norm(nn.Linear(3, 4)).eval()
    >>> round(torch.linalg.matrix_norm(layer.weight, 2).item(), 5)
    1.0
    """
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"layer must be nn.Linear; got {type(layer).__name__}")
    size = float(layer.weight.detach().abs().max())
    if not 0 < size < float("inf"):
        raise ValueError(f"weight must be finite and not all zero; got largest entry {size}")
    parametrize.register_parametrization(
        layer, "weight", _SpectralNorm(layer.weight.detach(), steps, generator)
    )
    return layer
