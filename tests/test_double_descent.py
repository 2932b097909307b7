"""The page of experiment=double_descent and its statistics, on curves whose peaks are known."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mnist1d.analysis import curves
from mnist1d.analysis import double_descent as descent
from mnist1d.analysis.page import NoRuns
from mnist1d.analysis.read import Runs

# What the reference prints for the MLP with 15% label noise, one run per width: width, test error, train error.
PRINTED = (
    *((2, 69.59, 71.68), (3, 67.50, 68.65), (4, 62.55, 62.75), (5, 57.45, 57.95), (7, 54.80, 54.45)),
    *((9, 48.97, 47.45), (12, 50.28, 46.47), (16, 47.24, 39.70), (21, 50.84, 38.08), (27, 50.69, 29.55)),
    *((36, 52.80, 19.02), (47, 54.05, 5.47), (61, 54.02, 0.0), (80, 52.08, 0.0), (104, 50.23, 0.0)),
    *((135, 48.39, 0.0), (177, 47.88, 0.0), (230, 46.54, 0.0), (300, 45.47, 0.0)),
)
WIDTHS = (2, 9, 16, 27, 47, 61, 100, 300)
FALLING = (70.0, 50.0, 48.0, 46.0, 44.0, 43.0, 42.0, 40.0)
PEAKED = (70.0, 50.0, 45.0, 49.0, 54.0, 52.0, 47.0, 44.0)  # up 9 from width 16 to 47, down 10 to 300
FITTED = (70.0, 40.0, 30.0, 15.0, 5.0, 0.0, 0.0, 0.0)  # zero from width 61 on


def run(model: str, arm: str, width: int, seed: int, test: float, train: float, **more: Any) -> dict[str, Any]:
    """A row as `read_runs` gives it; errors in percent."""
    return {
        "run_id": f"{model}-{arm}-{width}-{seed}-{more.get('started', 0)}",
        "status": "FINISHED",
        "started": 0,
        "seed": seed,
        "model.name": model,
        "model.hidden": width if model == "mlp" else np.nan,
        "model.channels": width if model == "cnn" else np.nan,
        "data.label_noise": 0.0 if arm == "clean" else 0.15,
        "data.label_noise_mode": "flip" if arm == "flip" else "redraw",
        "trainer.max_steps": 20000,
        "train/acc": 1 - train / 100,
        "test/acc": 1 - test / 100,
        "train/loss": train / 10,
        "test/loss": 5 - abs(np.log(width / 61)),
    } | more


def arm_of(model: str, arm: str, tests: tuple[float, ...], seeds: int = 3, **more: Any) -> list[dict[str, Any]]:
    """All widths of an arm; seed s has errors higher by s."""
    return [
        run(model, arm, width, seed, test + seed, train, **more)
        for width, test, train in zip(WIDTHS, tests, FITTED, strict=True)
        for seed in range(seeds)
    ]


def runs_of(*arms: list[dict[str, Any]]) -> Runs:
    return Runs(pd.DataFrame([row for rows in arms for row in rows]), {})


def table_of(*arms: list[dict[str, Any]]) -> pd.DataFrame:
    """What statistics see: the finished runs with the page's columns."""
    return finished(runs_of(*arms))


def finished(runs: Runs) -> pd.DataFrame:
    table, _ = descent.comparable(runs.table)
    return table[table["status"] == "FINISHED"]


def test_a_difference_between_widths_takes_the_nearest_of_the_grid() -> None:
    table = table_of(arm_of("mlp", "redraw", PEAKED))
    for of, minus, points in ((47, 16, 9.0), (50, 15, 9.0), (47, None, 10.0), (250, None, 0.0)):
        found = curves.error_difference(table, "mlp", "redraw", of, minus)
        assert found.to_dict() == pytest.approx(dict.fromkeys((0, 1, 2), points))
    assert curves.error_difference(table, "mlp", "flip", 47).empty


