"""Functions that earlier runs have learned: found in a real store, refused with reasons, and the same in any net."""

from __future__ import annotations

import copy
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor

from mnist1d import reuse
from mnist1d.classification import StackedClassification
from mnist1d.config import ConfigError, Run
from mnist1d.cost import measure_member
from mnist1d.fit import fit_once, quiet
from mnist1d.models.activation import ACTIVATIONS, Activation
from mnist1d.models.learned import LearnedActivation
from mnist1d.models.make import make_model
from mnist1d.plan import Stack, fingerprint, signature
from mnist1d.reuse import load_learned, make_member, settle, settle_or_refuse
from mnist1d.stack import build_member
from mnist1d.tracking import WEIGHTS, Recorder, TrackingError, load_weights

MakeRun = Callable[..., Run]

quiet()

TASK = ("task=metalearn_activation", "model=shallow", "optimizer=rmsprop", "model.activation=elu", "model.hidden=7")
SMALL = (
    *("data.num_samples=500", "data.batch_size=50", "task.inner_steps=6", "task.loss_window=3", "trainer.max_steps=2"),
    *("task.trials=1", "task.trial_lrs=[0.01]", "task.trial_steps=3", "task.long_trial_steps=null"),
    *("trainer.threads=1", "trainer.accelerator=cpu"),
)
LEARN = "python train.py -m experiment=metalearn_activation"
WANTED = "learned:best, or the id of a finished run of task=metalearn_activation with task.scale above 0"


class Laboratory:
    """A store with runs of all kinds, by name, made by the code that makes them."""

    def __init__(self, folder: Path, make_run: MakeRun) -> None:
        self.uri, self.make_run = f"sqlite:///{folder}/mlflow.db", make_run
        self.recorder = Recorder(self.uri, "here")
        self.ids: dict[str, str] = {}
        for name, seed, scale, accuracy in (("worse", 0, 0.2, 0.6), ("better", 1, 0.2, 0.7), ("fixed", 2, 0.0, 0.9)):
            run = make_run(*TASK, *SMALL, f"seed={seed}", f"task.scale={scale}")
            module = fit_once(Stack((run,), (0,)), [])
            self.record(name, run, final={**module.finals(0), reuse.TRIED: accuracy}, weights=module.member_state(0))
        learner = make_run(*TASK, *SMALL, "seed=3")
        self.record("without weights", learner, final={reuse.TRIED: 0.5})
        self.record("failed", learner, status="FAILED", final={reuse.TRIED: 0.99})
        self.record("other task", make_run("model=mlp"), final={reuse.TRIED: 0.99})
        self.record("strange weights", learner, final={}, weights={"linear.weight": torch.zeros(1)})
        self.ids["running"] = self.recorder.start(learner, parent=None, name="running", tags={})
        self.ids["sweep"] = self.recorder.open_sweep("key", "sweep", {})
        self.record("deleted", learner, final={reuse.TRIED: 0.99})
        MlflowClient(self.uri).delete_run(self.ids["deleted"])

    def record(self, name: str, run: Run, *, status="FINISHED", final=None, weights=None) -> None:
        run_id = self.recorder.start(run, parent=None, name=name, tags={})
        self.recorder.finish(run_id, status, final=final or {}, reason=None, weights=weights, resources={})
        self.ids[name] = run_id

    def asking(self, function: str, *more: str, model: str = "mlp", place: str | None = None) -> Run:
        """A run that asks for a function."""
        where = (f"tracking.uri={place or self.uri}", "tracking.experiment=here")
        return self.make_run(f"model={model}", f"model.activation=learned:{function}", *where, *more)

    def told(self, *runs: Run) -> list[str]:
        """The faults of runs, with the store's and the runs' names in place of what changes from day to day."""
        with pytest.raises(ConfigError) as refused:
            settle(runs)
        texts = [str(fault).replace(self.uri, "STORE") for fault in refused.value.faults]
        for name, run_id in self.ids.items():
            texts = [text.replace(run_id, f"<{name}>") for text in texts]
        return texts


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun) -> Laboratory:
    """Read only."""
    return Laboratory(tmp_path_factory.mktemp("lab"), make_run)


@pytest.fixture(autouse=True)
def _nothing_loaded() -> Iterator[None]:
    """Every test begins as a process of its own would."""
    yield
    reuse._function.cache_clear()
    reuse._table.cache_clear()


def module_of(lab: Laboratory, name: str) -> LearnedActivation:
    """The learned function as the plain module that it was learned as."""
    saved = load_weights(lab.ids[name], lab.uri)
    module = LearnedActivation("elu", hidden=100, scale=0.2).double()
    module.load_state_dict({key: saved["state_dict"][key] for key in module.state_dict()})
    return module


