"""The page of experiment=double_descent: train and test error against width, where the peak lies, and how high.

The page's own columns:

    width         hidden units of each of the MLP's layers (model.hidden), or channels of the CNN (model.channels)
    parameters    of the net, weights and biases
    arm           clean: no label noise; redraw: 15% of the training labels drawn anew, which may hit the true one,
                  as in the reference; flip: 15% replaced by wrong ones
    train_error, test_error     in percent after the last step, exact; train_loss, test_loss likewise

Statistics, and what is called a peak: `curves`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from mnist1d.analysis import figures
from mnist1d.analysis.curves import (
    STATISTICS,
    TOP,
    ZERO,
    all_curves,
    arm_difference,
    curves,
    error_at,
    loss_peak_width,
    peak_over_threshold,
    peak_width,
    prominence,
    second_descent,
    threshold_width,
    widest_error,
)
from mnist1d.analysis.figures import INK, Look
from mnist1d.analysis.intervals import Interval, Values, basis, interval_of, log_t_interval, shown, t_interval
from mnist1d.analysis.page import Page, Picture, Table
from mnist1d.analysis.protocol import MISSING, command, finished, missing, one_protocol, ranges
from mnist1d.analysis.read import Runs

METRICS: tuple[str, ...] = ()
"""No histories: errors after the last step are all that counts."""

NOISE = 0.15  # the paper's share of noisy labels
ARMS = ("clean", "redraw", "flip")
WIDTH_KEYS = {"mlp": "model.hidden", "cnn": "model.channels"}
FROM_WIDTH = {"mlp": 9, "cnn": 6}
"""Model -> width from which the page looks for a peak: the nets below underfit, with errors as high as any peak."""
PARAMETERS: dict[str, Callable[[float], float]] = {
    "mlp": lambda hidden: hidden**2 + 52 * hidden + 10,
    "cnn": lambda channels: 6 * channels**2 + 58 * channels + 10,
}
"""Model -> number of parameters by width, of 40 inputs and 10 classes."""

_AXES = {"seed", "data.label_noise", "data.label_noise_mode", *WIDTH_KEYS.values()}
_FLIP = (0, (5, 1.5, 1, 1.5))
_POINTS: dict[str, tuple[str, dict[str, Any]]] = {  # place -> its name in print and its marker
    "threshold": ("train error reaches 0", {"marker": "s", "markerfacecolor": "white"}),
    "peak": ("test error peaks", {"marker": "o", "markerfacecolor": INK}),
    "loss peak": ("test loss peaks", {"marker": "D", "markerfacecolor": "#b5b5b5"}),
}
_NAMES = {"clean": "clean", "redraw": "15% label noise"}


# -- the page ---------------------------------------------------------------------------------------------


def page(runs: Runs) -> Page:
    """The page of `runs`; raises NoRuns when none of them is finished."""
    table, left_out = comparable(finished(runs))
    done = table[table["status"] == "FINISHED"]
    tables = [place_table(done), height_table(done), noise_table(done), *(width_table(done, m) for m in WIDTH_KEYS)]
    return Page(
        table,
        (_error_figure(done), _place_figure(done)),
        tuple(each for each in tables if each.rows),
        {name: partial(statistic, done) for name, statistic in STATISTICS.items()},
        (*left_out, *_missing(table), *_partial(done)),
    )


def comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of one protocol with the page's columns, and remarks on the others; NoRuns where none is finished."""
    known, others = _described(table)
    kept, left_out = one_protocol(finished(Runs(known, {})), _AXES)
    return kept, (*others, *left_out)


