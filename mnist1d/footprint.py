"""What a model takes, known from its config alone: parameters, floating-point operations, memory of a training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mnist1d.config import Model
from mnist1d.models.make import make_model
from mnist1d.stack import StackedModel


@dataclass(frozen=True)
class Footprint:
    """Of one run alone.

    parameters  how many
    flops       of the plain module: floating-point operations of a training step per sample; matrix products
                and convolutions, forward and backward, a multiplication and an addition as two (torch's counter)
    step_bytes  weights, gradients, Adam's two moments, and the activations kept for the backward pass of a batch, as
                the module is trained: by its hand-batched twin where it has one
    """

    parameters: int
    flops: float
    step_bytes: int


def footprint(config: Mapping[str, Any], batch_size: int) -> Footprint:
    """The footprint of a model in batches of `batch_size`.

    config  a run's, flat: its keys under `model.`, without those it lacks; sequences may be tuples

    Raises `pydantic.ValidationError` for a config that makes no model, TypeError as `make_model`.
    """
    head = "model."
    values = {key.removeprefix(head): value for key, value in config.items() if key.startswith(head)}
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    with torch.random.fork_rng(devices=[]):  # drawn, though nothing depends on the weights
        model = make_model(Model.model_validate(values))
    x = torch.zeros(batch_size, config["model.input_size"])
    with FlopCounterMode(display=False) as counter:
        model(x).sum().backward()
    activations = sum(saved_bytes(StackedModel([model]), x[None]))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    parameters = sum(p.numel() for p in model.parameters())
    return Footprint(parameters, counter.get_total_flops() / batch_size, 4 * weights + activations)


def saved_bytes(module: nn.Module, x: Tensor) -> list[int]:
    """Sizes of the activations that autograd keeps for the backward pass of ``module(x)``, storages counted once."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()  # data_ptr() is 0 for all tensors without values
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        module(x).sum()
    known = {tensor.untyped_storage()._cdata for tensor in (*module.parameters(), x)}
    return [size for pointer, size in storages.items() if pointer not in known]
