"""The data of a stack, resident on the device, and the schedule by which a fit walks through it.

To Lightning a "batch" is a block of optimiser steps: the loader yields bare block numbers, the data stay where
they are and every mini-batch is an index slice. That makes Lightning's cost per optimiser step vanish.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from mnist1d.config import Run
from mnist1d.config.limits import LONGEST_BLOCK
from mnist1d.data import Splits, load, stream
from mnist1d.stack import member_generator

STREAM_STEPS = 50
"""Steps' worth of stream samples drawn at once: 5000 samples at batch 100, 0.8 MB a member."""


@dataclass(frozen=True)
class Schedule:
    """Blocks of steps: a block ends after every step that is evaluated, and after `LONGEST_BLOCK` steps.

    Steps count from 0; step s is evaluated, after its update, if s % eval_every == 0 or it is the last.
    """

    max_steps: int
    eval_every: int

    def stops(self) -> list[int]:
        """Number of finished steps at the end of each block, ascending."""
        ends = {step + 1 for step in range(0, self.max_steps, self.eval_every)} | {self.max_steps}
        for start in range(0, self.max_steps, self.eval_every):
            ends.update(range(start + 1, min(start + 1 + self.eval_every, self.max_steps), LONGEST_BLOCK))
        return sorted(ends)

    def evaluates(self, step: int) -> bool:
        """Whether the metrics are measured after the update of `step`."""
        return step % self.eval_every == 0 or step == self.max_steps - 1


class Batches:
    """Mini-batches of N members from the resident training split.

    Args:
        x: inputs ``[N or 1, rows, length]``, 1 where all members share them.
        y: labels ``[N or 1, rows]``.
        size: samples in a mini-batch.
        shuffled: a fresh permutation per member and epoch, from the member's own generator; else the walk of
            the reference: step s uses rows [b, b + size), b = (s · size) mod rows, in stored order.
        generators: one per member (CPU), used only when shuffled.
    """

    def __init__(self, x: Tensor, y: Tensor, size: int, shuffled: bool, generators: Sequence[torch.Generator]) -> None:
        self.x, self.y, self.size, self.shuffled, self.generators = x, y, size, shuffled, list(generators)
        self.members, self.rows = len(self.generators), x.shape[1]
        self.order: Tensor | None = None  # [N, rows], this epoch's permutations

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs ``[N, batch, length]`` and labels ``[N, batch]`` of one optimiser step."""
        if self.shuffled:
            return self._shuffled(step)
        start = step * self.size % self.rows
        rows = slice(start, start + self.size)
        return self._all(self.x[:, rows]), self._all(self.y[:, rows])

    def _shuffled(self, step: int) -> tuple[Tensor, Tensor]:
        batch = step % -(-self.rows // self.size)
        if batch == 0 or self.order is None:
            orders = [torch.randperm(self.rows, generator=g) for g in self.generators]
            self.order = torch.stack(orders).to(self.x.device)
        rows = self.order[:, batch * self.size : (batch + 1) * self.size]  # [N, batch]
        return _take(self.x, rows), _take(self.y, rows)

    def _all(self, values: Tensor) -> Tensor:
        return values.expand(self.members, *values.shape[1:])

    def state_dict(self) -> dict[str, object]:
        """Where the random order stands; `load_state_dict` goes on from there bit for bit."""
        return {"order": self.order, "generators": [g.get_state() for g in self.generators]}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        self.order = None if state["order"] is None else state["order"].to(self.x.device)
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved.cpu())


class StreamBatches:
    """Mini-batches of samples that no one has seen: `STREAM_STEPS` steps' worth is drawn at a time.

    Args:
        draws: one ``n -> (x [n, length], y [n])`` per member, drawing from the generator beside it.
        generators: the members' generators, on the device of the samples.
        size: samples in a mini-batch.
    """

    def __init__(
        self,
        draws: Sequence[Callable[[int], tuple[Tensor, Tensor]]],
        generators: Sequence[torch.Generator],
        size: int,
    ) -> None:
        self.draws, self.generators, self.size = list(draws), list(generators), size
        self._before = [g.get_state() for g in self.generators]  # the generators before the last draw
        self._held: tuple[Tensor, Tensor] | None = None

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs ``[N, batch, length]`` and labels ``[N, batch]`` of one optimiser step."""
        place = step % STREAM_STEPS
        if place == 0 or self._held is None:
            self._before = [g.get_state() for g in self.generators]
            drawn = [draw(STREAM_STEPS * self.size) for draw in self.draws]
            self._held = torch.stack([x for x, _ in drawn]), torch.stack([y for _, y in drawn])
        x, y = self._held
        rows = slice(place * self.size, (place + 1) * self.size)
        return x[:, rows], y[:, rows]

    def state_dict(self) -> dict[str, object]:
        """The generators before the last draw: a resumed fit draws the same samples once more."""
        return {"generators": self._before}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        self._held = None
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved.cpu())


