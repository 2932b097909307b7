"""The page of experiment=pooling: what pooling and striding are worth as the training set grows.

The page's own columns:

    pooling        none, stride, max, avg or l2; `matched`: no pooling, and so few channels that the net has about
                   as many parameters as the pooled ones
    train_samples  size of the training set
    parameters     of the network
    final, best    test accuracy (%): after the last step; the largest over the evaluations, an oracle
    train          accuracy (%) on training data after the last step

Statistics: level, difference and `gain`, the difference to no pooling. A replicate is a seed with its own draw of
training and test data, which all kinds of pooling share: a pair of runs with one seed owes nothing to the draw.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from mnist1d.analysis import figures
from mnist1d.analysis.figures import Look
from mnist1d.analysis.intervals import Interval, basis, interval_of, shown, span, t_interval
from mnist1d.analysis.page import NoRuns, Page, Picture, Statistic, Table
from mnist1d.analysis.paired import difference_table
from mnist1d.analysis.parameters import parameters
from mnist1d.analysis.protocol import MISSING, command, finished, missing, one_protocol
from mnist1d.analysis.read import Runs
from mnist1d.analysis.statistics import difference, level
from mnist1d.spelling import unknown

METRICS = ("test/acc",)
"""The histories that the page needs."""

MEASURES = {"final": "test/acc_final", "best": "test/acc_best", "train": "train/acc"}
KINDS = {  # pooling -> look, in the order of tables and legends
    "none": Look("no pooling", "#16295c", "o"),
    "matched": Look("no pooling, as few parameters", "#6f86c9", "o", figures.DASHES, hollow=True),
    "stride": Look("stride 2", "#e8951a", "s", (0, (5, 1.5, 1, 1.5))),
    "max": Look("max", "#2a7d62", "^", (0, (8, 1.5))),
    "avg": Look("average", "#a8509a", "v", (0, (1, 1.2))),
    "l2": Look("L2", "#8c8c8c", "D", (0, (3, 1, 1, 1, 1, 1))),
}
PANELS = {1000: (30, 85), 5000: (80, 100), 50_000: (90, 100)}
"""Training samples -> the range of accuracies (%) that the paper's figure shows."""
SMOOTHING = 1.0
"""Width (standard deviation, in evaluations) of the Gaussian that smooths the curves, as in the reference."""

_AXES = {"seed", "data.seed", "data.num_samples", "data.train_split", "model.pooling", "model.channels"}

Comparison = tuple[int, str]  # training samples, kind


def page(runs: Runs) -> Page:
    """The tables, pictures and statistics of the pooling experiment; raises NoRuns when no run is finished."""
    table, remarks = comparable(finished(runs))
    done = table[table["status"] == "FINISHED"]
    if done.empty:
        raise NoRuns(f"no run is finished that can be compared ({'; '.join(remarks)})")
    statistics = {name: partial(function, done) for name, function in STATISTICS.items()}
    found = gains(done)
    pictures = (draw_gains(done, found), draw_curves(runs, done)) if found else (draw_curves(runs, done),)
    tables = (accuracy_table(done), gain_table(found)) if found else (accuracy_table(done),)
    return Page(table, pictures, tables, statistics, (*remarks, *_missing(table)))


# -- which runs, and which net each of them trained -------------------------------------------------------


def comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The comparable runs of `table` with the page's own columns, and a remark on every group left out."""
    size = (table["data.num_samples"].astype(float) * table["data.train_split"].astype(float)).astype(int)
    draw = table["data.seed"].map(str).mask(table["data.seed"] == table["seed"], "one per seed")
    hidden = {"data.draw": draw, "data.test_size": table["data.num_samples"] - size}  # it takes two keys to say each
    kept, remarks = one_protocol(table.assign(train_samples=size, **hidden), _AXES)
    kept, others = _two_widths(kept.drop(columns=list(hidden)))
    percent = {name: 100 * kept[key].astype(float) for name, key in MEASURES.items() if key in kept}
    counts = [parameters(run) for run in kept.to_dict("records")]
    return kept.assign(parameters=counts, **percent), (*remarks, *others)


