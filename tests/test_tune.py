"""hydra/sweeper=optuna by its command line: batches as stacks, killed and continued, recorded, told."""

from __future__ import annotations

import math
import re
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from mlflow.entities import Run
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from mnist1d.analysis import tune as tune_page
from mnist1d.analysis.read import read_runs
from mnist1d.tune import distribution, outcome, text
from tests.test_faults import sabotaged
from tests.test_train import SMALL, Store, train

Done = subprocess.CompletedProcess[str]
SEARCH = (
    *("experiment=tune", "profile=smoke", "model=logistic", "optimizer=sgd", "hydra.sweeper.n_trials=4", *SMALL),
    "optimizer.lr=tag(log,interval(1e-3,1e6))",  # at its upper end weight decay makes a run diverge
)
FAILS_THEN_IS_KILLED = """
    import os, signal
    from mnist1d.classification import StackedClassification
    from mnist1d.tracking import Recorder
    begin, begun, finish, ended = StackedClassification.begin, [], Recorder.finish, []

    def fail_once(self):
        begun.append(self)
        if len(begun) == 1:
            raise RuntimeError("a cable came loose")
        begin(self)

    def finish_five_and_die(self, *args, **kwargs):
        finish(self, *args, **kwargs)
        ended.append(args)
        if len(ended) == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    StackedClassification.begin, Recorder.finish = fail_once, finish_five_and_die
"""


