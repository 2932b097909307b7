"""The page of experiment=metalearn_lr: where a learned learning rate ends, from where it gets there, and the best one.

The page's own columns:

    change     how a setting differs from the paper's: "", hidden=10, steps=50 (of a training), data (other
               samples; `seed` is theirs) or batches (reshuffled, in an order of each seed's own)
    arm        fixed: one training at a rate that stays; learned: the rate is moved after every training
    first      the rate of the first training
    outer      learning rate of the learning rate
    rate       the rate after the last step; of a fixed one its own
    loss       mean loss over the last training's mini-batches, what the rate is moved by
    last       loss of the last training's last mini-batch
    final      test accuracy (%) of the last training

Statistics: level and difference, of the paper's setting; `learned`, `optimum`, `error`, `reaches` and `drift`, of
any. A seed decides the initial weights; data and batches are the same for all, but for the changes that say otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mnist1d.analysis import figures
from mnist1d.analysis.figures import INK, Look
from mnist1d.analysis.intervals import basis, interval_of, log_t_interval, shown, span
from mnist1d.analysis.page import NoRuns, Page, Picture, Statistic, Table
from mnist1d.analysis.protocol import MISSING, command, finished, missing, one_protocol
from mnist1d.analysis.read import Runs
from mnist1d.analysis.statistics import difference, level

METRICS = ("meta/loss", "inner/loss", "lr")
"""The histories that the page needs."""

STARTS = {1.5: Look("from 1.5", "#16295c", "o"), 0.15: Look("from 0.15", "#e8951a", "s", figures.DASHES, hollow=True)}
"""First rates of the paper -> look."""
OUTER = 0.3
"""The paper's learning rate of the learning rate."""
PANELS = {"meta/loss": ("a  Mean loss", "loss"), "inner/loss": ("b  Last loss", ""), "lr": ("c  Learning rate", "")}
LOST = 10.0
"""A rate by which factor from the best fixed one has run away, where it is still finite."""
PAPER_DATA = 42
"""Seed of the paper's data."""
NEAR = 0.05
"""How far from the best fixed rate a rate has reached it, as a share of it."""

_COLUMNS = {"rate": "lr_final", "loss": "meta/loss_final", "last": "inner/loss_final"}
_SETTING = {"model.hidden": "hidden", "task.inner_steps": "steps"}
_AXES = {"seed", "data.seed", "data.batch_order", "optimizer.lr", "task.outer_lr", "trainer.max_steps", *_SETTING}


def page(runs: Runs) -> Page:
    """The page of `runs`; raises NoRuns when none of them is finished."""
    table, remarks = comparable(finished(runs))
    done = table[table["status"] == "FINISHED"]
    if done.empty:
        raise NoRuns(f"no run is finished that can be compared ({'; '.join(remarks)})")
    own, all_own = of(done), of(table)
    drawn = (draw_learning(runs, own), draw_optimum(own), draw_basin(table), draw_lengths(table))
    tables = (start_table(own), fixed_table(own), basin_table(all_own), change_table(table))
    return Page(
        table,
        tuple(picture for picture in drawn if picture),
        tuple(each for each in tables if each.rows),
        {name: partial(function, own) for name, function in (("level", level), ("difference", difference))}
        | {name: partial(function, done) for name, function in OF_DONE.items()}
        | {"reaches": partial(reaches, table)},
        (*remarks, *_missing(done, table)),
    )


def comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of one profile and protocol with the page's own columns, and a remark on every group left out."""
    table, left_out = _one_profile(table)
    longest = table.groupby(table["task.outer_lr"].astype(float) == 0)["trainer.max_steps"].transform("max")
    paper = {key: table.loc[table["trainer.max_steps"] == longest, key].mode().iloc[0] for key in _SETTING}
    # trainings longer than the paper's have fewer of them
    short = (table["trainer.max_steps"] < longest) & (table["task.inner_steps"] <= paper["task.inner_steps"])
    if short.any():
        left_out.append(f"{int(short.sum())} runs left out, of fewer than {longest[short].max():.0f} steps of the rate")
    kept, others = one_protocol(table[~short], _AXES)
    change = _change(kept, paper)
    finals = {name: kept.reindex(columns=[key])[key].astype(float) for name, key in _COLUMNS.items()}
    return kept.assign(
        change=change,
        seed=kept["seed"].mask(change == "data", kept["data.seed"]),
        arm=np.where(kept["task.outer_lr"].astype(float) == 0, "fixed", "learned"),
        first=kept["optimizer.lr"].astype(float),
        outer=kept["task.outer_lr"].astype(float),
        final=100 * kept.reindex(columns=["test/acc_final"])["test/acc_final"].astype(float),
        **finals,
    ), (*left_out, *others)


