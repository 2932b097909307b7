"""Reading MLflow and drawing the page of experiment=classification, on stores of known truth."""

from __future__ import annotations

import csv
import math
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

import analyze
from mnist1d.analysis import classification, figures, read
from mnist1d.analysis.metrics import grid

# MLflow 3.17 declares its tables in a way that SQLAlchemy 2.1 calls deprecated, once, at its first query.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

ROOT = Path(analyze.__file__).parent
SEEDS = (0, 1, 2)


@dataclass
class Store:
    """One MLflow experiment of a real sqlite store, filled as training fills it."""

    client: MlflowClient
    path: Path
    folder: str

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.path}"

    def read(self, *metrics: str) -> read.Runs:
        return read.read_runs(self.uri, metrics=metrics or classification.METRICS, folder=self.folder)

    def argv(self, output: Path, *more: str) -> list[str]:
        """analyze.py's arguments for these runs."""
        where = [f"tracking.uri={self.uri}", f"tracking.experiment={self.folder}", f"output={output}"]
        return ["experiment=classification", *where, *more]

    def add(
        self,
        status: str = "FINISHED",
        *,
        curves: dict[str, dict[int, float]] | None = None,
        finals: dict[str, float] | None = None,
        tags: dict[str, str] | None = None,
        fingerprint: str | None = None,
        **config: Any,
    ) -> str:
        """Log one run; dots in config keys are written as two underscores. Returns its run id."""
        params = {key.replace("__", "."): str(value) for key, value in config.items()}
        print_ = "/".join(f"{key}={value}" for key, value in sorted(params.items()))
        all_tags = {"mnist1d.fingerprint": fingerprint or print_, "mnist1d.sweep": "s1", **(tags or {})}
        client = self.client
        folder = client.get_experiment_by_name(self.folder)
        folder_id = folder.experiment_id if folder else client.create_experiment(self.folder, "file:///unused")
        run_id = client.create_run(folder_id, run_name="a run").info.run_id
        points = [(key, step, value) for key, curve in (curves or {}).items() for step, value in curve.items()]
        points += [(key, 500, value) for key, value in (finals or {}).items()]
        self.client.log_batch(
            run_id,
            [Metric(key, value, 1000, step) for key, step, value in points],
            [Param(key, value) for key, value in params.items()],
            [RunTag(key, value) for key, value in all_tags.items() if value],
        )
        if status != "RUNNING":
            self.client.set_terminated(run_id, status)
        return run_id

    def classify(self, model: str, shuffled: bool, seed: int, final: float, **more: Any) -> str:
        """Log a run of the experiment that ends at `final` and was 0.02 better in the middle."""
        validated = more.get("data__val_split", "0.0") != "0.0"
        finals = {"test/acc_final": final, "test/acc_best": final + 0.02}
        config = {
            "model__name": model,
            "data__shuffle_features": str(shuffled).lower(),
            "data__val_split": "0.0",
            "trainer__max_steps": 501,
            "trainer__eval_every": 250,
            "optimizer__lr": 0.01,
            "experiment": "classification",
            "profile": "paper",
            "seed": seed,
        }
        return self.add(
            finals=finals | ({"test/acc_selected": final + 0.01} if validated else {}),
            curves={
                "train/acc": {0: 0.1, 250: 0.9, 500: 1.0},
                "test/acc": {0: 0.1, 250: final + 0.02, 500: final},
            },
            **(config | more),
        )


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One database for all tests, since making one takes seconds; every test has its own experiment in it."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    return Store(MlflowClient(f"sqlite:///{path}"), path, "")


@pytest.fixture
def store(database: Store, request: pytest.FixtureRequest) -> Store:
    return part(database, request.node.name)


def part(database: Store, folder: str) -> Store:
    database.client.create_experiment(folder, "file:///unused")
    return Store(database.client, database.path, folder)


@pytest.fixture(scope="module")
def full(database: Store) -> Store:
    """Read only. Two models, both arms, three seeds: the CNN loses 35 points, logistic regression none."""
    store = part(database, "full")
    for seed in SEEDS:
        for shuffled in (False, True):
            store.classify("cnn", shuffled, seed, 0.92 + 0.01 * seed - 0.35 * shuffled)
            store.classify("cnn", shuffled, seed, 0.90 - 0.35 * shuffled, data__val_split="0.1")
            store.classify("logistic", shuffled, seed, 0.32)
    return store


