"""The page of experiment=metalearn_activation: what a learned activation function looks like, and whether it wins.

The page's own columns:

    arm        reference or corrected, the two ways to learn one; or the name of a function that is taken as it is
    learned    whether it is learned
    accuracy   test accuracy (%) at the end of a training, of the net that the function was learned with: the mean over
               the last sixth of the trainings; of a standard function that of its one training
    loss       mean loss over all steps of the last training
    extrema    number of extrema of the function between -5 and 5; none for a function that is not learned
    monotonic  100 if there are none

Beside it stand the trials, one row for each function and trial, with test accuracy (%) and learning rate, after a short
and a long training. The functions that an arm learned from several seeds are averaged within a trial.

Statistics: level, difference, `gain`, `tried` and `likeness`. For trials the seed is that of the trial.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mnist1d.analysis import figures, weights
from mnist1d.analysis.figures import INK, Look
from mnist1d.analysis.intervals import basis, interval_of, shown, span
from mnist1d.analysis.page import NoRuns, Page, Picture, Statistic, Table
from mnist1d.analysis.protocol import MISSING, command, finished, missing, one_protocol
from mnist1d.analysis.read import Runs
from mnist1d.analysis.statistics import difference, level

KINDS = ("fresh", "spline")
LENGTHS = {"short": "", "long": "_long"}
"""Length of a trial -> the ending of its metrics."""
METRICS = (
    *("meta/loss", "test/acc"),
    *(f"{kind}/{name}{ending}" for kind in KINDS for name in ("acc", "lr") for ending in LENGTHS.values()),
)
"""The histories that the page needs."""

ARMS = {
    "reference": Look("learned, reference", "#e8951a", "s", figures.DASHES, hollow=True),
    "corrected": Look("learned, corrected", "#16295c", "o"),
}
"""Ways of learning -> look."""
HAND_FIT = "hand_fit"
LAST = 6
"""A run's accuracy is the mean over this part of its trainings, the last."""
ALIKE = 3.0
"""Functions are compared from -ALIKE to ALIKE, where most hidden units are."""

CLEAR = 6.0
"""Points between two lines that are labelled."""

Array = NDArray[np.floating]
_AXES = {"seed", "model.activation", "task.protocol", "task.scale", "trainer.max_steps", "task.trials"}


# -- the page ---------------------------------------------------------------------------------------------


def page(runs: Runs) -> Page:
    """The page of `runs`; raises NoRuns when none of them is finished."""
    table, remarks = comparable(finished(runs))
    done = table[table["status"] == "FINISHED"]
    if done.empty:
        raise NoRuns(f"no run is finished that can be compared ({'; '.join(remarks)})")
    curves = learned_curves(runs, done)
    table = table.merge(_measures(runs, done, curves), on="run_id", how="left")
    done, trials = table[table["status"] == "FINISHED"], trials_of(runs, done)
    drawn = (draw_learning(runs, done, curves), draw_functions(done, curves), draw_trials(done, trials))
    statistics: dict[str, Statistic] = {name: partial(function, done) for name, function in OF_RUNS.items()}
    statistics |= {"tried": partial(tried, trials), "likeness": partial(likeness, done, curves)}
    return Page(
        table,
        tuple(picture for picture in drawn if picture),
        tuple(each for each in (protocol_table(done), trial_table(trials)) if each.rows),
        statistics,
        (*remarks, *_missing(table), *_without_curves(done, curves)),
    )


def comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of one protocol with the columns `arm` and `learned`, and a remark on every group left out."""
    learned = table["task.scale"].astype(float) > 0
    longest = table["trainer.max_steps"].where(learned).max()
    short = learned & (table["trainer.max_steps"] < longest)
    remarks = [f"{int(short.sum())} runs left out, of fewer than {longest:.0f} trainings"] if short.any() else []
    kept, others = one_protocol(table[~short], _AXES)
    learned = kept["task.scale"].astype(float) > 0
    arm = kept["task.protocol"].where(learned, kept["model.activation"])
    return kept.assign(arm=arm, learned=learned), (*remarks, *others)


def _measures(runs: Runs, done: pd.DataFrame, curves: dict[str, tuple[Array, Array]]) -> pd.DataFrame:
    """The page's columns of numbers."""
    rows = []
    for run_id, loss in zip(done["run_id"], done["inner/mean_loss_final"].astype(float), strict=True):
        accuracies = runs.histories["test/acc"].loc[run_id].dropna()
        last = accuracies.iloc[-(-len(accuracies) * (LAST - 1) // LAST) :] if len(accuracies) > 1 else accuracies
        row = {"run_id": run_id, "accuracy": 100 * last.mean(), "loss": loss, "extrema": np.nan, "monotonic": np.nan}
        if run_id in curves:
            row["extrema"] = float(len(extrema(curves[run_id][1][-1])))
            row["monotonic"] = 100.0 * (row["extrema"] == 0)
        rows.append(row)
    return pd.DataFrame(rows)


def learned_curves(runs: Runs, done: pd.DataFrame) -> dict[str, tuple[Array, Array]]:
    """By run, where its function was looked at ``[points]``, and what it was there ``[snapshots, points]``."""
    found = {}
    for run_id in done.loc[done["learned"], "run_id"]:
        try:
            kept = weights.load(runs.artifacts[run_id])
            found[run_id] = kept["curve"], kept["snapshots"]
        except (KeyError, OSError, pickle.UnpicklingError):
            continue
    return found


def extrema(values: Array) -> NDArray[np.intp]:
    """The places in a curve where it stops rising and falls, or the other way round."""
    rising = np.diff(values) > 0
    return np.flatnonzero(rising[1:] != rising[:-1]) + 1


def trials_of(runs: Runs, done: pd.DataFrame) -> pd.DataFrame:
    """One row per function, trial and length: function, arm, seed (the trial's), length, accuracy (%) and lr.

    A spline is a function of its own, of the arm `spline of …`.
    """
    rows = []
    for run in done.to_dict("records"):
        for kind in KINDS:
            for length, ending in LENGTHS.items():
                accuracies, rates = (_trial_history(runs, f"{kind}/{name}{ending}", run) for name in ("acc", "lr"))
                arm = run["arm"] if kind == "fresh" else f"spline of {run['arm']}"
                first = int(run["task.trial_data_seed"])
                for number, (accuracy, rate) in enumerate(zip(accuracies, rates, strict=True)):
                    about = {"function": f"{arm} {run['seed']}", "arm": arm, "seed": first + number, "length": length}
                    rows.append({**about, "accuracy": 100 * accuracy, "lr": rate})
    return pd.DataFrame(rows, columns=["function", "arm", "seed", "length", "accuracy", "lr"])


def _trial_history(runs: Runs, metric: str, run: dict[str, object]) -> Array:
    history = runs.histories[metric]
    return history.loc[run["run_id"]].dropna().to_numpy(float) if run["run_id"] in history.index else np.empty(0)


def _missing(table: pd.DataFrame) -> Iterator[str]:
    """The seeds without a result; those of one arm are no promise for another."""
    for arm, rows in table.groupby("arm", sort=False):
        yield from missing(table, f"{MISSING}{arm}", {"arm": arm}, set(rows["seed"]))


def _without_curves(done: pd.DataFrame, curves: dict[str, tuple[Array, Array]]) -> list[str]:
    lost = int((~done.loc[done["learned"], "run_id"].isin(list(curves))).sum())
    return [f"the functions of {lost} runs cannot be read: their weights are gone"] if lost else []


# -- statistics -------------------------------------------------------------------------------------------


def standard(table: pd.DataFrame) -> list[str]:
    """The arms that are activation functions of the field."""
    learned = {*ARMS, *(f"spline of {arm}" for arm in ARMS), HAND_FIT}
    return [arm for arm in dict.fromkeys(table["arm"]) if arm not in learned]


def gain(done: pd.DataFrame, arm: str = "reference", over: str = "best") -> pd.Series:
    """Accuracy (points) of a learned function beyond others on the seed that it was learned with; by that seed.

    over  best (the standard function with the highest accuracy on that seed) or an arm
    """
    protocol = done[done["task.protocol"] == "reference"]
    others = protocol[protocol["arm"].isin(standard(done) if over == "best" else [over])]
    reached = level(done, "accuracy", {"arm": arm})
    return (reached - others.groupby("seed")["accuracy"].max()).dropna()


def tried(trials: pd.DataFrame, arm: str, over: str | None = None, length: str = "short") -> pd.Series:
    """Accuracy (%) in trials, or points beyond another arm; by trial.

    over    best (the standard function that is best on average over the trials), an arm, or None
    length  short or long; raises ValueError for another
    """
    if length not in LENGTHS:
        raise ValueError(f"length is short or long, not {length!r}")
    rows = trials[trials["length"] == length]
    means = rows.groupby(["arm", "seed"])["accuracy"].mean().unstack("seed")
    if over == "best":
        known = [name for name in standard(rows) if name in means.index]
        over = str(means.loc[known].mean(axis=1).idxmax()) if known else over
    if arm not in means.index or (over and over not in means.index):
        return pd.Series(dtype=float)
    return (means.loc[arm] - (means.loc[over] if over else 0.0)).dropna()


def likeness(done: pd.DataFrame, curves: dict[str, tuple[Array, Array]], arm: str) -> pd.Series:
    """Correlation of a seed's function with the mean of those of the other seeds, from -ALIKE to ALIKE; by seed."""
    rows = done[(done["arm"] == arm) & done["run_id"].isin(list(curves))]
    finals = {seed: _near(*curves[run_id]) for run_id, seed in zip(rows["run_id"], rows["seed"], strict=True)}
    if len(finals) < 2:
        return pd.Series(dtype=float)
    others = {seed: np.mean([curve for other, curve in finals.items() if other != seed], axis=0) for seed in finals}
    found = {seed: float(np.corrcoef(curve, others[seed])[0, 1]) for seed, curve in finals.items()}
    return pd.Series(found, dtype=float).rename_axis("seed").sort_index()


def _near(places: Array, snapshots: Array) -> Array:
    return snapshots[-1][np.abs(places) <= ALIKE]


OF_RUNS: dict[str, Statistic] = {"level": level, "difference": difference, "gain": gain}


# -- tables -----------------------------------------------------------------------------------------------


def protocol_table(done: pd.DataFrame) -> Table:
    """Every function by the reference's protocol: judged on the weights and noise that it was learned with."""
    rows = []
    protocol = done[done["task.protocol"].eq("reference") | done["learned"]]
    for arm in [*(arm for arm in ARMS if arm in set(done["arm"])), *_by_accuracy(protocol[~protocol["learned"]])]:
        own = protocol[protocol["arm"] == arm]
        cells = (shown(interval_of(own[name].dropna().to_numpy()), form) for name, form in _MEASURED.items())
        rows.append((_name(arm), *cells, str(len(own))))
    return Table(
        "On the weights that a function was learned with",
        ("function", "test accuracy (%)", "mean loss", "extrema", "n"),
        tuple(rows),
        f"Of a learned function the accuracy is the mean over the last sixth of its {_trainings(done)} trainings, the "
        "loss that of the last one. Mean ± half the 95% t interval over seeds; best first.",
    )


_MEASURED = {"accuracy": "z.1f", "loss": "z.3f", "extrema": "z.1f"}


def trial_table(trials: pd.DataFrame) -> Table:
    """Every function on weights, noise and data that it has not seen."""
    rows = []
    short = trials[trials["length"] == "short"]
    for arm in _by_accuracy(short):
        own = short[short["arm"] == arm]
        cells = [shown(interval_of(tried(trials, arm, length=length).to_numpy())) for length in LENGTHS]
        lead = shown(interval_of(tried(trials, arm, "best").to_numpy()), "+z.1f")
        rows.append((_name(arm), cells[0], f"{own['lr'].median():g}", lead, cells[1], str(own["function"].nunique())))
    trials_made = span(short.groupby("arm")["seed"].nunique())
    return Table(
        "On new weights, noise and data, each function at the learning rate that suits it",
        (*("function", "accuracy (%)", "learning rate", "beyond the best standard one"), "long training", "functions"),
        tuple(rows),
        f"Test accuracy, mean ± half the 95% t interval over {trials_made} trials, paired; the median of the rates "
        "that validation accuracy chose. Best first.",
    )


def _by_accuracy(rows: pd.DataFrame) -> list[str]:
    return rows.groupby("arm")["accuracy"].mean().sort_values(ascending=False).index.tolist()


def _name(arm: str) -> str:
    return ARMS[arm].name if arm in ARMS else arm.replace("_", " ")


def _trainings(done: pd.DataFrame) -> int:
    return int(done["trainer.max_steps"].max())


# -- pictures ---------------------------------------------------------------------------------------------


def draw_learning(runs: Runs, done: pd.DataFrame, curves: dict[str, tuple[Array, Array]]) -> Picture | None:
    """The paper's three panels: loss and accuracy by training, and the function as it is learned."""
    arms = [arm for arm in ARMS if (done["arm"] == arm).any()]
    if not arms:
        return None
    redo, kind = command("metalearn_activation", done), basis((done["arm"] == arm).sum() for arm in arms)
    with figures.lab_style():
        figure, axes = figures.panels(3, gap=0.27, sharey=False, size=(7.6, 3.9))
        for ax, metric, factor in zip(axes, ("meta/loss", "test/acc"), (1, 100), strict=False):
            for arm in arms:
                steps, values = runs.curves(metric, done.loc[done["arm"] == arm, "run_id"].tolist())
                kept = steps < _trainings(done)
                figures.plot_band(ax, steps[kept], factor * values[:, kept], ARMS[arm])
        axes[0].set(title="a  Loss that is minimised", xlabel="training")
        axes[1].set(title="b  Test accuracy (%)", xlabel="training")
        _standard_levels(axes[1], done)
        _draw_snapshots(axes[2], done, curves)
        figures.legend(figure, [figures.sample(ARMS[arm]) for arm in arms])
        figures.caption(figure, f"a, b: {kind}; lines: standard functions. c: one seed, light to dark.\n{redo}")
    alt = (
        "Loss and test accuracy by training, standard functions as lines, and snapshots of a function as it is learned"
    )
    return Picture("learning", figure, alt, f"{kind}. `{redo}`")


def _standard_levels(ax: Axes, done: pd.DataFrame) -> None:
    """Lines for standard functions: the best one, and those that lie clear of the last line above them."""
    rows = done[done["arm"].isin(standard(done)) & (done["task.protocol"] == "reference")]
    above = np.inf
    for name in _by_accuracy(rows):
        accuracy = rows.loc[rows["arm"] == name, "accuracy"].mean()
        if above - accuracy > CLEAR:
            figures.plot_level(ax, accuracy, _name(name))
            above = accuracy


def _draw_snapshots(ax: Axes, done: pd.DataFrame, curves: dict[str, tuple[Array, Array]]) -> None:
    known = done[done["run_id"].isin(list(curves))].sort_values("seed")
    for arm in ARMS:
        rows = known[known["arm"] == arm]
        if len(rows):
            break
    else:
        return
    places, snapshots = curves[rows["run_id"].iloc[0]]
    for shade, values in zip(np.linspace(0.85, 0.0, len(snapshots)), snapshots, strict=True):
        ax.plot(places, values, color=str(shade), linewidth=1.6 if shade == 0 else 0.6)
    ax.set(title=f"c  The function, {arm}", xlabel="x", ylim=(-1.5, 4))


def draw_functions(done: pd.DataFrame, curves: dict[str, tuple[Array, Array]]) -> Picture | None:
    """The functions that were learned, of all seeds, with their extrema."""
    known = done[done["run_id"].isin(list(curves))]
    arms = [arm for arm in ARMS if (known["arm"] == arm).any()]
    if not arms:
        return None
    redo = command("metalearn_activation", done)
    with figures.lab_style():
        figure, axes = figures.panels(len(arms), size=(7.6, 3.8), below=0.95)
        for ax, arm in zip(axes, arms, strict=True):
            rows = known[known["arm"] == arm].sort_values("seed")
            for run_id in rows["run_id"]:
                places, snapshots = curves[run_id]
                turns = extrema(snapshots[-1])
                ax.plot(places, snapshots[-1], color=ARMS[arm].color, linewidth=1.1)
                ax.plot(places[turns], snapshots[-1][turns], "o", color=INK, markersize=3.5, markerfacecolor="white")
            elu = np.where(places > 0, places, np.expm1(np.minimum(places, 0)))
            ax.plot(places, elu, color=INK, linewidth=1.0, linestyle=(0, (1, 1.5)))
            ax.set(title=f"{ARMS[arm].name} (n = {len(rows)})", xlabel="x", ylim=(-2.5, 5))
        axes[0].set_ylabel("f(x)")
        about = "A line for each seed. Circles: extrema. Dotted: ELU, where learning begins."
        figures.caption(figure, f"{about}\n{redo}")
    return Picture("functions", figure, "Learned activation functions of all seeds, with ELU", f"{about} `{redo}`")


def draw_trials(done: pd.DataFrame, trials: pd.DataFrame) -> Picture | None:
    """Test accuracy of every function in trials, short and long."""
    lengths = [length for length in LENGTHS if (trials["length"] == length).any()]
    if not lengths:
        return None
    redo, order = command("metalearn_activation", done), _by_accuracy(trials[trials["length"] == "short"])[::-1]
    n = span(trials.groupby("arm")["seed"].nunique())
    steps = {"short": done["task.trial_steps"].max(), "long": done["task.long_trial_steps"].max()}
    with figures.lab_style():
        figure, axes = figures.panels(len(lengths), size=(7.6, 4.6), left=1.75, below=0.95)
        for ax, length in zip(axes, lengths, strict=True):
            for row, arm in enumerate(order):
                _draw_trial(ax, row, tried(trials, arm, length=length), mark=arm in standard(trials))
            ax.set(title=f"After {steps[length]:.0f} steps", xlabel="test accuracy (%)", ylim=(-0.6, len(order) - 0.4))
        axes[0].set_yticks(range(len(order)), [_name(arm) for arm in order])
        about = f"New weights, noise and data; mean over n = {n} trials with its 95% t interval."
        figures.caption(figure, f"{about} Open: standard functions. Each at its own learning rate.\n{redo}")
    return Picture("trials", figure, "Test accuracy of every activation function in trials", f"{about} `{redo}`")


def _draw_trial(ax: Axes, row: int, accuracies: pd.Series, mark: bool) -> None:
    found = interval_of(accuracies.to_numpy())
    if found:
        look = Look("", "#16295c", "o", hollow=mark)
        ax.plot([found.low, found.high], [row, row], color=look.color, linewidth=1.4)
        ax.plot([found.mean], [row], **look.drawn)
