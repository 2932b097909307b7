"""The page of experiment=tune: a learning rate and a weight decay for a model, found on validation data.

The page's own columns:

    net       the model
    side      candidate; of the final comparison, with fresh seeds: tuned (the best candidate) or defaults
    val       validation accuracy (%) after the last step
    accuracy  test accuracy (%) after the last step

Statistics: level, difference and `gain`, tuned minus defaults on test data. The best candidate of a net is the one with
the highest mean of `val` over the seeds that all candidates have. Seeds have a data set of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mnist1d.analysis import figures
from mnist1d.analysis.figures import Look, look
from mnist1d.analysis.intervals import basis, interval_of, shown, span
from mnist1d.analysis.page import NoRuns, Page, Picture, Statistic, Table
from mnist1d.analysis.protocol import MISSING, command, finished, missing, one_protocol
from mnist1d.analysis.read import Runs
from mnist1d.analysis.statistics import difference, level
from mnist1d.space import FIRST_FRESH

METRICS: tuple[str, ...] = ()
"""The histories that the page needs: none."""

SEARCHED = ["optimizer.lr", "optimizer.weight_decay"]
SIDES = {
    "defaults": Look("defaults", "#16295c", "D", hollow=True),
    "tuned": Look("best candidate", "#16295c", "o"),
}
NEAREST_ZERO = 0.4
"""Where the defaults' weight decay is drawn if it is 0: this share of the smallest one searched."""

_AXES = {"seed", "data.seed", *SEARCHED}


def page(runs: Runs) -> Page:
    """The page of `runs`; raises NoRuns when none of them is finished."""
    table, remarks = one_protocol(finished(runs), _AXES)
    table = with_sides(table)
    done = table[table["status"] == "FINISHED"]
    if done.empty:
        raise NoRuns(f"no run is finished that can be compared ({'; '.join(remarks)})")
    statistics: dict[str, Statistic] = {name: partial(function, done) for name, function in STATISTICS.items()}
    nets = list(dict.fromkeys(done["net"]))
    found = {net: candidates(table, net) for net in nets}
    return Page(table, (draw(table, found),), (summary_table(done, found),), statistics, (*remarks, *_missing(table)))


def with_sides(table: pd.DataFrame) -> pd.DataFrame:
    """The runs with the page's own columns; fresh runs of candidates that are no longer the best are left out."""
    own = {
        "net": table["model.name"],
        "side": np.where(table["seed"] < FIRST_FRESH, "candidate", "defaults"),
        "val": 100 * table["val/acc_final"].astype(float),
        "accuracy": 100 * table["test/acc_final"].astype(float),
    }
    table = table.assign(**own)
    kept = [_with_best(group) for _, group in table.groupby("net", sort=False)]
    return pd.concat(kept).sort_index()


def _with_best(group: pd.DataFrame) -> pd.DataFrame:
    known = candidates(group, group["net"].iloc[0])
    if known.empty:
        return group
    texts = group[SEARCHED].map(str).agg(" ".join, axis=1)
    tried = set(known[SEARCHED].map(str).agg(" ".join, axis=1))
    best = " ".join(map(str, known.loc[known["val"].idxmax(), SEARCHED])) if known["val"].notna().any() else ""
    fresh = group["side"] != "candidate"
    side = group["side"].mask(fresh & (texts == best), "tuned")
    return group.assign(side=side)[~fresh | (texts == best) | ~texts.isin(tried)]


def candidates(table: pd.DataFrame, net: str) -> pd.DataFrame:
    """The candidates of a net in the order in which they were trained: number from 1, the searched keys, val and n.

    `val` is the mean over seeds, nan for one that lacks a seed which others have: most often it diverged.
    """
    own = table[(table["net"] == net) & (table["side"] == "candidate")]
    seeds = own["seed"].nunique()
    found = own.groupby(SEARCHED, sort=False).agg(
        started=("started", "min"), val=("val", "mean"), n=("val", "count"), diverged=("status", _any_failed)
    )
    found = found.reset_index().sort_values("started", kind="stable", ignore_index=True)
    return found.assign(number=found.index + 1, val=found["val"].where(found["n"] == seeds))


def _any_failed(statuses: pd.Series) -> bool:
    return bool((statuses == "FAILED").any())


def _missing(table: pd.DataFrame) -> Iterator[str]:
    """Seeds of the final comparison without a result; a candidate that diverged is no loss."""
    for (net, side), own in table[table["side"] != "candidate"].groupby(["net", "side"], sort=False):
        expected = set(table.loc[(table["net"] == net) & (table["side"] != "candidate"), "seed"])
        yield from missing(own, f"{MISSING}{net} {side}", {}, expected)


# -- statistics -------------------------------------------------------------------------------------------


def gain(done: pd.DataFrame, net: str) -> pd.Series:
    """Test accuracy (points) of the best candidate beyond that of the defaults, by fresh seed."""
    return difference(done, "accuracy", {"net": net, "side": "tuned"}, {"net": net, "side": "defaults"})


STATISTICS: dict[str, Statistic] = {"level": level, "difference": difference, "gain": gain}


# -- table and picture ------------------------------------------------------------------------------------