@pytest.fixture
def few(store: Store) -> Store:
    """The CNN on plain features, three seeds, to add to."""
    for seed in SEEDS:
        store.classify("cnn", False, seed, 0.92 + 0.01 * seed)
    return store


def rows_of(store: Store) -> dict[tuple[str, str], classification.Row]:
    table, _ = classification.one_protocol(store.read().table)
    return {(row.model, row.arm): row for row in classification.summarise(table)}


def both_roads(store: Store, metrics: tuple[str, ...] = (), **wanted: str | None) -> list[read.Runs]:
    asked = read._Wanted(**{"experiment": None, "sweep": None, "folder": store.folder} | wanted, metrics=metrics)
    parts = [read._from_sqlite(store.path, asked), read._from_client(store.uri, asked)]
    return [read._assemble(part, metrics) for part in parts]


# -- read -------------------------------------------------------------------------------------------------


def test_params_come_back_with_their_types(store):
    written: dict[str, Any] = {
        "3": 3,
        "0.0": 0.0,
        "1e-08": 1e-8,
        "true": True,
        "False": False,
        "null": None,
        "None": None,
        "[36,60]": (36, 60),
        "[0.9, 0.999]": (0.9, 0.999),
        "['a', 'b']": ("a", "b"),
        "[]": (),
        "mlp": "mlp",
    }
    store.add(**{f"key__{i}": text for i, text in enumerate(written)})
    run = store.read().table.iloc[0]
    found = [run[f"key.{i}"] for i in range(len(written))]
    assert found == list(written.values())
    assert list(map(type, found)) == list(map(type, written.values()))


def test_both_roads_to_the_store_give_the_same_runs(few):
    few.add("FAILED", experiment="classification", seed=9, curves={"train/acc": {0: math.nan, 250: math.inf}})
    few.add(experiment="lottery", seed=0)
    short, long = both_roads(few, experiment="classification", metrics=("train/acc", "test/acc"))
    assert len(short) == 4
    pd.testing.assert_frame_equal(short.table, long.table, check_like=True, check_dtype=False)
    for metric, history in short.histories.items():
        pd.testing.assert_frame_equal(history, long.histories[metric], check_dtype=False)
    failed = short.table.loc[short.table["status"] == "FAILED", "run_id"].tolist()
    np.testing.assert_array_equal(short.curves("train/acc", failed)[1], [[math.inf]])


@pytest.mark.parametrize("road", [0, 1])
def test_runs_can_be_asked_for_by_experiment_sweep_and_folder(store, road):
    mine = store.add(experiment="classification", seed=0)
    store.add(experiment="classification", seed=1, tags={"mnist1d.sweep": "s2"})
    store.add(experiment="lottery", seed=0)
    part(store, f"elsewhere {road}").add(experiment="classification", seed=3)
    assert len(both_roads(store)[road]) == 3
    found = both_roads(store, experiment="classification", sweep="s1")[road]
    assert found.table["run_id"].tolist() == [mine]


@pytest.mark.parametrize("road", [0, 1])
def test_sweeps_and_deleted_runs_are_not_runs(store, road):
    kept = store.add(seed=0)
    store.client.delete_run(store.add(seed=1))
    parent = store.add(seed=2)
    store.client.delete_tag(parent, "mnist1d.fingerprint")
    assert both_roads(store)[road].table["run_id"].tolist() == [kept]


def test_the_newest_finished_run_of_a_fingerprint_counts_once(store):
    store.add(fingerprint="f", seed=0)
    newest = store.add(fingerprint="f", seed=0)
    store.add("FAILED", fingerprint="f", seed=0)
    runs = store.read()
    assert runs.table["run_id"].tolist() == [newest]
    assert runs.missing.empty


def test_runs_without_a_result_are_kept_and_told_apart(store):
    done = store.add(seed=0)
    lost = {store.add(status, seed=seed) for seed, status in enumerate(("FAILED", "KILLED", "RUNNING"), 1)}
    runs = store.read()
    assert runs.finished["run_id"].tolist() == [done]
    assert set(runs.missing["run_id"]) == lost


