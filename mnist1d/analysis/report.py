"""The report: every claim with its verdict, then a section per experiment, as Markdown and as one HTML page.

Markdown is the original; the page is made from exactly that text, with figures and style inside it, so that the
two cannot differ. Every number comes from runs or, through the judgements, from conf/claim/.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from mnist1d.analysis import TITLES
from mnist1d.analysis.claims import Finding, Judgement
from mnist1d.analysis.document import code, document, escaped, plain, slug
from mnist1d.analysis.evidence import LEGEND, counted, evidence, summary
from mnist1d.analysis.figures import lab_style
from mnist1d.analysis.outcomes import answered, load, path_of
from mnist1d.analysis.page import Page, Picture
from mnist1d.analysis.protocol import DIVERGED, MISSING, command, fate, ranges

TITLE = "MNIST-1D Lab: what holds of the paper"
NOTES = Path(__file__).parents[2] / "docs" / "experiments"
MOST_REMARKS = 30


@dataclass(frozen=True)
class Section:
    """One experiment of the report.

    experiment  its name
    page        None where no run is finished
    judgements  of all its claims, in the order of their file
    absent      why there is no page; "" where there is one
    again       the command that makes its runs, where the experiment's own does not
    histories   metric -> frame [run_id, step]: what the page looked at while its runs trained
    """

    experiment: str
    page: Page | None
    judgements: tuple[Judgement, ...]
    absent: str = ""
    again: str = ""
    histories: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The heading; that of an experiment without one is made of its name."""
        return TITLES.get(self.experiment) or self.experiment.replace("_", " ").capitalize()

    @property
    def command(self) -> str:
        """What makes its runs, in the size they have."""
        return self.again or command(self.experiment, self.page.table if self.page else pd.DataFrame())


def write(sections: Sequence[Section], output: Path) -> tuple[Path, ...]:
    """Write the report into `output` and return the files.

    report.md, report.html and claims.csv (one line per part of a claim); in a folder per experiment its pictures
    as svg and png, runs.csv (one line per run) and, where its page looks at histories, curves.csv (one line per
    metric and run). Folders are made as needed, files replaced.
    """
    output.mkdir(parents=True, exist_ok=True)
    saved = [path for section in sections for path in _save(section, output / section.experiment)]
    text, page = output / "report.md", output / "report.html"
    text.write_text(markdown(sections, datetime.now(UTC), output), encoding="utf-8")
    page.write_text(document(text.read_text(encoding="utf-8"), output), encoding="utf-8")
    return (page, text, _write_claims(sections, output / "claims.csv"), *saved)


# -- text -------------------------------------------------------------------------------------------------


