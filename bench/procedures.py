"""Lottery tickets and SimCLR: a step as the reference takes it, in the kindest plain loop and in our stack.

python -m bench procedures   this table alone, printed; under a minute

Timed are optimiser steps of the stacks that the planner cuts, and the probes of SimCLR; evaluations, masks, data and
recording are left out on all sides.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.experiments import SIDES, Take, runs_of
from bench.peak import operations
from bench.plain import plain_loop, tensors
from bench.steps import begun, block_loop
from bench.timing import Timing, Variant, side_by_side
from mnist1d.augment import centred_positions, detrend, shift
from mnist1d.config import Run
from mnist1d.config.tasks import Contrastive
from mnist1d.contrastive import ProbedSchedule, make_encoder
from mnist1d.cost import most_members
from mnist1d.lottery import Phase, StackedLottery, follow_up_run, lottery
from mnist1d.plan import plan
from mnist1d.problem import StackedProblem
from mnist1d.stack import build_member

TURNS, SECONDS = 7, 0.4  # per variant
TRAINED = 400  # steps before the probes are timed, on two runs

Prune = Callable[[nn.Module], None]
Shift = Callable[[Tensor, int, np.random.RandomState], Tensor]


@dataclass(frozen=True)
class Sides:
    """The same work three times.

    Attributes:
        loops: of the stack's first run, as the reference writes it and the kindest.
        module: the stack, ready for the step `first`.
    """

    loops: Sequence[Take]
    module: StackedProblem
    first: int = 0


@dataclass(frozen=True)
class Procedure:
    """A part of an experiment with a target of its own (reference / ours).

    Attributes:
        where: keys and values of the runs whose first stack is timed for all.
        steps: optimiser steps of a run that belong to this part.
    """

    name: str
    experiment: str
    where: Mapping[str, object]
    sides: Callable[[Sequence[Run]], Sides]
    steps: Callable[[Run], int]
    target: float
    probed: bool = False


@dataclass(frozen=True)
class Result:
    """What is known of a procedure.

    Attributes:
        steps: of all runs of the experiment together.
        timings: of a step of a run: reference, kindest loop, ours, ours in float32.
        probes: their share of our time; None where nothing is probed.
        operations: of a step of a run of ours.
    """

    procedure: Procedure
    members: int
    steps: int
    timings: list[Timing]
    probes: float | None
    operations: float


# -- lottery tickets -------------------------------------------------------------------------------------


def search(runs: Sequence[Run]) -> Sides:
    """The middle of a search: half of the parameters are gone."""
    module = _lottery(runs)
    phase = module.schedule.phases[module.task.rounds // 2]
    _enter(module, phase)
    return _pruned_sides(runs[0], module, phase)


def follow_up(runs: Sequence[Run]) -> Sides:
    """The first follow-up of the tickets."""
    module = _lottery(runs)
    ticket, phase = (module.schedule.phases[number] for number in (module.task.ticket_round, module.task.rounds))
    _enter(module, ticket)
    _enter(module, phase)
    assert phase.data is not None
    return _pruned_sides(follow_up_run(runs[0], phase.data), module, phase)


def _lottery(runs: Sequence[Run]) -> StackedLottery:
    module = begun(runs)
    assert isinstance(module, StackedLottery)
    return module


def _enter(module: StackedLottery, phase: Phase) -> None:
    """Take the first step of a phase: the one that makes its masks, which no turn is to be charged for."""
    module.train_block(range(phase.start, phase.start + 1))


def _pruned_sides(run: Run, module: StackedLottery, phase: Phase) -> Sides:
    mask, layout = module.mask[0].float(), module.layout
    by_layer = [mask[places] for places in layout.layers(biases=True)]
    by_parameter = list(layout.parts(mask).values())
    loops = [plain_loop(run, prune) for prune in (rewritten(by_layer), multiplied(by_parameter))]
    return Sides(loops, module, phase.start + 1)


def rewritten(masks: Sequence[Tensor]) -> Prune:
    """As the reference prunes: a layer's parameters, in one row, times its mask ``[n]`` are its new parameters."""

    def prune(model: nn.Module) -> None:
        for layer, mask in zip(model.children(), masks, strict=True):
            params = list(layer.parameters())
            row = torch.cat([param.flatten() for param in params]) * mask
            parts = row.detach().split([param.numel() for param in params])
            for param, part in zip(params, parts, strict=True):
                param.data = part.view_as(param)

    return prune


