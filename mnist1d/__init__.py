"""MNIST-1D Lab. As in the published `mnist1d` package, the data set's functions can be had from here as well."""

import os
from typing import TYPE_CHECKING, Any

# No telemetry from a user's machine. Each of these reads its variable when it is first imported, and nothing of
# ours can import it before this file.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

if TYPE_CHECKING:
    from mnist1d.data import get_dataset, get_dataset_args, get_templates, make_dataset

__all__ = ["get_dataset", "get_dataset_args", "get_templates", "make_dataset"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mnist1d import data  # which takes 0.3 s: not for those who check a command line

    return getattr(data, name)
