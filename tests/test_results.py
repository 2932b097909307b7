"""docs/results is of one report, and the README says what is in it."""

import csv
import re
from collections import Counter, defaultdict

import pytest

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
    (snippet,) = documents.blocks(documents.read("docs/results/README.md"), "python")
    monkeypatch.chdir(ROOT)
    exec(snippet, {})
    said = capsys.readouterr().out.strip()
    assert f"# {said}" in snippet
    (row,) = [row for row in claims() if (row["claim"], row["part"]) == ("mlp-accuracy", "plain")]
    half = (float(row["high"]) - float(row["low"])) / 2
    assert said == f"{float(row['mean']):.1f} ± {half:.1f} (n = {row['n']})"


@pytest.mark.parametrize("experiment", FOLDERS)
def test_an_experiment_has_its_values_and_figures(experiment: str) -> None:
    with (RESULTS / experiment / "runs.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) > 1
    figures = {path.stem for path in (RESULTS / experiment).glob("*.svg")}
    assert figures == {path.stem for path in (RESULTS / experiment).glob("*.png")}
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


def test_there_is_nothing_of_an_experiment_that_is_no_more() -> None:
    assert {*FOLDERS} <= {*TITLES}
