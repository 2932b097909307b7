"""What this machine has, and what asks for more than that: told before anything is allocated, without torch.

Everything here is a lower bound of what is needed: what is refused could not have worked, what is not refused may
still be too much. What a net takes needs torch and is in `mnist1d.cost`.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from mnist1d.config.faults import Absent, ConfigError, Conflict, Fault
from mnist1d.config.schema import Run, Signals
from mnist1d.spelling import MOST, YEAR, duration, size

RUN_BYTES = 35_000
"""On disk, by a run of any length: 18 kB of params and tags, the rest of its weights' file, three files of Hydra's."""

POINT_BYTES = 263
"""Of a metric at a step, in an SQLite store: measured on 60 runs of 2, 25 and 250 evaluations each."""

JOB_BYTES = 100_000
"""Of memory, by a run that is planned: its config as Hydra, as we and as MLflow keep it; measured on 1200 runs."""

SAMPLE_BYTES = 24
"""By a value of a sample, while a data set is made: two copies in double precision, one in single and its parts."""

BLOCK_BYTES = 90
"""By a block of a schedule, which is a number in a list that was a set."""

LONGEST_BLOCK = 250
"""Steps. Long enough to hide Lightning's 0.3 ms per batch, short enough for a live progress bar."""

STEP_SECONDS = 1e-5
"""A tenth of what an optimiser step of the smallest net takes on the fastest machine at hand."""

MOST_SECONDS = YEAR
"""A run that takes longer is a mistake."""

_CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_SQLITE = "sqlite:///"


@cache
def memory() -> int:
    """Bytes of memory that this machine has, or that the container may have of it."""
    if not hasattr(os, "sysconf"):  # Windows does not say
        return sys.maxsize
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _CONTAINER:
        with suppress(OSError, ValueError):  # other systems have none; "max" is no limit
            found.append(int(Path(file).read_text()))
    return min(found)


def free_disk(uri: str) -> int | None:
    """Bytes free where a store keeps runs; None where that is not a disk of this machine."""
    if not uri.startswith(_SQLITE):
        return None
    folder = Path(uri.removeprefix(_SQLITE)).absolute().parent
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def row_bytes(run: Run) -> int:
    """What a run leaves on disk beside its weights: rows in an SQLite store, Hydra's files."""
    per_evaluation = 6 if run.data.val_split > 0 else 4
    return RUN_BYTES + POINT_BYTES * per_evaluation * (1 + run.steps // run.trainer.eval_every)


def too_many(count: float, typed: str) -> Iterator[Fault]:
    """A fault if so many runs cannot be planned together; `typed` is what asks for them on the command line."""
    if count * JOB_BYTES > (have := memory()):
        text = f"{count:.0f} runs take {size(count * JOB_BYTES)} of memory to plan, this machine has {size(have)}"
        yield Fault(typed, Absent, text, f"at most about {have // JOB_BYTES} at a time")


def too_large(run: Run) -> Iterator[Fault]:
    """Faults of a run whose data, schedule or records are more than this machine can hold, or take for ever."""
    have = memory()
    if isinstance(run.data, Signals):
        yield from too_large_data(run.data)
    steps, key = run.steps, "trainer.max_steps"
    blocks = BLOCK_BYTES * (steps // LONGEST_BLOCK + steps // run.trainer.eval_every)
    work = sum(run.task.batches(run.trainer.max_steps, run.data.batch_size).values())
    seconds = STEP_SECONDS * min(work, MOST)
    free, rows = free_disk(run.tracking.uri), row_bytes(run)
    if seconds > MOST_SECONDS:
        text = f"takes {duration(seconds)} at {STEP_SECONDS * 1e6:.0f} µs a step, which nothing here reaches"
        yield Fault(key, run.trainer.max_steps, text)
    elif blocks > have:
        text = f"takes {size(blocks)} of memory for the schedule of {steps} steps, this machine has {size(have)}"
        yield Fault(key, run.trainer.max_steps, text)
    elif free is not None and rows > free:
        times = 1 + steps // run.trainer.eval_every
        text = f"evaluates {times} times: {size(rows)} on disk, where {size(free)} are free"
        yield Conflict("trainer.eval_every", run.trainer.eval_every, text)


def too_large_data(data: Signals) -> Iterator[Fault]:
    """Faults of signals that are more than this machine can hold."""
    have, values = memory(), data.num_samples * data.final_seq_length
    if (needed := SAMPLE_BYTES * values) > have:
        samples = f"samples of data.final_seq_length={data.final_seq_length} values"
        text = f"{samples} take {size(needed)} of memory to make, this machine has {size(have)}"
        yield Fault("data.num_samples", data.num_samples, text)
    paddings = data.padding[1] - data.padding[0] + 1
    if (needed := 8 * 10 * paddings * data.padded_len) > have:  # ten templates, in double precision
        points = f"{paddings} × 10 templates of {data.padded_len} points"
        text = f"{points} take {size(needed)} of memory, this machine has {size(have)}"
        yield Fault("data.padding", data.padding, text)


def refuse_without_disk(runs: Sequence[Run]) -> None:
    """Raises ConfigError if the records of all `runs` together have no place; weights are not counted."""
    needed, free = sum(map(row_bytes, runs)), free_disk(runs[0].tracking.uri) if runs else None
    if free is not None and needed > free:
        text = f"{len(runs)} runs take {size(needed)} on disk, where {size(free)} are free"
        raise ConfigError([Fault("tracking.uri", runs[0].tracking.uri, text)])
