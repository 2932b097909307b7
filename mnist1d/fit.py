"""One stack, one Lightning fit; on memory running out, its halves."""

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.utils import get_class

from mnist1d import hardware
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


def fit(stack: Stack, callbacks: Callable[[Stack], Sequence[pl.Callback]]) -> Iterator[tuple[Stack, StackedProblem]]:
    """Train a stack and yield it with its trained module; or both halves, if it does not fit into memory.

    Its checkpoint is kept until the caller comes back for more, which means that the results are safe.

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
        checkpoint_path(stack).unlink(missing_ok=True)
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
