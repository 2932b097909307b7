"""The outputs of an encoder in the plane, before and after training: the paper's t-SNE of one run, on test samples.

torch and scikit-learn, which take seconds to import, are imported where they are used: most reports do without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mnist1d.analysis import weights
from mnist1d.analysis.data_sets import data_of
from mnist1d.analysis.figures import INK
from mnist1d.data import load

Array = NDArray[Any]

COLORS = (  # of the digits, which their glyphs tell apart in grey
    *("#16295c", "#e8951a", "#2a7d62", "#b03a5b", "#8c8c8c"),
    *("#3f86c7", "#6b4a9c", "#b8a500", "#111111", "#d98aa8"),
)
PERPLEXITY = 30


@dataclass(frozen=True)
class Embedding:
    """The test samples of a run in the plane."""

    seed: int  # of the run, and of the t-SNE
    before: Array  # [rows, 2]
    after: Array  # [rows, 2]
    labels: Array  # [rows]


def embed(config: Mapping[str, Any], artifacts: str) -> Embedding:
    """The embedding of a run of task=contrastive; about 7 s for 1000 test samples, imports included.

    config     the run's, flat; other keys may stand beside it
    artifacts  where its files lie, as for `weights.load`
    Raises what `weights.load` and `tsne` raise; ValueError for a config whose data cannot be made.
    """
    state = weights.load(artifacts)
    splits = load(data_of(config))
    seed = int(config["seed"])
    before, after = (tsne(each, seed) for each in outputs(config, state, splits.test_x))
    return Embedding(seed, before, after, splits.test_y)


def outputs(config: Mapping[str, Any], state: Mapping[str, Array], x: Array) -> tuple[Array, Array]:
    """Outputs of a run's encoder for signals # [rows, length], before and after training, # [rows, features] each.

    Nothing but the weights after training (`state`) has to be recorded: those before it are what the seed draws.
    """
    from functools import partial

    import torch

    from mnist1d.models import make_encoder
    from mnist1d.stack import build_member

    untrained = build_member(partial(make_encoder, config), int(config["seed"]))
    trained = make_encoder(config)
    trained.load_state_dict({name: torch.tensor(values) for name, values in state.items()})
    with torch.no_grad():
        before, after = (encoder(torch.tensor(x)).numpy() for encoder in (untrained, trained))
    return before, after


def tsne(values: Array, seed: int) -> Array:
    """Outputs # [rows, features] as places in the plane # [rows, 2]: cosine distance, perplexity 30, as in the paper.

    Raises ValueError for no more rows than the perplexity, one feature, values that are not finite or all rows equal.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if (values == values[0]).all():
        raise ValueError("all outputs are equal")
    # One thread: the sums of several depend on their number, and where cores are busy they take four times as long.
    with threadpool_limits(1):
        return TSNE(metric="cosine", perplexity=PERPLEXITY, random_state=seed).fit_transform(values)


def draw(ax: Axes, places: Array, labels: Array, title: str, *, size: float = 14, named: bool = True) -> Axes:
    """Draw every sample as its digit, and each digit large at the median of its samples.

    places  # [rows, 2]
    labels  # [rows]
    size    of a sample, in square points
    named   whether there are large digits
    """
    digits = np.unique(labels)
    for digit in digits:
        x, y = places[labels == digit].T
        ax.scatter(x, y, s=size, marker=f"${digit}$", color=COLORS[digit], linewidth=0)
    if named:
        _name(ax, places, labels, digits)
    ax.set_title(title)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    ax.set_aspect("equal", "datalim")
    return ax


def _name(ax: Axes, places: Array, labels: Array, digits: Array) -> None:
    medians = np.array([np.median(places[labels == digit], axis=0) for digit in digits])
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    for digit, (x, y) in zip(digits, apart(medians, 0.06 * np.ptp(places, axis=0).max()), strict=True):
        label = ax.text(x, y, str(digit), ha="center", va="center", fontsize=13, fontweight="bold", color=INK, zorder=3)
        label.set(path_effects=halo)


def apart(places: Array, least: float) -> Array:
    """Places # [n, 2], those nearer to each other than `least` pushed away until they are so far apart."""
    moved = places.astype(float)
    for _ in range(200):  # small pushes: of several at once none goes too far
        between = moved[:, None] - moved
        distance = np.linalg.norm(between, axis=2, keepdims=True)
        push = np.clip(least - distance, 0, None) / 8
        moved += (push * between / np.maximum(distance, 1e-9)).sum(axis=1)
    return moved
