"""Stacks trained by several processes: the real command line, real workers, killed for real."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mnist1d import cost, hardware
from mnist1d.config import Run
from mnist1d.executors import Processes, Serial, chosen
from mnist1d.provenance import cores
from tests.test_faults import statuses
from tests.test_resume import measured
from tests.test_train import SMALL, Store, command, train

TWO = ("hydra.launcher.executor=processes", "hydra.launcher.workers=2")
SWEEP = ("-m", "model.hidden=10,20,30", "seed=0,1", *SMALL)
COMMON = (
    *("-m", "seed=0,1", "data.num_samples=500", "trainer.eval_every=100", "trainer.threads=1"),
    *("trainer.accelerator=cpu", "trainer.checkpoint_seconds=0", TWO[0]),
)
LONG = (*COMMON, TWO[1], "model.hidden=10,20")
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="workers are found in /proc")


def workers(driver: subprocess.Popen[str]) -> list[int]:
    """Numbers of the worker processes that are alive, oldest first."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            asked = (folder / "cmdline").read_text()
        except OSError:  # it has ended this moment
            continue
        if int(parent) == driver.pid and state not in "ZX" and "spawn_main" in asked:
            found.append(int(folder.name))
    return sorted(found)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command(*arguments), cwd=tmp_path, text=True, **pipes))  # type: ignore[call-overload]
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def checkpoints(folder: Path) -> list[Path]:
    return list((folder / "mlruns" / "checkpoints").glob("*.ckpt"))


def test_two_workers_give_bit_identical_numbers(tmp_path: Path) -> None:
    for name, more in (("serial", ()), ("two", TWO)):
        (tmp_path / name).mkdir()
        done = train(tmp_path / name, *SWEEP, *more)
        assert (done.returncode, done.stderr) == (0, "")
        assert (" · 2 workers" in done.stdout) == (name == "two")
    expected = measured(tmp_path / "serial")
    assert len(expected) == 6
    assert measured(tmp_path / "two") == expected
    stores = [Store(tmp_path / name) for name in ("serial", "two")]
    hashes = [{n: run.data.tags["mnist1d.weights"] for n, run in store.children().items()} for store in stores]
    assert hashes[0].keys() == hashes[1].keys()
    for run in stores[1].children().values():
        assert run.data.metrics["time/cpu_seconds"] > 0
        assert run.data.tags["mnist1d.stack_size"] == "2"
    assert checkpoints(tmp_path / "two") == []