def summary_table(done: pd.DataFrame, found: dict[str, pd.DataFrame]) -> Table:
    """For each net the best candidate, and what it gains."""
    rows = []
    for net, known in found.items():
        if known["val"].isna().all():
            continue
        best = known.loc[known["val"].idxmax()]
        sides = [level(done, "accuracy", {"net": net, "side": side}) for side in SIDES]
        gains = gain(done, net)
        tried = f"{len(known)} ({int(known['diverged'].sum())})"
        rows.append(
            (
                look(net).name,
                *(f"{best[key]:.4g}" for key in SEARCHED),
                f"{best['val']:.1f} ({best['n']})",
                tried,
                *(shown(interval_of(side.to_numpy())) for side in sides),
                shown(interval_of(gains.to_numpy()), "+z.1f"),
                str(len(gains)),
            )
        )
    return Table(
        "The best learning rate and weight decay, and what they are worth beside the defaults",
        ("net", "lr", "weight decay", "validation (n)", "tried (diverged)", *SIDES, "gain", "n"),
        tuple(rows),
        "Accuracies in percent. Validation: of the best candidate, mean over the seeds that chose it, which flatters "
        "it. Defaults, tuned: on test data, mean ± half of the 95% t interval over n fresh seeds. Gains are paired.",
    )


def draw(table: pd.DataFrame, found: dict[str, pd.DataFrame]) -> Picture:
    """A row for each net: its candidates in order, where they lie, and the final comparison."""
    done, redo = table[table["status"] == "FINISHED"], command("tune", table)
    redo += "".join(f" model={net}" for net in found if len(found) == 1 and net != "mlp")
    height = 0.75 + 2.55 * len(found)
    with figures.lab_style():
        figure, axes = figures.panels(3, len(found), size=(7.6, height), left=0.62, below=1.0, gap=0.5, sharey=False)
        for row, (net, known) in enumerate(found.items()):
            one, two, three = axes[3 * row : 3 * row + 3]
            draw_order(one, known).set_title(f"{look(net).name}: candidates")
            draw_map(figure, two, known, _defaults(done, net)).set_title("where they lie")
            draw_sides(three, done, net).set_title("test, fresh seeds")
        counts = done[done["side"] != "candidate"].groupby(["net", "side"]).size()
        seeds = span(int(known["n"].max()) for known in found.values())
        tried = f"Candidates: validation accuracy, mean over {seeds} seeds; star: the best; x: diverged."
        about = f"{tried} Right: {basis(counts)}."
        figures.caption(figure, f"{about}\n{redo}")
    alt = "Validation accuracy by candidate and over learning rate and weight decay; test accuracy beside the defaults."
    return Picture("tune", figure, alt, f"{about} `{redo}`")


def draw_order(ax: Axes, known: pd.DataFrame) -> Axes:
    """Validation accuracy of the candidates in order, and the best so far."""
    bottom = known["val"].min()
    ax.plot(known["number"], known["val"], "o", color="#8c8c8c", markersize=3.2)
    ax.step(known["number"], known["val"].cummax().ffill(), where="post", color="#16295c")
    lost = known[known["diverged"]]
    ax.plot(lost["number"], [bottom] * len(lost), "x", color="#b03a2e", markersize=4.5)
    ax.set(xlabel="candidate", ylabel="validation accuracy (%)")
    return ax


def draw_map(figure: Figure, ax: Axes, known: pd.DataFrame, defaults: tuple[float, float] | None) -> Axes:
    """Validation accuracy over learning rate and weight decay, both logarithmic; darker is better."""
    lr, decay = (known[key].to_numpy(dtype=float) for key in SEARCHED)
    floor = NEAREST_ZERO * decay[decay > 0].min() if (decay > 0).any() else 1.0
    decay = np.maximum(decay, floor)
    lowest = known["val"].quantile(0.25)  # a few bad ones would leave one shade for all good ones
    shades: dict[str, Any] = {"cmap": "YlGnBu", "vmin": lowest, "edgecolors": figures.INK, "linewidths": 0.5}
    points = ax.scatter(lr, decay, c=known["val"], s=26, zorder=2, **shades)
    lost = known["diverged"].to_numpy()
    ax.plot(lr[lost], decay[lost], "x", color="#b03a2e", markersize=4.5)
    if known["val"].notna().any():
        best = int(known["val"].idxmax())
        ax.plot(lr[best], decay[best], "*", color="#b03a2e", markeredgecolor="white", markersize=13, zorder=3)
    if defaults is not None:
        at = (defaults[0], max(defaults[1], floor))
        ax.plot(*at, "D", color=figures.INK, markerfacecolor="white", markersize=5)
        words = "defaults" if defaults[1] else "defaults (0)"
        ax.annotate(words, at, (-6, 0), textcoords="offset points", fontsize=8, ha="right", va="center")
    ax.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="weight decay")
    bar = figure.colorbar(points, ax=ax, fraction=0.06, pad=0.03, extend="min", extendfrac=0.04)
    bar.ax.set_title("%", fontsize=8, loc="left", pad=10)
    return ax


def draw_sides(ax: Axes, done: pd.DataFrame, net: str) -> Axes:
    """Test accuracy of the defaults and of the best candidate, a line for every seed."""
    values = {side: level(done, "accuracy", {"net": net, "side": side}) for side in SIDES}
    for _, pair in pd.DataFrame(values).dropna().iterrows():
        ax.plot([0, 1], pair.to_numpy(), color="#c4c4c4", linewidth=0.8)
    for place, (side, own) in enumerate(SIDES.items()):
        if (mean := interval_of(values[side].to_numpy())) is not None:
            ax.plot([place, place], [mean.low, mean.high], color=own.color, linewidth=1.6)
            ax.plot([place], [mean.mean], **own.drawn | {"linestyle": ""}, markersize=6)
    ax.set_xticks([0, 1], ["defaults", "best\ncandidate"])
    ax.set(xlim=(-0.4, 1.4), ylabel="test accuracy (%)")
    return ax


def _defaults(done: pd.DataFrame, net: str) -> tuple[float, float] | None:
    """Learning rate and weight decay of the defaults."""
    own = done[(done["net"] == net) & (done["side"] == "defaults")]
    return None if own.empty else (float(own[SEARCHED[0]].iloc[0]), float(own[SEARCHED[1]].iloc[0]))
