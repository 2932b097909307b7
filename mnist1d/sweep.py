"""A sweep from plan to summary: names, records and shows what the fits measure."""

import logging
import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType

from hydra.conf import HydraConf
from hydra.types import RunMode
from mlflow.entities import Run as StoredRun
from torch import Tensor

from mnist1d import cost, remaining, summary
from mnist1d.config import Run, limits
from mnist1d.events import Begun, Event, Failed, GoesOn, Measured, Repeated, Trained, Warned
from mnist1d.plan import Stack, digest, fingerprint, plan
from mnist1d.remaining import Recorded
from mnist1d.resume import checkpoint_path, remove_stale
from mnist1d.spelling import without_password
from mnist1d.terminal import Progress, Terminal
from mnist1d.tracking import FINGERPRINT_TAG, SWEEP_TAG, Recorder, Status, StoreAway, TrackingError

log = logging.getLogger(__name__)

OBJECTIVE = "test/acc_final"
"""The metric that Hydra's sweepers see, unless they ask for one (`hydra.sweeper.objective`)."""


class Sweep:
    """What one command line asked for: plans the runs, then records and shows them as they are trained.

    As a context it opens the store, sees what is recorded there already and opens the progress bar; at the end it
    writes and prints the summary. A run that has not ended by then, because the user interrupted, is marked KILLED.

    Args:
        runs: all runs, in the order of the command line.
        hydra: the running job's Hydra config: tells a sweep from a single run, and names it.
        workers: how many stacks will be trained at a time.

    Attributes:
        stacks: the runs, packed; once the context is entered, those that are left to train, in the order of their
            first runs or, for several workers, longest first.
        recorded: runs that were in the store before, by their places.
        objective: by run what its sweeper asks for, `test/acc_final` if nothing; nan while unknown or failed, and
            infinitely bad for a run that was free to diverge and did.
        failures: names of the runs that failed, but for those that were free to diverge and did.
        kept: how many runs are not recorded but kept, because the store went away; known once the context is left.

    Raises:
        TrackingError: on entering, if the store cannot be used, or another process is training some of the runs.
        ConfigError: on entering, if the records of these runs would have no place on the disk.
    """

    def __init__(self, runs: Sequence[Run], hydra: HydraConf, workers: int = 1) -> None:
        self.runs, self.hydra, self.workers = list(runs), hydra, workers
        self.flats = [run.flat() for run in runs]
        self._swept = self._swept_keys()
        self.names = summary.run_names(self.flats, self._swept)
        self.prints = [fingerprint(run) for run in runs]
        self.stacks = plan(runs, cost.most_members(runs))
        self.recorded: dict[int, Recorded] = {}
        self.kept = 0
        self.results: list[dict[str, float] | None] = [None] * len(runs)
        self._many = hydra.mode == RunMode.MULTIRUN
        # what the candidates of a search are compared by, of which these runs are a batch; else None
        self._searched: str | None = hydra.sweeper.get("objective") if self._many else None
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
        self._steps: Counter[int] = Counter()  # optimiser steps that the runs have behind them

    @property
    def objective(self) -> list[float]:
        """One number per run, for Hydra's sweepers."""
        metric = self._searched or OBJECTIVE
        worst = math.inf if "/loss" in metric else -math.inf
        values = [(result or {}).get(metric, math.nan) for result in self.results]
        return [worst if index in self._diverged else value for index, value in enumerate(values)]

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
        remove_stale(place.uri)
        with self._recorder.alone():  # of two equal commands at once one claims the runs, and the other sees it
            self._catch_up()
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

    def _catch_up(self) -> None:
        """Record what an earlier process could not, so that it counts."""
        done = self._recorder.catch_up()
        self._terminal.caught_up(done.runs, list(done.refused.values()))

    def _take_stock(self) -> list[int]:
        """See what the store has and claim the rest; what is left of `stacks` stays.

        Returns the recorded runs that belong to other sweeps, of which this one is to have copies.
        """
        forced, identity = self.runs[0].force, digest([sorted(self.prints), *self._labels])
        sweep = self._recorder.find_sweep(self._folder, identity, forced=forced) if self._many else None
        own = self._recorder.done(sweep.info.run_id) if sweep else set()
        known = remaining.recorded(self.runs)
        if forced:  # what was recorded before does not count, what this sweep recorded before it was cut off does
            known = {print_: run for print_, run in known.items() if print_ in own}
        self.recorded = remaining.by_index(self.prints, known)
        for index, run in self.recorded.items():
            if run.failure is None:
                self.results[index] = run.finals
            else:
                self._reasons[index] = run.failure
                self._diverged.add(index)
        missing = [print_ for print_ in self.prints if print_ not in known]
        limits.refuse_without_disk([run for index, run in enumerate(self.runs) if index not in self.recorded])
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
        """Tell the user what is about to happen; put the stacks into their order."""
        seconds = cost.stack_seconds(self.stacks)
        if self.workers > 1:  # a long one that came last would be waited for by idle workers
            lengths = seconds or [_steps([stack]) for stack in self.stacks]
            order = sorted(range(len(self.stacks)), key=lambda place: -lengths[place])
            self.stacks = [self.stacks[place] for place in order]
        self._terminal.plan(
            runs=len(self.runs),
            settings=len(summary.settings(self.flats)),
            stacks=len(self.stacks),
            steps=_steps(self.stacks),
            where=None if self._searched else self.runs[0].tracking.uri,
            seconds=None if seconds is None else cost.elapsed(seconds, self.workers),
            workers=min(self.workers, len(self.stacks)),
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
            with suppress(StoreAway):  # of all jobs of the command line, also of earlier calls
                rows = self._recorder.rows(self._parent, self.prints)
            status: Status = "KILLED" if kind else "FAILED" if self._failed else "FINISHED"
            if not self._written:
                self._recorder.close_sweep(self._parent, rows, status)
        self.kept = self._recorder.kept
        self._recorder.close()
        self._show(rows)

    def take(self, event: Event) -> None:
        """Record and show what happens to a stack while it trains. An exception of its fit fails its runs alone."""
        match event:
            case Begun():
                self._begin(event.indices)
            case GoesOn():
                self._go_on(event)
            case Measured():
                self._log(event)
            case Trained():
                self._record(event)
            case Warned():
                log.warning(event.text)
            case Repeated():
                self._terminal.repeated(len(event.indices), event.reason)
            case Failed():
                self._fail(event)

    def _begin(self, indices: Sequence[int]) -> None:
        """Open the MLflow runs of a stack, unless they are open: it may be begun twice."""
        for index in indices:
            if index not in self._ids and index not in self.recorded:
                self._start(index, len(indices))

    def _start(self, index: int, size: int) -> None:
        tags = {FINGERPRINT_TAG: self.prints[index], "mnist1d.stack_size": str(size)}
        run, name = self.runs[index], self.names[index]
        self._ids[index] = self._recorder.start(run, parent=self._parent, name=name, tags=tags)

    def _go_on(self, event: GoesOn) -> None:
        """Record what the members measured before they were taken up."""
        self._terminal.goes_on(len(event.indices), event.step, event.steps)
        for n, index in self._unrecorded(event.indices):
            self._log_new(index, event.measured[n])
        self._progress.skip(self._count(event.indices, event.step))

    def _log(self, event: Measured) -> None:
        """Record one block, but for members that have failed."""
        for n, index in self._unrecorded(event.indices):
            if event.metrics and not event.failed[n]:
                self._log_new(index, [(name, event.step, values[n]) for name, values in event.metrics.items()])
                if (shown := "val/acc" if self._searched else "test/acc") in event.metrics:
                    self._progress.best(event.metrics[shown][n])
        self._progress.advance(self._count(event.indices, event.step + 1))

    def _log_new(self, index: int, rows: Sequence[tuple[str, int, float]]) -> None:
        """Record what was not before: a fit that is repeated measures the same again."""
        seen = self._steps[index]
        self._recorder.log(self._ids[index], [row for row in rows if row[1] >= seen])

    def _count(self, indices: Sequence[int], steps: int) -> int:
        """Note that the runs have so many steps behind them; returns how many are new, summed over the runs."""
        new = {index: steps - self._steps[index] for index in indices if steps > self._steps[index]}
        self._steps.update(new)  # a Counter adds
        return sum(new.values())

    def _record(self, event: Trained) -> None:
        """Write final metrics and weights of a trained stack and end its runs."""
        # wall: how long the run was under way; cpu: its share of what the stack used, in all and in a typical step
        shares = {"cpu_seconds": event.cpu, "step_cpu_seconds": event.step_cpu}
        resources = {"wall_seconds": event.wall, **{name: used / len(event.indices) for name, used in shares.items()}}
        for n, index in self._unrecorded(event.indices):
            member = event.members[n]
            if member.failure is not None:
                if self.runs[index].trainer.may_diverge:
                    self._diverged.add(index)
                self._end(index, "FAILED", member.failure, resources, diverged=True)
            else:
                self.results[index] = member.finals
                self._end(index, "FINISHED", None, resources, member.finals, member.weights)
        runs = tuple(self.runs[index] for index in event.indices)
        checkpoint_path(Stack(runs, event.indices)).unlink(missing_ok=True)  # the results are safe

    def _fail(self, event: Failed) -> None:
        self._begin(event.indices)  # its worker may have been lost before it could say a word
        for _, index in self._unrecorded(event.indices):
            if index not in self._ended:
                self._end(index, "FAILED", event.reason)

    def _unrecorded(self, indices: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Place in the stack and place in the sweep of the members that have no record from before."""
        for n, index in enumerate(indices):
            if index not in self.recorded:
                yield n, index

    def _end(
        self,
        index: int,
        status: Status,
        reason: str | None,
        resources: Mapping[str, float] | None = None,
        final: Mapping[str, float] | None = None,
        weights: Mapping[str, Tensor] | None = None,
        diverged: bool = False,
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
            diverged=diverged,
        )
        self._progress.finished()

    def _show(self, rows: Sequence[summary.Row]) -> None:
        if not self._searched:
            self._terminal.table(rows)
        self._terminal.failures([(self.names[index], self._reasons[index]) for index in self._failed])
        self._terminal.diverged(len(self._diverged))
        if self._searched:  # which tells the end, unless there is none
            self._terminal.go_on(self._next_commands() if self._interrupted else [])
            return
        name = self._title if self._parent else self.recorded[0].name if self.recorded else self.names[0]
        place = self.runs[0].tracking
        self._terminal.where(uri=place.uri, experiment=place.experiment, sweep=name, commands=self._next_commands())
        self._terminal.kept(self.kept, self._sync_command())

    def _next_commands(self) -> list[str]:
        """What one would type next: after a failure or an interruption the same again, which trains what is missing;
        the figure of an experiment; more seeds."""
        place, experiment = self.runs[0].tracking, self.runs[0].experiment
        launcher = [text for text in self.hydra.overrides.hydra if text.startswith("hydra.launcher.")]
        asked = [*self.hydra.overrides.task, *launcher]
        if self._interrupted or self._failed:
            return [shlex.join(["python", "train.py", *["-m"] * self._many, *asked])]
        if experiment is not None:
            return [
                f"python analyze.py experiment={experiment} tracking.uri={shlex.quote(without_password(place.uri))}"
            ]
        if len({run.seed for run in self.runs}) == 1:
            more = [text for text in asked if not text.startswith("seed=")]
            return [shlex.join(["python", "train.py", "-m", *more, "seed=range(20)"])]
        return []

    def _sync_command(self) -> str:
        """Records what is kept, and trains nothing."""
        place = [text for text in self.hydra.overrides.task if text.startswith("tracking.")]
        return shlex.join(["python", "train.py", "sync=true", *place])

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
        if self._searched:  # it is the search's own name
            return folder
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
