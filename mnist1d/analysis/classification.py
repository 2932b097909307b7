"""The page of experiment=classification: accuracy by step, Table 1, and the CNN's errors digit by digit.

The page's own columns, all accuracies in percent:

    arm         plain or shuffled features; `human`: the runs measured on the test samples the human saw
    validated   whether part of the training data was held out to select a step by
    final       test accuracy after the last step
    best        the largest test accuracy over the evaluations: an oracle, which is how the paper's table can
                have come about (the reference has neither early stopping nor a validation set)
    selected    test accuracy at the step that is best on held-out data, of validated runs
    train       accuracy on the training data after the last step
    class_0 … class_9   test accuracy on one digit after the last step

Statistics: level, difference and `gain`. Where a claim does not say which runs it means, `selected` and gains
are taken from validated runs, everything else from runs that train on all training data, as the reference does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mnist1d.analysis import claims, figures, statistics
from mnist1d.analysis.figures import Look
from mnist1d.analysis.intervals import Interval, basis, interval_of, shown, span
from mnist1d.analysis.page import Page, Picture, Statistic, Table
from mnist1d.analysis.protocol import MISSING, command, finished, missing, one_protocol
from mnist1d.analysis.read import Runs

METRICS = ("train/acc", "test/acc")
"""The histories that the page needs."""

MODELS = ("logistic", "mlp", "cnn", "gru")  # the order of the paper's table; other models follow
ARMS = ("plain", "shuffled")
DIGITS = tuple(f"class_{digit}" for digit in range(10))
MEASURES = {
    "final": "test/acc_final",
    "best": "test/acc_best",
    "selected": "test/acc_selected",
    "train": "train/acc",
    **{name: f"test/acc_{name}" for name in DIGITS},
}
_AXES = {"seed", "data.shuffle_features", "data.val_split"}  # what the page compares; the rest is protocol
_HUMAN = {"model.name": "cnn", "arm": "human"}


def page(runs: Runs) -> Page:
    """The page of `runs`; raises NoRuns when none of them is finished."""
    table, left_out = comparable(finished(runs))
    done = table[table["status"] == "FINISHED"]
    tables = (accuracy_table(done), drop_table(done), oracle_table(done), digit_table(done))
    pictures = (_curves(runs, done), _digits(done))
    return Page(
        table,
        tuple(picture for picture in pictures if picture),
        tuple(each for each in tables if each.rows),
        {name: partial(statistic, done) for name, statistic in STATISTICS.items()},
        (*left_out, *_missing(table)),
    )


def comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of one protocol, and those of the human arm's, with the page's columns; remarks on the others."""
    human = table["data.test_samples"].notna() if "data.test_samples" in table else pd.Series(False, table.index)
    kept: list[pd.DataFrame] = []
    remarks: list[str] = []
    for rows, axes in ((table[~human], _AXES), (table[human], {"seed"})):
        if not rows.empty:
            part, left_out = one_protocol(rows, axes)
            kept.append(part)
            remarks += left_out
    both = pd.concat(kept)
    arm = np.where(both["data.shuffle_features"].astype(bool), "shuffled", "plain")
    percent = {name: 100 * both[key].astype(float) for name, key in MEASURES.items() if key in both}
    both = both.assign(
        arm=np.where(human[both.index], "human", arm),
        validated=both["data.val_split"].astype(float) > 0,
        **{name: percent.get(name, np.nan) for name in MEASURES},
    )
    return both, tuple(remarks)


def _missing(table: pd.DataFrame) -> list[str]:
    """The seeds without a result, by reason; the seeds of any setting are expected of every setting."""
    texts = []
    for (validated, human), rows in table.groupby([table["validated"], table["arm"] == "human"]):
        kind = " with validation split" if validated else ""
        for model, arm in _settings(table[(table["arm"] == "human") == human], ("human",) if human else ARMS):
            where = {"model.name": model, "arm": arm, "validated": validated}
            texts += missing(table, f"{MISSING}{model} {arm}{kind}", where, set(rows["seed"]))
    return texts


# -- statistics: one number per seed ----------------------------------------------------------------------


def level(table: pd.DataFrame, measure: str, where: Mapping[str, Any]) -> pd.Series:
    """As `statistics.level`; `selected` from validated runs, all else from the others, unless `where` says."""
    return statistics.level(table, measure, {"validated": measure == "selected", **where})


