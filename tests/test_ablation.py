"""Pages made from descriptions: of made-up runs whose truth is known, with faults, and every one that there is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from mnist1d.analysis import ABLATIONS, DESCRIBED, ablation, claims, figures, swept
from mnist1d.analysis.described_page import Description, load
from mnist1d.analysis.page import NoRuns, Page
from mnist1d.analysis.read import Runs
from mnist1d.analysis.swept import Swept
from mnist1d.compose import Composer
from mnist1d.config import ConfigError
from tests.conftest import ROOT

CONF = ROOT / "conf"

TEXT = """
    keys:
      model.name: {label: model, names: {mlp: MLP, cnn: CNN}}
      width: {label: width, unit: units, first_of: [model.hidden, model.channels]}
      noise: {label: noise, together: [data.label_noise, data.label_noise_mode], names: {0.0 flip: none}}
      samples: {label: training samples, product_of: [data.num_samples, data.train_split]}
    measures:
      error: {metric: test/acc, label: test error, times: -100, plus: 100, history: true}
      sparsity: {metric: sparsity, label: sparsity, history: true}
    figures:
      errors:
        alt: Errors by width
        caption: Solid, errors.
        show: {arguments: {measure: error}}
        over: width
        scale: log
        lines: noise
        panels: model.name
      gains:
        alt: Errors beyond those of clean labels
        caption: Points, differences.
        show: {arguments: {measure: error}, minus: {noise: 0.0 flip}}
        over: noise
        scale: names
        lines: width
        where: {model.name: mlp}
      while-training:
        alt: Errors by step
        caption: Lines, errors.
        show: {arguments: {measure: error}}
        over: step
        lines: width
        panels: noise
        where: {model.name: mlp}
        only: {width: [8, 64], noise: [0.0 flip]}
      measures:
        alt: Two measures beside one another
        caption: Points, both.
        show: {arguments: {measure: error}}
        over: measures
        measures: [error, sparsity]
        scale: names
        lines: width
        where: {model.name: mlp, noise: 0.0 flip}
      joined:
        alt: Two measures, joined
        caption: Lines, differences.
        show: {arguments: {measure: error}, minus: {noise: 0.0 flip}}
        over: measures
        axis: what is measured
        measures: [error, sparsity]
        lines: noise
        where: {model.name: mlp, width: 8}
    tables:
      errors:
        title: Errors by width
        rows: [model.name, width]
        by: noise
        cells: {error: {arguments: {measure: error}}}
      peaks:
        title: Peaks
        rows: [model.name, noise]
        cells:
          height: {statistic: height, arguments: {measure: error, over: width}}
          more than without: {arguments: {measure: error, over: width}, minus: {noise: 0.0 flip}}
        note: a peak has two sides
