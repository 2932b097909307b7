"""The generator's arguments: their defaults, and which values can make a data set at all."""

import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ["Arguments", "get_dataset_args", "real", "whole"]

_URL = "https://github.com/greydanus/mnist1d/raw/master/mnist1d_data.pkl"


@dataclass(frozen=True)
class Arguments:
    """The generator's arguments, checked: a value that can make no data set raises ValueError."""

    num_samples: int = 5000
    train_split: float = 0.8
    template_len: int = 12
    padding: tuple[int, int] = (36, 60)
    scale_coeff: float = 0.4
    max_translation: int = 48
    corr_noise_scale: float = 0.25
    iid_noise_scale: float = 0.02
    shear_scale: float = 0.75
    shuffle_seq: bool = False
    final_seq_length: int = 40
    seed: int = 42

    def __post_init__(self) -> None:
        for name, bounds in _WHOLE.items():
            object.__setattr__(self, name, whole(name, getattr(self, name), *bounds))
        for name, limits in _REAL.items():
            object.__setattr__(self, name, real(name, getattr(self, name), *limits))
        object.__setattr__(self, "padding", _padding(self.padding))
        object.__setattr__(self, "shuffle_seq", bool(self.shuffle_seq))

    @classmethod
    def of(cls, source: object) -> "Arguments":
        """From any object or mapping: what it does not name keeps its default, extras are ignored."""
        if isinstance(source, cls):
            return source
        named = source if isinstance(source, Mapping) else _Attributes(source)
        return cls(**{field.name: named[field.name] for field in fields(cls) if field.name in named})

    @property
    def length(self) -> int:
        """Positions of a dilated sample, before the last resampling."""
        return self.template_len + self.padding[1]


class _Attributes:
    def __init__(self, source: object) -> None:
        self._source = source

    def __contains__(self, name: str) -> bool:
        return hasattr(self._source, name)

    def __getitem__(self, name: str) -> Any:
        return getattr(self._source, name)


_WHOLE: dict[str, tuple[int, int | None]] = {
    "num_samples": (1, None),
    "template_len": (1, None),
    "max_translation": (1, 2**32),
    "final_seq_length": (1, None),
    "seed": (0, 2**32 - 1),
}
_REAL = {
    "train_split": (0.0, 1.0),
    "scale_coeff": (-np.inf, np.inf),
    "corr_noise_scale": (-np.inf, np.inf),
    "iid_noise_scale": (-np.inf, np.inf),
    "shear_scale": (-np.inf, np.inf),
}


def whole(name: str, value: Any, low: int, high: int | None) -> int:
    """`value` as an int; ValueError with the argument's name when it is none or out of bounds (inclusive)."""
    allowed = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r}: must be {allowed}") from None
    if number < low or (high is not None and number > high):
        raise ValueError(f"{name}={value!r}: must be {allowed}")
    return number


def real(name: str, value: Any, low: float, high: float) -> float:
    """`value` as a float; ValueError with the argument's name when it is not finite or out of bounds."""
    allowed = "a finite number" if high == np.inf else f"a number from {low:g} to {high:g}"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r}: must be {allowed}") from None
    if not (np.isfinite(number) and low <= number <= high):
        raise ValueError(f"{name}={value!r}: must be {allowed}")
    return number


def _padding(value: Any) -> tuple[int, int]:
    message = f"padding={value!r}: must be two whole numbers, [low, high] with 0 <= low <= high"
    try:
        low, high = (operator.index(bound) for bound in value)
    except (TypeError, ValueError):
        raise ValueError(message) from None
    if not 0 <= low <= high:
        raise ValueError(message)
    return low, high


def get_dataset_args(as_dict: bool = False) -> Any:
    """The default arguments, as an object to change attribute by attribute, or as a dictionary.

    `url` is there because the published package has it; nothing is ever downloaded.
    """
    arguments = asdict(Arguments()) | {"padding": list(Arguments().padding), "url": _URL}
    return arguments if as_dict else SimpleNamespace(**arguments)
