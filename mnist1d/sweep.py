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
from mlflow.entities import Run as StoredRun
from torch import Tensor

from mnist1d import remaining, summary
from mnist1d.config import Run
from mnist1d.cost import expected_seconds, most_members
from mnist1d.plan import Stack, digest, fingerprint, plan
from mnist1d.problem import History, StackedProblem
from mnist1d.remaining import Recorded
from mnist1d.terminal import Progress, Terminal
from mnist1d.tracking import FINGERPRINT_TAG, SWEEP_TAG, Recorder, Status, TrackingError

OBJECTIVE = "test/acc_final"
"""The metric that Hydra's sweepers see."""


class Sweep:
    """What one command line asked for: plans the runs, then records and shows them as they are trained.

    As a context it opens the store, sees what is recorded there already and opens the progress bar; at the end it
    writes and prints the summary. A run that has not ended by then, because the user interrupted, is marked KILLED.

    Args:
        runs: all runs, in the order of the command line.
        hydra: the running job's Hydra config: tells a sweep from a single run, and names it.

    Attributes:
        stacks: the runs, packed; once the context is entered, those that are left to train.
        recorded: runs that were in the store before, by their places.
        objective: `test/acc_final` by run, nan while unknown or failed.
        failures: names of the runs that failed, but for those that were free to diverge and did.

    Raises:
        TrackingError: on entering, if the store cannot be used, or another process is training some of the runs.
    """

    def __init__(self, runs: Sequence[Run], hydra: HydraConf) -> None:
        self.runs, self.hydra = list(runs), hydra
        self.flats = [run.flat() for run in runs]
        self._swept = self._swept_keys()
        self.names = summary.run_names(self.flats, self._swept)
        self.prints = [fingerprint(run) for run in runs]
        self.stacks = plan(runs, most_members(runs))
        self.recorded: dict[int, Recorded] = {}
        self.results: list[dict[str, float] | None] = [None] * len(runs)
        self._many = hydra.mode == RunMode.MULTIRUN
        self._reasons: dict[int, str] = {}  # why a run has no result
        self._diverged: set[int] = set()  # those of them that trainer.may_diverge lets pass
        self._ids: dict[int, str] = {}  # MLflow's ids of the runs that have begun
        self._ended: set[int] = set()
        self._interrupted = False
        self._terminal = Terminal()
        self._open = ExitStack()
        self._parent: str | None = None
        self._title = self._new_title()
        self._written = False  # whether the parent has its summary already
        self._recorder: Recorder
        self._progress = Progress(0, 0)
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
        place = self.runs[0].tracking
        self._recorder = Recorder(place.uri, place.experiment)
        with self._recorder.alone():  # of two equal commands at once one claims the runs, and the other sees it
            copies = self._take_stock()
        try:
            self._announce()
            for index in copies:
                self._copy(index)
            if self.stacks:
                steps, done = _steps(self.stacks), len(self.recorded)
                self._progress = self._open.enter_context(self._terminal.progress(len(self.runs), steps, done))
        except BaseException as error:  # leaving a context that was not entered is ours to do
            self.__exit__(type(error), error, None)
            raise
        return self

    def _take_stock(self) -> list[int]:
        """See what the store has and claim the rest; what is left of `stacks` stays.

        Returns the recorded runs that belong to other sweeps, of which this one is to have copies.
        """
        forced, identity = self.runs[0].force, digest([sorted(self.prints), *self._labels])
        sweep = self._recorder.find_sweep(self._folder, identity, forced=forced) if self._many else None
        own = self._recorder.finished(sweep.info.run_id) if sweep else set()
        known = remaining.recorded(self.runs)
        if forced:  # what was recorded before does not count, what this sweep recorded before it was cut off does
            known = {print_: run for print_, run in known.items() if print_ in own}
        self.recorded = remaining.by_index(self.prints, known)
        for index, run in self.recorded.items():
            self.results[index] = run.finals
        missing = [print_ for print_ in self.prints if print_ not in known]
        self._terminal.orphans(self._recorder.clear(missing))
        key = self._folder if sweep is None else sweep.data.tags[SWEEP_TAG]
        left = [remaining.left(stack, self.recorded, key) for stack in self.stacks]
        self.stacks = [stack for stack in left if stack is not None]
        copies = [index for index in self.recorded if self.prints[index] not in own] if self._many else []
        self._open_or_start(sweep, identity, missing, copies)
        return copies

    def _open_or_start(self, sweep: StoredRun | None, identity: str, missing: list[str], copies: list[int]) -> None:
        """Put into the store that this process trains what is missing."""
        if sweep is not None:
            self._parent, self._title = sweep.info.run_id, sweep.info.run_name
            self._written = sweep.info.status == "FINISHED" and not missing and not copies
        if self._many and not self._written:
            note = {"mlflow.note.content": self._note}
            forced = self.runs[0].force
            self._parent = self._recorder.open_sweep(self._folder, self._title, note, runs=identity, forced=forced)
            self._recorder.claim(self._parent, missing)
        elif missing:
            self._start(0, 1)

    def _announce(self) -> None:
        """Tell the user what is about to happen."""
        self._terminal.plan(
            runs=len(self.runs),
            settings=len(summary.settings(self.flats)),
            stacks=len(self.stacks),
            steps=_steps(self.stacks),
            where=self.runs[0].tracking.uri,
            seconds=expected_seconds(self.stacks),
        )
        others = [run.code[0] for run in self.recorded.values() if not run.of_this_code]
        self._terminal.recorded(len(self.recorded), len(self.runs), others)

    def _copy(self, index: int) -> None:
        """Make a run that was trained for another sweep a child of this one as well."""
        assert self._parent is not None
        run, name = self.runs[index], self.names[index]
        self._recorder.copy(self.recorded[index].run_id, run, parent=self._parent, name=name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._open.close()
        self._interrupted = kind is not None
        if isinstance(error, TrackingError):  # nothing more can be recorded; the next start repairs what is open
            self._terminal.go_on(self._next_commands())
            return
        for index in self._ids.keys() - self._ended:
            self._end(index, "KILLED", f"interrupted by {error or 'the end of the sweep'}")
        rows = summary.summarise(self.flats, self.results)
        if self._parent is not None:
            rows = self._recorder.rows(self._parent)  # of all jobs of the command line, also of earlier calls
            status: Status = "KILLED" if kind else "FAILED" if self._failed else "FINISHED"
            if not self._written:
                self._recorder.close_sweep(self._parent, rows, status)
        self._show(rows)

    @contextmanager
    def recording(self, stack: Stack) -> Iterator[None]:
        """Opens the MLflow runs of a stack. An exception in its fit fails its runs, and the sweep goes on."""
        for index in set(stack.indices) - self._ids.keys() - self.recorded.keys():
            self._start(index, len(stack))
        self._clock = time.perf_counter(), time.process_time()
        try:
            yield
        except TrackingError:  # the store is gone: there is nowhere to record a failure
            raise
        except Exception as error:
            for index in self._ids.keys() & set(stack.indices) - self._ended:
                self._end(index, "FAILED", f"{type(error).__name__}: {error}")

    def _start(self, index: int, size: int) -> None:
        tags = {FINGERPRINT_TAG: self.prints[index], "mnist1d.stack_size": str(size)}
        run, name = self.runs[index], self.names[index]
        self._ids[index] = self._recorder.start(run, parent=self._parent, name=name, tags=tags)

    def callbacks(self, stack: Stack) -> list[pl.Callback]:
        """What a fit of `stack` needs to be seen in MLflow and at the terminal while it runs."""
        return [Live(stack, self)]

    def take_up(self, stack: Stack, module: StackedProblem) -> None:
        """Pass on what the members measured before this process took them up; nothing for a fit that begins."""
        if not module.done:
            return
        self._terminal.goes_on(len(stack), module.done, stack.runs[0].steps)
        self._progress.skip(module.done * len(stack))
        for _, index, history in self._unrecorded(stack, module.histories):
            rows = [(name, step, value) for name, points in history.metrics.items() for step, value in points]
            self._recorder.log(self._ids[index], rows)

    def log(self, stack: Stack, outputs: dict[str, Any], histories: Sequence[History]) -> None:
        """Pass on one block of `StackedProblem.training_step`, but for members that have failed."""
        columns = {name: values.tolist() for name, values in outputs["metrics"].items()}
        for n, index, history in self._unrecorded(stack, histories):
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
        for n, index, history in self._unrecorded(stack, module.histories):
            if history.failure is not None:
                if self.runs[index].trainer.may_diverge:
                    self._diverged.add(index)
                self._end(index, "FAILED", history.failure, resources)
            else:
                self.results[index] = module.finals(n)
                self._end(index, "FINISHED", None, resources, module.finals(n), module.member_state(n))

    def _unrecorded(self, stack: Stack, histories: Sequence[History]) -> Iterator[tuple[int, int, History]]:
        """Place in the stack, place in the sweep and history of the members that have no record from before."""
        for n, (index, history) in enumerate(zip(stack.indices, histories, strict=True)):
            if index not in self.recorded:
                yield n, index, history

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
        name = self._title if self._parent else self.recorded[0].name if self.recorded else self.names[0]
        place = self.runs[0].tracking
        self._terminal.where(uri=place.uri, experiment=place.experiment, sweep=name, commands=self._next_commands())

    def _next_commands(self) -> list[str]:
        """What one would type next: after a failure or an interruption the same again, which trains what is missing;
        the figure of an experiment; more seeds."""
        place, experiment, asked = self.runs[0].tracking, self.runs[0].experiment, self.hydra.overrides.task
        if self._interrupted or self._failed:
            return [shlex.join(["python", "train.py", *["-m"] * self._many, *asked])]
        if experiment is not None:
            return [f"python analyze.py experiment={experiment} tracking.uri={shlex.quote(place.uri)}"]
        if len({run.seed for run in self.runs}) == 1:
            more = [text for text in asked if not text.startswith("seed=")]
            return [shlex.join(["python", "train.py", "-m", *more, "seed=range(20)"])]
        return []

    def _swept_keys(self) -> list[str]:
        """Keys that tell the runs apart; for a run trained alone, those that its command line sets."""
        if len(self.runs) > 1:
            return summary.swept_keys(self.flats)
        given = [text.partition("=")[0].lstrip("+~") for text in self.hydra.overrides.task]
        return [key for key in self.flats[0] if key in given or key.removesuffix(".name") in given]

    @property
    def _folder(self) -> str:
        """Output folder of the command line, shared by all its jobs."""
        return str(self.hydra.sweep.dir)

    @property
    def _labels(self) -> tuple[str | None, str]:
        return self.runs[0].experiment, self.runs[0].profile

    def _new_title(self) -> str:
        """Name of the parent run, short enough for a column of the UI; the output folder tells equal ones apart."""
        models = "+".join(dict.fromkeys(run.model.name for run in self.runs))
        folder = self._folder.rstrip("/").rpartition("/")[2]
        time = folder.partition("_")[2][:8].replace("-", ":")  # of 2026-11-23_05-43-30-831940
        return f"{self.runs[0].experiment or models} {time or folder}"

    @property
    def _note(self) -> str:
        """What MLflow shows as the parent's description."""
        asked = " ".join(map(shlex.quote, self.hydra.overrides.task))
        return f"    python train.py -m {asked}\n\nTable of settings: `summary.md`, under Artifacts."


def _steps(stacks: Sequence[Stack]) -> int:
    """Optimiser steps, summed over the runs."""
    return sum(run.steps for stack in stacks for run in stack.runs)


class Live(pl.Callback):
    """Tells the sweep of every block as it ends."""

    def __init__(self, stack: Stack, sweep: Sweep) -> None:
        self.stack, self.sweep = stack, sweep
        self._began = False

    def on_train_batch_start(self, _trainer: pl.Trainer, module: pl.LightningModule, _batch: Any, _index: int) -> None:
        """What a fit that goes on has behind it is recorded as well, once it is certain that it does go on."""
        assert isinstance(module, StackedProblem)
        if not self._began:
            self.sweep.take_up(self.stack, module)
        self._began = True

    def on_train_batch_end(
        self, _trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, _batch: Any, _index: int
    ) -> None:
        """`outputs` is what `StackedProblem.training_step` returned."""
        assert isinstance(module, StackedProblem)
        self.sweep.log(self.stack, outputs, module.histories)
