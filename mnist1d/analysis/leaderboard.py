"""The page of experiment=leaderboard: accuracy against size and training time, and what a recipe's parts are worth.

The page's own columns:

    net         architecture and number of parameters, as `resnet 970`; of an ensemble `10 resnets 50,660`
    parameters  of the network, or of all of an ensemble
    part        `all`: the whole recipe of a net; or the option that is left at its default. The whole one has the
                most options in use (of several such, most runs); a run of task=classification is whole as well
    ours        whether there is a recipe
    final       test accuracy (%) after the last step
    seconds     processor seconds of training, a run's share of its stack's

Statistics: level, difference, `within`, the accuracy of the best recipe within a number of parameters, and `worth`,
what an option adds to it. Recipes were chosen on validation data and are trained on all training data; test data are
looked at after the last step, and nothing is chosen by them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from mnist1d.analysis import figures
from mnist1d.analysis.figures import LOOKS, Look
from mnist1d.analysis.intervals import Interval, basis, interval_of, shown
from mnist1d.analysis.page import NoRuns, Page, Picture, Statistic, Table
from mnist1d.analysis.paired import difference_table
from mnist1d.analysis.parameters import parameters
from mnist1d.analysis.protocol import MISSING, command, finished, missing, one_protocol
from mnist1d.analysis.read import Runs
from mnist1d.analysis.statistics import difference, level
from mnist1d.spelling import unknown

METRICS: tuple[str, ...] = ()
"""No histories: what a run ends with is all that counts."""

WHOLE = "all"
OPTIONS: dict[str, tuple[str, str]] = {  # option of task=recipe -> its default as text, its name in tables
    "detrend": ("False", "no mean and slope"),
    "shift": ("0", "random shifts"),
    "dilation": ("0.0", "random dilation"),
    "scale_coeff": ("0.0", "random amplitude"),
    "corr_noise_scale": ("0.0", "smooth noise"),
    "iid_noise_scale": ("0.0", "white noise"),
    "shear_scale": ("0.0", "random slope"),
    "label_smoothing": ("0.0", "label smoothing"),
    "rate_schedule": ("constant", "falling rate"),
    "warmup": ("0.0", "warm-up"),
    "average_decay": ("0.0", "averaged weights"),
    "test_shift": ("0", "test-time shifts"),
    "ensemble": ("1", "ensemble"),
}
HUMAN = 95.8
"""Accuracy (%) of the human on 500 test images, in the reference's notebook."""
OURS = Look("our recipes", "#b3243b", "P")


@dataclass(frozen=True)
class Published:
    """A point that others have published: not run here, and in no statistic."""

    name: str
    size: int
    accuracy: float  # %
    source: str


PAPER = "paper, Table 1"
LATER = "arXiv 2602.13348"
PUBLISHED = (
    Published("logistic", 410, 32, PAPER),
    Published("mlp", 15_210, 68, PAPER),
    Published("cnn", 5_210, 94, PAPER),
    Published("gru", 5_134, 91, PAPER),
    Published("ResNet-1D", 26_000, 98.7, LATER),
    Published("TCN", 104_000, 99.4, LATER),
    Published("dilated CNN", 26_000, 97.3, LATER),
)
"""Of the later paper the best test accuracy over the evaluations of a single run, which favours it."""


def page(runs: Runs) -> Page:
    """The page of `runs`; raises NoRuns when none of them is finished."""
    table, remarks = comparable(finished(runs))
    done = table[table["status"] == "FINISHED"]
    if done.empty:
        raise NoRuns(f"no run is finished that can be compared ({'; '.join(remarks)})")
    tables = (accuracy_table(done), worth_table(done), *recipe_tables(done))
    statistics: dict[str, Statistic] = {name: partial(function, done) for name, function in STATISTICS.items()}
    return Page(
        table, (draw(done),), tuple(each for each in tables if each.rows), statistics, (*remarks, *_missing(table))
    )


# -- which runs, and which recipe each of them is ---------------------------------------------------------


def comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs with the page's own columns; of each net those of one protocol, and a remark on what is left out."""
    runs = table.to_dict("records")
    counts = [_ensemble(run) * parameters(run) for run in runs]
    nets = [f"{_architecture(run)} {count:,}" for run, count in zip(runs, counts, strict=True)]
    ours = table["task.name"] == "recipe"
    table = table.assign(net=nets, parameters=counts, ours=ours)
    kept, remarks = [], []
    for (_, recipe), group in table.groupby(["net", "ours"], sort=False):
        part, left_out = one_protocol(group, {"seed", *(_key(option) for option in OPTIONS if recipe)})
        part, others = _with_parts(part)
        kept.append(part)
        remarks += [*left_out, *others]
    both = pd.concat(kept)
    percent, seconds = (both.get(key, pd.Series(np.nan, both.index)) for key in ("test/acc_final", "time/cpu_seconds"))
    return both.assign(final=100 * percent.astype(float), seconds=seconds.astype(float)), tuple(remarks)


def _with_parts(group: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The runs of one net with their `part`: of the whole recipe, and of it without one option."""
    used = [_used(run) for run in group.to_dict("records")]
    counts = Counter(tuple(own.items()) for own in used)
    for own, status in zip(used, group["status"], strict=True):
        counts[tuple(own.items())] += len(used) * (status == "FINISHED")
    most = max((len(options), count) for options, count in counts.items())
    whole = dict(next(options for options, count in counts.items() if (len(options), count) == most))
    parts = [_part(own, whole) for own in used]
    known = pd.Series([part is not None for part in parts], group.index)
    text = f"{(~known).sum()} runs of {group['net'].iloc[0]} left out: more than one option differs from its recipe"
    return group.assign(part=parts)[known], [text] if not known.all() else []


def _ensemble(run: Mapping[Any, Any]) -> int:
    """Networks of a run, whose logits are averaged."""
    return int(_used(run).get("ensemble", 1))


def _architecture(run: Mapping[Any, Any]) -> str:
    size = _ensemble(run)
    return str(run["model.name"]) if size == 1 else f"{size} {run['model.name']}s"


def _key(option: str) -> str:
    return f"task.{option}"


def _used(run: Mapping[Any, Any]) -> dict[str, str]:
    """Options of a run's recipe that are not at their default."""
    values = {option: str(run.get(_key(option))) for option in OPTIONS}
    unused = ("nan", "None")
    return {o: text for o, text in values.items() if text not in unused and not _equal(text, OPTIONS[o][0])}


def _equal(text: str, default: str) -> bool:
    try:
        return float(text) == float(default)
    except ValueError:
        return text == default


def _part(used: dict[str, str], whole: dict[str, str]) -> str | None:
    """`all`, or the one option of the whole recipe that is not used; None for another recipe."""
    lacking = [option for option in whole if option not in used]
    same = all(whole.get(option) == value for option, value in used.items())
    return None if not same or len(lacking) > 1 else (lacking or [WHOLE])[0]


def _missing(table: pd.DataFrame) -> Iterator[str]:
    """The seeds without a result: those of any run of a net are expected of all its recipes."""
    for (net, part, ours), _ in table.groupby(["net", "part", "ours"], sort=False):
        same = table[(table["net"] == net) & (table["ours"] == ours)]
        label = f"{MISSING}{net}" + ("" if part == WHOLE else f" without {OPTIONS[part][1]}")
        yield from missing(same, label, {"part": part}, set(same["seed"]))


# -- statistics: one number per seed ----------------------------------------------------------------------


def within(done: pd.DataFrame, most: int) -> pd.Series:
    """Final test accuracy (%) of the whole recipe of our largest net with at most so many parameters, by seed."""
    return level(done, "final", {"net": _largest(done, most), "part": WHOLE, "ours": True})


def worth(done: pd.DataFrame, option: str, most: int) -> pd.Series:
    """Accuracy (points) of that recipe minus that without an option, by seed; ValueError for one that is none."""
    if option not in OPTIONS:
        raise ValueError(unknown("option", option, OPTIONS))
    return _worth(done, _largest(done, most), option)


def _worth(done: pd.DataFrame, net: str | None, option: str) -> pd.Series:
    of, minus = ({"net": net, "part": part, "ours": True} for part in (WHOLE, option))
    if option == "ensemble":
        minus = of | {"net": _alone(done, net)}
    return difference(done, "final", of, minus)


def _alone(done: pd.DataFrame, net: str | None) -> str | None:
    """The net that an ensemble has several of, if it is trained by the same recipe; None otherwise."""
    whole = done[done["ours"] & (done["part"] == WHOLE)]
    (ensemble, *_), others = whole[whole["net"] == net].to_dict("records") or [{}], whole[whole["net"] != net]
    same = (run for run in others.to_dict("records") if _single(run) == _single(ensemble))
    return next((str(run["net"]) for run in same if _ensemble(run) == 1), None)


def _single(run: Mapping[Any, Any]) -> dict[Any, Any]:
    """What tells one of a run's nets from others: model, recipe and training."""
    sections = ("model.", "optimizer.", "trainer.max_steps", "data.batch_size")
    own = {key: str(value) for key, value in run.items() if str(key).startswith(sections)}
    return own | _used(run) | {"ensemble": ""}


def _largest(done: pd.DataFrame, most: int) -> str | None:
    ours = done[done["ours"] & (done["parameters"] <= most)]
    return None if ours.empty else str(ours.loc[ours["parameters"].idxmax(), "net"])


STATISTICS: dict[str, Statistic] = {"level": level, "difference": difference, "within": within, "worth": worth}


# -- tables -----------------------------------------------------------------------------------------------


def entries(done: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Name -> runs of every entry of the leaderboard, the most accurate first."""
    whole = done[done["part"] == WHOLE]
    found = {
        f"{net}{'' if ours else ', as in the paper'}": rows for (net, ours), rows in whole.groupby(["net", "ours"])
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]["final"].mean()))


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Of points (cost, accuracy) the names of those that none beats in both."""
    return [
        name
        for name, (cost, accuracy) in points.items()
        if not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points.values())
    ]


def _points(done: pd.DataFrame, cost: str) -> dict[str, tuple[float, float]]:
    return {name: (float(rows[cost].mean()), float(rows["final"].mean())) for name, rows in entries(done).items()}


def accuracy_table(done: pd.DataFrame) -> Table:
    """Every entry and every published point: parameters, accuracy, seconds, and whether it is on a Pareto front."""
    fronts = {cost: front(_points(done, cost)) for cost in ("parameters", "seconds")}
    rows = []
    for name, own in entries(done).items():
        accuracy = shown(interval_of(own["final"].to_numpy()), "z.2f")
        on = ", ".join(cost for cost, names in fronts.items() if name in names)
        net = f"{_architecture(own.iloc[0].to_dict())}{' + recipe' if own['ours'].iloc[0] else ''}"
        size, seconds = f"{own['parameters'].iloc[0]:,}", f"{own['seconds'].mean():.1f}"
        rows.append((net, size, accuracy, seconds, on, str(len(own))))
    for point in sorted(PUBLISHED, key=lambda point: -point.accuracy):
        rows.append((point.name, f"{point.size:,}", f"{point.accuracy:g}", "", "", point.source))
    return Table(
        "Test accuracy (%) on the frozen data set: 4000 training samples, 1000 test samples",
        ("net", "parameters", "accuracy", "CPU seconds", "on the front of", "n"),
        tuple(rows),
        "Mean ± half of the 95% interval over n seeds, after the last step. CPU seconds: of a run, its share of its "
        "stack's.\nWhere n names a source, the point is published and was not run here; those of "
        f"{LATER} are the best over the evaluations of single runs. A human has {HUMAN} on 500 of the test samples.",
    )


def worth_table(done: pd.DataFrame) -> Table:
    """Option x net: what accuracy loses when the option alone is left out, with its interval and adjusted p value."""
    nets = _nets(done)
    found = {(option, net): _worth(done, net, option) for net in nets for option in OPTIONS}
    found = {key: values for key, values in found.items() if values.size}
    nets = [net for net in nets if any(net == own for _, own in found)]
    parts = {option: OPTIONS[option][1] for option in OPTIONS if any(option == own for own, _ in found)}
    title = (
        "What each part of a recipe is worth: test accuracy (points) of the whole recipe minus that without the part"
    )
    return difference_table(title, "part", found, parts, tuple(nets), 2)


def recipe_tables(done: pd.DataFrame) -> Iterator[Table]:
    """The settings of every whole recipe."""
    ours = [own.iloc[0] for net in _nets(done) for own in [done[(done["net"] == net) & done["ours"]]]]
    whole = [done[(done["net"] == run["net"]) & (done["part"] == WHOLE) & done["ours"]].iloc[0] for run in ours]
    keys = ["trainer.max_steps", "data.batch_size", "optimizer.name", "optimizer.lr", "optimizer.weight_decay"]
    keys += [_key(option) for option in OPTIONS if any(option in _used(run.to_dict()) for run in whole)]
    rows = [(key, *(_set(run, key) for run in whole)) for key in keys]
    yield Table("The recipes", ("setting", *(str(run["net"]) for run in whole)), tuple(rows) if whole else (), "")


def _set(run: pd.Series, key: str) -> str:
    """What a run has for a key, which is younger than some runs: those have its default."""
    value = run.get(key)
    return OPTIONS[key.removeprefix("task.")][0] if pd.isna(value) else str(value)


def _nets(done: pd.DataFrame) -> list[str]:
    """Our nets, smallest first."""
    ours = done[done["ours"]]
    return list(dict.fromkeys(ours.sort_values("parameters")["net"]))


# -- picture ----------------------------------------------------------------------------------------------


def draw(done: pd.DataFrame) -> Picture:
    """Test error against parameters and against processor seconds, both logarithmic, with the Pareto fronts."""
    redo = command("leaderboard", done)
    with figures.lab_style():
        figure, axes = figures.panels(2, size=(7.6, 4.5), below=1.53)
        for ax, cost, title in zip(axes, ("parameters", "seconds"), ("a  Size", "b  Training time"), strict=True):
            points = _points(done, cost)
            ax.set(title=title, xlabel={"parameters": "parameters", "seconds": "processor seconds of training"}[cost])
            sizes = [c for c, _ in points.values()]
            ax.set(xscale="log", yscale="log", xlim=(min(sizes) / 2, 2 * max(sizes)))
            edge = sorted(points[name] for name in front(points))
            ax.step([c for c, _ in edge], [100 - a for _, a in edge], where="post", color=figures.INK, linewidth=0.9)
            if cost == "parameters":
                ax.set_xlim(min(*sizes, *(point.size for point in PUBLISHED)) / 2, 7e5)
                _draw_published(ax)
            for own in entries(done).values():
                _draw_entry(ax, own, cost)
            _error_axis(ax)
            ax.axhline(100 - HUMAN, color=_HUMAN.color, linewidth=1.1, linestyle=_HUMAN.line, zorder=1)
        axes[0].set_ylabel("test error (%), logarithmic")
        looks = [OURS, *(LOOKS[name] for name in LOOKS if (done["model.name"] == name).any()), _OTHERS]
        samples = [figures.sample(replace(look, line="none")) for look in looks]
        figures.legend(figure, [*samples, figures.sample(_HUMAN)], columns=4)
        about = (
            f"Test error of 1000 samples; {basis(done.groupby(['net', 'part', 'ours']).size())}. Line: Pareto front."
        )
        figures.caption(figure, f"{about} Crosses: published, best on test data; not run here.\n{redo}")
    best = next(iter(entries(done).items()))
    alt = f"Test error against size and training time. Lowest: {best[0]} with {best[1]['final'].mean():.2f}% right."
    return Picture("front", figure, alt, f"{about} `{redo}`")


_OTHERS = Look("published", "#555555", "x")
_HUMAN = Look(f"human, {HUMAN}% right", figures.INK, "", (0, (1, 1.5)))


def _draw_published(ax: Axes) -> None:
    for point in PUBLISHED:
        ax.plot([point.size], [100 - point.accuracy], _OTHERS.marker, color=_OTHERS.color, markersize=5)
        ax.annotate(
            point.name,
            (point.size, 100 - point.accuracy),
            (4, 2),
            textcoords="offset points",
            va="bottom",
            fontsize=7,
            color=_OTHERS.color,
        )


def _draw_entry(ax: Axes, own: pd.DataFrame, cost: str) -> None:
    found: Interval | None = interval_of(own["final"].to_numpy())
    if found is None:
        return
    look = OURS if own["ours"].iloc[0] else figures.look(own["model.name"].iloc[0])
    at, half = float(own[cost].mean()), float(np.nan_to_num(found.half_width))
    error = 100 - found.mean
    ax.errorbar([at], [error], [[min(half, 0.9 * error)], [half]], **replace(look, line="none").drawn, capsize=2.5)


def _error_axis(ax: Axes) -> None:
    places = [0.3, 0.5, 1, 2, 5, 10, 20, 50, 100]
    ax.set_ylim(0.25, 110)
    ax.yaxis.set_major_locator(FixedLocator(places))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_yticklabels([f"{place:g}" for place in places])
