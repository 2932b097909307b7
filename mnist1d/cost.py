"""What a stack costs, measured on one member before anything long starts: bytes and seconds."""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from heapq import heapreplace

import torch
from hydra.utils import get_class

from mnist1d import hardware
from mnist1d.classification import EVAL_ROWS
from mnist1d.config import Fault, Run
from mnist1d.config.limits import row_bytes
from mnist1d.footprint import saved_bytes
from mnist1d.loss import cross_entropy_stacked
from mnist1d.optim import make_optimizer
from mnist1d.plan import Stack, signature
from mnist1d.reuse import make_member
from mnist1d.spelling import size
from mnist1d.stack import StackedModel, build_member, member_generator

GIB = 2**30
PROBE_SECONDS = 0.03
"""Time spent on measuring each kind of stack; the fastest step counts, for the machine may be busy meanwhile."""

WORKING_SET = 24e6
"""Bytes of weights, optimiser state and activations that a stack touches in a step on the CPU, at most.

Measured on two cores with 2 MB of second-level cache each: small members gain from company up to about this
size (best stacks: 400 logistic regressions, 40 CNNs of 25 channels), larger ones lose again to memory traffic
(8 to 12 CNNs of 100 channels). The optimum is flat, a factor of two in size costs about 10%.
"""

FEWEST = 8
"""Members that even large ones are stacked by, on the CPU: with fewer, threads have too little to share.

MLPs of 500 hidden units on two threads, milliseconds per step per run: 1.24 in stacks of two, 1.26 of three, 1.02 of
five, 0.87 of eight, 1.10 of fifteen. ResNets, TCNs and dilated CNNs take 6 to 11% less in stacks of ten than of five.
"""

UNROLLED = 1.34
"""What a step of an unrolled training keeps, as a share of what a step touches; measured on `Shallow`, 40-50-10."""


@dataclass(frozen=True)
class Member:
    """Bytes that one more member adds to a stack: what every step touches, and what is kept between steps.

    That is its data, if it has its own, and an unrolled training. `weights` and `activations` are parts of what every
    step touches; `largest` is the largest tensor among the activations.
    """

    working: int
    data: int
    unrolled: int
    weights: int
    activations: int
    largest: int


def measure_member(run: Run) -> Member:
    """What `run` adds to a stack: weights, gradients and two moments, activations, data."""
    if run.model.learned is not None:  # its function is a table, read from a file and remembered: that needs values
        return _measured(run)
    get_class(run.model.target)  # imported first: what a module computes at import needs values too
    try:
        with torch.device("meta"):  # sizes without values: nothing is allocated
            return _measured(run)
    except Exception:  # a model may look at values, when it is built or called
        return _measured(run)


def _measured(run: Run) -> Member:
    model, nets = _members(run, 1), run.task.nets
    weights = nets * sum(p.numel() * p.element_size() for p in model.parameters())
    x = torch.zeros(1, run.data.batch_size, run.data.final_seq_length)
    saved = [nets * size for size in saved_bytes(model, x)]
    working = 4 * weights + sum(saved)
    data = sum(run.data.rows) * (run.data.final_seq_length * 4 + 8)
    unrolled = int(run.task.unrolled * UNROLLED * working)
    return Member(working, data, unrolled, weights, sum(saved), max(saved, default=0))


def impossible(runs: Sequence[Run]) -> list[Fault]:
    """Faults of runs that need what this machine lacks, told before anything is allocated; each kind of run once.

    An accelerator that is not there, and one member alone that takes more memory than there is.
    """
    accelerators = dict.fromkeys(run.trainer.accelerator for run in runs)
    absent = [fault for fault in map(hardware.missing, accelerators) if fault is not None]
    kinds = {signature(run): run for run in runs}
    return [*absent, *(fault for run in kinds.values() for fault in _too_large(run))]


def _too_large(run: Run) -> Iterator[Fault]:
    have, parts = hardware.memory(run.trainer.accelerator), {}
    with suppress(Exception):  # a model that cannot be built is told of by its own fit
        parts = _parts(run)
    if (needed := sum(parts.values())) > have:
        largest = max(parts, key=lambda name: parts[name])
        text = f"takes {size(needed)} of memory, {size(parts[largest])} of it {largest}; there are {size(have)}"
        yield Fault("model.name", run.model.name, text)


def _parts(run: Run) -> dict[str, int]:
    """Bytes that a fit of one member takes at least at its worst moment, by what they are for."""
    member, batch, length = measure_member(run), run.data.batch_size, run.data.final_seq_length
    rows = min(EVAL_ROWS, max(run.data.rows))
    evaluated = member.largest * rows // batch - member.activations  # a step's are gone by then
    return {
        "for weights, their gradients and moments": 4 * max(member.weights, _weights_of_problem(run)),
        f"for activations of data.batch_size={batch} samples of {length} values": member.activations,
        f"to evaluate {rows} samples of {length} values": max(0, evaluated),
        "for the data": member.data,
        "to go back through whole trainings": member.unrolled,
    }