@pytest.fixture(scope="module")
def runs() -> Runs:
    return runs_of(
        arm_of("mlp", "clean", FALLING),
        arm_of("mlp", "redraw", PEAKED),
        arm_of("mlp", "flip", tuple(error + 1.5 for error in PEAKED)),
        arm_of("cnn", "redraw", PEAKED[::-1]),  # 44 at width 2, 47 at 9, ends at 70
    )


@pytest.fixture(scope="module")
def page(runs: Runs) -> descent.Page:
    return descent.page(runs)


# -- one curve --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("curve", "marks", "height"),
    [
        ([5.0, 2.0, 4.0, 8.0, 6.0, 3.0, 4.0], (1, 3, 5), 5.0),  # the lower of 6 up and 5 down counts
        ([9.0, 1.0, 2.0, 1.5, 8.0, 7.5], (1, 2, 3), 0.5),  # of two peaks, the one that is higher above both sides
        ([1.0, 3.0, 2.0], (0, 1, 2), 1.0),
        ([9.0, 5.0, 5.0, 4.0, 1.0], None, 0.0),
        ([1.0, 2.0, 3.0], None, 0.0),
        ([1.0, 2.0], None, 0.0),
    ],
)
def test_the_peak_is_the_interior_place_highest_above_both_sides(curve, marks, height):
    found = curves.landmarks(np.array(curve))
    assert found == marks
    assert curves.height(np.array(curve), found) == height


def test_a_running_mean_takes_three_neighbours_and_two_at_the_ends():
    np.testing.assert_allclose(curves.running_mean(np.array([0.0, 6.0, 3.0, 9.0])), [3, 3, 6, 6])


def test_the_place_of_a_symmetric_peak_is_its_middle_between_grid_points_too():
    widths = 2.0 ** np.arange(10)
    for middle in (4.0, 4.5, 5.0):
        curve = np.exp(-((np.arange(10) - middle) ** 2) / 4)
        assert curves.peak_place(widths, curve) == pytest.approx(2.0**middle, rel=0.01)


def test_the_place_varies_less_than_the_highest_point_does():
    widths = 1.3 ** np.arange(2, 16)
    clean = 8 * np.exp(-((np.arange(14) - 7) ** 2) / 18)
    rng = np.random.default_rng(0)
    noisy = clean + rng.normal(0, 1, (300, 14))
    places = np.log([curves.peak_place(widths, curve) for curve in noisy])
    highest = np.log(widths[noisy.argmax(axis=1)])
    assert abs(places.mean() - np.log(widths[7])) < 0.03
    assert places.std() < 0.6 * highest.std()


def test_a_falling_curve_has_no_place_of_a_peak():
    assert curves.peak_place(np.arange(1.0, 6.0), np.array([5.0, 4.0, 3.0, 2.0, 1.0])) is None


@pytest.mark.parametrize(
    ("curve", "first"),
    [
        ([9.0, 0.2, 0.1, 0.0], 2),
        ([9.0, 0.0, 0.3, 0.0], 3),  # it has to stay
        ([0.0, 0.0], 0),
        ([0.0, 0.2], None),
        ([0.0, float("nan")], None),
    ],
)
def test_the_threshold_is_where_a_curve_stays_low(curve, first):
    assert curves.first_staying(np.array(curve), 0.1) == first


# -- statistics -------------------------------------------------------------------------------------------


def test_the_references_printed_curve_gives_the_numbers_that_its_authors_saw():
    rows = [run("mlp", "redraw", width, 0, test, train) for width, test, train in PRINTED]
    found = {name: partial(each, table_of(rows)) for name, each in curves.STATISTICS.items()}
    arguments = {"model": "mlp", "arm": "redraw", "from_width": 9}
    assert found["prominence"](**arguments).tolist() == pytest.approx([54.05 - 47.24])
    assert found["second_descent"](**arguments).tolist() == pytest.approx([47.24 - 45.47])
    assert found["threshold_width"](model="mlp", arm="redraw").tolist() == [61]
    assert found["peak_width"](**arguments, by="argmax").tolist() == [47]
    assert found["peak_over_threshold"](**arguments, by="argmax").tolist() == pytest.approx([47 / 61])
    assert 47 < found["peak_width"](**arguments).item() < 61  # the flat top spans both


