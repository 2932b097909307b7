"""Read the runs from MLflow; draw the figure and the table of an experiment, beside what was published.

    python analyze.py                             # every experiment that has runs; about 2 s
    python analyze.py experiment=classification   # one; CNN and GRU drop from 92 and 90% to 58 and 54%
    python analyze.py experiment=classification profile=quick output=/somewhere

Keys: experiment, profile (only the runs of this profile), output (default mlruns/report; each experiment has
its folder in it), tracking.uri (default: MLFLOW_TRACKING_URI, else sqlite:///mlruns/mlflow.db),
tracking.experiment (only runs in this MLflow experiment).
Exit status: 0 written, 1 nothing to report or store unreadable, 2 the command line is wrong.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mnist1d.analysis import PAGES
from mnist1d.spelling import nearest

if TYPE_CHECKING:  # heavy: `--help` and a wrong key are answered without them
    from rich.console import Console

    from mnist1d.analysis.classification import Report

KEYS = ("experiment", "profile", "output", "tracking.uri", "tracking.experiment")
PROFILES = ("smoke", "quick", "paper")
LOCAL = "sqlite:///mlruns/mlflow.db"


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    experiments: tuple[str, ...]
    profile: str | None
    output: Path
    uri: str
    folder: str | None
    shared: tuple[str, ...]  # the arguments that train.py understands too


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv` (without the program's name); the exit status."""
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0
    faults = check(argv)
    if faults:
        print("\n".join(faults), file=sys.stderr)
        return 2
    return show(parse(argv))


def check(argv: Sequence[str]) -> list[str]:
    """All faults of the command line, one text each."""
    faults = []
    for argument in argv:
        key, equals, value = argument.partition("=")
        allowed = {"experiment": tuple(PAGES), "profile": PROFILES}.get(key)
        if key not in KEYS:
            faults.append(f"{argument}: no key {key!r}{_hint(key, KEYS)}. Keys: {', '.join(KEYS)}")
        elif not equals or not value:
            faults.append(f"{argument}: a value is needed, as in {key}=VALUE")
        elif allowed and value not in allowed:
            faults.append(f"{argument}: no {key} {value!r}{_hint(value, allowed)}. Allowed: {', '.join(allowed)}")
    return faults


def _hint(word: str, words: Sequence[str]) -> str:
    return "".join(f"; did you mean {close}" for close in nearest(word, words)[:1])


def parse(argv: Sequence[str]) -> Request:
    """A command line without faults as a request; of a repeated key the last one counts, as in Hydra."""
    given = dict(argument.split("=", 1) for argument in argv)
    return Request(
        experiments=(given["experiment"],) if "experiment" in given else tuple(PAGES),
        profile=given.get("profile"),
        output=Path(given.get("output", "mlruns/report")),
        uri=given.get("tracking.uri") or os.environ.get("MLFLOW_TRACKING_URI") or LOCAL,
        folder=given.get("tracking.experiment"),
        shared=tuple(f"{key}={given[key]}" for key in given if key not in ("experiment", "output")),
    )


def show(request: Request) -> int:
    """Write and print the page of every experiment asked for that has runs; the exit status."""
    from rich.console import Console

    from mnist1d.analysis.read import StoreError, read_runs

    console, written = Console(highlight=False), 0
    for name in request.experiments:
        page = import_module(PAGES[name])
        try:
            runs = read_runs(request.uri, name, metrics=page.METRICS, folder=request.folder)
            if request.profile is not None:
                runs = runs.where("profile", request.profile)
            report = page.report(runs, request.output / name)
        except StoreError as problem:
            print(problem, file=sys.stderr)
            return 1
        except page.NoRuns as problem:
            command = " ".join(("python train.py -m", f"experiment={name}", *request.shared))
            print(f"experiment={name}: {problem} in {request.uri}\nTo make them: {command}", file=sys.stderr)
            continue
        written += 1
        _print(console, report)
    return 0 if written else 1


def _print(console: Console, report: Report) -> None:
    from rich import box
    from rich.table import Table

    for part in report.tables:
        table = Table(*part.columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for row in part.rows:
            table.add_row(*row)
        console.print(f"\n{part.title}", style="bold")
        console.print(table)
        console.print(part.note, style="dim")
    console.print()
    for line in (*report.remarks, *(f"written: {path}" for path in report.paths)):
        console.print(line, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
