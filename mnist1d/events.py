"""What happens to a stack: told by whoever trains it, in this process or in another, to the sweep, which records it.

Events are plain data that can be pickled. Runs are named by their places in the sweep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Row = tuple[str, int, float]
"""Metric, optimiser step, value."""


class NotTaken(Exception):
    """Whoever is told of an event cannot take it: training has no point any more."""


@dataclass(frozen=True)
class Event:
    """Something happened to the runs at these places in the sweep, which train together."""

    indices: tuple[int, ...]


@dataclass(frozen=True)
class Begun(Event):
    """A stack is about to be trained."""


@dataclass(frozen=True)
class GoesOn(Event):
    """A fit does not start from the beginning: after `step` of its `steps`, with what each member measured before."""

    step: int
    steps: int
    measured: list[list[Row]]


@dataclass(frozen=True)
class Measured(Event):
    """A block has ended with optimiser step `step`: metrics by name, one value per member; which have failed."""

    step: int
    metrics: dict[str, list[float]]
    failed: list[bool]


@dataclass(frozen=True)
class Member:
    """A trained member: final metrics and weights, or why it has none."""

    finals: dict[str, float]
    weights: dict[str, Tensor]
    failure: str | None


@dataclass(frozen=True)
class Trained(Event):
    """A fit is over; seconds of wall-clock time and of all processor cores that it took, and a step of the latter."""

    members: list[Member]
    wall: float
    cpu: float
    step_cpu: float


@dataclass(frozen=True)
class Warned(Event):
    """Whoever trains them, elsewhere, had to warn of something."""

    text: str


@dataclass(frozen=True)
class Repeated(Event):
    """The process that trained these was lost, for this reason; they are trained once more."""

    reason: str


@dataclass(frozen=True)
class Failed(Event):
    """These runs could not be trained, for this reason."""

    reason: str
