"""A fit that was cut off goes on where it stood: its last checkpoint is found again by what it trains."""

import os
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from mnist1d import provenance
from mnist1d.plan import Stack, fingerprint

SQLITE = "sqlite:///"


def checkpoint_path(stack: Stack) -> Path:
    """Where the fit of a stack keeps its last state: beside the store, named by members, code and versions."""
    uri = stack.runs[0].tracking.uri
    store = Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else Path("mlruns")
    members = [provenance.tags()["mnist1d.git"], provenance.tags()["mnist1d.versions"], *map(fingerprint, stack.runs)]
    return store / "checkpoints" / f"{sha256(' '.join(members).encode()).hexdigest()[:16]}.ckpt"


class Saver(pl.Callback):
    """Saves a fit at the end of a block, every so many seconds, always in one piece.

    Args:
        path: the file; it is replaced, so that at any moment it is whole.
        seconds: least time between two.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self._saved = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save, if it is time."""
        if time.monotonic() - self._saved < self.seconds:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(f".{os.getpid()}")
        trainer.save_checkpoint(unfinished, weights_only=False)
        unfinished.replace(self.path)
        self._saved = time.monotonic()
