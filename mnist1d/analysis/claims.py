"""Claims as files, and their verdicts: what the paper says, the rule fixed before the runs, what the runs say.

conf/claim/<experiment>.yaml maps the id of a claim to its sentence, source and parts. Each part names a
statistic of the experiment's page and the region in which its mean has to lie:

    reproduced          the whole 95% interval lies inside of the region
    not reproduced      it lies wholly outside; with several parts, one p value must stay below 5% after Holm
    inconclusive at n   neither, or fewer than two seeds
    no value            there are no runs, or none reaches what is measured, as a threshold

A claim holds if all of its parts hold, and falls with one. A quirk repeats the parts with other arguments: it
is shown with what it was worth, and changes no verdict.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from mnist1d.analysis import yaml_file
from mnist1d.analysis.intervals import (
    Interval,
    bootstrap_interval,
    bootstrap_p_outside,
    holm,
    interval_of,
    log_t_interval,
    log_t_p_outside,
    paired_difference,
    share_interval,
    share_p_outside,
    t_interval,
    t_p_outside,
)
from mnist1d.analysis.page import Statistic
from mnist1d.config import ConfigError, Fault
from mnist1d.config.faults import Absent
from mnist1d.config.schema import Section
from mnist1d.spelling import nearest

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "claim"
LEVEL = 0.05  # of the p values, as the intervals are of 95%

Arguments = dict[str, Any]
Published = float | str | None  # text where the paper gives no number


class Part(Section):
    """One number to be measured, and the region in which it has to lie."""

    statistic: str = Field(description="a name in the statistics of the experiment's page")
    arguments: Arguments = Field({}, description="what that statistic is asked for")
    at_least: float | None = Field(None, description="lower bound of the region; null: none")
    at_most: float | None = Field(None, description="upper bound of the region; null: none")
    published: Published = Field(None, description="what the paper states")
    printed: Published = Field(None, description="what the reference's stored outputs say")

    @property
    def region(self) -> tuple[float, float]:
        """Lower and upper bound; infinite where there is none."""
        low, high = self.at_least, self.at_most
        return -np.inf if low is None else low, np.inf if high is None else high

    def conflicts(self) -> Iterator[Fault]:
        """A region without bounds, or with nothing in it."""
        low, high = self.region
        if low > high:
            yield Fault("at_least", low, f"exceeds at_most={high}")
        if self.at_least is None and self.at_most is None:
            yield Fault("at_least", Absent, "at least one of at_least and at_most is needed")


class Quirk(Section):
    """The parts of a claim once more, with other arguments: shown, not judged."""

    says: str = Field(description="what differs, in words")
    arguments: Arguments = Field(min_length=1, description="replace those of every part, key by key")


class Claim(Section):
    """One sentence, what it rests on in the paper, and the rule that decides it."""

    experiment: str = Field(description="the experiment whose runs decide, from the name of the file")
    id: str = Field(description="name of the claim, from its place in the file")
    title: str = Field(description="the sentence, in our words")
    section: str | None = Field(None, description="of the paper; null for our own additions")
    figure: str | None = Field(None, description="figure or table of the paper")
    unit: str = Field(description="of the statistic")
    interval: Literal["t", "log_t", "share", "bootstrap"] = Field("t", description="kind of the 95% interval")
    parts: dict[str, Part] = Field(min_length=1, description="label -> part; the claim holds if all hold")
    because: str = Field(description="why these bounds")
    source: str | None = Field(None, description="of published and printed")
    quirks: dict[str, Quirk] = Field({}, description="label -> the same statistics with other arguments")

    def conflicts(self) -> Iterator[Fault]:
        """Numbers without a source, and bounds that have no logarithm."""
        for label, part in self.parts.items():
            if self.source is None and (part.published, part.printed) != (None, None):
                yield Fault("source", None, f"must say where published and printed of {label} are from")
            for name in ("at_least", "at_most"):
                bound = getattr(part, name)
                if self.interval == "log_t" and bound is not None and bound <= 0:
                    yield Fault(f"parts.{label}.{name}", bound, "must be above 0, as interval=log_t takes logarithms")

    def key(self, *path: str) -> str:
        """The full key of what lies at `path` in this claim, with its file."""
        return ".".join((f"claim/{self.experiment}.yaml {self.id}", *path))


# -- reading ----------------------------------------------------------------------------------------------


def load(experiment: str, folder: Path = FOLDER) -> tuple[Claim, ...]:
    """The claims of `folder`/`experiment`.yaml, in the order of the file.

    Raises ConfigError with all faults of the file, each with file, claim, full key, value and what is allowed.
    """
    claims, faults = [], []
    for name, values in yaml_file.read(folder / f"{experiment}.yaml", "claim", "ids to claims").items():
        key = f"claim/{experiment}.yaml {name}"
        if not isinstance(values, dict):
            faults.append(Fault(key, values, "must be a section of keys"))
            continue
        try:
            claims.append(yaml_file.make(Claim, values, [key], {"experiment": experiment, "id": name}))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return tuple(claims)


# -- verdicts ---------------------------------------------------------------------------------------------

Kind = Literal["reproduced", "not reproduced", "inconclusive", "no value"]


@dataclass(frozen=True)
class Verdict:
    """What the runs say, and the number of seeds that it rests on (the smallest, where several parts count)."""

    kind: Kind
    n: int

    def __str__(self) -> str:
        return f"{self.kind} at n={self.n}" if self.kind == "inconclusive" else self.kind


@dataclass(frozen=True)
class Finding:
    """One part of a claim beside what was measured.

    interval   mean over seeds and its 95% interval, in the claim's unit; None without values
    p_outside  p value of a mean inside of the part's region, after Holm over the claim's parts
    """

    label: str
    part: Part
    interval: Interval | None
    p_outside: float
    verdict: Verdict


@dataclass(frozen=True)
class Effect:
    """One part under a quirk.

    interval  as measured with the quirk; None without values
    worth     with minus without it, paired by seed, t interval; None where no seed has both
    """

    label: str
    interval: Interval | None
    worth: Interval | None


@dataclass(frozen=True)
class QuirkFinding:
    """A quirk beside what it was worth, part by part."""

    label: str
    quirk: Quirk
    effects: tuple[Effect, ...]


@dataclass(frozen=True)
class Judgement:
    """A claim with its verdict and the evidence, parts and quirks in the order of the file."""

    claim: Claim
    verdict: Verdict
    findings: tuple[Finding, ...]
    quirks: tuple[QuirkFinding, ...]


def judge_all(claims: Iterable[Claim], statistics: Mapping[str, Statistic]) -> tuple[Judgement, ...]:
    """Judge every claim of an experiment; raises ConfigError with the faults of all."""
    judgements, faults = [], []
    for claim in claims:
        try:
            judgements.append(judge(claim, statistics))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    return tuple(judgements)


def judge(claim: Claim, statistics: Mapping[str, Statistic]) -> Judgement:
    """Measure the parts and quirks of a claim and apply its rule.

    statistics  name -> function of a page; an empty series means that there is no value
    Raises ConfigError with all faults: unknown statistics, arguments that one does not take or lacks, and,
    once there are none of those, what the statistics and intervals themselves refuse.
    """
    if faults := [*_part_faults(claim, statistics), *_quirk_faults(claim, statistics)]:
        raise ConfigError(faults)
    samples = _measure(claim, statistics)
    findings = _findings(claim, samples)
    quirks = (
        QuirkFinding(name, quirk, tuple(_effect(samples, label, name) for label in claim.parts))
        for name, quirk in claim.quirks.items()
    )
    return Judgement(claim, _together([finding.verdict for finding in findings]), findings, tuple(quirks))


def _findings(claim: Claim, samples: _Samples) -> tuple[Finding, ...]:
    _, p_outside = KINDS[claim.interval]
    p_values = []
    for label, part in claim.parts.items():
        values = samples[label, None].values
        p_values.append(p_outside(values.to_numpy(), *part.region) if values.size else 1.0)
    findings = []
    for (label, part), p in zip(claim.parts.items(), holm(p_values), strict=True):
        interval = samples[label, None].interval
        findings.append(Finding(label, part, interval, p, _verdict(part, interval, p)))
    return tuple(findings)


def _verdict(part: Part, interval: Interval | None, p_outside: float) -> Verdict:
    if interval is None:
        return Verdict("no value", 0)
    low, high = part.region
    if low <= interval.low and interval.high <= high:  # never with one seed, whose bounds are nan
        return Verdict("reproduced", interval.n)
    return Verdict("not reproduced" if p_outside < LEVEL else "inconclusive", interval.n)


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    if refuted := [verdict.n for verdict in verdicts if verdict.kind == "not reproduced"]:
        return Verdict("not reproduced", min(refuted))
    kinds, n = {verdict.kind for verdict in verdicts}, min(verdict.n for verdict in verdicts)
    if "no value" in kinds:
        return Verdict("no value", 0)
    return Verdict("reproduced" if kinds == {"reproduced"} else "inconclusive", n)


def _effect(samples: _Samples, label: str, quirk: str) -> Effect:
    own, main = samples[label, quirk], samples[label, None].values
    shared = own.values.index.intersection(main.index)
    worth = paired_difference(own.values[shared].to_numpy(), main[shared].to_numpy()) if shared.size else None
    return Effect(label, own.interval, worth)


# -- asking the statistics --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sample:
    """One number per seed and its interval; None where there is no seed."""

    values: pd.Series
    interval: Interval | None


_Samples = dict[tuple[str, str | None], _Sample]  # part, quirk or None

KINDS: dict[str, tuple[Callable[..., Interval], Callable[..., float]]] = {
    "t": (t_interval, t_p_outside),
    "log_t": (log_t_interval, log_t_p_outside),
    "share": (share_interval, share_p_outside),
    "bootstrap": (  # the same runs give the same verdict
        lambda values: bootstrap_interval(values, np.random.default_rng(0)),
        lambda values, *region: bootstrap_p_outside(values, np.random.default_rng(0), *region),
    ),
}
"""Kind of interval -> the interval, and the p value that belongs to it."""


def _replaced(arguments: Arguments, changes: Arguments) -> Arguments:
    """`arguments` with `changes`, key by key, also inside of sections."""
    both = {key: (arguments[key], value) for key, value in changes.items() if isinstance(arguments.get(key), dict)}
    inner = {key: _replaced(old, new) for key, (old, new) in both.items() if isinstance(new, dict)}
    return {**arguments, **changes, **inner}


def _measure(claim: Claim, statistics: Mapping[str, Statistic]) -> _Samples:
    samples, faults, errors = {}, [], []
    for label, quirk in product(claim.parts, (None, *claim.quirks)):
        part, changes = claim.parts[label], claim.quirks[quirk].arguments if quirk is not None else {}
        ask = partial(statistics[part.statistic], **_replaced(part.arguments, changes))
        try:
            samples[label, quirk] = _sample(ask(), claim.interval)
        except (KeyError, ValueError) as error:
            key = claim.key("parts", label) if quirk is None else claim.key("quirks", quirk)
            faults.append(Fault(key, Absent, f"{part.statistic} of {label}: {error.args[0]}"))
            errors.append(error)
    if faults:
        raise ConfigError(faults) from errors[0]
    return samples


def _sample(values: pd.Series, kind: str) -> _Sample:
    if values.index.has_duplicates:
        raise ValueError(f"several values of seed {values.index[values.index.duplicated()][0]}")
    return _Sample(values, interval_of(values.to_numpy(), KINDS[kind][0]))


def _part_faults(claim: Claim, statistics: Mapping[str, Statistic]) -> Iterator[Fault]:
    for label, part in claim.parts.items():
        if part.statistic not in statistics:
            text = f"no such statistic of {claim.experiment}"
            close = nearest(part.statistic, statistics)
            yield Fault(claim.key("parts", label, "statistic"), part.statistic, text, ", ".join(statistics), close)
            continue
        key = claim.key("parts", label, "arguments")
        yield from _argument_faults(key, part, part.arguments, statistics)
        for name, needed in _parameters(statistics[part.statistic]).items():
            if needed and name not in part.arguments:
                yield Fault(f"{key}.{name}", Absent, f"is missing, {part.statistic} needs it")


def _quirk_faults(claim: Claim, statistics: Mapping[str, Statistic]) -> Iterator[Fault]:
    for (name, quirk), part in product(claim.quirks.items(), claim.parts.values()):
        if part.statistic in statistics:
            yield from _argument_faults(claim.key("quirks", name, "arguments"), part, quirk.arguments, statistics)


def _argument_faults(
    key: str, part: Part, arguments: Arguments, statistics: Mapping[str, Statistic]
) -> Iterator[Fault]:
    takes = _parameters(statistics[part.statistic])
    for name, value in arguments.items():
        if name not in takes:
            text = f"{part.statistic} takes no such argument"
            yield Fault(f"{key}.{name}", value, text, ", ".join(takes), nearest(name, takes))


def _parameters(statistic: Statistic) -> dict[str, bool]:
    """The names that a statistic takes from a claim, and whether it needs them; not those bound by its page."""
    bound = statistic.keywords if isinstance(statistic, partial) else {}
    parameters = inspect.signature(statistic).parameters.values()
    return {each.name: each.default is each.empty for each in parameters if each.name not in bound}