def markdown(sections: Sequence[Section], made: datetime, output: Path) -> str:
    """The whole report; pictures are named as `write` saves them, links to notes are relative to `output`."""
    judged = [
        (section.title, judgement.claim.title if section.page else section.title, judgement)
        for section in sections
        for judgement in section.judgements
    ]
    counts = counted(judgement for *_, judgement in judged)
    by_path = {path_of(judgement): judgement for *_, judgement in judged}
    outcomes = answered(load(), by_path, {path_of(judgement): target for _, target, judgement in judged})
    parts = [f"# {TITLE}", *_provenance(sections, made), counts]
    parts += ["## Expected outcomes", outcomes] if outcomes else []
    parts += ["## Claims", summary(judged), LEGEND]
    for section in sections:
        parts += [f"## {section.title}", *_section(section, output)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _provenance(sections: Sequence[Section], made: datetime) -> list[str]:
    tables = [section.page.table for section in sections if section.page]
    lines = [f"- **Made:** {made:%Y-%m-%d %H:%M} UTC"]
    for name, tag in (("Machine", "machine"), ("Versions", "versions")):
        found = dict.fromkeys(value for table in tables for value in _tags(table, tag))
        lines += [f"- **{name}:** {plain('; '.join(found))}"] if found else []
    whose: dict[str, list[str]] = {}
    for section in sections:
        for doubt in _doubts(section):
            whose.setdefault(doubt, []).append(section.title)
    doubts = [f"> **Warning:** {'; '.join(titles)}: {doubt}" for doubt, titles in whose.items()]
    return ["\n".join(lines), "\n>\n".join(doubts)]


def _tags(table: pd.DataFrame, name: str) -> list[str]:
    """The different values of the tag mnist1d.<name> among finished runs, in order of appearance."""
    done = table[table["status"] == "FINISHED"]
    key = f"mnist1d.{name}"
    return list(done[key].dropna().unique()) if key in done else []


def _doubts(section: Section) -> list[str]:
    """What a reader should know before believing a section; its code's versions stand below its heading."""
    if section.page is None:
        return []
    states = _tags(section.page.table, "git")
    doubts = {
        "runs come from several versions of the code.": len(states) > 1,
        "some runs were made with uncommitted changes.": any(state.endswith("-dirty") for state in states),
        "no version of the code is known for some runs.": "unknown" in states,
    }
    return _provisional(section.page) + [text for text, holds in doubts.items() if holds]


def _provisional(page: Page) -> list[str]:
    """What the verdicts still wait for."""
    waiting = int(page.table["status"].isin(["RUNNING", "SCHEDULED"]).sum())
    told = ("RUNNING", DIVERGED)  # the first are counted above, the others are results
    lost = sum(remark.startswith(MISSING) and not any(word in remark for word in told) for remark in page.remarks)
    reasons = [f"{waiting} runs are still RUNNING"] * bool(waiting)
    reasons += [f"{lost} settings lack seeds (see below)"] * bool(lost)
    return [f"{', '.join(reasons)}: verdicts are provisional."] if reasons else []


def _section(section: Section, output: Path) -> list[str]:
    page = section.page
    if page is None:
        absent = f"**No results:** {plain(section.absent)}. To make them:"
        return [absent, code(section.command), *_notes(section.experiment, output)]
    return [
        *(f"> **Warning:** {text}" for text in _provisional(page)),
        *_facts(page.table),
        *(f"![{p.alt}]({section.experiment}/{p.name}.svg)\n\n*{p.caption}*" for p in page.pictures),
        *(escaped(table).markdown() for table in page.tables),
        *_remarks(page.remarks),
        *(["### Evidence"] if section.judgements else []),
        *(text for judgement in section.judgements for text in evidence(judgement)),
        *_notes(section.experiment, output),
        "### To do it again",
        code(section.command, f"python analyze.py experiment={section.experiment}"),
    ]


def _facts(table: pd.DataFrame) -> list[str]:
    done = table[table["status"] == "FINISHED"]
    others = Counter(map(fate, table[table["status"] != "FINISHED"].to_dict("records")))
    lost = ", ".join(f"{n} {what}" for what, n in others.most_common())
    seeds = sorted(set(done["seed"]))
    lines = [
        f"- **Runs:** {len(done)} finished" + (f", {lost}" if lost else ""),
        f"- **Seeds:** n = {len(seeds)} ({ranges(seeds)})",
    ]
    lines.append(f"- **Profile:** {plain(', '.join(map(str, done['profile'].unique())))}")
    begin, end = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (done["started"].min(), done["ended"].max()))
    same_day = "%H:%M" if begin.date() == end.date() else "%Y-%m-%d %H:%M"
    lines.append(f"- **Trained:** {begin:%Y-%m-%d %H:%M} to {end:{same_day}} UTC{_spent(done)}")
    states = _tags(table, "git")
    lines += [f"- **Code:** {plain(', '.join(states))}"] if states else []
    return ["\n".join(lines)]


def _spent(done: pd.DataFrame) -> str:
    """Runs of a stack share its wall time, so that each counts for its part."""
    if not {"time/wall_seconds", "mnist1d.stack_size"} <= set(done):
        return ""
    wall = (done["time/wall_seconds"] / done["mnist1d.stack_size"].astype(float)).sum()
    return f"; {wall:,.0f} s of training, {done['time/cpu_seconds'].sum():,.0f} s of processor time"


