"""Runs from MLflow: the only place that reads the store.

A plain local `sqlite:///` store is read with five SQL queries, which takes a tenth of the client's time and
does without importing mlflow. Every other store, and a database whose tables are not as expected, goes
through `MlflowClient`: runs in pages of 1000, histories one by one in threads, because the public API has no
bulk call. Both roads give the same `Runs`; tests hold them together.

Every query is a transaction of its own, so that a sweep that is being written waits for no more than one of
them; under write-ahead logging it does not wait at all.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from mnist1d.summary import typed

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as StoredRun

T = TypeVar("T")

FINGERPRINT = "mnist1d.fingerprint"  # the tag every run of ours has, and nothing else: sweeps have none
SWEEP = "mnist1d.sweep"
KIND = "mnist1d.kind"
_INFINITY = 1.797e308  # SQL stores keep an infinite value as the largest double


class StoreError(RuntimeError):
    """The store cannot be read; the message says which and why."""


@dataclass(frozen=True)
class Runs:
    """Runs as analysis wants them, every fingerprint once.

    table      one row per run: run_id, name, status, started and ended (ms since 1970), the config under its
               own dotted keys with its own types (lists as tuples), last metrics under their names
               (`test/acc_final`), tags under theirs (`mnist1d.sweep`). What a run lacks is None or nan.
    histories  metric -> frame [run_id, step]; nan where a run was not evaluated at that step
    artifacts  run_id -> where its files lie, e.g. file:///…/artifacts
    """

    table: pd.DataFrame
    histories: dict[str, pd.DataFrame]
    artifacts: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def finished(self) -> pd.DataFrame:
        """The rows whose numbers count."""
        return self.table[self.table["status"] == "FINISHED"]

    @property
    def missing(self) -> pd.DataFrame:
        """The rows that were started and gave no result: FAILED, KILLED, RUNNING or SCHEDULED."""
        return self.table[self.table["status"] != "FINISHED"]

    def where(self, key: str, value: Any) -> Runs:
        """The runs whose column `key` of the table equals `value`; none where there is no such column."""
        kept = self.table[key] == value if key in self.table else np.zeros(len(self), dtype=bool)
        return Runs(self.table[kept], self.histories, self.artifacts)

    def curves(self, metric: str, run_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """One metric of some runs: steps # [step], ascending, and values # [run, step].

        Only the steps at which at least one of them was evaluated; a run without the metric is a row of nan.
        """
        rows = self.histories[metric].reindex(run_ids).dropna(axis="columns", how="all")
        return rows.columns.to_numpy(), rows.to_numpy()


def read_runs(
    uri: str,
    experiment: str | None = None,
    sweep: str | None = None,
    metrics: Sequence[str] = (),
    folder: str | None = None,
    fingerprints: Sequence[str] | None = None,
) -> Runs:
    """Read runs, their configs and final metrics, and the histories of the metrics named.

    uri          of the MLflow store, e.g. sqlite:///mlruns/mlflow.db or http://127.0.0.1:5000
    experiment   only runs whose config has this `experiment`
    sweep        only runs whose tag mnist1d.sweep is this
    metrics      the metrics whose histories are read
    folder       only runs in this MLflow experiment (the config's tracking.experiment)
    fingerprints only runs whose tag mnist1d.fingerprint is one of these, each however often it was trained

    Of runs with equal fingerprints the newest FINISHED one counts, or the newest if none finished. A local
    store that does not exist yet gives empty Runs and is not created. Raises StoreError where there is a
    store and it cannot be read.
    """
    prints = None if fingerprints is None else tuple(fingerprints)
    wanted = _Wanted(experiment, sweep, folder, tuple(metrics), prints)
    parts = _by_either_road(
        uri,
        short=lambda database: _from_sqlite(database, wanted),
        long=lambda: _from_client(uri, wanted),
        nothing=_parts(),
    )
    return _assemble(parts, wanted.metrics)


def sweeps(uri: str, folder: str | None = None) -> pd.DataFrame:
    """The sweeps of a store, oldest first: run_id, key, name, started (ms since 1970), status, folder.

    `run_id` and `name` are those of the parent run, `key` is the tag mnist1d.sweep that its runs have too,
    `folder` the MLflow experiment it is in. Arguments, absent stores and StoreError as for `read_runs`.
    """
    found = _by_either_road(
        uri,
        short=lambda database: _sweeps_from_sqlite(database, folder),
        long=lambda: _sweeps_from_client(uri, folder),
        nothing=pd.DataFrame(columns=_SWEEP_COLUMNS),
    )
    return found.sort_values("started", kind="stable", ignore_index=True)


def _by_either_road(uri: str, *, short: Callable[[Path], T], long: Callable[[], T], nothing: T) -> T:
    database = _local_database(uri)
    if database is None:
        return long()
    if not database.exists():
        return nothing
    try:
        return short(database)
    except (sqlite3.Error, pd.errors.DatabaseError):
        return long()


@dataclass(frozen=True)
class _Wanted:
    experiment: str | None
    sweep: str | None
    folder: str | None
    metrics: tuple[str, ...]
    fingerprints: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Parts:
    """What either road brings back, before it is put together."""

    runs: pd.DataFrame  # run_id, name, status, started, ended, artifacts
    params: pd.DataFrame  # run_id, key, value
    tags: pd.DataFrame  # run_id, key, value
    finals: pd.DataFrame  # run_id, key, value
    points: pd.DataFrame  # run_id, key, step, value; oldest first


# -- the short road: a local sqlite file ------------------------------------------------------------------


def _local_database(uri: str) -> Path | None:
    prefix, _, path = uri.partition(":///")
    return Path(path) if prefix == "sqlite" and path and "?" not in path else None


_CHOSEN = """
WITH chosen AS (
  SELECT run_uuid FROM runs JOIN experiments USING (experiment_id)
  WHERE runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active'
    AND (:folder IS NULL OR experiments.name = :folder)
    AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'mnist1d.fingerprint'
                     AND (:fingerprints IS NULL OR value IN (SELECT value FROM json_each(:fingerprints))))
    AND (:sweep IS NULL
         OR run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'mnist1d.sweep' AND value = :sweep))
    AND (:experiment IS NULL
         OR run_uuid IN (SELECT run_uuid FROM params WHERE key = 'experiment' AND value = :experiment)))
