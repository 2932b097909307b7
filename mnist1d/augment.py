"""Random views of signals: shifted in a circle, with another slope and offset (paper, self-supervised learning)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ranges:
    """How far a view may differ: `max_shift` is one above the largest shift, the others are standard deviations."""

    max_shift: int
    slope_scale: float
    offset_scale: float


class Augmentation:
    """Draws two views of every sample, for N members.

    A sample loses its mean and its least-squares slope, is shifted to the right in a circle by 0 to
    ``max_shift - 1`` positions, and gets a new slope, then a new offset, both normal.

    Args:
        ranges: of each member.
        generators: of each member, on the CPU; B views advance them by B shifts, B slopes and B offsets.
    """

    def __init__(self, ranges: Sequence[Ranges], generators: Sequence[torch.Generator]) -> None:
        self.ranges, self.generators = list(ranges), list(generators)

    def __call__(self, x: Tensor) -> Tensor:
        """Samples ``[N, B, length]`` -> the first views of all, then the second ones, ``[N, 2 B, length]``."""
        level = detrend(x)
        return torch.cat([self._view(level), self._view(level)], 1)

    def _view(self, level: Tensor) -> Tensor:
        shifts, slopes, offsets = self._draw(level.shape[1])
        view = shift(level, shifts.to(level.device))
        line = slopes.to(level)[..., None] * centred_positions(level) + offsets.to(level)[..., None]
        return view.add_(line)

    def _draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Shifts, slopes and offsets, each ``[N, count]``."""
        members = list(zip(self.ranges, self.generators, strict=True))
        shifts = [torch.randint(ranges.max_shift, (count,), generator=g) for ranges, g in members]
        slopes = [torch.randn(count, generator=g) * ranges.slope_scale for ranges, g in members]
        offsets = [torch.randn(count, generator=g) * ranges.offset_scale for ranges, g in members]
        return torch.stack(shifts), torch.stack(slopes), torch.stack(offsets)

    def state_dict(self) -> dict[str, Any]:
        """The generators; `load_state_dict` goes on from there bit for bit."""
        return {"generators": [g.get_state() for g in self.generators]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved.cpu())


def centred_positions(x: Tensor) -> Tensor:
    """The positions of signals ``[..., length]``, counted from their middle: -19.5 to 19.5 for 40 of them."""
    length = x.shape[-1]
    return torch.arange(length, dtype=x.dtype, device=x.device) - (length - 1) / 2


def detrend(x: Tensor) -> Tensor:
    """Signals ``[..., length]`` without their mean and their least-squares slope."""
    t = centred_positions(x)
    slope = x @ (t / t.square().sum())  # of the raw signal: a mean is orthogonal to t
    return (x - x.mean(-1, keepdim=True)).addcmul_(slope[..., None], -t)


def shift(x: Tensor, shifts: Tensor) -> Tensor:
    """Signals ``[..., length]`` shifted to the right in a circle by their own numbers of positions ``[...]``."""
    length = x.shape[-1]
    source = (torch.arange(length, device=x.device) - shifts[..., None]) % length
    return x.gather(-1, source)
