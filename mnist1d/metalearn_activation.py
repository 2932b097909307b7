"""Activation functions of N runs at once, learned by exact gradients through whole trainings, then tried out.

The paper's metalearning of an activation function, `metalearn-activation-function.ipynb`. A step of a run is one
training of a net with one hidden layer, and an update of the function. The steps after the last update are trials: in
each the finished function serves a net with new weights on new data, beside a spline fitted to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mnist1d.blocks import OneHotData, Schedule, StackData
from mnist1d.config import Run
from mnist1d.draws import DRAWS, Noise, make_function, task_of
from mnist1d.models.learned import values_and_slopes
from mnist1d.optim import StackedSGD
from mnist1d.problem import StackedProblem
from mnist1d.stack import StackedModel, build_member
from mnist1d.tabulated import Jet, Nets, score, tabulate
from mnist1d.trial import Trial, fitted_splines, initial_squares, of_splines, rule_of

CURVE = torch.linspace(-5, 5, 401)
"""Where functions are looked at."""
TRIED = ("fresh/acc", "spline/acc")
"""How the names of a trial's accuracies begin."""


@dataclass(frozen=True)
class TrialSchedule(Schedule):
    """Trainings, then trials, each a block of its own; the last training and all trials are evaluated."""

    trainings: int

    def stops(self) -> list[int]:
        """Number of finished steps at the end of each block, ascending."""
        return list(range(1, self.max_steps + 1))

    def evaluates(self, step: int) -> bool:
        """Whether the metrics are measured after `step`."""
        return step >= self.trainings - 1 or step % self.eval_every == 0