def _two_widths(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The runs with their `pooling`: nets of the common width, and unpooled ones of one smaller width, `matched`."""
    pooling, channels = table["model.pooling"], table["model.channels"]
    pooled = channels[pooling != "none"]
    full = pooled.mode().max() if len(pooled) else channels.max()
    narrow = channels[(pooling == "none") & (channels < full)].mode().max()
    is_matched = (pooling == "none") & (channels == narrow)
    ours = is_matched | (channels == full)
    remarks = [
        f"{len(group)} runs left out, of another network: model.pooling={kind}, model.channels={width}"
        for (kind, width), group in table[~ours].groupby(["model.pooling", "model.channels"])
    ]
    return table.assign(pooling=pooling.mask(is_matched, "matched"))[ours], remarks


def _missing(table: pd.DataFrame) -> list[str]:
    """The seeds without a result: those of any kind and size are expected of every one."""
    expected, texts = set(table["seed"]), []
    for size, kind in product(_sizes(table), _kinds(table)):
        label, where = f"{MISSING}{kind} at {_said(size)} training samples", {"pooling": kind, "train_samples": size}
        texts += missing(table, label, where, expected)
    return texts


def _kinds(table: pd.DataFrame) -> list[str]:
    return [kind for kind in KINDS if (table["pooling"] == kind).any()]


def _said(size: int) -> str:
    return f"{size:,}" if size >= 10_000 else str(size)


def _sizes(table: pd.DataFrame) -> list[int]:
    return sorted(set(table["train_samples"]))


# -- statistics: one number per seed ----------------------------------------------------------------------


def gain(table: pd.DataFrame, kind: str, train_samples: int, measure: str = "final") -> pd.Series:
    """`measure` of a kind of pooling minus that without pooling, same training set; points, by seed.

    Raises ValueError for a kind that is not ours, and as `level` does.
    """
    if kind not in KINDS:
        raise ValueError(unknown("pooling", kind, KINDS))
    of, minus = ({"pooling": name, "train_samples": train_samples} for name in (kind, "none"))
    return difference(table, measure, of, minus)


STATISTICS: dict[str, Statistic] = {"level": level, "difference": difference, "gain": gain}


def gains(done: pd.DataFrame) -> dict[Comparison, pd.Series]:
    """(training samples, kind) -> final gain over no pooling in points, by seed; only those with a result."""
    others = [kind for kind in _kinds(done) if kind != "none"]
    found = {(size, kind): gain(done, kind, size) for size, kind in product(_sizes(done), others)}
    return {comparison: values for comparison, values in found.items() if values.size}


# -- tables -----------------------------------------------------------------------------------------------


def accuracy_table(done: pd.DataFrame) -> Table:
    """Training samples x kind: final test accuracy; the first row has the parameters of the networks."""
    kinds = _kinds(done)
    counts = dict(zip(done["pooling"], done["parameters"], strict=True))
    rows = [("parameters", *(str(counts[kind]) for kind in kinds), "")]
    for size in _sizes(done):
        found = [interval_of(level(done, "final", {"pooling": kind, "train_samples": size})) for kind in kinds]
        rows.append((_said(size), *map(shown, found), span(each.n for each in found if each)))
    return Table(
        "Final test accuracy (%) by training samples: mean ± half of the 95% interval over n seeds",
        ("samples", *kinds, "n"),
        tuple(rows),
        "matched: no pooling, and fewer channels, so that it has about as many parameters as the pooled nets.",
    )


def gain_table(found: dict[Comparison, pd.Series]) -> Table:
    """Training samples x kind: final gain over no pooling with its interval and its adjusted p value."""
    sizes = {size: _said(size) for size in sorted({size for size, _ in found})}
    title = "Final test accuracy gained over no pooling (points), by training samples"
    return difference_table(title, "samples", found, sizes, tuple(_compared(found)), 1, ": a pair shares its data")


# -- the paper's picture: accuracy while training ---------------------------------------------------------


def draw_curves(runs: Runs, done: pd.DataFrame) -> Picture:
    """Smoothed test accuracy against the step, a panel for each of at most three sizes of the training set."""
    redo = command("pooling", done)
    chosen, last = _panel_sizes(_sizes(done)), int(done["trainer.max_steps"].max()) - 1
    with figures.lab_style():
        figure, axes = figures.panels(len(chosen), gap=0.2, sharey=False)
        for ax, letter, size in zip(axes, "abc", chosen, strict=False):
            figures.accuracy_axes(ax, f"{letter}  {_said(size)} samples", last)
            _draw_kinds(ax, runs, done[done["train_samples"] == size])
            _fit_range(ax, PANELS.get(size), last)
        for ax in axes[1:]:
            ax.set_ylabel("")
        figures.legend(figure, [figures.sample(KINDS[kind]) for kind in _kinds(done)])
        counts = done[done["train_samples"].isin(chosen)].groupby(["pooling", "train_samples"]).size()
        about = f"Test accuracy by step, smoothed over evaluations (Gaussian, σ = {SMOOTHING:g}); {basis(counts)}."
        figures.caption(figure, f"{about}\nThe vertical axes fit the second half of the training. {redo}")
    sizes = "; ".join(map(_said, chosen))
    alt = f"Test accuracy against the optimiser step, a line for each pooling, a panel for each of {sizes} samples."
    return Picture("curves", figure, alt, f"{about} `{redo}`")


def _panel_sizes(sizes: Sequence[int]) -> list[int]:
    return list(PANELS) if set(PANELS) <= set(sizes) else sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]})


def _draw_kinds(ax: Axes, runs: Runs, rows: pd.DataFrame) -> None:
    kinds = _kinds(rows)
    for place, kind in enumerate(kinds):
        steps, values = runs.curves("test/acc", rows.loc[rows["pooling"] == kind, "run_id"].tolist())
        if steps.size:
            every = max(len(kinds), steps.size // 4)
            start = (place + 1) * every // len(kinds)  # no marker lies on another
            figures.plot_band(ax, steps, 100 * smoothed(values), KINDS[kind], (start, every))


def smoothed(curves: NDArray[np.floating]) -> NDArray[np.float64]:
    """Curves # [run, evaluation] after a Gaussian filter of width SMOOTHING along each; nan stays nan."""
    result = np.full(curves.shape, np.nan)
    for curve, target in zip(curves, result, strict=True):
        seen = np.isfinite(curve)
        if seen.any():
            target[seen] = gaussian_filter1d(curve[seen], SMOOTHING)
    return result


def _fit_range(ax: Axes, paper: tuple[int, int] | None, last: int) -> None:
    """Show the paper's range, made wider where lines and bands leave it in the second half of the training."""
    bands = [path.vertices for band in ax.collections for path in band.get_paths()]
    points = np.concatenate([[(np.nan, np.nan)], *(line.get_xydata() for line in ax.lines), *bands])
    late = points[points[:, 0] >= last / 2, 1]
    late = [*late[np.isfinite(late)], *(paper or ())]
    if late:
        low, high = 5 * np.floor(min(late) / 5), 5 * np.ceil(max(late) / 5)
        ax.set_ylim(low, high + 0.02 * (high - low))  # room for a marker at the top
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


# -- our picture: where pooling helps ---------------------------------------------------------------------


def draw_gains(done: pd.DataFrame, found: dict[Comparison, pd.Series]) -> Picture:
    """Gain over no pooling against the number of training samples, all of it, and the larger sizes enlarged."""
    intervals = {comparison: t_interval(values.to_numpy()) for comparison, values in found.items()}
    sizes, kinds, redo = sorted({size for size, _ in found}), _compared(found), command("pooling", done)
    with figures.lab_style():
        figure, axes = figures.panels(2 if len(sizes) > 1 else 1, gap=0.2, sharey=False)
        for ax, title in zip(axes, ("a  All gains", "b  Close-up"), strict=False):
            _gain_axes(ax, title, sizes)
            _draw_gain_lines(ax, intervals, kinds)
        if len(axes) > 1:
            _close_up(axes[1], intervals, sizes[max(1, (len(sizes) - 1) // 2) :])
        axes[0].set_ylabel("gain over no pooling (points)")
        figures.legend(figure, [figures.sample(KINDS[kind]) for kind in kinds])
        kind = basis(interval.n for interval in intervals.values())
        about = f"Final test accuracy minus that without pooling, paired by seed; {kind}."
        figures.caption(figure, f"{about}\n{redo}")
    alt = "Gain over no pooling against training samples." + _in_words(intervals, sizes[0], sizes[-1])
    return Picture("gains", figure, alt, f"{about} `{redo}`")


def _compared(found: Collection[Comparison]) -> list[str]:
    return [kind for kind in KINDS if any(kind == other for _, other in found)]


def _in_words(intervals: dict[Comparison, Interval], *sizes: int) -> str:
    texts = {
        size: ", ".join(f"{kind} {each.mean:+.1f}" for (other, kind), each in intervals.items() if other == size)
        for size in sizes
    }
    return "".join(f" At {_said(size)}: {text}." for size, text in texts.items())


def _gain_axes(ax: Axes, title: str, sizes: Sequence[int]) -> None:
    ax.set_title(title)
    ax.set_xlabel("training samples")
    ax.set_xscale("log")
    ax.set_xlim(sizes[0] / 1.35, sizes[-1] * 1.35)
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([f"{size / 1000:g}k" if size % 100 == 0 else str(size) for size in sizes])
    ax.axhline(0, color=figures.INK, linewidth=1.1, zorder=1)


def _draw_gain_lines(ax: Axes, intervals: dict[Comparison, Interval], kinds: Sequence[str]) -> None:
    for place, kind in enumerate(kinds):
        sizes = [size for size, other in intervals if other == kind]
        found = [intervals[size, kind] for size in sizes]
        aside = 1.035 ** (2 * place - len(kinds) + 1)  # intervals stand beside one another
        ax.errorbar(
            aside * np.array(sizes),
            [interval.mean for interval in found],
            [interval.half_width for interval in found],
            **KINDS[kind].drawn,
            capsize=2.5,
            elinewidth=1.0,
        )


def _close_up(ax: Axes, intervals: dict[Comparison, Interval], sizes: Sequence[int]) -> None:
    shown = [each for (size, _), each in intervals.items() if size in sizes]
    ends = [0.0, *(each.mean + sign * np.nan_to_num(each.half_width) for each in shown for sign in (-1, 1))]
    ax.set_ylim(min(ends) - 0.5, max(ends) + 0.5)
    ax.set_xlim(left=sizes[0] / 1.35)
