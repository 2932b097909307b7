"""What an experiment of the paper takes, whole: plain loops, one run at a time, beside our process.

python -m bench experiments   these tables alone, printed; two to three minutes

Nothing is run to its end. Steps and evaluations are timed side by side at a few sizes, read off between them, and
added up over all runs; what our process does besides is timed on its real command with hardly any steps.
"""

import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from bench import CONF
from bench.main_job import whole_process
from bench.peak import operations
from bench.plain import evaluate as evaluate_plain
from bench.plain import plain_loop, tensors
from bench.steps import stacked_loop
from bench.timing import Timing, Variant, side_by_side
from mnist1d.blocks import Schedule, StackData
from mnist1d.classification import StackedClassification, evaluate
from mnist1d.compose import Composer, parse_override
from mnist1d.config import SGD, Run, validate
from mnist1d.cost import most_members
from mnist1d.models.make import make_model
from mnist1d.plan import Stack, plan
from mnist1d.stack import build_member

TURNS, SECONDS = 5, 0.1  # per variant at each point
ROWS = 1000  # evaluated at once
SIDES = ("as the reference", "kindest plain loop", "ours")

Batch = tuple[Tensor, Tensor]
Take = Callable[[int], object]
Points = dict[tuple[Any, ...], dict[int, "Point"]]  # by curve and size


@dataclass(frozen=True)
class Case:
    """Part of an experiment with a target of its own (plain / ours), and where it is timed.

    Attributes:
        curve: keys whose combinations are timed separately.
        size: key over which times are interpolated, at `anchors` measured.
    """

    name: str
    overrides: tuple[str, ...]
    curve: tuple[str, ...]
    size: str
    anchors: tuple[int, ...]
    target: float

    def place(self, run: Run) -> tuple[tuple[Any, ...], int]:
        """The curve that `run` is on, and its size."""
        flat = run.flat()
        return tuple(flat[key] for key in self.curve), flat[self.size]


CASES = (
    # feature orders, held-out data and a shorter training change nothing of a step
    Case("classification", ("experiment=classification",), ("model.name",), "data.num_samples", (5000,), 6),
    Case("double descent, MLP", ("experiment=double_descent", "model=mlp"), (), "model.hidden", (4, 27, 104, 300), 8),
    Case(
        "double descent, CNN", ("experiment=double_descent", "model=cnn"), (), "model.channels", (4, 14, 28, 50, 100), 4
    ),
    # a step hardly depends on the size of the training set
    Case("pooling", ("experiment=pooling",), ("model.pooling", "model.channels"), "data.num_samples", (11_000,), 4),
)


@dataclass(frozen=True)
class Point:
    """Milliseconds per run at one size, for each of `SIDES`: of a step, and of evaluating `ROWS` samples.

    `operations` are those of our step, per run (`bench.peak`).
    """

    label: str
    members: int
    steps: tuple[Timing, Timing, Timing]
    rows: tuple[Timing, Timing, Timing]
    operations: float


@dataclass(frozen=True)
class Estimate:
    """An experiment's time for each of `SIDES`, in milliseconds, turn by turn; `fixed` is in ours, in seconds.

    `operations` are those of all our steps.
    """

    case: Case
    runs: int
    sides: tuple[Timing, Timing, Timing]
    fixed: float
    points: list[Point]
    operations: float


def runs_of(*overrides: str) -> list[Run]:
    """The runs of an experiment in profile paper, as `python train.py -m` with these overrides makes them."""
    composer = Composer.of(CONF)
    master = composer.base("config", overrides).thaw()
    sweeper = instantiate(master.hydra.sweeper)
    sweeper.hydra_context = SimpleNamespace(config_loader=composer)
    (jobs,) = sweeper.split_arguments([parse_override(text) for text in overrides], None)
    values = [composer.quick_values(master, job) or {} for job in jobs]  # an empty one is refused
    defaults = [composer.base_of(master, job).raw.get("model") for job in jobs]
    return [validate(value, default) for value, default in zip(values, defaults, strict=True)]


def plain_loops(run: Run) -> list[Take]:
    """``take(steps)`` of plain loops: first as the reference writes it, last without its DataLoader."""
    if run.data.batch_order == "sequential":  # its batches are slices already
        return [plain_loop(run)]
    x, y = tensors(run)["train"]
    loader = DataLoader(TensorDataset(x, y), batch_size=run.data.batch_size, shuffle=True)
    epochs = _sliced_epochs(x, y, run.data.batch_size, torch.Generator().manual_seed(run.seed))
    return [_sgd_loop(run, repeat(loader)), _sgd_loop(run, epochs)]


def _sliced_epochs(x: Tensor, y: Tensor, size: int, generator: torch.Generator) -> Iterator[Iterable[Batch]]:
    while True:
        order = torch.randperm(len(x), generator=generator)
        yield zip(x[order].split(size), y[order].split(size), strict=True)


