"""What every learning problem shares: N runs trained together by one Lightning fit, block by block.

A problem is a `StackedProblem` with its own `train` (some optimiser steps of all members) and `measure` (metrics
after a step). The base class walks through the schedule, counts steps, notes what members measured and which of
them failed, and makes resuming exact.
"""

import math
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from mnist1d import optim
from mnist1d.blocks import StackData
from mnist1d.config import Run
from mnist1d.stack import StackedModel


@dataclass
class History:
    """What one run measured: ``metrics[name]`` is a list of (step, value); `failure` the reason it has none."""

    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    failure: str | None = None

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append one evaluation."""
        for name, value in values.items():
            self.metrics.setdefault(name, []).append((step, value))

    def rows(self) -> list[tuple[str, int, float]]:
        """All of it as (metric, step, value)."""
        return [(name, step, value) for name, points in self.metrics.items() for step, value in points]

    def final(self) -> dict[str, float]:
        """Accuracy at the last step, best over evaluations, and where the validation split is best; of that split both
        accuracy and loss at the last step.

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
            ends = {name: self.metrics.get(f"val/{name}", []) for name in ("acc", "loss")}
            final |= {f"val/{name}_final": points[-1][1] for name, points in ends.items() if points}
        return final


class StackedProblem(pl.LightningModule):
    """Trains the members of a stack together; a single run is a stack of one.

    A training "batch" is a block of optimiser steps (`mnist1d.blocks`). ``trainer.global_step`` counts real
    steps. `training_step` returns ``{"step", "losses", "metrics"}``: the last step of the block, the members'
    mini-batch losses ``[steps, N]`` and, where there are any, metrics by name, each ``[N]``.

    Subclasses set `model` and implement `begin`, `train_block`, `measure`; what they keep besides the model, the
    optimiser and the histories goes through `own_state` and `set_own_state`.

    Args:
        runs: configs of the members; equal but for `mnist1d.plan.VALUES`.

    Attributes:
        histories: what each member measured so far.
        done: finished optimiser steps.
        paces: processor time per step of every block so far, in seconds, of all cores and members, evaluations apart.
        begun: whether training is under way: everything is built and, after a resume, restored.
    """

    automatic_optimization = False
    model: StackedModel

    def __init__(self, runs: Sequence[Run]) -> None:
        super().__init__()
        self.runs = list(runs)
        self.histories = [History() for _ in runs]
        self.done = 0
        self.paces: list[float] = []
        self.begun = False
        self._restored: dict[str, Any] | None = None

    # -- what a problem is -------------------------------------------------------------------------------

    @property
    def nets(self) -> list[Run]:
        """The config of every network that is trained, equally many in a row for each run: the runs themselves."""
        return self.runs

    @classmethod
    def make_data(cls, runs: Sequence[Run]) -> StackData:
        """The data module of a stack, with the problem's schedule."""
        return StackData(runs)

    def begin(self) -> None:
        """Called once, on the device, before the first block."""
        raise NotImplementedError

    def train_block(self, steps: range) -> Tensor:
        """Optimiser steps of all members; their mini-batch losses before each update, ``[len(steps), N]``."""
        raise NotImplementedError

    def measure(self, step: int) -> dict[str, Tensor]:
        """Metrics after the update of `step`, the last of a block, by name, each ``[N]``; empty for none."""
        raise NotImplementedError

    def own_state(self) -> dict[str, Any]:
        """Generators, positions and tensors that a resumed fit needs; plain types and tensors only."""
        return {}

    def set_own_state(self, state: dict[str, Any]) -> None:
        """Inverse of `own_state`, after `begin`."""

    def finals(self, member: int) -> dict[str, float]:
        """What a member's run is summed up by; empty for a failed one."""
        return self.histories[member].final()

    def member_state(self, member: int) -> dict[str, Tensor]:
        """What is kept of a member: the `state_dict` of its plain module, on the CPU."""
        return self.model.member_state(member)

    @property
    def pace(self) -> float:
        """Seconds of processor time per step: their median over blocks, little moved by other work on the machine."""
        return median(self.paces)

    # -- how it is trained -------------------------------------------------------------------------------

    @property
    def data(self) -> StackData:
        """The stack's data module."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser over stacked leaves, with a learning rate and weight decay per network."""
        return optim.make_optimizer([net.optimizer for net in self.nets], list(self.model.params.values()))

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The raw optimiser: Lightning's wrapper costs 30 µs a step."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        return optimizer

    def on_train_start(self) -> None:
        """Put the data on the device and, after a resume, everything where it stood."""
        # not in on_load_checkpoint: Lightning draws from and restores things in between
        self.data.to(self.device)
        self.begin()
        if self._restored is not None:
            self.set_own_state(self._restored["own"])
        self.begun = True

    def training_step(self, _batch: int, _index: int) -> dict[str, Any]:
        """One block of optimiser steps for all members."""
        stop = self.data.stops[bisect_right(self.data.stops, self.done)]
        began = time.process_time()
        losses = self.train_block(range(self.done, stop))
        self.paces.append((time.process_time() - began) / (stop - self.done))
        self._count(stop - self.done)
        self.done = stop
        metrics = self.measure(stop - 1)
        self._keep(losses, metrics)
        return {"step": stop - 1, "losses": losses, "metrics": metrics}

    def _count(self, steps: int) -> None:
        """Tell Lightning of optimiser steps taken without its wrapper."""
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        for counter in (progress.total, progress.current):
            counter.ready += steps
            counter.completed += steps

    def _keep(self, losses: Tensor, metrics: dict[str, Tensor]) -> None:
        """Book the block: a member whose loss stops being finite has failed, the others go on untouched."""
        rows = {name: values.tolist() for name, values in metrics.items()}
        first_step = self.done - len(losses)
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
            history.failure = f"{wrong[0]} at step {self.done - 1}"
        else:
            history.add(self.done - 1, values)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what Lightning does not: the position, the members' histories and the problem's own state."""
        checkpoint["stack"] = {
            "done": self.done,
            "paces": self.paces,
            "own": self.own_state(),
            "histories": [{"metrics": h.metrics, "failure": h.failure} for h in self.histories],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Inverse of `on_save_checkpoint`; the problem's own state is set in `on_train_start`."""
        self._restored = checkpoint["stack"]
        self.done, self.paces = checkpoint["stack"]["done"], checkpoint["stack"]["paces"]
        self.histories = [History(**history) for history in checkpoint["stack"]["histories"]]
