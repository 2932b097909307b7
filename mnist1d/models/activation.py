"""Activation functions with their derivatives, both written out: nets are trained by hand where training is learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Elementwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Activation:
    """An elementwise function and its derivative, each differentiable in turn."""

    value: Elementwise
    derivative: Elementwise


def _logistic_slope(z: Tensor) -> Tensor:
    s = z.sigmoid()
    return s * (1 - s)


def _swish_slope(z: Tensor) -> Tensor:
    s = z.sigmoid()
    return s * (1 + z * (1 - s))


def _gelu_slope(z: Tensor) -> Tensor:
    return torch.special.ndtr(z) + z * (-z.square() / 2).exp() / math.sqrt(2 * math.pi)


def _mish_slope(z: Tensor) -> Tensor:
    t = F.softplus(z).tanh()
    return t + z * (1 - t.square()) * z.sigmoid()


ACTIVATIONS = {
    "relu": Activation(torch.relu, lambda z: (z > 0).to(z)),
    "elu": Activation(F.elu, lambda z: z.clamp(max=0).exp()),
    "swish": Activation(F.silu, _swish_slope),
    "gelu": Activation(F.gelu, _gelu_slope),
    "mish": Activation(F.mish, _mish_slope),
    "softplus": Activation(F.softplus, torch.sigmoid),
    "tanh": Activation(torch.tanh, lambda z: 1 - z.tanh().square()),
    "sigmoid": Activation(torch.sigmoid, _logistic_slope),
    "sine": Activation(torch.sin, torch.cos),
}
"""By the name that `model.activation` has. Swish is x times its logistic function, also known as SiLU."""
