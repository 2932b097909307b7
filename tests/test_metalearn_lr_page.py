"""The page of experiment=metalearn_lr, on runs of known truth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mnist1d.analysis import metalearn_lr
from mnist1d.analysis.claims import judge_all, load
from mnist1d.analysis.page import NoRuns, Page
from mnist1d.analysis.read import Runs

SEEDS = (0, 1, 2)
BEST = {0: 0.6, 1: 0.62, 2: 0.65}  # of each seed
GRID = (0.3, 0.5, 0.6, 0.7, 0.9)
STEPS = 4


def one(first: float, outer: float, seed: int, rate: float | None = None, **more: Any) -> dict[str, Any]:
    """A run that ends at `rate`, by default its first one; its loss is a parabola around the logarithm of the best."""
    end = first if rate is None else rate
    run = {
        "run_id": f"{first} {outer} {seed}",
        "status": "FINISHED",
        "started": 0,
        "profile": "paper",
        "seed": seed,
        "model.name": "shallow",
        "model.hidden": 50,
        "data.seed": 42,
        "data.batch_order": "sequential",
        "optimizer.lr": first,
        "task.outer_lr": outer,
        "task.inner_steps": 200,
        "trainer.max_steps": STEPS if outer else 1,
        "lr_final": end,
        "meta/loss_final": 1.7 + np.log(end / BEST[seed]) ** 2,
        "inner/loss_final": 1.5,
        "test/acc_final": 0.34,
    }
    return run | more


def full(seeds: Iterable[int] = SEEDS) -> list[dict[str, Any]]:
    """Both starts end at the best rate but for 1%; from 0.01 a rate runs away, and from 3 it stays where it is."""
    rows = []
    for seed in seeds:
        rows += [one(first, 0.3, seed, BEST[seed] * (1.01 if first > 1 else 0.99)) for first in (1.5, 0.15)]
        rows += [one(rate, 0.0, seed) for rate in GRID]
        rows += [one(3.0, 0.3, seed), one(1.0, 0.3, seed, BEST[seed]), one(0.1, 0.3, seed, BEST[seed])]
        gone = {"status": "FAILED", "lr_final": np.nan, "mnist1d.reason": "lr became nan at step 1"}
        rows.append(one(0.01, 0.3, seed, **gone))
    return rows


def changed(first: float, outer: float, seed: int, rate: float | None = None, factor: float = 1.0, **keys: Any) -> Any:
    """A run under a change, whose best rate is `factor` times that without it."""
    run = one(first, outer, seed, rate, **{key.replace("__", "."): value for key, value in keys.items()})
    loss = 1.7 + np.log(run["lr_final"] / (factor * BEST[seed])) ** 2
    return run | {"run_id": f"{run['run_id']} {keys}", "meta/loss_final": loss}


def maps(seeds: Iterable[int] = SEEDS) -> list[dict[str, Any]]:
    """Nets of 10 units have their best at 1.2 times it, long trainings at 0.8 times it and do not find it."""
    wide, long = {"model__hidden": 10}, {"task__inner_steps": 1600}
    data, batches = {"data__seed": 7}, {"data__batch_order": "shuffled"}
    rows = full(seeds)
    for seed in seeds:
        for keys, factor in ((wide, 1.2), (long, 0.8), (batches, 1.0)):
            rows += [changed(rate, 0.0, seed, factor=factor, **keys) for rate in GRID]
        rows.append(changed(0.1, 0.3, seed, 1.2 * BEST[seed], factor=1.2, **wide))
        rows.append(changed(0.1, 0.3, seed, 0.5, factor=0.8, **long, trainer__max_steps=2))
        rows.append(changed(0.15, 0.3, seed, BEST[seed], **batches))
    rows += [changed(rate, 0.0, 0, **data) for rate in GRID]
    return [*rows, changed(0.15, 0.3, 0, BEST[0], **data)]


def page_of(rows: list[dict[str, Any]]) -> Page:
    lengths = {row["run_id"]: STEPS if row["task.outer_lr"] else 1 for row in rows}
    history = pd.DataFrame({key: pd.Series(np.linspace(1, 0.6, n)) for key, n in lengths.items()}).T
    return metalearn_lr.page(Runs(pd.DataFrame(rows), dict.fromkeys(metalearn_lr.METRICS, history)))


@pytest.fixture(scope="module")
def whole() -> Page:
    """Read only."""
    return page_of(full())


def test_the_optimum_is_the_vertex_between_the_rates_of_the_grid(whole: Page) -> None:
    assert whole.statistics["optimum"]().to_dict() == pytest.approx(BEST)
    assert whole.statistics["optimum"](measure="loss").tolist() == pytest.approx([1.7] * 3)
    with pytest.raises(ValueError, match="measure is rate or loss, not 'acc'"):
        whole.statistics["optimum"](measure="acc")


def test_a_seed_whose_best_is_at_an_end_of_the_grid_has_no_optimum() -> None:
    rows = [row for row in full() if not (row["task.outer_lr"] == 0 and row["optimizer.lr"] > 0.6)]
    assert page_of(rows).statistics["optimum"]().empty


def test_errors_are_ratios_of_rates_and_differences_of_losses(whole: Page) -> None:
    error = whole.statistics["error"]
    assert error(first=1.5).tolist() == pytest.approx([1.01] * 3)
    assert error(first=0.15, measure="loss").tolist() == pytest.approx([np.log(0.99) ** 2] * 3, abs=1e-9)


def test_a_rate_that_ran_away_or_stayed_does_not_reach_the_optimum(whole: Page) -> None:
    reaches = whole.statistics["reaches"]
    assert [reaches(first=first).tolist() for first in (0.01, 0.1, 3.0)] == [[0] * 3, [100] * 3, [0] * 3]
    assert reaches(first=7.0).empty


def test_the_tables_say_where_rates_end_and_what_is_reached(whole: Page) -> None:
    starts, fixed, basin, _ = whole.tables
    assert [row[0] for row in starts.rows] == ["1.5", "0.15", "best fixed"]
    assert starts.rows[0][-2:] == ("1.010 ± 0.000", "3")
    assert [row[0] for row in fixed.rows] == ["0.3", "0.5", "0.6", "0.7", "0.9"]
    assert dict(row for row in basin.rows)["0.01"] == "0 of 3"  # type: ignore[arg-type]
    assert dict(row for row in basin.rows)["1.5"] == "3 of 3"  # type: ignore[arg-type]


def test_pictures_say_n_and_the_command(whole: Page) -> None:
    assert [each.name for each in whole.pictures] == ["learning", "optimum", "basin"]
    for each in whole.pictures:
        assert "n = 3" in each.caption
        assert each.caption.endswith("`python train.py -m experiment=metalearn_lr`")


def test_rates_that_run_away_are_results_and_missing_seeds_are_remarks() -> None:
    assert page_of(full()).remarks == ()
    rows = [row for row in full() if not (row["optimizer.lr"] == 1.5 and row["seed"] == 1)]
    assert page_of(rows).remarks == ("missing: lr=1.5 outer_lr=0.3: seed 1 not run",)


def test_the_claims_are_judged(whole: Page) -> None:
    kinds = {found.claim.id: found.verdict.kind for found in judge_all(load("metalearn_lr"), whole.statistics)}
    assert kinds["learned-is-best"] == kinds["starts-agree"] == "reproduced"
    assert kinds["regardless-of-the-first-rate"] in (
        "not reproduced",
        "inconclusive",
    )  # from 0.01 and 3, of three seeds


@pytest.mark.parametrize("arm", [0.0, 0.3])
def test_one_arm_alone_is_shown(arm: float) -> None:
    page = page_of([row for row in full() if row["task.outer_lr"] == arm])
    assert "nan" not in "".join(each.markdown() for each in page.tables)
    assert page.pictures


# -- other nets, lengths, data and batches ----------------------------------------------------------------


@pytest.fixture(scope="module")
def mapped() -> Page:
    """Read only."""
    return page_of(maps())


def test_what_differs_from_the_paper_has_a_name(mapped: Page) -> None:
    assert set(mapped.table["change"]) == {"", "hidden=10", "steps=1600", "data", "batches"}
    assert mapped.table.loc[mapped.table["change"] == "data", "seed"].unique().tolist() == [7]
    assert mapped.remarks == ()


def test_the_papers_numbers_are_those_of_its_own_setting(mapped: Page, whole: Page) -> None:
    assert mapped.statistics["optimum"]().to_dict() == whole.statistics["optimum"]().to_dict()
    where = {"arm": "learned", "first": 0.1, "outer": 0.3}
    assert mapped.statistics["level"](measure="rate", where=where).tolist() == pytest.approx(list(BEST.values()))


def test_every_change_has_an_optimum_of_its_own(mapped: Page) -> None:
    statistics = mapped.statistics
    assert statistics["optimum"](change="hidden=10").to_dict() == pytest.approx({s: 1.2 * b for s, b in BEST.items()})
    assert statistics["drift"](change="steps=1600").tolist() == pytest.approx([0.8] * 3)
    assert statistics["optimum"](change="data").to_dict() == pytest.approx({7: BEST[0]})
    assert statistics["learned"](first=0.15, change="data").to_dict() == pytest.approx({7: BEST[0]})
    assert statistics["reaches"](first=0.1, change="hidden=10").tolist() == [100] * 3
    assert statistics["reaches"](first=0.1, change="steps=1600").tolist() == [100, 100, 100]
    assert statistics["error"](first=0.1, change="steps=1600").iloc[0] == pytest.approx(0.5 / 0.48)


def test_maps_and_lengths_are_drawn_and_tabled(mapped: Page) -> None:
    assert [each.name for each in mapped.pictures] == ["learning", "optimum", "basin", "lengths"]
    panels = mapped.pictures[2].figure.axes
    assert [len(ax.get_xticks()) for ax in panels] == [1, 2, 2]
    changes = mapped.tables[-1].rows
    assert {row[0] for row in changes} == {"none", "hidden=10", "steps=1600", "data", "batches"}
    (wide,) = (row for row in changes if row[0] == "hidden=10")
    assert wide[3:] == ("3", "0.1", "1.00 ± 0.00", "3 of 3")


def test_a_rate_that_ran_away_without_end_is_no_part_of_a_mean() -> None:
    rows = maps()
    (run,) = (r for r in rows if r["seed"] == 2 and r["task.inner_steps"] == 1600 and r["task.outer_lr"])
    run["lr_final"] = -1e9
    page = page_of(rows)
    (long,) = (row for row in page.tables[-1].rows if row[0] == "steps=1600")
    assert long[-1] == "2 of 3"
    assert long[-2].startswith("1.0")
    assert page.pictures[-1].name == "lengths"


def test_another_profile_and_shorter_learning_are_left_out() -> None:
    smoke = [one(0.5, 0.3, 0, **{"profile": "smoke", "trainer.max_steps": 2, "task.inner_steps": 10})]
    short = [one(0.7, 0.3, 0, **{"trainer.max_steps": 2})]
    assert page_of([*full(), *smoke, *short]).remarks == (
        "1 runs left out, of profile smoke",
        "1 runs left out, of fewer than 4 steps of the rate",
    )


def test_without_a_finished_run_there_is_no_page() -> None:
    with pytest.raises(NoRuns):
        page_of([one(1.5, 0.3, 0, status="FAILED")])
