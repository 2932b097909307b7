"""The recorder on real SQLite stores, and the errors of stores that cannot be used."""

import getpass
import hashlib
import http.server
import math
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from mnist1d import provenance, summary
from mnist1d.analysis.intervals import t_interval
from mnist1d.tracking import Recorder, Status, TrackingError, find_run, load_weights, stores
from tests.conftest import ROOT

EXPERIMENT = "mnist1d"
ENDING: dict[str, Any] = {"final": {}, "reason": None, "weights": None, "resources": {}}


class Config:
    """Stands for `mnist1d.config.Run`: something that flattens."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def flat(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "experiment": None,
            "model.name": "cnn",
            "model.kernel_sizes": [5, 3, 3],
            "data.shuffle_features": False,
            "optimizer.eps": 1e-8,
        }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store shared by the tests of this file: creating one takes a second."""
    return f"sqlite:///{tmp_path_factory.mktemp('a store')}/mlruns/mlflow.db"


@pytest.fixture
def recorder(store: str) -> Recorder:
    return Recorder(store, EXPERIMENT)


def start(recorder: Recorder, parent: str | None = None, seed: int = 0) -> str:
    return recorder.start(Config(seed), parent=parent, name=f"cnn seed={seed}", tags={})


def fetch(recorder: Recorder, run_id: str) -> Run:
    return MlflowClient(recorder.client.tracking_uri).get_run(run_id)


def history(recorder: Recorder, run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in recorder.client.get_metric_history(run_id, metric)]


