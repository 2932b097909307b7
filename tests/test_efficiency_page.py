"""The page of experiment=efficiency, on runs of known truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mnist1d.analysis import efficiency, figures
from mnist1d.analysis.claims import judge_all, load
from mnist1d.analysis.page import NoRuns, Page
from mnist1d.analysis.power import seeds_needed
from mnist1d.analysis.read import Runs
from mnist1d.config import Run
from tests import programs

FINALS = {  # data -> percent of logistic, mlp, cnn, gru
    "mnist1d": (32.0, 66.0, 94.0, 90.0),
    "mnist_subset": (88.0, 93.0, 96.0, 95.0),
}
STEP = {"mnist1d": (0.25, 0.5, 2.0, 4.0), "mnist_subset": (0.5, 1.0, 8.0, 4.0)}  # milliseconds
STEPS = (0, 50, 100)
EXTRA = {0: 0.0, 1: 0.4, 2: -0.4}  # points that a seed's CNN is better


@pytest.fixture(scope="module")
def flat(make_run: Callable[..., Run]) -> dict[tuple[str, str], dict[str, Any]]:
    """Read only. Real configs by data set and class, without the keys that other data sets have."""
    found = {}
    for data in FINALS:
        for kind in efficiency.CLASSES:
            model = "cnn2d" if (kind, data) == ("cnn", "mnist_subset") else kind
            run = make_run(f"data={data}", f"model={model}", "trainer.max_steps=101", "trainer.threads=1")
            found[data, kind] = run.flat()
    return found


@pytest.fixture(scope="module")
def one(flat) -> Callable[..., dict[str, Any]]:
    def made(data: str, kind: str, seed: int, **more: Any) -> dict[str, Any]:
        place = efficiency.CLASSES.index(kind)
        run = {
            **flat[data, kind],
            "run_id": f"{data} {kind} {seed} {sorted(more.items())}",
            "status": "FINISHED",
            "started": 0,
            "profile": "paper",
            "seed": seed,
            "mnist1d.stack_size": "1",
            "test/acc_final": (FINALS[data][place] + (EXTRA[seed] if kind == "cnn" else 0)) / 100,
            "time/step_cpu_seconds": STEP[data][place] / 1000,
        }
        return run | {key.replace("__", "."): value for key, value in more.items()}

    return made


@pytest.fixture(scope="module")
def full(one) -> Callable[..., list[dict[str, Any]]]:
    def made(data: Iterable[str] = FINALS, kinds: Iterable[str] = efficiency.CLASSES) -> list[dict[str, Any]]:
        return [one(name, kind, seed) for name in data for kind in kinds for seed in EXTRA]

    return made


def page_of(rows: list[dict[str, Any]]) -> Page:
    """Runs that are 5 points below their final accuracy at step 0, 1 at step 50."""
    below = np.array([0.05, 0.01, 0.0])
    curves = {row["run_id"]: row["test/acc_final"] - below for row in rows}
    return efficiency.page(
        Runs(
            pd.DataFrame(rows, dtype=object),
            {"test/acc": pd.DataFrame.from_dict(curves, orient="index", columns=STEPS)},
        )
    )


@pytest.fixture(scope="module")
def whole(full) -> Page:
    """Read only. Two data sets, all classes, three seeds."""
    return page_of(full())


def cells(page: Page, table: int, *row: str) -> dict[str, str]:
    part = page.tables[table]
    return next(dict(zip(part.columns, each, strict=True)) for each in part.rows if each[: len(row)] == row)


# -- columns and statistics ----------------------------------------------------------------------------------


def test_convolutions_in_one_and_in_two_dimensions_are_one_class(whole):
    assert set(whole.table["class"]) == set(efficiency.CLASSES)


def test_time_energy_and_rate_follow_from_the_pace_of_a_step(whole):
    run = whole.table.set_index(["data.name", "class", "seed"]).loc[("mnist1d", "cnn", 0)]
    assert run["cost"] == pytest.approx(0.002 * 101)
    assert run["energy"] == pytest.approx(12 * 0.002 * 101)
    assert run["rate"] == pytest.approx(100 / 0.002)
    assert run["settled"] == pytest.approx(0.002 * 51)  # at the second evaluation it is 1 point below
    assert (run["parameters"], run["flops"]) == (5210, 185_750)


def test_separation_is_the_mean_difference_of_all_pairs_of_classes(whole):
    found = whole.statistics["separation"](data="mnist1d")
    assert found[0] == pytest.approx((34 + 62 + 58 + 28 + 24 + 4) / 6)
    assert found[1] == pytest.approx(found[0] + 3 * 0.4 / 6)  # three pairs with the CNN
    assert whole.statistics["cost_of"](data="mnist1d")[0] == pytest.approx(101 * 0.00675)


def test_data_sets_are_compared_seed_by_seed(whole):
    ask = whole.statistics
    wide, narrow = (ask["separation"](data=name) for name in FINALS)
    assert ask["separation_ratio"](of="mnist1d", to="mnist_subset").to_dict() == pytest.approx(
        (wide / narrow).to_dict()
    )
    assert ask["cost_ratio"](of="mnist_subset", to="mnist1d")[2] == pytest.approx(13.5 / 6.75)
    assert ask["yield_ratio"](of="mnist1d", to="mnist_subset")[0] == pytest.approx(2 * wide[0] / narrow[0])
    of, to = ({"data.name": "mnist1d", "class": kind} for kind in ("gru", "cnn"))
    assert ask["ratio"](measure="step_ms", of=of, to=to).to_dict() == pytest.approx(dict.fromkeys(EXTRA, 2.0))


def test_a_data_set_without_a_class_separates_nothing(full):
    page = page_of(full(kinds=("logistic", "mlp", "cnn")))
    assert page.statistics["separation"](data="mnist1d").empty
    assert cells(page, 0, "MNIST-1D")["separation (points)"] == "–"
    assert [picture.name for picture in page.pictures] == ["time"]


# -- which runs count --------------------------------------------------------------------------------------


def test_runs_that_shared_their_cost_are_left_out(full, one):
    shared = {"mnist1d.stack_size": "20", "time/step_cpu_seconds": 1e-9, "profile": "quick"}
    stacked, threads = one("mnist1d", "mlp", 0, **shared), one("mnist1d", "gru", 0, trainer__threads=2, profile="quick")
    page = page_of([*full(), stacked, threads])
    assert page.remarks == (
        "2 runs left out, not trained alone by one thread",
        "to train again what was not alone: python train.py -m experiment=efficiency profile=quick force=true",
    )
    assert page.table["time/step_cpu_seconds"].min() > 1e-5


def test_convolutions_along_flattened_images_are_left_out(full, one, make_run):
    flattened = {**make_run("data=mnist_subset", "model=cnn").flat(), "trainer.max_steps": 101, "trainer.threads": 1}
    page = page_of([*full(), one("mnist_subset", "mlp", 0) | flattened | {"run_id": "along"}])
    assert page.remarks == ("1 runs left out, of convolutions that the data are not made for",)


def test_shorter_runs_and_missing_seeds_are_named_by_data_set(full, one):
    rows = [row for row in full() if (row["data.name"], row["model.name"], row["seed"]) != ("mnist_subset", "gru", 2)]
    page = page_of([*rows, one("mnist1d", "mlp", 0, trainer__max_steps=11)])
    assert page.remarks == (
        "mnist1d: 1 runs left out, of another protocol: trainer.max_steps=11",
        "missing: gru on mnist_subset: seed 2 not run",
    )
    assert page.statistics["separation"](data="mnist_subset").index.tolist() == [0, 1]


def test_without_a_run_of_its_own_there_is_no_page(one):
    with pytest.raises(NoRuns, match="can be compared \\(1 runs left out, not trained alone by one thread\\)") as told:
        page_of([one("mnist1d", "mlp", 0, **{"mnist1d.stack_size": "2"})])
    assert told.value.again == "python train.py -m experiment=efficiency force=true"


def test_what_was_trained_by_several_threads_is_repaired_by_the_command_that_is_told(tmp_path):
    few, two = ("seed=0", "model=logistic", "data=mnist1d", "trainer.accelerator=cpu"), "trainer.threads=2"
    done = programs.run("train.py", "-m", "experiment=efficiency", "profile=smoke", *few, two, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = programs.run("analyze.py", "experiment=efficiency", "profile=smoke", "output=report", cwd=tmp_path)
    hint = "python train.py -m experiment=efficiency profile=smoke force=true"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"To make them: {hint}")
    assert f"\n{hint}\n" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    done = programs.run(*hint.split()[1:], *few, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = programs.run("analyze.py", "experiment=efficiency", "output=report", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(pd.read_csv(tmp_path / "report" / "efficiency" / "runs.csv")) == 1


# -- tables and pictures -----------------------------------------------------------------------------------


def test_what_needs_a_network_is_marked_as_not_run_and_never_estimated(whole):
    for part in whole.tables:
        rows = {row[0]: row[1:] for row in part.rows}
        for name in ("MNIST", "Fashion-MNIST", "CIFAR-10"):
            assert rows[name] == ("not run", *("–",) * (len(part.columns) - 3), "0")


def test_power_follows_from_the_differences_of_the_runs(whole):
    found = cells(whole, 3, "MNIST-1D", "cnn − gru")
    spread = float(np.std([4.0, 4.4, 3.6], ddof=1))
    half = stats.t.ppf(0.975, 2) * spread / np.sqrt(3)
    seeds = seeds_needed(4.0, spread)
    assert found["difference (points)"] == "+4.0 ± 1.0"
    assert found["seeds"] == f"{seeds} [{seeds_needed(4 + half, spread)}, {seeds_needed(4 - half, spread)}]"
    assert float(found["time (s)"]) == pytest.approx(seeds * 0.006 * 101, rel=0.01)
    assert found["test samples"] == "962"  # (1.96 + 1.28)² (0.94 · 0.06 + 0.9 · 0.1) / 0.04²


def test_where_the_interval_holds_zero_no_number_of_seeds_is_enough(full):
    rows = [
        row | ({"test/acc_final": 0.9 + EXTRA[row["seed"]]} if row["model.name"] == "cnn" else {}) for row in full()
    ]
    assert cells(page_of(rows), 3, "MNIST-1D", "cnn − gru")["seeds"].endswith(", –]")


def test_a_step_and_a_run_are_described_by_data_set_and_class(whole):
    step = cells(whole, 2, "5000 of MNIST", "logistic")
    assert (step["parameters"], step["kFLOP per sample"], step["n"]) == ("7,850", "31.4", "3")
    run = cells(whole, 1, "MNIST-1D", "logistic")
    assert (run["accuracy (%)"], run["GFLOP"]) == ("32.0 ± 0.0", f"{1600 * 101 * 100 / 1e9:.3g}")


def test_curves_are_drawn_against_time_and_bars_have_the_values_of_the_table(whole, tmp_path):
    time, bars = (picture.figure for picture in whole.pictures)
    line = time.axes[0].lines[efficiency.CLASSES.index("gru")]
    np.testing.assert_allclose(line.get_xdata(), 0.004 * (np.array(STEPS) + 1))
    np.testing.assert_allclose(line.get_ydata(), [85, 89, 90])
    heights = [bar.get_height() for bar in bars.axes[0].patches]
    assert heights == pytest.approx([whole.statistics["separation"](data=name).mean() for name in FINALS])
    with figures.lab_style():
        time.savefig(tmp_path / "time.png")


def test_every_claim_can_be_judged(whole):
    verdicts = {each.claim.id: each.verdict.kind for each in judge_all(load("efficiency"), whole.statistics)}
    assert verdicts["mnist1d-separates-models"] == "reproduced"
    assert verdicts["real-mnist"] == "no value"
    assert verdicts["gru-costs-ten-times-the-cnn"] == "not reproduced"
