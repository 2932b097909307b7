"""What a sweep says at the terminal: the plan, one progress bar, the table, the failures, where to look.

Only output: nothing here knows of MLflow, torch or configs. When the output is not a terminal (a log file,
CI), the bar becomes a plain line every ten seconds or so.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mnist1d import summary
from mnist1d.analysis import STORE
from mnist1d.analysis.intervals import Interval
from mnist1d.spelling import duration, spelled, without_password

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID
    from rich.table import Table

PLAIN_SECONDS = 10.0
"""Least time between two plain lines."""
MOST_SETTINGS = 30
"""Rows of a table before it is cut to the best ones."""
MOST_FAILURES = 20
SHOWN = {"test/acc_final": "final", "test/acc_best": "best", "test/acc_selected": "selected"}
"""Metrics in the table, in this order, with their headings; all are accuracies, shown in percent."""


class Terminal:
    """Writes to `console`, by default standard output."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console(highlight=False)

    def plan(
        self,
        *,
        runs: int,
        settings: int,
        stacks: int,
        steps: int,
        where: str | None,
        seconds: float | None = None,
        workers: int = 1,
    ) -> None:
        """What is about to happen.

        Args:
            runs: runs that were asked for.
            settings: how many settings they belong to.
            stacks: batched computations that those to be trained are packed into; none is left unsaid.
            steps: their optimiser steps, summed.
            where: the tracking URI; None if it has been told.
            seconds: expected training time, when it can be told; less than half a second goes without saying.
            workers: processes that train at the same time; one goes without saying.
        """
        parts = [_count(runs, "run"), _count(settings, "setting")]
        if stacks:
            parts += [_count(stacks, "stack"), f"{_short(steps)} run-steps"]
            parts += [_count(workers, "worker")] * (workers > 1)
        if seconds is not None and seconds >= 0.5:
            parts.append(f"training about {duration(seconds)}")
        self.say(" · ".join(parts))
        if where is not None:
            self.say(f"recorded in {without_password(where)}", style="dim")

    def orphans(self, runs: int) -> None:
        """Runs were found that were cut off without anyone noticing; nothing if there are none."""
        if runs:
            self.say(f"{_count(runs, 'run')} of a process that is gone {_are(runs)} marked FAILED")

    def recorded(self, runs: int, total: int, other_codes: Sequence[str] = ()) -> None:
        """Some of the runs need not be trained; nothing if there are none.

        Args:
            runs: how many are recorded.
            total: how many were asked for.
            other_codes: for each of those that other code or versions trained, the state of the code.
        """
        if not runs:
            return
        line = f"{runs:,} of {_count(total, 'run')} {_are(runs)} recorded already; force=true trains them again"
        if other_codes:
            codes = ", ".join(dict.fromkeys(other_codes))
            line += f" ({len(other_codes):,} come{'s' * (len(other_codes) == 1)} from other code or versions: {codes})"
        self.say(line)

    @contextmanager
    def progress(self, total_runs: int, total_steps: int, done: int = 0) -> Iterator[Progress]:
        """The sweep's progress, as a bar or as plain lines; shown until the `with` block ends.

        Args:
            total_runs: runs in the sweep.
            total_steps: optimiser steps that are left, summed over the runs.
            done: runs that are recorded already.
        """
        progress = Progress(total_runs, total_steps)
        progress.runs = done
        try:
            with self._bar(progress) if self.console.is_terminal else self._lines(progress):
                yield progress
        finally:
            progress.show = lambda: None  # an interrupted sweep ends its runs after the last line

    def goes_on(self, runs: int, step: int, steps: int) -> None:
        """A fit is not begun but taken up, after `step` of its `steps`."""
        self.say(f"{_count(runs, 'run')} go{'es' if runs == 1 else ''} on at step {step:,} of {steps:,}")

    def repeated(self, runs: int, reason: str) -> None:
        """Runs are trained once more, because the process that trained them was lost."""
        self.say(f"{_count(runs, 'run')} {_are(runs)} trained once more: {reason}")

    def table(self, rows: Sequence[summary.Row]) -> None:
        """One line per setting: accuracies in percent as mean ± half the 95% interval, n, failed runs.

        More than 30 settings are cut to the best by selected, else final, accuracy. A terminal too narrow for
        the table gets a sentence per setting instead.
        """
        if not rows:
            return
        shown = _best(rows, MOST_SETTINGS)
        keys, numbers = _key_columns(shown), _number_columns(shown)
        self._print(keys, numbers)
        if len(shown) < len(rows):
            self.say(f"The best {len(shown)} of {len(rows)} settings; the parent run's summary.csv has all.")
        self.say(_meaning(max(row.n for row in rows)), style="dim")

    def failures(self, failed: Sequence[tuple[str, str]]) -> None:
        """The failed runs as (name, reason); nothing when there are none."""
        if not failed:
            return
        self.say(f"{_count(len(failed), 'run')} failed:", style="bold red")
        for name, reason in failed[:MOST_FAILURES]:
            self.say(f"  {name}: {reason}")
        if len(failed) > MOST_FAILURES:
            self.say(f"  … and {len(failed) - MOST_FAILURES} more, each with its reason in the UI")

    def diverged(self, runs: int) -> None:
        """How many runs diverged that were free to; nothing when there are none."""
        if runs:
            why = "each is FAILED with its step, and a result (trainer.may_diverge)"
            self.say(f"{_count(runs, 'run')} diverged, as expected here: {why}")

    def caught_up(self, runs: int, refused: Sequence[str] = ()) -> None:
        """Runs that were kept while the store was away are recorded now, and why others could not be; nothing if none.

        Args:
            runs: how many are.
            refused: for each that could not be, the reason.
        """
        if runs:
            self.say(f"{_count(runs, 'run')} that {_was(runs)} kept while the store was away {_are(runs)} recorded now")
        for reason in refused[:MOST_FAILURES]:
            self.say(reason, style="bold red")

    def kept(self, runs: int, command: str) -> None:
        """How many runs are not recorded but kept on disk, and what records them; nothing if there are none."""
        if runs:
            line = f"{_count(runs, 'run')} {_are(runs)} kept on disk and not recorded yet, for the store is away."
            self.say(line, style="bold red")
            self.say(f"Once it is back, the next start records {'it' if runs == 1 else 'them'}, or")
            self.say(f"{'':<12} {command}")

    def where(self, *, uri: str, experiment: str, sweep: str, commands: Sequence[str] = ()) -> None:
        """Where to look and what to do next.

        Args:
            uri: the tracking URI; a server is its own UI, any other store is opened by `make ui`.
            experiment: the MLflow experiment.
            sweep: name of the parent run in it.
            commands: commands to go on with, ready to be copied.
        """
        # MLflow opens on its page for language models
        self.say(f"Look at it:  {_ui(uri)}   (choose Model training, experiment {experiment}, run {sweep})")
        self.go_on(commands)

    def go_on(self, commands: Sequence[str]) -> None:
        """Commands to go on with, ready to be copied."""
        for heading, command in zip(["Go on with:", *[""] * len(commands)], commands, strict=False):
            self.say(f"{heading:<12} {command}")

    def _print(self, keys: Columns, numbers: Columns) -> None:
        table = _table(keys, numbers)
        if _width(table, self.console) <= self.console.width:
            self.console.print(table)
        else:
            self.say("\n".join(_sentences(keys, numbers)))

    def columns(self, settings: Sequence[dict[str, Any]], numbers: dict[str, list[Any]], what: str) -> None:
        """A table with one line for each of `what`: its setting, then `numbers` by heading; the first 30 of them."""
        if not settings:
            return
        keys = _key_columns([summary.Row(setting, 0, 0, {}) for setting in settings[:MOST_SETTINGS]])
        self._print(
            keys, {heading: [str(cell) for cell in cells[:MOST_SETTINGS]] for heading, cells in numbers.items()}
        )
        if len(settings) > MOST_SETTINGS:
            self.say(f"… and {len(settings) - MOST_SETTINGS:,} more {what}")

    def say(self, line: str, style: str | None = None) -> None:
        """One line, however long."""
        # soft_wrap: a command or path that rich has broken into lines cannot be copied
        self.console.print(line, style=style, markup=False, soft_wrap=True)

    @contextmanager
    def _bar(self, progress: Progress) -> Iterator[None]:
        bar = _make_bar(self.console)
        task = bar.add_task("", total=progress.total_steps, status=progress.status(), rate="")
        progress.show = lambda: _update(bar, task, progress)
        with bar:
            yield
            progress.show()

    @contextmanager
    def _lines(self, progress: Progress) -> Iterator[None]:
        said = time.monotonic()
        self.say(progress.status())

        def show() -> None:
            nonlocal said
            if time.monotonic() - said >= PLAIN_SECONDS:
                said = time.monotonic()
                self.say(progress.line())

        progress.show = show
        try:
            yield
        finally:
            self.say(progress.line())


