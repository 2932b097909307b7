"""The reference's way, to compare with: one run at a time in a plain PyTorch loop."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist1d.config import Run
from mnist1d.data import load
from mnist1d.models.make import make_model
from mnist1d.stack import build_member


def tensors(run: Run) -> dict[str, tuple[Tensor, Tensor]]:
    """The run's splits as tensors: inputs [rows, length], labels [rows]."""
    splits = load(run.data)
    return {
        name: (torch.tensor(getattr(splits, f"{name}_x")), torch.tensor(getattr(splits, f"{name}_y")))
        for name in ("train", "test")
    }


def plain_loop(run: Run, before: Callable[[nn.Module], object] = lambda _: None) -> Callable[[int], float]:
    """``take(steps)``: so many more optimiser steps of a plain loop, written as the reference writes it.

    It returns the loss of the last; `before` is given the model before every forward pass.
    """
    x, y = tensors(run)["train"]
    model = build_member(lambda: make_model(run.model), run.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=run.optimizer.lr)
    size, done = run.data.batch_size, 0

    def take(steps: int) -> float:
        nonlocal done
        for step in range(done, done + steps):
            start = step * size % len(x)
            before(model)
            loss = F.cross_entropy(model(x[start : start + size]), y[start : start + size])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        done += steps
        return loss.item()

    return take


def plain_run(run: Run) -> float:
    """A whole run, evaluated on both splits as often as ours is; returns the final test accuracy."""
    splits = tensors(run)
    (x, y), size = splits["train"], run.data.batch_size
    model = build_member(lambda: make_model(run.model), run.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=run.optimizer.lr)
    accuracy = 0.0
    for step in range(run.trainer.max_steps):
        start = step * size % len(x)
        optimizer.zero_grad()
        F.cross_entropy(model(x[start : start + size]), y[start : start + size]).backward()
        optimizer.step()
        if step % run.trainer.eval_every == 0 or step == run.trainer.max_steps - 1:
            accuracy = evaluate(model, splits)
    return accuracy


@torch.no_grad()
def evaluate(model: nn.Module, splits: dict[str, tuple[Tensor, Tensor]]) -> float:
    for x, y in splits.values():  # train, then test
        logits = model(x)
        F.cross_entropy(logits, y).item()
        accuracy = (logits.argmax(1) == y).float().mean().item()
    return accuracy
