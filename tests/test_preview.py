"""`plan=true`: everything is said, nothing is done."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from mnist1d import cost
from mnist1d.config import ConfigError, Run, limits
from mnist1d.plan import Stack
from mnist1d.preview import planned
from mnist1d.remaining import Recorded
from tests.test_train import SMALL, train

MakeRun = Callable[..., Run]


def files(folder: Path) -> dict[str, bytes]:
    """Content of everything in a folder, but for the file that SQLite shares between readers."""
    return {str(f): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file() and "mlflow.db-" not in f.name}


def test_a_plan_shows_what_would_run_and_leaves_the_disk_as_it_was(tmp_path: Path) -> None:
    sweep = ("-m", "model.hidden=10,20", "seed=0,1", *SMALL)
    new = train(tmp_path, *sweep, "plan=true")
    assert (new.returncode, new.stderr) == (0, "")
    lines = [line.split() for line in new.stdout.splitlines()]
    assert new.stdout.startswith("4 runs · 2 settings · 2 stacks · 124 run-steps")
    assert ["10", "2", "0"] in lines, "hidden, runs, recorded"
    assert [line[:5] for line in lines if line[2:3] == ["31"]] == [
        ["10", "2", "31", "–", "0.0"],
        ["20", "2", "31", "–", "0.0"],
    ]
    assert "\nmemory about " in new.stdout
    assert " · disk about " in new.stdout
    assert new.stdout.endswith("plan=true: nothing was trained or written.\n")
    assert list(tmp_path.iterdir()) == []
    assert train(tmp_path, "model.hidden=10", *SMALL).returncode == 0
    before = files(tmp_path)
    later = train(tmp_path, *sweep, "plan=true")
    assert "1 of 4 runs is recorded already" in later.stdout
    assert "4 runs · 2 settings · 2 stacks · 93 run-steps" in later.stdout
    assert ["10", "2", "1"] in [line.split() for line in later.stdout.splitlines()]
    assert files(tmp_path) == before


def test_a_plan_of_one_run_makes_no_folder_and_its_faults_are_found(tmp_path: Path) -> None:
    done = train(tmp_path, "plan=true", *SMALL)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 run · 1 setting · 1 stack · 31 run-steps")
    assert train(tmp_path, "plan=true", "model.hidden=0").returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_plan_says_what_would_be_downloaded_and_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST1D_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MNIST1D_MIRROR", "http://127.0.0.1:9")  # where nobody answers
    done = train(tmp_path, "-m", "plan=true", "model=logistic", "data=digits,cifar10", "trainer.max_steps=5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\ndata=cifar10 would be downloaded first: 170 MB\nplan=true: nothing" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_is_planned_with_the_time_and_memory_of_its_stacks(make_run: MakeRun, tmp_path: Path) -> None:
    place = (f"tracking.uri=sqlite:///{tmp_path}/m.db", "trainer.accelerator=cpu", "trainer.threads=1")
    runs = [make_run(*place, f"model.hidden={h}", f"seed={s}") for h in (10, 100) for s in range(3)]
    fits = planned(runs, {0: Recorded("id", "name", None, {}, ("", ""), False)})
    assert [fit.stack.indices for fit in fits] == [(1, 2), (3, 4, 5)]
    assert [fit.done for fit in fits] == [0, 0]
    assert all(fit.seconds is not None and fit.seconds > 0 for fit in fits)
    assert fits[1].memory > fits[0].memory
    assert planned(runs, dict.fromkeys(range(6), Recorded("id", "name", None, {}, ("", ""), False))) == []


def test_sizes_are_the_same_without_values_as_with_them(make_run: MakeRun) -> None:
    for model in ("mlp", "cnn", "gru", "attention"):
        run = make_run(f"model={model}")
        assert cost.measure_member(run) == cost._measured(run)
        assert cost.impossible([run]) == []


class ShownValues(nn.Linear):
    """A model that looks at a value, which a tensor without values has not."""

    def __init__(self) -> None:
        super().__init__(40, 10)
        assert float(self.bias.detach().sum()) < 9


def test_a_model_that_looks_at_its_values_is_measured_all_the_same(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "make_member", lambda _run: ShownValues())
    assert cost.measure_member(make_run()).weights == 4 * 410


ABSENT = "cuda" if not torch.cuda.is_available() else "mps"
IMPOSSIBLE = {
    f"trainer.accelerator={ABSENT}": (
        f"trainer.accelerator={ABSENT}: torch {torch.__version__} finds none on this machine; allowed: auto, cpu"
    ),
    "model.hidden=10000000": (
        "model.name=mlp: takes 1.6 PB of memory, 1.6 PB of it for weights, their gradients and moments; there are 16 GB"
    ),
    "model=attention data=cifar10": (
        "model.name=attention: takes 38 GB of memory, 26 GB of it to evaluate 1000 samples of 3072 values; "
        "there are 16 GB"
    ),
    "task=metalearn_activation model=shallow optimizer=rmsprop task.meta_hidden=1000000000": (
        "model.name=shallow: takes 48 GB of memory, 48 GB of it for weights, their gradients and moments; "
        "there are 16 GB"
    ),
}


@pytest.mark.parametrize("command", IMPOSSIBLE)
def test_a_run_that_this_machine_cannot_train_is_refused_before_anything_is_allocated(
    command: str, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "memory", lambda: 16 * 10**9)
    (fault,) = cost.impossible([make_run(*command.split(), f"seed={seed}") for seed in range(3)])
    if ABSENT in command:
        assert str(fault).startswith(IMPOSSIBLE[command])
    else:
        assert str(fault) == IMPOSSIBLE[command]


def test_records_that_have_no_place_are_refused(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "free_disk", lambda _uri: 10**6)
    runs = [make_run(f"seed={seed}", "tracking.uri=sqlite:///m.db") for seed in range(20)]
    limits.refuse_without_disk(runs[:5])
    limits.refuse_without_disk([])
    with pytest.raises(ConfigError, match=r"uri=sqlite:///m\.db +20 runs take 1\.2 MB on disk, where 1\.0 MB are free"):
        limits.refuse_without_disk(runs)


def test_the_real_program_says_what_is_missing_and_too_large_all_at_once(tmp_path: Path) -> None:
    asked = ("-m", f"trainer.accelerator=cpu,{ABSENT}", "model.hidden=10000000", "plan=true")
    done = train(tmp_path, *asked)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"  trainer.accelerator={ABSENT}  torch {torch.__version__} finds none on this machine" in done.stderr
    assert (
        "  model.name=mlp            takes 1.6 PB of memory, 1.6 PB of it for weights, their gradients" in done.stderr
    )
    assert list(tmp_path.iterdir()) == []


def test_memory_counts_members_and_every_data_set_once(make_run: MakeRun) -> None:
    def taken(*sets: int) -> int:
        runs = tuple(make_run(f"data.seed={seed}") for seed in sets)
        return cost.stack_bytes(Stack(runs, tuple(range(len(runs)))))

    data = cost.measure_member(make_run()).data
    assert taken(0, 1) - taken(0, 0) == data == 5000 * (40 * 4 + 8)
    assert taken(0, 0, 0) - taken(0, 0) == taken(0, 0) - taken(0)


@pytest.mark.parametrize(("steps", "points"), [(1, 2), (6001, 25)])
def test_disk_space_grows_with_evaluations_and_weights(make_run: MakeRun, steps: int, points: int) -> None:
    run = make_run(f"trainer.max_steps={steps}")
    evaluations = 1 + steps // 250
    assert abs(evaluations - points) <= 1
    assert cost.disk_bytes(run) == limits.RUN_BYTES + limits.POINT_BYTES * 4 * evaluations + 4 * 15_210
