"""Names under which runs and sweeps are found again in MLflow."""

from typing import Literal

WEIGHTS_TAG = "mnist1d.weights"
SWEEP_TAG = "mnist1d.sweep"
KIND_TAG = "mnist1d.kind"
REASON_TAG = "mnist1d.reason"
PARENT_TAG = "mlflow.parentRunId"
RUN_NAME_TAG = "mlflow.runName"
FINGERPRINT_TAG = "mnist1d.fingerprint"
PROCESS_TAG = "mnist1d.process"
"""Which process records a run; see `mnist1d.process`."""
FOLDER_TAG = "mnist1d.folder"
"""Of a sweep: the output folder of the command line that it was last asked for by."""
RUNS_TAG = "mnist1d.runs"
"""Of a sweep: digest of the fingerprints of its runs; equal for equal command lines."""
FORCED_TAG = "mnist1d.forced"
"""Of a sweep: trained although its runs were recorded."""
COPY_TAG = "mnist1d.copy_of"
"""Of a run that was trained for another sweep: its id there."""
KEY_TAG = "mnist1d.key"
"""Of a run on a server: its recorder's own name for it, by which a run that may have been made is found."""
DIVERGED_TAG = "mnist1d.diverged"
"""Of a run that failed because a value stopped being finite: "true"; under `trainer.may_diverge` that is a result."""

Status = Literal["FINISHED", "FAILED", "KILLED"]
