"""The page of experiment=metalearn_activation, on runs of known truth."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mnist1d.analysis import metalearn_activation
from mnist1d.analysis.claims import judge_all, load
from mnist1d.analysis.figures import lab_style
from mnist1d.analysis.intervals import interval_of
from mnist1d.analysis.metalearn_activation import SLIGHT, extrema
from mnist1d.analysis.page import NoRuns, Page
from mnist1d.analysis.read import Runs

SEEDS = (0, 1, 2)
TRIALS = {1000: 0.0, 1001: 8.0, 1002: -2.0}  # seed -> points that every function is better there
TRAININGS = 12
X = np.linspace(-5, 5, 401)
CURVES = {"reference": X**3 / 27 - X, "corrected": X**2 / 8}  # two extrema, at -3 and 3; one, at 0
PROTOCOL = {  # accuracy (%) by seed; sine is best on average, ReLU on seed 1
    "reference": (68.0, 68.0, 69.0),
    "corrected": (64.0, 64.0, 64.0),
    "relu": (58.0, 62.0, 58.0),
    "sine": (60.0, 61.0, 61.0),
    "hand_fit": (67.0, 67.0, 68.0),
}
TRIED = {"reference": (65.0, 70.0), "corrected": (63.0, 69.0), "relu": (59.0, 66.0), "sine": (61.0, 62.0)}
TRIED |= {"hand_fit": (65.5, 69.0)}  # accuracy (%) in short and in long trials
BEHIND = 0.5  # points that a spline is behind its function
RATES = (0.01, 0.02, 0.04)
CHOSEN = np.float32([0.01, 0.02, 0.02])  # by trial; in single precision, as a device may have them


def one(arm: str, seed: int, protocol: str | None = None, **more: Any) -> dict[str, Any]:
    """A run; of a function that is not learned, by either protocol: the corrected one has its trials."""
    learned = arm in CURVES
    run = {
        "run_id": f"{arm} {seed} {protocol} {sorted(more.items())}",
        "status": "FINISHED",
        "started": 0,
        "profile": "paper",
        "seed": seed,
        "model.name": "shallow",
        "model.activation": "elu" if learned else arm,
        "task.protocol": arm if learned else protocol,
        "task.scale": 0.2 if learned else 0.0,
        "task.trials": 0 if protocol == "reference" else len(TRIALS),
        "task.trial_data_seed": 1000,
        "task.trial_lrs": RATES,
        "task.trial_steps": 301,
        "task.long_trial_steps": 3000,
        "task.snapshot_every": 6,
        "trainer.max_steps": TRAININGS if learned else 1,
        "inner/mean_loss_final": 1.25,
    }
    return run | {key.replace("__", "."): value for key, value in more.items()}


def full(seeds: Iterable[int] = SEEDS) -> list[dict[str, Any]]:
    plain = [arm for arm in PROTOCOL if arm not in CURVES]
    rows = [one(arm, seed) for arm in CURVES for seed in seeds]
    rows += [one(arm, seed, "reference") for arm in plain for seed in seeds]
    return rows + [one(arm, 0, "corrected") for arm in plain]


def without(rows: list[dict[str, Any]], start: str) -> list[dict[str, Any]]:
    """Those whose id does not begin like this: arm, seed, protocol."""
    return [row for row in rows if not row["run_id"].startswith(start)]


def points_of(row: dict[str, Any]) -> dict[str, dict[int, float]]:
    """The histories of a run: metric -> step -> value."""
    arm, last = row["run_id"].split()[0], row["trainer.max_steps"]
    accuracy = PROTOCOL[arm][row["seed"]] / 100
    ends = {step: accuracy + (0.01 if step % 2 else -0.01) for step in range(last - last // 6, last)}
    found = {
        "test/acc": {0: accuracy} if last == 1 else dict.fromkeys(range(last), 0.3) | ends,
        "meta/loss": dict.fromkeys(range(last), 1.0 + 0.01 * row["seed"]),
    }
    numbers = range(row["task.trials"])
    for kind, behind in {"fresh": 0.0, "spline": BEHIND}.items() if arm in CURVES else (("fresh", 0.0),):
        for ending, level in zip(("", "_long") if kind == "fresh" else ("",), TRIED[arm], strict=False):
            draws = list(TRIALS.values())
            found[f"{kind}/acc{ending}"] = {
                last + n: (level + row["seed"] * (arm == "corrected") + draws[n] - behind) / 100 for n in numbers
            }
            found[f"{kind}/lr{ending}"] = {last + n: float(CHOSEN[n]) for n in numbers}
    return found


def runs_of(rows: list[dict[str, Any]], folder: Path | None = None, drop: Iterable[str] = ()) -> Runs:
    """Runs, whose functions lie in `folder`; `drop`: histories that nobody recorded."""
    histories: dict[str, dict[str, dict[int, float]]] = {metric: {} for metric in metalearn_activation.METRICS}
    places = {}
    for row in rows:
        for metric, points in points_of(row).items():
            if not metric.endswith(tuple(drop)):
                histories[metric][row["run_id"]] = points
        if folder and row["task.scale"]:
            place = folder / row["run_id"]
            place.mkdir(exist_ok=True)
            final = CURVES[row["task.protocol"]] + 0.05 * row["seed"] * np.cos(X)
            kept = {"curve": torch.from_numpy(X), "snapshots": torch.from_numpy(np.stack([X, final])).float()}
            torch.save({"state_dict": kept}, place / "weights.pt")
            places[row["run_id"]] = str(place)
    ids = [row["run_id"] for row in rows]
    frames = {
        metric: pd.DataFrame.from_dict(found, orient="index").reindex(ids).sort_index(axis="columns")
        for metric, found in histories.items()
    }
    return Runs(pd.DataFrame(rows), frames, places)


def page_of(rows: list[dict[str, Any]], folder: Path | None = None, drop: Iterable[str] = ()) -> Page:
    return metalearn_activation.page(runs_of(rows, folder, drop))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("functions")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Page:
    """Read only."""
    return page_of(full(), folder)


def cells(page: Page, title: str) -> dict[str, dict[str, str]]:
    """The table whose title contains this: first cell -> column -> cell."""
    part = next(each for each in page.tables if title in each.title)
    return {row[0]: dict(zip(part.columns, row, strict=True)) for row in part.rows}


def axes_of(page: Page, name: str) -> list[Any]:
    return next(each for each in page.pictures if each.name == name).figure.axes


# -- extrema ----------------------------------------------------------------------------------------------


def at(curve: Any) -> list[float]:
    return [round(float(X[place]), 6) for place in extrema(curve)]


def test_extrema_are_where_a_curve_turns_and_its_ends_are_none() -> None:
    assert at(CURVES["reference"]) == [-3, 3]
    assert at(-CURVES["reference"]) == [-3, 3]
    assert at(CURVES["corrected"]) == [0]
    assert at(X) == at(-X) == at(np.zeros_like(X)) == []
    assert at(np.sin(np.pi * X)) == [n + 0.5 for n in range(-5, 5)]


def test_a_plateau_is_one_extremum_where_it_turns_and_none_where_it_does_not() -> None:
    assert at(np.clip(X, -1, 1)) == []
    assert at(np.abs(X).clip(1)) == [-1]
    assert at(np.minimum(X, 1) - np.maximum(X - 2, 0)) == [1]


def test_wiggles_of_rounding_are_no_extrema() -> None:
    tail = 3 - np.exp(np.minimum(4 * X, 0)) + np.maximum(X, 0)  # flat to the left, at 3, then down to 2 and up
    single = (tail + 1e-7 * np.random.default_rng(0).standard_normal(X.size)).astype(np.float32)
    slopes = np.sign(np.diff(single))
    assert (slopes[slopes != 0][1:] != slopes[slopes != 0][:-1]).sum() > 20  # there are wiggles
    assert at(single) == [0]


def test_a_turn_counts_from_a_stated_height() -> None:
    bump = np.exp(-4 * (X + 3) ** 2)  # on a falling tail, with slope -0.0001
    heights = {factor: extrema(factor * SLIGHT * bump - 1e-4 * X) for factor in (0.3, 3.0)}
    assert {factor: len(turns) for factor, turns in heights.items()} == {0.3: 0, 3.0: 1}


# -- columns and statistics -------------------------------------------------------------------------------


def test_the_columns_say_what_a_run_is_and_how_good_it_got(whole: Page) -> None:
    rows = whole.table[whole.table["seed"] == 0].drop_duplicates("arm").set_index("arm")
    assert rows["learned"].to_dict() == {arm: arm in CURVES for arm in PROTOCOL}
    assert rows["standard"].to_dict() == {arm: arm in ("relu", "sine") for arm in PROTOCOL}
    assert rows["accuracy"].to_dict() == pytest.approx({arm: values[0] for arm, values in PROTOCOL.items()})
    assert rows["loss"].tolist() == [1.25] * 5
    assert rows["extrema"].dropna().to_dict() == {"reference": 2, "corrected": 1}


def test_a_few_trainings_have_an_accuracy_too() -> None:
    rows = [row | {"trainer.max_steps": 3} if row["task.scale"] else row for row in full()]
    level = page_of(rows).statistics["level"]
    assert level(measure="accuracy", where={"arm": "reference"}).tolist() == [30, 30, 30]  # of the last one


def test_the_gain_is_over_the_best_of_each_seed_or_over_one(whole: Page) -> None:
    gain = whole.statistics["gain"]
    assert gain().to_dict() == pytest.approx({0: 8, 1: 6, 2: 8})
    assert gain(over="sine").to_dict() == pytest.approx({0: 8, 1: 7, 2: 8})
    assert gain(over="hand_fit").to_dict() == pytest.approx(dict.fromkeys(SEEDS, 1))
    assert gain(over="tanh").empty


def test_a_seed_that_lacks_a_standard_function_has_no_gain() -> None:
    gain = page_of(without(full(), "relu 1 reference")).statistics["gain"]
    assert gain().index.tolist() == [0, 2]
    assert gain(over="sine").index.tolist() == [0, 1, 2]


def test_functions_of_an_arm_are_averaged_within_a_trial(whole: Page) -> None:
    tried = whole.statistics["tried"]
    assert tried(arm="corrected").to_dict() == pytest.approx({seed: 64 + draw for seed, draw in TRIALS.items()})
    assert tried(arm="spline of corrected").tolist() == pytest.approx([63.5, 71.5, 61.5])
    assert tried(arm="corrected", over="spline of corrected").to_dict() == pytest.approx(dict.fromkeys(TRIALS, 0.5))
    assert tried(arm="reference", length="long").tolist() == pytest.approx([70, 78, 68])


def test_the_best_standard_function_is_chosen_by_its_mean_for_each_length(whole: Page) -> None:
    tried = whole.statistics["tried"]
    assert tried(arm="reference", over="best").tolist() == pytest.approx([4] * 3)  # sine; hand_fit is no standard one
    assert tried(arm="reference", over="best", length="long").tolist() == pytest.approx([4] * 3)  # ReLU
    assert tried(arm="hand_fit", over="best").tolist() == pytest.approx([4.5] * 3)


def test_trials_are_paired_by_their_number_where_one_is_missing() -> None:
    runs = runs_of(full())
    for metric in ("fresh/acc", "fresh/lr"):
        runs.histories[metric].loc["sine 0 corrected []", 2] = np.nan  # the easy one: its mean falls below ReLU's
    tried = metalearn_activation.page(runs).statistics["tried"]
    assert tried(arm="sine").to_dict() == pytest.approx({1000: 61, 1002: 59})
    assert tried(arm="reference", over="sine").to_dict() == pytest.approx({1000: 4, 1002: 4})
    assert tried(arm="reference", over="best").to_dict() == pytest.approx({1000: 4, 1002: 4})


def test_what_was_not_tried_has_no_value(whole: Page) -> None:
    tried = whole.statistics["tried"]
    assert tried(arm="tanh").empty
    assert tried(arm="reference", over="tanh").empty
    with pytest.raises(ValueError, match=r"^length is short or long, not 'longer'$"):
        tried(arm="reference", length="longer")


def test_likeness_is_the_correlation_with_the_others_near_zero(whole: Page) -> None:
    near = np.abs(X) <= 3
    curves = [(CURVES["corrected"] + 0.05 * seed * np.cos(X))[near] for seed in SEEDS]
    expected = np.corrcoef(curves[0], curves[1] + curves[2])[0, 1]
    likeness = whole.statistics["likeness"](arm="corrected")
    assert likeness[0] == pytest.approx(expected)
    assert likeness.index.tolist() == [0, 1, 2]


def test_two_functions_have_no_likeness_since_they_share_one_correlation(folder: Path) -> None:
    assert page_of(full((0, 1)), folder).statistics["likeness"](arm="corrected").empty


# -- tables and pictures ----------------------------------------------------------------------------------


def test_the_first_table_has_the_protocol_of_learning(whole: Page) -> None:
    found = cells(whole, "as in learning")
    assert list(found) == ["learned, reference", "learned, corrected", "hand fit", "sine", "relu"]
    assert found["learned, corrected"]["extrema"] == "1.0 ± 0.0"
    assert found["relu"]["extrema"] == "–"
    assert found["learned, reference"]["test accuracy (%)"] == "68.3 ± 1.4"
    assert [row["n"] for row in found.values()] == ["3"] * 5


def test_a_table_for_each_length_of_trials(whole: Page) -> None:
    short, long = cells(whole, "after 301 steps"), cells(whole, "after 3000 steps")
    lead = "− best standard"
    assert list(short) == [
        *("hand fit", "learned, reference", "spline of reference", "learned, corrected", "spline of corrected"),
        *("sine", "relu"),
    ]
    assert short["learned, reference"][lead] == "+4.0 ± 0.0"
    assert (short["sine"][lead], short["relu"][lead]) == ("–", "-2.0 ± 0.0")
    assert (long["sine"][lead], long["relu"][lead]) == ("-4.0 ± 0.0", "–")
    assert set(short) - set(long) == {"spline of reference", "spline of corrected"}  # which have no long part
    assert short["learned, corrected"]["functions"] == "3: 65.0–67.0"
    assert short["sine"]["functions"] == "1"
    assert {row["learning rate"] for row in short.values()} == {"0.02"}


def test_a_rate_at_an_end_of_the_grid_is_marked() -> None:
    rows = [row | {"task.trial_lrs": (0.005, 0.01, 0.02)} for row in full()]
    assert cells(page_of(rows), "after 301 steps")["sine"]["learning rate"] == "0.02*"


def test_captions_say_n_the_interval_and_the_command(whole: Page) -> None:
    captions = {each.name: each.caption for each in whole.pictures}
    assert list(captions) == ["learning", "functions", "trials"]
    assert "mean over n = 3 seeds with its 95% t interval" in captions["learning"]
    assert "c: seed 0, every 6 trainings" in captions["learning"]
    assert "mean over n = 3 trials with its 95% t interval" in captions["trials"]
    assert all(text.endswith("`python train.py -m experiment=metalearn_activation`") for text in captions.values())


def test_learning_is_drawn_as_in_the_paper(whole: Page) -> None:
    loss, accuracy, function = axes_of(whole, "learning")
    np.testing.assert_allclose(loss.lines[0].get_ydata(), 1.01)
    assert [text.get_text() for text in accuracy.texts] == ["sine"]  # ReLU is too near
    assert accuracy.lines[-1].get_ydata() == pytest.approx([60 + 2 / 3] * 2)
    assert max(accuracy.get_xticks()) < TRAININGS < accuracy.get_xlim()[1]  # labels stand beside the curves
    assert function.get_title(loc="left") == "c  f(x), reference"
    np.testing.assert_allclose(function.lines[-1].get_ydata(), CURVES["reference"], rtol=1e-6)


def test_wide_intervals_of_few_seeds_do_not_press_the_lines_flat() -> None:
    runs = runs_of(full((0, 1)))
    runs.histories["meta/loss"].loc["corrected 0 None []", 3] = 1.5  # half width of the interval: 3.2
    low, high = next(iter(axes_of(metalearn_activation.page(runs), "learning"))).get_ylim()
    assert (low, high) == pytest.approx((1.005 - 0.2 * 0.25, 1.255 + 0.2 * 0.25))


def test_every_seed_is_a_line_with_its_extrema(whole: Page) -> None:
    reference, corrected = axes_of(whole, "functions")
    assert reference.get_title(loc="left") == "learned, reference (n = 3)"
    function, turns, start = reference.lines[:3]
    assert len(reference.lines) == len(corrected.lines) == 3 * 3
    np.testing.assert_allclose(turns.get_xdata(), [-3, 3])
    np.testing.assert_allclose(start.get_ydata(), X)
    assert function.get_linewidth() > start.get_linewidth()


def test_trials_are_drawn_best_on_top_and_standard_functions_open(whole: Page) -> None:
    short, long = axes_of(whole, "trials")
    names = [text.get_text() for text in short.get_yticklabels()]
    assert (names[0], names[-1]) == ("relu", "hand fit")
    points = [line for line in short.lines if len(line.get_xdata()) == 1]
    faces = {name: point.get_markerfacecolor() for name, point in zip(names, points, strict=True)}
    assert [name for name, face in faces.items() if face == "white"] == ["relu", "sine"]
    marks = {name: point.get_marker() for name, point in zip(names, points, strict=True)}
    assert [name for name, mark in marks.items() if mark == "s"] == [
        "spline of corrected",
        "spline of reference",
        "hand fit",
    ]
    assert long.get_title(loc="left") == "After 3000 steps"
    assert sorted(int(line.get_ydata()[0]) for line in long.lines[1::2]) == [0, 1, 3, 5, 6]  # splines: empty rows


def test_pictures_of_every_page_can_be_saved(whole: Page, tmp_path: Path) -> None:
    for each in (*whole.pictures, *page_of(full((0,))).pictures):
        with lab_style():
            each.figure.savefig(tmp_path / f"{each.name}.png")
    assert len(list(tmp_path.iterdir())) == 3


# -- what may be missing ----------------------------------------------------------------------------------


def test_a_complete_store_has_no_remarks(whole: Page) -> None:
    assert whole.remarks == ()


def test_a_profile_without_long_trials_has_one_table_of_them_and_no_long_value() -> None:
    rows = [row | {"task.long_trial_steps": None} for row in full()]
    page = page_of(rows, drop=("_long",))
    assert [each.title for each in page.tables][1:] == ["On new weights, noise and data, after 301 steps"]
    assert len(axes_of(page, "trials")) == 1
    assert page.statistics["tried"](arm="reference", over="best", length="long").empty


def test_missing_seeds_are_named_by_arm_and_protocol() -> None:
    failed = one("sine", 2, "reference", status="FAILED", **{"mnist1d.reason": "loss became nan"})
    rows = without(without(full(), "sine 2 reference"), "reference 1")
    rows = [row for row in rows if row["run_id"] != "corrected 2 None []"]
    assert page_of([*rows, failed]).remarks[:2] == (
        "missing: reference: seed 1 not run",
        "missing: sine protocol=reference: seed 2 FAILED (loss became nan)",
    )


def test_a_standard_function_whose_trials_failed_is_named_though_the_protocol_has_it() -> None:
    rows = [row | {"status": "FAILED"} if row["run_id"] == "relu 0 corrected []" else row for row in full()]
    assert page_of(rows).remarks[0] == "missing: relu protocol=corrected: seed 0 FAILED"


def test_functions_learned_for_less_long_or_from_another_one_are_left_out(whole: Page, folder: Path) -> None:
    short = [one("reference", seed, trainer__max_steps=6) for seed in SEEDS]
    other = [one("corrected", 0, model__activation="relu")]
    page = page_of([*short, *other, *full()], folder)
    assert page.remarks == (
        "3 runs left out, of another protocol: trainer.max_steps=6",
        "shallow: 1 runs left out, of another protocol: model.activation=relu",
    )
    assert [each.rows for each in page.tables] == [each.rows for each in whole.tables]


def test_a_longer_sweep_that_only_just_began_changes_nothing(whole: Page, folder: Path) -> None:
    begun = [one("reference", seed, trainer__max_steps=301, status="RUNNING") for seed in SEEDS]
    page = page_of([*begun, *full()], folder)
    assert [each.rows for each in page.tables] == [each.rows for each in whole.tables]


def test_functions_that_cannot_be_read_are_a_remark_and_leave_the_rest(folder: Path) -> None:
    runs = runs_of(full(), folder)
    (Path(runs.artifacts["reference 0 None []"]) / "weights.pt").write_bytes(b"cut short")
    torch.save({"state_dict": {}}, Path(runs.artifacts["reference 1 None []"]) / "weights.pt")
    del runs.artifacts["reference 2 None []"]
    page = metalearn_activation.page(runs)
    assert page.remarks == ("the functions of 3 runs cannot be read from their weights",)
    assert [ax.get_title(loc="left") for ax in axes_of(page, "functions")] == ["learned, corrected (n = 3)"]
    assert axes_of(page, "learning")[2].get_title(loc="left") == "c  f(x), corrected"
    assert page.statistics["level"](measure="extrema", where={"arm": "reference"}).empty
    assert cells(page, "as in learning")["learned, reference"]["extrema"] == "–"


def test_without_any_function_learning_is_two_panels() -> None:
    page = page_of(full())
    assert [each.name for each in page.pictures] == ["learning", "trials"]
    assert len(axes_of(page, "learning")) == 2


def test_standard_functions_alone_are_shown() -> None:
    page = page_of([row for row in full() if not row["task.scale"]])
    assert [each.name for each in page.pictures] == ["trials"]
    assert list(cells(page, "as in learning")) == ["hand fit", "sine", "relu"]
    assert page.statistics["gain"]().empty
    assert page.remarks == ()


@pytest.mark.parametrize("seeds", [(0,), SEEDS])
def test_learned_functions_alone_are_shown(seeds: tuple[int, ...], folder: Path) -> None:
    page = page_of([row for row in full(seeds) if row["task.scale"]], folder)
    assert [each.name for each in page.pictures] == ["learning", "functions", "trials"]
    assert page.statistics["gain"]().empty
    assert page.statistics["tried"](arm="reference", over="best").empty
    assert {row["− best standard"] for row in cells(page, "after 301 steps").values()} == {"–"}
    assert "nan" not in "".join(each.markdown() for each in page.tables)


def test_one_trial_has_no_interval() -> None:
    page = page_of([row | {"task.trials": min(1, row["task.trials"])} for row in full((0,))])
    assert "one trial, so no intervals" in page.pictures[-1].caption
    assert cells(page, "after 301 steps")["sine"]["accuracy (%)"] == "61.0"


def test_without_a_finished_run_there_is_no_page() -> None:
    with pytest.raises(NoRuns, match=r"^no run is finished \(1 FAILED\)$"):
        page_of([one("reference", 0, status="FAILED")])


# -- claims -----------------------------------------------------------------------------------------------


def test_every_claim_is_judged_by_what_the_page_measures(whole: Page) -> None:
    judged = {found.claim.id: found for found in judge_all(load("metalearn_activation"), whole.statistics)}
    assert {name: found.verdict.kind for name, found in judged.items()} == {
        "five-points-better": "inconclusive",  # three seeds that differ much
        "better-after-long-training": "reproduced",
        "better-than-all": "reproduced",
        "not-monotonic": "reproduced",
        "two-extrema": "not reproduced",  # one, of the corrected arm
        "same-shape": "reproduced",
        "simple-fit-as-good": "reproduced",
    }
    parts = {finding.label: finding for finding in judged["five-points-better"].findings}
    assert parts["by the paper's protocol"].interval.low == pytest.approx(
        interval_of([10.0, 6.0, 11.0]).low
    )  # not sine
    assert parts["on new weights and data"].verdict.kind == "reproduced"
    assert parts["learned with new weights and noise"].interval.mean == pytest.approx(5)
    parts = {finding.label: finding for finding in judged["better-than-all"].findings}
    assert parts["by the paper's protocol"].interval == interval_of([8.0, 6.0, 8.0])
    assert parts["learned with new weights and noise"].interval.mean == pytest.approx(3)
    extrema_found = {finding.label: finding.interval.mean for finding in judged["two-extrema"].findings}
    assert extrema_found == {"reference": 2, "corrected": 1}
