"""The page of experiment=leaderboard, on runs of known truth, and its runs for a few steps."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mnist1d.analysis import leaderboard
from mnist1d.analysis.leaderboard import OPTIONS, PUBLISHED, front
from mnist1d.analysis.page import NoRuns, Page
from mnist1d.analysis.parameters import parameters
from mnist1d.analysis.read import Runs
from mnist1d.compose import Composer
from mnist1d.config.validate import validate
from mnist1d.models.make import make_model
from tests.conftest import ROOT
from tests.pages import cell

LUCK = {0: 0.0, 1: 0.2, 2: 0.6}  # points that a seed is better for every net
DEFAULTS = {f"task.{option}": default for option, (default, _) in OPTIONS.items()}
TINY = {"model.name": "resnet", "model.channels": 8, "model.blocks": 2, "model.kernel_size": 3}  # 970 parameters
SMALL = TINY | {"model.channels": 16, "model.blocks": 3}  # 5066 parameters
RECIPE = DEFAULTS | {"task.name": "recipe", "task.shift": "5", "task.rate_schedule": "cosine"}
CNN = {"model.name": "cnn", "model.channels": 25, "model.kernel_sizes": (5, 3, 3), "model.pooling": "stride"}


def one(seed: int, accuracy: float, seconds: float, *parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A run that ends at `accuracy` percent, and a little more where its seed is lucky."""
    run: dict[str, Any] = {
        "status": "FINISHED",
        "started": 0,
        "profile": "paper",
        "seed": seed,
        "task.name": "classification",
        "model.num_classes": 10,
        "data.final_seq_length": 40,
        "data.batch_size": 100,
        "trainer.max_steps": 301,
        "optimizer.name": "adam",
        "optimizer.lr": 0.01,
        "optimizer.weight_decay": 0.0,
        "test/acc_final": (accuracy + LUCK.get(seed, 0.0)) / 100,
        "time/cpu_seconds": seconds,
    }
    for part in (*parts, {key.replace("__", "."): value for key, value in more.items()}):
        run |= part
    return run | {"run_id": str(sorted((key, str(value)) for key, value in run.items()))}


def without(option: str) -> dict[str, Any]:
    return RECIPE | {f"task.{option}": DEFAULTS[f"task.{option}"]}


def full() -> list[dict[str, Any]]:
    """The paper's CNN, a tiny and a small net; shifts are worth 2 points to the tiny one and nothing to the other."""
    rows = []
    for seed in LUCK:
        rows += [one(seed, 93, 10, CNN), one(seed, 95, 4, TINY, RECIPE), one(seed, 98, 20, SMALL, RECIPE)]
        rows += [one(seed, 93, 4, TINY, without("shift")), one(seed, 98, 20, SMALL, without("shift"))]
        rows.append(one(seed, 94 - 0.1 * seed, 4, TINY, without("rate_schedule")))
    return rows


def page_of(rows: list[dict[str, Any]]) -> Page:
    return leaderboard.page(Runs(pd.DataFrame(rows), {}))


@pytest.fixture(scope="module")
def whole() -> Page:
    """Read only."""
    return page_of(full())


# -- which run is what ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        *(["model=logistic"], ["model=mlp", "model.layers=3"], ["model=gru", "model.step_size=2"], ["model=tcn"]),
        *(["model=cnn"], ["model=cnn", "model.pooling=max", "model.kernel_sizes=[4,2]"], ["model=dilated_cnn"]),
        ["model=resnet", "model.channels=7", "model.kernel_size=5"],
    ],
    ids=" ".join,
)
def test_parameters_are_those_of_the_network_that_is_trained(overrides: list[str]) -> None:
    base = Composer.of(ROOT / "conf").base("config", overrides)
    run = validate(base.resolved, base.raw["model"])
    assert parameters(run.flat()) == sum(weights.numel() for weights in make_model(run.model).parameters())


def test_a_run_is_the_whole_recipe_or_lacks_one_part_of_it(whole: Page) -> None:
    found = whole.table.groupby(["net", "part"]).size().to_dict()
    tiny, small = "resnet 970", "resnet 5,066"
    nets = {(tiny, "all"), (tiny, "shift"), (tiny, "rate_schedule"), (small, "all"), (small, "shift")}
    assert found == dict.fromkeys([*nets, ("cnn 5,210", "all")], 3)


