"""Lottery tickets: masks counted and nested as the protocol says, rewinding and resuming bit for bit, follow-ups."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from mnist1d.classification import StackedClassification
from mnist1d.config import ConfigError, Run
from mnist1d.data import load
from mnist1d.fit import fit_once, quiet
from mnist1d.lottery import LotteryData, Phase, StackedLottery, follow_up_run, initial_member, lottery, redrawn_member
from mnist1d.models.make import make_model
from mnist1d.plan import Stack, signature
from mnist1d.pruning import Layout, adjacency, first_mask, kept, sparsities
from mnist1d.stack import StackedModel, build_member, member_generator

MakeRun = Callable[..., Run]

quiet()

SIZES = ("data.num_samples=500", "data.batch_size=50", "trainer.accelerator=cpu", "trainer.threads=1")
ROUNDS = ("trainer.max_steps=12", "trainer.eval_every=8", "task.rounds=4", "task.ticket_round=2", "task.mask_step=9")
FOLLOW = ("task.follow_up_steps=7", "task.follow_up_eval_every=5", "task.follow_up_batch_size=80")
NO_FOLLOW = "task.follow_ups=[]"
SMALL = ("task=lottery", "model=mlp", "model.hidden=24", "optimizer.lr=0.02", *SIZES, *ROUNDS, *FOLLOW)
LAYERS = {"linear1": 24 * 41, "linear2": 24 * 25, "linear3": 10 * 25}
CRITERIA = ("magnitude", "random", "random_nested")


class Watched(StackedLottery):
    """Notes what every phase starts from."""

    def __init__(self, runs: list[Run]) -> None:
        super().__init__(runs)
        self.seen: list[tuple[Phase, Tensor, Tensor]] = []

    def _start(self, phase: Phase) -> None:
        super()._start(phase)
        self.seen.append((phase, self.layout.rows(self.model.params), self.mask.clone()))

    @property
    def masks(self) -> Tensor:
        """Masks of all rounds, [round, N, P]."""
        return torch.stack([mask for phase, _, mask in self.seen if phase.round is not None])


def trainer(steps: int, **options: Any) -> pl.Trainer:
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(
        accelerator="cpu", max_epochs=-1, max_steps=steps, **{"enable_checkpointing": False, **silent, **options}
    )


def trained(runs: list[Run], *callbacks: pl.Callback) -> Watched:
    module = Watched(runs)
    trainer(runs[0].steps, callbacks=list(callbacks)).fit(module, datamodule=Watched.make_data(runs))
    return module


def classified(run: Run) -> StackedClassification:
    module = fit_once(Stack((run,), (0,)), [])
    assert isinstance(module, StackedClassification)
    return module


def by_layer(mask: Tensor) -> dict[str, Tensor]:
    """A mask [P] cut as the protocol cuts it: each layer's weights and biases."""
    return dict(zip(LAYERS, mask.split(list(LAYERS.values())), strict=True))


@pytest.fixture(scope="module")
def searched(make_run: MakeRun) -> Watched:
    """One stack with every criterion, twice: as it is and with shuffled masks."""
    runs = [
        make_run(*SMALL, NO_FOLLOW, f"task.criterion={criterion}", f"task.shuffle_masks={shuffle}", "seed=3")
        for shuffle in ("false", "true")
        for criterion in CRITERIA
    ]
    return trained(runs)


# -- masks -----------------------------------------------------------------------------------------------


def test_criterion_init_shuffling_and_seed_may_differ_within_a_stack(make_run: MakeRun) -> None:
    values = (["task.criterion=random", "seed=4"], ["task.init=xavier"], ["task.shuffle_masks=true"])
    assert len({signature(make_run(*SMALL, *value)) for value in ([], *values)}) == 1
    assert signature(make_run(*SMALL, "task.rounds=3")) != signature(make_run(*SMALL))


def test_every_layer_loses_exactly_its_share_in_every_round(searched: Watched) -> None:
    for number, masks in enumerate(searched.masks):
        for mask in masks:
            for name, part in by_layer(mask).items():
                assert (~part).sum() == int(number / 3 * LAYERS[name]), (number, name)


