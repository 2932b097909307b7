"""Two sweeps of known truth, recorded as training records them and compared."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from mnist1d.analysis import compare
from mnist1d.analysis.page import Table
from mnist1d.tracking import FINGERPRINT_TAG, Recorder
from tests.stores import Store

SAME = {"mnist1d.git": "0123456789ab", "mnist1d.versions": "python 3, torch 2", "mnist1d.machine": "abacus, 2 cores"}
CONFIG: dict[str, Any] = {"seed": 0, "model.name": "mlp", "model.hidden": 100, "data.seed": 42, "optimizer.lr": 0.01}
Comparer = Callable[..., compare.Comparison]


@dataclass
class Config:
    values: dict[str, Any]

    def flat(self) -> dict[str, Any]:
        return self.values


class Sweeps:
    """A store with an MLflow experiment per test; `add` records a sweep of it."""

    def __init__(self, path: Path, experiment: str) -> None:
        self.path, self.folder = path, experiment
        self.recorder = Recorder(f"sqlite:///{path}", experiment)

    def add(self, key: str, runs: Mapping[tuple[int, int], float | str], *, name: str = "", **more: Any) -> str:
        """A sweep of (hidden, seed) -> accuracy, or the reason of a failure; returns the parent's run id.

        Dots in config keys are written as two underscores, `...` takes a key away, a function gets the seed;
        `tags` are those of every run, `finals` more metrics.
        """
        tags, status = SAME | more.pop("tags", {}), more.pop("status", "FINISHED")
        also = more.pop("finals", {})
        changed = {name.replace("__", "."): value for name, value in more.items()}
        parent = self.recorder.open_sweep(f"{self.folder}/{key}", name or f"mlp {key}", {})
        for (hidden, seed), result in runs.items():
            config = CONFIG | {"model.hidden": hidden, "seed": seed} | changed
            config = {
                key: value(seed) if callable(value) else value for key, value in config.items() if value is not ...
            }
            self._record(parent, config, result, tags | {FINGERPRINT_TAG: str(config)}, also)
        self.recorder.close_sweep(parent, [], status)
        return parent

    def _record(
        self, parent: str, config: dict[str, Any], result: float | str, tags: dict[str, str], also: dict[str, float]
    ) -> None:
        run_id = self.recorder.start(Config(config), parent=parent, name="a run", tags=tags)
        failed = isinstance(result, str)
        self.recorder.finish(
            run_id,
            "FAILED" if failed else "FINISHED",
            final={} if failed else {"test/acc_final": result, **also},
            reason=result if failed else None,
            weights=None,
            resources={},
        )


@pytest.fixture
def sweeps(database: Store, request: pytest.FixtureRequest) -> Sweeps:
    return Sweeps(database.path, request.node.name)


@pytest.fixture
def compared(sweeps: Sweeps, tmp_path: Path) -> Comparer:
    """`compared("a", "b")`: sweeps by the short keys given to `add`."""

    def run(a: str = "a", b: str = "b", **more: Any) -> compare.Comparison:
        asked = (f"{sweeps.folder}/{key}" for key in (a, b))
        return compare.run(f"sqlite:///{sweeps.path}", sweeps.folder, *asked, tmp_path / "out", **more)

    return run


A = {(50, 0): 0.60, (50, 1): 0.62, (50, 2): 0.61, (100, 0): 0.70, (100, 1): 0.71, (100, 2): 0.72}
B = {(50, 0): 0.63, (50, 1): 0.64, (50, 2): 0.65, (100, 0): 0.70, (100, 1): 0.72, (100, 2): 0.71}
FEW = {(50, 0): 0.6, (50, 1): 0.7}


def test_settings_are_paired_by_value_and_runs_by_seed(sweeps, compared):
    sweeps.add("a", A)
    sweeps.add("b", dict(reversed(B.items())), optimizer__lr=0.001)
    found = compared()
    # hidden=50: differences 3, 2, 4 points: mean 3, standard error 1 / sqrt(3), 4.302653 of them on either side
    p = 2 * stats.ttest_rel([0.63, 0.64, 0.65], [0.60, 0.62, 0.61]).pvalue  # Holm: the smaller of two, doubled
    assert found.table.columns == ("hidden", "A", "B", "B − A", "95% interval", "n", "p (Holm)")
    assert found.table.rows == (
        ("50", "61.00", "64.00", "+3.00", "[0.52, 5.48]", "3", f"{p:.3f}"),
        ("100", "71.00", "71.00", "+0.00", "[-2.48, 2.48]", "3", "1.000"),
    )
    assert found.table.title == "test/acc_final (%): B − A, paired by seed"
    assert found.remarks == ()


def test_what_differs_between_the_sweeps_as_a_whole_is_said_with_their_names(sweeps, compared):
    sweeps.add("a", FEW)
    sweeps.add("b", FEW, optimizer__lr=0.001, trainer__threads=None)
    lines = compared().table.note.splitlines()
    assert lines[0] == f"A: mlp a ({sweeps.folder}/a): optimizer.lr=0.01."
    assert lines[1] == f"B: mlp b ({sweeps.folder}/b): optimizer.lr=0.001, trainer.threads=null."


def test_two_architectures_are_compared_with_their_own_keys(sweeps, compared):
    sweeps.add("a", {(50, 0): 0.6, (50, 1): 0.7})
    sweeps.add("b", {(50, 0): 0.8, (50, 1): 0.9}, model__name="cnn", model__channels=25)
    found = compared()
    assert found.table.rows == (("65.00", "85.00", "+20.00", "[20.00, 20.00]", "2", "< 0.001"),)
    a, b, *_ = found.table.note.splitlines()
    assert a.endswith("/a): model.name=mlp.")
    assert b.endswith("/b): model.name=cnn, model.channels=25.")


def test_the_model_is_the_first_column_and_settings_of_one_model_lack_the_keys_of_others(sweeps, compared):
    for key in "ab":
        sweeps.add(key, {(50, 0): 0.6, (100, 0): 0.7})
        sweeps.add(key, {(0, 0): 0.8}, model__name="cnn", model__hidden=..., model__channels=25)
    found = compared()
    assert found.table.columns[:2] == ("model", "hidden")
    assert [row[:2] for row in found.table.rows] == [("mlp", "50"), ("mlp", "100"), ("cnn", "–")]


def test_the_same_sweep_trained_again_differs_in_no_key(sweeps, compared):
    sweeps.add("a", FEW)
    sweeps.add("b", FEW)
    found = compared()
    assert "\nNo key of the config differs, seeds apart.\n" in found.table.note
    assert found.table.rows[0][2] == "+0.00"


def test_what_has_no_partner_is_named_and_not_counted(sweeps, compared):
    sweeps.add("a", A | {(10, 0): 0.4, (10, 1): "loss is nan"})
    sweeps.add("b", B | {(50, 1): "out of memory", (100, 3): 0.99, (100, 2): math.nan}, status="FAILED")
    found = compared()
    assert [row[-2] for row in found.table.rows] == ["2", "2"]
    assert found.table.rows[0][1:4] == ("60.50", "64.00", "+3.50")  # of seeds 0 and 2 alone
    assert found.remarks == (
        "sweep B is marked FAILED",
        "only in A, not compared: hidden=10 (2 runs, 1 finished)",
        "B hidden=50: seed 1 FAILED (out of memory)",
        "A hidden=100: seed 3 not run",
        "B hidden=100: seed 2 FINISHED without test/acc_final",
    )


def test_one_pair_has_a_difference_without_interval_and_none_has_nothing(sweeps, compared):
    sweeps.add("a", {(50, 0): 0.6, (100, 0): 0.7})
    sweeps.add("b", {(50, 0): 0.5, (100, 1): 0.7})
    found = compared()
    assert found.table.rows == (("50", "60.00", "50.00", "-10.00", "–", "1", "–"), ("100", *"––––0–"))
    assert found.table.columns[-1] == "p"


def test_sweeps_without_a_common_setting_are_refused_with_what_they_have(sweeps, compared):
    sweeps.add("a", {(50, 0): 0.6, (100, 0): 0.7})
    sweeps.add("b", {(10, 0): 0.5, (20, 0): 0.7})
    with pytest.raises(ValueError, match=r"no setting in common.(\n.*)*only in B, not compared: hidden=10, hidden=20"):
        compared()


def test_a_data_seed_that_follows_the_seed_makes_no_setting(sweeps, compared):
    runs = {(50, seed): 0.6 + seed / 100 for seed in range(3)}
    sweeps.add("a", runs, data__seed=lambda seed: seed)
    sweeps.add("b", runs, data__seed=lambda seed: seed + 1)
    found = compared()
    assert [row[-2] for row in found.table.rows] == ["3"]
    assert found.remarks == ("data.seed differs in 3 of 3 pairs, e.g. A 0, B 1",)


def test_another_draw_of_the_data_may_be_what_differs(sweeps, compared):
    sweeps.add("a", FEW)
    sweeps.add("b", FEW, data__seed=43)
    found = compared()
    assert "/b): data.seed=43.\n" in found.table.note
    assert found.remarks == ("data.seed differs in 2 of 2 pairs, e.g. A 42, B 43",)


def test_where_only_the_data_seed_varies_runs_are_paired_by_it(sweeps, compared):
    for key in "ab":
        sweeps.add(key, {(50, n): 0.6 for n in range(3)}, data__seed=lambda seed: seed, seed=7)
    assert [row[-2] for row in compared().table.rows] == ["3"]


def test_a_data_seed_that_is_swept_beside_the_seed_makes_settings(sweeps, compared):
    for key in "ab":
        for drawn in (1, 2):
            sweeps.add(key, {(50, 0): 0.6, (50, 1): 0.7}, data__seed=drawn)
    found = compared()
    assert found.table.columns[0] == "data.seed"
    assert [(row[0], row[-2]) for row in found.table.rows] == [("1", "2"), ("2", "2")]


def test_code_versions_and_machines_that_differ_are_remarks(sweeps, compared):
    sweeps.add("a", {(50, 0): 0.6})
    sweeps.add("a", {(50, 1): 0.7}, tags={"mnist1d.git": "unknown"})
    tags = {"mnist1d.git": "ffff-dirty", "mnist1d.versions": "python 3, torch 3", "mnist1d.machine": "loom, 2 cores"}
    sweeps.add("b", FEW, tags=tags)
    assert compared().remarks == (
        "code versions differ: A 0123456789ab (1 runs), unknown (1 runs); B ffff-dirty (2 runs)",
        "package versions differ: A torch 2 (2 runs); B torch 3 (2 runs)",
        "machines differ: A abacus (2 runs); B loom (2 runs)",
        "A: 1 runs of unknown code, not in a git repository",
        "B: 2 runs of code with changes that were not committed (ffff-dirty)",
    )


def test_the_files_hold_the_table_the_remarks_and_the_full_numbers(sweeps, compared, tmp_path):
    sweeps.add("a", A)
    sweeps.add("b", {key: value for key, value in B.items() if key != (50, 2)}, optimizer__lr=0.001)
    found = compared()
    assert found.paths == tuple(tmp_path / "out" / f"compare.{ending}" for ending in ("md", "tex", "csv"))
    markdown, tex, table = (path.read_text(encoding="utf-8") for path in found.paths)
    assert "| 50 | 61.00 | 63.50 | +2.50 | [-3.85, 8.85] | 2 | 0.251 |" in markdown
    assert "\n- B hidden=50: seed 2 not run\n" in markdown
    assert f"`python analyze.py compare={sweeps.folder}/a,{sweeps.folder}/b`" in markdown
    assert r"50 & 61.00 & 63.50 & +2.50 & {[}$-$3.85, 8.85{]} & 2 & 0.251 \\" in tex
    first, second = csv.DictReader(table.splitlines())
    assert (first["model.hidden"], first["measure"], first["unit"], first["n"]) == ("50", "test/acc_final", "%", "2")
    assert [float(first[name]) for name in ("a", "b", "difference")] == pytest.approx([61.0, 63.5, 2.5])
    assert float(second["p"]) == pytest.approx(1.0)


def test_a_measure_that_is_no_share_keeps_its_unit_and_an_unknown_one_is_refused(sweeps, compared):
    sweeps.add("a", {(50, 0): 0.6, (50, 1): 0.7}, finals={"test/loss": 1.25})
    sweeps.add("b", {(50, 0): 0.6, (50, 1): 0.7}, finals={"test/loss": 1.0})
    assert compared(measure="test/loss").table.rows[0][:3] == ("1.25", "1", "-0.25")
    with pytest.raises(ValueError, match=r"^no run of mlp a \(.*/a\) has test/los; did you mean test/loss$"):
        compared(measure="test/los")


def test_a_sweep_without_a_result_is_refused(sweeps, compared):
    sweeps.add("a", FEW)
    sweeps.add("b", {(50, 0): "diverged"})
    with pytest.raises(ValueError, match=r"^none of the 1 runs of mlp b \(.*/b\) is finished$"):
        compared()


def test_a_sweep_may_be_named_by_key_name_or_run_id(sweeps, tmp_path):
    a, b = sweeps.add("a", FEW, name="mlp 10:11:12"), sweeps.add("b", FEW)
    uri, results = f"sqlite:///{sweeps.path}", []
    for first, second in ((a, "mlp b"), ("mlp 10:11:12", b), (f"{sweeps.folder}/a/", f"{sweeps.folder}/b")):
        results.append(compare.run(uri, sweeps.folder, first, second, tmp_path).table)
    assert results[0] == results[1] == results[2]


def test_an_unknown_sweep_is_answered_with_the_nearest_and_the_newest(sweeps, tmp_path):
    ids = [sweeps.add(f"s{n}", {(50, 0): 0.5}, name=f"model {n}{n}{n}") for n in range(7)]
    with pytest.raises(ValueError, match="no sweep model 66") as error:
        compare.run(f"sqlite:///{sweeps.path}", sweeps.folder, ids[0], "model 66", tmp_path)
    first, *listed = str(error.value).splitlines()
    assert first.startswith("no sweep model 66; did you mean model 666 or ")
    assert first.endswith("? The newest:")
    newest = [f"  model {n}{n}{n}  {sweeps.folder}/s{n}  {ids[n]}  FINISHED" for n in (6, 5, 4, 3, 2)]
    assert listed == newest


def test_a_name_of_two_sweeps_is_refused_with_their_ids(sweeps, tmp_path):
    ids = [sweeps.add(key, {(50, 0): 0.5}, name="mlp 10:11:12") for key in "ab"]
    with pytest.raises(ValueError, match=r"^2 sweeps are called mlp 10:11:12; give one by its id or folder:") as error:
        compare.run(f"sqlite:///{sweeps.path}", sweeps.folder, ids[0], "mlp 10:11:12", tmp_path)
    assert all(run_id in str(error.value) for run_id in ids)


def test_a_sweep_is_not_compared_with_itself_and_no_store_has_none(sweeps, compared, tmp_path):
    sweeps.add("a", FEW)
    with pytest.raises(ValueError, match=r"are the same sweep$"):
        compared("a", "a")
    with pytest.raises(ValueError, match=r"^no sweep a: there are none yet; `python train.py -m …` makes one$"):
        compare.run(f"sqlite:///{tmp_path}/none.db", None, "a", "b", tmp_path)


def test_sweeps_come_from_a_server_as_well(sweeps, compared, tmp_path):
    sweeps.add("a", FEW)
    sweeps.add("b", FEW)
    long_road = f"sqlite:///{sweeps.path}?timeout=20"  # no plain file address: read through the client
    found = compare.run(long_road, sweeps.folder, "mlp a", "mlp b", tmp_path)
    assert found.table == compared().table


def test_latex_escapes_what_would_not_compile():
    hostile = "50% of a_b & {c} #1 $x$ ~ ^ \\ <|> [2] *"
    text = compare.latex(Table(hostile, ("kernel_sizes", "B − A"), (("[5,3,3]", "-1.5"), (hostile, "–")), ""), texts=1)
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    first, second = (line for line in body.splitlines() if line.strip())
    assert first.strip() == r"{[}5,3,3{]} & $-$1.5 \\"
    assert second.strip() == (
        r"50\% of a\_b \& \{c\} \#1 \$x\$ \textasciitilde{} \textasciicircum{} \textbackslash{} "
        r"\textless{}\textbar{}\textgreater{} {[}2{]} {*} & -- \\"
    )
    assert r"\begin{tabular}{lr}" in text
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)  # without what is escaped
    assert bare.count("{") == bare.count("}")
    assert [line for line in bare.splitlines() if "%" in line] == [r"% \usepackage{booktabs}"]
