"""Every command and snippet of README.md and docs/, run for real: shortened where it would train for minutes.

The guides, whose commands build on each other, are followed from top to bottom in tests/test_guides.py.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from mlflow import MlflowClient
from torch.nn import functional as F

import analyze
from mnist1d import reproduce
from mnist1d.config import check
from mnist1d.models import Logistic
from tests import documents
from tests.conftest import ROOT
from tests.documents import GUIDES, PAGES, SMOKE, run, shortened

README = documents.read("README.md")
NOT_RUN = {
    "source .venv/bin/activate": "changes the shell that it is typed in",
    "pip install -c constraints.txt -e '.[ray,slurm]'": "installs; the extras are those of pyproject.toml",
    "pip install 'mnist1d-lab[postgres]'": "installs; the same",
    "pip install ipykernel": "installs what only notebooks need",
    "pip install --no-deps": "names an option; tests/test_wheel.py installs a wheel with it",
    "pip wheel --no-deps .": "tests/test_wheel.py builds one",
    "python -m bench metalearning": "measures for two minutes; tests/test_bench.py runs what it calls",
    "python -m mnist1d.config.reference": "tests/test_conf_files.py holds docs/config.md to what it prints",
    "python -m mnist1d.data export": "names the program; README has it with arguments",
    "python -m mnist1d.data export --format FORMAT --output DIR [KEY=VALUE …]": "a pattern",
    "python analyze.py compare=SWEEP_A,SWEEP_B": "a pattern; the tutorial's is run",
    "HYPOTHESIS_EXAMPLES=3000 python -m pytest tests/test_fuzz.py": "takes long; the suite runs it with fewer examples",
}
"""Command line -> why it is run by no test of the documents."""


def lines(*pages: str) -> list[str]:
    """The command lines in the fenced blocks of pages, in order, each once; of all pages but the guides by default."""
    chosen = pages or tuple(page for page in PAGES if page not in GUIDES)
    return list(dict.fromkeys(line for page in chosen for line in documents.commands(documents.read(page))))


def sentences() -> list[str]:
    """The command lines within the sentences of all pages."""
    return list(dict.fromkeys(span for page in PAGES for span in documents.spans(documents.read(page))))


def own_model(folder: Path) -> list[str]:
    """The README's model of one's own in `folder`; the arguments that let Hydra find it there."""
    (source,) = [block for block in documents.blocks(README, "python") if "class Wide" in block]
    (config,) = documents.blocks(README, "yaml")
    (folder / "my_models.py").write_text(source)
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "conf" / "model" / "wide.yaml").write_text(config)
    return ["--config-dir", str(folder / "conf")]


TRAINING = list(
    {
        shlex.join(shortened(shlex.split(line)[2:])): line for line in lines() if line.startswith("python train.py")
    }.values()
)
"""Lines that differ when they are short, too."""


def test_the_pages_were_understood() -> None:
    assert len(PAGES) >= 20
    assert {"README.md", *GUIDES} <= set(PAGES)
    assert len(TRAINING) >= 25
    assert {"make train", "make test", "make ui"} <= set(lines())
    typed = {*lines(*PAGES), *sentences()} - NOT_RUN.keys()
    known = ("python train.py", "python analyze.py", "python -m mnist1d.data export", "make ")
    assert [line for line in typed if not line.startswith(known)] == []
    assert [line for line in NOT_RUN if line not in {*lines(*PAGES), *sentences()}] == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder in which an experiment was trained in its smallest size, once for all tests that need it."""

    @cache
    def trained(experiment: str) -> Path:
        needed = reproduce.NEEDS.get(experiment)  # it starts from what that one learned
        folder = trained(needed) if needed else tmp_path_factory.mktemp(experiment)
        finished(run("train.py", ["-m", f"experiment={experiment}", *SMOKE], folder))
        return folder

    return trained


def finished(done: subprocess.CompletedProcess[str]) -> None:
    """Without a fault and without a warning."""
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("line", TRAINING)
def test_training_commands_run(line: str, tmp_path: Path, trained: Callable[[str], Path]) -> None:
    arguments = shlex.split(line)[2:]
    if "model=mpl" in line:
        (block,) = [block for block in documents.blocks(README, "console") if "model=mpl" in block]
        done = run("train.py", arguments, tmp_path)
        assert (done.returncode, done.stderr.strip()) == (2, block.partition("\n")[2].strip())
        return
    match shortened(arguments):
        case ["-m", experiment, *size] if experiment.startswith("experiment=") and tuple(size) == SMOKE:
            trained(experiment.partition("=")[2])
        case short:
            extra = own_model(tmp_path) if "model=wide" in line else []
            finished(run("train.py", [*short, *extra], tmp_path))


