"""Who trains which runs: of two processes that ask for the same, one does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from mnist1d.process import Process
from mnist1d.tracking.stores import LOCK_SECONDS, TrackingError, database_path, explained, is_away, postgres_lock
from mnist1d.tracking.tags import FINGERPRINT_TAG, KIND_TAG, PROCESS_TAG, REASON_TAG

LOCK = "mnist1d lock"
"""Name of the registered model that says that a process is starting."""
WAIT_SECONDS = 0.2
CLAIM = "training.txt"
"""Artifact of a running sweep: fingerprints of the runs that it is training, one a line."""


@contextmanager
def alone(uri: str, client: MlflowClient) -> Iterator[None]:
    """While other processes wait: looking what is being trained, and claiming what is not, are one thing.

    A lock beside an SQLite file, one of PostgreSQL's own, or a name in the model registry of any other store.
    """
    with ExitStack() as held:
        with explained(uri, "waiting for other processes", "Try again."):
            held.enter_context(_lock(uri, client))
        yield


def _lock(uri: str, client: MlflowClient) -> AbstractContextManager[object]:
    if uri.startswith("sqlite:"):
        return FileLock(f"{database_path(uri, create=False)}.lock", timeout=LOCK_SECONDS)
    return postgres_lock(uri) if uri.startswith("postgresql") else _registry_lock(client)


@contextmanager
def _registry_lock(client: MlflowClient) -> Iterator[None]:
    """A registered model of a name that only one can register, as long as it is there.

    It is the one thing that a server does for one of several clients at once and that can be undone without a trace.
    A server without a registry gives no lock: there two commands that start within about a second may both train.
    """
    taken = _register(client)
    try:
        yield
    finally:
        if taken:
            with suppress(MlflowException):  # the server is away; once this process has ended, others take the lock
                client.delete_registered_model(LOCK)


def _register(client: MlflowClient) -> bool:
    """Wait until the name is ours; False where there is no registry."""
    deadline, process = time.monotonic() + LOCK_SECONDS, Process.this()
    while time.monotonic() < deadline:
        try:
            client.create_registered_model(LOCK, description=process.spelled())
            return True
        except MlflowException as error:
            if is_away(error):
                raise
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                return False
        holder = _holder(client)
        if holder is not None and holder.is_dead:
            with suppress(MlflowException):  # another process was faster
                client.delete_registered_model(LOCK)
        else:
            time.sleep(WAIT_SECONDS)
    who = _holder(client) or "another process"
    raise TrackingError(f"{who} is starting there; if it is gone, delete the registered model {LOCK!r} in the UI")


def _holder(client: MlflowClient) -> Process | None:
    try:
        return Process.read(client.get_registered_model(LOCK).description or "")
    except MlflowException:  # it is free again
        return None


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
