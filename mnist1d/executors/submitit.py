"""Stacks as jobs of Slurm, or as processes of this machine, through submitit.

A job appends its events to a file, which the driver follows: the folder must be one that both see. Every stack is a
job of its own, so that time limits and what a loss costs are those of one stack.
"""

from __future__ import annotations

import os
import pickle
import shlex
import signal
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from mnist1d import interrupt
from mnist1d.events import Event
from mnist1d.executors import Share, Tell, import_path, worker
from mnist1d.executors.crew import work_off
from mnist1d.plan import Stack

if TYPE_CHECKING:
    import submitit

ARRAY = 1000
"""Most jobs in one array: what Slurm takes unless its configuration says otherwise."""

LOOK_SECONDS = {"slurm": 2.0}
"""Time between two looks at the jobs' files, 0.1 where nothing is said: shared file systems want to be spared."""

QUEUE_SECONDS = 30.0
"""Time between two questions to Slurm what has become of the jobs."""

END_SECONDS = 10.0
"""Time for local jobs to end."""

SILENCE = 600.0
"""Seconds after which a job takes its driver for dead."""

_LENGTH = struct.Struct("<Q")


class Submitit:
    """So many jobs at a time.

    On Slurm all stacks are queued at once, as arrays of which so many jobs run at a time; elsewhere, where every job
    starts at once, they are given out one by one.

    Args:
        share: jobs at a time, cores and GPUs of each.
        most: jobs at a time on Slurm; None for as many as it lets run.
        settings: `hydra.launcher.submitit`.
        folder: for the jobs' files.
    """

    def __init__(self, share: Share, most: int | None, settings: Mapping[str, Any], folder: Path) -> None:
        import submitit

        self.cpus, self._share, self._most = share.cpus, share, most
        self._settings, self._parent = settings, folder
        asked = settings["cluster"]
        self.cluster = submitit.AutoExecutor.which() if asked == "auto" else asked
        self._submitter: submitit.AutoExecutor | None = None
        self._folder: Path
        self._numbers = count()
        self._jobs: list[Job] = []
        self._queue = Queue() if self.cluster == "slurm" else None

    @property
    def workers(self) -> int:
        """See `Executor`."""
        return self._most or (ARRAY if self.cluster == "slurm" else self._share.workers)

    def warm_up(self, most: int) -> None:
        """Nothing to do: every job has an interpreter of its own."""

    def __call__(self, stacks: Sequence[Stack], tell: Tell) -> None:
        """See `Executor`."""
        work_off(self, stacks, ARRAY if self.cluster == "slurm" else self.workers, tell)

    def start(self, stacks: Sequence[Stack]) -> list[Job]:
        """See `Crew`."""
        if self._submitter is None:
            self._parent.mkdir(parents=True, exist_ok=True)
            self._folder = Path(mkdtemp(prefix="", dir=self._parent.absolute()))  # the parent may hold another's
            self._submitter = self._new_submitter()
        self._show_life()
        letters = [self._folder / f"{next(self._numbers)}.events" for _ in stacks]
        serve = _serve_here if self.cluster == "debug" else _serve
        with interrupt.children_deaf(), self._submitter.batch():
            given = [
                self._submitter.submit(serve, stack, file, self.cpus)
                for stack, file in zip(stacks, letters, strict=True)
            ]
        if self._queue is not None:
            self._queue.known.update(job.job_id for job in given)
        jobs = [Job(job, file, self._queue) for job, file in zip(given, letters, strict=True)]
        self._jobs += jobs
        return jobs

    def _new_submitter(self) -> submitit.AutoExecutor:
        import submitit

        python = f"env PYTHONPATH={shlex.quote(import_path())} {shlex.quote(sys.executable)}"
        made = submitit.AutoExecutor(self._folder, self.cluster, local_python=python, slurm_python=python)
        made.update_parameters(
            name="mnist1d",
            timeout_min=self._settings["timeout"],
            cpus_per_task=self.cpus,
            gpus_per_node=int(self._share.gpus) or None,
            mem_gb=self._settings["memory"],
            slurm_partition=self._settings["partition"],
            slurm_array_parallelism=self._most or ARRAY,
            slurm_additional_parameters={"no-requeue": True, **self._settings["parameters"]},  # that is done here
        )
        return made

    def ready(self, jobs: Sequence[Job]) -> list[Job]:
        """See `Crew`."""
        while True:
            self._show_life()
            if self._queue is not None:
                self._queue.look()
            if found := [job for job in jobs if job.has_news()]:
                return found
            time.sleep(LOOK_SECONDS.get(self.cluster, 0.1))

    def done(self, job: Job) -> None:
        """See `Crew`."""
        self._jobs.remove(job)
        job.letters.unlink(missing_ok=True)

    def end(self) -> None:
        """See `Crew`."""
        if self._submitter is not None:
            _heart(self._folder).unlink(missing_ok=True)
        if self._queue is not None and self._jobs:
            # the ids of the arrays: one call, however many jobs there are
            _ask("scancel", *{job.given.job_id.partition("_")[0] for job in self._jobs})
            return
        if self.cluster == "local":
            _terminate([job.given for job in self._jobs])

    def _show_life(self) -> None:
        _heart(self._folder).touch()


