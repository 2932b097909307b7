"""train.py and analyze.py as a user runs them, each in a process of its own, without four seconds of imports each time.

A process that has imported libraries, and nothing of this project, is forked for every run: what starts is `__main__`
with its own arguments, folder, environment and output. What depends on a fresh interpreter (what is imported and when,
how fast a fault is told) is tested with `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    *("torch", "pytorch_lightning", "torchmetrics", "mlflow", "mlflow.store.tracking.sqlalchemy_store", "alembic"),
    *("hydra.main", "pandas", "pydantic", "rich.progress", "rich.table", "scipy.stats", "sklearn.linear_model"),
)
"""What most runs import."""


class Program:
    """A run of a program; the part of `subprocess.Popen` that the tests use.

    Args:
        script: its file, below the project's folder.
        arguments: its command line.
        cwd: the folder that it runs in.
        env: its environment; None for that of the tests.
        first: Python code that its process runs first, to break something.
    """

    def __init__(
        self, script: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, first: str = ""
    ) -> None:
        self.args = [str(ROOT / script), *arguments]
        self.returncode: int | None = None
        nursery = _nursery()
        folder = Path(tempfile.mkdtemp(dir=nursery.parent))
        self._files = [folder / name for name in ("stdout", "stderr")]
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(str(nursery))
        asked = {"argv": self.args, "cwd": str(cwd), "files": [str(file) for file in self._files]}
        asked |= {"env": dict(os.environ if env is None else env), "first": first}
        self._answers = self._line.makefile("rw")
        self._answers.write(json.dumps(asked) + "\n")
        self._answers.flush()
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        """The exit status if it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status once it has ended."""
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._line.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Standard output and standard error once it has ended."""
        self.wait(timeout)
        out, err = (file.read_text() for file in self._files)
        return out, err

    def send_signal(self, signum: int) -> None:
        """As one types `kill`."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Without a word."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """In order."""
        self.send_signal(signal.SIGTERM)


def run(script: str, *arguments: str, cwd: Path, timeout: float = 300, **more: Any) -> subprocess.CompletedProcess[str]:
    """A `Program` run to its end; killed after `timeout` seconds."""
    program = Program(script, *arguments, cwd=cwd, **more)
    try:
        out, err = program.communicate(timeout)
    finally:
        program.kill()
    return subprocess.CompletedProcess(program.args, program.wait(), out, err)


@cache
def _nursery() -> Path:
    """Address of the process that forks; it ends with this one."""
    folder = tempfile.mkdtemp()
    address = Path(folder) / "nursery"
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "GOMP_SPINCOUNT": "30000"}
    process = subprocess.Popen([sys.executable, __file__, address], stdin=subprocess.PIPE, env=env, cwd=folder)
    atexit.register(shutil.rmtree, folder)
    atexit.register(process.communicate)  # which closes its input
    while not address.exists():
        assert process.poll() is None, "the process that is to be forked has ended"
        time.sleep(0.05)
    return address


# -- in the process that is forked ------------------------------------------------------------------------


def _serve(address: str) -> None:
    """Fork for every connection; tell it the child's number and, in the end, its exit status."""
    for name in HEAVY:
        import_module(name)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{address}.new")
        door.listen()
        alarm, bell = os.pipe()
        os.set_blocking(bell, False)
        signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        Path(f"{address}.new").rename(address)
        lines: dict[int, Any] = {}
        while True:
            ready = select.select([door, alarm, sys.stdin], [], [])[0]
            if sys.stdin in ready:  # closed: the tests have ended
                return
            if alarm in ready:
                os.read(alarm, 1000)
                _tell(lines)
            if door in ready:
                line = door.accept()[0].makefile("rw")
                asked = json.loads(line.readline())
                pid = os.fork()
                if pid == 0:
                    _become(asked)
                lines[pid] = line
                line.write(f"{pid}\n")
                line.flush()


def _tell(lines: dict[int, Any]) -> None:
    """Of every child that has ended, its exit status."""
    while lines:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with contextlib.suppress(BrokenPipeError):
            lines[pid].write(f"{os.waitstatus_to_exitcode(status)}\n")
            lines[pid].close()
        del lines[pid]


def _become(asked: dict[str, Any]) -> None:
    """Run the program in this process, which ends with it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in enumerate(asked["files"], start=1):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.set_inheritable(number, True)
    os.closerange(3, 256)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    script, paths = asked["argv"][0], asked["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.argv, sys.path[:1] = asked["argv"], [str(Path(script).parent), *filter(None, paths)]
    status = 1
    try:
        exec(asked["first"], {})
        runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:  # as the interpreter does
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1])