def test_counts_of_the_paper(make_run: MakeRun) -> None:
    run = make_run("task=lottery", "model=mlp", "model.hidden=500")
    sizes = {"linear1": 20_500, "linear2": 250_500, "linear3": 5_010}
    share = sparsities(lottery(run))[91]
    mask = kept(torch.rand(1, sum(sizes.values())), torch.arange(sum(sizes.values())).split([*sizes.values()]), share)
    assert [int(part.sum()) for part in mask[0].split([*sizes.values()])] == [1657, 20_243, 405]


def nested(masks: Tensor) -> bool:
    return not bool((masks[1:] & ~masks[:-1]).any())


def test_masks_are_nested_for_magnitudes_and_nested_random_numbers_only(searched: Watched) -> None:
    found = [nested(searched.masks[:, n]) for n in range(6)]
    assert found == [True, False, True, False, False, False]  # shuffling loses it


def test_a_pruned_parameter_never_returns_even_where_others_are_zero(make_run: MakeRun) -> None:
    module = StackedLottery([make_run(*SMALL)])
    module.ranked.zero_()
    module.mask.copy_(torch.rand(module.mask.shape, generator=torch.Generator().manual_seed(0)) < 0.7)
    assert not (module._next_mask(2) & ~module.mask).any()


def test_shuffling_keeps_what_each_layer_keeps_and_moves_it(searched: Watched) -> None:
    plain, moved = searched.masks[1, 0], searched.masks[1, 3]  # after the same dense round
    for name, part in by_layer(plain).items():
        other = by_layer(moved)[name]
        assert part.sum() == other.sum()
        assert not torch.equal(part, other)


def test_the_smallest_weights_at_mask_step_go_first(make_run: MakeRun, searched: Watched) -> None:
    dense = classified(
        make_run("model=mlp", "model.hidden=24", "optimizer.lr=0.02", *SIZES, "trainer.max_steps=10", "seed=3")
    )
    state = dense.model.member_state(0)
    for name, mask in by_layer(searched.masks[1, 0]).items():
        sizes = torch.cat([state[f"{name}.weight"].flatten(), state[f"{name}.bias"]]).abs()
        assert sizes[mask].min() >= sizes[~mask].max() * (1 - 1e-3)  # stacked and alone differ by rounding


def test_global_pruning_ranks_across_layers(make_run: MakeRun) -> None:
    module = trained(
        [
            make_run(
                *SMALL,
                NO_FOLLOW,
                "task.scope=global",
                "task.rounds=2",
                "task.ticket_round=1",
                "task.final_sparsity=0.6",
            )
        ]
    )
    mask, sizes = module.masks[1, 0], module.ranked[0].abs()
    assert (~mask).sum() == int(0.6 * sum(LAYERS.values()))
    shares = [float(part.double().mean()) for part in by_layer(mask).values()]
    assert max(shares) - min(shares) > 0.1
    dense = classified(make_run("model=mlp", "model.hidden=24", "optimizer.lr=0.02", *SIZES, "trainer.max_steps=10"))
    sizes = Layout(dense.model.params).rows(dense.model.params)[0].abs()
    assert sizes[mask].min() >= sizes[~mask].max()


def test_biases_stay_where_they_are_not_pruned(make_run: MakeRun) -> None:
    module = trained([make_run(*SMALL, NO_FOLLOW, "task.prune_biases=false", f"task.criterion={c}") for c in CRITERIA])
    for name, parts in module.layout.parts(module.masks[2]).items():
        pruned = (~parts).flatten(1).sum(1)
        expected = 0 if name.endswith("bias") else int(2 / 3 * parts[0].numel())
        assert pruned.tolist() == [expected] * 3, name


def test_schedules(make_run: MakeRun) -> None:
    linear = lottery(make_run(*SMALL, "task.rounds=5", "task.final_sparsity=0.8"))
    assert sparsities(linear) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    geometric = lottery(make_run(*SMALL, "task.schedule=geometric", "task.rate=0.2"))
    assert sparsities(geometric) == pytest.approx([0, 0.2, 0.36, 0.488])
    once = lottery(make_run(*SMALL, "task.schedule=one_shot", "task.rate=0.2"))
    assert sparsities(once) == sparsities(geometric)
    assert sparsities(lottery(make_run(*SMALL, "task.rounds=1", "task.ticket_round=0"))) == [0]


