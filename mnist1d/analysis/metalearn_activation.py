"""The page of experiment=metalearn_activation: what a learned activation function looks like, and whether it wins.

The page's own columns:

    arm        reference or corrected, the two ways to learn one; or the name of a function that is taken as it is
    learned    whether it is learned
    standard   whether it is an activation function of the field: neither learned nor fitted to one that was
    accuracy   test accuracy (%) after a training of the learning itself: the mean over the last sixth of the trainings;
               of a function that is not learned that of its one training
    loss       mean loss over all steps of the last training
    extrema    number of extrema of the function between -5 and 5; nan for a function that is not learned

Beside it stand the trials, one row for each function and trial, with test accuracy (%) and learning rate, after a short
and a long training. The functions that an arm learned from several seeds are averaged within a trial, so that intervals
over trials are about these functions and not about others that might have been learned.

Statistics: level, difference, `gain`, `tried` and `likeness`. For trials the seed is that of the trial.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import partial
from itertools import product

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
STEPS = {"short": "task.trial_steps", "long": "task.long_trial_steps"}
"""Length of a trial -> the key that says how many steps it has."""
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
PAPER = ("relu", "elu", "swish", "softplus", "tanh", "sigmoid")
"""The standard functions that the paper compares with."""
SETS = ("best", "paper")
"""Sets of standard functions of which the best one is looked for: all, or the paper's."""
LAST = 6
"""A run's accuracy is the mean over this part of its trainings, the last."""
SLIGHT = 0.001
"""A function turns where it comes back by more than this: less than a figure shows, far more than rounding."""
ALIKE = 3.0
"""Functions are compared from -ALIKE to ALIKE, where most hidden units are."""

CLEAR = 6.0
"""Points between two lines that are labelled."""

Array = NDArray[np.floating]
Curves = dict[str, tuple[Array, Array]]
"""Run -> where its function was looked at ``[points]``, and what it was there ``[snapshots, points]``."""
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
    tables = (protocol_table(done), *(trial_table(done, trials, each) for each in _lengths(trials)))
    statistics: dict[str, Statistic] = {name: partial(function, done) for name, function in OF_RUNS.items()}
    statistics |= {"tried": partial(tried, trials), "likeness": partial(likeness, done, curves)}
    return Page(
        table,
        tuple(picture for picture in drawn if picture),
        tuple(each for each in tables if each.rows),
        statistics,
        (*remarks, *_missing(table), *_without_curves(done, curves)),
    )


def comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of one protocol with the columns `arm`, `learned` and `standard`, and a remark on every group left out.

    Learned functions also have to begin at the same one, and to be learned for as long.
    """
    kept, remarks = one_protocol(table, _AXES)
    learned = kept["task.scale"].astype(float) > 0
    if learned.any():
        own, others = one_protocol(kept[learned], {"seed", "task.protocol"})
        kept, remarks = pd.concat([own, kept[~learned]]), (*remarks, *others)
        learned = kept["task.scale"].astype(float) > 0
    arm = kept["task.protocol"].where(learned, kept["model.activation"])
    return kept.assign(arm=arm, learned=learned, standard=~learned & (arm != HAND_FIT)), remarks


def _measures(runs: Runs, done: pd.DataFrame, curves: Curves) -> pd.DataFrame:
    """The page's columns of numbers."""
    rows = []
    for run_id, loss in zip(done["run_id"], done["inner/mean_loss_final"].astype(float), strict=True):
        accuracies = runs.histories["test/acc"].loc[run_id].dropna()
        last = accuracies.tail(max(1, len(accuracies) // LAST))
        turns = float(len(extrema(curves[run_id][1][-1]))) if run_id in curves else np.nan
        rows.append({"run_id": run_id, "accuracy": 100 * last.mean(), "loss": loss, "extrema": turns})
    return pd.DataFrame(rows)


def learned_curves(runs: Runs, done: pd.DataFrame) -> Curves:
    """The functions of the learned runs whose weights can be read."""
    found = {}
    for run_id in done.loc[done["learned"], "run_id"]:
        try:
            kept = weights.load(runs.artifacts[run_id])
            found[run_id] = kept["curve"], kept["snapshots"]
        except (KeyError, OSError, pickle.UnpicklingError):
            continue
    return found


def extrema(values: Array) -> list[int]:
    """The places in a curve where it turns: each a maximum or minimum from which it comes back by more than SLIGHT.

    The ends are none. Of a plateau it is the first place.
    """
    turns: list[int] = []
    high = low = 0
    rising: bool | None = None  # neither, until it has gone somewhere
    for place, value in enumerate(values):
        high = place if value > values[high] else high
        low = place if value < values[low] else low
        if rising is not False and values[high] - value > SLIGHT:
            turns += [high] if rising else []
            rising, low = False, place
        elif rising is not True and value - values[low] > SLIGHT:
            turns += [low] if rising is False else []
            rising, high = True, place
    return turns


def trials_of(runs: Runs, done: pd.DataFrame) -> pd.DataFrame:
    """One row per function, trial and length: function, arm, standard, seed (the trial's), length, accuracy (%), lr.

    A spline is a function of its own, of the arm `spline of …`.
    """
    rows = []
    for run, kind, (length, ending) in product(done.to_dict("records"), KINDS, LENGTHS.items()):
        accuracies, rates = (runs.histories[f"{kind}/{name}{ending}"].loc[run["run_id"]] for name in ("acc", "lr"))
        arm = run["arm"] if kind == "fresh" else f"spline of {run['arm']}"
        about = {"function": f"{arm} {run['seed']}", "arm": arm, "standard": run["standard"], "length": length}
        own = pd.isna(run["task.trial_data_seed"])  # the run's trials are numbered by its seed
        first = int(run["seed"] * run["task.trials"] if own else run["task.trial_data_seed"])
        first -= int(run["trainer.max_steps"])  # trials are the steps after these
        for step, accuracy in accuracies.dropna().items():
            rows.append({**about, "seed": first + step, "accuracy": 100 * accuracy, "lr": rates[step]})
    return pd.DataFrame(rows, columns=["function", "arm", "standard", "seed", "length", "accuracy", "lr"])


def _missing(table: pd.DataFrame) -> Iterator[str]:
    """The seeds without a result; of the corrected protocol those of one kind of runs are no promise for the other."""
    for (protocol, learned, arm), _ in table.groupby(["task.protocol", "learned", "arm"], sort=False):
        alike = table[(table["task.protocol"] == protocol) & (table["learned"].eq(learned) | (protocol == "reference"))]
        label = f"{MISSING}{arm}" if learned else f"{MISSING}{arm} protocol={protocol}"
        where = {"arm": arm, "task.protocol": protocol}
        yield from missing(table, label, where, set(alike["seed"]))


def _without_curves(done: pd.DataFrame, curves: Curves) -> list[str]:
    lost = int((~done.loc[done["learned"], "run_id"].isin(list(curves))).sum())
    return [f"the functions of {lost} runs cannot be read from their weights"] if lost else []


# -- statistics -------------------------------------------------------------------------------------------


def gain(done: pd.DataFrame, over: str = "best") -> pd.Series:
    """Accuracy (points) of the function that the reference's way learns, beyond others by the same protocol; by seed.

    over  best or paper (of the standard functions, or of the paper's, the one with the highest accuracy on that seed,
          which must have all of them) or an arm
    """
    others = done[(done["task.protocol"] == "reference") & ~done["learned"]]
    others = others[others["arm"].isin(_rivals(others, over))]
    rivals = others.pivot_table(index="seed", columns="arm", values="accuracy").dropna().max(axis=1)
    return (level(done, "accuracy", {"arm": "reference"}) - rivals).dropna()


def tried(trials: pd.DataFrame, arm: str, over: str | None = None, length: str = "short") -> pd.Series:
    """Accuracy (%) in trials, or points beyond another arm; by trial.

    over    best or paper (of the standard functions, or of the paper's, the best on average), an arm, or None
    length  short or long; raises ValueError for another
    """
    if length not in LENGTHS:
        raise ValueError(f"length is short or long, not {length!r}")
    over = best_standard(trials, length, over) if over in SETS else over
    found, rivals = (_in_trials(trials, name, length) for name in (arm, over))
    return found if over is None else (found - rivals).dropna()


def _rivals(rows: pd.DataFrame, over: str) -> list[str]:
    """The arms among which the best is looked for."""
    among = rows.loc[rows["standard"], "arm"] if over in SETS else rows.loc[rows["arm"] == over, "arm"]
    return [arm for arm in dict.fromkeys(among) if over != "paper" or arm in PAPER]


def best_standard(trials: pd.DataFrame, length: str, among: str = "best") -> str:
    """The standard function that is best on average over the trials that all of them have; "" where there is none.

    among  best: of all, or paper: of those that the paper has
    """
    rows = trials[trials["arm"].isin(_rivals(trials, among)) & (trials["length"] == length)]
    means = rows.pivot_table(index="seed", columns="arm", values="accuracy").dropna().mean()
    return str(means.idxmax()) if means.notna().any() else ""


def _in_trials(trials: pd.DataFrame, arm: str | None, length: str) -> pd.Series:
    rows = trials[(trials["arm"] == arm) & (trials["length"] == length)]
    return rows.groupby("seed")["accuracy"].mean()


def likeness(done: pd.DataFrame, curves: Curves, arm: str) -> pd.Series:
    """Correlation of a seed's function with the mean of those of the other seeds, from -ALIKE to ALIKE; by seed.

    It takes three seeds: two have one correlation, which is no sample.
    """
    rows = done[(done["arm"] == arm) & done["run_id"].isin(list(curves))]
    finals = {seed: _near(*curves[run_id]) for run_id, seed in zip(rows["run_id"], rows["seed"], strict=True)}
    if len(finals) < 3:
        return pd.Series(dtype=float)
    others = {seed: np.mean([curve for other, curve in finals.items() if other != seed], axis=0) for seed in finals}
    found = {seed: float(np.corrcoef(curve, others[seed])[0, 1]) for seed, curve in finals.items()}
    return pd.Series(found, dtype=float).rename_axis("seed").sort_index()


def _near(places: Array, snapshots: Array) -> Array:
    return snapshots[-1][np.abs(places) <= ALIKE]


OF_RUNS: dict[str, Statistic] = {"level": level, "difference": difference, "gain": gain}


# -- tables -----------------------------------------------------------------------------------------------


def protocol_table(done: pd.DataFrame) -> Table:
    """Every function by the protocol of learning; those that are not learned by the reference's."""
    rows = []
    known = done[done["task.protocol"].eq("reference") | done["learned"]]
    for arm in [*_learned(known), *_by_accuracy(known[~known["learned"]])]:
        own = known[known["arm"] == arm]
        cells = (shown(interval_of(own[name].dropna().to_numpy()), form) for name, form in _MEASURED.items())
        rows.append((_name(arm), *cells, str(len(own))))
    return Table(
        "After a training as in learning: mean ± half of the 95% interval over n seeds",
        ("function", "test accuracy (%)", "mean loss", "extrema", "n"),
        tuple(rows),
        "Of a learned function the accuracy is the mean over the last sixth of its trainings, the loss that of the "
        "last. All others have one training by the reference's protocol; best first.",
    )


_MEASURED = {"accuracy": "z.1f", "loss": "z.3f", "extrema": "z.1f"}


def trial_table(done: pd.DataFrame, trials: pd.DataFrame, length: str) -> Table:
    """Every function on weights, noise and data that it has not seen."""
    rows = []
    known, best = trials[trials["length"] == length], best_standard(trials, length)
    for arm in _by_accuracy(known):
        own = known[known["arm"] == arm]
        found = interval_of(tried(trials, arm, length=length).to_numpy())
        lead = interval_of(tried(trials, arm, best, length).to_numpy()) if arm != best else None
        each = own.groupby("function")["accuracy"].mean()
        spread = f"{len(each)}: {each.min():.1f}–{each.max():.1f}" if len(each) > 1 else "1"
        rows.append((_name(arm), shown(found), shown(lead, "+z.1f"), _rate(done, own["lr"]), spread))
    return Table(
        f"On new weights, noise and data, after {done[STEPS[length]].iloc[0]:g} steps",
        ("function", "accuracy (%)", "− best standard", "learning rate", "functions"),
        tuple(rows),
        f"Test accuracy, mean ± half of the 95% interval over {span(known.groupby('arm')['seed'].nunique())} trials, "
        "best first. Several functions are averaged within a trial; beside their number stand the lowest and the "
        "highest of their own means. Learning rates: the median of those that validation accuracy chose; *: an end of "
        "the grid, beyond which there may be better ones.",
    )


def _rate(done: pd.DataFrame, chosen: pd.Series) -> str:
    """The median, which is one of the grid; marked where a better one may lie beyond the grid's end."""
    grid = sorted(done["task.trial_lrs"].iloc[0])
    median = f"{chosen.quantile(interpolation='lower'):g}"  # compared as text: it may have been single precision
    return f"{median}{'*' * (median in (f'{grid[0]:g}', f'{grid[-1]:g}'))}"


def _lengths(trials: pd.DataFrame) -> list[str]:
    return [length for length in LENGTHS if (trials["length"] == length).any()]


def _learned(done: pd.DataFrame) -> list[str]:
    return [arm for arm in ARMS if (done["arm"] == arm).any()]


def _by_accuracy(rows: pd.DataFrame) -> list[str]:
    means = rows.groupby("arm")["accuracy"].mean()
    return means.sort_values(ascending=False, kind="stable").index.tolist()


def _name(arm: str) -> str:
    return ARMS[arm].name if arm in ARMS else arm.replace("_", " ")


# -- pictures ---------------------------------------------------------------------------------------------


def draw_learning(runs: Runs, done: pd.DataFrame, curves: Curves) -> Picture | None:
    """The paper's three panels: loss and accuracy by training, and the function as it is learned."""
    arms, known = _learned(done), done[done["run_id"].isin(list(curves))].sort_values("seed")
    if not arms:
        return None
    redo, kind = command("metalearn_activation", done), basis((done["arm"] == arm).sum() for arm in arms)
    with figures.lab_style():
        figure, axes = figures.panels(3 if curves else 2, gap=0.27, sharey=False, size=(7.6, 3.9))
        for ax, metric, factor in zip(axes, ("meta/loss", "test/acc"), (1, 100), strict=False):
            for arm in arms:
                steps, values = runs.curves(metric, done.loc[done["arm"] == arm, "run_id"].tolist())
                figures.plot_band(ax, steps, factor * values, ARMS[arm])
        axes[0].set(title="a  Loss that is minimised", xlabel="training")
        axes[1].set(title="b  Test accuracy (%)", xlabel="training")
        _standard_levels(axes[1], done)
        for ax in axes[:2]:
            _fit_lines(ax)
        about = f"a, b: {kind}; dotted: standard functions."
        if curves:
            first = min(known.to_dict("records"), key=lambda run: arms.index(run["arm"]))
            _draw_snapshots(axes[2], *curves[first["run_id"]], title=f"c  f(x), {first['arm']}")
            about += f" c: seed {first['seed']}, every {first['task.snapshot_every']} trainings, light to dark."
        figures.legend(figure, [figures.sample(ARMS[arm]) for arm in arms])
        figures.caption(figure, f"{about}\n{redo}")
    alt = "Loss and test accuracy by training, with standard functions as lines, and a function as it is learned"
    return Picture("learning", figure, alt, f"{about} `{redo}`")


def _standard_levels(ax: Axes, done: pd.DataFrame) -> None:
    """Lines for standard functions, labelled beside the curves: the best one, and those that lie clear of the last."""
    rows = done[done["standard"] & (done["task.protocol"] == "reference")]
    ticks, above = [tick for tick in ax.get_xticks() if 0 <= tick <= ax.dataLim.x1], np.inf
    for name in _by_accuracy(rows):
        accuracy = rows.loc[rows["arm"] == name, "accuracy"].mean()
        if above - accuracy > CLEAR:
            figures.plot_level(ax, accuracy, _name(name))
            above = accuracy
    ax.set_xticks(ticks)
    ax.set_xlim(right=ax.dataLim.x1 * (1.04 if rows.empty else 1.4))


def _fit_lines(ax: Axes) -> None:
    """Limit an axis to its lines, with a margin: intervals of few seeds would press them flat."""
    heights = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in ax.lines])
    low, high, (bottom, top) = np.nanmin(heights), np.nanmax(heights), ax.get_ylim()
    margin = 0.2 * (high - low) or 0.1
    ax.set_ylim(max(bottom, low - margin), min(top, high + margin))


