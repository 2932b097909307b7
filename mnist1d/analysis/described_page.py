"""What the page of an ablation shows, as data: conf/page/<experiment>.yaml, checked as a whole when it is read.

keys      what the ablation compares: keys of the config, or columns made of several, each with its name in print
measures  what it compares them by: recorded metrics, each with a unit
figures   a measure, or another statistic of `mnist1d.analysis.swept`, against one key, lines by another, panels by
          a third
tables    rows by keys, columns by a key or by statistics; with `minus` paired differences to a base setting
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mnist1d.analysis import swept, yaml_file
from mnist1d.config.faults import Absent, Fault
from mnist1d.config.section import Section
from mnist1d.spelling import nearest, spelled

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "page"

Values = dict[str, Any]


class Key(Section):
    """Something that was swept: a key of the config under its own name, or a column of another name."""

    label: str = Field(description="in print")
    unit: str = Field("", description="of its values, in print; empty for numbers of no unit, and names")
    first_of: list[str] = Field([], description="keys of the config, of which the first one that a run has counts")
    product_of: list[str] = Field([], description="keys of the config that are multiplied")
    together: list[str] = Field([], description="keys of the config whose values, divided by spaces, are one text")
    names: dict[str, str] = Field({}, description="value -> in print; these come first, in this order")

    @property
    def made_of(self) -> list[str]:
        """The keys of the config that it is made of; none where it is one."""
        return [*self.first_of, *self.product_of, *self.together]

    @property
    def axis(self) -> str:
        """Label with unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def conflicts(self) -> Iterator[Fault]:
        if sum(map(bool, (self.first_of, self.product_of, self.together))) > 1:
            yield Fault("first_of", self.first_of, "is one way to make a column of several keys; so is another here")

    def named(self, value: Any) -> str:
        """A value in print."""
        return self.names.get(spelled(value), spelled(value))

    def titled(self, value: Any) -> str:
        """A value in print where the key's own name is not beside it."""
        return self.named(value) if self.names else f"{self.label} {self.named(value)}"

    def ordered(self, values: Iterable[Any]) -> list[Any]:
        """Values, each once: those with a name, numbers ascending, then the others as they come."""
        places = {text: place for place, text in enumerate(self.names)}
        known = list(dict.fromkeys(values))
        numbers = all(isinstance(value, int | float) for value in known)
        return sorted(known, key=lambda v: (places.get(spelled(v), len(places)), v if numbers else 0))


