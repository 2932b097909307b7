"""The same command again trains only what is missing: the real command line, a real store."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow.entities import Run as StoredRun

from mnist1d.analysis.read import read_runs
from mnist1d.config import Run
from mnist1d.plan import Stack, fingerprint
from mnist1d.remaining import Recorded, left, recorded
from mnist1d.resume import checkpoint_path
from mnist1d.tracking import find_run, load_weights
from tests.test_train import SMALL, Store, train

MakeRun = Callable[..., Run]
Done = subprocess.CompletedProcess[str]

TWO_SEEDS = ("-m", "model.hidden=10,20", "seed=range(2)", *SMALL)
THREE_SEEDS = ("-m", "model.hidden=10,20", "seed=range(3)", *SMALL)
CALLBACK = """
from hydra.experimental.callback import Callback

class Noting(Callback):
    def on_job_end(self, config, job_return, **kwargs):
        print("worth", job_return.return_value)
"""
NOTING = "+hydra.callbacks.noting._target_=noting.Noting"


def table(done: Done) -> list[str]:
    """The lines of the comparison."""
    lines = done.stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if "final" in line)
    return lines[start : lines.index("Accuracy on test data in percent; mean ± half the 95% interval over n runs.")]


def finals(store: Store) -> dict[str, float]:
    return {run.data.tags["mnist1d.fingerprint"]: run.data.metrics["test/acc_final"] for run in trained(store)}


def trained(store: Store) -> list[StoredRun]:
    """Finished runs, without sweeps and copies."""
    runs = [run for run in store.runs() if run.data.tags["mnist1d.kind"] == "run"]
    return [run for run in runs if run.info.status == "FINISHED" and "mnist1d.copy_of" not in run.data.tags]


class Lab:
    """Commands given one after the other in one folder, and how many runs the store had after each."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder)
        (folder / "noting.py").write_text(CALLBACK)
        self.first = train(folder, *TWO_SEEDS)
        self.after_first = self.store.runs()
        self.again = train(folder, *TWO_SEEDS, NOTING, path=folder)
        self.after_again = self.store.runs()
        self.more = train(folder, *THREE_SEEDS)
        self.after_more = self.store.runs()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


def test_a_finished_sweep_is_shown_again_and_nothing_is_trained_or_written(lab: Lab) -> None:
    assert (lab.first.returncode, lab.again.returncode) == (0, 0), lab.again.stderr
    assert lab.again.stderr == ""
    first, _, note = lab.again.stdout.splitlines()[:3]
    assert first == "4 runs · 2 settings"
    assert note == "4 of 4 runs are recorded already; force=true trains them again"
    assert table(lab.again) == table(lab.first)
    assert [(run.info.run_id, run.info.end_time) for run in lab.after_again] == [
        (run.info.run_id, run.info.end_time) for run in lab.after_first
    ]


def test_sweepers_get_the_recorded_value(lab: Lab) -> None:
    worth = [float(line.split()[1]) for line in lab.again.stdout.splitlines() if line.startswith("worth")]
    children = {run.info.run_name: run for run in lab.after_first if "mlflow.parentRunId" in run.data.tags}
    names = [f"mlp hidden={hidden} seed={seed}" for hidden in (10, 20) for seed in (0, 1)]
    assert worth == [children[name].data.metrics["test/acc_final"] for name in names]


def test_a_larger_sweep_trains_what_is_new_and_has_all_of_its_runs(lab: Lab) -> None:
    assert lab.more.returncode == 0, lab.more.stderr
    assert "6 runs · 2 settings · 2 stacks · 62 run-steps" in lab.more.stdout
    assert "4 of 6 runs are recorded already; force=true trains them again\n" in lab.more.stdout
    assert "\n4/6 runs\n6/6 runs" in lab.more.stdout
    old = {run.info.run_id for run in lab.after_first}
    (parent,) = [r for r in lab.after_more if r.info.run_id not in old and r.data.tags["mnist1d.kind"] == "sweep"]
    children = [r for r in lab.after_more if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.info.run_name for run in children) == [
        f"mlp hidden={h} seed={s}" for h in (10, 20) for s in range(3)
    ]
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    assert sum("mnist1d.copy_of" in run.data.tags for run in children) == 4
    assert parent.data.metrics["runs"] == 6
    summary = json.loads(Path(lab.store.client.download_artifacts(parent.info.run_id, "summary.json")).read_text())
    assert [row["n"] for row in summary] == [3, 3]


