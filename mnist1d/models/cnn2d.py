"""A convolutional network that sees an image as an image; stacked by vmap."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class CNN2d(nn.Module):
    """Two-dimensional convolutions of stride 2 with ReLU, then one linear layer: the paper's CNN, for images.

    Each layer halves height and width. With three of 25 channels, images of 28 × 28 pixels take 15,560 parameters.

    Args:
        input_size: values of a flattened image, row by row, the colours of a pixel side by side.
        row_length: values in a row of pixels; None: the whole signal is one row.
        colours: values of a pixel.
        channels: channels of every convolution.
        kernel_sizes: height and width of each convolution; half of it, rounded down, is its padding.

    Raises ValueError for rows or pixels that do not come out even.
    """

    def __init__(
        self,
        input_size: int = 784,
        num_classes: int = 10,
        *,
        row_length: int | None = None,
        colours: int = 1,
        channels: int = 25,
        kernel_sizes: Sequence[int] = (3, 3, 3),
    ) -> None:
        super().__init__()
        row_length = input_size if row_length is None else row_length
        if input_size % row_length or row_length % colours:
            raise ValueError(f"{input_size} values are no rows of {row_length} with pixels of {colours}")
        height, width = input_size // row_length, row_length // colours
        self.image = (height, width, colours)
        self.convs = nn.ModuleList()
        for kernel in kernel_sizes:
            before = channels if self.convs else colours
            self.convs.append(nn.Conv2d(before, channels, kernel, stride=2, padding=kernel // 2))
            height, width = ((side + kernel // 2 * 2 - kernel) // 2 + 1 for side in (height, width))
        self.linear = nn.Linear(channels * height * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Flattened images [batch, input_size] -> logits [batch, num_classes]."""
        hidden = x.unflatten(1, self.image).permute(0, 3, 1, 2)  # [batch, colours, height, width]
        for conv in self.convs:
            hidden = conv(hidden).relu()
        return self.linear(hidden.flatten(1))
