"""A fit that was cut off goes on: the real command killed in the middle, and the same command again."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist1d.config import Run
from mnist1d.plan import Stack
from mnist1d.resume import checkpoint_path, remove_stale
from tests import programs
from tests.test_faults import sabotaged
from tests.test_train import SMALL, Store, train

MakeRun = Callable[..., Run]

SEARCH = (
    *("-m", "task=lottery", "model=mlp", "model.hidden=24", "task.criterion=magnitude,random", "optimizer.lr=0.02"),
    *("task.rounds=50", "task.ticket_round=41", "task.mask_step=9", "task.follow_ups=[fresh]"),
    *("task.follow_up_steps=7", "task.follow_up_batch_size=80"),
    *("data.num_samples=500", "data.batch_size=50", "trainer.max_steps=20", "trainer.eval_every=10"),
    *("trainer.threads=1", "trainer.accelerator=cpu", "trainer.checkpoint_seconds=0"),
)


def test_checkpoints_that_nobody_goes_on_with_are_removed_after_a_week(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    (folder / "a folder").mkdir(parents=True)
    for name, days in (("old.ckpt", 8), ("old.4711", 8), ("young.ckpt", 6)):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (0, time.time() - days * 86_400))
    remove_stale(f"sqlite:///{tmp_path}/mlflow.db")
    assert sorted(path.name for path in folder.iterdir()) == ["a folder", "young.ckpt"]
    remove_stale(f"sqlite:///{tmp_path}/nowhere/mlflow.db")


def measured(folder: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Run name -> metric -> (step, value), of the finished runs; not how long they took."""
    store = Store(folder)
    children = [run for run in store.runs() if "mlflow.parentRunId" in run.data.tags]
    return {
        run.info.run_name: {
            name: [(point.step, point.value) for point in store.client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
            if not name.startswith("time/")
        }
        for run in children
        if run.info.status == "FINISHED"
    }


def kill_once_saved(folder: Path, times: int) -> None:
    """Start the search and kill it, like a power cut, when its checkpoint has been written so many times."""
    checkpoints = folder / "mlruns" / "checkpoints"
    process = programs.Program("train.py", *SEARCH, cwd=folder)
    seen: set[int] = set()
    while len(seen) < times and process.poll() is None:
        seen |= {path.stat().st_mtime_ns for path in checkpoints.glob("*.ckpt")}
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_search_goes_on_and_ends_with_the_same_numbers(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    assert train(whole, *SEARCH).returncode == 0
    kill_once_saved(cut, times=40)
    done = train(cut, *SEARCH)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "on at step" in line]
    step = int(line.partition("step ")[2].partition(" of ")[0].replace(",", ""))
    assert line == f"2 runs go on at step {step:,} of 1,014"
    assert 100 < step < 1000
    expected = measured(whole)
    assert len(expected) == 2
    assert len(expected["mlp criterion=magnitude"]["test/acc"]) > 50
    assert measured(cut) == expected
    assert done.stderr == ""
    assert list((cut / "mlruns" / "checkpoints").glob("*.ckpt")) == []
    assert done.stdout.startswith("2 runs of a process that is gone are marked FAILED\n")
    parents = [run for run in Store(cut).runs() if run.data.tags["mnist1d.kind"] == "sweep"]
    assert [run.info.status for run in parents] == ["FINISHED"], "it goes on in the same sweep"
    assert sorted(run.info.status for run in Store(cut).children_of(parents[0])) == 2 * ["FAILED"] + 2 * ["FINISHED"]


KILLED_IN_THE_MIDDLE = """
    import os, signal
    from mnist1d.resume import Saver
    save = Saver.on_train_batch_end

    def save_and_die(self, trainer, *rest):
        save(self, trainer, *rest)
        if trainer.global_step > 1000:
            os.kill(os.getpid(), signal.SIGKILL)

    Saver.on_train_batch_end = save_and_die
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_stack_goes_on_beside_finished_ones_and_without_a_member_that_was_recorded_before(tmp_path: Path) -> None:
    common = ("model=logistic", "trainer.eval_every=100", "trainer.checkpoint_seconds=0", *SMALL[:2], *SMALL[4:])
    sweep = ("-m", "seed=0,1", "trainer.max_steps=31,3000", *common)
    assert train(tmp_path, "seed=0", "trainer.max_steps=3000", *common).returncode == 0
    assert sabotaged(tmp_path, KILLED_IN_THE_MIDDLE, *sweep).returncode == -signal.SIGKILL
    plan = train(tmp_path, *sweep, "plan=true")
    assert "3 of 4 runs are recorded already" in plan.stdout
    assert ["3000", "1", "1999", "1001"] in [line.split()[:4] for line in plan.stdout.splitlines()]
    done = train(tmp_path, *sweep)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 of 4 runs are recorded already" in done.stdout
    assert "\n1 run goes on at step 1,001 of 3,000\n" in done.stdout
    points = measured(tmp_path)["logistic max_steps=3000 seed=1"]["test/acc"]
    assert [step for step, _ in points] == [*range(0, 3000, 100), 2999]


def test_what_is_found_again_is_the_same_runs_in_the_same_store(make_run: MakeRun) -> None:
    def place(*overrides: str) -> Path:
        runs = tuple(make_run("tracking.uri=sqlite:///one/mlflow.db", *overrides, f"seed={seed}") for seed in (0, 1))
        return checkpoint_path(Stack(runs, (0, 1)))

    assert place().parent == Path("one/checkpoints")
    assert place() == place("trainer.threads=1", "trainer.checkpoint_seconds=null")
    assert place() != place("optimizer.lr=0.02")
    assert place("tracking.uri=http://127.0.0.1:5000").parent == Path("mlruns/checkpoints")
