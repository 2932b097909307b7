"""Logistic regression: one affine map from the signal to the logits."""

from __future__ import annotations

from torch import Tensor, nn

from .linear import stacked_linear


class Logistic(nn.Module):
    """Linear input_size -> num_classes: 410 parameters at the default sizes."""

    def __init__(self, input_size: int = 40, num_classes: int = 10) -> None:
        super().__init__()
        self.linear = nn.Linear(input_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Signals [batch, input_size] -> logits [batch, num_classes]."""
        return self.linear(x)

    def forward_stacked(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """All members at once: signals [N, B, input_size] -> logits [N, B, num_classes].

        `params[name]` is [N, ...] under the names of `named_parameters()`.
        """
        return stacked_linear(x, params["linear.weight"], params["linear.bias"])
