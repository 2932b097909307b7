"""From loose runs to arrays: one axis for settings, one for seeds. Arrays in, arrays out.

Seeds are an axis of their own because settings are compared seed by seed. A seed without a result is a nan
in the array; it is counted, never filled in.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Grid:
    """One number per setting and seed.

    values    # [setting, seed], any unit; nan where there is no result
    settings  what the rows are
    seeds     what the columns are, ascending
    """

    values: NDArray[np.float64]
    settings: tuple[Hashable, ...]
    seeds: tuple[int, ...]

    def present(self, setting: Hashable) -> NDArray[np.float64]:
        """The results of a setting # [seed with a result]; empty for a setting that has none."""
        row = self._row(setting)
        return row[np.isfinite(row)]

    def missing(self, setting: Hashable) -> tuple[int, ...]:
        """The seeds that other settings have a column for and this one has no result for."""
        row = self._row(setting)
        return tuple(seed for seed, value in zip(self.seeds, row, strict=True) if not np.isfinite(value))

    def pairs(self, a: Hashable, b: Hashable) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The results of two settings at the seeds both have # [shared seed] each, same order."""
        first, second = self._row(a), self._row(b)
        shared = np.isfinite(first) & np.isfinite(second)
        return first[shared], second[shared]

    def _row(self, setting: Hashable) -> NDArray[np.float64]:
        if setting not in self.settings:
            return np.full(len(self.seeds), np.nan)
        return self.values[self.settings.index(setting)]


def grid(values: Sequence[float], settings: Sequence[Hashable], seeds: Sequence[int]) -> Grid:
    """Arrange one number per run by setting (in order of appearance) and seed (ascending).

    values, settings, seeds  # [run] each; a value that is not finite counts as missing
    Raises ValueError for unequal lengths and for two runs of the same setting and seed.
    """
    rows, columns = tuple(dict.fromkeys(settings)), tuple(sorted(set(seeds)))
    array = np.full((len(rows), len(columns)), np.nan)
    taken: set[tuple[Hashable, int]] = set()
    for value, setting, seed in zip(values, settings, seeds, strict=True):
        if (setting, seed) in taken:
            raise ValueError(f"two runs of setting {setting} with seed {seed}: n would count one seed twice")
        taken.add((setting, seed))
        if np.isfinite(value):
            array[rows.index(setting), columns.index(seed)] = value
    return Grid(array, rows, columns)
