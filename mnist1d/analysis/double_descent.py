"""The page of experiment=double_descent: train and test error against width, where the peak lies, and how high.

The page's own columns:

    width         hidden units of each of the MLP's layers (model.hidden), or channels of the CNN (model.channels)
    parameters    of the net, weights and biases
    arm           clean: no label noise; redraw: 15% of the training labels drawn anew, which may hit the true one,
                  as in the reference; flip: 15% replaced by wrong ones
    train_error, test_error     in percent after the last step, exact; train_loss, test_loss likewise

The peak of a curve of test errors is the interior width that rises highest above the lowest error on either side
of it. The threshold is the first width from which the train error stays at (nearly) zero. Everything is found in
each seed's own curve; a seed counts if it has every width that its arm has. What noise does to such statistics,
and how to read them, is in docs/experiments/double_descent.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from mnist1d.analysis import figures
from mnist1d.analysis.intervals import Interval, log_t_interval, t_interval
from mnist1d.analysis.page import Page, Picture, Table
from mnist1d.analysis.protocol import finished, missing, one_protocol, ranges
from mnist1d.analysis.read import Runs
from mnist1d.analysis.statistics import difference, level

METRICS: tuple[str, ...] = ()
"""No histories: errors after the last step are all that counts."""

COMMAND = "python train.py -m experiment=double_descent"
NOISE = 0.15  # the paper's share of noisy labels
ARMS = ("clean", "redraw", "flip")
FROM_WIDTH = {"mlp": 9, "cnn": 6}
"""Model -> width from which the page looks for a peak: the nets below underfit, with errors as high as any peak."""
ZERO = 0.1
"""Percent of the training data that may be wrong where the train error counts as zero."""

Curve = NDArray[np.floating]
Places = Literal["own", "others"]
Fit = Literal["centre", "argmax"]

_WIDTH = {"mlp": "model.hidden", "cnn": "model.channels"}
_COUNT: dict[str, Callable[[float], float]] = {  # of 40 inputs and 10 classes
    "mlp": lambda hidden: hidden**2 + 52 * hidden + 10,
    "cnn": lambda channels: 6 * channels**2 + 58 * channels + 10,
}
_AXES = {"seed", "data.label_noise", "data.label_noise_mode", *_WIDTH.values()}
_ROUNDING = 1e-4  # percent: more than float32 makes of an accuracy, far less than one sample
_TOP = 0.3  # share of the peak's height whose centre is its place
_INK = "#333333"
_FLIP = (0, (5, 1.5, 1, 1.5))
_POINTS: dict[str, tuple[str, dict[str, Any]]] = {  # place -> its name in print and its marker
    "threshold": ("train error reaches 0", {"marker": "s", "markerfacecolor": "white"}),
    "peak": ("test error peaks", {"marker": "o", "markerfacecolor": _INK}),
    "loss peak": ("test loss peaks", {"marker": "D", "markerfacecolor": "#b5b5b5"}),
}
_NAMES = {"clean": "clean", "redraw": "15% label noise"}


# -- one curve: arrays in, numbers out --------------------------------------------------------------------


class Landmarks(NamedTuple):
    """Positions in a curve: the lowest value before the peak, the peak, and the lowest value after it."""

    before: int
    peak: int
    after: int


def landmarks(curve: Curve) -> Landmarks | None:
    """The interior position that rises highest above the lowest value on either side, or None if none rises.

    curve  # [width], any unit
    """
    if len(curve) < 3:
        return None
    lowest_before = np.minimum.accumulate(curve)[:-2]
    lowest_after = np.minimum.accumulate(curve[::-1])[::-1][2:]
    rises = curve[1:-1] - np.maximum(lowest_before, lowest_after)
    peak = int(rises.argmax()) + 1
    if rises[peak - 1] <= 0:
        return None
    return Landmarks(int(curve[:peak].argmin()), peak, peak + 1 + int(curve[peak + 1 :].argmin()))


def height(curve: Curve, marks: Landmarks | None) -> float:
    """How far `curve` rises at the peak above the higher of its two sides; 0 without a peak. The curve's unit."""
    return float(curve[marks.peak] - max(curve[marks.before], curve[marks.after])) if marks else 0.0


def running_mean(curve: Curve) -> Curve:
    """Means of three neighbours, of two at either end # [width] -> [width]."""
    weights = np.ones(3)
    return np.convolve(curve, weights, "same") / np.convolve(np.ones(len(curve)), weights, "same")


