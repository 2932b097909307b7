"""The multi-layer perceptron of the paper, with and without its residual connection."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from .activation import Activation
from .dropout import Dropout
from .linear import stacked_linear


class MLP(nn.Module):
    """Hidden layers of equal width: hidden² + 52 hidden + 10 parameters for two and 40 inputs, 15,210 at 100.

    With `residual` each hidden layer but the first is added to what it was computed from, as in the paper's
    `mnist1d-classification.ipynb` and `lottery-tickets.ipynb`; without it they follow each other, as in
    `deep-double-descent.ipynb`. The paper's have two layers of ReLU units.

    Args:
        input_size: positions of a signal.
        num_classes: number of logits.
        hidden: units in each hidden layer.
        layers: hidden layers, at least one.
        residual: whether layers are added to their inputs.
        dropout: share of each hidden layer's outputs that is dropped in training, before they are added.
        activation: a function, or its name in `mnist1d.models.activation.ACTIVATIONS`.

    Raises KeyError for another name.
    """

    def __init__(
        self,
        input_size: int = 40,
        num_classes: int = 10,
        *,
        hidden: int = 100,
        layers: int = 2,
        residual: bool = True,
        dropout: float = 0.0,
        activation: str | Activation = "relu",
    ) -> None:
        super().__init__()
        self.residual, self.activation, self.dropout = residual, Activation.of(activation), Dropout(dropout)
        widths = [input_size, *[hidden] * layers, num_classes]
        for number, (fan_in, fan_out) in enumerate(pairwise(widths), 1):
            self.add_module(f"linear{number}", nn.Linear(fan_in, fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """Signals [batch, input_size] -> logits [batch, num_classes]."""
        *hidden, readout = self.children()
        for number, linear in enumerate(hidden):
            out = self.dropout(self.activation.value(linear(x)), self.training)
            x = x + out if self.residual and number else out
        return readout(x)

    def forward_stacked(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """All members at once: signals [N, B, input_size] -> logits [N, B, num_classes].

        `params[name]` is [N, ...] under the names of `named_parameters()`.
        """
        *hidden, readout = [(params[f"{name}.weight"], params[f"{name}.bias"]) for name, _ in self.named_children()]
        for number, (weight, bias) in enumerate(hidden):
            out = self.dropout.stacked(self.activation.spent(stacked_linear(x, weight, bias)), self.training)
            x = x + out if self.residual and number else out
        return stacked_linear(x, *readout)
