"""What is wrong with the settings of the stacking launcher, `hydra.launcher`: who is to train the stacks."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from shutil import which
from typing import Any

from mnist1d.config.faults import Fault
from mnist1d.executors import NAMES
from mnist1d.spelling import nearest

EXTRAS = {"ray": "ray", "submitit": "slurm"}
"""Executor, and module that it needs -> the extra that brings it."""

CLUSTERS = ("auto", "slurm", "local", "debug")
"""Values of `hydra.launcher.submitit.cluster`."""

_KEY = "hydra.launcher"


def launcher_faults(launcher: Mapping[str, Any]) -> Iterator[Fault]:
    """All faults; settings of other launchers are their own business."""
    if "executor" not in launcher:
        return
    executor = launcher["executor"]
    if executor not in NAMES:
        text = f"must be one of {', '.join(NAMES)}"
        yield Fault(f"{_KEY}.executor", executor, text, nearest=nearest(executor, NAMES))
    elif executor in EXTRAS and find_spec(executor) is None:
        command = f"python -m pip install -c constraints.txt -e '.[{EXTRAS[executor]}]'"
        yield Fault(f"{_KEY}.executor", executor, f"needs a package that is not installed: {command}")
    yield from _share_faults(launcher, executor)
    yield from _ray_faults(launcher["ray"]["address"], executor)
    yield from _submitit_faults(launcher["submitit"], executor)


def _share_faults(launcher: Mapping[str, Any], executor: str) -> Iterator[Fault]:
    for key in ("workers", "cpus"):
        value = launcher[key]
        if value is not None and value < 1:
            yield Fault(f"{_KEY}.{key}", value, "must be a whole number of at least 1 or null")
        elif value is not None and executor == "serial":
            yield _meaningless(key, value, *NAMES[1:])
    gpus = launcher["gpus"]
    if gpus < 0 or (gpus % 1 and (gpus > 1 or executor == "submitit")):
        also = "" if executor == "submitit" else ", or a part of one"
        yield Fault(f"{_KEY}.gpus", gpus, f"must be a whole number of at least 0{also}")
    elif gpus and executor in ("serial", "processes"):
        yield _meaningless("gpus", gpus, *EXTRAS)


def _ray_faults(address: str | None, executor: str) -> Iterator[Fault]:
    if address is None:
        return
    port = address.rpartition(":")[2]
    if address != "auto" and (address.startswith(("ray:", ":")) or ":" not in address or not port.isdecimal()):
        yield Fault(f"{_KEY}.ray.address", address, "must be HOST:PORT of a cluster's head node, auto or null")
    elif executor != "ray":
        yield _meaningless("ray.address", address, "ray")


def _submitit_faults(settings: Mapping[str, Any], executor: str) -> Iterator[Fault]:
    from hydra_plugins.mnist1d_stack import SubmititConf

    cluster, key = settings["cluster"], f"{_KEY}.submitit"
    if cluster not in CLUSTERS:
        text = f"must be one of {', '.join(CLUSTERS)}"
        yield Fault(f"{key}.cluster", cluster, text, nearest=nearest(cluster, CLUSTERS))
    elif executor == "submitit" and cluster == "slurm" and not (which("sbatch") and which("srun")):
        yield Fault(f"{key}.cluster", cluster, "this machine has no sbatch and srun", "auto, local, debug")
    defaults = SubmititConf()
    for name, value in settings.items():
        if executor != "submitit" and value != getattr(defaults, name):
            yield _meaningless(f"submitit.{name}", value, "submitit")
    if settings["timeout"] < 1:
        yield Fault(f"{key}.timeout", settings["timeout"], "must be a whole number of at least 1 (minutes)")
    if settings["memory"] is not None and not settings["memory"] > 0:
        yield Fault(f"{key}.memory", settings["memory"], "must be a number above 0 (GB) or null")


def _meaningless(key: str, value: Any, *executors: str) -> Fault:
    *first, last = executors
    names = " or ".join([", ".join(first), last] if first else [last])
    return Fault(f"{_KEY}.{key}", value, f"has no meaning without hydra.launcher.executor={names}")
