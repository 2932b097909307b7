"""experiment=sample_efficiency: the training sets it asks for, its claims on runs of known truth, and real runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from mnist1d.analysis import ablation, claims
from mnist1d.analysis.described_page import load
from mnist1d.analysis.page import Page
from mnist1d.analysis.read import Runs
from mnist1d.compose import Composer
from mnist1d.config import Run
from mnist1d.config.validate import validate
from tests import programs
from tests.conftest import ROOT

CONF = ROOT / "conf"
NAME = "sample_efficiency"
FILE = yaml.safe_load((CONF / "experiment" / f"{NAME}.yaml").read_text())
CLAIMS = {claim.id: claim for claim in claims.load(NAME)}
LATER = ("TCN", "dilated CNN", "attention")  # with endless samples alone
ENDLESS = 10  # training samples of the data set that the endless arm has for its test samples
CEILINGS = {"logistic": 36.0, "mlp": 80.0, "cnn": 97.0, "gru": 97.5, "resnet": 99.5} | {
    "tcn": 99.0,
    "dilated_cnn": 98.0,
    "attention": 96.0,
}
HALF = {"logistic": 100, "mlp": 1000, "cnn": 200, "gru": 400, "resnet": 25}
"""Samples at which a made-up net is half way from 10% to its ceiling."""


def arms(profile: str, list_name: str) -> list[dict[str, Any]]:
    """The data sets that a profile names, as keys of data."""
    texts = re.findall(r"\{[^}]*\}", FILE["profiles"][profile][list_name])
    return [yaml.safe_load(text.replace(":", ": ")) for text in texts]


def trained(profile: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every model with every data set that it is trained on."""
    for grid in FILE["hydra"]["sweeper"]["grids"].values():
        for list_name in re.findall(r"\}\.(\w+)\}", grid["data"]):
            yield from ((model, arm) for model in grid["model"].split(",") for arm in arms(profile, list_name))


# -- what is trained --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer.of(CONF)


@pytest.mark.parametrize("profile", ["smoke", "quick", "paper"])
def test_every_arm_has_the_size_that_it_is_named_for_and_test_samples_alike(profile: str, composer: Composer) -> None:
    base = composer.base("config", [f"experiment={NAME}"])
    names = load(NAME).keys["train_samples"].names
    found: dict[int, Run] = {}
    every = [arm for name in ("some", "endless", "more") for arm in arms(profile, name)]
    for arm in every:
        values = {f"data.{key}": value for key, value in arm.items()}
        run = validate(base.values({"profile": profile, "seed": 3, **values}), base.raw["model"])
        found[run.data.rows[0]] = run
    assert len(found) == len(every)
    assert {str(size) for size in found} <= {*names}
    assert [size for size, run in found.items() if run.data.stream] == [ENDLESS]
    assert [size for size, run in found.items() if run.data.seed != 3] == [max(found)]  # one draw for all seeds
    sizes = {run.data.rows[2] for size, run in found.items() if profile != "paper" or size != max(found)}
    assert sizes == {{"smoke": 1000, "quick": 2000, "paper": 10_000}[profile]}
    if profile == "paper":
        assert found[1_000_000].data.rows[2] == 100_000
        assert found[1_000_000].steps * found[1_000_000].data.batch_size == 1_000_000


def test_every_claim_asks_for_what_is_trained() -> None:
    there = {(model, int(arm["num_samples"] * arm["train_split"])) for model, arm in trained("paper")}
    asked = set()
    for claim in CLAIMS.values():
        for part in claim.parts.values():
            where = part.arguments.get("where", {})
            pair = [part.arguments[name] for name in ("of", "minus") if name in part.arguments] or [{}]
            asked |= {(full["model.name"], full["train_samples"]) for full in ({**where, **own} for own in pair)}
    assert len(asked) > 15
    assert asked <= there


# -- the page and the claims, of runs whose truth is known ------------------------------------------------


def accuracy(model: str, size: int) -> float:
    """In percent: on the way from 10 to the ceiling, by samples."""
    share = 1.0 if size == ENDLESS else size / (size + HALF[model])
    return 10 + (CEILINGS[model] - 10) * share


def runs(profile: str = "paper", **other: float) -> Runs:
    """Three seeds, 0.1 points apart; `other` ceilings stand in place of those above."""
    rows = []
    for model, arm in trained(profile):
        for seed in range(3):
            size = int(arm["num_samples"] * arm["train_split"])
            percent = other.get(model, accuracy(model, size)) if size == ENDLESS else accuracy(model, size)
            own = {f"data.{key}": value for key, value in {"seed": seed, "stream": False, **arm}.items()}
            rows.append(
                {"run_id": f"{model} {size} {seed}", "status": "FINISHED", "started": 0, "profile": profile}
                | {"seed": seed, "model.name": model, "trainer.max_steps": 10_000, **own}
                | {"test/acc_final": (percent + 0.1 * seed) / 100}
            )
    return Runs(pd.DataFrame(rows), {})