class Measure(Section):
    """A recorded metric, in a unit of the page's own: `times` the metric, plus `plus`."""

    metric: str = Field(description="as it is recorded, e.g. test/acc_final")
    label: str = Field(description="in print")
    unit: str = Field("%", description="in print; empty for a number of no unit")
    times: float = Field(100, description="factor from the metric's unit to this one")
    plus: float = Field(0, description="added to that, in this unit")
    history: bool = Field(False, description="whether it is looked at while a run trained, not only in the end")

    @property
    def titled(self) -> str:
        """Label with unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


class Cell(Section):
    """A statistic of one setting; the figure or table that it is of says which settings."""

    statistic: str = Field("mean", description="of one setting: a name in mnist1d.analysis.swept.OF_ONE")
    arguments: Values = Field(min_length=1, description="what that is asked for; measure is needed")
    minus: Values = Field({}, description="key -> value of the base setting; what is shown is the paired difference")
    interval: Literal["t", "log_t", "bootstrap"] = Field("t", description="kind of the 95% interval")
    unit: str | None = Field(None, description="in print; null: that of the measure")

    @property
    def measure(self) -> str:
        """The measure that it is of."""
        return str(self.arguments.get("measure"))

    def conflicts(self) -> Iterator[Fault]:
        if "measure" not in self.arguments:
            yield Fault("arguments.measure", Absent, "is missing")
        if problem := swept.unknown(self.statistic, self.arguments):
            yield Fault("statistic", self.statistic, problem)


class FigureOf(Section):
    """A statistic against a key, or against what a run recorded while it trained."""

    alt: str = Field(description="in words what is to be seen")
    caption: str = Field(description="what the lines are; n, interval and command are added")
    show: Cell = Field(description="the solid lines")
    dashed: Cell | None = Field(None, description="a second statistic of the same settings, dashed")
    over: str = Field(
        description="horizontal axis: a key, step, a measure with a history; or measures: several of them"
    )
    measures: list[str] = Field([], description="those measures: the one that is shown, then others like it")
    axis: str = Field("", description="label of the horizontal axis, where that is of measures")
    scale: Literal["linear", "log", "names"] = Field("linear", description="of that axis; names: one place per value")
    lines: str | None = Field(None, description="key that has a line for each value")
    panels: str | None = Field(None, description="key that has a panel for each value")
    only: dict[str, list[Any]] = Field({}, description="of these two keys, the values that are shown; absent: all")
    where: Values = Field({}, description="key -> value of the settings that are shown")
    label: str | None = Field(None, description="of the vertical axis; null: the measure and its unit")
    vertical: Literal["linear", "log"] = Field("linear", description="scale of the vertical axis")

    def conflicts(self) -> Iterator[Fault]:
        if (self.over == "measures") != bool(self.measures):
            yield Fault("measures", self.measures, "are needed for over=measures, and nowhere else")
        if self.over == "measures" and self.scale == "log":
            yield Fault("scale", self.scale, "has no place for measures", "names; linear joins them")


class TableOf(Section):
    """Cells by rows of settings and columns, which are the values of a key or different statistics."""

    title: str = Field(description="in print")
    rows: list[str] = Field(min_length=1, description="keys that have a row for each combination of values")
    by: str | None = Field(None, description="key that has a column for each value; cells has one entry then")
    cells: dict[str, Cell] = Field(min_length=1, description="name of the column -> what stands in it")
    where: Values = Field({}, description="key -> value of the settings that are shown")
    note: str = Field("", description="below the table")

    def conflicts(self) -> Iterator[Fault]:
        if self.by is not None and len(self.cells) > 1:
            yield Fault("cells", Absent, f"must have one entry, as by={self.by} makes the columns")


class Description(Section):
    """The page of one ablation."""

    experiment: str = Field(description="the ablation, from the name of the file")
    keys: dict[str, Key] = Field(min_length=1, description="name -> key; all that the ablation compares")
    free: list[str] = Field([], description="keys of the config in which runs may differ without being compared")
    measures: dict[str, Measure] = Field(min_length=1, description="name -> measure")
    figures: dict[str, FigureOf] = Field({}, description="name of the file -> figure, the most important first")
    tables: dict[str, TableOf] = Field(min_length=1, description="name -> table, the most important first")

    @property
    def axes(self) -> set[str]:
        """The keys of the config that are compared."""
        return {each for name, key in self.keys.items() for each in key.made_of or [name]}

    @property
    def telling(self) -> list[str]:
        """The keys that say something which those before do not."""
        found, known = [], set[str]()
        for name, key in self.keys.items():
            parts = {*key.made_of} or {name}
            found += [name] if parts - known else []
            known |= parts
        return found

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics whose histories the page needs."""
        return tuple(dict.fromkeys(each.metric for each in self.measures.values() if each.history))

    def unit(self, cell: Cell) -> str:
        """What the numbers of a cell are counted in: a difference of percentages in points."""
        own = self.measures[cell.measure].unit
        return cell.unit if cell.unit is not None else "points" if cell.minus and own == "%" else own

    def conflicts(self) -> Iterator[Fault]:
        """Names that stand for no key and no measure."""
        histories = [name for name, measure in self.measures.items() if measure.history]
        for name, figure in self.figures.items():
            place = f"figures.{name}"
            yield from self._unknown(f"{place}.over", [figure.over], [*self.keys, "step", "measures", *histories])
            yield from self._unknown(f"{place}.measures", figure.measures, self.measures)
            for field in ("lines", "panels"):
                value = getattr(figure, field)
                yield from self._unknown(f"{place}.{field}", [value] if value else [], self.keys)
            yield from self._unknown(f"{place}.where", figure.where, self.keys)
            yield from self._unknown(
                f"{place}.only", figure.only, [key for key in (figure.lines, figure.panels) if key]
            )
            for field, cell in (("show", figure.show), ("dashed", figure.dashed)):
                yield from self._cell_faults(f"{place}.{field}", cell) if cell else ()
                yield from self._axis_faults(place, field, figure, cell) if cell else ()
        for name, table in self.tables.items():
            place = f"tables.{name}"
            yield from self._unknown(f"{place}.rows", [*table.rows], self.keys)
            yield from self._unknown(f"{place}.by", [table.by] if table.by else [], self.keys)
            yield from self._unknown(f"{place}.where", table.where, self.keys)
            for label, cell in table.cells.items():
                yield from self._cell_faults(f"{place}.cells.{label}", cell)

    def _cell_faults(self, place: str, cell: Cell) -> Iterator[Fault]:
        yield from self._unknown(f"{place}.arguments.measure", [cell.measure], self.measures)
        yield from self._unknown(f"{place}.minus", cell.minus, self.keys)
        yield from self._unknown(f"{place}.arguments.where", cell.arguments.get("where", {}), self.keys)

    def _axis_faults(self, place: str, field: str, figure: FigureOf, cell: Cell) -> Iterator[Fault]:
        """Along what was recorded there are values, and no statistics of them."""
        if figure.over in [*self.keys, "measures"] or cell.measure not in self.measures:
            return
        if cell.statistic != "mean":
            text = f"cannot be shown over {figure.over}, which is no key"
            yield Fault(f"{place}.{field}.statistic", cell.statistic, text, "mean")
        if not self.measures[cell.measure].history:
            text = f"has no history to be shown over {figure.over}"
            yield Fault(f"{place}.{field}.arguments.measure", cell.measure, text)

    def _unknown(self, place: str, names: Iterable[str], known: Iterable[str]) -> Iterator[Fault]:
        words = list(known)
        for name in (name for name in names if name not in words):
            yield Fault(place, name, "is none of this page's names", ", ".join(words), nearest(name, words))


def load(experiment: str, folder: Path = FOLDER) -> Description:
    """The page of `folder`/`experiment`.yaml; raises ConfigError with all faults of the file."""
    values = yaml_file.read(folder / f"{experiment}.yaml", "page", "keys, measures, figures and tables")
    return yaml_file.make(Description, values, [f"page/{experiment}.yaml"], {"experiment": experiment})


def setting(where: Mapping[str, Any], keys: Mapping[str, Key]) -> str:
    """What picks a setting, in print."""
    return ", ".join(f"{keys[key].label} {keys[key].named(value)}" for key, value in where.items())
