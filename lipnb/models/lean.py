"""ReLU and average pooling whose double backward pass leaves out what is zero."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["LeanAvgPool2d", "LeanReLU", "lean"]

Network = TypeVar("Network", bound=nn.Module)
Options = tuple[Any, ...]  # of a pooling, in the order of torch.nn.functional.avg_pool2d
Layout = tuple[tuple[int, ...], tuple[int, ...]]  # shape and strides

aten = torch.ops.aten

# A gradient penalty differentiates the input gradient, which depends on a ReLU's activations only
# through their signs, and on those of a pooling not at all. torch returns these zeros as tensors
# and carries them back through all layers below. Here "no gradient" stays None, and ends there.


class _Mask(torch.autograd.Function):
    """Pass g where the activation is positive: the backward pass of ReLU, linear in g."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, activation: Tensor) -> Tensor:
        """Zero g where the activation is."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(activation)
        return aten.threshold_backward(g, activation, 0)

    @staticmethod
    def backward(ctx: Any, h: Tensor | None) -> tuple[Tensor | None, None]:
        """Pass only the gradient of g on."""
        return (None if h is None else _Mask.apply(h, *ctx.saved_tensors)), None


class _ReLU(torch.autograd.Function):
    """Positive part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Keep the activation for the mask."""
        ctx.set_materialize_grads(False)
        activation = x.relu()
        ctx.save_for_backward(activation)
        return activation

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Tensor | None:
        """Mask the gradient, if there is one."""
        (activation,) = ctx.saved_tensors
        return None if g is None else _Mask.apply(g, activation.detach())


class _Unpool(torch.autograd.Function):
    """Spread g evenly over its windows: the backward pass of average pooling, linear in g."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, layout: Layout, options: Options) -> Tensor:
        """Keep the pooling's options."""
        ctx.set_materialize_grads(False)
        ctx.options = options
        # torch asks for the pooled tensor, but looks only at its shape and memory format.
        return aten.avg_pool2d_backward(g, g.new_empty_strided(*layout), *options)

    @staticmethod
    def backward(ctx: Any, h: Tensor | None) -> tuple[Tensor | None, None, None]:
        """Pool the gradient, if there is one."""
        return (None if h is None else _Pool.apply(h, ctx.options)), None, None


class _Pool(torch.autograd.Function):
    """Mean over windows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, options: Options) -> Tensor:
        """Pool, and keep the shape alone."""
        ctx.set_materialize_grads(False)
        ctx.layout, ctx.options = (x.shape, x.stride()), options
        return aten.avg_pool2d(x, *options)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, None]:
        """Spread the gradient, if there is one."""
        return (None if g is None else _Unpool.apply(g, ctx.layout, ctx.options)), None


class LeanReLU(nn.ReLU):
    r"""ReLU, :math:`\max(x, 0)`, with a lean double backward pass.

    Values and gradients are those of `torch.nn.ReLU`. The input is never overwritten, whatever
    ``inplace`` says.

    Examples
    --------
    >>> LeanReLU()(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the positive part of x, of any shape."""
        return _ReLU.apply(x)


class LeanAvgPool2d(nn.AvgPool2d):
    """Average pooling with a lean double backward pass.

    Takes the options of `torch.nn.AvgPool2d`; values and gradients are the same. It keeps the
    shape of its input for the backward pass, where torch keeps the input.

    Examples
    --------
    >>> LeanAvgPool2d(2)(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]))
    tensor([[[3.]]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the means over windows of x, shape (n, channels, height, width)."""
        options = (
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )
        return _Pool.apply(x, options)


LEAN: dict[type[nn.Module], type[nn.Module]] = {nn.ReLU: LeanReLU, nn.AvgPool2d: LeanAvgPool2d}


def lean(network: Network) -> Network:
    """Make every ReLU and average pooling of a network lean, in place.

    The network computes the same numbers, and its gradients of first and second order are the
    same. A gradient penalty on it costs 4 passes per point instead of 6: one forward pass, one
    backward pass to the input, and two passes for the second derivative.

    Parameters
    ----------
    network : nn.Module
        Any network. Each module whose class is exactly `nn.ReLU` or `nn.AvgPool2d` changes its
        class; parameters, hooks and all other modules stay as they are.

    Returns
    -------
    nn.Module
        The network itself.

    Raises
    ------
    TypeError
        If `network` is not an `nn.Module`.

    Notes
    -----
    First-order methods save memory only, for the inputs of poolings are not kept. Calls of
    `torch.relu` or `torch.nn.functional.avg_pool2d` inside a forward pass are out of reach, and so
    is batch normalisation, whose second derivative does depend on the activations. Forward-mode
    derivatives and the transforms of `torch.func` are not supported. Each lean layer adds some tens
    of microseconds, in which small networks lose what they save.

    Examples
    --------
    >>> lean(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    Sequential(
      (0): Linear(in_features=2, out_features=3, bias=True)
      (1): LeanReLU()
      (2): Linear(in_features=3, out_features=1, bias=True)
    )
    """
    if not isinstance(network, nn.Module):
        raise TypeError(f"network must be an nn.Module; got {type(network).__name__}")
    for module in network.modules():
        if twin := LEAN.get(type(module)):
            module.__class__ = twin
    return network
