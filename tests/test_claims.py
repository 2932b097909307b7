"""Verdicts on made-up runs whose truth is known, and what claim files with faults are answered."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from pydantic import ValidationError

from mnist1d.analysis.claims import Claim, Verdict, judge, judge_all, load
from mnist1d.analysis.intervals import bootstrap_interval, holm, log_t_interval, t_interval, t_p_outside
from mnist1d.analysis.page import Statistic
from mnist1d.analysis.statistics import difference, level
from mnist1d.config import ConfigError

FOLDER = Path(__file__).resolve().parents[1] / "conf" / "claim"


def runs(**columns: Mapping[str, Sequence[float]] | Sequence[float]) -> dict[str, Statistic]:
    """Statistics over made-up runs: measure -> values of seed 0, 1, …, or model -> those."""
    parts = []
    for measure, models in columns.items():
        for model, values in (models if isinstance(models, Mapping) else {"cnn": models}).items():
            parts.append(pd.DataFrame({"model.name": model, "seed": range(len(values)), measure: values}))
    table = pd.concat(parts).groupby(["model.name", "seed"], as_index=False).first()
    return {"level": partial(level, table), "difference": partial(difference, table)}


def part(model: str = "cnn", **changes: Any) -> dict[str, Any]:
    arguments = {"measure": "final", "where": {"model.name": model}}
    return {"statistic": "level", "arguments": arguments, "at_least": 92, "at_most": 96} | changes


def claim(*parts: dict[str, Any], **changes: Any) -> Claim:
    """A claim over parts called a, b, …; at least 92 and at most 96 on the final accuracy of the CNN."""
    values = {"experiment": "made_up", "id": "some", "title": "It is so", "unit": "%", "because": "it has to"}
    return Claim.model_validate({**values, "parts": dict(zip("abc", parts or [part()], strict=False)), **changes})


def verdict(values: Sequence[float], **changes: Any) -> str:
    return str(judge(claim(part(**changes)), runs(final=values)).verdict)


# -- the rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([93.8, 94.0, 94.2], "reproduced"),
        ([89.8, 90.0, 90.2], "not reproduced"),
        ([97.8, 98.0, 98.2], "not reproduced"),
        ([91.0, 94.0, 97.0], "inconclusive at n=3"),  # in the middle, and far too wide
        ([91.8, 92.0, 92.2, 92.1], "inconclusive at n=4"),  # across a bound
        ([94.0], "inconclusive at n=1"),
        ([50.0], "inconclusive at n=1"),
        ([94.0, math.nan], "inconclusive at n=1"),  # a seed without a result does not count
    ],
)
def test_a_verdict_follows_from_where_the_interval_lies(values, expected):
    assert verdict(values) == expected


def test_a_bound_alone_leaves_the_other_side_open():
    assert verdict([99.8, 99.9, 100.0], at_most=None) == "reproduced"
    assert verdict([0.1, 0.2, 0.3], at_least=None) == "reproduced"
    assert verdict([0.1, 0.2, 0.3], at_most=None) == "not reproduced"


def test_more_seeds_of_the_same_spread_settle_what_few_could_not():
    values = np.random.default_rng(3).normal(94, 1.5, 12)
    assert verdict(values[:3]) == "inconclusive at n=3"
    assert verdict(values) == "reproduced"


def test_equal_seeds_decide_without_width_even_on_the_bound():
    (finding,) = judge(claim(), runs(final=[92.0] * 3)).findings
    assert (finding.interval.low, finding.interval.high, finding.interval.n) == (92.0, 92.0, 3)
    assert str(finding.verdict) == "reproduced"
    assert verdict([91.9] * 3) == "not reproduced"


def test_without_rows_there_is_no_verdict_and_no_interval():
    judgement = judge(claim(part("gru")), runs(final=[94.0, 94.0]))
    assert judgement.verdict == Verdict("no value", 0)
    assert str(judgement.verdict) == "no value"
    assert judgement.findings[0].interval is None


def test_a_finding_shows_the_interval_of_the_kind_that_the_claim_names():
    values = [40.0, 60.0, 80.0]
    wide = part(at_least=1, at_most=1000)
    assert judge(claim(wide), runs(final=values)).findings[0].interval == t_interval(values)
    assert judge(claim(wide, interval="log_t"), runs(final=values)).findings[0].interval == log_t_interval(values)


def test_a_share_of_the_seeds_is_judged_by_its_exact_interval():
    for held, verdict in ((20, "reproduced"), (12, "inconclusive at n=20"), (2, "not reproduced")):
        values = [100.0] * held + [0.0] * (20 - held)
        assert (
            str(judge(claim(part(at_least=50, at_most=100), interval="share"), runs(final=values)).verdict) == verdict
        )


def test_bootstrap_verdicts_are_the_same_every_time():
    values = np.random.default_rng(2).exponential(40.0, 9).tolist()
    bounds = part(at_least=1, at_most=22)
    first, second = (judge(claim(bounds, interval="bootstrap"), runs(final=values)).findings[0] for _ in range(2))
    assert first == second
    assert first.interval == bootstrap_interval(values, np.random.default_rng(0))
    assert 0 < first.p_outside < 1


def test_the_kind_of_interval_can_decide():
    widths = [20.0, 60.0, 180.0]  # t: from -139; logarithms: from 3.9
    positive = {"at_least": 2, "at_most": 1000}
    assert str(judge(claim(part(**positive)), runs(final=widths)).verdict) == "inconclusive at n=3"
    assert str(judge(claim(part(**positive), interval="log_t"), runs(final=widths)).verdict) == "reproduced"


def test_paired_seeds_decide_where_the_models_alone_could_not():
    models = {"cnn": [90.0, 94.0, 98.0], "mlp": [80.0, 84.1, 87.9]}
    ask = {"measure": "final", "of": {"model.name": "cnn"}, "minus": {"model.name": "mlp"}}
    above = part(statistic="difference", arguments=ask, at_least=9, at_most=None)
    assert str(judge(claim(above), runs(final=models)).verdict) == "reproduced"
    assert str(judge(claim(part(at_least=93, at_most=None)), runs(final=models)).verdict) == "inconclusive at n=3"


# -- several parts ----------------------------------------------------------------------------------------

INSIDE, OUTSIDE, ACROSS = [93.8, 94.0, 94.2], [89.8, 90.0, 90.2], [91.0, 92.0, 93.0, 94.0]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (INSIDE, [*INSIDE, 94.0], Verdict("reproduced", 3)),
        (INSIDE, OUTSIDE, Verdict("not reproduced", 3)),
        (INSIDE, ACROSS, Verdict("inconclusive", 3)),  # the smallest n, not that of the open part
        (ACROSS, [*ACROSS, 93.0], Verdict("inconclusive", 4)),
        (INSIDE, [], Verdict("no value", 0)),
        (ACROSS, [], Verdict("no value", 0)),
        (OUTSIDE, [*OUTSIDE, 90.1], Verdict("not reproduced", 3)),
        (OUTSIDE, [], Verdict("not reproduced", 3)),  # nothing that comes can save it
    ],
)
def test_a_claim_holds_with_all_of_its_parts_and_falls_with_one(first, second, expected):
    judgement = judge(claim(part("cnn"), part("gru")), runs(final={"cnn": first, "gru": second}))
    assert judgement.verdict == expected
    assert [finding.label for finding in judgement.findings] == ["a", "b"]


def test_a_refutation_among_several_parts_has_to_survive_holm():
    values = [91.0, 91.2, 91.4, 91.7]
    p = t_p_outside(values, 92, 96)
    assert 0.05 / 3 < p < 0.05
    alone = judge(claim(part("cnn")), runs(final=values))
    assert str(alone.verdict) == "not reproduced"
    models = {"cnn": values, "gru": [*INSIDE, 94.0], "mlp": [*INSIDE, 94.1]}
    among = judge(claim(part("cnn"), part("gru"), part("mlp")), runs(final=models))
    assert str(among.verdict) == "inconclusive at n=4"
    assert [str(finding.verdict) for finding in among.findings] == ["inconclusive at n=4", "reproduced", "reproduced"]
    assert [finding.p_outside for finding in among.findings] == list(holm([p, 1.0, 1.0]))


def test_parts_without_runs_count_among_those_that_holm_corrects_for():
    values = [91.0, 91.2, 91.4, 91.7]
    judgement = judge(claim(part("cnn"), part("gru"), part("mlp")), runs(final={"cnn": values}))
    assert judgement.findings[0].p_outside == pytest.approx(3 * t_p_outside(values, 92, 96))
    assert str(judgement.verdict) == "no value"


# -- quirks -----------------------------------------------------------------------------------------------

ORACLE = {"oracle": {"says": "the best step in place of the last", "arguments": {"measure": "best"}}}


def test_a_quirk_shows_its_interval_and_what_it_was_worth_and_changes_no_verdict():
    final, best = [90.0, 91.0, 95.0, 96.0], [92.0, 93.1, 96.9, 98.0]
    judgement = judge(claim(quirks=ORACLE), runs(final=final, best=best))
    (quirk,) = judgement.quirks
    (effect,) = quirk.effects
    assert (quirk.label, quirk.quirk.says, effect.label) == ("oracle", "the best step in place of the last", "a")
    assert effect.interval == t_interval(best)
    assert effect.worth == t_interval(np.subtract(best, final))
    assert (round(effect.worth.mean, 6), effect.worth.half_width < 0.2) == (2.0, True)
    assert judgement.verdict == judge(claim(), runs(final=final)).verdict


def test_what_a_quirk_is_worth_rests_on_the_seeds_that_both_have():
    (quirk,) = judge(claim(quirks=ORACLE), runs(final=[90.0, 91.0, math.nan], best=[91.0, 93.0, 99.0])).quirks
    assert (quirk.effects[0].interval.n, quirk.effects[0].worth.n) == (3, 2)
    assert quirk.effects[0].worth.mean == 1.5


def test_a_quirk_without_runs_says_so_and_leaves_the_verdict():
    judgement = judge(claim(quirks=ORACLE), runs(final=[94.0] * 3, best=[math.nan] * 3))
    assert str(judgement.verdict) == "reproduced"
    assert (judgement.quirks[0].effects[0].interval, judgement.quirks[0].effects[0].worth) == (None, None)


def test_a_quirk_repeats_every_part():
    statistics = runs(final={"cnn": [94.0, 94.1], "gru": [93.0]}, best={"cnn": [95.0, 95.1], "gru": [94.0]})
    (quirk,) = judge(claim(part("cnn"), part("gru"), quirks=ORACLE), statistics).quirks
    assert [(effect.label, effect.worth.n) for effect in quirk.effects] == [("a", 2), ("b", 1)]


# -- claims that a page cannot answer ---------------------------------------------------------------------


def refusal(*claims: Claim, statistics: dict[str, Statistic] | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        judge_all(claims, runs(final=INSIDE) if statistics is None else statistics)
    return str(error.value)


def test_unknown_statistics_and_arguments_of_all_claims_are_told_together():
    first = claim(part(statistic="levl"), part(arguments={"mesure": "final", "where": {}}))
    quirks = {"oracle": {"says": "…", "arguments": {"minus": {}}}}
    assert refusal(first, claim(id="other", quirks=quirks)) == dedent("""\
        4 faults in the configuration:
          claim/made_up.yaml some.parts.a.statistic=levl  \
no such statistic of made_up; nearest: level; allowed: level, difference
          claim/made_up.yaml some.parts.b.arguments.mesure=final  \
level takes no such argument; nearest: measure; allowed: measure, where
          claim/made_up.yaml some.parts.b.arguments.measure  is missing, level needs it
          claim/made_up.yaml other.quirks.oracle.arguments.minus={}  \
level takes no such argument; allowed: measure, where""")


def test_what_a_statistic_refuses_is_told_with_its_claim_and_part():
    unknown = part(arguments={"measure": "finale", "where": {}})
    assert refusal(claim(unknown, part(), quirks=ORACLE)) == dedent("""\
        3 faults in the configuration:
          claim/made_up.yaml some.parts.a        \
level of a: runs have no column 'finale'; did you mean final
          claim/made_up.yaml some.quirks.oracle  level of a: runs have no column 'best'
          claim/made_up.yaml some.quirks.oracle  level of b: runs have no column 'best'""")


def test_values_that_have_no_interval_are_refused_with_claim_and_part():
    text = refusal(claim(interval="log_t"), statistics=runs(final=[90.0, 0.0]))
    assert text.endswith(
        "some.parts.a  level of a: values that have no logarithm at positions [1]: they are not positive"
    )


def test_a_statistic_with_two_values_of_a_seed_is_refused():
    twice = {"twice": lambda: pd.Series([94.0, 94.0], index=[5, 5])}
    assert refusal(claim(part(statistic="twice", arguments={})), statistics=twice).endswith(
        "some.parts.a  twice of a: several values of seed 5"
    )


def test_arguments_that_the_page_has_bound_are_not_the_claims_to_give():
    table = pd.DataFrame({"model.name": ["cnn"], "seed": [0], "final": [94.0]})
    bound = {"level": partial(level, table=table)}
    assert str(judge(claim(), bound).verdict) == "inconclusive at n=1"
    given = part(arguments={"measure": "final", "where": {}, "table": 1})
    assert "arguments.table=1  level takes no such argument; allowed: measure, where" in refusal(
        claim(given), statistics=bound
    )


# -- files ------------------------------------------------------------------------------------------------

GOOD = """
cnn-needs-order:
  title: Shuffling costs the CNN about 35 points
  section: "3.1"
  figure: Table 1
  unit: points
  parts:
    cnn:
      statistic: difference
      arguments: {measure: final, of: {model.name: cnn, arm: plain}, minus: {model.name: cnn, arm: shuffled}}
      at_least: 30
      at_most: 40
      published: 38
      printed: "34.6"
  because: about 35, so within 5 points
  source: Table 1
  quirks:
    oracle: {says: the best step, arguments: {measure: best}}
