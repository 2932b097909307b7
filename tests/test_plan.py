"""Which runs share a stack, and what their fingerprints tell apart."""

from collections.abc import Callable
from dataclasses import fields

import pytest

from mnist1d.compose import Composer, parse_override
from mnist1d.config import Run
from mnist1d.config.validate import schema_keys, validate
from mnist1d.cost import GIB, measure_member, most_members
from mnist1d.data import Recipe, Selection
from mnist1d.data.arguments import Arguments
from mnist1d.plan import LABELS, NEUTRAL, VALUES, Stack, fingerprint, plan, signature
from tests.conftest import ROOT

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
        "data.zero_window=9",
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


BASES = {
    "": [],
    "cnn": ["model=cnn"],
    "shallow": ["model=shallow"],
    "gru": ["model=gru"],
    "tcn": ["model=tcn"],
    "attention": ["model=attention"],
    "sgd": ["optimizer=sgd"],
    "recipe": ["task=recipe"],
    "lottery": ["task=lottery"],
    "contrastive": ["task=contrastive", "model=cnn"],
    "rmsprop": ["optimizer=rmsprop"],
    "metalearn_lr": ["task=metalearn_lr", "model=shallow", "optimizer=sgd", "optimizer.momentum=0"],
    "metalearn_activation": ["task=metalearn_activation", "model=shallow", "optimizer=rmsprop"],
    "embedding": ["task=embedding", "model=logistic", "optimizer=sgd"],
}
"""Command lines that between them have every key of the schema."""

NUMBERS = {
    "": """seed=1 model=logistic model.hidden=11 model.residual=false model.layers=3 optimizer=adamw optimizer.lr=0.02
        optimizer.weight_decay=0.1 optimizer.betas=[0.8,0.999] optimizer.eps=1e-6 model.num_classes=11
        data.num_samples=4000 data.train_split=0.7 data.template_len=11 data.padding=[35,60] data.scale_coeff=0.3
        data.max_translation=47 data.corr_noise_scale=0.2 data.iid_noise_scale=0.03 data.shear_scale=0.7
        data.shuffle_seq=true data.final_seq_length=41 data.seed=1 data.label_noise=0.1 data.label_noise_mode=flip
        data.shuffle_features=true data.feature_seed=1 data.feature_order=reversed data.chunk_length=9
        data.zero_window=9 data.val_split=0.1 data.test_samples=10 data.batch_size=50 data.batch_order=shuffled
        data.stream=true trainer.max_steps=6000 trainer.eval_every=100 trainer.eval_samples=10
        trainer.matmul_precision=high""",
    "cnn": """model.dropout=0.1 model.channels=5 model.kernel_sizes=[3,3,3] model.pooling=max model.window=3
        model.pool_stride=1""",
    "shallow": "model.activation=elu",
    "gru": "model.step_size=2",
    "tcn": "model.kernel_size=5 model.blocks=2",
    "attention": "model.width=64 model.heads=2",
    "sgd": "optimizer.momentum=0.5",
    "recipe": """task.detrend=true task.shift=1 task.dilation=0.1 task.scale_coeff=0.1 task.corr_noise_scale=0.1
        task.iid_noise_scale=0.1 task.shear_scale=0.1 task.label_smoothing=0.1 task.rate_schedule=cosine task.warmup=0.1
        task.average_decay=0.9 task.test_shift=1 task.ensemble=2""",
    "lottery": """task.criterion=random task.rounds=99 task.schedule=geometric task.final_sparsity=0.9 task.rate=0.1
        task.scope=global task.prune_biases=false task.mask_step=1 task.rewind_step=1 task.init=xavier
        task.shuffle_masks=true task.ticket_round=1 task.follow_ups=[fresh] task.follow_up_inits=[rewound]
        task.follow_up_steps=7 task.follow_up_batch_size=9 task.follow_up_eval_every=8 task.follow_up_data_seed=1""",
    "contrastive": """task.loss=nt_xent task.temperature=0.1 task.augment=false task.max_shift=9 task.slope_scale=0.1
        task.offset_scale=0.1 task.train_on=all task.projector_depth=0 task.projector_width=9 task.output_size=9
        task.heads=2 task.probe_every=9 task.neighbours=9""",
    "metalearn_lr": "task.inner_steps=9 task.outer_lr=0.1 task.differentiation=reverse",
    "rmsprop": "optimizer.alpha=0.9 optimizer.initial=1.0",
    "metalearn_activation": """task.protocol=corrected task.scale=0.1 task.meta_hidden=9 task.inner_steps=300
        task.loss_window=9 task.hidden_noise=0 task.outer_lr=0.1 task.clamp=0.2 task.snapshot_every=9 task.trials=9
        task.trial_lrs=[0.1] task.trial_steps=9 task.long_trial_steps=null task.trial_data_seed=9""",
    "embedding": "task.perplexity=9 task.early_steps=9 task.exaggeration=9.0",
}
"""Changes that can change a run's numbers, whatever they are in that run: one for each key."""