"""
_VALUE = "CASE WHEN is_nan THEN NULL ELSE value END AS value"


_SWEEPS = """
SELECT run_uuid AS run_id, sweep.value AS key, runs.name, start_time AS started, status, experiments.name AS folder
FROM runs JOIN experiments USING (experiment_id) JOIN tags AS kind USING (run_uuid) JOIN tags AS sweep USING (run_uuid)
WHERE runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active'
  AND (:folder IS NULL OR experiments.name = :folder)
  AND kind.key = 'mnist1d.kind' AND kind.value = 'sweep' AND sweep.key = 'mnist1d.sweep'
"""
_SWEEP_COLUMNS = ["run_id", "key", "name", "started", "status", "folder"]


def _from_sqlite(database: Path, wanted: _Wanted) -> _Parts:
    names: dict[str, Any] = {key: getattr(wanted, key) for key in ("experiment", "sweep", "folder")}
    names["fingerprints"] = None if wanted.fingerprints is None else json.dumps(wanted.fingerprints)
    marks = ", ".join(f":metric{i}" for i in range(len(wanted.metrics)))
    names |= {f"metric{i}": metric for i, metric in enumerate(wanted.metrics)}
    with _reading(database) as connection:

        def ask(columns: str, table: str, rest: str = "") -> pd.DataFrame:
            # CROSS: without it SQLite goes through the metrics of all runs to find those of a few
            found = f"{_CHOSEN} SELECT run_uuid AS run_id, {columns} FROM chosen CROSS JOIN {table} USING (run_uuid)"
            return pd.read_sql_query(f"{found} {rest}", connection, params=names)

        return _Parts(
            ask("name, status, start_time AS started, end_time AS ended, artifact_uri AS artifacts", "runs"),
            ask("key, value", "params"),
            ask("key, value", "tags", "WHERE key LIKE 'mnist1d.%'"),
            ask(f"key, {_VALUE}", "latest_metrics"),
            ask(f"key, step, {_VALUE}", "metrics", f"WHERE key IN ({marks}) ORDER BY timestamp"),
        )


def _sweeps_from_sqlite(database: Path, folder: str | None) -> pd.DataFrame:
    with _reading(database) as connection:
        return pd.read_sql_query(_SWEEPS, connection, params={"folder": folder})


def _reading(database: Path) -> closing[sqlite3.Connection]:
    """A connection that cannot write, and that waits for whoever is committing just then."""
    # under write-ahead logging even a reader needs a file of its own, unless it is told that nobody writes
    still = "" if os.access(database.parent, os.W_OK) else "&immutable=1"
    return closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro{still}", uri=True, timeout=20))


# -- the long road: any store, through the client ---------------------------------------------------------


def _from_client(uri: str, wanted: _Wanted) -> _Parts:
    with _client(uri) as client:
        runs = _search(client, _clauses(wanted), _folders(client, wanted.folder))
        if wanted.fingerprints is not None:  # the search language has no list of values for a tag
            runs = [run for run in runs if run.data.tags[FINGERPRINT] in wanted.fingerprints]
        return _parts(runs, _points(client, runs, wanted.metrics))


def _sweeps_from_client(uri: str, folder: str | None) -> pd.DataFrame:
    with _client(uri) as client:
        folders = _folders(client, folder)
        runs = _search(client, [f"tags.`{KIND}` = 'sweep'", f"tags.`{SWEEP}` != ''"], folders)
    rows = [_sweep(run, folders[run.info.experiment_id]) for run in runs]
    return pd.DataFrame(rows, columns=_SWEEP_COLUMNS)


def _sweep(run: StoredRun, folder: str) -> tuple[Any, ...]:
    info = run.info
    return info.run_id, run.data.tags[SWEEP], info.run_name, info.start_time, info.status, folder


@contextmanager
def _client(uri: str) -> Iterator[MlflowClient]:
    """A client of the store; what goes wrong while it is used becomes a StoreError."""
    if uri.startswith("http"):
        _check_server(uri)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield MlflowClient(uri)
    except (MlflowException, SQLAlchemyError) as error:
        raise StoreError(f"cannot read runs from {uri}: {str(error).splitlines()[0]}") from error


def _check_server(uri: str) -> None:
    """Ask once with a short limit: the client itself would retry a dead server for minutes."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5).close()
    except urllib.error.HTTPError:
        pass  # it answers; whether it lets us read is the client's question
    except (OSError, ValueError) as error:
        raise StoreError(f"the MLflow server at {uri} does not answer: {error}") from error


