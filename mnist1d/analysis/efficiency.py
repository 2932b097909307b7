"""The page of experiment=efficiency: what a data set tells about models, and what it costs to be told.

The page's own columns, of runs that were trained alone by one thread:

    class           of the model: logistic, mlp, cnn (in two dimensions for images) or gru
    final           test accuracy (%) after the last step
    step_ms         processor time of an optimiser step in milliseconds, median over the run
    cost            processor time of all steps in seconds, at that pace
    settled         the same until test accuracy is first within SETTLED points of the final one
    rate            training samples per second of processor time
    energy          joules, if a busy core takes WATTS
    parameters, flops, step_bytes       of the model (`mnist1d.footprint`)

Statistics: level, difference; `ratio` of a measure between two settings; `separation` of a data set, points by which
two classes of models differ, mean over pairs; `cost_of` a data set, all classes once; and the ratios of two data sets
in separation, in cost, and in separation per cost (`yield_ratio`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mnist1d.analysis import figures
from mnist1d.analysis.data_sets import DOWNLOADED, NAME, known, look, not_run, one_protocol_each
from mnist1d.analysis.intervals import Interval, basis, interval_of, log_t_interval, shown, span, t_interval
from mnist1d.analysis.page import NoRuns, Page, Picture, Statistic, Table
from mnist1d.analysis.power import LEVEL, POWER, samples_needed, seeds_needed
from mnist1d.analysis.protocol import MISSING, command, finished, missing
from mnist1d.analysis.read import Runs
from mnist1d.analysis.statistics import difference, level

METRICS = ("test/acc",)
"""The histories that the page needs."""

CLASSES = ("logistic", "mlp", "cnn", "gru")
"""The paper's four; what is compared are all pairs of them."""
CONVOLUTIONS = ("cnn", "cnn2d")
"""Of signals, and of images: one class."""
SETTLED = 2.0
"""Points of test accuracy."""
WATTS = 12.0
"""Of a busy core: what Green Algorithms assumes of a processor it does not know (Lannelongue, Grealey & Inouye 2021,
Advanced Science 8, 2100707). Memory, cooling and idle cores come on top."""
OURS = "mnist1d"


def page(runs: Runs) -> Page:
    """The page of `runs`; raises NoRuns when none of them is finished and was trained alone."""
    table, left_out = comparable(runs)
    done, again = table[table["status"] == "FINISHED"], _again(runs.table)
    if done.empty:
        raise NoRuns(f"no run is finished that can be compared ({'; '.join(left_out)})", again)
    pictures = (draw_time(runs, done), draw_separation(done))
    return Page(
        table,
        tuple(picture for picture in pictures if picture),
        (separation_table(done), run_table(done), step_table(done), power_table(done)),
        {name: partial(statistic, done) for name, statistic in STATISTICS.items()},
        (*left_out, *[f"to train again what was not alone: {again}"] * bool(again), *_missing(table)),
    )


# -- which runs, and what they took -----------------------------------------------------------------------


def comparable(runs: Runs) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of one protocol for every data set, trained alone, with the page's columns; remarks on the others."""
    table = finished(runs)
    models = zip(table["model.name"], table[NAME], strict=True)
    fits = np.array([name not in CONVOLUTIONS or name == _convolution(data) for name, data in models])
    alone = _alone(table)
    kept, remarks = one_protocol_each(table[alone & fits], {"seed"}) if (alone & fits).any() else (table[:0], ())
    counts = {
        "not trained alone by one thread": int((~alone).sum()),
        "of convolutions that the data are not made for": int((alone & ~fits).sum()),
    }
    left_out = [f"{n} runs left out, {reason}" for reason, n in counts.items() if n]
    return _measured(runs, kept) if len(kept) else kept, (*left_out, *remarks)


def _alone(table: pd.DataFrame) -> pd.Series:
    """Which runs were trained alone by one thread, or are not finished."""
    alone = (table["mnist1d.stack_size"].astype(float) == 1) & (table["trainer.threads"] == 1)
    return alone | (table["status"] != "FINISHED")


def _again(table: pd.DataFrame) -> str:
    """The command that trains runs once more that were not trained alone: they count as recorded all the same."""
    others = table[~_alone(table)]
    return f"{command('efficiency', others)} force=true" if len(others) else ""


def _convolution(data: str) -> str:
    return "cnn" if data == OURS else "cnn2d"


