"""Stacks as tasks of a Ray cluster: one of this machine for this sweep, or one that is running already.

A task streams its events to the driver as they come. Ray's own retries are off: a task that is repeated by us goes on
from its checkpoint.
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from threading import Event as Flag
from threading import Thread
from typing import Any

from mnist1d import interrupt
from mnist1d.events import Event
from mnist1d.executors import Share, Tell, Unavailable, import_path, worker
from mnist1d.executors.crew import work_off
from mnist1d.plan import Stack

PROBE_SECONDS = 3.0
"""Time for a cluster's head node to take a connection."""

START_SECONDS = 60.0
"""Time for a cluster to be joined or started: seconds, but on a busy machine many."""

OBJECT_STORE = 256 * 2**20
"""Bytes of memory that hold events on their way, on a cluster of our own: small ones, but for trained weights."""

HANDED_ON = ("MNIST1D_CACHE", "MNIST1D_MIRROR", "GOMP_SPINCOUNT")
"""Environment variables that workers on other machines are to have as well."""


class Ray:
    """So many tasks at a time.

    Args:
        share: workers of a cluster of our own; cores and GPUs of each task.
        address: HOST:PORT of the head node of a running cluster, which this machine must belong to, "auto" for the
            one that runs on this machine; None for one of our own, on the loopback interface.
        most: most tasks at a time on a running cluster; None for as many as it has room for.
    """

    def __init__(self, share: Share, address: str | None, most: int | None) -> None:
        self.cpus = share.cpus
        self._share, self._address, self._most = share, address, most
        self._cluster: Cluster | None = None
        self._room: int | None = None
        self._tasks: list[Task] = []

    @property
    def workers(self) -> int:
        """See `Executor`; of a running cluster known once it was joined."""
        if self._cluster is None:
            return self._share.workers
        if self._room is None:
            self._room = self._cluster.room(self._share)
        return min(self._room, self._most or self._room)

    def warm_up(self, most: int) -> None:
        """Start or join the cluster, in a thread."""
        if most and self._cluster is None:
            self._cluster = Cluster(self._share, self._address)

    def __call__(self, stacks: Sequence[Stack], tell: Tell) -> None:
        """See `Executor`."""
        self.warm_up(len(stacks))
        work_off(self, stacks, self.workers, tell)

    def start(self, stacks: Sequence[Stack]) -> list[Task]:
        """See `Crew`."""
        import ray

        serve = ray.remote(num_cpus=self.cpus, num_gpus=self._share.gpus, max_retries=0)(_serve)
        here = Here(Path.cwd(), self.cpus)
        tasks = [Task(serve.remote(here, stack)) for stack in stacks]
        self._tasks += tasks
        return tasks

    def ready(self, jobs: Sequence[Task]) -> list[Task]:
        """See `Crew`."""
        import ray

        tasks = {job.events: job for job in jobs}
        ray.wait(list(tasks))
        ready, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=0)
        return [tasks[events] for events in ready]

    def done(self, job: Task) -> None:
        """See `Crew`."""
        self._tasks.remove(job)

    def end(self) -> None:
        """See `Crew`."""
        if self._cluster is not None:
            self._cluster.leave(self._tasks)


class Task:
    """A stack that Ray has trained.

    Attributes:
        events: Ray's generator of references to events.
    """

    def __init__(self, events: Any) -> None:
        self.events = events
        self._end = "ended early"

    def next(self) -> Event | None:
        """See `Job`."""
        import ray

        try:
            event: Event = pickle.loads(ray.get(next(self.events)))
        except StopIteration:
            return None
        except ray.exceptions.RayError as error:
            self._end = f"was lost ({type(error).__name__}: {str(error).strip().partition(chr(10))[0]})"
            return None
        return event

    def how_it_ended(self) -> str:
        """See `Job`."""
        return f"its Ray task {self._end}"


