"""Side-by-side timing on a shared, noisy machine: variants take turns, ratios are taken turn by turn."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timing:
    """Milliseconds per step per run, one value per turn."""

    name: str
    milliseconds: list[float]

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.milliseconds)

    def times_faster_than(self, other: "Timing") -> float:
        """Median over turns of other / self: drift of the machine hits both sides of a turn alike."""
        pairs = zip(other.milliseconds, self.milliseconds, strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)


@dataclass(frozen=True)
class Variant:
    """Something that takes optimiser steps: ``take(steps)`` advances all of its `runs` by that many."""

    name: str
    runs: int
    take: Callable[[int], object]


def side_by_side(variants: list[Variant], turns: int, seconds: float) -> list[Timing]:
    """Time the variants in turn, `turns` times, each for about `seconds` a turn, after a warm-up."""
    steps = [_calibrate(variant, seconds) for variant in variants]
    timings = [Timing(variant.name, []) for variant in variants]
    for _ in range(turns):
        for variant, count, timing in zip(variants, steps, timings, strict=True):
            timing.milliseconds.append(_time(variant, count) * 1000 / count / variant.runs)
    return timings


def _calibrate(variant: Variant, seconds: float) -> int:
    variant.take(2)  # warm-up: first calls allocate
    return max(3, round(seconds / (_time(variant, 3) / 3)))


def _time(variant: Variant, steps: int) -> float:
    start = time.perf_counter()
    variant.take(steps)
    return time.perf_counter() - start


def beside_the_reference(timings: Sequence[Timing], what: str, unit: str) -> list[dict[str, Any]]:
    """Rows of a table of timings, the reference's first: name, median, ratio; `what` and `unit` head two columns."""
    return [
        {
            what: timing.name,
            unit: round(timing.median, 1),
            "reference / this": round(timing.times_faster_than(timings[0]), 1),
        }
        for timing in timings
    ]
