"""A perceptron with one hidden layer: what the metalearning experiments train again and again."""

from __future__ import annotations

from torch import Tensor, nn

from .activation import Activation
from .linear import stacked_linear


class Shallow(nn.Module):
    """Linear, activation, linear: 2560 parameters at 40 inputs and 50 hidden units, 6538 at 128.

    The paper's `metalearn-learn-rate.ipynb` has 50 units and tanh, `metalearn-activation-function.ipynb` 128.

    Args:
        activation: a function, or its name in `mnist1d.models.activation.ACTIVATIONS`.

    Raises KeyError for another name.
    """

    def __init__(
        self,
        input_size: int = 40,
        num_classes: int = 10,
        *,
        hidden: int = 50,
        activation: str | Activation = "tanh",
    ) -> None:
        super().__init__()
        self.activation = Activation.of(activation)
        self.linear1 = nn.Linear(input_size, hidden)
        self.linear2 = nn.Linear(hidden, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Signals [batch, input_size] -> logits [batch, num_classes]."""
        return self.linear2(self.activation.value(self.linear1(x)))

    def forward_stacked(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """All members at once: signals [N, B, input_size] -> logits [N, B, num_classes].

        `params[name]` is [N, ...] under the names of `named_parameters()`.
        """
        hidden = self.activation.value(stacked_linear(x, params["linear1.weight"], params["linear1.bias"]))
        return stacked_linear(hidden, params["linear2.weight"], params["linear2.bias"])
