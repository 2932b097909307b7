"""Dropout for nets that are trained alone and in stacks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


class Dropout:
    """Zeroes a share of its inputs while a net is trained, and scales the others so that their sum stays the same.

    No module, as it has neither parameters nor buffers. A plain net draws from PyTorch's global generator, the members
    of a stack each from its own: what a member drops does not depend on its company.

    Args:
        share: of the inputs that is dropped, from 0 to below 1.

    Attributes:
        generators: of the members of a stack, on the device of their inputs; `StackedModel.draw_from` sets them.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.generators: Sequence[torch.Generator] = ()

    def __call__(self, x: Tensor, training: bool) -> Tensor:
        """Inputs of a plain net, of any shape."""
        return F.dropout(x, self.share, training and self.share > 0)

    def stacked(self, x: Tensor, training: bool) -> Tensor:
        """Inputs of all members, [N, ...].

        Raises RuntimeError where members would have to draw and have nothing to draw from.
        """
        if not (training and self.share):
            return x
        if len(self.generators) != len(x):
            raise RuntimeError(f"{len(x)} members with dropout need as many generators, not {len(self.generators)}")
        drawn = torch.empty_like(x)
        for row, generator in zip(drawn, self.generators, strict=True):
            torch.rand(row.shape, generator=generator, out=row)
        return x * (drawn >= self.share).to(x.dtype).div_(1 - self.share)
