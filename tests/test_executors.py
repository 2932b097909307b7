"""Stacks trained elsewhere: the real command line, real processes, Ray and submitit, with workers killed for real."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run as StoredRun

from mnist1d import cost, executors, hardware
from mnist1d.config import Run
from mnist1d.events import Begun, Event, Failed, Measured, Repeated, Trained, Warned
from mnist1d.executors import Share, Unavailable, chosen, share, submitit, worker
from mnist1d.executors.processes import Processes
from mnist1d.executors.ray import Ray
from mnist1d.executors.serial import Serial
from mnist1d.executors.submitit import Submitit
from mnist1d.plan import Stack, fingerprint
from mnist1d.provenance import cores
from mnist1d.resume import checkpoint_path
from tests.stores import part
from tests.test_faults import statuses
from tests.test_resume import measured
from tests.test_train import SMALL, Store, command, train

TWO = ("hydra.launcher.executor=processes", "hydra.launcher.workers=2")
SWEEP = ("-m", "model.hidden=10,20,30", "seed=0,1", *SMALL)
COMMON = (
    *("-m", "seed=0,1", "data.num_samples=500", "trainer.eval_every=10", "trainer.threads=1"),
    *("trainer.accelerator=cpu", "trainer.checkpoint_seconds=0"),
)
LONG = (*COMMON, "model.hidden=10,20")
STEPS = "trainer.max_steps=5001"
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same in IPv6, and ::1, as the kernel writes them."""
ELSEWHERE = {
    "processes": TWO,
    "ray": ("hydra.launcher.executor=ray", TWO[1]),
    "submitit": ("hydra.launcher.executor=submitit", TWO[1], "hydra.launcher.submitit.cluster=local"),
}
TITLES = {"processes": "spawn_main", "ray": "ray::_serve", "submitit": "submitit.core._submit"}
REASONS = {
    "processes": "its worker process was killed (SIGKILL; the system does that when memory runs out)",
    "ray": "its Ray task was lost (WorkerCrashedError: The worker died unexpectedly while executing this task. "
    "Check python-core-worker-*.log files for more information.)",
    "submitit": r"its job \d+ ended early; \S+/jobs/\S+_log\.err may say why",
}
Curves = dict[str, dict[str, list[tuple[int, float]]]]
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="workers are found in /proc")


def descendants(driver: subprocess.Popen[str]) -> dict[int, str]:
    """The living processes that `driver` or its descendants have started, oldest first, with their command lines."""
    parents, lines = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            asked = (folder / "cmdline").read_text()
        except OSError:  # it has ended this moment
            continue
        if state not in "ZX":
            parents[int(folder.name)], lines[int(folder.name)] = int(parent), asked
    found = {driver.pid}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: lines[pid] for pid in sorted(found - {driver.pid})}


def workers(driver: subprocess.Popen[str], executor: str = "processes") -> list[int]:
    """Numbers of the processes that train, oldest first."""
    return [pid for pid, line in descendants(driver).items() if TITLES[executor] in line]