def test_statistics_are_series_by_seed_in_the_units_of_claims(page):
    noisy = {"model": "mlp", "arm": "redraw", "from_width": 9}
    expected = {
        partial(page.statistics["prominence"], **noisy): 9.0,
        partial(page.statistics["second_descent"], **noisy): 1.0,
        partial(page.statistics["second_descent"], **noisy | {"model": "cnn"}): 47.0 - 70.0,
        partial(page.statistics["threshold_width"], "mlp", "redraw"): 61,
        partial(page.statistics["loss_peak_width"], "mlp", "redraw", 9): 61,
        partial(page.statistics["peak_width"], **noisy, by="argmax"): 47,
        partial(page.statistics["peak_over_threshold"], **noisy, by="argmax"): 47 / 61,
        partial(page.statistics["arm_difference"], "mlp", "flip", "redraw", 9): 1.5,
        partial(page.statistics["prominence"], "mlp", "clean", 9): 0.0,
        partial(
            page.statistics["level"], "test_error", where={"model.name": "mlp", "arm": "redraw", "width": 47, "seed": 1}
        ): 55.0,
    }
    for statistic, value in expected.items():
        found = statistic()
        assert found.index.name == "seed"
        np.testing.assert_allclose(found, value)
    assert page.statistics["prominence"](**noisy).index.tolist() == [0, 1, 2]


def test_a_seed_without_what_is_asked_is_left_out(page):
    assert page.statistics["peak_width"]("mlp", "clean", 9).empty
    assert page.statistics["second_descent"]("mlp", "clean", 9).empty
    assert page.statistics["threshold_width"]("mlp", "redraw", at_most=-1).empty
    assert page.statistics["prominence"]("cnn", "clean", 6).empty  # never run
    assert page.statistics["arm_difference"]("cnn", "redraw", "clean", 6).empty


def test_two_widths_say_nothing_about_a_peak(page):
    assert page.statistics["prominence"]("mlp", "clean", 100).empty
    assert page.statistics["prominence"]("mlp", "clean", 61).tolist() == [0.0, 0.0, 0.0]


def test_narrow_nets_are_left_out_by_from_width(page):
    assert page.statistics["peak_width"]("mlp", "redraw", 0, by="argmax").tolist() == [2, 2, 2]
    assert page.statistics["prominence"]("mlp", "redraw", 27).tolist() == pytest.approx([5.0] * 3)


def test_a_seed_counts_only_with_every_width_of_its_arm(runs):
    lost = runs.table["run_id"] == "mlp-redraw-61-1-0"
    cut = Runs(runs.table.assign(status=np.where(lost, "FAILED", runs.table["status"])), {})
    found = descent.page(cut)
    assert found.statistics["prominence"]("mlp", "redraw", 9).index.tolist() == [0, 2]
    assert found.statistics["arm_difference"]("mlp", "flip", "redraw", 9).index.tolist() == [0, 2]
    assert "missing: mlp redraw: seed 1 FAILED at width 61" in found.remarks
    assert "mlp redraw: seed 1 lacks widths and is left out where it counts" in found.remarks


def test_arms_may_have_other_widths_and_seeds():
    some = [row for row in arm_of("mlp", "flip", PEAKED, seeds=2) if row["model.hidden"] not in (27, 300)]
    table = table_of(arm_of("mlp", "redraw", PEAKED), some)
    assert curves.prominence(table, "mlp", "flip", 9).tolist() == pytest.approx([7.0, 7.0])
    assert curves.arm_difference(table, "mlp", "flip", "redraw", 9).tolist() == pytest.approx([0.0, 0.0])
    assert not [*descent._missing(table), *descent._partial(table)]