def _measured(runs: Runs, table: pd.DataFrame) -> pd.DataFrame:
    """`table` with the page's own columns."""
    step = table["time/step_cpu_seconds"].astype(float)
    steps = table["trainer.max_steps"].astype(int)
    footprints = [_footprint(run) for run in table.to_dict("records")]
    return table.assign(
        **{"class": table["model.name"].replace({"cnn2d": "cnn"})},
        final=100 * table["test/acc_final"].astype(float),
        step_ms=1000 * step,
        cost=step * steps,
        settled=step * _settled(runs, table),
        rate=table["data.batch_size"].astype(int) / step,
        energy=WATTS * step * steps,
        parameters=[each.parameters for each in footprints],
        flops=[each.flops for each in footprints],
        step_bytes=[each.step_bytes for each in footprints],
    )


def _footprint(run: Mapping[str, Any]) -> Any:
    """What a run's model takes; of equal models counted once."""
    from mnist1d.footprint import footprint  # torch takes seconds to import: not where there is no such run

    lacking = {key for key, value in run.items() if isinstance(value, float) and np.isnan(value)}
    config = {key: value for key, value in run.items() if key.startswith("model.") and key not in lacking}
    key = repr((sorted(config.items()), run["data.batch_size"]))
    if key not in _FOOTPRINTS:
        _FOOTPRINTS[key] = footprint(config, int(run["data.batch_size"]))
    return _FOOTPRINTS[key]


_FOOTPRINTS: dict[str, Any] = {}


def _settled(runs: Runs, table: pd.DataFrame) -> NDArray[np.float64]:
    """Steps until a run's test accuracy is first within SETTLED points of its last, # [run]; nan without a history."""
    found = []
    for run in table["run_id"]:
        steps, values = runs.curves("test/acc", [run])
        near = steps[100 * values[0] >= 100 * values[0, -1] - SETTLED] if steps.size else steps
        found.append(near[0] + 1 if near.size else np.nan)
    return np.array(found, dtype=float)


def _missing(table: pd.DataFrame) -> list[str]:
    expected, texts = set(table["seed"]) if len(table) else set(), []
    for name in known(table):
        own = table[table[NAME] == name]
        for kind in _classes(own):
            texts += missing(own, f"{MISSING}{kind} on {name}", {"class": kind}, expected)
    return texts


def _classes(table: pd.DataFrame) -> list[str]:
    names = set(table["class"])
    return [kind for kind in CLASSES if kind in names] + sorted(names - set(CLASSES))


# -- statistics: one number per seed ----------------------------------------------------------------------


def ratio(table: pd.DataFrame, measure: str, of: Mapping[str, Any], to: Mapping[str, Any]) -> pd.Series:
    """`measure` of one setting over that of another, at the same seeds. Raises as `level` does."""
    return (level(table, measure, of) / level(table, measure, to)).dropna()


def separation(table: pd.DataFrame, data: str) -> pd.Series:
    """Points by which two of CLASSES differ in final accuracy on a data set, mean over pairs; seeds that all have."""
    finals = _by_class(table, "final", data)
    pairs = [(finals[a] - finals[b]).abs() for a, b in combinations(CLASSES, 2)]
    return sum(pairs, pd.Series(0.0, finals.index)) / len(pairs)


def cost_of(table: pd.DataFrame, data: str) -> pd.Series:
    """Seconds of processor time of all CLASSES on a data set, one run each; seeds that all have."""
    return _by_class(table, "cost", data).sum(axis="columns")


def _by_class(table: pd.DataFrame, measure: str, data: str) -> pd.DataFrame:
    """A measure # [seed, class] of the seeds that every class has."""
    return pd.DataFrame({kind: level(table, measure, {NAME: data, "class": kind}) for kind in CLASSES}).dropna()


def separation_ratio(table: pd.DataFrame, of: str, to: str) -> pd.Series:
    """How many times as far one data set separates models as another does, at the same seeds."""
    return (separation(table, of) / separation(table, to)).dropna()


def cost_ratio(table: pd.DataFrame, of: str, to: str) -> pd.Series:
    """How many times as much processor time one data set takes as another, at the same seeds."""
    return (cost_of(table, of) / cost_of(table, to)).dropna()


def per_second(table: pd.DataFrame, data: str) -> pd.Series:
    """Points of separation per second of processor time, by seed."""
    return (separation(table, data) / cost_of(table, data)).dropna()


def yield_ratio(table: pd.DataFrame, of: str, to: str) -> pd.Series:
    """How many times as much separation one data set gives per second as another, at the same seeds."""
    return (per_second(table, of) / per_second(table, to)).dropna()


STATISTICS: dict[str, Statistic] = {
    "level": level,
    "difference": difference,
    "ratio": ratio,
    "separation": separation,
    "cost_of": cost_of,
    "separation_ratio": separation_ratio,
    "cost_ratio": cost_ratio,
    "yield_ratio": yield_ratio,
}


