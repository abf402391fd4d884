"""The two autograd nodes under `StackedMLP`: network and input gradient, with lean backward passes.

Everything is feature-major: activations have shape (M, features, n), weights (M, out, in).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["EPSILON", "StackedInputGradient", "StackedNetwork"]

EPSILON = 1e-5  # added to the variance in batch normalisation, torch's default

_relu_backward = torch.ops.aten.threshold_backward
_norm_backward = torch.ops.aten.native_batch_norm_backward


class StackedNetwork(torch.autograd.Function):
    """All layers of all networks as one node; feature-major, shapes (M, features, n)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        training: bool,
        statistics: list[tuple[Tensor, Tensor]],
        collected: list[tuple[Tensor, Tensor]],
        layers: int,
        *parameters: Tensor,
    ) -> Tensor:
        """Run all layers, keeping what the backward pass needs."""
        weights, biases = parameters[:layers], parameters[layers : 2 * layers]
        gains, shifts = parameters[2 * layers : 3 * layers - 1], parameters[3 * layers - 1 :]
        hs, zs = [x], []
        h = x
        for i in range(layers):
            z = torch.baddbmm(biases[i], weights[i], h)
            if i == layers - 1:
                break
            if gains:
                zs.append(z)
                mean, variance = (s.flatten() for s in statistics[i])
                h, *moments = torch.native_batch_norm(
                    z.view(1, -1, z.shape[-1]),
                    gains[i].flatten(),
                    shifts[i].flatten(),
                    None if training else mean,
                    None if training else variance,
                    training,
                    0.0,
                    EPSILON,
                )
                collected.append((moments[0], moments[1]))
                h = h.view(z.shape).relu_()
            else:
                h = z.relu_()
            hs.append(h)
        ctx.save_for_backward(*hs, *zs, *weights, *gains, *(t for c in collected for t in c))
        ctx.layers, ctx.training, ctx.statistics = layers, training, statistics
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        """Propagate the output gradient g, through only as much as is asked for."""
        layers, saved = ctx.layers, list(ctx.saved_tensors)
        hs, saved = saved[:layers], saved[layers:]
        normed = len(saved) > layers
        zs, saved = (saved[: layers - 1], saved[layers - 1 :]) if normed else ([], saved)
        weights, saved = saved[:layers], saved[layers:]
        gains, moments = saved[: layers - 1], saved[layers - 1 :]
        want = any(ctx.needs_input_grad[5:])
        d_weights: list[Any] = [None] * layers
        d_biases: list[Any] = [None] * layers
        d_gains: list[Any] = [None] * len(zs)
        d_shifts: list[Any] = [None] * len(zs)
        for i in range(layers - 1, -1, -1):
            if want:
                d_weights[i] = torch.bmm(g, hs[i].mT)
                d_biases[i] = g.sum(-1, keepdim=True)
            if i == 0 and not ctx.needs_input_grad[0]:
                break
            g = torch.bmm(weights[i].mT, g)
            if i == 0:
                break
            g = _relu_backward.grad_input(g, hs[i], 0, grad_input=g)
            if normed:
                j = i - 1
                flat = (1, -1, g.shape[-1])
                mean, variance = (s.flatten() for s in ctx.statistics[j])
                g_in, d_gain, d_shift = _norm_backward(
                    g.view(flat),
                    zs[j].view(flat),
                    gains[j].flatten(),
                    None if ctx.training else mean,
                    None if ctx.training else variance,
                    moments[2 * j],
                    moments[2 * j + 1],
                    ctx.training,
                    EPSILON,
                    [True, want, want],
                )
                g = g_in.view(g.shape)
                if want:
                    d_gains[j], d_shifts[j] = d_gain.view_as(gains[j]), d_shift.view_as(gains[j])
        d_x = g if ctx.needs_input_grad[0] else None
        return (d_x, None, None, None, None, *d_weights, *d_biases, *d_gains, *d_shifts)


class StackedInputGradient(torch.autograd.Function):
    """Gradient of every network at its points, with its derivative in the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        """Multiply the weights along the active units, from the output back to the input."""
        layers = len(parameters) // 2
        weights, biases = parameters[:layers], parameters[layers:]
        hs, h = [], x
        for i in range(layers - 1):
            h = torch.baddbmm(biases[i], weights[i], h).relu_()
            hs.append(h)
        g = weights[-1].mT.expand(-1, -1, x.shape[-1])
        gs = [g]
        for i in range(layers - 2, -1, -1):
            g = _relu_backward(g, hs[i], 0)  # g_i = D_i W_{i+1}^T g_{i+1}
            gs.append(g)
            g = torch.bmm(weights[i].mT, g)
        ctx.save_for_backward(*hs, *gs, *weights)
        ctx.layers = layers
        return g

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, s: Tensor) -> tuple[Any, ...]:
        """Differentiate that product in each weight; the activity pattern is locally constant."""
        layers, saved = ctx.layers, ctx.saved_tensors
        hs, gs, weights = saved[: layers - 1], saved[layers - 1 : -layers], saved[-layers:]
        d_weights: list[Any] = []
        # s travels forward through the switched-off network: u_{i+1} = D_i W_i u_i.
        for i in range(layers - 1):
            d_weights.append(torch.bmm(gs[layers - 1 - i], s.mT))
            s = torch.bmm(weights[i], s)
            s = _relu_backward.grad_input(s, hs[i], 0, grad_input=s)
        d_weights.append(s.sum(-1, keepdim=True).mT)
        return (None, *d_weights, *[None] * layers)