def test_a_copy_is_whole(lab: Lab) -> None:
    client = lab.store.client
    copies = [run for run in lab.after_more if "mnist1d.copy_of" in run.data.tags]
    for copy in copies:
        original = client.get_run(copy.data.tags["mnist1d.copy_of"])
        assert copy.data.params == original.data.params
        assert copy.data.metrics == original.data.metrics
        assert (copy.info.start_time, copy.info.end_time) == (original.info.start_time, original.info.end_time)
        for name in ("mnist1d.git", "mnist1d.versions", "mnist1d.fingerprint", "mnist1d.stack_size"):
            assert copy.data.tags[name] == original.data.tags[name]
        for metric in ("test/acc", "train/loss", "time/wall_seconds"):
            points = [client.get_metric_history(run.info.run_id, metric) for run in (copy, original)]
            assert [(p.step, p.value) for p in points[0]] == [(p.step, p.value) for p in points[1]]
    ours, theirs = (load_weights(run.info.run_id, lab.store.uri)["state_dict"] for run in (copies[0], original_of(lab)))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert find_run(client.download_artifacts(copies[0].info.run_id, "weights.pt")) == copies[0].info.run_id


def original_of(lab: Lab) -> StoredRun:
    copy = next(run for run in lab.after_more if "mnist1d.copy_of" in run.data.tags)
    return lab.store.client.get_run(copy.data.tags["mnist1d.copy_of"])


def test_the_analysis_sees_every_run_once(lab: Lab) -> None:
    runs = read_runs(lab.store.uri)
    assert len(runs) == len(runs.table["mnist1d.fingerprint"].unique()) >= 6


def test_a_single_run_of_a_sweep_need_not_be_trained_and_other_code_is_named(lab: Lab) -> None:
    """Then, with force, it is, although its data set's file is damaged: with the same numbers."""
    alone = ("model.hidden=10", "seed=1", *SMALL)
    before = lab.store.runs()
    prints = {
        run.data.tags["mnist1d.fingerprint"]
        for run in trained(lab.store)
        if run.info.run_name == "mlp hidden=10 seed=1"
    }
    for run in before:
        if run.data.tags.get("mnist1d.fingerprint") in prints:
            lab.store.client.set_tag(run.info.run_id, "mnist1d.git", "0123456789ab")
    done = train(lab.folder, *alone)
    assert (done.returncode, done.stderr) == (0, "")
    other = " (1 comes from other code or versions: 0123456789ab)"
    assert f"\n1 of 1 run is recorded already; force=true trains them again{other}\n" in done.stdout
    assert "run mlp hidden=10 seed=1)" in done.stdout
    assert len(lab.store.runs()) == len(before)
    for file in Path(os.environ["MNIST1D_CACHE"]).glob("*.npz"):
        file.write_bytes(file.read_bytes()[:1000])
    forced = train(lab.folder, *alone, "force=true")
    assert (forced.returncode, forced.stderr) == (0, "")
    assert "recorded already" not in forced.stdout
    values = [r.data.metrics for r in trained(lab.store) if r.data.tags["mnist1d.fingerprint"] in prints]
    assert len(values) == 2
    assert values[0]["test/loss"] == pytest.approx(values[1]["test/loss"], rel=1e-4)  # stacked, and alone


def test_force_trains_a_sweep_again_in_a_sweep_of_its_own_which_goes_on_after_a_failure(tmp_path: Path) -> None:
    sweep = ("-m", "optimizer=sgd", "optimizer.lr=0.1,1e30", "force=true", *SMALL)
    assert [train(tmp_path, *sweep[: -len(SMALL) - 1], *SMALL).returncode, train(tmp_path, *sweep).returncode] == [1, 1]
    store = Store(tmp_path)
    assert len(trained(store)) == 2, "0.1 once more"
    again = train(tmp_path, *sweep)
    assert "1 of 2 runs is recorded already" in again.stdout
    assert again.stdout.rstrip().endswith(shlex.join(["python", "train.py", *sweep]))
    assert len(trained(store)) == 2
    assert sum(run.data.tags["mnist1d.kind"] == "sweep" for run in store.runs()) == 2


def test_the_slow_road_reuses_as_well(lab: Lab) -> None:
    before = trained(lab.store)
    done = train(lab.folder, "-m", "model.hidden=10", "seed=0,1", *SMALL, "hydra/launcher=basic")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("1 of 1 run is recorded already") == 2
    assert len(trained(lab.store)) == len(before)
    parent = max((run for run in lab.store.runs() if run.data.tags["mnist1d.kind"] == "sweep"), key=began)
    assert parent.data.metrics["runs"] == 2


def began(run: StoredRun) -> int:
    return run.info.start_time


