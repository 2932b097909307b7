"""Everything that touches MLflow when writing: one `Recorder` per process, one writer per stack.

A sweep is a parent run, its runs are children by the tag `mlflow.parentRunId`. Metrics are buffered and
written as one batch per run, since a batch costs milliseconds and a metric in it a tenth of one: with its
params, tags and weights, a run of 25 evaluations costs about 20 ms.
"""

import os

# Decided when mlflow is first imported. Both would write into our progress bar: two lines for every run that ends on a
# server, a bar for every download.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# MLflow would ask a server that is away again for four minutes, while training waits, and make a run twice where only
# the answer was lost. What cannot be written is kept instead (`mnist1d.tracking.spool`).
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from mnist1d.tracking.recorder import Flattens, Recorder
from mnist1d.tracking.stores import StoreAway, TrackingError, reading
from mnist1d.tracking.tags import COPY_TAG, DIVERGED_TAG, FINGERPRINT_TAG, REASON_TAG, SWEEP_TAG, Status
from mnist1d.tracking.weights import WEIGHTS, Checkpoint, find_run, load_weights

__all__ = [
    "COPY_TAG",
    "DIVERGED_TAG",
    "FINGERPRINT_TAG",
    "REASON_TAG",
    "SWEEP_TAG",
    "WEIGHTS",
    "Checkpoint",
    "Flattens",
    "Recorder",
    "Status",
    "StoreAway",
    "TrackingError",
    "find_run",
    "load_weights",
    "reading",
]