def _clauses(wanted: _Wanted) -> list[str]:
    """The conditions in the search language of MLflow."""
    one = wanted.fingerprints is not None and len(wanted.fingerprints) == 1
    marked = f"= {_quoted(wanted.fingerprints[0])}" if one and wanted.fingerprints else "!= ''"
    clauses = [f"tags.`{FINGERPRINT}` {marked}"]
    if wanted.experiment is not None:
        clauses.append(f"params.experiment = {_quoted(wanted.experiment)}")
    if wanted.sweep is not None:
        clauses.append(f"tags.`{SWEEP}` = {_quoted(wanted.sweep)}")
    return clauses


def _folders(client: MlflowClient, folder: str | None) -> dict[str, str]:
    """Id -> name of the MLflow experiments to search."""
    return {each.experiment_id: each.name for each in client.search_experiments() if folder in (None, each.name)}


def _search(client: MlflowClient, clauses: Sequence[str], folders: Mapping[str, str]) -> list[StoredRun]:
    runs: list[StoredRun] = []
    token: str | None = None
    while folders:
        page = client.search_runs(list(folders), " and ".join(clauses), max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            break
    return runs


def _quoted(text: str) -> str:
    if "'" in text:
        raise StoreError(f"a name to search for cannot hold a quote: {text}")
    return f"'{text}'"


def _parts(runs: Sequence[StoredRun] = (), points: Sequence[tuple[str, str, int, float]] = ()) -> _Parts:
    ours = [tag for tag in _items(runs, "tags") if tag[1].startswith("mnist1d.")]
    return _Parts(
        pd.DataFrame([_info(run) for run in runs], columns=_INFO),
        pd.DataFrame(_items(runs, "params"), columns=["run_id", "key", "value"]),
        pd.DataFrame(ours, columns=["run_id", "key", "value"]),
        pd.DataFrame(_items(runs, "metrics"), columns=["run_id", "key", "value"]),
        pd.DataFrame(points, columns=["run_id", "key", "step", "value"]),
    )


_INFO = ["run_id", "name", "status", "started", "ended", "artifacts"]


def _info(run: StoredRun) -> tuple[Any, ...]:
    info = run.info
    return info.run_id, info.run_name, info.status, info.start_time, info.end_time, info.artifact_uri


def _items(runs: Sequence[StoredRun], kind: str) -> list[tuple[str, str, Any]]:
    return [(run.info.run_id, key, value) for run in runs for key, value in getattr(run.data, kind).items()]


def _points(client: Any, runs: list[StoredRun], metrics: Sequence[str]) -> list[tuple[str, str, int, float]]:
    asked = [(run.info.run_id, metric) for run in runs for metric in metrics if metric in run.data.metrics]

    def one(ask: tuple[str, str]) -> list[tuple[str, str, int, float]]:
        history = sorted(client.get_metric_history(*ask), key=lambda point: point.timestamp)
        return [(*ask, point.step, point.value) for point in history]

    with ThreadPoolExecutor(8) as pool:
        return [point for history in pool.map(one, asked) for point in history]


# -- putting together -------------------------------------------------------------------------------------


def _assemble(parts: _Parts, metrics: Sequence[str]) -> Runs:
    params = parts.params.assign(value=[typed(text) for text in parts.params["value"]])
    finals = parts.finals.assign(value=_restored(parts.finals["value"]))
    table = parts.runs.set_index("run_id", drop=False)
    artifacts = table.pop("artifacts").to_dict()
    for part in (params, finals, parts.tags):
        table = table.join(_wide(part, "key"))
    points = parts.points.assign(value=_restored(parts.points["value"]))
    table = _one_per_fingerprint(table)
    histories = {metric: _history(points[points["key"] == metric], table.index) for metric in metrics}
    return Runs(table.reset_index(drop=True), histories, artifacts)


def _wide(part: pd.DataFrame, columns: str) -> pd.DataFrame:
    return part.pivot(index="run_id", columns=columns, values="value").rename_axis(columns=None)


def _history(points: pd.DataFrame, run_ids: pd.Index) -> pd.DataFrame:
    # A batch sent twice left a step twice: the later one counts, as in MLflow's own latest value.
    once = points.drop_duplicates(["run_id", "step"], keep="last")
    return _wide(once, "step").reindex(run_ids).sort_index(axis="columns")


def _one_per_fingerprint(table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        return table
    ranked = table.assign(done=table["status"] == "FINISHED").sort_values(["done", "started"], kind="stable")
    best = ranked.drop_duplicates(FINGERPRINT, keep="last")
    return best.drop(columns="done").sort_values("started", kind="stable")


def _restored(values: pd.Series) -> pd.Series:
    numbers = values.astype(float)
    return numbers.mask(numbers > _INFINITY, math.inf).mask(numbers < -_INFINITY, -math.inf)
