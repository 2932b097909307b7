"""Stacks trained elsewhere: so many at a time, each told of as it trains, one that is lost repeated once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from mnist1d.events import Event, Failed, Repeated, Trained
from mnist1d.executors import Tell
from mnist1d.plan import Stack


class Job(Protocol):
    """Whoever trains one stack; known by its identity."""

    def next(self) -> Event | None:
        """What it told next, waited for; None if it was lost."""

    def how_it_ended(self) -> str:
        """What became of it, once it was lost: "its worker was killed"."""


J = TypeVar("J", bound=Job)


class Crew(Protocol[J]):
    """Those who train: takes stacks and gives jobs."""

    def start(self, stacks: Sequence[Stack]) -> Sequence[J]:
        """Have each of these stacks trained by a job."""

    def ready(self, jobs: Sequence[J]) -> Iterable[J]:
        """Those jobs that have told something or were lost; waits until there is one."""

    def done(self, job: J) -> None:
        """Nothing more is expected of a job."""

    def end(self) -> None:
        """End all that is under way. What is being trained has its checkpoints, everything else has been told."""


def work_off(crew: Crew[J], stacks: Sequence[Stack], most: int, tell: Tell) -> None:
    """Have all `stacks` trained, from the front, at most so many at a time; see `Executor`. It is the crew's end."""
    shift = Shift(crew, stacks, most)
    try:
        shift.start()
        while shift.left:
            for job in crew.ready(list(shift.left)):
                event = job.next() or shift.lost(job)
                shift.settle(job, event)
                shift.start()  # before the event is recorded, which may take a while
                tell(event)
    finally:
        crew.end()


class Shift(Generic[J]):
    """How far the work is: which stacks wait, and what is left of those that are under way."""

    def __init__(self, crew: Crew[J], stacks: Sequence[Stack], most: int) -> None:
        self.crew, self.waiting, self.most = crew, deque(stacks), most
        self.left: dict[J, Stack] = {}
        self._repeated: set[int] = set()

    def start(self) -> None:
        """Give out as many stacks as there is room for."""
        room = min(len(self.waiting), self.most - len(self.left))
        if room > 0:
            stacks = [self.waiting.popleft() for _ in range(room)]
            self.left.update(zip(self.crew.start(stacks), stacks, strict=True))

    def settle(self, job: J, event: Event) -> None:
        """Note what of a job's stack is settled by its event."""
        if job not in self.left or not isinstance(event, Trained | Failed):
            return
        rest = self.left.pop(job).without(event.indices)
        if rest is None:
            self.crew.done(job)
        else:
            self.left[job] = rest

    def lost(self, job: J) -> Event:
        """Repeat what is left of a lost job's stack, from its last checkpoint, if it was not repeated before."""
        stack, reason = self.left.pop(job), job.how_it_ended()
        self.crew.done(job)
        if self._repeated.intersection(stack.indices):
            return Failed(stack.indices, f"{reason}, for the second time")
        self._repeated.update(stack.indices)
        self.waiting.appendleft(stack)
        return Repeated(stack.indices, reason)
