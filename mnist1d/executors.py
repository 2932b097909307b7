"""How the stacks of a sweep are worked off: one after the other in this process, or by several processes.

An executor is called with stacks and with the function that takes their events (`mnist1d.events`). It alone decides
where and in what order stacks are trained; names, records and progress are the sweep's, so there is one writer.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

from mnist1d.events import Event, Failed, Repeated, Trained
from mnist1d.plan import Stack
from mnist1d.provenance import cores

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

NAMES = ("serial", "processes")
"""Values of `hydra.launcher.executor`."""

Tell = Callable[[Event], None]


class Executor(Protocol):
    """Works off stacks; `workers` is how many it trains at a time."""

    workers: int

    def warm_up(self, most: int) -> None:
        """Get ready for at most so many stacks, while the caller has other things to do."""

    def __call__(self, stacks: Sequence[Stack], tell: Tell) -> None:
        """Have all `stacks` trained, taken from the front, and `tell` what happens, in this process and thread.

        Of every stack, each run is in the end told of once in a `Trained` or in a `Failed`. An exception of `tell`
        ends the work and passes through.
        """


def chosen(launcher: Mapping[str, Any]) -> Executor:
    """The executor that the settings `hydra.launcher` ask for; other launchers than ours have none."""
    if launcher.get("executor", "serial") == "serial":
        return Serial()
    return Processes(launcher["workers"] or cores())


class Serial:
    """One stack after the other, in this process."""

    workers = 1

    def warm_up(self, most: int) -> None:
        """Nothing to do."""

    def __call__(self, stacks: Sequence[Stack], tell: Tell) -> None:
        """See `Executor`."""
        from mnist1d.fit import train

        for stack in stacks:
            train(stack, tell)


class Processes:
    """Several processes of this machine, each with its share of the cores.

    Every worker has a pipe of its own, so that the end of one touches no other: of the standard pools, the end of a
    worker breaks all that is under way. A stack whose worker is lost is trained once more, from its last checkpoint.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._team: list[Worker] = []
        self._repeated: set[int] = set()

    def warm_up(self, most: int) -> None:
        """Start the processes, which take seconds to import what they need."""
        while len(self._team) < min(self.workers, most):
            self._team.append(Worker(self.workers))

    def __call__(self, stacks: Sequence[Stack], tell: Tell) -> None:
        """See `Executor`."""
        waiting = deque(stacks)
        self.warm_up(len(waiting))
        try:
            for worker in self._team[: len(waiting)]:
                worker.give(waiting.popleft())
            for worker, event in self._events():
                if worker.left is None and waiting:  # before the event is recorded, which may take a while
                    worker.give(waiting.popleft())
                tell(event)
        finally:
            for worker in self._team:
                worker.end()

    def _events(self) -> Iterator[tuple[Worker, Event]]:
        """What busy workers tell, and that they were lost, until none is busy."""
        while busy := {worker.pipe: worker for worker in self._team if worker.left is not None}:
            for pipe in connection.wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                yield worker, worker.next() or self._lost(worker)

    def _lost(self, worker: Worker) -> Event:
        """Repeat what is left of a lost worker's stack, if it was not repeated before."""
        stack, reason = worker.left, f"its worker process {worker.how_it_ended()}"
        assert stack is not None
        if self._repeated.intersection(stack.indices):
            worker.left = None
            return Failed(stack.indices, f"{reason}, for the second time")
        self._repeated.update(stack.indices)
        worker.give(stack)
        return Repeated(stack.indices, reason)


class Worker:
    """A process that trains stacks; started again when it is given one and has ended.

    Attributes:
        left: what of its stack has not been trained yet.
        pipe: where it is given stacks and tells events.
    """

    def __init__(self, sharers: int) -> None:
        self.left: Stack | None = None
        self.pipe: Connection
        self._sharers = sharers
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")  # a fork of a process in which torch has threads may hang
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._sharers), daemon=True)
        with _deaf_to_ctrl_c():
            self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def give(self, stack: Stack) -> None:
        """Have a stack trained."""
        if not self._process.is_alive():
            self.pipe.close()
            self._start()
        self.left = stack
        with suppress(OSError):  # it has ended this moment, which `next` will see
            self.pipe.send_bytes(pickle.dumps(stack))

    def next(self) -> Event | None:
        """The next event, waited for; None if the process has ended."""
        try:
            event: Event = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            return None
        if isinstance(event, Trained | Failed) and self.left is not None:
            self.left = self.left.without(event.indices)
        return event

    def how_it_ended(self) -> str:
        """What became of the process, which has closed its pipe."""
        self._process.join()
        code = self._process.exitcode or 0
        if code != -signal.SIGKILL:
            return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        return "was killed (SIGKILL; the system does that when memory runs out)"

    def end(self) -> None:
        """Kill it: what it is training has its checkpoints, everything else has been told."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection, sharers: int) -> None:
    """A worker's whole life: train what comes through the pipe, tell what happens, end with the parent."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    Thread(target=_end_with_parent, daemon=True).start()
    gc.disable()  # as in train.py
    from mnist1d import hardware
    from mnist1d.fit import quiet, train

    gc.enable()
    quiet()
    hardware.share(sharers)

    def tell(event: Event) -> None:
        try:
            pipe.send_bytes(pickle.dumps(event))
        except OSError:  # the parent is gone
            os._exit(1)

    with suppress(EOFError):
        while True:
            train(pickle.loads(pipe.recv_bytes()), tell)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started meanwhile never hear Ctrl-C, which a terminal sends to all: their parent decides."""
    if os.name != "posix":
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # whose own start would end the deafness
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
