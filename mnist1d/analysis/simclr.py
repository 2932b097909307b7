"""The page of experiment=simclr: which layer tells digits apart best, with and without a projector behind them.

The page's own columns, accuracies in percent, all after the last step:

    depth           linear layers of the projector: 0 none, 2 the paper's default, 4 its deep one
    pixels, h1 … h3, p1 …   test accuracy of a linear probe on the signal, the convolutions, the projector's layers
    best            the largest of them: an oracle, as the layer is chosen by test data
    best_layer      which one that is: 0 pixels, 1 h1, …; of equals the first
    knn, knn_pixels         test accuracy of the nearest neighbours, by the output and by the signal
    isolation_0 … isolation_9       mean silhouette of a digit's test outputs, from -1 to 1

Statistics: level, difference, `gain`, `margin`, `best`, `peak` and `isolation`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mnist1d.analysis import figures
from mnist1d.analysis.embedding import PERPLEXITY, Embedding, draw, embed
from mnist1d.analysis.figures import Look
from mnist1d.analysis.intervals import basis, interval_of, shown, span, t_interval
from mnist1d.analysis.page import Page, Picture, Statistic, Table
from mnist1d.analysis.protocol import MISSING, command, finished, missing, one_protocol
from mnist1d.analysis.read import Runs
from mnist1d.analysis.statistics import difference, level

METRICS = ("train/loss", "probe/h3", "knn/acc")
"""The histories that the page needs."""

DEPTH = "task.projector_depth"
LAYERS = ("pixels", "h1", "h2", "h3", "p1", "p2", "p3", "p4", "p5", "p6")
"""What is probed, in the order of the encoder, up to the deepest projector."""
DEFAULT = 2
"""Depth of the projector of the paper's default encoder, which its embedding is made with."""
ISOLATED = (0, 3, 6, 8)
"""The digits that the paper's embedding shows as isolated clusters."""
VARIANTS = {  # projector_depth -> look, in the order of tables and legends
    0: Look("no projector", "#e8951a", "s", (0, (5, 1.5, 1, 1.5))),
    2: Look("projector of 2 layers", "#16295c", "o"),
    4: Look("projector of 4 layers", "#2a7d62", "^", figures.DASHES, hollow=True),
}
PAPER = (30, 90)  # accuracies (%) that the paper's figure shows

_DIGITS = {f"isolation_{digit}": f"isolation/{digit}" for digit in range(10)}
_PERCENT = {
    **{name: f"probe/{name}" for name in LAYERS},
    "best": "test/acc_best",
    "knn": "knn/acc",
    "knn_pixels": "knn/pixels",
}
_OTHERS = {"best_layer": "probe/best_layer", "loss": "train/loss", **_DIGITS}
_PANELS = {  # metric -> title and y axis
    "train/loss": ("a  Loss", "InfoNCE"),
    "probe/h3": ("b  Linear probe on h3", "accuracy (%)"),
    "knn/acc": ("c  Neighbours", "accuracy (%)"),
}


def page(runs: Runs) -> Page:
    """The page of `runs`; raises NoRuns when none of them is finished."""
    table, left_out = comparable(finished(runs))
    done = table[table["status"] == "FINISHED"]
    embedding = embedding_of(runs, done)
    drawn = (
        *(draw_layers(done), draw_best(done), draw_training(runs, done), draw_isolation(done)),
        draw_embedding(embedding, done),
    )
    return Page(
        table,
        tuple(picture for picture in drawn if picture),
        (layer_table(done), best_table(done), score_table(done), isolation_table(done)),
        {name: partial(statistic, done) for name, statistic in STATISTICS.items()},
        (*left_out, *_missing(table), *_without_embedding(embedding, done)),
    )


def comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of one protocol, which differ in the projector's depth only, with the page's columns; remarks."""
    kept, remarks = one_protocol(table, {"seed", DEPTH})
    finals = kept.reindex(columns=[*_PERCENT.values(), *_OTHERS.values()]).astype(float)
    own = {name: 100 * finals[key] for name, key in _PERCENT.items()}
    own |= {name: finals[key] for name, key in _OTHERS.items()}
    return kept.assign(depth=kept[DEPTH].astype(int), **own), remarks


def _missing(table: pd.DataFrame) -> list[str]:
    """The seeds without a result, by reason; the seeds of any depth are expected of every one."""
    expected = set(table["seed"])
    return [
        text
        for depth in _depths(table)
        for text in missing(table, f"{MISSING}projector_depth={depth}", {"depth": depth}, expected)
    ]


def _depths(table: pd.DataFrame) -> list[int]:
    return sorted(set(table["depth"]))


def _look(depth: int) -> Look:
    return VARIANTS.get(depth, Look(f"projector of {depth} layers", "#8c8c8c", "D", (0, (1, 1.2))))


# -- statistics: one number per seed ----------------------------------------------------------------------


def probes(done: pd.DataFrame, depth: int) -> pd.DataFrame:
    """Probe accuracies (%) # [seed, layer] of one variant, its layers in order; only seeds that have all of them."""
    every = pd.DataFrame({name: level(done, name, {"depth": depth}) for name in LAYERS})
    return every.dropna(axis="columns", how="all").dropna()


def gain(table: pd.DataFrame, measure: str, minus: str, where: Mapping[str, Any]) -> pd.Series:
    """`measure` minus another measure of the same runs, e.g. one layer's accuracy minus another's; by seed."""
    return (level(table, measure, where) - level(table, minus, where)).dropna()


def margin(table: pd.DataFrame, layer: str, depth: int) -> pd.Series:
    """Accuracy of a layer minus that of the best other one, points: above 0 where it is the best; by seed.

    Raises ValueError for a layer that the variant does not have.
    """
    found = probes(table, depth)
    if layer not in found and len(found):
        raise ValueError(f"no layer {layer!r} with projector_depth={depth}. Allowed: {', '.join(found)}")
    return (
        level(table, layer, {"depth": depth}) - found.drop(columns=layer, errors="ignore").max(axis="columns")
    ).dropna()


def best(table: pd.DataFrame, layer: str, depth: int) -> pd.Series:
    """100 where the layer is the best of a seed, of equals the first, else 0; by seed. Raises as `margin` does."""
    margin(table, layer, depth)
    return 100.0 * (level(table, "best_layer", {"depth": depth}) == LAYERS.index(layer))


def peak(table: pd.DataFrame, depth: int) -> pd.Series:
    """Accuracy of the best layer between signal and output minus that of the better of those two, points, by seed."""
    found = probes(table, depth)
    ends = found.iloc[:, :: max(1, found.shape[1] - 1)]  # none where there is no run
    return found.iloc[:, 1:-1].max(axis="columns") - ends.max(axis="columns")


def isolation(table: pd.DataFrame, digit: int, depth: int = 2, against: str = "mean") -> pd.Series:
    """Silhouette of a digit's test outputs minus that of the digits that are not ISOLATED in the paper, by seed.

    against  mean of those digits, or max: the most isolated of them
    Raises ValueError for another `against`.
    """
    if against not in ("mean", "max"):
        raise ValueError(f"against is mean or max, not {against!r}")
    rivals = [level(table, f"isolation_{each}", {"depth": depth}) for each in range(10) if each not in ISOLATED]
    return (
        level(table, f"isolation_{digit}", {"depth": depth}) - pd.concat(rivals, axis=1).agg(against, axis=1)
    ).dropna()


STATISTICS: dict[str, Statistic] = {
    "level": level,
    "difference": difference,
    "gain": gain,
    "margin": margin,
    "best": best,
    "peak": peak,
    "isolation": isolation,
}


# -- tables -----------------------------------------------------------------------------------------------


def layer_table(done: pd.DataFrame) -> Table:
    """Layer x variant: test accuracy of a linear probe."""
    found = [probes(done, depth) for depth in _depths(done)]
    rows = []
    for name in _longest(found):
        cells = (shown(interval_of(frame.get(name, ()))) for frame in found)
        rows.append((name, *cells, span(len(frame) for frame in found if name in frame)))
    return Table(
        "Test accuracy (%) of a linear probe by layer: mean ± half of the 95% interval over n seeds",
        ("layer", *_names(done), "n"),
        tuple(rows),
        "h: convolutions, p: layers of the projector. Probes are fitted on the training samples.",
    )