def _draw_snapshots(ax: Axes, places: Array, snapshots: Array, title: str) -> None:
    for shade, values in zip(np.linspace(0.85, 0.0, len(snapshots)), snapshots, strict=True):
        ax.plot(places, values, color=str(shade), linewidth=1.6 if shade == 0 else 0.6)
    _function_axes(ax, title)


def _function_axes(ax: Axes, title: str) -> None:
    """The paper's range, lower where lines leave it."""
    ax.set(title=title, xlabel="x", ylim=(min(-1.5, ax.dataLim.y0 - 0.2), 4), xticks=range(-4, 5, 2))


def draw_functions(done: pd.DataFrame, curves: Curves) -> Picture | None:
    """The functions that were learned, of all seeds, with their extrema."""
    known = done[done["run_id"].isin(list(curves))].sort_values("seed")
    arms = _learned(known)
    if not arms:
        return None
    redo = command("metalearn_activation", done)
    with figures.lab_style():
        figure, axes = figures.panels(len(arms), size=(7.6, 3.8), below=0.95)
        for ax, arm in zip(axes, arms, strict=True):
            rows = known[known["arm"] == arm]
            for places, snapshots in (curves[run_id] for run_id in rows["run_id"]):
                turns = extrema(snapshots[-1])
                ax.plot(places, snapshots[-1], color=ARMS[arm].color, linewidth=1.1)
                ax.plot(places[turns], snapshots[-1][turns], "o", color=INK, markersize=3.5, markerfacecolor="white")
                ax.plot(places, snapshots[0], color=INK, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=1)
            _function_axes(ax, f"{ARMS[arm].name} (n = {len(rows)})")
        axes[0].set_ylabel("f(x)")
        about = "A line for each seed. Circles: extrema. Dotted: where learning begins."
        figures.caption(figure, f"{about}\n{redo}")
    return Picture("functions", figure, "Learned activation functions of all seeds", f"{about} `{redo}`")


