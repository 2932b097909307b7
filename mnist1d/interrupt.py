"""Ctrl-C and SIGTERM end a program in an orderly way: what was measured is written, then it exits."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = {signal.SIGINT: "Ctrl-C (SIGINT)", signal.SIGTERM: "SIGTERM"}


class Interrupted(SystemExit):
    """Raised where the program is when the signal arrives; ends it with the shell's status, 128 + the signal's number.

    It is no `KeyboardInterrupt`, which Lightning would turn into exit status 1.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.name = NAMES[signal.Signals(signum)]

    def __str__(self) -> str:
        return self.name


def listen() -> None:
    """Raise `Interrupted` on the first signal; later ones are ignored, for the store is being written then."""
    for signum in NAMES:
        signal.signal(signum, _raise)


def listen_again() -> None:
    """Have Python's handlers called again, whatever they are, after a library has put its own beneath them."""
    for signum in NAMES:
        if (handler := signal.getsignal(signum)) is not None:
            signal.signal(signum, handler)


@contextmanager
def children_deaf() -> Iterator[None]:
    """Processes started meanwhile never hear Ctrl-C, which a terminal sends to all: their parent decides."""
    if os.name != "posix":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _raise(signum: int, _frame: FrameType | None) -> None:
    for each in NAMES:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(signum)
