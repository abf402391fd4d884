"""LiPopt: a linear program of Krivine's certificates, sparse along the paths of a network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain as concatenate
from itertools import combinations, product
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array, csc_array, hstack
from torch import nn

from lipnb.bounds._arguments import check_positive
from lipnb.bounds.chain import read_chain
from lipnb.bounds.network import Affine, check_norm, read_box
from lipnb.bounds.result import Bound
from lipnb.bounds.slopes import slopes_on_box

__all__ = ["lipopt"]

Array = NDArray[np.float64]
Monomial = tuple[int, ...]  # which variables are multiplied, in ascending order
MAX_PRODUCTS = 200_000  # columns of the linear program


def lipopt(
    network: nn.Sequential,
    *,
    norm: float = math.inf,
    domain: tuple[Any, Any] | None = None,
    degree: int | None = None,
    seconds: float = 60.0,
) -> Bound:
    r"""Bound the Lipschitz constant by polynomial optimisation, for tiny networks.

    With the slopes of the units as variables, the largest slope is a polynomial of degree L + 1
    on a cube, linear in each variable:

    .. math::
        \|f\|_L \le \max_{\|t\|_\infty \le 1, \, \alpha \le s \le \beta} p(t, s), \qquad
        p(t, s) = w^\top D_{s_L} W_L \cdots D_{s_1} W_1 t

    After t and s are mapped to g in [0, 1], a number lambda is above p if

    .. math::
        \lambda - p = \sum_{I, J} c_{IJ} \prod_{i \in I} g_i \prod_{j \in J} (1 - g_j), \qquad
        c_{IJ} \ge 0

    The smallest such lambda is a linear program. Only products along a path from an input to the
    output are used, and products of a path with `degree` - L - 1 more variables. A higher degree
    costs more and is tighter; with all variables the bound is the maximum over all gates.

    Parameters
    ----------
    network : nn.Sequential
        Linear layers (batch normalisation in evaluation mode included) and `ReLU`, `LeakyReLU`,
        `ELU`, `Softplus`, `Tanh` or `Sigmoid`.
    norm : {1, inf}
        The p of the input and, for vector outputs, of the output. A matrix and its transpose
        exchange both norms, so p = 1 is the same program, from the outputs to the inputs.
    domain : (low, high), optional
        A box, which bounds the slope of each unit; everywhere by default.
    degree : int, optional
        At least the number L + 1 of affine layers, which is the default.
    seconds : float
        Wall-clock limit of each linear program, of which there is one per output (p = inf) or
        input (p = 1).

    Returns
    -------
    Bound
        Of kind 'upper'. The coefficients that HiGHS returns are put into the identity above, and
        what it leaves over is added, so that its tolerances cannot spoil the bound.

    Raises
    ------
    TypeError
        If the network holds another layer.
    ValueError
        If norm is 2, the network is too large, or an argument is out of range.

    Examples
    --------
    For x = relu(x) - relu(-x) all gates give at most 2, and the kink at 0 would allow it.

    >>> up, down = nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)
    >>> _ = up.weight.data.copy_(torch.tensor([[1.0], [-1.0]]))
    >>> _ = down.weight.data.copy_(torch.tensor([[1.0, -1.0]]))
    >>> round(lipopt(nn.Sequential(up, nn.ReLU(), down)).value, 6)
    2.0

    References
    ----------
    Latorre, Rolland and Cevher, Lipschitz constant estimation of neural networks via sparse
    polynomial optimization (2020).
    """
    start = perf_counter()
    if check_norm(norm) == 2:
        raise ValueError("norm must be 1 or inf: for these the directions are a polytope; got 2")
    check_positive(seconds=seconds)
    chain = read_chain(network)
    weights = list(chain.weights)
    box = read_box(domain, weights[0].shape[1])
    widths = [len(w) for w in weights[:-1]]
    slopes = [
        (np.full(n, a), np.full(n, b)) for n, (a, b) in zip(widths, chain.slopes, strict=True)
    ]
    if box is not None:
        maps = [
            Affine(torch.from_numpy(w), torch.from_numpy(b))
            for w, b in zip(weights, chain.biases, strict=True)
        ]
        pairs = zip(maps, [*chain.activations, None], strict=True)
        slopes = slopes_on_box(
            [layer for pair in pairs for layer in pair if layer is not None], box
        )
    if norm == 1:
        weights, slopes = [w.T for w in reversed(weights)], slopes[::-1]
    degree = len(weights) if degree is None else degree
    cliques = _cliques([weights[0].shape[1], *map(len, weights[:-1])], degree)
    value, early = 0.0, 0
    for row in weights[-1]:
        rest = weights[:-1]
        polynomial = _polynomial(rest, row, slopes)
        bound, stopped = _krivine(polynomial, cliques, seconds)
        fallback = _product(rest, row, slopes)
        value, early = max(value, min(bound, fallback)), early + stopped
    status = f"Krivine program of degree {degree} with {len(cliques)} sets of variables"
    if early:
        status += f"; HiGHS stopped early in {early} of {len(weights[-1])} programs"
    return Bound(value, "upper", norm, box, perf_counter() - start, status)


def _cliques(widths: Sequence[int], degree: int) -> list[Monomial]:
    """Return the sets of variables whose products are used: paths, and some variables more."""
    length = len(widths)
    if degree < length:
        raise ValueError(
            f"degree must be at least the number of affine layers {length}; got {degree}"
        )
    total = sum(widths)
    extra = min(degree - length, total - length)
    number = math.prod(widths) * math.comb(total - length, extra) * 2 ** (length + extra)
    # Several paths share a set if variables are added; this counts them all.
    if extra == total - length:
        number = 2**total
    if number > MAX_PRODUCTS:
        raise ValueError(
            f"network must have at most {MAX_PRODUCTS} products of degree {degree}; "
            f"widths {list(widths)} give up to {number}"
        )
    starts = np.cumsum([0, *widths]).tolist()
    layers = [range(i, i + n) for i, n in zip(starts, widths, strict=False)]
    if extra == total - length:
        return [tuple(range(total))]
    found: dict[Monomial, None] = {}
    for path in product(*layers):
        others = [v for v in range(total) if v not in path]
        for more in combinations(others, extra):
            found[tuple(sorted(path + more))] = None
    return list(found)


def _polynomial(
    weights: Sequence[Array], row: Array, slopes: Sequence[tuple[Array, Array]]
) -> dict[Monomial, float]:
    """Expand p in variables of [0, 1]: t = 2 g - 1 and s = alpha + (beta - alpha) g."""
    dimension = weights[0].shape[1] if weights else len(row)
    tensor = np.ones(dimension)  # one entry per path
    for w in weights:
        tensor = tensor[..., None] * np.moveaxis(w, 0, -1).reshape(
            (1,) * (tensor.ndim - 1) + w.shape[::-1]
        )
    tensor = tensor * row
    shifts = [-np.ones(dimension), *(low for low, _ in slopes)]
    factors = [2 * np.ones(dimension), *(high - low for low, high in slopes)]
    starts = np.cumsum([0, *tensor.shape]).tolist()
    coefficients: dict[Monomial, float] = {}
    axes = range(tensor.ndim)
    for kept in concatenate.from_iterable(combinations(axes, k) for k in range(tensor.ndim + 1)):
        part = tensor
        for axis in reversed(axes):  # the last axis first, so that the others keep their number
            if axis in kept:
                shape = [1] * part.ndim
                shape[axis] = -1
                part = part * factors[axis].reshape(shape)
            else:
                part = np.tensordot(part, shifts[axis], axes=(axis, 0))
        for index, value in np.ndenumerate(part):
            if value:
                name = tuple(starts[axis] + i for axis, i in zip(kept, index, strict=True))
                coefficients[name] = float(value)
    return coefficients


def _krivine(
    polynomial: dict[Monomial, float], cliques: Sequence[Monomial], seconds: float
) -> tuple[float, bool]:
    """Return a certified bound of the polynomial on the cube, and whether HiGHS stopped early."""
    constant = polynomial.get((), 0.0)
    size = sum(map(abs, polynomial.values())) - abs(constant)
    rounding = 1e-14 * (size + abs(constant))
    trivial = constant + sum(max(v, 0.0) for name, v in polynomial.items() if name) + rounding
    if size == 0:
        return trivial, False
    products, rows = _products(cliques)
    target = np.zeros(len(rows))
    for name, coefficient in polynomial.items():
        target[rows[name]] = coefficient / size
    # lambda - p = sum of products: the constant monomial fixes lambda, the others must agree.
    result = linprog(
        c=np.asarray(products[[rows[()]]].toarray()).ravel(),
        A_eq=products[1:],
        b_eq=-target[1:],
        bounds=(0, None),
        method="highs",
        options={"time_limit": seconds},
    )
    if result.x is None:
        return trivial, True
    weights = np.maximum(result.x, 0)
    identity = products @ weights + target
    # What is left over is a polynomial with small coefficients; its monomials lie in [0, 1].
    left = np.abs(identity[1:]).sum() + 1e-15 * (abs(products) @ weights).sum()
    return float(min(trivial, size * (identity[0] + left) + rounding)), result.status != 0


def _products(cliques: Sequence[Monomial]) -> tuple[csc_array, dict[Monomial, int]]:
    """Expand all products of g and 1 - g on each set of variables; row 0 is the constant."""
    rows: dict[Monomial, int] = {(): 0}
    blocks = []
    for clique in cliques:
        names = [rows.setdefault(name, len(rows)) for name in _subsets(clique)]
        blocks.append(np.array(names))
    expansion = np.ones((1, 1))
    for _ in cliques[0]:  # g, or 1 - g: columns (g, 1 - g), rows (1, g)
        expansion = np.kron(np.array([[0.0, 1.0], [1.0, -1.0]]), expansion)
    i, j = np.nonzero(expansion)
    shape = len(rows), expansion.shape[1]
    parts = [coo_array((expansion[i, j], (names[i], j)), shape=shape) for names in blocks]
    return csc_array(hstack(parts)), rows


def _subsets(clique: Monomial) -> Iterator[Monomial]:
    """Yield the subsets of a set of variables; the first variable changes fastest."""
    for mask in range(2 ** len(clique)):
        yield tuple(v for k, v in enumerate(clique) if mask >> k & 1)


def _product(weights: Sequence[Array], row: Array, slopes: Sequence[tuple[Array, Array]]) -> float:
    """Return the product of the norms, with the largest slope of each unit."""
    vector = np.abs(row)
    for w, (low, high) in zip(reversed(weights), reversed(slopes), strict=True):
        vector = (vector * np.maximum(np.abs(low), np.abs(high))) @ np.abs(w)
    return float(vector.sum()) * (1 + 1e-12)
