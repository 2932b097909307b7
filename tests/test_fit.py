"""Training for real, in Lightning: steps counted, metrics booked, resume exact, failures isolated, memory respected."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from mnist1d.blocks import LONGEST_BLOCK, Schedule, StackData
from mnist1d.classification import StackedClassification
from mnist1d.config import Run
from mnist1d.fit import fit, fit_once, out_of_memory
from mnist1d.plan import Stack
from mnist1d.problem import History
from mnist1d.resume import checkpoint_path, steps_done

MakeRun = Callable[..., Run]
SMALL = ("data.num_samples=500", "data.batch_size=50", "trainer.accelerator=cpu", "trainer.threads=1")


def stack_of(runs: list[Run]) -> Stack:
    return Stack(tuple(runs), tuple(range(len(runs))))


def trainer(**options: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(accelerator="cpu", max_epochs=-1, **{"enable_checkpointing": False, **quiet, **options})


def final_weights(module: StackedClassification) -> list[dict[str, Tensor]]:
    return [module.model.member_state(n) for n in range(module.model.size)]


def test_schedule_of_the_paper_evaluates_25_times() -> None:
    schedule = Schedule(max_steps=6001, eval_every=250)
    stops = schedule.stops()
    assert stops[0] == 1
    assert stops[-1] == 6001
    assert sum(schedule.evaluates(stop - 1) for stop in stops) == 25
    assert len(stops) == 25


@pytest.mark.parametrize(("max_steps", "eval_every"), [(1, 1), (10, 3), (1000, 10_000), (2000, 600), (5, 1)])
def test_blocks_end_at_every_evaluation_and_are_never_too_long(max_steps: int, eval_every: int) -> None:
    schedule = Schedule(max_steps, eval_every)
    stops = schedule.stops()
    steps = [stop - start for start, stop in zip([0, *stops], stops, strict=False)]
    assert max(steps) <= LONGEST_BLOCK
    assert min(steps) >= 1
    assert stops[-1] == max_steps
    assert {s for s in range(max_steps) if schedule.evaluates(s)} <= {stop - 1 for stop in stops}


def test_global_step_counts_optimiser_steps_of_one_member(make_run: MakeRun) -> None:
    runs = [make_run(*SMALL, "trainer.max_steps=37", "trainer.eval_every=10", f"seed={seed}") for seed in range(3)]
    module = StackedClassification(runs)
    fitter = trainer(max_steps=37)
    fitter.fit(module, datamodule=StackData(runs))
    assert fitter.global_step == 37
    for history in module.histories:
        assert [step for step, _ in history.metrics["test/acc"]] == [0, 10, 20, 30, 36]
        assert sorted(name for name in history.metrics if "class" not in name) == [
            "test/acc",
            "test/loss",
            "train/acc",
            "train/loss",
        ]


def test_each_digit_has_its_accuracy_at_the_end_and_only_then(make_run: MakeRun) -> None:
    runs = [make_run(*SMALL, "trainer.max_steps=30", "trainer.eval_every=10", f"seed={seed}") for seed in range(2)]
    module, data = StackedClassification(runs), StackData(runs)
    trainer(max_steps=30).fit(module, datamodule=data)
    x, y = data.splits["test"]
    predicted = module.model(x.expand(2, -1, -1)).argmax(-1)
    for n, history in enumerate(module.histories):
        for digit in set(y[0].tolist()):
            right = float((predicted[n] == y[0])[y[0] == digit].double().mean())
            assert history.metrics[f"test/acc_class_{digit}"] == [(29, pytest.approx(right))]


def test_of_the_training_data_only_the_samples_asked_for_are_measured(make_run: MakeRun) -> None:
    run = make_run(*SMALL, "trainer.eval_samples=7", "trainer.max_steps=5")
    module, data = StackedClassification([run]), StackData([run])
    trainer(max_steps=5).fit(module, datamodule=data)
    x, y = data.splits["train"]
    right = (module.model(x[:, :7]).argmax(-1) == y[:, :7]).double().mean()
    assert module.histories[0].metrics["train/acc"][-1] == (4, pytest.approx(float(right)))
    assert x.shape[1] > 7, "training itself uses all samples"


def test_metrics_are_those_of_the_trained_members(make_run: MakeRun) -> None:
    runs = [make_run(*SMALL, "trainer.max_steps=30", "data.val_split=0.2", f"seed={seed}") for seed in range(2)]
    module = fit_once(stack_of(runs), [])
    data = StackData(runs)
    data.setup()
    for n, history in enumerate(module.histories):
        plain = module.model.template
        plain.load_state_dict(module.model.member_state(n))
        for split in ("train", "val", "test"):
            x, y = (values[0] for values in data.splits[split])
            accuracy = (plain(x).argmax(1) == y).float().mean().item()
            assert history.metrics[f"{split}/acc"][-1] == (29, pytest.approx(accuracy))
            loss = nn.functional.cross_entropy(plain(x), y).item()
            assert history.metrics[f"{split}/loss"][-1] == (29, pytest.approx(loss, rel=1e-5))


def test_final_metrics_are_last_best_and_selected_on_validation_data() -> None:
    history = History(
        {
            "test/acc": [(0, 0.1), (10, 0.7), (20, 0.6), (30, 0.65)],
            "val/acc": [(0, 0.2), (10, 0.3), (20, 0.5), (30, 0.5)],
            "val/loss": [(0, 2.0), (10, 1.9), (20, 1.5), (30, 1.6)],
        }
    )
    assert history.final() == {
        "test/acc_final": 0.65,
        "test/acc_best": 0.7,
        "test/acc_selected": 0.6,  # step 20: the first of two equals
        "val/acc_selected_step": 20.0,
        "val/acc_final": 0.5,
        "val/loss_final": 1.6,
    }
    assert History({"test/acc": [(0, 0.5)]}, failure="why").final() == {}


# The advice is to save weights from before the update; after it is what a resume wants.
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization:UserWarning")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")  # it should be
@pytest.mark.parametrize(
    "kind", ["data.batch_order=shuffled", "data.batch_order=sequential", "data.stream=true", "model.dropout=0.3"]
)
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_resumed_fit_equals_an_uninterrupted_one_bit_for_bit(
    make_run: MakeRun, tmp_path: Path, kind: str, optimizer: str
) -> None:
    common = (*SMALL, f"optimizer={optimizer}", "trainer.max_steps=60", "trainer.eval_every=7", kind)
    runs = [make_run(*common, f"seed={s}", f"optimizer.lr={lr}") for s, lr in ((0, 0.01), (1, 0.003))]
    whole = StackedClassification(runs)
    trainer(max_steps=60).fit(whole, datamodule=StackData(runs))

    def saving() -> pl.Trainer:  # a checkpoint at every block
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        return trainer(max_steps=60, enable_checkpointing=True, callbacks=[saver])

    saving().fit(StackedClassification(runs), datamodule=StackData(runs))
    resumed, second = StackedClassification(runs), saving()
    second.fit(resumed, datamodule=StackData(runs), ckpt_path=tmp_path / "step=22.ckpt", weights_only=True)
    assert second.global_step == 60
    assert resumed.histories == whole.histories
    for ours, theirs in zip(final_weights(resumed), final_weights(whole), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("model", ["model=mlp", "model=cnn"])
def test_what_a_member_drops_does_not_depend_on_its_company(make_run: MakeRun, model: str) -> None:
    common = (*SMALL, model, "model.dropout=0.4", "trainer.max_steps=12", "trainer.eval_every=5")
    runs = [make_run(*common, f"seed={seed}") for seed in (0, 1)]
    state = torch.random.get_rng_state()
    stacked, alone = fit_once(stack_of(runs), []), fit_once(stack_of(runs[1:2]), [])
    assert torch.equal(torch.random.get_rng_state(), state)
    first, second = final_weights(stacked)
    for name, values in final_weights(alone)[0].items():
        torch.testing.assert_close(second[name], values, rtol=1e-4, atol=1e-5)
    without = fit_once(stack_of([make_run(*common, "model.dropout=0", "seed=0")]), [])
    assert any((first[name] - values).abs().max() > 0.01 for name, values in final_weights(without)[0].items())
    assert stacked.histories[0].metrics["test/loss"][0][1] == pytest.approx(_loss_in_full(runs[0]), rel=1e-4)


def _loss_in_full(run: Run) -> float:
    """Test loss after the first step: nothing is dropped in evaluations, so it is that of all units."""
    short = run.model_copy(update={"trainer": run.trainer.model_copy(update={"max_steps": 1})})
    module = fit_once(stack_of([short]), [])
    data = StackData([run])
    data.setup()
    x, y = (values[0] for values in data.splits["test"])
    plain = module.model.template.eval()
    plain.load_state_dict(module.model.member_state(0))
    return nn.functional.cross_entropy(plain(x), y).item()


def test_a_diverging_member_fails_alone(make_run: MakeRun) -> None:
    common = (*SMALL, "optimizer=sgd", "trainer.max_steps=40", "trainer.eval_every=10")
    healthy = [make_run(*common, f"seed={seed}") for seed in (0, 2)]
    wild = make_run(*common, "seed=1", "optimizer.lr=1e30")
    module = fit_once(stack_of([healthy[0], wild, healthy[1]]), [])
    assert [history.failure is None for history in module.histories] == [True, False, True]
    reason = module.histories[1].failure
    assert reason is not None
    assert re.fullmatch(r"(the training|train/|test/)\s?loss became (nan|inf) at step \d", reason)
    beside = fit_once(stack_of([healthy[0], make_run(*common, "seed=1"), healthy[1]]), [])
    for n in (0, 2):  # same computation, only the middle member's values differ
        # a differing rate takes the optimiser's per-member path, whose rounding differs
        assert module.histories[n].metrics["test/loss"] == [
            (step, pytest.approx(value, rel=1e-4)) for step, value in beside.histories[n].metrics["test/loss"]
        ]


def test_a_stack_in_which_all_diverge_stops_early(make_run: MakeRun) -> None:
    run = make_run(*SMALL, "optimizer=sgd", "optimizer.lr=1e30", "trainer.max_steps=5000", "trainer.eval_every=10")
    module = fit_once(stack_of([run]), [])
    assert module.histories[0].failure is not None
    assert module.histories[0].final() == {}
    assert len(module.histories[0].metrics.get("test/acc", [])) < 5


class Hungry(pl.Callback):
    """Runs out of memory, as torch's CPU allocator says it, whenever a stack has more than `most` members."""

    def __init__(self, most: int) -> None:
        self.most = most

    def on_train_start(self, _trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, StackedClassification)
        if module.model.size > self.most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory")