def peak_place(widths: Curve, curve: Curve) -> float | None:
    """The width of the peak: the centre of the top of the running mean, on a logarithmic axis of widths.

    widths, curve  # [width]
    The top are the widths around the peak at which the running mean lies less than 30% of the peak's height below
    it; each weighs by what it has above that line. The place is inside the grid. None without a peak.
    """
    smooth = running_mean(curve)
    marks = landmarks(smooth)
    if marks is None:
        return None
    above = smooth - (smooth[marks.peak] - _TOP * height(smooth, marks))
    gaps = np.flatnonzero(above <= 0)
    top = slice(gaps[gaps < marks.peak].max(initial=-1) + 1, gaps[gaps > marks.peak].min(initial=len(above)))
    return float(np.exp(np.average(np.log(widths[top]), weights=above[top])))


def first_staying(curve: Curve, at_most: float) -> int | None:
    """The first position from which `curve` # [width] never exceeds `at_most`; None if its end does."""
    above = np.flatnonzero(~(np.asarray(curve) <= at_most))
    first = int(above[-1]) + 1 if above.size else 0
    return first if first < len(curve) else None


# -- statistics: one number per seed from a table of finished runs ----------------------------------------


def curves(table: pd.DataFrame, model: str, arm: str, measure: str, from_width: float = 0) -> pd.DataFrame:
    """`measure` of one arm # [width, seed], widths ascending; only the seeds that have all of the arm's widths.

    table    finished runs of one protocol, one per model, arm, width and seed
    measure  a column of `table`, e.g. test_error
    """
    found = _all_curves(table, model, arm, measure)
    return found.dropna(axis="columns").loc[from_width:]


def _all_curves(table: pd.DataFrame, model: str, arm: str, measure: str) -> pd.DataFrame:
    rows = table.loc[(table["model.name"] == model) & (table["arm"] == arm), ["width", "seed", measure]]
    frame = rows.pivot(index="width", columns="seed", values=measure).astype(float)
    return frame.where(np.isfinite(frame)).dropna(axis="index", how="all")


def _each(found: pd.DataFrame, statistic: Callable[[Curve, Curve], float | None], places: Places) -> pd.Series:
    """`statistic(curve, guide)` for every seed that has it; the guide is the curve in which places are looked up."""
    values = found.to_numpy()
    guides = values
    if places == "others":
        seeds = values.shape[1]
        guides = (values.sum(axis=1, keepdims=True) - values) / (seeds - 1) if seeds > 1 else values[:, :0]
    elif places != "own":
        raise ValueError(f"places={places!r}: must be own or others")
    numbers = {
        seed: statistic(*pair) for seed, *pair in zip(found.columns, values.T, guides.T, strict=False) if len(found)
    }
    kept = {seed: number for seed, number in numbers.items() if number is not None}
    return pd.Series(kept, dtype=float).rename_axis("seed")


def prominence(table: pd.DataFrame, model: str, arm: str, from_width: float, places: Places = "own") -> pd.Series:
    """How many points the test error's peak rises above the higher of its two sides, by seed; 0 without a peak.

    from_width  only widths from here on are looked at
    places      own: peak and sides are looked up in the seed's own curve, where luck helps to choose them; others:
                in the mean curve of the other seeds, which makes luck cancel (and needs two seeds)
    Fewer than three widths can show no peak, nor that there is none: no seed counts. Raises ValueError for other
    `places`.
    """
    errors = curves(table, model, arm, "test_error", from_width)
    return _each(errors, lambda curve, guide: height(curve, landmarks(guide)) if len(curve) > 2 else None, places)


def second_descent(table: pd.DataFrame, model: str, arm: str, from_width: float, places: Places = "own") -> pd.Series:
    """Lowest test error before the peak minus that at the largest width, in points, by seed.

    Positive: the second descent ends below the first minimum. Seeds without a peak are left out. Arguments and
    errors as `prominence`.
    """

    def gained(curve: Curve, guide: Curve) -> float | None:
        marks = landmarks(guide)
        return float(curve[marks.before] - curve[-1]) if marks else None

    return _each(curves(table, model, arm, "test_error", from_width), gained, places)


