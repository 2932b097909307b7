"""Statistics of any sweep: one number per seed from measures over settings that are picked by key=value.

A measure is a number that every run has, in its own unit. `over` is what a curve runs along: a key that was swept, or
what was recorded while a run trained, `step` or a measure that has a history (the last evaluation counts where it
stays the same). A place, a height or a threshold is looked for in every seed's own curve, and only in curves without
gaps; what luck does to them, and what `places: others` does against it, is in docs/experiments/double_descent.md.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, Literal

import numpy as np
import pandas as pd

from mnist1d.analysis.curves import Curve, Places, by_seed, first_staying, landmarks, peak_place
from mnist1d.analysis.curves import height as height_of
from mnist1d.analysis.statistics import level, matching, refuse_several
from mnist1d.spelling import hint

Where = Mapping[str, Any]
Best = Literal["most", "least"]
Spot = Literal["peak", "most", "least"]


@dataclass(frozen=True)
class Swept:
    """Finished runs of one protocol.

    table      one row per setting and seed: run_id, seed, a column for every key and every measure
    histories  measure -> frame [run_id, step] in the measure's unit; nan where a run was not evaluated
    """

    table: pd.DataFrame
    histories: Mapping[str, pd.DataFrame]


def curves(
    swept: Swept, measure: str, over: str, where: Where | None = None, start: float | None = None
) -> pd.DataFrame:
    """`measure` of one setting at every value of `over` from `start` on # [value, seed], ascending; nan: no result.

    Raises KeyError for an unknown column, ValueError for rows of several settings or a measure without a history.
    """
    where = where or {}
    if over == "step" or over in swept.histories:
        found = _recorded(swept, measure, over, where)
    else:
        rows = matching(swept.table, where, measure, over)
        refuse_several(rows, where, ["seed", over])
        found = rows.pivot(index=over, columns="seed", values=measure).astype(float)
    found = found.dropna(axis="index", how="all").sort_index()
    return found if start is None else found[np.array([value >= start for value in found.index], dtype=bool)]


def _recorded(swept: Swept, measure: str, over: str, where: Where) -> pd.DataFrame:
    if measure not in swept.histories:
        raise ValueError(f"{measure} has no history to be seen over {over}")
    rows = matching(swept.table, where)
    refuse_several(rows, where, ["seed"])
    columns = {}
    for run_id, seed in zip(rows["run_id"], rows["seed"], strict=True):
        values = swept.histories[measure].loc[run_id].dropna()
        places = values.index if over == "step" else swept.histories[over].loc[run_id].reindex(values.index)
        own = pd.Series(values.to_numpy(dtype=float), index=np.asarray(places, dtype=float))
        columns[seed] = own[~own.index.duplicated(keep="last") & own.index.notna()]
    return pd.DataFrame(columns)


# -- one setting ------------------------------------------------------------------------------------------


def mean(
    swept: Swept,
    measure: str,
    where: Where | None = None,
    over: str | None = None,
    at: float | None = None,
    within: float = 1.0,
    start: float | None = None,
) -> pd.Series:
    """`measure` of a setting, by seed; the rest is of curves.

    over    average over all its values from `start` on, for the seeds that have all
    at      instead of the average, take the nearest value of `over`, which may be `within` of its unit away
    Raises as `curves` does.
    """
    if over is None:
        return level(swept.table, measure, where or {})
    found = curves(swept, measure, over, where, start)
    if at is None:
        return found.dropna(axis="columns").mean() if len(found) else _none()
    away = abs(found.index.to_numpy(dtype=float) - at)
    near = away <= within
    return found.iloc[int(away.argmin())].dropna().sort_index() if near.any() else _none()


def best(
    swept: Swept,
    measure: str,
    over: str,
    where: Where | None = None,
    by: str | None = None,
    best: Best = "most",
    places: Places = "own",
) -> pd.Series:
    """`measure` at the value of `over` that is best for a seed.

    by      the measure that says which is best: validation, for example; null: `measure` itself, and luck chooses too
    best    whether it is the larger, the better (most) or the smaller (least)
    places  others: the value is looked up in the mean curve of the other seeds, so that luck cancels
    """
    found = curves(swept, measure, over, where).dropna(axis="columns")
    guide = found if by is None else curves(swept, by, over, where).reindex(index=found.index, columns=found.columns)
    sign = _one_of("best", best, {"most": 1, "least": -1})
    chosen = by_seed(guide.dropna(axis="columns"), lambda _, curve: float((sign * curve).argmax()), places)
    return pd.Series({seed: found[seed].iloc[int(row)] for seed, row in chosen.items()}, dtype=float)


def place(
    swept: Swept, measure: str, over: str, where: Where | None = None, of: Spot = "peak", start: float | None = None
) -> pd.Series:
    """The value of `over` at which a seed's curve has its peak, or its largest (most) or smallest (least) value.

    A peak rises above both of its sides; its place is found on a logarithmic axis, between the values too
    (`mnist1d.analysis.curves.peak_place`), and a curve without one has none.
    """
    found = curves(swept, measure, over, where, start).dropna(axis="columns")
    values = found.index.to_numpy(dtype=float)
    sign = _one_of("of", of, {"peak": 0, "most": 1, "least": -1})

    def spot(curve: Curve, _: Curve) -> float | None:
        return float(values[(sign * curve).argmax()]) if sign else peak_place(values, curve)

    return by_seed(found, spot, "own")


def height(
    swept: Swept,
    measure: str,
    over: str,
    where: Where | None = None,
    start: float | None = None,
    places: Places = "own",
) -> pd.Series:
    """How far a seed's curve rises at its peak above the higher of its two sides; 0 without a peak.

    places  others: peak and sides are looked up in the mean curve of the other seeds, so that luck cancels
    A curve of fewer than three values counts for nothing.
    """
    found = curves(swept, measure, over, where, start).dropna(axis="columns")
    return by_seed(found, lambda own, guide: height_of(own, landmarks(guide)) if len(own) > 2 else None, places)


def threshold(
    swept: Swept, measure: str, over: str, at_most: float, where: Where | None = None, start: float | None = None
) -> pd.Series:
    """The first value of `over` from which a seed's curve stays at or below `at_most`; none where it never does."""
    found = curves(swept, measure, over, where, start).dropna(axis="columns")
    values = found.index.to_numpy(dtype=float)

    def first(curve: Curve, _: Curve) -> float | None:
        row = first_staying(curve, at_most)
        return None if row is None else float(values[row])

    return by_seed(found, first, "own")