def difference(table: pd.DataFrame, measure: str, of: Mapping[str, Any], minus: Mapping[str, Any]) -> pd.Series:
    """As `statistics.difference`, with the runs that `level` takes."""
    return (level(table, measure, of) - level(table, measure, minus)).dropna()


def gain(table: pd.DataFrame, measure: str, minus: str, where: Mapping[str, Any]) -> pd.Series:
    """`measure` minus another measure of the same runs, validated ones unless `where` says; points, by seed.

    best - selected is what looking at test data is worth. Raises as `statistics.level` does.
    """
    own = {"validated": True, **where}
    return (level(table, measure, own) - level(table, minus, own)).dropna()


STATISTICS: dict[str, Statistic] = {"level": level, "difference": difference, "gain": gain}


# -- tables -----------------------------------------------------------------------------------------------


def accuracy_table(done: pd.DataFrame) -> Table:
    """Model x features: train accuracy, and final, best and validation-selected test accuracy."""
    measures = ("train", "final", "best", "selected")
    rows = []
    for model, arm in _settings(done):
        found = [interval_of(level(done, measure, {"model.name": model, "arm": arm})) for measure in measures]
        rows.append((model, arm, *_cells(found)))
    return Table(
        "Accuracy (%): mean ± half of the 95% interval over n seeds",
        ("model", "features", *measures, "n"),
        tuple(rows),
        "train: on training data after the last step; the others on test data. final: after the last step.\n"
        "best: the largest over the evaluations, an oracle on test data.\n"
        "selected: at the step where accuracy on held-out training data is best.",
    )


def drop_table(done: pd.DataFrame) -> Table:
    """Model: what shuffling the features costs, plain minus shuffled at the same seed."""
    rows = []
    for model in _models(done):
        plain, shuffled = ({"model.name": model, "arm": arm} for arm in ARMS)
        found = [interval_of(difference(done, measure, plain, shuffled)) for measure in ("final", "best", "selected")]
        if any(found):
            rows.append((model, *_cells(found)))
    return Table(
        "Test accuracy lost by shuffling the features (points)",
        ("model", "final", "best", "selected", "n"),
        tuple(rows),
        "Plain minus shuffled, paired by seed.",
    )


def oracle_table(done: pd.DataFrame) -> Table:
    """Model x features: how far choosing the step by test data lies above honest ways of choosing it."""
    rows = []
    for model, arm in _settings(done):
        where = {"model.name": model, "arm": arm}
        selected = interval_of(gain(done, "best", "selected", where))
        last = interval_of(gain(done, "best", "final", where | {"validated": False}))
        if selected or last:
            rows.append((model, arm, *_cells([selected, last])))
    return Table(
        "What choosing the step by test data is worth (points)",
        ("model", "features", "best − selected", "best − final", "n"),
        tuple(rows),
        "best − selected: within runs that hold out validation data. best − final: within runs that train on all data.",
    )


def digit_table(done: pd.DataFrame) -> Table:
    """Digit: the CNN's accuracy on the test samples the human saw, and the human's on all of them."""
    rows: list[tuple[str, ...]] = []
    for name, measure in (*((digit[-1], digit) for digit in DIGITS), ("all", "final")):
        found = interval_of(level(done, measure, _HUMAN))
        if found:
            human = _human() if measure == "final" else None
            rows.append((name, shown(found), f"{human}" if human else "–", str(found.n)))
    return Table(
        f"Accuracy (%) on {_samples(done)}, the CNN beside the human",
        ("digit", "CNN", "human", "n"),
        tuple(rows),
        f"CNN: after {_steps(done, human=True)} steps, plain features. The human's errors by digit are not printed.",
    )


def _settings(table: pd.DataFrame, arms: Sequence[str] = ARMS) -> list[tuple[str, str]]:
    """The settings (model, arm) of `arms` that were started, in the order of the paper's table."""
    started = set(zip(table["model.name"], table["arm"], strict=True))
    return [(model, arm) for model in _models(table) for arm in arms if (model, arm) in started]


def _models(table: pd.DataFrame) -> list[str]:
    names = set(table["model.name"])
    return [model for model in MODELS if model in names] + sorted(names - set(MODELS))


def _cells(found: Sequence[Interval | None]) -> tuple[str, ...]:
    return (*map(shown, found), span(each.n for each in found if each))