class Progress:
    """How far a sweep is; tell it what happened and it shows itself."""

    def __init__(self, total_runs: int, total_steps: int) -> None:
        self.total_runs, self.total_steps = total_runs, total_steps
        self.runs = self.steps = 0
        self.best_accuracy = math.nan
        self.show: Callable[[], object] = lambda: None
        self._started = time.monotonic()

    def advance(self, steps: int) -> None:
        """`steps` more optimiser steps, counted per run: 20 stacked runs making 50 steps each are 1000."""
        self.steps += steps
        self.show()

    def skip(self, steps: int) -> None:
        """`steps` need not be made: they were made before."""
        self.total_steps -= steps

    def finished(self, runs: int = 1) -> None:
        """`runs` more runs have ended, well or badly."""
        self.runs += runs
        self.show()

    def best(self, accuracy: float) -> None:
        """A test accuracy in [0, 1] was measured; the highest so far is shown, NaN is passed over."""
        if not accuracy <= self.best_accuracy and not math.isnan(accuracy):
            self.best_accuracy = accuracy

    def rate(self) -> float:
        """Run-steps per second since the start."""
        return self.steps / max(time.monotonic() - self._started, 1e-9)

    def status(self) -> str:
        """Runs done and the best accuracy: "12/40 runs · best 65.1%"."""
        runs = f"{self.runs}/{self.total_runs} runs"
        return runs if math.isnan(self.best_accuracy) else f"{runs} · best {self.best_accuracy:.1%}"

    def line(self) -> str:
        """Everything in one plain line."""
        elapsed, left = time.monotonic() - self._started, self.total_steps - self.steps
        parts = [self.status(), f"{_short(self.rate())} run-steps/s", f"{duration(elapsed)} elapsed"]
        if self.steps and left > 0:
            parts.append(f"{duration(left / self.rate())} left")
        return " · ".join(parts)