def best_table(done: pd.DataFrame) -> Table:
    """Layer x variant: of how many seeds it is the best."""
    counts = [best_counts(done, depth) for depth in _depths(done)]
    rows = [(name, *(str(count.get(name, "–")) for count in counts)) for name in _longest(counts)]
    return Table(
        "Which layer is best: number of seeds",
        ("layer", *_names(done)),
        (*rows, ("n", *(str(count.sum()) for count in counts))),
        "By the linear probe, after the last step; of equal layers the first.",
    )


def _names(done: pd.DataFrame) -> list[str]:
    return [_look(depth).name for depth in _depths(done)]


def _longest(found: Iterable[pd.DataFrame | pd.Series]) -> list[str]:
    """The layers of the variant that has most of them."""
    return max((list(each.keys()) for each in found), key=len)


def best_counts(done: pd.DataFrame, depth: int) -> pd.Series:
    """Layer -> number of seeds in which it is the best of a variant's."""
    names = list(probes(done, depth))
    places = level(done, "best_layer", {"depth": depth}).astype(int)
    return pd.Series(np.bincount(places, minlength=len(names)), names)


def score_table(done: pd.DataFrame) -> Table:
    """Score x variant: loss, neighbours, the best layer, and what the projector's last layer loses."""
    found = {depth: _scores(done, depth) for depth in _depths(done)}
    rows = []
    for name in next(iter(found.values())):
        intervals = [interval_of(scores[name]) for scores in found.values()]
        form = "z.3f" if name == "loss" else "z.1f"
        rows.append((name, *(shown(each, form) for each in intervals), span(each.n for each in intervals if each)))
    return Table(
        "Loss, neighbours, best layer, and what is lost in the projector: mean ± half of the 95% interval",
        ("score", *_names(done), "n"),
        tuple(rows),
        "kNN: majority of the nearest training samples, by the angle of outputs, by the distance of signals.\n"
        "best probe: the layer is chosen by test data, an oracle. h3 − output: by the probe, paired by seed.",
    )


def _scores(done: pd.DataFrame, depth: int) -> dict[str, pd.Series]:
    where, output = {"depth": depth}, list(probes(done, depth))[-1]
    names = {"loss": "loss", "kNN output (%)": "knn", "kNN pixels (%)": "knn_pixels", "best probe (%)": "best"}
    scores = {name: level(done, measure, where) for name, measure in names.items()}
    lost = gain(done, "h3", output, where)
    return scores | {"h3 − output (points)": lost if depth else lost.iloc[:0]}


def isolation_table(done: pd.DataFrame) -> Table:
    """Digit x variant: mean silhouette of test outputs."""
    depths = _depths(done)
    rows = []
    for digit in range(10):
        found = [interval_of(level(done, f"isolation_{digit}", {"depth": depth})) for depth in depths]
        rows.append(
            (
                f"{digit}{'*' * (digit in ISOLATED)}",
                *(shown(each, "z.2f") for each in found),
                span(each.n for each in found if each),
            )
        )
    return Table(
        "How isolated each digit is: mean silhouette of its test outputs, ± half of the 95% interval over n seeds",
        ("digit", *_names(done), "n"),
        tuple(rows),
        "1: far from all other digits; 0: as near to another digit as to its own. *: an isolated cluster in the paper.",
    )


# -- pictures ---------------------------------------------------------------------------------------------


def draw_layers(done: pd.DataFrame) -> Picture:
    """Accuracy against the layer, as in the paper."""
    found = {depth: probes(done, depth) for depth in _depths(done)}
    kind, redo = basis(map(len, found.values())), command("simclr", done)
    with figures.lab_style():
        figure, (ax,) = figures.panels(1, size=(6.4, 4.0))
        for depth, frame in found.items():
            figures.plot_band(ax, np.arange(frame.shape[1]), frame.to_numpy(), _look(depth), marked=(0, 1))
        _layer_axis(ax, _longest(found.values()))
        ax.set_ylabel("accuracy of a linear probe (%)")
        ax.set_ylim(*_range(ax))
        figures.legend(figure, [figures.sample(_look(depth)) for depth in found])
        figures.caption(figure, f"Test accuracy by layer; {kind}.\n{redo}")
    alt = (
        "Test accuracy of a linear probe against the layer, from the pixels through the convolutions and the projector"
    )
    about = f"Accuracy by layer (h: convolutions, p: projector); {kind}. Probes are fitted after the last step"
    return Picture("layers", figure, f"{alt}, a line for each projector", f"{about}. `{redo}`")


