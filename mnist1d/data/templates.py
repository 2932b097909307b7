"""The ten hand-drawn templates of MNIST-1D, one per digit."""

from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

__all__ = ["Templates", "check_templates", "get_templates"]

# One row a digit, 0 to 9; the paper's Figure 1 draws them turned by a quarter, so that they look like digits.
_DRAWN = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)


class Templates(TypedDict):
    """What `get_templates` returns and every `template=` argument takes."""

    x: npt.NDArray[Any]  # [class, template length]
    t: npt.NDArray[Any]  # [template length]
    y: npt.NDArray[Any]  # [class]


def get_templates() -> Templates:
    """The ten templates: `x` [10, 12] float64, their time axis `t` [12] float64, the labels `y` [10] int64.

    Each row is whitened and then shifted to start and end at 0, as in the published package.
    """
    x = np.asarray(_DRAWN, dtype=np.float64)
    x -= x.mean(1, keepdims=True)
    x /= x.std(1, keepdims=True)
    x -= x[:, :1]
    return {"x": x / 6.0, "t": np.linspace(-5, 5, x.shape[1]) / 6.0, "y": np.arange(len(x))}


def check_templates(template: Templates) -> Templates:
    """The same templates as arrays; ValueError when their shapes cannot belong together."""
    x, t, y = (np.asarray(template[key]) for key in ("x", "t", "y"))
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"template['x'] has shape {x.shape}: must be [class, length], neither of them 0")
    if t.ndim != 1 or t.size == 0:
        raise ValueError(f"template['t'] has shape {t.shape}: must be one row of times")
    if y.ndim != 1 or not 1 <= len(y) <= len(x):
        raise ValueError(f"template['y'] has shape {y.shape}: must be one label for each row of 'x' ({len(x)})")
    if any(array.dtype.hasobject for array in (x, t, y)):
        raise ValueError("template: must hold plain numbers or strings, not Python objects")
    return {"x": x, "t": t, "y": y}
