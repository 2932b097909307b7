"""The one writer of a stack's runs and of its sweep."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mnist1d import provenance, summary
from mnist1d.process import Process
from mnist1d.spelling import spelled
from mnist1d.tracking import claims
from mnist1d.tracking.stores import TrackingError, explained, open_store
from mnist1d.tracking.tags import (
    COPY_TAG,
    FINGERPRINT_TAG,
    FOLDER_TAG,
    FORCED_TAG,
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
from mnist1d.tracking.weights import WEIGHTS, Checkpoint, load_weights

if TYPE_CHECKING:
    from torch import Tensor

FLUSH_ROWS = 500
"""A run's metrics are written when so many have gathered ..."""
FLUSH_SECONDS = 30.0
"""... or all runs' when the last writing is so long ago, so that a live UI shows progress."""
REASON_LENGTH = 2000
"""Characters of a failure's reason that are kept; MLflow takes 8000 in a tag."""


class Flattens(Protocol):
    """A run's config: anything that flattens to dotted keys, as `mnist1d.config.Run` does."""

    def flat(self) -> dict[str, Any]:
        """Dotted key -> plain value."""
        ...


class Recorder:
    """Writes runs into one experiment of one MLflow store.

    Args:
        uri: `sqlite:///path.db` (folders are created, artifacts go to `artifacts/` beside the file), a
            server's `http(s)://host:port`, or another database that MLflow supports.
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
        self.uri = uri
        self.client, self.experiment_id = open_store(uri, experiment)
        self._flush_rows, self._flush_seconds = flush_rows, flush_seconds
        self._sweeps: dict[str, str] = {}  # parent run id -> key of the sweep
        self._configs: dict[str, dict[str, Any]] = {}  # run id -> flat config, for the weights file
        self._artifacts: dict[str, str] = {}  # run id -> where its artifacts go
        self._rows: dict[str, list[Metric]] = {}
        self._last_step: dict[str, int] = {}
        self._flushed = time.monotonic()
        self._process = Process.this().spelled()

    def find_sweep(self, folder: str, runs: str, *, forced: bool = False) -> Run | None:
        """The sweep whose last command line had this output folder, else the newest of the same runs.

        With `forced`, of the latter only one that was forced itself and has not finished.
        """
        with self._recording():
            found = self._search(f"tags.`{FOLDER_TAG}` = {_quoted(folder)}", most=1)
            if not found and runs:
                found = self._search(
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
                parent, key = self._create(name, ours | ({FORCED_TAG: "true"} if forced else {}) | dict(tags)), folder
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
        return claims.alone(self.uri)

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
            running = self._search("attributes.status = 'RUNNING'")
            buried, busy = claims.clear(self.client, running, set(fingerprints), self._process)
        if busy:
            raise TrackingError(busy)
        return buried

    def start(self, run: Flattens, *, parent: str | None, name: str, tags: Mapping[str, str]) -> str:
        """Create a run with its config as params, written as on Hydra's command line; returns its run id."""
        config = run.flat()
        params = [Param(key, spelled(value)) for key, value in config.items()]
        family = {PARENT_TAG: parent, SWEEP_TAG: self._sweeps.get(parent, parent)} if parent else {}
        with self._recording():
            run_id = self._create(name, {KIND_TAG: "run", **family, **tags})
            self.client.log_batch(run_id, params=params)
        self._configs[run_id] = config
        return run_id

    def copy(self, original: str, run: Flattens, *, parent: str, name: str) -> str:
        """Record a finished run once more, as a child of another sweep; returns the copy's run id.

        Times and provenance are the original's, params those of `run`, whose labels may differ. The tag
        `mnist1d.copy_of` names the original.

        Args:
            original: run id of the finished run.
            run: the config, equal in all that can change a number.
            parent: the sweep that asks for it.
            name: the copy's name.
        """
        config = run.flat()
        with self._recording():
            source = self.client.get_run(original)
            own = {COPY_TAG: source.data.tags.get(COPY_TAG, original), PROCESS_TAG: self._process}
            tags = {**source.data.tags, **own, PARENT_TAG: parent, SWEEP_TAG: self._sweeps[parent], RUN_NAME_TAG: name}
            began, ended = source.info.start_time, source.info.end_time
            copied = self.client.create_run(self.experiment_id, start_time=began, run_name=name, tags=tags).info
            self._artifacts[copied.run_id], self._configs[copied.run_id] = copied.artifact_uri, config
            params = [Param(key, spelled(value)) for key, value in config.items()]
            metrics = [p for key in source.data.metrics for p in self.client.get_metric_history(original, key)]
            self.client.log_batch(copied.run_id, params=params, metrics=metrics)
            if WEIGHTS_TAG in tags:
                weights = load_weights(original, self.uri)["state_dict"]
                self.client.set_tag(copied.run_id, WEIGHTS_TAG, self._save_weights(copied.run_id, weights))
            self.client.set_terminated(copied.run_id, "FINISHED", end_time=ended)
        return copied.run_id

    def log(self, run_id: str, rows: Iterable[tuple[str, int, float]]) -> None:
        """Take metrics as (name, optimiser step, value); they are written in batches.

        An infinite value is recorded as NaN: SQLite would give it back as 1.8e308 and pass for finite.
        """
        buffer, now = self._rows.setdefault(run_id, []), _now()
        for name, step, value in rows:
            buffer.append(_metric(name, value, now, step))
            self._last_step[run_id] = max(step, self._last_step.get(run_id, 0))
        if time.monotonic() - self._flushed >= self._flush_seconds:
            self.flush()
        elif len(buffer) >= self._flush_rows:
            with self._recording():
                self._write(run_id)

    def flush(self) -> None:
        """Write what is buffered. On an error it stays buffered; a value written twice counts once."""
        with self._recording():
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
    ) -> None:
        """Write what is left of a run and end it.

        Args:
            run_id: what `start` gave.
            status: FINISHED, FAILED or KILLED.
            final: final metrics (`test/acc_final`), recorded at the last step logged.
            reason: why the run did not finish, as tag `mnist1d.reason`.
            weights: one member's parameters by name, saved as artifact `weights.pt`, its SHA-256 as a tag.
            resources: `wall_seconds` and the like, as metrics `time/wall_seconds`.
        """
        step, now = self._last_step.get(run_id, 0), _now()
        ends = {**final, **{f"time/{name}": value for name, value in resources.items()}}
        self._rows.setdefault(run_id, []).extend(_metric(k, value, now, step) for k, value in ends.items())
        tags = {REASON_TAG: reason[:REASON_LENGTH]} if reason else {}
        with self._recording():
            if weights is not None:
                tags[WEIGHTS_TAG] = self._save_weights(run_id, weights)
            self._write(run_id, tags)
            self.client.set_terminated(run_id, status)
        for known in (self._configs, self._artifacts, self._last_step):
            known.pop(run_id, None)

    def close_sweep(self, parent: str, rows: Sequence[summary.Row], status: Status) -> None:
        """Write a sweep's summary as summary.csv, .md and .json and as metrics of the parent run, and end it.

        The metrics are those of `summary.as_metrics`: `mean/test/acc_final/hidden 50` and so on.
        """
        self.flush()
        metrics = [_metric(key, value, _now(), 0) for key, value in summary.as_metrics(rows).items()]
        tables = {"csv": summary.as_csv, "md": summary.as_markdown, "json": summary.as_json}
        with self._recording():
            for ending, write in tables.items():
                self.client.log_text(parent, write(rows), f"summary.{ending}")
            self.client.log_batch(parent, metrics=metrics)
            self.client.set_terminated(parent, status)

    def rows(self, parent: str) -> list[summary.Row]:
        """Mean, interval and n of every setting of a sweep, from all its runs in the store.

        From the store, because the runs of one sweep may have been trained by several processes or calls. Of runs
        with equal fingerprints, which are the same run trained again, the newest FINISHED one counts, or the newest
        if none finished.
        """
        counted: dict[str, Run] = {}
        for run in self._children(parent):
            key = run.data.tags.get(FINGERPRINT_TAG, run.info.run_id)
            if _finished(run) or key not in counted or not _finished(counted[key]):
                counted[key] = run
        runs = counted.values()
        flats = [{key: summary.typed(text) for key, text in run.data.params.items()} for run in runs]
        results = [summary.finals(run.data.metrics) if _finished(run) else None for run in runs]
        return summary.summarise(flats, results)

    def finished(self, parent: str) -> set[str]:
        """Fingerprints of the finished runs of a sweep."""
        with self._recording():
            return {run.data.tags.get(FINGERPRINT_TAG, "") for run in self._children(parent) if _finished(run)}

    def _children(self, parent: str) -> Iterator[Run]:
        """All runs of a sweep, oldest first."""
        return reversed(self._search(f"tags.`{PARENT_TAG}` = '{parent}'"))

    def _search(self, *conditions: str, most: int | None = None) -> list[Run]:
        """Runs that meet all conditions, newest first."""
        asked, page = " and ".join(filter(None, conditions)), None
        runs: list[Run] = []
        while page != "" and (most is None or len(runs) < most):
            found = self.client.search_runs(
                [self.experiment_id], asked, max_results=most or 1000, order_by=["start_time DESC"], page_token=page
            )
            runs += found
            page = found.token or ""
        return runs

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        # always with a name: MLflow would make one up from the global random generator
        tags = {**provenance.tags(), PROCESS_TAG: self._process, **tags}
        run = self.client.create_run(self.experiment_id, run_name=name or "run", tags=tags)
        self._artifacts[run.info.run_id] = run.info.artifact_uri
        return run.info.run_id

    def _write(self, run_id: str, tags: Mapping[str, str] | None = None) -> None:
        rows = self._rows.get(run_id, [])
        run_tags = [RunTag(key, value) for key, value in (tags or {}).items()]
        self.client.log_batch(run_id, metrics=rows, tags=run_tags)
        self._rows.pop(run_id, None)

    def _save_weights(self, run_id: str, weights: Mapping[str, Tensor]) -> str:
        """Save the artifact and return its SHA-256."""
        import torch

        # a member is a view into its stack, and saving a view would save the whole stack
        state = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        checkpoint = Checkpoint(state_dict=state, run_id=run_id, config=self._configs.get(run_id, {}))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / WEIGHTS
            torch.save(checkpoint, path)
            # not client.log_artifact, which first reads the whole run back (3 ms)
            get_artifact_repository(self._artifacts[run_id], self.uri).log_artifact(str(path))
            return hashlib.sha256(path.read_bytes()).hexdigest()

    @contextmanager
    def _recording(self) -> Iterator[None]:
        with explained(self.uri, "recording to it", "Measured values not yet written are kept in memory."):
            yield


def _quoted(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"


def _finished(run: Run) -> bool:
    return run.info.status == "FINISHED"


def _metric(name: str, value: float, timestamp: int, step: int) -> Metric:
    number = float(value)
    return Metric(name, number if isfinite(number) else nan, timestamp, step)


def _now() -> int:
    """Milliseconds since 1970, MLflow's unit."""
    return time.time_ns() // 1_000_000
