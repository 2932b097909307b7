"""Classification of N runs at once: the LightningModule of a stack, for a fixed number of steps (paper, Table 1)."""

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from mnist1d import optim
from mnist1d.blocks import Batches, StackData, StreamBatches
from mnist1d.config import Run
from mnist1d.loss import cross_entropy_stacked
from mnist1d.models.make import make_model
from mnist1d.stack import StackedModel, build_member

EVAL_ROWS = 1000
"""Rows evaluated at once per member: keeps the peak memory of an evaluation near that of a training step."""


@dataclass
class History:
    """What one run measured: ``metrics[name]`` is a list of (step, value); `failure` the reason it has none."""

    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    failure: str | None = None

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append one evaluation."""
        for name, value in values.items():
            self.metrics.setdefault(name, []).append((step, value))

    def final(self) -> dict[str, float]:
        """Accuracy at the last step, best over evaluations, and where the validation split is best.

        `test/acc_best` is an oracle: it looks at test data to choose the step, as the paper's table implies.
        Ties of validation accuracy go to the earliest step. Empty for a failed run.
        """
        if self.failure or "test/acc" not in self.metrics:
            return {}
        test = dict(self.metrics["test/acc"])
        final = {"test/acc_final": list(test.values())[-1], "test/acc_best": max(test.values())}
        if "val/acc" in self.metrics:
            best_step, _ = max(self.metrics["val/acc"], key=lambda point: (point[1], -point[0]))
            final |= {"test/acc_selected": test[best_step], "val/acc_selected_step": float(best_step)}
        return final


def train_steps(
    model: StackedModel,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[int], tuple[Tensor, Tensor]],
    steps: range,
) -> Tensor:
    """The inner loop: one optimiser step of all members per element of `steps`.

    Returns:
        The members' mean cross-entropy on their mini-batches, before each update, ``[len(steps), N]``.
    """
    losses = []
    ones = next(model.parameters()).new_ones(model.size)
    for step in steps:
        x, y = batches(step)
        loss = cross_entropy_stacked(model(x), y)  # [N]
        optimizer.zero_grad()
        loss.backward(ones)  # the gradient of the sum: by a member's weights, the member's own
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@torch.no_grad()
def evaluate(model: StackedModel, splits: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
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


def _score(model: StackedModel, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = (values.expand(model.size, *values.shape[1:]) for values in (x, y))
    loss = torch.zeros(model.size, dtype=torch.float64, device=x.device)
    hits = torch.zeros(model.size, dtype=torch.int64, device=x.device)
    for x_part, y_part in zip(x.split(EVAL_ROWS, dim=1), y.split(EVAL_ROWS, dim=1), strict=True):
        logits = model(x_part)  # [N, rows, classes]
        loss += cross_entropy_stacked(logits, y_part).double() * y_part.shape[1]
        hits += (logits.argmax(-1) == y_part).sum(1)
    return loss / y.shape[1], hits.double() / y.shape[1]


@torch.no_grad()
def class_accuracies(model: StackedModel, x: Tensor, y: Tensor) -> dict[str, Tensor]:
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


class StackedClassification(pl.LightningModule):
    """Trains the members of a stack together; a single run is a stack of one.

    A training "batch" is a block of optimiser steps (`mnist1d.blocks`). ``trainer.global_step`` counts real
    steps. `training_step` returns ``{"step", "losses", "metrics"}``: the last step of the block, the members'
    mini-batch losses ``[steps, N]`` and, where the schedule evaluates, metrics by name, each ``[N]``.

    Args:
        runs: configs of the members; equal but for `mnist1d.plan.VALUES`.
    """

    automatic_optimization = False

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__()
        self.runs = list(runs)
        self.model = StackedModel([build_member(partial(make_model, run.model), run.seed) for run in runs])
        self.histories = [History() for _ in runs]
        self._done = 0  # finished optimiser steps
        self._batches: Batches | StreamBatches
        self._restored: dict[str, Any] | None = None

    @property
    def data(self) -> StackData:
        """The stack's data module."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser over stacked leaves, with a learning rate and weight decay per member."""
        return optim.make_optimizer([run.optimizer for run in self.runs], list(self.model.params.values()))

    def on_train_start(self) -> None:
        """Put the data on the device and, after a resume, every generator where it stood."""
        # not in on_load_checkpoint: Lightning draws from and restores things in between
        self.data.to(self.device)
        self._batches = self.data.batches()
        if self._restored is not None:
            self._batches.load_state_dict(self._restored["batches"])

    def training_step(self, _batch: int, _index: int) -> dict[str, Any]:
        """One block of optimiser steps for all members."""
        stop = self.data.stops[bisect_right(self.data.stops, self._done)]
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        losses = train_steps(self.model, optimizer, self._batches, range(self._done, stop))
        self._count(stop - self._done)
        self._done = stop
        metrics = evaluate(self.model, self.data.measured) if self.data.schedule.evaluates(stop - 1) else {}
        if stop == self.data.schedule.max_steps:
            metrics |= class_accuracies(self.model, *self.data.splits["test"])
        self._keep(losses, metrics)
        return {"step": stop - 1, "losses": losses, "metrics": metrics}

    def _count(self, steps: int) -> None:
        """Tell Lightning of optimiser steps taken without its wrapper, which costs 30 µs a step."""
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for counter in (progress.total, progress.current):
            counter.ready += steps
            counter.completed += steps

    def _keep(self, losses: Tensor, metrics: dict[str, Tensor]) -> None:
        """Book the block: a member whose loss stops being finite has failed, the others go on untouched."""
        rows = {name: values.tolist() for name, values in metrics.items()}
        first_step = self._done - len(losses)
        finite = losses.isfinite().cpu()
        for n, history in enumerate(self.histories):
            if history.failure is None and not finite[:, n].all():
                bad = int(finite[:, n].logical_not().nonzero()[0])
                history.failure = f"the training loss became {losses[bad, n]:g} at step {first_step + bad}"
            if history.failure is None and rows:
                self._add(history, {name: row[n] for name, row in rows.items()})
        if all(history.failure for history in self.histories):
            self.trainer.should_stop = True

    def _add(self, history: History, values: dict[str, float]) -> None:
        wrong = [f"{name} became {value:g}" for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            history.failure = f"{wrong[0]} at step {self._done - 1}"
        else:
            history.add(self._done - 1, values)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what Lightning does not: the position, the members' generators and histories (plain types only)."""
        checkpoint["stack"] = {
            "done": self._done,
            "batches": self._batches.state_dict(),
            "histories": [{"metrics": h.metrics, "failure": h.failure} for h in self.histories],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Inverse of `on_save_checkpoint`; generators are set in `on_train_start`."""
        self._restored = checkpoint["stack"]
        self._done = checkpoint["stack"]["done"]
        self.histories = [History(**history) for history in checkpoint["stack"]["histories"]]
