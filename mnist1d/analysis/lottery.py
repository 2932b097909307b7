"""The page of experiment=lottery: tickets against random masks and the dense network, by sparsity and on other data.

The page's own columns, accuracies in percent:

    arm           what is pruned: the smallest weights (magnitude: the lottery tickets), any (random: drawn anew in each
                  round; random_nested: only from those left), or nothing (dense: runs of one round)
    final         test accuracy at the end of the round whose masks are the tickets
    fresh_rewound … chunk_shuffled_redrawn    test accuracy at the end of a follow-up, by its data and initial weights
    two, three, four    of the places in the rows of the first layer's mask, those at which so many neighbouring weights
                  are all kept (%); two_chance … what it is on average if they are kept at random, at the same density

Beside it stand the rounds of all runs, each with its sparsity (%), test accuracy (%) and test loss where it ends.

Statistics: level, difference, `follow` and `chance_ratio` of the table, `at_sparsity`, `over_sparsities` and
`highest_sparsity` of the rounds. A seed is a trial: initial weights and random masks; all arms of it start equal.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mnist1d.analysis import figures, weights
from mnist1d.analysis.figures import INK, Look
from mnist1d.analysis.intervals import Interval, basis, interval_of, shown, span
from mnist1d.analysis.page import NoRuns, Page, Picture, Statistic, Table
from mnist1d.analysis.protocol import MISSING, command, finished, missing, one_protocol
from mnist1d.analysis.read import Runs
from mnist1d.analysis.statistics import difference, level
from mnist1d.spelling import unknown

MEASURES = {"sparsity": ("sparsity", 100), "accuracy": ("test/acc", 100), "loss": ("test/loss", 1)}
"""Column of the rounds -> the history that it is from, and the factor."""
METRICS = tuple(metric for metric, _ in MEASURES.values())
"""The histories that the page needs: of the search, not of the follow-ups."""

ARMS = {  # in the order of tables and legends
    "dense": Look("dense", INK, "D", (0, (1, 1.5)), hollow=True),
    "magnitude": Look("lottery", "#16295c", "o"),
    "random": Look("random", "#e8951a", "s", (0, (5, 1.5))),
    "random_nested": Look("nested random", "#2a7d62", "^", (0, (5, 1.5, 1, 1.5)), hollow=True),
}
DATA = ("fresh", "reversed", "shuffled", "half_swapped", "chunk_shuffled")
INITS = ("rewound", "redrawn")
LENGTHS = {"two": 2, "three": 3, "four": 4}
MARKS = (0, 50, 80, 90, 92, 95, 96, 97, 98)
"""Sparsities (%) that the table shows."""
WITHIN = 1.0
"""How far (points) the nearest round may lie from a sparsity that is asked for."""
PANELS = {"loss": "a  Test loss", "accuracy": "b  Test accuracy (%)"}
PAPER_RANGE = (55, 80)
"""Accuracies (%) that the paper's panel b shows."""

_AXES = {"seed", "task.criterion"}
_FREE = {"task.follow_ups"}  # each is measured apart from the others
_ROUNDS = {"task.rounds", "task.ticket_round"}  # in which the dense arm differs


# -- the page ---------------------------------------------------------------------------------------------


def page(runs: Runs) -> Page:
    """The tables, pictures and statistics of the lottery experiment; raises NoRuns when no run is finished."""
    table, remarks = comparable(finished(runs))
    done = table[table["status"] == "FINISHED"]
    if done.empty:
        raise NoRuns(f"no run is finished that can be compared ({'; '.join(remarks)})")
    rounds = round_ends(runs, done)
    done = done.assign(ticket_sparsity=_ticket_sparsity(done, rounds))
    masks = first_masks(runs, done)
    drawn = (_search_picture(done, rounds), _follow_picture(done), _adjacency_picture(done), _mask_picture(masks, done))
    tables = (search_table(rounds), lead_table(rounds), follow_table(done), adjacency_table(done))
    statistics = {name: partial(function, done) for name, function in OF_RUNS.items()}
    statistics |= {name: partial(function, rounds) for name, function in OF_ROUNDS.items()}
    return Page(
        table,
        tuple(picture for picture in drawn if picture),
        tuple(each for each in tables if each.rows),
        statistics,
        (*remarks, *_missing(table), *_without_masks(masks, done)),
    )


def comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of one protocol with the page's own columns, and a remark on every group left out.

    One search, and the dense runs that differ from it in nothing but the number of rounds.
    """
    kept, left_out = one_protocol(table, _AXES | _ROUNDS, _FREE)
    dense = kept["task.rounds"] == 1
    parts, remarks = [], list(left_out)
    for rows, axes in ((kept[~dense], _AXES), (kept[dense], {"seed"})):
        if not rows.empty:
            part, left_out = one_protocol(rows, axes, _FREE)
            parts.append(part)
            remarks += left_out
    both = pd.concat(parts)
    arm = both["task.criterion"].mask(both["task.rounds"] == 1, "dense")
    return both.assign(arm=arm, **_measures(both)), tuple(remarks)


def _measures(table: pd.DataFrame) -> dict[str, pd.Series]:
    """The page's columns of numbers; nan where there are none, as of data that the profile leaves out."""
    keys = {"final": "test/acc_final"}
    keys |= {f"{data}_{init}": f"{data}_{init}/test/acc_final" for data, init in product(DATA, INITS)}
    keys |= {name: f"adjacency/{name}" for name in LENGTHS}
    found = table.reindex(columns=[*keys.values(), "density/first_layer"]).astype(float)
    density = found["density/first_layer"]
    chances = {f"{name}_chance": 100 * density**length for name, length in LENGTHS.items()}
    return {name: 100 * found[key] for name, key in keys.items()} | chances


