"""Samples per second: the exact generator and the torch stream."""

import time
from collections.abc import Callable

import torch

from mnist1d.data import Recipe, get_dataset_args, make_dataset, stream

PUBLISHED = 5_300
"""Samples per second of the published package 0.0.2 on two cores; it cannot be installed beside ours."""


def measure(turns: int = 5) -> dict[str, int]:
    """Best of some turns, each of 5000 exact and 200,000 streamed samples."""
    draw = stream(Recipe(), "cpu", torch.Generator().manual_seed(0))
    exact = _fastest(lambda: make_dataset(get_dataset_args()), turns)
    return {"exact generator": round(5_000 / exact), "stream": round(200_000 / _fastest(lambda: draw(200_000), turns))}


def _fastest(work: Callable[[], object], turns: int) -> float:
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
