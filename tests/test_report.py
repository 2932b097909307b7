"""The report, made by the real command line from stores of known truth."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from html import escape, unescape
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

import analyze
from mnist1d.analysis import ABLATIONS, SIGNS, TITLES, evidence, report
from mnist1d.analysis.claims import Claim, judge
from mnist1d.analysis.document import document, slug
from mnist1d.analysis.intervals import Interval, basis, span
from mnist1d.analysis.page import Page, Picture, Table
from mnist1d.tracking import Recorder
from tests.conftest import ROOT
from tests.stores import Store, part

# MLflow 3.17 declares its tables in a way that SQLAlchemy 2.1 calls deprecated, once, at its first query.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

CHROMIUM = shutil.which("chromium")
LOGISTIC = "Logistic regression reaches 32%"


@dataclass
class Made:
    """A report on disk, and how the command that wrote it ended."""

    done: subprocess.CompletedProcess[str] | None
    folder: Path

    @property
    def text(self) -> str:
        return (self.folder / "report.md").read_text(encoding="utf-8")

    @property
    def page(self) -> str:
        return (self.folder / "report.html").read_text(encoding="utf-8")

    def verdict(self, title: str) -> str:
        """The verdict that the summary gives the claim."""
        (line,) = [line for line in self.text.splitlines() if line.startswith(f"| [{title}](")]
        return line.split(" | ")[4]


def command_line(store: Store, output: Path) -> Made:
    """Run analyze.py as a user does, for every experiment."""
    argv = [sys.executable, "analyze.py", *store.argv(output)[1:]]
    return Made(subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False), output)


def fill(store: Store) -> None:
    """Three seeds of logistic regression and two of the CNN, whose third failed; one run has no number."""
    code = {"mnist1d.git": "0123456789ab", "mnist1d.machine": "abacus, 2 cores", "mnist1d.versions": "python 3"}
    for seed in (0, 1, 2):
        for shuffled in (False, True):
            store.classify("logistic", shuffled, seed, 0.318 + 0.002 * seed, tags=code)
    store.classify("cnn", False, 0, 0.93, tags=code)
    store.classify("cnn", False, 1, 0.94, tags=code | {"mnist1d.git": "fedcba987654-dirty"})
    store.classify("cnn", False, 2, 0.5, status="FAILED", tags={"mnist1d.reason": "loss is <nan> | *at* step 12"})
    store.classify("logistic", False, 3, math.nan, tags=code)


@pytest.fixture(scope="module")
def partial(database: Store, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Read only. The report of a store in which two experiments have no runs, and the third not all."""
    store = part(database, "partial")
    fill(store)
    return command_line(store, tmp_path_factory.mktemp("report"))


# -- the whole report -------------------------------------------------------------------------------------


def test_the_report_begins_with_a_verdict_for_every_claim_there_is(partial):
    assert partial.done.returncode == 0, partial.done.stderr
    claims = sum(len(re.findall(r"(?m)^\S.*:$", path.read_text())) for path in (ROOT / "conf/claim").glob("*.yaml"))
    summary = partial.text.split("## Classification")[0]
    verdicts = re.findall(r"\| (?:✓ reproduced|✗ not reproduced|\? inconclusive at n=\d+|– no value) \|", summary)
    assert len(verdicts) == claims > 20
    assert f"**{claims} claims:** 1 reproduced, " in summary


def test_a_verdict_comes_with_what_was_measured_and_what_was_published(partial):
    assert f"| [{LOGISTIC}](#logistic-regression-reaches-32) | 32 | 32.0 ± 0.5 % |" in partial.text
    assert " | 3 | ✓ reproduced | [Classification](#classification) |" in partial.text
    assert "| plain | 32.0 ± 0.5 | 3 | 30 to 34 | 32 | 31.5 | 1 | ✓ reproduced |" in partial.text
    assert "| oracle | plain | 34.0 ± 0.5 | 3 | +2.0 ± 0.0 |" in partial.text
    assert partial.verdict("The CNN reaches 94%") == "? inconclusive at n=2"


