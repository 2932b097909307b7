"""Which runs share a stack, and what their fingerprints tell apart."""

from collections.abc import Callable
from dataclasses import fields

import pytest

from mnist1d.config import Run
from mnist1d.cost import GIB, measure_member, most_members
from mnist1d.data import Recipe, Selection
from mnist1d.data.arguments import Arguments
from mnist1d.plan import VALUES, Stack, fingerprint, plan, signature

MakeRun = Callable[..., Run]

SHAPES = {"name", "num_samples", "train_split", "final_seq_length", "val_split", "test_samples"}
"""What decides a data set's shape; everything else about it is values, in which members of a stack may differ."""


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "data.seed=1",
        "data.label_noise=0.1",
        "data.label_noise_mode=flip",
        "data.iid_noise_scale=0.1",
        "data.shuffle_features=true",
        "data.feature_order=reversed",
        "optimizer.lr=0.1",
        "optimizer.weight_decay=0.1",
    ],
)
def test_runs_that_differ_in_a_value_share_a_stack(make_run: MakeRun, override: str) -> None:
    runs = [make_run(), make_run(override)]
    assert [stack.indices for stack in plan(runs)] == [(0, 1)]
    assert fingerprint(runs[0]) != fingerprint(runs[1])


@pytest.mark.parametrize(
    "override",
    [
        "model=cnn",
        "model.hidden=10",
        "model.residual=false",
        "data.num_samples=4000",
        "data.val_split=0.1",
        "data.batch_size=50",
        "data.batch_order=shuffled",
        "data.stream=true",
        "data=digits",
        "optimizer=sgd",
        "optimizer.eps=1e-6",
        "trainer.max_steps=100",
        "trainer.eval_every=100",
    ],
)
def test_runs_that_differ_in_shape_schedule_or_code_do_not(make_run: MakeRun, override: str) -> None:
    runs = [make_run(), make_run(override)]
    assert [stack.indices for stack in plan(runs)] == [(0,), (1,)]
    assert fingerprint(runs[0]) != fingerprint(runs[1])


def test_everything_about_data_is_either_a_value_or_a_shape() -> None:
    names = {field.name for kind in (Arguments, Selection, Recipe) for field in fields(kind)} - {"arguments"}
    values = {key.removeprefix("data.") for key in VALUES if key.startswith("data.")}
    assert not values & SHAPES
    assert values | SHAPES == names


@pytest.mark.parametrize(
    "override", ["trainer.threads=1", "trainer.accelerator=cpu", "trainer.memory=1", "trainer.stack=2"]
)
def test_where_a_run_is_trained_does_not_change_its_fingerprint(make_run: MakeRun, override: str) -> None:
    assert fingerprint(make_run()) == fingerprint(make_run(override))


def test_fingerprints_ignore_labels(make_run: MakeRun) -> None:
    labelled = make_run().model_copy(update={"experiment": "classification", "profile": "quick"})
    assert fingerprint(make_run()) == fingerprint(labelled)
    assert signature(make_run()) == signature(labelled)


def test_seed_zero_is_a_seed(make_run: MakeRun) -> None:
    assert len({fingerprint(make_run(f"seed={seed}")) for seed in range(3)}) == 3


def test_the_users_command_is_one_stack_per_width(make_run: MakeRun) -> None:
    runs = [make_run(f"model.hidden={h}", f"seed={s}") for h in (10, 20) for s in range(3)]
    assert [stack.indices for stack in plan(runs)] == [(0, 1, 2), (3, 4, 5)]


def test_stacks_are_cut_evenly(make_run: MakeRun) -> None:
    runs = [make_run(f"seed={seed}") for seed in range(7)]
    parts = plan(runs, {signature(runs[0]): 3})
    assert [len(part) for part in parts] == [2, 3, 2]
    assert [index for part in parts for index in part.indices] == list(range(7))


def test_halves_keep_every_run(make_run: MakeRun) -> None:
    runs = tuple(make_run(f"seed={seed}") for seed in range(5))
    first, second = Stack(runs, (3, 1, 4, 0, 2)).halves()
    assert first.indices + second.indices == (3, 1, 4, 0, 2)
    assert first.runs + second.runs == runs


def test_the_memory_budget_cuts_stacks(make_run: MakeRun) -> None:
    member = measure_member(make_run("model=mlp"))
    one = (member.working + member.data) / GIB
    run = make_run("model=mlp", f"trainer.memory={3.5 * one}")
    assert most_members([run]) == {signature(run): 3}
    tiny = make_run("model=mlp", f"trainer.memory={one / 10}")
    assert most_members([tiny]) == {signature(tiny): 1}  # never none


def test_the_stack_limit_cuts_stacks(make_run: MakeRun) -> None:
    run = make_run("model=logistic", "trainer.stack=2")
    assert most_members([run]) == {signature(run): 2}


def test_large_members_make_small_stacks_on_a_cpu_and_a_limit_of_ones_own_wins(make_run: MakeRun) -> None:
    cpu, wide = "trainer.accelerator=cpu", ("model=cnn", "model.channels=100")
    small, large = make_run("model=logistic", cpu), make_run(*wide, cpu)
    most = most_members([small, large])
    assert most[signature(large)] < 20 < most[signature(small)]
    asked = make_run(*wide, cpu, "trainer.stack=50")
    assert most_members([asked]) == {signature(asked): 50}


def test_a_model_that_cannot_be_built_is_left_to_its_fit(make_run: MakeRun) -> None:
    run = make_run("model=mlp")
    broken = run.model_copy(update={"model": run.model.model_copy(update={"target": "mnist1d.models.Nowhere"})})
    assert most_members([broken]) == {}
    assert [len(stack) for stack in plan([broken, broken], {})] == [2]


def test_a_members_working_set_counts_weights_gradient_moments_and_activations(make_run: MakeRun) -> None:
    small, large = (measure_member(make_run("model=mlp", f"model.hidden={h}")).working for h in (100, 300))
    # 300² + 52·300 + 10 against 15,210 parameters: weight, gradient, two moments, four bytes each; and 200 more
    # values in three activations (first, second, their sum) of 100 samples
    assert large - small == pytest.approx(16 * (105_610 - 15_210) + 4 * 100 * 200 * 3, rel=0.01)
