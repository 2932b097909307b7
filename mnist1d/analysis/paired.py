"""Many paired differences in one table: interval and p value of each, adjusted over all of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

import pandas as pd

from mnist1d.analysis.intervals import holm, interval_of, shown, span, t_p_outside
from mnist1d.analysis.page import Table

K = TypeVar("K", bound=Hashable)


def adjusted(found: Mapping[K, pd.Series]) -> dict[K, float]:
    """Comparison -> p value of its paired t test, Holm-adjusted over all that have at least two seeds.

    found  comparison -> differences, by seed
    """
    tested = {key: t_p_outside(values.to_numpy(), 0, 0) for key, values in found.items() if values.size > 1}
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def difference_table(
    title: str,
    corner: str,
    found: Mapping[tuple[K, str], pd.Series],
    rows: Mapping[K, str],
    columns: tuple[str, ...],
    decimals: int,
    note: str = "",
) -> Table:
    """Rows x columns: mean ± half of the 95% interval of a paired difference, and its adjusted p value.

    corner  head of the column of rows
    found   (row, column) -> differences, by seed; cells without one are empty
    rows    row -> in print
    note    goes on with what is said of the intervals
    """
    p_values, lines = adjusted(found), []
    for row, label in rows.items():
        intervals = {column: interval_of(found.get((row, column), ())) for column in columns}
        cells = (shown(each, f"+z.{decimals}f") + _p(p_values.get((row, name))) for name, each in intervals.items())
        lines.append((label, *cells, span(each.n for each in intervals.values() if each)))
    tests = f"\np: paired t test, Holm-adjusted over all {len(p_values)} comparisons." if p_values else ""
    said = f"Mean ± half of the 95% interval over n seeds, paired by seed{note}.{tests}"
    return Table(title, (corner, *columns, "n"), tuple(lines), said)


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return " (p < 0.001)" if value < 0.001 else f" (p = {value:.3f})"
