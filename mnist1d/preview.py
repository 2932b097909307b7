"""`plan=true`: what a command line would train, what is recorded already and what it takes; nothing is written."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mnist1d import cost, remaining, summary
from mnist1d.config import Run, limits
from mnist1d.data.download import to_download
from mnist1d.plan import Stack, fingerprint, plan, signature
from mnist1d.resume import steps_done
from mnist1d.spelling import duration, size
from mnist1d.terminal import Terminal


@dataclass(frozen=True)
class Fit:
    """A stack that would be trained: after how many steps it goes on, and what it would take."""

    stack: Stack
    done: int
    seconds: float | None
    memory: int

    @property
    def steps(self) -> int:
        """Optimiser steps that are left, of one member."""
        return self.stack.runs[0].steps - self.done


def show(runs: Sequence[Run], workers: int = 1) -> None:
    """Print what training `runs` would mean, so many stacks at a time.

    Raises:
        StoreError: there is a store and it cannot be read.
        ConfigError: the records of these runs would have no place on the disk.
    """
    terminal, flats = Terminal(), [run.flat() for run in runs]
    prints, groups = [fingerprint(run) for run in runs], summary.settings(flats)
    known = remaining.by_index(prints, {} if runs[0].force else remaining.recorded(runs))
    limits.refuse_without_disk([run for index, run in enumerate(runs) if index not in known])
    fits = planned(runs, known)
    seconds = [fit.seconds for fit in fits if fit.seconds is not None]
    terminal.plan(
        runs=len(runs),
        settings=len(groups),
        stacks=len(fits),
        steps=sum(len(fit.stack) * fit.steps for fit in fits),
        where=runs[0].tracking.uri,
        seconds=cost.elapsed(seconds, workers) if len(seconds) == len(fits) else None,
        workers=min(workers, len(fits)),
    )
    terminal.recorded(len(known), len(runs), [run.code[0] for run in known.values() if not run.of_this_code])
    swept = [key for key in summary.swept_keys(flats) if key not in summary.SEEDS]
    counts = {"runs": [len(group) for group in groups], "recorded": [len(known.keys() & group) for group in groups]}
    terminal.columns([_shared(flats, group, swept) for group in groups], counts, "settings")
    terminal.columns([_shared(flats, fit.stack.indices, swept) for fit in fits], _columns(fits), "stacks")
    if fits:
        missing = [run for index, run in enumerate(runs) if index not in known]
        largest = sorted((fit.memory for fit in fits), reverse=True)[:workers]
        terminal.say(f"memory about {size(sum(largest))} · disk about {_disk(missing)}")
        for name in dict.fromkeys(run.data.name for run in missing):
            if megabytes := to_download(name):
                terminal.say(f"data={name} would be downloaded first: {megabytes} MB")
    terminal.say("plan=true: nothing was trained or written.")


def planned(runs: Sequence[Run], known: Mapping[int, remaining.Recorded]) -> list[Fit]:
    """The fits that are left when the runs at the places in `known` are recorded."""
    left = (remaining.left(stack, known) for stack in plan(runs, cost.most_members(runs)))
    stacks = [stack for stack in left if stack is not None]
    seconds = cost.stack_seconds(stacks)
    fits = []
    for index, stack in enumerate(stacks):
        done = steps_done(stack)
        rest = None if seconds is None else seconds[index] * (1 - done / stack.runs[0].steps)
        fits.append(Fit(stack, done, rest, cost.stack_bytes(stack)))
    return fits


def _shared(flats: Sequence[summary.Flat], indices: Collection[int], swept: Sequence[str]) -> dict[str, Any]:
    """Those of the swept keys whose value the runs at `indices` share."""
    shared = {key: flats[min(indices)][key] for key in swept if key in flats[min(indices)]}
    return {key: value for key, value in shared.items() if all(flats[index][key] == value for index in indices)}


def _columns(fits: Sequence[Fit]) -> dict[str, list[Any]]:
    return {
        "runs in stack": [len(fit.stack) for fit in fits],
        "steps": [fit.steps for fit in fits],
        "goes on at": [fit.done or "–" for fit in fits],
        "time": ["–" if fit.seconds is None else duration(fit.seconds) for fit in fits],
        "memory": [size(fit.memory) for fit in fits],
    }


def _disk(runs: Sequence[Run]) -> str:
    kinds = [(signature(run), run) for run in runs]
    of_kind = {kind: cost.disk_bytes(run) for kind, run in dict(kinds).items()}  # 8 ms each
    needed, free = size(sum(of_kind[kind] for kind, _ in kinds)), limits.free_disk(runs[0].tracking.uri)
    return needed if free is None else f"{needed} of {size(free)} free"