# -- two settings, paired by seed -------------------------------------------------------------------------


def paired(
    swept: Swept,
    measure: str,
    of: Where,
    minus: Where,
    where: Where | None = None,
    statistic: str = "mean",
    options: Mapping[str, Any] | None = None,
    other: str | None = None,
    *,
    combined: Callable[[pd.Series, pd.Series], pd.Series],
) -> pd.Series:
    """A statistic of one setting `combined` with that of another, for the seeds that both have.

    of, minus  what picks the two, beside what both share in `where`
    other      the measure of the second, if it is another one
    statistic  of one setting, by name; `options` are its further arguments
    Raises as that does, and ValueError for an unknown statistic or option.
    """
    if problem := unknown(statistic, options or {}):
        raise ValueError(problem)
    first, second = (
        OF_ONE[statistic](swept, measure=each, where={**(where or {}), **own}, **(options or {}))
        for each, own in ((measure, of), (other or measure, minus))
    )
    return combined(first, second).dropna()


def _above(first: pd.Series, second: pd.Series) -> pd.Series:
    """100 where the first is above the second, else 0: for claims with interval=share."""
    return 100.0 * ((first - second).dropna() > 0)


difference = partial(paired, combined=operator.sub)
ratio = partial(paired, combined=operator.truediv)
share = partial(paired, combined=_above)

OF_ONE: dict[str, Callable[..., pd.Series]] = {each.__name__: each for each in (mean, best, place, height, threshold)}
"""Statistics of one setting, by name."""
STATISTICS = OF_ONE | {"difference": difference, "ratio": ratio, "share": share}
"""All of them: what claims may ask for."""


def unknown(statistic: str, arguments: Mapping[str, Any]) -> str:
    """What is wrong with asking for a statistic of one setting with these arguments; empty if nothing is."""
    if statistic not in OF_ONE:
        return f"no statistic {statistic!r} of one setting{hint(statistic, OF_ONE)}. Allowed: {', '.join(OF_ONE)}"
    takes = list(signature(OF_ONE[statistic]).parameters)[1:]
    strange = [name for name in arguments if name not in takes]
    return f"{statistic} takes no {strange[0]!r}{hint(strange[0], takes)}" if strange else ""


def _one_of(name: str, given: str, meanings: Mapping[str, int]) -> int:
    if given not in meanings:
        raise ValueError(f"{name}={given!r}: must be {' or '.join(meanings)}")
    return meanings[given]


def _none() -> pd.Series:
    return pd.Series(dtype=float).rename_axis("seed")