# -- tables -----------------------------------------------------------------------------------------------


def separation_table(done: pd.DataFrame) -> Table:
    """Data set: how far it separates classes of models, what that costs, and both together."""
    rows = []
    for name in known(done):
        found = [interval_of(separation(done, name)), _positive(cost_of(done, name)), _positive(per_second(done, name))]
        rows.append((look(name).name, *(shown(each, "z.3g") for each in found), span(each.n for each in found if each)))
    columns = ("data", "separation (points)", "processor time (s)", "points per second", "n")
    return Table(
        "What a data set tells about models: mean and 95% interval over n seeds",
        columns,
        (*rows, *_not_run(done, len(columns))),
        "separation: by how many points of test accuracy two of the four classes differ, mean over the six pairs.\n"
        "processor time: of the optimiser steps of all four, one run each; means of it and of the last column are "
        "geometric.",
    )


def run_table(done: pd.DataFrame) -> Table:
    """Data set x class: accuracy, and what a run takes as a whole."""
    measures = {"final": "z.1f", "cost": "z.3g", "settled": "z.2g", "energy": "z.3g"}
    columns = ("data", "class", "accuracy (%)", "time (s)", "until settled (s)", "energy (J)", "GFLOP", "n")
    return Table(
        f"A run of {span(done['trainer.max_steps'].astype(int))} steps",
        columns,
        (*_by_setting(done, measures, _gigaflops), *_not_run(done, len(columns))),
        "accuracy: on test data after the last step. time: processor time of the optimiser steps.\n"
        f"until settled: until test accuracy is first within {SETTLED:g} points of the final one.\n"
        f"energy: an estimate, {WATTS:g} W for a busy core and nothing else.",
    )


def step_table(done: pd.DataFrame) -> Table:
    """Data set x class: what an optimiser step takes."""
    measures = {"step_ms": "z.3g", "rate": "z.3g"}
    columns = ("data", "class", "time (ms)", "samples per second", "parameters", "kFLOP per sample", "memory (MB)", "n")
    return Table(
        "An optimiser step on a batch",
        columns,
        (*_by_setting(done, measures, _sizes), *_not_run(done, len(columns))),
        "time: of one processor core, median over the run. kFLOP: products and convolutions, forward and backward.\n"
        "memory: weights, gradients, Adam's moments and activations; the program itself and the data come on top.",
    )


def _by_setting(
    done: pd.DataFrame, measures: Mapping[str, str], facts: Callable[[pd.Series], tuple[str, ...]]
) -> Iterable[tuple[str, ...]]:
    for name in known(done):
        own = done[done[NAME] == name]
        for kind in _classes(own):
            where = {NAME: name, "class": kind}
            found = [interval_of(level(done, measure, where)) for measure in measures]
            cells = [shown(each, form) for each, form in zip(found, measures.values(), strict=True)]
            first = own[own["class"] == kind].iloc[0]
            yield (look(name).name, kind, *cells, *facts(first), span(each.n for each in found[:1] if each))


def _gigaflops(run: pd.Series) -> tuple[str, ...]:
    total = run["flops"] * int(run["data.batch_size"]) * int(run["trainer.max_steps"])
    return (f"{total / 1e9:.3g}",)


def _sizes(run: pd.Series) -> tuple[str, ...]:
    return (f"{run['parameters']:,}", f"{run['flops'] / 1e3:.3g}", f"{run['step_bytes'] / 1e6:.2g}")


def _not_run(done: pd.DataFrame, columns: int) -> tuple[tuple[str, ...], ...]:
    return not_run(done, DOWNLOADED, columns)


def _positive(values: pd.Series) -> Interval | None:
    """The interval of a geometric mean; None where there is no value."""
    return interval_of(values.to_numpy(), log_t_interval)


def power_table(done: pd.DataFrame) -> Table:
    """Data set x pair of classes: seeds, seconds and test samples that it takes to tell the two apart."""
    rows = [row for name in known(done) for pair in combinations(CLASSES, 2) if (row := _power_row(done, name, pair))]
    columns = ("data", "pair", "difference (points)", "seeds", "time (s)", "test samples", "n")
    return Table(
        f"What it takes to tell two models apart (level {LEVEL:g}, power {POWER:g})",
        columns,
        (*rows, *_not_run(done, len(columns))),
        "difference: paired by seed. seeds: of a paired t test on the same test samples; in brackets for the ends of\n"
        "the interval of the difference, – where that contains 0. time: processor time of so many runs of both.\n"
        "test samples: of a z test between two runs, as if each had samples of its own. From n seeds all are rough.",
    )


