"""Signals changed at random: two views of each (paper, self-supervised learning), or as the generator changes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mnist1d.data.arguments import Arguments
from mnist1d.data.streaming import nuisances


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


def stretch(x: Tensor, factors: Tensor) -> Tensor:
    """Signals ``[..., length]`` made longer around their middle by factors ``[...]``; read in a circle and linearly."""
    length, positions = x.shape[-1], centred_positions(x)
    source = positions / factors[..., None] + (length - 1) / 2
    left = source.floor()
    weight, left = source - left, left.long()
    return torch.lerp(x.gather(-1, left % length), x.gather(-1, (left + 1) % length), weight)


@dataclass(frozen=True)
class Amounts:
    """How far a signal may be changed, in the generator's units but for the first two.

    `shift` is in positions either way, `dilation` a share either way, the others are the generator's arguments.
    """

    shift: int = 0
    dilation: float = 0.0
    scale_coeff: float = 0.0
    corr_noise_scale: float = 0.0
    iid_noise_scale: float = 0.0
    shear_scale: float = 0.0

    @property
    def noisy(self) -> bool:
        """Whether there is noise to draw."""
        return max(self.corr_noise_scale, self.iid_noise_scale) > 0


class Perturbation:
    """Changes the mini-batches of N members by what the generator does: shift, dilation, amplitude, noise, shear.

    The draws of `HELD` steps are made at a time.

    Args:
        amounts: of each member.
        arguments: of the generator of each member's data.
        generators: of each member, on the CPU.
        size: samples in a mini-batch, at most.
    """

    HELD = 50

    def __init__(
        self,
        amounts: Sequence[Amounts],
        arguments: Sequence[Arguments],
        generators: Sequence[torch.Generator],
        size: int,
    ) -> None:
        self.amounts, self.generators, self.size = list(amounts), list(generators), size
        self._tables = [[torch.tensor(t, dtype=torch.float32) for t in nuisances(args)] for args in arguments]
        self._before = [g.get_state() for g in self.generators]  # the generators before the last draw
        self._held: tuple[Tensor, ...] = ()

    def __call__(self, step: int, x: Tensor) -> Tensor:
        """Signals ``[N, batch, length]`` of a step -> changed ones."""
        place = step % self.HELD
        if place == 0 or not self._held:
            self._before = [g.get_state() for g in self.generators]
            drawn = [self._draw(n, self.HELD * self.size) for n in range(len(self.amounts))]
            self._held = tuple(torch.stack(values).to(x.device) for values in zip(*drawn, strict=True))
        rows = slice(place * self.size, place * self.size + x.shape[1])
        shifts, factors, gains, added = (values[:, rows] for values in self._held)
        if any(own.shift for own in self.amounts):
            x = shift(x, shifts)
        if any(own.dilation for own in self.amounts):
            x = stretch(x, factors)
        return torch.addcmul(added, x, gains[..., None])

    def _draw(self, n: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of a member: shifts, factors and gains ``[count]``, and what is added, ``[count, length]``."""
        own, generator, (smooth, white, slope) = self.amounts[n], self.generators[n], self._tables[n]
        uniform = torch.rand(4, count, generator=generator) - 0.5
        shifts = (uniform[0] * (2 * own.shift + 1)).round().long()
        factors, gains = 1 + 2 * own.dilation * uniform[1], 1 + own.scale_coeff * uniform[2]
        added = -own.shear_scale * uniform[3][:, None] * slope
        if own.noisy:
            normal = torch.randn(2, count, len(white), generator=generator)
            added.addmm_(normal[0], smooth, alpha=own.corr_noise_scale)
            added.addmm_(normal[1], white, alpha=own.iid_noise_scale)
        return shifts, factors, gains, added

    def state_dict(self) -> dict[str, Any]:
        """The generators before the last draw: a resumed fit draws the same once more."""
        return {"generators": self._before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._held = ()
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved.cpu())