class Cluster:
    """A cluster as its driver sees it, started or joined by a thread.

    On Linux the processes that the thread starts end with it, so it lives as long as the cluster is needed.

    Raises:
        Unavailable: nothing answers at the address.
    """

    def __init__(self, share: Share, address: str | None) -> None:
        self._share, self._address = share, address
        self._folder: TemporaryDirectory[str] | None = None
        self._error: BaseException | None = None
        self._joined, self._over = Flag(), Flag()
        if address not in (None, "auto"):
            _probe(str(address))
        Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        try:
            self._join()
        except BaseException as error:
            self._error = error
        self._joined.set()
        self._over.wait()

    def _join(self) -> None:
        if self._address is None:
            os.environ.update(_private())
        import ray

        silent: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is not None:
            names = [name for name in HANDED_ON if name in os.environ]
            env = {"PYTHONPATH": import_path(), **{name: os.environ[name] for name in names}}
            ray.init(self._address, runtime_env={"env_vars": env}, **silent)
            return
        # sockets' paths must be short, which those in other temporary folders need not be
        self._folder = TemporaryDirectory(prefix="ray-", dir="/tmp" if os.name == "posix" else None)
        ray.init(
            "local",
            num_cpus=self._share.workers * self._share.cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            _node_ip_address="127.0.0.1",
            _temp_dir=self._folder.name,
            **silent,
        )

    def room(self, share: Share) -> int:
        """How many tasks of this size it has room for, at least one; waits until it is there.

        Raises:
            Unavailable: it could not be started or joined, or such a task fits none of its machines.
        """
        place = "Ray" if self._address is None else f"the Ray cluster at {self._address}"
        if not self._joined.wait(START_SECONDS):
            raise Unavailable(f"{place} did not get ready within {START_SECONDS:.0f} s")
        if self._error is not None:
            reason = str(self._error).strip().partition("\n")[0]
            raise Unavailable(f"{place} cannot be used: {type(self._error).__name__}: {reason}")
        interrupt.listen_again()  # Ray's core would show where SIGTERM found us
        import ray

        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = ([machine.get(kind, 0) for machine in machines] for kind in ("CPU", "GPU"))
        tasks = (int(min(c / share.cpus, g / share.gpus if share.gpus else c)) for c, g in zip(cpus, gpus, strict=True))
        if room := sum(tasks):
            return room
        wanted = f"hydra.launcher.cpus={share.cpus} and hydra.launcher.gpus={share.gpus:g}"
        largest = f"CPUs {max(cpus, default=0):g}, GPUs {max(gpus, default=0):g}"
        raise Unavailable(f"{place} has no machine for a stack with {wanted}; the most that one of its has: {largest}")

    def leave(self, tasks: Sequence[Task]) -> None:
        """End these tasks, and a cluster of our own altogether."""
        import ray

        if self._joined.wait(START_SECONDS) and self._error is None:
            for task in tasks if self._address is not None else ():
                with suppress(ray.exceptions.RayError):
                    ray.cancel(task.events, force=True)
            ray.shutdown()
        self._over.set()
        if self._folder is not None:
            with suppress(OSError):
                self._folder.cleanup()


def _probe(address: str) -> None:
    """Raise `Unavailable` unless something listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PROBE_SECONDS).close()
    except OSError as error:
        reason = f"no cluster answers ({error.strerror or error})"
        raise Unavailable(f"hydra.launcher.ray.address={address}: {reason}") from None


def _private() -> dict[str, str]:
    """Environment of a cluster that nobody else is to use, or to hear of."""
    return {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the name misleads: 127.0.0.1 stays what it is, on every system
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray writes one into the home folder
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "PYTHONPATH": import_path(),
    }


@dataclass(frozen=True)
class Here:
    """What a task takes over from the driver: its working folder, where that exists, and its threads."""

    folder: Path
    threads: int

    def settle(self) -> None:
        """Make this process like the driver's."""
        if self.folder.is_dir():
            os.chdir(self.folder)
        worker.get_ready(self.threads)


def _serve(here: Here, stack: Stack) -> Iterator[bytes]:
    """The task: train a stack in a thread, yield its events as they come."""
    here.settle()
    events: SimpleQueue[Event | None] = SimpleQueue()

    def work() -> None:
        try:
            worker.train(stack, events.put)
        finally:
            events.put(None)

    Thread(target=work, daemon=True).start()
    while (event := events.get()) is not None:
        yield pickle.dumps(event)
