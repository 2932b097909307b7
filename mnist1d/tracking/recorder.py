"""The one writer of a stack's runs and of its sweep."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, Any, Protocol
from uuid import uuid4

from mlflow.entities import Run, RunTag

from mnist1d import provenance, summary
from mnist1d.process import Process
from mnist1d.spelling import spelled, without_password
from mnist1d.tracking import claims
from mnist1d.tracking.spool import Recorded, Spool, abandoned, record
from mnist1d.tracking.stores import StoreAway, TrackingError, explained, open_store, reachable
from mnist1d.tracking.tags import (
    COPY_TAG,
    DIVERGED_TAG,
    FINGERPRINT_TAG,
    FOLDER_TAG,
    FORCED_TAG,
    KEY_TAG,
    KIND_TAG,
    PARENT_TAG,
    PROCESS_TAG,
    REASON_TAG,
    RUN_NAME_TAG,
    RUNS_TAG,
    SWEEP_TAG,
    WEIGHTS_TAG,
    Status,
)
from mnist1d.tracking.weights import Checkpoint, fetch
from mnist1d.tracking.writer import Row, Writer, finished

if TYPE_CHECKING:
    from torch import Tensor

FLUSH_ROWS = 500
"""A run's metrics are written when so many have gathered ..."""
FLUSH_SECONDS = 30.0
"""... or all runs' when the last writing is so long ago, so that a live UI shows progress."""
RETRY_SECONDS = 30.0
"""How long a store that is away is left in peace before it is tried again."""
REASON_LENGTH = 2000
"""Characters of a failure's reason that are kept; MLflow takes 8000 in a tag."""

log = logging.getLogger(__name__)


class Flattens(Protocol):
    """A run's config: anything that flattens to dotted keys, as `mnist1d.config.Run` does."""

    def flat(self) -> dict[str, Any]:
        """Dotted key -> plain value."""
        ...


