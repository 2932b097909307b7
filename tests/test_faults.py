"""Things that go wrong while a real sweep trains: what is said, what MLflow shows, and what the next start repairs."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from textwrap import dedent

import pytest

from tests import programs
from tests.test_train import SMALL, Store, command, train, wait_for_metrics

Done = subprocess.CompletedProcess[str]
ENDLESS = ("-m", "seed=0,1", "data.num_samples=500", "trainer.max_steps=10000000", "trainer.eval_every=10")


def start(folder: Path, *arguments: str) -> programs.Program:
    return programs.Program("train.py", *arguments, "trainer.threads=1", cwd=folder)


def sabotaged(folder: Path, code: str, *arguments: str) -> Done:
    """train.py in a process in which `code` has run first."""
    return programs.run("train.py", *arguments, cwd=folder, first=dedent(code))


def statuses(folder: Path) -> dict[str, list[str]]:
    """Status of all runs of a name, oldest first."""
    found: dict[str, list[str]] = {}
    for run in Store(folder).runs():
        name = "sweep" if run.data.tags["mnist1d.kind"] == "sweep" else run.info.run_name
        found.setdefault(name, []).append(run.info.status)
    return found


def test_a_second_equal_command_is_refused_and_sigterm_ends_the_first_in_order(tmp_path: Path) -> None:
    first = start(tmp_path, *ENDLESS)
    wait_for_metrics(tmp_path / "mlruns" / "mlflow.db", first)
    single = tuple(argument for argument in ENDLESS if argument != "-m" and not argument.startswith("seed"))
    for asked, which in ((ENDLESS, "2 of these runs are"), (("seed=1", *single), "this run is")):
        second = train(tmp_path, *asked)
        assert second.returncode == 1
        assert second.stderr.startswith(f"train.py: {which} being trained by process {first.pid} on ")
        assert "Wait until it has ended, or stop it; then the same command trains what is missing." in second.stderr
        assert "Traceback" not in second.stderr
    first.send_signal(signal.SIGTERM)
    out, err = first.communicate(timeout=60)
    assert (first.returncode, err) == (128 + signal.SIGTERM, "")
    assert out.rstrip().endswith(f"Go on with:  python train.py {shlex.join(ENDLESS)} trainer.threads=1")
    assert statuses(tmp_path) == {"sweep": ["KILLED"], "mlp seed=0": ["KILLED"], "mlp seed=1": ["KILLED"]}
    for run in Store(tmp_path).children().values():
        assert run.data.tags["mnist1d.reason"] == "interrupted by SIGTERM"
        assert run.data.metrics["test/acc"] > 0


def test_of_two_commands_in_the_same_instant_one_trains(tmp_path: Path) -> None:
    both = [start(tmp_path, *ENDLESS) for _ in range(2)]
    deadline = time.monotonic() + 110
    while all(process.poll() is None for process in both) and time.monotonic() < deadline:
        time.sleep(0.1)
    (trains,) = [process for process in both if process.poll() is None]
    wait_for_metrics(tmp_path / "mlruns" / "mlflow.db", trains)
    trains.terminate()
    errors = {process.pid: process.communicate(timeout=60)[1] for process in both}
    assert sorted(process.returncode for process in both) == [1, 128 + signal.SIGTERM]
    assert errors.pop(trains.pid) == ""
    assert f"being trained by process {trains.pid} on" in "".join(errors.values())
    assert statuses(tmp_path) == {"sweep": ["KILLED"], "mlp seed=0": ["KILLED"], "mlp seed=1": ["KILLED"]}


KILLED_WHILE_RECORDING = """
    import os, signal
    from mnist1d.tracking import Recorder
    finish = Recorder.finish

    def finish_one_and_die(self, *args, **kwargs):
        finish(self, *args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    Recorder.finish = finish_one_and_die
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_stack_killed_while_it_is_recorded_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    sweep = ("-m", "model=logistic", "seed=range(3)", *SMALL, "trainer.checkpoint_seconds=0")
    assert sabotaged(tmp_path, KILLED_WHILE_RECORDING, *sweep).returncode == -signal.SIGKILL
    assert sorted(run.info.status for run in Store(tmp_path).runs()) == ["FINISHED", *3 * ["RUNNING"]]
    done = train(tmp_path, *sweep)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "2 runs of a process that is gone are marked FAILED"
    assert lines[3] == "1 of 3 runs is recorded already; force=true trains them again"
    assert "3 runs go on at step 21 of 31" in lines, "all of the stack, for its checkpoint is of all"
    assert statuses(tmp_path) == {
        "sweep": ["FINISHED"],
        "logistic seed=0": ["FINISHED"],
        "logistic seed=1": ["FAILED", "FINISHED"],
        "logistic seed=2": ["FAILED", "FINISHED"],
    }
    reasons = [r.data.tags.get("mnist1d.reason", "") for r in Store(tmp_path).runs() if r.info.status == "FAILED"]
    assert all("ended without a word: killed, or the machine was" in reason for reason in reasons)
    assert list((tmp_path / "mlruns" / "checkpoints").iterdir()) == []
    whole = train(tmp_path, *sweep, "force=true")
    assert [line for line in whole.stdout.splitlines() if "±" in line] == [line for line in lines if "±" in line]


def privately(folder: Path, script: str) -> Done:
    """A shell script in `folder` in which mounting changes nothing outside; skips the test where that is forbidden."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("only root may mount")
    env = {**os.environ, "TRAIN": shlex.join(command()), "SMALL": shlex.join(SMALL)}
    train = 'train() { $TRAIN "$@" $SMALL; echo status $?; }'
    argv = ["unshare", "--mount", "sh", "-c", f"{train}\n{dedent(script)}"]
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def told(done: Done) -> list[str]:
    """Exit statuses."""
    return [line.removeprefix("status ") for line in done.stdout.splitlines() if line.startswith("status")]


def test_a_store_that_cannot_be_written_is_refused_at_once_but_can_be_read(tmp_path: Path) -> None:
    done = privately(
        tmp_path,
        """
        mkdir mlruns && mount --bind mlruns mlruns
        mount -o remount,bind,ro mlruns && train
        mount -o remount,bind,rw mlruns && train
        mount -o remount,bind,ro mlruns && train seed=1 hydra.run.dir=elsewhere
        train plan=true
        """,
    )
    assert told(done) == ["2", "0", "1", "0"], done.stdout + done.stderr
    assert "cannot be made: Read-only file system" in done.stderr
    assert (
        "train.py: tracking store sqlite:///mlruns/mlflow.db: opening it failed.\n  OSError: [Errno 30]" in done.stderr
    )
    assert "1 of 1 run is recorded already" in done.stdout
    assert "Traceback" not in done.stderr
    assert [run.info.status for run in Store(tmp_path).runs()] == ["FINISHED"]


def test_a_full_disk_ends_the_sweep_with_a_message_and_space_lets_it_go_on(tmp_path: Path) -> None:
    done = privately(
        tmp_path,
        """
        mkdir mlruns && mount -t tmpfs -o size=12m none mlruns
        train -m model=logistic seed=0
        head -c 100m /dev/zero > mlruns/filler 2> /dev/null
        train -m model=mlp seed=0,1
        truncate -s -120K mlruns/filler
        train -m model=mlp seed=0,1 hydra.sweep.dir=elsewhere
        rm mlruns/filler
        train -m model=mlp seed=0,1
        rm -r mlruns/outputs && cp -r mlruns/. "$PWD/saved" && umount mlruns && cp -r saved/. mlruns
        """,
    )
    assert told(done) == ["0", "2", "1", "0"], done.stdout + done.stderr
    assert "cannot be made: No space left on device" in done.stderr
    assert "train.py: tracking store sqlite:///mlruns/mlflow.db: " in done.stderr
    assert "disk is full" in done.stderr or "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert [run.info.status for run in Store(tmp_path).runs()].count("FINISHED") == 5
