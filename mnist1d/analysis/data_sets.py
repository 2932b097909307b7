"""The data sets of experiments that compare several: how they appear, their runs, and which were not run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnist1d.analysis import figures
from mnist1d.analysis.figures import Look
from mnist1d.analysis.protocol import one_protocol
from mnist1d.config import Data, Images, Signals, make_data
from mnist1d.data import load
from mnist1d.image_sets import IMAGE_SETS
from mnist1d.plan import NEUTRAL

NAME = "data.name"
LOOKS = {  # data set -> look, in the order of tables, panels and legends
    "mnist1d": Look("MNIST-1D", "#16295c", "o"),
    "mnist_subset": Look("5000 of MNIST", "#e8951a", "s", figures.DASHES, hollow=True),
    "digits": Look("digits, 8 × 8", "#2a7d62", "^", (0, (5, 1.5, 1, 1.5))),
    "mnist": Look("MNIST", "#a8509a", "v", (0, (8, 1.5))),
    "fashion_mnist": Look("Fashion-MNIST", "#8c8c8c", "D", (0, (1, 1.2))),
    "cifar10": Look("CIFAR-10", "#b03a5b", "P", (0, (3, 1, 1, 1, 1, 1))),
}
DOWNLOADED = tuple(name for name in LOOKS if name in IMAGE_SETS and IMAGE_SETS[name].files)
"""Data sets that no installed package brings."""


def one_protocol_each(table: pd.DataFrame, axes: Collection[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """As `one_protocol`, for every data set by itself: their own keys differ."""
    kept, remarks = [], []
    for name in known(table):
        part, left_out = one_protocol(table[table[NAME] == name], axes)
        kept.append(part)
        remarks += [f"{name}: {remark}" for remark in left_out]
    return pd.concat(kept), tuple(remarks)


def known(table: pd.DataFrame) -> list[str]:
    """The data sets that `table` has runs of, ours first."""
    names = set(table[NAME])
    return [name for name in LOOKS if name in names] + sorted(names - set(LOOKS))


def look(name: str) -> Look:
    """The look of a data set; one that is not ours gets its own name, black and a star."""
    return LOOKS.get(name, Look(name, "#000000", "*"))


def not_run(table: pd.DataFrame, names: Collection[str], columns: int) -> tuple[tuple[str, ...], ...]:
    """Rows of a table with so many columns, for those of `names` without a run: nothing is estimated."""
    left = [name for name in names if name not in set(table[NAME])]
    return tuple((look(name).name, "not run", *("–",) * (columns - 3), "0") for name in left)


def samples(config: Mapping[str, Any]) -> int:
    """Number of all samples of a run; from its config alone, as for `labels`."""
    return sum(data_of(config).rows)


def labels(config: Mapping[str, Any]) -> NDArray[np.integer]:
    """Labels of all samples of a run, # [rows]: training, validation and test samples.

    config  the run's, flat, as a row of `Runs.table`; other keys may stand beside it
    Raises what `mnist1d.data.load` raises; pydantic's ValidationError for a config whose data cannot be made.
    """
    splits = load(data_of(config))
    return np.concatenate([splits.train_y, splits.val_y, splits.test_y])


def data_of(config: Mapping[str, Any]) -> Data:
    """The data section of a run; a key that came after it was recorded is as its fingerprint has it.

    config  the run's, flat, as a row of `Runs.table`; other keys may stand beside it
    Raises pydantic's ValidationError for a config whose data cannot be made.
    """
    kind = Images if config[NAME] in IMAGE_SETS else Signals
    # only the data set's own keys: in a table of several sets a run reads nan for those of the others
    values = {key: config.get(f"data.{key}") for key in kind.model_fields}
    lacking = [key for key, value in values.items() if value is None or (isinstance(value, float) and np.isnan(value))]
    return make_data(values | {key: NEUTRAL.get(f"data.{key}") for key in lacking})
