"""What is wrong with a configuration, in words a user can act on."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from mnist1d.spelling import spelled

MOST_LINES = 30
LONGEST = 200  # characters of what was typed that are shown


class Absent:
    """Stands for the value of a fault that lies in the key itself."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a configuration.

    Attributes:
        key: full dotted key, or what was typed where no key could be read from it.
        value: the value given, or `Absent`.
        problem: what is wrong with it.
        allowed: what would be accepted.
        nearest: known keys or options that resemble the one given, best first.
    """

    key: str
    value: Any
    problem: str
    allowed: str = ""
    nearest: tuple[str, ...] = ()

    @property
    def given(self) -> str:
        """The offending part of the command line, as the user would type it."""
        text = printable(self.key if self.value is Absent else f"{self.key}={spelled(self.value)}")
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 20]}…{text[-19:]}"

    def __str__(self) -> str:
        parts = [self.problem]
        if self.nearest:
            parts.append(f"nearest: {', '.join(self.nearest)}")
        if self.allowed:
            parts.append(f"allowed: {self.allowed}")
        return f"{self.given}: {printable('; '.join(parts))}"


@dataclass(frozen=True)
class Conflict(Fault):
    """A fault of several keys together: each of them alone is fine."""


class ConfigError(ValueError):
    """A configuration with faults; `faults` holds all of them, each once."""

    def __init__(self, faults: Iterable[Fault]):
        self.faults = list({str(fault): fault for fault in faults}.values())
        super().__init__(report(self.faults))


def printable(text: str) -> str:
    """`text` with escapes for what would not be seen in a terminal, or do something there."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def report(faults: Sequence[Fault]) -> str:
    """One line per fault, what was typed in the first column; at most `MOST_LINES`."""
    width = min(max((len(fault.given) for fault in faults), default=0), 40)
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    lines = [f"{count} in the configuration:"]
    for fault in faults[:MOST_LINES]:
        lines.append(f"  {fault.given:<{width}}  {str(fault).removeprefix(fault.given + ': ')}")
    if len(faults) > MOST_LINES:
        lines.append(f"  … and {len(faults) - MOST_LINES} more")
    return "\n".join(lines)


def refuse(faults: Iterable[Fault]) -> NoReturn:
    """Print all faults to stderr and end the program with status 2."""
    print(ConfigError(faults), file=sys.stderr)
    raise SystemExit(2)
