"""The benchmark measures what it says; never how fast it is."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from bench import CONF, activation, experiments, make_run, metalearning, peak, performance, procedures
from bench.__main__ import markdown, row
from bench.experiments import Case as Experiment
from bench.experiments import (
    Estimate,
    Point,
    between,
    evaluated_rows,
    idle_work,
    measure_points,
    runs_of,
    total,
    total_operations,
)
from bench.overhead import measure as measure_overhead
from bench.plain import plain_loop, plain_run
from bench.procedures import PROCEDURES, Procedure, Result, Sides
from bench.steps import CASES, Case, begun, block_loop, measure, stacked_loop
from bench.timing import Timing, Variant, side_by_side
from mnist1d.config import Run, check
from mnist1d.events import Event
from mnist1d.fit import train
from mnist1d.metalearn_lr import StackedMetalearnLr
from mnist1d.plan import Stack, fingerprint
from tests.conftest import ROOT

EVALUATIONS = {"classification": 25, "pooling": 61}


def test_ratios_are_taken_turn_by_turn() -> None:
    slow, fast = Timing("slow", [4.0, 40.0, 6.0]), Timing("fast", [1.0, 10.0, 2.0])
    assert slow.median == 6.0
    assert fast.times_faster_than(slow) == 4.0  # of 4, 4, 3, although the second turn was ten times slower for both


def test_time_is_per_step_and_per_run() -> None:
    taken: list[int] = []
    (timing,) = side_by_side([Variant("nothing", 5, taken.append)], turns=3, seconds=1e-6)
    assert len(timing.milliseconds) == 3
    assert taken[:2] == [2, 3]  # warm-up and calibration
    assert len(taken) == 5


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_every_case_can_be_stacked(case: Case) -> None:
    stacked_loop([make_run(*case.overrides, f"seed={seed}") for seed in range(2)])(2)


def test_a_row_has_every_variant_and_its_ratio() -> None:
    result = measure(Case("logistic", ("model=logistic",), 3, 8.0), make_run, turns=1, seconds=0.01)
    (line,) = [row(result)]
    assert line["members"] == 3
    assert line["plain / stack"] == pytest.approx(result.plain.median / result.stack.median, abs=0.06)
    assert markdown([line]).count("\n") == 3


def test_the_plain_loop_does_the_same_work_as_a_stack() -> None:
    run = make_run("model=mlp", "model.hidden=10", "trainer.max_steps=40", "trainer.accelerator=cpu")
    from mnist1d.fit import fit_once

    (history,) = fit_once(Stack((run,), (0,)), []).histories
    assert plain_run(run) == pytest.approx(history.final()["test/acc_final"], abs=0.01)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    plain_loop(run)(3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_overhead_is_measured_on_a_real_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    small = ("data.num_samples=500", "data.batch_size=50", "trainer.threads=1", "trainer.accelerator=cpu")

    def shortened(*overrides: str) -> Run:
        return make_run(*(o for o in overrides if "max_steps" not in o), *small, "trainer.max_steps=20")

    trained: list[int] = []

    def counted(stack: Stack, tell: Callable[[Event], None]) -> None:
        trained.append(len(stack.runs))
        train(stack, tell)

    monkeypatch.setattr("bench.overhead.train", counted)
    bare, full = measure_overhead(shortened, turns=2)
    assert len(bare.milliseconds) == len(full.milliseconds) == 2
    assert sum(trained) == 3 * 20  # every turn and the one to warm up, although the store has the runs


@pytest.fixture(scope="module")
def sweeps() -> dict[str, list[Run]]:
    """The runs of every case, by its name."""
    return {case.name: runs_of(*case.overrides) for case in experiments.CASES}


def test_an_estimate_is_about_the_runs_of_the_paper_profile(sweeps: dict[str, list[Run]]) -> None:
    for runs in sweeps.values():
        assert {run.profile for run in runs} == {"paper"}
        assert len({fingerprint(run) for run in runs}) == len(runs)
    profile = sweeps["double descent, MLP"][0].profiles["paper"]
    arms = ("clean", "redraw", "flip")
    assert len(sweeps["double descent, MLP"]) == len(profile["hidden"].split(",")) * len(arms) * profile["seeds"]
    assert {run.data.seed for run in sweeps["pooling"]} == set(range(42, 52))


@pytest.mark.parametrize("case", experiments.CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_every_run_has_a_measured_place(case: Experiment, sweeps: dict[str, list[Run]]) -> None:
    places = [case.place(run) for run in sweeps[case.name]]
    for curve in {curve for curve, _ in places}:
        assert {size for other, size in places if other == curve} >= set(case.anchors)


def test_sizes_in_between_lie_on_a_power_law() -> None:
    cubes = {2: 8.0, 10: 1000.0}
    assert between(cubes, 4) == pytest.approx(64)
    assert between(cubes, 10) == pytest.approx(1000)
    assert (between(cubes, 1), between(cubes, 99)) == pytest.approx((8, 1000))


def test_each_side_is_charged_for_what_it_evaluates(sweeps: dict[str, list[Run]]) -> None:
    descent, pooling = sweeps["double descent, MLP"][0], sweeps["pooling"][0]
    assert evaluated_rows(descent) == (16_000, 16_000, 5 * 16_000 + 12_000)
    assert (pooling.data.rows[0], pooling.trainer.eval_samples) == (1000, 1000)
    assert evaluated_rows(pooling) == (61 * 3000, 61 * 2000, 61 * 2000 + 1000)


def made_up(steps: tuple[float, float, float], turns: int) -> Point:
    times = [Timing("a step", [value] * turns) for value in steps]
    none = Timing("an evaluation", [1e-9] * turns)
    return Point("made up", 1, (times[0], times[1], times[2]), (none, none, none), 1000.0 * steps[-1])


def test_times_are_added_up_over_runs() -> None:
    case = next(case for case in experiments.CASES if case.name == "double descent, MLP")
    runs = [
        make_run("model=mlp", "optimizer=sgd", f"model.hidden={hidden}", "trainer.max_steps=10") for hidden in (4, 8)
    ]
    points = {(): {4: made_up((4.0, 2.0, 1.0), 3), 16: made_up((64.0, 2.0, 1.0), 3)}}
    assert total_operations(case, runs, points) == pytest.approx(10 * (1000 + 1000))
    sides = [total(case, runs, points, side, 3).median for side in range(3)]
    assert sides == pytest.approx([10 * (4 + 16), 10 * (2 + 2), 10 * (1 + 1)])
    plain, kindest, ours = (Timing(str(side), [value]) for side, value in enumerate(sides))
    estimate = Estimate(case, 2, (plain, kindest, ours), 0.0, [], 0.0)
    assert experiments.row(estimate)["reference / ours"] == 10.0
    assert experiments.row(estimate)["kindest / ours"] == 2.0


@pytest.mark.parametrize("case", experiments.CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_a_point_is_measured_on_all_sides(case: Experiment, sweeps: dict[str, list[Run]]) -> None:
    smallest = [run for run in sweeps[case.name] if case.place(run)[1] == case.anchors[0]][:2]
    points = measure_points(case, smallest, turns=1, seconds=1e-6)
    ((curve, sizes),) = points.items()
    point = sizes[case.anchors[0]]
    assert point.members == 2
    assert all(math.isfinite(timing.median) for timing in (*point.steps, *point.rows))
    assert point.steps[0].name == "plain loop"
    assert (point.steps[0] is point.steps[1]) == ("double" not in case.name)  # the others have no DataLoader
    assert (curve, sizes.keys()) == (case.place(smallest[0])[0], {case.anchors[0]})


def test_a_sliced_epoch_has_every_sample_once() -> None:
    x = torch.arange(10.0)
    epochs = experiments._sliced_epochs(x, x.long(), 4, torch.Generator().manual_seed(0))
    orders = [torch.cat([batch for batch, _ in epoch]) for epoch in (next(epochs), next(epochs))]
    assert all(torch.equal(order.sort().values, x) for order in orders)
    assert not torch.equal(*orders)


@pytest.mark.parametrize("case", experiments.CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_the_command_of_the_fixed_part_is_sound(case: Experiment, sweeps: dict[str, list[Run]]) -> None:
    overrides = idle_work(case, sweeps[case.name][0])
    check(["-m", *overrides], CONF)  # ends the program at a fault
    assert f"trainer.max_steps={EVALUATIONS.get(case.name, 5)}" in overrides


def test_the_section_has_both_tables() -> None:
    case = next(case for case in experiments.CASES if case.name == "pooling")
    sides = Timing("reference", [4000.0]), Timing("kindest", [2000.0]), Timing("ours", [1000.0])
    estimate = Estimate(case, 7, sides, 0.4, [made_up((4.0, 2.0, 1.0), 1)], 7e11)
    text = experiments.section(experiments.figures([estimate]), markdown)
    assert "| pooling | 7 | 4 | 2 | 1 | 0 | 4.0 | 2.0 | 4 | 0.7 |" in text
    assert "| made up | 1 | 4.0 | 2.0 | 1.0 | 4.0 | 2.0 | 0.0 | 0.0 |" in text


# -- lottery tickets and SimCLR --------------------------------------------------------------------------

LITTLE = ("data.num_samples=500", "trainer.accelerator=cpu", "trainer.threads=1")
TICKETS = ("task=lottery", "model=mlp", "model.hidden=24", "data.batch_size=50", "optimizer.lr=0.02", *LITTLE)
ROUNDS = (
    "task.rounds=4",
    "task.ticket_round=3",
    "task.final_sparsity=0.92",
    "task.mask_step=1",
    "trainer.max_steps=40",
)
FOLLOW_UPS = ("task.follow_ups=[reversed]", "task.follow_up_batch_size=80", "task.follow_up_steps=40")
VIEWS = ("task=contrastive", "model=cnn", "model.channels=5", "task.projector_width=20", "data.batch_order=shuffled")
SMALL = {
    "lottery": (*TICKETS, *ROUNDS, *FOLLOW_UPS, "trainer.matmul_precision=medium"),
    "simclr": (*VIEWS, *LITTLE, "trainer.max_steps=40", "trainer.eval_every=10", "task.probe_every=10"),
}


def small(procedure: Procedure, *more: str) -> list[Run]:
    return [make_run(*SMALL[procedure.experiment], *more, f"seed={seed}") for seed in (3, 4)]


@pytest.mark.parametrize("sides", [procedures.search, procedures.follow_up])
def test_the_plain_loops_prune_as_the_stack_does(sides: Callable[[list[Run]], Sides]) -> None:
    found = sides(small(PROCEDURES[0], "trainer.matmul_precision=highest"))
    gone = 1 - found.module.mask.double().mean()
    assert gone == pytest.approx({procedures.search: 0.92 * 2 / 3, procedures.follow_up: 0.92}[sides], abs=0.002)
    ours = block_loop(found.module, found.first)(5)[:, 0].tolist()
    for take in found.loops:
        losses = [take(1) for _ in range(6)]  # the stack has taken its first step
        assert losses[1:] == pytest.approx(ours, rel=1e-4)
    assert len(set(ours)) == 5


def test_the_plain_contrastive_loops_do_the_same_work_as_a_stack() -> None:
    # all samples in each batch and no chance in the views: the order of the rows alone may differ
    still = ("data.batch_size=400", "task.max_shift=1", "task.slope_scale=0", "task.offset_scale=0")
    runs = small(PROCEDURES[2], *still)
    found = procedures.contrast(runs)
    ours = block_loop(found.module)(5)[:, 0].tolist()
    for take in found.loops:
        assert [take(1) for _ in range(5)] == pytest.approx(ours, rel=1e-4)
    assert len(set(ours)) == 5


@pytest.mark.parametrize("shifted", [procedures.one_by_one, procedures.all_at_once])
def test_samples_are_shifted_in_a_circle_by_numbers_of_their_own(shifted: procedures.Shift) -> None:
    x = torch.randn(300, 40)
    moved = shifted(x, 10, np.random.RandomState(0))
    distances = torch.stack([(torch.roll(x, k, -1) - moved).abs().amax(-1) for k in range(40)])
    assert distances.amin(0).max() == 0
    assert set(distances.argmin(0).tolist()) == set(range(10))


def test_plain_views_have_new_lines() -> None:
    (run, _), x = small(PROCEDURES[2]), torch.randn(2000, 40)
    seen = procedures.view(x, run.task, procedures.all_at_once, np.random.RandomState(0))
    assert float(seen.mean(-1).std()) == pytest.approx(0.3, rel=0.1)


def test_a_plain_epoch_has_every_sample_once() -> None:
    batches = procedures._batches(10, 4, np.random.RandomState(0))
    orders = [torch.cat([next(batches) for _ in range(3)]) for _ in range(2)]
    assert all(order.sort().values.tolist() == list(range(10)) for order in orders)
    assert not torch.equal(*orders)


@pytest.mark.parametrize("procedure", PROCEDURES, ids=lambda procedure: procedure.name.replace(" ", "-"))
def test_a_procedure_is_timed_on_all_sides_and_leaves_the_precision_alone(procedure: Procedure) -> None:
    timings = procedures.measure_stack(procedure, small(procedure), turns=1, seconds=1e-6)
    assert [timing.name for timing in timings] == [*experiments.SIDES, "ours, float32"]
    assert all(math.isfinite(timing.median) for timing in timings)
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_turn_has_the_precision_that_it_asks_for() -> None:
    seen: list[str] = []
    for precision in ("medium", "highest"):
        procedures.at(precision, lambda _: seen.append(torch.get_float32_matmul_precision()))(1)
    assert seen == ["medium", "highest"]


@pytest.mark.parametrize("procedure", PROCEDURES, ids=lambda procedure: procedure.name.replace(" ", "-"))
def test_a_procedure_is_part_of_its_experiment(procedure: Procedure) -> None:
    runs = runs_of(f"experiment={procedure.experiment}")
    assert any(procedure.where.items() <= run.flat().items() for run in runs)
    parts = [part for part in PROCEDURES if part.experiment == procedure.experiment]
    assert all(sum(part.steps(run) for part in parts) == run.steps for run in runs)


def test_probes_take_a_share_of_the_time() -> None:
    runs = small(PROCEDURES[2])
    slow, fast = (procedures.probe_share(runs, milliseconds, trained=2) for milliseconds in (1e9, 1e-9))
    assert 0 < slow < 0.01 < 0.99 < fast < 1


def test_the_section_has_a_row_per_procedure_and_the_probes() -> None:
    timings = [
        Timing(name, [value]) for name, value in zip((*experiments.SIDES, "ours, float32"), (8, 4, 2, 4), strict=True)
    ]
    result = Result(PROCEDURES[2], 5, 1000, timings, 0.16, 2e9)
    text = procedures.section(procedures.figures([result]), markdown)
    assert "| SimCLR training | 5 | 8 | 4 | 2 | 4 | 4.0 | 2.0 | 2.0 | 4 | 1000 | 8 | 4 | 2 | 2.0 |" in text
    assert "take 16% of" in text


# -- metalearning a learning rate ------------------------------------------------------------------------


def test_the_reference_learns_the_rates_that_ours_learns() -> None:
    (run, _), module = metalearning.runs_of(2), begun(metalearning.runs_of(2))
    module.train_block(range(2))
    assert isinstance(module, StackedMetalearnLr)
    assert metalearning.reference_loop(run)(2) == pytest.approx(float(module.rate[0].detach()), abs=1e-5)


def test_every_way_of_learning_a_rate_is_timed_and_shown() -> None:
    timings = metalearning.measure(turns=1, seconds=1e-6, members=3)
    assert [timing.name for timing in timings] == ["as the reference", "both starts stacked", "stack of 3"]
    made_up = [Timing(timing.name, [value]) for timing, value in zip(timings, (300.0, 30.0, 10.0), strict=True)]
    text = metalearning.section(metalearning.figures(made_up, (31.0, 5.04), (7, 2e8)), markdown)
    assert "| both starts stacked | 30.0 | 10.0 |" in text
    assert "plain script 31.0 s without evaluations, and\n`train.py` 5.0 s" in text


def test_the_job_of_both_starts_is_the_papers() -> None:
    check(["-m", *metalearning.OURS])
    assert [run.optimizer.lr for run in metalearning.runs_of(2)] == [1.5, 0.15]


# -- metalearning an activation function ------------------------------------------------------------------


def test_the_reference_learns_the_function_that_ours_learns() -> None:
    runs = activation.runs_of(2)
    ours = begun(runs).train_block(range(2))
    assert activation.reference_loop(runs[1])(2) == pytest.approx(ours[:, 1].tolist(), rel=1e-5)


def test_every_way_of_learning_a_function_is_timed_and_shown() -> None:
    timings = [Timing("as the reference", [90.0, 80.0]), Timing("one function", [3.0, 2.0])]
    text = activation.section(activation.figures(timings, (7, 2e8)), markdown)
    assert "| as the reference | 85.0 | 1.0 |" in text
    assert "| one function | 2.5 | 35.0 |" in text


# -- what it all costs -----------------------------------------------------------------------------------


def test_operations_are_those_of_the_matrix_products() -> None:
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    assert peak.operations(lambda times: [a @ b for _ in range(times)]) == 2 * 3 * 4 * 5
    stack = stacked_loop([make_run("model=mlp", f"seed={seed}") for seed in range(3)])
    forward = 2 * 100 * (40 * 100 + 100 * 100 + 100 * 10)  # of a batch of 100; the inputs need no gradient
    assert peak.operations(stack) == pytest.approx(3 * (3 * forward - 2 * 100 * 40 * 100), rel=0.01)  # biases are extra
    assert peak.matrix_product(turns=1) > 0


def test_all_trainings_of_both_experiments_are_counted() -> None:
    rate, function = metalearning.work(members=2), activation.work(members=2)
    assert rate[0] > 50 * 22 * 20  # steps, starts and seeds of the paper's length; there are other lengths
    assert function[0] == pytest.approx((3 + 5) * 301 * 301 / activation.INNER_STEPS)
    assert min(rate[1], function[1]) > 1e8


def test_the_performance_page_is_of_the_benchs_figures() -> None:
    figures = json.loads((ROOT / "docs/bench.json").read_text())
    text = (ROOT / "docs/performance.md").read_text()
    assert text == performance.page(figures, markdown)
    assert [cost.seeds for cost in performance.costs(figures)] == [20, 5, 5, 5, 5, 20, 5, 10, 10]
    assert all(cost.ours < cost.reference and cost.operations > 0 for cost in performance.costs(figures))
