"""What the trainings of a learned activation draw: initial weights and noise, as the reference draws them or anew."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from mnist1d.config import Run
from mnist1d.config.tasks import MetalearnActivation
from mnist1d.models.learned import LearnedActivation
from mnist1d.models.make import make_model
from mnist1d.stack import build_member, member_generator


@dataclass(frozen=True)
class Noise:
    """Uniform noise of one training, from -1 to 1.

    Attributes:
        hidden: of the net's hidden units, ``[N, steps, hidden]``; one draw serves a whole batch.
        meta: of the hidden units of the function's network, ``[N, steps, meta_hidden]``.
        last_hidden: of the evaluation after the last step, ``[N, hidden]``.
        last_meta: of the network in it, ``[N, meta_hidden]``.
    """

    hidden: Tensor
    meta: Tensor
    last_hidden: Tensor
    last_meta: Tensor


class ReferenceDraws:
    """What the reference draws: all of it from torch's global generator, seeded anew before every training.

    That makes the noise the same for every training, and the weights from the second one on: they are what the
    generator gives after one. An evaluation follows every step but the first and draws too; so does each look at the
    function, after a training.
    """

    def __init__(self, run: Run) -> None:
        learned = task_of(run).scale > 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            if learned:
                make_function(run)
            self.first = flat_net(run)
            torch.manual_seed(run.seed)
            self.noise_of_all = self._noise(run, learned)
            if learned:
                torch.rand(1, task_of(run).meta_hidden)
            self.later = flat_net(run)

    @staticmethod
    def _noise(run: Run, learned: bool) -> tuple[Tensor, ...]:
        task, hidden = task_of(run), run.model.options["hidden"]

        def call() -> tuple[Tensor, Tensor]:
            meta = torch.rand(1, task.meta_hidden) if learned else torch.full((1, task.meta_hidden), 0.5)
            return torch.rand(1, hidden), meta

        training, evaluation = [], (torch.full((1, hidden), 0.5), torch.full((1, task.meta_hidden), 0.5))
        for step in range(task.inner_steps):
            training.append(call())
            if step:
                evaluation = call()
        hiddens, metas = (torch.cat(draws) for draws in zip(*training, strict=True))
        return tuple(2 * each - 1 for each in (hiddens, metas, *(draw[0] for draw in evaluation)))

    def net(self, number: int) -> Tensor:
        """Initial weights of a training, ``[P]``."""
        return self.later if number else self.first

    def noise(self) -> tuple[Tensor, ...]:
        """The fields of `Noise` for one member."""
        return self.noise_of_all

    def state(self) -> list[Tensor]:
        """Nothing to keep."""
        return []

    def set_state(self, state: list[Tensor]) -> None:
        """Nothing to restore."""


class FreshDraws:
    """New weights and new noise for every training, from generators of the member's own; no noise in evaluations."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.generators = [member_generator(run.seed, stream) for stream in ("weights", "noise")]

    def net(self, number: int) -> Tensor:
        """Initial weights of a training, ``[P]``."""
        del number
        seed = int(torch.randint(2**31, (1,), generator=self.generators[0]))
        return build_member(partial(flat_net, self.run), seed)

    def noise(self) -> tuple[Tensor, ...]:
        """The fields of `Noise` for one member."""
        task, hidden = task_of(self.run), self.run.model.options["hidden"]
        sizes = (hidden, task.meta_hidden)
        draws = [2 * torch.rand(task.inner_steps, size, generator=self.generators[1]) - 1 for size in sizes]
        return *draws, *(torch.zeros(size) for size in sizes)

    def state(self) -> list[Tensor]:
        """The generators."""
        return [generator.get_state() for generator in self.generators]

    def set_state(self, state: list[Tensor]) -> None:
        """Inverse of `state`."""
        for generator, saved in zip(self.generators, state, strict=True):
            generator.set_state(saved.cpu())


class Draws(Protocol):
    """What one member's trainings draw."""

    def __init__(self, run: Run) -> None: ...

    def net(self, number: int) -> Tensor:
        """Initial weights of a training, ``[P]``."""
        ...

    def noise(self) -> tuple[Tensor, ...]:
        """The fields of `Noise` for one member."""
        ...

    def state(self) -> list[Tensor]:
        """What a resumed fit needs."""
        ...

    def set_state(self, state: list[Tensor]) -> None:
        """Inverse of `state`."""
        ...


DRAWS: dict[str, type[Draws]] = {"reference": ReferenceDraws, "corrected": FreshDraws}


def task_of(run: Run) -> MetalearnActivation:
    """The task of a run, which is this one."""
    assert isinstance(run.task, MetalearnActivation)
    return run.task


def make_function(run: Run) -> LearnedActivation:
    """The function that a run begins with, from torch's global generator."""
    task = task_of(run)
    return LearnedActivation(run.model.options["activation"], hidden=task.meta_hidden, scale=task.scale)


def flat_net(run: Run) -> Tensor:
    """Initial weights of a net, ``[P]``, from torch's global generator."""
    return torch.cat([param.detach().flatten() for param in make_model(run.model).parameters()])