@pytest.fixture(scope="module")
def whole() -> Page:
    """Read only."""
    return ablation.page(load(NAME), runs())


def judged(page: Page) -> dict[str, str]:
    return {found.claim.id: str(found.verdict) for found in claims.judge_all(CLAIMS.values(), page.statistics)}


def test_the_table_has_sizes_in_order_and_endless_samples_last(whole: Page) -> None:
    sizes = ["100", "300", "1000", "4000", "10,000", "40,000", "100,000", "1,000,000"]
    assert whole.tables[0].columns == ("training samples", "logistic", "MLP", "CNN", "GRU", "ResNet", *LATER, "n")
    rows = {row[0]: row[1:] for row in whole.tables[0].rows}
    assert list(rows) == [*sizes, "endless"]
    assert (rows["1000"][1], rows["endless"][1]) == ("45.1 ± 0.2", "80.1 ± 0.2")  # half way at 1000; seeds 0.1 apart
    assert [size for size, row in rows.items() if row[4] == "–"] == ["300", "10,000", "100,000", "1,000,000"]
    assert whole.remarks == ()


def test_shortfalls_are_paired_and_samples_needed_are_sizes(whole: Page) -> None:
    _, shortfall, needed = whole.tables
    rows = {row[0]: row[1:] for row in shortfall.rows}
    assert rows["1000"][1] == "-35.0 ± 0.0"
    assert "endless" not in rows  # it is not compared with itself
    found = {row[0]: row[1:] for row in needed.rows}
    assert found["CNN"][:3] == ("300 ± 0", "4,000 ± 0", "40,000 ± 0")
    assert "logistic" not in found


def test_the_dashed_lines_are_the_ceilings(whole: Page) -> None:
    (ax,) = whole.pictures[0].figure.axes
    lines = {tuple(line.get_ydata()) for line in ax.lines if len(set(np.round(line.get_ydata(), 9))) == 1}
    assert ax.get_yscale() == "log"
    errors = [99.9 - CEILINGS[name] for name in reversed(HALF)]
    assert sorted(round(values[0], 6) for values in lines) == pytest.approx(errors)
    assert [label.get_text() for label in ax.get_xticklabels()][-2:] == ["100,000", "1,000,000"]
    texts = [text.get_text() for text in whole.pictures[0].figure.legends[0].get_texts()]
    assert texts[-2:] == ["test error", "with endless samples"]


def test_claims_hold_where_they_are_true_and_fall_where_they_are_not(whole: Page) -> None:
    held = {name for name, verdict in judged(whole).items() if verdict == "reproduced"}
    assert {"convolutions-beat-the-human", "gru-beats-the-human", "data-do-not-repair-the-mlp"} <= held
    assert {"logistic-has-its-ceiling", "hundred-thousand-are-enough", "stream-is-the-generator"} <= held
    other = judged(ablation.page(load(NAME), runs(mlp=99.0, gru=94.0, cnn=95.0, logistic=41.0)))
    fallen = {name for name, verdict in other.items() if verdict == "not reproduced"}
    assert {"convolutions-beat-the-human", "gru-beats-the-human", "data-do-not-repair-the-mlp"} <= fallen
    assert {"logistic-has-its-ceiling", "hundred-thousand-are-enough", "stream-is-the-generator"} <= fallen


# -- the real thing ---------------------------------------------------------------------------------------


def test_real_runs_make_the_page(tmp_path: Path) -> None:
    asked = ("-m", f"experiment={NAME}", "profile=smoke", "model=mlp,resnet", "trainer.threads=1")
    done = programs.run("train.py", *asked, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = programs.run("analyze.py", f"experiment={NAME}", "output=report", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rows = pd.read_csv(tmp_path / "report" / NAME / "runs.csv")
    assert dict(rows.groupby("model.name").size()) == {"mlp": 8, "resnet": 6}
    endless = rows[rows["data.stream"] & (rows["model.name"] == "mlp")]
    assert [*endless["train_samples"]] == [ENDLESS, ENDLESS]
    assert sorted(endless["data.seed"]) == [0, 1]
    mean = 100 * endless["test/acc_final"].mean()
    line = next(line for line in done.stdout.splitlines() if line.startswith("endless"))
    assert f"{mean:.1f} ±" in line
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "not trained" in text.split("## Sample efficiency")[1]  # the protocol, from docs/experiments
    assert (tmp_path / "report" / NAME / "efficiency.svg").stat().st_size > 5000
