"""Training recipes: each option against its definition, stacked = alone, exact resume, defaults = classification."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from mnist1d.augment import Amounts, Perturbation, detrend, stretch
from mnist1d.averaging import WeightAverage
from mnist1d.config import Run
from mnist1d.cost import measure_member
from mnist1d.data.arguments import Arguments
from mnist1d.data.streaming import nuisances, population
from mnist1d.fit import fit_once
from mnist1d.loss import cross_entropy_stacked, smoothed_cross_entropy
from mnist1d.plan import Stack, plan
from mnist1d.recipe import ShiftedPredictor, StackedRecipe
from mnist1d.schedules import share_of_rate
from mnist1d.stack import StackedModel, build_member, member_generator

MakeRun = Callable[..., Run]
SMALL = (
    *("model=mlp", "model.hidden=12", "data.num_samples=500", "data.batch_size=50", "data.batch_order=shuffled"),
    *("trainer.accelerator=cpu", "trainer.threads=1", "trainer.max_steps=20", "trainer.eval_every=7"),
)
EVERYTHING = (
    *("task=recipe", "task.detrend=true", "task.shift=20", "task.dilation=0.1", "task.scale_coeff=0.3"),
    *("task.corr_noise_scale=0.1", "task.iid_noise_scale=0.02", "task.shear_scale=0.4", "task.label_smoothing=0.1"),
    *("task.rate_schedule=cosine", "task.warmup=0.2", "task.average_decay=0.8", "task.test_shift=2"),
)
OTHERWISE = (
    *("task.shift=0", "task.dilation=0", "task.scale_coeff=0.1", "task.corr_noise_scale=0", "task.iid_noise_scale=0"),
    *("task.shear_scale=0", "task.label_smoothing=0", "task.rate_schedule=one_cycle", "task.warmup=0.3"),
    *("task.average_decay=0", "task.test_shift=0", "seed=1"),
)


def trained(*runs: Run) -> Any:
    return fit_once(Stack(runs, tuple(range(len(runs)))), [])


# -- signals changed at random ----------------------------------------------------------------------------


def changed(x: Tensor, *amounts: Amounts, steps: int = 1) -> Tensor:
    """What `steps` steps of the signals ``[N, batch, 40]`` become, ``[N, steps * batch, 40]``."""
    generators = [member_generator(seed, "augmentation") for seed in range(len(amounts))]
    perturbation = Perturbation(amounts, [Arguments()] * len(amounts), generators, x.shape[1])
    return torch.cat([perturbation(step, x) for step in range(steps)], 1)


def test_shifts_reach_equally_far_either_way():
    x = torch.randn(1, 400, 40)
    moved = changed(x, Amounts(shift=3))
    distances = torch.stack([(torch.roll(x, by, -1) - moved).abs().amax(-1) for by in range(-5, 6)])[:, 0]
    assert distances.amin(0).max() == 0
    counts = torch.bincount(distances.argmin(0), minlength=11)
    assert counts[[0, 1, 9, 10]].sum() == 0
    assert counts[2:9].min() > 30  # of 400 / 7


def test_a_stretched_signal_keeps_its_middle_and_reads_between_positions():
    x = torch.arange(40.0).expand(1, 3, 40)
    factors = torch.tensor([[1.0, 2.0, 0.8]])
    same, longer, shorter = stretch(x, factors)[0]
    assert torch.equal(same, x[0, 0])
    torch.testing.assert_close(longer, 19.5 + (x[0, 0] - 19.5) / 2)
    inside = slice(4, 36)  # beyond, a shorter signal begins anew
    torch.testing.assert_close(shorter[inside], (19.5 + (x[0, 0] - 19.5) / 0.8)[inside])


def test_amplitude_and_slope_have_the_generators_ranges():
    x = torch.ones(1, 2000, 40)
    gains = changed(x, Amounts(scale_coeff=0.4))[0, :, 0]
    assert 0.8 <= float(gains.min()) < 0.81 < 1.19 < float(gains.max()) <= 1.2
    lines = changed(torch.zeros(1, 2000, 40), Amounts(shear_scale=0.75))[0]
    rise = (lines[:, -1] - lines[:, 0]) * population(Arguments())[1]
    assert 0.37 < float(rise.max()) <= 0.375
    assert torch.allclose(lines.diff(dim=-1), lines.diff(dim=-1)[:, :1], atol=1e-5)


def test_noise_has_the_covariance_that_the_generator_gives_it():
    noise = changed(torch.zeros(1, 1000, 40), Amounts(corr_noise_scale=0.25, iid_noise_scale=0.1), steps=50)[0]
    smooth, white, _ = nuisances(Arguments())
    expected = 0.25**2 * smooth.T @ smooth + 0.1**2 * white.T @ white
    torch.testing.assert_close(noise.T.cov(), torch.tensor(expected, dtype=torch.float32), rtol=0.1, atol=0.02)


def test_what_a_member_draws_does_not_depend_on_its_company_and_differs_from_step_to_step():
    x = torch.randn(1, 10, 40).expand(2, 10, 40)
    amounts = Amounts(5, 0.1, 0.3, 0.1, 0.1, 0.3), Amounts(scale_coeff=0.2)
    together = changed(x, *amounts, steps=60)
    torch.testing.assert_close(together[0], changed(x[:1], amounts[0], steps=60)[0])
    first, *others = together[0].split(10)
    assert all((first - other).abs().max() > 0.1 for other in others)


# -- targets, rates, weights, predictions -----------------------------------------------------------------


def test_smoothed_cross_entropy_is_torchs_with_a_share_for_each_member():
    logits, labels = torch.randn(3, 8, 10, requires_grad=True), torch.randint(10, (3, 8))
    found = smoothed_cross_entropy(logits, labels, torch.tensor([0.0, 0.1, 0.5]))
    expected = [F.cross_entropy(logits[n], labels[n], label_smoothing=own) for n, own in enumerate((0.0, 0.1, 0.5))]
    torch.testing.assert_close(found, torch.stack(expected))
    gradients = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (found, torch.stack(expected))]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(found[0], cross_entropy_stacked(logits, labels)[0])


def rates(schedule: str, warmup: float, steps: int) -> list[float]:
    return [share_of_rate(schedule, warmup, step, steps) for step in range(steps)]


def rates_of_torch(make: Callable[[torch.optim.Optimizer], Any], steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_schedules_are_torchs():
    cosine = rates_of_torch(lambda optimizer: CosineAnnealingLR(optimizer, 50), 50)
    assert rates("cosine", 0, 50) == pytest.approx(cosine)
    cycle = rates_of_torch(lambda o: OneCycleLR(o, 1.0, 50, pct_start=0.3, cycle_momentum=False), 50)
    assert rates("one_cycle", 0.3, 50) == pytest.approx(cycle)
    assert rates("constant", 0, 50) == [1.0] * 50


def test_the_warm_up_is_a_line_that_ends_at_the_rate():
    rising = [(step + 1) / 11 for step in range(10)]
    assert rates("constant", 0.2, 50) == pytest.approx([*rising, *[1.0] * 40])
    assert rates("cosine", 0.2, 50) == pytest.approx([*rising, *rates("cosine", 0, 40)])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_schedules_of_very_few_steps_are_shares(steps):
    for schedule in ("constant", "cosine", "one_cycle"):
        for warmup in (0.0, 0.3, 0.9):
            assert all(0 <= share <= 1 for share in rates(schedule, warmup, steps))


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule is 'step', expected constant, cosine or one_cycle"):
        share_of_rate("step", 0, 0, 10)


def test_means_of_weights_move_by_each_members_own_decay():
    weights = {"w": torch.zeros(3, 2)}
    average = WeightAverage(weights, [0.0, 0.2, 0.99])
    mean = [0.0, 0.0, 0.0]
    for step in range(5):
        weights["w"].fill_(step + 1.0)
        average.update(step)
        for n, decay in enumerate((0.0, 0.2, 0.99)):
            kept = min(decay, (1 + step) / (10 + step))
            mean[n] = kept * mean[n] + (1 - kept) * (step + 1)
    with average.in_use():
        assert weights["w"][:, 0].tolist() == pytest.approx(mean)
    assert weights["w"].tolist() == [[5.0, 5.0]] * 3
    assert average.state_dict()["means"]["w"][:, 1].tolist() == pytest.approx(mean)
    assert WeightAverage(weights, [0.0, 0.0]).means == {}


def test_logits_are_averaged_over_each_members_own_shifts():
    members = [build_member(lambda: nn.Linear(40, 10), seed) for seed in (0, 1)]
    x = torch.randn(2, 6, 40)
    found = ShiftedPredictor(StackedModel(members), [0, 2], level=False)(x)
    torch.testing.assert_close(found[0], members[0](x[0]))
    copies = [members[1](torch.roll(x[1], by, -1)) for by in (-2, -1, 0, 1, 2)]
    torch.testing.assert_close(found[1], torch.stack(copies).mean(0))
    level = ShiftedPredictor(StackedModel(members), [0, 0], level=True)(x)
    torch.testing.assert_close(level[0], members[0](detrend(x[0])))


# -- training ---------------------------------------------------------------------------------------------


def test_without_options_a_recipe_is_classification(make_run: MakeRun) -> None:
    plain, recipe = (trained(make_run(*SMALL, f"task={task}")) for task in ("classification", "recipe"))
    assert recipe.histories == plain.histories
    for name, weights in recipe.member_state(0).items():
        assert torch.equal(weights, plain.member_state(0)[name])


def test_runs_with_other_amounts_share_a_stack_and_keep_the_numbers_they_have_alone(make_run: MakeRun) -> None:
    runs = [make_run(*SMALL, *EVERYTHING), make_run(*SMALL, *EVERYTHING, *OTHERWISE)]
    assert [stack.indices for stack in plan(runs)] == [(0, 1)]
    together = trained(*runs)
    for n, run in enumerate(runs):
        alone = trained(run)
        for name, weights in alone.member_state(0).items():
            torch.testing.assert_close(together.member_state(n)[name], weights, rtol=1e-3, atol=1e-4)
        losses = [[value for _, value in h.metrics["test/loss"]] for h in (alone.histories[0], together.histories[n])]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_every_option_changes_what_is_measured(make_run: MakeRun) -> None:
    options = """detrend=true shift=5 dilation=0.1 scale_coeff=0.4 corr_noise_scale=0.1 iid_noise_scale=0.1
        shear_scale=0.5 label_smoothing=0.1 rate_schedule=cosine warmup=0.5 average_decay=0.9 test_shift=1 ensemble=2"""
    runs = [
        make_run(*SMALL, "task=recipe", *(f"task.{option}" for option in [*own])) for own in [[], *zip(options.split())]
    ]
    stacks = plan(runs)
    assert [stack.indices for stack in stacks] == [(0, *range(2, 13)), (1,), (13,)]
    losses = [h.metrics["test/loss"][-1][1] for stack in stacks for h in trained(*stack.runs).histories]
    assert len(set(losses)) == len(runs) == 14


def test_what_is_kept_of_a_run_is_what_was_evaluated(make_run: MakeRun) -> None:
    module = trained(make_run(*SMALL, "task=recipe", "task.average_decay=0.9"))
    x, y = module.data.splits["test"]
    plain = module.model.template
    plain.load_state_dict(module.member_state(0))
    loss = float(F.cross_entropy(plain(x[0]), y[0]).detach())
    assert loss == pytest.approx(module.histories[0].metrics["test/loss"][-1][1], rel=1e-5)


def test_an_ensemble_averages_the_logits_of_nets_that_are_runs_of_their_own(make_run: MakeRun) -> None:
    def stack(seeds: int, *overrides: str) -> Any:
        data = [f"data.seed={seed // (seeds // 2)}" for seed in range(seeds)]
        runs = [make_run(*SMALL, *EVERYTHING, f"seed={seed}", data[seed], *overrides) for seed in range(seeds)]
        return trained(*runs)

    ensembles, alone = stack(2, "task.ensemble=3"), stack(6)
    for n, history in enumerate(ensembles.histories):
        nets = nn.ModuleList([copy.deepcopy(ensembles.model.template) for _ in range(3)])
        nets.load_state_dict(ensembles.member_state(n))
        for k, net in enumerate(nets):
            for name, weights in alone.member_state(3 * n + k).items():
                torch.testing.assert_close(net.state_dict()[name], weights, rtol=1e-3, atol=1e-4)
        x, y = (values[n] for values in ensembles.data.splits["test"])
        copies = [detrend(torch.roll(detrend(x), by, -1)) for by in (-2, -1, 0, 1, 2)]
        logits = torch.stack([net(shifted) for net in nets for shifted in copies]).mean(0)
        assert history.metrics["test/loss"][-1][1] == pytest.approx(
            float(F.cross_entropy(logits, y).detach()), rel=1e-4
        )


def test_an_ensemble_takes_the_memory_and_the_time_of_its_nets(make_run: MakeRun) -> None:
    one, three = (make_run(*SMALL, "task=recipe", f"task.ensemble={size}") for size in (1, 3))
    assert three.task.work(20, 50) == 3 * one.task.work(20, 50) == 60
    single, triple = measure_member(one), measure_member(three)
    assert (triple.weights, triple.activations, triple.working) == tuple(
        3 * own for own in (single.weights, single.activations, single.working)
    )
    assert triple.data == single.data


# The advice is to save weights from before the update; after it is what a resume wants.
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization:UserWarning")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")  # it should be
def test_a_resumed_fit_equals_an_uninterrupted_one_bit_for_bit(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(*SMALL, *EVERYTHING, "task.ensemble=2", f"seed={seed}") for seed in (0, 1)]

    def fitted(resume: Path | None = None) -> StackedRecipe:
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        fitter = pl.Trainer(accelerator="cpu", max_epochs=-1, max_steps=20, callbacks=[saver], **quiet)
        module, data = StackedRecipe(runs), StackedRecipe.make_data(runs)
        fitter.fit(module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
        return module

    whole = fitted()
    resumed = fitted(tmp_path / "step=15.ckpt")
    assert resumed.histories == whole.histories
    for n in range(2):
        theirs = whole.member_state(n)
        assert all(torch.equal(weights, theirs[name]) for name, weights in resumed.member_state(n).items())
