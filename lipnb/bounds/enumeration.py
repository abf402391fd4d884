"""The exact Lipschitz constant of a small ReLU network: visit every linear region."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import comb, prod
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lipnb.bounds._arguments import read_scaled
from lipnb.bounds.network import (
    Affine,
    check_norm,
    input_dimension,
    operator_norm,
    read_box,
    read_layers,
)
from lipnb.bounds.polyhedra import inner_balls, inner_radius
from lipnb.bounds.result import Bound, Box

__all__ = ["Region", "enumerate_regions", "linear_regions"]

Array = NDArray[np.float64]
MAX_UNITS = 20  # hidden units
MAX_REGIONS = 200_000  # a priori bound on their number: some minutes of linear programs


@dataclass(frozen=True, eq=False)
class Region:
    """A full-dimensional set {x : normals @ x + offsets >= 0} on which f(x) = weight @ x + bias.

    Parameters
    ----------
    gates : tuple of bool
        Which hidden units are on, in the order of the network.
    weight, bias : ndarray of shapes (n_out, n_in) and (n_out,)
        Jacobian J_a and offset of the affine piece.
    point, margin : ndarray of shape (n_in,) and float
        The ball of radius `margin` about `point` lies in the region.
    normals, offsets : ndarray of shapes (k, n_in) and (k,)
        Its half-spaces, of which some may be redundant; each normal has length 1.
    """

    gates: tuple[bool, ...]
    weight: Array
    bias: Array
    point: Array
    margin: float
    normals: Array
    offsets: Array


def linear_regions(
    network: nn.Sequential,
    *,
    domain: tuple[Any, Any] | None = None,
    margin: float | None = None,
    max_units: int = MAX_UNITS,
) -> list[Region]:
    r"""List the linear regions of a ReLU network that have an interior.

    The input space is cut by the hyperplanes of one hidden unit after the other. A side of a cut
    is kept if the largest ball in it has a radius above `margin`:

    .. math::
        \max_{x, t} \; t \quad\text{s.t.}\quad s_i (a_i \cdot x + c_i) \ge t \|a_i\|_2, \; t \le 1

    Closed cells without interior are kinks. There the gates take values that they have on no open
    set, and the Jacobian formed with these gates is the slope of nothing.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included) and `ReLU`.
    domain : (low, high), optional
        Only regions that meet the interior of this box; everywhere by default.
    margin : float, optional
        Regions in which no ball of this radius fits are passed over. In units of the input; by
        default 1e-9, or 1e-9 of the distance between kinks where that is below 1e-3 or above 1e3.
    max_units : int
        Refuse networks with more hidden units than this.

    Returns
    -------
    list of Region
        At least one, with different gates.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If the network is too large, or an argument is out of range.

    Examples
    --------
    >>> from lipnb.models import mlp
    >>> network = mlp([1, 3, 1], generator=torch.Generator().manual_seed(0))
    >>> len(linear_regions(network))
    4

    References
    ----------
    Jordan and Dimakis, Exactly computing the local Lipschitz constant of ReLU networks (2020);
    Montufar et al., On the number of linear regions of deep neural networks (2014).
    """
    layers = read_layers(network)
    dimension = input_dimension(layers)
    box = read_box(domain, dimension)
    _refuse_large(layers, dimension, max_units)
    _, small, _, margin, length = read_scaled(network, domain, margin)
    regions = [_root(dimension, small, length)]
    for layer in layers:
        if isinstance(layer, Affine):
            regions = [_map(r, layer) for r in regions]
        else:
            for unit in range(len(regions[0].bias)):
                regions = _cut(regions, unit, margin)
            regions = [_switch(r) for r in regions]
        if not regions:
            raise ValueError(f"domain {box} holds no region wider than twice the margin {margin:g}")
    return [_measured(r, length) for r in regions]


def enumerate_regions(
    network: nn.Sequential,
    *,
    norm: float = 2,
    domain: tuple[Any, Any] | None = None,
    margin: float | None = None,
    max_units: int = MAX_UNITS,
) -> Bound:
    r"""Compute the Lipschitz constant of a small ReLU network exactly.

    .. math::
        \|f\|_L = \max_{a} \|J_a\|_{p \to p}, \qquad
        J_a = W_{L+1} D_{a_L} W_L \cdots D_{a_1} W_1

    over the gate patterns a whose region has an interior. The domain is convex (a box or the whole
    space), so the largest slope is the Lipschitz constant.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included) and `ReLU`.
    norm : {1, 2, inf}
        The p of the input and, for vector outputs, of the output.
    domain : (low, high), optional
        A box; everywhere by default.
    margin, max_units
        As in `linear_regions`.

    Returns
    -------
    Bound
        Of kind 'exact' (up to rounding in float64, and to regions thinner than the margin); its
        status holds the number of full-dimensional regions.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If the network is too large, or an argument is out of range.

    Examples
    --------
    The identity written with two units: both are never on together, except at the kink.

    >>> up, down = nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)
    >>> _ = up.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
    >>> _ = down.weight.data.copy_(torch.tensor([[1.0, -1.0]]))
    >>> bound = enumerate_regions(nn.Sequential(up, nn.ReLU(), down))
    >>> bound.value, bound.status
    (1.0, '2 full-dimensional regions, margin 1e-09')

    References
    ----------
    Jordan and Dimakis, Exactly computing the local Lipschitz constant of ReLU networks (2020),
    theorem 1; Virmaux and Scaman, Lipschitz regularity of deep neural networks (2018), theorem 1.
    """
    start = perf_counter()
    check_norm(norm)
    regions = linear_regions(network, domain=domain, margin=margin, max_units=max_units)
    *_, small, length = read_scaled(network, domain, margin)
    value = operator_norm(torch.from_numpy(np.stack([r.weight for r in regions])), norm).max()
    box = read_box(domain, regions[0].point.size)
    status = f"{len(regions)} full-dimensional regions, margin {small * length:g}"
    return Bound(value.item(), "exact", norm, box, perf_counter() - start, status)


def _refuse_large(layers: list[Affine | nn.Module], dimension: int, max_units: int) -> None:
    """Raise unless the layers are Linear and ReLU and few enough to enumerate."""
    widths, width = [], dimension
    for layer in layers:
        if isinstance(layer, Affine):
            width = len(layer.bias)
        elif isinstance(layer, nn.ReLU):
            widths.append(width)
        else:
            raise TypeError(f"layers must be Linear or ReLU; got {type(layer).__name__}")
    if sum(widths) > max_units:
        raise ValueError(
            f"network must have at most {max_units} hidden units; got {sum(widths)} ({widths})"
        )
    # n hyperplanes in general position cut R^d into this many cells (Zaslavsky), each cell anew.
    bound = prod(sum(comb(w, j) for j in range(min(w, dimension) + 1)) for w in widths)
    if bound > MAX_REGIONS:
        raise ValueError(
            f"network may have at most {MAX_REGIONS} regions; {dimension} inputs and hidden layers "
            f"{widths} allow {bound}"
        )


def _root(dimension: int, box: Box | None, unit: float) -> Region:
    """Return the whole domain as one region, on which the empty network is the identity.

    The region lies in a space with another unit of length; the map is one of the input.
    """
    eye, zero = np.eye(dimension), np.zeros(dimension)
    if box is None:
        return Region((), unit * eye, zero, zero, 1.0, np.empty((0, dimension)), np.empty(0))
    low, high = np.array(box[0]), np.array(box[1])
    radius = min(1.0, float((high - low).min()) / 2)
    normals, offsets = np.vstack([eye, -eye]), np.concatenate([-low, high])
    return Region((), unit * eye, zero, (low + high) / 2, radius, normals, offsets)


def _measured(region: Region, unit: float) -> Region:
    """Return a region of the space with another unit in that of the input."""
    if unit == 1:
        return region
    return replace(
        region,
        weight=region.weight / unit,
        point=region.point * unit,
        margin=region.margin * unit,
        offsets=region.offsets * unit,
    )


def _map(region: Region, layer: Affine) -> Region:
    """Return the region with an affine layer applied to its affine piece."""
    w, b = layer.weight.numpy(), layer.bias.numpy()
    weight = w @ region.weight
    # What cancels up to rounding is zero; its sign would draw a hyperplane of noise.
    weight[np.abs(weight) <= 1e-14 * (np.abs(w) @ np.abs(region.weight))] = 0.0
    return replace(region, weight=weight, bias=w @ region.bias + b)


def _cut(regions: list[Region], unit: int, margin: float) -> list[Region]:
    """Cut every region into the parts on which a hidden unit is off, and on which it is on."""
    parts = [part for region in regions for part in _sides(region, unit)]
    # A part that holds a fair ball about the old point needs no linear program.
    tight = [i for i, part in enumerate(parts) if part.margin <= 1e3 * margin]
    balls = inner_balls([(parts[i].normals, parts[i].offsets) for i in tight], margin)
    kept: list[Region | None] = list(parts)
    for i, ball in zip(tight, balls, strict=True):
        kept[i] = ball and replace(parts[i], point=ball[0], margin=ball[1])
    return [part for part in kept if part is not None]


def _sides(region: Region, unit: int) -> list[Region]:
    """Return both sides of a cut, with a margin that is measured at the old point."""
    normal, offset = region.weight[unit], region.bias[unit]
    length = float(np.linalg.norm(normal))
    if length == 0:  # the unit is constant on this region, and its gate changes no slope
        return [replace(region, gates=(*region.gates, bool(offset > 0)))]
    sides = []
    for on in (False, True):
        sign = (1.0 if on else -1.0) / length
        normals = np.vstack([region.normals, sign * normal])
        offsets = np.append(region.offsets, sign * offset)
        radius = inner_radius(normals, offsets, region.point)
        gates = (*region.gates, on)
        sides.append(
            Region(gates, region.weight, region.bias, region.point, radius, normals, offsets)
        )
    return sides


def _switch(region: Region) -> Region:
    """Return the region with a ReLU applied to its affine piece."""
    on = np.array(region.gates[-len(region.bias) :], dtype=float)
    return replace(region, weight=on[:, None] * region.weight, bias=on * region.bias)