def _make_bar(console: Console) -> Bar:
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        BarColumn(bar_width=None),
        TextColumn("{task.fields[status]}", markup=False),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    # four times a second: drawing takes a core away from training
    return Bar(*columns, console=console, refresh_per_second=4, expand=True)


def _update(bar: Bar, task: TaskID, progress: Progress) -> None:
    rate = f"{_short(progress.rate())} run-steps/s"
    bar.update(task, total=progress.total_steps, completed=progress.steps, status=progress.status(), rate=rate)


def _best(rows: Sequence[summary.Row], most: int) -> list[summary.Row]:
    """All rows in their order, or only the `most` best ones, best first."""
    if len(rows) <= most:
        return list(rows)
    return sorted(rows, key=_score, reverse=True)[:most]


def _score(row: summary.Row) -> float:
    for name in ("test/acc_selected", "test/acc_final"):
        if name in row.metrics and not math.isnan(row.metrics[name].mean):
            return row.metrics[name].mean
    return -math.inf


def _meaning(most: int) -> str:
    """What the numbers of a table are whose largest n is `most`."""
    if most == 0:
        return "No run finished, so there is no accuracy to show."
    meaning = "mean ± half the 95% interval over n runs" if most > 1 else "one run each, so no interval"
    return f"Accuracy on test data in percent; {meaning}."


def _ui(uri: str) -> str:
    """The address or command that shows the store `uri`."""
    uri = without_password(uri)
    if uri.startswith("http"):
        return uri
    return "make ui" if uri == STORE else f"MLFLOW_TRACKING_URI={shlex.quote(uri)} make ui"


Columns = dict[str, list[str]]  # heading -> one cell per row


def _key_columns(rows: Sequence[summary.Row]) -> Columns:
    keys = dict.fromkeys(key for row in rows for key in row.setting)
    short = summary.labels(keys, keys)
    return {short[key]: [_cell(row.setting, key) for row in rows] for key in short}


def _cell(setting: dict[str, Any], key: str) -> str:
    return spelled(setting[key]) if key in setting else "–"


def _table(keys: Columns, numbers: Columns) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in keys:
        table.add_column(heading)
    for heading in numbers:
        table.add_column(heading, justify="right")
    for cells in zip(*keys.values(), *numbers.values(), strict=True):
        table.add_row(*map(escape, cells))
    return table


def _sentences(keys: Columns, numbers: Columns) -> Iterator[str]:
    for i in range(len(next(iter(numbers.values())))):
        setting = " ".join(f"{heading}={cells[i]}" for heading, cells in keys.items() if cells[i] != "–")
        values = ", ".join(f"{heading} {cells[i]}" for heading, cells in numbers.items())
        yield f"{setting or 'all runs'}: {values}"


def _width(table: Table, console: Console) -> int:
    """Columns of the terminal that the table wants, however narrow it is."""
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def _number_columns(rows: Sequence[summary.Row]) -> Columns:
    shown = {name: title for name, title in SHOWN.items() if any(name in row.metrics for row in rows)}
    columns = {title: [_percent(row.metrics.get(name)) for row in rows] for name, title in shown.items()}
    columns["n"] = [str(row.n) for row in rows]
    columns["failed"] = [str(row.failed) for row in rows]
    return columns


def _percent(interval: Interval | None) -> str:
    if interval is None or math.isnan(interval.mean):
        return "–"
    if math.isnan(interval.low):
        return f"{100 * interval.mean:.1f}"
    return f"{100 * interval.mean:.1f} ± {50 * (interval.high - interval.low):.1f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def _short(number: float) -> str:
    """A count in few characters: 950, 12.3k, 4.6M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"