# -- pictures ---------------------------------------------------------------------------------------------


def _curves(runs: Runs, done: pd.DataFrame) -> Picture | None:
    """Train and test accuracy against the optimiser step; solid: plain features, dashed: shuffled."""
    used = done[~done["validated"] & done["arm"].isin(ARMS)]
    if used.empty:
        return None
    redo = command("classification", done)
    with figures.lab_style():
        figure, axes = figures.panels(2)
        for ax, metric, title in zip(axes, METRICS, ("a  Training data", "b  Test data"), strict=True):
            figures.accuracy_axes(ax, title, _steps(used) - 1)
            _draw_settings(ax, runs, used, metric)
            ax.label_outer()
        human = _human()
        if human:
            figures.plot_level(axes[1], human, f"human {human}")
        figures.legend(figure, _handles(_models(used)))
        kind = basis(level(done, "final", {"model.name": model, "arm": arm}).size for model, arm in _settings(used))
        figures.caption(
            figure,
            f"Lines: {kind}. Dashed: one fixed permutation of the features.\n"
            f"Human: five quizzes of 100 plain test images.   {redo}",
        )
    alt = "Accuracy against the optimiser step, on training and on test data, a line for each model and its features"
    note = f"Accuracy by step; {kind}, {_steps(used)} optimiser steps a run. Dashed lines and open markers: features "
    return Picture("figure", figure, alt, f"{note}shuffled by one fixed permutation. `{redo}`")


def _draw_settings(ax: Axes, runs: Runs, used: pd.DataFrame, metric: str) -> None:
    for model, arm in _settings(used):
        rows = used[(used["model.name"] == model) & (used["arm"] == arm)]
        steps, values = runs.curves(metric, rows["run_id"].tolist())
        if steps.size:
            look = figures.look(model)
            figures.plot_band(ax, steps, 100 * values, look.dashed if arm == "shuffled" else look)


def _handles(models: Sequence[str]) -> list[Line2D]:
    """Architectures by marker, then the features by line."""
    plain = Look("plain features", figures.INK, "")
    shuffled = Look("shuffled features", figures.INK, "", figures.DASHES)
    return [figures.sample(each) for each in (*map(figures.look, models), plain, shuffled)]


def _digits(done: pd.DataFrame) -> Picture | None:
    """The CNN's errors digit by digit on the samples the human saw, and over all digits beside the human's."""
    found = [each for name in (*DIGITS, "final") if (each := interval_of(100 - level(done, name, _HUMAN)))]
    if len(found) <= len(DIGITS):
        return None
    look, human = figures.look("cnn"), _human()
    places, names = [*range(10), 10.5], [*map(str, range(10)), f"{look.name}\nall"]
    redo, kind = command("classification", done), basis(each.n for each in found)
    samples = f"{_samples(done)}, {_steps(done, human=True)} steps"
    with figures.lab_style():
        figure, (ax,) = figures.panels(1, size=(6.4, 3.4), below=0.95)
        figures.plot_bars(ax, places, found, color=look.color)
        if human:
            places, names = [*places, 12], [*names, "human\nall"]
            figures.plot_bars(ax, [12], [Interval(100 - human, math.nan, math.nan, 1)], color="#8c8c8c")
        ax.set_xticks(places, names)
        ax.locator_params(axis="y", integer=True, nbins=6)
        ax.set_xlabel("digit")
        ax.set_ylabel("test error (%)")
        figures.caption(figure, f"Bars: {kind}. {samples.capitalize()}.\n{redo}")
    alt = f"Test error of the {look.name} on each digit as bars, and over all digits beside the human's"
    return Picture("digits", figure, alt, f"Errors by digit on {samples}; {kind}. `{redo}`")


def _steps(table: pd.DataFrame, human: bool = False) -> int:
    rows = table[(table["arm"] == "human") == human]
    return int(rows["trainer.max_steps"].max()) if len(rows) else 0


def _samples(done: pd.DataFrame) -> str:
    rows = done[done["arm"] == "human"]
    return f"the first {int(rows['data.test_samples'].max())} test samples" if len(rows) else "no test samples"


def _human() -> float | None:
    """The human's accuracy in percent: the bound of the claim that the CNN stays below it."""
    bounds = {claim.id: [part.at_most for part in claim.parts.values()] for claim in claims.load("classification")}
    return bounds.get("human-beats-cnn", [None])[0]