def test_curves_are_arrays_by_run_and_step_with_nan_for_what_was_not_evaluated(store):
    long = store.add(seed=0, curves={"test/acc": {0: 0.1, 250: 0.5, 500: 0.6}})
    short = store.add(seed=1, curves={"test/acc": {0: 0.2, 250: 0.4}})
    steps, values = store.read("test/acc").curves("test/acc", [short, long])
    assert steps.tolist() == [0, 250, 500]
    np.testing.assert_array_equal(values, [[0.2, 0.4, math.nan], [0.1, 0.5, 0.6]])


def test_a_step_logged_twice_counts_once_with_its_later_value(store):
    run_id = store.add(seed=0, curves={"test/acc": {0: 0.1}})
    store.client.log_metric(run_id, "test/acc", 0.3, timestamp=2000, step=0)
    for runs in both_roads(store, metrics=("test/acc",)):
        np.testing.assert_array_equal(runs.curves("test/acc", [run_id])[1], [[0.3]])


def test_a_store_that_does_not_exist_is_empty_and_not_created(tmp_path):
    runs = read.read_runs(f"sqlite:///{tmp_path}/none.db", "classification", metrics=("test/acc",))
    assert len(runs) == 0
    assert runs.finished.empty
    assert not list(tmp_path.iterdir())