def _power_row(done: pd.DataFrame, name: str, pair: tuple[str, str]) -> tuple[str, ...] | None:
    of, minus = ({NAME: name, "class": kind} for kind in pair)
    values = difference(done, "final", of, minus)
    if len(values) < 2:
        return None
    found, spread = t_interval(values.to_numpy()), float(values.std(ddof=1))
    seeds = seeds_needed(found.mean, spread)
    each = float((level(done, "cost", of) + level(done, "cost", minus)).median())
    means = [level(done, "final", where).mean() / 100 for where in (of, minus)]
    cells = (_seeds(found, spread), "–" if seeds is None else f"{seeds * each:.3g}", _count(samples_needed(*means)))
    return (look(name).name, " − ".join(pair), shown(found, "+z.1f"), *cells, str(found.n))


def _seeds(found: Interval, spread: float) -> str:
    """Seeds for the mean difference and for both ends of its interval."""
    ends = sorted((abs(found.low), abs(found.high)))
    fewest, most = seeds_needed(ends[1], spread), seeds_needed(ends[0], spread)
    most = None if found.low <= 0 <= found.high else most
    return f"{_count(seeds_needed(found.mean, spread))} [{_count(fewest)}, {_count(most)}]"


def _count(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"


# -- pictures ---------------------------------------------------------------------------------------------


def draw_time(runs: Runs, done: pd.DataFrame) -> Picture | None:
    """Test accuracy against processor time, a panel for each data set and a line for each class of models."""
    names, redo = known(done), command("efficiency", done)
    with figures.lab_style():
        figure, axes = figures.panels(len(names), size=(max(4.0, 2.5 * len(names) + 0.3), 3.9))
        for ax, letter, name in zip(axes, "abcdef", names, strict=False):
            _time_axes(ax, f"{letter}  {look(name).name}")
            for kind in _classes(done[done[NAME] == name]):
                _draw_class(ax, runs, done[(done[NAME] == name) & (done["class"] == kind)], kind)
            ax.label_outer()
        figures.legend(figure, [figures.sample(figures.look(kind)) for kind in _classes(done)])
        counts = done.groupby([NAME, "class"]).size()
        about = f"Test accuracy by processor time of the steps so far, one thread; {basis(counts)}"
        figures.caption(figure, f"Lines: {basis(counts)}. Time of the steps so far, one thread.\n{redo}")
    alt = "Test accuracy against processor time, a line for each class of models, a panel each for "
    return Picture("time", figure, alt + ", ".join(look(name).name for name in names), f"{about}. `{redo}`")


def _time_axes(ax: Axes, title: str) -> None:
    ax.set_title(title)
    ax.set_xscale("log")
    ax.set_xlabel("processor time (s)")
    ax.set_ylabel("test accuracy (%)")
    ax.set_ylim(0, 102)


def _draw_class(ax: Axes, runs: Runs, rows: pd.DataFrame, kind: str) -> None:
    steps, values = runs.curves("test/acc", rows["run_id"].tolist())
    if steps.size:
        seconds = (steps + 1) * float(rows["step_ms"].median()) / 1000
        figures.plot_band(ax, seconds, 100 * values, figures.look(kind), _spread(seconds))


def _spread(seconds: NDArray[np.floating]) -> list[int]:
    """Places of about six markers, evenly on a logarithmic axis."""
    wanted = np.geomspace(seconds[0], seconds[-1], 6)
    return sorted({int(np.abs(np.log(seconds / each)).argmin()) for each in wanted})


def draw_separation(done: pd.DataFrame) -> Picture | None:
    """How far every data set separates models, in all and per second of processor time."""
    names, redo = [name for name in known(done) if len(separation(done, name))], command("efficiency", done)
    if not names:
        return None
    kinds = (
        ("a  Separation", "points of test accuracy", separation),
        ("b  Per second of processor time", "points of test accuracy per second", per_second),
    )
    with figures.lab_style():
        figure, axes = figures.panels(2, size=(7.6, 3.4), below=0.95, gap=0.3, sharey=False)
        for ax, (title, label, statistic) in zip(axes, kinds, strict=True):
            found = [t_interval(statistic(done, name).to_numpy()) for name in names]
            figures.plot_bars(ax, range(len(names)), found, color=look(OURS).color)
            ax.set_xticks(range(len(names)), [look(name).name for name in names])
            ax.set_title(title)
            ax.set_ylabel(label)
        seeds = basis(each.n for each in found)
        about = f"By how much two of four classes of models differ, mean over the six pairs; {seeds}"
        figures.caption(figure, f"{about}.\n{redo}")
    alt = "Separation of classes of models as bars, in points and in points per second, for "
    return Picture("separation", figure, alt + ", ".join(look(name).name for name in names), f"{about}. `{redo}`")
