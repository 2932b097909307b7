"""Read the runs from MLflow; write the report: every claim and ablation with its verdict, figures and tables.

    python analyze.py                             # every experiment: mlruns/report/report.html; about 4 s,
                                                  # and 7 s more for SimCLR's embedding
    python analyze.py experiment=classification   # one; CNN and GRU drop from 93 and 91% to 57 and 51%
    python analyze.py compare=SWEEP_A,SWEEP_B     # two sweeps, paired by seed; Markdown and LaTeX table

Keys: experiment, profile (only the runs of this profile), output (default mlruns/report; each experiment has
its folder in it), tracking.uri (default: MLFLOW_TRACKING_URI, else sqlite:///mlruns/mlflow.db),
tracking.experiment (only runs in this MLflow experiment), compare (two sweeps by name or folder).
Exit status: 0 written, 1 nothing to report or store unreadable, 2 the command line or a file in
conf/claim or conf/page is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from mnist1d.analysis import OWN, PAGES, PROFILES, TITLES, store
from mnist1d.spelling import hint, unknown

if TYPE_CHECKING:  # heavy: `--help` and a wrong key are answered without them
    from rich.console import Console

    from mnist1d.analysis.page import Page, Table
    from mnist1d.analysis.read import Runs
    from mnist1d.analysis.report import Section

KEYS = ("experiment", "profile", "output", "tracking.uri", "tracking.experiment", "compare")


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    experiments: tuple[str, ...]
    profile: str | None
    output: Path
    uri: str
    folder: str | None
    shared: tuple[str, ...]  # the arguments that train.py understands too
    compare: tuple[str, ...]  # no sweeps, or two


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv` (without the program's name); the exit status."""
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0
    faults = check(argv)
    if faults:
        print("\n".join(faults), file=sys.stderr)
        return 2
    request = parse(argv)
    return _compare(request) if request.compare else show(request)


def check(argv: Sequence[str]) -> list[str]:
    """All faults of the command line, one text each."""
    faults = []
    for argument in argv:
        key, equals, value = argument.partition("=")
        allowed = {"experiment": (*TITLES, *OWN), "profile": PROFILES}.get(key)
        if key not in KEYS:
            faults.append(f"{argument}: no key {key!r}{hint(key, KEYS)}. Keys: {', '.join(KEYS)}")
        elif not equals or not value:
            faults.append(f"{argument}: a value is needed, as in {key}=VALUE")
        elif allowed and value not in allowed:
            faults.append(f"{argument}: {unknown(key, value, allowed)}")
        elif key == "compare" and len(list(filter(None, value.split(",")))) != 2:
            faults.append(f"{argument}: two sweeps are needed, as in compare=SWEEP_A,SWEEP_B")
    keys = {argument.partition("=")[0] for argument in argv}
    if "compare" in keys and (idle := keys & {"experiment", "profile"}):
        faults.append(f"compare takes two sweeps whole: leave out {' and '.join(sorted(idle))}")
    return faults


def parse(argv: Sequence[str]) -> Request:
    """A command line without faults as a request; of a repeated key the last one counts, as in Hydra."""
    given = dict(argument.split("=", 1) for argument in argv)
    return Request(
        experiments=(given["experiment"],) if "experiment" in given else (*TITLES, *OWN),
        profile=given.get("profile"),
        output=Path(given.get("output", "mlruns/report")),
        uri=store(given),
        folder=given.get("tracking.experiment"),
        shared=tuple(f"{key}={given[key]}" for key in given if key not in ("experiment", "output", "compare")),
        compare=tuple(given["compare"].split(",")) if "compare" in given else (),
    )


