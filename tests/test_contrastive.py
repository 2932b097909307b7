"""Contrastive learning: views, losses, stacked = alone, exact resume, scores."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from mnist1d.augment import Augmentation, Ranges, centred_positions, detrend, shift
from mnist1d.config import Run
from mnist1d.contrastive import ProbedSchedule, StackedContrastive
from mnist1d.contrastive_loss import barlow_twins, infonce, make_loss, nt_xent, triplet, vicreg
from mnist1d.fit import fit_once
from mnist1d.plan import Stack
from mnist1d.stack import member_generator

MakeRun = Callable[..., Run]
SMALL = (
    *("task=contrastive", "model=cnn", "model.channels=5", "task.projector_width=20", "task.output_size=6"),
    *("data.num_samples=500", "data.batch_size=50", "data.batch_order=shuffled"),
    *("trainer.accelerator=cpu", "trainer.threads=1", "trainer.max_steps=20", "trainer.eval_every=7"),
)
PAPER = Ranges(max_shift=10, slope_scale=0.04, offset_scale=0.3)


def trained(*runs: Run) -> StackedContrastive:
    module = fit_once(Stack(runs, tuple(range(len(runs)))), [])
    assert isinstance(module, StackedContrastive)
    return module


# -- views -----------------------------------------------------------------------------------------------


def views(ranges: list[Ranges], seeds: list[int], x: Tensor) -> tuple[Tensor, Tensor]:
    first, second = Augmentation(ranges, [member_generator(s, "augmentation") for s in seeds])(x).chunk(2, dim=1)
    return first, second


def test_a_detrended_signal_has_no_mean_and_no_slope_and_its_shape_is_kept():
    x = torch.randn(3, 20, 40, dtype=torch.float64) * 5 + 2
    flat, t = detrend(x), centred_positions(x)
    assert t.square().sum() == 5330
    assert flat.mean(-1).abs().max() < 1e-14
    assert (flat @ t).abs().max() < 1e-11
    torch.testing.assert_close(detrend(x + 3 - 0.7 * t), flat)
    residue = x - flat
    torch.testing.assert_close(residue.diff(), residue.diff()[..., :1].expand(-1, -1, 39))  # nothing but a line


def test_shifts_are_circular_and_to_the_right():
    x = torch.arange(40.0).expand(2, 3, 40)
    shifts = torch.tensor([[0, 1, 9], [40, 3, 41]])
    moved = shift(x, shifts)
    for n in range(2):
        for i in range(3):
            assert torch.equal(moved[n, i], torch.roll(x[n, i], int(shifts[n, i])))


def test_a_view_is_a_shifted_detrended_signal_on_a_line_of_its_own():
    x = torch.randn(1, 400, 40, dtype=torch.float64)
    still = Ranges(max_shift=10, slope_scale=0, offset_scale=0)
    (first, second), flat = views([still], [0], x), detrend(x)
    distances = torch.stack([(torch.roll(flat, k, -1) - first).abs().amax(-1) for k in range(12)])
    shifts = distances.argmin(0)[0]
    assert distances.amin(0).max() < 1e-12
    assert sorted(set(shifts.tolist())) == list(range(10)), "0 to one below max_shift"
    assert not torch.equal(first, second)
    (line, _), (level, _) = (views([Ranges(1, 0.04, offset)], [0], x) for offset in (0.3, 0))
    offsets = line.mean(-1)[0]
    slopes = (level @ centred_positions(x))[0] / 5330
    torch.testing.assert_close(level - slopes[:, None] * centred_positions(x), flat)
    assert float(offsets.std()) == pytest.approx(0.3, rel=0.15)
    assert float(slopes.std()) == pytest.approx(0.04, rel=0.15)


def test_views_of_a_member_do_not_depend_on_its_company():
    x = torch.randn(1, 30, 40).expand(3, -1, -1)
    ranges = [PAPER, Ranges(3, 0.5, 0.1), PAPER]
    together = views(ranges, [5, 6, 7], x)
    for n, seed in enumerate((5, 6, 7)):
        alone = views([ranges[n]], [seed], x[n : n + 1])
        for ours, theirs in zip(alone, together, strict=True):
            torch.testing.assert_close(ours[0], theirs[n])
    assert not torch.allclose(together[0][0], together[0][2], atol=0.1)


# -- losses, on three samples with outputs that one can work out by hand ------------------------------------

FIRST = torch.tensor([[[3.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]])
SECOND = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 3.0, 4.0], [1.0, 0.0, 0.0]]])
# cosines of FIRST's rows with SECOND's: [[1, 0, 1], [0, 0.6, 0], [0, 0.8, 0]]


def log_sum(*values: float) -> float:
    return math.log(sum(map(math.exp, values)))


def test_infonce_is_the_cross_entropy_of_finding_the_second_view():
    rows = [log_sum(2, 0, 2) - 2, log_sum(0, 1.2, 0) - 1.2, log_sum(0, 1.6, 0) - 0]
    assert infonce(FIRST, SECOND, torch.tensor([0.5])).tolist() == [pytest.approx(sum(rows) / 3)]


def test_nt_xent_has_both_directions_and_all_other_views():
    t = 0.5  # within FIRST all cosines are 0; within SECOND rows 0 and 2 are equal, row 1 orthogonal to them
    rows = [
        log_sum(0, 0, 1 / t, 0, 1 / t) - 1 / t,
        log_sum(0, 0, 0, 0.6 / t, 0) - 0.6 / t,
        log_sum(0, 0, 0, 0.8 / t, 0) - 0,
        log_sum(1 / t, 0, 0, 0, 1 / t) - 1 / t,
        log_sum(0, 0.6 / t, 0.8 / t, 0, 0) - 0.6 / t,
        log_sum(1 / t, 0, 0, 1 / t, 0) - 0,
    ]
    assert nt_xent(FIRST, SECOND, torch.tensor([t])).tolist() == [pytest.approx(sum(rows) / 6)]


def test_triplet_is_the_mean_hinge_over_all_negatives():
    # squared distances 2 - 2 cos: positives 0, 0.8, 2; negatives (2, 0), (2, 2), (2, 0.4); margin 0.2
    hinges = [0, 0.2, 0, 0, 0.2, 1.8]
    assert triplet(FIRST, SECOND).tolist() == [pytest.approx(sum(hinges) / 6)]


def test_barlow_twins_brings_the_correlation_to_the_identity():
    first = torch.tensor([[[1.0, 4.0], [0.0, 1.0], [-1.0, 4.0]]])
    second = torch.tensor([[[2.0, 0.0], [0.0, -3.0], [-2.0, 3.0]]])
    # correlations: (0, 0) is 1; (0, 1) -3/6 / (sqrt(2/3) sqrt(6)) · 2 = -1/2; (1, 0) is 0; (1, 1) is sqrt(3)/2
    expected = (1 - math.sqrt(3) / 2) ** 2 + 0.005 * 0.5**2
    assert barlow_twins(first, second).tolist() == [pytest.approx(expected, rel=1e-3)]


def test_vicreg_is_invariance_variance_and_covariance():
    first = torch.tensor([[[0.5, 4.0], [0.0, 2.0], [-0.5, 0.0]]])
    second = torch.tensor([[[0.5, 4.0], [0.0, 2.0], [-0.5, 3.0]]])
    # variances 0.25, 4 and 0.25, 1; covariances 1 and 0.25
    variance = (1 - math.sqrt(0.2501)) / 2
    expected = 25 * 9 / 6 + 25 * variance + (2 * 1**2 + 2 * 0.25**2) / 2
    assert vicreg(first, second).tolist() == [pytest.approx(expected, rel=1e-4)]


@pytest.mark.parametrize("name", ["infonce", "nt_xent", "triplet", "barlow_twins", "vicreg"])
def test_a_members_loss_and_gradient_are_its_own(name):
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 8, 5, dtype=torch.float64).unbind()
    first.requires_grad_()
    temperature = torch.tensor([0.5, 0.1, 1.0], dtype=torch.float64)
    together = make_loss(name, temperature)(first, second)
    (gradient,) = torch.autograd.grad(together.sum(), first)
    for n in range(3):
        own = first[n : n + 1].detach().requires_grad_()
        alone = make_loss(name, temperature[n : n + 1])(own, second[n : n + 1])
        torch.testing.assert_close(alone, together[n : n + 1])
        torch.testing.assert_close(torch.autograd.grad(alone.sum(), own)[0], gradient[n : n + 1])


@pytest.mark.parametrize("name", ["infonce", "nt_xent", "triplet", "barlow_twins", "vicreg"])
def test_training_lowers_every_loss(make_run: MakeRun, name: str) -> None:
    module = trained(make_run(*SMALL, f"task.loss={name}", "trainer.max_steps=30", "trainer.eval_every=15"))
    losses = [value for _, value in module.histories[0].metrics["train/loss"]]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["infonce", "vicreg"])
def test_the_loss_of_heads_is_the_mean_of_their_own(make_run: MakeRun, name: str) -> None:
    module = trained(make_run(*SMALL, f"task.loss={name}", "task.heads=2", "trainer.max_steps=1"))
    outputs, labels = torch.randn(1, 20, 12), torch.zeros(1, 10)
    alone = [module._loss(*head.chunk(2, dim=1)) for head in (outputs[..., :6], outputs[..., 6:])]
    torch.testing.assert_close(module._objective(outputs, labels), (alone[0] + alone[1]) / 2)


# -- training --------------------------------------------------------------------------------------------


def test_probes_come_after_as_many_steps_as_the_references() -> None:
    schedule = ProbedSchedule(max_steps=8000, eval_every=400, probe_every=400)
    assert [step for step in (stop - 1 for stop in schedule.stops()) if schedule.probes(step)] == [
        400 * k - 1 for k in range(1, 21)
    ]
    assert {0, 400, 7600, 7999} <= {stop - 1 for stop in schedule.stops()}
    assert schedule.stops()[-1] == 8000


def test_a_run_measures_its_loss_along_training_and_every_layer_at_the_end(make_run: MakeRun) -> None:
    module = trained(make_run(*SMALL, "task.probe_every=10"))
    metrics = module.histories[0].metrics
    assert [step for step, _ in metrics["train/loss"]] == [0, 7, 14, 19]
    assert [step for step, _ in metrics["probe/h3"]] == [step for step, _ in metrics["knn/acc"]] == [9, 19]
    at_the_end = ["pixels", "h1", "h2", "p1", "p2"]
    assert all([step for step, _ in metrics[f"probe/{name}"]] == [19] for name in at_the_end)
    assert {name for name in metrics if name.startswith("isolation")} == {f"isolation/{digit}" for digit in range(10)}
    accuracies = [metrics[f"probe/{name}"][-1][1] for name in ("pixels", "h1", "h2", "h3", "p1", "p2")]
    finals = module.finals(0)
    assert finals["test/acc_final"] == accuracies[3]
    assert finals["test/acc_best"] == max(accuracies) == accuracies[int(finals["probe/best_layer"])]
    assert finals["probe/output"] == accuracies[5]
    assert not {"val/acc_final", "test/acc_selected"} & set(finals)


def test_samples_held_out_choose_the_layer(make_run: MakeRun) -> None:
    module = trained(make_run(*SMALL, "task.probe_every=10", "data.val_split=0.25", "task.neighbours=5"))
    metrics, finals = module.histories[0].metrics, module.finals(0)
    layers = ("pixels", "h1", "h2", "h3", "p1", "p2")
    val, test = ([metrics[f"{split}probe/{name}"][-1][1] for name in layers] for split in ("val/", ""))
    assert all(accuracy * 100 == pytest.approx(round(accuracy * 100)) for accuracy in val), "of 100 samples"
    assert val != test
    assert [step for step, _ in metrics["val/probe/h3"]] == [9, 19]
    assert finals["val/acc_final"] == val[3]
    assert finals["test/acc_selected"] == test[val.index(max(val))] == test[int(finals["probe/selected_layer"])]


@pytest.mark.parametrize(("depth", "heads"), [(0, 1), (2, 1), (2, 3)])
def test_a_member_alone_is_a_member_of_a_stack(make_run: MakeRun, depth: int, heads: int) -> None:
    shape = (f"task.projector_depth={depth}", f"task.heads={heads}")
    values = [("0", "0.5", "10"), ("1", "0.1", "3")]
    runs = [make_run(*SMALL, *shape, f"seed={s}", f"task.temperature={t}", f"task.max_shift={m}") for s, t, m in values]
    stack = trained(*runs)
    for n, run in enumerate(runs):
        alone = trained(run)
        for name, weights in alone.member_state(0).items():
            torch.testing.assert_close(stack.member_state(n)[name], weights, rtol=1e-3, atol=1e-4)
        losses = [[value for _, value in h.metrics["train/loss"]] for h in (alone.histories[0], stack.histories[n])]
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_without_augmentation_the_two_views_are_the_samples(make_run: MakeRun) -> None:
    module = trained(make_run(*SMALL, "task.augment=false"))
    x, _ = module._batches(0)
    first, second = module._views(0)[0].chunk(2, dim=1)
    assert torch.equal(first, second)
    assert first.shape == x.shape


def test_test_signals_are_trained_on_only_when_asked_for(make_run: MakeRun) -> None:
    for train_on, rows in (("train", 400), ("all", 500)):
        run = make_run(*SMALL, f"task.train_on={train_on}")
        data = StackedContrastive.make_data([run])
        data.setup()
        x, y = data.training
        assert x.shape == (1, rows, 40)
        assert torch.equal(x[:, :400], data.splits["train"][0])
        assert torch.equal(x[:, 400:], data.splits["test"][0][:, : rows - 400])
        assert y.shape == (1, rows)


# The advice is to save weights from before the update; after it is what a resume wants.
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization:UserWarning")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")  # it should be
def test_a_resumed_fit_equals_an_uninterrupted_one_bit_for_bit(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(*SMALL, "task.probe_every=9", "trainer.max_steps=24", f"seed={seed}") for seed in (0, 1)]

    def fitted(resume: Path | None = None) -> StackedContrastive:
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        fitter = pl.Trainer(accelerator="cpu", max_epochs=-1, max_steps=24, callbacks=[saver], **quiet)
        module, data = StackedContrastive(runs), StackedContrastive.make_data(runs)
        fitter.fit(module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
        return module

    whole = fitted()
    resumed = fitted(tmp_path / "step=9.ckpt")  # in the middle of an epoch of 8 steps
    assert resumed.histories == whole.histories
    for n in range(2):
        theirs = whole.member_state(n)
        assert all(torch.equal(weights, theirs[name]) for name, weights in resumed.member_state(n).items())


def test_a_diverging_member_fails_alone(make_run: MakeRun) -> None:
    runs = [make_run(*SMALL, "optimizer=sgd", f"optimizer.lr={lr}") for lr in ("0.01", "1e35")]
    module = trained(*runs)
    assert [history.failure is None for history in module.histories] == [True, False]
    assert module.finals(1) == {}
    assert module.finals(0)["test/acc_best"] > 0
