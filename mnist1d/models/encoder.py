"""The encoder of SimCLR: convolutions, and behind them a projector; plain and batched by hand over a stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from .cnn import Convolutions
from .linear import stacked_linear


class Encoder(nn.Module):
    """The convolutions of a CNN (h1, h2, …), then linear layers with ReLU between them (p1, p2, …).

    The paper's `self-supervised-learning.ipynb` has the depths 0 (no projector: the loss sees the convolutions; 3950
    parameters), 2 (21,716) and 4 (53,216).

    Args:
        input_size: positions of a signal.
        channels, kernel_sizes, pooling: as for `CNN`.
        projector_depth: linear layers of the projector.
        projector_width: units of all of them but the last.
        output_size: units of the last; without a projector the outputs are those of the convolutions.

    Raises ValueError for an unknown `pooling` or a signal too short for the layers.
    """

    def __init__(
        self,
        input_size: int = 40,
        *,
        channels: int = 25,
        kernel_sizes: Sequence[int] = (5, 3, 3),
        pooling: str = "stride",
        projector_depth: int = 2,
        projector_width: int = 125,
        output_size: int = 16,
    ) -> None:
        super().__init__()
        self.convs = Convolutions(input_size, channels, kernel_sizes, pooling)
        hidden = [projector_width] * (projector_depth - 1)
        widths = [self.convs.features, *hidden, output_size] if projector_depth else []
        self.projector = nn.ModuleList(nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(widths))

    @property
    def names(self) -> list[str]:
        """Names of the layers: h1, h2, … of the convolutions, p1, p2, … of the projector."""
        convs, projector = range(1, len(self.convs) + 1), range(1, len(self.projector) + 1)
        return [f"h{i}" for i in convs] + [f"p{i}" for i in projector]

    def layers(self, x: Tensor) -> list[Tensor]:
        """Signals [batch, input_size] -> every layer's outputs, [batch, features], flattened channel by channel.

        After ReLU (and pooling), but for the last layer of a projector, which is linear.
        """
        outputs = [hidden.flatten(1) for hidden in self.convs.activations(x)]
        for i, linear in enumerate(self.projector, 1):
            output = linear(outputs[-1])
            outputs.append(output if i == len(self.projector) else output.relu())
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """Signals [batch, input_size] -> outputs [batch, features]."""
        return self.layers(x)[-1]

    def forward_stacked(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """All members at once: signals [N, B, input_size] -> outputs [N, B, features].

        `params[name]` is [N, ...] under the names of `named_parameters()`.
        """
        output = self.convs.forward_stacked(params, x).mT.flatten(2)  # channel by channel
        for i in range(len(self.projector)):
            hidden = output.relu_() if i else output
            output = stacked_linear(hidden, params[f"projector.{i}.weight"], params[f"projector.{i}.bias"])
        return output


def make_encoder(config: Mapping[str, Any]) -> Encoder:
    """The encoder of a run, from its flat config (`Run.flat`, or the config beside recorded weights)."""
    layers = {key: config[f"model.{key}"] for key in ("input_size", "channels", "kernel_sizes", "pooling")}
    projector = {key: config[f"task.{key}"] for key in ("projector_depth", "projector_width", "output_size")}
    return Encoder(**layers, **projector)
