"""The multi-layer perceptron of the paper, with and without its residual connection."""

from __future__ import annotations

from torch import Tensor, nn

from .linear import stacked_linear


class MLP(nn.Module):
    """Two hidden layers of ReLU units: hidden² + 52 hidden + 10 parameters for 40 inputs, 15,210 at 100.

    With `residual` the second hidden layer is added to the first, as in the paper's `mnist1d-classification.ipynb`
    and `lottery-tickets.ipynb`; without it they follow each other, as in `deep-double-descent.ipynb`.
    """

    def __init__(
        self, input_size: int = 40, num_classes: int = 10, *, hidden: int = 100, residual: bool = True
    ) -> None:
        super().__init__()
        self.residual = residual
        self.linear1 = nn.Linear(input_size, hidden)
        self.linear2 = nn.Linear(hidden, hidden)
        self.linear3 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Signals [batch, input_size] -> logits [batch, num_classes]."""
        first = self.linear1(x).relu()
        second = self.linear2(first).relu()
        return self.linear3(first + second if self.residual else second)

    def forward_stacked(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """All members at once: signals [N, B, input_size] -> logits [N, B, num_classes].

        `params[name]` is [N, ...] under the names of `named_parameters()`.
        """
        first = stacked_linear(x, params["linear1.weight"], params["linear1.bias"]).relu_()
        second = stacked_linear(first, params["linear2.weight"], params["linear2.bias"]).relu_()
        top = first + second if self.residual else second
        return stacked_linear(top, params["linear3.weight"], params["linear3.bias"])
