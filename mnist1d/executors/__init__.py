"""How the stacks of a sweep are worked off: in this process, by others of this machine, by a Ray cluster, by Slurm.

An executor is called with stacks and with the function that takes their events (`mnist1d.events`). It alone decides
where and in what order stacks are trained; names, records and progress are the sweep's, so there is one writer. It
is chosen by `hydra.launcher.executor`; each has a module here, and all but the first share `crew` and `worker`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mnist1d.events import Event
from mnist1d.provenance import cores

if TYPE_CHECKING:
    from mnist1d.config import Run
    from mnist1d.plan import Stack

NAMES = ("serial", "processes", "ray", "submitit")
"""Values of `hydra.launcher.executor`."""

Tell = Callable[[Event], None]


class Unavailable(RuntimeError):
    """What is to train the stacks cannot be had; the message says why."""


class Executor(Protocol):
    """Works off stacks.

    Attributes:
        cpus: processor cores of each stack, and so its threads unless its config says otherwise.
    """

    cpus: int

    @property
    def workers(self) -> int:
        """How many stacks it trains at a time. Raises `Unavailable` where that is found out only now."""

    def warm_up(self, most: int) -> None:
        """Get ready for at most so many stacks, while the caller has other things to do. Raises `Unavailable`."""

    def __call__(self, stacks: Sequence[Stack], tell: Tell) -> None:
        """Have all `stacks` trained, taken from the front, and `tell` what happens, in this process and thread.

        Of every stack, each run is in the end told of once in a `Trained` or in a `Failed`. An exception of `tell`
        ends the work and passes through.

        Raises:
            Unavailable: there is nobody to train them.
        """


@dataclass(frozen=True)
class Share:
    """How many stacks train at a time, and what each of them has: processor cores and GPUs."""

    workers: int
    cpus: int
    gpus: float = 0


def share(launcher: Mapping[str, Any], own_cores: int) -> Share:
    """What the settings `hydra.launcher` ask for; what they leave open divides the cores."""
    workers = launcher["workers"] or max(1, own_cores // (launcher["cpus"] or 1))
    return Share(workers, launcher["cpus"] or max(1, own_cores // workers), launcher["gpus"])


def warm_up_or_refuse(executor: Executor, runs: Sequence[Run]) -> None:
    """Let an executor get ready for those of `runs` that are not recorded, or end the program with the reason."""
    from mnist1d.analysis.read import finished
    from mnist1d.plan import fingerprint

    prints, place = {fingerprint(run) for run in runs}, runs[0].tracking
    known = set() if runs[0].force else finished(place.uri, place.experiment, prints)
    try:
        executor.warm_up(len(prints - known))
    except Unavailable as error:
        sys.exit(f"train.py: {error}")


def import_path() -> str:
    """PYTHONPATH that lets another interpreter of this environment import what this one can."""
    places = [Path(place).absolute() for place in sys.path]
    own = [place for place in places if place.exists() and not place.is_relative_to(sys.prefix)]
    return os.pathsep.join(dict.fromkeys(str(p) for p in own if not p.is_relative_to(sys.base_prefix)))


def chosen(launcher: Mapping[str, Any], folder: Path) -> Executor:
    """The executor that the settings `hydra.launcher` ask for; other launchers than ours have none.

    Args:
        launcher: the settings.
        folder: output folder of the command line, which need not exist yet.
    """
    from mnist1d.executors.serial import Serial

    name = launcher.get("executor", "serial")
    if name == "serial":
        return Serial()
    own = share(launcher, cores())
    if name == "processes":
        from mnist1d.executors.processes import Processes

        return Processes(own)
    if name == "ray":
        from mnist1d.executors.ray import Ray

        address = launcher["ray"]["address"]
        return Ray(own if address is None else share(launcher, 1), address, launcher["workers"])
    from mnist1d.executors.submitit import Submitit

    return Submitit(own, launcher["workers"], launcher["submitit"], folder / "jobs")