def _one_profile(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The runs of the profile with most steps of the rate: two have grids that do not fit together."""
    own = table.sort_values("trainer.max_steps", kind="stable")["profile"].iloc[-1]
    others = table.loc[table["profile"] != own, "profile"]
    return table[table["profile"] == own], [
        f"{count} runs left out, of profile {name}" for name, count in others.value_counts(sort=False).items()
    ]


def _change(table: pd.DataFrame, paper: Mapping[str, Any]) -> pd.Series:
    found = pd.Series("", index=table.index)
    for key, name in _SETTING.items():
        found = found.where(table[key] == paper[key], f"{name}=" + table[key].astype(str))
    found = found.mask(table["data.seed"] != PAPER_DATA, "data")
    return found.mask(table["data.batch_order"] == "shuffled", "batches")


def of(table: pd.DataFrame, change: str = "") -> pd.DataFrame:
    """The runs of one `change`, by default none: the paper's own setting."""
    return table[table["change"] == change]


def _missing(done: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """The seeds without a result, but for rates that ran away, which the maps show."""
    texts = []
    for change in sorted(set(table["change"])):
        own = of(table, change)
        for first, outer in product(_firsts(own), (0.0, OUTER)):
            if ((own["first"] == first) & (own["outer"] == outer)).any():
                label = " ".join([MISSING.strip(), *[change] * bool(change), f"lr={first:g} outer_lr={outer:g}"])
                texts += missing(own, label, {"first": first, "outer": outer}, set(of(done, change)["seed"]))
    return texts


def _firsts(own: pd.DataFrame) -> list[float]:
    paper = own[(own["arm"] == "fixed") | (own["first"].isin(STARTS) & (own["outer"] == OUTER))]
    return sorted(set(paper["first"]))


# -- statistics: one number per seed ----------------------------------------------------------------------


def learned(
    table: pd.DataFrame, first: float, outer: float = OUTER, measure: str = "rate", change: str = ""
) -> pd.Series:
    """Where the learned rate ends, or another column; by seed."""
    return level(of(table, change), measure, {"arm": "learned", "first": first, "outer": outer})


def optimum(table: pd.DataFrame, measure: str = "rate", change: str = "") -> pd.Series:
    """The best fixed rate of each seed, or its mean loss; by seed.

    It is the vertex of a parabola through the best rate of the grid and its neighbours, over the rate's logarithm.

    measure  rate or loss
    A seed counts if it has the whole grid and its best is not at an end of it. Raises ValueError for another `measure`.
    """
    if measure not in ("rate", "loss"):
        raise ValueError(f"measure is rate or loss, not {measure!r}")
    fixed = table[(table["arm"] == "fixed") & (table["change"] == change)]
    grid = fixed.pivot_table(index="seed", columns="first", values="loss").dropna()
    found = {seed: _vertex(np.log(losses.index.to_numpy(float)), losses.to_numpy()) for seed, losses in grid.iterrows()}
    place = 0 if measure == "rate" else 1
    return pd.Series({seed: vertex[place] for seed, vertex in found.items() if vertex}, dtype=float).rename_axis("seed")


def _vertex(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float] | None:
    best = int(y.argmin())
    if not 0 < best < len(y) - 1:
        return None
    near = slice(best - 1, best + 2)
    a, b, c = np.polyfit(x[near], y[near], 2)
    return float(np.exp(-b / (2 * a))), float(c - b**2 / (4 * a))


def error(
    table: pd.DataFrame, first: float, outer: float = OUTER, measure: str = "rate", change: str = ""
) -> pd.Series:
    """The learned rate over the best fixed one, or its mean loss minus the best one's; by seed.

    measure  rate (a ratio) or loss (a difference); raises ValueError for another
    """
    ends, best = learned(table, first, outer, measure, change), optimum(table, measure, change)
    return (ends / best if measure == "rate" else ends - best).dropna()


def reaches(table: pd.DataFrame, first: float, outer: float = OUTER, change: str = "") -> pd.Series:
    """100 where the learned rate ends within NEAR of its seed's best fixed one, 0 elsewhere and where it ran away."""
    rows = of(table, change)
    rows = rows[(rows["arm"] == "learned") & (rows["first"] == first) & (rows["outer"] == outer)]
    best = optimum(table[table["status"] == "FINISHED"], change=change)
    ratio = rows.set_index("seed")["rate"].reindex(best.index.intersection(rows["seed"])) / best
    return 100.0 * ((ratio - 1).abs() <= NEAR).loc[ratio.index.isin(rows["seed"])].astype(float)


def drift(table: pd.DataFrame, change: str) -> pd.Series:
    """The best fixed rate under a change over that of the same seed without it."""
    return (optimum(table, change=change) / optimum(table)).dropna()


OF_DONE: dict[str, Statistic] = {"learned": learned, "optimum": optimum, "error": error, "drift": drift}


# -- tables -----------------------------------------------------------------------------------------------


def start_table(done: pd.DataFrame) -> Table:
    """What each of the paper's starts ends at, beside the best fixed rate."""
    rows = []
    for first in STARTS:
        where = {"arm": "learned", "first": first, "outer": OUTER}
        found = [interval_of(level(done, name, where)) for name in ("rate", "loss", "last", "final")]
        if found[0]:
            cells = (shown(each, form) for each, form in zip(found, ("z.4f", "z.4f", "z.4f", "z.1f"), strict=True))
            ratio = shown(interval_of(error(done, first)), "z.3f")
            rows.append((f"{first:g}", *cells, ratio, span(each.n for each in found if each)))
    best = [interval_of(optimum(done, name)) for name in ("rate", "loss")]
    if best[0]:
        rows.append(("best fixed", *(shown(each, "z.4f") for each in best), "–", "–", "1", str(best[0].n)))
    return Table(
        "Learned rates: mean ± half of the 95% interval over n seeds",
        ("first rate", "rate", "mean loss", "last loss", "test accuracy (%)", "rate / best fixed", "n"),
        tuple(rows),
        "best fixed: vertex of a parabola through the best rate of the grid and its neighbours, seed by seed.",
    )


def fixed_table(done: pd.DataFrame) -> Table:
    """What one training comes to at each fixed rate."""
    rows = []
    for rate in sorted(set(done.loc[done["arm"] == "fixed", "first"])):
        where = {"arm": "fixed", "first": rate}
        found = [interval_of(level(done, name, where)) for name in ("loss", "last", "final")]
        cells = (shown(each, form) for each, form in zip(found, ("z.4f", "z.4f", "z.1f"), strict=True))
        rows.append((f"{rate:g}", *cells, span(each.n for each in found if each)))
    return Table(
        "One training at a fixed rate: mean ± half of the 95% interval over n seeds",
        ("rate", "mean loss", "last loss", "test accuracy (%)", "n"),
        tuple(rows),
        "mean loss: over the training's mini-batches; last loss: of the last one.",
    )


def basin_table(table: pd.DataFrame) -> Table:
    """First rate x outer rate: for how many of the seeds the best fixed rate is reached."""
    firsts, outers = _basin_axes(table)
    rows = []
    for first in firsts:
        found = [reaches(table, first, outer) for outer in outers]
        cells = (f"{int((each == 100).sum())} of {each.size}" if each.size else "–" for each in found)
        rows.append((f"{first:g}", *cells))
    return Table(
        f"From where the best fixed rate is reached (to {100 * NEAR:g}%): number of seeds",
        ("first rate", *(f"outer rate {outer:g}" for outer in outers)),
        tuple(rows) if outers else (),
        "A rate that runs away does not reach it.",
    )


def _basin_axes(table: pd.DataFrame) -> tuple[list[float], list[float]]:
    rows = table[table["arm"] == "learned"]
    return sorted(set(rows["first"])), sorted(set(rows["outer"]))


def change_table(table: pd.DataFrame) -> Table:
    """The best fixed rate under every change, and where learned rates end."""
    done = table[table["status"] == "FINISHED"]
    rows = []
    for change in _in_order(table["change"]):
        best = optimum(done, change=change)
        if best.empty:
            continue
        cells = (
            change or "none",
            shown(interval_of(best), "z.3f"),
            f"{best.min():.2f} to {best.max():.2f}",
            str(len(best)),
        )
        firsts = sorted(
            set(of(table, change).loc[lambda own: (own["arm"] == "learned") & (own["outer"] == OUTER), "first"])
        )
        rows += [(*cells, *_ending(table, first, change)) for first in firsts] or [(*cells, "–", "–", "–")]
    return Table(
        "Best and learned rates under changes: mean ± half of the 95% interval over n seeds",
        ("change", "best fixed rate", "range over seeds", "n", "learned from", "ends at / best", "reach it"),
        tuple(rows),
        f"Outer rate {OUTER:g}. Ratios: geometric means, without rates that ran away by a factor of {LOST:g} or more; "
        f"reach it: how many of all end within {100 * NEAR:g}% of their own best. Seeds of data are of the samples.",
    )


def _ending(table: pd.DataFrame, first: float, change: str) -> tuple[str, str, str]:
    done = table[table["status"] == "FINISHED"]
    ratios, reached = error(done, first, change=change), reaches(table, first, change=change)
    ratio = shown(interval_of(ratios[_settled(ratios)], log_t_interval), "z.2f")
    return f"{first:g}", ratio, f"{int((reached == 100).sum())} of {reached.size}"


def _settled(ratios: pd.Series) -> pd.Series:
    """Which learned rates are within a factor of LOST of their best fixed ones."""
    return (ratios > 1 / LOST) & (ratios < LOST)


def _in_order(changes: Iterable[str]) -> list[str]:
    """By name, and by number within a name; no change first."""
    return sorted(set(changes), key=lambda change: (change.partition("=")[0], float(change.partition("=")[2] or 0)))


# -- pictures ---------------------------------------------------------------------------------------------


def draw_learning(runs: Runs, done: pd.DataFrame) -> Picture | None:
    """The paper's three panels: mean loss, last loss and rate by step of the rate, from both starts."""
    starts = {first: done[(done["first"] == first) & (done["outer"] == OUTER)] for first in STARTS}
    starts = {first: rows for first, rows in starts.items() if len(rows)}
    if not starts:
        return None
    kind, redo = basis(len(rows) for rows in starts.values()), command("metalearn_lr", done)
    with figures.lab_style():
        figure, axes = figures.panels(3, gap=0.24, sharey=False)
        for ax, (metric, (title, label)) in zip(axes, PANELS.items(), strict=True):
            for first, rows in starts.items():
                steps, values = runs.curves(metric, rows["run_id"].tolist())
                figures.plot_band(ax, steps, values, STARTS[first])
            ax.set(title=title, ylabel=label, xlabel="step of the rate")
        best = interval_of(optimum(done))
        if best:
            axes[2].axhline(best.mean, color=INK, linewidth=1.1, linestyle=(0, (1, 1.5)), zorder=1)
        figures.legend(figure, [figures.sample(STARTS[first]) for first in starts])
        about = f"Each step is a whole training of {int(done['task.inner_steps'].max())} steps; {kind}."
        dotted = f"Dotted: the best fixed rate, {best.mean:.2f}. " if best else ""
        figures.caption(figure, f"{about}\n{dotted}{redo}")
    alt = "Mean loss of a training, its last loss and the learning rate by step of the rate, from two first rates"
    return Picture("learning", figure, alt, f"{about} `{redo}`")


def draw_optimum(done: pd.DataFrame) -> Picture | None:
    """Mean loss and test accuracy of one training against its fixed rate, with the learned rates."""
    fixed = done[done["arm"] == "fixed"]
    if fixed.empty:
        return None
    kind, redo = basis(fixed.groupby("first").size()), command("metalearn_lr", done)
    look = Look("fixed rate", "#16295c", "o")
    learned = interval_of(level(done, "rate", {"arm": "learned", "first": min(STARTS), "outer": OUTER}))
    with figures.lab_style():
        figure, axes = figures.panels(2, gap=0.24, sharey=False, below=0.95)
        titles = {"loss": "a  Mean loss of a training", "final": "b  Test accuracy after it (%)"}
        for ax, (name, title) in zip(axes, titles.items(), strict=True):
            grid = fixed.pivot_table(index="seed", columns="first", values=name)
            figures.plot_band(ax, grid.columns.to_numpy(float), grid.to_numpy(), look, marked=(0, 2))
            ax.set(title=title, xlabel="learning rate", xscale="log")
            _plain_ticks(ax, grid.columns.to_numpy(float))
            if learned:
                ax.axvline(learned.mean, color=INK, linewidth=1.0, linestyle=(0, (1, 1.5)))
        about = f"One training at each rate; {kind}." + (" Dotted: the learned rate." if learned else "")
        figures.caption(figure, f"{about}\n{redo}")
    alt = "Mean loss of one training and test accuracy after it against its learning rate, on a logarithmic axis"
    return Picture("optimum", figure, alt, f"{about} `{redo}`")


def _plain_ticks(ax: Axes, rates: Sequence[float] | NDArray[np.float64]) -> None:
    low, high = min(rates), max(rates)
    ticks = [tick for tick in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0) if low <= tick <= high]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


def draw_basin(table: pd.DataFrame) -> Picture | None:
    """From which first rates the best fixed rate is reached, by outer rate, hidden units and length of training."""
    firsts, outers = _basin_axes(table)
    maps = [_by_outer(outers), *(_by_setting(table, key) for key in _SETTING)]
    maps = [each for each in maps if each.columns]
    shares = [[[_share(table, first, *place) for place in each.columns.values()] for first in firsts] for each in maps]
    if not any(np.isfinite(grid).any() for grid in shares):
        return None
    counts = {n for each in maps for n in _counts(table, firsts, each)}
    redo = command("metalearn_lr", table)
    with figures.lab_style():
        figure, axes = figures.panels(len(maps), size=(8.4, 3.9), left=0.6, below=0.98, gap=0.1)
        for ax, each, grid in zip(axes, maps, shares, strict=True):
            _draw_map(ax, each, firsts, grid)
        axes[0].set_ylabel("first learning rate")
        about = f"Seeds (%, n = {span(counts)}) whose rate ends within {100 * NEAR:g}% of their best fixed one."
        others = f"b, c: outer rate {OUTER:g}. " if len(maps) > 1 else ""
        figures.caption(figure, f"{about} {others}Blank: not run.\n{redo}")
    alt = "First rates against outer rates, hidden units and inner steps: share of seeds that reach the best rate"
    return Picture("basin", figure, alt, f"{about} {others}Blank: not run. Shares without interval. `{redo}`")


@dataclass(frozen=True)
class _Map:
    """A panel of the basin: what stands under each column -> outer rate and change of its runs."""

    title: str
    label: str
    columns: dict[str, tuple[float, str]]


def _by_outer(outers: Iterable[float]) -> _Map:
    return _Map("a  Outer rate", "learning rate of the learning rate", {f"{outer:g}": (outer, "") for outer in outers})


_TITLES = {"model.hidden": ("b  Size of the net", "hidden units"), "task.inner_steps": ("c  Length", "inner steps")}


def _by_setting(table: pd.DataFrame, key: str) -> _Map:
    rows = table[table["change"].isin(["", *(c for c in table["change"] if c.startswith(_SETTING[key]))])]
    rows = rows[(rows["arm"] == "learned") & (rows["outer"] == OUTER)]
    columns = {
        f"{value:g}": (OUTER, change) for value, change in sorted(set(zip(rows[key], rows["change"], strict=True)))
    }
    return _Map(*_TITLES[key], columns if len(columns) > 1 else {})


def _share(table: pd.DataFrame, first: float, outer: float, change: str) -> float:
    found = reaches(table, first, outer, change)
    return float(found.mean()) if len(found) else np.nan


def _counts(table: pd.DataFrame, firsts: Iterable[float], each: _Map) -> Iterable[int]:
    found = (reaches(table, first, *place).size for first, place in product(firsts, each.columns.values()))
    return (n for n in found if n)


def _draw_map(ax: Axes, each: _Map, firsts: Sequence[float], grid: Sequence[Sequence[float]]) -> None:
    shares = np.ma.masked_invalid(np.array(grid, float))
    ax.imshow(shares, cmap="Greys", vmin=-15, vmax=130, aspect="auto", origin="lower")
    for row, column in product(range(len(firsts)), range(len(each.columns))):
        share = grid[row][column]
        text = "" if np.isnan(share) else f"{share:.0f}"
        ax.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if share > 75 else INK)
    ax.set_xticks(range(len(each.columns)), list(each.columns))
    ax.set_yticks(range(len(firsts)), [f"{first:g}" for first in firsts])
    ax.grid(False)
    ax.set(title=each.title, xlabel=each.label)


