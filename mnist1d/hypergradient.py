"""Gradient descent that can itself be differentiated: stacked shallow nets, their gradient written out.

With the gradient as ordinary operations, a whole training is a function of its learning rate like any other, and
torch differentiates it: backwards (`reverse`), which keeps the training in memory, or alongside (`forward`), which
carries one tangent per number and keeps nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mnist1d.models.activation import Activation

Params = dict[str, Tensor]
Differentiation = Literal["forward", "reverse"]


def loss_and_gradient(params: Params, activation: Activation, x: Tensor, targets: Tensor) -> tuple[Tensor, Params]:
    """Mean cross-entropy ``[N]`` of N `Shallow` nets and its gradient by their own parameters.

    Args:
        params: ``[N, *shape]`` under the plain module's names.
        activation: of the hidden layer.
        x: inputs ``[N, batch, length]``.
        targets: one-hot labels ``[N, batch, classes]``.
    """
    inner, outer = params["linear1.weight"], params["linear2.weight"]
    z = torch.baddbmm(params["linear1.bias"].unsqueeze(1), x, inner.mT)
    hidden = activation.value(z)
    logits = torch.baddbmm(params["linear2.bias"].unsqueeze(1), hidden, outer.mT)
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    loss = (log_p * targets).sum((1, 2)) / -x.shape[1]
    to_logits = (log_p.exp() - targets) / x.shape[1]
    to_z = to_logits.bmm(outer) * activation.derivative(z)
    return loss, {
        "linear1.weight": to_z.mT.bmm(x),
        "linear1.bias": to_z.sum(1),
        "linear2.weight": to_logits.mT.bmm(hidden),
        "linear2.bias": to_logits.sum(1),
    }


@dataclass(frozen=True)
class Training:
    """What plain gradient descent came to.

    Attributes:
        losses: mean over the steps, ``[N]``, of the loss on the mini-batch before each update.
        last: that of the last step, ``[N]``.
        params: the trained nets.
    """

    losses: Tensor
    last: Tensor
    params: Params


def descend(params: Params, rate: Tensor, activation: Activation, batches: Iterable[tuple[Tensor, Tensor]]) -> Training:
    """Plain gradient descent of N nets at rates ``[N]``, one step per mini-batch; at least one."""
    rates = {name: rate.view(-1, *[1] * (param.ndim - 1)) for name, param in params.items()}
    losses = []
    for x, targets in batches:
        loss, gradient = loss_and_gradient(params, activation, x, targets)
        params = {name: param - rates[name] * gradient[name] for name, param in params.items()}
        losses.append(loss)
    return Training(torch.stack(losses).mean(0), losses[-1], params)


def by_rate(train: Callable[[Tensor], Training], rate: Tensor, how: Differentiation) -> tuple[Training, Tensor]:
    """A training, free of any graph, and the derivative of its mean loss by the members' rates, ``[N]`` both."""
    return (_forward if how == "forward" else _reverse)(train, rate.detach())


def _reverse(train: Callable[[Tensor], Training], rate: Tensor) -> tuple[Training, Tensor]:
    with torch.enable_grad():
        rate = rate.requires_grad_()
        done = train(rate)
        (slope,) = torch.autograd.grad(done.losses.sum(), rate)
    params = {name: param.detach() for name, param in done.params.items()}
    return Training(done.losses.detach(), done.last.detach(), params), slope


def _forward(train: Callable[[Tensor], Training], rate: Tensor) -> tuple[Training, Tensor]:
    with torch.no_grad(), forward_ad.dual_level():
        done = train(forward_ad.make_dual(rate, torch.ones_like(rate)))
        losses, slope = forward_ad.unpack_dual(done.losses)
        plain = {name: forward_ad.unpack_dual(param).primal for name, param in done.params.items()}
        return Training(losses, forward_ad.unpack_dual(done.last).primal, plain), slope
