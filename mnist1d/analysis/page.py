"""What an experiment's module hands to the report: tables, pictures, and statistics for the claims to ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

Statistic = Callable[..., pd.Series]
"""``statistic(**arguments)``: one number per seed, in the unit of the claim, indexed by seed; may be empty."""


class NoRuns(RuntimeError):
    """There is no finished run to report on; the message says what there is instead.

    again  the command that makes some, where the experiment's own would find these runs recorded and train nothing
    """

    def __init__(self, message: str, again: str = "") -> None:
        super().__init__(message)
        self.again = again


@dataclass(frozen=True)
class Table:
    """A table as text: what the terminal, the Markdown file and the HTML page show."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str

    def markdown(self) -> str:
        """The table in GitHub's Markdown, between its title and its note."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"**{self.title}**\n\n{body}\n\n{self.note}".rstrip()


@dataclass(frozen=True)
class Picture:
    """A figure with the name of its file (without ending), and in words what it shows."""

    name: str
    figure: Figure
    alt: str  # what is to be seen, for those who cannot
    caption: str  # n, interval and command


@dataclass(frozen=True)
class Page:
    """The section of one experiment.

    table       the runs it rests on, finished or not, one per setting and seed, with the page's own columns
    pictures    figures, the most important first
    tables      tables, the most important first
    statistics  name -> function over `table`, for the claims of `conf/claim/<experiment>.yaml`
    remarks     what is missing, what was left out and why
    """

    table: pd.DataFrame
    pictures: tuple[Picture, ...]
    tables: tuple[Table, ...]
    statistics: Mapping[str, Statistic]
    remarks: tuple[str, ...] = ()
