"""The page of experiment=metalearn_lr: where a learned learning rate ends, from where it gets there, and the best one.

The page's own columns:

    arm        fixed: one training at a rate that stays; learned: the rate is moved after every training
    first      the rate of the first training
    outer      learning rate of the learning rate
    rate       the rate after the last step; of a fixed one its own
    loss       mean loss over the last training's mini-batches, what the rate is moved by
    last       loss of the last training's last mini-batch
    final      test accuracy (%) of the last training

Statistics: level, difference, `optimum`, `error` and `reaches`. A seed decides the initial weights; data and batches
are the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mnist1d.analysis import figures
from mnist1d.analysis.figures import INK, Look
from mnist1d.analysis.intervals import basis, interval_of, shown, span
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
NEAR = 0.05
"""How far from the best fixed rate a rate has reached it, as a share of it."""

_COLUMNS = {"rate": "lr_final", "loss": "meta/loss_final", "last": "inner/loss_final"}
_AXES = {"seed", "optimizer.lr", "task.outer_lr", "trainer.max_steps"}


def page(runs: Runs) -> Page:
    """The page of `runs`; raises NoRuns when none of them is finished."""
    table, remarks = comparable(finished(runs))
    done = table[table["status"] == "FINISHED"]
    if done.empty:
        raise NoRuns(f"no run is finished that can be compared ({'; '.join(remarks)})")
    drawn = (draw_learning(runs, done), draw_optimum(done), draw_basin(table))
    tables = (start_table(done), fixed_table(done), basin_table(table))
    return Page(
        table,
        tuple(picture for picture in drawn if picture),
        tuple(each for each in tables if each.rows),
        {name: partial(function, done) for name, function in OF_DONE.items()} | {"reaches": partial(reaches, table)},
        (*remarks, *_missing(done, table)),
    )


def comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of one protocol with the page's own columns, and a remark on every group left out."""
    fixed = table["task.outer_lr"].astype(float) == 0
    longest = table["trainer.max_steps"].mask(fixed).max()
    short = ~fixed & (table["trainer.max_steps"] < longest)
    remarks = (
        [f"{int(short.sum())} runs left out, of fewer than {longest:.0f} steps of the rate"] if short.any() else []
    )
    kept, others = one_protocol(table[~short], _AXES)
    finals = {name: kept.reindex(columns=[key])[key].astype(float) for name, key in _COLUMNS.items()}
    return kept.assign(
        arm=np.where(kept["task.outer_lr"].astype(float) == 0, "fixed", "learned"),
        first=kept["optimizer.lr"].astype(float),
        outer=kept["task.outer_lr"].astype(float),
        final=100 * kept.reindex(columns=["test/acc_final"])["test/acc_final"].astype(float),
        **finals,
    ), (*remarks, *others)


def _missing(done: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """The seeds without a result, but for rates that ran away, which the basin shows."""
    texts = []
    for first, outer in product(_firsts(done), (0.0, OUTER)):
        rows = table[(table["first"] == first) & (table["outer"] == outer)]
        if not rows.empty:
            where = {"first": first, "outer": outer}
            texts += missing(table, f"{MISSING}lr={first:g} outer_lr={outer:g}", where, set(done["seed"]))
    return texts


def _firsts(done: pd.DataFrame) -> list[float]:
    paper = done[(done["arm"] == "fixed") | (done["first"].isin(STARTS) & (done["outer"] == OUTER))]
    return sorted(set(paper["first"]))


# -- statistics: one number per seed ----------------------------------------------------------------------


def optimum(table: pd.DataFrame, measure: str = "rate") -> pd.Series:
    """The best fixed rate of each seed, or its mean loss; by seed.

    It is the vertex of a parabola through the best rate of the grid and its neighbours, over the rate's logarithm.

    measure  rate or loss
    A seed counts if it has the whole grid and its best is not at an end of it. Raises ValueError for another `measure`.
    """
    if measure not in ("rate", "loss"):
        raise ValueError(f"measure is rate or loss, not {measure!r}")
    grid = table[table["arm"] == "fixed"].pivot_table(index="seed", columns="first", values="loss").dropna()
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


def error(table: pd.DataFrame, first: float, outer: float = OUTER, measure: str = "rate") -> pd.Series:
    """The learned rate over the best fixed one, or its mean loss minus the best one's; by seed.

    measure  rate (a ratio) or loss (a difference); raises ValueError for another
    """
    learned, best = level(table, measure, {"arm": "learned", "first": first, "outer": outer}), optimum(table, measure)
    return (learned / best if measure == "rate" else learned - best).dropna()


def reaches(table: pd.DataFrame, first: float, outer: float = OUTER) -> pd.Series:
    """100 where the learned rate ends within NEAR of its seed's best fixed one, 0 elsewhere and where it ran away."""
    rows = table[(table["arm"] == "learned") & (table["first"] == first) & (table["outer"] == outer)]
    best = optimum(table[table["status"] == "FINISHED"])
    ratio = rows.set_index("seed")["rate"].reindex(best.index.intersection(rows["seed"])) / best
    return 100.0 * ((ratio - 1).abs() <= NEAR).loc[ratio.index.isin(rows["seed"])].astype(float)


OF_DONE: dict[str, Statistic] = {"level": level, "difference": difference, "optimum": optimum, "error": error}


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
    learned = table[table["arm"] == "learned"]
    return sorted(set(learned["first"])), sorted(set(learned["outer"]))


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
    """First rate x outer rate: share of the seeds for which the best fixed rate is reached."""
    firsts, outers = _basin_axes(table)
    shares = pd.DataFrame({outer: {first: reaches(table, first, outer).mean() for first in firsts} for outer in outers})
    if shares.isna().all(axis=None):
        return None
    seeds = span(
        reaches(table, first, outer).size for first, outer in product(firsts, outers) if shares[outer][first] >= 0
    )
    redo = command("metalearn_lr", table)
    with figures.lab_style():
        figure, (ax,) = figures.panels(1, size=(5.6, 4.2), left=0.7, below=0.95)
        ax.imshow(
            np.ma.masked_invalid(shares.to_numpy()), cmap="Greys", vmin=0, vmax=130, aspect="auto", origin="lower"
        )
        for (row, first), (column, outer) in product(enumerate(firsts), enumerate(outers)):
            share = shares[outer][first]
            text = "" if np.isnan(share) else f"{share:.0f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if share > 75 else INK)
        ax.set_xticks(range(len(outers)), [f"{outer:g}" for outer in outers])
        ax.set_yticks(range(len(firsts)), [f"{first:g}" for first in firsts])
        ax.grid(False)
        ax.set(xlabel="learning rate of the learning rate", ylabel="first learning rate")
        about = f"Seeds (%, n = {seeds}) whose rate ends within {100 * NEAR:g}% of the best fixed one."
        figures.caption(figure, f"{about}\n{redo}")
    alt = "A grid of first rates and outer rates, each cell with the share of seeds that reach the best fixed rate"
    return Picture("basin", figure, alt, f"{about} Blank: not run. Shares without interval. `{redo}`")