class StackedMetalearnActivation(StackedProblem):
    """Each step trains every net once and then moves its activation function; trials of the functions follow.

    A function goes down the slope of the mean loss over the last mini-batches of its training. Metrics of a training,
    all with the function before its step: `meta/loss`, that mean; `inner/loss` and `inner/mean_loss`, the last and the
    mean of all; `test/loss` and `test/acc` of the nets so trained; `meta/grad_norm2`, the squared norm of the clamped
    gradient. Of a trial, for the function as `fresh/` and for its spline as `spline/`: `fresh/acc`, test accuracy, and
    `fresh/lr`, the learning rate that validation accuracy chose; after its long part `fresh/acc_long`, `fresh/lr_long`.

    Attributes:
        model: the functions.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__(runs)
        tasks = [task_of(run) for run in runs]
        self.task = tasks[0]
        self.model = StackedModel([build_member(partial(make_function, run), run.seed) for run in runs])
        self.draws = [DRAWS[task.protocol](run) for task, run in zip(tasks, runs, strict=True)]
        for name in ("scale", "hidden_noise", "clamp"):
            self.register_buffer(name, torch.tensor([getattr(task, name) for task in tasks]))
        self.scale: Tensor
        self.hidden_noise: Tensor
        self.clamp: Tensor
        self._snapshots: list[Tensor] = []
        self._measured: dict[str, Tensor] = {}

    @classmethod
    def make_data(cls, runs: Sequence[Run]) -> StackData:
        """The data of the trainings, with one-hot labels; a trial loads its own."""
        trainer = runs[0].trainer
        return OneHotData(runs, TrialSchedule(runs[0].steps, trainer.eval_every, trainer.max_steps))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain gradient descent on the functions, each by its own `task.outer_lr`."""
        rates = [task_of(run).outer_lr for run in self.runs]
        return StackedSGD(self.model.params.values(), rates, [0.0] * len(rates))

    def begin(self) -> None:
        """Trainings share nothing but the members' generators."""

    def train_block(self, steps: range) -> Tensor:
        """A training and an update, or a trial, per step; the losses ``[len(steps), N]`` that they came to."""
        last = self.runs[0].trainer.max_steps
        return torch.stack([self._step(step) if step < last else self._try_out(step - last) for step in steps])

    def measure(self, step: int) -> dict[str, Tensor]:
        """See the class; empty where the schedule does not evaluate."""
        return self._measured if self.data.schedule.evaluates(step) else {}

    # -- a training and an update ------------------------------------------------------------------------

    def _step(self, number: int) -> Tensor:
        if number % self.task.snapshot_every == 0:
            self._snapshots.append(self._curves())
        with torch.set_grad_enabled(self.task.scale > 0):
            noise, tables = self._draw_noise(), tabulate(self._functions(), device=self.device)
            trained = self._train(number, noise, tables)
        losses = trained.losses[-self.task.loss_window :].mean(0)
        self._measured = {"meta/loss": losses.detach(), **self._evaluate(trained, tables, noise)}
        self._measured["meta/grad_norm2"] = self._update(losses)
        return losses.detach()

    def _functions(self) -> Jet:
        return values_and_slopes(self.model.params, [run.model.options["activation"] for run in self.runs], self.scale)

    def _draw_noise(self) -> Noise:
        fields = zip(*(draws.noise() for draws in self.draws), strict=True)
        drawn = (torch.stack(field).to(self.device) for field in fields)
        return Noise(*(field * _column(self.hidden_noise, field) for field in drawn))

    def _train(self, number: int, noise: Noise, tables: Tensor) -> Nets:
        initial = torch.stack([draws.net(number) for draws in self.draws]).to(self.device)
        batches = map(self.data.batches(), range(self.task.inner_steps))
        rates = torch.tensor([run.optimizer.lr for run in self.runs], device=self.device)
        nets = Nets.new(initial, initial_squares(self.runs[0]))
        return nets.train(tables, noise.hidden + self._shift(noise.meta), batches, rule_of(self.runs[0], rates))

    def _shift(self, meta: Tensor) -> Tensor:
        """What noise on a network's hidden units, ``[N, ..., meta_hidden]``, adds to its function, ``[N, ..., 1]``."""
        out = self.model.params["linear2.weight"].squeeze(1) * self.scale.unsqueeze(1)  # [N, meta_hidden]
        return (meta * out.view(len(out), *[1] * (meta.ndim - 2), -1)).sum(-1, keepdim=True)

    @torch.no_grad()
    def _evaluate(self, trained: Nets, tables: Tensor, noise: Noise) -> dict[str, Tensor]:
        shift = noise.last_hidden + self._shift(noise.last_meta)
        loss, accuracy = score(trained.params, tables, shift, *self.data.splits["test"])
        inner = {"inner/loss": trained.losses[-1], "inner/mean_loss": trained.losses.mean(0)}
        return {**inner, "test/loss": loss, "test/acc": accuracy}

    def _update(self, losses: Tensor) -> Tensor:
        """Move the functions down the slope of their losses; the squared norm of what they are moved by, ``[N]``."""
        params, norms = list(self.model.params.values()), torch.zeros_like(losses)
        if self.task.scale == 0:  # the loss does not depend on them
            return norms
        for param, slope in zip(params, torch.autograd.grad(losses.sum(), params), strict=True):
            limit = _column(self.clamp, param)
            param.grad = slope.clamp(-limit, limit)
            norms += param.grad.square().flatten(1).sum(1)
        self.optimizer.step()
        return norms

    # -- trials ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _try_out(self, number: int) -> Tensor:
        """One trial of every member's function, and a short one of its spline; the functions' last losses, ``[N]``."""
        functions, marks = self._functions(), self.task.marks
        tried = {"fresh": (tabulate(functions, device=self.device), marks)}
        if self.task.scale > 0:
            tried["spline"] = tabulate(of_splines(fitted_splines(functions)), device=self.device), marks[:1]
        trials = [Trial(run, number, self.device) for run in self.runs]
        self._measured, losses = {}, {}
        for kind, (tables, marks) in tried.items():
            scored = [trial.scores(tables[:, n : n + 1], marks) for n, trial in enumerate(trials)]
            names = scored[0][0]
            self._measured |= {f"{kind}/{name}": torch.stack([found[name] for found, _ in scored]) for name in names}
            losses[kind] = torch.stack([last for _, last in scored])
        return losses["fresh"]

    # -- what is kept ------------------------------------------------------------------------------------

    def finals(self, member: int) -> dict[str, float]:
        """The last training's losses and accuracy, and means over trials of theirs; empty for a failed run."""
        history = self.histories[member]
        if history.failure:
            return {}
        last = {name: [value for _, value in values] for name, values in history.metrics.items()}
        trials = {f"{name}_mean": sum(values) / len(values) for name, values in last.items() if name.startswith(TRIED)}
        ends = {f"{name}_final": last[name][-1] for name in ("meta/loss", "inner/loss", "inner/mean_loss")}
        return history.final() | ends | trials

    def member_state(self, member: int) -> dict[str, Tensor]:
        """The network by its plain module's names, and the function at CURVE in `snapshots` ``[snapshots, points]``.

        A snapshot is taken before every so many trainings, and one at the end.
        """
        snapshots = torch.stack([snapshot[member] for snapshot in (*self._snapshots, self._curves())])
        return {**self.model.member_state(member), "curve": CURVE, "snapshots": snapshots.cpu()}

    def own_state(self) -> dict[str, Any]:
        """The members' generators and the snapshots."""
        return {"draws": [draws.state() for draws in self.draws], "snapshots": self._snapshots}

    def set_own_state(self, state: dict[str, Any]) -> None:
        """Inverse of `own_state`."""
        self._snapshots = [snapshot.to(self.device) for snapshot in state["snapshots"]]
        for draws, saved in zip(self.draws, state["draws"], strict=True):
            draws.set_state(saved)

    @torch.no_grad()
    def _curves(self) -> Tensor:
        return self._functions()(CURVE.to(self.device, torch.float64))[0].float()


def _column(values: Tensor, like: Tensor) -> Tensor:
    """One value per member, shaped to go with `like` ``[N, ...]``."""
    return values.view(-1, *[1] * (like.ndim - 1))
