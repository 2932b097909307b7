"""The temporal convolutional network of Bai, Kolter & Koltun (2018, arXiv 1803.01271), plain and for a stack.

Convolutions are causal, the dilation doubles from block to block, and the logits come from the last position alone.
It sees only every second output of a block, whose dilation is half that of the next; so the stacked form computes no
others. Counted back from the last position, block i works on every 2^i-th one, where its taps are neighbours, and its
second convolution has stride 2: about a third of the work, and the same logits.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from .convolution import Geometry, stacked_conv, stacked_signal_conv
from .linear import stacked_linear


class TCN(nn.Module):
    """`blocks` residual blocks of two causal convolutions each, then one linear layer on the last position.

    Block i has dilation 2^i. Its shortcut is the identity, in the first block a convolution of width 1. The paper's
    dropout is left out, and so is its weight norm, which is not needed at this depth. A norm of the activations over
    positions would make logits depend on those that the last one does not see.

    Args:
        input_size: positions of a signal.
        num_classes: number of logits.
        channels: of every convolution.
        blocks: number of residual blocks; the dilation of the last, 2^(blocks - 1), must be below `input_size`.
        kernel_size: taps of every convolution.

    At the default sizes it has 87,498 parameters and sees 61 positions. Raises ValueError for a dilation that reaches
    past the signal.
    """

    def __init__(
        self,
        input_size: int = 40,
        num_classes: int = 10,
        *,
        channels: int = 64,
        blocks: int = 4,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        if 2 ** (blocks - 1) >= input_size:
            raise ValueError(f"a dilation of {2 ** (blocks - 1)} ({blocks=}) reaches past {input_size} positions")
        self.blocks = nn.ModuleList(
            _Block(channels if i else 1, channels, kernel_size, dilation=2**i) for i in range(blocks)
        )
        self.shortcut = nn.Conv1d(1, channels, 1)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Signals [batch, input_size] -> logits [batch, num_classes]."""
        signal = x.unsqueeze(1)
        first, *others = self.blocks
        hidden = (self.shortcut(signal) + first(signal)).relu()
        for block in others:
            hidden = (hidden + block(hidden)).relu()
        return self.linear(hidden[:, :, -1])

    def forward_stacked(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """All members at once: signals [N, B, input_size] -> logits [N, B, num_classes].

        `params[name]` is [N, ...] under the names of `named_parameters()`.
        """
        onward, last = x.flip(2), len(self.blocks) - 1
        hidden = onward
        for i, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            # behind the last block, only the last position, now the first, is read
            stride = 2 if i < last else x.shape[2]
            outer = block.forward_stacked(params, f"blocks.{i}", hidden, stride)
            if i:
                beside = hidden[:, ::stride]
            else:
                weight, bias = params["shortcut.weight"], params["shortcut.bias"]
                beside = stacked_signal_conv(onward, weight, bias, Geometry(1, stride))
            hidden = outer.add(beside).relu_()
        return stacked_linear(hidden[:, 0], params["linear.weight"], params["linear.bias"])


class _Block(nn.Module):
    def __init__(self, fan_in: int, channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.reach = (kernel_size - 1) * dilation
        self.conv1 = nn.Conv1d(fan_in, channels, kernel_size, dilation=dilation)
        self.conv2 = nn.Conv1d(channels, channels, kernel_size, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels in, positions] -> [batch, channels, positions]."""
        inner = self.conv1(F.pad(x, (self.reach, 0))).relu()
        return self.conv2(F.pad(inner, (self.reach, 0))).relu()

    def forward_stacked(self, params: dict[str, Tensor], path: str, x: Tensor, stride: int) -> Tensor:
        """Positions from the last to the first: signals [N, B, L] or [N, L, B, C] -> [N, L / stride, B, C]."""
        kernel = self.conv1.kernel_size[0]
        convolve = stacked_signal_conv if x.ndim == 3 else stacked_conv
        inner = convolve(x, *_reversed(params, f"{path}.conv1"), Geometry(kernel)).relu_()
        return stacked_conv(inner, *_reversed(params, f"{path}.conv2"), Geometry(kernel, stride)).relu_()


def _reversed(params: dict[str, Tensor], path: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer, the taps in reverse like the positions."""
    return params[f"{path}.weight"].flip(3), params[f"{path}.bias"]
