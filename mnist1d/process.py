"""Which process trains a run, and whether it lives: numbers of processes are used again, machines start again."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process anywhere; `spelled` and `read` turn it into one word of text and back.

    Attributes:
        pid: its number.
        started: when it started, in words that no other process of this number on this machine ever shares.
        host: name of its machine.
        machine: what tells machines of one name apart, "" where nothing does.
    """

    pid: int
    started: str
    host: str
    machine: str

    @classmethod
    def this(cls) -> Process:
        """The running process."""
        return cls(os.getpid(), _started(os.getpid()) or "unknown", socket.gethostname(), _machine())

    @classmethod
    def read(cls, text: str) -> Process | None:
        """The process that `spelled` wrote down; None for any other text."""
        parts = text.split("|")
        if len(parts) != 4 or not parts[0].isdecimal():
            return None
        return cls(int(parts[0]), *parts[1:])

    def spelled(self) -> str:
        """All of it in one tag."""
        return f"{self.pid}|{self.started}|{self.host}|{self.machine}"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return (self.host, self.machine) == (socket.gethostname(), _machine())

    @property
    def is_dead(self) -> bool:
        """Whether it has certainly ended; of a process on another machine nobody here can tell."""
        return self.is_here and self.started != "unknown" and _started(self.pid) != self.started


def _started(pid: int) -> str | None:
    """When a process of this machine started; None if there is none (a zombie has ended)."""
    if platform.system() != "Linux":
        return _started_by_ps(pid)
    try:
        # proc(5): after the name in brackets come the state and, 19 fields on, clock ticks since the machine started
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else f"{_boot()}-{fields[19]}"
    except OSError:
        return None


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]


def _started_by_ps(pid: int) -> str | None:
    try:
        asked = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def _machine() -> str:
    try:
        return Path("/etc/machine-id").read_text().strip()[:12]
    except OSError:
        return ""
