"""Real servers of the tests: MLflow's on SQLite and on PostgreSQL, PostgreSQL itself, and a line that can be cut."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import requests

from tests.conftest import ROOT

POSTGRES = Path("/usr/lib/postgresql/15/bin")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """The server that `make ui` starts, on a database of its own; also what a remote server runs."""

    def __init__(self, database: str, folder: Path) -> None:
        self.port, self.folder = free_port(), folder
        asked = subprocess.run(
            ["make", "-n", "ui", f"PORT={self.port}"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        command = asked.stdout[asked.stdout.index("MLFLOW_DISABLE_TELEMETRY") :]
        self.command = command.replace(".venv/bin/mlflow", str(Path(sys.executable).with_name("mlflow")))
        self.env = {**os.environ, "MLFLOW_TRACKING_URI": database}
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", self.command],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            with suppress(requests.RequestException):
                if requests.get(f"{self.uri}/health", timeout=1).ok:
                    return
            time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of our own on loopback; yields the URI of its empty database. Skips the test where it is missing."""
    if not (POSTGRES / "initdb").exists():
        pytest.skip(f"PostgreSQL 15's server is not installed ({POSTGRES}); on Debian: apt install postgresql")
    pytest.importorskip("psycopg2", reason="pip install 'mnist1d-lab[postgres]'")
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    with TemporaryDirectory(prefix="postgres-") as name:  # pytest's own folders are closed to other users
        folder, data, port = Path(name), Path(name) / "data", free_port()
        if user:  # it refuses to run as root
            shutil.chown(folder, "postgres", "postgres")

        def run(program: str, *arguments: str | Path) -> None:
            argv = [*user, POSTGRES / program, "-D", data, *arguments]
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, cwd=folder)

        made = ("--auth=trust", "--username=lab", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C")
        run("initdb", *made)
        options = f"-c listen_addresses=127.0.0.1 -p {port} -c fsync=off -c unix_socket_directories={folder}"
        run("pg_ctl", "-s", "-w", "-o", options, "-l", folder / "postgres.log", "start")
        try:
            yield f"postgresql://lab@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-s", "-w", "-m", "immediate", "stop")


class Line:
    """A way to a server on this machine that can be cut and mended, as the server's end and return would look."""

    def __init__(self, port: int) -> None:
        self.server, self.port = port, free_port()
        self.answers = True  # False: what is asked arrives, the answer does not, and the line is cut
        self._open: list[socket.socket] = []
        self.mend()

    def mend(self) -> None:
        self.answers = True
        listener = socket.create_server(("127.0.0.1", self.port))
        self._open = [listener]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                ours, _ = listener.accept()
                theirs = socket.create_connection(("127.0.0.1", self.server))
                self._open += [ours, theirs]
                for pair in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pass_on, args=(*pair, pair[0] is theirs), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if answer and not self.answers:
                    self.cut()
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
