"""The weights of a recorded run as arrays, without torch, which takes seconds to import."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from io import BytesIO
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Array = NDArray[Any]

_TYPES = {"FloatStorage": np.float32, "DoubleStorage": np.float64, "LongStorage": np.int64, "BoolStorage": np.bool_}


def load(artifacts: str) -> dict[str, Array]:
    """Parameter name -> array, of the file that `mnist1d.tracking.Recorder.finish` writes.

    artifacts  where the run's artifacts lie: a file:// address or a path
    Raises OSError where no such file can be read, pickle.UnpicklingError for what is neither tensor nor plain value.
    """
    path = f"{unquote(urlsplit(artifacts).path)}/weights.pt"
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(archive).load()["state_dict"]
    except zipfile.BadZipFile as error:  # cut short, say: for the caller as good as none
        raise OSError(f"{path} cannot be read: {error}") from error
    except (TypeError, ValueError, LookupError, AttributeError) as error:  # other things where tensors are expected
        raise pickle.UnpicklingError(f"{path} is no weights file: {error}") from error


class _Reader(pickle.Unpickler):
    """Reads the zip that torch.save writes: a pickle that names tensors, and a member for the numbers of each."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive, self._root = archive, archive.namelist()[0].partition("/")[0]
        super().__init__(BytesIO(archive.read(f"{self._root}/data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        known = {("torch._utils", "_rebuild_tensor_v2"): _array, ("collections", "OrderedDict"): dict}
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"a weights file holds tensors and plain values, no {module}.{name}")
        return known[module, name]

    def persistent_load(self, saved: Any) -> Array:
        _, kind, key, *_ = saved
        return np.frombuffer(self._archive.read(f"{self._root}/data/{key}"), kind)


def _array(numbers: Array, start: int, shape: Sequence[int], strides: Sequence[int], *_: object) -> Array:
    last = start + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min((start, *shape, *strides)) < 0 or (0 not in shape and last >= len(numbers)):
        raise ValueError("a tensor reaches beyond its numbers")  # which numpy would read from whatever lies there
    return as_strided(numbers[start:], shape, [numbers.itemsize * stride for stride in strides])
