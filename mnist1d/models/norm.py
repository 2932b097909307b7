"""Normalisation over all channels and positions of a sample: alone a layer of PyTorch's, stacked written by hand.

It is the same in training and evaluation, and neither a batch nor another member enters it; batch normalisation would
carry running statistics beside the weights, and make a sample's logits depend on its batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

EPS = 1e-5


def sample_norm(channels: int) -> nn.GroupNorm:
    """The layer, for [batch, channels, positions]: one group, so that a channel's share of the signal is kept."""
    return nn.GroupNorm(1, channels, eps=EPS)


def stacked_norm_relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`sample_norm` and ReLU of every member: [N, L, B, C], [N, C], [N, C] -> [N, L, B, C]; differentiable once."""
    return _NormRelu.apply(x, weight, bias)


class _NormRelu(torch.autograd.Function):
    """With r = 1 / std and c = r (x - mean): y = relu(w c + b), and for g = dLoss/dy where y > 0, else 0,

    dLoss/dx = r (w g - mean(w g) - c mean(w g c)), means over the positions and channels of a sample.

    Sums over positions come first, so that but a few passes go through whole activations.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        values = x.shape[1] * x.shape[3]
        mean = x.sum(1).sum(-1, keepdim=True) / values  # [N, B, 1]
        variance = (x - mean.unsqueeze(1)).square_().sum(1).sum(-1, keepdim=True) / values
        rstd = (variance + EPS).rsqrt_()
        scale = rstd * weight.unsqueeze(1)
        shift = torch.addcmul(bias.unsqueeze(1), mean, scale, value=-1)
        y = torch.addcmul(shift.unsqueeze(1), x, scale.unsqueeze(1)).relu_()
        ctx.save_for_backward(x, mean, rstd, weight, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, mean, rstd, weight, y = ctx.saved_tensors
        g = torch.ops.aten.threshold_backward(grad, y, 0)
        sum_g, w = g.sum(1), weight.unsqueeze(1)  # [N, B, C], [N, 1, C]
        sum_gc = ((g * x).sum(1) - mean * sum_g) * rstd
        shares = rstd / (x.shape[1] * x.shape[3])
        mean_g, mean_gc = ((sums * w).sum(-1, keepdim=True) * shares for sums in (sum_g, sum_gc))
        slope = -rstd * mean_gc
        constant = torch.addcmul(mean_g, mean, slope).neg_()
        # as wide as the channels: broadcasting over the last axis is slow
        to_x = torch.addcmul(_wide(constant, g), g, (rstd * w).unsqueeze(1)).addcmul_(x, _wide(slope, g))
        return to_x, sum_gc.sum(1), sum_g.sum(1)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """[N, B, 1] -> [N, 1, B, C]."""
    return values.expand(-1, -1, like.shape[3]).contiguous().unsqueeze(1)
