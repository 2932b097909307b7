"""Statistics that every experiment has: one number per seed from a table of finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mnist1d.spelling import hint


def level(table: pd.DataFrame, measure: str, where: Mapping[str, Any]) -> pd.Series:
    """The column `measure` of one setting, indexed by seed; seeds without a result are left out.

    table  finished runs of one protocol, one row per setting and seed
    where  column -> value; together they must leave one row per seed
    Raises KeyError for a column that `table` lacks, ValueError where the rows belong to several settings.
    """
    rows = matching(table, where, measure)
    refuse_several(rows, where, ["seed"])
    return rows.set_index("seed")[measure].astype(float).dropna().sort_index()


def matching(table: pd.DataFrame, where: Mapping[str, Any], *columns: str) -> pd.DataFrame:
    """The rows of `table` with these values; raises KeyError where it lacks a column of `where` or of `columns`."""
    for key in (*columns, *where):
        if key not in table:
            raise KeyError(f"runs have no column {key!r}{hint(key, table.columns)}")
    rows = table
    for key, value in where.items():
        wanted = tuple(value) if isinstance(value, list) else value  # as the store's values are read
        rows = rows[np.array([cell == wanted for cell in rows[key]], dtype=bool)]
    return rows


def refuse_several(rows: pd.DataFrame, where: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Raise ValueError if rows picked by `where` share their `keys`, which tell apart the runs of one setting."""
    if rows.duplicated(list(keys)).any():
        texts = rows.drop(columns=[*keys, "seed", "run_id"], errors="ignore").map(str)
        varying = [key for key in texts if texts[key].nunique() > 1 and "." in key and not key.startswith("mnist1d.")]
        raise ValueError(f"{dict(where)} picks several settings, which differ in {', '.join(varying)}")


def difference(table: pd.DataFrame, measure: str, of: Mapping[str, Any], minus: Mapping[str, Any]) -> pd.Series:
    """`measure` of one setting minus that of another, paired: the seeds that both have. As `level` otherwise."""
    return (level(table, measure, of) - level(table, measure, minus)).dropna()
