"""Pictures: functions that take axes and numbers, and return the axes. Nothing is saved here.

Whatever tells two curves apart does so twice: colour and marker for the architecture, line style and filled
or open marker for the features. The figures read in grey and by the colour-blind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from mnist1d.analysis.intervals import Interval, t_interval

DASHES = (0, (4, 2))


@dataclass(frozen=True)
class Look:
    """How one architecture appears in every figure: its name in print, its colour and its marker."""

    name: str
    color: str
    marker: str


LOOKS = {
    "logistic": Look("logistic regression", "#8c8c8c", "D"),
    "mlp": Look("MLP", "#e8951a", "s"),
    "gru": Look("GRU", "#2a7d62", "^"),
    "cnn": Look("CNN", "#16295c", "o"),
}


def look(model: str) -> Look:
    """The look of an architecture; one that is not ours gets its own name, black and a star."""
    return LOOKS.get(model, Look(model, "#000000", "*"))


@contextmanager
def lab_style() -> Iterator[None]:
    """The project's style while a figure is made and saved; matplotlib's settings are put back after."""
    with style.context(Path(__file__).with_name("lab.mplstyle")):
        yield


def plot_band(
    ax: Axes,
    steps: NDArray[np.integer],
    values: NDArray[np.floating],
    *,
    color: str,
    marker: str,
    dashed: bool = False,
    confidence: float = 0.95,
) -> Axes:
    """Draw the mean over seeds against the step, with its t interval at every step as a band.

    steps   # [step], ascending
    values  # [seed, step], in the unit of the axis; nan where a seed was not evaluated
    dashed  dashed line and open markers instead of solid and filled
    A step with one seed has a mean and no band.
    """
    bounds = [t_interval(column[np.isfinite(column)], confidence) for column in values.T]
    ax.fill_between(steps, [b.low for b in bounds], [b.high for b in bounds], color=color, alpha=0.28, linewidth=0)
    ax.plot(
        steps,
        [b.mean for b in bounds],
        color=color,
        marker=marker,
        markevery=_marked(len(steps), late=dashed),
        linestyle=DASHES if dashed else "-",
        markerfacecolor="white" if dashed else color,
    )
    return ax


def _marked(points: int, late: bool) -> tuple[int, int]:
    """First and every how many: about six markers, solid and dashed by turns so that none hides another."""
    every = max(1, points // 6)
    return (every if late else every // 2), every


def plot_bars(ax: Axes, at: Sequence[float], heights: Sequence[Interval], *, color: str) -> Axes:
    """Draw bars from 0 at the places `at`, each with its interval as a whisker.

    heights  # [bar], in the unit of the axis; a bar of one value has no whisker
    """
    light = [0.6 * share + 0.4 for share in to_rgb(color)]  # lets the whisker show, and not the grid
    ax.bar(at, [height.mean for height in heights], color=light, width=0.7)
    for place, height in zip(at, heights, strict=True):
        ax.plot([place, place], [height.low, height.high], color="#111111", linewidth=1.3, solid_capstyle="butt")
    ax.set_ylim(bottom=0)
    return ax


def plot_level(ax: Axes, value: float, label: str) -> Axes:
    """Draw a horizontal reference line at `value` (unit of the axis) with its label above the right end."""
    ax.axhline(value, color="#333333", linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=1)
    ax.annotate(
        label,
        xy=(1.0, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        color="#333333",
    )
    return ax


def accuracy_axes(ax: Axes, title: str, last_step: int) -> Axes:
    """Label axes that show accuracy in percent, 0 to 100, against the optimiser step, 0 to `last_step`."""
    ax.set_title(title)
    ax.set_xlabel("optimiser step")
    ax.set_ylabel("accuracy (%)")
    ax.set_ylim(0, 102)  # room for a marker at 100
    ax.set_yticks(range(0, 101, 20))
    ax.set_xlim(-0.015 * last_step, 1.015 * last_step)
    return ax


def panels(count: int, width: float = 7.6, height: float = 4.0, legend: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure (inches) with panels side by side on one y axis, and room below for legend and caption."""
    figure = Figure(figsize=(width, height))
    below = 1.33 if legend else 0.95
    left, right, top, bottom = 0.58 / width, 1 - 0.16 / width, 1 - 0.32 / height, below / height
    space = {"left": left, "right": right, "top": top, "bottom": bottom, "wspace": 0.08}
    axes = figure.subplots(1, count, sharey=True, squeeze=False, gridspec_kw=space)
    return figure, list(axes[0])


def feature_legend(figure: Figure, models: Sequence[str]) -> Figure:
    """One line of legend below the panels: architectures by marker, then the features by line."""
    looks = [look(model) for model in models]
    names = [*(each.name for each in looks), "plain features", "shuffled features"]
    handles = [Line2D([], [], color=each.color, marker=each.marker) for each in looks]
    ink = "#333333"
    handles += [Line2D([], [], color=ink), Line2D([], [], color=ink, linestyle=DASHES)]
    place = (0.5, 0.5 / figure.get_size_inches()[1])
    figure.legend(handles, names, loc="lower center", bbox_to_anchor=place, ncols=len(names), columnspacing=1.5)
    return figure


def caption(figure: Figure, text: str) -> Figure:
    """Write a caption of up to two lines under everything else."""
    width, height = figure.get_size_inches()
    figure.text(0.12 / width, 0.08 / height, text, va="bottom", fontsize=8, color="#444444", linespacing=1.4)
    return figure
