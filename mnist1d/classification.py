"""Classification of N runs at once: the loop over optimiser steps, evaluation, and the problem made of them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from mnist1d.blocks import Batches, StreamBatches
from mnist1d.config import Run
from mnist1d.loss import cross_entropy_stacked
from mnist1d.problem import StackedProblem
from mnist1d.reuse import make_member
from mnist1d.stack import StackedModel, build_member, member_generator

EVAL_ROWS = 1000
"""Rows evaluated at once per member: keeps the peak memory of an evaluation near that of a training step."""


class Predictor(Protocol):
    """What can be evaluated: a stack of models, or what its members say together with something else."""

    size: int

    def __call__(self, x: Tensor) -> Tensor:
        """Inputs ``[N, batch, length]`` -> logits ``[N, batch, classes]``."""

    def train(self, mode: bool = True) -> Any:
        """As `torch.nn.Module.train`."""

    def eval(self) -> Any:
        """As `torch.nn.Module.eval`."""


def train_steps(
    model: StackedModel,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[int], tuple[Tensor, Tensor]],
    steps: range,
    objective: Callable[[Tensor, Tensor], Tensor] = cross_entropy_stacked,
) -> Tensor:
    """The inner loop: one optimiser step of all members per element of `steps`.

    Args:
        model: the members.
        optimizer: of their parameters.
        batches: step -> inputs ``[N, batch, length]``, labels ``[N, batch]``.
        steps: numbers of the steps.
        objective: outputs ``[N, batch, outputs]`` and labels -> ``[N]``, what each member minimises.

    Returns:
        The members' objectives on their mini-batches, before each update, ``[len(steps), N]``.
    """
    losses = []
    ones = next(model.parameters()).new_ones(model.size)
    for step in steps:
        x, y = batches(step)
        loss = objective(model(x), y)  # [N]
        optimizer.zero_grad()
        loss.backward(ones)  # the gradient of the sum: by a member's weights, the member's own
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@torch.no_grad()
def evaluate(model: Predictor, splits: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Mean cross-entropy and accuracy in [0, 1] of every member on whole splits.

    Args:
        splits: by name, inputs ``[N or 1, rows, length]`` and labels ``[N or 1, rows]``.

    Returns:
        ``{"train/loss": [N], "train/acc": [N], "test/loss": …}``, float64.
    """
    model.eval()
    metrics = {}
    for name, (x, y) in splits.items():
        metrics[f"{name}/loss"], metrics[f"{name}/acc"] = _score(model, x, y)
    model.train()
    return metrics


def _score(model: Predictor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = (values.expand(model.size, *values.shape[1:]) for values in (x, y))
    loss = torch.zeros(model.size, dtype=torch.float64, device=x.device)
    hits = torch.zeros(model.size, dtype=torch.int64, device=x.device)
    for x_part, y_part in zip(x.split(EVAL_ROWS, dim=1), y.split(EVAL_ROWS, dim=1), strict=True):
        logits = model(x_part)  # [N, rows, classes]
        loss += cross_entropy_stacked(logits, y_part).double() * y_part.shape[1]
        hits += (logits.argmax(-1) == y_part).sum(1)
    return loss / y.shape[1], hits.double() / y.shape[1]


@torch.no_grad()
def class_accuracies(model: Predictor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Share of each digit's samples that every member classifies right: ``{"test/acc_class_0": [N], …}``, float64.

    Args:
        x: inputs ``[N or 1, rows, length]``.
        y: labels ``[N or 1, rows]``; a digit that a member has no sample of is left out.
    """
    x, y = (values.expand(model.size, *values.shape[1:]) for values in (x, y))
    model.eval()
    predicted = torch.cat([model(part).argmax(-1) for part in x.split(EVAL_ROWS, dim=1)], dim=1)
    model.train()
    of_class = y[..., None] == torch.arange(10, device=y.device)  # [N, rows, digit]
    hits = ((predicted == y)[..., None] & of_class).sum(1).double() / of_class.sum(1)
    return {f"test/acc_class_{digit}": column for digit, column in enumerate(hits.T) if not column.isnan().any()}


class StackedClassification(StackedProblem):
    """Classifies digits, with cross-entropy, for a fixed number of steps (paper, Table 1)."""

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__(runs)
        self.model = StackedModel([build_member(partial(make_member, net), net.seed) for net in self.nets])
        self.predictor: Predictor = self.model
        self._batches: Batches | StreamBatches

    def begin(self) -> None:
        """Start the walk through the training data, and what members draw meanwhile."""
        self._batches = self.data.batches(self.nets)
        self.model.draw_from([member_generator(net.seed, "dropout", self.device) for net in self.nets])

    def train_block(self, steps: range) -> Tensor:
        """See `train_steps`."""
        return train_steps(self.model, self.optimizer, self._batches, steps)

    def measure(self, step: int) -> dict[str, Tensor]:
        """Loss and accuracy on all splits where the schedule evaluates; at the end also by digit."""
        schedule = self.data.schedule
        metrics = evaluate(self.predictor, self.data.measured) if schedule.evaluates(step) else {}
        if step == schedule.max_steps - 1:
            metrics |= class_accuracies(self.predictor, *self.data.splits["test"])
        return metrics

    def own_state(self) -> dict[str, Any]:
        """The members' generators, of batches and of dropout."""
        return {"batches": self._batches.state_dict(), "dropout": [g.get_state() for g in self.model.generators]}

    def set_own_state(self, state: dict[str, Any]) -> None:
        """Inverse of `own_state`."""
        self._batches.load_state_dict(state["batches"])
        for generator, saved in zip(self.model.generators, state["dropout"], strict=True):
            generator.set_state(saved.cpu())
