"""The page of any ablation, as conf/page/<experiment>.yaml describes it.

An ablation is three files and no code: conf/experiment/ says what is trained, conf/claim/ what is expected and by which
rule it is judged, conf/page/ (`mnist1d.analysis.described_page`) what is shown. Its claims may ask for all statistics
of `mnist1d.analysis.swept`, by the names that the page gives its keys and measures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from string import ascii_lowercase
from textwrap import wrap
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from mnist1d.analysis import claims, figures
from mnist1d.analysis.described_page import Cell, Description, FigureOf, Key, TableOf, setting
from mnist1d.analysis.evidence import number
from mnist1d.analysis.figures import INK, Look
from mnist1d.analysis.intervals import basis, interval_of, span
from mnist1d.analysis.page import NoRuns, Page, Picture, Table
from mnist1d.analysis.protocol import MISSING, command, finished, missing, one_protocol
from mnist1d.analysis.read import Runs
from mnist1d.analysis.statistics import matching
from mnist1d.analysis.swept import OF_ONE, STATISTICS, Swept, curves, difference
from mnist1d.config import ConfigError, Fault
from mnist1d.config.faults import Absent
from mnist1d.spelling import spelled

T = TypeVar("T")

LOOKS = (  # of the values of a key, in their order
    Look("", "#16295c", "o"),
    Look("", "#e8951a", "s", (0, (5, 1.5, 1, 1.5))),
    Look("", "#2a7d62", "^", (0, (8, 1.5))),
    Look("", "#a8509a", "v", (0, (1, 1.2))),
    Look("", "#8c8c8c", "D", (0, (3, 1, 1, 1, 1, 1))),
    Look("", "#6f86c9", "o", figures.DASHES, hollow=True),
    Look("", "#c05a3c", "s", (0, (2, 2)), hollow=True),
    Look("", "#000000", "^", (0, (1, 3)), hollow=True),
    Look("", "#a08a1c", "v", (0, (4, 1, 1, 1)), hollow=True),
)
ACROSS = 3
"""Most panels in a row."""
WIDTH = 7.6
"""Inches that a figure is wide."""
LEGEND, SAMPLE = 100, 9
"""Letters that a legend is wide, and the sample of a line."""
LETTER = 0.075
"""Inches that a letter of a tick's label is wide."""


def page(description: Description, runs: Runs) -> Page:
    """The tables, pictures and statistics of an ablation.

    Raises NoRuns when no run is finished, ConfigError where the runs do not fit what the description asks of them.
    """
    table, remarks = comparable(description, finished(runs))
    done = table[table["status"] == "FINISHED"]
    if done.empty:
        raise NoRuns(f"no run is finished that can be compared ({'; '.join(remarks)})")
    found = Swept(done, _histories(description, runs, done))
    tables = _made(description, "tables", lambda name: cell_table(description, found, description.tables[name]))
    pictures = _made(description, "figures", lambda name: draw(description, found, name, table))
    return Page(
        table,
        tuple(picture for picture in pictures if picture),
        tuple(each for each in tables if each.rows),
        {name: partial(statistic, found) for name, statistic in STATISTICS.items()},
        (*remarks, *_missing(description, table)),
    )


def _made(description: Description, kind: str, make: Callable[[str], T]) -> list[T]:
    """All figures or tables; raises ConfigError with what the statistics of any of them refuse."""
    made, faults = [], []
    for name in getattr(description, kind):
        try:
            made.append(make(name))
        except (KeyError, ValueError) as error:
            faults.append(Fault(f"page/{description.experiment}.yaml.{kind}.{name}", Absent, str(error.args[0])))
    if faults:
        raise ConfigError(faults)
    return made


# -- the runs ---------------------------------------------------------------------------------------------


