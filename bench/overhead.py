"""What Lightning and tracking add to the bare stacked loop: 20 members, 2000 steps, evaluated every 250."""

import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from types import SimpleNamespace
from typing import cast

import torch
from hydra.conf import HydraConf
from hydra.types import RunMode

from bench.timing import Timing
from mnist1d.blocks import StackData
from mnist1d.classification import StackedClassification, evaluate, train_steps
from mnist1d.config import Run
from mnist1d.fit import train
from mnist1d.provenance import cores
from mnist1d.sweep import Sweep


def bare(runs: list[Run]) -> float:
    """The stacked loop with its evaluations, nothing recorded; returns seconds."""
    start = time.perf_counter()
    torch.set_num_threads(runs[0].trainer.threads or cores())
    data = StackData(runs)
    data.setup()
    module = StackedClassification(runs)
    optimizer, batches, done = module.configure_optimizers(), data.batches(), 0
    for stop in data.stops:
        train_steps(module.model, optimizer, batches, range(done, stop))
        done = stop
        if data.schedule.evaluates(stop - 1):
            evaluate(module.model, data.splits)
    return time.perf_counter() - start


def recorded(runs: list[Run], folder: str) -> float:
    """The same work as users have it: a sweep in Lightning, every run recorded with its metrics and weights.

    Returns:
        Seconds from the open store to the closed sweep.
    """
    here = SimpleNamespace(dir=folder)
    hydra = SimpleNamespace(mode=RunMode.MULTIRUN, sweep=here, overrides=SimpleNamespace(task=[], hydra=[]), sweeper={})
    with redirect_stdout(StringIO()), Sweep(runs, cast(HydraConf, hydra)) as sweep:
        start = time.perf_counter()
        for stack in sweep.stacks:
            train(stack, sweep.take)
    return time.perf_counter() - start


def measure(make_run: Callable[..., Run], turns: int) -> tuple[Timing, Timing]:
    """Bare loop and recorded sweep in turn; milliseconds per step per run, everything included."""
    steps, members = 2000, 20
    timings = Timing("bare loop", []), Timing("Lightning and tracking", [])
    with tempfile.TemporaryDirectory() as folder:
        place = f"tracking.uri=sqlite:///{folder}/mlflow.db"
        common = ("model=mlp", f"trainer.max_steps={steps}", place, "force=true")  # every turn trains
        runs = [make_run(*common, f"seed={seed}") for seed in range(members)]
        for turn in range(turns + 1):
            seconds = bare(runs), recorded(runs, f"{folder}/{turn}")
            if turn:  # the first is a warm-up
                for timing, taken in zip(timings, seconds, strict=True):
                    timing.milliseconds.append(taken * 1000 / steps / members)
    return timings
