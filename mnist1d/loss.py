"""Mean cross-entropy of a stack of classifiers, one value per member."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def cross_entropy_stacked(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats of every member of a stack.

    `logits` is [N, B, C]; `labels` is [N, B], or [B] when all members share them (int64).
    Returns [N]. Its sum is what to differentiate: each member's gradient is then its own.
    Same value and gradient as `torch.nn.functional.cross_entropy` member by member.
    """
    if len(logits) == 1:  # too little work for the shorter kernels to pay for more of them
        return F.cross_entropy(logits.squeeze(0), labels.reshape(-1)).view(1)
    return _CrossEntropy.apply(logits, labels.expand(logits.shape[:2]).unsqueeze(-1))


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: Tensor) -> Tensor:
    """`cross_entropy_stacked` against targets of which a share `smoothing` [N] is spread evenly over all classes."""
    spread = smoothing.view(-1, 1, 1).to(logits)
    target = (
        (spread / logits.shape[-1])
        .expand_as(logits)
        .scatter_add(-1, labels.expand(logits.shape[:2]).unsqueeze(-1), (1 - spread).expand(*logits.shape[:2], 1))
    )
    return -(target * logits.log_softmax(-1)).sum(-1).mean(1)


class _CrossEntropy(torch.autograd.Function):
    """Writes out the softmax: torch's own is three times slower on rows as short as ten classes.

    The exponentials become softmax - one-hot in place, which leaves one multiplication for backward.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        peak = logits.amax(-1, keepdim=True)
        softmax = (logits - peak).exp_()
        total = softmax.sum(-1, keepdim=True)
        loss = total.log().add_(peak).sub_(logits.gather(-1, labels)).mean((1, 2))
        ctx.save_for_backward(softmax.div_(total).scatter_(-1, labels, -1.0, reduce="add"))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (grad / difference.shape[1]).view(-1, 1, 1), None
