"""Expected outcomes: answered by verdicts, in sentences with the numbers of claims."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnist1d.analysis import TITLES, claims, outcomes
from mnist1d.analysis.claims import Claim, Finding, Judgement, Part, Verdict
from mnist1d.analysis.intervals import Interval
from mnist1d.config import ConfigError


def judged(name: str, kind: claims.Kind, **parts: float) -> Judgement:
    """A judgement of the claim experiment/name with made-up numbers."""
    part = Part(statistic="gain", at_least=0)
    claim = Claim(
        experiment="pooling", id=name, title=f"On {name}", unit="points of accuracy", parts=dict.fromkeys(parts, part),
        because="made up",
    )  # fmt: skip
    verdict = Verdict(kind, 5)
    findings = [
        Finding(label, part, Interval(mean, mean - 1, mean + 1, 5), 1.0, verdict) for label, mean in parts.items()
    ]
    return Judgement(claim, verdict, tuple(findings), ())


UP, DOWN = judged("up", "reproduced", max=3.0, average=2.0), judged("down", "not reproduced", stride=-4.0)
OPEN = judged("open", "inconclusive", l2=0.5)
ALL = {outcomes.path_of(each): each for each in (UP, DOWN, OPEN)}
HEADINGS = {path: judgement.claim.title for path, judgement in ALL.items()}


def outcome(*decide: str, says: str = "By {pooling/up/max}, not {pooling/down}.") -> dict[str, outcomes.Outcome]:
    made = outcomes.Outcome(expected="Pooling helps", claims=[f"pooling/{name}" for name in decide], says=says)
    return {"helps": made}


@pytest.mark.parametrize(
    ("judgements", "answer"),
    [
        ([UP, UP], "yes"),
        ([DOWN], "no"),
        ([UP, DOWN, OPEN], "depends"),
        ([UP, OPEN], "depends"),
        ([DOWN, OPEN], "depends"),
        ([OPEN], "undecided"),
    ],
)
def test_verdicts_make_the_answer(judgements: list[Judgement], answer: str) -> None:
    assert outcomes.answer(judgements) == answer


def test_a_sentence_holds_the_numbers_and_the_row_links_to_the_evidence() -> None:
    row = outcomes.answered(outcome("up", "down"), ALL, HEADINGS).splitlines()[2]
    links = "[On up](#on-up); [On down](#on-down)"
    assert row == f"| Pooling helps | **depends** | By 3.0 ± 1.0 points, not -4.0 ± 1.0 points. | 5 | {links} |"


def test_outcomes_of_other_experiments_are_left_out() -> None:
    assert outcomes.answered(outcome("up"), {}, {}) == ""


def test_wrong_names_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        outcomes.answered(outcome("upp", says="{pooling/up} {pooling/up/mx} {pooling/down}"), ALL, HEADINGS)
    assert [str(fault) for fault in caught.value.faults] == [
        "conf/outcomes.yaml helps=pooling/upp: no such claim; nearest: pooling/up, pooling/open, pooling/down",
        "conf/outcomes.yaml helps=pooling/up: no such part; allowed: pooling/up/max, pooling/up/average",
        "conf/outcomes.yaml helps=pooling/up/mx: no such part; allowed: pooling/up/max, pooling/up/average",
    ]


def test_a_file_with_faults_names_them_all(tmp_path: Path) -> None:
    (tmp_path / "outcomes.yaml").write_text("one:\n  expected: x\n  claims: []\n  sais: y\n")
    with pytest.raises(ConfigError) as caught:
        outcomes.load(tmp_path / "outcomes.yaml")
    assert sorted(str(fault).split(":")[0] for fault in caught.value.faults) == [
        "conf/outcomes.yaml one.claims=[]",
        "conf/outcomes.yaml one.sais",
        "conf/outcomes.yaml one.says",
    ]


def test_our_file_names_claims_and_parts_that_exist() -> None:
    known = {f"{name}/{claim.id}": claim for name in TITLES for claim in claims.load(name)}
    for name, each in outcomes.load().items():
        assert each.expected, name
        assert {*each.named} <= {*known}, name
        for path in outcomes.NUMBER.findall(each.says):
            experiment, claim, *part = path.split("/", 2)
            parts = [*known[f"{experiment}/{claim}"].parts]
            assert (part[0] in parts) if part else len(parts) == 1, path
