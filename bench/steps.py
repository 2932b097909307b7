"""Milliseconds per optimiser step per run: plain loop, ordinary Lightning, stacks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

import pytorch_lightning as pl
from hydra.utils import get_class
from torch import Tensor

from bench.ordinary import lightning_fit
from bench.plain import plain_loop
from bench.timing import Timing, Variant, side_by_side
from mnist1d.config import Run
from mnist1d.cost import most_members
from mnist1d.plan import signature
from mnist1d.problem import StackedProblem


@dataclass(frozen=True)
class Case:
    """An architecture, the size of stack that its target speaks of, and that target (plain / stack)."""

    name: str
    overrides: tuple[str, ...]
    size: int
    target: float


CASES = (
    Case("logistic", ("model=logistic",), 20, 8),
    Case("MLP 10", ("model=mlp", "model.hidden=10"), 100, 20),
    Case("MLP 100", ("model=mlp", "model.hidden=100"), 20, 5),
    Case("MLP 300", ("model=mlp", "model.hidden=300"), 20, 2.5),
    Case("CNN 25", ("model=cnn", "model.channels=25"), 20, 4),
    Case("CNN 100", ("model=cnn", "model.channels=100"), 20, 2.5),
    Case("GRU", ("model=gru",), 20, 8),
    Case("ResNet", ("model=resnet",), 20, 3),
    Case("TCN", ("model=tcn",), 20, 3),
    Case("dilated CNN", ("model=dilated_cnn",), 20, 3),
    Case("attention", ("model=attention",), 20, 3),
)


@dataclass(frozen=True)
class Result:
    """One row of the table; `planned` is the stack size that the planner would cut `case.size` runs to."""

    case: Case
    planned: int
    plain: Timing
    lightning: Timing
    single: Timing
    stack: Timing


def begun(runs: Sequence[Run]) -> StackedProblem:
    """The problem of a stack before its first step, without Lightning round it."""
    problem: type[StackedProblem] = get_class(runs[0].task.target)
    module, data = problem(runs), problem.make_data(runs)
    data.setup()
    trainer = SimpleNamespace(datamodule=data, optimizers=[module.configure_optimizers()])  # all that a block asks for
    module.trainer = cast(pl.Trainer, trainer)
    module.begin()
    return module


def block_loop(module: StackedProblem, done: int = 0) -> Callable[[int], Tensor]:
    """``take(steps)``: so many more steps of a stack that has `done` some; their losses, ``[steps, N]``."""

    def take(steps: int) -> Tensor:
        nonlocal done
        done += steps
        return module.train_block(range(done - steps, done))

    return take


def stacked_loop(runs: Sequence[Run]) -> Callable[[int], Tensor]:
    """``take(steps)``: so many more steps of a stack, from its first."""
    return block_loop(begun(runs))


def measure(case: Case, make_run: Callable[..., Run], turns: int, seconds: float) -> Result:
    """Time one architecture four ways, in turn; the stack is cut as the planner cuts it."""
    runs = [make_run(*case.overrides, f"seed={seed}") for seed in range(case.size)]
    planned = min(case.size, most_members(runs)[signature(runs[0])])
    variants = [
        Variant("plain loop", 1, plain_loop(runs[0])),
        Variant("Lightning", 1, lightning_fit(runs[0])),
        Variant("stack of 1", 1, stacked_loop(runs[:1])),
        Variant(f"stack of {planned}", planned, stacked_loop(runs[:planned])),
    ]
    return Result(case, planned, *side_by_side(variants, turns, seconds))