def round_ends(runs: Runs, done: pd.DataFrame) -> pd.DataFrame:
    """One row per run and round: arm, seed, round, and where it ends sparsity (%), test accuracy (%) and test loss."""
    steps, ids = int(done["trainer.max_steps"].max()), done["run_id"].tolist()
    columns = {}
    for name, (metric, factor) in MEASURES.items():
        history = runs.histories[metric].reindex(ids).rename_axis("run_id")
        ends = {step: step // steps for step in history if (step + 1) % steps == 0}
        long = history[list(ends)].rename(columns=ends).melt(ignore_index=False, var_name="round", value_name=name)
        columns[name] = factor * long.dropna().set_index("round", append=True)[name].astype(float)
    return pd.DataFrame(columns).reset_index().merge(done[["run_id", "arm", "seed"]], on="run_id")


def _missing(table: pd.DataFrame) -> Iterator[str]:
    """The seeds without a result; those of any arm are expected of every one."""
    for arm in _arms(table):
        yield from missing(table, f"{MISSING}{ARMS[arm].name}", {"arm": arm}, set(table["seed"]))


def _arms(table: pd.DataFrame) -> list[str]:
    return [arm for arm in ARMS if (table["arm"] == arm).any()]


def _pruned(table: pd.DataFrame) -> list[str]:
    return [arm for arm in _arms(table) if arm != "dense"]


def _followed(done: pd.DataFrame) -> list[str]:
    """The arms that were trained on other data."""
    return [arm for arm in _arms(done) if any(follow(done, *each, arm).size for each in _follow_ups(done))]


# -- statistics: one number per seed ----------------------------------------------------------------------


def follow(table: pd.DataFrame, data: str, init: str, arm: str, minus: str | None = None) -> pd.Series:
    """Test accuracy (%) of an arm at the end of a follow-up, or that minus another arm's in the same one (points).

    data, init  what the tickets are trained on, and the weights they start from
    Raises ValueError for a name that is not ours.
    """
    measure = f"{_known('data', data, DATA)}_{_known('init', init, INITS)}"
    found = [level(table, measure, {"arm": _known("arm", each, ARMS)}) for each in (arm, minus) if each is not None]
    return found[0] if minus is None else (found[0] - found[1]).dropna()


def chance_ratio(table: pd.DataFrame, length: str, arm: str) -> pd.Series:
    """How many times as often as by chance `length` (two, three, four) neighbouring weights are all kept, by seed."""
    where = {"arm": _known("arm", arm, ARMS)}
    name = _known("length", length, LENGTHS)
    return level(table, name, where) / level(table, f"{name}_chance", where)


def at_sparsity(
    rounds: pd.DataFrame, sparsity: float, arm: str, minus: str | None = None, measure: str = "accuracy"
) -> pd.Series:
    """`measure` of the round nearest to a sparsity (%), or that minus another arm's; nothing where none is near.

    The dense network is the same at every sparsity. Raises ValueError for a name that is not ours.
    """
    rows = _searched(rounds, arm, sparsity - WITHIN, sparsity + WITHIN)
    away = (rows["sparsity"] - sparsity).abs()
    found = rows.assign(away=away).sort_values(["away", "round"]).drop_duplicates("seed").set_index("seed")
    values = found[_known("measure", measure, ("accuracy", "loss"))].sort_index()
    return values if minus is None else (values - at_sparsity(rounds, sparsity, minus, None, measure)).dropna()


def over_sparsities(rounds: pd.DataFrame, low: float, high: float, arm: str, minus: str | None = None) -> pd.Series:
    """Mean accuracy (%) over the rounds between two sparsities (%), or that minus another arm's (points)."""
    values = _searched(rounds, arm, low, high).groupby("seed")["accuracy"].mean()
    return values if minus is None else (values - over_sparsities(rounds, low, high, minus)).dropna()


def highest_sparsity(rounds: pd.DataFrame, arm: str) -> pd.Series:
    """The largest sparsity (%) at which an arm is more accurate than dense, 0 where it never is, by seed."""
    own, dense = (_searched(rounds, each, 0, 100) for each in (arm, "dense"))
    both = own.merge(dense[["seed", "accuracy"]], on="seed", suffixes=("", "_dense"))
    above = both["accuracy"] > both["accuracy_dense"]
    return both["sparsity"].where(above, 0.0).groupby(both["seed"]).max()


def _searched(rounds: pd.DataFrame, arm: str, low: float, high: float) -> pd.DataFrame:
    """The rounds of an arm between two sparsities (%), bounds included; that of dense, whatever they are."""
    rows = rounds[rounds["arm"] == _known("arm", arm, ARMS)]
    return rows if arm == "dense" else rows[rows["sparsity"].between(low, high)]


def _known(kind: str, name: str, allowed: Collection[str]) -> str:
    if name not in allowed:
        raise ValueError(unknown(kind, name, allowed))
    return name


OF_RUNS: dict[str, Statistic] = {
    "level": level,
    "difference": difference,
    "follow": follow,
    "chance_ratio": chance_ratio,
}
OF_ROUNDS: dict[str, Statistic] = {
    "at_sparsity": at_sparsity,
    "over_sparsities": over_sparsities,
    "highest_sparsity": highest_sparsity,
}


# -- tables -----------------------------------------------------------------------------------------------


def search_table(rounds: pd.DataFrame) -> Table:
    """Sparsity x arm: test accuracy where the round ends, and what the tickets are better than dense by."""
    arms, rows = _arms(rounds), []
    for sparsity in _marks(rounds):
        found = [interval_of(at_sparsity(rounds, sparsity, arm)) for arm in arms]
        lead = interval_of(at_sparsity(rounds, sparsity, "magnitude", "dense"))
        rows.append((f"{sparsity:.1f}", *map(shown, found), shown(lead, "+z.1f"), _n(found)))
    return Table(
        "Test accuracy (%) by sparsity: mean ± half of the 95% interval over n seeds",
        ("sparsity (%)", *_names(arms), "lottery − dense", "n"),
        tuple(rows),
        "At the end of a round. dense: trained once, with nothing pruned, in every row.\n"
        "lottery − dense: points, paired by seed: both start from the same weights.",
    )


def _marks(rounds: pd.DataFrame) -> list[float]:
    """The sparsities (%) of the rounds nearest to MARKS; of few rounds those of all."""
    seen = np.unique(rounds.loc[rounds["arm"] != "dense", "sparsity"])
    if len(seen) <= 2 * len(MARKS):
        return seen.tolist()
    near = [seen[np.abs(seen - mark).argmin()] for mark in MARKS if seen.size]
    return sorted({float(each) for each, mark in zip(near, MARKS, strict=False) if abs(each - mark) <= WITHIN})


def lead_table(rounds: pd.DataFrame) -> Table:
    """Arm: its mean distance to dense over a range of sparsities, and up to which one it is better than dense."""
    rows = []
    for arm in _pruned(rounds):
        lead = interval_of(over_sparsities(rounds, 50, 95, arm, "dense"))
        highest = interval_of(highest_sparsity(rounds, arm))
        if lead or highest:
            rows.append((ARMS[arm].name, shown(lead, "+z.1f"), shown(highest), _n([lead or highest])))
    return Table(
        "Against the dense network: mean ± half of the 95% interval over n seeds",
        ("masks", "mean distance, 50 to 95% sparsity (points)", "highest sparsity above dense (%)", "n"),
        tuple(rows),
        "Paired by seed. The highest sparsity is that of one round: where arms hardly differ, luck decides it.",
    )


def follow_table(done: pd.DataFrame) -> Table:
    """Data and initial weights x arm: test accuracy at the end of the follow-ups, and the tickets' lead."""
    arms, rows = _followed(done), []
    for data, init in _follow_ups(done):
        found = [interval_of(follow(done, data, init, arm)) for arm in arms]
        lead = interval_of(follow(done, data, init, "magnitude", "dense"))
        rows.append((_words(data), init, *map(shown, found), shown(lead, "+z.1f"), _n(found)))
    return Table(
        f"Test accuracy (%) of the tickets{_ticket_text(done)} on other data: mean ± half of the 95% interval",
        ("data", "weights", *_names(arms), "lottery − dense", "n"),
        tuple(rows),
        "rewound: from the weights that the search began with, as the paper describes it.\n"
        "redrawn: from new weights, as its code does now.\nlottery − dense: points, paired by seed.",
    )


def adjacency_table(done: pd.DataFrame) -> Table:
    """Arm x number of neighbours: how often they are all kept in the first layer, and how many times chance that is."""
    rows = []
    for arm in _pruned(done):
        where = {"arm": arm}
        found = {name: interval_of(level(done, name, where)) for name in LENGTHS}
        ratios = (interval_of(chance_ratio(done, name, arm)) for name in LENGTHS)
        if any(found.values()):
            cells = (each for pair in zip(found.values(), ratios, strict=True) for each in _share_and_ratio(*pair))
            rows.append((ARMS[arm].name, *cells, _n(list(found.values()))))
    return Table(
        "Neighbouring weights of the first layer that are all kept: mean ± half of the 95% interval over n seeds",
        ("masks", *(text for name in LENGTHS for text in (f"{name} (%)", "× chance")), "n"),
        tuple(rows),
        "%: of the positions in the rows of the mask. × chance: divided by dᵏ, where d is the share of the layer's "
        "weights that the run's own mask keeps.",
    )


def _share_and_ratio(share: Interval | None, ratio: Interval | None) -> tuple[str, str]:
    return shown(share, "z.3f"), shown(ratio, "z.2f")


def _follow_ups(done: pd.DataFrame) -> list[tuple[str, str]]:
    return [(data, init) for init, data in product(INITS, DATA) if done[f"{data}_{init}"].notna().any()]


def _names(arms: Sequence[str]) -> tuple[str, ...]:
    return tuple(ARMS[arm].name for arm in arms)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _n(found: Sequence[Interval | None]) -> str:
    return span(each.n for each in found if each)


def _ticket_sparsity(done: pd.DataFrame, rounds: pd.DataFrame) -> pd.Series:
    """Sparsity (%) of every run's ticket; nan for the dense arm."""
    ends = rounds.set_index(["run_id", "round"])["sparsity"]
    keys = zip(done["run_id"], done["task.ticket_round"], strict=True)
    found = pd.Series([ends.get((run_id, int(number)), np.nan) for run_id, number in keys], index=done.index)
    return found.where(done["arm"] != "dense")


def _ticket_text(done: pd.DataFrame) -> str:
    """Of what sparsity the tickets are."""
    sparsity = done["ticket_sparsity"].mean()
    return f" at {sparsity:.0f}% sparsity" if np.isfinite(sparsity) else ""


# -- pictures: search, follow-ups ---------------------------------------------------------------------------


def _search_picture(done: pd.DataFrame, rounds: pd.DataFrame) -> Picture | None:
    """Panels a and b of the paper: test loss and test accuracy against sparsity."""
    arms = _arms(rounds)
    if rounds.empty:
        return None
    counts = rounds.groupby(["arm", "round"])["seed"].nunique()
    kind, redo = basis(counts), command("lottery", done)
    with figures.lab_style():
        figure, axes = figures.panels(2, gap=0.22, sharey=False)
        for ax, (measure, title) in zip(axes, PANELS.items(), strict=True):
            _sparsity_axes(ax, title, rounds, done)
            for arm in arms:
                _draw_arm(ax, rounds, arm, measure)
        figures.log_levels(axes[0])
        _fit_range(axes[1], rounds)
        figures.legend(figure, [figures.sample(_line_look(arm)) for arm in arms])
        about = f"Where each round ends; {kind}."
        figures.caption(figure, f"{about} Dotted: the dense network, trained once per seed.\n{redo}")
    alt = "Test loss and test accuracy against sparsity, a line for each kind of mask and a level for the dense network"
    return Picture("search", figure, alt, f"Test loss and accuracy by sparsity. {about} `{redo}`")


def _line_look(arm: str) -> Look:
    return replace(ARMS[arm], marker="") if arm == "dense" else ARMS[arm]


def _sparsity_axes(ax: Axes, title: str, rounds: pd.DataFrame, done: pd.DataFrame) -> None:
    ax.set_title(title)
    ax.set_xlabel("parameters removed (%)")
    ax.set_xlim(-1.5, 101.5)
    ax.set_xticks(range(0, 101, 20))
    ticket = rounds.loc[(rounds["arm"] != "dense") & (rounds["round"] == done["task.ticket_round"].max()), "sparsity"]
    if ticket.size:
        ax.axvline(ticket.mean(), color=INK, linewidth=0.8, zorder=1)
        at, top = ticket.mean() - 1, ax.get_xaxis_transform()
        ax.text(at, 0.99, "tickets", transform=top, ha="right", va="top", fontsize=8, color=INK)


def _draw_arm(ax: Axes, rounds: pd.DataFrame, arm: str, measure: str) -> None:
    rows = rounds[rounds["arm"] == arm]
    sparsities = rows.groupby("round")["sparsity"].mean().to_numpy()
    values = rows.pivot(index="seed", columns="round", values=measure).to_numpy(dtype=float)
    if arm == "dense":  # one training, to be seen beside all sparsities
        sparsities, values = np.array([0.0, 100.0]), values[:, [0, 0]]
    place = list(ARMS).index(arm)
    every = max(1, len(sparsities) // 6)
    figures.plot_band(ax, sparsities, values, _line_look(arm), (place * every // len(ARMS), every))


def _fit_range(ax: Axes, rounds: pd.DataFrame) -> None:
    """The paper's range of accuracies, wider where means leave it; the fall at the very end may leave the panel."""
    early = rounds[rounds["sparsity"] <= 90]
    means = early.groupby(["arm", "round"])["accuracy"].mean()
    low, high = min(PAPER_RANGE[0], means.min() - 2), max(PAPER_RANGE[1], means.max() + 2)
    if high - low > 2 * (PAPER_RANGE[1] - PAPER_RANGE[0]):  # nets trained so briefly that they are far from the paper
        low, high = means.min() - 5, means.max() + 5
    ax.set_ylim(5 * np.floor(low / 5), 5 * np.ceil(high / 5))


def _follow_picture(done: pd.DataFrame) -> Picture | None:
    """What panels c to f of the paper end at, and the orders of features that it lacks: a point for each arm."""
    arms, follow_ups = _followed(done), _follow_ups(done)
    if not follow_ups:
        return None
    data = [name for name in DATA if any(name == other for other, _ in follow_ups)]
    counts = [follow(done, *each, arm).size for each in follow_ups for arm in arms]
    kind, redo = basis(counts), command("lottery", done)
    titles = {"rewound": "Rewound to the search's weights", "redrawn": "New initial weights"}
    with figures.lab_style():
        figure, axes = figures.panels(2, size=(7.6, 1.9 + 0.5 * len(data)), left=1.1, sharex="row")
        for ax, init in zip(axes, INITS, strict=True):
            _follow_axes(ax, titles[init], data)
            for arm in arms:
                _draw_ends(ax, done, data, init, arm)
        figures.legend(figure, [figures.sample(replace(ARMS[arm], line="")) for arm in arms])
        about = f"Test accuracy after {int(done['task.follow_up_steps'].max())} steps; {kind}."
        figures.caption(figure, f"{about}\n{redo}")
    alt = f"Final test accuracy of every kind of mask on other data. {_leads(done, follow_ups)}"
    note = "In the paper: fresh (c), reversed (d), shuffled (e), and fresh from new weights (f)."
    return Picture("follow_ups", figure, alt, f"Tickets{_ticket_text(done)} on other data. {about} {note} `{redo}`")


def _leads(done: pd.DataFrame, follow_ups: Sequence[tuple[str, str]]) -> str:
    found = {each: follow(done, *each, "magnitude", "dense") for each in follow_ups}
    texts = [f"{_words(data)} {init} {values.mean():+.1f}" for (data, init), values in found.items() if values.size]
    return f"Lottery minus dense: {', '.join(texts)}." if texts else ""


def _follow_axes(ax: Axes, title: str, data: Sequence[str]) -> None:
    ax.set_title(title)
    ax.set_xlabel("test accuracy (%)")
    ax.set_yticks(range(len(data)), [_words(name) for name in data])
    ax.set_ylim(len(data) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    ax.grid(True, axis="x")
    for line in range(1, len(data)):
        ax.axhline(line - 0.5, color="#cccccc", linewidth=0.7, zorder=0)


def _draw_ends(ax: Axes, done: pd.DataFrame, data: Sequence[str], init: str, arm: str) -> None:
    dots = replace(ARMS[arm], line="")
    for row, name in enumerate(data):
        found = interval_of(follow(done, name, init, arm))
        if found:
            y = row + 0.19 * (list(ARMS).index(arm) - 1.5)
            ax.errorbar([found.mean], [y], xerr=[found.half_width], capsize=2.5, elinewidth=1.1, **dots.drawn)


# -- pictures: the first layer's masks ----------------------------------------------------------------------


def _adjacency_picture(done: pd.DataFrame) -> Picture | None:
    """Panel g of the paper: how often neighbouring weights are kept together, beside what chance would keep."""
    arms = [arm for arm in _pruned(done) if level(done, "two", {"arm": arm}).size]
    if not arms:
        return None
    kind, redo = basis(level(done, "two", {"arm": arm}).size for arm in arms), command("lottery", done)
    with figures.lab_style():
        figure, axes = figures.panels(3, size=(7.6, 3.2), below=0.82, gap=0.3, sharey=False)
        for ax, name in zip(axes, LENGTHS, strict=True):
            ax.set_title(f"{name.capitalize()} neighbours")
            _draw_adjacency(ax, done, arms, name)
        axes[0].set_ylabel("all kept, of positions (%)")
        about = f"First layer of the tickets{_ticket_text(done)}; {kind}."
        figures.caption(figure, f"{about} Dotted: chance at each one's own density.\n{redo}")
    alt = f"How often two, three and four neighbours are all kept, by chance and by {', '.join(_names(arms))}"
    return Picture(
        "adjacency",
        figure,
        alt,
        f"Neighbouring weights kept together (panel g of the paper). {about} Dotted: chance. `{redo}`",
    )


def _draw_adjacency(ax: Axes, done: pd.DataFrame, arms: Sequence[str], name: str) -> None:
    tops = []
    for place, arm in enumerate(arms):
        found = interval_of(level(done, name, {"arm": arm}))
        if found:
            figures.plot_bars(ax, [place], [found], color=ARMS[arm].color)
            tops.append(np.nanmax([found.mean, found.high]))
            chance = level(done, f"{name}_chance", {"arm": arm}).mean()
            ax.plot([place - 0.42, place + 0.42], [chance, chance], color=INK, linewidth=1.3, linestyle=(0, (1, 1)))
            tops.append(1.15 * chance)
    ax.set_xticks(range(len(arms)), [ARMS[arm].name.replace(" ", "\n") for arm in arms], fontsize=8)
    ax.set_xlim(-0.6, len(arms) - 0.4)
    ax.set_ylim(0, 1.12 * max(tops))


Masks = dict[str, NDArray[np.bool_]]


def first_masks(runs: Runs, done: pd.DataFrame) -> tuple[int | None, Masks]:
    """The first seed whose tickets and random masks can be read, and those of the first layer # [unit, input] by arm.

    Neither where a run's files lie elsewhere or were not kept.
    """
    kinds = ("magnitude", "random")
    rows = done[done["arm"].isin(kinds)]
    for seed, of_seed in rows.groupby("seed"):
        places = [runs.artifacts.get(of_seed.loc[of_seed["arm"] == arm, "run_id"].max()) for arm in kinds]
        try:
            loaded = [weights.load(place) for place in places if place is not None]
        except (OSError, pickle.UnpicklingError):
            continue
        masks = [next((value for key, value in each.items() if key.startswith("mask/")), None) for each in loaded]
        found = {arm: mask for arm, mask in zip(kinds, masks, strict=False) if mask is not None}
        if len(found) == len(kinds):
            return int(seed), found
    return None, {}


def _without_masks(masks: tuple[int | None, Masks], done: pd.DataFrame) -> list[str]:
    wanted = {"magnitude", "random"} <= set(_arms(done))
    return ["no picture of the masks: no seed has both on this machine"] if wanted and masks[0] is None else []


def by_adjacency(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The rows of a mask # [unit, input], those with most neighbouring pairs first; of equals the fullest first."""
    pairs = (mask[:, 1:] & mask[:, :-1]).sum(axis=1)
    return mask[np.argsort(-(pairs + 0.001 * mask.sum(axis=1)), kind="stable")]


def _mask_picture(masks: tuple[int | None, Masks], done: pd.DataFrame) -> Picture | None:
    """Which weights of the first layer are kept, by a ticket and by a random mask of the same round."""
    seed, found = masks
    if not found:
        return None
    redo = command("lottery", done)
    with figures.lab_style():
        figure, axes = figures.panels(1, 2, size=(7.6, 3.5), below=0.95)
        for ax, (arm, mask) in zip(axes, found.items(), strict=True):
            _draw_mask(ax, ARMS[arm].name, mask)
        axes[0].tick_params(labelbottom=False)
        axes[1].set_xlabel("hidden unit, by its number of neighbouring pairs")
        about = f"First layer of the tickets{_ticket_text(done)}; one seed ({seed}), n and intervals: previous figure."
        figures.caption(figure, f"Black: kept. {about}\n{redo}")
    alt = "Two masks as black points, inputs against hidden units: that of a lottery ticket and a random one"
    note = "Black: kept weights. Hidden units are sorted by their neighbouring pairs, then by their kept weights."
    return Picture("masks", figure, alt, f"{note} {about} `{redo}`")


def _draw_mask(ax: Axes, name: str, mask: NDArray[np.bool_]) -> None:
    pairs = int((mask[:, 1:] & mask[:, :-1]).sum())
    ax.set_title(f"{name}: {int(mask.sum())} weights, {pairs} neighbouring pairs")
    ax.imshow(by_adjacency(mask).T, cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.set_ylabel("input")
    ax.grid(False)
