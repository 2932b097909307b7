"""A residual network over signals, after He et al. (2016, "Identity mappings in deep residual networks")."""

from __future__ import annotations

from torch import Tensor, nn

from .convolution import centred, stacked_conv, stacked_signal_conv
from .linear import stacked_linear
from .norm import sample_norm, stacked_norm_relu


class ResNet(nn.Module):
    """A convolution, `blocks` residual blocks, a normalisation, the mean over positions, one linear layer.

    A block is norm - ReLU - convolution - norm - ReLU - convolution, added to its input; the norms have the biases. All
    but the first halve the length, by stride 2 in their first convolution; their shortcut is every second position of
    the input, which needs no weights because the number of channels stays the same.

    Args:
        input_size: positions of a signal.
        num_classes: number of logits.
        channels: of every convolution.
        blocks: number of residual blocks.
        kernel_size: width of every convolution, odd; half of it is padded at either end.

    At the default sizes it has 25,610 parameters. Raises ValueError for an even `kernel_size`.
    """

    def __init__(
        self,
        input_size: int = 40,
        num_classes: int = 10,
        *,
        channels: int = 32,
        blocks: int = 4,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        del input_size  # the mean over positions takes any length
        if kernel_size % 2 == 0:
            raise ValueError(f"{kernel_size=} is even: its middle lies between two positions")
        self.stem = nn.Conv1d(1, channels, kernel_size, padding=kernel_size // 2)
        self.blocks = nn.ModuleList(_Block(channels, kernel_size, 2 if i else 1) for i in range(blocks))
        self.norm = sample_norm(channels)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Signals [batch, input_size] -> logits [batch, num_classes]."""
        hidden = self.stem(x.unsqueeze(1))
        for block in self.blocks:
            hidden = block(hidden)
        return self.linear(self.norm(hidden).relu().mean(2))

    def forward_stacked(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """All members at once: signals [N, B, input_size] -> logits [N, B, num_classes].

        `params[name]` is [N, ...] under the names of `named_parameters()`.
        """
        same = centred(self.stem.kernel_size[0])
        hidden = stacked_signal_conv(x, params["stem.weight"], params["stem.bias"], same)
        for i, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            hidden = block.forward_stacked(params, f"blocks.{i}", hidden)
        top = stacked_norm_relu(hidden, params["norm.weight"], params["norm.bias"]).mean(1)
        return stacked_linear(top, params["linear.weight"], params["linear.bias"])


class _Block(nn.Module):
    def __init__(self, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm1, self.norm2 = sample_norm(channels), sample_norm(channels)
        self.conv1 = nn.Conv1d(channels, channels, kernel_size, stride, kernel_size // 2, bias=False)
        self.conv2 = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, positions] -> [batch, channels, positions / stride, rounded up]."""
        inner = self.conv1(self.norm1(x).relu())
        return x[:, :, :: self.stride] + self.conv2(self.norm2(inner).relu())

    def forward_stacked(self, params: dict[str, Tensor], path: str, x: Tensor) -> Tensor:
        """[N, L, B, C] -> [N, L / stride, B, C]; the block's own parameters are those below `path`."""

        def activated(hidden: Tensor, norm: str) -> Tensor:
            return stacked_norm_relu(hidden, params[f"{path}.{norm}.weight"], params[f"{path}.{norm}.bias"])

        kernel, weights = self.conv1.kernel_size[0], [params[f"{path}.conv{k}.weight"] for k in (1, 2)]
        inner = stacked_conv(activated(x, "norm1"), weights[0], None, centred(kernel, self.stride))
        outer = stacked_conv(activated(inner, "norm2"), weights[1], None, centred(kernel))
        return outer.add_(x[:, :: self.stride])
