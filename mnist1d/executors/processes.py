"""Several processes of this machine, each with its share of the cores.

Every worker has a pipe of its own, so that the end of one touches no other: of the standard pools, the end of a
worker breaks all that is under way.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import connection, get_context, parent_process, resource_tracker
from threading import Thread
from typing import TYPE_CHECKING

from mnist1d import interrupt
from mnist1d.events import Event
from mnist1d.executors import Share, Tell, worker
from mnist1d.executors.crew import work_off
from mnist1d.plan import Stack

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


class Processes:
    """So many processes, which train one stack after the other."""

    def __init__(self, share: Share) -> None:
        self.workers, self.cpus = share.workers, share.cpus
        self._team: list[Worker] = []
        self._idle: list[Worker] = []

    def warm_up(self, most: int) -> None:
        """Start the processes, which take seconds to import what they need."""
        while len(self._team) < min(self.workers, most):
            self._team.append(Worker(self.cpus))
            self._idle.append(self._team[-1])

    def __call__(self, stacks: Sequence[Stack], tell: Tell) -> None:
        """See `Executor`."""
        self.warm_up(len(stacks))
        work_off(self, stacks, self.workers, tell)

    def start(self, stacks: Sequence[Stack]) -> list[Worker]:
        """See `Crew`."""
        taken = [self._idle.pop(0) for _ in stacks]
        for each, stack in zip(taken, stacks, strict=True):
            each.give(stack)
        return taken

    def ready(self, jobs: Sequence[Worker]) -> list[Worker]:
        """See `Crew`."""
        by_pipe = {job.pipe: job for job in jobs}
        return [by_pipe[pipe] for pipe in connection.wait(list(by_pipe))]  # type: ignore[index]

    def done(self, job: Worker) -> None:
        """See `Crew`."""
        self._idle.append(job)

    def end(self) -> None:
        """See `Crew`."""
        for each in self._team:
            each.end()


class Worker:
    """A process that trains stacks; started again when it is given one and has ended.

    Attributes:
        pipe: where it is given stacks and tells events.
    """

    def __init__(self, threads: int) -> None:
        self.pipe: Connection
        self._threads = threads
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")  # a fork of a process in which torch has threads may hang
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._threads), daemon=True)
        if os.name == "posix":
            resource_tracker.ensure_running()  # whose own start would end the deafness
        with interrupt.children_deaf():
            self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def give(self, stack: Stack) -> None:
        """Have a stack trained."""
        if not self._process.is_alive():
            self.pipe.close()
            self._start()
        with suppress(OSError):  # it has ended this moment, which `next` will see
            self.pipe.send_bytes(pickle.dumps(stack))

    def next(self) -> Event | None:
        """See `Job`."""
        try:
            event: Event = pickle.loads(self.pipe.recv_bytes())
        except (EOFError, OSError):
            return None
        return event

    def how_it_ended(self) -> str:
        """What became of the process, which has closed its pipe."""
        self._process.join()
        code = self._process.exitcode or 0
        if code != -signal.SIGKILL:
            end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            return f"its worker process {end}"
        return "its worker process was killed (SIGKILL; the system does that when memory runs out)"

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection, threads: int) -> None:
    """A worker's whole life: train what comes through the pipe, tell what happens, end with the parent."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    Thread(target=_end_with_parent, daemon=True).start()
    worker.get_ready(threads)

    def tell(event: Event) -> None:
        try:
            pipe.send_bytes(pickle.dumps(event))
        except OSError:  # the parent is gone
            os._exit(1)

    with suppress(EOFError):
        while True:
            worker.train(pickle.loads(pipe.recv_bytes()), tell)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
