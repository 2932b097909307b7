"""experiment=activation_transfer by its command line: what it needs, what it records, what the report makes of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests import programs

LEARN = (
    *("-m", "task=metalearn_activation", "model=shallow", "model.activation=elu", "optimizer=rmsprop", "seed=0,1"),
    *("data.num_samples=1000", "trainer.max_steps=2", "task.inner_steps=31", "task.loss_window=20", "task.trials=1"),
    *("task.trial_lrs=[0.01]", "task.trial_steps=31", "task.long_trial_steps=null"),
)
TRANSFER = ("-m", "experiment=activation_transfer", "profile=smoke")
FEW = ("model.activation=relu,learned:best", "trainer.max_steps=2")


def started(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program, run in `folder`, where it keeps its mlruns/."""
    env = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    more = ("trainer.threads=1", "trainer.accelerator=cpu") if script == "train.py" else ()
    return programs.run(script, *arguments, *more, cwd=folder, env=env)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only. A store with two learned functions and the experiment with the better one."""
    folder = tmp_path_factory.mktemp("transfer")
    for arguments in (LEARN, (*TRANSFER, *FEW)):
        done = started(folder, "train.py", *arguments)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return folder


def test_without_a_learned_function_nothing_starts_and_the_command_that_learns_one_is_told(tmp_path: Path) -> None:
    done = started(tmp_path, "train.py", *TRANSFER)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "1 fault in the configuration:"
    assert done.stderr.rstrip().endswith(
        f"there is no database at {tmp_path}/mlruns/mlflow.db; "
        "allowed: a store that has learned functions: python train.py -m experiment=metalearn_activation"
    )
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()


def test_the_record_says_which_function_was_used(folder: Path) -> None:
    client = MlflowClient(f"sqlite:///{folder}/mlruns/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("mnist1d").experiment_id])
    tried = {
        run.info.run_id: run.data.metrics["fresh/acc_mean"] for run in runs if "fresh/acc_mean" in run.data.metrics
    }
    transfer = [run for run in runs if run.data.params.get("experiment") == "activation_transfer"]
    assert len(tried) == 2
    functions = {run.data.params["model.activation"] for run in transfer}
    assert functions == {"relu", f"learned:{max(tried, key=lambda run_id: tried[run_id])}"}
    assert len(transfer) == 3 * 2 * 2  # nets, functions, seeds
    assert all(run.info.status == "FINISHED" and "test/acc_selected" in run.data.metrics for run in transfer)
    assert {run.data.params["data.seed"] for run in transfer} == {"0", "1"}
    assert len({run.data.tags["mnist1d.fingerprint"] for run in transfer}) == len(transfer)


def test_the_report_has_its_page(folder: Path) -> None:
    done = started(folder, "analyze.py", "experiment=activation_transfer")
    assert done.returncode == 0, done.stderr
    report = folder / "mlruns" / "report"
    assert (report / "activation_transfer" / "transfer.png").stat().st_size > 10_000
    text = (report / "report.md").read_text()
    assert "Transfer of a learned activation function" in text
    assert "| MLP, 3 layers | learned |" in text
