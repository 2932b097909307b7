"""One stack, one Lightning fit; on memory running out, its halves."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import get_class

from mnist1d import hardware
from mnist1d.events import Begun, Event, Failed, GoesOn, Measured, Member, NotTaken, Trained
from mnist1d.memory import keep_freed_memory
from mnist1d.plan import Stack
from mnist1d.problem import StackedProblem
from mnist1d.resume import Saver, checkpoint_path, is_whole

log = logging.getLogger(__name__)


def quiet() -> None:
    """Silence what Lightning says without need; it offers no switch for any of it."""
    # INFO: "`weights_only` was not set" with every checkpoint, "Received SIGTERM", "`Trainer.fit` stopped", tips
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    # a pytree function that torch 2.13 deprecates
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    # advice about DataLoaders, where a loader of ours only yields block numbers
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")


def train(stack: Stack, tell: Callable[[Event], None]) -> None:
    """Train a stack and tell what happens, step by step. An exception in its fit fails its runs; it is told as well.

    The checkpoint stays until the results are safe, which is for the one who records them to know.

    Raises:
        NotTaken: from `tell`, as is any other exception that is not an `Exception`.
    """
    tell(Begun(stack.indices))
    began = time.perf_counter(), time.process_time()
    try:
        for part, module in fit(stack, lambda part: [Live(part, tell)]):
            ended = time.perf_counter(), time.process_time()
            wall, cpu = ended[0] - began[0], ended[1] - began[1]
            tell(Trained(part.indices, members(module), wall, cpu, module.pace))
            began = time.perf_counter(), time.process_time()
    except NotTaken:
        raise
    except Exception as error:
        tell(Failed(stack.indices, f"{type(error).__name__}: {error}"))


def members(module: StackedProblem) -> list[Member]:
    """What has become of each member of a trained stack."""
    return [
        Member(module.finals(n), module.member_state(n), None) if h.failure is None else Member({}, {}, h.failure)
        for n, h in enumerate(module.histories)
    ]


class Live(pl.Callback):
    """Tells of every block as it ends."""

    def __init__(self, stack: Stack, tell: Callable[[Event], None]) -> None:
        self.stack, self.tell = stack, tell
        self._began = False

    def on_train_batch_start(self, _trainer: pl.Trainer, module: pl.LightningModule, _batch: Any, _index: int) -> None:
        """What a fit that goes on has behind it is told as well, once it is certain that it does go on."""
        assert isinstance(module, StackedProblem)
        if not self._began and module.done:
            measured = [history.rows() for history in module.histories]
            self.tell(GoesOn(self.stack.indices, module.done, self.stack.runs[0].steps, measured))
        self._began = True

    def on_train_batch_end(
        self, _trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, _batch: Any, _index: int
    ) -> None:
        """`outputs` is what `StackedProblem.training_step` returned."""
        assert isinstance(module, StackedProblem)
        metrics = {name: values.tolist() for name, values in outputs["metrics"].items()}
        failed = [history.failure is not None for history in module.histories]
        self.tell(Measured(self.stack.indices, outputs["step"], metrics, failed))


def fit(stack: Stack, callbacks: Callable[[Stack], Sequence[pl.Callback]]) -> Iterator[tuple[Stack, StackedProblem]]:
    """Train a stack and yield it with its trained module; or both halves, if it does not fit into memory.

    Args:
        stack: runs to train together.
        callbacks: Lightning callbacks for the fit of a stack, or of a part of it.

    Raises:
        RuntimeError, MemoryError: a single run does not fit either.
    """
    try:
        module = fit_once(stack, callbacks(stack))
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or len(stack) == 1:
            raise
        module = None
    if module is not None:
        yield stack, module
        return
    # outside of the except block, whose traceback would keep the failed fit's tensors alive
    checkpoint_path(stack).unlink(missing_ok=True)
    for half in stack.halves():
        yield from fit(half, callbacks)


def fit_once(stack: Stack, callbacks: Sequence[pl.Callback]) -> StackedProblem:
    """Train all members of a stack together in one `Trainer.fit`, from where an earlier one of them was cut off.

    A checkpoint from which it cannot go on, because it is damaged or comes from other code, is dropped: the fit then
    starts from the beginning.
    """
    saved, reason = checkpoint_path(stack), ""
    if saved.exists():
        try:
            return _fit(stack, callbacks, saved, go_on=True)
        except CannotGoOn as error:
            reason = str(error)
        log.warning("%s cannot be used (%s): the fit starts from the beginning", saved, reason)
        saved.unlink(missing_ok=True)
    return _fit(stack, callbacks, saved, go_on=False)


class CannotGoOn(Exception):
    """A checkpoint is of no use."""


def _fit(stack: Stack, callbacks: Sequence[pl.Callback], saved: Path, *, go_on: bool) -> StackedProblem:
    if go_on and not is_whole(saved):
        raise CannotGoOn("it is damaged")
    settings = stack.runs[0].trainer
    hardware.use(settings)
    keep_freed_memory()
    problem: type[StackedProblem] = get_class(stack.runs[0].task.target)
    module, data = problem(stack.runs), problem.make_data(stack.runs)
    trainer = pl.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        max_steps=data.schedule.max_steps,
        max_epochs=-1,  # max_steps alone decides
        callbacks=[*callbacks, *_savers(settings.checkpoint_seconds, saved)],
        logger=False,  # metrics go to MLflow once per block and run, not through Lightning's per-step logging
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, datamodule=data, ckpt_path=saved if go_on else None, weights_only=True)
    except Exception as error:
        if go_on and not module.begun:
            raise CannotGoOn(f"{type(error).__name__}: {error}".partition("\n")[0]) from error
        raise
    return module


def _savers(seconds: float | None, path: Path) -> list[pl.Callback]:
    return [] if seconds is None else [Saver(path, seconds)]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        "out of memory" in text or "can't allocate memory" in text
    )
