"""Which process is meant, and whether it lives; and what a recorder does about the runs of others."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mnist1d.process import Process
from mnist1d.tracking import Recorder, TrackingError
from tests.test_tracking import Config, fetch

ELSEWHERE = Process(4711, "b0075eed-1", "another-machine", "")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    code = (
        "import sys; from mnist1d.process import Process; print(Process.this().spelled(), flush=True); sys.stdin.read()"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], env=env, text=True, **pipes) as process:
        yield process
        process.kill()


def test_a_process_is_read_as_it_was_spelled() -> None:
    this = Process.this()
    assert this.pid == os.getpid()
    assert Process.read(this.spelled()) == this
    assert str(ELSEWHERE) == "process 4711 on another-machine"
    for text in ("", "4711", "x|a|b|c", "1|2|3|4|5"):
        assert Process.read(text) is None


def test_a_living_process_is_not_dead_and_a_killed_one_is_even_before_anyone_waits_for_it(child) -> None:
    other = Process.read(child.stdout.readline().strip())
    assert other is not None
    assert other.pid == child.pid
    assert (other.is_here, other.is_dead) == (True, False)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays as a zombie
    assert other.is_dead
    child.wait()
    assert other.is_dead


def test_a_number_that_is_used_again_is_another_process() -> None:
    assert replace(Process.this(), started="b0075eed-1").is_dead
    assert not Process.this().is_dead


def test_of_other_machines_and_of_what_cannot_be_known_no_process_is_dead() -> None:
    assert (ELSEWHERE.is_here, ELSEWHERE.is_dead) == (False, False)
    assert not replace(Process.this(), pid=1, started="unknown").is_dead


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def recorder_of(store: str, process: Process, experiment: str) -> Recorder:
    recorder = Recorder(store, experiment)
    recorder._process = process.spelled()
    return recorder


def begin(recorder: Recorder, fingerprint: str, parent: str | None = None) -> str:
    return recorder.start(Config(), parent=parent, name="mlp seed=1", tags={"mnist1d.fingerprint": fingerprint})


def test_runs_of_dead_processes_become_failed_and_those_of_living_ones_stay(store: str) -> None:
    dead, away = replace(Process.this(), started="b0075eed-1"), ELSEWHERE
    ours = Recorder(store, "orphans")
    runs = {}
    for process in (dead, away, Process.this()):
        recorder = recorder_of(store, process, "orphans")
        parent = recorder.open_sweep(f"of {process.pid} {process.started}", "mlp", {})
        runs[process] = [parent, begin(recorder, "f", parent)]
    assert ours.clear([]) == 1
    for process, ids in runs.items():
        statuses = {fetch(ours, run_id).info.status for run_id in ids}
        assert statuses == {"FAILED" if process == dead else "RUNNING"}
    reason = fetch(ours, runs[dead][1]).data.tags["mnist1d.reason"]
    assert reason == f"{dead} ended without a word: killed, or the machine was"
    assert ours.clear([]) == 0


def test_a_run_without_a_process_is_left_alone(store: str) -> None:
    """One of a version that did not note it."""
    ours = Recorder(store, "old")
    run_id = begin(recorder_of(store, ELSEWHERE, "old"), "f")
    ours.client.delete_tag(run_id, "mnist1d.process")
    assert ours.clear(["f"]) == 0
    assert fetch(ours, run_id).info.status == "RUNNING"


def test_runs_that_a_living_process_trains_or_has_claimed_are_refused(store: str) -> None:
    there, ours = recorder_of(store, ELSEWHERE, "claims"), Recorder(store, "claims")
    parent = there.open_sweep("their folder", "mlp 12:00:00", {})
    there.claim(parent, ["a", "b", "c"])
    begin(there, "single")
    ours.clear(["x", "y"])
    with pytest.raises(
        TrackingError, match=r"^2 of these runs are being trained by process 4711 on another-machine, since"
    ):
        ours.clear(["x", "b", "c"])
    with pytest.raises(
        TrackingError, match=r"(?s)^this run is being .* \(mlp seed=1\).*Wait until.*Should that machine be gone"
    ):
        ours.clear(["single"])
    there.close_sweep(parent, [], "FINISHED")
    ours.clear(["b", "c"])


def test_a_sweep_of_the_same_runs_goes_on_in_its_parent(store: str) -> None:
    ours = Recorder(store, "same")
    first = ours.open_sweep("folder 1", "mlp", {}, runs="abc")
    ours.close_sweep(first, [], "KILLED")
    assert ours.open_sweep("folder 2", "mlp", {}, runs="abc") == first
    assert fetch(ours, first).info.status == "RUNNING"
    assert fetch(ours, first).data.tags["mnist1d.folder"] == "folder 2"
    run = fetch(ours, begin(ours, "f", first))
    assert run.data.tags["mnist1d.sweep"] == "folder 1", "all runs of a sweep have one key"
    assert ours.open_sweep("folder 3", "mlp", {}, runs="other") != first


def test_a_batch_of_jobs_joins_its_sweep_which_then_is_another_set_of_runs(store: str) -> None:
    ours = Recorder(store, "batches")
    first = ours.open_sweep("folder", "mlp", {}, runs="one")
    assert ours.open_sweep("folder", "mlp", {}, runs="two") == first
    assert ours.find_sweep("elsewhere", "one") is None
    assert ours.open_sweep("elsewhere", "mlp", {}, runs="one") != first


def test_a_forced_sweep_goes_on_only_in_one_that_was_forced_and_cut_off(store: str) -> None:
    ours = Recorder(store, "forced")
    plain = ours.open_sweep("plain", "mlp", {}, runs="abc")
    ours.close_sweep(plain, [], "KILLED")
    forced = ours.open_sweep("forced", "mlp", {}, runs="abc", forced=True)
    ours.close_sweep(forced, [], "KILLED")
    assert forced != plain
    assert ours.open_sweep("forced again", "mlp", {}, runs="abc", forced=True) == forced
    ours.close_sweep(forced, [], "FINISHED")
    assert ours.open_sweep("once more", "mlp", {}, runs="abc", forced=True) not in (plain, forced)