# -- the length of training -------------------------------------------------------------------------------

AT_LENGTHS = {
    0.1: Look("learned from 0.1", "#e8951a", "s", figures.DASHES, hollow=True),
    1.0: Look("learned from 1", "#2a7d62", "^", (0, (1, 1.5))),
}
"""First rates drawn at every length -> look."""


def draw_lengths(table: pd.DataFrame) -> Picture | None:
    """The best fixed rate by length of training, where learned rates end, and what that costs."""
    done = table[table["status"] == "FINISHED"]
    own = done[(done["change"] == "") | done["change"].str.startswith("steps")]
    lengths = dict(sorted(set(zip(own["task.inner_steps"], own["change"], strict=True))))
    best = {n: optimum(done, change=change) for n, change in lengths.items()}
    best = {n: rates for n, rates in best.items() if len(rates)}
    if len(best) < 2:
        return None
    redo = command("metalearn_lr", table)
    with figures.lab_style():
        figure, axes = figures.panels(2, size=(7.6, 4.1), gap=0.26, sharey=False)
        looks = {"best fixed rate": Look("best fixed rate", "#16295c", "o")}
        _draw_lengths(axes[0], best, looks["best fixed rate"])
        for first, look in AT_LENGTHS.items():
            near = {n: _settled(error(done, first, change=lengths[n])).loc[lambda yes: yes].index for n in best}
            rates = {n: learned(done, first, change=lengths[n])[near[n]] for n in best}
            above = {n: error(done, first, measure="loss", change=lengths[n])[near[n]] for n in best}
            if sum(map(bool, map(len, rates.values()))) > 1:
                looks[look.name] = look
                _draw_lengths(axes[0], rates, look)
                _draw_lengths(axes[1], above, look)
        for ax, title in zip(axes, ("a  Learning rate", "b  Mean loss above the best"), strict=True):
            ax.set(title=title, xlabel="steps of a training", xscale="log")
            ax.set_xticks(list(best), [f"{n:g}" for n in best])
            ax.minorticks_off()
        figures.legend(figure, [figures.sample(look) for look in looks.values()])
        kind = basis(len(rates) for rates in best.values())
        about = f"Outer rate {OUTER:g}; {kind}. Learned rates: without those that ran away."
        figures.caption(figure, f"{about}\n{redo}")
    alt = "Best fixed learning rate and learned ones against the number of steps of a training, on a logarithmic axis"
    return Picture("lengths", figure, alt, f"{about} `{redo}`")


def _draw_lengths(ax: Axes, values: Mapping[int, pd.Series], look: Look) -> None:
    """One line with whiskers over lengths, those of two looks side by side; a length without a seed is left out."""
    shift = {"o": 1.0, "s": 1.05, "^": 0.95}[look.marker]
    found = {shift * n: interval_of(each) for n, each in values.items()}
    known = {n: each for n, each in found.items() if each}
    ax.plot(list(known), [each.mean for each in known.values()], **look.drawn)
    for n, each in known.items():
        ax.plot([n, n], [each.low, each.high], color=look.color, linewidth=1.2)
