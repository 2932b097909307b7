"""A sweep from plan to summary: names, records and shows what the fits measure."""

import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import pytorch_lightning as pl
from hydra.conf import HydraConf
from hydra.types import RunMode
from torch import Tensor

from mnist1d import summary
from mnist1d.config import Run
from mnist1d.cost import expected_seconds, most_members
from mnist1d.plan import Stack, fingerprint, plan
from mnist1d.problem import History, StackedProblem
from mnist1d.spelling import spelled
from mnist1d.terminal import Progress, Terminal
from mnist1d.tracking import FINGERPRINT_TAG, Recorder, Status, TrackingError

OBJECTIVE = "test/acc_final"
"""The metric that Hydra's sweepers see."""
MOST_COMMANDS = 5
"""Failed runs for which a command is printed."""


class Sweep:
    """What one command line asked for: plans the runs, then records and shows them as they are trained.

    As a context it opens the store and the progress bar, and at the end writes and prints the summary. A run that
    has not ended by then, because the user interrupted, is marked KILLED.

    Args:
        runs: all runs, in the order of the command line.
        hydra: the running job's Hydra config: tells a sweep from a single run, and names it.

    Attributes:
        stacks: the runs, packed.
        objective: `test/acc_final` by run, nan while unknown or failed.
        failures: names of the runs that failed, but for those that were free to diverge and did.

    Raises:
        TrackingError: on entering, if the store cannot be used.
    """

    def __init__(self, runs: Sequence[Run], hydra: HydraConf) -> None:
        self.runs, self.hydra = list(runs), hydra
        self.flats = [run.flat() for run in runs]
        self._swept = self._swept_keys()
        self.names = summary.run_names(self.flats, self._swept)
        self.stacks = plan(runs, most_members(runs))
        self.results: list[dict[str, float] | None] = [None] * len(runs)
        self._reasons: dict[int, str] = {}  # why a run has no result
        self._diverged: set[int] = set()  # those of them that trainer.may_diverge lets pass
        self._ids: dict[int, str] = {}  # MLflow's ids of the runs that have begun
        self._ended: set[int] = set()
        self._interrupted = False
        self._terminal = Terminal()
        self._open = ExitStack()
        self._parent: str | None = None
        self._recorder: Recorder
        self._progress: Progress
        self._clock = (0.0, 0.0)

    @property
    def objective(self) -> list[float]:
        """`test/acc_final` of every run, nan for one that failed."""
        return [(result or {}).get(OBJECTIVE, math.nan) for result in self.results]

    @property
    def failures(self) -> list[str]:
        """Names of the runs that failed and were not meant to."""
        return [self.names[index] for index in self._failed]

    @property
    def _failed(self) -> list[int]:
        return sorted(self._reasons.keys() - self._diverged)

    def __enter__(self) -> "Sweep":
        tracking = self.runs[0].tracking
        self._recorder = Recorder(tracking.uri, tracking.experiment)
        steps = sum(run.steps for run in self.runs)
        self._terminal.plan(
            runs=len(self.runs),
            settings=len(summary.settings(self.flats)),
            stacks=len(self.stacks),
            steps=steps,
            where=tracking.uri,
            seconds=expected_seconds(self.stacks),
        )
        if self.hydra.mode == RunMode.MULTIRUN:
            self._parent = self._recorder.open_sweep(self._key, self._title, {"mlflow.note.content": self._note})
        self._progress = self._open.enter_context(self._terminal.progress(len(self.runs), steps))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._open.close()
        self._interrupted = kind is not None
        for index in self._ids.keys() - self._ended:
            self._end(index, "KILLED", f"interrupted by {kind.__name__ if kind else 'the end of the sweep'}")
        rows = summary.summarise(self.flats, self.results)
        if self._parent is not None:
            rows = self._recorder.rows(self._parent)  # of all jobs of the command line, also of earlier calls
            status: Status = "KILLED" if kind else "FAILED" if self._failed else "FINISHED"
            self._recorder.close_sweep(self._parent, rows, status)
        self._show(rows)

    @contextmanager
    def recording(self, stack: Stack) -> Iterator[None]:
        """Opens the MLflow runs of a stack. An exception in its fit fails its runs, and the sweep goes on."""
        for index, run in zip(stack.indices, stack.runs, strict=True):
            tags = {FINGERPRINT_TAG: fingerprint(run), "mnist1d.stack_size": str(len(stack))}
            name = self.names[index]
            self._ids[index] = self._recorder.start(run, parent=self._parent, name=name, tags=tags)
        self._clock = time.perf_counter(), time.process_time()
        try:
            yield
        except TrackingError:  # the store is gone: there is nowhere to record a failure
            raise
        except Exception as error:
            for index in set(stack.indices) - self._ended:
                self._end(index, "FAILED", f"{type(error).__name__}: {error}")

    def callbacks(self, stack: Stack) -> list[pl.Callback]:
        """What a fit of `stack` needs to be seen in MLflow and at the terminal while it runs."""
        return [Live(stack, self)]

    def take_up(self, stack: Stack, module: StackedProblem) -> None:
        """Pass on what the members measured before this process took them up; nothing for a fit that begins."""
        if not module.done:
            return
        self._terminal.goes_on(len(stack), module.done, stack.runs[0].steps)
        self._progress.skip(module.done * len(stack))
        for index, history in zip(stack.indices, module.histories, strict=True):
            rows = [(name, step, value) for name, points in history.metrics.items() for step, value in points]
            self._recorder.log(self._ids[index], rows)

    def log(self, stack: Stack, outputs: dict[str, Any], histories: Sequence[History]) -> None:
        """Pass on one block of `StackedProblem.training_step`, but for members that have failed."""
        columns = {name: values.tolist() for name, values in outputs["metrics"].items()}
        for n, (index, history) in enumerate(zip(stack.indices, histories, strict=True)):
            if columns and history.failure is None:
                rows = [(name, outputs["step"], values[n]) for name, values in columns.items()]
                self._recorder.log(self._ids[index], rows)
                if "test/acc" in columns:
                    self._progress.best(columns["test/acc"][n])
        self._progress.advance(len(outputs["losses"]) * len(stack))

    def record(self, stack: Stack, module: StackedProblem) -> None:
        """Write final metrics and weights of a trained stack and end its runs."""
        wall, cpu = time.perf_counter() - self._clock[0], time.process_time() - self._clock[1]
        self._clock = time.perf_counter(), time.process_time()
        # wall: how long the run was under way; cpu: its share of what the stack used
        resources = {"wall_seconds": wall, "cpu_seconds": cpu / len(stack)}
        for n, (index, history) in enumerate(zip(stack.indices, module.histories, strict=True)):
            if history.failure is not None:
                if self.runs[index].trainer.may_diverge:
                    self._diverged.add(index)
                self._end(index, "FAILED", history.failure, resources)
            else:
                self.results[index] = module.finals(n)
                self._end(index, "FINISHED", None, resources, module.finals(n), module.member_state(n))

    def _end(
        self,
        index: int,
        status: Status,
        reason: str | None,
        resources: Mapping[str, float] | None = None,
        final: Mapping[str, float] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        if reason is not None:
            self._reasons[index] = reason
        self._ended.add(index)
        self._recorder.finish(
            self._ids[index],
            status,
            final=final or {},
            reason=reason,
            weights=weights,
            resources=resources or {},
        )
        self._progress.finished()

    def _show(self, rows: Sequence[summary.Row]) -> None:
        self._terminal.table(rows)
        self._terminal.failures([(self.names[index], self._reasons[index]) for index in self._failed])
        self._terminal.diverged(len(self._diverged))
        name = self._title if self._parent else self.names[0]
        place = self.runs[0].tracking
        self._terminal.where(uri=place.uri, experiment=place.experiment, sweep=name, commands=self._next_commands())

    def _next_commands(self) -> list[str]:
        """What one would type next: after an interruption the same again, which goes on from the last checkpoint; what
        failed, one by one; the figure of an experiment; more seeds."""
        place, experiment = self.runs[0].tracking, self.runs[0].experiment
        if self._interrupted:
            return [
                shlex.join(["python", "train.py", *["-m"] * (self._parent is not None), *self.hydra.overrides.task])
            ]
        if self._failed:
            return [self._command(self.flats[index]) for index in self._failed[:MOST_COMMANDS]]
        if experiment is not None:
            return [f"python analyze.py experiment={experiment} tracking.uri={shlex.quote(place.uri)}"]
        if len({run.seed for run in self.runs}) == 1:
            asked = [text for text in self.hydra.overrides.task if not text.startswith("seed=")]
            return [shlex.join(["python", "train.py", "-m", *asked, "seed=range(20)"])]
        return []

    def _command(self, flat: summary.Flat) -> str:
        """The command line that trains one run alone: what was asked for, the swept keys with this run's values."""
        swept = {("model" if key == "model.name" else key): flat[key] for key in self._swept if key in flat}
        asked = [text for text in self.hydra.overrides.task if text.partition("=")[0] not in swept]
        values = [f"{key}={spelled(value)}" for key, value in swept.items()]
        return shlex.join(["python", "train.py", *asked, *values])

    def _swept_keys(self) -> list[str]:
        """Keys that tell the runs apart; for a run trained alone, those that its command line sets."""
        if len(self.runs) > 1:
            return summary.swept_keys(self.flats)
        given = [text.partition("=")[0].lstrip("+~") for text in self.hydra.overrides.task]
        return [key for key in self.flats[0] if key in given or key.removesuffix(".name") in given]

    @property
    def _key(self) -> str:
        """Identity of the sweep, shared by all jobs of one command line: its output folder."""
        return str(self.hydra.sweep.dir)

    @property
    def _title(self) -> str:
        """Name of the parent run, short enough for a column of the UI; the output folder tells equal ones apart."""
        models = "+".join(dict.fromkeys(run.model.name for run in self.runs))
        folder = self._key.rstrip("/").rpartition("/")[2]
        time = folder.partition("_")[2][:8].replace("-", ":")  # of 2026-11-23_05-43-30-831940
        return f"{self.runs[0].experiment or models} {time or folder}"

    @property
    def _note(self) -> str:
        """What MLflow shows as the parent's description."""
        asked = " ".join(map(shlex.quote, self.hydra.overrides.task))
        return f"    python train.py -m {asked}\n\nTable of settings: `summary.md`, under Artifacts."


class Live(pl.Callback):
    """Tells the sweep of every block as it ends."""

    def __init__(self, stack: Stack, sweep: Sweep) -> None:
        self.stack, self.sweep = stack, sweep

    def on_train_start(self, _trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """What a fit that goes on has behind it is recorded as well."""
        assert isinstance(module, StackedProblem)
        self.sweep.take_up(self.stack, module)

    def on_train_batch_end(
        self, _trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, _batch: Any, _index: int
    ) -> None:
        """`outputs` is what `StackedProblem.training_step` returned."""
        assert isinstance(module, StackedProblem)
        self.sweep.log(self.stack, outputs, module.histories)
