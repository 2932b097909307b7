"""The page of experiment=tune, on runs of known truth."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from mnist1d.analysis import tune
from mnist1d.analysis.claims import judge_all, load
from mnist1d.analysis.page import NoRuns, Page
from mnist1d.analysis.read import Runs

POINTS = {(0.01, 0.001): 70.0, (0.003, 0.01): 72.0, (0.09, 0.1): 60.0}
"""Validation accuracy of each candidate with seed 0, in the order of the search; with another it is the seed more."""
DEFAULTS = (0.01, 0.0)


def one(net: str, rates: tuple[float, float], seed: int, points: float, **more: Any) -> dict[str, Any]:
    """A run with the same accuracy on validation and on test data."""
    run = {
        "run_id": f"{net} {rates} {seed}",
        "status": "FINISHED",
        "started": 1,
        "profile": "paper",
        "seed": seed,
        "data.seed": seed,
        "data.val_split": 0.1,
        "model.name": net,
        "optimizer.lr": rates[0],
        "optimizer.weight_decay": rates[1],
        "trainer.max_steps": 6001,
        "val/acc_final": points / 100,
        "test/acc_final": points / 100,
    }
    return run | more


def full(net: str = "mlp") -> list[dict[str, Any]]:
    """Three candidates with two seeds; then the best one and the defaults, with three fresh ones."""
    rows = [
        one(net, rates, seed, points + seed, started=place)
        for place, (rates, points) in enumerate(POINTS.items())
        for seed in (0, 1)
    ]
    rows += [one(net, DEFAULTS, seed, 68.0 + seed % 10, started=9) for seed in (1000, 1001, 1002)]
    return rows + [one(net, (0.003, 0.01), seed, 71.0 + seed % 10, started=9) for seed in (1000, 1001, 1002)]


def page_of(rows: list[dict[str, Any]]) -> Page:
    return tune.page(Runs(pd.DataFrame(rows), {}))


@pytest.fixture(scope="module")
def whole() -> Page:
    """Read only."""
    return page_of([*full(), *full("cnn")])


def test_the_best_candidate_is_compared_with_the_defaults_by_fresh_seed(whole: Page) -> None:
    assert whole.statistics["gain"](net="mlp").to_dict() == pytest.approx({1000: 3.0, 1001: 3.0, 1002: 3.0})
    assert whole.statistics["gain"](net="gru").empty
    assert whole.remarks == ()


def test_the_table_has_a_row_for_each_net(whole: Page) -> None:
    (table,) = whole.tables
    assert table.rows[0] == (
        *("MLP", "0.003", "0.01", "72.5 (2)", "3 (0)", "69.0 ± 2.5", "72.0 ± 2.5", "+3.0 ± 0.0", "3"),
    )
    assert table.rows[1][0] == "CNN"


def test_a_candidate_that_diverged_with_one_seed_is_not_the_best() -> None:
    lost = {"status": "FAILED", "val/acc_final": None, "test/acc_final": None}
    rows = [row | lost if row["run_id"] == "mlp (0.003, 0.01) 1" else row for row in full() if row["seed"] < 1000]
    page = page_of([*rows, *(row for row in full() if row["optimizer.lr"] == 0.01 and row["seed"] >= 1000)])
    (table,) = page.tables
    assert table.rows[0][:5] == ("MLP", "0.01", "0.001", "70.5 (2)", "3 (1)")
    assert table.rows[0][5:] == ("69.0 ± 2.5", "–", "–", "0")


def test_fresh_runs_of_a_candidate_that_was_the_best_once_are_left_out(whole: Page) -> None:
    older = [one("mlp", (0.01, 0.001), seed, 99.0) for seed in (1000, 1001, 1002)]
    page = page_of([*full(), *older])
    assert page.tables[0].rows[0] == whole.tables[0].rows[0]


def test_a_fresh_seed_that_failed_is_named() -> None:
    lost = {"status": "FAILED", "mnist1d.reason": "the training loss became nan at step 3", "test/acc_final": None}
    page = page_of([row | lost if row["run_id"] == "mlp (0.01, 0.0) 1001" else row for row in full()])
    assert page.remarks == ("missing: mlp defaults: seed 1001 FAILED (the training loss became nan at step 3)",)
    assert page.statistics["gain"](net="mlp").index.tolist() == [1000, 1002]


def test_the_picture_has_three_panels_for_each_net_and_says_n_and_the_command(whole: Page) -> None:
    (picture,) = whole.pictures
    axes = [ax for ax in picture.figure.axes if ax.get_title(loc="left") != "%"]
    assert [ax.get_title(loc="left") for ax in axes] == [
        *("MLP: candidates", "where they lie", "test, fresh seeds"),
        *("CNN: candidates", "where they lie", "test, fresh seeds"),
    ]
    order, where = axes[0], axes[1]
    assert order.lines[0].get_ydata() == pytest.approx([70.5, 72.5, 60.5])
    assert order.lines[1].get_ydata() == pytest.approx([70.5, 72.5, 72.5])
    star = next(line for line in where.lines if line.get_marker() == "*")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (0.003, 0.01)  # type: ignore[index]
    assert "mean over 2 seeds" in picture.caption
    assert "mean over n = 3 seeds with its 95% t interval" in picture.caption
    assert picture.caption.endswith("`python train.py -m experiment=tune`")


def test_the_claim_is_judged(whole: Page) -> None:
    (found,) = judge_all(load("tune"), whole.statistics)
    assert found.verdict.kind == "reproduced"


def test_without_runs_and_in_the_middle_of_a_search() -> None:
    with pytest.raises(NoRuns, match=r"no run is finished \(1 FAILED\)"):
        page_of([one("mlp", DEFAULTS, 0, 50.0, status="FAILED")])
    page = page_of([row for row in full() if row["seed"] < 1000])
    assert page.tables[0].rows[0][5:] == ("–", "–", "–", "0")