def multiplied(masks: Sequence[Tensor]) -> Prune:
    """The kindest way: every parameter times its mask, in place."""

    def prune(model: nn.Module) -> None:
        for param, mask in zip(model.parameters(), masks, strict=True):
            param.data.mul_(mask)

    return prune


# -- SimCLR ----------------------------------------------------------------------------------------------


def contrast(runs: Sequence[Run]) -> Sides:
    """Two views of a batch, the loss, a step; the reference shifts one sample after the other."""
    loops = [contrastive_loop(runs[0], shifted) for shifted in (one_by_one, all_at_once)]
    return Sides(loops, begun(runs))


def contrastive_loop(run: Run, shifted: Shift) -> Callable[[int], float]:
    """``take(steps)``: so many more steps of a plain loop; it returns the loss of the last."""
    task, (x, _), size = run.task, tensors(run)["train"], run.data.batch_size
    assert isinstance(task, Contrastive)
    encoder = build_member(partial(make_encoder, run.flat()), run.seed)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=run.optimizer.lr)
    numbers = np.random.RandomState(run.seed)
    batches = _batches(len(x), size, numbers)

    def take(steps: int) -> float:
        for rows in islice(batches, steps):
            first, second = (encoder(view(x[rows], task, shifted, numbers)) for _ in range(2))
            loss = infonce(first, second, task.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    return take


def _batches(rows: int, size: int, numbers: np.random.RandomState) -> Iterator[Tensor]:
    while True:
        yield from torch.from_numpy(numbers.permutation(rows)).split(size)


def view(x: Tensor, task: Contrastive, shifted: Shift, numbers: np.random.RandomState) -> Tensor:
    """Samples ``[batch, length]`` without their lines, shifted, on new lines."""
    level = shifted(detrend(x), task.max_shift, numbers)
    slope, offset = (torch.randn(len(x), 1) * scale for scale in (task.slope_scale, task.offset_scale))
    return level + slope * centred_positions(x) + offset


def one_by_one(x: Tensor, most: int, numbers: np.random.RandomState) -> Tensor:
    """Every sample shifted in a circle by a number of its own below `most`."""
    return torch.stack([torch.roll(sample, numbers.randint(0, most)) for sample in x])


def all_at_once(x: Tensor, most: int, numbers: np.random.RandomState) -> Tensor:
    """The same in one operation."""
    return shift(x, torch.from_numpy(numbers.randint(0, most, len(x))))


def infonce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Mean over rows of minus the similarity of two views of a sample, plus the log of the sum over all."""
    similarity = F.normalize(first) @ F.normalize(second).T / temperature
    return (similarity.exp().sum(1).log() - similarity.diagonal()).mean()


def probe_share(runs: Sequence[Run], milliseconds: float, trained: int = TRAINED) -> float:
    """Share of the probes in the time of `runs`, whose steps take so many `milliseconds` each.

    A probe fits to what it is given, so it is timed after some steps; many more change its time little.
    """
    module = begun(runs)
    schedule = module.data.schedule
    assert isinstance(schedule, ProbedSchedule)
    module.train_block(range(trained))
    along = sum(schedule.probes(stop - 1) for stop in schedule.stops()[:-1])
    probes = along * _seconds_of_probes(module, schedule.probe_every) + _seconds_of_probes(module, schedule.max_steps)
    return probes / (probes + schedule.max_steps * len(runs) * milliseconds / 1000)


def _seconds_of_probes(module: StackedProblem, done: int) -> float:
    start = time.perf_counter()
    module.measure(done - 1)
    return time.perf_counter() - start


# -- the table -------------------------------------------------------------------------------------------


def _search_steps(run: Run) -> int:
    return lottery(run).rounds * run.trainer.max_steps


TICKETS = {"task.criterion": "magnitude", "task.rounds": 100}
PROBES = 20  # percent of SimCLR's time, at most
PROCEDURES = (
    Procedure("lottery search", "lottery", TICKETS, search, _search_steps, 3),
    Procedure("lottery follow-ups", "lottery", TICKETS, follow_up, lambda run: run.steps - _search_steps(run), 2),
    Procedure(
        "SimCLR training", "simclr", {"task.projector_depth": 2}, contrast, lambda run: run.steps, 4, probed=True
    ),
)


def measure(procedure: Procedure, turns: int = TURNS, seconds: float = SECONDS) -> Result:
    """Time one procedure on all sides, in turn, on a stack as the planner cuts it."""
    runs = runs_of(f"experiment={procedure.experiment}")
    stacks = [list(stack.runs) for stack in plan(runs, most_members(runs))]
    members = next(own for own in stacks if procedure.where.items() <= own[0].flat().items())
    timings = measure_stack(procedure, members, turns, seconds)
    probes = probe_share(members[:2], timings[2].median) if procedure.probed else None
    sides = procedure.sides(members)
    each = operations(block_loop(sides.module, sides.first)) / len(members)
    return Result(procedure, len(members), sum(procedure.steps(run) for run in runs), timings, probes, each)


def measure_stack(procedure: Procedure, runs: Sequence[Run], turns: int, seconds: float) -> list[Timing]:
    """Time a stack and its first run alone."""
    sides, precision = procedure.sides(runs), runs[0].trainer.matmul_precision
    ours = block_loop(sides.module, sides.first)
    reference, kindest, name = SIDES
    variants = [
        *(Variant(plain, 1, take) for plain, take in zip((reference, kindest), sides.loops, strict=True)),
        Variant(name, len(runs), at(precision, ours)),
        Variant(f"{name}, float32", len(runs), at("highest", ours)),
    ]
    return side_by_side(variants, turns, seconds)


def at(precision: str, take: Take) -> Take:
    """`take` with matrix products of that precision, which the whole process shares: it is put back every time."""

    def taken(steps: int) -> object:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            return take(steps)
        finally:
            torch.set_float32_matmul_precision(before)

    return taken


def row(result: Result) -> dict[str, Any]:
    """One line of the table, rounded as printed: milliseconds, ratios, and seconds of all steps."""
    reference, kindest, ours, float32 = result.timings
    return {
        "procedure": result.procedure.name,
        "members": result.members,
        **{timing.name: round(timing.median, 3) for timing in result.timings},
        "reference / ours": round(ours.times_faster_than(reference), 1),
        "kindest / ours": round(ours.times_faster_than(kindest), 1),
        "reference / ours, float32": round(float32.times_faster_than(reference), 1),
        "target": result.procedure.target,
        "steps": result.steps,
        **{f"{side.name}, s": round(side.median * result.steps / 1000) for side in (reference, kindest, ours)},
        "operations, 10^12": round(result.operations * result.steps / 1e12, 1),
    }


def figures(results: Iterable[Result]) -> dict[str, Any]:
    """What goes into docs/bench.json."""
    results = list(results)
    (probes,) = [result.probes for result in results if result.probes is not None]
    rows = [row(result) for result in results]
    return {"milliseconds per step per run": rows, "SimCLR's probes, percent": round(100 * probes)}


def section(found: dict[str, Any], table: Callable[[list[dict[str, Any]]], str]) -> str:
    """The part of docs/bench.md about these `figures`; `table` writes rows as Markdown."""
    return f"""## Lottery tickets and SimCLR

Milliseconds per step per run, and estimated seconds for the steps of all runs in profile paper: evaluations, masks,
data and recording are left out on all sides.

{table(found["milliseconds per step per run"])}
`members` is the size of stack that the planner chooses. Plain loops take one run at a time, PyTorch's own layers and
Adam, on all cores like ours and in float32. Our lottery multiplies with `trainer.matmul_precision=medium`, in bfloat16
where the processor has it; the column with float32 is the same stack without that. The search is timed in its middle,
with half of the parameters gone, the follow-ups with the tickets, 92% gone. Before each forward pass the reference
writes a layer's parameters into one row, multiplies that by the mask and cuts it up again; the kindest loop multiplies
each parameter in place. For SimCLR the reference shifts one sample after the other, the kindest loop a batch at once;
timed with a projector of two layers, which stands for those of none and four too.

The probes of SimCLR take {found["SimCLR's probes, percent"]}% of its time (target: at most {PROBES}%): in a run of the
paper's length, those along the way and those of every layer at the end, beside its steps. They are timed on two runs
after {TRAINED} steps.
"""
