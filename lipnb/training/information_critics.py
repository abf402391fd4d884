"""Critics on pairs (x, y), many of one shape as one: joint or separable, with a Gaussian start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipnb.constraints import power_iteration
from lipnb.constraints.orthogonal_maps import BjorckMap, CayleyMap

__all__ = ["InformationCritic", "StackedLinear", "gaussian_start", "stack_networks"]


class StackedLinear(nn.Module):
    r"""Linear layers of M networks, each applied to its own block of one long batch.

    Parameters
    ----------
    weight : Tensor
        Shape (M, out, in).
    bias : Tensor
        Shape (M, out).

    Examples
    --------
    >>> layer = StackedLinear(torch.ones(2, 1, 3), torch.tensor([[0.0], [1.0]]))
    >>> layer(torch.ones(4, 3)).flatten().tolist()  # two rows for each of two networks
    [3.0, 3.0, 4.0, 4.0]
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Map (M * n, in) to (M * n, out)."""
        weight = self.weight
        blocks = x.view(len(weight), -1, weight.shape[2])
        return torch.baddbmm(self.bias.unsqueeze(1), blocks, weight.mT).flatten(0, 1)


class _StackedSpectral(nn.Module):
    """Parametrization W -> W / sigma(W) of each matrix of a stack."""

    u: Tensor

    def __init__(self, u: Tensor) -> None:
        super().__init__()
        self.register_buffer("u", u)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the normalised weights: estimated while training, exact in evaluation."""
        if self.training:
            sigma, u = power_iteration(weight, self.u.clone())
            self.u.copy_(u)
        else:
            sigma = torch.linalg.matrix_norm(weight, 2)
        return weight / sigma.clamp_min(torch.finfo(weight.dtype).tiny)[:, None, None]


def stack_networks(networks: Sequence[nn.Sequential]) -> nn.Sequential:
    """Make one network of M networks of one shape, for long batches of M equal blocks.

    Parameters
    ----------
    networks : sequence of nn.Sequential
        Linear layers, plain or constrained by `spectral_norm` or `orthogonal`, and activations
        that treat each row alone.

    Returns
    -------
    nn.Sequential
        Maps (M * n, in) to (M * n, out): block m of n rows through a copy of network m. Its
        parameters have a leading axis M, so that their gradients do not mix.

    Raises
    ------
    ValueError
        If the networks differ in shape, or hold a layer that cannot be stacked.

    Examples
    --------
    >>> from lipnb.models import mlp
    >>> stack_networks([mlp([2, 4, 1]), mlp([2, 4, 1])])(torch.zeros(6, 2)).shape
    torch.Size([6, 1])
    """
    if not networks or len({len(network) for network in networks}) != 1:
        raise ValueError("networks must be one or more, of equal length")
    layers: list[nn.Module] = []
    for group in zip(*networks, strict=True):
        first = group[0]
        if isinstance(first, nn.Linear):
            layers.append(_stack_linear([layer for layer in group if isinstance(layer, nn.Linear)]))
        elif any(True for _ in first.parameters()) or isinstance(first, nn.Dropout):
            raise ValueError(f"cannot stack {type(first).__name__}: train such networks alone")
        else:
            layers.append(first)
    return nn.Sequential(*layers)


def _stack_linear(group: list[nn.Linear]) -> StackedLinear:
    """Stack one layer of each network, with its constraint."""
    shapes = {(layer.out_features, layer.in_features) for layer in group}
    if len(shapes) != 1:
        raise ValueError(f"networks must have one shape; got layers of shapes {sorted(shapes)}")
    biases = torch.stack([layer.bias.detach() for layer in group])
    if not parametrize.is_parametrized(group[0], "weight"):
        return StackedLinear(torch.stack([layer.weight.detach() for layer in group]), biases)
    maps: list[Any] = [layer.get_submodule("parametrizations.weight.0") for layer in group]
    if isinstance(maps[0], CayleyMap):  # the constrained weight becomes the base point
        parts = [layer.weight.detach() for layer in group]
    else:  # reading the constrained weight would move the vectors of a power iteration
        parts = [layer.get_parameter("parametrizations.weight.original") for layer in group]
    weights = torch.stack([part.detach() for part in parts])
    stacked = StackedLinear(weights, biases)
    if isinstance(maps[0], CayleyMap):
        new: nn.Module = CayleyMap(weights)
    elif isinstance(maps[0], BjorckMap):
        new = BjorckMap(weights)
    elif isinstance(getattr(maps[0], "u", None), Tensor):
        new = _StackedSpectral(torch.stack([map_.u for map_ in maps]))
    else:
        raise ValueError(f"cannot stack the constraint {type(maps[0]).__name__}")
    stacked.eval()  # the registration calls the map: in this mode it moves no vector
    parametrize.register_parametrization(stacked, "weight", new)
    stacked.train()
    return stacked


