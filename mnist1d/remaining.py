"""What of a sweep is recorded already, and what is left to train.

Stacks are planned from all runs that were asked for, whatever is recorded: so a fit that was cut off finds its
checkpoint again, which is named by its members.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mnist1d import provenance, summary
from mnist1d.analysis.read import FINGERPRINT, SWEEP, StoreError, read_runs
from mnist1d.config import Run
from mnist1d.plan import Stack, counted, fingerprint
from mnist1d.resume import checkpoint_path
from mnist1d.spelling import spelled
from mnist1d.tracking import COPY_TAG, DIVERGED_TAG, REASON_TAG

GIT, VERSIONS = "mnist1d.git", "mnist1d.versions"


@dataclass(frozen=True)
class Recorded:
    """A run in the store that need not be trained.

    Attributes:
        run_id: MLflow's id.
        name: the run's name in the UI.
        sweep: the sweep it belongs to, None for a run that was trained alone.
        finals: its final metrics.
        code: the state of the code and the versions it was trained with.
        copied: whether it was trained for another sweep and copied into this one.
        failure: why it has no final metrics: it diverged, as it was free to.
    """

    run_id: str
    name: str
    sweep: str | None
    finals: dict[str, float]
    code: tuple[str, str]
    copied: bool
    failure: str | None = None

    @property
    def of_this_code(self) -> bool:
        """Whether code and versions are those that would train it now."""
        tags = provenance.tags()
        return self.code == (tags[GIT], tags[VERSIONS])


def recorded(runs: Iterable[Run]) -> dict[str, Recorded]:
    """Runs in the store of `runs` that equal one of them, by fingerprint; the newest of each.

    They have finished, or diverged where `trainer.may_diverge` makes that a result.

    Nothing is written, and a local store that does not exist is not made. Raises `analysis.read.StoreError`, also
    where a recorded run has the fingerprint of one of `runs` and another config.
    """
    by_print = {fingerprint(run): run for run in runs}
    place = next(iter(by_print.values())).tracking
    found = read_runs(place.uri, folder=place.experiment, fingerprints=tuple(by_print)).table
    rows = [row for _, row in found.iterrows() if row["status"] == "FINISHED" or _may(row, by_print[row[FINGERPRINT]])]
    for row in rows:
        if differing := _differing(by_print[row[FINGERPRINT]], row):
            raise StoreError(_clash(row, place.uri, differing))
    return {row[FINGERPRINT]: _recorded(row) for row in rows}


def _may(row: pd.Series, run: Run) -> bool:
    """Whether a run that failed is a result for who asks for `run`."""
    return run.trainer.may_diverge and row.get(DIVERGED_TAG) == "true"


def _differing(run: Run, row: pd.Series) -> dict[str, tuple[Any, Any]]:
    """Keys that count for the fingerprint and have another value in the store: there, here."""
    values = {key: summary.typed(spelled(value)) for key, value in counted(run).items()}
    there = {key: row[key] if key in row and row[key] == row[key] else None for key in values}  # nan: not recorded
    return {key: (there[key], value) for key, value in values.items() if there[key] != value}


def _clash(row: pd.Series, uri: str, differing: Mapping[str, tuple[Any, Any]]) -> str:
    texts = (f"{key} is {spelled(there)} there and {spelled(here)} here" for key, (there, here) in differing.items())
    lines = (
        f"run {row['name']} ({row['run_id']}) in {uri} has the fingerprint {row[FINGERPRINT]} and not the config:",
        ", ".join(texts),
        "Its record was changed, or two configs have one hash. Delete it there, or set another tracking.experiment.",
    )
    return "\n  ".join(lines)


def _recorded(row: pd.Series) -> Recorded:
    def text(key: str) -> str:
        return str(row[key]) if key in row and isinstance(row[key], str) else ""

    numbers = {str(key): value for key, value in row.items() if isinstance(value, float)}
    finals = {key: value for key, value in summary.finals(numbers).items() if value == value}
    code = (text(GIT), text(VERSIONS))
    failure = None if row["status"] == "FINISHED" else text(REASON_TAG)
    return Recorded(row["run_id"], row["name"], text(SWEEP) or None, finals, code, bool(text(COPY_TAG)), failure)


def left(stack: Stack, known: Mapping[int, Recorded], sweep: str | None = None) -> Stack | None:
    """What of a planned stack is to be trained, when the runs with the indices in `known` are recorded; None: nothing.

    The members that are missing. Where a fit was cut off while its members were being recorded, it goes on with all
    of them: from its checkpoint that takes half a minute at most.

    Args:
        stack: as it was planned, whatever is recorded.
        known: recorded runs, by their places in the sweep.
        sweep: the sweep that goes on, to tell runs that were trained in it from others.
    """
    missing = stack.without(known)
    if missing is None:
        return None
    others = [index for index, run in known.items() if run.copied or run.sweep != sweep]
    for cut_off in (stack, stack.without(others)):
        if cut_off is not None and checkpoint_path(cut_off).exists():
            return cut_off
    return missing


def by_index(prints: Sequence[str], known: Mapping[str, Recorded]) -> dict[int, Recorded]:
    """`known`, by the places of the runs with these fingerprints in the sweep."""
    return {index: known[print_] for index, print_ in enumerate(prints) if print_ in known}
