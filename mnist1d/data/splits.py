"""From a config to the arrays that models are trained and tested on."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from mnist1d.data.arguments import Arguments, real, whole
from mnist1d.data.cache import cache_folder, remembered
from mnist1d.data.corruption import (
    CLASSES,
    FeatureOrder,
    Inputs,
    NoiseMode,
    feature_order,
    flipped_labels,
    redrawn_labels,
    zeroed_windows,
)
from mnist1d.data.images import Selection, select
from mnist1d.image_sets import IMAGE_SETS, part_sizes

if TYPE_CHECKING:
    from mnist1d.config import Data

__all__ = ["Recipe", "Splits", "load", "load_exact"]

Labels = npt.NDArray[np.int64]

# Second words of the seeds of draws that the reference does not have, so that no two of them share a stream.
_FLIP, _VALIDATION, _REDRAW, _WINDOW = 1, 2, 3, 4


@dataclass(frozen=True)
class Splits:
    """Three parts of a data set, ready for a model; shared between callers and therefore read-only."""

    train_x: Inputs  # [n_train, length], float32 but for `load_exact`
    train_y: Labels  # [n_train], with the label noise asked for
    val_x: Inputs  # [n_val, length], n_val = 0 without a validation split
    val_y: Labels  # [n_val], always clean
    test_x: Inputs  # [n_test, length]
    test_y: Labels  # [n_test], always clean


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what `load` returns, and nothing else: equal recipes, equal data."""

    arguments: Arguments | Selection = field(default_factory=Arguments)
    label_noise: float = 0.0
    label_noise_mode: NoiseMode = "redraw"
    shuffle_features: bool = False
    feature_seed: int = 42
    feature_order: FeatureOrder = "original"
    chunk_length: int = 10
    zero_window: int = 0
    val_split: float = 0.0
    test_samples: int | None = None

    def __post_init__(self) -> None:
        real("label_noise", self.label_noise, 0, 1)
        real("val_split", self.val_split, 0, 1)
        whole("feature_seed", self.feature_seed, 0, 2**32 - 1)
        if self.label_noise_mode not in get_args(NoiseMode):
            raise ValueError(f"label_noise_mode={self.label_noise_mode!r}: must be redraw or flip")
        if self.test_samples is not None:
            whole("test_samples", self.test_samples, 1, _test_samples(self.arguments))
        whole("zero_window", self.zero_window, 0, self.arguments.final_seq_length - 1)
        self.permutation()

    @classmethod
    def of(cls, data: "Data | Recipe") -> "Recipe":
        """From the config's data section, or any object with its attributes."""
        if isinstance(data, Recipe):
            return data
        own = {name: getattr(data, name) for name in cls._own()}
        if getattr(data, "name", None) not in IMAGE_SETS:
            return cls(Arguments.of(data), **own)
        return cls(Selection(data.name, data.num_samples, data.train_split, data.seed), **own)

    @classmethod
    def named(cls, values: Mapping[str, Any]) -> "Recipe":
        """From keyword arguments, the generator's among them; TypeError for a name that neither knows."""
        known = [*(f.name for f in fields(Arguments)), *cls._own()]
        if unknown := [name for name in values if name not in known]:
            raise TypeError(f"unknown argument {unknown[0]!r}: must be one of {', '.join(known)}")
        return cls(Arguments.of(values), **{name: values[name] for name in cls._own() if name in values})

    @classmethod
    def _own(cls) -> list[str]:
        return [f.name for f in fields(cls) if f.name != "arguments"]

    @property
    def values(self) -> dict[str, Any]:
        """All arguments by name, the generator's first, as `named` takes them."""
        values = asdict(self)
        return {**values.pop("arguments"), **values}

    def permutation(self) -> npt.NDArray[np.int64]:
        """The order of the features, [length]: new feature j is old feature p[j]."""
        return feature_order(
            self.arguments.final_seq_length,
            shuffle=self.shuffle_features,
            order=self.feature_order,
            seed=self.feature_seed,
            chunk_length=self.chunk_length,
        )