@pytest.mark.parametrize("line", sorted(set(sentences()) - NOT_RUN.keys()))
def test_commands_within_sentences_are_accepted(line: str) -> None:
    program, *arguments = shlex.split(line)
    if program == "make":
        would_run(arguments[0])
    elif arguments[0] == "train.py":
        check(arguments[1:])
    else:
        assert (arguments[0], analyze.check(arguments[1:])) == ("analyze.py", [])


@pytest.mark.parametrize("line", [line for line in lines() if line.startswith("python analyze.py")])
def test_the_analysis_follows_the_experiment(line: str, trained: Callable[[str], Path]) -> None:
    arguments = shlex.split(line)[2:]
    (name,) = [each.partition("=")[2] for each in arguments if each.startswith("experiment=")] or ["classification"]
    report = trained(name) / "mlruns" / "report"
    done = run("analyze.py", arguments, trained(name))
    assert done.returncode == 0, done.stderr
    assert (report / "report.html").stat().st_size > 50_000
    assert [file for file in (report / name).glob("*.png") if file.stat().st_size > 10_000]


@cache
def would_run(target: str) -> None:
    """A target of the Makefile."""
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", sorted({line.split()[1] for line in lines(*PAGES) if line.startswith("make ")}))
def test_make_targets_exist(target: str) -> None:
    would_run(target)


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("help", "setup", "train", "test", "check", "bench", "ui", "clean"):
        assert f"make {target} " in done.stdout


# -- snippets of Python -----------------------------------------------------------------------------------


def snippet(word: str) -> str:
    """The one that has this word."""
    (found,) = [block for block in SNIPPETS if word in block]
    return found


SNIPPETS = [block for page in PAGES if page not in GUIDES for block in documents.blocks(documents.read(page), "python")]


def test_every_snippet_is_known() -> None:
    words = ("make_dataset", "load_weights", "MNIST1DDataModule", "class Wide", "import posterior")
    assert sorted(SNIPPETS) == sorted(map(snippet, words))


def test_the_data_snippet_runs() -> None:
    names: dict[str, Any] = {}
    exec(snippet("make_dataset"), names)
    assert names["data"]["x"].shape == (4000, 40)


def test_the_posterior_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    lines = (
        snippet("import posterior")
        .replace("test.test_x)", "test.test_x[:9])")
        .replace("test.test_y)", "test.test_y[:9])")
    )
    exec(lines, {})
    assert capsys.readouterr().out == "1.0\n"


def test_the_weights_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("train.py", shortened(["model=logistic"]), tmp_path).returncode == 0
    monkeypatch.chdir(tmp_path)
    (file,) = tmp_path.glob("mlruns/artifacts/**/weights.pt")
    (tmp_path / "weights.pt").write_bytes(file.read_bytes())
    client = MlflowClient("sqlite:///mlruns/mlflow.db")
    (stored,) = client.search_runs([client.get_experiment_by_name("mnist1d").experiment_id])
    names: dict[str, Any] = {"run_id": stored.info.run_id}
    exec(snippet("load_weights"), names)
    Logistic().load_state_dict(names["weights"])
    assert names["find_run"]("weights.pt") == stored.info.run_id


class Plain(pl.LightningModule):
    """A module as anyone has one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Logistic()

    def training_step(self, batch: Any, _index: int) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    validation_step = training_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # Lightning's advice
def test_the_snippet_for_lightning_runs(tmp_path: Path) -> None:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_steps=2, accelerator="cpu", default_root_dir=tmp_path, enable_model_summary=False, **quiet)
    exec(snippet("MNIST1DDataModule"), {"trainer": trainer, "your_module": Plain()})
    assert trainer.global_step == 2


def test_the_export_runs(tmp_path: Path) -> None:
    (line,) = [line for line in lines() if line.startswith("python -m mnist1d.data")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *shlex.split(line)[1:]]
    subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=60, check=True)
    assert {"train.csv", "README.md"} <= {file.name for file in (tmp_path / "mnist1d-noisy").iterdir()}


# -- links ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_linked_files_exist(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", documents.read(page))
    assert [link for link in links if not (folder / link).exists()] == []
    assert len(links) > 5 or page != "README.md"
