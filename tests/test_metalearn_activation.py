"""An activation function learned through whole trainings: reference numbers, both arms, trials, divergence told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from mnist1d.config import ConfigError, Run
from mnist1d.fit import fit_once, quiet
from mnist1d.metalearn_activation import CURVE, StackedMetalearnActivation
from mnist1d.models.learned import LearnedActivation
from mnist1d.plan import Stack, plan
from mnist1d.trial import FITTED, MISSED, Trial, fitted_splines, of_splines

MakeRun = Callable[..., Run]

quiet()

PAPER = (
    *("task=metalearn_activation", "model=shallow", "model.hidden=128", "model.activation=elu"),
    *("optimizer=rmsprop", "optimizer.alpha=0.4", "optimizer.initial=1.0"),
)
QUIET = ("trainer.accelerator=cpu", "trainer.threads=1", "trainer.eval_every=1")
SMALL = (
    *(*PAPER, *QUIET, "data.num_samples=500", "model.hidden=12", "task.meta_hidden=9", "task.inner_steps=12"),
    *("task.loss_window=8", "task.snapshot_every=2", "task.trials=2", "task.trial_steps=10", "trainer.max_steps=3"),
    *("task.long_trial_steps=20", "task.trial_lrs=[0.01,0.1]"),
)


def learned(runs: list[Run]) -> StackedMetalearnActivation:
    module = fit_once(Stack(tuple(runs), tuple(range(len(runs)))), [])
    assert isinstance(module, StackedMetalearnActivation)
    return module


def values(module: StackedMetalearnActivation, member: int, name: str) -> list[float]:
    return [value for _, value in module.histories[member].metrics[name]]


# -- the reference's numbers ------------------------------------------------------------------------------


def test_the_first_training_is_the_reference_s(make_run: MakeRun) -> None:
    data = ("data.num_samples=10000", "data.test_samples=500")
    module = learned([make_run(*PAPER, *QUIET, *data, "trainer.max_steps=1", "task.trials=0")])
    # metalearn-activation-function.ipynb, outer step 0
    assert values(module, 0, "meta/loss") == [pytest.approx(1.3516, abs=1e-4)]
    assert values(module, 0, "inner/loss") == [pytest.approx(1.3532, abs=1e-4)]
    assert values(module, 0, "test/acc") == [pytest.approx(0.486)]
    assert values(module, 0, "meta/grad_norm2") == [pytest.approx(0.052, abs=1e-3)]


def test_the_standard_functions_end_where_the_reference_s_do(make_run: MakeRun) -> None:
    printed = {  # its mean losses over 301 steps, and the accuracies that its figure shows
        "relu": (1.3369015, 58.8),
        "swish": (1.3675405, 57.8),
        "elu": (1.4736847, 50.8),
        "softplus": (1.6467019, 43.8),
        "tanh": (1.5242596, 50.6),
        "sigmoid": (1.7532207, 34.8),
    }
    common = ("data.num_samples=10000", "data.test_samples=500", "trainer.max_steps=1", "task.trials=0", "task.scale=0")
    runs = [make_run(*PAPER, *QUIET, *common, f"model.activation={name}") for name in printed]
    assert len(plan(runs)) == 1  # activations are values here
    module = learned(runs)
    for n, (loss, accuracy) in enumerate(printed.values()):
        assert values(module, n, "inner/mean_loss") == [pytest.approx(loss, abs=2e-4)]
        assert values(module, n, "test/acc") == [pytest.approx(accuracy / 100, abs=0.0021)]  # one sample of 500


# -- as a task --------------------------------------------------------------------------------------------


def test_members_of_a_stack_learn_what_they_would_alone(make_run: MakeRun) -> None:
    asked = (
        ["seed=1"],
        ["task.protocol=corrected", "task.outer_lr=0.1", "optimizer.lr=0.02"],
        ["model.activation=relu"],
    )
    runs = [make_run(*SMALL, *own) for own in asked]
    assert len(plan(runs)) == 1
    together = learned(runs)
    for n, run in enumerate(runs):
        alone = learned([run])
        for name, history in alone.histories[0].metrics.items():
            assert values(together, n, name) == pytest.approx([value for _, value in history], rel=1e-3, abs=1e-3), name
        assert together.finals(n).keys() == alone.finals(0).keys()


def test_a_learned_function_and_a_standard_one_are_not_stacked(make_run: MakeRun) -> None:
    assert len(plan([make_run(*SMALL), make_run(*SMALL, "task.scale=0")])) == 2


def test_the_reference_trains_the_same_net_again_and_the_corrected_arm_a_new_one(make_run: MakeRun) -> None:
    still = (*SMALL, "task.outer_lr=0", "trainer.max_steps=4", "task.trials=0")
    module = learned([make_run(*still, f"task.protocol={name}") for name in ("reference", "corrected")])
    reference, corrected = (values(module, n, "meta/loss") for n in (0, 1))
    assert reference[0] != reference[1]  # the first net is drawn where the generator is after the function
    assert len(set(reference[1:])) == 1
    assert len(set(corrected)) == 4


def test_a_standard_function_is_left_as_it_is(make_run: MakeRun) -> None:
    module = learned([make_run(*SMALL, "task.scale=0", "model.activation=gelu", "task.trials=0")])
    assert values(module, 0, "meta/grad_norm2") == [0.0] * 3
    curves = module.member_state(0)["snapshots"]
    torch.testing.assert_close(curves[-1], torch.nn.functional.gelu(CURVE))
    assert torch.equal(curves[0], curves[-1])


def test_the_artifact_is_the_function(make_run: MakeRun) -> None:
    state = learned([make_run(*SMALL)]).member_state(0)
    assert state["snapshots"].shape == (3, len(CURVE))  # before trainings 0 and 2, and at the end
    module = LearnedActivation("elu", hidden=9, scale=0.2)
    module.load_state_dict({name: state[name] for name in module.state_dict()})
    torch.testing.assert_close(module(CURVE).detach(), state["snapshots"][-1], rtol=1e-5, atol=1e-6)
    assert not torch.equal(state["snapshots"][0], state["snapshots"][-1])


def test_trials_follow_the_trainings_and_choose_among_the_rates(make_run: MakeRun) -> None:
    module = learned([make_run(*SMALL)])
    for kind, ending in (("fresh", ""), ("fresh", "_long"), ("spline", "")):
        assert [step for step, _ in module.histories[0].metrics[f"{kind}/acc{ending}"]] == [3, 4]
        assert set(values(module, 0, f"{kind}/lr{ending}")) <= {0.01, 0.1}
    mean = sum(values(module, 0, "fresh/acc")) / 2
    assert module.finals(0)["fresh/acc_mean"] == pytest.approx(mean)
    assert module.finals(0)["test/acc_final"] == values(module, 0, "test/acc")[-1]


def test_trials_are_the_same_for_all_seeds_and_all_functions(make_run: MakeRun) -> None:
    common = (*SMALL, "task.scale=0", "trainer.max_steps=1")
    module = learned([make_run(*common, f"seed={seed}", "model.activation=tanh") for seed in (0, 5)])
    assert values(module, 0, "fresh/acc") == values(module, 1, "fresh/acc")
    assert values(module, 0, "test/loss") != values(module, 1, "test/loss")
    assert "spline/acc" not in module.histories[0].metrics
    others = learned([make_run(*common, "task.trial_data_seed=7", "model.activation=tanh")])
    assert values(others, 0, "fresh/acc") != values(module, 0, "fresh/acc")


def test_trials_of_their_own_differ_from_seed_to_seed_and_are_the_same_for_all_functions(make_run: MakeRun) -> None:
    common = (*SMALL, "task.scale=0", "trainer.max_steps=1", "task.trial_data_seed=null")
    module = learned([make_run(*common, f"seed={seed}") for seed in (0, 3)])
    first, last = (
        learned([make_run(*common, "seed=0", f"task.trial_data_seed={data_seed}")]) for data_seed in (1000, 1006)
    )
    for member, alone in ((0, first), (1, last)):  # two trials each
        assert values(module, member, "fresh/acc") == pytest.approx(values(alone, 0, "fresh/acc"), abs=0.01)
    assert values(module, 0, "fresh/acc") != values(module, 1, "fresh/acc")


def test_a_spline_follows_its_function_and_goes_on_straight() -> None:
    def hill(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.stack([x.sin(), x.tanh()]), torch.stack([x.cos(), 1 - x.tanh().square()])

    splines = fitted_splines(hill)
    x = torch.linspace(-FITTED, FITTED, 999, dtype=torch.float64)
    found, slopes = of_splines(splines)(x)
    assert ((found - hill(x)[0]).square().mean(1).sqrt() < 1.1 * MISSED).all()
    assert all(len(spline.t) < 30 for spline in splines)
    beyond, straight = of_splines(splines)(torch.tensor([FITTED, FITTED + 1, FITTED + 2], dtype=torch.float64))
    torch.testing.assert_close(beyond.diff(), straight[:, 1:])
    torch.testing.assert_close(slopes[:, -1:].expand(-1, 3), straight)


def test_a_function_that_runs_away_fails_alone_with_its_step(make_run: MakeRun) -> None:
    away = ("task.outer_lr=1e38", "task.clamp=1e30")
    module = learned([make_run(*SMALL, *away), make_run(*SMALL, "task.protocol=corrected")])
    reason = module.histories[0].failure
    assert reason is not None
    assert reason.endswith("at step 1")
    assert module.finals(0) == {}
    assert module.histories[1].failure is None


class _Saver(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def test_a_resumed_fit_equals_an_uninterrupted_one_bit_for_bit(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(*SMALL, "trainer.max_steps=4", f"task.protocol={name}") for name in ("reference", "corrected")]
    whole = fit_once(Stack(tuple(runs), (0, 1)), [_Saver(tmp_path)])
    for step in (1, 3, 4, 5):  # between trainings, at their end, between trials
        resumed, data = StackedMetalearnActivation(runs), StackedMetalearnActivation.make_data(runs)
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(accelerator="cpu", max_steps=6, max_epochs=-1, enable_model_summary=False, **options)
        trainer.fit(resumed, datamodule=data, ckpt_path=tmp_path / f"{step}.ckpt", weights_only=True)
        assert resumed.histories == whole.histories, step
        for n in (0, 1):
            for name, saved in whole.member_state(n).items():
                assert torch.equal(resumed.member_state(n)[name], saved), (step, name)


def test_what_the_task_cannot_do_is_refused(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError) as refused:
        make_run("task=metalearn_activation", "optimizer=sgd", "data.stream=true")
    assert str(refused.value).splitlines()[1:] == [
        "  model.name=mlp      has no gradient written out, which task=metalearn_activation needs; allowed: shallow",
        "  optimizer.name=sgd  task=metalearn_activation trains by its running mean squares; "
        "allowed: rmsprop with weight_decay 0",
        "  data.stream=true    task=metalearn_activation trains on the same samples again and again; allowed: false",
    ]
    with pytest.raises(ConfigError) as refused:
        make_run(*PAPER, "task.loss_window=302", "task.long_trial_steps=301")
    assert str(refused.value).splitlines()[1:] == [
        "  task.loss_window=302       a training has task.inner_steps=301; allowed: 1 to 301",
        "  task.long_trial_steps=301  a trial is scored first after task.trial_steps=301; "
        "allowed: null, or at least 302",
    ]


def test_all_rates_of_a_trial_see_the_same_mini_batches(make_run: MakeRun) -> None:
    batches = Trial(make_run(*SMALL, "data.batch_order=shuffled"), 0, torch.device("cpu")).data.batches()
    (first, second), (targets, others) = batches(0)
    assert torch.equal(first, second)
    assert torch.equal(targets, others)