def test_one_shot_pruning_ranks_the_weights_of_the_first_round_in_every_other(make_run: MakeRun) -> None:
    once = ("task.schedule=one_shot", "task.rate=0.4", NO_FOLLOW)
    module = trained([make_run(*SMALL, *once), make_run(*SMALL, *once, "task.criterion=random_nested")])
    dense = classified(make_run("model=mlp", "model.hidden=24", "optimizer.lr=0.02", *SIZES, "trainer.max_steps=10"))
    scores = module.layout.rows(dense.model.params).abs()
    groups = module.layout.layers(biases=True)
    for number, sparsity in enumerate(sparsities(module.task)):
        expected = kept(scores, groups, sparsity)[0]
        assert (module.masks[number, 0] == expected).double().mean() > 0.995  # the two stacks round otherwise
    assert (module.masks[3, 1] & ~module.masks[2, 1]).any()  # drawn anew: nothing is gone for good


def test_a_ticket_is_filled_with_old_weights_new_ones_and_mixtures(make_run: MakeRun) -> None:
    inits = ["rewound", "redrawn", "redrawn_xavier", "redrawn_kaiming", "sign_kept", "mask_shuffled"]
    follow = ("task.follow_ups=[fresh]", f"task.follow_up_inits=[{','.join(inits)}]")
    runs = [make_run(*SMALL, *follow, f"seed={seed}") for seed in (0, 1)]
    module = trained(runs)
    seen = {phase.init: (weights, mask) for phase, weights, mask in module.seen if phase.round is None}
    assert list(seen) == inits
    ticket = module.ticket
    for init, (weights, mask) in seen.items():
        assert torch.equal(mask, ticket) == (init != "mask_shuffled")
        assert not weights[~mask].any()
    shuffled_mask = seen["mask_shuffled"][1]
    for member in (0, 1):
        own, other = by_layer(ticket[member]), by_layer(shuffled_mask[member])
        assert {name: mask.sum() for name, mask in own.items()} == {name: mask.sum() for name, mask in other.items()}
    signed = seen["sign_kept"][0]
    assert torch.equal(signed.sign(), module.initial.sign() * ticket)
    assert torch.equal(signed.abs(), module.redrawn.abs() * ticket)
    for scheme in ("xavier", "kaiming"):
        drawn = module.layout.parts(seen[f"redrawn_{scheme}"][0])["linear1.weight"]
        plain = [redrawn_member(make_run(*SMALL, f"task.init={scheme}", f"seed={seed}")) for seed in (0, 1)]
        for own, member in zip(drawn, plain, strict=True):
            weight = dict(member.named_parameters())["linear1.weight"].detach()
            assert torch.equal(own[own != 0], weight[own != 0])
    finals = module.finals(0)
    assert {f"fresh_{init}/test/acc_final" for init in inits} <= set(finals)


def test_a_convolution_is_a_layer_like_any_other(make_run: MakeRun) -> None:
    module = trained([make_run(*SMALL[3:], "task=lottery", "model=cnn", NO_FOLLOW)])
    parts = module.layout.parts(module.masks[1, 0])
    for layer in {name.rpartition(".")[0] for name in parts}:
        mask = torch.cat([part.flatten() for name, part in parts.items() if name.startswith(f"{layer}.")])
        assert (~mask).sum() == int(len(mask) / 3)


# -- training --------------------------------------------------------------------------------------------