def listening(pids: Iterable[int]) -> set[str]:
    """Addresses at which these processes take connections, as the kernel writes them."""
    sockets = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                sockets.add(str(file.readlink()))
    tables = [Path(f"/proc/net/{kind}").read_text().splitlines()[1:] for kind in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


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


def children(folder: Path) -> list[StoredRun]:
    return list(Store(folder).children().values())


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
    rows = [re.findall(r"^ (\d+) +\S.*$", done.stdout, re.MULTILINE)]
    assert rows == [["10", "20", "30"]], "in the order of the command line, though the longest were trained first"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Curves:
    """What the runs of LONG measure in one process that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(folder, *LONG, STEPS).returncode == 0
    return measured(folder)


@pytest.mark.parametrize("executor", ELSEWHERE)
def test_the_stacks_of_a_killed_worker_are_trained_once_more(
    executor: str, whole: Curves, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    driver = start(*LONG, STEPS, *ELSEWHERE[executor])
    wait_until(lambda: len(checkpoints(tmp_path)) == 2, "both stacks were under way")
    wait_until(lambda: all("test/acc" in run.data.metrics for run in children(tmp_path)), "records were there, live")
    team = descendants(driver)
    assert listening(team) <= LOOPBACK
    os.kill(workers(driver, executor)[0], signal.SIGKILL)
    out, err = driver.communicate(timeout=100)
    assert (driver.returncode, err) == (0, ""), out
    reason = REASONS[executor] if executor == "submitit" else re.escape(REASONS[executor])
    assert len(re.findall(f"^2 runs are trained once more: {reason}$", out, re.MULTILINE)) == 1, out
    assert "2 runs go on at step" in out
    assert set(map(tuple, statuses(tmp_path).values())) == {("FINISHED",)}
    assert measured(tmp_path) == whole, "no point is missing or doubled, every bit is equal"
    store = Store(tmp_path)
    (run, *_) = store.children().values()
    assert len(store.client.get_metric_history(run.info.run_id, "test/acc")) == 501
    assert checkpoints(tmp_path) == []
    wait_until(lambda: not any(map(is_alive, team)), "all that was started had ended")
    assert list(tmp_path.rglob("*.events")) == []


def test_runs_that_lose_their_worker_twice_fail_and_the_others_go_on(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    driver = start(*COMMON, TWO[0], "hydra.launcher.workers=1", "model.hidden=10", "trainer.max_steps=10000000,31")
    wait_until(lambda: len(checkpoints(tmp_path)) == 1, "the first stack was under way")
    (first,) = workers(driver)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(set(workers(driver)) - {first}) == 1, "there was another worker")
    os.kill((set(workers(driver)) - {first}).pop(), signal.SIGKILL)
    out, err = driver.communicate(timeout=100)
    assert (driver.returncode, err) == (1, ""), out
    reason = "its worker process was killed (SIGKILL; the system does that when memory runs out), for the second time"
    assert f"2 runs failed:\n  mlp max_steps=10000000 seed=0: {reason}\n" in out
    assert "Go on with:  python train.py -m " in out
    assert out.endswith(" hydra.launcher.executor=processes hydra.launcher.workers=1\n")
    found = statuses(tmp_path)
    assert found.pop("sweep") == ["FAILED"]
    assert {name: found[name] for name in found if "=31" in name} == {
        f"mlp max_steps=31 seed={seed}": ["FINISHED"] for seed in (0, 1)
    }
    failed = [run for run in Store(tmp_path).children().values() if run.info.status == "FAILED"]
    assert [run.data.tags["mnist1d.reason"] for run in failed] == [reason] * 2


@pytest.mark.parametrize(
    ("executor", "signum"),
    [
        *(("processes", signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)),
        ("ray", signal.SIGTERM),
        ("submitit", signal.SIGINT),
    ],
)
def test_workers_end_with_their_driver(
    executor: str, signum: signal.Signals, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    driver = start(*LONG, "trainer.max_steps=10000000", *ELSEWHERE[executor])
    wait_until(lambda: len(checkpoints(tmp_path)) == 2, "both stacks were under way")
    wait_until(lambda: all("test/acc" in run.data.metrics for run in children(tmp_path)), "records were there, live")
    trained_by = workers(driver, executor)
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


def settings(executor: str, **changes: Any) -> dict[str, Any]:
    """`hydra.launcher` with everything left open that `changes` does not settle."""
    slurm = {"cluster": "debug", "partition": None, "timeout": 240, "memory": None, "parameters": {}}
    open_ = {"workers": None, "cpus": None, "gpus": 0, "ray": {"address": None}, "submitit": slurm}
    return {"executor": executor, **open_, **changes}


def test_the_launchers_settings_choose_an_executor(tmp_path: Path) -> None:
    assert isinstance(chosen({}, tmp_path), Serial), "of hydra/launcher=basic"
    kinds = {"serial": Serial, "processes": Processes, "ray": Ray, "submitit": Submitit}
    for name, kind in kinds.items():
        executor = chosen(settings(name), tmp_path)
        assert isinstance(executor, kind)
        assert executor.workers == (1 if name == "serial" else cores())
        assert executor.workers * executor.cpus == cores()
    assert kinds.keys() == set(executors.NAMES)
    assert list(tmp_path.iterdir()) == []
    joined = chosen(settings("ray", ray={"address": "auto"}), tmp_path)
    assert joined.cpus == 1, "how many this machine has is beside the point"


def test_what_the_settings_leave_open_divides_the_cores() -> None:
    assert share(settings("ray"), 8) == Share(8, 1, 0)
    assert share(settings("ray", workers=3), 8) == Share(3, 2, 0)
    assert share(settings("ray", cpus=4), 8) == Share(2, 4, 0)
    assert share(settings("ray", workers=3, cpus=4, gpus=0.5), 8) == Share(3, 4, 0.5)
    assert share(settings("ray", workers=20), 8) == Share(20, 1, 0)
    assert share(settings("ray", cpus=20), 8) == Share(1, 20, 0)


def test_workers_have_their_threads_unless_the_config_says_how_many(make_run: Callable[..., Run]) -> None:
    settings = make_run("trainer.threads=null").trainer
    try:
        hardware.allow(5)
        assert hardware.threads(settings) == 5
        assert hardware.threads(make_run("trainer.threads=3").trainer) == 3
    finally:
        hardware.allow(None)
    assert hardware.threads(settings) == cores()


class Recorder:
    """Takes events as a sweep does."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def kinds(self) -> list[type[Event]]:
        return [type(event) for event in self.events]


@pytest.fixture
def stacks(make_run: Callable[..., Run], tmp_path: Path) -> list[Stack]:
    small = [text for text in SMALL if not text.startswith("-")]
    store = f"tracking.uri=sqlite:///{tmp_path}/x.db"
    return [
        Stack((make_run(f"model.hidden={hidden}", store, *small),), (place,)) for place, hidden in enumerate((5, 6))
    ]


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # submitit's own, of its logs
def test_the_debug_cluster_trains_in_this_process(stacks: list[Stack], tmp_path: Path) -> None:
    expected, found = Recorder(), Recorder()
    Serial()(stacks, expected)
    environment = dict(os.environ)
    chosen(settings("submitit", workers=1), tmp_path / "out")(stacks, found)
    assert dict(os.environ) == environment
    assert found.kinds == expected.kinds
    assert {Begun, Measured, Trained} == set(found.kinds)
    for a, b in zip(found.events, expected.events, strict=True):
        assert a.indices == b.indices
        if isinstance(a, Trained) and isinstance(b, Trained):
            assert a.members[0].finals == b.members[0].finals


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # submitit's own, of its logs
def test_a_job_that_is_lost_twice_has_failed(
    stacks: list[Stack], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of jobs that end without a word, as one does whose time was over while it was waiting for its data."""
    monkeypatch.setattr(submitit, "_serve_here", lambda *_: None)
    taken = Recorder()
    chosen(settings("submitit", workers=2), tmp_path)(stacks, taken)
    assert sorted(event.indices for event in taken.events) == [(0,), (0,), (1,), (1,)]
    assert sorted(kind.__name__ for kind in taken.kinds) == ["Failed", "Failed", "Repeated", "Repeated"]
    for event in taken.events:
        assert isinstance(event, Failed | Repeated)
        assert re.fullmatch(
            r"its job DEBUG_\d+ ended early; \S+err may say why" + ", for the second time" * isinstance(event, Failed),
            event.reason,
        )


class Given:
    """submitit's job, as far as one looks at it while it runs."""

    def done(self) -> bool:
        return False


def test_events_are_read_once_and_whole(tmp_path: Path) -> None:
    letters = tmp_path / "0.events"
    (tmp_path / "driver").touch()
    write, job = submitit.writer(letters), submitit.Job(Given(), letters, None)  # type: ignore[arg-type]
    assert not job.has_news(), "there is no file yet"
    first, second = Begun((0, 1)), Measured((0, 1), 3, {"a": [0.1, 0.2]}, [False, False])
    write(first)
    text = letters.read_bytes()
    write(second)
    both = letters.read_bytes()
    read = []
    for size in (5, len(text), len(both) - 1, len(both)):
        letters.write_bytes(both[:size])
        read.append(job.next() if job.has_news() else None)
    assert read == [None, first, None, second]
    assert job.next() is None


@pytest.mark.parametrize("gone", ["silent", "ended"])
def test_a_job_ends_when_its_driver_is_dead(gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heart = tmp_path / "driver"
    heart.touch()
    write, ends = submitit.writer(tmp_path / "0.events"), []
    monkeypatch.setattr("os._exit", ends.append)
    os.utime(heart, (0, time.time() - submitit.SILENCE + 60))
    write(Begun((0,)))
    assert ends == []
    if gone == "silent":
        os.utime(heart, (0, time.time() - submitit.SILENCE - 1))
    else:
        heart.unlink()
    write(Begun((0,)))
    assert ends == [1]


def test_an_address_at_which_no_cluster_answers_is_refused_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    executor = Ray(Share(1, 1), f"127.0.0.1:{port}", None)
    reason = rf"hydra\.launcher\.ray\.address=127\.0\.0\.1:{port}: no cluster answers \(Connection refused\)"
    with pytest.raises(Unavailable, match=f"^{reason}$"):
        executor.warm_up(1)


def test_nothing_is_started_for_recorded_runs(make_run: Callable[..., Run], database: Any) -> None:
    class Starter:
        def warm_up(self, most: int) -> None:
            asked.append(most)
            if most == 3:
                raise Unavailable("nobody is there")

    asked: list[int] = []
    store = part(database, "recorded runs")
    place = (f"tracking.uri={store.uri}", "tracking.experiment='recorded runs'")
    runs = [make_run(f"seed={seed}", *place) for seed in (0, 1, 2)]
    for number, status in ((0, "FINISHED"), (1, "FAILED")):
        store.add(status, fingerprint=fingerprint(runs[number]))
    executors.warm_up_or_refuse(Starter(), runs[:1])  # type: ignore[arg-type]
    executors.warm_up_or_refuse(Starter(), runs)  # type: ignore[arg-type]
    executors.warm_up_or_refuse(Starter(), [make_run("seed=0", "force=true", *place)])  # type: ignore[arg-type]
    executors.warm_up_or_refuse(Starter(), [make_run("seed=0", f"tracking.uri=sqlite:///{store.path}x")])  # type: ignore[arg-type]
    assert asked == [0, 2, 1, 1]
    with pytest.raises(SystemExit, match=r"^train\.py: nobody is there$"):
        executors.warm_up_or_refuse(Starter(), [make_run(f"seed={seed}") for seed in (3, 4, 5)])  # type: ignore[arg-type]


def test_warnings_of_a_worker_are_told(stacks: list[Stack]) -> None:
    path = checkpoint_path(stacks[0])
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no checkpoint")
    taken = Recorder()
    worker.train(stacks[0], taken)
    (warning,) = [event for event in taken.events if isinstance(event, Warned)]
    assert warning == Warned((0,), f"{path} cannot be used (it is damaged): the fit starts from the beginning")
    assert taken.kinds[-1] == Trained


def test_the_expected_time_is_that_of_the_last_worker_to_end() -> None:
    assert cost.elapsed([], 2) == 0
    assert cost.elapsed([1, 2, 3], 1) == 6
    assert cost.elapsed([1, 1, 1, 3], 2) == 3, "longest first"
    assert cost.elapsed([3, 1], 5) == 3
