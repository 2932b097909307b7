"""Activation functions that are learned: a known one plus a small network of one number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .activation import ACTIVATIONS


class LearnedActivation(nn.Module):
    """``base(x) + scale · (w₂ · tanh(w₁ x + b₁) + b₂)``, elementwise: 301 parameters at 100 hidden units.

    The paper's `metalearn-activation-function.ipynb` has ELU and 0.2.

    Args:
        base: a name of `mnist1d.models.activation.ACTIVATIONS`.
        hidden: units of the network.
        scale: what its output is multiplied by; 0 leaves the base as it is.

    Raises KeyError for another name.
    """

    def __init__(self, base: str = "elu", *, hidden: int = 100, scale: float = 0.2) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.linear1 = nn.Linear(1, hidden)
        self.linear2 = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise, any shape."""
        network = self.linear2(self.linear1(x.unsqueeze(-1)).tanh()).squeeze(-1)
        return ACTIVATIONS[self.base].value(x) + self.scale * network


def values_and_slopes(
    params: dict[str, Tensor], bases: Sequence[str], scale: Tensor
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """N learned activations and their derivatives at the same places, in double precision, differentiable by `params`.

    Args:
        params: ``[N, *shape]`` under the plain module's names.
        bases: N names of `ACTIVATIONS`.
        scale: what the networks are multiplied by, ``[N]``.

    Returns:
        Places ``[points]`` -> values and slopes, ``[N, points]`` each.
    """
    w1, b1 = params["linear1.weight"].double().mT, params["linear1.bias"].double().unsqueeze(1)  # [N, 1, hidden]
    w2, b2 = params["linear2.weight"].double().mT, params["linear2.bias"].double()  # [N, hidden, 1], [N, 1]
    factor = scale.double().unsqueeze(1)

    def at(x: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.tanh(x.unsqueeze(1) * w1 + b1)  # [N, points, hidden]
        value, slope = (t @ w2).squeeze(2) + b2, ((1 - t * t) @ (w2 * w1.mT)).squeeze(2)
        known = [ACTIVATIONS[name] for name in bases]
        base, rise = torch.stack([a.value(x) for a in known]), torch.stack([a.derivative(x) for a in known])
        return base + factor * value, rise + factor * slope

    return at
