"""MNIST-1D: the generator, what is done to its data on purpose, and the forms in which torch code wants them.

Importing this package does not import torch; naming `MNIST1D`, `MNIST1DDataModule` or `stream` does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnist1d.data.arguments import get_dataset_args
from mnist1d.data.cache import get_dataset
from mnist1d.data.generator import make_dataset
from mnist1d.data.images import Selection
from mnist1d.data.splits import Recipe, Splits, load
from mnist1d.data.templates import get_templates

if TYPE_CHECKING:
    from mnist1d.data.datamodule import MNIST1DDataModule
    from mnist1d.data.dataset import MNIST1D
    from mnist1d.data.streaming import stream

__all__ = [
    "MNIST1D",
    "MNIST1DDataModule",
    "Recipe",
    "Selection",
    "Splits",
    "get_dataset",
    "get_dataset_args",
    "get_templates",
    "load",
    "make_dataset",
    "stream",
]

_TORCH = {"MNIST1D": "dataset", "MNIST1DDataModule": "datamodule", "stream": "streaming"}


def __getattr__(name: str) -> Any:
    if name not in _TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_TORCH[name]}"), name)