def test_runs_of_another_recipe_or_length_are_left_out_and_counted() -> None:
    other = RECIPE | {"task.shift": "7"}
    page = page_of([*full(), one(0, 99, 1, TINY, other), one(1, 99, 1, SMALL, RECIPE, trainer__max_steps=7)])
    assert page.remarks == (
        "1 runs of resnet 970 left out: more than one option differs from its recipe",
        "1 runs left out, of another protocol: trainer.max_steps=7",
    )
    assert len(page.table) == len(full())


def test_missing_seeds_are_named_by_net_and_part() -> None:
    rows = [row for row in full() if (row["seed"], row["task.name"], row.get("task.shift")) != (1, "recipe", "0")]
    rows.append(one(1, 0, 0, TINY, without("shift"), {"status": "FAILED", "mnist1d.reason": "out of memory"}))
    assert page_of(rows).remarks == (
        "missing: resnet 970 without random shifts: seed 1 FAILED (out of memory)",
        "missing: resnet 5,066 without random shifts: seed 1 not run",
    )


def test_without_a_finished_run_there_is_no_page() -> None:
    with pytest.raises(NoRuns, match=r"no run is finished \(1 FAILED\)"):
        page_of([one(0, 90, 1, CNN, status="FAILED")])


def test_an_ensemble_has_the_parameters_of_all_its_nets() -> None:
    ten = [one(seed, 99, 200, SMALL, RECIPE | {"task.ensemble": "10"}) for seed in LUCK]
    page = page_of([*full(), *ten])
    assert page.remarks == ()
    assert page.statistics["within"](most=100_000).to_dict() == pytest.approx({0: 99, 1: 99.2, 2: 99.6})
    assert page.statistics["within"](most=5210).to_dict() == pytest.approx({0: 98, 1: 98.2, 2: 98.6})
    assert page.tables[0].rows[0][:2] == ("10 resnets + recipe", "50,660")
    assert cell(page, 2, "task.ensemble", "10 resnets 50,660") == "10"
    assert cell(page, 2, "task.ensemble", "resnet 970") == "1"
    assert page.statistics["worth"](option="ensemble", most=100_000).to_dict() == pytest.approx({0: 1, 1: 1, 2: 1})
    assert cell(page, 1, "ensemble", "10 resnets 50,660").startswith("+1.00 ± 0.00")
    assert cell(page, 1, "ensemble", "resnet 5,066") == "–"


def test_an_ensemble_by_another_recipe_than_its_net_has_no_worth() -> None:
    other = [one(seed, 99, 200, SMALL, RECIPE | {"task.ensemble": "10", "task.shift": "7"}) for seed in LUCK]
    assert page_of([*full(), *other]).statistics["worth"](option="ensemble", most=100_000).empty


# -- statistics -------------------------------------------------------------------------------------------


def test_within_takes_the_largest_of_our_nets_that_is_small_enough(whole: Page) -> None:
    within = whole.statistics["within"]
    assert within(most=1000).to_dict() == pytest.approx({0: 95, 1: 95.2, 2: 95.6})
    assert within(most=5210).to_dict() == pytest.approx({0: 98, 1: 98.2, 2: 98.6})
    assert within(most=900).empty


def test_worth_is_paired_by_seed(whole: Page) -> None:
    worth = whole.statistics["worth"]
    assert worth(option="shift", most=1000).to_dict() == pytest.approx({0: 2, 1: 2, 2: 2})
    assert worth(option="rate_schedule", most=1000).to_dict() == pytest.approx({0: 1, 1: 1.1, 2: 1.2})
    assert worth(option="warmup", most=1000).empty
    with pytest.raises(ValueError, match=r"no option 'shifts'; did you mean shift\. Allowed: detrend, shift, dilation"):
        worth(option="shifts", most=1000)


def test_the_front_has_what_none_beats_in_both() -> None:
    points = {
        "a": (1.0, 50.0),
        "b": (2.0, 40.0),
        "c": (2.0, 60.0),
        "d": (3.0, 60.0),
        "e": (4.0, 70.0),
        "f": (4.0, 70.0),
    }
    assert front(points) == ["a", "c", "e", "f"]


# -- tables and picture -----------------------------------------------------------------------------------