class Recorder:
    """Writes runs into one experiment of one MLflow store.

    Args:
        uri: `sqlite:///path.db` (folders are created, artifacts go to `artifacts/` beside the file), a
            server's `http(s)://host:port`, or another database that MLflow supports. Should one of the latter two
            go away while runs are trained, what is to be written is kept in `mlruns/spool/` until it is back.
        experiment: name of the MLflow experiment, created when missing.
        flush_rows: a run's metrics are written when so many are buffered.
        flush_seconds: all runs' metrics are written when the last time is so long ago.

    Raises:
        TrackingError: the store cannot be opened (known within about five seconds), or, from any method,
            something could not be written.
    """

    def __init__(
        self, uri: str, experiment: str, *, flush_rows: int = FLUSH_ROWS, flush_seconds: float = FLUSH_SECONDS
    ) -> None:
        self.uri, self._experiment = uri, experiment
        self.client, self.experiment_id = open_store(uri, experiment)
        self._writer = Writer(self.client, self.experiment_id, uri)
        self._spool = None if uri.startswith("sqlite:") else Spool(uri, experiment)
        self._away: StoreAway | None = None  # why what is to be written goes to the spool
        self._warned, self._tried = False, -inf
        self._ids: dict[str, str] = {}  # our own name for a run -> MLflow's id, of runs made after the store was away
        self._flush_rows, self._flush_seconds = flush_rows, flush_seconds
        self._sweeps: dict[str, str] = {}  # parent run id -> key of the sweep
        self._configs: dict[str, dict[str, Any]] = {}  # run id -> flat config, for the weights file
        self._rows: dict[str, list[Row]] = {}
        self._last_step: dict[str, int] = {}
        self._flushed = time.monotonic()
        self._process = Process.this().spelled()

    def find_sweep(self, folder: str, runs: str, *, forced: bool = False) -> Run | None:
        """The sweep whose last command line had this output folder, else the newest of the same runs.

        With `forced`, of the latter only one that was forced itself and has not finished.
        """
        with self._recording():
            found = self._writer.search(f"tags.`{FOLDER_TAG}` = {_quoted(folder)}", most=1)
            if not found and runs:
                found = self._writer.search(
                    f"tags.`{RUNS_TAG}` = '{runs}'", "attributes.status != 'FINISHED'" if forced else ""
                )
                found = [sweep for sweep in found if FORCED_TAG in sweep.data.tags or not forced]
        return found[0] if found else None

    def open_sweep(
        self, folder: str, name: str, tags: Mapping[str, str], *, runs: str = "", forced: bool = False
    ) -> str:
        """The parent run of a sweep: the one that `find_sweep` finds, set to running again, or a new one.

        Reuse lets Hydra's basic launcher, which trains run by run, and batches of jobs fill one sweep, and a command
        line that was cut off go on in its own. Returns the run id.

        Args:
            folder: output folder of the command line, which its calls share.
            name: the parent's name in the UI, if it is new.
            tags: its tags, if it is new.
            runs: digest of the fingerprints of the runs asked for.
            forced: do not go on in a sweep that was not forced.
        """
        found = self.find_sweep(folder, runs, forced=forced)
        with self._recording():
            if found is None:
                ours = {SWEEP_TAG: folder, FOLDER_TAG: folder, RUNS_TAG: runs, KIND_TAG: "sweep"}
                ours |= {FORCED_TAG: "true"} if forced else {}
                parent, key = self._writer.create(**self._new(name, {**ours, **tags})), folder
            else:
                parent, key = found.info.run_id, found.data.tags[SWEEP_TAG]
                self._take_up(found, folder, runs)
        self._sweeps[parent] = key
        return parent

    def _take_up(self, sweep: Run, folder: str, runs: str) -> None:
        old, known = sweep.data.tags.get(RUNS_TAG, ""), sweep.info.run_id
        if sweep.data.tags[FOLDER_TAG] == folder and old:  # another batch of jobs joins it
            runs = hashlib.sha256(f"{old} {runs}".encode()).hexdigest()[:16]
        self.client.update_run(known, status="RUNNING")
        tags = {FOLDER_TAG: folder, RUNS_TAG: runs, PROCESS_TAG: self._process}
        self.client.log_batch(known, tags=[RunTag(key, value) for key, value in tags.items()])
        if REASON_TAG in sweep.data.tags:
            self.client.delete_tag(known, REASON_TAG)

    def alone(self) -> AbstractContextManager[None]:
        """While other processes wait: looking what is being trained, and claiming what is not, are one thing."""
        return claims.alone(self.uri, self.client)

    def claim(self, parent: str, fingerprints: Iterable[str]) -> None:
        """Say which runs a sweep is going to train; other processes leave them alone while it is running."""
        with self._recording():
            claims.claim(self.client, parent, fingerprints)

    def clear(self, fingerprints: Iterable[str]) -> int:
        """End the runs of dead processes as FAILED, and make sure that no living process trains one of these.

        Processes of other machines count as living. Returns how many runs were ended.

        Raises:
            TrackingError: some are being trained; it names the process.
        """
        with self._recording():
            running = self._writer.search("attributes.status = 'RUNNING'")
            buried, busy = claims.clear(self.client, running, set(fingerprints), self._process)
        if busy:
            raise TrackingError(busy)
        return buried

    def start(self, run: Flattens, *, parent: str | None, name: str, tags: Mapping[str, str]) -> str:
        """Create a run with its config as params, written as on Hydra's command line; returns its run id."""
        config, key = run.flat(), uuid4().hex
        family = {PARENT_TAG: parent, SWEEP_TAG: self._sweeps.get(parent, parent)} if parent else {}
        own = {KEY_TAG: key} if self._spool else {}
        new = self._new(name, {KIND_TAG: "run", **family, **own, **tags}, config)
        run_id = self._do(key, "create", **new) or key
        self._configs[run_id] = config
        return run_id

    def _new(self, name: str, tags: Mapping[str, str], config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Arguments of `Writer.create`."""
        params = {key: spelled(value) for key, value in (config or {}).items()}
        tags = {**provenance.tags(), PROCESS_TAG: self._process, **tags}
        return {"name": name, "tags": tags, "params": params, "started": _now()}

    def copy(self, original: str, run: Flattens, *, parent: str, name: str) -> str:
        """Record a finished or diverged run once more, as a child of another sweep; returns the copy's run id.

        Times and provenance are the original's, params those of `run`, whose labels may differ. The tag
        `mnist1d.copy_of` names the original.

        Args:
            original: its run id.
            run: the config, equal in all that can change a number.
            parent: the sweep that asks for it.
            name: the copy's name.
        """
        with self._recording():
            source = self.client.get_run(original)
            own = {COPY_TAG: source.data.tags.get(COPY_TAG, original), PROCESS_TAG: self._process}
            tags = {**source.data.tags, **own, PARENT_TAG: parent, SWEEP_TAG: self._sweeps[parent], RUN_NAME_TAG: name}
            tags.pop(KEY_TAG, None)
            new = self._new(name, tags, run.flat()) | {"started": source.info.start_time}
            copied = self._writer.create(**new)
            weights = (
                fetch(source.info.artifact_uri, self.uri) | {"config": run.flat()} if WEIGHTS_TAG in tags else None
            )
            rows, ended = self._writer.history(source), source.info.end_time
            self._writer.finish(copied, rows=rows, tags={}, status=source.info.status, ended=ended, weights=weights)
        return copied

    def log(self, run_id: str, rows: Iterable[tuple[str, int, float]]) -> None:
        """Take metrics as (name, optimiser step, value); they are written in batches.

        An infinite value is recorded as NaN: SQLite would give it back as 1.8e308 and pass for finite.
        """
        buffer, now = self._rows.setdefault(run_id, []), _now()
        for name, step, value in rows:
            buffer.append(_row(name, value, now, step))
            self._last_step[run_id] = max(step, self._last_step.get(run_id, 0))
        if time.monotonic() - self._flushed >= self._flush_seconds:
            self.flush()
        elif len(buffer) >= self._flush_rows:
            self._write(run_id)

    def flush(self) -> None:
        """Write what is buffered. On an error it stays buffered; a value written twice counts once."""
        for run_id in list(self._rows):
            self._write(run_id)
        self._flushed = time.monotonic()

    def finish(
        self,
        run_id: str,
        status: Status,
        *,
        final: Mapping[str, float],
        reason: str | None,
        weights: Mapping[str, Tensor] | None,
        resources: Mapping[str, float],
        diverged: bool = False,
    ) -> None:
        """Write what is left of a run and end it.

        Args:
            run_id: what `start` gave.
            status: FINISHED, FAILED or KILLED.
            final: final metrics (`test/acc_final`), recorded at the last step logged.
            reason: why the run did not finish, as tag `mnist1d.reason`.
            weights: one member's parameters by name, saved as artifact `weights.pt`, its SHA-256 as a tag.
            resources: `wall_seconds` and the like, as metrics `time/wall_seconds`.
            diverged: the reason is that a value stopped being finite.
        """
        step, now = self._last_step.get(run_id, 0), _now()
        ends = {**final, **{f"time/{name}": value for name, value in resources.items()}}
        self._rows.setdefault(run_id, []).extend(_row(key, value, now, step) for key, value in ends.items())
        ending: dict[str, Any] = {
            "rows": self._rows[run_id],
            "tags": _tags(reason, diverged),
            "status": status,
            "ended": now,
        }
        self._do(run_id, "finish", None if weights is None else self._checkpoint(run_id, weights), **ending)
        for known in (self._rows, self._configs, self._last_step):
            known.pop(run_id, None)

    def close_sweep(self, parent: str, rows: Sequence[summary.Row], status: Status) -> None:
        """Write a sweep's summary as summary.csv, .md and .json and as metrics of the parent run, and end it.

        The metrics are those of `summary.as_metrics`: `mean/test/acc_final/hidden 50` and so on. While the store is
        away the summary waits, and is then made from all runs of the sweep.
        """
        self.flush()
        self._do(parent, "close", status=status, ended=_now(), later={"rows": rows})

    def note(
        self, run_id: str, params: Mapping[str, str], tags: Mapping[str, str], metrics: Iterable[tuple[str, int, float]]
    ) -> None:
        """Add to what is recorded of a run, in whatever state it is.

        Args:
            run_id: what `open_sweep` or `start` gave.
            params: recorded for good: to record one again with another value is an error.
            tags: replace those of the same name.
            metrics: (name, step, value).
        """
        now = _now()
        rows = [_row(name, value, now, step) for name, step, value in metrics]
        self._do(run_id, "note", params=dict(params), tags=dict(tags), rows=rows)

    def rows(self, parent: str, prints: Sequence[str] = ()) -> list[summary.Row]:
        """Mean, interval and n of every setting of a sweep, from all its runs in the store.

        In the order of their fingerprints in `prints`; those of others after them, oldest first.

        From the store, because the runs of one sweep may have been trained by several processes or calls. Of runs
        with equal fingerprints, which are the same run trained again, the newest FINISHED one counts, or the newest
        if none finished.

        Raises:
            StoreAway: nothing can be read; then runs may be kept in the spool.
        """
        if self._away and not self._resumed():
            raise self._away
        with self._recording():
            return self._writer.settings(parent, prints)

    def done(self, parent: str) -> set[str]:
        """Fingerprints of the runs of a sweep that finished or diverged."""
        with self._recording():
            children = self._writer.children(parent)
            ended = (run for run in children if finished(run) or DIVERGED_TAG in run.data.tags)
            return {run.data.tags.get(FINGERPRINT_TAG, "") for run in ended}

    @property
    def kept(self) -> int:
        """How many runs of this process are in the spool, because the store is away."""
        return self._spool.runs if self._spool else 0

    def close(self) -> None:
        """Leave what is kept to others."""
        if self._spool:
            self._spool.close()

    def catch_up(self) -> Recorded:
        """Record what other processes kept while the store was away, and have ended since."""
        total = Recorded()
        with abandoned(self.uri, self._experiment) as folders:
            for folder in folders:
                done = record(folder, self._writer, {})
                total = Recorded(total.runs + done.runs, {**total.refused, **done.refused})
        return total

    def _write(self, run_id: str) -> None:
        self._do(run_id, "log", rows=self._rows[run_id])
        del self._rows[run_id]

    def _do(
        self,
        run: str,
        do: str,
        weights: Checkpoint | None = None,
        later: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> str | None:
        """Have something written: into the store or, while it is away, into the spool.

        Args:
            run: MLflow's id, or our own name for a run.
            do: a method of `Writer`.
            weights: its argument of that name.
            later: arguments that it finds for itself where it is called later.
            values: its other arguments.

        Returns:
            MLflow's id, if there is one by now.
        """
        if self._away is None:
            try:
                own = {"weights": weights} if weights is not None else {}
                return self._written(run, do, {**values, **own, **(later or {})})
            except StoreAway as error:
                if self._spool is None:
                    raise
                self._away, self._warned, self._tried = error, False, -inf
        assert self._spool is not None
        with explained(self.uri, f"keeping a run in {self._spool.folder}", "Nothing more can be recorded."):
            self._spool.append(run, do, weights, **values)
        if time.monotonic() - self._tried >= RETRY_SECONDS:
            self._resumed()
        return self._ids.get(run)

    def _written(self, run: str, do: str, values: Mapping[str, Any]) -> str:
        with self._recording():
            if do == "create":
                return self._writer.create(**values)
            run_id = self._ids.get(run, run)
            getattr(self._writer, do)(run_id, **values)
            return run_id

    def _resumed(self) -> bool:
        """Whether the store is back and has all that was kept."""
        assert self._spool is not None
        try:
            with self._recording():
                reachable(self.uri, create=False)
            self._spool.record(self._writer, self._ids)
        except StoreAway as error:
            self._warn(f"{error.cause}\n  Training goes on; runs are kept in {self._spool.folder} until it is back.")
            self._tried = time.monotonic()
            return False
        if self._warned:
            log.warning("tracking store %s is back: the runs that were kept are recorded", without_password(self.uri))
        self._away = None
        return True

    def _warn(self, text: str) -> None:
        if not self._warned:
            log.warning("tracking store %s went away: %s", without_password(self.uri), text)
        self._warned = True

    def _checkpoint(self, run_id: str, weights: Mapping[str, Tensor]) -> Checkpoint:
        # a member is a view into its stack, and saving a view would save the whole stack
        state = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        return Checkpoint(state_dict=state, run_id=run_id, config=self._configs.get(run_id, {}))

    @contextmanager
    def _recording(self) -> Iterator[None]:
        with explained(self.uri, "recording to it", "Measured values not yet written are kept in memory."):
            yield


def _tags(reason: str | None, diverged: bool) -> dict[str, str]:
    tags = {REASON_TAG: reason[:REASON_LENGTH]} if reason else {}
    return tags | ({DIVERGED_TAG: "true"} if diverged else {})


def _quoted(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"


def _row(name: str, value: float, timestamp: int, step: int) -> Row:
    number = float(value)
    return name, number if isfinite(number) else nan, timestamp, step


def _now() -> int:
    """Milliseconds since 1970, MLflow's unit."""
    return time.time_ns() // 1_000_000