class Job:
    """A stack that submitit has trained.

    Attributes:
        given: submitit's job.
        letters: the file of its events.
    """

    def __init__(self, given: submitit.Job[None], letters: Path, queue: Queue | None) -> None:
        self.given, self.letters = given, letters
        self._queue = queue
        self._read = 0
        self._events: deque[Event] = deque()

    def has_news(self) -> bool:
        """Whether it has told something or has ended."""
        ended = self._has_ended()  # asked before its last words are read
        self._events.extend(self._new())
        return bool(self._events) or ended

    def _has_ended(self) -> bool:
        if self._queue is None:
            return self.given.done()
        return self.given.paths.result_pickle.exists() or self.given.job_id not in self._queue.known

    def _new(self) -> list[Event]:
        """Events that were appended whole since the last time."""
        try:
            with self.letters.open("rb") as file:  # opened again every time: NFS looks at the server then
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:
            return []
        events, start = [], 0
        while len(text) >= (begin := start + _LENGTH.size):
            end = begin + _LENGTH.unpack_from(text, start)[0]
            if len(text) < end:
                break
            events.append(pickle.loads(text[begin:end]))
            start = end
        self._read += start
        return events

    def next(self) -> Event | None:
        """See `crew.Job`."""
        return self._events.popleft() if self._events else None

    def how_it_ended(self) -> str:
        """See `crew.Job`."""
        state = "" if self._queue is None else self._queue.state(self.given.job_id)
        said = f" as {state}" if state else ""
        return f"its job {self.given.job_id} ended early{said}; {self.given.paths.stderr} may say why"


class Queue:
    """Slurm's queue, as squeue shows it: sacct, which submitit asks, is not everywhere.

    Attributes:
        known: jobs of this user that wait or run.
    """

    def __init__(self) -> None:
        self.known: set[str] = set()
        self._looked = time.monotonic()

    def look(self) -> None:
        """Ask, if it is time; where Slurm does not answer, what was known stays."""
        if time.monotonic() - self._looked < QUEUE_SECONDS:
            return
        self._looked = time.monotonic()
        answer = _ask("squeue", "--me", "--array", "--noheader", "--format=%i")
        if answer is not None:
            self.known = set(answer.split())

    def state(self, job_id: str) -> str:
        """How a job ended, as "TIMEOUT" or "OUT_OF_MEMORY"; "" where Slurm keeps no accounts."""
        answer = _ask("sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={job_id}")
        return (answer or "").strip()


def _ask(*command: str) -> str | None:
    """What a command prints; None if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _terminate(jobs: Sequence[submitit.Job[None]]) -> None:
    """End processes of this machine, whose numbers are the jobs'; each hands the signal on to the one that trains.

    Again and again, for one that is just starting may let a signal pass. submitit itself would interrupt them, which
    they show with a traceback each.
    """
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline and (alive := [job for job in jobs if not job.done()]):
        for job in alive:
            os.kill(int(job.job_id), signal.SIGTERM)
        time.sleep(0.1)


def _heart(folder: Path) -> Path:
    """A file that the driver touches as long as it lives."""
    return folder / "driver"


def _serve(stack: Stack, letters: Path, threads: int) -> None:
    """The job: train a stack, append its events to a file."""
    for signum in (signal.SIGTERM, signal.SIGUSR2):  # cancelled; its time is nearly over
        signal.signal(signum, lambda *_: os._exit(1))
    worker.get_ready(threads)
    worker.train(stack, writer(letters))


def _serve_here(stack: Stack, letters: Path, _threads: int) -> None:
    """The same in the driver's own process."""
    from mnist1d.fit import train

    train(stack, writer(letters))


def writer(letters: Path) -> Callable[[Event], None]:
    """What appends events to a file, as long as the driver beside it lives; when it is dead, this process ends."""

    def write(event: Event) -> None:
        text = pickle.dumps(event)
        with letters.open("ab") as file:
            file.write(_LENGTH.pack(len(text)) + text)
        with suppress(FileNotFoundError):
            if letters.stat().st_mtime - _heart(letters.parent).stat().st_mtime < SILENCE:  # the same clock
                return
        os._exit(1)

    return write