class InformationCritic(nn.Module):
    r"""Critics f_m of M estimators, evaluated as one.

    .. math:: f_m(x, y) = \lambda_m\, g_m(x, y) + s_m(x, y)

    with a network g and a start s: the logarithm of the density ratio of a Gaussian fit, or 0. A
    joint g reads (x, y) as one vector. A separable one is
    :math:`\langle a(x), b(y)\rangle + a_0(x) + b_0(y)`, which costs n evaluations for n^2 pairs.

    Parameters
    ----------
    networks : sequence of nn.Module
        One network (joint), or two (separable: of x, and of y), each a stack of M, or, for M = 1,
        any module from (n, in) to (n, out).
    copies : int
        Number M of critics.
    x_dimension : int
        Number of coordinates of x.
    scale : Tensor, optional
        The factors lambda, shape (M,); 1 where not given.
    start : (Tensor, Tensor, Tensor), optional
        As `gaussian_start` returns it, each with a leading axis M.
    """

    scale: Tensor
    u: Tensor
    v: Tensor
    rho: Tensor

    def __init__(
        self,
        networks: Sequence[nn.Module],
        copies: int,
        x_dimension: int,
        *,
        scale: Tensor | None = None,
        start: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.copies, self.x_dimension = copies, x_dimension
        self.register_buffer("scale", torch.ones(copies) if scale is None else scale)
        self.started = start is not None
        if start is not None:
            for name, part in zip(("u", "v", "rho"), start, strict=True):
                self.register_buffer(name, part)

    def raw(self, z: Tensor) -> Tensor:
        """Return g at rows (x, y), (M * n, d) to (M * n, 1)."""
        if len(self.networks) == 1:
            return self.networks[0](z)
        x, y = z[:, : self.x_dimension], z[:, self.x_dimension :]
        a, b = self.networks[0](x), self.networks[1](y)
        return ((a[:, 1:] * b[:, 1:]).sum(1) + a[:, 0] + b[:, 0]).unsqueeze(1)

    def forward(self, z: Tensor) -> Tensor:
        """Return f at rows (x, y), (M * n, d) to (M * n, 1)."""
        return self.complete(self.raw(z), z)

    def complete(self, g: Tensor, z: Tensor) -> Tensor:
        """Return f, given g: (M * n, 1) at rows (M * n, d)."""
        f = self.scale[:, None] * g.view(self.copies, -1)
        if self.started:
            rows = z.view(self.copies, -1, z.shape[1])
            s = rows[..., : self.x_dimension] @ self.u
            t = rows[..., self.x_dimension :] @ self.v
            f = f + _log_ratio(s, t, self.rho.unsqueeze(1)).sum(-1)
        return f.view(-1, 1)

    def pairs(self, x: Tensor, y: Tensor, partners: Tensor) -> Tensor:
        """Score x_i with each of its partners y_j.

        Parameters
        ----------
        x, y : Tensor
            Shapes (M, n, d_x) and (M, n, d_y).
        partners : Tensor
            Indices j, shape (M, S, n).

        Returns
        -------
        Tensor
            f(x_i, y_j), shape (M, S, n).
        """
        copies, count, n = partners.shape
        index = torch.arange(copies)[:, None, None]
        if len(self.networks) == 1:
            z = torch.cat([x[:, None].expand(-1, count, -1, -1), y[index, partners]], dim=-1)
            return self(z.flatten(0, 2)).view(copies, count, n)
        a = self.networks[0](x.flatten(0, 1)).view(copies, 1, n, -1)
        b = self.networks[1](y.flatten(0, 1)).view(copies, n, -1)[index, partners]
        f = self.scale[:, None, None] * ((a * b)[..., 1:].sum(-1) + a[..., 0] + b[..., 0])
        if self.started:
            s, t = (x @ self.u)[:, None], (y @ self.v)[index, partners]
            f = f + _log_ratio(s, t, self.rho[:, None, None]).sum(-1)
        return f

    def member(self, index: int) -> InformationCritic:
        """Return critic `index` of the stack alone, with plain weights."""
        if self.copies == 1:
            return self
        start = (self.u, self.v, self.rho) if self.started else None
        return InformationCritic(
            [_alone(network, index) for network in self.networks],
            1,
            self.x_dimension,
            scale=self.scale[index : index + 1],
            start=tuple(p[index : index + 1] for p in start) if start else None,  # type: ignore[arg-type]
        ).eval()


def _alone(stack: nn.Module, index: int) -> nn.Sequential:
    """Copy one network of a stack."""
    layers: list[nn.Module] = []
    for layer in stack.children():
        if isinstance(layer, StackedLinear):
            weight, bias = layer.weight.detach()[index], layer.bias.detach()[index]
            alone = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
            alone.weight, alone.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
            layers.append(alone)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def _log_ratio(s: Tensor, t: Tensor, rho: Tensor) -> Tensor:
    """Logarithm of the density of a normal pair with correlation rho over that with 0."""
    square = rho * rho
    quadratic = (rho * s * t - square * (s * s + t * t) / 2) / (1 - square)
    return quadratic - torch.log1p(-square) / 2


def gaussian_start(x: Tensor, y: Tensor, *, cautious: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    r"""Fit a normal law and write the logarithm of its density ratio in canonical coordinates.

    .. math::
        s(x, y) = \sum_k \log \frac{p_{\rho_k}(u_k^\top x, v_k^\top y)}
                                  {p_0(u_k^\top x, v_k^\top y)}

    with the canonical correlations rho_k and the density p_rho of a normal pair. Correlations that
    independent vectors would show by chance alone are dropped: those below the edge
    :math:`\sqrt{a (1 - b)} + \sqrt{b (1 - a)}`, a = d_x / n and b = d_y / n, of their limiting law.

    Parameters
    ----------
    x, y : Tensor
        Shapes (n, d_x) and (n, d_y), centred.
    cautious : bool
        Whether to drop correlations below the edge.

    Returns
    -------
    u, v, rho : Tensor
        Shapes (d_x, k), (d_y, k) and (k,), k = min(d_x, d_y); 0 where a correlation is dropped.

    References
    ----------
    Wachter (1980) for the edge.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(1000, 2, generator=g)
    >>> _, _, rho = gaussian_start(x, x[:, :1] + torch.randn(1000, 1, generator=g))
    >>> rho.shape, abs(rho[0].item() - 0.5**0.5) < 0.05
    (torch.Size([1]), True)
    """
    n = len(x)
    whiten_x, whiten_y = _whitening(x), _whitening(y)
    cross = whiten_x.T @ (x.T @ y / n) @ whiten_y
    left, rho, right = torch.linalg.svd(cross, full_matrices=False)
    a, b = min(1.0, x.shape[1] / n), min(1.0, y.shape[1] / n)
    edge = math.sqrt(a * (1 - b)) + math.sqrt(b * (1 - a)) if a + b < 1 else 1.0
    rho = torch.where(rho > (EDGE_MARGIN * edge if cautious else 0.0), rho, 0.0)
    # A correlation of 1 has no density.
    return whiten_x @ left, whiten_y @ right.T, rho.clamp_max(LARGEST_CORRELATION)


EDGE_MARGIN = 1.1  # the edge is a limit; at finite n the largest correlation scatters about it
LARGEST_CORRELATION = 0.9999


def _whitening(x: Tensor) -> Tensor:
    """Matrix that makes the covariance of x the identity; 0 in directions without variance."""
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    usable = values > 1e-8 * values[-1].clamp_min(1e-30)
    return vectors * torch.where(usable, values.clamp_min(1e-30).rsqrt(), 0.0)