class StackData(pl.LightningDataModule):
    """The splits of N runs, stacked, shared where they are equal, and the blocks of their schedule."""

    def __init__(self, runs: Sequence[Run], schedule: Schedule | None = None) -> None:
        super().__init__()
        self.runs = runs
        trainer = runs[0].trainer
        self.schedule = schedule or Schedule(trainer.max_steps, trainer.eval_every)
        self.stops = self.schedule.stops()
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def measured(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The splits as they are evaluated: of the training data only the first `trainer.eval_samples`."""
        x, y = self.splits["train"]
        rows = self.runs[0].trainer.eval_samples
        return {**self.splits, "train": (x[:, :rows], y[:, :rows])}

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - Lightning's signature
        """Load every member's data: ``splits[name]`` is inputs [N or 1, rows, length], labels [N or 1, rows]."""
        members = [load(run.data) for run in self.runs]
        for name in ("train", "val", "test"):
            if len(getattr(members[0], f"{name}_y")):
                self.splits[name] = (_stack(members, f"{name}_x"), _stack(members, f"{name}_y"))

    def to(self, device: torch.device) -> None:
        """Move all splits to `device`, once."""
        self.splits = {name: (x.to(device), y.to(device)) for name, (x, y) in self.splits.items()}

    @property
    def training(self) -> tuple[Tensor, Tensor]:
        """What mini-batches are made of: inputs ``[N or 1, rows, length]`` and labels ``[N or 1, rows]``."""
        return self.splits["train"]

    def batches(self, nets: Sequence[Run] = ()) -> Batches | StreamBatches:
        """The mini-batches of training, from the start: of the training data or of the endless stream.

        nets  whose batches they are, equally many in a row for each run; the runs themselves if there are none
        """
        nets, data = nets or self.runs, self.runs[0].data
        x, y = self.training
        if data.stream:
            generators = [member_generator(net.seed, "samples", x.device) for net in nets]
            draws = [stream(n.data, x.device, g) for n, g in zip(nets, generators, strict=True)]
            return StreamBatches(draws, generators, data.batch_size)
        generators = [member_generator(net.seed, "batches") for net in nets]
        if len(x) > 1:
            x, y = (values.repeat_interleave(len(nets) // len(self.runs), 0) for values in (x, y))
        return Batches(x, y, data.batch_size, data.batch_order == "shuffled", generators)

    def train_dataloader(self) -> "BlockNumbers":
        """What Lightning iterates over."""
        return BlockNumbers(len(self.stops))


class OneHotData(StackData):
    """Mini-batches with one-hot labels ``[N, batch, classes]``, float."""

    @cached_property  # every training asks for it
    def training(self) -> tuple[Tensor, Tensor]:
        """Inputs ``[N or 1, rows, length]`` and one-hot labels ``[N or 1, rows, classes]``."""
        x, y = super().training
        return x, F.one_hot(y, self.runs[0].model.num_classes).to(x)


class BlockNumbers:
    """The loader of a stack: ``0, 1, …, count - 1``, numbers without meaning.

    The module knows where it stands and keeps that in its checkpoint. Stating a (void) state of its own tells
    Lightning that a fit may go on in the middle of an epoch.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))

    def state_dict(self) -> dict[str, int]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to restore."""


def _stack(members: list[Splits], field: str) -> Tensor:
    arrays = [getattr(splits, field) for splits in members]
    if all(a is arrays[0] or np.array_equal(a, arrays[0]) for a in arrays):
        arrays = arrays[:1]
    return torch.from_numpy(np.stack(arrays))


def _take(values: Tensor, rows: Tensor) -> Tensor:
    """``values[n, rows[n]]`` for every member n; one flat gather of whole rows."""
    if len(values) > 1:
        rows = rows + torch.arange(len(rows), device=rows.device)[:, None] * values.shape[1]
    return values.flatten(0, 1)[rows]
