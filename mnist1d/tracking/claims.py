"""Who trains which runs: of two processes that ask for the same, one does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run

from mnist1d.process import Process
from mnist1d.tracking.stores import LOCK_SECONDS, database_path, explained
from mnist1d.tracking.tags import FINGERPRINT_TAG, KIND_TAG, PROCESS_TAG, REASON_TAG

CLAIM = "training.txt"
"""Artifact of a running sweep: fingerprints of the runs that it is training, one a line."""


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """While other processes wait: looking what is being trained, and claiming what is not, are one thing.

    A lock beside an SQLite file; other stores have none, and two commands within a second may both go on.
    """
    if not uri.startswith("sqlite:"):
        yield
        return
    with ExitStack() as held:
        with explained(uri, "waiting for other processes", "Try again."):
            held.enter_context(FileLock(f"{database_path(uri, create=False)}.lock", timeout=LOCK_SECONDS))
        yield


def claim(client: MlflowClient, sweep: str, fingerprints: Iterable[str]) -> None:
    """Say which runs a sweep is going to train."""
    client.log_text(sweep, "\n".join(fingerprints), CLAIM)


def clear(client: MlflowClient, running: Sequence[Run], wanted: set[str], own: str) -> tuple[int, str]:
    """End the runs of dead processes as FAILED, and see whether a living one trains what is `wanted`.

    Args:
        client: of the store.
        running: all its running runs and sweeps.
        wanted: fingerprints.
        own: this process, as spelled in a tag.

    Returns:
        How many runs were ended, and what to tell who wants what is being trained; "" if nothing of it is.
    """
    buried, claimed = 0, {}
    for run in running:
        process = Process.read(run.data.tags.get(PROCESS_TAG, ""))
        if process is None or process.spelled() == own:
            continue
        if process.is_dead:
            buried += _bury(client, run, process)
        elif found := wanted & _claimed(client, run):
            claimed[run.info.run_id] = (len(found), process, run)
    if not claimed:
        return buried, ""
    count, process, run = max(claimed.values(), key=lambda claim: claim[0])  # a sweep claims more than its runs
    return buried, _busy(process, run, count, len(wanted))


def _bury(client: MlflowClient, run: Run, process: Process) -> int:
    client.set_tag(run.info.run_id, REASON_TAG, f"{process} ended without a word: killed, or the machine was")
    client.set_terminated(run.info.run_id, "FAILED")
    return int(run.data.tags.get(KIND_TAG) == "run")


def _claimed(client: MlflowClient, run: Run) -> set[str]:
    """Fingerprints that a running run stands for."""
    if run.data.tags.get(KIND_TAG) != "sweep":
        return {run.data.tags.get(FINGERPRINT_TAG, "")}
    with tempfile.TemporaryDirectory() as folder:
        if CLAIM not in {file.path for file in client.list_artifacts(run.info.run_id)}:
            return set()
        return set(Path(client.download_artifacts(run.info.run_id, CLAIM, folder)).read_text().split())


def _busy(process: Process, run: Run, claimed: int, wanted: int) -> str:
    """What a command line is told whose runs another process is training."""
    since = datetime.fromtimestamp(run.info.start_time / 1000).strftime("%Y-%m-%d %H:%M")
    which = "this run is" if wanted == 1 else f"{claimed} of these runs are"
    lines = [f"{which} being trained by {process}, since {since} ({run.info.run_name})."]
    lines.append("  Wait until it has ended, or stop it; then the same command trains what is missing.")
    if not process.is_here:
        lines.append("  Should that machine be gone, delete the run in the UI first: from here nobody can tell.")
    return "\n".join(lines)