def draw_trials(done: pd.DataFrame, trials: pd.DataFrame) -> Picture | None:
    """Test accuracy of every function in trials, short and long."""
    lengths = _lengths(trials)
    if not lengths:
        return None
    redo, order = command("metalearn_activation", done), _by_accuracy(trials[trials["length"] == "short"])[::-1]
    kind = basis(trials.groupby("arm")["seed"].nunique(), "trial")
    standard = set(trials.loc[trials["standard"], "arm"])
    with figures.lab_style():
        figure, axes = figures.panels(len(lengths), size=(7.6, 4.6), left=1.75, below=0.95)
        for ax, length in zip(axes, lengths, strict=True):
            found = [interval_of(tried(trials, arm, length=length).to_numpy()) for arm in order]
            for row, (arm, interval) in enumerate(zip(order, found, strict=True)):
                if interval:
                    look = Look("", "#16295c", "o" if arm in {*ARMS, *standard} else "s", hollow=arm in standard)
                    ax.plot([interval.low, interval.high], [row, row], color=look.color, linewidth=1.4)
                    ax.plot([interval.mean], [row], **look.drawn)
            ax.set(title=f"After {done[STEPS[length]].iloc[0]:g} steps", xlabel="test accuracy (%)")
            ax.set(ylim=(-0.6, len(order) - 0.4), xlim=np.clip(ax.get_xlim(), 0, 100))
        axes[0].set_yticks(range(len(order)), [_name(arm) for arm in order])
        about = f"New weights, noise and data; {kind}. Open: standard functions. Squares: fits."
        figures.caption(figure, f"{about}\nEach at its own learning rate. {redo}")
    return Picture("trials", figure, "Test accuracy of every activation function in trials", f"{about} `{redo}`")
