"""The benchmark measures what it says; never how fast it is."""

import pytest
import torch

from bench import make_run
from bench.__main__ import markdown, row
from bench.overhead import measure as measure_overhead
from bench.plain import plain_loop, plain_run
from bench.steps import CASES, Case, measure, stacked_loop
from bench.timing import Timing, Variant, side_by_side
from mnist1d.config import Run


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
    from mnist1d.plan import Stack

    (history,) = fit_once(Stack((run,), (0,)), []).histories
    assert plain_run(run) == pytest.approx(history.final()["test/acc_final"], abs=0.01)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    plain_loop(run)(3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_overhead_is_measured_on_a_real_sweep() -> None:
    small = ("data.num_samples=500", "data.batch_size=50", "trainer.threads=1", "trainer.accelerator=cpu")

    def shortened(*overrides: str) -> Run:
        return make_run(*(o for o in overrides if "max_steps" not in o), *small, "trainer.max_steps=20")

    bare, full = measure_overhead(shortened, turns=2)
    assert len(bare.milliseconds) == len(full.milliseconds) == 2