LABELLED = """trainer.accelerator=cpu trainer.memory=1 trainer.stack=2 trainer.threads=1 trainer.checkpoint_seconds=1
    trainer.may_diverge=true
    tracking.uri=sqlite:///x.db tracking.experiment=other force=true plan=true sync=true
    hydra.run.dir=elsewhere hydra/launcher=basic"""
"""Changes of where, how and why a run is trained, how it is shown and where it is recorded."""

FOLLOW = {"model.input_size", "model.name", "model._target_", "data.name", "task._target_"} | {
    f"{section}.{key}" for section in ("data", "model") for key in ("row_length", "colours")
}
"""Keys that follow from a choice of another one."""


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer.of(ROOT / "conf")


def changed(composer: Composer, base: str, text: str = "") -> str:
    """Fingerprint of the run of a base after one change; composing each from scratch would take a minute."""
    overrides, change = BASES[base], parse_override(text) if text else None
    if change is None or composer.is_choice(change):
        return fingerprint(validate(composer.base("config", [*overrides, *filter(None, [text])]).resolved))
    return fingerprint(validate(composer.base("config", overrides).values({change.key_or_group: change.value()})))


@pytest.mark.parametrize("base", NUMBERS)
def test_what_can_change_the_numbers_changes_the_fingerprint(composer: Composer, base: str) -> None:
    prints = {text: changed(composer, base, text) for text in ["", *NUMBERS[base].split()]}
    assert len(set(prints.values())) == len(prints), prints


@pytest.mark.parametrize("override", LABELLED.split())
def test_where_and_how_a_run_is_trained_shown_or_recorded_does_not(make_run: MakeRun, override: str) -> None:
    assert fingerprint(make_run(override)) == fingerprint(make_run())


@pytest.mark.parametrize(
    ("overrides", "recorded"),
    [
        (("experiment=classification", "seed=3", "model=cnn"), "27b04d895b8135ed"),
        (
            ("experiment=pooling", "seed=42", "model.pooling=max", "data={num_samples:2000,train_split:0.5}"),
            "62a46f4250f2ccda",
        ),
        (("experiment=double_descent", "model=mlp", "model.residual=false", "model.hidden=16"), "06033abcf2c519ae"),
        (("experiment=lottery", "task.criterion=magnitude", "model.hidden=500"), "8c573823a3ebc658"),
    ],
)
def test_runs_recorded_before_an_option_came_are_found(
    make_run: MakeRun, overrides: tuple[str, ...], recorded: str
) -> None:
    assert fingerprint(make_run(*overrides)) == recorded, "does a new key belong in plan.NEUTRAL?"


def test_what_does_not_count_is_what_a_run_has_that_does_not_ask_for_it(make_run: MakeRun) -> None:
    asked = (("task=recipe",), ("task=contrastive", "model=cnn"), ("model=cnn",), ())
    own = {key: value for overrides in asked for key, value in make_run(*overrides).flat().items()}
    assert {key: own[key] for key in NEUTRAL} == NEUTRAL


def test_every_key_of_the_schema_is_in_one_of_the_two_lists() -> None:
    def keys(texts: str) -> set[str]:
        return {text.partition("=")[0] for text in texts.split()}

    numbers, labels = keys(" ".join(NUMBERS.values())), keys(LABELLED)
    assert not numbers & labels
    choices = {"task.name", "optimizer.name"}  # by task=lottery, optimizer=adamw
    of_experiments = {"experiment", "profile", "profiles"}
    assert set(schema_keys()) - numbers - labels == FOLLOW | choices | of_experiments
    assert {key for key in labels if not key.startswith(("tracking", "hydra"))} - {
        "force",
        "plan",
        "sync",
    } == LABELS - of_experiments


def test_another_task_is_another_run(composer: Composer) -> None:
    assert len({changed(composer, base) for base in BASES}) == len(BASES)


def test_values_spelled_differently_are_one_run(make_run: MakeRun) -> None:
    assert fingerprint(make_run("optimizer.lr=1e-2", "data.padding=[36, 60]")) == fingerprint(
        make_run("optimizer.lr=0.01", "data.padding=[36,60]")
    )
    assert fingerprint(make_run("data.label_noise=0")) == fingerprint(make_run("data.label_noise=0.0"))


def test_fingerprints_ignore_labels(make_run: MakeRun) -> None:
    labelled = make_run().model_copy(update={"experiment": "classification", "profile": "quick", "profiles": {"x": {}}})
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