def peak_width(table: pd.DataFrame, model: str, arm: str, from_width: float, by: Fit = "centre") -> pd.Series:
    """The width of the test error's peak, by seed.

    by  centre: `peak_place`, without the seeds that have no peak; argmax: the width of the highest test error from
        `from_width` on, be it a peak or an end of the grid
    Raises ValueError for another `by`.
    """
    errors = curves(table, model, arm, "test_error", from_width)
    if by == "argmax":
        return _highest(errors)
    if by != "centre":
        raise ValueError(f"by={by!r}: must be centre or argmax")
    widths = errors.index.to_numpy(dtype=float)
    return _each(errors, lambda curve, _: peak_place(widths, curve), "own")


def loss_peak_width(table: pd.DataFrame, model: str, arm: str) -> pd.Series:
    """The width of the highest test loss, by seed."""
    return _highest(curves(table, model, arm, "test_loss"))


def _highest(found: pd.DataFrame) -> pd.Series:
    widths = found.index.to_numpy(dtype=float)
    return _each(found, lambda curve, _: float(widths[curve.argmax()]), "own")


def threshold_width(table: pd.DataFrame, model: str, arm: str, at_most: float = ZERO) -> pd.Series:
    """The first width of the grid from which the train error stays at or below `at_most` percent, by seed.

    Seeds that do not get there are left out.
    """
    errors = curves(table, model, arm, "train_error")
    widths = errors.index.to_numpy(dtype=float)

    def place(curve: Curve, _: Curve) -> float | None:
        first = first_staying(curve, at_most + _ROUNDING)
        return None if first is None else float(widths[first])

    return _each(errors, place, "own")


def peak_over_threshold(
    table: pd.DataFrame, model: str, arm: str, from_width: float, at_most: float = ZERO, by: Fit = "centre"
) -> pd.Series:
    """`peak_width` over `threshold_width`, by seed: below 1, the peak comes before the train error is zero."""
    return (peak_width(table, model, arm, from_width, by) / threshold_width(table, model, arm, at_most)).dropna()


def arm_difference(
    table: pd.DataFrame, model: str, of: str, minus: str, from_width: float, measure: str = "test_error"
) -> pd.Series:
    """`measure` of arm `of` minus that of arm `minus`, averaged over the widths that both have, by seed of both."""
    first, second = (curves(table, model, arm, measure, from_width) for arm in (of, minus))
    first, second = first.align(second, join="inner")
    return (first - second).mean().dropna().rename_axis("seed")


STATISTICS = {
    each.__name__: each
    for each in (
        level,
        difference,
        prominence,
        second_descent,
        peak_width,
        loss_peak_width,
        threshold_width,
        peak_over_threshold,
        arm_difference,
    )
}


# -- the page ---------------------------------------------------------------------------------------------


def page(runs: Runs) -> Page:
    """The page of `runs`; raises NoRuns when none of them is finished."""
    known, other = _described(finished(runs))
    table, left_out = one_protocol(finished(Runs(known, runs.histories)), _AXES)
    done = table[table["status"] == "FINISHED"]
    tables = (place_table(done), height_table(done), level_table(done), noise_table(done), width_table(done))
    return Page(
        table,
        (_figure(done), _peaks(done)),
        tuple(each for each in tables if each.rows),
        {name: partial(statistic, done) for name, statistic in STATISTICS.items()},
        (*other, *left_out, *_missing(table), *_partial(done)),
    )