def _weights_of_problem(run: Run) -> int:
    """Bytes of all that is trained, which may be more than the network."""
    if run.model.learned is not None:
        return 0
    problem = get_class(run.task.target)  # imported first: a module's own constants have values
    with torch.device("meta"):
        module = problem([run])
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _members(run: Run, size: int) -> StackedModel:
    """A throwaway stack of equal members; what they draw takes nothing from the program's own generator."""
    model = StackedModel([build_member(partial(make_member, run), run.seed)] * size)
    model.draw_from([member_generator(run.seed, "dropout")] * size)
    return model


def most_members(runs: Sequence[Run]) -> dict[str, int]:
    """Most members in a stack, by `plan.signature`: what `trainer.memory` allows, and `trainer.stack` or what is fast.

    A model that cannot even be built has no entry: its own fit will say what is wrong with it.
    """
    most: dict[str, int] = {}
    for key, run in {signature(run): run for run in runs}.items():
        with suppress(Exception):
            member = measure_member(run)
            fitting = run.trainer.memory * GIB / (member.working + member.data + member.unrolled)
            fewest = FEWEST / run.task.nets
            fast = run.trainer.stack or (max(fewest, WORKING_SET / member.working) if on_cpu(run) else fitting)
            most[key] = max(1, int(min(fitting, fast)))
    return most


def on_cpu(run: Run) -> bool:
    """Whether `run` will be trained on the CPU."""
    return hardware.is_cpu(run.trainer.accelerator)


def stack_bytes(stack: Stack) -> int:
    """Memory that a fit of `stack` takes, beside the program's own: its members, and every data set once.

    An evaluation's batches are larger than those of training. Resident memory of the defaults in stacks of 20 grew by
    53 MB for MLPs (estimate 32), 60 for CNNs (99) and 53 for GRUs (66).
    """
    data = {repr(run.data): run for run in stack.runs}
    try:
        member = measure_member(stack.runs[0])
    except Exception:  # its own fit will say what is wrong with the model
        return 0
    evaluated = member.activations * EVAL_ROWS // stack.runs[0].data.batch_size
    return len(stack) * (member.working + member.unrolled + evaluated) + len(data) * member.data


def disk_bytes(run: Run) -> int:
    """What a run leaves on disk: rows in an SQLite store, its weights, Hydra's files."""
    try:
        weights = measure_member(run).weights
    except Exception:
        weights = 0
    return row_bytes(run) + weights


def elapsed(seconds: Sequence[float], workers: int) -> float:
    """Time that so many workers need for fits of these lengths, when they are given out longest first."""
    ends = [0.0] * workers
    for each in sorted(seconds, reverse=True):
        heapreplace(ends, ends[0] + each)
    return max(ends)


def stack_seconds(stacks: Sequence[Stack]) -> list[float] | None:
    """Expected seconds of each fit, from a few real steps of each kind of stack; None if not on the CPU."""
    if not all(on_cpu(stack.runs[0]) for stack in stacks):
        return None
    kinds = [(signature(stack.runs[0]), len(stack)) for stack in stacks]
    seconds = {}
    for kind, stack in dict(zip(kinds, stacks, strict=True)).items():
        with suppress(Exception):  # a model that cannot be built takes no time
            seconds[kind] = _probe(stack)
    return [seconds.get(kind, 0.0) for kind in kinds]


def _probe(stack: Stack) -> float:
    """Seconds of one fit: a few steps on throwaway weights, scaled to all steps and evaluations.

    An evaluation is a forward pass over the samples it measures, a step about three forward passes over a batch.
    """
    run = stack.runs[0]
    hardware.use(run.trainer)
    work = run.task.batches(run.trainer.max_steps, run.data.batch_size)
    step = {batch: _step_seconds(stack, batch) for batch in {run.data.batch_size, *work}}
    evaluations = 1 + run.steps / run.trainer.eval_every
    train, held_out, test = run.data.rows
    forward = evaluations * (min(train, run.trainer.eval_samples or train) + held_out + test) / run.data.batch_size / 3
    return step[run.data.batch_size] * forward * run.task.nets + sum(
        step[batch] * steps for batch, steps in work.items()
    )


def _step_seconds(stack: Stack, batch: int) -> float:
    """Seconds of the fastest of a few optimiser steps on batches of so many samples, of one net of each run."""
    run, nets = stack.runs[0], stack.runs[0].task.nets
    size = nets * len(stack)
    model = _members(run, size)
    rules = [r.optimizer for r in stack.runs for _ in range(nets)]
    optimizer = make_optimizer(rules, list(model.params.values()))
    x = torch.zeros(size, batch, run.data.final_seq_length)
    y = torch.zeros(size, batch, dtype=torch.long)
    times: list[float] = []
    while len(times) < 5 or sum(times) < PROBE_SECONDS:
        start = time.perf_counter()
        cross_entropy_stacked(model(x), y).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return min(times) / nets