def test_a_result_that_is_no_number_counts_as_missing(runs):
    broken = runs.table["test/acc"].mask(runs.table["run_id"] == "mlp-redraw-47-0-0", np.nan)
    table = finished(Runs(runs.table.assign(**{"test/acc": broken}), {}))
    assert curves.prominence(table, "mlp", "redraw", 9).index.tolist() == [1, 2]


@pytest.mark.parametrize(("name", "argument"), [("prominence", "places"), ("peak_width", "by")])
def test_an_unknown_way_of_looking_is_refused(page, name, argument):
    with pytest.raises(ValueError, match=f"{argument}='mine': must be (own or others|centre or argmax)"):
        page.statistics[name]("mlp", "redraw", 9, **{argument: "mine"})


def test_four_of_4000_samples_are_within_a_tenth_of_a_percent_in_any_precision():
    for accuracy, reached in ((0.999, True), (float(np.float32(0.999)), True), (3995 / 4000, False)):
        rows = [run("mlp", "clean", 47, 0, 40, 0, **{"train/acc": accuracy})]
        assert curves.threshold_width(table_of(rows), "mlp", "clean").size == reached


# -- luck -------------------------------------------------------------------------------------------------


def noise(widths: int, seeds: int, slope: float = 0.0) -> pd.DataFrame:
    """Errors of no peak, with standard deviation 1, as the statistics see them."""
    rng = np.random.default_rng(0)
    errors = 50 + slope * np.arange(widths)[:, None] + rng.normal(0, 1, (widths, seeds))
    rows = [run("mlp", "clean", 10 + w, s, errors[w, s], 0) for w in range(widths) for s in range(seeds)]
    return table_of(rows)


