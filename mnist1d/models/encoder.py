"""The encoder of SimCLR: convolutions, and behind them a projector; plain and batched by hand over a stack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
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
        heads: projectors side by side, each with weights of its own; p1, p2, … have the features of all of them.

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
        heads: int = 1,
    ) -> None:
        super().__init__()
        self.convs = Convolutions(input_size, channels, kernel_sizes, pooling)
        hidden = [projector_width] * (projector_depth - 1)
        widths = [self.convs.features, *hidden, output_size] if projector_depth else []
        self.depth = projector_depth
        self.projector = nn.ModuleList(  # head by head
            nn.Linear(fan_in, fan_out) for _ in range(heads) for fan_in, fan_out in pairwise(widths)
        )

    @property
    def names(self) -> list[str]:
        """Names of the layers: h1, h2, … of the convolutions, p1, p2, … of the projector."""
        return [f"h{i + 1}" for i in range(len(self.convs))] + [f"p{i + 1}" for i in range(self.depth)]

    def layers(self, x: Tensor) -> list[Tensor]:
        """Signals [batch, input_size] -> every layer's outputs, [batch, features], flattened channel by channel.

        After ReLU (and pooling), but for the last layer of a projector, which is linear. Heads lie side by side.
        """
        outputs = [hidden.flatten(1) for hidden in self.convs.activations(x)]
        heads = [self._head(outputs[-1], start) for start in range(0, len(self.projector), self.depth or 1)]
        return outputs + [torch.cat(layer, 1) for layer in zip(*heads, strict=True)]

    def _head(self, hidden: Tensor, start: int) -> list[Tensor]:
        """The layers of the head whose first one is number `start` of the projector."""
        layers = []
        for i in range(self.depth):
            output = self.projector[start + i](hidden)
            hidden = output if i == self.depth - 1 else output.relu()
            layers.append(hidden)
        return layers

    def forward(self, x: Tensor) -> Tensor:
        """Signals [batch, input_size] -> outputs [batch, features]."""
        return self.layers(x)[-1]

    def forward_stacked(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """All members at once: signals [N, B, input_size] -> outputs [N, B, features].

        `params[name]` is [N, ...] under the names of `named_parameters()`.
        """
        hidden = self.convs.forward_stacked(params, x).mT.flatten(2)  # channel by channel
        heads = range(0, len(self.projector), self.depth or 1)
        return torch.cat([self._head_stacked(params, hidden, start) for start in heads], 2) if heads else hidden

    def _head_stacked(self, params: dict[str, Tensor], hidden: Tensor, start: int) -> Tensor:
        for i in range(start, start + self.depth):
            hidden = hidden.relu_() if i > start else hidden
            hidden = stacked_linear(hidden, params[f"projector.{i}.weight"], params[f"projector.{i}.bias"])
        return hidden


def make_encoder(config: Mapping[str, Any]) -> Encoder:
    """The encoder of a run, from its flat config (`Run.flat`, or the config beside recorded weights)."""
    layers = {key: config[f"model.{key}"] for key in ("input_size", "channels", "kernel_sizes", "pooling")}
    projector = {key: config[f"task.{key}"] for key in ("projector_depth", "projector_width", "output_size")}
    return Encoder(**layers, **projector, heads=config.get("task.heads", 1))  # runs of before have no such key