def test_a_store_with_write_ahead_logging_is_read_while_it_is_written(database):
    store = part(database, "wal")
    with closing(sqlite3.connect(store.path)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        store.add(seed=0)
        writer.execute("BEGIN IMMEDIATE")
        assert len(read._assemble(read._from_sqlite(store.path, read._Wanted(None, None, "wal", ())), ())) == 1


def test_a_file_that_is_no_database_is_an_error_with_its_name(tmp_path):
    (tmp_path / "notes.db").write_text("not a database, but long enough to look at" * 10)
    with pytest.raises(read.StoreError, match=r"notes\.db: .*not a database"):
        read.read_runs(f"sqlite:///{tmp_path}/notes.db")


def test_a_server_that_does_not_answer_is_an_error_at_once():
    begin = time.perf_counter()
    with pytest.raises(read.StoreError, match=r"http://127\.0\.0\.1:9 does not answer"):
        read.read_runs("http://127.0.0.1:9")
    assert time.perf_counter() - begin < 6


# -- metrics ----------------------------------------------------------------------------------------------


def test_a_grid_has_settings_as_rows_and_seeds_as_columns():
    found = grid([0.5, 0.1, 0.2], ["b", "a", "a"], [1, 1, 0])
    assert (found.settings, found.seeds) == (("b", "a"), (0, 1))
    np.testing.assert_array_equal(found.values, [[math.nan, 0.5], [0.2, 0.1]])
    assert found.missing("b") == (0,)
    assert found.missing("never run") == (0, 1)
    assert found.present("b").tolist() == [0.5]
    assert [half.tolist() for half in found.pairs("a", "b")] == [[0.1], [0.5]]


def test_a_grid_counts_what_is_not_finite_as_missing():
    assert grid([math.nan, math.inf, 0.5], ["a"] * 3, [0, 1, 2]).missing("a") == (0, 1)


def test_a_grid_refuses_two_runs_of_one_setting_and_seed():
    with pytest.raises(ValueError, match="setting a with seed 0: n would count one seed twice"):
        grid([0.1, 0.2], ["a", "a"], [0, 0])


# -- the page ---------------------------------------------------------------------------------------------


def test_the_page_states_the_accuracies_that_were_logged(full):
    measures = rows_of(full)["cnn", "plain"].measures
    final = measures["final"]  # 92, 93, 94: 93 ± 4.302653 / sqrt(3)
    assert (final.mean, final.half_width, final.n) == pytest.approx((93.0, 2.484138, 3))
    assert measures["best"].mean == pytest.approx(95.0)
    assert measures["selected"].mean == pytest.approx(91.0)  # from the runs with a validation split alone
    assert rows_of(full)["logistic", "plain"].measures["selected"] is None


def test_the_table_sets_them_beside_the_published_numbers(full, tmp_path):
    page = classification.report(full.read(), tmp_path)
    accuracy, drop = page.tables
    assert accuracy.rows[0] == (
        "logistic",
        "plain",
        "32.0 ± 0.0",
        "34.0 ± 0.0",
        "–",
        "3",
        "32 ± 1",
        "31.5",
    )
    assert accuracy.rows[3][:2] == ("cnn", "shuffled")
    assert accuracy.rows[3][-3:] == ("3", "56 ± 2", "58.7")
    assert drop.rows == (("logistic", "0.0 ± 0.0", "3", "0"), ("cnn", "35.0 ± 0.0", "3", "38"))


def test_the_page_leaves_every_number_on_disk(full, tmp_path):
    page = classification.report(full.read(), tmp_path / "new")
    names = {path.name for path in page.paths}
    assert names == {"figure.svg", "figure.png", "table.md", "table.csv", "runs.csv"}
    assert all(path.stat().st_size > 100 for path in page.paths)
    with (tmp_path / "new" / "runs.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["model.name"] == "cnn" and line["arm"] == "plain"]
    assert [line["test/acc_final"][:4] for line in lines if line["data.val_split"] == "0.0"] == [
        "0.92",
        "0.93",
        "0.94",
    ]
    text = (tmp_path / "new" / "table.md").read_text(encoding="utf-8")
    assert "| cnn | plain | 93.0 ± 2.5 | 95.0 ± 2.5 | 91.0 ± 0.0 | 3 | 94 ± 2 | 92.3–94.2 |" in text
    assert "n = 3 seeds" in text


def test_the_same_runs_give_the_same_picture_file(full, tmp_path):
    runs = full.read()
    for name in ("a", "b"):
        classification.report(runs, tmp_path / name)
    assert (tmp_path / "a" / "figure.svg").read_bytes() == (tmp_path / "b" / "figure.svg").read_bytes()


def test_the_figure_shows_the_means_the_bands_and_the_human_line(full):
    runs = full.read()
    table, _ = classification.one_protocol(runs.table)
    axes = classification.draw(runs, table, "note").axes
    assert [ax.get_xlabel() for ax in axes] == ["optimiser step"] * 2
    assert axes[0].get_ylabel() == "accuracy (%)"
    lines = {tuple(np.round(line.get_ydata(), 6)): line.get_linestyle() for line in axes[1].lines}
    assert lines[10.0, 95.0, 93.0] == "-"
    assert lines[10.0, 60.0, 58.0] == "--"
    assert (95.8, 95.8) in lines
    assert len(axes[1].collections) == 4  # one band a setting


def test_architectures_differ_by_more_than_colour():
    looks = list(figures.LOOKS.values())
    for attribute in ("name", "color", "marker"):
        assert len({getattr(look, attribute) for look in looks}) == len(looks)


def test_drawing_leaves_the_settings_of_matplotlib_alone(full, tmp_path):
    before = dict(matplotlib.rcParams)
    classification.report(full.read(), tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_seeds_without_a_result_are_named_with_the_reason(few):
    few.classify("mlp", False, 3, 0.6)
    few.classify("cnn", False, 3, 0.5, status="FAILED", tags={"mnist1d.reason": "loss is nan at step 12"})
    few.classify("mlp", False, 2, 0.6, status="RUNNING")
    rows = rows_of(few)
    assert rows["cnn", "plain"].missing == ("seed 3 FAILED (loss is nan at step 12)",)
    assert rows["cnn", "plain"].measures["final"].n == 3
    assert rows["mlp", "plain"].missing == ("seed 0-1 not run", "seed 2 RUNNING")
    assert rows["mlp", "plain"].measures["final"].n == 1


def test_a_single_seed_gives_numbers_without_intervals_and_a_figure(store, tmp_path):
    store.classify("mlp", False, 0, 0.65)
    page = classification.report(store.read(), tmp_path)
    assert page.tables[0].rows == (("mlp", "plain", "65.0", "67.0", "–", "1", "68 ± 2", "64.2–65.1"),)
    assert page.tables[1].rows == (("mlp", "–", "0", "0"),)
    assert "one seed, so no bands" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_a_model_of_the_users_own_is_shown_without_published_numbers(store, tmp_path):
    store.classify("transformer", False, 0, 0.65)
    page = classification.report(store.read(), tmp_path)
    assert page.tables[0].rows[0][-2:] == ("–", "–")


def test_runs_of_another_protocol_are_left_out_and_named(few):
    few.classify("cnn", False, 0, 0.11, trainer__max_steps=51, profile="smoke")
    few.classify("cnn", False, 0, 0.12, model__channels=100)
    table, remarks = classification.one_protocol(few.read().table)
    assert set(table["trainer.max_steps"]) == {501}
    assert "1 runs left out, of another protocol: trainer.max_steps=51" in remarks
    assert "cnn: 1 runs left out, of another protocol: model.channels=100" in remarks
    assert rows_of(few)["cnn", "plain"].measures["final"].mean == pytest.approx(93.0)


def test_a_longer_protocol_without_results_does_not_hide_the_shorter_one(few):
    few.classify("cnn", False, 0, 0.5, trainer__max_steps=9001, status="RUNNING")
    assert rows_of(few)["cnn", "plain"].measures["final"].mean == pytest.approx(93.0)


def test_the_published_numbers_are_those_of_the_paper():
    paper = classification.published()["paper"]
    order = ("logistic", "mlp", "cnn", "gru")
    assert [paper["plain"][model]["mean"] for model in order] == [32, 68, 94, 91]
    assert [paper["shuffled"][model]["mean"] for model in order] == [32, 68, 56, 57]
    assert classification.published()["human"] == 95.8


# -- the command line -------------------------------------------------------------------------------------


def test_analyze_prints_the_table_and_the_files_it_wrote(full, tmp_path, capsys):
    status = analyze.main(full.argv(tmp_path))
    printed = capsys.readouterr().out
    assert status == 0
    assert "93.0 ± 2.5" in printed
    assert f"written: {tmp_path / 'classification' / 'figure.svg'}" in printed
    assert max(map(len, printed.split("written:")[0].splitlines())) <= 80


def test_analyze_without_runs_says_how_to_make_them(tmp_path, capsys):
    uri = f"sqlite:///{tmp_path}/none.db"
    assert analyze.main(["experiment=classification", f"tracking.uri={uri}", "profile=quick"]) == 1
    assert capsys.readouterr().err == (
        f"experiment=classification: no runs yet in {uri}\n"
        f"To make them: python train.py -m experiment=classification tracking.uri={uri} profile=quick\n"
    )


def test_analyze_with_failed_runs_alone_says_so(store, tmp_path, capsys):
    store.classify("cnn", False, 0, 0.5, status="FAILED")
    assert analyze.main(store.argv(tmp_path)) == 1
    assert "no run is finished (1 FAILED)" in capsys.readouterr().err


def test_analyze_can_be_held_to_one_profile(few, tmp_path, capsys):
    few.classify("mlp", False, 0, 0.6, profile="quick", trainer__max_steps=201)
    assert analyze.main(few.argv(tmp_path, "profile=quick")) == 0
    printed = capsys.readouterr().out
    assert "mlp" in printed
    assert "cnn" not in printed


def test_analyze_reports_all_faults_of_a_command_line_with_the_nearest_word(capsys):
    assert analyze.main(["experimnt=classification", "profile=quik", "experiment=classifcation", "output"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "experimnt=classification: no key 'experimnt'; did you mean experiment. "
        "Keys: experiment, profile, output, tracking.uri, tracking.experiment",
        "profile=quik: no profile 'quik'; did you mean quick. Allowed: smoke, quick, paper",
        "experiment=classifcation: no experiment 'classifcation'; did you mean classification. Allowed: classification",
        "output: a value is needed, as in output=VALUE",
    ]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_and_wrong_keys_are_answered_before_anything_heavy_is_imported():
    heavy = "{'torch', 'lightning', 'pytorch_lightning', 'mlflow', 'pandas', 'matplotlib', 'scipy', 'numpy'}"
    code = (
        "import sys, analyze\n"
        "assert analyze.main(['--help']) == 0\n"
        "assert analyze.main(['experimnt=x']) == 2\n"
        f"print('loaded:', {heavy} & set(sys.modules))"
    )
    assert run_python(code).stdout.endswith("loaded: set()\n")


def test_a_local_store_is_analysed_without_torch_lightning_or_mlflow(full, tmp_path):
    code = (
        f"import sys, analyze\nassert analyze.main({full.argv(tmp_path)!r}) == 0\n"
        "print('loaded:', {'torch', 'pytorch_lightning', 'mlflow'} & set(sys.modules))"
    )
    assert run_python(code).stdout.endswith("loaded: set()\n")
