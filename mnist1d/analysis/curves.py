"""Curves of errors against width: where a peak lies, how high it is, and where the training error reaches zero.

First functions of one curve, then statistics: one number per seed from a table of finished runs that has the
columns of the page of experiment=double_descent. The peak of a curve of test errors is the interior width that
rises highest above the lowest error on either side of it. Everything is found in each seed's own curve; a seed
counts if it has every width that its arm has. What noise does to such statistics, and how to read them, is in
docs/experiments/double_descent.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnist1d.analysis.statistics import difference, level

ZERO = 0.1
"""Percent of the training data that may be wrong where the train error counts as zero."""
TOP = 0.3
"""Share of the peak's height whose centre is its place."""

Curve = NDArray[np.floating]
Places = Literal["own", "others"]
Fit = Literal["centre", "argmax"]
Mark = Literal["before", "peak", "after"]

_ROUNDING = 1e-4  # percent: more than float32 makes of an accuracy, far less than one sample


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
    above = smooth - (smooth[marks.peak] - TOP * height(smooth, marks))
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
    found = all_curves(table, model, arm, measure)
    return found.dropna(axis="columns").loc[from_width:]


def all_curves(table: pd.DataFrame, model: str, arm: str, measure: str) -> pd.DataFrame:
    """As `curves`, of all widths and seeds; nan where one has no result."""
    rows = table.loc[(table["model.name"] == model) & (table["arm"] == arm), ["width", "seed", measure]]
    frame = rows.pivot(index="width", columns="seed", values=measure).astype(float)
    return frame.where(np.isfinite(frame)).dropna(axis="index", how="all")


def by_seed(found: pd.DataFrame, statistic: Callable[[Curve, Curve], float | None], places: Places) -> pd.Series:
    """`statistic(curve, guide)` for every seed that has it; the guide is the curve in which places are looked up.

    found   # [width, seed], without gaps
    places  own: the guide is the curve; others: the mean of the other seeds' curves
    Raises ValueError for other `places`.
    """
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
    return by_seed(errors, lambda curve, guide: height(curve, landmarks(guide)) if len(curve) > 2 else None, places)


def error_at(
    table: pd.DataFrame, model: str, arm: str, mark: Mark, from_width: float, places: Places = "own"
) -> pd.Series:
    """The test error before the peak (the lowest), at it or after it (the lowest), by seed; none without a peak.

    Arguments and errors as `prominence`.
    """

    def value(curve: Curve, guide: Curve) -> float | None:
        marks = landmarks(guide)
        return float(curve[getattr(marks, mark)]) if marks else None

    return by_seed(curves(table, model, arm, "test_error", from_width), value, places)


def widest_error(table: pd.DataFrame, model: str, arm: str) -> pd.Series:
    """The test error at the largest width, by seed."""
    return by_seed(curves(table, model, arm, "test_error"), lambda curve, _: float(curve[-1]), "own")


def second_descent(table: pd.DataFrame, model: str, arm: str, from_width: float, places: Places = "own") -> pd.Series:
    """Lowest test error before the peak minus that at the largest width, in points, by seed.

    Positive: the second descent ends below the first minimum. Seeds without a peak are left out. Arguments and
    errors as `prominence`.
    """

    def gained(curve: Curve, guide: Curve) -> float | None:
        marks = landmarks(guide)
        return float(curve[marks.before] - curve[-1]) if marks else None

    return by_seed(curves(table, model, arm, "test_error", from_width), gained, places)


def error_difference(table: pd.DataFrame, model: str, arm: str, of: float, minus: float | None = None) -> pd.Series:
    """The test error at one width minus that at another, in points, by seed.

    of, minus  widths; of the grid the one nearest to it on a logarithmic axis counts. None: the widest
    """
    errors = curves(table, model, arm, "test_error")
    if errors.empty:
        return pd.Series(dtype=float).rename_axis("seed")
    widths = np.log(errors.index.to_numpy(dtype=float))
    at, other = (abs(widths - np.log(width)).argmin() if width else -1 for width in (of, minus))
    return errors.iloc[at] - errors.iloc[other]


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
    return by_seed(errors, lambda curve, _: peak_place(widths, curve), "own")


def loss_peak_width(table: pd.DataFrame, model: str, arm: str, from_width: float) -> pd.Series:
    """The width of the highest test loss from `from_width` on, by seed; left out where that is an end of the grid."""
    places = _highest(losses := curves(table, model, arm, "test_loss", from_width))
    return places[~places.isin([losses.index.min(), losses.index.max()])]


def _highest(found: pd.DataFrame) -> pd.Series:
    widths = found.index.to_numpy(dtype=float)
    return by_seed(found, lambda curve, _: float(widths[curve.argmax()]), "own")


def threshold_width(table: pd.DataFrame, model: str, arm: str, at_most: float = ZERO) -> pd.Series:
    """The first width of the grid from which the train error stays at or below `at_most` percent, by seed.

    Seeds that do not get there are left out.
    """
    errors = curves(table, model, arm, "train_error")
    widths = errors.index.to_numpy(dtype=float)

    def place(curve: Curve, _: Curve) -> float | None:
        first = first_staying(curve, at_most + _ROUNDING)
        return None if first is None else float(widths[first])

    return by_seed(errors, place, "own")


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
        error_difference,
        peak_width,
        loss_peak_width,
        threshold_width,
        peak_over_threshold,
        arm_difference,
    )
}
