"""Every command and snippet of the README, run for real: shortened where it would train for minutes."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import programs
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
SMOKE = ("profile=smoke", "trainer.threads=1")
SHORT = {"trainer.max_steps": "4", "trainer.eval_every": "2", "trainer.threads": "1", "trainer.accelerator": "cpu"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """All command lines, prompts and comments taken off."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    lines += [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if line.strip()]


def shortened(arguments: list[str]) -> list[str]:
    """The same command for a few steps of a few runs; `--cfg` and `--help` as they are.

    Ray and submitit, which tests/test_executors.py starts, are only asked for a plan.
    """
    if any(argument.startswith("--") for argument in arguments):
        return arguments
    if any(argument.startswith("experiment=") for argument in arguments):
        return [*(a for a in arguments if not a.startswith("profile=")), *SMOKE]
    if {"hydra.launcher.executor=ray", "hydra.launcher.executor=submitit"} & {*arguments}:
        return [*arguments, "plan=true"]
    kept = [a for a in arguments if a.partition("=")[0] not in SHORT]
    kept = [re.sub(r"range\(\d+\)", "range(2)", argument) for argument in kept]
    return [*kept, *(f"{key}={value}" for key, value in SHORT.items())]


def run(script: str, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"} | {
        "PYTHONPATH": str(folder)
    }
    return programs.run(script, *arguments, cwd=folder, env=env)


def own_model(folder: Path) -> list[str]:
    """The README's model of one's own in `folder`; the arguments that let Hydra find it there."""
    (source,) = [block for block in blocks("python") if "class Wide" in block]
    (config,) = blocks("yaml")
    (folder / "my_models.py").write_text(source)
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "conf" / "model" / "wide.yaml").write_text(config)
    return ["--config-dir", str(folder / "conf")]


TRAINING = [line for line in commands() if line.startswith("python train.py")]


def test_the_readme_was_understood() -> None:
    assert len(TRAINING) >= 10
    assert {"make train", "make test", "make ui"} <= set(commands())
    known = ("python train.py", "python analyze.py", "python -m mnist1d.data export", "make ")
    assert [line for line in commands() if not line.startswith(known)] == []


@pytest.mark.parametrize("line", sorted(set(TRAINING)))
def test_training_commands_run(line: str, tmp_path: Path) -> None:
    arguments = shlex.split(line)[2:]
    if "model=mpl" in line:
        (block,) = [block for block in blocks("console") if "model=mpl" in block]
        done = run("train.py", arguments, tmp_path)
        assert (done.returncode, done.stderr.strip()) == (2, block.partition("\n")[2].strip())
        return
    if "activation_transfer" in line:  # takes a function that was learned before
        assert run("train.py", ["-m", "experiment=metalearn_activation", *SMOKE], tmp_path).returncode == 0
    extra = own_model(tmp_path) if "model=wide" in line else []
    done = run("train.py", [*shortened(arguments), *extra], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def test_the_analysis_follows_the_experiment(tmp_path: Path) -> None:
    (line,) = [line for line in commands() if line.startswith("python analyze.py")]
    experiment = ["-m", "experiment=classification", "profile=smoke", "trainer.threads=1", "trainer.max_steps=4"]
    assert run("train.py", experiment, tmp_path).returncode == 0
    done = run("analyze.py", shlex.split(line)[2:], tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mlruns/report/report.html").stat().st_size > 50_000
    assert (tmp_path / "mlruns/report/classification/figure.png").stat().st_size > 10_000


@pytest.mark.parametrize("target", sorted(line.split()[1] for line in commands() if line.startswith("make ")))
def test_make_targets_exist(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("help", "setup", "train", "test", "check", "bench", "ui", "clean"):
        assert f"make {target} " in done.stdout


def test_the_data_snippet_runs() -> None:
    (snippet,) = [block for block in blocks("python") if "make_dataset" in block]
    names: dict[str, dict[str, object]] = {}
    exec(snippet, names)
    assert names["data"]["x"].shape == (4000, 40)  # type: ignore[attr-defined]


def test_the_export_runs(tmp_path: Path) -> None:
    (line,) = [line for line in commands() if line.startswith("python -m mnist1d.data")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *shlex.split(line)[1:]]
    subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=60, check=True)
    assert {"train.csv", "README.md"} <= {file.name for file in (tmp_path / "mnist1d-noisy").iterdir()}


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []
