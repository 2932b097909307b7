"""Claims in Markdown: the summary of verdicts, and the evidence of each claim part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from mnist1d.analysis import SIGNS, intervals
from mnist1d.analysis.claims import Claim, Finding, Judgement, Part, Verdict
from mnist1d.analysis.document import plain, slug, table
from mnist1d.analysis.intervals import Interval

LEGEND = (
    "Measured: mean over n seeds ± half of its 95% interval, or its bounds where they are not symmetric. A claim is "
    "reproduced if the interval of each of its parts lies within bounds, set before the runs unless the claim says "
    "otherwise; not reproduced if that of one part lies outside of them (of several: with p, that its mean is within, "
    "below 5% after Holm's correction); else inconclusive. It has no value without runs, or if none of them reaches "
    "what is measured, as a threshold. A quirk is worth what is measured with it minus what is measured without it, at "
    "the same seeds."
)


def unjudged(claim: Claim) -> Judgement:
    """The judgement of a claim whose experiment has no page: no value."""
    verdict = Verdict("no value", 0)
    findings = (Finding(label, part, None, 1.0, verdict) for label, part in claim.parts.items())
    return Judgement(claim, verdict, tuple(findings), ())


def counted(judgements: Iterable[Judgement]) -> str:
    """How many claims there are, and how many of each verdict."""
    counts = Counter[str](judgement.verdict.kind for judgement in judgements)
    texts = [f"{counts[kind]} {kind if kind != 'no value' else 'without a value'}" for kind in SIGNS if counts[kind]]
    return f"**{counts.total()} claims:** {', '.join(texts)}." if counts else ""


def summary(judgements: Iterable[tuple[str, str, Judgement]]) -> str:
    """One line per claim, after the headings of its section and of its evidence, to which it links."""
    rows = [
        (
            f"[{plain(judgement.claim.title)}](#{slug(target)})",
            _said(judgement.findings),
            _measured(judgement.findings, judgement.claim.unit),
            _n(judgement.findings),
            shown(judgement.verdict),
            f"[{section}](#{slug(section)})",
        )
        for section, target, judgement in judgements
    ]
    return table(("claim", "paper says", "measured", "n", "verdict", "section"), rows)


def evidence(judgement: Judgement) -> list[str]:
    """A claim's heading, verdict, parts and quirks, then the reason of its rule and the source of its numbers."""
    claim = judgement.claim
    place = ", ".join(filter(None, (claim.section, claim.figure)))
    where = f"paper: {place}" if place else "not in the paper"
    parts = [f"#### {plain(claim.title)}", f"**{shown(judgement.verdict)}** · {where} · `{claim.id}`"]
    rows = [
        (
            plain(finding.label),
            number(finding.interval, claim.unit),
            _count(finding.interval),
            rule(finding.part),
            _known(finding.part.published),
            _known(finding.part.printed),
            _p(finding),
            shown(finding.verdict),
        )
        for finding in judgement.findings
    ]
    columns = ("part", f"measured ({claim.unit})", "n", "rule", "paper", "its code printed", "p", "verdict")
    parts.append(table(columns, rows))
    parts += _quirks(judgement) if judgement.quirks else []
    reasons = (
        f"{name}: {text.rstrip('.')}." for name, text in (("Rule", claim.because), ("Source", claim.source)) if text
    )
    return [*parts, plain(" ".join(reasons))]


def _quirks(judgement: Judgement) -> list[str]:
    """What another reading of the protocol gives, and what it was worth at the same seeds."""
    unit = judgement.claim.unit
    rows = [
        (
            found.label,
            plain(effect.label),
            number(effect.interval, unit),
            _count(effect.interval),
            number(effect.worth, unit, "+"),
        )
        for found in judgement.quirks
        for effect in found.effects
    ]
    meanings = "\n".join(f"- Quirk `{found.label}`: {plain(found.quirk.says)}" for found in judgement.quirks)
    return [meanings, table(("quirk", "part", f"measured ({unit})", "n", "worth"), rows)]


def shown(verdict: Verdict) -> str:
    """A verdict with its sign: ✓ reproduced, ? inconclusive at n=3."""
    return f"{SIGNS[verdict.kind]} {verdict}"


def rule(part: Part) -> str:
    """The bounds in words: 30 to 40, at least 30, at most 40."""
    if part.at_least is not None and part.at_most is not None:
        return f"{part.at_least:g} to {part.at_most:g}"
    return f"at least {part.at_least:g}" if part.at_least is not None else f"at most {part.at_most:g}"


def number(interval: Interval | None, unit: str, sign: str = "") -> str:
    """`intervals.shown` with as many digits as the unit deserves; `sign` "+" shows that of a positive mean too."""
    size, half = (0.0, 0.0) if interval is None else (abs(interval.mean), interval.half_width)
    if unit in ("%", "points"):
        form = "z.2f" if 1e-9 < half < 0.095 else "z.1f"  # 99.36 ± 0.08: as 99.4 ± 0.1 it would seem to reach 99.4
    elif 999.5 <= size < 1e6:
        form = "z,.0f"  # 9,999 rather than 1e+04
    else:
        form = "z.5g" if 1e-6 * size < half < 2e-3 * size else "z.3g"  # 1.0013 [1.0004, 1.0022]: 1 [1, 1] says nothing
    return intervals.shown(interval, f"{sign}{form}")


def _count(interval: Interval | None) -> str:
    return str(interval.n) if interval else "0"


def _measured(findings: Sequence[Finding], unit: str) -> str:
    if not any(finding.interval for finding in findings):
        return "–"
    return f"{_by_part(findings, [number(finding.interval, unit) for finding in findings])} {unit}"


def _said(findings: Sequence[Finding]) -> str:
    return _by_part(findings, [_known(finding.part.published) for finding in findings])


def _by_part(findings: Sequence[Finding], texts: Sequence[str]) -> str:
    """One text for all parts where they agree, else each with its part."""
    if len(set(texts)) == 1:
        return texts[0]
    return "; ".join(f"{plain(finding.label)} {text}" for finding, text in zip(findings, texts, strict=True))


def _known(value: float | str | None) -> str:
    if value is None:
        return "–"
    return plain(value) if isinstance(value, str) else f"{value:g}"


def _p(finding: Finding) -> str:
    if finding.interval is None or finding.interval.n < 2:
        return "–"
    return f"{finding.p_outside:.2g}" if finding.p_outside >= 0.001 else "< 0.001"


def _n(findings: Sequence[Finding]) -> str:
    return intervals.span(finding.interval.n if finding.interval else 0 for finding in findings)
