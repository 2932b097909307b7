"""The whole paper in one command: every experiment trained, judged and reported, several at a time.

    python -m mnist1d.reproduce                              # all experiments at reduced sizes
    python -m mnist1d.reproduce profile=paper seeds=5        # at the paper's own sizes, 5 seeds everywhere
    python -m mnist1d.reproduce experiments=paper workers=1  # the paper's eight alone, one after the other

It runs what a user would type, `train.py -m experiment=NAME` and `analyze.py experiment=NAME`, for each experiment,
then `analyze.py` for the report. What is recorded already is not trained again, so the same command goes on where it
was cut off. What each program says is in mlruns/reproduce/NAME.log.

Keys: experiments (paper, ours, ablations, all, or names with commas; default all), profile (smoke, quick, paper;
default quick), seeds (in place of every number of seeds that a profile has), workers (experiments at a time, each with
its share of the cores unless its file sets trainer.threads; default one per core), output (of the report; default
mlruns/report), tracking.uri (as analyze.py).
Exit status: 0 all trained and reported, 1 some failed, 2 the command line is wrong, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import csv
import os
import runpy
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, get_all_start_methods, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mnist1d import interrupt
from mnist1d.analysis import PROFILES, SIGNS, TITLES, store
from mnist1d.provenance import cores
from mnist1d.spelling import hint, unknown

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from rich.console import Console
    from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf" / "experiment"
LOGS = Path("mlruns/reproduce")
PAPER = (
    *("classification", "tsne", "lottery", "double_descent"),
    *("metalearn_lr", "metalearn_activation", "simclr", "pooling"),
)
GROUPS = {
    "paper": PAPER,
    "ours": tuple(name for name in TITLES if name not in PAPER and not name.startswith("ablation_")),
    "ablations": tuple(name for name in TITLES if name.startswith("ablation_")),
    "all": tuple(TITLES),
}
"""What `experiments=` may name besides experiments."""
KEYS = ("experiments", "profile", "seeds", "workers", "output", "tracking.uri")
IMPORTED = (
    *("torch", "pytorch_lightning", "mlflow.store.tracking.sqlalchemy_store", "alembic", "hydra.main", "pandas"),
    *("pydantic", "rich.progress", "rich.table", "scipy.stats", "sklearn.linear_model", "matplotlib.pyplot"),
)
"""Imported once, by the process that all others are forked from: 4 seconds that every program would need."""
NEEDS = {"activation_transfer": "metalearn_activation"}
"""Experiment -> the one whose results it starts from."""


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    experiments: tuple[str, ...]
    profile: str
    seeds: int | None
    workers: int
    output: str
    uri: str

    def training(self, experiment: str) -> list[str]:
        """Arguments of train.py."""
        file = described(experiment)
        asked = ["-m", f"experiment={experiment}", f"profile={self.profile}"]
        if "threads" not in file["trainer"]:  # an experiment that sets them measures by them
            asked.append(f"trainer.threads={max(1, cores() // self.workers)}")
        if self.seeds is not None:
            numbers = [key for key in file["profiles"][self.profile] if key.endswith("seeds")]
            asked += [f"profiles.{self.profile}.{key}={self.seeds}" for key in numbers]
        return [*asked, f"tracking.uri={self.uri}"]

    def analysis(self, experiment: str | None, output: str) -> list[str]:
        """Arguments of analyze.py; None for the report of all."""
        which = [] if experiment is None else [f"experiment={experiment}"]
        return [*which, f"profile={self.profile}", f"tracking.uri={self.uri}", f"output={output}"]


@dataclass
class Job:
    """An experiment on its way: waiting, training, judging, then done or failed."""

    experiment: str
    expected: float | None
    state: str = "waiting"
    process: BaseProcess | None = None
    began: float = 0.0
    ended: float = 0.0
    verdicts: Counter[str] = field(default_factory=Counter)

    @property
    def log(self) -> Path:
        """What train.py and analyze.py said."""
        return LOGS / f"{self.experiment}.log"

    @property
    def seconds(self) -> float:
        """Since it began, until it ended."""
        return (self.ended or time.monotonic()) - self.began if self.began else 0.0

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "failed")

    def last_lines(self, number: int) -> list[str]:
        """The newest lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return [line.strip() for line in lines if line.strip()][-number:]


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv` (without the program's name); the exit status."""
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0
    faults = list(check(argv))
    if faults:
        print("\n".join(faults), file=sys.stderr)
        return 2
    request = parse(argv)
    interrupt.listen()
    jobs = [Job(name, expected(name, request)) for name in request.experiments]
    return work(jobs, request)


def check(argv: Sequence[str]) -> Iterator[str]:
    """All faults of the command line, one text each."""
    for argument in argv:
        key, _, value = argument.partition("=")
        if key not in KEYS:
            yield f"{argument}: no key {key!r}{hint(key, KEYS)}. Keys: {', '.join(KEYS)}"
        elif not value:
            yield f"{argument}: a value is needed, as in {key}=VALUE"
        elif key == "experiments":
            known = (*GROUPS, *TITLES)
            wrong = [name for name in value.split(",") if name not in known]
            yield from (f"{argument}: {unknown('experiment', name, known)}" for name in wrong)
        elif key == "profile" and value not in PROFILES:
            yield f"{argument}: {unknown('profile', value, PROFILES)}"
        elif key in ("seeds", "workers") and not (value.isdecimal() and int(value)):
            yield f"{argument}: must be a whole number of at least 1"


def parse(argv: Sequence[str]) -> Request:
    """A command line without faults as a request; of a repeated key the last one counts, as in Hydra."""
    given = dict(argument.split("=", 1) for argument in argv)
    asked = [name for word in given.get("experiments", "all").split(",") for name in GROUPS.get(word, (word,))]
    return Request(
        experiments=tuple(dict.fromkeys(asked)),
        profile=given.get("profile", "quick"),
        seeds=int(given["seeds"]) if "seeds" in given else None,
        workers=int(given.get("workers", cores())),
        output=given.get("output", "mlruns/report"),
        uri=store(given),
    )


def described(experiment: str) -> Any:
    """What the file of an experiment says."""
    return yaml.safe_load((CONF / f"{experiment}.yaml").read_text())


def expected(experiment: str, request: Request) -> float | None:
    """Processor seconds that its file expects of a profile, in proportion to the seeds; None if it does not say."""
    sizes = described(experiment)["profiles"][request.profile]
    seconds, seeds = sizes.get("cpu_seconds"), sizes.get("seeds")
    return seconds * request.seeds / seeds if seconds and seeds and request.seeds else seconds


# -- work -------------------------------------------------------------------------------------------------


def work(jobs: Sequence[Job], request: Request) -> int:
    """Train and judge all, the longest first, then write the report; the exit status."""
    from rich.console import Console

    console = Console(highlight=False)
    LOGS.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder, _overview(console, jobs, request) as show:
            while not all(job.over for job in jobs):
                _fill(jobs, request)
                running = [job.process.sentinel for job in jobs if job.process is not None]
                connection.wait(running, timeout=1)
                for job in jobs:
                    _look(job, request, Path(folder))
                show()
        status = _report(console, jobs, request)
    except interrupt.Interrupted as end:
        _stop(jobs)
        again = shlex.join(["python", "-m", "mnist1d.reproduce", *sys.argv[1:]])
        console.print(f"Stopped by {end}. Go on with:  {again}", markup=False, soft_wrap=True)
        raise
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    console.print(f"{len(jobs)} experiment{'s' * (len(jobs) != 1)} in {minutes} min {seconds} s", markup=False)
    return status


def _fill(jobs: Sequence[Job], request: Request) -> None:
    """Start what there is room for: the longest that waits for nothing."""
    over = {job.experiment for job in jobs if job.over}
    asked = {job.experiment for job in jobs}
    while sum(job.process is not None for job in jobs) < request.workers:
        ready = [j for j in jobs if j.state == "waiting" and NEEDS.get(j.experiment) not in asked - over]
        if not ready:
            return
        job = max(ready, key=lambda job: job.expected or 0.0)
        job.state, job.began = "training", time.monotonic()
        job.log.unlink(missing_ok=True)
        job.process = _start("train.py", request.training(job.experiment), job.log)


def _look(job: Job, request: Request, folder: Path) -> None:
    """Whether a program of a job has ended, and what comes next."""
    if job.process is None or job.process.is_alive():
        return
    status, job.process = job.process.exitcode, None
    if job.state == "training" and status == 0:
        job.state = "judging"
        job.process = _start("analyze.py", request.analysis(job.experiment, str(folder / job.experiment)), job.log)
        return
    if job.state == "judging" and status == 0:
        job.verdicts = _verdicts(folder / job.experiment / "claims.csv")
    job.state, job.ended = "done" if status == 0 else "failed", time.monotonic()


def _verdicts(path: Path) -> Counter[str]:
    """How many claims have which verdict; claims without a value are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        claims = {row["claim"]: row["claim_verdict"].partition(" at n")[0] for row in csv.DictReader(file)}
    return Counter(verdict for verdict in claims.values() if verdict != "no value")


def _start(script: str, arguments: list[str], log: Path) -> BaseProcess:
    method = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
    context: Any = get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(list(IMPORTED))
    process: BaseProcess = context.Process(target=_run, args=(script, arguments, str(log.resolve())))
    process.start()
    return process


def _run(script: str, arguments: list[str], log: str) -> None:
    """A program's whole life, in a process of its own."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv, sys.path[:0] = [str(ROOT / script), *arguments], [str(ROOT)]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _stop(jobs: Sequence[Job]) -> None:
    """End what is running, in order: programs write what they have measured."""
    running = [job.process for job in jobs if job.process is not None]
    for process in running:
        process.terminate()
    for process in running:
        process.join()


def _report(console: Console, jobs: Sequence[Job], request: Request) -> int:
    log = LOGS / "report.log"
    log.unlink(missing_ok=True)
    process = _start("analyze.py", request.analysis(None, request.output), log)
    process.join()
    for job in (job for job in jobs if job.state == "failed"):
        lines = "".join(f"\n  {line}" for line in job.last_lines(3))
        console.print(f"failed: {job.experiment} (see {job.log}){lines}", markup=False, soft_wrap=True)
    if process.exitcode:
        console.print(f"failed: the report (see {log})", markup=False, soft_wrap=True)
    else:
        console.print(f"written: {request.output}/report.html", markup=False, soft_wrap=True)
    return int(bool(process.exitcode) or any(job.state == "failed" for job in jobs))


# -- overview ---------------------------------------------------------------------------------------------


@contextmanager
def _overview(console: Console, jobs: Sequence[Job], request: Request) -> Iterator[Any]:
    """A table that is always up to date; a line for every change where the output is no terminal."""
    if console.is_terminal:
        from rich.live import Live

        with Live(console=console, auto_refresh=False, transient=False) as live:
            yield lambda: live.update(table(jobs, request), refresh=True)
        return
    told: dict[str, str] = {}

    def tell() -> None:
        for job in jobs:
            if told.get(job.experiment, "waiting") != job.state and job.state != "judging":
                told[job.experiment] = job.state
                text = f"{job.experiment}: {job.state}"
                text += f" after {job.seconds:.0f} s {_shown(job.verdicts)}" if job.over else ""
                console.print(text.rstrip(), markup=False, soft_wrap=True)

    yield tell


def table(jobs: Sequence[Job], request: Request) -> Table:
    """Every experiment with its state, time and verdicts."""
    from rich.table import Table

    made = Table("experiment", "state", "time", "verdicts", "last line", title=_headline(jobs, request), box=None)
    for job in jobs:
        seconds = f"{job.seconds:.0f} s" if job.began else ""
        line = "".join(job.last_lines(1)) if job.state == "training" else ""
        made.add_row(TITLES[job.experiment], job.state, seconds, _shown(job.verdicts), line)
    return made


def _headline(jobs: Sequence[Job], request: Request) -> str:
    parts = [f"{sum(job.over for job in jobs)} of {len(jobs)} experiments done"]
    left = time_left(jobs, request.workers)
    parts += [f"about {left / 60:.0f} min left"] if left is not None and left >= 60 else []
    return " · ".join([*parts, _shown(sum((job.verdicts for job in jobs), Counter()))]).rstrip(" ·")


def time_left(jobs: Sequence[Job], workers: int) -> float | None:
    """Seconds until the end, from what the files expect and how fast it has gone so far; None without either."""
    known = [(job, job.expected) for job in jobs if job.expected]
    done = sum(min(job.seconds, seconds) if not job.over else seconds for job, seconds in known)
    spent = sum(job.seconds for job, _ in known)
    if not done or len(known) < len(jobs):
        return None
    return (sum(seconds for _, seconds in known) - done) * max(spent / done, 0.1) / workers


def _shown(verdicts: Mapping[str, int]) -> str:
    return " ".join(f"{verdicts[kind]} {sign}" for kind, sign in SIGNS.items() if verdicts.get(kind))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