def _sgd_loop(run: Run, epochs: Iterable[Iterable[Batch]]) -> Take:
    model = build_member(lambda: make_model(run.model), run.seed)
    assert isinstance(run.optimizer, SGD)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.optimizer.lr, momentum=run.optimizer.momentum)
    batches = chain.from_iterable(epochs)

    def take(steps: int) -> None:
        for x, y in islice(batches, steps):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    return take


def plain_scores(run: Run) -> Take:
    """``take(times)``: so many evaluations of `ROWS` test samples, without the graph that the reference records."""
    x, y = tensors(run)["test"]
    model = build_member(lambda: make_model(run.model), run.seed)
    splits = {"test": (x[:ROWS], y[:ROWS])}

    def take(times: int) -> None:
        for _ in range(times):
            evaluate_plain(model, splits)

    return take


def stacked_scores(runs: Sequence[Run]) -> Take:
    """``take(times)``: so many evaluations of `ROWS` test samples of every member of a stack."""
    data = StackData(runs)
    data.setup()
    x, y = data.splits["test"]
    model = StackedClassification(runs).model
    splits = {"test": (x[:, :ROWS], y[:, :ROWS])}

    def take(times: int) -> None:
        for _ in range(times):
            evaluate(model, splits)

    return take


def measure_point(label: str, stack: Stack, turns: int, seconds: float) -> Point:
    """Time one stack and its first run alone, in turn."""
    runs, alone = list(stack.runs), stack.runs[0]
    loops = [Variant("plain loop", 1, take) for take in plain_loops(alone)]
    stacked = Variant("stack", len(runs), stacked_loop(runs))
    each = operations(stacked.take) / len(runs)
    scores = [Variant("plain", 1, plain_scores(alone)), Variant("stack", len(runs), stacked_scores(runs))]
    *plain, ours, plain_rows, our_rows = side_by_side([*loops, stacked, *scores], turns, seconds)
    return Point(label, len(runs), (plain[0], plain[-1], ours), (plain_rows, plain_rows, our_rows), each)


def measure_points(case: Case, runs: Sequence[Run], turns: int, seconds: float) -> Points:
    """The points of a case, each on the first stack that the planner cuts there."""
    points: Points = {}
    for stack in plan(runs, most_members(runs)):
        curve, size = case.place(stack.runs[0])
        if size in case.anchors and size not in points.setdefault(curve, {}):
            label = " ".join(map(str, (case.name, *(curve or [size]))))
            points[curve][size] = measure_point(label, stack, turns, seconds)
    return points


def evaluations(run: Run) -> int:
    """How often a run is evaluated."""
    schedule = Schedule(run.trainer.max_steps, run.trainer.eval_every)
    return sum(schedule.evaluates(stop - 1) for stop in schedule.stops())


def evaluated_rows(run: Run) -> tuple[int, int, int]:
    """Samples that each of `SIDES` evaluates in the course of a run.

    The reference evaluates double descent once, and pooling at every evaluation on all training samples and twice
    on the test samples; the kindest loop does once what we do. We evaluate double descent more often, and at the
    end the test samples once more, for the accuracy by class.
    """
    train, _, test = run.data.rows
    times = evaluations(run)
    measured = min(train, run.trainer.eval_samples or train) + test
    ours = times * measured + test
    if run.data.batch_order == "shuffled":
        return train + test, train + test, ours
    return times * (train + 2 * test), times * measured, ours


def total(case: Case, runs: Sequence[Run], points: Points, side: int, turns: int) -> Timing:
    """Milliseconds that all `runs` take on one of `SIDES`, turn by turn."""
    places = [(run, *case.place(run)) for run in runs]
    sums = [
        sum(_milliseconds(run, points[curve], size, side, turn) for run, curve, size in places) for turn in range(turns)
    ]
    return Timing(SIDES[side], sums)


def _milliseconds(run: Run, points: dict[int, Point], size: int, side: int, turn: int) -> float:
    step = between({at: point.steps[side].milliseconds[turn] for at, point in points.items()}, size)
    rows = between({at: point.rows[side].milliseconds[turn] for at, point in points.items()}, size)
    return run.trainer.max_steps * step + evaluated_rows(run)[side] / ROWS * rows


def total_operations(case: Case, runs: Sequence[Run], points: Points) -> float:
    """Operations of all steps of all `runs` on our side."""
    places = [(run.trainer.max_steps, *case.place(run)) for run in runs]
    curves = {curve: {at: point.operations for at, point in sizes.items()} for curve, sizes in points.items()}
    return sum(steps * between(curves[curve], size) for steps, curve, size in places)