def test_a_run_recorded_without_an_experiment_counts_for_one(tmp_path: Path) -> None:
    """Profile and experiment are labels; the analysis looks for them."""
    small = ("data.num_samples=500", "trainer.threads=1", "trainer.accelerator=cpu")
    assert train(tmp_path, "model=logistic", "trainer.max_steps=20", "trainer.eval_every=10", *small).returncode == 0
    done = train(tmp_path, "experiment=classification", "profile=smoke", "model=logistic", "seed=0", *small)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 of 4 runs is recorded already" in done.stdout
    runs = read_runs(Store(tmp_path).uri, "classification", metrics=("test/acc",))
    assert len(runs.finished) == 4
    assert set(runs.table["profile"]) == {"smoke"}
    assert runs.histories["test/acc"].notna().all(axis=None)


# -- what is left of a stack ---------------------------------------------------------------------------------


def of(sweep: str | None, *, copied: bool = False) -> Recorded:
    return Recorded("id", "name", sweep, {}, ("", ""), copied)


@pytest.fixture
def stack(make_run: MakeRun, tmp_path: Path) -> Stack:
    runs = tuple(make_run(f"tracking.uri=sqlite:///{tmp_path}/m.db", f"seed={seed}") for seed in range(4))
    return Stack(runs, (10, 11, 12, 13))


def keep(stack: Stack, *places: int) -> Stack:
    return Stack(tuple(stack.runs[n] for n in places), tuple(stack.indices[n] for n in places))


def cut_off(stack: Stack) -> None:
    checkpoint_path(stack).parent.mkdir(exist_ok=True)
    checkpoint_path(stack).touch()


def test_what_is_left_of_a_stack_is_what_is_missing(stack: Stack) -> None:
    assert left(stack, {}) == stack
    assert left(stack, {99: of("s")}) == stack
    assert left(stack, {11: of("s"), 13: of(None)}) == keep(stack, 0, 2)
    assert left(stack, dict.fromkeys(stack.indices, of("s"))) is None


def test_a_stack_that_was_cut_off_while_it_was_recorded_goes_on_whole(stack: Stack) -> None:
    cut_off(stack)
    assert left(stack, {11: of("s")}, "s") == stack
    assert left(stack, dict.fromkeys(stack.indices, of("s")), "s") is None


def test_so_does_what_was_left_of_it_by_runs_of_other_sweeps(stack: Stack) -> None:
    cut_off(keep(stack, 1, 2, 3))
    assert left(stack, {10: of("other"), 11: of("s")}, "s") == keep(stack, 1, 2, 3)
    assert left(stack, {10: of("s", copied=True), 11: of("s")}, "s") == keep(stack, 1, 2, 3)
    assert left(stack, {10: of("s"), 11: of("s")}, "s") == keep(stack, 2, 3)


def test_no_store_means_nothing_recorded_and_none_is_made(make_run: MakeRun, tmp_path: Path) -> None:
    assert recorded([make_run(f"tracking.uri=sqlite:///{tmp_path}/none/m.db")]) == {}
    assert list(tmp_path.iterdir()) == []


def test_force_and_plan_are_no_part_of_a_run(make_run: MakeRun) -> None:
    plain, asked = make_run(), make_run("force=true", "plan=true")
    assert (asked.force, asked.plan) == (True, True)
    assert asked.flat() == plain.flat()
    assert fingerprint(asked) == fingerprint(plain)


def test_a_recorded_run_of_this_fingerprint_and_another_config_is_never_taken_for_it(tmp_path: Path) -> None:
    single = ("model=logistic", *SMALL)
    assert train(tmp_path, *single).returncode == 0
    store = Store(tmp_path)
    (first,) = store.runs()
    assert train(tmp_path, *single, "optimizer.lr=0.02").returncode == 0
    other = next(run for run in store.runs() if run.info.run_id != first.info.run_id)
    store.client.set_tag(other.info.run_id, "mnist1d.fingerprint", first.data.tags["mnist1d.fingerprint"])
    before = len(store.runs())
    for asked in (single, (*single, "plan=true")):
        done = train(tmp_path, *asked)
        assert done.returncode == 1
        assert done.stderr == (
            f"train.py: run {other.info.run_name} ({other.info.run_id}) in sqlite:///mlruns/mlflow.db has the "
            f"fingerprint {first.data.tags['mnist1d.fingerprint']} and not the config:\n"
            "  optimizer.lr is 0.02 there and 0.01 here\n"
            "  Its record was changed, or two configs have one hash. "
            "Delete it there, or set another tracking.experiment.\n"
        )
    assert len(store.runs()) == before
