"""What a stack costs, measured on one member before anything long starts: bytes and seconds."""

import time
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from mnist1d.config import Run
from mnist1d.loss import cross_entropy_stacked
from mnist1d.models.make import make_model
from mnist1d.optim import make_optimizer
from mnist1d.plan import Stack, signature
from mnist1d.stack import StackedModel, build_member

GIB = 2**30


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes of activations that autograd keeps for the backward pass of ``module(x)``, storages counted once."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module(x).sum().backward()
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    return sum(size for pointer, size in storages.items() if pointer not in parameters)


def member_bytes(run: Run) -> int:
    """Memory that one more member needs: weights, gradient, two moments, activations and data of its own."""
    module = build_member(lambda: make_model(run.model), run.seed)
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    x = torch.zeros(run.data.batch_size, run.data.final_seq_length)
    data = run.data.num_samples * (run.data.final_seq_length * 4 + 8)
    return 4 * weights + 2 * saved_bytes(module, x) + data


def most_members(runs: Sequence[Run]) -> dict[str, int]:
    """Most members in a stack, by `plan.signature`: what `trainer.memory` and `trainer.stack` allow.

    A model that cannot even be built has no entry: its own fit will say what is wrong with it.
    """
    most: dict[str, int] = {}
    for key, run in {signature(run): run for run in runs}.items():
        with suppress(Exception):
            fitting = int(run.trainer.memory * GIB // member_bytes(run))
            most[key] = max(1, min(fitting, run.trainer.stack or fitting))
    return most


def expected_seconds(stacks: Sequence[Stack]) -> float | None:
    """Expected seconds of all fits, from a few real steps of each kind of stack; None if not on the CPU."""
    if any(stack.runs[0].trainer.accelerator not in ("cpu", "auto") for stack in stacks):
        return None
    if stacks[0].runs[0].trainer.accelerator == "auto" and torch.accelerator.is_available():
        return None
    kinds = [(signature(stack.runs[0]), len(stack)) for stack in stacks]
    seconds = {}
    for kind, stack in dict(zip(kinds, stacks, strict=True)).items():
        with suppress(Exception):  # a model that cannot be built takes no time
            seconds[kind] = _probe(stack)
    return sum(seconds.get(kind, 0.0) for kind in kinds)


def _probe(stack: Stack) -> float:
    """Seconds of one fit: a few steps on throwaway weights, scaled to all steps and evaluations.

    An evaluation is a forward pass over all samples, a step about three forward passes over a batch.
    """
    run, size = stack.runs[0], len(stack)
    model = StackedModel([build_member(lambda: make_model(run.model), run.seed)] * size)
    optimizer = make_optimizer([r.optimizer for r in stack.runs], list(model.params.values()))
    x = torch.zeros(size, run.data.batch_size, run.data.final_seq_length)
    y = torch.zeros(size, run.data.batch_size, dtype=torch.long)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        cross_entropy_stacked(model(x), y).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    evaluations = 1 + run.trainer.max_steps / run.trainer.eval_every
    forward = evaluations * run.data.num_samples / run.data.batch_size / 3
    return min(times) * (run.trainer.max_steps + forward)