def _layer_axis(ax: Axes, names: Sequence[str]) -> None:
    ax.set_xticks(range(len(names)), names)
    ax.set_xlim(-0.3, len(names) - 0.7)


def _range(ax: Axes) -> tuple[float, float]:
    """The paper's range, wider where lines or bands leave it, but never beyond 0 and 100."""
    low, high = ax.dataLim.intervaly
    return max(0, min(PAPER[0], 10 * np.floor(low / 10))), min(100, max(PAPER[1], 10 * np.ceil(high / 10)))


def _clip(ax: Axes, least: float, most: float) -> None:
    """Cut what intervals of few seeds add beyond the values that there can be."""
    low, high = ax.get_ylim()
    ax.set_ylim(max(low, least), min(high, most))


def draw_best(done: pd.DataFrame) -> Picture:
    """Which layer is best, as a number of seeds for every layer, a panel for each variant."""
    depths, redo = _depths(done), command("simclr", done)
    counts = {depth: best_counts(done, depth) for depth in depths}
    n = span(count.sum() for count in counts.values())
    with figures.lab_style():
        figure, axes = figures.panels(len(depths), size=(7.6, 2.5), below=0.84)
        for ax, (depth, count) in zip(axes, counts.items(), strict=True):
            bars = ax.bar(range(len(count)), count, color=_look(depth).color, width=0.7)
            ax.bar_label(bars, [str(each) if each else "" for each in count], padding=1, fontsize=8)
            ax.set_title(_look(depth).name, fontsize=9)
            _layer_axis(ax, list(count.index))
            ax.tick_params(axis="x", labelsize=8)
            ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes[0].set_ylim(0, 1.15 * max(count.max() for count in counts.values()))
        axes[0].set_ylabel("seeds")
        figures.caption(figure, f"How many of n = {n} seeds have their best probe at a layer.\n{redo}")
    texts = (f"{_look(d).name}: " + ", ".join(f"{name} {k}" for name, k in c.items() if k) for d, c in counts.items())
    about = f"The best layer over n = {n} seeds, counts without interval; of equal layers the first"
    return Picture("best_layer", figure, f"Seeds by best layer. {'; '.join(texts)}", f"{about}. `{redo}`")


def draw_training(runs: Runs, done: pd.DataFrame) -> Picture:
    """Loss, probe of the last convolution and neighbours of the output against the optimiser step."""
    kind, redo = basis(done.groupby("depth").size()), command("simclr", done)
    with figures.lab_style():
        figure, axes = figures.panels(3, gap=0.28, sharey=False)
        for ax, (metric, (title, label)) in zip(axes, _PANELS.items(), strict=True):
            _draw_curves(ax, runs, done, metric)
            _clip(ax, 0, 100)
            ax.set_title(title)
            ax.set_ylabel(label, labelpad=2)
            ax.set_xlabel("optimiser step")
            ax.set_xlim(0, 1.03 * done["trainer.max_steps"].max())
            ax.xaxis.set_major_locator(MaxNLocator(4))
        figures.legend(figure, [figures.sample(_look(depth)) for depth in _depths(done)])
        figures.caption(figure, f"Lines: {kind}. Loss: mean of the steps since the evaluation before.\n{redo}")
    alt = "Contrastive loss, accuracy of a linear probe on h3 and of the output's neighbours against the optimiser step"
    about = f"Loss, probe and neighbours along training; {kind}. The loss is the mean since the evaluation before"
    return Picture(
        "training",
        figure,
        f"{alt}, a line for each projector",
        f"{about}; that of the first step is left out. `{redo}`",
    )


