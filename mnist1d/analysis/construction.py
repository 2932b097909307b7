"""The construction of samples, step by step: the paper's Figure 1, drawn from the generator's own stages.

    python -m mnist1d.analysis.construction docs/figures     writes construction.svg and construction.png

Each panel has the positions of a signal running down and its values to the right, so that templates look like
the digits they stand for.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.random import RandomState

from mnist1d.analysis.figures import lab_style
from mnist1d.data.arguments import Arguments
from mnist1d.data.generator import dilations, draw, pad, resample, transform
from mnist1d.data.templates import get_templates

__all__ = ["draw_construction", "draw_signal", "save_construction"]

Floats = npt.NDArray[np.float64]

INK, NOISE, BEFORE, TEXT = "#1f3b73", "#8f8f8f", "#b5b5b5", "#555555"
DIGITS = (0, 2, 3, 5, 8)
MOST_DOTS = 40  # a signal of more points is drawn as a line only


@dataclass(frozen=True)
class _Step:
    title: str
    detail: str
    values: Floats  # [digit, position]
    signal: npt.NDArray[np.bool_]  # [digit, position]: what the template made
    ghost: bool = True  # show the step before, which has as many positions


def draw_construction(digits: Sequence[int] = DIGITS, args: object = None) -> Figure:
    """A figure with a row for each digit and a column for each step, from template to finished sample.

    Args:
        digits: which of the ten, top to bottom.
        args: the generator's arguments, as for `make_dataset`; its `seed` decides the draws.

    Raises:
        ValueError: no digits, or some that are not 0 to 9; an impossible argument.
    """
    if not digits or any(digit not in range(10) for digit in digits):
        raise ValueError(f"digits={tuple(digits)!r}: must be at least one of 0 to 9")
    arguments = Arguments.of({} if args is None else args)
    steps = _steps(digits, arguments)
    with lab_style():
        figure = Figure(figsize=(1.25 * len(steps) + 0.4, 1.27 * len(digits) + 1.35), layout="constrained")
        axes = figure.subplots(len(digits), len(steps), squeeze=False, sharex=True)
        for (row, column), ax in np.ndenumerate(axes):
            step = steps[column]
            before = steps[column - 1].values[row] if step.ghost else None
            draw_signal(ax, step.values[row], step.signal[row], before)
        _label(figure, axes, steps, digits, arguments)
    return figure


def _steps(digits: Sequence[int], args: Arguments) -> list[_Step]:
    templates, labels = get_templates()["x"], np.asarray(digits, dtype=np.int64)
    draws = draw(RandomState(args.seed), len(labels), args)
    stages = transform(dilations(templates, args), labels, draws, args)
    marked = pad(templates[labels], 0)
    placed, moved = stages.dilated != 0, stages.translated != 0
    low, high = args.padding
    shift, scale, slope = args.max_translation - 1, args.scale_coeff / 2, args.shear_scale / 2
    # A position of the sample belongs to the digit when what it is read from does.
    kept = resample(moved.astype(np.float64), args.final_seq_length) > 0.5
    return [
        _Step("template", f"{templates.shape[1]} points", marked, marked != 0, ghost=False),
        _Step("pad", f"{low}–{high} zeros, {args.length} points", stages.dilated, placed, ghost=False),
        _Step("scale", f"by 1 ± {scale:g}", stages.scaled, placed),
        _Step("translate", f"by 0–{shift}, circular", stages.translated, moved),
        _Step("smooth noise", f"{args.corr_noise_scale:g}, where silent", stages.correlated, moved, ghost=False),
        _Step("white noise", f"{args.iid_noise_scale:g}, everywhere", stages.noisy, moved, ghost=False),
        _Step("shear", f"by a slope of 0 ± {slope:g}", stages.sheared, moved),
        _Step("resample", f"{args.final_seq_length} points", stages.resampled, kept, ghost=False),
    ]


def draw_signal(ax: Axes, values: Floats, signal: npt.NDArray[np.bool_], before: Floats | None = None) -> Axes:
    """One signal [positions], downwards, in ink where `signal` is true, `before` dashed behind it."""
    position = np.arange(len(values))
    if before is not None:
        ax.plot(before, position, color=BEFORE, linewidth=1.0, linestyle=(0, (2.5, 1.2)))
    ax.plot(values, position, color=NOISE, linewidth=1.0)
    ax.plot(np.where(signal, values, np.nan), position, color=INK, linewidth=2.0, solid_capstyle="round")
    if len(values) <= MOST_DOTS:
        ax.scatter(values, position, s=11, c=np.where(signal, INK, NOISE), zorder=3, linewidths=0)
    ax.set_ylim(1.04 * (len(values) - 1), -0.04 * (len(values) - 1))
    return ax


def _label(
    figure: Figure,
    axes: npt.NDArray[Any],  # [digit, step], of Axes
    steps: Sequence[_Step],
    digits: Sequence[int],
    args: Arguments,
) -> None:
    reach = max(float(np.abs(step.values).max()) for step in steps)
    for ax in axes.flat:
        _quieten(ax, reach)
    for step, ax in zip(steps, axes[0], strict=True):
        ax.set_title(f"{step.title}\n", fontsize=10, loc="center", pad=4)
        ax.annotate(step.detail, (0.5, 1.055), xycoords="axes fraction", ha="center", fontsize=6.8, color=TEXT)
    for digit, ax in zip(digits, axes[:, 0], strict=True):
        ax.set_ylabel(str(digit), rotation=0, fontsize=17, labelpad=14, va="center", color=INK)
    for ax in axes[-1]:
        ax.tick_params(bottom=True, labelbottom=True)
        ax.spines["bottom"].set_visible(True)
    caption = "dark: what the template gave · grey: padding and noise · dashed: the step before"
    figure.supxlabel(f"value to the right, position downwards · {caption} · seed {args.seed}", fontsize=8, color=TEXT)


def _quieten(ax: Axes, reach: float) -> None:
    ax.grid(False)
    ax.axvline(0, color="#ebebeb", linewidth=0.8, zorder=0)
    ax.set_xlim(-1.06 * reach, 1.06 * reach)
    ax.set_xticks([-0.5, 0, 0.5], ["−0.5", "0", "0.5"])
    ax.set_yticks([])
    ax.tick_params(bottom=False, labelbottom=False, length=2.5, pad=2, labelsize=7)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


def save_construction(folder: Path, args: object = None) -> list[Path]:
    """Write construction.svg and construction.png into a folder, made if need be; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = draw_construction(args=args)
    files = [folder / f"construction.{kind}" for kind in ("svg", "png")]
    with lab_style():
        figure.savefig(files[0], metadata={"Date": None})
        figure.savefig(files[1], metadata={"Software": None})
    return files


if __name__ == "__main__":
    for file in save_construction(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/figures")):
        print(file)