# -- the function ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 2e-6)])
def test_a_learned_function_is_that_of_its_run(lab: Laboratory, dtype: torch.dtype, tolerance: float) -> None:
    z = torch.linspace(-15, 15, 4001, dtype=dtype).view(1, 4001).requires_grad_()
    function, module = load_learned(lab.ids["better"], lab.uri), module_of(lab, "better")
    wide = z.detach().double().requires_grad_()
    expected = module(wide)
    torch.testing.assert_close(function.value(z).double(), expected, rtol=0, atol=tolerance * 15)
    (slope,) = torch.autograd.grad(function.value(z).sum(), z)
    (wanted,) = torch.autograd.grad(expected.sum(), wide)
    torch.testing.assert_close(slope.double(), wanted, rtol=0, atol=2e-4)  # its kink at 0 aside, ELU bends there
    torch.testing.assert_close(function.derivative(z.detach()), slope)


def test_functions_of_two_runs_differ(lab: Laboratory) -> None:
    z = torch.linspace(-3, 3, 50)
    one, other = (load_learned(lab.ids[name], lab.uri).value(z) for name in ("worse", "better"))
    assert (one - other).abs().max() > 0.01
    assert not torch.allclose(one, ACTIVATIONS["elu"].value(z), atol=0.01)


@pytest.mark.parametrize("model", ["shallow", "mlp", "cnn"])
def test_every_net_serves_with_it_stacked_as_alone(lab: Laboratory, model: str) -> None:
    name = lab.ids["better"]
    runs = [lab.asking(name, f"seed={seed}", model=model) for seed in (0, 1)]
    stack = StackedClassification(runs).model
    x = torch.randn(2, 5, 40)
    logits = stack(x)
    for n, run in enumerate(runs):
        member = build_member(lambda run=run: make_member(run), run.seed)
        torch.testing.assert_close(logits[n], member(x[n]), rtol=1e-4, atol=1e-5)
        relu = build_member(lambda run=run: make_model(run.model, {"activation": "relu"}), run.seed)
        assert all(torch.equal(a, b) for a, b in zip(member.parameters(), relu.parameters(), strict=True))
        assert (relu(x[n]) - logits[n]).abs().max() > 0.01
    plain = by_hand(build_member(lambda: make_member(runs[0]), 0).double(), module_of(lab, "better"), x[0].double())
    torch.testing.assert_close(logits[0].double(), plain, rtol=1e-4, atol=1e-5)


def by_hand(member: torch.nn.Module, function: LearnedActivation, x: Tensor) -> Tensor:
    """A net's logits with the function as the module that was learned, where its table was."""
    member = copy.copy(member)
    for module in member.modules():
        if hasattr(module, "activation"):
            module.activation = Activation(function, function)
    return member(x)


def test_a_process_that_gets_only_the_runs_builds_them(lab: Laboratory) -> None:
    (run,) = settle([lab.asking("best")])
    reuse._function.cache_clear()
    sent = pickle.loads(pickle.dumps(run))
    assert sent == run
    x = torch.randn(3, 40)
    torch.testing.assert_close(
        build_member(lambda: make_member(sent), 0)(x), build_member(lambda: make_member(run), 0)(x)
    )
    assert measure_member(sent).working > measure_member(lab.make_run("model=mlp")).working  # slopes are kept too


# -- which run it is -------------------------------------------------------------------------------------


def test_the_best_is_the_one_with_the_highest_accuracy_in_trials_among_those_that_learned(lab: Laboratory) -> None:
    asked = [lab.asking("best"), lab.make_run("model=cnn"), lab.asking("best", "seed=1", model="cnn")]
    settled = settle(asked)
    wanted = f"learned:{lab.ids['better']}"
    assert [run.flat()["model.activation"] for run in settled] == [wanted, "relu", wanted]
    assert settled[1] is asked[1]
    assert {key for key, value in settled[0].flat().items() if asked[0].flat()[key] != value} == {"model.activation"}


def test_the_best_is_the_same_run_as_its_id(lab: Laboratory) -> None:
    best, named, other = settle([lab.asking(name) for name in ("best", lab.ids["better"], lab.ids["worse"])])
    assert fingerprint(best) == fingerprint(named) != fingerprint(other)
    assert signature(named) != signature(other)  # a table is shared by a whole stack


