"""From free matrices to matrices with orthonormal columns: Cayley's and Bjorck's way."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipnb.constraints._precision import without_autocast
from lipnb.distances import at_least_float32

__all__ = ["BjorckMap", "CayleyMap", "bjorck", "cayley", "nearest_orthogonal"]

# A singular value of s needs log(1/s) / log(1.5) steps to become 1: this is enough for 1e-30.
MOST_STEPS = 200


@without_autocast
def cayley(free: Tensor, base: Tensor) -> Tensor:
    r"""Map a matrix to one with orthonormal columns, starting from a given one.

    .. math::
        N = (I - B B^\top) Y, \qquad A = B^\top Y - Y^\top B + N^\top N, \qquad
        W = 2 (B - N) (I + A)^{-1} - B

    For square matrices N is 0, A is skew-symmetric and W is B times the Cayley transform
    (I - A)(I + A)^{-1} of A. In general :math:`A + A^\top = 2 N^\top N`, from which
    :math:`W^\top W = I` follows. I + A is always invertible.

    Parameters
    ----------
    free : Tensor
        Y, any matrix or stack of them, shape (..., m, n) with m >= n.
    base : Tensor
        B, of this shape, with orthonormal columns. It is the value at Y = 0.

    Returns
    -------
    Tensor
        W, shape (..., m, n). Every W for which :math:`I + B^\top W` is invertible is the image
        of some Y. For m = n these are matrices with the determinant of B only.

    Raises
    ------
    ValueError
        If the shapes differ or there are more columns than rows.

    References
    ----------
    Lezcano-Casado (2019) for maps about a base point; Trockman and Kolter (2021) for the Cayley
    transform of rectangular matrices.

    Examples
    --------
    A rotation by twice the arc tangent of the entry of A, here by a right angle:

    >>> free = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    >>> cayley(free, torch.eye(2)).abs()
    tensor([[0., 1.],
            [1., 0.]])
    """
    if free.shape != base.shape or free.ndim < 2 or free.shape[-2] < free.shape[-1]:
        raise ValueError(
            "free and base must have one shape (..., m, n) with m >= n;"
            f" got {tuple(free.shape)} and {tuple(base.shape)}"
        )
    inner = base.mT @ free
    a = inner - inner.mT
    shifted = base
    if free.shape[-2] > free.shape[-1]:
        normal = free - base @ inner  # N
        a = a + normal.mT @ normal
        shifted = base - normal
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    w = 2 * torch.linalg.solve(eye + a, shifted, left=False) - base
    # One step of Bjorck's iteration takes away what rounding left. It changes no digit that
    # matters to the derivative.
    with torch.no_grad():
        correction = 0.5 * w @ (eye - w.mT @ w)
    return w + correction


@without_autocast
def bjorck(weight: Tensor) -> Tensor:
    r"""Return the nearest matrix with orthonormal columns, by matrix products only.

    .. math::
        W_0 = W / s, \qquad W_{i+1} = W_i + \tfrac12 W_i (I - W_i^\top W_i)

    The iteration moves each singular value to 1, if it starts between 0 and sqrt(3). The scale s
    is :math:`\|(W^\top W)^4\|_F^{1/8}`. It is never below the largest singular value, and at
    most :math:`n^{1/16}` times it: 1.5 for n = 1024. The iteration goes on until rounding stops
    it, so its result is the same in training and in evaluation.

    Parameters
    ----------
    weight : Tensor
        Shape (..., m, n) with m >= n, of full rank.

    Returns
    -------
    Tensor
        U V^T of the singular value decomposition, shape (..., m, n). Differentiable through all
        steps; the derivative grows as 1 over the smallest singular values.

    Raises
    ------
    ValueError
        If there are more columns than rows, a number is not finite, or the matrix is singular.

    References
    ----------
    Bjorck and Bowie (1971); Anil et al. (2019), who orthogonalise weights with it.

    Examples
    --------
    >>> bjorck(torch.tensor([[2.0, 0.0], [0.0, -0.01]]))
    tensor([[ 1.,  0.],
            [ 0., -1.]])
    """
    if weight.ndim < 2 or weight.shape[-2] < weight.shape[-1]:
        raise ValueError(f"weight must be (..., m, n) with m >= n; got {tuple(weight.shape)}")
    with torch.no_grad():
        length = torch.linalg.vector_norm(weight, dim=(-2, -1), keepdim=True)
        if not bool((torch.isfinite(length) & (length > 0)).all()):
            raise ValueError("weight must be finite and not zero")
        gram = (weight / length).mT @ (weight / length)
        fourth = torch.linalg.matrix_power(gram, 4)
        scale = length * torch.linalg.vector_norm(fourth, dim=(-2, -1), keepdim=True) ** 0.125
    w = weight / scale
    eye = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    for _ in range(MOST_STEPS):
        defect = eye - w.mT @ w
        w = w + 0.5 * w @ defect
        # The error after a step is about the square of the one before it.
        error = torch.linalg.vector_norm(defect.detach(), dim=(-2, -1)).amax().item()
        if error**2 < torch.finfo(w.dtype).eps:
            return w
    raise ValueError("weight must have full rank: a singular value of 0 cannot be moved to 1")


def nearest_orthogonal(weight: Tensor) -> Tensor:
    r"""Return the nearest matrix with orthonormal rows or columns; a rotation if it is square.

    .. math:: W = U S V^\top \mapsto U D V^\top

    D is the identity, but for a square matrix of negative determinant the last entry of D is -1,
    where the singular value is smallest.

    Parameters
    ----------
    weight : Tensor
        Shape (..., m, n).

    Returns
    -------
    Tensor
        Same shape and type, computed in float64, detached. The nearest in the Frobenius norm:
        among all, or among those with determinant +1 for m = n.

    Examples
    --------
    >>> nearest_orthogonal(torch.tensor([[3.0, 0.0], [0.0, -2.0]]))
    tensor([[1., 0.],
            [0., 1.]])
    """
    u, _, v = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    if weight.shape[-2] == weight.shape[-1]:
        sign = torch.linalg.det(u @ v).sign()
        u = torch.cat([u[..., :-1], u[..., -1:] * sign[..., None, None]], dim=-1)
    return (u @ v).to(weight.dtype)


class CayleyMap(nn.Module):
    """Parametrization by `cayley`, about the orthogonal matrix nearest to the weight it got."""

    base: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("base", nearest_orthogonal(weight))

    def forward(self, free: Tensor) -> Tensor:
        """Return the orthogonal matrix."""
        wide, base = at_least_float32(free), at_least_float32(self.base)
        if free.shape[-2] < free.shape[-1]:
            return cayley(wide.mT, base.mT).mT.to(free.dtype)
        return cayley(wide, base).to(free.dtype)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Move the base point to a new weight, whose free parameter is 0."""
        self.base.copy_(nearest_orthogonal(weight))
        return torch.zeros_like(weight)


class BjorckMap(nn.Module):
    """Parametrization by `bjorck`: the free parameter is the weight as it was."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self(weight.detach())  # refuses a singular one

    def forward(self, free: Tensor) -> Tensor:
        """Return the orthogonal matrix."""
        wide = at_least_float32(free)
        if free.shape[-2] < free.shape[-1]:
            return bjorck(wide.mT).mT.to(free.dtype)
        return bjorck(wide).to(free.dtype)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the weight."""
        return weight.clone()
