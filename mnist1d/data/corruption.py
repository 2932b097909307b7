"""What is done to a data set on purpose: wrong labels, features in another order, windows of zeros.

Everything here is a pure function of its arguments; no global random state is read or left changed.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numpy.random import RandomState

__all__ = [
    "CLASSES",
    "FeatureOrder",
    "NoiseMode",
    "chunk_order",
    "feature_order",
    "flipped_labels",
    "redrawn_labels",
    "shuffled_order",
    "zeroed_windows",
]

Integers = npt.NDArray[np.int64]
Inputs = npt.NDArray[np.floating[Any]]
NoiseMode = Literal["redraw", "flip"]
FeatureOrder = Literal["original", "reversed", "half_swapped", "chunk_shuffled"]

CLASSES = 10


def redrawn_labels(labels: Integers, probability: float, rng: RandomState) -> Integers:
    """A copy of `labels` [n] in which each is, with this probability, drawn anew: it may come out as it was.

    For each sample in order a uniform, and below `probability` a label, as the paper's `deep-double-descent.ipynb`
    does it. That notebook goes on with the stream that generated the data set, so pass `Generated.stream()` to get
    its labels.
    """
    noisy = labels.copy()
    for row in range(len(noisy)):
        if rng.random_sample() < probability:
            noisy[row] = rng.randint(0, CLASSES)
    return noisy


def flipped_labels(labels: Integers, probability: float, rng: np.random.Generator) -> Integers:
    """A copy of `labels` [n] in which each is, with this probability, replaced by one of the nine wrong ones.

    All uniforms are drawn first, then all replacements, whatever the probability: samples that are wrong at a
    low probability are wrong, in the same way, at any higher one.
    """
    hit = rng.random(len(labels)) < probability
    wrong = (labels + rng.integers(1, CLASSES, len(labels))) % CLASSES
    return np.where(hit, wrong, labels)


def feature_order(
    length: int,
    *,
    shuffle: bool = False,
    order: FeatureOrder = "original",
    seed: int = 42,
    chunk_length: int = 10,
) -> Integers:
    """The permutation p [length] that makes `x[:, p]`: the full shuffle, if asked for, and `order` on top of it.

    `half_swapped`, a rotation by half, is what the paper's `lottery-tickets.ipynb` calls a shuffle of chunks; it
    breaks one seam only, `chunk_shuffled` all of them that it can.

    Raises:
        ValueError: an unknown order, or a `chunk_length` that leaves fewer than two chunks.
    """
    identity = np.arange(length)
    shuffled = shuffled_order(length, seed) if shuffle else identity
    if order == "original":
        return shuffled
    if order == "reversed":
        return shuffled[::-1].copy()
    if order == "half_swapped":
        return np.roll(shuffled, -(length // 2))
    if order == "chunk_shuffled":
        return shuffled[chunk_order(length, chunk_length, seed)]
    raise ValueError(f"feature_order={order!r}: must be one of original, reversed, half_swapped, chunk_shuffled")


def shuffled_order(length: int, seed: int) -> Integers:
    """The first permutation of numpy's legacy stream after `seed`, as the paper's shuffled data use it."""
    return RandomState(seed).permutation(length)


def chunk_order(length: int, chunk_length: int, seed: int) -> Integers:
    """A permutation of whole chunks, never the identity; the last chunk may be shorter."""
    chunks = [np.arange(start, min(start + chunk_length, length)) for start in range(0, length, max(chunk_length, 1))]
    if chunk_length < 1 or len(chunks) < 2:
        raise ValueError(f"chunk_length={chunk_length!r}: must be from 1 to {length - 1} to shuffle {length} features")
    rng = RandomState(seed)
    order = rng.permutation(len(chunks))
    while (order == np.arange(len(chunks))).all():
        order = rng.permutation(len(chunks))
    return np.concatenate([chunks[chunk] for chunk in order])


def zeroed_windows(x: Inputs, width: int, rng: np.random.Generator) -> Inputs:
    """A copy of `x` [n, length] in which each sample has a window of `width` neighbouring values set to 0.

    All places within the sample are equally likely, so that values near its ends are zeroed less often. `width` must
    not exceed the length.
    """
    starts = rng.integers(0, x.shape[1] - width + 1, len(x))
    zeroed = x.copy()
    np.put_along_axis(zeroed, starts[:, None] + np.arange(width), 0, axis=1)
    return zeroed
