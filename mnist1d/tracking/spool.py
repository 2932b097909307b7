"""Where runs are kept that a store could not take, because it went away while they were trained.

Below `mlruns/spool/` every store and experiment has a folder, in it every process one that has something to keep, in
that every run a journal: one line for each thing that was to be written, a checksum and JSON. Weights lie beside it.
A journal goes when all that it says is in the store; done again, which a crash may bring about, it changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from mnist1d.spelling import without_password
from mnist1d.tracking.stores import StoreAway, TrackingError, explained, reachable
from mnist1d.tracking.weights import Checkpoint, read, save
from mnist1d.tracking.writer import Writer

ROOT = Path("mlruns") / "spool"


class Damaged(TrackingError):
    """What is kept of a run is not what was written."""


@dataclass
class Recorded:
    """What became of runs that were kept: how many are recorded now, and why others could not be, by journal."""

    runs: int = 0
    refused: dict[Path, str] = field(default_factory=dict)


class Spool:
    """What one process keeps for one store; its folder is made with the first thing to keep.

    Args:
        uri: the store's.
        experiment: the MLflow experiment.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self.place = place(uri, experiment)
        self.folder = self.place / f"{os.getpid()}-{uuid4().hex[:8]}"
        self._lock = FileLock(f"{self.folder}.lock")

    def append(self, run: str, do: str, weights: Checkpoint | None = None, **values: Any) -> None:
        """Keep one thing to be done to a run, safe from crashes when this returns.

        Args:
            run: MLflow's id, or the recorder's name for a run that is still to be made.
            do: a method of `Writer`.
            weights: its argument of that name.
            values: its other arguments.
        """
        self._make()
        if weights is not None:
            values["sha256"] = self._keep(run, weights)
        text = json.dumps({"do": do, **values})
        with (self.folder / f"{run}.{'sweep' if do == 'close' else 'run'}").open("ab") as journal:
            journal.write(f"{zlib.crc32(text.encode()):08x} {text}\n".encode())
            journal.flush()
            os.fsync(journal.fileno())

    @property
    def runs(self) -> int:
        """How many runs are kept; a sweep counts as one where nothing else of it is."""
        return len(list(self.folder.glob("*.run"))) or len(list(self.folder.glob("*.sweep")))

    def close(self) -> None:
        """Leave what is kept to whoever records it."""
        self._lock.release()

    def record(self, writer: Writer, ids: dict[str, str]) -> Recorded:
        """Write what is kept into the store; see `record`."""
        done = record(self.folder, writer, ids)
        if not self.folder.exists():
            self._lock.release()
        return done

    def _make(self) -> None:
        if self.folder.is_dir():
            return
        self.place.mkdir(parents=True, exist_ok=True)
        (self.place / "store.txt").write_text(without_password(self.uri))
        self._lock.acquire()
        self.folder.mkdir()

    def _keep(self, run: str, weights: Checkpoint) -> str:
        unfinished = self.folder / f"{run}.unfinished"
        save(weights, unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.sha256(file.read()).hexdigest()
        unfinished.replace(self.folder / f"{run}.pt")
        return digest


def place(uri: str, experiment: str) -> Path:
    """The folder of a store and experiment."""
    return ROOT / hashlib.sha256(f"{without_password(uri)} {experiment}".encode()).hexdigest()[:16]


def stores() -> list[str]:
    """URIs, passwords left out, of the stores for which something is kept."""
    return sorted({file.read_text() for file in ROOT.glob("*/store.txt")})


@contextmanager
def abandoned(uri: str, experiment: str) -> Iterator[list[Path]]:
    """Folders of processes that have ended, which nobody else takes meanwhile."""
    here, locks, folders = place(uri, experiment), [], []
    for folder in sorted(path for path in here.glob("*") if path.is_dir()):
        lock = FileLock(f"{folder}.lock", timeout=0)
        with suppress(Timeout):
            lock.acquire()
            locks.append(lock)
            folders.append(folder)
    try:
        yield folders
    finally:
        for lock in locks:
            lock.release()


def record(folder: Path, writer: Writer, ids: dict[str, str]) -> Recorded:
    """Write what a folder keeps into the store, sweeps last, and drop it; an empty folder goes as well.

    Args:
        folder: of one process.
        writer: of the store.
        ids: recorder's name for a run -> MLflow's id; filled.

    Raises:
        StoreAway: the store is away (again); what was not written yet stays.
    """
    done, away = Recorded(), None
    for journal in [*sorted(folder.glob("*.run")), *sorted(folder.glob("*.sweep"))]:
        if journal.suffix == ".sweep" and done.refused:  # its summary would lack runs
            continue
        try:
            with explained(writer.uri, f"recording what {journal} keeps", "Delete that file to give the run up."):
                _apply(journal, writer, ids)
        except TrackingError as error:
            if isinstance(error, StoreAway):
                away = away or error
                with explained(writer.uri, "recording to it", ""):
                    reachable(writer.uri, create=False)  # if it is, it may be this run alone that it cannot take
            done.refused[journal] = str(error)
            continue
        journal.unlink()
        journal.with_suffix(".pt").unlink(missing_ok=True)
        done.runs += journal.suffix == ".run"
    if away and not done.runs:
        raise away
    _tidy(folder)
    return done


def _apply(journal: Path, writer: Writer, ids: dict[str, str]) -> None:
    run = ids.get(journal.stem, journal.stem)
    for entry in _entries(journal):
        do, digest = entry.pop("do"), entry.pop("sha256", None)
        if do == "create":
            ids[journal.stem] = run = writer.create(**entry, again=True)
        elif do == "log":
            writer.log(run, rows=map(tuple, entry["rows"]))
        elif do == "note":
            writer.note(run, **{**entry, "rows": map(tuple, entry["rows"])})
        elif do == "close":
            writer.close(run, **entry)
        else:
            weights = None if digest is None else _weights(journal.with_suffix(".pt"), digest)
            writer.finish(run, **{**entry, "rows": map(tuple, entry["rows"])}, weights=weights, again=True)


def _entries(journal: Path) -> list[dict[str, Any]]:
    """What a journal says; a last line that was cut off when the process ended never was."""
    *lines, _ = journal.read_bytes().split(b"\n")
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        checksum, _, text = line.partition(b" ")
        if f"{zlib.crc32(text):08x}".encode() != checksum:
            raise Damaged(f"line {number} of {journal} is not what was written")
        found.append(json.loads(text))
    return found


def _weights(path: Path, digest: str) -> Checkpoint:
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise Damaged(f"{path} is not what was written")
    return read(path)


def _tidy(folder: Path) -> None:
    """Remove a folder in which nothing is kept any more, and those above it that are empty then."""
    if any(folder.glob("*.run")) or any(folder.glob("*.sweep")):
        return
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        Path(f"{folder}.lock").unlink(missing_ok=True)
        if not any(path.is_dir() for path in folder.parent.iterdir()):
            shutil.rmtree(folder.parent)
            folder.parent.parent.rmdir()