def _described(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The runs of MLPs and CNNs in one of the arms, with the page's columns; a remark on the others."""
    noise = table["data.label_noise"].astype(float)
    arm = table["data.label_noise_mode"].where(noise == NOISE).mask(noise == 0, "clean")
    ours = table["model.name"].isin(_WIDTH) & arm.isin(ARMS)
    others = table[~ours].groupby(["model.name", "data.label_noise"], dropna=False).size()
    remarks = [f"{n} runs left out: model={model}, data.label_noise={share}" for (model, share), n in others.items()]
    kept = table[ours].assign(arm=arm[ours])
    names = kept["model.name"]
    widths = [int(run[_WIDTH[run["model.name"]]]) for run in kept.to_dict("records")]
    kept = kept.assign(
        width=widths,
        parameters=[_COUNT[name](width) for name, width in zip(names, widths, strict=True)],
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
    return [(model, arm) for model in _WIDTH for arm in ARMS if (model, arm) in started]


def _missing(table: pd.DataFrame) -> Iterator[str]:
    """The seeds without a result, by reason and with the widths; any seed of an arm is expected at all its widths."""
    fates = table[["model.name", "arm", "width", "seed", *table.columns.intersection(["status", "mnist1d.reason"])]]
    for model, arm in _settings(table):
        rows = fates[(fates["model.name"] == model) & (fates["arm"] == arm)]
        widths = sorted(set(rows["width"]))
        lost: dict[str, list[int]] = {}
        for width in widths:
            for text in missing(rows, f"missing: {model} {arm}", {"width": width}, set(rows["seed"])):
                lost.setdefault(text, []).append(width)
        for text, at in lost.items():
            yield f"{text} at {'every width' if at == widths else f'width {ranges(at)}'}"


def _partial(done: pd.DataFrame) -> Iterator[str]:
    """The seeds that the statistics of an arm had to leave out."""
    for model, arm in _settings(done):
        every = set(_all_curves(done, model, arm, "train_error").columns)
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
        places = _places(done, model, arm)
        ratio = (places["peak"] / places["threshold"]).dropna()
        n = _complete(done, model, arm)
        cells = [_across(values, n) for values in places.values()]
        rows.append((model, arm, *cells, _across(ratio, n, digits=2), str(n)))
    return Table(
        "Where the peak lies (width): geometric mean (95% interval) over n seeds",
        ("model", "arm", "threshold", "peak", "highest error", "loss peak", "peak / threshold", "n"),
        tuple(rows),
        f"threshold: first width of the grid from which the train error stays at or below {ZERO}%.\n"
        f"peak: centre of the top {100 * _TOP:.0f}% of the running mean's peak; highest error: the plain largest test "
        "error.\n"
        f"Both from width {FROM_WIDTH['mlp']} (MLP) and {FROM_WIDTH['cnn']} (CNN) on. loss peak: the largest test "
        "loss. [k]: k of the n seeds have one.\n"
        "A peak has a place where the whole interval of its cross-fitted height (next table) lies above 0, which takes "
        "two seeds.",
    )


def _places(done: pd.DataFrame, model: str, arm: str) -> dict[str, pd.Series]:
    least = FROM_WIDTH[model]
    return {
        "threshold": threshold_width(done, model, arm),
        "peak": _if_clear(peak_width(done, model, arm, least), done, model, arm),
        "highest error": peak_width(done, model, arm, least, "argmax"),
        "loss peak": loss_peak_width(done, model, arm),
    }


def peak_is_clear(done: pd.DataFrame, model: str, arm: str) -> bool:
    """Whether the whole 95% interval of the cross-fitted height lies above 0; never so with one seed."""
    rises = prominence(done, model, arm, FROM_WIDTH[model], "others")
    return rises.size > 1 and t_interval(rises.to_numpy()).low > 0


def _if_clear(values: pd.Series, done: pd.DataFrame, model: str, arm: str) -> pd.Series:
    """`values` of a peak, none where luck may have made it."""
    return values if peak_is_clear(done, model, arm) else values.iloc[:0]


def height_table(done: pd.DataFrame) -> Table:
    """Model x arm: height of the peak, its places looked up in the same seed or in the others; second descent."""
    rows = []
    for model, arm in _settings(done):
        least = FROM_WIDTH[model]
        n = _complete(done, model, arm)
        rises = [prominence(done, model, arm, least, places) for places in ("own", "others")]
        descents = [
            _if_clear(second_descent(done, model, arm, least, places), done, model, arm) for places in ("own", "others")
        ]
        rows.append((model, arm, *(_mean(values, n) for values in (*rises, *descents)), str(n)))
    return Table(
        "How high the peak is (points of test error): mean ± half of the 95% interval over n seeds",
        ("model", "arm", "height", "cross-fitted", "second descent", "cross-fitted", "n"),
        tuple(rows),
        "height: of the peak above the higher of its two sides. Luck adds to it, and makes peaks of nothing.\n"
        "second descent: lowest error before the peak minus that of the widest net; positive if it ends lower.\n"
        "cross-fitted: with the places looked up in the mean curve of the other seeds, where luck cancels.\n"
        "Where its interval for the height does not lie above 0, nothing more is said of a peak.",
    )


def level_table(done: pd.DataFrame) -> Table:
    """Model x arm: the test errors from the first minimum over the peak, if there is one, to the largest width."""
    rows = []
    for model, arm in _settings(done):
        errors = curves(done, model, arm, "test_error", FROM_WIDTH[model])
        n = errors.shape[1]
        first, at, peak, after = (
            _if_clear(_at_landmark(errors, which), done, model, arm) for which in ("before", "width", "peak", "after")
        )
        last = errors.iloc[-1] if n else pd.Series(dtype=float)
        cells = (_mean(first, n), _across(at, n), *(_mean(values, n) for values in (peak, after, errors.min(), last)))
        rows.append((model, arm, *cells, str(n)))
    return Table(
        "Test error along the curve (%): mean ± half of the 95% interval over n seeds",
        ("model", "arm", "first minimum", "at width", "peak", "lowest after", "lowest", "largest width", "n"),
        tuple(rows),
        "Each in the seed's own curve, so that luck lowers the minima and raises the peak; at width: geometric mean.",
    )


def _at_landmark(errors: pd.DataFrame, which: str) -> pd.Series:
    """Of every seed with a peak: the error `before`, at (`peak`) or `after` it, or the `width` of the first."""
    widths = errors.index.to_numpy(dtype=float)

    def number(curve: Curve, guide: Curve) -> float | None:
        marks = landmarks(guide)
        if marks is None:
            return None
        return float(widths[marks.before] if which == "width" else curve[getattr(marks, which)])

    return _each(errors, number, "own")


def noise_table(done: pd.DataFrame) -> Table:
    """Model: what 15% wrong labels (flip) cost beyond 15% redrawn ones, and what those cost beyond none."""
    rows = []
    for model in _WIDTH:
        for of, minus in (("redraw", "clean"), ("flip", "redraw")):
            found = [
                arm_difference(done, model, of, minus, FROM_WIDTH[model], measure)
                for measure in ("test_error", "train_error")
            ]
            if found[0].size:
                rows.append(
                    (model, f"{of} − {minus}", *(_mean(each, found[0].size) for each in found), str(found[0].size))
                )
    return Table(
        "What label noise costs (points, mean over widths): mean ± half of the 95% interval over n seeds",
        ("model", "arms", "test error", "train error", "n"),
        tuple(rows),
        f"Paired by seed and width, from width {FROM_WIDTH['mlp']} (MLP) and {FROM_WIDTH['cnn']} (CNN) on. Of ten "
        f"redrawn labels one is the true one: {90 * NOISE:g}% are expected to be wrong under redraw, {100 * NOISE:g}% "
        "under flip.",
    )


def width_table(done: pd.DataFrame) -> Table:
    """Model x arm x width: test and train error, of all finished runs."""
    rows = []
    for model, arm in _settings(done):
        errors = {part: _all_curves(done, model, arm, f"{part}_error") for part in ("test", "train")}
        for width in errors["test"].index.intersection(errors["train"].index):
            test, train = (each.loc[width].dropna() for each in errors.values())
            count = f"{_COUNT[model](width):,}"
            rows.append(
                (model, arm, str(width), count, _mean(test, test.size), _mean(train, test.size), str(test.size))
            )
    return Table(
        "Errors by width (%): mean ± half of the 95% interval over n seeds",
        ("model", "arm", "width", "parameters", "test error", "train error", "n"),
        tuple(rows),
        "Test error on clean labels; train error on the labels trained on.",
    )


def _complete(done: pd.DataFrame, model: str, arm: str) -> int:
    return curves(done, model, arm, "test_error").shape[1]


def _mean(values: pd.Series, n: int) -> str:
    """Mean ± half width, with its own count in brackets where that is not `n`."""
    if values.empty:
        return "–"
    found = t_interval(values.to_numpy())
    return f"{found.mean:z.1f}{f' ± {found.half_width:.1f}' if found.n > 1 else ''}{_fewer(found, n)}"


def _across(values: pd.Series, n: int, digits: int = 0) -> str:
    """Geometric mean and bounds of widths, or of ratios with `digits` after the point; counts as `_mean`."""
    if values.empty:
        return "–"
    found = log_t_interval(values.to_numpy())
    bounds = f" ({found.low:.{digits}f}–{found.high:.{digits}f})" if found.n > 1 else ""
    return f"{found.mean:.{digits}f}{bounds}{_fewer(found, n)}"


def _fewer(found: Interval, n: int) -> str:
    return f" [{found.n}]" if found.n < n else ""


# -- figures ----------------------------------------------------------------------------------------------


def _figure(done: pd.DataFrame) -> Picture:
    """Test and train error against width as in the paper, and the clean CNN that it lacks."""
    kind = _kind(done)
    with figures.lab_style():
        figure, axes = _four_panels()
        top = _top_error(done)
        for (model, arm), ax in axes.items():
            _error_axes(ax, model, arm, top)
            if (model, arm) in _settings(done):
                _draw_errors(ax, done, model, arm)
                _draw_marks(ax, done, model, arm)
            else:
                ax.text(0.5, 0.5, "no runs", transform=ax.transAxes, ha="center", color=_INK)
        _legend(figure, flip="flip" in set(done["arm"]))
        note = "Marks: peak of the test error; train error at zero for good."
        figures.caption(figure, f"Lines: {kind}. {note}\n{COMMAND}")
    return Picture(
        "figure",
        figure,
        "Four panels, MLP above CNN, without and with 15% label noise: test error and train error against width, with "
        "the widths at which the test error peaks and the train error reaches zero",
        f"Errors by width; {kind}. Solid: test error. Dashed, open markers: train error, against the labels "
        "trained on. Thin: test error with 15% wrong labels (flip) in place of 15% redrawn ones. Marks: where the test "
        "error peaks, if the cross-fitted height of the peak is above 0, and from where the train error stays at or "
        f"below {ZERO}%; geometric means with 95% t intervals of the logarithm. `{COMMAND}`",
    )


def _four_panels() -> tuple[Figure, dict[tuple[str, str], Axes]]:
    figure = Figure(figsize=(7.6, 6.9))
    space = {"left": 0.076, "right": 0.98, "top": 0.955, "bottom": 0.175, "wspace": 0.08, "hspace": 0.34}
    grid = figure.subplots(2, 2, sharey=True, sharex="row", squeeze=False, gridspec_kw=space)
    return figure, {(model, arm): grid[i][j] for i, model in enumerate(_WIDTH) for j, arm in enumerate(ARMS[:2])}


def _top_error(done: pd.DataFrame) -> float:
    """The largest error to show: the paper's 70% and a little, more for nets trained so briefly that all are worse."""
    wide = done[done["width"] >= done["model.name"].map(FROM_WIDTH)]
    return max(72.0, 1.05 * float(wide[["train_error", "test_error"]].max(skipna=True).max()))


def _error_axes(ax: Axes, model: str, arm: str, top: float) -> None:
    letter = "abcd"[2 * list(_WIDTH).index(model) + ARMS.index(arm)]
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
    for part in ("train", "test"):
        found = _all_curves(done, model, arm, f"{part}_error")
        if len(found):
            widths, dashed = found.index.to_numpy(), part == "train"
            figures.plot_band(ax, widths, found.to_numpy().T, color=look.color, marker=look.marker, dashed=dashed)
    if arm == "redraw":
        flipped = _all_curves(done, model, "flip", "test_error").mean(axis="columns")
        ax.plot(flipped.index, flipped, color=_INK, linewidth=0.8, linestyle=_FLIP, zorder=4)
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
    ax.plot([widths.mean] * 2, [0, y], color=_INK, linewidth=0.8, linestyle=line, zorder=1)
    ax.plot([widths.low, widths.high], [y, y], color=_INK, linewidth=3, alpha=0.55, solid_capstyle="butt")
    ax.plot([widths.mean], [y], color=_INK, marker="|", markersize=7)
    right = np.nanmax([widths.mean, widths.high])
    ax.annotate(text, (right, y), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8, color=_INK)


def _legend(figure: Figure, flip: bool) -> None:
    handles = [Line2D([], [], color=_INK), Line2D([], [], color=_INK, linestyle=figures.DASHES)]
    names = ["test error", "train error"]
    if flip:
        handles.append(Line2D([], [], color=_INK, linewidth=0.8, linestyle=_FLIP))
        names.append("test error, 15% wrong labels")
    figure.legend(handles, names, loc="lower center", bbox_to_anchor=(0.5, 0.065), ncols=len(names))


def _peaks(done: pd.DataFrame) -> Picture:
    """Where threshold and peaks lie on one axis of parameters, and what flip costs beyond redraw, if it was run."""
    gaps = {model: gap for model in _WIDTH if len(gap := _gap(done, model))}
    kind = _kind(done)
    with figures.lab_style():
        figure, axes = _two_panels(bool(gaps))
        _draw_places(axes[0], done)
        for ax in axes[1:]:
            _draw_gaps(ax, gaps)
        handles = [Line2D([], [], color=_INK, linestyle="", **kind) for _, kind in _POINTS.values()]
        figure.legend(
            handles, [name for name, _ in _POINTS.values()], loc="lower center", bbox_to_anchor=(0.5, 0.125), ncols=3
        )
        figures.caption(figure, f"Points and lines: {kind}; marks on a logarithmic scale.\n{COMMAND}")
    right = " Right: test error under flip minus that under redraw, paired by seed." if gaps else ""
    return Picture(
        "peaks",
        figure,
        "The numbers of parameters at which the train error reaches zero and test error and test loss peak, for every "
        "architecture and kind of labels" + ("; and flip minus redraw by parameters" if gaps else ""),
        f"Threshold and peaks on one axis; {kind}, of the logarithm. A peak of the test error is shown where "
        f"the whole interval of its cross-fitted height lies above 0.{right} `{COMMAND}`",
    )


def _two_panels(both: bool) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(7.6, 4.0))
    space = {"left": 0.15, "right": 0.98, "top": 0.92, "bottom": 0.32, "wspace": 0.26}
    return figure, list(figure.subplots(1, 1 + both, squeeze=False, gridspec_kw=space)[0])


def _draw_places(ax: Axes, done: pd.DataFrame) -> None:
    settings = _settings(done)
    for row, (model, arm) in enumerate(settings):
        places = _places(done, model, arm)
        for shift, (name, (_, kind)) in zip((-0.24, 0, 0.24), _POINTS.items(), strict=True):
            if places[name].size:
                _point(ax, log_t_interval(places[name].to_numpy()), row + shift, _COUNT[model], kind)
    ax.set_title("a  Threshold and peaks")
    ax.set_yticks(range(len(settings)), [f"{figures.look(model).name}, {arm}" for model, arm in settings])
    ax.set_ylim(len(settings) - 0.5, -0.5)
    ax.margins(x=0.12)
    _parameter_axis(ax, labelled=(1, 1.5, 2, 3, 5, 7))


def _point(ax: Axes, widths: Interval, y: float, count: Callable[[float], float], kind: Mapping[str, Any]) -> None:
    if widths.n > 1:
        ax.plot([count(widths.low), count(widths.high)], [y, y], color=_INK, linewidth=1.1)
    ax.plot([count(widths.mean)], [y], color=_INK, linestyle="", **kind)


def _gap(done: pd.DataFrame, model: str) -> pd.DataFrame:
    """Test error under flip minus that under redraw # [width, seed], where both are, without the narrowest."""
    both = (_all_curves(done, model, arm, "test_error") for arm in ("flip", "redraw"))
    flip, redraw = (each.loc[FROM_WIDTH[model] :] for each in both)
    flip, redraw = flip.align(redraw, join="inner")
    return (flip - redraw).dropna(axis="index", how="all")


def _draw_gaps(ax: Axes, gaps: Mapping[str, pd.DataFrame]) -> None:
    for model, gap in gaps.items():
        look = figures.look(model)
        parameters = np.array([_COUNT[model](width) for width in gap.index])
        dashed = model == "cnn"
        figures.plot_band(ax, parameters, gap.to_numpy().T, color=look.color, marker=look.marker, dashed=dashed)
    ax.axhline(0, color=_INK, linewidth=0.8)
    ax.set_title("b  flip − redraw, test error")
    ax.set_ylabel("points")
    handles = [ax.lines[i] for i in range(len(gaps))]
    ax.legend(handles, [figures.look(model).name for model in gaps], loc="best")
    _parameter_axis(ax)


def _parameter_axis(ax: Axes, labelled: Sequence[float] = (1, 3)) -> None:
    """A logarithmic axis with numbers at the multiples `labelled` of every power of ten."""
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=labelled))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("parameters")
    ax.grid(True, axis="both")


def _kind(done: pd.DataFrame) -> str:
    """What lines and points are, with n: of all settings, or from the fewest to the most."""
    counts = [
        int(n)
        for model, arm in _settings(done)
        for n in _all_curves(done, model, arm, "test_error").notna().sum(axis="columns")
    ]
    low, high = min(counts, default=0), max(counts, default=0)
    if high < 2:
        return "one seed, so no intervals"
    return f"mean over n = {low if low == high else f'{low}–{high}'} seeds with its 95% t interval"