def test_luck_makes_peaks_in_a_seeds_own_curve_and_none_in_places_that_others_chose():
    table = noise(widths=14, seeds=200)
    assert curves.prominence(table, "mlp", "clean", 10).mean() == pytest.approx(2.5, abs=0.2)  # as the docs say
    # Others agree on one place only as far as their mean curve is flat: sums of few seeds, so many small groups.
    groups = [table[table["seed"] // 5 == group] for group in range(40)]
    fitted = np.concatenate([curves.prominence(group, "mlp", "clean", 10, places="others") for group in groups])
    assert fitted.mean() < 0.2


def test_luck_matters_less_on_a_falling_curve():
    own = curves.prominence(noise(widths=14, seeds=200, slope=-1.0), "mlp", "clean", 10).mean()
    assert own < 1.7


def test_places_that_others_choose_find_a_peak_that_is_there(page):
    assert page.statistics["prominence"]("mlp", "redraw", 9, places="others").tolist() == pytest.approx([9.0] * 3)


def test_a_single_seed_has_no_others():
    table = table_of(arm_of("mlp", "redraw", PEAKED, seeds=1))
    assert curves.prominence(table, "mlp", "redraw", 9).tolist() == pytest.approx([9.0])
    assert curves.prominence(table, "mlp", "redraw", 9, places="others").empty
    assert descent.height_table(table).rows == (("mlp", "redraw", "–", "–", "–", "44.0", "–", "–", "1"),)


# -- the page ---------------------------------------------------------------------------------------------


def test_errors_are_exact_and_parameters_those_of_the_nets():
    table = table_of([run("mlp", "clean", 47, 0, 41.66, 1.35), run("cnn", "clean", 24, 0, 32.03, 0)])
    assert table["test_error"].tolist() == pytest.approx([41.66, 32.03])
    assert table["train_error"].tolist() == pytest.approx([1.35, 0])
    assert table["parameters"].tolist() == [4663, 4858]
    assert table["width"].tolist() == [47, 24]


def test_tables_state_what_was_logged(page):
    tables = {table.title.split(" (")[0]: table for table in page.tables}
    places = {row[:2]: row[2:] for row in tables["Where the peak lies"].rows}
    assert places["mlp", "clean"] == ("61 ± 0", "–", "61 ± 0", "–", "3")
    assert places["mlp", "redraw"][0] == places["mlp", "redraw"][2] == "61 ± 0"
    heights = {row[:2]: row[2:] for row in tables["Test error along the curve"].rows}
    error = " ± 2.5"  # seeds 0, 1, 2: t of 2 degrees of freedom / sqrt(3)
    assert heights["mlp", "clean"] == (*("–",) * 3, f"41.0{error}", "0.0 ± 0.0", "–", "3")
    levels = (f"{level}{error}" for level in (46.0, 55.0, 45.0, 45.0))
    assert heights["mlp", "redraw"] == (*levels, "9.0 ± 0.0", "1.0 ± 0.0", "3")
    assert ("mlp", "flip − redraw", "1.5 ± 0.0", "0.0 ± 0.0", "3") in tables["What label noise costs"].rows


def test_a_row_of_a_width_has_every_arm(page):
    mlp, cnn = page.tables[-2:]
    assert mlp.columns == ("width", "parameters", "clean", "redraw", "flip")
    assert mlp.rows[4] == ("47", "4,663", "45.0 ± 2.5 (5.0)", "55.0 ± 2.5 (5.0)", "56.5 ± 2.5 (5.0)")
    assert cnn.columns == ("width", "parameters", "redraw")
    assert cnn.title.startswith("CNN")


def test_a_width_that_an_arm_lacks_is_a_dash_and_a_lost_seed_is_counted():
    rows = [*arm_of("mlp", "clean", FALLING), *arm_of("mlp", "redraw", PEAKED)]
    lost = ("mlp-redraw-9", "mlp-clean-2-2")
    table = table_of([row for row in rows if not row["run_id"].startswith(lost)])
    assert descent.width_table(table, "mlp").rows[:2] == (
        ("2", "118", "70.5 ± 6.4 {2} (70.0)", "71.0 ± 2.5 (70.0)"),
        ("9", "559", "51.0 ± 2.5 (40.0)", "–"),
    )


def test_clean_runs_of_either_noise_mode_are_the_same_setting():
    again = arm_of("mlp", "clean", FALLING, started=1, **{"data.label_noise_mode": "flip"})
    table = table_of(arm_of("mlp", "clean", PEAKED), again)
    assert curves.prominence(table, "mlp", "clean", 9).tolist() == [0.0, 0.0, 0.0]  # the newest count


def test_runs_of_other_models_and_other_noise_are_left_out_and_named(runs):
    other = [run("gru", "clean", 6, 0, 10, 0), run("mlp", "redraw", 9, 0, 10, 0, **{"data.label_noise": 0.3})]
    _, remarks = descent.comparable(pd.concat([runs.table, pd.DataFrame(other)], ignore_index=True))
    assert remarks == (
        "1 runs left out: model=gru, data.label_noise=0.0",
        "1 runs left out: model=mlp, data.label_noise=0.3",
    )


def test_seeds_that_never_fit_the_training_data_are_named(runs):
    stuck = runs.table["train/acc"].mask(runs.table["run_id"] == "mlp-redraw-300-2-0", 0.998)
    found = descent.page(Runs(runs.table.assign(**{"train/acc": stuck}), {}))
    assert found.statistics["threshold_width"]("mlp", "redraw").index.tolist() == [0, 1]
    assert found.remarks == ("mlp redraw: seed 2 reaches no threshold and is left out where it counts",)
    assert found.tables[0].rows[1][2] == "61 ± 0 {2}"


def test_a_seed_that_is_still_to_come_is_one_remark(runs):
    waiting = (runs.table["model.name"] == "cnn") & (runs.table["seed"] == 2)
    found = descent.page(Runs(runs.table.assign(status=np.where(waiting, "RUNNING", "FINISHED")), {}))
    assert found.remarks == ("missing: cnn redraw: seed 2 RUNNING at every width",)


def test_without_a_finished_run_there_is_no_page(runs):
    with pytest.raises(NoRuns, match="no runs yet"):
        descent.page(Runs(pd.DataFrame(columns=["run_id", "status"]), {}))
    with pytest.raises(NoRuns, match=r"no run is finished \(96 FAILED\)"):
        descent.page(Runs(runs.table.assign(status="FAILED"), {}))
    with pytest.raises(NoRuns, match=r"no runs yet"):
        descent.page(runs_of([run("gru", "clean", 6, 0, 10, 0)]))


# -- figures ----------------------------------------------------------------------------------------------


def mean_of(tests: tuple[float, ...], more: float = 0.0) -> tuple[float, ...]:
    """The mean over three seeds of an arm made by `arm_of`."""
    return tuple(error + 1 + more for error in tests)


def test_the_figure_has_the_papers_panels_and_the_clean_cnn(page):
    picture = page.pictures[0]
    axes = picture.figure.axes
    assert [ax.get_title(loc="left") for ax in axes] == [
        "a  MLP, clean",
        "b  MLP, 15% label noise",
        "c  CNN, clean",
        "d  CNN, 15% label noise",
    ]
    lines = {tuple(np.round(line.get_ydata(), 6)): line for line in axes[1].lines}
    solid, dashed, thin = (lines[y] for y in (mean_of(PEAKED), FITTED, mean_of(PEAKED, 1.5)))
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    assert thin.get_linewidth() < solid.get_linewidth()
    assert (15.0, 15.0) in lines
    assert "train error 0 from 61" in [text.get_text() for text in axes[1].texts]
    assert [text.get_text() for text in axes[2].texts] == ["no runs"]
    assert "n = 3 seeds" in picture.caption
    assert "`python train.py -m experiment=double_descent`" in picture.caption


def test_a_loss_that_is_highest_at_an_end_of_the_grid_has_no_peak():
    table = table_of(arm_of("mlp", "clean", FALLING))
    assert curves.loss_peak_width(table, "mlp", "clean", 9).tolist() == [61, 61, 61]
    assert curves.loss_peak_width(table, "mlp", "clean", 61).empty


def test_a_peak_is_marked_only_where_luck_did_not_make_it(page):
    texts = [[text.get_text().split()[0] for text in ax.texts] for ax in page.pictures[0].figure.axes]
    assert "peak" not in texts[0]
    assert "peak" in texts[1]


def test_the_second_picture_compares_in_parameters(page):
    places, gaps = page.pictures[1].figure.axes
    assert [label.get_text() for label in places.get_yticklabels()] == [
        "MLP, clean",
        "MLP, redraw",
        "MLP, flip",
        "CNN, redraw",
    ]
    thresholds = [float(line.get_xdata()[0]) for line in places.lines if line.get_marker() == "s"]
    assert thresholds == pytest.approx([6903] * 3 + [25874])  # of 61 hidden units and 61 channels
    np.testing.assert_allclose(gaps.lines[0].get_ydata(), 1.5)
    assert gaps.lines[0].get_xdata()[0] == 559  # from width 9 on


def test_without_flips_the_second_picture_has_one_panel():
    found = descent.page(runs_of(arm_of("cnn", "redraw", PEAKED, seeds=2)))
    assert len(found.pictures[1].figure.axes) == 1


@pytest.mark.parametrize(("more", "top"), [(0, 72), (40, 1.05 * 92)])
def test_the_axes_are_the_papers_unless_wide_nets_are_worse(more, top):
    found = descent.page(runs_of(arm_of("mlp", "clean", tuple(error + more for error in FALLING))))
    assert found.pictures[0].figure.axes[0].get_ylim() == pytest.approx((0, top))


def test_three_widths_of_one_seed_that_reach_nothing_still_make_a_page():
    rows = [run("mlp", "redraw", width, 0, 90, 90) for width in (2, 16, 47)]
    found = descent.page(runs_of(rows))
    for picture in found.pictures:
        picture.figure.canvas.draw()
    assert "one seed, so no intervals" in found.pictures[0].caption
    assert found.tables[0].rows[0][2:] == ("–", "–", "–", "–", "1")