def between(values: dict[int, float], size: int) -> float:
    """`values` at `size`: straight lines between its sizes on doubly logarithmic axes, level beyond their ends."""
    sizes = sorted(values)
    return math.exp(np.interp(math.log(size), np.log(sizes), [math.log(values[at]) for at in sizes]))


def fixed_seconds(case: Case, run: Run) -> float:
    """Seconds that our process takes besides steps and full evaluations: imports, planning, data, recording."""
    with tempfile.TemporaryDirectory() as folder:  # a store, a cache and outputs of its own
        places = (f"tracking.uri=sqlite:///{folder}/mlflow.db", f"hydra.sweep.dir={folder}/outputs")
        command = [sys.executable, "train.py", "-m", *idle_work(case, run), *places]
        return whole_process(["env", f"MNIST1D_CACHE={folder}/cache", *command])


def idle_work(case: Case, run: Run) -> list[str]:
    """Overrides of an experiment, `run` one of its runs: as many evaluations, but of 100 samples, one step apart."""
    small = ("trainer.eval_every=1", "trainer.eval_samples=100", "data.test_samples=100")
    return [*case.overrides, f"trainer.max_steps={evaluations(run)}", *small]


def measure(case: Case, turns: int = TURNS, seconds: float = SECONDS) -> Estimate:
    """Estimate one experiment."""
    runs = runs_of(*case.overrides)
    points = measure_points(case, runs, turns, seconds)
    plain, kindest, ours = (total(case, runs, points, side, turns) for side in range(len(SIDES)))
    fixed = fixed_seconds(case, runs[0])
    ours = Timing(ours.name, [value + fixed * 1000 for value in ours.milliseconds])
    measured = [point for sizes in points.values() for point in sizes.values()]
    return Estimate(case, len(runs), (plain, kindest, ours), fixed, measured, total_operations(case, runs, points))


def row(estimate: Estimate) -> dict[str, Any]:
    """One line of the first table, rounded as printed: seconds, ratios and the operations of our steps."""
    plain, kindest, ours = estimate.sides
    return {
        "experiment": estimate.case.name,
        "runs": estimate.runs,
        **{f"{side.name}, s": round(side.median / 1000) for side in estimate.sides},
        "of which fixed, s": round(estimate.fixed),
        "reference / ours": round(ours.times_faster_than(plain), 1),
        "kindest / ours": round(ours.times_faster_than(kindest), 1),
        "target": estimate.case.target,
        "operations, 10^12": round(estimate.operations / 1e12, 1),
    }


def point_row(point: Point) -> dict[str, Any]:
    """One line of the second table, rounded as printed: milliseconds and ratios."""
    plain, kindest, ours = point.steps
    return {
        "stack": point.label,
        "members": point.members,
        **{name: round(timing.median, 4) for name, timing in zip(SIDES, point.steps, strict=True)},
        "reference / ours": round(ours.times_faster_than(plain), 1),
        "kindest / ours": round(ours.times_faster_than(kindest), 1),
        f"plain, {ROWS} samples": round(point.rows[0].median, 3),
        f"ours, {ROWS} samples": round(point.rows[-1].median, 3),
    }


def figures(estimates: Iterable[Estimate]) -> dict[str, list[dict[str, Any]]]:
    """What goes into docs/bench.json."""
    estimates = list(estimates)
    points = [point_row(point) for estimate in estimates for point in estimate.points]
    return {"seconds": [row(estimate) for estimate in estimates], "milliseconds per run": points}


def section(found: dict[str, list[dict[str, Any]]], table: Callable[[list[dict[str, Any]]], str]) -> str:
    """The part of docs/bench.md about these `figures`; `table` writes rows as Markdown."""
    return f"""## The experiments, whole

Estimated seconds for all runs of an experiment in profile paper. Plain loops take one run at a time and get their
imports and data for nothing; ours is the whole process, data and tracking included.

{table(found["seconds"])}
Both plain loops are PyTorch's own layers and optimisers, on all cores like ours. For double descent the reference takes
its batches from a DataLoader that shuffles, the kindest loop slices a shuffled tensor; both evaluate all samples once,
at the end, ours also on the way. For pooling both walk through the tensor; the reference evaluates every 100 steps on
all training samples and twice on the test samples, the kindest loop and ours on 1000 training samples and once.
Classification is as pooling, but evaluated every 250 steps, by all on all training samples.

Measured, in turn, are the stacks below, cut by the planner: milliseconds per step per run, and per run for evaluating
{ROWS} samples, without a graph on either side. Other widths are read off straight lines on doubly logarithmic axes
(level below the smallest), and steps and samples added up over all runs. Kinds of pooling are all measured, with 10,000
training samples; how many there are hardly changes a step. What is fixed is `train.py` on the experiment's own command
with as many evaluations, but of 100 samples and one step apart.

{table(found["milliseconds per run"])}"""
