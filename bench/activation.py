"""Metalearning an activation function: a training and its gradient as the reference takes them, and in our stacks.

`python -m bench metalearning` prints this table and that of `bench.metalearning`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import make_run
from bench.experiments import runs_of as runs_of_experiment
from bench.peak import operations
from bench.plain import tensors
from bench.steps import stacked_loop
from bench.timing import Timing, Variant, beside_the_reference, side_by_side
from mnist1d.config import RMSprop, Run
from mnist1d.draws import task_of

TURNS, SECONDS = 3, 1.0
INNER_STEPS, MEMBERS = 30, 4
TARGET = 25
"""Times as fast as the reference's way, per training."""
PROTOCOL = (
    *("task=metalearn_activation", "model=shallow", "model.hidden=128", "model.activation=elu", "task.trials=0"),
    *("optimizer=rmsprop", "optimizer.alpha=0.4", "optimizer.initial=1.0", "data.num_samples=10000"),
    *("data.test_samples=500", f"task.inner_steps={INNER_STEPS}", f"task.loss_window={INNER_STEPS}"),
)


def runs_of(size: int) -> list[Run]:
    """So many runs of the paper's protocol, but for the length of a training: the reference keeps all of it."""
    return [make_run(*PROTOCOL, f"seed={seed}") for seed in range(size)]


def reference_loop(run: Run) -> Callable[[int], list[float]]:
    """``take(steps)``: so many more trainings and updates of the function; their mean losses.

    Autograd records every training with all evaluations of the function's network in it. Weights and noise are drawn
    from torch's global generator, which is seeded anew before every training.
    """
    task, rule, splits, batch = task_of(run), run.optimizer, tensors(run), run.data.batch_size
    (x, y), (test_x, test_y), hidden = splits["train"], splits["test"], run.model.options["hidden"]
    assert isinstance(rule, RMSprop)
    torch.manual_seed(run.seed)
    meta = [*nn.Linear(1, task.meta_hidden).parameters(), *nn.Linear(task.meta_hidden, 1).parameters()]

    def noise(units: int) -> Tensor:
        return task.hidden_noise * (2 * torch.rand(1, units) - 1)

    def function(z: Tensor) -> Tensor:
        inside = F.linear(z.reshape(-1, 1), meta[0], meta[1]).tanh() + noise(task.meta_hidden)
        return F.elu(z) + task.scale * F.linear(inside, meta[2], meta[3]).view_as(z)

    def logits(params: list[Tensor], rows: Tensor) -> Tensor:
        inside = function(F.linear(rows, params[0], params[1]))
        return F.linear(inside + noise(hidden), params[2], params[3])

    def training() -> Tensor:
        net = [*nn.Linear(x.shape[1], hidden).parameters(), *nn.Linear(hidden, 10).parameters()]
        params: list[Tensor] = list(net)
        squares, losses = [torch.full_like(param, rule.initial) for param in params], []
        torch.manual_seed(run.seed)
        for step in range(task.inner_steps):
            start = step * batch % len(x)
            loss = F.cross_entropy(logits(params, x[start : start + batch]), y[start : start + batch])
            slopes = torch.autograd.grad(loss, params, create_graph=True)
            squares = [rule.alpha * s + (1 - rule.alpha) * g * g for s, g in zip(squares, slopes, strict=True)]
            moves = [g / (s.sqrt() + rule.eps) for s, g in zip(squares, slopes, strict=True)]
            params = [param - rule.lr * move for param, move in zip(params, moves, strict=True)]
            losses.append(loss)
            if step:
                with torch.no_grad():  # its accuracy, of which the last is reported
                    (logits(params, test_x).argmax(1) == test_y).float().mean()
        return torch.stack(losses[-task.loss_window :]).mean()

    def take(steps: int) -> list[float]:
        means = []
        for _ in range(steps):
            loss = training()
            slopes = torch.autograd.grad(loss, meta)
            with torch.no_grad():
                for param, slope in zip(meta, slopes, strict=True):
                    param.sub_(task.outer_lr * slope.clamp(-task.clamp, task.clamp))
            torch.rand(1, task.meta_hidden)  # its look at the function
            means.append(loss.item())
        return means

    return take


def measure(turns: int = TURNS, seconds: float = SECONDS, members: int = MEMBERS) -> list[Timing]:
    """Milliseconds per training and function: as the reference, one of ours, a stack."""
    runs = runs_of(members)
    variants = [
        Variant("as the reference", 1, reference_loop(runs[0])),
        Variant("one function", 1, stacked_loop(runs[:1])),
        Variant(f"stack of {members}", members, stacked_loop(runs)),
    ]
    return side_by_side(variants, turns, seconds)


def work(members: int = MEMBERS) -> tuple[float, float]:
    """Trainings of `INNER_STEPS` in all learning of profile paper, and the operations of one of ours, per function."""
    runs = [(run, task_of(run)) for run in runs_of_experiment("experiment=metalearn_activation")]
    steps = sum(run.trainer.max_steps * task.inner_steps for run, task in runs if task.scale)
    return steps / INNER_STEPS, operations(stacked_loop(runs_of(members))) / members


def figures(timings: Sequence[Timing], work: tuple[float, float]) -> dict[str, Any]:
    """What goes into docs/bench.json."""
    rows = beside_the_reference(timings, "a training and an update", "ms per function")
    return {
        "inner steps": INNER_STEPS,
        "trainings": round(work[0]),
        "operations of a training, 10^9": round(work[1] / 1e9, 3),
        "milliseconds per function": rows,
    }


def section(found: dict[str, Any], table: Callable[[list[dict[str, Any]]], str]) -> str:
    """The part of docs/bench.md about these `figures`; `table` writes rows as Markdown."""
    return f"""## Metalearning an activation function

Milliseconds per training of {found["inner steps"]} steps, its gradient by the function, and the update; the paper has
trainings of 301 steps, whose recording takes the reference's way some 10 GB. Target: at least {TARGET} times as fast.

{table(found["milliseconds per function"])}"""