def show(request: Request) -> int:
    """Write the report of the experiments asked for and print their tables and verdicts; the exit status."""
    from rich.console import Console

    from mnist1d.analysis.read import StoreError
    from mnist1d.analysis.report import write
    from mnist1d.config import ConfigError

    console = Console(highlight=False)
    try:
        sections = [_section(request, name) for name in request.experiments]
    except (StoreError, ConfigError) as problem:
        print(problem, file=sys.stderr)
        return 2 if isinstance(problem, ConfigError) else 1
    for section in sections:
        _print(console, section)
    _print_verdicts(console, sections)
    for path in write(sections, request.output):
        console.print(f"written: {path}", markup=False, soft_wrap=True)
    absent = [section for section in sections if section.page is None]
    for reason in dict.fromkeys(section.absent for section in absent):
        print(_missing([section for section in absent if section.absent == reason], request), file=sys.stderr)
    return 1 if len(absent) == len(sections) else 0


def _missing(sections: Sequence[Section], request: Request) -> str:
    """What to do about experiments that have no results for the same reason."""
    (first, *others), several = sections, f" ({len(sections)} experiments)" if len(sections) > 1 else ""
    words = (first.command.replace(f"={first.experiment}", "=NAME") if others else first.command).split()
    command = " ".join(dict.fromkeys((*words, *request.shared)))
    named = f"experiment={','.join(each.experiment for each in sections)}{several}: {first.absent} in {request.uri}"
    return f"{named}\nTo make them: {command}" + (", or all: make reproduce-all" if others else "")


def _section(request: Request, name: str) -> Section:
    from mnist1d.analysis.claims import judge_all, load
    from mnist1d.analysis.evidence import unjudged
    from mnist1d.analysis.page import NoRuns
    from mnist1d.analysis.read import read_runs
    from mnist1d.analysis.report import Section

    metrics, page_of = _page(name)
    claims = load(name)
    runs = read_runs(request.uri, name, metrics=metrics, folder=request.folder)
    if request.profile is not None:
        runs = runs.where("profile", request.profile)
    try:
        page = page_of(runs)
    except NoRuns as problem:
        return Section(name, None, tuple(map(unjudged, claims)), str(problem), problem.again)
    return Section(name, page, judge_all(claims, page.statistics), histories=runs.histories)


def _page(name: str) -> tuple[Sequence[str], Callable[[Runs], Page]]:
    """The histories that the page of an experiment needs, and what makes it of runs."""
    if name not in PAGES:
        from mnist1d.analysis import ablation, described_page

        description = described_page.load(name)
        return description.metrics, partial(ablation.page, description)
    module = import_module(PAGES[name])
    return module.METRICS, module.page


def _compare(request: Request) -> int:
    from rich.console import Console

    from mnist1d.analysis import compare
    from mnist1d.analysis.read import StoreError

    console = Console(highlight=False)
    try:
        sweep_a, sweep_b = request.compare
        found = compare.run(request.uri, request.folder, sweep_a, sweep_b, request.output)
    except (StoreError, ValueError) as problem:
        print(problem, file=sys.stderr)
        return 1
    _print_table(console, found.table)
    console.print()
    for line in (*found.remarks, *(f"written: {path}" for path in found.paths)):
        console.print(line, markup=False, soft_wrap=True)
    return 0


def _print(console: Console, section: Section) -> None:
    if section.page is None:
        return
    for table in section.page.tables:
        _print_table(console, table)
    console.print()
    for line in section.page.remarks:
        console.print(line, markup=False, soft_wrap=True)


def _print_verdicts(console: Console, sections: Sequence[Section]) -> None:
    from mnist1d.analysis.evidence import shown
    from mnist1d.analysis.page import Table

    found = [one for section in sections if section.page for one in section.judgements]
    if found:
        rows = tuple((shown(one.verdict), one.claim.title) for one in found)
        _print_table(console, Table("Claims", ("verdict", "claim"), rows, "The evidence is in the report."))
    without = sum(len(section.judgements) for section in sections if section.page is None)
    if without:
        console.print(f"Claims that wait for runs: {without}")
    console.print()


def _print_table(console: Console, part: Table) -> None:
    from rich import box
    from rich import table as rich_table

    table = rich_table.Table(*part.columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for row in part.rows:
        table.add_row(*row)
    console.print(f"\n{part.title}", style="bold", markup=False)
    console.print(table)
    console.print(part.note, style="dim", markup=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
