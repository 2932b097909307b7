"""What is done to the runs of a store. Every piece may be done twice, or half and then again, with the effect of once:
a batch of equal names, values, times and steps counts once in MLflow, everything else is overwritten by its equal.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from math import nan
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sqlalchemy import Engine, create_engine, text

from mnist1d import summary
from mnist1d.tracking.stores import reachable
from mnist1d.tracking.tags import FINGERPRINT_TAG, KEY_TAG, PARENT_TAG, REASON_TAG, WEIGHTS_TAG, Status
from mnist1d.tracking.weights import WEIGHTS, Checkpoint, save

Row = tuple[str, float, int, int]
"""Metric, value, milliseconds since 1970, optimiser step."""


_HISTORY = text("SELECT key, value, is_nan, timestamp, step FROM metrics WHERE run_uuid = :run")


class Writer:
    """Writes into one experiment of a store, and finds runs there.

    Args:
        client: of the store.
        experiment_id: MLflow's id of the experiment.
        uri: the store's.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, uri: str) -> None:
        self.client, self.experiment_id, self.uri = client, experiment_id, uri
        self._artifacts: dict[str, str] = {}  # run id -> where its artifacts go

    def create(
        self, *, name: str, tags: Mapping[str, str], params: Mapping[str, str], started: int, again: bool = False
    ) -> str:
        """Make a run with its params and return its id; `again`, only if there is none with this `KEY_TAG` yet."""
        known = self.search(f"tags.`{KEY_TAG}` = '{tags[KEY_TAG]}'", most=1) if again else []
        # always with a name: MLflow would make one up from the global random generator
        run = known[0] if known else self.client.create_run(self.experiment_id, started, dict(tags), name or "run")
        self._artifacts[run.info.run_id] = run.info.artifact_uri
        if params:
            self.client.log_batch(run.info.run_id, params=[Param(key, value) for key, value in params.items()])
        return str(run.info.run_id)

    def log(self, run_id: str, *, rows: Iterable[Row]) -> None:
        """Write metrics."""
        self.client.log_batch(run_id, metrics=[Metric(*row) for row in rows])

    def note(self, run_id: str, *, params: Mapping[str, str], tags: Mapping[str, str], rows: Iterable[Row]) -> None:
        """Add to what is recorded of a run, in whatever state it is."""
        own = [Param(key, value) for key, value in params.items()], [RunTag(key, value) for key, value in tags.items()]
        self.client.log_batch(run_id, [Metric(*row) for row in rows], *own)

    def finish(
        self,
        run_id: str,
        *,
        rows: Iterable[Row],
        tags: Mapping[str, str],
        status: Status,
        ended: int,
        weights: Checkpoint | None = None,
        again: bool = False,
    ) -> None:
        """Write what is left of a run and end it; `again`, although it may have been taken for dead meanwhile."""
        own = dict(tags)
        if again:
            self._revive(run_id, keep_reason=REASON_TAG in tags)
        if weights is not None:
            own[WEIGHTS_TAG] = self._save(run_id, weights)
        run_tags = [RunTag(key, value) for key, value in own.items()]
        self.client.log_batch(run_id, metrics=[Metric(*row) for row in rows], tags=run_tags)
        self.client.set_terminated(run_id, status, ended)
        self._artifacts.pop(run_id, None)

    def close(self, sweep: str, *, status: Status, ended: int, rows: Sequence[summary.Row] | None = None) -> None:
        """Write a sweep's summary as summary.csv, .md and .json and as metrics, and end it; `rows` are read if None."""
        if rows is None:
            self._revive(sweep, keep_reason=False)
            rows = self.settings(sweep)
        tables = {"csv": summary.as_csv, "md": summary.as_markdown, "json": summary.as_json}
        for ending, write in tables.items():
            self.client.log_text(sweep, write(rows), f"summary.{ending}")
        self.log(sweep, rows=[(key, value, ended, 0) for key, value in summary.as_metrics(rows).items()])
        self.client.set_terminated(sweep, status, ended)

    def settings(self, sweep: str, prints: Sequence[str] = ()) -> list[summary.Row]:
        """Mean, interval and n of every setting of a sweep, from all its runs.

        In the order of their fingerprints in `prints`; those of others after them, oldest first.

        Of runs with equal fingerprints, which are the same run trained again, the newest FINISHED one counts, or the
        newest if none finished.
        """
        counted: dict[str, Run] = {}
        for run in self.children(sweep):
            key = run.data.tags.get(FINGERPRINT_TAG, run.info.run_id)
            if finished(run) or key not in counted or not finished(counted[key]):
                counted[key] = run
        places = {print_: place for place, print_ in enumerate(prints)}
        runs = [counted[key] for key in sorted(counted, key=lambda key: places.get(key, len(places)))]
        flats = [{key: summary.typed(text) for key, text in run.data.params.items()} for run in runs]
        results = [summary.finals(run.data.metrics) if finished(run) else None for run in runs]
        return summary.summarise(flats, results)

    def children(self, sweep: str) -> Iterator[Run]:
        """All runs of a sweep, oldest first."""
        return reversed(self.search(f"tags.`{PARENT_TAG}` = '{sweep}'"))

    def search(self, *conditions: str, most: int | None = None) -> list[Run]:
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

    def history(self, run: Run) -> list[Row]:
        """All metrics of a run: one query of a database, or one for each metric of a server, which has no other."""
        if not self.uri.startswith("http"):
            with self._engine.connect() as connection:
                found = connection.execute(_HISTORY, {"run": run.info.run_id}).all()
            return [(key, nan if is_nan else value, when, step) for key, value, is_nan, when, step in found]
        with ThreadPoolExecutor(8) as pool:
            asked = pool.map(lambda key: self.client.get_metric_history(run.info.run_id, key), run.data.metrics)
            return [(point.key, point.value, point.timestamp, point.step) for points in asked for point in points]

    @cached_property
    def _engine(self) -> Engine:
        return create_engine(reachable(self.uri, create=False))

    def _revive(self, run_id: str, *, keep_reason: bool) -> None:
        run = self.client.get_run(run_id)
        self._artifacts[run_id] = run.info.artifact_uri
        if REASON_TAG in run.data.tags and not keep_reason:
            self.client.delete_tag(run_id, REASON_TAG)

    def _save(self, run_id: str, checkpoint: Checkpoint) -> str:
        """Save the artifact and return its SHA-256."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / WEIGHTS
            save({**checkpoint, "run_id": run_id}, path)
            # not client.log_artifact, which first reads the whole run back (3 ms)
            get_artifact_repository(self._artifacts[run_id], self.uri).log_artifact(str(path))
            return hashlib.sha256(path.read_bytes()).hexdigest()


def finished(run: Run) -> bool:
    """Whether a run's numbers count."""
    return bool(run.info.status == "FINISHED")