def _draw_curves(ax: Axes, runs: Runs, done: pd.DataFrame, metric: str) -> None:
    for depth in _depths(done):
        steps, values = runs.curves(metric, done.loc[done["depth"] == depth, "run_id"].tolist())
        late = steps > 0  # the loss of the first step alone would set the scale
        if late.any():
            scale = 1 if metric == "train/loss" else 100
            every = max(1, late.sum() // 5)
            figures.plot_band(ax, steps[late], scale * values[:, late], _look(depth), (every - 1, every))


def draw_isolation(done: pd.DataFrame) -> Picture:
    """Mean silhouette of each digit's outputs, those isolated in the paper on a darker ground."""
    depths, redo = _depths(done), command("simclr", done)
    kind = basis(done.groupby("depth").size())
    with figures.lab_style():
        figure, (ax,) = figures.panels(1, size=(6.4, 4.0), left=0.76)
        for digit in ISOLATED:
            ax.axvspan(digit - 0.45, digit + 0.45, color="#e9e9e9", zorder=0, linewidth=0)
        for place, depth in enumerate(depths):
            _draw_digits(ax, done, depth, 0.22 * (place - (len(depths) - 1) / 2))
        ax.axhline(0, color=figures.INK, linewidth=0.9, zorder=1)
        _clip(ax, -1, 1)
        ax.set_xticks(range(10))
        ax.set_xlim(-0.6, 9.6)
        ax.set_xlabel("digit", labelpad=2)
        ax.set_ylabel("mean silhouette of its test outputs")
        figures.legend(figure, [figures.sample(_look(depth)) for depth in depths])
        figures.caption(figure, f"Points: {kind}. Grey: isolated clusters in the paper.\n{redo}")
    alt = "Mean silhouette of each digit's test outputs, a point for each projector; digits 0, 3, 6 and 8 are marked"
    about = (
        f"How isolated each digit is among the outputs (1: far from all others); {kind}. Grey: in the paper's embedding"
    )
    return Picture("isolation", figure, alt, f"{about}, 0, 3, 6 and 8 are isolated clusters. `{redo}`")


def _draw_digits(ax: Axes, done: pd.DataFrame, depth: int, aside: float) -> None:
    found = [t_interval(level(done, name, {"depth": depth}).to_numpy()) for name in _DIGITS]
    ax.errorbar(
        np.arange(10) + aside,
        [each.mean for each in found],
        [each.half_width for each in found],
        **_look(depth).drawn | {"linestyle": ""},
        elinewidth=1.2,
        capsize=2,
    )


def embedding_of(runs: Runs, done: pd.DataFrame) -> Embedding | None:
    """The embedding of the default encoder's first seed that has one.

    None where files lie elsewhere or were not kept, and where too few samples or equal outputs allow none.
    """
    for run in done[done["depth"] == DEFAULT].sort_values("seed").to_dict("records"):
        place = runs.artifacts.get(run["run_id"])
        if place is not None:
            try:
                return embed({str(key): value for key, value in run.items()}, place)
            except (OSError, pickle.UnpicklingError, ValueError):
                continue
    return None


def _without_embedding(embedding: Embedding | None, done: pd.DataFrame) -> list[str]:
    wanted = DEFAULT in _depths(done) and embedding is None
    return ["no picture of the embedding: no seed of the default has weights on this machine"] if wanted else []


def draw_embedding(embedding: Embedding | None, done: pd.DataFrame) -> Picture | None:
    """The paper's embedding: test samples as digits in the plane, before and after training."""
    if embedding is None:
        return None
    n, redo = len(embedding.labels), command("simclr", done)
    with figures.lab_style():
        figure, axes = figures.panels(2, size=(7.6, 4.1), left=0.16, below=0.6, gap=0.04, sharey=False)
        draw(axes[0], embedding.before, embedding.labels, "a  Before training")
        draw(axes[1], embedding.after, embedding.labels, "b  After training")
        about = f"t-SNE of the outputs for {n} test samples; {_look(DEFAULT).name}, one seed ({embedding.seed})"
        figures.caption(figure, f"{about}. Large: a digit's median.\n{redo}")
    alt = f"{n} test samples as small digits in the plane, before and after training; each digit large at its median"
    note = (
        f"{about}, n and intervals: previous figure. Cosine distance, perplexity {PERPLEXITY}. A digit's number stands "
        "at the median of its points, or beside it where two would overlap. In the paper, which embeds the 4000 "
        "training samples, 0, 3, 6 and 8 are isolated clusters"
    )
    return Picture("embedding", figure, alt, f"{note}. `{redo}`")
