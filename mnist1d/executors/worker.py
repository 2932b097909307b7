"""The far side: a process that trains stacks for a driver, which records what it is told."""

import gc
import logging
from collections.abc import Callable

from mnist1d.events import Event, Warned
from mnist1d.plan import Stack


def get_ready(threads: int) -> None:
    """Import what training needs, and let fits have so many threads unless their configs say otherwise."""
    gc.disable()  # as in train.py
    from mnist1d import hardware
    from mnist1d.fit import quiet

    gc.enable()
    quiet()
    hardware.allow(threads)


def train(stack: Stack, tell: Callable[[Event], None]) -> None:
    """`mnist1d.fit.train`; warnings are told as well, for nobody reads what this process prints."""
    from mnist1d import fit

    log, teller = logging.getLogger("mnist1d"), _Teller(stack, tell)
    log.addHandler(teller)
    try:
        fit.train(stack, tell)
    finally:
        log.removeHandler(teller)


class _Teller(logging.Handler):
    def __init__(self, stack: Stack, tell: Callable[[Event], None]) -> None:
        super().__init__(logging.WARNING)
        self._stack, self._tell = stack, tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(Warned(self._stack.indices, record.getMessage()))
