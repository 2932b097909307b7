"""Classification with a training recipe: what is done to inputs, targets, rates, weights and predictions.

Each option is a number of its own for every member of a stack, but for `task.detrend`. With all of them at their
defaults the numbers are those of `task=classification`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from mnist1d.augment import Amounts, Perturbation, detrend, shift
from mnist1d.averaging import WeightAverage
from mnist1d.classification import StackedClassification, train_steps
from mnist1d.config import Run
from mnist1d.config.tasks import Recipe
from mnist1d.data.arguments import Arguments
from mnist1d.loss import cross_entropy_stacked, smoothed_cross_entropy
from mnist1d.schedules import share_of_rate
from mnist1d.stack import StackedModel, member_generator


class EnsemblePredictor(nn.Module):
    """A stack of N ensembles, each of which averages the logits of its nets.

    Args:
        model: the nets, `nets` in a row for each ensemble.
        nets: in an ensemble.
    """

    def __init__(self, model: StackedModel, nets: int) -> None:
        super().__init__()
        self.model, self.nets, self.size = model, nets, model.size // nets

    def forward(self, x: Tensor) -> Tensor:
        """Inputs ``[N, batch, length]`` -> logits ``[N, batch, classes]``."""
        logits: Tensor = self.model(x.repeat_interleave(self.nets, 0))
        return logits.unflatten(0, (self.size, self.nets)).mean(1)


class ShiftedPredictor(nn.Module):
    """A stack whose members average their logits over circular shifts of an input, of up to `reach` either way.

    Args:
        model: the members.
        reach: of each member, in positions; 0 is the input alone.
        level: what is done to every input first, `detrend` or nothing.
    """

    def __init__(self, model: StackedModel | EnsemblePredictor, reach: Sequence[int], level: bool) -> None:
        super().__init__()
        self.model, self.size, self.reach, self.level = model, model.size, list(reach), level

    def forward(self, x: Tensor) -> Tensor:
        """Inputs ``[N, batch, length]`` -> logits ``[N, batch, classes]``."""
        x = detrend(x) if self.level else x
        if not any(self.reach):
            logits: Tensor = self.model(x)
            return logits
        total = x.new_zeros(())
        for by in range(-max(self.reach), max(self.reach) + 1):
            shares = [(abs(by) <= reach) / (2 * reach + 1) for reach in self.reach]
            moved = shift(x, torch.tensor([[by]], device=x.device).expand(x.shape[:2]))
            logits = self.model(detrend(moved) if self.level else moved)
            total = total + logits * logits.new_tensor(shares).view(-1, 1, 1)
        return total


class StackedRecipe(StackedClassification):
    """Classifies digits; the options are those of `mnist1d.config.tasks.Recipe`."""

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__(runs)
        self._tasks = [_task(net) for net in self.nets]
        self._size, self._level = self._tasks[0].ensemble, self._tasks[0].detrend
        together = EnsemblePredictor(self.model, self._size) if self._size > 1 else self.model
        self.predictor = ShiftedPredictor(together, [_task(run).test_shift for run in runs], self._level)
        self._perturbation: Perturbation | None = None
        self._average: WeightAverage

    @cached_property  # every step asks for it
    def nets(self) -> list[Run]:
        """Net k of an ensemble of K is what a run of its own would be with seed ``seed * K + k``."""
        sizes = [_task(run).ensemble for run in self.runs]
        return [
            run.model_copy(update={"seed": run.seed * size + k})
            for run, size in zip(self.runs, sizes, strict=True)
            for k in range(size)
        ]

    def begin(self) -> None:
        """Start the walk through the training data, the augmentation and the mean of the weights."""
        super().begin()
        if any(task.augments for task in self._tasks):
            amounts = [Amounts(task.shift, task.dilation, task.scale_coeff, *task.additions) for task in self._tasks]
            arguments = [Arguments.of(net.data) for net in self.nets]
            generators = [member_generator(net.seed, "augmentation") for net in self.nets]
            self._perturbation = Perturbation(amounts, arguments, generators, self.runs[0].data.batch_size)
        self._average = WeightAverage(self.model.params, [task.average_decay for task in self._tasks])
        smoothing = [task.label_smoothing for task in self._tasks]
        self._objective = cross_entropy_stacked
        if any(smoothing):
            self._objective = partial(smoothed_cross_entropy, smoothing=torch.tensor(smoothing, device=self.device))

    def train_block(self, steps: range) -> Tensor:
        """See `train_steps`."""
        losses = []
        for step in steps:
            self._set_rates(step)
            one = range(step, step + 1)
            losses.append(train_steps(self.model, self.optimizer, self._inputs, one, self._objective))
            self._average.update(step)
        return torch.cat(losses).unflatten(1, (len(self.runs), self._size)).mean(2)

    def _set_rates(self, step: int) -> None:
        steps = self.runs[0].trainer.max_steps
        shares = [share_of_rate(task.rate_schedule, task.warmup, step, steps) for task in self._tasks]
        rates = [net.optimizer.lr * share for net, share in zip(self.nets, shares, strict=True)]
        for group in self.optimizer.param_groups:
            group["lr"] = rates

    def _inputs(self, step: int) -> tuple[Tensor, Tensor]:
        """A mini-batch as the models see it: ``[N, batch, length]``, and its labels."""
        x, y = self._batches(step)
        if self._level:
            x = detrend(x)
        if self._perturbation is not None:
            x = self._perturbation(step, x)
            x = detrend(x) if self._level else x
        return x, y

    def measure(self, step: int) -> dict[str, Tensor]:
        """As without options, of the mean weights and of the shifted predictions."""
        with self._average.in_use():
            return super().measure(step)

    def member_state(self, member: int) -> dict[str, Tensor]:
        """The mean weights of a member; of an ensemble as those of an `nn.ModuleList` of its nets."""
        with self._average.in_use():
            states = [self.model.member_state(member * self._size + k) for k in range(self._size)]
        if len(states) == 1:
            return states[0]
        return {f"{k}.{name}": weights for k, state in enumerate(states) for name, weights in state.items()}

    def own_state(self) -> dict[str, Any]:
        """The members' generators and mean weights."""
        perturbation = {} if self._perturbation is None else {"perturbation": self._perturbation.state_dict()}
        return {**super().own_state(), **perturbation, "average": self._average.state_dict()}

    def set_own_state(self, state: dict[str, Any]) -> None:
        """Inverse of `own_state`."""
        super().set_own_state(state)
        self._average.load_state_dict(state["average"])
        if self._perturbation is not None:
            self._perturbation.load_state_dict(state["perturbation"])


def _task(run: Run) -> Recipe:
    assert isinstance(run.task, Recipe)
    return run.task
