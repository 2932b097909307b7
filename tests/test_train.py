"""The real command line in a subprocess, a real sqlite store, real training for a few steps."""

import contextlib
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from mnist1d.tracking import find_run, load_weights
from tests import programs
from tests.conftest import ROOT

SMALL = (
    "data.num_samples=500",
    "data.batch_size=50",
    "trainer.max_steps=31",
    "trainer.eval_every=10",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
)


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *arguments]


def train(folder: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run train.py in `folder`, where it keeps its mlruns/; `path` is put on the import path."""
    env = {**os.environ, "PYTHONPATH": str(path or ""), "COLUMNS": "100", "MLFLOW_TRACKING_URI": ""}
    env.pop("MLFLOW_TRACKING_URI")
    return programs.run("train.py", *arguments, cwd=folder, env=env)


class Store:
    """What a test looks at in an sqlite store."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"sqlite:///{folder}/mlruns/mlflow.db"
        self.client = MlflowClient(self.uri)

    def runs(self) -> list[Run]:
        experiment = self.client.get_experiment_by_name("mnist1d")
        return list(self.client.search_runs([experiment.experiment_id], order_by=["start_time"]))

    def parent(self) -> Run:
        (parent,) = [run for run in self.runs() if "mlflow.parentRunId" not in run.data.tags]
        return parent

    def children_of(self, parent: Run) -> list[Run]:
        return [run for run in self.runs() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]

    def children(self) -> dict[str, Run]:
        return {run.info.run_name: run for run in self.runs() if "mlflow.parentRunId" in run.data.tags}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The README's sweep, shortened, with two seeds."""
    folder = tmp_path_factory.mktemp("sweep")
    sweep = ("-m", "model=mlp", "model.hidden=10,20", "data.label_noise=0.15", "seed=range(2)")
    return folder, train(folder, *sweep, *SMALL)


def test_a_sweep_ends_well_and_says_where_to_look(sweep: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = sweep
    assert done.returncode == 0, done.stderr
    assert "4 runs · 2 settings · 2 stacks" in done.stdout
    assert "make ui" in done.stdout
    assert "hidden" in done.stdout
    assert "95% interval over n runs" in done.stdout


def test_a_sweep_is_quiet_otherwise(sweep: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    assert sweep[1].stderr == ""


def test_every_run_is_a_child_named_by_what_was_swept(sweep: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    children = Store(sweep[0]).children()
    assert sorted(children) == [f"mlp hidden={h} seed={s}" for h in (10, 20) for s in (0, 1)]
    for run in children.values():
        assert run.info.status == "FINISHED"
        assert run.data.params["data.label_noise"] == "0.15"
        assert run.data.params["trainer.max_steps"] == "31"
        assert run.data.tags["mnist1d.stack_size"] == "2"
        assert len(run.data.tags["mnist1d.fingerprint"]) == 16
        assert {"mnist1d.git", "mnist1d.versions", "mnist1d.machine", "mnist1d.sweep"} <= run.data.tags.keys()
        assert run.data.metrics["time/wall_seconds"] > 0
        assert run.data.metrics["time/cpu_seconds"] > 0
        assert run.data.metrics["time/step_cpu_seconds"] > 0
    assert len({run.data.tags["mnist1d.fingerprint"] for run in children.values()}) == 4


def test_metrics_are_recorded_by_optimiser_step(sweep: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    store = Store(sweep[0])
    run = store.children()["mlp hidden=20 seed=1"]
    for name in ("train/loss", "train/acc", "test/loss", "test/acc"):
        history = store.client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in history] == [0, 10, 20, 30]
    accuracies = [point.value for point in store.client.get_metric_history(run.info.run_id, "test/acc")]
    assert run.data.metrics["test/acc_final"] == accuracies[-1]
    assert run.data.metrics["test/acc_best"] == max(accuracies)
    assert 0 <= accuracies[-1] <= 1


def test_the_parent_holds_the_summary(sweep: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    store = Store(sweep[0])
    parent = store.parent()
    assert parent.info.status == "FINISHED"
    files = {file.path for file in store.client.list_artifacts(parent.info.run_id)}
    assert {"summary.csv", "summary.md", "summary.json"} <= files
    values = [run.data.metrics["test/acc_final"] for name, run in store.children().items() if "hidden=10 " in name]
    (mean,) = [v for k, v in parent.data.metrics.items() if k.startswith("mean/test/acc_final") and "10" in k]
    assert mean == pytest.approx(sum(values) / 2)


def test_weights_and_runs_find_each_other(sweep: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    store = Store(sweep[0])
    run = store.children()["mlp hidden=10 seed=0"]
    weights = load_weights(run.info.run_id, store.uri)
    assert weights["state_dict"]["linear1.weight"].shape == (10, 40)
    path = store.client.download_artifacts(run.info.run_id, "weights.pt")
    assert find_run(path) == run.info.run_id


def test_every_job_has_its_hydra_folder(sweep: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folders = sorted((sweep[0] / "mlruns" / "outputs").glob("*/*/.hydra"))
    assert [folder.parent.name for folder in folders] == ["0", "1", "2", "3"]
    assert "seed=1" in (folders[1] / "overrides.yaml").read_text()


def test_the_slow_road_gives_the_same_numbers(
    sweep: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    overrides = ("model=mlp", "model.hidden=10,20", "data.label_noise=0.15", "seed=range(2)")
    done = train(tmp_path, "-m", *overrides, *SMALL, "hydra/launcher=basic")
    assert done.returncode == 0, done.stderr
    fast, slow = Store(sweep[0]), Store(tmp_path)

    def results(store: Store) -> dict[str, float]:
        children = store.children().values()
        return {run.data.tags["mnist1d.fingerprint"]: run.data.metrics["test/loss"] for run in children}

    assert results(slow) == {key: pytest.approx(value, rel=1e-3) for key, value in results(fast).items()}
    for name, value in fast.parent().data.metrics.items():  # one sweep, one summary
        assert slow.parent().data.metrics[name] == pytest.approx(value, rel=1e-2)


def test_a_single_run_stands_alone_and_seed_0_is_a_seed(tmp_path: Path) -> None:
    for seed in (0, 0, 1):
        done = train(tmp_path, "model=logistic", f"seed={seed}", "force=true", *SMALL)
        assert done.returncode == 0, done.stderr
    first, again, other = (run.data.metrics["test/loss"] for run in Store(tmp_path).runs())
    assert first == again != other


def test_a_failed_run_is_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    done = train(tmp_path, "-m", "model=mlp", "optimizer=sgd", "optimizer.lr=0.1,1e30", *SMALL)
    assert done.returncode == 1
    assert "1 run failed" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    children = Store(tmp_path).children()
    assert children["mlp lr=0.1"].info.status == "FINISHED"
    failed = children["mlp lr=1e+30"]
    assert failed.info.status == "FAILED"
    assert "loss became" in failed.data.tags["mnist1d.reason"]
    assert Store(tmp_path).parent().info.status == "FAILED"


def test_a_sweep_in_which_runs_may_diverge_ends_well_if_they_do_and_they_count_as_recorded(tmp_path: Path) -> None:
    sweep = ("-m", "model=mlp", "optimizer=sgd", "trainer.may_diverge=true", *SMALL)
    done = train(tmp_path, *sweep, "optimizer.lr=0.1,1e30")
    assert done.returncode == 0
    assert "1 run diverged, as expected here" in done.stdout
    assert "failed:" not in done.stdout
    assert Store(tmp_path).children()["mlp lr=1e+30"].info.status == "FAILED"
    assert Store(tmp_path).parent().info.status == "FINISHED"
    more = train(tmp_path, *sweep, "optimizer.lr=0.1,1e30,1e31")
    assert (more.returncode, more.stderr) == (0, "")
    assert "2 of 3 runs are recorded already" in more.stdout
    assert "2 runs diverged, as expected here" in more.stdout
    runs = [run for run in Store(tmp_path).runs() if run.info.run_name == "mlp lr=1e+30"]
    (copy,) = [run for run in runs if "mnist1d.copy_of" in run.data.tags]
    assert {run.info.run_id for run in runs} == {copy.data.tags["mnist1d.copy_of"], copy.info.run_id}
    assert copy.info.status == "FAILED"
    assert "loss became" in copy.data.tags["mnist1d.reason"]


OWN_MODEL = """
from torch import nn

class Mine(nn.Module):
    def __init__(self, input_size, num_classes, width, broken):
        super().__init__()
        if broken:
            raise ValueError("broken on purpose")
        self.net = nn.Sequential(nn.Linear(input_size, width), nn.Tanh(), nn.Linear(width, num_classes))

    def forward(self, x):
        return self.net(x)
"""
OWN_YAML = """
name: mine
_target_: own_model.Mine
input_size: ${data.final_seq_length}
num_classes: 10
width: 7
broken: false
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A model of the user's own: one class and one YAML, outside of the project."""
    (tmp_path / "own_model.py").write_text(OWN_MODEL)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(OWN_YAML)
    return tmp_path


def test_a_model_of_ones_own_needs_one_class_and_one_yaml(own: Path) -> None:
    config = ("--config-dir", str(own / "conf"))
    done = train(own, "-m", "model=mine", "model.width=3,5", "seed=0,1", *SMALL, *config, path=own)
    assert done.returncode == 0, done.stderr
    assert sorted(Store(own).children()) == [f"mine width={w} seed={s}" for w in (3, 5) for s in (0, 1)]


def test_a_model_that_raises_fails_its_runs_only(own: Path) -> None:
    config = ("--config-dir", str(own / "conf"))
    done = train(own, "-m", "model=mine", "model.broken=false,true", *SMALL, *config, path=own)
    assert done.returncode == 1
    assert "broken on purpose" in done.stdout
    statuses = {name: run.info.status for name, run in Store(own).children().items()}
    assert statuses == {"mine broken=false": "FINISHED", "mine broken=true": "FAILED"}


def wait_for_metrics(database: Path, process: programs.Program) -> None:
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(database)) as store:
            if store.execute("SELECT count(DISTINCT run_uuid) FROM metrics").fetchone()[0] == 2:
                return
        time.sleep(0.2)


def test_interrupting_a_sweep_marks_its_runs_killed_and_keeps_what_was_measured(tmp_path: Path) -> None:
    endless = (
        "-m",
        "seed=0,1",
        "data.num_samples=500",
        "trainer.max_steps=10000000",
        "trainer.eval_every=10",
        "trainer.threads=1",
    )
    process = programs.Program("train.py", *endless, cwd=tmp_path)
    wait_for_metrics(tmp_path / "mlruns" / "mlflow.db", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + signal.SIGINT, "")
    assert "Traceback" not in out
    assert out.rstrip().endswith(f"Go on with:  python train.py {shlex.join(endless)}")
    children = Store(tmp_path).children()
    assert [run.info.status for run in children.values()] == ["KILLED", "KILLED"]
    assert {run.data.tags["mnist1d.reason"] for run in children.values()} == {"interrupted by Ctrl-C (SIGINT)"}
    assert all(run.data.metrics["test/acc"] > 0 for run in children.values())
    assert Store(tmp_path).parent().info.status == "KILLED"


def test_faults_end_the_program_before_anything_is_written(tmp_path: Path) -> None:
    done = train(tmp_path, "-m", "model.hidden=0,10", "data.label_noise=1.5", "optimizer.lr=-1", *SMALL)
    assert done.returncode == 2
    for key in ("model.hidden", "data.label_noise", "optimizer.lr"):
        assert key in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server_is_an_error_before_training(tmp_path: Path) -> None:
    done = train(tmp_path, "tracking.uri=http://127.0.0.1:9", *SMALL)
    assert done.returncode != 0
    assert "http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_are_those_that_were_evaluated(sweep: tuple[Path, subprocess.CompletedProcess[str]], make_run) -> None:
    from mnist1d.data import load
    from mnist1d.models.make import make_model

    store = Store(sweep[0])
    run = store.children()["mlp hidden=20 seed=0"]
    model = make_model(make_run("model=mlp", "model.hidden=20").model)
    model.load_state_dict(load_weights(run.info.run_id, store.uri)["state_dict"])
    splits = load(make_run("data.num_samples=500").data)
    accuracy = (model(torch.tensor(splits.test_x)).argmax(1) == torch.tensor(splits.test_y)).double().mean()
    assert accuracy.item() == pytest.approx(run.data.metrics["test/acc_final"])


def printed_commands(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """What the program told its user to type next."""
    lines = done.stdout.partition("Go on with:")[2].splitlines()
    return [shlex.split(line)[2:] for line in lines if "train.py" in line]


def test_the_command_to_go_on_with_runs_more_seeds(tmp_path: Path) -> None:
    done = train(tmp_path, "seed=2", "model=logistic", *SMALL)
    (arguments,) = printed_commands(done)
    assert "seed=2" not in arguments
    again = train(tmp_path, *[argument.replace("20", "3") for argument in arguments])
    assert again.returncode == 0, again.stderr
    assert "3 runs · 1 setting" in again.stdout


def test_what_breaks_is_a_failure_even_where_runs_may_diverge(own: Path, tmp_path: Path) -> None:
    asked = ("--config-dir", str(own / "conf"), "model=mine", "model.broken=true", "trainer.may_diverge=true")
    done = train(tmp_path, *asked, *SMALL, path=own)
    assert done.returncode == 1
    assert "1 run failed:" in done.stdout
    assert "broken on purpose" in done.stdout


def test_the_command_after_a_failure_trains_the_failed_runs_alone(tmp_path: Path) -> None:
    asked = ("-m", "model=logistic,mlp", "optimizer=sgd", "optimizer.lr=0.1,1e30", "seed=0,1", *SMALL)
    done = train(tmp_path, *asked)
    (command,) = printed_commands(done)
    assert command == list(asked)
    again = train(tmp_path, *command)
    assert again.returncode == 1
    assert "6 of 8 runs are recorded already" in again.stdout  # logistic regression survives even this rate
    assert "2 runs failed" in again.stdout
    assert "loss became" in again.stdout
    names = [run.info.run_name for run in Store(tmp_path).runs() if run.info.status == "FAILED"]
    failed = ["mlp lr=1e+30 seed=0", "mlp lr=1e+30 seed=1"]
    assert sorted(name for name in names if "lr" in name) == sorted(2 * failed)