def test_the_stacks_of_a_killed_worker_are_trained_once_more(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    sweep = (*LONG, "trainer.max_steps=6001")
    driver = start(*sweep)
    wait_until(lambda: len(checkpoints(tmp_path)) == 2, "both stacks were under way")
    os.kill(workers(driver)[0], signal.SIGKILL)
    out, err = driver.communicate(timeout=100)
    assert (driver.returncode, err) == (0, ""), out
    reason = "its worker process was killed (SIGKILL; the system does that when memory runs out)"
    assert out.count(f"2 runs are trained once more: {reason}\n") == 1
    assert "2 runs go on at step" in out
    assert set(map(tuple, statuses(tmp_path).values())) == {("FINISHED",)}
    whole = tmp_path / "whole"
    whole.mkdir()
    assert train(whole, *[text for text in sweep if text not in TWO]).returncode == 0
    assert measured(tmp_path) == measured(whole), "no point is missing or doubled, every bit is equal"
    store = Store(tmp_path)
    (run, *_) = store.children().values()
    assert len(store.client.get_metric_history(run.info.run_id, "test/acc")) == 61
    assert checkpoints(tmp_path) == []


def test_runs_that_lose_their_worker_twice_fail_and_the_others_go_on(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    driver = start(*COMMON, "hydra.launcher.workers=1", "model.hidden=10", "trainer.max_steps=10000000,31")
    wait_until(lambda: len(checkpoints(tmp_path)) == 1, "the first stack was under way")
    (first,) = workers(driver)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(set(workers(driver)) - {first}) == 1, "there was another worker")
    os.kill((set(workers(driver)) - {first}).pop(), signal.SIGKILL)
    out, err = driver.communicate(timeout=100)
    assert (driver.returncode, err) == (1, ""), out
    reason = "its worker process was killed (SIGKILL; the system does that when memory runs out), for the second time"
    assert f"2 runs failed:\n  mlp max_steps=10000000 seed=0: {reason}\n" in out
    assert "Go on with:" in out
    found = statuses(tmp_path)
    assert found.pop("sweep") == ["FAILED"]
    assert {name: found[name] for name in found if "=31" in name} == {
        f"mlp max_steps=31 seed={seed}": ["FINISHED"] for seed in (0, 1)
    }
    failed = [run for run in Store(tmp_path).children().values() if run.info.status == "FAILED"]
    assert [run.data.tags["mnist1d.reason"] for run in failed] == [reason] * 2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_driver(
    signum: signal.Signals, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    driver = start(*LONG, "trainer.max_steps=10000000")
    wait_until(lambda: len(checkpoints(tmp_path)) == 2, "both stacks were under way")
    trained_by = workers(driver)
    assert len(trained_by) == 2
    if signum == signal.SIGINT:  # as a terminal sends it: to all of them
        for pid in trained_by:
            os.kill(pid, signum)
    driver.send_signal(signum)
    out, err = driver.communicate(timeout=100)
    assert err == ""
    wait_until(lambda: not any(map(is_alive, trained_by)), "the workers had ended")
    if signum == signal.SIGKILL:
        return
    assert driver.returncode == 128 + signum
    assert "once more" not in out
    found = statuses(tmp_path)
    assert found.pop("sweep") == ["KILLED"]
    assert set(map(tuple, found.values())) == {("KILLED",)}
    assert all(run.data.metrics["test/acc"] > 0 for run in Store(tmp_path).children().values())


def test_two_sweeps_start_at_once_on_an_empty_store(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    small = ("-m", "seed=0,1", *SMALL, *TWO)
    both = [start(*small, f"model={model}", "trainer.stack=1") for model in ("logistic", "mlp")]
    for process in both:
        out, err = process.communicate(timeout=110)
        assert (process.returncode, err) == (0, ""), out
    runs = Store(tmp_path).runs()
    assert [run.info.status for run in runs] == ["FINISHED"] * 6
    assert sorted(run.data.tags["mnist1d.kind"] for run in runs) == ["run"] * 4 + ["sweep"] * 2


def test_runs_that_diverge_fail_with_their_reasons_as_in_one_process(tmp_path: Path) -> None:
    done = train(tmp_path, "-m", "model=mlp", "seed=0,1", "optimizer=sgd", "optimizer.lr=0.1,1e30", *SMALL, *TWO)
    assert done.returncode == 1
    assert "2 runs failed:" in done.stdout
    assert sorted(run.info.status for run in Store(tmp_path).children().values()) == 2 * ["FAILED"] + 2 * ["FINISHED"]


def test_a_plan_shows_the_workers(tmp_path: Path) -> None:
    done = train(tmp_path, *SWEEP, *TWO, "plan=true")
    assert done.stdout.startswith("6 runs · 3 settings · 3 stacks · 186 run-steps · 2 workers\n")
    assert list(tmp_path.iterdir()) == []


def test_the_launchers_settings_choose_an_executor() -> None:
    assert isinstance(chosen({}), Serial), "of hydra/launcher=basic"
    assert isinstance(chosen({"executor": "serial", "workers": None}), Serial)
    for given, workers in ((3, 3), (None, cores())):
        executor = chosen({"executor": "processes", "workers": given})
        assert isinstance(executor, Processes)
        assert executor.workers == workers


def test_workers_share_the_cores_unless_the_config_says_how_many_threads(make_run: Callable[..., Run]) -> None:
    settings = make_run("trainer.threads=null").trainer
    try:
        hardware.share(cores())
        assert hardware.threads(settings) == 1
        hardware.share(100)
        assert hardware.threads(settings) == 1
        assert hardware.threads(make_run("trainer.threads=3").trainer) == 3
    finally:
        hardware.share(1)
    assert hardware.threads(settings) == cores()


def test_the_expected_time_is_that_of_the_last_worker_to_end() -> None:
    assert cost.elapsed([], 2) == 0
    assert cost.elapsed([1, 2, 3], 1) == 6
    assert cost.elapsed([1, 1, 1, 3], 2) == 3, "longest first"
    assert cost.elapsed([3, 1], 5) == 3