@dataclass
class Lab:
    """A search whose first batch failed, killed while the second was recorded; it went on; and the same undisturbed."""

    folder: Path
    killed: Done
    again: Done
    other: Path
    whole: Done


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Read only."""
    folder, other = tmp_path_factory.mktemp("cut"), tmp_path_factory.mktemp("whole")
    killed = sabotaged(folder, FAILS_THEN_IS_KILLED, *SEARCH)
    return Lab(folder, killed, train(folder, *SEARCH), other, train(other, *SEARCH))


def study(folder: Path) -> optuna.Study:
    storage = f"sqlite:///{folder}/mlruns/optuna.db"
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def trials(folder: Path) -> list[tuple[Any, ...]]:
    """Values, state and objective of the candidates that have come to an end, in any order."""
    settled = [trial for trial in study(folder).trials if trial.state != TrialState.FAIL]
    return sorted((sorted(trial.params.items()), trial.state, trial.value) for trial in settled)


def parent(folder: Path) -> Run:
    (sweep,) = [run for run in Store(folder).runs() if run.data.tags["mnist1d.kind"] == "sweep"]
    return sweep


def finished(folder: Path) -> dict[str, dict[str, float]]:
    """Metrics of all finished runs of the sweep but for times, by fingerprint."""
    runs = [run for run in Store(folder).children_of(parent(folder)) if run.info.status == "FINISHED"]
    assert len({run.data.tags["mnist1d.fingerprint"] for run in runs}) == len(runs), "none was trained twice"
    return {
        run.data.tags["mnist1d.fingerprint"]: {k: v for k, v in run.data.metrics.items() if not k.startswith("time/")}
        for run in runs
    }


def test_a_search_trains_its_batches_as_stacks_and_tells_what_was_found(lab: Lab) -> None:
    assert (lab.whole.returncode, lab.whole.stderr) == (0, "")
    lines = lab.whole.stdout.splitlines()
    assert lines[:2] == ["candidates 1 to 2 of 4", "4 runs · 2 settings · 1 stack · 124 run-steps"]
    assert "candidates 3 to 4 of 4" in lines
    assert "the best candidate and the defaults, with 2 fresh seeds" in lines
    (gain,) = [line for line in lines if line.startswith("The best candidate gains ")]
    assert gain.endswith(" points over the defaults (n = 2 seeds, paired).")
    best = parent(lab.other).data.tags
    assert lines[-2] == f"Go on with:  {best['mnist1d.command']}"
    assert f"optimizer.lr={best['best.optimizer.lr']}" in lines[-2]


def test_a_search_that_failed_and_was_killed_goes_on_and_ends_as_if_it_had_been_left_alone(lab: Lab) -> None:
    assert lab.killed.returncode == -signal.SIGKILL
    failed = [run for run in Store(lab.folder).runs() if run.info.status == "FAILED"]
    assert "RuntimeError: a cable came loose" in {run.data.tags["mnist1d.reason"] for run in failed}
    assert (lab.again.returncode, lab.again.stderr) == (0, "")
    assert lab.again.stdout.startswith("candidates 1 to 2 of 4\n")
    assert "1 of 4 runs is recorded already" in lab.again.stdout
    assert len(study(lab.folder).get_trials(states=[TrialState.FAIL])) == 2
    assert trials(lab.folder) == trials(lab.other)
    assert finished(lab.folder) == finished(lab.other)
    tables = [[line for line in done.stdout.splitlines() if "±" in line] for done in (lab.again, lab.whole)]
    assert tables[0] == tables[1]
    assert len(tables[0]) == 4, "defaults, best candidate, what ± means, gain"


def test_candidates_that_diverge_are_results(lab: Lab) -> None:
    states = [state for _, state, _ in trials(lab.other)]
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    counted = f"{states.count(TrialState.COMPLETE)} complete, {states.count(TrialState.PRUNED)} diverged"
    assert f"candidates: {counted}\n" in lab.whole.stdout
    assert parent(lab.other).info.status == "FINISHED"


def test_the_parent_has_the_objective_by_candidate_and_the_best(lab: Lab) -> None:
    sweep, known = parent(lab.folder), study(lab.folder)
    best = known.best_trial
    history = Store(lab.folder).client.get_metric_history(sweep.info.run_id, "candidate/val/acc_final")
    complete = {trial.number: trial.value for trial in known.trials if trial.state == TrialState.COMPLETE}
    assert {point.step: point.value for point in history} == complete
    assert sweep.data.metrics["best/val/acc_final"] == best.value
    assert float(sweep.data.tags["best.optimizer.lr"]) == pytest.approx(best.params["optimizer.lr"], rel=1e-3)
    assert sweep.data.params["hydra.sweeper.params.optimizer.lr"] == "tag(log,interval(1e-3,1e6))"
    assert sweep.data.metrics["gain/test/acc_final/low"] <= sweep.data.metrics["gain/test/acc_final/mean"]
    own = [run for run in Store(lab.folder).children_of(sweep) if run.data.metrics.get("val/acc_final") is not None]
    of_best = [run for run in own if run.data.params["optimizer.lr"] == sweep.data.tags["best.optimizer.lr"]]
    values = [run.data.metrics["val/acc_final"] for run in of_best if int(run.data.params["seed"]) < 1000]
    assert sum(values) / len(values) == pytest.approx(best.value)


def test_the_page_shows_the_search(lab: Lab) -> None:
    page = tune_page.page(read_runs(Store(lab.other).uri, "tune"))
    assert page.statistics["gain"](net="logistic").index.tolist() == [1000, 1001]
    mean = parent(lab.other).data.metrics["gain/test/acc_final/mean"]
    assert page.statistics["gain"](net="logistic").mean() == pytest.approx(100 * mean)


def test_a_name_that_another_search_has_is_refused(lab: Lab) -> None:
    name = f"hydra.sweeper.study_name={study(lab.other).study_name}"
    taken = train(lab.other, *SEARCH[:-1], "optimizer.lr=interval(0.1,1)", name)
    assert taken.returncode == 1
    assert taken.stderr.splitlines() == [
        f"train.py: {name} is the name of another search:",
        "  optimizer.lr: tag(log,interval(1e-3,1e6)) there, interval(0.1,1) here",
        "Give this one a name of its own.",
    ]


def test_options_of_a_recipe_are_searched_too(tmp_path: Path) -> None:
    options = ("task=recipe", "task.corr_noise_scale=interval(0,0.3)")
    done = train(tmp_path, *SEARCH[:3], "hydra.sweeper.n_trials=2", *SMALL, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^ lr +weight_decay +corr_noise_scale +val/acc_final", done.stdout, re.MULTILINE)


def test_a_database_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database at all, but a text that is long enough to be looked at as one")
    done = train(tmp_path, *SEARCH, "hydra.sweeper.storage=sqlite:///study.db")
    assert done.returncode == 1
    assert done.stderr.startswith("train.py: hydra.sweeper.storage=sqlite:///study.db cannot be used: ")
    assert "file is not a database" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plan_shows_the_whole_search_and_writes_nothing(lab: Lab) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in lab.other.rglob("*.*") if path.suffix not in (".db-shm", ".db-wal")
    }
    done = train(lab.other, *SEARCH, "plan=true")
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 runs · 5 settings" in done.stdout
    assert "12 of 12 runs are recorded already" in done.stdout, "the same candidates are drawn, and diverged ones count"
    assert "plan=true: nothing was trained or written." in done.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("typed", "drawn_from"),
    [
        ("interval(0.1,1)", FloatDistribution(0.1, 1.0)),
        ("tag(log,interval(1e-4,1))", FloatDistribution(1e-4, 1.0, log=True)),
        ("int(interval(1,9))", IntDistribution(1, 9)),
        ("range(2,9,3)", IntDistribution(2, 8, step=3)),
        ("range(0.5,2)", CategoricalDistribution(("0.5", "1.5"))),
        ("adam,sgd", CategoricalDistribution(("adam", "sgd"))),
        ("choice([3,3],[5,3])", CategoricalDistribution(("[3,3]", "[5,3]"))),
    ],
)
def test_hydras_grammar_says_what_is_drawn_from(typed: str, drawn_from: optuna.distributions.BaseDistribution) -> None:
    assert distribution(OverridesParser.create().parse_override(f"key={typed}")) == drawn_from


def test_numbers_are_typed_with_four_digits_within_their_interval() -> None:
    assert text(0.000123456, FloatDistribution(1e-6, 1.0)) == "0.0001235"
    assert text(0.123456, FloatDistribution(0.0, 0.12345)) == "0.12345"
    assert (text(7, IntDistribution(1, 9)), text("sgd", CategoricalDistribution(("sgd",)))) == ("7", "sgd")


def test_what_becomes_of_a_candidate() -> None:
    assert outcome([0.5, 0.7]) == (TrialState.COMPLETE, pytest.approx(0.6))
    assert outcome([0.5, -math.inf]) == (TrialState.PRUNED, None)
    assert outcome([-math.inf, math.nan]) == (TrialState.FAIL, None)