def test_the_sections_stand_in_one_order_and_say_what_has_no_runs(partial):
    headings = re.findall(r"(?m)^## (.*)$", partial.text)
    assert headings == [
        "Expected outcomes",
        "Claims",
        "Classification",
        "t-SNE",
        "Lottery tickets",
        "Double descent",
        "Metalearning a learning rate",
        "Metalearning an activation function",
        "Transfer of a learned activation function",
        "SimCLR",
        "Pooling",
        "Efficiency",
        "Tuning of learning rate and weight decay",
        "Leaderboard",
        "Sample efficiency",
        *ABLATIONS.values(),
    ]
    section = partial.text.split("## Double descent")[1].split("\n## ")[0]
    assert "**No results:** no runs yet." in section
    assert "```bash\npython train.py -m experiment=double_descent\n```" in section
    assert "### Evidence" not in section


def test_failed_runs_and_missing_numbers_are_named_not_averaged(partial):
    assert "- **Runs:** 9 finished, 1 FAILED" in partial.text
    assert r"- missing: cnn plain: seed 2 FAILED (loss is \<nan> \| \*at\* step 12)" in partial.text
    assert "seed 2 FAILED (loss is &lt;nan&gt; | *at* step 12)" in partial.page
    assert "nan ±" not in partial.text


def test_the_report_says_which_machine_versions_and_code_made_the_runs(partial):
    assert "- **Machine:** abacus, 2 cores\n- **Versions:** python 3\n" in partial.text
    assert "Classification: runs come from several versions of the code." in partial.text
    assert "Classification: some runs were made with uncommitted changes." in partial.text
    section = partial.text.partition("## Classification\n")[2].partition("\n## ")[0]
    assert "- **Code:** 0123456789ab, fedcba987654-dirty\n" in section


def test_the_protocol_is_taken_from_the_notes(partial):
    notes = (ROOT / "docs/experiments/classification.md").read_text(encoding="utf-8")
    assert notes.replace("\n# ", "\n### ").strip().removeprefix("# ") in partial.text
    assert "\n# " not in partial.text


