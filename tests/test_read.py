"""Looking up single runs and sweeps on both roads to the store, and reading while someone writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import pandas as pd
import pytest

from mnist1d.analysis import read
from mnist1d.config import Run
from mnist1d.plan import fingerprint
from mnist1d.tracking import FINGERPRINT_TAG, Recorder


class Recorded:
    """A store with two MLflow experiments: in `first` a sweep of three runs and a run alone, in `second` one more."""

    def __init__(self, path: Path, make_run: Callable[..., Run]) -> None:
        self.path, self.uri = path, f"sqlite:///{path}"
        self.runs = [make_run("model=logistic", f"seed={seed}") for seed in range(3)]
        self.recorder = Recorder(self.uri, "first")
        self.parent = self.recorder.open_sweep("outputs/today", "logistic 10:11:12", {})
        self.ids = [self._train(self.recorder, run, self.parent) for run in self.runs]
        self.again = self._train(self.recorder, self.runs[0], None)
        self.recorder.close_sweep(self.parent, [], "FINISHED")
        other = Recorder(self.uri, "second")
        self.later = other.open_sweep("outputs/later", "it's another's", {})
        self._train(other, self.runs[0], self.later)

    @staticmethod
    def _train(recorder: Recorder, run: Run, parent: str | None) -> str:
        run_id = recorder.start(run, parent=parent, name="a run", tags={FINGERPRINT_TAG: fingerprint(run)})
        recorder.log(run_id, [("test/acc", step, 0.1 + step / 1000) for step in (0, 250, 500)])
        recorder.finish(
            run_id, "FINISHED", final={"test/acc_final": 0.6}, reason=None, weights=None, resources={"wall_seconds": 1}
        )
        return run_id

    @property
    def roads(self) -> tuple[str, str]:
        """URIs that are read as a file and, for it is no plain address of one, through the client."""
        return self.uri, f"{self.uri}?timeout=20"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, make_run: Callable[..., Run]) -> Recorded:
    return Recorded(tmp_path_factory.mktemp("store") / "mlflow.db", make_run)


def test_a_run_is_found_by_its_fingerprint_on_both_roads(recorded):
    wanted = fingerprint(recorded.runs[0])
    found = [
        read.read_runs(uri, fingerprints=[wanted], folder="first", metrics=("test/acc",)) for uri in recorded.roads
    ]
    for runs in found:
        assert runs.table["run_id"].tolist() == [recorded.again]  # trained twice, the newest counts
        assert runs.table["seed"].tolist() == [0]
        assert runs.curves("test/acc", [recorded.again])[1].tolist() == [[0.1, 0.35, 0.6]]
    pd.testing.assert_frame_equal(found[0].table, found[1].table, check_like=True, check_dtype=False)


def test_a_fingerprint_is_looked_for_among_the_runs_that_are_asked_for(recorded):
    wanted = fingerprint(recorded.runs[0])
    for uri in recorded.roads:
        inside = read.read_runs(uri, sweep="outputs/today", fingerprints=[wanted])
        assert inside.table["run_id"].tolist() == [recorded.ids[0]]
        assert len(read.read_runs(uri, fingerprints=["0" * 64])) == 0


def test_sweeps_are_listed_oldest_first_with_their_names_on_both_roads(recorded):
    for uri in recorded.roads:
        found = read.sweeps(uri)
        assert found.drop(columns="started").to_numpy().tolist() == [
            [recorded.parent, "outputs/today", "logistic 10:11:12", "FINISHED", "first"],
            [recorded.later, "outputs/later", "it's another's", "RUNNING", "second"],
        ]
        assert found["started"].is_monotonic_increasing
        assert read.sweeps(uri, "second")["run_id"].tolist() == [recorded.later]


def test_where_there_is_no_store_there_are_no_sweeps(tmp_path):
    found = read.sweeps(f"sqlite:///{tmp_path}/none.db")
    assert found.empty
    assert {"run_id", "key", "name", "started", "status"} <= set(found.columns)
    assert not list(tmp_path.iterdir())


def test_sweeps_of_a_file_that_is_no_database_are_an_error_with_its_name(tmp_path):
    (tmp_path / "notes.db").write_text("not a database, but long enough to look at" * 10)
    with pytest.raises(read.StoreError, match=r"notes\.db: .*not a database"):
        read.sweeps(f"sqlite:///{tmp_path}/notes.db")


def a_copy(recorded: Recorded, path: Path, journal: str) -> Path:
    with closing(sqlite3.connect(recorded.path)) as connection:
        connection.execute("VACUUM INTO ?", [str(path)])
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
    return path


def write_on(path: Path, run_id: str, stop: Event, commits: list[int], faults: list[Exception]) -> None:
    """Commit one metric after the other, with the few milliseconds between them that MLflow needs."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            while not stop.wait(0.005):
                connection.execute(
                    "INSERT INTO metrics VALUES ('train/loss', 0.5, 1000, ?, ?, 0)", [run_id, len(commits)]
                )
                connection.commit()
                commits.append(1)
    except sqlite3.Error as fault:
        faults.append(fault)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_reading_goes_on_while_a_sweep_commits_and_does_not_stop_it(recorded, tmp_path, journal):
    path = a_copy(recorded, tmp_path / "busy.db", journal)
    stop, commits, faults = Event(), [], []
    writer = Thread(target=write_on, args=(path, recorded.ids[0], stop, commits, faults))
    writer.start()
    try:
        seen = [0]
        while len(seen) < 6 or len(commits) < 20:
            seen.append(losses(path, recorded))
    finally:
        stop.set()
        writer.join()
    assert not faults
    assert seen == sorted(seen)
    assert losses(path, recorded) == len(commits)


def losses(path: Path, recorded: Recorded) -> int:
    """How many values of the run that is written to are there, read as a file and in no other way."""
    wanted = read._Wanted(None, "outputs/today", None, ("train/loss",))
    runs = read._assemble(read._from_sqlite(path, wanted), wanted.metrics)
    assert runs.table["run_id"].tolist() == recorded.ids
    return int(runs.histories["train/loss"].loc[recorded.ids[0]].count())


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_what_is_not_yet_committed_is_not_waited_for(recorded, tmp_path, journal):
    path = a_copy(recorded, tmp_path / "open.db", journal)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("UPDATE runs SET status = 'FAILED'")
        assert len(read.read_runs(f"sqlite:///{path}", folder="first").finished) == 3
        assert read.sweeps(f"sqlite:///{path}", "first")["status"].tolist() == ["FINISHED"]
        writer.commit()
    assert read.read_runs(f"sqlite:///{path}", folder="first").finished.empty