def test_the_first_table_ranks_what_was_run_and_marks_what_was_published(whole: Page) -> None:
    rows = whole.tables[0].rows
    half = stats.t.ppf(0.975, 2) * np.std(list(LUCK.values()), ddof=1) / math.sqrt(3)
    assert rows[0] == (
        "resnet + recipe",
        "5,066",
        f"{98 + 0.8 / 3:.2f} ± {half:.2f}",
        "20.0",
        "parameters, seconds",
        "3",
    )
    assert [row[0] for row in rows[:3]] == ["resnet + recipe", "resnet + recipe", "cnn"]
    assert [row[4] for row in rows[:3]] == ["parameters, seconds", "parameters, seconds", ""]
    assert rows[3] == ("TCN", "104,000", "99.4", "", "", "arXiv 2602.13348")
    assert len(rows) == 3 + len(PUBLISHED)


def test_the_second_table_says_what_each_part_is_worth(whole: Page) -> None:
    assert cell(whole, 1, "random shifts", "resnet 970") == "+2.00 ± 0.00 (p < 0.001)"
    assert cell(whole, 1, "random shifts", "resnet 5,066") == "+0.00 ± 0.00 (p = 1.000)"
    assert cell(whole, 1, "falling rate", "resnet 5,066") == "–"
    assert whole.tables[1].note.endswith("Holm-adjusted over all 3 comparisons.")


def test_the_third_table_has_the_settings_of_the_recipes(whole: Page) -> None:
    assert cell(whole, 2, "task.shift", "resnet 970") == "5"
    assert cell(whole, 2, "optimizer.lr", "resnet 5,066") == "0.01"
    assert "task.warmup" not in {row[0] for row in whole.tables[2].rows}


def test_an_option_younger_than_a_run_has_its_default() -> None:
    old = [{key: value for key, value in run.items() if key != "task.ensemble"} for run in full()]
    ten = [one(seed, 99, 200, SMALL, RECIPE | {"task.ensemble": "10"}) for seed in LUCK]
    assert cell(page_of([*old, *ten]), 2, "task.ensemble", "resnet 970") == "1"


def test_only_the_papers_nets_make_a_page_too() -> None:
    page = page_of([one(seed, 93, 10, CNN) for seed in LUCK])
    assert len(page.tables) == 1
    assert page.statistics["within"](most=100_000).empty


def test_the_legend_lies_within_the_figure_whatever_nets_there_are() -> None:
    names = ("logistic", "mlp", "gru", "cnn")
    models = [CNN | {"model.name": name, "model.hidden": 6, "model.layers": 2, "model.step_size": 1} for name in names]
    (picture,) = page_of([*full(), *(one(seed, 60, 3, model) for model in models for seed in LUCK)]).pictures
    picture.figure.draw_without_rendering()
    box, frame = picture.figure.legends[0].get_window_extent(), picture.figure.bbox
    assert frame.x0 <= box.x0 < box.x1 <= frame.x1


def test_the_picture_has_every_entry_the_front_and_the_published_points(whole: Page) -> None:
    (picture,) = whole.pictures
    figure: matplotlib.figure.Figure = picture.figure
    size, time = figure.axes
    assert [len(ax.containers) for ax in (size, time)] == [3, 3]
    front_line = size.lines[0]
    np.testing.assert_allclose(front_line.get_xdata(), [970, 5066])
    np.testing.assert_allclose(front_line.get_ydata(), [100 - 95 - 0.8 / 3, 100 - 98 - 0.8 / 3])
    crosses = [line for line in size.lines if line.get_marker() == "x"]
    assert sorted(float(line.get_ydata()[0]) for line in crosses) == sorted(100 - p.accuracy for p in PUBLISHED)
    assert "98.27% right" in picture.alt


# -- the real thing ---------------------------------------------------------------------------------------


def test_real_runs_make_the_page(tmp_path: Path) -> None:
    where = f"tracking.uri=sqlite:///{tmp_path / 'runs.db'}"
    train = ["train.py", "experiment=leaderboard", "profile=smoke", "model=resnet", "seed=0", "trainer.threads=1"]
    analyze = ["analyze.py", "experiment=leaderboard", f"output={tmp_path / 'report'}"]
    for command in ([*train, f"hydra.sweep.dir={tmp_path / 'out'}", where], [*analyze, where]):
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    for net in ("resnet 970", "resnet 5,066"):
        assert net in text
    assert "smooth noise" in text
    assert (tmp_path / "report" / "leaderboard" / "front.svg").stat().st_size > 5000
