"""The page of experiment=activation_transfer: a learned activation function in nets that it was not learned with.

The page's own columns:

    net       mlp and its number of hidden layers, as `mlp 3`; or cnn
    function  a name of model.activation; `learned` for the function of an earlier run
    val       largest validation accuracy (%) over the evaluations of a run
    accuracy  test accuracy (%) at that evaluation

Statistics: level, difference and `gain`, over one run for each net, function and seed: the one among all learning rates
whose `val` is largest. Seeds have a data draw of their own, which all functions share.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pandas as pd

from mnist1d.analysis import figures
from mnist1d.analysis.figures import Look
from mnist1d.analysis.intervals import basis, interval_of, shown
from mnist1d.analysis.page import NoRuns, Page, Picture, Statistic, Table
from mnist1d.analysis.protocol import MISSING, command, finished, missing, one_protocol
from mnist1d.analysis.read import Runs
from mnist1d.analysis.statistics import difference, level
from mnist1d.spelling import unknown

METRICS = ("val/acc",)
"""The histories that the page needs."""

LEARNED = "learned"
STANDARD = ("relu", "elu", "gelu", "swish", "sine")
FUNCTIONS = (*STANDARD, "hand_fit", LEARNED)
"""In the order of table and figure."""

_AXES = {"seed", "data.seed", "model.activation", "model.layers", "optimizer.lr"}


def page(runs: Runs) -> Page:
    """The page of `runs`; raises NoRuns when none of them is finished."""
    table, remarks = comparable(runs, finished(runs))
    done = table[table["status"] == "FINISHED"]
    if done.empty:
        raise NoRuns(f"no run is finished that can be compared ({'; '.join(remarks)})")
    best = chosen(done)
    statistics: dict[str, Statistic] = {name: partial(function, best) for name, function in STATISTICS.items()}
    return Page(table, (draw(best),), (accuracy_table(best),), statistics, (*remarks, *_missing(table)))


def comparable(runs: Runs, table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of one protocol and one learned function with the page's columns; a remark on every group left out."""
    kept, remarks = one_protocol(table, _AXES)
    learned = kept["model.activation"].str.startswith(f"{LEARNED}:")
    newest = kept[learned].sort_values("started")["model.activation"].iloc[-1:].tolist()
    others = learned & ~kept["model.activation"].isin(newest)
    texts = [f"{n} runs left out, of {name}" for name, n in kept.loc[others, "model.activation"].value_counts().items()]
    layers = kept.get("model.layers", pd.Series(None, kept.index, dtype=object))
    depth = [f" {int(number)}" if pd.notna(number) else "" for number in layers]
    own = {
        "net": kept["model.name"] + depth,
        "function": kept["model.activation"].mask(learned, LEARNED),
        "val": 100 * kept["run_id"].map(runs.histories["val/acc"].max(axis=1)),
        "accuracy": 100 * kept["test/acc_selected"].astype(float),
    }
    return kept.assign(**own)[~others], (*remarks, *texts)


def chosen(done: pd.DataFrame) -> pd.DataFrame:
    """For each net, function and seed the run with the largest validation accuracy; of equal ones the lowest rate."""
    ranked = done.sort_values(["val", "optimizer.lr"], ascending=[False, True], kind="stable")
    return ranked.drop_duplicates(["net", "function", "seed"]).sort_index()


def _missing(table: pd.DataFrame) -> Iterator[str]:
    for keys, _ in table.groupby(["net", "function", "optimizer.lr"], sort=False):
        net, function, rate = keys
        where = {"net": net, "function": function, "optimizer.lr": rate}
        yield from missing(table, f"{MISSING}{net} {function} lr={rate}", where, set(table["seed"]))


# -- statistics -------------------------------------------------------------------------------------------


def gain(best: pd.DataFrame, net: str, function: str = LEARNED, over: str = "best") -> pd.Series:
    """Accuracy (points) of a function beyond another in the same net, by seed.

    over  a function, or best: the standard one whose mean over seeds is highest in that net
    Raises ValueError for a function that is not ours.
    """
    for name in (function, over):
        if name not in (*FUNCTIONS, "best"):
            raise ValueError(unknown("function", name, FUNCTIONS))
    if over == "best":
        means = best[(best["net"] == net) & best["function"].isin(STANDARD)].groupby("function")["accuracy"].mean()
        over = str(means.idxmax()) if len(means) else over
    return difference(best, "accuracy", {"net": net, "function": function}, {"net": net, "function": over})


STATISTICS: dict[str, Statistic] = {"level": level, "difference": difference, "gain": gain}


# -- table and picture ------------------------------------------------------------------------------------


def accuracy_table(best: pd.DataFrame) -> Table:
    """Every net and function: accuracy, what it gains, and the learning rates that were chosen."""
    rows = []
    for net in _nets(best):
        for function in _functions(best[best["net"] == net]):
            own = best[(best["net"] == net) & (best["function"] == function)]
            gains = (interval_of(gain(best, net, function, over).to_numpy()) for over in ("relu", "best"))
            rates = ", ".join(f"{rate:g} ({n})" for rate, n in own["optimizer.lr"].value_counts().sort_index().items())
            accuracy = shown(interval_of(own["accuracy"].to_numpy()))
            leads = (shown(each, "+z.1f") for each in gains)
            rows.append((_said(net), function.replace("_", " "), accuracy, *leads, rates, str(len(own))))
    return Table(
        "Test accuracy (%) of every function at the learning rate and step that validation accuracy chose",
        ("net", "function", "accuracy", "beyond ReLU", "beyond the best", "rates (seeds)", "n"),
        tuple(rows),
        "Mean ± half of the 95% t interval over n seeds; gains are paired by seed. The best is the standard function "
        "with the highest mean over these seeds in that net, which favours it. Layers are hidden ones.",
    )


def draw(best: pd.DataFrame) -> Picture:
    """Test accuracy of every function, a panel for each net."""
    nets, functions, redo = _nets(best), _functions(best)[::-1], command("activation_transfer", best)
    with figures.lab_style():
        figure, axes = figures.panels(len(nets), size=(7.6, 3.6), left=0.85, below=0.95)
        for ax, letter, net in zip(axes, "abcdefgh", nets, strict=False):
            for row, function in enumerate(functions):
                found = interval_of(level(best, "accuracy", {"net": net, "function": function}).to_numpy())
                if found:
                    drawn = Look("", "#16295c", "o", hollow=function in STANDARD).drawn
                    ax.plot([found.low, found.high], [row, row], color=drawn["color"], linewidth=1.4)
                    ax.plot([found.mean], [row], **drawn)
            ax.set(title=f"{letter}  {_said(net)}", xlabel="test accuracy (%)", ylim=(-0.6, len(functions) - 0.4))
        axes[0].set_yticks(range(len(functions)), [name.replace("_", " ") for name in functions])
        about = f"Test accuracy, {basis(best.groupby(['net', 'function']).size())}."
        text = f"{about} Open: standard functions. Rate and step by validation accuracy.\n{redo}"
        figures.caption(figure, text)
    alt = "Test accuracy of every activation function, a panel for each net."
    return Picture("transfer", figure, alt, f"{about} `{redo}`")


def _nets(best: pd.DataFrame) -> list[str]:
    return sorted(set(best["net"]), key=lambda net: (net == "cnn", net))


def _functions(best: pd.DataFrame) -> list[str]:
    return [name for name in FUNCTIONS if (best["function"] == name).any()]


def _said(net: str) -> str:
    name, _, layers = net.partition(" ")
    return f"{name.upper()}, {layers} layers" if layers else name.upper()
