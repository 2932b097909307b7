"""Reading MLflow, and the page of experiment=classification, on stores of known truth."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest

import analyze
from mnist1d.analysis import TITLES, classification, figures, read
from mnist1d.analysis.metrics import grid
from mnist1d.analysis.page import NoRuns, Page
from tests.conftest import ROOT
from tests.stores import Store, part

# MLflow 3.17 declares its tables in a way that SQLAlchemy 2.1 calls deprecated, once, at its first query.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

SEEDS = (0, 1, 2)


@pytest.fixture
def store(database: Store, request: pytest.FixtureRequest) -> Store:
    return part(database, request.node.name)


@pytest.fixture(scope="module")
def full(database: Store) -> Store:
    """Read only. Two models, all arms, three seeds: the CNN loses 35 points, logistic regression none."""
    store = part(database, "full")
    for seed in SEEDS:
        store.classify("cnn", False, seed, 0.88 + 0.01 * seed, data__test_samples=500, trainer__max_steps=301)
        for shuffled in (False, True):
            store.classify("cnn", shuffled, seed, 0.92 + 0.01 * seed - 0.35 * shuffled)
            store.classify("cnn", shuffled, seed, 0.90 - 0.35 * shuffled, data__val_split="0.1")
            store.classify("logistic", shuffled, seed, 0.32)
    return store


@pytest.fixture(scope="module")
def whole(full: Store) -> Page:
    """Read only. The page of `full`."""
    return classification.page(full.read())


@pytest.fixture
def few(store: Store) -> Store:
    """The CNN on plain features, three seeds, to add to."""
    for seed in SEEDS:
        store.classify("cnn", False, seed, 0.92 + 0.01 * seed)
    return store


def rows_of(page: Page, title: str) -> dict[str, tuple[str, ...]]:
    """First cells -> the others, of the table whose title begins so."""
    (table,) = [table for table in page.tables if table.title.startswith(title)]
    keys = table.columns.index("features") + 1 if "features" in table.columns else 1
    return {" ".join(row[:keys]): row[keys:] for row in table.rows}


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


def test_the_page_states_the_accuracies_that_were_logged(whole):
    rows = rows_of(whole, "Accuracy (%): ")
    assert rows["cnn plain"] == ("100.0 ± 0.0", "93.0 ± 2.5", "95.0 ± 2.5", "91.0 ± 0.0", "3")  # 4.303 / sqrt(3)
    assert rows["logistic shuffled"] == ("100.0 ± 0.0", "32.0 ± 0.0", "34.0 ± 0.0", "–", "3")
    assert list(rows) == ["logistic plain", "logistic shuffled", "cnn plain", "cnn shuffled"]


def test_the_page_states_what_shuffling_costs_and_what_the_oracle_is_worth(whole):
    lost = rows_of(whole, "Test accuracy lost")
    assert lost == {"logistic": ("0.0 ± 0.0", "0.0 ± 0.0", "–", "3"), "cnn": (*("35.0 ± 0.0",) * 3, "3")}
    assert rows_of(whole, "What choosing")["cnn shuffled"] == ("1.0 ± 0.0", "2.0 ± 0.0", "3")
    assert rows_of(whole, "What choosing")["logistic plain"] == ("–", "2.0 ± 0.0", "3")


def test_the_page_sets_the_cnn_beside_the_human_on_the_samples_of_the_human(whole):
    rows = rows_of(whole, "Accuracy (%) on the first 500 test samples")
    assert rows["3"] == ("86.0 ± 2.5", "–", "3")
    assert rows["all"] == ("89.0 ± 2.5", "95.8", "3")


def test_statistics_are_one_number_per_seed(whole):
    ask = whole.statistics
    cnn, shuffled = ({"model.name": "cnn", "arm": arm} for arm in ("plain", "shuffled"))
    assert ask["level"](measure="final", where=cnn).round(9).to_dict() == {0: 92.0, 1: 93.0, 2: 94.0}
    assert ask["level"](measure="selected", where=cnn).round(9).to_dict() == {0: 91.0, 1: 91.0, 2: 91.0}
    assert ask["level"](measure="final", where=cnn | {"validated": True}).round(9).tolist() == [90.0] * 3
    assert ask["level"](measure="class_2", where={"arm": "human"}).round(9).tolist() == [86.0, 87.0, 88.0]
    assert ask["difference"](measure="best", of=cnn, minus=shuffled).round(9).tolist() == [35.0] * 3
    assert ask["gain"](measure="best", minus="selected", where=cnn).round(9).tolist() == [1.0] * 3
    assert ask["gain"](measure="best", minus="final", where=cnn | {"validated": False}).round(9).tolist() == [2.0] * 3
    assert ask["level"](measure="final", where={"model.name": "gru"}).empty


def test_a_difference_takes_the_seeds_that_both_have(few):
    few.classify("cnn", True, 1, 0.53)
    few.classify("cnn", True, 7, 0.53)
    ask = classification.page(few.read()).statistics["difference"]
    found = ask(measure="final", of={"arm": "plain"}, minus={"arm": "shuffled"})
    assert found.round(9).to_dict() == {1: 40.0}


def test_the_figure_shows_the_means_the_bands_and_the_human_line(whole):
    axes = whole.pictures[0].figure.axes
    assert [ax.get_xlabel() for ax in axes] == ["optimiser step"] * 2
    assert axes[0].get_ylabel() == "accuracy (%)"
    lines = {tuple(np.round(line.get_ydata(), 6)): line.get_linestyle() for line in axes[1].lines}
    assert lines[10.0, 95.0, 93.0] == "-"
    assert lines[10.0, 60.0, 58.0] == "--"
    assert (95.8, 95.8) in lines
    assert len(axes[1].collections) == 4  # one band a setting


def test_the_chart_of_errors_has_a_bar_and_an_interval_for_every_digit(whole):
    picture = whole.pictures[1]
    (ax,) = picture.figure.axes
    assert picture.name == "digits"
    overall, human = 11.0, 4.2
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == pytest.approx([*(11.0 + digit for digit in range(10)), overall, human])
    lows = [line.get_ydata()[0] for line in ax.lines]
    assert lows[:11] == pytest.approx([height - 2.484138 for height in heights[:11]])
    assert math.isnan(lows[11])  # of the human only the mean is known
    assert [label.get_text() for label in ax.get_xticklabels()][-2:] == ["CNN\nall", "human\nall"]


def test_captions_say_n_the_interval_and_the_command(whole):
    for picture in whole.pictures:
        written = " ".join(text.get_text() for text in picture.figure.texts)
        for text in (picture.caption, written):
            assert "n = 3 seeds with its 95% t interval" in text
            assert "python train.py -m experiment=classification" in text


def test_architectures_differ_by_more_than_colour():
    looks = list(figures.LOOKS.values())
    for attribute in ("name", "color", "marker"):
        assert len({getattr(look, attribute) for look in looks}) == len(looks)


def test_drawing_leaves_the_settings_of_matplotlib_alone(full):
    before = dict(matplotlib.rcParams)
    classification.page(full.read())
    assert dict(matplotlib.rcParams) == before


def test_seeds_without_a_result_are_named_with_the_reason(few):
    few.classify("mlp", False, 3, 0.6)
    few.classify("cnn", False, 3, 0.5, status="FAILED", tags={"mnist1d.reason": "loss is nan at step 12"})
    few.classify("mlp", False, 2, 0.6, status="RUNNING")
    page = classification.page(few.read())
    assert page.remarks == (
        "missing: mlp plain: seed 0-1 not run",
        "missing: mlp plain: seed 2 RUNNING",
        "missing: cnn plain: seed 3 FAILED (loss is nan at step 12)",
    )
    rows = rows_of(page, "Accuracy (%): ")
    assert (rows["cnn plain"][-1], rows["mlp plain"][-1]) == ("3", "1")


def test_a_run_that_diverged_where_it_may_is_named_as_what_it_is(few):
    gone = {"mnist1d.reason": "lr became nan at step 1", "mnist1d.diverged": "true"}
    few.classify("cnn", False, 3, 0.5, status="FAILED", tags=gone, trainer__may_diverge=True)
    few.classify("cnn", False, 4, 0.5, status="FAILED", tags=gone, trainer__may_diverge=False)
    older, other = ({"mnist1d.reason": text} for text in ("train/loss became inf at step 2", "out of memory at step 2"))
    few.classify("cnn", False, 5, 0.5, status="FAILED", tags=older, trainer__may_diverge=True)
    few.classify("cnn", False, 6, 0.5, status="FAILED", tags=other, trainer__may_diverge=True)
    assert classification.page(few.read()).remarks == (
        "missing: cnn plain: seed 3 diverged as allowed (lr became nan at step 1)",
        "missing: cnn plain: seed 4 FAILED (lr became nan at step 1)",
        "missing: cnn plain: seed 5 diverged as allowed (train/loss became inf at step 2)",
        "missing: cnn plain: seed 6 FAILED (out of memory at step 2)",
    )


def test_a_result_that_is_not_a_number_counts_as_missing(few):
    few.classify("cnn", False, 3, math.nan)
    rows = rows_of(classification.page(few.read()), "Accuracy (%): ")
    assert rows["cnn plain"][1] == "93.0 ± 2.5"


def test_a_single_seed_gives_numbers_without_intervals_and_a_figure(store):
    store.classify("mlp", False, 0, 0.65)
    page = classification.page(store.read())
    assert rows_of(page, "Accuracy (%): ") == {"mlp plain": ("100.0", "65.0", "67.0", "–", "1")}
    assert [table.title for table in page.tables if "lost" in table.title] == []
    (picture,) = page.pictures
    assert "one seed, so no interval" in picture.caption


def test_the_human_arm_alone_is_a_page(store):
    store.classify("cnn", False, 0, 0.9, data__test_samples=500)
    page = classification.page(store.read())
    assert [picture.name for picture in page.pictures] == ["digits"]
    assert len(page.tables) == 1


def test_validated_runs_alone_are_a_page_without_curves(store):
    store.classify("cnn", False, 0, 0.9, data__val_split="0.1")
    page = classification.page(store.read())
    assert page.pictures == ()
    assert rows_of(page, "Accuracy (%): ") == {"cnn plain": ("–", "–", "–", "91.0", "1")}


def test_a_model_of_the_users_own_is_shown_after_ours(few):
    few.classify("transformer", False, 0, 0.65)
    assert list(rows_of(classification.page(few.read()), "Accuracy (%): ")) == ["cnn plain", "transformer plain"]


def test_runs_of_another_protocol_are_left_out_and_named(few):
    few.classify("cnn", False, 0, 0.11, trainer__max_steps=51, profile="smoke")
    few.classify("cnn", False, 0, 0.12, model__channels=100)
    page = classification.page(few.read())
    assert set(page.table["trainer.max_steps"]) == {501}
    assert "1 runs left out, of another protocol: trainer.max_steps=51" in page.remarks
    assert "cnn: 1 runs left out, of another protocol: model.channels=100" in page.remarks
    assert rows_of(page, "Accuracy (%): ")["cnn plain"][1] == "93.0 ± 2.5"


def test_the_human_arm_has_a_protocol_of_its_own(few):
    few.classify("cnn", False, 0, 0.5, data__test_samples=500, trainer__max_steps=9001)
    page = classification.page(few.read())
    assert page.remarks == ()
    assert rows_of(page, "Accuracy (%): ")["cnn plain"][1] == "93.0 ± 2.5"


def test_a_longer_protocol_without_results_does_not_hide_the_shorter_one(few):
    few.classify("cnn", False, 0, 0.5, trainer__max_steps=9001, status="RUNNING")
    assert rows_of(classification.page(few.read()), "Accuracy (%): ")["cnn plain"][1] == "93.0 ± 2.5"


def test_without_a_finished_run_there_is_no_page(store):
    with pytest.raises(NoRuns, match="no runs yet"):
        classification.page(store.read())
    store.classify("cnn", False, 0, 0.5, status="FAILED")
    with pytest.raises(NoRuns, match=r"no run is finished \(1 FAILED\)"):
        classification.page(store.read())


# -- the command line -------------------------------------------------------------------------------------


def test_analyze_without_runs_says_how_to_make_them(tmp_path, capsys):
    uri = f"sqlite:///{tmp_path}/none.db"
    argv = ["experiment=classification", f"tracking.uri={uri}", "profile=quick", f"output={tmp_path}"]
    assert analyze.main(argv) == 1
    assert capsys.readouterr().err == (
        f"experiment=classification: no runs yet in {uri}\n"
        f"To make them: python train.py -m experiment=classification tracking.uri={uri} profile=quick\n"
    )


def test_analyze_reports_all_faults_of_a_command_line_with_the_nearest_word(capsys):
    argv = ["experimnt=classification", "profile=quik", "experiment=classifcation", "output", "compare=a"]
    assert analyze.main(argv) == 2
    assert capsys.readouterr().err.splitlines() == [
        "experimnt=classification: no key 'experimnt'; did you mean experiment. "
        "Keys: experiment, profile, output, tracking.uri, tracking.experiment, compare",
        "profile=quik: no profile 'quik'; did you mean quick. Allowed: smoke, quick, paper",
        "experiment=classifcation: no experiment 'classifcation'; did you mean classification. "
        f"Allowed: {', '.join(TITLES)}",
        "output: a value is needed, as in output=VALUE",
        "compare=a: two sweeps are needed, as in compare=SWEEP_A,SWEEP_B",
        "compare takes two sweeps whole: leave out experiment and profile",
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