def comparable(description: Description, table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of one protocol, with a column for every key and measure, and a remark on every group left out.

    A key or metric that no run has is a column of nothing: an ablation may be run in parts.
    """
    wanted = [*description.axes, *(measure.metric for measure in description.measures.values())]
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *wanted])))
    kept, remarks = one_protocol(table, {"seed", *description.axes}, description.free)
    columns = {name: _column(kept, name, key) for name, key in description.keys.items()}
    for name, measure in description.measures.items():
        columns[name] = kept[measure.metric].astype(float) * measure.times + measure.plus
    return kept.assign(**columns), remarks


def _column(table: pd.DataFrame, name: str, key: Key) -> pd.Series:
    rows = zip(*(table[each] for each in key.made_of), strict=True)
    if key.together:
        texts = (["null" if _is_none(value) else spelled(value) for value in row] for row in rows)
        return pd.Series(map(" ".join, texts), table.index, dtype=object)
    if key.first_of:
        firsts = (next((value for value in row if not _is_none(value)), None) for row in rows)
        return pd.Series(map(_whole, firsts), table.index, dtype=object)
    if key.product_of:
        return pd.Series([_whole(math.prod(map(float, row))) for row in rows], table.index, dtype=object)
    return table[name]


def _whole(value: Any) -> Any:
    """A whole number as one; a column with gaps, and products, make others of them."""
    return round(value) if isinstance(value, float) and abs(value - round(value)) < 1e-6 else value


def _histories(description: Description, runs: Runs, done: pd.DataFrame) -> dict[str, pd.DataFrame]:
    wanted = {name: measure for name, measure in description.measures.items() if measure.history}
    return {
        name: runs.histories[measure.metric].reindex(done["run_id"]).astype(float) * measure.times + measure.plus
        for name, measure in wanted.items()
    }


def _missing(description: Description, table: pd.DataFrame) -> Iterator[str]:
    """The seeds without a result; those of any setting are expected of every one."""
    expected, keys = set(table["seed"]), [key for key in description.keys if table[key].map(str).nunique() > 1]
    telling, texts = description.telling, dict[str, list[str]]()
    for _, rows in table.groupby([table[key].map(str) for key in keys], sort=False) if keys else [((), table)]:
        where = {key: rows[key].iloc[0] for key in keys}
        for text in missing(rows, "", {}, expected):
            known = {key: value for key, value in where.items() if key in telling and not _is_none(value)}
            texts.setdefault(text.removeprefix(": "), []).append(setting(known, description.keys))
    for text, settings in texts.items():
        others = f" and {len(settings) - 1} other settings" if len(settings) > 1 else ""
        yield f"{MISSING}{settings[0]}{others}: {text}"


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _values(description: Description, rows: pd.DataFrame, key: str) -> list[Any]:
    return description.keys[key].ordered(value for value in rows[key] if not _is_none(value))


# -- one statistic of one setting -------------------------------------------------------------------------


def sample(found: Swept, cell: Cell, where: Mapping[str, Any]) -> pd.Series:
    """The numbers of a cell in the setting `where`, by seed: the statistic, or its difference to the base setting."""
    arguments = dict(cell.arguments)
    where = {**where, **arguments.pop("where", {})}
    if not cell.minus:
        return OF_ONE[cell.statistic](found, where=where, **arguments)
    measure = arguments.pop("measure")
    return difference(found, measure, where, {**where, **cell.minus}, None, cell.statistic, arguments)


def _text(description: Description, found: Swept, cell: Cell, where: Mapping[str, Any]) -> tuple[str, int]:
    """A cell in print, and its number of seeds; a base setting is not compared with itself."""
    own = {**where, **cell.arguments.get("where", {})}
    if cell.minus and all(own.get(key, value) == value for key, value in cell.minus.items()):
        return "base", 0
    kind, _ = claims.KINDS[cell.interval]
    interval = interval_of(sample(found, cell, where).to_numpy(), kind)
    return number(interval, description.unit(cell), "+" if cell.minus else ""), interval.n if interval else 0


def cell_table(description: Description, found: Swept, asked: TableOf) -> Table:
    """A table as it is described; rows without any number are left out."""
    rows = matching(found.table, asked.where)
    names = [(asked.by, value) for value in _values(description, rows, asked.by)] if asked.by else list(asked.cells)
    lines = []
    for values in _combinations(description, rows, asked.rows):
        where = {**asked.where, **dict(zip(asked.rows, values, strict=True))}
        cells = [_text(description, found, *_cell(asked, name, where)) for name in names]
        if any(n for _, n in cells):
            labels = [description.keys[key].named(value) for key, value in zip(asked.rows, values, strict=True)]
            lines.append((*labels, *(text for text, _ in cells), span(n for _, n in cells if n)))
    columns = [description.keys[each].label for each in asked.rows]
    heads = [each if isinstance(each, str) else description.keys[each[0]].titled(each[1]) for each in names]
    note = f"{asked.note}\n" if asked.note else ""
    title = f"{asked.title}: mean and 95% interval over n seeds"
    return Table(title, (*columns, *heads, "n"), tuple(lines), f"{note}{_paired(asked)}".rstrip())


def _paired(asked: TableOf) -> str:
    return "Differences are paired by seed." if any(cell.minus for cell in asked.cells.values()) else ""


def _cell(asked: TableOf, name: str | tuple[str, Any], where: Mapping[str, Any]) -> tuple[Cell, dict[str, Any]]:
    if isinstance(name, str):
        return asked.cells[name], dict(where)
    (cell,) = asked.cells.values()
    return cell, {**where, name[0]: name[1]}


def _combinations(description: Description, rows: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    there = set(zip(*(rows[key].map(str) for key in keys), strict=True))
    for values in product(*(_values(description, rows, key) for key in keys)):
        if tuple(map(str, values)) in there:
            yield values


# -- pictures ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One line of a panel: how it looks, the kind of its interval, and its numbers # [value of the axis, seed]."""

    look: Look
    interval: str
    frame: pd.DataFrame


def draw(description: Description, found: Swept, name: str, table: pd.DataFrame) -> Picture | None:
    """A figure as it is described; None where there is nothing to be drawn.

    table  of all runs: the caption says where some have no result
    """
    asked = description.figures[name]
    rows = matching(found.table, asked.where)
    panels = _shown(description, rows, asked, asked.panels)
    drawn = [(panel, _lines(description, found, asked, panel)) for panel in panels]
    drawn = [(panel, lines) for panel, lines in drawn if lines]
    if not drawn:
        return None
    counts = (n for _, lines in drawn for line in lines for n in line.frame.count(axis="columns"))
    redo, kind = command(description.experiment, found.table), basis(counts)
    about = f"{asked.caption} {kind[0].upper()}{kind[1:]}.{_lost(description, asked, table)}"
    footer = [*wrap(about.replace("n = ", "n\xa0=\xa0"), int(WIDTH * figures.WIDE)), redo]
    handles = _handles(description, asked, drawn)
    columns = int(LEGEND / (SAMPLE + max((len(str(each.get_label())) for each in handles), default=0)))
    with figures.lab_style():
        figure, axes = _panels(len(drawn), -(-len(handles) // columns), len(footer))
        for letter, ax, (panel, lines) in zip(ascii_lowercase, axes, drawn, strict=False):
            ax.set_title(f"{letter}  {description.keys[asked.panels].titled(panel)}" if asked.panels else "")
            _draw_lines(ax, description, asked, lines)
        if asked.vertical == "log":
            figures.log_levels(axes[0])
        elif description.unit(asked.show) == "%":  # no value lies beyond, however wide the intervals
            low, high = axes[0].get_ylim()  # of all panels, once they are drawn
            axes[0].set_ylim(max(low, 0), min(high, 100))
        axes[0].set_ylabel(_label(description, asked))
        figures.legend(figure, handles, columns, len(footer))
        figures.caption(figure, "\n".join(footer))
        figures.make_room(figure, axes)
        for ax, (_, lines) in zip(axes, drawn, strict=False):  # now that limits and places are final
            _ticks(ax, description, asked, [value for line in lines for value in line.frame.index])
    return Picture(name, figure, asked.alt, f"{about} `{redo}`")


def _lost(description: Description, asked: FigureOf, table: pd.DataFrame) -> str:
    """The values of the axis at which runs of the solid lines have no result, and how many of how many."""
    if asked.over not in description.keys:
        return ""
    rows = matching(table, asked.where | asked.show.arguments.get("where", {}))
    for name, shown in asked.only.items():
        rows = rows[rows[name].isin(shown)]
    key, texts = description.keys[asked.over], []
    for value in _values(description, rows, asked.over):
        own = rows.loc[rows[asked.over] == value, "status"]
        if lost := int((own != "FINISHED").sum()):
            texts.append(f"{key.named(value)} ({lost} of {len(own)})")
    return f" Runs without a result: {key.label} {', '.join(texts)}." if texts else ""


def _panels(count: int, legend_rows: int, footer_lines: int) -> tuple[Figure, list[Axes]]:
    rows = -(-count // ACROSS)
    across, more = -(-count // rows), 0.2 * max(0, legend_rows - 1) + figures.LINE * (footer_lines - 2)
    gap = 0.08 if across < ACROSS else 0.14  # labels at the ends of neighbouring axes
    figure, axes = figures.panels(across, rows, size=(WIDTH, 4.0 + 2.6 * (rows - 1) + more), below=1.33 + more, gap=gap)
    for ax in axes[count:]:
        ax.set_visible(False)
    return figure, axes


def _lines(description: Description, found: Swept, asked: FigureOf, panel: Any) -> list[Line]:
    where = asked.where | ({asked.panels: panel} if asked.panels else {})
    lines = []
    for place, value in enumerate(_shown(description, matching(found.table, asked.where), asked, asked.lines)):
        own = where | ({asked.lines: value} if asked.lines else {})
        look = LOOKS[place % len(LOOKS)]
        look = replace(look, name=description.keys[asked.lines].titled(value) if asked.lines else "")
        looks = [(asked.show, look)]
        if asked.dashed:
            looks = [(asked.show, replace(look, line="-", hollow=False)), (asked.dashed, look.dashed)]
        for cell, each in looks:
            frame = _frame(description, found, asked, cell, own)
            lines += [Line(each, cell.interval, frame)] if frame.size else []
    return lines


def _shown(description: Description, rows: pd.DataFrame, asked: FigureOf, key: str | None) -> list[Any]:
    """The values of a key that has lines or panels of its own; one that stands for all without a key."""
    if key is None:
        return [None]
    return [value for value in _values(description, rows, key) if value in asked.only.get(key, [value])]


def _frame(
    description: Description, found: Swept, asked: FigureOf, cell: Cell, where: Mapping[str, Any]
) -> pd.DataFrame:
    """The numbers of a line # [value of the axis, seed], without values that no seed has."""
    if asked.measures:
        named = ({"arguments": {**cell.arguments, "measure": name}} for name in asked.measures)
        each = [sample(found, cell.model_copy(update=own), where) for own in named]
        return pd.DataFrame(each, index=asked.measures).dropna(how="all")
    if asked.over not in description.keys:
        return _recorded(found, asked.over, cell, where)
    values = _values(description, matching(found.table, where), asked.over)
    samples = {value: sample(found, cell, {**where, asked.over: value}) for value in values}
    return pd.DataFrame(samples.values(), index=pd.Index(list(samples), tupleize_cols=False)).dropna(how="all")


def _recorded(found: Swept, over: str, cell: Cell, where: Mapping[str, Any]) -> pd.DataFrame:
    where = {**where, **cell.arguments.get("where", {})}
    frame = curves(found, cell.measure, over, where)
    if cell.minus and len(frame):
        frame = frame - curves(found, cell.measure, over, {**where, **cell.minus})
    return frame.dropna(how="all")


def _draw_lines(ax: Axes, description: Description, asked: FigureOf, lines: Sequence[Line]) -> None:
    if asked.scale == "names":
        values = [value for line in lines for value in line.frame.index]
        _draw_points(ax, asked.measures or description.keys[asked.over].ordered(values), lines)
    else:
        ax.set_xscale(asked.scale)
        for line in lines:
            kind, _ = claims.KINDS[line.interval]
            places = [asked.measures.index(name) for name in line.frame.index] if asked.measures else line.frame.index
            figures.plot_band(ax, places, line.frame.to_numpy().T, line.look, kind=kind)
    if asked.show.minus:
        ax.axhline(0, color=INK, linewidth=0.8, zorder=1)


def _draw_points(ax: Axes, values: Sequence[Any], lines: Sequence[Line]) -> None:
    for place, line in enumerate(lines):
        aside = 0.5 * ((place + 0.5) / len(lines) - 0.5)  # intervals stand beside one another
        kind, _ = claims.KINDS[line.interval]
        found = [kind(row.dropna().to_numpy()) for _, row in line.frame.iterrows()]
        means = np.array([each.mean for each in found])
        ends = [means - [each.low for each in found], [each.high for each in found] - means]
        places = [values.index(value) + aside for value in line.frame.index]
        ax.errorbar(places, means, ends, **line.look.drawn | {"linestyle": ""}, capsize=2.5, elinewidth=1.0)


def _ticks(ax: Axes, description: Description, asked: FigureOf, values: Sequence[Any]) -> None:
    if asked.measures:
        places = [place for place, name in enumerate(asked.measures) if name in values]
        ax.set_xticks(places, [description.measures[asked.measures[place]].label for place in places])
        ax.set_xlabel(asked.axis)
        return
    if asked.over not in description.keys:
        measure = description.measures.get(asked.over)
        ax.set_xlabel(measure.titled if measure else "optimiser step")
        if asked.scale == "linear":
            ax.xaxis.set_major_locator(MaxNLocator(5))
        else:
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        return
    key = description.keys[asked.over]
    known = key.ordered(values)
    names = [key.named(value) for value in known]
    ticks = dict(enumerate(names)) if asked.scale == "names" else _apart(ax, dict(zip(known, names, strict=True)))
    ax.xaxis.set_major_locator(FixedLocator(list(ticks)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels(list(ticks.values()))
    ax.set_xlabel(key.axis)


def _apart(ax: Axes, labels: Mapping[float, str]) -> dict[float, str]:
    """Those of the labels, by their places on the axis, that do not run into the one before."""
    kept, end = {}, -math.inf
    for place, text in labels.items():
        middle = ax.get_xaxis_transform().transform((place, 0))[0] / ax.figure.dpi
        if middle - LETTER * len(text) / 2 > end:
            kept[place], end = text, middle + LETTER * (len(text) / 2 + 1)
    return kept


def _label(description: Description, asked: FigureOf) -> str:
    measure = description.measures[asked.show.measure]
    unit = description.unit(asked.show)
    label = asked.label or (f"{measure.label}, difference" if asked.show.minus else measure.label)
    return f"{label} ({unit})" if unit else label


def _handles(description: Description, asked: FigureOf, drawn: Sequence[tuple[Any, Sequence[Line]]]) -> list[Line2D]:
    looks = dict.fromkeys(line.look for _, lines in drawn for line in lines)
    if asked.scale == "names":  # points, which no line joins
        looks = dict.fromkeys(replace(look, line="") for look in looks)
    handles = [figures.sample(look) for look in looks if asked.lines and (not asked.dashed or not look.hollow)]
    if asked.dashed:
        plain = Look(description.measures[asked.show.measure].label, INK, "")
        other = replace(plain.dashed, name=description.measures[asked.dashed.measure].label)
        handles += [figures.sample(plain), figures.sample(other)]
    return handles