def test_a_stack_that_does_not_fit_is_halved_until_it_does(make_run: MakeRun) -> None:
    runs = [make_run(*SMALL, "trainer.max_steps=12", f"seed={seed}") for seed in range(5)]
    whole = fit_once(stack_of(runs), [])
    parts = list(fit(stack_of(runs), lambda _: [Hungry(2)]))
    assert [len(part) for part, _ in parts] == [2, 1, 2]
    assert [index for part, _ in parts for index in part.indices] == list(range(5))
    losses = [history.metrics["test/loss"][-1][1] for _, module in parts for history in module.histories]
    assert losses == pytest.approx([h.metrics["test/loss"][-1][1] for h in whole.histories], rel=1e-4)


def test_a_single_run_that_does_not_fit_fails(make_run: MakeRun) -> None:
    run = make_run(*SMALL, "trainer.max_steps=12")
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        list(fit(stack_of([run]), lambda _: [Hungry(0)]))


class CutOff(pl.Callback):
    """Ends the fit like a signal, in the middle."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step > 20:
            raise SystemExit


@pytest.fixture
def cut_off(make_run: MakeRun, tmp_path: Path) -> tuple[Stack, list[History]]:
    """A stack whose fit has left a checkpoint, and what it measures when it is not cut off."""
    place = (f"tracking.uri=sqlite:///{tmp_path}/m.db", "trainer.checkpoint_seconds=0")
    common = (*SMALL, *place, "trainer.max_steps=40", "trainer.eval_every=5", "data.batch_order=shuffled")
    stack = stack_of([make_run(*common, f"seed={seed}") for seed in range(2)])
    whole = fit_once(stack, []).histories
    checkpoint_path(stack).unlink()
    with pytest.raises(SystemExit):
        fit_once(stack, [CutOff()])
    return stack, whole


def test_a_fit_that_was_cut_off_goes_on(cut_off: tuple[Stack, list[History]], caplog) -> None:
    stack, whole = cut_off
    assert steps_done(stack) == 16, "the last block's end before it was cut off"
    assert [module.histories for _, module in fit(stack, lambda _: [])] == [whole]
    assert not [message for message in caplog.messages if "cannot be used" in message]
    assert steps_done(stack) == 36, "the last block before the end: it stays until the results are recorded"


def flipped(content: bytes) -> bytes:
    """One bit of a weight is wrong, which torch would load."""
    middle = content.index(b"data/0") + 200
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {"cut": lambda c: c[: len(c) // 2], "empty": lambda _: b"", "flipped": flipped, "text": lambda _: b"a letter"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_noticed_and_the_fit_starts_from_the_beginning(
    cut_off: tuple[Stack, list[History]], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    stack, whole = cut_off
    path = checkpoint_path(stack)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert steps_done(stack) == 0
    assert [module.histories for _, module in fit(stack, lambda _: [])] == [whole]
    assert f"{path} cannot be used (it is damaged): the fit starts from the beginning" in caplog.messages
    assert steps_done(stack) == 36, "replaced by sound ones"


def test_a_checkpoint_of_something_else_is_dropped(cut_off: tuple[Stack, list[History]], caplog) -> None:
    """As when code was changed twice between two commits, which leaves no trace in its name."""
    stack, whole = cut_off
    path = checkpoint_path(stack)
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {name: values[:, :3] for name, values in content["state_dict"].items()}
    torch.save(content, path)
    assert [module.histories for _, module in fit(stack, lambda _: [])] == [whole]
    (said,) = [message for message in caplog.messages if "cannot be used" in message]
    assert "RuntimeError: Error(s) in loading state_dict" in said


def test_a_checkpoint_that_cannot_be_saved_is_told_once_and_the_fit_goes_on(
    make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "checkpoints").write_text("not a folder")
    place = (f"tracking.uri=sqlite:///{tmp_path}/m.db", "trainer.checkpoint_seconds=0", "trainer.max_steps=40")
    module = fit_once(stack_of([make_run(*SMALL, *place, "trainer.eval_every=5")]), [])
    assert module.done == 40
    (said,) = [message for message in caplog.messages if "could not be saved" in message]
    assert said.startswith(str(tmp_path / "checkpoints"))
    assert "so this fit could not go on after a crash" in said


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_fit_leaves_the_global_generators_alone(make_run: MakeRun) -> None:
    import numpy as np

    run = make_run(*SMALL, "trainer.max_steps=12", "data.batch_order=shuffled")
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    fit_once(stack_of([run]), [])
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_threads_and_precision_are_set_on_purpose(make_run: MakeRun) -> None:
    common = (*SMALL, "trainer.max_steps=2", "trainer.threads=1")
    for precision in ("medium", "highest"):
        fit_once(stack_of([make_run(*common, f"trainer.matmul_precision={precision}")]), [])
        assert torch.get_float32_matmul_precision() == precision
    assert torch.get_num_threads() == 1
