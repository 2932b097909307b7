"""The whole paper in one command: programs started, judged, gone on with; faults told at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from mnist1d import reproduce
from mnist1d.analysis import TITLES
from mnist1d.compose import Composer
from mnist1d.config.validate import validate
from tests.conftest import ROOT

TWO = ("experiments=pooling,classification", "profile=smoke", "seeds=1")


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    env = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mnist1d.reproduce", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=folder, env=env, text=True, **pipes)  # type: ignore[call-overload, no-any-return]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two experiments were interrupted in the middle."""
    folder = tmp_path_factory.mktemp("lab")
    process = start(folder, *TWO, "workers=2")
    deadline = time.monotonic() + 100
    while not (folder / "mlruns" / "mlflow.db").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM, out
    again = " ".join(["python -m mnist1d.reproduce", *TWO, "workers=2"])
    assert f"Stopped by SIGTERM. Go on with:  {again}\n" in out
    assert not (folder / "mlruns" / "report").exists()
    return folder


def test_what_was_cut_off_goes_on_and_ends_in_the_report(folder: Path) -> None:
    process = start(folder, *TWO, "workers=2")
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    lines = out.splitlines()
    assert {"pooling: training", "classification: training"} <= {*lines[:4]}
    ended = [line for line in lines if re.fullmatch(r"\w+: done after \d+ s \d+ \?", line)]
    assert len(ended) == 2, "one seed cannot decide anything"
    assert lines[-2:-1] == ["written: mlruns/report/report.html"]
    assert re.fullmatch(r"2 experiments in \d+ min \d+ s", lines[-1])
    report = (folder / "mlruns" / "report" / "report.md").read_text()
    assert "## Pooling" in report


def test_a_failure_is_told_and_the_others_go_on(folder: Path) -> None:
    (folder / "mlruns" / "report" / "report.md").unlink()
    process = start(folder, "experiments=pooling", *TWO[1:], "tracking.uri=http://127.0.0.1:9")
    out, _ = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "failed: pooling (see mlruns/reproduce/pooling.log)\n" in out
    assert "\n  train.py: tracking store http://127.0.0.1:9: opening it failed.\n" in out
    assert "failed: the report (see mlruns/reproduce/report.log)\n" in out


def test_all_faults_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(["experiments=poling,simclr", "profle=x", "profile=quik", "seeds=0", "workers="]) == 2
    lines = capsys.readouterr().err.splitlines()
    allowed = ", ".join((*reproduce.GROUPS, *TITLES))
    assert lines == [
        f"experiments=poling,simclr: no experiment 'poling'; did you mean pooling. Allowed: {allowed}",
        f"profle=x: no key 'profle'; did you mean profile. Keys: {', '.join(reproduce.KEYS)}",
        "profile=quik: no profile 'quik'; did you mean quick. Allowed: smoke, quick, paper",
        "seeds=0: must be a whole number of at least 1",
        "workers=: a value is needed, as in workers=VALUE",
    ]


def test_groups_hold_every_experiment_once() -> None:
    parts = (*reproduce.PAPER, *reproduce.GROUPS["ours"], *reproduce.GROUPS["ablations"])
    assert sorted(parts) == sorted(TITLES)
    assert reproduce.parse(["experiments=paper,simclr"]).experiments == reproduce.PAPER
    assert {*reproduce.NEEDS, *reproduce.NEEDS.values()} <= {*TITLES}


@pytest.mark.parametrize("experiment", TITLES)
def test_every_experiment_says_what_it_costs_and_takes_a_number_of_seeds(experiment: str) -> None:
    profiles = yaml.safe_load((reproduce.CONF / f"{experiment}.yaml").read_text())["profiles"]
    for profile in ("quick", "paper"):
        assert profiles[profile]["cpu_seconds"] > 0
        request = reproduce.parse([f"profile={profile}", f"seeds={2 * profiles[profile]['seeds']}"])
        assert reproduce.expected(experiment, request) == 2 * profiles[profile]["cpu_seconds"]


@pytest.mark.parametrize("experiment", ["metalearn_lr", "metalearn_activation", "tune"])
def test_a_number_of_seeds_stands_for_all_numbers_of_seeds(experiment: str) -> None:
    asked = reproduce.parse(["profile=smoke", "seeds=7"]).training(experiment)
    base = Composer.of(ROOT / "conf").base("config", asked[1:])
    sizes = validate(base.resolved, base.raw["model"]).profiles["smoke"]
    numbers = {key: value for key, value in sizes.items() if "seeds" in key}
    assert len(numbers) > 1
    assert set(numbers.values()) == {7}


@pytest.mark.parametrize("experiment", TITLES)
def test_threads_are_a_share_of_the_cores_unless_the_experiment_has_its_own(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "cores", lambda: 4)
    shares = {"workers=1": "4", "workers=2": "2", "workers=9": "1"}
    for workers, share in shares.items():
        asked = dict(word.split("=", 1) for word in reproduce.parse([workers]).training(experiment)[1:])
        assert asked.get("trainer.threads") == (None if experiment in ("efficiency", "tsne") else share)


def test_the_overview_shows_states_verdicts_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    done = reproduce.Job("pooling", 100.0, "done", None, 800.0, 900.0, Counter({"reproduced": 2, "inconclusive": 1}))
    jobs = [done, reproduce.Job("simclr", 50.0, "training", None, 990.0), reproduce.Job("lottery", 340.0)]
    request = reproduce.parse(["workers=2"])
    assert reproduce.time_left(jobs, 2) == pytest.approx((490 - 110) * 1.0 / 2)
    console = Console(width=120, file=StringIO())
    console.print(reproduce.table(jobs, request))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 of 3 experiments done · about 3 min left · 2 ✓ 1 ?" in text
    assert re.search(r"Pooling +done +100 s +2 ✓ 1 \?", text)
    assert re.search(r"SimCLR +training +10 s", text)
    assert re.search(r"Lottery tickets +waiting", text)


def test_an_experiment_waits_for_the_one_that_it_starts_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "_start", lambda script, arguments, _log: (script, arguments))
    jobs = [reproduce.Job("activation_transfer", 99.0), reproduce.Job("metalearn_activation", 1.0)]
    reproduce._fill(jobs, reproduce.parse(["workers=2"]))
    assert [job.state for job in jobs] == ["waiting", "training"]
    alone = [reproduce.Job("activation_transfer", 99.0)]
    reproduce._fill(alone, reproduce.parse(["workers=2"]))
    assert alone[0].state == "training"
