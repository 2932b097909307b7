"""The page of experiment=tsne: samples in the plane, and how far neighbours share a digit there and in pixel space.

The page's own columns, all at the end:

    knn_pixels, knn_plane, probe_pixels    test accuracy in percent: of nearest training samples among the inputs and in
                                           the plane, and of a linear model of the inputs
    purity_pixels, purity_plane            percent of a sample's nearest others that have its digit
    silhouette_pixels, silhouette_plane    mean silhouette of all samples by their digits, from -1 to 1
    silhouette_plane_0 …                   the same in the plane, of one digit
    apart                                  digits whose silhouette in the plane exceeds STRUCTURE
    kl, kl_early                           divergence in nats: at the end, and where the exaggeration ends

Statistics: level, difference and `gain`, a measure minus another of the same runs.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnist1d.analysis import figures, weights
from mnist1d.analysis.data_sets import NAME, known, labels, look, not_run, one_protocol_each, samples
from mnist1d.analysis.embedding import draw
from mnist1d.analysis.intervals import basis, interval_of, shown, span, t_interval
from mnist1d.analysis.page import Page, Picture, Statistic, Table
from mnist1d.analysis.protocol import MISSING, command, finished, missing
from mnist1d.analysis.read import Runs
from mnist1d.analysis.statistics import difference, level
from mnist1d.data.download import DownloadError

METRICS = ()
"""The page needs no histories."""

SCORES = {  # column -> what it is called where it is drawn
    "probe_pixels": "linear model\nof pixels",
    "knn_pixels": "neighbours\nin pixels",
    "knn_plane": "neighbours\nin the plane",
    "purity_pixels": "same digit,\npixels",
    "purity_plane": "same digit,\nplane",
}
STRUCTURE = 0.25
"""Silhouette up to which there is no substantial structure (Kaufman & Rousseeuw 1990, Finding Groups in Data)."""
PAPERS = ("mnist",)
"""The paper's own real digits, which take a network."""

_DIGITS = tuple(f"silhouette_plane_{digit}" for digit in range(10))
_OTHERS = ("silhouette_pixels", "silhouette_plane", *_DIGITS, "kl", "kl_early")


def page(runs: Runs) -> Page:
    """The page of `runs`; raises NoRuns when none of them is finished."""
    table, left_out = comparable(finished(runs))
    done = table[table["status"] == "FINISHED"]
    planes = planes_of(runs, done)
    pictures = (draw_planes(planes, done), draw_scores(done))
    return Page(
        table,
        tuple(picture for picture in pictures if picture),
        (neighbour_table(done), cluster_table(done)),
        {name: partial(statistic, done) for name, statistic in STATISTICS.items()},
        (*left_out, *_missing(table), *_without_plane(planes, done)),
    )


