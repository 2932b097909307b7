"""A fit that was cut off goes on where it stood: its last checkpoint is found again by what it trains."""

import logging
import os
import time
import zipfile
import zlib
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from mnist1d import provenance
from mnist1d.plan import Stack, fingerprint

SQLITE = "sqlite:///"
STALE_SECONDS = 7 * 86_400
"""A checkpoint that was not written for so long is of a fit that nobody goes on with."""

log = logging.getLogger(__name__)


def checkpoint_path(stack: Stack) -> Path:
    """Where the fit of a stack keeps its last state: beside the store, named by members, code and versions."""
    members = [provenance.tags()["mnist1d.git"], provenance.tags()["mnist1d.versions"], *map(fingerprint, stack.runs)]
    return _folder(stack.runs[0].tracking.uri) / f"{sha256(' '.join(members).encode()).hexdigest()[:16]}.ckpt"


def _folder(uri: str) -> Path:
    return (Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else Path("mlruns")) / "checkpoints"


def remove_stale(uri: str) -> None:
    """Remove the checkpoints beside a store that were not written for a week: of other code, of sweeps given up.

    A fit that is under way writes its own every so often, so that it is never among them.
    """
    oldest = time.time() - STALE_SECONDS
    for file in _folder(uri).glob("*"):
        with suppress(OSError):  # another process may be faster
            if file.is_file() and file.stat().st_mtime < oldest:
                file.unlink()


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is as it was written, by its checksums: torch itself would not notice a flipped bit."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error):
        return False


def steps_done(stack: Stack) -> int:
    """Optimiser steps after which a fit of `stack` goes on; 0 where there is no checkpoint, or a useless one."""
    path = checkpoint_path(stack)
    if not (path.exists() and is_whole(path)):
        return 0
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["stack"]["done"])


class Saver(pl.Callback):
    """Saves a fit at the end of a block, every so many seconds, always in one piece.

    Where that fails, because the disk is full for instance, the fit goes on without; the user is told once.

    Args:
        path: the file; it is replaced, so that at any moment it is whole.
        seconds: least time between two.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self._saved = time.monotonic()
        self._said = False

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save, if it is time; not at the very end, where Lightning would not even begin to go on."""
        if time.monotonic() - self._saved < self.seconds or trainer.global_step >= trainer.max_steps:
            return
        unfinished = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            trainer.save_checkpoint(unfinished, weights_only=False)
            unfinished.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch's writer says RuntimeError
            self._say_once(str(error).strip().partition("\n")[0])
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
        self._saved = time.monotonic()

    def _say_once(self, reason: str) -> None:
        if not self._said:
            log.warning("%s could not be saved, so this fit could not go on after a crash: %s", self.path, reason)
        self._said = True