def test_runs_without_a_learned_function_ask_no_store(make_run: MakeRun) -> None:
    runs = [make_run("model=mlp", "tracking.uri=http://127.0.0.1:9"), make_run("model=gru"), make_run("model=logistic")]
    assert settle(runs) == runs


# -- what is refused -------------------------------------------------------------------------------------

REASONS = {
    "fixed": "that run has learned nothing: its task.scale is 0",
    "failed": "that run is FAILED",
    "running": "that run is RUNNING",
    "other task": "that run has task=classification",
    "sweep": "that run is a sweep",
    "deleted": "that run was deleted",
}


@pytest.mark.parametrize("name", REASONS)
def test_a_run_without_a_function_is_refused_with_the_reason(lab: Laboratory, name: str) -> None:
    assert lab.told(lab.asking(lab.ids[name])) == [
        f"model.activation=learned:<{name}>: {REASONS[name]}; allowed: {WANTED}"
    ]


def test_all_faults_come_together_each_once(lab: Laboratory) -> None:
    nobody = "0" * 32
    runs = [
        lab.asking(nobody),
        lab.asking(lab.ids["better"]),
        lab.asking(nobody, "seed=1"),
        lab.asking(lab.ids["fixed"]),
    ]
    first, second = lab.told(*runs)
    assert first == f"model.activation=learned:{nobody}: no such run in STORE; allowed: {WANTED}"
    assert "<fixed>" in second


def test_a_run_whose_weights_are_gone_or_strange_is_refused(lab: Laboratory) -> None:
    gone, strange = lab.told(*(lab.asking(lab.ids[name]) for name in ("without weights", "strange weights")))
    assert f"fetching {WEIGHTS} of run <without weights> failed:" in gone
    assert strange == (
        "model.activation=learned:<strange weights>: the weights of run <strange weights> are of no learned function: "
        f"'linear1.weight' is missing; allowed: a store that has learned functions: {LEARN}"
    )


def test_a_weights_file_that_was_cut_short_is_refused(lab: Laboratory, make_run: MakeRun) -> None:
    run = make_run(*TASK, *SMALL, "seed=9")
    lab.record("cut", run, final={}, weights={"linear1.weight": torch.zeros(100, 1)})
    folder = MlflowClient(lab.uri).get_run(lab.ids["cut"]).info.artifact_uri.removeprefix("file://")
    file = Path(folder) / WEIGHTS
    file.write_bytes(file.read_bytes()[:200])
    (told,) = lab.told(lab.asking(lab.ids["cut"]))
    assert "is not a weights file of a recorded run" in told


def test_without_a_learned_function_the_command_that_learns_one_is_told(lab: Laboratory, tmp_path: Path) -> None:
    databases = (Path(lab.uri.removeprefix("sqlite:///")), tmp_path / "empty.db")
    source, target = map(sqlite3.connect, databases)
    with closing(source), closing(target):
        source.backup(target)
        target.execute("UPDATE runs SET status = 'FAILED'")
        target.commit()
    empty = lab.asking("best", place=f"sqlite:///{tmp_path}/empty.db")
    elsewhere = lab.asking("best").model_copy(
        update={"tracking": lab.asking("best").tracking.model_copy(update={"experiment": "elsewhere"})}
    )
    nowhere = lab.asking("best", place=f"sqlite:///{tmp_path}/none.db")
    assert [text.replace(str(tmp_path), "") for text in lab.told(empty, elsewhere, nowhere)] == [
        "model.activation=learned:best: no function has been learned in sqlite:////empty.db "
        f"(tracking.experiment=here); allowed: once there is one: {LEARN}",
        "model.activation=learned:best: no function has been learned in STORE "
        f"(tracking.experiment=elsewhere); allowed: once there is one: {LEARN}",
        "model.activation=learned:best: tracking store sqlite:////none.db: reading it failed: there is no database at "
        f"/none.db; allowed: a store that has learned functions: {LEARN}",
    ]
    assert not (tmp_path / "none.db").exists()


def test_an_unreachable_store_is_a_fault(lab: Laboratory) -> None:
    (told,) = lab.told(lab.asking(lab.ids["better"], place="http://127.0.0.1:9"))
    assert "tracking store http://127.0.0.1:9: reading it failed: ConnectionError" in told


def test_faults_end_the_program_as_those_of_the_command_line_do(
    lab: Laboratory, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        settle_or_refuse([lab.asking(lab.ids["fixed"])])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("1 fault in the configuration:\n  model.activation=learned:")


def test_a_function_that_has_gone_since_is_an_error_of_its_own(lab: Laboratory) -> None:
    with pytest.raises(TrackingError, match="fetching"):
        make_member(lab.asking("1" * 32))
