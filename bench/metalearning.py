"""Metalearning a learning rate: a step of the rate as the reference takes it, and in our stacks; and the whole job.

python -m bench metalearning         this table and that of `bench.activation`, printed; about two minutes
python -m bench.metalearning plain   the reference's way alone: both starts, one after the other, nothing recorded
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench import make_run
from bench.experiments import runs_of as runs_of_experiment
from bench.main_job import whole_process
from bench.peak import operations
from bench.plain import tensors
from bench.steps import stacked_loop
from bench.timing import Timing, Variant, beside_the_reference, side_by_side
from mnist1d.config import Run
from mnist1d.config.tasks import MetalearnLr
from mnist1d.models.make import make_model
from mnist1d.stack import build_member

TURNS, SECONDS = 5, 0.5
STARTS, STEPS, MEMBERS = (1.5, 0.15), 50, 40
TARGET = 6  # seconds of our whole process, both starts
PROTOCOL = ("task=metalearn_lr", "model=shallow", "optimizer=sgd", "optimizer.momentum=0", "data.batch_size=50")
OURS = (*PROTOCOL, "optimizer.lr=1.5,0.15", f"trainer.max_steps={STEPS}", "trainer.eval_every=1")


def runs_of(size: int) -> list[Run]:
    """So many runs of the paper's protocol: both starts, then the same with other seeds."""
    return [make_run(*PROTOCOL, f"optimizer.lr={STARTS[n % 2]}", f"seed={n // 2}") for n in range(size)]


def reference_loop(run: Run) -> Callable[[int], float]:
    """``take(steps)``: so many more steps of the rate, each through a whole training that autograd records.

    It returns the rate after the last.
    """
    task, (x, y), size = _task(run), tensors(run)["train"], run.data.batch_size
    initial = list(build_member(lambda: make_model(run.model), run.seed).parameters())
    rate = torch.tensor(run.optimizer.lr, requires_grad=True)

    def take(steps: int) -> float:
        for _ in range(steps):
            params: list[Tensor] = list(initial)
            losses = []
            for step in range(task.inner_steps):
                rows = slice(start := step * size % len(x), start + size)
                hidden = F.linear(x[rows], params[0], params[1]).tanh()
                loss = F.cross_entropy(F.linear(hidden, params[2], params[3]), y[rows])
                slopes = torch.autograd.grad(loss, params, create_graph=True)
                params = [param - rate * slope for param, slope in zip(params, slopes, strict=True)]
                losses.append(loss)
            (slope,) = torch.autograd.grad(torch.stack(losses).mean(), rate)
            with torch.no_grad():
                rate.sub_(task.outer_lr * slope)
        return rate.item()

    return take


def measure(turns: int = TURNS, seconds: float = SECONDS, members: int = MEMBERS) -> list[Timing]:
    """Milliseconds per step of the rate and run: as the reference, both starts in a stack, a larger stack."""
    runs = runs_of(members)
    variants = [
        Variant("as the reference", 1, reference_loop(runs[0])),
        Variant("both starts stacked", 2, stacked_loop(runs[:2])),
        Variant(f"stack of {members}", members, stacked_loop(runs)),
    ]
    return side_by_side(variants, turns, seconds)


def measure_whole() -> tuple[float, float]:
    """Seconds of both processes, the reference's way first, imports included, ours with evaluations and tracking."""
    with tempfile.TemporaryDirectory() as folder:
        uri = f"tracking.uri=sqlite:///{folder}/mlflow.db"
        return (
            whole_process([sys.executable, "-m", "bench.metalearning", "plain"]),
            whole_process([sys.executable, "train.py", "-m", *OURS, uri]),
        )


def work(members: int = MEMBERS) -> tuple[float, float]:
    """Trainings of 200 steps in all runs of profile paper, and the operations of one of ours, per run."""
    runs = runs_of_experiment("experiment=metalearn_lr")
    steps = sum(run.trainer.max_steps * _task(run).inner_steps for run in runs)
    timed = runs_of(members)
    return steps / _task(timed[0]).inner_steps, operations(stacked_loop(timed)) / members


def _task(run: Run) -> MetalearnLr:
    assert isinstance(run.task, MetalearnLr)
    return run.task


def figures(timings: Sequence[Timing], whole: tuple[float, float], work: tuple[float, float]) -> dict[str, Any]:
    """What goes into docs/bench.json."""
    return {
        "trainings": round(work[0]),
        "operations of a training, 10^9": round(work[1] / 1e9, 3),
        "milliseconds per run": beside_the_reference(timings, "a step of the rate", "ms per run"),
        "both starts, seconds": {"plain script": round(whole[0], 1), "train.py": round(whole[1], 1)},
    }


def section(found: dict[str, Any], table: Callable[[list[dict[str, Any]]], str]) -> str:
    """The part of docs/bench.md about these `figures`; `table` writes rows as Markdown."""
    whole = found["both starts, seconds"]
    return f"""## Metalearning a learning rate

Milliseconds per step of the rate and run: a training of 200 steps and its derivative by the rate. The reference records
the training with autograd and goes back through it; ours carries the derivative along.

{table(found["milliseconds per run"])}
Both starts, {STEPS} steps each, whole processes: plain script {whole["plain script"]:.1f} s without evaluations, and
`train.py` {whole["train.py"]:.1f} s with an evaluation per step and tracking (target: at most {TARGET} s).
"""


if __name__ == "__main__" and sys.argv[1:] == ["plain"]:
    for first in STARTS:
        print(first, reference_loop(make_run(*PROTOCOL, f"optimizer.lr={first}"))(STEPS))
