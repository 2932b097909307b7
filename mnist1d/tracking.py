"""Everything that touches MLflow when writing: one `Recorder` per process, one writer per stack.

A sweep is a parent run, its runs are children by the tag `mlflow.parentRunId`. Metrics are buffered and
written as one batch per run, since a batch costs milliseconds and a metric in it a tenth of one: with its
params, tags and weights, a run of 25 evaluations costs about 20 ms.

SQLite is set to write-ahead logging with `synchronous=NORMAL`, which is a third faster and lets `make ui` read while a
sweep writes. A crash of the process loses nothing; a power cut may lose the last seconds, never the database.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict
from urllib.parse import SplitResult, urlsplit

# Decided when mlflow is first imported. Both would write into our progress bar: two lines for every run that ends on a
# server, a bar for every download.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import requests
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError

from mnist1d import provenance, summary
from mnist1d.events import NotTaken
from mnist1d.process import Process
from mnist1d.spelling import spelled

if TYPE_CHECKING:
    from torch import Tensor

FLUSH_ROWS = 500
"""A run's metrics are written when so many have gathered ..."""
FLUSH_SECONDS = 30.0
"""... or all runs' when the last writing is so long ago, so that a live UI shows progress."""
REACH_SECONDS = 3.0
"""How long a server may take to answer the first knock."""
REASON_LENGTH = 2000
"""Characters of a failure's reason that are kept; MLflow takes 8000 in a tag."""
LOCK_SECONDS = 60.0
"""How long to wait while other processes create the store, which takes one to two seconds each."""

WEIGHTS = "weights.pt"
WEIGHTS_TAG = "mnist1d.weights"
SWEEP_TAG = "mnist1d.sweep"
KIND_TAG = "mnist1d.kind"
REASON_TAG = "mnist1d.reason"
PARENT_TAG = "mlflow.parentRunId"
RUN_NAME_TAG = "mlflow.runName"
FINGERPRINT_TAG = "mnist1d.fingerprint"
PROCESS_TAG = "mnist1d.process"
"""Which process records a run; see `mnist1d.process`."""
FOLDER_TAG = "mnist1d.folder"
"""Of a sweep: the output folder of the command line that it was last asked for by."""
RUNS_TAG = "mnist1d.runs"
"""Of a sweep: digest of the fingerprints of its runs; equal for equal command lines."""
FORCED_TAG = "mnist1d.forced"
"""Of a sweep: trained although its runs were recorded."""
COPY_TAG = "mnist1d.copy_of"
"""Of a run that was trained for another sweep: its id there."""
CLAIM = "training.txt"
"""Artifact of a running sweep: fingerprints of the runs that it is training, one a line."""

DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
Status = Literal["FINISHED", "FAILED", "KILLED"]

