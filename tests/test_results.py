"""docs/results is of one report, and the README says what is in it."""

import csv
import json
import re
from collections import Counter, defaultdict

import pytest

import analyze
from bench.data import PUBLISHED
from mnist1d.analysis import SIGNS, TITLES
from mnist1d.reproduce import PAPER
from tests import documents
from tests.conftest import ROOT

RESULTS = ROOT / "docs/results"


def claims() -> list[dict[str, str]]:
    with (RESULTS / "claims.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


FOLDERS = sorted(path.name for path in RESULTS.iterdir() if path.is_dir())


def test_statistics_can_be_done_again_as_the_page_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    snippets, names = documents.blocks(documents.read("docs/results/README.md"), "python"), dict[str, object]()
    monkeypatch.chdir(ROOT)
    for snippet in snippets:  # a later one goes on from those before
        exec(snippet, names)
        assert f"# {capsys.readouterr().out.strip()}\n" in f"{snippet}\n"
    (row,) = [row for row in claims() if (row["claim"], row["part"]) == ("mlp-accuracy", "plain")]
    half = (float(row["high"]) - float(row["low"])) / 2
    assert f"# {float(row['mean']):.1f} ± {half:.1f} (n = {row['n']})" in snippets[0]
    (row,) = re.findall(
        r"\| 97\.0 \| [^|]+ \| ([^|]+) \|.*\| (\d+) \|", (RESULTS / "report.md").read_text(encoding="utf-8")
    )
    assert f"# {row[0]} (n = {row[1]})" in snippets[1]


@pytest.mark.parametrize("experiment", FOLDERS)
def test_an_experiment_has_its_values_and_figures(experiment: str) -> None:
    with (RESULTS / experiment / "runs.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) > 1
    figures = {path.stem for path in (RESULTS / experiment).glob("*.svg")}
    assert figures == {path.stem for path in (RESULTS / experiment).glob("*.png")}
    metrics, _ = analyze._page(experiment)
    assert (RESULTS / experiment / "curves.csv").exists() is bool(metrics)
    text = (RESULTS / "report.md").read_text(encoding="utf-8")
    assert figures == set(re.findall(rf"\]\({experiment}/([\w-]+)\.svg\)", text))
    assert figures


def test_no_path_of_a_machine_is_told() -> None:
    for path in RESULTS.rglob("*"):
        if path.suffix in (".md", ".csv", ".svg"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(?<![\w.])/(tmp|home|root|work|Users)/", text), path


def test_the_readme_says_how_many_claims_hold() -> None:
    verdicts, published = {}, defaultdict(bool)
    for row in claims():
        verdicts[row["experiment"], row["claim"]] = row["claim_verdict"].partition(" at n")[0]
        published[row["experiment"], row["claim"]] |= bool(row["published"])
    rows = {}
    for name, of_paper in (("said by the paper", True), ("asked beyond it", False)):
        counts = Counter(kind for claim, kind in verdicts.items() if published[claim] is of_paper)
        rows[name] = [counts[kind] for kind in SIGNS]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, counts in rows.items():
        assert f"| {name} | {' | '.join(map(str, counts))} |" in text, rows


def test_the_readme_says_what_the_results_took() -> None:
    report = (RESULTS / "report.md").read_text(encoding="utf-8")
    hours = {}
    for name, title in TITLES.items():
        (section,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", report, re.MULTILINE | re.DOTALL)
        (seconds,) = re.findall(r"([\d,]+) s of processor time", section)
        hours[name] = int(seconds.replace(",", "")) / 3600
    paper, whole = sum(hours[name] for name in PAPER), sum(hours.values())
    said = f"took {paper:.1f} hours of one processor core, the {len(hours)} of this project {whole:.1f}"
    assert said in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split()), said


def test_the_readme_quotes_the_leaderboard() -> None:
    (text,) = re.findall(r"^\*\*([\d,]+) parameters, ([\d.]+ ± [\d.]+)%", (ROOT / "README.md").read_text(), re.M)
    report = (RESULTS / "report.md").read_text(encoding="utf-8")
    assert re.search(rf"\| resnet \+ recipe \| {text[0]} \| {re.escape(text[1])} \|", report)
    (ten,) = re.findall(r"ten of them together reach ([\d.]+ ± [\d.]+)%", (ROOT / "README.md").read_text())
    assert re.search(rf"\| 10 resnets \+ recipe \| [\d,]+ \| {re.escape(ten)} \|", report)


def test_the_readme_quotes_the_bench() -> None:
    readme, bench = (ROOT / "README.md").read_text(), json.loads((ROOT / "docs/bench.json").read_text())
    found = {row["model"]: row for row in bench["milliseconds per step per run"]}
    rows = re.findall(r"^\| ([\w ]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| (\d+) \| ([\d.]+) \|$", readme, re.M)
    columns = ("plain loop", "Lightning, one run", "stack", "members", "plain / stack")
    assert len(rows) == 7
    for model, *numbers in rows:
        measured = [found[model][column] for column in columns]
        assert [float(number) for number in numbers] == pytest.approx(measured, abs=0.0006), model
    (times,) = re.findall(r"published package, (\d+) times as fast", readme)
    assert times == f"{bench['samples per second']['exact generator'] / PUBLISHED:.0f}"


def test_there_is_nothing_of_an_experiment_that_is_no_more() -> None:
    assert {*FOLDERS} <= {*TITLES}
