"""Activation functions with their derivatives, both written out: nets are trained by hand where training is learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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


def _straight(pieces: Sequence[tuple[float, float, float]]) -> Activation:
    """Lines by (end, slope, offset), in order; each holds below its end. Where two do not meet, it jumps."""
    ends = torch.tensor([end for end, _, _ in pieces[:-1]], dtype=torch.float64)
    slopes, offsets = (torch.tensor([piece[k] for piece in pieces], dtype=torch.float64) for k in (1, 2))

    def pick(values: Tensor, z: Tensor) -> Tensor:
        return values.to(z)[torch.bucketize(z.detach(), ends.to(z), right=True)]

    return Activation(lambda z: pick(slopes, z) * z + pick(offsets, z), lambda z: pick(slopes, z))


_HAND_FIT = (
    (-2.0, 0.15, 0.9),
    (-1.0, -0.25, 0.1),
    (-0.25, -1.2, -0.85),
    (0.1, -0.5, -0.75),
    (0.6, 0.2, -0.85),
    (math.inf, 1.2, -1.4),
)
"""What the reference's notebook read off the activation it had learned: end of a piece, slope, offset."""

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
    "hand_fit": _straight(_HAND_FIT),
}
"""By the name that `model.activation` has. Swish is x times its logistic function, also known as SiLU; hand_fit is the
piecewise linear one of `metalearn-activation-function.ipynb`."""