"""
STEPS = (0, 10, 20)
ERRORS = {8: 50, 16: 40, 32: 46, 64: 30}  # of clean labels, by width; a peak of 6 points at 32
WIDTHS = {"mlp": "model.hidden", "cnn": "model.channels"}


def written(folder: Path, text: str = TEXT, name: str = "made_up") -> Path:
    (folder / f"{name}.yaml").write_text(dedent(text), encoding="utf-8")
    return folder


def changed(*changes: tuple[str, str]) -> str:
    """The page with other words, each old one -> new one."""
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Description:
    return load("made_up", written(tmp_path_factory.mktemp("page")))


def one(model: str, width: int, noise: float, seed: int, **more: Any) -> dict[str, Any]:
    """A run whose error is that of its width, 1 point more for each seed, and 20 times the noise more at all but 64."""
    error = ERRORS[width] + seed + (20 * noise if width < 64 else 0)
    run = {
        "run_id": f"{model} {width} {noise} {seed} {more}",
        "status": "FINISHED",
        "started": 0,
        "profile": "paper",
        "seed": seed,
        "model.name": model,
        WIDTHS[model]: width,
        "data.label_noise": noise,
        "data.label_noise_mode": "flip",
        "data.num_samples": 3000,
        "data.train_split": 0.6666666666666667,
        "trainer.max_steps": 21,
        "test/acc": 1 - error / 100,
        "sparsity": 0.25,
    }
    return run | {key.replace("__", "."): value for key, value in more.items()}


def full(models: tuple[str, ...] = ("mlp", "cnn"), seeds: tuple[int, ...] = (0, 1, 2)) -> list[dict[str, Any]]:
    return [one(m, width, noise, seed) for m in models for width in ERRORS for noise in (0.0, 0.15) for seed in seeds]


def runs_of(rows: list[dict[str, Any]]) -> Runs:
    """Runs whose accuracy rises from 10% in a straight line, while a quarter of the weights is removed twice."""
    curves = {row["run_id"]: np.linspace(0.1, row["test/acc"], len(STEPS)) for row in rows}
    accuracy = pd.DataFrame.from_dict(curves, orient="index", columns=STEPS)
    sparsity = pd.DataFrame.from_dict(dict.fromkeys(curves, (0.0, 0.25, 0.25)), orient="index", columns=STEPS)
    return Runs(pd.DataFrame(rows), {"test/acc": accuracy, "sparsity": sparsity})


def cell(page: Page, table: int, *row: str, column: str) -> str:
    part = page.tables[table]
    return next(dict(zip(part.columns, c, strict=True))[column] for c in part.rows if c[: len(row)] == row)


@pytest.fixture(scope="module")
def whole(description: Description) -> Page:
    """Read only. Every setting and seed."""
    return ablation.page(description, runs_of(full()))


# -- the page ---------------------------------------------------------------------------------------------


def test_columns_are_made_of_several_keys(whole: Page) -> None:
    rows = whole.table.set_index("run_id")
    assert rows.loc["cnn 16 0.15 0 {}", ["width", "noise", "samples"]].tolist() == [16, "0.15 flip", 2000]
    assert rows.loc["cnn 16 0.15 0 {}", "error"] == pytest.approx(43)


def test_a_missing_run_is_told_by_the_keys_that_say_something_new(tmp_path: Path) -> None:
    text = changed(("samples: {", "net: {label: net, together: [model.name, model.hidden]}\n      samples: {"))
    page = ablation.page(
        load("made_up", written(tmp_path, text)), runs_of([row for row in full() if row["run_id"] != "mlp 8 0.0 2 {}"])
    )
    assert page.remarks == ("missing: model MLP, width 8, noise none: seed 2 not run",)


def test_a_cell_may_say_itself_what_its_base_is_compared_with(tmp_path: Path) -> None:
    text = changed(
        ("rows: [model.name, noise]", "rows: [model.name, width]"),
        ("          height: {statistic: height, arguments: {measure: error, over: width}}\n", ""),
        ("measure: error, over: width}, minus", "measure: error, where: {noise: 0.15 flip}}, minus"),
    )
    page = ablation.page(load("made_up", written(tmp_path, text)), runs_of(full()))
    assert [cell(page, 1, "CNN", width, column="more than without") for width in ("8", "64")] == [
        "+3.0 ± 0.0",
        "+0.0 ± 0.0",
    ]


def test_tables_have_means_intervals_differences_and_n(whole: Page) -> None:
    assert whole.tables[0].columns == ("model", "width", "none", "0.15 flip", "n")
    assert cell(whole, 0, "MLP", "16", column="none") == "41.0 ± 2.5"  # seeds 40, 41, 42: 4.303 / √3
    assert cell(whole, 1, "CNN", "none", column="height") == "6.0 ± 0.0"
    assert cell(whole, 1, "CNN", "none", column="more than without") == "base"
    assert cell(whole, 1, "CNN", "0.15 flip", column="more than without") == "+2.2 ± 0.0"  # 3 at three widths of four
    assert cell(whole, 1, "CNN", "0.15 flip", column="n") == "3"
    assert whole.tables[1].note == "a peak has two sides\nDifferences are paired by seed."


def test_lines_and_points_are_where_the_numbers_are(whole: Page) -> None:
    errors, gains, training, measures, joined = (picture.figure.axes for picture in whole.pictures)
    assert [ax.get_title(loc="left") for ax in errors] == ["a  MLP", "b  CNN"]
    np.testing.assert_allclose(errors[1].lines[1].get_xydata(), [(8, 54), (16, 44), (32, 50), (64, 31)])
    assert [label.get_text() for label in errors[0].get_xticklabels()] == ["8", "16", "32", "64"]
    assert errors[0].get_xlabel() == "width (units)"
    assert errors[0].get_ylabel() == "test error (%)"
    assert gains[0].get_ylabel() == "test error, difference (points)"
    assert [container.lines[0].get_ydata().tolist() for container in gains[0].containers] == [
        pytest.approx([0, y]) for y in (3, 3, 3, 0)
    ]
    assert [ax.get_title(loc="left") for ax in training if ax.get_visible()] == ["a  none"]  # the others are left out
    np.testing.assert_allclose(training[0].lines[0].get_xydata(), [(0, 90), (10, 70.5), (20, 51)])
    assert [text.get_text() for text in whole.pictures[2].figure.legends[0].get_texts()] == ["width 8", "width 64"]
    assert [label.get_text() for label in measures[0].get_xticklabels()] == ["test error", "sparsity"]
    assert [bar.lines[0].get_ydata().tolist() for bar in measures[0].containers] == [
        pytest.approx([error + 1, 25]) for error in ERRORS.values()
    ]
    np.testing.assert_allclose(joined[0].lines[1].get_xydata(), [(0, 3), (1, 0)], atol=1e-9)
    assert joined[0].get_xlabel() == "what is measured"
    assert "Mean over n = 3 seeds with its 95% t interval. `python train.py -m experiment=made_up`" in (
        whole.pictures[0].caption
    )


def test_labels_of_axes_lie_within_the_figure_beside_wide_ticks() -> None:
    with figures.lab_style():
        figure, (ax,) = figures.panels(1)
        ax.set_ylim(-12_500, 0)
        ax.set_ylabel("test error, difference (points)")
        figures.make_room(figure, [ax])
    figure.draw_without_rendering()
    assert ax.yaxis.label.get_window_extent().x0 == pytest.approx(figures.EDGE * figure.dpi, abs=1)
    left = ax.get_position().x0
    figures.make_room(figure, [ax])
    assert ax.get_position().x0 == pytest.approx(left, abs=1e-3)


def boxes(texts: Iterable[Text]) -> list[Bbox]:
    return [text.get_window_extent() for text in texts if text.get_text()]


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_labels_of_ticks_do_not_run_into_one_another(tmp_path: Path, scale: str) -> None:
    text = changed(("scale: log", f"scale: {scale}"))
    widths = (5, 10, 20, 25, 30, 100, 300, 340, 350)
    rows = [one(m, 8, 0.0, seed, **{key: width}) for m, key in WIDTHS.items() for width in widths for seed in (0, 1)]
    page = ablation.page(load("made_up", written(tmp_path, text)), runs_of(rows))
    figure = page.pictures[0].figure
    figure.draw_without_rendering()
    for ax in figure.axes:
        labels = boxes(ax.get_xticklabels())
        assert len(labels) > 3
        assert all(left.x1 < right.x0 for left, right in pairwise(labels))


def test_a_picture_says_below_what_its_caption_says(tmp_path: Path, whole: Page) -> None:
    text = changed(("Solid, errors.", f"Solid, {'errors of nets with wrong labels, ' * 9}all."))
    for page, lines in ((whole, 2), (ablation.page(load("made_up", written(tmp_path, text)), runs_of(full())), 4)):
        picture = page.pictures[0]
        (footer,) = picture.figure.texts
        said = footer.get_text().replace("\xa0", " ")
        assert said.count("\n") == lines - 1
        assert said.replace("\n", " ") == picture.caption.replace("`", "")
        picture.figure.draw_without_rendering()
        (box,), (legend,) = boxes([footer]), picture.figure.legends
        assert 0 < box.x0 < box.x1 < picture.figure.bbox.x1
        assert 0 < box.y0 < box.y1 < legend.get_window_extent().y0
        assert legend.get_window_extent().y1 < min(ax.xaxis.label.get_window_extent().y0 for ax in picture.figure.axes)


def test_a_picture_says_where_runs_have_no_result(description: Description) -> None:
    rows = full()
    for row in rows:
        if row["model.hidden" if row["model.name"] == "mlp" else "model.channels"] == 16 and row["seed"]:
            row |= {"status": "FAILED", "test/acc": np.nan}
    captions = {each.name: each.caption for each in ablation.page(description, runs_of(rows)).pictures}
    assert "t interval. Runs without a result: width 16 (8 of 12). `python" in captions["errors"]
    assert "t interval. Runs without a result: noise none (2 of 12), 0.15 flip (2 of 12). `" in captions["gains"]
    assert "without a result" not in captions["while-training"]  # whose widths are others


def test_axes_of_percentages_end_where_no_value_can_lie(description: Description) -> None:
    rows = [one("mlp", 8, 0.0, seed) | {"test/acc": accuracy} for seed, accuracy in ((0, 0.02), (1, 0.98))]
    (ax,) = ablation.page(description, runs_of(rows)).pictures[0].figure.axes
    assert ax.get_ylim() == (0, 100)


def test_the_common_axis_holds_the_values_of_all_panels(description: Description) -> None:
    low, high = (
        [one(model, 8, 0.0, seed) | {"test/acc": accuracy + 0.01 * seed} for seed in (0, 1, 2)]
        for model, accuracy in (("mlp", 0.9), ("cnn", 0.2))
    )
    for ax in ablation.page(description, runs_of([*low, *high])).pictures[0].figure.axes:
        bottom, top = ax.get_ylim()
        assert bottom <= 10 < 80 <= top


def test_a_run_of_another_protocol_is_left_out_and_said(description: Description) -> None:
    page = ablation.page(description, runs_of([*full(), one("mlp", 8, 0.0, 3, trainer__max_steps=5)]))
    assert len(page.table) == 48
    assert page.remarks[0] == "1 runs left out, of another protocol: trainer.max_steps=5"


def test_runs_older_than_an_option_go_with_those_that_leave_it_out(description: Description) -> None:
    rows = [one("mlp", 8, 0.0, seed) | ({} if seed else {"task.ensemble": 1}) for seed in (0, 1, 2)]
    page = ablation.page(description, runs_of(rows))
    assert (len(page.table), page.remarks) == (3, ())
    other = ablation.page(description, runs_of([*rows, one("mlp", 8, 0.0, 3) | {"task.ensemble": 2}]))
    assert other.remarks[0] == "1 runs left out, of another protocol: task.ensemble=2.0"
    none = [one("mlp", 8, 0.0, seed) | ({} if seed else {"model.pool_stride": None}) for seed in (0, 1)]
    rows = [*none, one("mlp", 8, 0.0, 2) | {"model.pool_stride": 2}]  # what leaves it out is None
    remarks = ablation.page(description, runs_of(rows)).remarks
    assert remarks == ("mlp: 1 runs left out, of another protocol: model.pool_stride=2.0",)


def test_what_is_missing_is_said_once_for_each_reason(description: Description) -> None:
    rows = full()
    rows[0] |= {"status": "FAILED", "mnist1d.reason": "it diverged", "test/acc": np.nan}
    page = ablation.page(description, runs_of([row for row in rows if row["run_id"] not in ("cnn 8 0.0 2 {}",)]))
    assert page.remarks == (
        "missing: model MLP, width 8, noise none: seed 0 FAILED (it diverged)",
        "missing: model CNN, width 8, noise none: seed 2 not run",
    )
    assert cell(page, 0, "MLP", "8", column="n") == "2–3"


def test_a_part_of_an_ablation_makes_a_part_of_its_page(description: Description) -> None:
    rows = [row for row in full(("mlp",), (0,)) if row["data.label_noise"] == 0]
    page = ablation.page(description, runs_of(rows))
    assert [picture.name for picture in page.pictures] == ["errors", "gains", "while-training", "measures", "joined"]
    assert page.tables[0].columns == ("model", "width", "none", "n")
    with pytest.raises(NoRuns, match=r"no run is finished \(1 FAILED\)"):
        ablation.page(description, runs_of([rows[0] | {"status": "FAILED"}]))


def test_a_table_that_does_not_say_which_setting_is_refused_with_its_key(tmp_path: Path) -> None:
    text = TEXT.replace("rows: [model.name, width]", "rows: [model.name]")
    with pytest.raises(ConfigError) as error:
        ablation.page(load("made_up", written(tmp_path, text)), runs_of(full()))
    (told,) = error.value.faults
    assert told.key == "page/made_up.yaml.tables.errors"
    assert told.problem == (
        "{'model.name': 'mlp', 'noise': '0.0 flip'} picks several settings, which differ in model.hidden"
    )


# -- statistics -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(description: Description) -> Swept:
    return next(iter(ablation.page(description, runs_of(full())).statistics.values())).args[0]  # type: ignore[attr-defined]


MLP = {"model.name": "mlp", "noise": "0.0 flip"}


@pytest.mark.parametrize(
    ("statistic", "arguments", "expected"),
    [
        ("mean", {"where": MLP | {"width": 8}}, [50, 51, 52]),
        ("mean", {"where": MLP, "over": "width"}, [41.5, 42.5, 43.5]),
        ("mean", {"where": MLP, "over": "width", "start": 32}, [38, 39, 40]),
        ("mean", {"where": MLP | {"width": 8}, "over": "step", "at": 10.5}, [70, 70.5, 71]),
        ("mean", {"where": MLP | {"width": 8}, "over": "step", "at": 12}, []),
        ("mean", {"where": MLP | {"width": 8}, "over": "sparsity", "at": 25}, [50, 51, 52]),  # the last at 25%
        ("mean", {"where": MLP | {"width": 9}}, []),
        ("best", {"where": MLP, "over": "width", "best": "least"}, [30, 31, 32]),
        ("best", {"where": MLP, "over": "width", "by": "sparsity", "best": "least"}, [50, 51, 52]),
        ("best", {"where": MLP, "over": "width", "places": "others"}, [50, 51, 52]),
        ("place", {"where": MLP, "over": "width", "of": "least"}, [64, 64, 64]),
        ("place", {"where": MLP, "over": "width"}, [16, 16, 16]),  # of the mean of three neighbours
        ("place", {"where": MLP, "over": "width", "start": 16}, []),
        ("height", {"where": MLP, "over": "width"}, [6, 6, 6]),
        ("height", {"where": MLP, "over": "width", "start": 32}, []),
        ("threshold", {"where": MLP, "over": "width", "at_most": 40.5}, [64, 64, 64]),
        ("threshold", {"where": MLP, "over": "width", "at_most": 46.5}, [16, 64, 64]),
        ("threshold", {"where": MLP, "over": "width", "at_most": 20}, []),
        ("difference", {"of": {"width": 8}, "minus": {"width": 16}, "where": MLP}, [10, 10, 10]),
        ("ratio", {"of": {"width": 8}, "minus": {"width": 16}, "where": MLP}, [50 / 40, 51 / 41, 52 / 42]),
        ("share", {"of": {"width": 8}, "minus": {"width": 16}, "where": MLP}, [100, 100, 100]),
        ("share", {"of": {"width": 16}, "minus": {"width": 8}, "where": MLP}, [0, 0, 0]),
    ],
)
def test_statistics_are_what_they_say(
    found: Swept, statistic: str, arguments: dict[str, Any], expected: list[float]
) -> None:
    values = swept.STATISTICS[statistic](found, measure="error", **arguments)
    assert values.tolist() == pytest.approx(expected)
    assert values.index.tolist() == list(range(len(expected)))


def test_two_measures_of_a_setting_are_compared(found: Swept) -> None:
    setting = {"model.name": "mlp", "width": 8, "noise": "0.0 flip"}
    assert swept.difference(found, "error", {}, {}, setting, other="sparsity").tolist() == [25, 26, 27]


def test_a_statistic_of_one_setting_is_compared_between_two(found: Swept) -> None:
    options = {"statistic": "height", "options": {"over": "width"}, "where": {"model.name": "mlp"}}
    of, minus = {"noise": "0.15 flip"}, {"noise": "0.0 flip"}
    assert swept.difference(found, "error", of, minus, **options).tolist() == pytest.approx([0, 0, 0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (lambda f: swept.mean(f, "error", {"widht": 3}), "runs have no column 'widht'; did you mean width"),
        (lambda f: swept.mean(f, "samples", MLP, "step"), "samples has no history to be seen over step"),
        (lambda f: swept.place(f, "error", "width", MLP, "top"), "of='top': must be peak or most or least"),  # type: ignore[arg-type]
        (lambda f: swept.best(f, "error", "width", MLP, best="low"), "best='low': must be most or least"),  # type: ignore[arg-type]
        (lambda f: swept.height(f, "error", "width", MLP, places="all"), "places='all': must be own or others"),  # type: ignore[arg-type]
        (
            lambda f: swept.difference(f, "error", MLP, MLP, statistic="meen"),
            "no statistic 'meen' of one setting; did you mean mean. Allowed: mean, best, place, height, threshold",
        ),
        (
            lambda f: swept.difference(f, "error", MLP, MLP, statistic="height", options={"ovr": 1}),
            "height takes no 'ovr'; did you mean over",
        ),
        (
            lambda f: swept.height(f, "error", "width", {"model.name": "mlp"}),
            "{'model.name': 'mlp'} picks several settings, which differ in model.hidden, data.label_noise",
        ),
    ],
)
def test_what_cannot_be_asked_is_said(found: Swept, ask: Callable[[Swept], pd.Series], problem: str) -> None:
    with pytest.raises((KeyError, ValueError)) as error:
        ask(found)
    assert error.value.args[0] == problem


# -- faults of a file -------------------------------------------------------------------------------------


def faults(folder: Path, *changes: tuple[str, str]) -> Iterator[str]:
    with pytest.raises(ConfigError) as error:
        load("made_up", written(folder, changed(*changes)))
    yield from (str(fault).removeprefix("page/made_up.yaml.") for fault in error.value.faults)


def test_names_that_stand_for_nothing_are_found_with_the_nearest(tmp_path: Path) -> None:
    keys = "allowed: model.name, width, noise, samples"
    changes = (
        ("lines: noise", "lines: nois"),
        ("over: step", "over: steps"),
        ("only: {width: [8, 64], noise", "only: {width: [8, 64], model.name"),
        ("where: {model.name: mlp}", "where: {model: mlp}"),
        ("rows: [model.name, noise]", "rows: [model.name, noize]"),
        ("measure: error, over: width}, minus: {noise: 0.0 flip}", "measure: eror, over: width}, minus: {nose: x}"),
    )
    assert list(faults(tmp_path, *changes)) == [
        f"figures.errors.lines=nois: is none of this page's names; nearest: noise; {keys}",
        f"figures.gains.where=model: is none of this page's names; {keys}",
        "figures.while-training.over=steps: is none of this page's names; nearest: step; "
        f"{keys}, step, measures, error, sparsity",
        "figures.while-training.only=model.name: is none of this page's names; allowed: width, noise",
        f"tables.peaks.rows=noize: is none of this page's names; nearest: noise; {keys}",
        "tables.peaks.cells.more than without.arguments.measure=eror: is none of this page's names; nearest: error; "
        "allowed: error, sparsity",
        f"tables.peaks.cells.more than without.minus=nose: is none of this page's names; nearest: noise; {keys}",
    ]


def test_faults_of_types_and_statistics_have_their_full_keys(tmp_path: Path) -> None:
    changes = (
        ("times: -100", "times: many"),
        ("scale: log", "scale: logarithmic"),
        ("statistic: height, arguments: {measure: error, over: width}", "statistic: hight, arguments: {over: width}"),
        ("measures: [error, sparsity]\n        scale: names", "scale: log"),
        ("first_of: [model.hidden", "product_of: [seed], first_of: [model.hidden"),
        ("label: training samples", "lable: training samples"),
        ("cells: {error: {", "cells: {other: {arguments: {measure: error}}, error: {"),
    )
    assert list(faults(tmp_path, *changes)) == [
        "keys.width.first_of=[model.hidden,model.channels]: is one way to make a column of several keys; so is another "
        "here",
        "keys.samples.label: is missing; allowed: text",
        "keys.samples.lable: no such key; nearest: label; allowed: label, unit, first_of, product_of, together, names",
        "measures.error.times=many: must be a number",
        "figures.errors.scale=logarithmic: must be one of linear, log, names",
        "figures.measures.measures=[]: are needed for over=measures, and nowhere else",
        "figures.measures.scale=log: has no place for measures; allowed: names; linear joins them",
        "tables.errors.cells: must have one entry, as by=noise makes the columns",
        "tables.peaks.cells.height.arguments.measure: is missing",
        "tables.peaks.cells.height.statistic=hight: no statistic 'hight' of one setting; did you mean height. Allowed: "
        "mean, best, place, height, threshold",
    ]


def test_along_what_was_recorded_only_histories_can_be_shown(tmp_path: Path) -> None:
    changes = (
        ("show: {arguments: {measure: error}}\n        over: step", "show: {statistic: height, arguments: {measure: "
         "error, over: width}}\n        over: step"),
        ("plus: 100, history: true", "plus: 100"),
    )  # fmt: skip
    assert list(faults(tmp_path, *changes)) == [
        "figures.while-training.show.statistic=height: cannot be shown over step, which is no key; allowed: mean",
        "figures.while-training.show.arguments.measure=error: has no history to be shown over step",
    ]


# -- every description there is -----------------------------------------------------------------------------


def test_every_ablation_has_all_its_files_and_a_heading() -> None:
    for folder in ("conf/experiment", "conf/claim", "conf/page", "docs/experiments"):
        there = {path.stem for path in (ROOT / folder).glob("ablation_*")}
        assert there == set(ABLATIONS), folder


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer.of(CONF)


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_page_compares_keys_that_there_are_and_its_claims_ask_for_what_it_has(name: str, composer: Composer) -> None:
    description = load(name)
    options = [("model", option) for option in ("mlp", "cnn")]
    keys = {
        key
        for group, option in options
        for key in composer.base("config", [f"{group}={option}", f"experiment={name}"]).keys
    }
    assert (description.axes | set(description.free)) - keys == set()
    empty = Swept(
        pd.DataFrame(columns=["run_id", "seed", *description.keys, *description.measures]),
        {measure: pd.DataFrame() for measure, each in description.measures.items() if each.history},
    )
    statistics = {each: partial(function, empty) for each, function in swept.STATISTICS.items()}
    judged = claims.judge_all(claims.load(name), statistics)
    assert {str(each.verdict) for each in judged} == {"no value"}


def test_tickets_trained_on_more_kinds_of_data_take_the_place_of_older_ones() -> None:
    ticket = {"task.criterion": "magnitude", "task.schedule": "geometric", "data.shuffle_features": False}
    run = {
        **ticket,
        "data.feature_order": "original",
        "model.name": "mlp",
        "status": "FINISHED",
        "trainer.max_steps": 9,
    }
    kinds = {"old": ["fresh"], "new": ["fresh", "window_zeroed"]}
    rows = [
        {**run, "run_id": f"{name} {seed}", "seed": seed, "started": started, "task.follow_ups": follow_ups}
        for started, (name, follow_ups) in enumerate(kinds.items())
        for seed in ((0, 1) if name == "old" else (0,))
    ]
    table, remarks = ablation.comparable(load("ablation_transfer"), pd.DataFrame(rows))
    assert (sorted(table["run_id"]), remarks) == (["new 0", "old 1"], ())


@pytest.mark.parametrize("name", DESCRIBED)
def test_what_is_swept_is_compared(name: str) -> None:
    values = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    sweeper, sizes = values["hydra"]["sweeper"], values["profiles"]["paper"]
    grids = [{**sweeper["params"], **grid} for grid in sweeper.get("grids", {"": {}}).values()]
    asked = {key: {str(grid.get(key)) for grid in grids} for grid in grids for key in grid}
    for key, texts in asked.items():
        asked[key] = {re.sub(r"\$\{profiles.\$\{profile\}.(\w+)\}", lambda m: str(sizes[m[1]]), t) for t in texts}
    varying = {key for key, texts in asked.items() if len(texts) > 1 or "," in next(iter(texts))}
    groups = {"model": "model.name", "data": "data.num_samples"}
    description = load(name)
    alone = {"seed", "model.residual"}  # whose values follow from the architecture's
    alone |= {"model.channels", "model.blocks"} if name == "sample_efficiency" else set()  # those of the ResNet
    assert {groups.get(key, key) for key in varying} - alone - description.axes - set(description.free) == set()