def test_a_sweep_is_a_parent_and_its_runs_are_children(recorder: Recorder) -> None:
    parent = recorder.open_sweep("family", "mlp and cnn", {"mnist1d.command": "train.py -m"})
    runs = [start(recorder, parent, seed) for seed in range(3)]
    client, where = recorder.client, [recorder.experiment_id]
    children = client.search_runs(where, f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {run.info.run_id for run in children} == set(runs)
    assert {run.info.run_name for run in children} == {"cnn seed=0", "cnn seed=1", "cnn seed=2"}
    assert len(client.search_runs(where, "tags.`mnist1d.sweep` = 'family'")) == 4
    (sweep,) = client.search_runs(where, "tags.`mnist1d.sweep` = 'family' and tags.`mnist1d.kind` = 'sweep'")
    assert (sweep.info.run_id, sweep.info.run_name) == (parent, "mlp and cnn")
    assert sweep.data.tags["mnist1d.command"] == "train.py -m"


def test_a_run_can_do_without_a_parent(recorder: Recorder) -> None:
    tags = fetch(recorder, start(recorder)).data.tags
    assert "mlflow.parentRunId" not in tags
    assert "mnist1d.sweep" not in tags


def test_params_are_the_flat_config_as_on_the_command_line(recorder: Recorder) -> None:
    assert fetch(recorder, start(recorder, seed=3)).data.params == {
        "seed": "3",
        "experiment": "null",
        "model.name": "cnn",
        "model.kernel_sizes": "[5,3,3]",
        "data.shuffle_features": "false",
        "optimizer.eps": "1e-08",
    }


def test_every_run_says_where_it_comes_from(recorder: Recorder) -> None:
    run_id = recorder.start(Config(), parent=None, name="cnn", tags={"mnist1d.stack_size": "20"})
    tags = fetch(recorder, run_id).data.tags
    assert provenance.tags().items() <= tags.items()
    assert tags["mnist1d.stack_size"] == "20"


def test_metrics_are_a_history_by_step(recorder: Recorder) -> None:
    run_id = start(recorder)
    for step in (0, 250, 500):
        recorder.log(run_id, [("train/loss", step, 2.0 - step / 1000), ("test/acc", step, step / 1000)])
    recorder.flush()
    assert history(recorder, run_id, "test/acc") == [(0, 0.0), (250, 0.25), (500, 0.5)]
    assert fetch(recorder, run_id).data.metrics == {"train/loss": 1.5, "test/acc": 0.5}


def test_nan_survives_and_infinity_becomes_nan(recorder: Recorder) -> None:
    run_id = start(recorder)
    recorder.log(run_id, [("train/loss", 0, math.nan), ("test/loss", 0, math.inf), ("test/loss", 1, 2.0)])
    recorder.flush()
    assert math.isnan(history(recorder, run_id, "train/loss")[0][1])
    (_, at_first), (_, later) = history(recorder, run_id, "test/loss")
    assert math.isnan(at_first)
    assert later == 2.0


def test_a_runs_metrics_are_written_when_there_are_many(store: str) -> None:
    recorder = Recorder(store, EXPERIMENT, flush_rows=10)
    full, other = start(recorder), start(recorder)
    recorder.log(other, [("test/acc", 0, 0.5)])
    recorder.log(full, [("test/acc", step, 0.5) for step in range(9)])
    assert history(recorder, full, "test/acc") == []
    recorder.log(full, [("test/acc", 9, 0.5)])
    assert len(history(recorder, full, "test/acc")) == 10
    assert history(recorder, other, "test/acc") == []


def test_all_metrics_are_written_when_the_last_time_is_long_ago(store: str) -> None:
    recorder = Recorder(store, EXPERIMENT, flush_seconds=0.05)
    first, second = start(recorder), start(recorder)
    recorder.flush()
    recorder.log(first, [("test/acc", 0, 0.5)])
    time.sleep(0.06)
    recorder.log(second, [("test/acc", 0, 0.5)])
    assert history(recorder, first, "test/acc") == history(recorder, second, "test/acc") == [(0, 0.5)]


def test_a_finished_run_has_its_final_metrics_and_times(recorder: Recorder) -> None:
    run_id = start(recorder)
    recorder.log(run_id, [("test/acc", 500, 0.6)])
    ending = ENDING | {"final": {"test/acc_final": 0.6}, "resources": {"wall_seconds": 1.5}}
    recorder.finish(run_id, "FINISHED", **ending)
    run = fetch(recorder, run_id)
    assert run.info.status == "FINISHED"
    assert run.info.end_time >= run.info.start_time
    assert run.data.metrics == {"test/acc": 0.6, "test/acc_final": 0.6, "time/wall_seconds": 1.5}
    assert history(recorder, run_id, "test/acc_final") == [(500, 0.6)]


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_run_that_did_not_finish_says_why_and_keeps_its_metrics(recorder: Recorder, status: Any) -> None:
    run_id = start(recorder)
    recorder.log(run_id, [("train/loss", 0, 2.3)])
    recorder.finish(run_id, status, **ENDING | {"reason": "the loss is NaN at step 12"})
    run = fetch(recorder, run_id)
    assert run.info.status == status
    assert run.data.tags["mnist1d.reason"] == "the loss is NaN at step 12"
    assert run.data.metrics == {"train/loss": 2.3}


def test_weights_lead_to_the_run_and_the_run_to_its_weights(recorder: Recorder, store: str) -> None:
    stack = torch.randn(1000, 40, 10, generator=torch.Generator().manual_seed(0))
    run_id = start(recorder, seed=7)
    weights = {"linear.weight": stack[3], "linear.bias": stack[3, 0].double().requires_grad_()}
    recorder.finish(run_id, "FINISHED", **ENDING | {"weights": weights})

    loaded = load_weights(run_id, store)
    assert loaded["config"] == Config(7).flat()
    assert list(loaded["state_dict"]) == list(weights)
    for name, tensor in weights.items():
        assert torch.equal(loaded["state_dict"][name], tensor)
        assert loaded["state_dict"][name].dtype == tensor.dtype

    mlruns = Path(store.removeprefix("sqlite:///")).parent
    (path,) = (mlruns / "artifacts" / run_id).rglob("weights.pt")
    assert find_run(path) == run_id
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert fetch(recorder, run_id).data.tags["mnist1d.weights"] == digest
    assert path.stat().st_size < 10_000, "a member's weights, not those of its stack"


def test_weights_that_are_not_there_are_named(recorder: Recorder, store: str, tmp_path: Path) -> None:
    run_id = start(recorder)
    with pytest.raises(TrackingError, match=rf"fetching weights.pt of run {run_id} failed"):
        load_weights(run_id, store)
    with pytest.raises(TrackingError, match="there is no database at"):
        load_weights(run_id, f"sqlite:///{tmp_path}/other.db")
    assert not (tmp_path / "other.db").exists()
    torch.save({"state_dict": {}, "run_id": Path("code that would run"), "config": {}}, tmp_path / "weights.pt")
    with pytest.raises(TrackingError, match=r"(?s)is not a weights file.*Weights only load failed"):
        find_run(tmp_path / "weights.pt")
    (tmp_path / "weights.pt").write_text("not weights")
    with pytest.raises(TrackingError, match="is not a weights file of a recorded run"):
        find_run(tmp_path / "weights.pt")


def test_a_sweep_closes_with_its_summary_as_tables_and_metrics(recorder: Recorder, tmp_path: Path) -> None:
    flats = [Config(seed).flat() | {"model.hidden": hidden} for hidden in (10, 50) for seed in range(3)]
    rows = summary.summarise(flats, [{"test/acc_final": 0.1 * i} for i in range(5)] + [None])
    parent = recorder.open_sweep("closing", "cnn", {})
    recorder.close_sweep(parent, rows, "FAILED")
    run = fetch(recorder, parent)
    assert run.info.status == "FAILED"
    assert run.data.metrics == pytest.approx(summary.as_metrics(rows))
    assert run.data.metrics["mean/test/acc_final/hidden 10"] == pytest.approx(0.1)
    files = {Path(file.path).name for file in recorder.client.list_artifacts(parent)}
    assert files == {"summary.csv", "summary.md", "summary.json"}
    path = recorder.client.download_artifacts(parent, "summary.csv", str(tmp_path))
    assert Path(path).read_text() == summary.as_csv(rows)


def test_the_rows_of_a_sweep_are_read_back_from_all_its_runs(recorder: Recorder, store: str) -> None:
    statuses: list[Status] = ["FINISHED", "FINISHED", "FAILED"]
    parent = recorder.open_sweep("rows", "cnn", {})
    for seed, status in enumerate(statuses):
        writer = Recorder(store, EXPERIMENT)  # as when Hydra's basic launcher trains run by run
        run_id = start(writer, parent, seed)
        writer.log(run_id, [("test/acc", 0, 0.1)])
        final = {"test/acc_final": seed / 2}
        writer.finish(run_id, status, **ENDING | {"final": final, "resources": {"wall_seconds": 1.0}})
    (row,) = recorder.rows(parent)
    assert (row.setting, row.n, row.failed) == ({}, 2, 1)
    assert row.metrics == {"test/acc_final": t_interval([0.0, 0.5])}


def test_a_run_trained_again_counts_once_and_the_newest_that_finished_counts(recorder: Recorder) -> None:
    parent = recorder.open_sweep("again", "cnn", {})

    def train(seed: int, status: Status, accuracy: float) -> None:
        tags = {"mnist1d.fingerprint": f"print of {seed}"}
        run_id = recorder.start(Config(seed), parent=parent, name="cnn", tags=tags)
        recorder.finish(run_id, status, **ENDING | {"final": {"test/acc_final": accuracy}})
        time.sleep(0.002)  # the store keeps starts to the millisecond

    train(0, "KILLED", 0.1)
    train(0, "FINISHED", 0.2)
    train(1, "FINISHED", 0.7)
    train(0, "FINISHED", 0.5)
    train(0, "FAILED", 0.3)
    train(2, "FAILED", 0.4)
    train(2, "KILLED", 0.4)
    (row,) = recorder.rows(parent)
    assert (row.n, row.failed) == (2, 1)
    assert row.metrics == {"test/acc_final": t_interval([0.5, 0.7])}


def test_a_reason_longer_than_a_tag_is_cut(recorder: Recorder) -> None:
    run_id = start(recorder)
    recorder.finish(run_id, "FAILED", **ENDING | {"reason": "out of memory " * 1000})
    assert fetch(recorder, run_id).data.tags["mnist1d.reason"].startswith("out of memory out")


@pytest.mark.parametrize("key", ["mlruns/outputs/2026-01-01", "it's 'quoted'"])
def test_opening_the_same_sweep_again_gives_the_same_parent(recorder: Recorder, store: str, key: str) -> None:
    parent = recorder.open_sweep(key, "cnn", {})
    start(recorder, parent)
    recorder.close_sweep(parent, [], "FINISHED")
    again = Recorder(store, EXPERIMENT)
    assert again.open_sweep(key, "cnn", {}) == parent
    assert fetch(again, parent).info.status == "RUNNING"
    assert fetch(again, start(again, parent)).data.tags["mnist1d.sweep"] == key
    assert again.open_sweep(f"{key}!", "cnn", {}) != parent


def test_global_random_states_are_left_as_found(store: str) -> None:
    states = random.getstate(), repr(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    recorder = Recorder(store, "another experiment")
    parent = recorder.open_sweep("random", "", {})
    run_id = recorder.start(Config(), parent=parent, name="", tags={})
    recorder.log(run_id, [("test/acc", 0, 0.5)])
    recorder.finish(run_id, "FINISHED", **ENDING | {"weights": {"w": torch.ones(2)}})
    recorder.close_sweep(parent, [], "FINISHED")
    assert random.getstate() == states[0]
    assert repr(np.random.get_state()) == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_sqlite_writes_ahead_and_artifacts_lie_beside_it(recorder: Recorder, store: str) -> None:
    database = Path(store.removeprefix("sqlite:///"))
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    experiment = recorder.client.get_experiment(recorder.experiment_id)
    assert experiment.artifact_location == (database.parent / "artifacts").as_uri()


RACE = """
import multiprocessing

def race(start, name, results):
    from mnist1d.tracking import Recorder
    start.wait()
    recorder = Recorder("sqlite:///new/mlruns/mlflow.db", "mnist1d")
    results.put((recorder.experiment_id, recorder.open_sweep(name, "cnn", {})))

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mnist1d.tracking"])  # one slow import instead of four
    start, results = context.Barrier(4), context.SimpleQueue()
    racers = [context.Process(target=race, args=(start, name, results)) for name in "abcd"]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * 4
    found = [results.get() for _ in racers]
    print(len({experiment for experiment, _ in found}), len({parent for _, parent in found}))
"""


def test_four_processes_may_open_an_empty_store_at_once_and_quietly(tmp_path: Path) -> None:
    (tmp_path / "race.py").write_text(RACE)
    environment = {**os.environ, "PYTHONPATH": str(Path(provenance.__file__).parent.parent)}
    command = [sys.executable, "-W", "error", "race.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == "1 4\n", "one experiment, four sweeps"
    assert (tmp_path / "new/mlruns/mlflow.db").is_file()


def refused(uri: str, experiment: str = EXPERIMENT) -> str:
    """The message with which a store is refused, within five seconds."""
    began = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        Recorder(uri, experiment)
    assert time.monotonic() - began < 5
    assert "Set tracking.uri=" in str(caught.value)
    return str(caught.value)


def test_an_unreachable_server_is_refused_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert refused(uri).startswith(f"tracking store {uri}: opening it failed.\n  ConnectionError: ")


def test_a_store_of_an_older_mlflow_is_refused_with_the_command_that_brings_it_up_to_date(tmp_path: Path) -> None:
    Recorder(f"sqlite:///{tmp_path / 'new.db'}", EXPERIMENT)
    shutil.copy(tmp_path / "new.db", tmp_path / "old.db")  # MLflow looks at a store once in a process
    uri = f"sqlite:///{tmp_path / 'old.db'}"
    with sqlite3.connect(tmp_path / "old.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'bf29a5ff90ea'")
    database.close()
    with pytest.raises(TrackingError) as caught:
        Recorder(uri, EXPERIMENT)
    advice = f"Back it up, then bring it up to date: mlflow db upgrade {uri}"
    said = str(caught.value).splitlines()
    assert said == [f"tracking store {uri}: opening it failed.", "  It was made by an older MLflow.", f"  {advice}"]


class NotMlflow(http.server.BaseHTTPRequestHandler):
    status = 404

    def do_GET(self) -> None:
        self.send_error(self.status)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), NotMlflow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_is_not_mlflow_is_refused(web_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "404" in refused(web_server)
    monkeypatch.setattr(NotMlflow, "status", 503)
    assert "the server answers with HTTP status 503" in refused(web_server)


def test_a_server_that_never_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "REACH_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message = refused(f"http://me:secret@127.0.0.1:{silent.getsockname()[1]}")
    assert "timed out" in message
    assert "secret" not in message


def test_an_unreachable_database_is_refused() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "Connection refused" in refused(f"postgresql+psycopg2://me@127.0.0.1:{port}/runs")


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        ("mlruns", "a tracking URI is one of sqlite:///PATH.db, http(s)://HOST:PORT, postgresql://…"),
        ("file:./mlruns", "MLflow's plain folders are no longer supported"),
        ("sqlite://", "an SQLite store needs a file"),
        ("sqlite:///:memory:", "an SQLite store needs a file"),
        ("sqlite://mlflow.db", "an SQLite store needs a file"),
    ],
)
def test_a_uri_of_a_wrong_kind_is_refused(uri: str, cause: str) -> None:
    assert cause in refused(uri)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "NotADirectoryError" in refused(f"sqlite:///{tmp_path}/file/mlruns/mlflow.db")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder in which even root may not write")
def test_a_folder_in_which_nobody_may_write_is_refused_without_waiting_for_a_lock() -> None:
    assert "x.db.lock" in refused("sqlite:////proc/x.db")


@pytest.mark.skipif(getpass.getuser() == "root", reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "Permission" in refused(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("a letter to my grandmother" * 10)
    assert "file is not a database" in refused(f"sqlite:///{path}")
    assert path.read_text().startswith("a letter")


def test_mlflow_is_told_to_send_nothing_before_it_is_imported() -> None:
    code = "import mnist1d.tracking, mlflow; print(mlflow.telemetry.utils.is_telemetry_disabled())"
    env = {key: value for key, value in os.environ.items() if key not in ("CI", "PYTEST_CURRENT_TEST", "DO_NOT_TRACK")}
    env = {key: value for key, value in env.items() if not key.startswith("MLFLOW_")} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_deleted_experiment_is_refused(recorder: Recorder, store: str) -> None:
    recorder.client.delete_experiment(Recorder(store, "gone").experiment_id)
    assert "experiment 'gone' was deleted there: restore it" in refused(store, "gone")


def test_metrics_that_could_not_be_written_are_kept(store: str) -> None:
    recorder = Recorder(store, EXPERIMENT)
    run_id = start(recorder)
    recorder.client.delete_run(run_id)
    recorder.log(run_id, [("test/acc", 0, 0.5)])
    with pytest.raises(TrackingError, match="recording to it failed"):
        recorder.flush()
    recorder.client.restore_run(run_id)
    recorder.flush()
    assert history(recorder, run_id, "test/acc") == [(0, 0.5)]


def git(folder: Path, *words: str) -> None:
    settings = ("user.name=A", "user.email=a@b", "init.defaultBranch=main", "commit.gpgsign=false")
    options = [word for setting in settings for word in ("-c", setting)]
    subprocess.run(["git", "-C", str(folder), *options, *words], check=True, capture_output=True)


def test_git_state_is_commit_branch_and_dirt(tmp_path: Path) -> None:
    assert provenance.git_state(tmp_path) is None
    git(tmp_path, "init")
    assert provenance.git_state(tmp_path) is None, "no commit yet"
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    (tmp_path / "scratch").touch()
    clean = provenance.git_state(tmp_path)
    assert clean is not None
    assert (clean.branch, clean.dirty, len(clean.commit)) == ("main", False, 40)
    assert str(clean) == clean.commit[:12]
    (tmp_path / "code.py").write_text("2\n")
    dirty = provenance.git_state(tmp_path)
    assert str(dirty) == f"{clean.commit[:12]}-dirty"
    git(tmp_path, "checkout", "--detach")
    detached = provenance.git_state(tmp_path)
    assert detached is not None
    assert detached.branch == ""


def test_a_machine_without_git_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state(tmp_path) is None


def test_versions_name_what_decides_the_numbers() -> None:
    assert provenance.versions()["torch"] == torch.__version__
    assert provenance.versions()["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"pytorch-lightning", "mlflow", "numpy"} <= set(provenance.versions())
