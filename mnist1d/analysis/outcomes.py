"""What was expected of the work, answered from verdicts: conf/outcomes.yaml, each entry with the claims that decide.

yes        all of its claims are reproduced
no         all are refuted
depends    some are decided, not all alike
undecided  none is decided: too few seeds, or no value
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from mnist1d.analysis import intervals, yaml_file
from mnist1d.analysis.claims import Finding, Judgement
from mnist1d.analysis.document import plain, slug, table
from mnist1d.analysis.evidence import number
from mnist1d.config import ConfigError, Fault
from mnist1d.config.schema import Section
from mnist1d.spelling import nearest

FILE = Path(__file__).resolve().parents[2] / "conf" / "outcomes.yaml"
NUMBER = re.compile(r"{([^{}]*)}")
"""In a sentence: {experiment/claim} of a claim with one part, else {experiment/claim/part}."""

SHOWN = ("%", "points", "units")
"""First words of units that stand behind a number; of others the sentence speaks."""

Answer = Literal["yes", "no", "depends", "undecided"]
Judgements = Mapping[str, Judgement]
"""experiment/claim -> its judgement."""


class Outcome(Section):
    """One expectation, the claims that decide whether it was met, and two sentences with numbers."""

    expected: str = Field(description="the expectation")
    claims: list[str] = Field(min_length=1, description="experiment/claim of all that decide")
    says: str = Field(description="two sentences; {experiment/claim/part} stands for a number")

    @property
    def named(self) -> Iterator[str]:
        """experiment/claim of everything that it rests on."""
        yield from self.claims
        yield from ("/".join(path.split("/")[:2]) for path in NUMBER.findall(self.says))

    @property
    def experiments(self) -> set[str]:
        """Experiments whose claims it rests on."""
        return {path.partition("/")[0] for path in self.named}


def load(file: Path = FILE) -> dict[str, Outcome]:
    """The outcomes by id, in the order of the file; raises ConfigError with all faults of the file."""
    outcomes: dict[str, Outcome] = {}
    faults: list[Fault] = []
    for name, values in yaml_file.read(file, "conf", "ids to outcomes").items():
        try:
            outcomes[name] = yaml_file.make(Outcome, values, [f"conf/{file.name} {name}"])
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return outcomes


def answered(outcomes: Mapping[str, Outcome], judged: Judgements, headings: Mapping[str, str]) -> str:
    """A table of all outcomes whose experiments are among those judged; nothing where there is none.

    headings  experiment/claim -> the heading of its evidence
    Raises ConfigError: some name claims or parts that do not exist.
    """
    experiments = {path.partition("/")[0] for path in judged}
    shown = {name: outcome for name, outcome in outcomes.items() if outcome.experiments <= experiments}
    if faults := [fault for name, outcome in shown.items() for fault in _faults(name, outcome, judged)]:
        raise ConfigError(faults)
    rows = [
        (
            plain(outcome.expected),
            f"**{answer([judged[path] for path in outcome.claims])}**",
            NUMBER.sub(lambda found: _measured(found.group(1), judged), plain(outcome.says)),
            _n(outcome, judged),
            "; ".join(f"[{plain(judged[path].claim.title)}](#{slug(headings[path])})" for path in outcome.claims),
        )
        for name, outcome in shown.items()
    ]
    return table(("expected", "found", "in numbers", "n", "decided by"), rows)


def answer(judgements: Sequence[Judgement]) -> Answer:
    """What the verdicts of its claims make of an outcome."""
    kinds = {judgement.verdict.kind for judgement in judgements}
    if kinds == {"reproduced"}:
        return "yes"
    if kinds == {"not reproduced"}:
        return "no"
    return "depends" if kinds & {"reproduced", "not reproduced"} else "undecided"


def _faults(name: str, outcome: Outcome, judged: Judgements) -> Iterator[Fault]:
    for path in dict.fromkeys(outcome.named):
        if path not in judged:
            yield Fault(f"conf/{FILE.name} {name}", path, "no such claim", nearest=nearest(path, judged))
    for path in NUMBER.findall(outcome.says):
        claim = "/".join(path.split("/")[:2])
        if claim in judged and _finding(path, judged) is None:
            parts = (finding.label for finding in judged[claim].findings)
            yield Fault(
                f"conf/{FILE.name} {name}", path, "no such part", ", ".join(f"{claim}/{part}" for part in parts)
            )


def _finding(path: str, judged: Judgements) -> Finding | None:
    """The part of a claim that a path means."""
    experiment, claim, *part = path.split("/", 2)
    findings = judged[f"{experiment}/{claim}"].findings
    found = [finding for finding in findings if finding.label in part] if part else list(findings)
    return found[0] if len(found) == 1 else None


def _measured(path: str, judged: Judgements) -> str:
    finding = _finding(path, judged)
    assert finding is not None
    if finding.interval is None:
        return "(no value)"
    unit = judged["/".join(path.split("/")[:2])].claim.unit.split(" ")[0]
    return f"{number(finding.interval, unit)} {unit}" if unit in SHOWN else number(finding.interval, unit)


def _n(outcome: Outcome, judged: Judgements) -> str:
    found = [_finding(path, judged) for path in NUMBER.findall(outcome.says)]
    return intervals.span(finding.interval.n if finding and finding.interval else 0 for finding in found)


def path_of(judgement: Judgement) -> str:
    """experiment/claim."""
    return f"{judgement.claim.experiment}/{judgement.claim.id}"