def test_pruned_parameters_are_exactly_zero_after_every_update(make_run: MakeRun) -> None:
    class Zero(pl.Callback):
        updates = 0

        def on_train_batch_end(self, _trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
            assert isinstance(module, StackedLottery)
            weights = module.layout.rows(module.model.params)
            assert not weights[~module.mask].any()
            assert weights[module.mask].all(), "kept ones are left alone"
            Zero.updates += 1

    every = (
        "trainer.eval_every=1",
        "task.follow_up_eval_every=1",
        "task.follow_ups=[fresh]",
        "optimizer.weight_decay=0.01",
    )
    run = make_run(*SMALL, *every)
    trained([run, make_run(*SMALL, *every, "task.criterion=random")], Zero())
    assert Zero.updates == run.steps == 4 * 12 + 2 * 7


@pytest.mark.parametrize("rewind_step", [0, 5, 12])
def test_kept_weights_return_bit_for_bit_to_where_the_search_was(make_run: MakeRun, rewind_step: int) -> None:
    runs = [make_run(*SMALL, f"task.rewind_step={rewind_step}", "task.follow_ups=[fresh]", f"seed={s}") for s in (0, 1)]
    module = trained(runs)
    plain = ("model=mlp", "model.hidden=24", "optimizer.lr=0.02", *SIZES)
    starts = StackedClassification([make_run(*plain, f"seed={seed}") for seed in (0, 1)])
    if rewind_step:
        stack = Stack(tuple(make_run(*plain, f"trainer.max_steps={rewind_step}", f"seed={s}") for s in (0, 1)), (0, 1))
        starts = fit_once(stack, [])  # type: ignore[assignment]
    expected = module.layout.rows(starts.model.params)
    for phase, weights, mask in module.seen[1:]:
        wanted = module.redrawn if phase.init == "redrawn" else expected
        assert torch.equal(weights, wanted * mask), phase


def test_a_search_from_xavier_weights_returns_to_them_in_every_round(make_run: MakeRun) -> None:
    asked = [("magnitude", 0), ("random", 0), ("magnitude", 1)]
    common = (*SMALL, "task.init=xavier", "task.follow_ups=[fresh]", "task.follow_up_inits=[rewound]")
    runs = [make_run(*common, f"task.criterion={criterion}", f"seed={seed}") for criterion, seed in asked]
    module = trained(runs)
    expected = module.layout.rows(StackedModel([initial_member(run) for run in runs]).params)
    assert len(module.seen) == 5
    for phase, weights, mask in module.seen:
        assert torch.equal(weights, expected * mask), phase
    assert torch.equal(expected[0], expected[1]), "tickets and random masks begin alike"
    assert not torch.equal(expected[0], expected[2])
    again = build_member(partial(make_model, runs[0].model), 0)
    generator = member_generator(0, "weights")
    for name, param in again.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.xavier_uniform_(param, generator=generator)
            assert torch.equal(module.layout.parts(expected)[name][0], param), name
        else:
            assert not module.layout.parts(expected)[name][0].any()


def test_a_round_is_the_reference_s_training_with_masks_before_every_pass(make_run: MakeRun) -> None:
    run = make_run(*SMALL, NO_FOLLOW)
    module = trained([run])
    _, _, masks = module.seen[2]
    model, splits = initial_member(run), load(run.data)
    x, y = torch.tensor(splits.train_x), torch.tensor(splits.train_y)
    parts = module.layout.parts(masks[0])

    def apply_masks() -> None:
        for name, param in model.named_parameters():
            param.data *= parts[name]

    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(12):
        apply_masks()
        optimizer.zero_grad()
        rows = slice(step * 50 % 400, step * 50 % 400 + 50)
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    apply_masks()
    ours = module.layout.parts(module.trained[0])  # of round 2, the ticket's
    for name, param in model.named_parameters():
        torch.testing.assert_close(ours[name], param.detach(), rtol=1e-3, atol=1e-4)


def test_metrics_count_steps_through_all_rounds_and_follow_ups(make_run: MakeRun) -> None:
    module = trained([make_run(*SMALL, "task.follow_ups=[fresh,shuffled]", "task.follow_up_inits=[rewound]")])
    metrics = module.histories[0].metrics
    rounds = [start + step for start in (0, 12, 24, 36) for step in (0, 8, 11)]
    assert [step for step, _ in metrics["test/acc"]] == [step for step, _ in metrics["sparsity"]] == rounds
    assert [step for step, _ in metrics["fresh_rewound/test/acc"]] == [48, 53, 54]
    assert [step for step, _ in metrics["shuffled_rewound/test/loss"]] == [55, 60, 61]
    total = sum(LAYERS.values())
    removed = [sum(int(number / 3 * n) for n in LAYERS.values()) / total for number in range(4) for _ in range(3)]
    assert [value for _, value in metrics["sparsity"]] == pytest.approx(removed)


def test_nothing_is_left_of_a_network_at_full_sparsity(make_run: MakeRun) -> None:
    run = make_run(*SMALL, NO_FOLLOW)
    metrics = trained([run]).histories[0].metrics
    assert metrics["test/loss"][-1][1] == pytest.approx(np.log(10))
    assert metrics["test/acc"][-1][1] == pytest.approx(np.mean(load(run.data).test_y == 0))


def test_one_member_alone_is_the_member_in_a_stack(make_run: MakeRun) -> None:
    asked = [(criterion, shuffle) for criterion in CRITERIA for shuffle in ("false", "true")]
    follow = "task.follow_ups=[reversed]"
    runs = [
        make_run(*SMALL, follow, f"task.criterion={c}", f"task.shuffle_masks={s}", f"task.init={i}", f"seed={n}")
        for n, ((c, s), i) in enumerate(zip(asked, ["default", "xavier", "kaiming"] * 2, strict=True))
    ]
    together = trained(runs)
    for n, run in enumerate(runs):
        alone = trained([run])
        assert torch.equal(alone.initial[0], together.initial[n])
        assert torch.equal(alone.redrawn[0], together.redrawn[n])
        if lottery(run).criterion != "magnitude":  # whose ranking sees rounding
            assert torch.equal(alone.masks[:, 0], together.masks[:, n])
        assert (alone.masks[:, 0] == together.masks[:, n]).double().mean() > 0.995
        losses = [value for _, value in alone.histories[0].metrics["test/loss"]]
        assert [value for _, value in together.histories[n].metrics["test/loss"]] == pytest.approx(losses, rel=2e-2)


class Saver(pl.Callback):
    """Saves a checkpoint after every block, named by the number of finished steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


@pytest.mark.parametrize("kind", ["data.batch_order=shuffled", "data.batch_order=sequential", "data.stream=true"])
def test_a_resumed_search_equals_an_uninterrupted_one_bit_for_bit(make_run: MakeRun, tmp_path: Path, kind: str) -> None:
    more = ("task.rewind_step=3", "task.follow_ups=[shuffled,half_swapped]", kind)
    asked = (["task.criterion=magnitude"], ["task.criterion=random", "task.shuffle_masks=true"])
    runs = [make_run(*SMALL, *more, *values) for values in asked]
    whole = trained(runs, Saver(tmp_path))
    # before the rewinding point; after the masks are taken; at the end of a round and of the search; in a follow-up
    for step in (1, 22, 24, 48, 54):
        resumed, data = StackedLottery(runs), StackedLottery.make_data(runs)
        trainer(runs[0].steps).fit(resumed, datamodule=data, ckpt_path=tmp_path / f"{step}.ckpt", weights_only=True)
        assert resumed.histories == whole.histories, step
        for name, values in whole.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], values), (step, name)


# -- follow-ups ------------------------------------------------------------------------------------------


def test_a_follow_up_of_the_dense_network_is_plain_training_on_its_data(make_run: MakeRun) -> None:
    dense = ("task.rounds=1", "task.ticket_round=0", "task.follow_ups=[fresh,reversed]")
    module = trained([make_run(*SMALL, *dense, f"seed={seed}") for seed in (0, 1)])
    plain = ("model=mlp", "model.hidden=24", "optimizer.lr=0.02", *SIZES, "trainer.max_steps=7", "trainer.eval_every=5")
    data = ("data.seed=43", "data.batch_size=80", "data.feature_order=reversed")
    runs = tuple(make_run(*plain, *data, f"seed={seed}") for seed in (0, 1))
    expected = fit_once(Stack(runs, (0, 1)), [])
    for ours, theirs in zip(module.histories, expected.histories, strict=True):
        for name in ("train/acc", "test/loss"):
            found = [(step - 26, value) for step, value in ours.metrics[f"reversed_rewound/{name}"]]
            assert found == theirs.metrics[name]


def test_every_follow_up_trains_the_ticket(make_run: MakeRun) -> None:
    module = trained([make_run(*SMALL, f"task.criterion={criterion}") for criterion in CRITERIA])
    follow_ups = [mask for phase, _, mask in module.seen if phase.round is None]
    assert len(follow_ups) == 10
    assert all(torch.equal(mask, module.masks[2]) for mask in follow_ups)


def test_follow_up_data_are_named_by_their_features_whatever_the_search_has_seen(make_run: MakeRun) -> None:
    for seen in (["data.feature_order=half_swapped"], ["data.shuffle_features=true", "data.seed=7"]):
        run = make_run(*SMALL, *seen)
        data = {name: load(follow_up_run(run, name).data) for name in lottery(run).follow_ups}
        fresh = load(make_run(*SIZES, "data.seed=43").data)
        for field in ("train_x", "test_x"):
            x = getattr(fresh, field)
            assert np.array_equal(getattr(data["fresh"], field), x)
            assert np.array_equal(getattr(data["reversed"], field), x[:, ::-1])
            shuffled = x[:, np.random.RandomState(0).permutation(40)]
            assert np.array_equal(getattr(data["shuffled"], field), shuffled)
            assert np.array_equal(getattr(data["half_swapped"], field), np.roll(x, -20, axis=1))
            chunks = getattr(data["chunk_shuffled"], field)
            assert not np.array_equal(chunks, x)
            first = [int(np.flatnonzero((x == chunks[:, [j]]).all(0))[0]) for j in range(40)]
            assert all(first[j + 1] - first[j] == 1 for j in range(39) if j % 10 != 9)
            assert all(first[j + 1] - first[j] != 1 for j in (9, 19, 29))
        assert np.array_equal(data["shuffled"].train_y, fresh.train_y)


def test_disturbed_follow_ups_are_fresh_data_but_for_what_their_name_says(make_run: MakeRun) -> None:
    names = ("fresh", "noisy", "window_zeroed", "random_labels")
    run = make_run(*SMALL, f"task.follow_ups=[{','.join(names)}]", "data.feature_order=reversed")
    fresh, noisy, zeroed, redrawn = (load(follow_up_run(run, name).data) for name in names)
    for field in ("train_x", "test_x"):
        x, other = getattr(fresh, field), getattr(zeroed, field)
        places = np.nonzero(other != x)[1].reshape(len(x), 10)
        assert (np.diff(places) == 1).all()
        assert ((other == 0).sum(1) == 10).all()
        assert len(set(places[:, 0])) > 20, "each sample has its own"
        assert 0.1 < np.std(getattr(noisy, field) - x) < 1
        assert np.array_equal(getattr(redrawn, field), x)
    for data in (noisy, zeroed):
        assert np.array_equal(data.train_y, fresh.train_y)
    assert (redrawn.train_y == fresh.train_y).mean() < 0.2
    assert np.array_equal(redrawn.test_y, fresh.test_y)
    finals = trained([run]).finals(0)
    assert {f"{name}_{init}/test/acc_final" for name in names for init in ("rewound", "redrawn")} <= set(finals)


def test_follow_ups_load_their_data_once_and_share_them(make_run: MakeRun) -> None:
    runs = [make_run(*SMALL, f"seed={seed}") for seed in range(3)]
    data = LotteryData(runs)
    data.setup()
    assert len(data.follow_ups) == 5
    assert {part.splits["train"][0].shape for part in data.follow_ups.values()} == {(1, 400, 40)}


def test_initial_weights_are_those_of_the_seed_and_redrawn_ones_are_others(make_run: MakeRun) -> None:
    before = torch.random.get_rng_state()
    runs = [make_run(*SMALL, f"seed={seed}") for seed in (0, 1)]
    usual = build_member(partial(make_model, runs[0].model), 0).state_dict()
    assert all(torch.equal(usual[name], value) for name, value in initial_member(runs[0]).state_dict().items())
    drawn = [member(run).linear1.weight for run in runs for member in (initial_member, redrawn_member)]
    assert all(not torch.equal(drawn[i], drawn[j]) for i in range(4) for j in range(i))
    assert torch.equal(redrawn_member(runs[0]).linear1.weight, drawn[1])  # type: ignore[union-attr, arg-type]
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("scheme", "fan"), [("xavier", 24 + 24), ("kaiming", 24)])
def test_init_schemes_draw_from_their_own_bounds(make_run: MakeRun, scheme: str, fan: int) -> None:
    run = make_run(*SMALL, f"task.init={scheme}")
    before = torch.random.get_rng_state()
    for member in (initial_member(run), redrawn_member(run)):
        weights, bound = member.linear2.weight.detach(), (6 / fan) ** 0.5
        assert 0.97 * bound < weights.abs().max() <= bound
        assert float(weights.std()) == pytest.approx(bound / 3**0.5, rel=0.1)
        assert not member.linear2.bias.any()
    assert not torch.equal(initial_member(run).linear2.weight, redrawn_member(run).linear2.weight)
    assert torch.equal(torch.random.get_rng_state(), before)


# -- what is kept of a run -------------------------------------------------------------------------------


def test_final_metrics_are_those_of_the_ticket(make_run: MakeRun) -> None:
    module = trained([make_run(*SMALL, "task.follow_ups=[shuffled]")])
    finals, metrics = module.finals(0), module.histories[0].metrics
    accuracy = dict(metrics["test/acc"])
    assert finals["test/acc_final"] == accuracy[3 * 12 - 1]
    assert finals["test/acc_best"] == max(accuracy[end] for end in (11, 23, 35, 47))
    assert finals["shuffled_redrawn/test/acc_final"] == metrics["shuffled_redrawn/test/acc"][-1][1]
    first = module.masks[2, 0, : 24 * 40].view(24, 40)
    assert finals["density/first_layer"] == pytest.approx(float(first.double().mean()))
    assert finals["adjacency/three"] == pytest.approx(adjacency(first)["three"])
    module.histories[0].failure = "why"
    assert module.finals(0) == {}


def test_a_ticket_can_be_built_again_from_what_is_kept(searched: Watched) -> None:
    for n, run in enumerate(searched.runs):
        state = searched.member_state(n)
        model, splits = make_model(run.model), load(run.data)
        names = model.state_dict().keys()
        assert set(state) == {f"{kind}{name}" for kind in ("", "initial/", "mask/") for name in names}
        model.load_state_dict({name: state[name] for name in names})
        accuracy = (model(torch.tensor(splits.test_x)).argmax(1) == torch.tensor(splits.test_y)).double().mean()
        assert searched.finals(n)["test/acc_final"] == pytest.approx(float(accuracy))
        assert torch.equal(first_mask(state), searched.masks[2, n, : 24 * 40].view(24, 40))
        assert not any(state[name][~state[f"mask/{name}"]].any() for name in names)
        assert torch.equal(state["initial/linear3.bias"], initial_member(run).linear3.bias.detach())  # type: ignore[union-attr]
    with pytest.raises(KeyError, match="task=lottery"):
        first_mask(model.state_dict())


def test_adjacency_of_masks_made_by_hand() -> None:
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[0, [0, 1, 2, 3, 7, 8]] = True  # three pairs and one more, two triples, one quadruple
    assert adjacency(mask) == {"two": 4 / 9 / 2, "three": 2 / 8 / 2, "four": 1 / 7 / 2}
    assert adjacency(torch.ones(3, 40, dtype=torch.bool)) == {"two": 1, "three": 1, "four": 1}
    assert adjacency(mask[:, :3]) == {"two": 0.5, "three": 0.5}


def test_adjacency_of_a_random_mask_is_at_chance_level() -> None:
    density = 0.4
    mask = torch.rand(20_000, 40, generator=torch.Generator().manual_seed(0)) < density
    found = adjacency(mask)
    assert [found[name] for name in ("two", "three", "four")] == pytest.approx(
        [density**k for k in (2, 3, 4)], rel=0.02
    )


@pytest.mark.parametrize(
    ("values", "key"),
    [
        (["task.mask_step=12"], "task.mask_step"),
        (["task.rewind_step=13"], "task.rewind_step"),
        (["task.follow_up_batch_size=401"], "task.follow_up_batch_size"),
        (["task.ticket_round=4"], "task.ticket_round"),
    ],
)
def test_what_no_round_can_do_is_refused(make_run: MakeRun, values: list[str], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_run(*SMALL, *values)
    assert [fault.key for fault in caught.value.faults] == [key]
