"""Convolutions whose reach doubles from layer to layer, after Yu & Koltun (2016)."""

from __future__ import annotations

from torch import Tensor, nn

from .convolution import centred, stacked_conv, stacked_signal_conv


class DilatedCNN(nn.Module):
    """`layers` convolutions with ReLU and dilations 1, 2, 4, …, then one linear layer on all channels and positions.

    The padding keeps the length. No normalisation: nothing here is deep enough to need it.

    Args:
        input_size: positions of a signal.
        num_classes: number of logits.
        channels: of every convolution.
        layers: number of convolutions; the dilation of the last, 2^(layers - 1), must be below `input_size`.
        kernel_size: width of every convolution, odd.

    At the default sizes it has 25,354 parameters. Raises ValueError for an even `kernel_size`, and for a dilation that
    reaches past the signal.
    """

    def __init__(
        self,
        input_size: int = 40,
        num_classes: int = 10,
        *,
        channels: int = 32,
        layers: int = 5,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"{kernel_size=} is even: its middle lies between two positions")
        if 2 ** (layers - 1) >= input_size:
            raise ValueError(f"a dilation of {2 ** (layers - 1)} ({layers=}) reaches past {input_size} positions")
        self.kernel_size, widths = kernel_size, [1] + [channels] * layers
        self.convs = nn.ModuleList(
            nn.Conv1d(widths[i], channels, kernel_size, padding=kernel_size // 2 * 2**i, dilation=2**i)
            for i in range(layers)
        )
        self.linear = nn.Linear(channels * input_size, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Signals [batch, input_size] -> logits [batch, num_classes]."""
        hidden = x.unsqueeze(1)
        for conv in self.convs:
            hidden = conv(hidden).relu()
        return self.linear(hidden.flatten(1))

    def forward_stacked(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        """All members at once: signals [N, B, input_size] -> logits [N, B, num_classes].

        `params[name]` is [N, ...] under the names of `named_parameters()`.
        """
        hidden = x
        for i in range(len(self.convs)):
            convolve = stacked_conv if i else stacked_signal_conv
            geometry = centred(self.kernel_size, dilation=2**i)
            hidden = convolve(hidden, params[f"convs.{i}.weight"], params[f"convs.{i}.bias"], geometry).relu_()
        return _read(hidden, params["linear.weight"]) + params["linear.bias"].unsqueeze(1)


def _read(hidden: Tensor, weight: Tensor) -> Tensor:
    """[N, L, B, C], [N, classes, C * L] -> [N, B, classes]: position by position, since flattening is a copy."""
    members, positions, _, _ = hidden.shape
    readout = weight.unflatten(2, (-1, positions)).permute(0, 3, 2, 1)  # [N, L, C, classes]
    return hidden.flatten(0, 1).bmm(readout.flatten(0, 1)).unflatten(0, (members, positions)).sum(1)