def _remarks(remarks: Sequence[str]) -> list[str]:
    lines = [f"- {plain(remark)}" for remark in remarks[:MOST_REMARKS]]
    if len(remarks) > MOST_REMARKS:
        lines.append(f"- and {len(remarks) - MOST_REMARKS} more, which `python analyze.py` prints")
    return ["### Missing and left out", "\n".join(lines)] if lines else []


def _notes(experiment: str, output: Path) -> list[str]:
    """Protocol and quirks, from docs/experiments/: headings two levels down, its links as seen from `output`.

    A link to another experiment's notes leads to its section here.
    """
    path = NOTES / f"{experiment}.md"
    if not path.exists():
        return []
    text, fenced = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        fenced ^= line.startswith("```")
        text.append(line if fenced or not line.startswith("#") else f"##{line}")
    here, whole = os.path.relpath(NOTES, output), "\n".join(text).strip()
    for name, title in TITLES.items():
        whole = re.sub(rf"\]\({name}\.md(#[^)]*)?\)", f"](#{slug(title)})", whole)
    return [re.sub(r"\]\((?![a-z]+:|#)", f"]({here}/", whole)]


# -- files ------------------------------------------------------------------------------------------------


def _save(section: Section, folder: Path) -> list[Path]:
    if section.page is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [path for picture in section.page.pictures for path in _draw(picture, folder)]
    curves = _write_curves(section.histories, section.page.table["run_id"], folder / "curves.csv")
    return [*pictures, _write_runs(section.page.table, folder / "runs.csv"), *curves]


def _draw(picture: Picture, folder: Path) -> list[Path]:
    svg, png = (folder / f"{picture.name}.{kind}" for kind in ("svg", "png"))
    with lab_style():
        picture.figure.savefig(svg, metadata={"Date": None})  # the same numbers give the same file
        picture.figure.savefig(png)
    return [svg, png]


def _write_runs(table: pd.DataFrame, path: Path) -> Path:
    """One line per run: what differs between them, without what is only bookkeeping."""
    noise = re.compile(r"mnist1d\.(?!reason)|time/|name$|started$|ended$|model\._target_$")
    varying = [key for key in table if not noise.match(key) and table[key].map(str).nunique() > 1]
    columns = list(dict.fromkeys(["model.name", *varying, "seed", "status", "run_id"]))
    table[columns].to_csv(path, index=False)
    return path


def _write_curves(histories: Mapping[str, pd.DataFrame], run_ids: pd.Series, path: Path) -> list[Path]:
    """One line per metric and run, one column per step; six digits, which is what a float has."""
    rows = {metric: frame.reindex(run_ids).dropna(how="all") for metric, frame in histories.items()}
    rows = {metric: frame.dropna(axis="columns", how="all") for metric, frame in rows.items() if len(frame)}
    if not rows:
        return []
    curves = pd.concat(rows, names=["metric", "run_id"]).sort_index(axis="columns")
    curves.to_csv(path, float_format="%.6g")
    return [path]


def _write_claims(sections: Sequence[Section], path: Path) -> Path:
    """One line per part of a claim, with the numbers in full."""
    columns = ["experiment", "claim", "part", "mean", "low", "high", "n", "unit"]
    columns += ["at_least", "at_most", "published", "printed", "verdict", "claim_verdict"]
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(columns)
        for section in sections:
            for judgement in section.judgements:
                for finding in judgement.findings:
                    out.writerow([section.experiment, *_line(judgement, finding)])
    return path


def _line(judgement: Judgement, finding: Finding) -> list[object]:
    found, part = finding.interval, finding.part
    measured = [found.mean, found.low, found.high, found.n] if found else ["", "", "", 0]
    bounds = [part.at_least, part.at_most, part.published, part.printed]
    verdicts = [finding.verdict, judgement.verdict]
    return [judgement.claim.id, finding.label, *measured, judgement.claim.unit, *bounds, *verdicts]