def _described(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The runs of MLPs and CNNs in one of the arms, with the page's columns; a remark on the others."""
    noise = table["data.label_noise"].astype(float)
    arm = table["data.label_noise_mode"].where(noise == NOISE).mask(noise == 0, "clean")
    ours = table["model.name"].isin(WIDTH_KEYS) & arm.isin(ARMS)
    others = table[~ours].groupby(["model.name", "data.label_noise"], dropna=False).size()
    remarks = [f"{n} runs left out: model={model}, data.label_noise={share}" for (model, share), n in others.items()]
    kept = table[ours].assign(arm=arm[ours])
    names = kept["model.name"]
    widths = [int(run[WIDTH_KEYS[run["model.name"]]]) for run in kept.to_dict("records")]
    kept = kept.assign(
        width=widths,
        parameters=[PARAMETERS[name](width) for name, width in zip(names, widths, strict=True)],
        # The mode of no noise means nothing: runs that differ in it alone are the same run.
        **{"data.label_noise_mode": kept["data.label_noise_mode"].mask(kept["arm"] == "clean")},
    )
    return _with_errors(kept), remarks


def _with_errors(table: pd.DataFrame) -> pd.DataFrame:
    finals = table.reindex(columns=["train/acc", "test/acc", "train/loss", "test/loss"]).astype(float)
    return table.assign(
        train_error=100 * (1 - finals["train/acc"]),
        test_error=100 * (1 - finals["test/acc"]),
        train_loss=finals["train/loss"],
        test_loss=finals["test/loss"],
    )


def _settings(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Model and arm of all that was started, MLP first."""
    started = set(zip(table["model.name"], table["arm"], strict=True))
    return [(model, arm) for model in WIDTH_KEYS for arm in ARMS if (model, arm) in started]


def _missing(table: pd.DataFrame) -> Iterator[str]:
    """The seeds without a result, by reason and with the widths; any seed of an arm is expected at all its widths."""
    fates = table[["model.name", "arm", "width", "seed", *table.columns.intersection(["status", "mnist1d.reason"])]]
    for model, arm in _settings(table):
        rows = fates[(fates["model.name"] == model) & (fates["arm"] == arm)]
        widths = sorted(set(rows["width"]))
        lost: dict[str, list[int]] = {}
        for width in widths:
            for text in missing(rows, f"{MISSING}{model} {arm}", {"width": width}, set(rows["seed"])):
                lost.setdefault(text, []).append(width)
        for text, at in lost.items():
            yield f"{text} at {'every width' if at == widths else f'width {ranges(at)}'}"


def _partial(done: pd.DataFrame) -> Iterator[str]:
    """The seeds that the statistics of an arm had to leave out."""
    for model, arm in _settings(done):
        every = set(all_curves(done, model, arm, "train_error").columns)
        complete = set(curves(done, model, arm, "train_error").columns)
        reached = set(threshold_width(done, model, arm).index)
        for seeds, reason in ((every - complete, "lacks widths"), (complete - reached, "reaches no threshold")):
            if seeds:
                yield f"{model} {arm}: seed {ranges(sorted(seeds))} {reason} and is left out where it counts"


# -- tables -----------------------------------------------------------------------------------------------


def place_table(done: pd.DataFrame) -> Table:
    """Model x arm: where the train error reaches zero, where test error and test loss peak."""
    rows = []
    for model, arm in _settings(done):
        n = _complete(done, model, arm)
        cells = [_cell(values, n, "z.0f", log_t_interval) for values in _places(done, model, arm).values()]
        ratio = _if_clear(peak_over_threshold(done, model, arm, FROM_WIDTH[model]), done, model, arm)
        rows.append((model, arm, *cells, _cell(ratio, n, "z.2f", log_t_interval), str(n)))
    return Table(
        "Where the peak lies (width): geometric mean and its 95% interval over n seeds",
        ("model", "arm", "threshold", "peak", "loss peak", "peak / threshold", "n"),
        tuple(rows),
        f"threshold: first width of the grid from which the train error stays at or below {ZERO}%.\n"
        f"peak: centre of the top {100 * TOP:.0f}% of the running mean's peak, if that is clear (next table).\n"
        "loss peak: the largest test loss.\n"
        f"Both from width {FROM_WIDTH['mlp']} (MLP) and {FROM_WIDTH['cnn']} (CNN) on. {{k}}: only k seeds have one.",
    )


def _places(done: pd.DataFrame, model: str, arm: str) -> dict[str, pd.Series]:
    least = FROM_WIDTH[model]
    return {
        "threshold": threshold_width(done, model, arm),
        "peak": _if_clear(peak_width(done, model, arm, least), done, model, arm),
        "loss peak": loss_peak_width(done, model, arm, least),
    }


def _if_clear(values: pd.Series, done: pd.DataFrame, model: str, arm: str) -> pd.Series:
    """`values` of a peak, none where luck may have made it."""
    return values if peak_is_clear(done, model, arm) else values.iloc[:0]


def peak_is_clear(done: pd.DataFrame, model: str, arm: str) -> bool:
    """Whether the whole 95% interval of the height lies above 0 where others chose the places; never with one seed."""
    rises = interval_of(prominence(done, model, arm, FROM_WIDTH[model], "others").to_numpy())
    return rises is not None and rises.low > 0


def height_table(done: pd.DataFrame) -> Table:
    """Model x arm: the test error along the curve, how high its peak is and how far it falls beyond."""
    rows = []
    for model, arm in _settings(done):
        where = (done, model, arm)
        least, n = FROM_WIDTH[model], _complete(*where)
        before, peak, after = (
            _if_clear(error_at(*where, mark, least, "others"), *where) for mark in ("before", "peak", "after")
        )
        height = prominence(*where, least, "others")
        descent = _if_clear(second_descent(*where, least, "others"), *where)
        rows.append(
            (
                model,
                arm,
                *(_cell(each, n) for each in (before, peak, after, widest_error(*where), height, descent)),
                str(n),
            )
        )
    return Table(
        "Test error along the curve (%), and how high its peak is (points): mean ± half of the 95% interval",
        ("model", "arm", "first minimum", "peak", "lowest after", "widest", "height", "second descent", "n"),
        tuple(rows),
        "height: of the peak above the higher of its two sides; clear where its whole interval lies above 0.\n"
        "second descent: first minimum minus widest; positive if the curve ends lower.\n"
        "Cross-fitted: minima and peak are looked up in the mean curve of the other seeds, where luck cancels.",
    )


def noise_table(done: pd.DataFrame) -> Table:
    """Model: what 15% wrong labels (flip) cost beyond 15% redrawn ones, and what those cost beyond none."""
    rows = []
    for model, least in FROM_WIDTH.items():
        for of, minus in (("redraw", "clean"), ("flip", "redraw")):
            found = [
                arm_difference(done, model, of, minus, least, measure) for measure in ("test_error", "train_error")
            ]
            n = found[0].size
            if n:
                rows.append((model, f"{of} − {minus}", *(_cell(each, n) for each in found), str(n)))
    return Table(
        "What label noise costs (points, mean over widths): mean ± half of the 95% interval over n seeds",
        ("model", "arms", "test error", "train error", "n"),
        tuple(rows),
        f"Paired by seed and width, from width {FROM_WIDTH['mlp']} (MLP) and {FROM_WIDTH['cnn']} (CNN) on. Of ten "
        f"redrawn labels one is the true one: {90 * NOISE:g}% are expected to be wrong under redraw, {100 * NOISE:g}% "
        "under flip.",
    )


def width_table(done: pd.DataFrame, model: str) -> Table:
    """Width x arm: test error with its interval, and train error, of all finished runs of a model."""
    arms = [arm for other, arm in _settings(done) if other == model]
    errors = {
        arm: (all_curves(done, model, arm, "test_error"), all_curves(done, model, arm, "train_error")) for arm in arms
    }
    n = max((test.shape[1] for test, _ in errors.values()), default=0)
    rows = [
        (str(width), f"{PARAMETERS[model](width):,}", *(_errors_at(width, *errors[arm], n) for arm in arms))
        for width in sorted({width for test, _ in errors.values() for width in test.index})
    ]
    return Table(
        f"{figures.look(model).name}: errors by width (%): test ± half of the 95% interval (train), n = {n} seeds",
        ("width", "parameters", *arms),
        tuple(rows),
        "Test error on clean labels; train error on the labels trained on. {k}: of k seeds.",
    )


def _errors_at(width: int, test: pd.DataFrame, train: pd.DataFrame, n: int) -> str:
    if width not in test.index:
        return "–"
    trained = train.loc[width].mean() if width in train.index else np.nan
    return f"{_cell(test.loc[width].dropna(), n)} ({trained:.1f})"


def _complete(done: pd.DataFrame, model: str, arm: str) -> int:
    return curves(done, model, arm, "test_error").shape[1]


def _cell(values: pd.Series, n: int, form: str = "z.1f", kind: Callable[[Values], Interval] = t_interval) -> str:
    """The interval of `values`, with their own number in braces where that is not `n`."""
    found = interval_of(values.to_numpy(), kind)
    return shown(found, form) + (f" {{{found.n}}}" if found and found.n < n else "")


# -- figures ----------------------------------------------------------------------------------------------


def _error_figure(done: pd.DataFrame) -> Picture:
    """Test and train error against width as in the paper, and the clean CNN that it lacks."""
    kind, redo = basis(_counts(done)), command("double_descent", done)
    with figures.lab_style():
        figure, axes = figures.panels(2, 2, size=(7.6, 6.9), below=1.21, sharex="row")
        top, panels = _top_error(done), [(model, arm) for model in WIDTH_KEYS for arm in ARMS[:2]]
        for letter, ax, (model, arm) in zip("abcd", axes, panels, strict=True):
            _error_axes(ax, letter, model, arm, top)
            if (model, arm) in _settings(done):
                _draw_errors(ax, done, model, arm)
                _draw_marks(ax, done, model, arm)
            else:
                ax.text(0.5, 0.5, "no runs", transform=ax.transAxes, ha="center", color=INK)
        figures.legend(figure, _error_handles(flip="flip" in set(done["arm"])))
        note = "Marks: peak of the test error; train error at zero for good."
        figures.caption(figure, f"Lines: {kind}. {note}\n{redo}")
    return Picture(
        "figure",
        figure,
        "Four panels, MLP above CNN, without and with 15% label noise: test error and train error against width, with "
        "the widths at which the test error peaks and the train error reaches zero",
        f"Errors by width; {kind}. Solid: test error. Dashed, open markers: train error, against the labels "
        "trained on. Thin: test error with 15% wrong labels (flip) in place of 15% redrawn ones. Marks: where the test "
        "error peaks, if the cross-fitted height of the peak is above 0, and from where the train error stays at or "
        f"below {ZERO}%; geometric means with 95% t intervals of the logarithm. `{redo}`",
    )


def _counts(done: pd.DataFrame) -> Iterator[int]:
    """From how many seeds each point of each curve is."""
    for model, arm in _settings(done):
        yield from all_curves(done, model, arm, "test_error").notna().sum(axis="columns")


def _top_error(done: pd.DataFrame) -> float:
    """The largest error to show: the paper's 70% and a little, more for nets trained so briefly that all are worse."""
    wide = done[done["width"] >= done["model.name"].map(FROM_WIDTH)]
    return max(72.0, 1.05 * float(wide[["train_error", "test_error"]].max(skipna=True).max()))


def _error_axes(ax: Axes, letter: str, model: str, arm: str, top: float) -> None:
    ax.set_title(f"{letter}  {figures.look(model).name}, {_NAMES[arm]}")
    ax.set_xlabel("hidden units in each layer" if model == "mlp" else "channels")
    if arm == "clean":
        ax.set_ylabel("error (%)")
    ax.tick_params(labelleft=arm == "clean")
    ax.set_ylim(0, top)
    ax.set_yticks(range(0, int(top), 10))
    ax.set_xlim(0, 306 if model == "mlp" else 102)


def _draw_errors(ax: Axes, done: pd.DataFrame, model: str, arm: str) -> None:
    look = figures.look(model)
    for part, own in (("train", look.dashed), ("test", look)):
        found = all_curves(done, model, arm, f"{part}_error")
        if len(found):
            figures.plot_band(ax, found.index.to_numpy(), found.to_numpy().T, own)
    if arm == "redraw":
        flipped = all_curves(done, model, "flip", "test_error").mean(axis="columns")
        ax.plot(flipped.index, flipped, color=INK, linewidth=0.8, linestyle=_FLIP, zorder=4)
        figures.plot_level(ax, 100 * NOISE, f"{100 * NOISE:g}% of labels redrawn")


def _draw_marks(ax: Axes, done: pd.DataFrame, model: str, arm: str) -> None:
    """Peak and threshold, the left one higher, so that no line runs through the other's label."""
    places = _places(done, model, arm)
    marks = [
        (log_t_interval(places[name].to_numpy()), text, line)
        for name, text, line in (("peak", "peak", "-"), ("threshold", "train error 0 from", (0, (1, 1.5))))
        if places[name].size
    ]
    heights = (share * ax.get_ylim()[1] for share in (0.93, 0.855))
    for y, (widths, text, line) in zip(heights, sorted(marks, key=lambda mark: mark[0].mean), strict=False):
        _mark(ax, widths, y, f"{text} {widths.mean:.0f}", line)


def _mark(ax: Axes, widths: Interval, y: float, text: str, line: Any) -> None:
    """A vertical line at the mean of `widths`, with their interval as a bar and `text` beside it at height `y`."""
    ax.plot([widths.mean] * 2, [0, y], color=INK, linewidth=0.8, linestyle=line, zorder=1)
    ax.plot([widths.low, widths.high], [y, y], color=INK, linewidth=3, alpha=0.55, solid_capstyle="butt")
    ax.plot([widths.mean], [y], color=INK, marker="|", markersize=7)
    right = np.nanmax([widths.mean, widths.high])
    # beside the bar, or under one that leaves no room for it
    place, below = (right, 0) if right < 0.6 * ax.get_xlim()[1] else (widths.mean, -8)
    ax.annotate(text, (place, y), xytext=(4, below), textcoords="offset points", va="center", fontsize=8, color=INK)


def _error_handles(flip: bool) -> list[Line2D]:
    test, train = Look("test error", INK, ""), Look("train error", INK, "", figures.DASHES)
    wrong = figures.sample(Look("test error, 15% wrong labels", INK, "", _FLIP))
    wrong.set_linewidth(0.8)
    return [figures.sample(test), figures.sample(train), *([wrong] if flip else [])]


def _place_figure(done: pd.DataFrame) -> Picture:
    """Where threshold and peaks lie on one axis of parameters, and what flip costs beyond redraw, if it was run."""
    gaps = {model: gap for model in WIDTH_KEYS if len(gap := _gap(done, model))}
    kind, redo = basis(_counts(done)), command("double_descent", done)
    with figures.lab_style():
        figure, axes = figures.panels(1 + bool(gaps), left=1.14, gap=0.26, sharey=False)
        _draw_places(axes[0], done)
        for ax in axes[1:]:
            _draw_gaps(ax, gaps)
        handles = [Line2D([], [], color=INK, linestyle="", label=name, **point) for name, point in _POINTS.values()]
        figures.legend(figure, handles)
        figures.caption(figure, f"Points and lines: {kind}; marks on a logarithmic scale.\n{redo}")
    right = " Right: test error under flip minus that under redraw, paired by seed." if gaps else ""
    return Picture(
        "peaks",
        figure,
        "The numbers of parameters at which the train error reaches zero and test error and test loss peak, for every "
        "architecture and kind of labels" + ("; and flip minus redraw by parameters" if gaps else ""),
        f"Threshold and peaks on one axis; {kind}, of the logarithm. A peak of the test error is shown where "
        f"the whole interval of its cross-fitted height lies above 0.{right} `{redo}`",
    )


def _draw_places(ax: Axes, done: pd.DataFrame) -> None:
    settings = _settings(done)
    for row, (model, arm) in enumerate(settings):
        places = _places(done, model, arm)
        for shift, (name, (_, point)) in zip((-0.24, 0, 0.24), _POINTS.items(), strict=True):
            if places[name].size:
                _point(ax, log_t_interval(places[name].to_numpy()), row + shift, PARAMETERS[model], point)
    ax.set_title("a  Threshold and peaks")
    ax.set_yticks(range(len(settings)), [f"{figures.look(model).name}, {arm}" for model, arm in settings])
    ax.set_ylim(len(settings) - 0.5, -0.5)
    ax.margins(x=0.12)
    _parameter_axis(ax)


def _point(ax: Axes, widths: Interval, y: float, count: Callable[[float], float], point: Mapping[str, Any]) -> None:
    if widths.n > 1:
        ax.plot([count(widths.low), count(widths.high)], [y, y], color=INK, linewidth=1.1)
    ax.plot([count(widths.mean)], [y], color=INK, linestyle="", **point)


def _gap(done: pd.DataFrame, model: str) -> pd.DataFrame:
    """Test error under flip minus that under redraw # [width, seed], where both are, without the narrowest."""
    both = (all_curves(done, model, arm, "test_error") for arm in ("flip", "redraw"))
    flip, redraw = (each.loc[FROM_WIDTH[model] :] for each in both)
    flip, redraw = flip.align(redraw, join="inner")
    return (flip - redraw).dropna(axis="index", how="all")


def _draw_gaps(ax: Axes, gaps: Mapping[str, pd.DataFrame]) -> None:
    for model, gap in gaps.items():
        look = figures.look(model)
        parameters = np.array([PARAMETERS[model](width) for width in gap.index])
        figures.plot_band(ax, parameters, gap.to_numpy().T, look.dashed if model == "cnn" else look)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set_title("b  flip − redraw, test error")
    ax.set_ylabel("points")
    ax.legend(ax.lines[: len(gaps)], [figures.look(model).name for model in gaps], loc="best")
    _parameter_axis(ax)


def _parameter_axis(ax: Axes) -> None:
    """A logarithmic axis with about four numbers on it."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    decades = np.log10(high / low)
    labelled = (1,) if decades > 2.5 else (1, 3) if decades > 1 else (1, 2, 3, 5, 7)
    ax.xaxis.set_major_locator(LogLocator(subs=labelled))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("parameters")
    ax.grid(True, axis="both")
