"""The weights of a run, its artifact `weights.pt`: read without running code from it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mnist1d.tracking.stores import TrackingError, client_of, explained, first_line, reachable

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "weights.pt"


class Checkpoint(TypedDict):
    """What `weights.pt` holds; plain enough for `torch.load(..., weights_only=True)`."""

    state_dict: dict[str, Tensor]
    run_id: str
    config: dict[str, Any]


def load_weights(run_id: str, uri: str) -> Checkpoint:
    """The weights of a run, from its artifacts: state_dict by parameter name, run_id and flat config.

    Raises:
        TrackingError: no such store, run or weights, or the file is another run's.
    """
    advice = "Is the run id right, and did the run finish?"
    with explained(uri, f"fetching {WEIGHTS} of run {run_id}", advice):
        run = client_of(reachable(uri, create=False)).get_run(run_id)
        checkpoint = fetch(run.info.artifact_uri, uri)
    if checkpoint["run_id"] != run_id:
        raise TrackingError(f"{WEIGHTS} of run {run_id} says that it belongs to run {checkpoint['run_id']}")
    return checkpoint


def fetch(artifacts: str, uri: str) -> Checkpoint:
    """What a run's weights file holds, from the place of its artifacts in the store `uri`."""
    with tempfile.TemporaryDirectory() as folder:
        return read(get_artifact_repository(artifacts, uri).download_artifacts(WEIGHTS, folder))


def find_run(path: str | Path) -> str:
    """The run id that a weights file says it came from.

    Raises:
        TrackingError: the file is missing or not one of ours.
    """
    return read(path)["run_id"]


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a weights file."""
    import torch

    torch.save(checkpoint, path)


def read(path: str | Path) -> Checkpoint:
    """What a weights file holds; code in it is not run.

    Raises:
        TrackingError: the file is missing or not one of ours.
    """
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return Checkpoint(state_dict=content["state_dict"], run_id=content["run_id"], config=content["config"])
    except Exception as error:  # torch raises half a dozen kinds for a file that is not its own
        raise TrackingError(f"{path} is not a weights file of a recorded run: {first_line(error)}") from error