# The first opening of a store logs every migration as INFO.
for _name in ("alembic", "mlflow.store.db.utils"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class TrackingError(NotTaken):
    """The tracking store cannot be used; the message names the URI, what was tried and what to do."""


class Flattens(Protocol):
    """A run's config: anything that flattens to dotted keys, as `mnist1d.config.Run` does."""

    def flat(self) -> dict[str, Any]:
        """Dotted key -> plain value."""
        ...


class Checkpoint(TypedDict):
    """What `weights.pt` holds; plain enough for `torch.load(..., weights_only=True)`."""

    state_dict: dict[str, Tensor]
    run_id: str
    config: dict[str, Any]


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
        self.client, self.experiment_id = _open(uri, experiment)
        self._flush_rows, self._flush_seconds = flush_rows, flush_seconds
        self._sweeps: dict[str, str] = {}  # parent run id -> key of the sweep
        self._configs: dict[str, dict[str, Any]] = {}  # run id -> flat config, for the weights file
        self._artifacts: dict[str, str] = {}  # run id -> where its artifacts go
        self._rows: dict[str, list[Metric]] = {}
        self._last_step: dict[str, int] = {}
        self._flushed = time.monotonic()
        self._process = Process.this().spelled()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While other processes wait: looking what is being trained, and claiming what is not, are one thing.

        A lock beside an SQLite file; other stores have none, and two commands within a second may both go on.
        """
        if not self.uri.startswith("sqlite:"):
            yield
            return
        with ExitStack() as held:
            with _explained(self.uri, "waiting for other processes", "Try again."):
                held.enter_context(FileLock(f"{_database_path(self.uri, create=False)}.lock", timeout=LOCK_SECONDS))
            yield

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

    def claim(self, parent: str, fingerprints: Iterable[str]) -> None:
        """Say which runs a sweep is going to train; other processes leave them alone while it is running."""
        with self._recording():
            self.client.log_text(parent, "\n".join(fingerprints), CLAIM)

    def clear(self, fingerprints: Iterable[str]) -> int:
        """End the runs of dead processes as FAILED, and make sure that no living process trains one of these.

        Processes of other machines count as living. Returns how many runs were ended.

        Raises:
            TrackingError: some are being trained; it names the process.
        """
        wanted, buried, claimed = set(fingerprints), 0, {}
        with self._recording():
            running = self._search("attributes.status = 'RUNNING'")
        for run in running:
            process = Process.read(run.data.tags.get(PROCESS_TAG, ""))
            if process is None or process.spelled() == self._process:
                continue
            if process.is_dead:
                buried += self._bury(run, process)
            elif found := wanted & self._claimed(run):
                claimed[run.info.run_id] = (len(found), process, run)
        if claimed:  # a sweep claims more than the run that it is training
            count, process, run = max(claimed.values(), key=lambda claim: claim[0])
            raise TrackingError(_busy(process, run, count, len(wanted)))
        return buried

    def _bury(self, run: Run, process: Process) -> int:
        with self._recording():
            self.client.set_tag(
                run.info.run_id, REASON_TAG, f"{process} ended without a word: killed, or the machine was"
            )
            self.client.set_terminated(run.info.run_id, "FAILED")
        return int(run.data.tags.get(KIND_TAG) == "run")

    def _claimed(self, run: Run) -> set[str]:
        """Fingerprints that a running run stands for."""
        if run.data.tags.get(KIND_TAG) != "sweep":
            return {run.data.tags.get(FINGERPRINT_TAG, "")}
        with self._recording(), tempfile.TemporaryDirectory() as folder:
            if CLAIM not in {file.path for file in self.client.list_artifacts(run.info.run_id)}:
                return set()
            return set(Path(self.client.download_artifacts(run.info.run_id, CLAIM, folder)).read_text().split())

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
        with _explained(self.uri, "recording to it", "Measured values not yet written are kept in memory."):
            yield


def load_weights(run_id: str, uri: str) -> Checkpoint:
    """The weights of a run, from its artifacts: state_dict by parameter name, run_id and flat config.

    Raises:
        TrackingError: no such store, run or weights, or the file is another run's.
    """
    advice = "Is the run id right, and did the run finish?"
    with (
        _explained(uri, f"fetching {WEIGHTS} of run {run_id}", advice),
        tempfile.TemporaryDirectory() as folder,
    ):
        client = _client(_reachable(uri, create=False))
        checkpoint = _checkpoint(client.download_artifacts(run_id, WEIGHTS, folder))
    if checkpoint["run_id"] != run_id:
        raise TrackingError(f"{WEIGHTS} of run {run_id} says that it belongs to run {checkpoint['run_id']}")
    return checkpoint


def find_run(path: str | Path) -> str:
    """The run id that a weights file says it came from.

    Raises:
        TrackingError: the file is missing or not one of ours.
    """
    return _checkpoint(path)["run_id"]


def _checkpoint(path: str | Path) -> Checkpoint:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return Checkpoint(state_dict=content["state_dict"], run_id=content["run_id"], config=content["config"])
    except Exception as error:  # torch raises half a dozen kinds for a file that is not its own
        raise TrackingError(f"{path} is not a weights file of a recorded run: {_first_line(error)}") from error


@contextmanager
def reading(uri: str) -> Iterator[MlflowClient]:
    """A client of a store that is there; whatever goes wrong while it is used becomes a TrackingError."""
    with _explained(uri, "reading it", "Set tracking.uri to a store that has runs."):
        yield _client(_reachable(uri, create=False))


def _open(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """A client of the store and the experiment's id, both created where missing."""
    advice = "Set tracking.uri=sqlite:///FOLDER/mlflow.db or MLFLOW_TRACKING_URI to a store you can write to."
    with _explained(uri, "opening it", advice):
        address = _reachable(uri, create=True)
        if not address.startswith("sqlite:"):
            client = _client(address)
            return client, _experiment(client, experiment, None)
        database = Path(address.removeprefix("sqlite:///"))
        lock = Path(f"{database}.lock")
        lock.open("a").close()  # where this fails FileLock would go on trying, as if another process held the lock
        # several processes creating the tables at once fail with "table already exists"
        with FileLock(lock, timeout=LOCK_SECONDS), _fast_sqlite():
            _check_writable(database)
            client = _client(address)
            return client, _experiment(client, experiment, (database.parent / "artifacts").as_uri())


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, artifact_location=artifacts)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process was faster
    if found is None or found.lifecycle_stage != "active":
        raise TrackingError(f"experiment {name!r} was deleted there: restore it, or set another tracking.experiment")
    return found.experiment_id


