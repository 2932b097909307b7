"""Where a number comes from: the state of the code, the versions and the machine, as MLflow tags.

Nothing here imports torch or mlflow: versions are read from the installed packages' metadata, so `make help`
and the tests stay fast.
"""

from __future__ import annotations

import getpass
import os
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "pytorch-lightning", "mlflow", "numpy")


@dataclass(frozen=True)
class Git:
    """The commit checked out, its branch ("" when detached), and whether tracked files differ from it."""

    commit: str
    branch: str
    dirty: bool

    def __str__(self) -> str:
        return f"{self.commit[:12]}{'-dirty' if self.dirty else ''}"


def git_state(folder: Path) -> Git | None:
    """State of the git repository that holds `folder`; None without git, a repository or a first commit.

    One git call of a few milliseconds. Untracked files do not count as dirty: listing them is slow, and
    scratch files beside the code change no number.
    """
    command = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # never take index.lock: a commit may be under way beside us
    try:
        done = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return _parse_status(done.stdout)


def _parse_status(text: str) -> Git | None:
    lines = text.splitlines()
    header = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))
    commit, branch = header.get("branch.oid", "(initial)"), header.get("branch.head", "")
    if commit == "(initial)":
        return None
    dirty = any(not line.startswith("#") for line in lines)
    return Git(commit, "" if branch == "(detached)" else branch, dirty)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a run's numbers; a missing package is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """The processor's name as the operating system gives it, else its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores this process may use, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def tags() -> dict[str, str]:
    """The tags every recorded run carries; read once per process, about 10 ms.

    `mlflow.*` tags are the ones MLflow's own pages know (User, Source, Version). A few long tags instead of
    many short ones, because every tag is a database row.
    """
    found = {
        "mlflow.user": _user(),
        "mlflow.source.name": "mnist1d",
        "mlflow.source.type": "LOCAL",
        "mnist1d.versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "mnist1d.machine": f"{cpu_model()}, {cores()} cores, {platform.system()}",
        "mnist1d.git": "unknown",
    }
    git = git_state(Path(__file__).parent)
    if git is not None:
        found |= {"mnist1d.git": str(git), "mlflow.source.git.commit": git.commit}
        found |= {"mlflow.source.git.branch": git.branch} if git.branch else {}
    return found


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"
