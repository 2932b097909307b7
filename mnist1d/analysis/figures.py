"""Pictures: functions that take axes and numbers, and return the axes. Nothing is saved here.

Whatever tells two curves apart does so twice: by colour and marker, or by line style and filled or open marker. The
figures read in grey and by the colour-blind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from mnist1d.analysis.intervals import Interval, Values, t_interval

DASHES = (0, (4, 2))
INK = "#333333"
EDGE = 0.12  # inches from the left end of a figure to what is written there
LINE = 0.156  # inches that a line of a caption is high
WIDE = 17.5  # letters of a caption in an inch


@dataclass(frozen=True)
class Look:
    """How an architecture, or another thing compared, appears in every figure: name in print, colour, marker, line."""

    name: str
    color: str
    marker: str
    line: Any = "-"
    hollow: bool = False  # the marker

    @property
    def dashed(self) -> Look:
        """The same thing in its second state: dashed, with open markers."""
        return replace(self, line=DASHES, hollow=True)

    @property
    def drawn(self) -> dict[str, Any]:
        """What matplotlib has to know to draw it."""
        face = "white" if self.hollow else self.color
        return {"color": self.color, "marker": self.marker, "linestyle": self.line, "markerfacecolor": face}


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


ALL_MARKED = 12
"""Most points of a line that all have a marker."""


def plot_band(
    ax: Axes,
    steps: ArrayLike,
    values: NDArray[np.floating],
    look: Look,
    marked: tuple[int, int] | list[int] | None = None,
    kind: Callable[[Values], Interval] = t_interval,
) -> Axes:
    """Draw the mean over seeds against the step, or another axis, with its 95% interval at every step as a band.

    steps   # [step], ascending; of any kind that is numbers, as columns of a frame are
    values  # [seed, step], in the unit of the axis; nan where a seed was not evaluated, but in all of them nowhere
    marked  first step with a marker, and every how many follow, or a list of all that have one; None: about six, open
            and filled ones by turns; all, of at most twelve
    kind    of the interval
    A step with one seed has a mean and no band.
    """
    steps = np.asarray(steps, dtype=float)
    bounds = [kind(column[np.isfinite(column)]) for column in values.T]
    low, high = [each.low for each in bounds], [each.high for each in bounds]
    ax.fill_between(steps, low, high, color=look.color, alpha=0.28, linewidth=0)
    every = marked or _marked(len(steps), late=look.hollow)
    ax.plot(steps, [each.mean for each in bounds], **look.drawn, markevery=every)
    return ax


def _marked(points: int, late: bool) -> tuple[int, int]:
    """First and every how many: about six markers, solid and dashed by turns so that none hides another; or all."""
    if points <= ALL_MARKED:
        return 0, 1
    every = points // 6
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
    ax.axhline(value, color=INK, linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=1)
    ax.annotate(
        label,
        xy=(1.0, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
        color=INK,
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


def log_levels(ax: Axes) -> Axes:
    """Make the vertical axis logarithmic, with numbers in plain digits; the curves must have been drawn."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if high > 2 * low else np.arange(1, 10, 0.5).tolist()))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    return ax


def panels(
    columns: int,
    rows: int = 1,
    *,
    size: tuple[float, float] = (7.6, 4.0),
    left: float = 0.58,
    below: float = 1.33,
    gap: float = 0.08,
    sharex: Literal["row", "none"] = "none",
    sharey: bool = True,
) -> tuple[Figure, list[Axes]]:
    """A figure with panels, row by row, and with room below for legend and caption.

    size, left, below  in inches: of the figure, of what lies left of the panels and below them
    gap                between columns, as a share of a panel's width; more where each has a y axis of its own
    """
    figure = Figure(figsize=size)
    width, height = size
    space = {"left": left / width, "right": 1 - 0.16 / width, "top": 1 - 0.32 / height, "bottom": below / height}
    between = {"wspace": gap, "hspace": 0.34}
    axes = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False, gridspec_kw=space | between)
    return figure, list(axes.flat)


def make_room(figure: Figure, axes: Sequence[Axes]) -> None:
    """Move `panels` to the right until the labels of vertical axes lie within the figure, however wide ticks are."""
    figure.draw_without_rendering()
    first = min(ax.yaxis.label.get_window_extent().x0 for ax in axes)
    beyond = EDGE / figure.get_size_inches()[0] - first / figure.bbox.width
    places = [place for ax in axes if (place := ax.get_subplotspec())]
    if beyond > 0:
        cast(GridSpec, places[0].get_gridspec()).left += beyond  # GridSpec.update reaches figures of pyplot alone
        for ax, place in zip(axes, places, strict=True):
            ax.set_subplotspec(place)


def legend(figure: Figure, handles: Sequence[Line2D], columns: int | None = None, lines: int = 2) -> Figure:
    """The legend between panels and a caption of so many lines: one line, or several of at most so many columns."""
    height = (0.5 + LINE * (lines - 2)) / figure.get_size_inches()[1]
    place, most = (0.5, height), min(len(handles), columns or len(handles))
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=place, ncols=most, columnspacing=1.4)
    return figure


def sample(look: Look) -> Line2D:
    """A piece of line for a legend."""
    return Line2D([], [], label=look.name, **look.drawn)


def caption(figure: Figure, text: str) -> Figure:
    """Write a caption, of two lines unless room was made for more, under everything else."""
    width, height = figure.get_size_inches()
    figure.text(EDGE / width, 0.08 / height, text, va="bottom", fontsize=8, color="#444444", linespacing=1.4)
    return figure
