"""A small transformer encoder over overlapping pieces of a signal, after Vaswani et al. (2017) and ViT (2020).

It has no hand-batched twin: nearly all of its work is in linear layers, which `torch.func.vmap` batches well.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STRIDE = 2  # positions between the pieces


class Attention(nn.Module):
    """A convolution of stride 2 makes tokens; learned positions are added; then `layers` pre-norm encoder layers.

    The logits come from the mean over tokens, normalised. Layer norm is taken token by token, alike in training and
    evaluation, alone and in a stack. There is no dropout: under vmap members could not draw masks of their own.

    Args:
        input_size: positions of a signal.
        num_classes: number of logits.
        width: size of a token.
        heads: of each attention; must divide `width`.
        layers: number of encoder layers; each ends in a perceptron with 2 * `width` hidden units.
        kernel_size: positions in a piece, odd.

    At the default sizes it has 26,858 parameters. Raises ValueError for an even `kernel_size`, and for heads that do
    not divide the width.
    """

    def __init__(
        self,
        input_size: int = 40,
        num_classes: int = 10,
        *,
        width: int = 32,
        heads: int = 4,
        layers: int = 3,
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads=} do not divide {width=}")
        if kernel_size % 2 == 0:
            raise ValueError(f"{kernel_size=} is even: its middle lies between two positions")
        self.pieces = nn.Conv1d(1, width, kernel_size, _STRIDE, kernel_size // 2)
        tokens = -(-input_size // _STRIDE)
        self.positions = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.layers = nn.Sequential(*(_Layer(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Signals [batch, input_size] -> logits [batch, num_classes]."""
        tokens = self.pieces(x.unsqueeze(1)).mT + self.positions
        return self.linear(self.norm(self.layers(tokens).mean(1)))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """[batch, tokens, width] -> [batch, tokens, width]."""
        tokens = tokens + self.out(self._attended(self.norm1(tokens)))
        return tokens + self.perceptron(self.norm2(tokens))

    def _attended(self, tokens: Tensor) -> Tensor:
        """Values [batch, tokens, width], averaged head by head by what each token attends to."""
        packed = self.queries_keys_values(tokens).unflatten(2, (3, self.heads, -1))
        queries, keys, values = packed.permute(2, 0, 3, 1, 4)  # each [batch, head, token, width / heads]
        scores = queries @ keys.mT * keys.shape[-1] ** -0.5
        return (scores.softmax(-1) @ values).transpose(1, 2).flatten(2)
