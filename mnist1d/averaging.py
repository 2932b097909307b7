"""A running mean of the weights of a stack, each member's with its own decay (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class WeightAverage:
    """After step t the mean moves towards the weights by 1 - min(decay, (1 + t) / (10 + t)): faster while it is young.

    With decay 0 it is the weights themselves, and if that is all members', none is kept.

    Args:
        params: leaves ``[N, ...]`` by name, which training changes in place.
        decays: of each member, from 0 to below 1.
    """

    def __init__(self, params: Mapping[str, Tensor], decays: Sequence[float]) -> None:
        self.params, self.decays = dict(params), list(decays)
        self.means = {name: p.detach().clone() for name, p in self.params.items()} if any(decays) else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`, counted from 0."""
        young = (1 + step) / (10 + step)
        moves = [1 - min(decay, young) for decay in self.decays]
        means, weights = list(self.means.values()), [self.params[name] for name in self.means]
        if len(set(moves)) == 1 and means:
            torch._foreach_lerp_(means, weights, moves[0])
            return
        for mean, weight in zip(means, weights, strict=True):
            mean.lerp_(weight, mean.new_tensor(moves).view(-1, *[1] * (mean.ndim - 1)))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Meanwhile the leaves hold the means."""
        weights = {name: self.params[name].data for name in self.means}
        for name, mean in self.means.items():
            self.params[name].data = mean
        try:
            yield
        finally:
            for name, weight in weights.items():
                self.params[name].data = weight

    def state_dict(self) -> dict[str, Any]:
        """The means."""
        return {"means": self.means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        for name, saved in state["means"].items():
            self.means[name].copy_(saved)