def test_every_number_lies_on_disk(partial):
    with (partial.folder / "claims.csv").open() as file:
        rows = {(row["claim"], row["part"]): row for row in csv.DictReader(file)}
    row = rows["logistic-accuracy", "plain"]
    assert (float(row["mean"]), float(row["high"])) == pytest.approx((32.0, 32.0 + 0.2 * 4.302653 / math.sqrt(3)))
    assert (row["n"], row["at_least"], row["verdict"]) == ("3", "30.0", "reproduced")
    with (partial.folder / "classification/runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 10
    assert [row["test/acc_final"] for row in runs if row["model.name"] == "cnn"] == ["0.93", "0.94", "0.5"]
    assert {path.name for path in (partial.folder / "classification").iterdir()} == {
        "figure.svg",
        "figure.png",
        "runs.csv",
        "curves.csv",
    }


def test_the_command_prints_tables_verdicts_and_files_within_80_columns(partial):
    printed = partial.done.stdout
    assert "32.0 ± 0.5" in printed
    assert re.search(rf"✓ reproduced +{LOGISTIC}", printed)
    assert f"written: {partial.folder / 'report.html'}" in printed
    assert max(map(len, printed.split("written:")[0].splitlines())) <= 80
    assert re.search(r"\nClaims that wait for runs: \d+\n", printed)
    absent = re.search(r"experiment=(\S+) \(\d+ experiments\): no runs yet in sqlite:///", partial.done.stderr)
    assert absent
    assert "pooling" in absent[1]
    assert "classification" not in absent[1]


# -- what changes it --------------------------------------------------------------------------------------


def test_a_changed_run_changes_the_verdict(database, tmp_path):
    store = part(database, "changing")
    runs = [store.classify("cnn", False, seed, 0.93 + 0.005 * seed) for seed in (0, 1, 2)]

    def verdict_after(changed: list[str], accuracy: float, step: int) -> str:
        for run in changed:
            store.client.log_metric(run, "test/acc_final", accuracy, step=step)
        assert analyze.main(store.argv(tmp_path)) == 0
        return Made(None, tmp_path).verdict("The CNN reaches 94%")

    assert verdict_after([], 0, 0) == "✓ reproduced"
    assert verdict_after(runs[:1], 0.99, 501) == "? inconclusive at n=3"
    assert verdict_after(runs, 0.5, 502) == "✗ not reproduced"


def test_an_empty_store_gives_a_report_without_runs_and_says_how_to_make_them(tmp_path, capsys):
    store = Store(None, tmp_path / "none.db", "none")  # type: ignore[arg-type]
    assert analyze.main([*store.argv(tmp_path / "report")[1:], "profile=quick"]) == 1
    names = ",".join(TITLES)
    assert capsys.readouterr().err == (
        f"experiment={names} ({len(TITLES)} experiments): no runs yet in {store.uri}\n"
        f"To make them: python train.py -m experiment=NAME tracking.uri={store.uri} tracking.experiment=none "
        "profile=quick, or all: make reproduce-all\n"
    )
    found = Made(None, tmp_path / "report")
    assert found.text.count("**No results:** no runs yet.") == len(TITLES)
    assert "without a value." in found.text
    assert not store.path.exists()


def test_a_report_can_be_held_to_one_profile(database, tmp_path, capsys):
    store = part(database, "profiles")
    store.classify("cnn", False, 0, 0.9)
    store.classify("mlp", False, 0, 0.6, profile="quick", trainer__max_steps=201)
    assert analyze.main(store.argv(tmp_path, "profile=quick")) == 0
    table = capsys.readouterr().out.split("Claims")[0]
    assert "mlp" in table
    assert "cnn" not in table
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "python train.py -m experiment=classification profile=quick\n" in text
    assert "- **Profile:** quick" in text


def test_failed_runs_alone_are_no_result(database, tmp_path, capsys):
    store = part(database, "failed")
    store.classify("cnn", False, 0, 0.5, status="FAILED")
    assert analyze.main(store.argv(tmp_path)) == 1
    assert "no run is finished (1 FAILED)" in capsys.readouterr().err
    assert "**No results:** no run is finished (1 FAILED)." in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_two_sweeps_can_be_compared(database, tmp_path, capsys):
    store = part(database, "sweeps")
    for key in ("s1", "s2"):
        Recorder(store.uri, store.folder).open_sweep(key, f"sweep {key}", {})
    for seed in (0, 1, 2):
        store.classify("cnn", False, seed, 0.80 + 0.01 * seed)
        store.classify("cnn", False, seed, 0.85 + 0.01 * seed, optimizer__lr=0.02, tags={"mnist1d.sweep": "s2"})
    argv = [argument for argument in store.argv(tmp_path) if not argument.startswith("experiment=")]
    assert analyze.main([*argv, "compare=s1,s2"]) == 0
    printed = capsys.readouterr().out
    assert "B − A" in printed
    assert f"written: {tmp_path / 'compare.tex'}" in printed
    assert analyze.main([*argv, "compare=s1,s3"]) == 1
    assert "s3" in capsys.readouterr().err


# -- the page ---------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere(partial):
    sources = re.findall(r'src="([^"]{0,40})', partial.page)
    assert len(sources) == 1
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert [link for link in re.findall(r'href="([^"]*)"', partial.page) if link[0] != "#"] == ["data:,"]
    style = partial.page.split("<style>")[1].split("</style>")[0]
    assert not re.search(r"@import|url\(|https?:", style)
    assert "<script" not in partial.page


PROBE = """<script>addEventListener("load", () => {
  document.body.dataset.found = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument;
    const links = [...page.querySelectorAll('a[href^="#"]')].map(a => decodeURIComponent(a.hash.slice(1)));
    return {
      links: links.length,
      dead: links.filter(name => !page.getElementById(name)),
      blank: [...page.images].filter(image => !image.naturalWidth).length,
      sideways: page.documentElement.scrollWidth - frame.clientWidth,
    };
  }));
})</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_the_page_without_complaint_also_on_a_phone(partial, tmp_path):
    frames = [f'<iframe width="{width}" srcdoc="{escape(partial.page)}"></iframe>' for width in (1200, 390)]
    probe = tmp_path / "probe.html"
    probe.write_text(f'<!doctype html><meta charset="utf-8"><body>{"".join(frames)}{PROBE}', encoding="utf-8")
    options = ["headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars", "enable-logging=stderr", "dump-dom"]
    options += [f"user-data-dir={tmp_path / 'browser'}", "window-size=1600,900"]
    argv = [str(CHROMIUM), *(f"--{option}" for option in options), probe.as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    assert "CONSOLE" not in done.stderr
    for found in json.loads(unescape(re.search(r'data-found="([^"]*)"', done.stdout)[1])):
        assert found["links"] > 40
        assert (found["dead"], found["blank"]) == ([], 0)
        assert found["sideways"] <= 0  # but for tables and figures, which scroll in boxes of their own


def test_verdicts_can_be_told_apart_without_colour(partial):
    cells = set(re.findall(r'class="verdict [a-z-]+" data-column="verdict">([^<]*)<', partial.page))
    assert {text[0] for text in cells} == {"✓", "?", "–"}
    assert len(set(SIGNS.values())) == len(SIGNS)


def test_headings_are_link_targets_as_on_github():
    assert slug("A human, at 95.8%, still beats the CNN") == "a-human-at-958-still-beats-the-cnn"
    page = document("# Report\n\n## Protocol\n\n## Protocol\n", Path())
    assert re.findall(r'id="([^"]*)"', page) == ["report", "protocol", "protocol-1"]


def test_markup_in_a_text_stays_text():
    page = document("# T\n\na <script>alert(1)</script> b\n", Path())
    assert "<script>" not in page


# -- numbers as text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "unit", "text"),
    [
        (None, "%", "–"),
        (Interval(93.456, math.nan, math.nan, 1), "%", "93.5"),
        (Interval(93.456, 92.956, 93.956, 3), "points", "93.5 ± 0.5"),
        (Interval(47.3, 41.2, 55.5, 3), "units", "47.3 [41.2, 55.5]"),
        (Interval(61.0, 61.0, 61.0, 3), "units", "61 ± 0"),
        (Interval(1000.0, 1000.0, 1000.0, 3), "", "1,000 ± 0"),
        (Interval(25119.2, 9876.5, 63887.3, 3), "samples", "25,119 [9,876, 63,887]"),
        (Interval(-0.01, -0.13, 0.11, 3), "points", "0.0 ± 0.1"),
        (Interval(99.36, 99.28, 99.44, 10), "%", "99.36 ± 0.08"),
        (Interval(1.00132, 1.00041, 1.00222, 20), "times", "1.0013 [1.0004, 1.0022]"),
    ],
)
def test_a_number_is_shown_with_its_interval(interval, unit, text):
    assert evidence.number(interval, unit) == text


@pytest.mark.parametrize(
    ("counts", "short", "long"),
    [
        ((), "0", "one seed, so no intervals"),
        ((1, 1), "1", "one seed, so no intervals"),
        ((5, 5), "5", "mean over n = 5 seeds with its 95% t interval"),
        ((10, 1, 9), "1–10", "mean over n = 1–10 seeds with its 95% t interval"),
    ],
)
def test_a_figure_says_how_many_seeds_it_rests_on(counts, short, long):
    assert (span(counts), basis(iter(counts))) == (short, long)


def claim(**bounds: float) -> Claim:
    value = {"statistic": "level", "arguments": {}, **bounds}
    return Claim(experiment="x", id="a-claim", title="T", unit="points", because="so", parts={"only": value})


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ({"at_least": 30, "at_most": 40}, "30 to 40"),
        ({"at_least": 1}, "at least 1"),
        ({"at_most": 95.8}, "at most 95.8"),
    ],
)
def test_a_rule_is_shown_in_words(bounds, text):
    assert evidence.rule(claim(**bounds).parts["only"]) == text


@pytest.fixture
def section() -> Callable[..., report.Section]:
    """A section of two runs, for an experiment that has no notes."""

    def build(**tags: list[str]) -> report.Section:
        table = pd.DataFrame({"run_id": ["a", "b"], "model.name": "mlp", "seed": [0, 1], "status": "FINISHED"})
        table = table.assign(profile="quick", started=0, ended=60_000, acc=[1.0, 2.0])
        for name, values in tags.items():
            table[f"mnist1d.{name}"] = values
        picture = Picture("drawing", Figure(), "what is seen", "n = 2")
        page = Page(table, (picture,), (Table("T", ("a|b",), (("1|2",),), ""),), {}, ("why | not",))
        values = {"level": lambda: pd.Series([1.0, 2.0], index=[0, 1])}
        return report.Section("strange_loops", page, (judge(claim(at_least=0), values),))

    return build


def test_the_same_section_gives_the_same_files(section, tmp_path):
    for name in ("one", "two"):
        report.write([section()], tmp_path / name)
    for file in ("strange_loops/drawing.svg", "strange_loops/runs.csv", "claims.csv"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_what_runs_recorded_while_they_trained_lies_beside_them(section, tmp_path):
    accuracy = pd.DataFrame({0: [0.1, math.nan, 0.1], 9: [2 / 3, 1.0, 0.2]}, index=["a", "b", "of no page"])
    sparsity = pd.DataFrame({4: [math.nan, 0.5]}, index=["a", "b"])
    never = pd.DataFrame({0: [math.nan]}, index=["a"])
    histories = {"test/acc": accuracy, "sparsity": sparsity, "train/acc": never}
    written = report.write([replace(section(), histories=histories)], tmp_path)
    path = tmp_path / "strange_loops/curves.csv"
    assert path in written
    assert path.read_text() == (
        "metric,run_id,0,4,9\ntest/acc,a,0.1,,0.666667\ntest/acc,b,,,1\nsparsity,b,,0.5,\n"  # six digits, nothing empty
    )
    path.unlink()
    report.write([replace(section(), histories={"train/acc": never})], tmp_path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("statuses", "remarks", "warning"),
    [
        (["FINISHED", "RUNNING"], ("missing: mlp: seed 1 RUNNING",), "1 runs are still RUNNING"),
        (["FINISHED", "FAILED"], ("missing: mlp: seed 1 FAILED",), "1 settings lack seeds (see below)"),
        (["RUNNING", "FINISHED"], ("missing: cnn: seed 1 not run",), "1 runs are still RUNNING, 1 settings lack seeds"),
        (["FINISHED", "FINISHED"], ("2 runs left out, of another protocol: seed=3",), None),
        (["FINISHED", "FAILED"], ("missing: mlp: seed 1 diverged as allowed (lr became nan at step 1)",), None),
    ],
)
def test_a_section_begins_with_a_warning_while_runs_are_to_come(section, tmp_path, statuses, remarks, warning):
    made = section()
    assert made.page is not None
    page = Page(made.page.table.assign(status=statuses), (), (), {}, remarks)
    report.write([report.Section("strange_loops", page, ())], tmp_path)
    head, body = (tmp_path / "report.md").read_text(encoding="utf-8").split("## Strange loops\n\n")
    if warning is None:
        assert "Warning" not in head + body
    else:
        assert f"> **Warning:** Strange loops: {warning}" in head
        assert body.startswith(f"> **Warning:** {warning}")
        assert body.splitlines()[0].endswith(": verdicts are provisional.")


def test_runs_that_diverged_are_counted_apart_where_that_is_allowed(section, tmp_path):
    made = section()
    assert made.page is not None
    rows = pd.concat([made.page.table.iloc[:1]] * 5).assign(
        status=["FINISHED", "FAILED", "FAILED", "FAILED", "KILLED"],
        **{
            "trainer.may_diverge": [True, True, True, False, True],
            "mnist1d.diverged": [None, "true", "true", "true", None],
        },
    )
    report.write([report.Section("strange_loops", Page(rows, (), (), {}), ())], tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "- **Runs:** 1 finished, 2 diverged as allowed, 1 FAILED, 1 KILLED\n" in text


def test_one_clean_version_of_the_code_is_no_reason_to_warn(section, tmp_path):
    report.write([section(git=["abc", "abc"])], tmp_path)
    assert "Warning" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    report.write([section(git=["unknown", "unknown"])], tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "> **Warning:** Strange loops: no version of the code is known for some runs." in text


def test_a_stack_counts_its_time_once(section, tmp_path):
    made = section(stack_size=["2", "2"])
    assert made.page is not None
    times = {"time/wall_seconds": [10.0, 10.0], "time/cpu_seconds": [7.0, 7.0]}
    page = Page(made.page.table.assign(**times), (), (), {})
    report.write([report.Section("strange_loops", page, ())], tmp_path)
    assert "00:00 to 00:01 UTC; 10 s of training, 14 s of processor time" in (tmp_path / "report.md").read_text("utf-8")
