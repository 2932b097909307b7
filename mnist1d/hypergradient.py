"""Gradient descent that can itself be differentiated: stacked shallow nets, everything written out.

The derivative of a whole training by its learning rate comes in two ways. `reverse` lets torch go back through the
training, which it keeps in memory. `forward` carries the derivative of every parameter along, moved at each step by the
Hessian times itself (Pearlmutter 1994, Fast exact multiplication by the Hessian), and keeps nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mnist1d.models.activation import Activation

Params = dict[str, Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]
Differentiation = Literal["forward", "reverse"]


@dataclass(frozen=True)
class Pass:
    """N `Shallow` nets on a mini-batch, forwards and back.

    Attributes:
        x: inputs ``[N, batch, length]``.
        z, hidden: hidden units before and after the activation, ``[N, batch, hidden]``.
        p: probabilities, ``[N, batch, classes]``.
        to_logits, to_hidden, to_z: derivatives of the loss, of the shapes of what they are by.
        loss: mean cross-entropy, ``[N]``.
    """

    x: Tensor
    z: Tensor
    hidden: Tensor
    p: Tensor
    to_logits: Tensor
    to_hidden: Tensor
    to_z: Tensor
    loss: Tensor

    @classmethod
    def of(cls, params: Params, activation: Activation, x: Tensor, targets: Tensor) -> "Pass":
        """Of nets with `params`, ``[N, *shape]`` under the plain module's names, against one-hot labels `targets`."""
        z = _affine(params, "linear1", x)
        hidden = activation.value(z)
        logits = _affine(params, "linear2", hidden)
        log_p = logits - logits.logsumexp(-1, keepdim=True)
        loss = (log_p * targets).sum((1, 2)) / -x.shape[1]
        p = log_p.exp()
        to_logits = (p - targets) / x.shape[1]
        to_hidden = to_logits.bmm(params["linear2.weight"])
        return cls(x, z, hidden, p, to_logits, to_hidden, to_hidden * activation.derivative(z), loss)

    @property
    def gradient(self) -> Params:
        """Of the loss, by the nets' own parameters."""
        return _by_parameter(self.to_z, self.x, self.to_logits, self.hidden)

    def change(self, params: Params, along: Params, activation: Activation) -> tuple[Tensor, Params]:
        """Derivatives of the loss, ``[N]``, and of its gradient in the direction `along` from `params`."""
        z = _affine(along, "linear1", self.x)
        slope, bend = _derivatives(activation, self.z, z)
        hidden = slope * z
        logits = _affine(along, "linear2", self.hidden).baddbmm(hidden, params["linear2.weight"].mT)
        by_p = self.p * logits
        to_logits = (by_p - self.p * by_p.sum(-1, keepdim=True)) / self.x.shape[1]
        to_hidden = to_logits.bmm(params["linear2.weight"]).baddbmm(self.to_logits, along["linear2.weight"])
        to_z = to_hidden * slope + self.to_hidden * bend
        gradient = _by_parameter(to_z, self.x, to_logits, self.hidden)
        gradient["linear2.weight"] = gradient["linear2.weight"].baddbmm(self.to_logits.mT, hidden)
        return (self.to_logits * logits).sum((1, 2)), gradient


def _derivatives(activation: Activation, z: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """The activation's first derivative at `z`, and its second there times `along`."""
    with forward_ad.dual_level():
        slope, bend = forward_ad.unpack_dual(activation.derivative(forward_ad.make_dual(z, along)))
    return slope, torch.zeros_like(z) if bend is None else bend  # none: constant in pieces, as of relu


def _affine(params: Params, layer: str, x: Tensor) -> Tensor:
    return torch.baddbmm(params[f"{layer}.bias"].unsqueeze(1), x, params[f"{layer}.weight"].mT)


def _by_parameter(to_z: Tensor, x: Tensor, to_logits: Tensor, hidden: Tensor) -> Params:
    return {
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


def descend(params: Params, rate: Tensor, activation: Activation, batches: Batches) -> Training:
    """Plain gradient descent of N nets at rates ``[N]``, one step per mini-batch; at least one."""
    rates = _per_member(rate, params)
    losses = []
    for x, targets in batches:
        at = Pass.of(params, activation, x, targets)
        params = {name: params[name] - rates[name] * slope for name, slope in at.gradient.items()}
        losses.append(at.loss)
    return Training(torch.stack(losses).mean(0), losses[-1], params)


def _per_member(rate: Tensor, params: Params) -> Params:
    return {name: rate.view(-1, *[1] * (param.ndim - 1)) for name, param in params.items()}


def by_rate(
    params: Params, rate: Tensor, activation: Activation, batches: Batches, how: Differentiation
) -> tuple[Training, Tensor]:
    """What `descend` comes to, free of any graph, and the derivative ``[N]`` of its mean loss by the rates."""
    return (_forward if how == "forward" else _reverse)(params, rate.detach(), activation, batches)


def _reverse(params: Params, rate: Tensor, activation: Activation, batches: Batches) -> tuple[Training, Tensor]:
    with torch.enable_grad():
        rate = rate.requires_grad_()
        done = descend(params, rate, activation, batches)
        (slope,) = torch.autograd.grad(done.losses.sum(), rate)
    trained = {name: param.detach() for name, param in done.params.items()}
    return Training(done.losses.detach(), done.last.detach(), trained), slope


@torch.no_grad()
def _forward(params: Params, rate: Tensor, activation: Activation, batches: Batches) -> tuple[Training, Tensor]:
    rates, along = _per_member(rate, params), {name: torch.zeros_like(param) for name, param in params.items()}
    loss, steps = torch.zeros_like(rate), 0
    losses, slopes = torch.zeros_like(rate), torch.zeros_like(rate)
    for x, targets in batches:
        at = Pass.of(params, activation, x, targets)
        slope, bend = at.change(params, along, activation)
        gradient = at.gradient
        along = {name: along[name] - gradient[name] - rates[name] * bend[name] for name in params}
        params = {name: params[name] - rates[name] * gradient[name] for name in params}
        loss, steps = at.loss, steps + 1
        losses += loss
        slopes += slope
    return Training(losses / steps, loss, params), slopes / steps
