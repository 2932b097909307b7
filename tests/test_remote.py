"""Stores on servers: MLflow's own server on SQLite and on PostgreSQL, and PostgreSQL without one; and their loss."""

import os
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from mnist1d.analysis.read import StoreError, read_runs
from mnist1d.config import Tracking
from mnist1d.process import Process
from mnist1d.sync import record_or_refuse
from mnist1d.tracking import Recorder, TrackingError, claims, load_weights, recorder, spool
from tests.servers import Line, Server, postgres
from tests.test_tracking import Config
from tests.test_train import SMALL, command

ENDED = {"reason": None, "resources": {"wall_seconds": 1.5}}
SPOOL = Path("mlruns") / "spool"


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgres() as uri:
        yield uri


@pytest.fixture(scope="module", params=["a server on PostgreSQL", "PostgreSQL"])
def line(request: pytest.FixtureRequest, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A line to a store; its `uri` is the store's at the end of the line."""
    if request.param == "PostgreSQL":
        port = int(database.rpartition(":")[2].partition("/")[0])
        yield with_uri(Line(port), database.replace(f"lab@127.0.0.1:{port}/", "lab:secret@127.0.0.1:PORT/"))
        return
    server = Server(database.replace("postgresql:", "postgresql+psycopg2:"), tmp_path_factory.mktemp("server"))
    yield with_uri(Line(server.port), "http://127.0.0.1:PORT")
    server.kill()


def with_uri(line: Line, pattern: str) -> Line:
    line.uri = pattern.replace("PORT", str(line.port))  # type: ignore[attr-defined]
    return line


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the spool lies below mlruns/ of the working folder


def begin(writer: Recorder, parent: str, seed: int) -> str:
    run = writer.start(Config(seed), parent=parent, name=f"cnn seed={seed}", tags={"mnist1d.fingerprint": f"f{seed}"})
    writer.log(run, [("test/acc", step, seed / 10) for step in range(3)])
    return run


def finish(writer: Recorder, run: str, seed: int) -> None:
    writer.log(run, [("test/acc", step, seed / 10) for step in range(3, 6)])
    weights = {"w": torch.full((2, 3), float(seed))}
    writer.finish(run, "FINISHED", **ENDED, final={"test/acc_final": seed / 10}, weights=weights)


def check(client: MlflowClient, uri: str, parent: str, seeds: range) -> None:
    """Every run of the sweep is there once and whole, and so is the sweep."""
    sweep = client.get_run(parent)
    found = client.search_runs([sweep.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    runs: dict[str, Run] = {run.info.run_name: run for run in found}
    assert sorted(runs) == [f"cnn seed={seed}" for seed in seeds]
    assert len(found) == len(runs)
    for seed in seeds:
        run = runs[f"cnn seed={seed}"]
        assert (run.info.status, run.data.params["seed"]) == ("FINISHED", str(seed))
        assert run.info.start_time <= run.info.end_time
        points = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "test/acc")]
        assert sorted(points) == [(step, seed / 10) for step in range(6)]
        assert run.data.metrics == {"test/acc": seed / 10, "test/acc_final": seed / 10, "time/wall_seconds": 1.5}
        assert "mnist1d.reason" not in run.data.tags
        weights = load_weights(run.info.run_id, uri)
        assert torch.equal(weights["state_dict"]["w"], torch.full((2, 3), float(seed)))
    assert (sweep.info.status, sweep.data.metrics["runs"]) == ("FINISHED", len(seeds))
    assert {file.path for file in client.list_artifacts(parent)} >= {"summary.csv", "summary.md", "summary.json"}


def test_what_a_store_that_went_away_could_not_take_is_recorded_later_whole_and_once(
    line: Line, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = line.uri  # type: ignore[attr-defined]
    lost = f"lost by {uri}"  # a server's experiments keep artifacts where a database alone cannot
    ours = Recorder(uri, lost)
    parent = ours.open_sweep("folder", "cnn", {})
    before = begin(ours, parent, 0)
    ours.flush()
    begun = begin(ours, parent, 1)
    line.answers = False
    unsure = begin(ours, parent, 2)  # made, which we do not hear
    after = begin(ours, parent, 3)
    for seed, run in enumerate((before, begun, unsure, after)):
        finish(ours, run, seed)
    ours.close_sweep(parent, [], "FINISHED")
    assert ours.kept == 4
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith(f"tracking store {uri.replace('secret', '***')} went away: ")
    assert f"Training goes on; runs are kept in {SPOOL}" in caplog.messages[0]

    with pytest.raises(SystemExit, match=r"opening it failed"):
        record_or_refuse(Tracking(uri=uri, experiment=lost))
    line.mend()
    record_or_refuse(Tracking(uri=uri, experiment=lost))
    assert "recorded now" not in capsys.readouterr().out, "their process lives"
    ours.close()
    kept = shutil.copytree(SPOOL, Path("copy"))
    for _ in range(2):  # the second time as after a crash in between
        record_or_refuse(Tracking(uri=uri, experiment=lost))
        assert capsys.readouterr().out == "4 runs that were kept while the store was away are recorded now\n"
        check(ours.client, uri, parent, range(4))
        assert not any("secret" in path.read_text() for path in kept.rglob("*.txt"))
        assert not SPOOL.exists()
        shutil.copytree(kept, SPOOL)
    if uri.startswith("http"):
        line.cut()
        with pytest.raises(StoreError, match="does not answer"):
            read_runs(uri)
        line.mend()
    runs = read_runs(uri, folder=lost, metrics=("test/acc",))
    assert len(runs.finished) == 4
    assert runs.histories["test/acc"].shape == (4, 6)


def test_recording_goes_on_when_the_store_comes_back_while_runs_are_trained(
    line: Line, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = line.uri  # type: ignore[attr-defined]
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 0.0)
    ours = Recorder(uri, f"back at {uri}")
    parent = ours.open_sweep("folder", "cnn", {})
    runs = [begin(ours, parent, 0)]
    line.cut()
    runs.append(begin(ours, parent, 1))
    finish(ours, runs[0], 0)
    assert ours.kept == 2
    line.mend()
    runs.append(begin(ours, parent, 2))
    assert ours.kept == 0
    finish(ours, runs[1], 1)
    finish(ours, runs[2], 2)
    ours.close_sweep(parent, ours.rows(parent), "FINISHED")
    check(ours.client, uri, parent, range(3))
    assert [message.split(":")[0] for message in caplog.messages] == ["tracking store " + uri.split(":")[0]] * 2
    assert "went away" in caplog.messages[0]
    assert (
        caplog.messages[1]
        == f"tracking store {uri.replace('secret', '***')} is back: the runs that were kept are recorded"
    )
    assert not SPOOL.exists()


def test_looking_and_claiming_are_one_thing_on_any_store(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Recorder(line.uri, f"lock of {line.uri}") for _ in range(2))  # type: ignore[attr-defined]
    order = []

    def wait() -> None:
        with second.alone():
            order.append("second")

    with first.alone():
        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.3)
        order.append("first")
    waiter.join(30)
    assert order == ["first", "second"]
    if line.uri.startswith("http"):  # type: ignore[attr-defined]
        dead, away = replace(Process.this(), started="b0075eed-1"), replace(Process.this(), host="another-machine")
        first.client.create_registered_model(claims.LOCK, description=dead.spelled())
        wait()
        monkeypatch.setattr(claims, "LOCK_SECONDS", 0.1)
        first.client.create_registered_model(claims.LOCK, description=away.spelled())
        with pytest.raises(TrackingError, match="on another-machine is starting there; if it is gone, delete the reg"):
            wait()
        first.client.delete_registered_model(claims.LOCK)


def test_what_is_damaged_on_disk_is_named_and_stays_and_the_rest_is_recorded() -> None:
    """The journals as such, for which any store will do."""
    ours = Recorder("sqlite:///mlruns/mlflow.db", "journals")
    kept = spool.Spool(ours.uri, "journals")
    for key in ("whole", "torn", "damaged"):
        new = ours._new(key, {"mnist1d.key": key}, {"seed": 0})
        kept.append(key, "create", **new)
        kept.append(key, "log", rows=[("test/acc", float("nan"), 1000, 0)])
    (kept.folder / "torn.run").write_bytes((kept.folder / "torn.run").read_bytes()[:-5])
    damaged = kept.folder / "damaged.run"
    damaged.write_bytes(damaged.read_bytes().replace(b"test/acc", b"test/add"))
    kept.append("a sweep", "close", status="FINISHED", ended=1)
    kept.close()
    done = ours.catch_up()
    assert done.runs == 2
    assert list(done.refused) == [damaged]
    assert (
        f"line 2 of {damaged} is not what was written\n  Delete that file to give the run up." in done.refused[damaged]
    )
    assert sorted(path.name for path in kept.folder.iterdir()) == ["a sweep.sweep", "damaged.run"]
    names = {run.info.run_name: run.data.metrics for run in ours._writer.search()}
    assert list(names["whole"]) == ["test/acc"]
    assert names["torn"] == {}


def running(database: Path) -> int:
    """Runs that are being trained, as the server's database says."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=20)) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM runs WHERE status = 'RUNNING' AND name LIKE '%seed%'"
        ).fetchone()
    return int(count)


def test_a_sweep_outlives_its_server_and_the_next_start_records_it(tmp_path: Path) -> None:
    """The real command line, and the server that `make ui` starts, killed while it trains."""
    database = tmp_path / "server.db"
    server = Server(f"sqlite:///{database}", tmp_path)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=1)  # it listens on 127.0.0.1 alone
    sweep = ("-m", "seed=0,1", *SMALL, f"tracking.uri={server.uri}", "trainer.max_steps=2001", "trainer.eval_every=50")
    sweep = tuple(argument for argument in sweep if argument not in ("trainer.max_steps=31", "trainer.eval_every=10"))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command(*sweep), text=True, **pipes, env={**os.environ, "COLUMNS": "100"})
    while running(database) < 2 and process.poll() is None:
        time.sleep(0.05)
    server.kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, out + err
    assert len(err.splitlines()) == 2
    assert err.startswith(f"tracking store {server.uri} went away: ConnectionError")
    assert "2 runs are kept on disk and not recorded yet, for the store is away." in out
    assert out.rstrip().endswith(f"python train.py sync=true tracking.uri={server.uri}")
    server.start()
    done = subprocess.run(command(*sweep), capture_output=True, text=True, timeout=120)
    server.kill()
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "2 runs that were kept while the store was away are recorded now"
    assert "2 of 2 runs are recorded already; force=true trains them again" in lines
    table = [line for line in out.splitlines() if "±" in line]
    assert table == [line for line in lines if "±" in line]
    with closing(sqlite3.connect(database)) as connection:
        counts = connection.execute(
            "SELECT count(*), count(DISTINCT step) FROM metrics WHERE key = 'test/acc'"
        ).fetchone()
        assert counts == (2 * 41, 41), "every evaluation once"
        assert connection.execute("SELECT status, count(*) FROM runs GROUP BY status").fetchall() == [("FINISHED", 3)]


def test_nothing_is_kept_without_a_loss(capsys: pytest.CaptureFixture[str]) -> None:
    record_or_refuse(Tracking(uri="sqlite:///mlruns/mlflow.db", experiment="mnist1d"))
    assert capsys.readouterr().out == "nothing is kept for this store and experiment\n"
    assert not Path("mlruns").exists()
    kept = spool.Spool("http://me:secret@127.0.0.1:9", "mnist1d")
    kept.append("a", "create", name="a", tags={}, params={}, started=1)
    record_or_refuse(Tracking(uri="sqlite:///mlruns/mlflow.db", experiment="mnist1d"))
    assert "something is for another one: http://me:***@127.0.0.1:9 (tracking.uri" in capsys.readouterr().out