def _test_samples(arguments: Arguments | Selection) -> int:
    if isinstance(arguments, Arguments):
        drawn = arguments.num_samples // CLASSES * CLASSES
        return drawn - int(drawn * arguments.train_split)
    return part_sizes(IMAGE_SETS[arguments.name], arguments.num_samples, arguments.train_split)[1]


def load(data: "Data | Recipe") -> Splits:
    """The data that a config asks for; the same object for the same content, whoever asks.

    Label noise goes to training labels only; the validation split, carved from the training rows, keeps its
    true labels. Which rows are held out depends on `data.seed` and the two sizes alone, and holding rows out
    does not change the noise on the others; both parts keep the stored order. Test data are never touched,
    save for the order of their features and the windows of zeros, which all three parts have.

    Raises:
        ValueError: an impossible value, named with what is allowed, or a validation split that leaves a part empty.
        DownloadError: an image set whose files are not here and cannot be fetched.
    """
    recipe = Recipe.of(data)
    kept = _load_signals if isinstance(recipe.arguments, Arguments) else _load_images
    return kept(recipe, cache_folder())


def load_exact(recipe: Recipe) -> Splits:
    """As `load`, with inputs in float64, as the generator makes them; made anew at every call."""
    return _splits(recipe, np.float64)


@lru_cache(maxsize=32)
def _load_signals(recipe: Recipe, folder: Path) -> Splits:
    del folder  # in the key, so that another cache folder is another memory
    return _splits(recipe)


@lru_cache(maxsize=2)
def _load_images(recipe: Recipe, folder: Path) -> Splits:
    del folder  # few are kept: one may take 0.7 GB
    return _splits(recipe)


@dataclass(frozen=True)
class _Source:
    """A data set before anything is done to it: training rows first, `cut` of them."""

    x: npt.NDArray[Any]  # [n, length]
    y: Labels  # [n]
    cut: int
    stream: Callable[[], np.random.RandomState]  # what labels are redrawn from

    @classmethod
    def of(cls, arguments: Arguments | Selection) -> "_Source":
        if isinstance(arguments, Arguments):
            made = remembered(arguments)
            return cls(made.x, made.y.astype(np.int64), int(len(made.y) * arguments.train_split), made.stream)
        return cls(*select(arguments), lambda: np.random.RandomState([arguments.seed, _REDRAW]))


def _splits(recipe: Recipe, dtype: type[np.floating[Any]] = np.float32) -> Splits:
    source = _Source.of(recipe.arguments)
    cut, clean = source.cut, source.y
    order = recipe.permutation()
    moved = (order != np.arange(len(order))).any()  # large images are copied no more than they must be
    x = (source.x[:, order] if moved else source.x).astype(dtype, copy=False)
    if recipe.zero_window:  # of what a model sees, and drawn for every row, whatever part it goes to
        x = zeroed_windows(x, recipe.zero_window, np.random.default_rng([recipe.arguments.seed, _WINDOW]))
    noisy = _noisy(clean[:cut], source, recipe)
    kept, held = _held_out(cut, recipe)
    test = np.arange(cut, len(x))[: recipe.test_samples]  # no slice: that would keep all of x alive
    parts = (x[kept], noisy[kept], x[held], clean[held], x[test], clean[test])
    return Splits(*(_frozen(part) for part in parts))


def _noisy(labels: Labels, source: _Source, recipe: Recipe) -> Labels:
    if recipe.label_noise == 0:
        return labels
    if recipe.label_noise_mode == "redraw":
        return redrawn_labels(labels, recipe.label_noise, source.stream())
    return flipped_labels(labels, recipe.label_noise, np.random.default_rng([recipe.arguments.seed, _FLIP]))


def _held_out(rows: int, recipe: Recipe) -> tuple[Labels, Labels]:
    count = int(rows * recipe.val_split)
    if recipe.val_split > 0 and not 0 < count < rows:
        raise ValueError(f"val_split={recipe.val_split}: must hold out at least 1 of {rows} rows and leave at least 1")
    order = np.random.default_rng([recipe.arguments.seed, _VALIDATION]).permutation(rows)
    return np.sort(order[count:]), np.sort(order[:count])


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array