def comparable(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of one protocol for every data set, with the page's columns, and a remark on every group left out."""
    kept, remarks = one_protocol_each(table, {"seed", "data.seed"})
    percent = {name: 100 * _metric(kept, name) for name in SCORES}
    others = {name: _metric(kept, name) for name in _OTHERS}
    apart = sum((others[name] > STRUCTURE).astype(float) for name in _DIGITS)
    return kept.assign(apart=apart, **percent, **others), remarks


def _metric(table: pd.DataFrame, name: str) -> pd.Series:
    """A recorded score by the name that it has here; nan for runs without one."""
    key = name.replace("_", "/", 1) if name != "kl_early" else name
    return table[key].astype(float) if key in table else pd.Series(np.nan, table.index)


def _missing(table: pd.DataFrame) -> list[str]:
    expected = set(table["seed"])
    return [text for name in known(table) for text in missing(table, f"{MISSING}{name}", {NAME: name}, expected)]


# -- statistics: one number per seed ----------------------------------------------------------------------


def gain(table: pd.DataFrame, measure: str, minus: str, where: Mapping[str, Any]) -> pd.Series:
    """`measure` minus another measure of the same runs, by seed. Raises as `level` does."""
    return (level(table, measure, where) - level(table, minus, where)).dropna()


STATISTICS: dict[str, Statistic] = {"level": level, "difference": difference, "gain": gain}


# -- tables -----------------------------------------------------------------------------------------------


def neighbour_table(done: pd.DataFrame) -> Table:
    """Data set: what neighbours say about the digit, beside a linear model."""
    rows = _rows(done, dict.fromkeys(SCORES, "z.1f"))
    columns = ("data", "samples", "linear, pixels", "kNN, pixels", "kNN, plane", "same, pixels", "same, plane", "n")
    return Table(
        "Neighbours (%): mean ± half of the 95% interval over n seeds",
        columns,
        (*rows, *not_run(done, PAPERS, len(columns))),
        f"kNN: test accuracy of the majority of {_neighbours(done)} nearest training samples. same: share of a\n"
        "sample's nearest others that have its digit, test samples included; chance gives 10.",
    )


def cluster_table(done: pd.DataFrame) -> Table:
    """Data set: silhouettes and digits that stand apart, and where the descent ends."""
    forms = {"silhouette_pixels": "z.2f", "silhouette_plane": "z.2f", "apart": "z.1f", "kl_early": "z.2f", "kl": "z.2f"}
    columns = ("data", "samples", "silhouette, pixels", "silhouette, plane", "digits apart", "KL early", "KL", "n")
    return Table(
        "Clusters: mean ± half of the 95% interval over n seeds",
        columns,
        (*_rows(done, forms), *not_run(done, PAPERS, len(columns))),
        f"Silhouettes by the true digits; apart: digits above {STRUCTURE:g} in the plane. KL: divergence in nats at\n"
        "the end; early: where the exaggeration ends. Images are the same for all seeds: their intervals are narrow.",
    )


def _rows(done: pd.DataFrame, forms: Mapping[str, str]) -> Iterable[tuple[str, ...]]:
    for name in known(done):
        found = [interval_of(level(done, measure, {NAME: name})) for measure in forms]
        cells = (shown(each, form) for each, form in zip(found, forms.values(), strict=True))
        count = samples(done[done[NAME] == name].iloc[0].to_dict())
        yield (look(name).name, str(count), *cells, span(each.n for each in found if each))


def _neighbours(done: pd.DataFrame) -> str:
    return span(done["task.neighbours"].astype(int))


# -- pictures ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plane:
    """All samples of a run in the plane."""

    data: str
    seed: int
    places: NDArray[np.floating]  # [rows, 2]
    labels: NDArray[np.integer]  # [rows]


def planes_of(runs: Runs, done: pd.DataFrame) -> list[Plane]:
    """The recorded embedding of the first seed of every data set that has one on this machine."""
    return [found for name in known(done) if (found := _first_plane(runs, done[done[NAME] == name]))]


def _first_plane(runs: Runs, rows: pd.DataFrame) -> Plane | None:
    for run in rows.sort_values("seed").to_dict("records"):
        try:
            places = weights.load(runs.artifacts.get(run["run_id"], ""))["places"]
            return Plane(run[NAME], int(run["seed"]), places, labels(run))
        except (OSError, pickle.UnpicklingError, DownloadError):
            continue
    return None


def _without_plane(planes: Sequence[Plane], done: pd.DataFrame) -> list[str]:
    drawn = {plane.data for plane in planes}
    return [
        f"no picture of {name}: no seed has its places and labels on this machine"
        for name in known(done)
        if name not in drawn
    ]


def draw_planes(planes: Sequence[Plane], done: pd.DataFrame) -> Picture | None:
    """The paper's figure: every sample at its place, a panel for each data set."""
    if not planes:
        return None
    redo, shape = command("tsne", done), (2.6 * len(planes) + 0.1, 3.5)
    with figures.lab_style():
        figure, axes = figures.panels(len(planes), size=shape, left=0.16, below=0.62, sharey=False)
        for ax, letter, plane in zip(axes, "abcdef", planes, strict=False):
            real = plane.data != "mnist1d"  # as in the paper: medians of what is scattered lie on one another
            draw(ax, plane.places, plane.labels, f"{letter}  {look(plane.data).name}", size=5, named=real)
        sizes = " and ".join(f"{len(plane.labels):,}" for plane in planes)
        about = f"t-SNE of {sizes} samples, openTSNE's defaults; seed {span(plane.seed for plane in planes)}"
        figures.caption(figure, f"{about}. Large: medians of digits.\n{redo}")
    names = ", ".join(f"{look(plane.data).name} ({len(plane.labels)} samples)" for plane in planes)
    alt = f"Every sample as its digit in the plane, a panel each for {names}"
    return Picture("planes", figure, alt, f"{about}, one run each: {names}. `{redo}`")


def draw_scores(done: pd.DataFrame) -> Picture:
    """What neighbours say about the digit, in numbers: a group for each score, a marker for each data set."""
    names, redo = known(done), command("tsne", done)
    with figures.lab_style():
        figure, (ax,) = figures.panels(1, size=(7.6, 3.9), below=1.45)
        found = {
            name: [interval_of(level(done, score, {NAME: name}), t_interval) for score in SCORES] for name in names
        }
        for place, (name, intervals) in enumerate(found.items()):
            at = np.arange(len(SCORES)) + 0.16 * (place - (len(names) - 1) / 2)
            means = [each.mean if each else np.nan for each in intervals]
            halves = np.nan_to_num([each.half_width if each else np.nan for each in intervals])
            ax.errorbar(at, means, halves, **{**look(name).drawn, "linestyle": "none"}, capsize=2.5, elinewidth=1.0)
        figures.plot_level(ax, 10, "chance")
        ax.set_xticks(range(len(SCORES)), SCORES.values())
        ax.set_ylim(0, 102)
        ax.set_ylabel("share (%)")
        figures.legend(figure, [figures.sample(replace(look(name), line="none")) for name in names])
        counts = [each.n for intervals in found.values() for each in intervals if each]
        about = f"{basis(counts)}. The first three: share of test samples classified right"
        figures.caption(figure, f"Markers: {about}.\n{redo}")
    alt = "Accuracy of a linear model and of neighbours, and the share of neighbours of the same digit, by data set"
    return Picture("scores", figure, alt, f"What neighbours say about the digit; {basis(counts)}. `{redo}`")