ours:
  title: Large data need no pooling
  unit: points
  interval: log_t
  parts:
    50000: {statistic: level, at_least: 0.5}
  because: half
"""


def written(folder: Path, text: str) -> Path:
    (folder / "made_up.yaml").write_text(text, encoding="utf-8")
    return folder


def faults(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load("made_up", written(folder, text))
    return [str(fault) for fault in error.value.faults]


def test_claims_come_in_the_order_of_the_file_with_what_it_says(tmp_path):
    first, second = load("made_up", written(tmp_path, GOOD))
    assert (first.experiment, first.id, first.section, first.interval) == ("made_up", "cnn-needs-order", "3.1", "t")
    assert first.parts["cnn"].arguments["of"] == {"model.name": "cnn", "arm": "plain"}
    assert (first.parts["cnn"].published, first.parts["cnn"].printed) == (38, "34.6")
    assert first.quirks["oracle"].arguments == {"measure": "best"}
    assert second.parts["50000"].region == (0.5, math.inf)
    assert (second.section, second.figure, second.source, second.quirks) == (None, None, None, {})
    assert (second.parts["50000"].published, second.parts["50000"].printed) == (None, None)


def test_claims_cannot_be_changed_after_the_runs(tmp_path):
    first, _ = load("made_up", written(tmp_path, GOOD))
    with pytest.raises(ValidationError, match="frozen"):
        first.parts["cnn"].at_least = 0


def test_all_faults_of_a_file_come_together_with_key_value_and_what_is_allowed(tmp_path):
    text = GOOD.replace("at_least: 30", "at_lest: 30").replace("at_most: 40", "at_most: forty")
    text = text.replace('"3.1"', "3.1").replace("log_t", "log").replace("  because: half\n", "  id: mine\n")
    text = text.replace("published: 38", "published: [38]").replace("says: the best step, ", "")
    assert faults(tmp_path, text + "third: 3\n") == [
        "claim/made_up.yaml cnn-needs-order.section=3.1: must be text or null",
        "claim/made_up.yaml cnn-needs-order.parts.cnn.at_most=forty: must be a number or null",
        "claim/made_up.yaml cnn-needs-order.parts.cnn.published=[38]: must be a number or text or null",
        "claim/made_up.yaml cnn-needs-order.parts.cnn.at_lest: no such key; nearest: at_least, at_most; "
        "allowed: statistic, arguments, at_least, at_most, published, printed",
        "claim/made_up.yaml cnn-needs-order.quirks.oracle.says: is missing; allowed: text",
        "claim/made_up.yaml ours.id: no such key",
        "claim/made_up.yaml ours.interval=log: must be one of t, log_t, share, bootstrap",
        "claim/made_up.yaml ours.because: is missing; allowed: text",
        "claim/made_up.yaml third=3: must be a section of keys",
    ]


FAULTS = {
    "bounds in the wrong order": (
        "at_least: 30",
        "at_least: 50",
        "cnn-needs-order.parts.cnn.at_least=50.0: exceeds at_most=40.0",
    ),
    "no bound": (
        "{statistic: level, at_least: 0.5}",
        "{statistic: level}",
        "ours.parts.50000.at_least: at least one of at_least and at_most is needed",
    ),
    "a bound without logarithm": (
        "at_least: 0.5",
        "at_least: 0",
        "ours.parts.50000.at_least=0.0: must be above 0, as interval=log_t takes logarithms",
    ),
    "no source": (
        "  source: Table 1\n",
        "",
        "cnn-needs-order.source=null: must say where published and printed of cnn are from",
    ),
    "no part": (
        "parts:\n    50000: {statistic: level, at_least: 0.5}",
        "parts: {}",
        "ours.parts={}: must be a section of keys, not empty",
    ),
    "a quirk without arguments": (
        "arguments: {measure: best}",
        "arguments: {}",
        "cnn-needs-order.quirks.oracle.arguments={}: must be a section of keys, not empty",
    ),
    "a part that is none": (
        "50000: {statistic: level, at_least: 0.5}",
        "50000: level",
        "ours.parts.50000=level: must be a section of keys",
    ),
    "a bound that is no number": (
        "at_least: 0.5",
        "at_least: .nan",
        "ours.parts.50000.at_least=nan: must be a number or null",
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_named_by_file_claim_and_key(tmp_path, kind):
    before, after, message = FAULTS[kind]
    assert GOOD.count(before) == 1
    assert faults(tmp_path, GOOD.replace(before, after)) == [f"claim/made_up.yaml {message}"]


def test_a_claim_given_twice_is_refused_rather_than_lost(tmp_path):
    (fault,) = faults(tmp_path, GOOD + "ours: {}\n")
    assert fault == f"claim/made_up.yaml: cannot be read: found duplicate key ours (line {len(GOOD.splitlines()) + 1})"


@pytest.mark.parametrize(
    ("text", "message"),
    [("", ": must map ids to claims"), ("- one\n", ": must map ids to claims"), ("a: [\n", ": cannot be read: ")],
)
def test_a_file_that_holds_no_claims_is_refused(tmp_path, text, message):
    (fault,) = faults(tmp_path, text)
    assert fault.startswith(f"claim/made_up.yaml{message}")


def test_an_experiment_without_a_file_is_told_which_have_one(tmp_path):
    with pytest.raises(ConfigError) as error:
        load("mode_up", written(tmp_path, GOOD))
    assert str(error.value).endswith("claim/mode_up.yaml  no such file; nearest: made_up; allowed: made_up")


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_claim_of_the_lab_loads_in_order(file):
    claims = load(file.stem)
    assert [each.id for each in claims] == list(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert len({each.title for each in claims}) == len(claims)


def test_claims_of_every_finished_experiment_are_there():
    assert {"classification", "double_descent", "pooling"} <= {file.stem for file in FOLDER.glob("*.yaml")}


@pytest.mark.parametrize(
    "content", [b"a: \x00\n", b"\xff\xfe\xfa: 1\n", b"a: ${\n", b"a: !!python/object/apply:os.getcwd []\n"]
)
def test_a_claim_file_that_is_no_plain_text_is_refused_by_its_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"claim/mine\.yaml( a)?(  cannot be read:|=| +must be a section of keys)"):
        load("mine", tmp_path)