def _reachable(uri: str, *, create: bool) -> str:
    """`uri` with an absolute path, if something is there: a quick error instead of minutes of retries."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme == "sqlite":
        return f"sqlite:///{_database_path(uri, create=create)}"
    if scheme in ("http", "https"):
        _knock(uri)
    elif scheme in DEFAULT_PORTS:
        address = (parts.hostname or "localhost", parts.port or DEFAULT_PORTS[scheme])
        socket.create_connection(address, timeout=REACH_SECONDS).close()
    else:
        kinds = ", ".join(["sqlite:///PATH.db", "http(s)://HOST:PORT", *(f"{kind}://…" for kind in DEFAULT_PORTS)])
        raise TrackingError(f"a tracking URI is one of {kinds} (MLflow's plain folders are no longer supported)")
    return uri


def _database_path(uri: str, *, create: bool) -> Path:
    name = uri.partition("?")[0].removeprefix("sqlite:///")
    if name in ("", ":memory:") or name.startswith("sqlite:"):
        raise TrackingError("an SQLite store needs a file: sqlite:///relative.db or sqlite:////absolute.db")
    path = Path(name).absolute()  # MLflow would read it against whatever the working directory is later
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
    elif not path.is_file():
        raise TrackingError(f"there is no database at {path}")
    return path


def _knock(uri: str) -> None:
    """One request to a server, without MLflow's minutes of retries."""
    answer = requests.get(f"{uri.rstrip('/')}/health", timeout=REACH_SECONDS)
    if answer.status_code >= 500:
        raise TrackingError(f"the server answers with HTTP status {answer.status_code}")


def _check_writable(database: Path) -> None:
    """Try one write transaction, where MLflow would retry for over a minute before it says that it cannot."""
    connection = sqlite3.connect(database)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()
    finally:
        connection.close()


@contextmanager
def _fast_sqlite() -> Iterator[None]:
    """Connections opened meanwhile, which then stay in the store's pool, use WAL and fewer disk syncs."""

    def tune(connection: object, _record: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            with suppress(sqlite3.OperationalError):  # a file system without shared memory keeps the old journal
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("PRAGMA synchronous=NORMAL")

    event.listen(Engine, "connect", tune)
    try:
        yield
    finally:
        event.remove(Engine, "connect", tune)


def _client(address: str) -> MlflowClient:
    with warnings.catch_warnings():
        # SQLAlchemy 2.1 about MLflow's own tables: nothing a user could do about it
        warnings.filterwarnings("ignore", message="The ``noload`` loader", category=DeprecationWarning)
        return MlflowClient(address)


@contextmanager
def _explained(uri: str, attempt: str, advice: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into a TrackingError that names URI, attempt, cause and advice."""
    failures = (
        TrackingError,
        MlflowException,
        SQLAlchemyError,
        sqlite3.Error,
        requests.RequestException,
        Timeout,
    )
    try:
        yield
    except (*failures, OSError, ImportError, ValueError) as error:
        cause = str(error) if isinstance(error, TrackingError) else _first_line(error)
        message = f"tracking store {_without_password(uri)}: {attempt} failed.\n  {cause}\n  {advice}"
        raise TrackingError(message) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _without_password(uri: str) -> str:
    parts: SplitResult = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


def _busy(process: Process, run: Run, claimed: int, wanted: int) -> str:
    """What a command line is told whose runs another process is training."""
    since = datetime.fromtimestamp(run.info.start_time / 1000).strftime("%Y-%m-%d %H:%M")
    which = "this run is" if wanted == 1 else f"{claimed} of these runs are"
    lines = [f"{which} being trained by {process}, since {since} ({run.info.run_name})."]
    lines.append("  Wait until it has ended, or stop it; then the same command trains what is missing.")
    if not process.is_here:
        lines.append("  Should that machine be gone, delete the run in the UI first: from here nobody can tell.")
    return "\n".join(lines)


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
