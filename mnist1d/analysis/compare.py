"""Two sweeps side by side: the same settings and seeds, before and after whatever differs between them.

    python analyze.py compare=SWEEP_A,SWEEP_B

A sweep is named by its tag mnist1d.sweep (its output folder), or by the name or the id of its parent run in
MLflow. Keys that vary inside the sweeps make the settings, which are paired by value, and their runs by seed;
keys that differ between the two sweeps as a whole are what is compared. What has no partner is named, not
dropped, and so is whatever else than the config may have made the difference: code, versions, machine.
"""

from __future__ import annotations

import csv
import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mnist1d.analysis.document import escaped, plain
from mnist1d.analysis.intervals import Interval, holm, paired_difference, t_p_outside
from mnist1d.analysis.metrics import grid
from mnist1d.analysis.page import Table
from mnist1d.analysis.protocol import missing
from mnist1d.analysis.read import read_runs, sweeps
from mnist1d.plan import LABELS
from mnist1d.spelling import hint, nearest, spelled
from mnist1d.summary import SEEDS, Flat, labels, swept_keys

NEWEST = 5
"""Sweeps that are named to someone who named an unknown one."""
CIRCUMSTANCES = {
    "mnist1d.git": "code versions differ",
    "mnist1d.versions": "package versions differ",
    "mnist1d.machine": "machines differ",
}
"""Tags of what is not in a run's config and may still have changed its numbers -> what to say when it has."""

Setting = dict[str, Any]  # swept key -> value; without the keys that its model does not have


@dataclass(frozen=True)
class Comparison:
    """What `run` found: the table, what to know before believing it, and the files written."""

    table: Table
    remarks: tuple[str, ...]
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Side:
    """One of the two sweeps, with its runs, every fingerprint once."""

    letter: str  # A or B
    name: str
    key: str
    status: str
    table: pd.DataFrame  # as Runs.table

    @cached_property
    def flats(self) -> list[Flat]:
        """The configs of its runs: dotted key -> value, without the keys that a run lacks."""
        keys = [key for key in self.table if not key.startswith("mnist1d.") and "/" not in key]
        records = self.table[keys].drop(columns=["run_id", "name", "status", "started", "ended"]).to_dict("records")
        return [{str(key): value for key, value in record.items() if not _absent(value)} for record in records]


@dataclass(frozen=True)
class Row:
    """One setting that both sweeps have, in the unit of the table.

    `a` and `b` are means over the seeds that both finished, `difference` is the interval of B - A over them: n is
    their number. All three are None without such a seed; `p`, two-sided, and `p_holm` are None below two.
    """

    setting: Setting
    a: float | None
    b: float | None
    difference: Interval | None
    p: float | None
    p_holm: float | None = None


def run(
    uri: str, folder: str | None, sweep_a: str, sweep_b: str, output: Path, measure: str = "test/acc_final"
) -> Comparison:
    """Compare two sweeps of a store; write compare.md, compare.tex and compare.csv into `output`.

    uri      of the MLflow store
    folder   only sweeps in this MLflow experiment
    measure  a final metric of the runs; shares (accuracies) are shown in percent and points

    Raises ValueError for a sweep or a measure that is not there, and where the sweeps have no setting in common;
    StoreError as `read_runs` does.
    """
    known = sweeps(uri, folder)
    first, second = find(known, sweep_a), find(known, sweep_b)
    if first["run_id"] == second["run_id"]:
        raise ValueError(f"{sweep_a} and {sweep_b} are the same sweep")
    a, b = (_side(uri, letter, found, measure) for letter, found in (("A", first), ("B", second)))
    table, rows, remarks = compare(a, b, measure)
    command = shlex.join(["python", "analyze.py", f"compare={a.key},{b.key}"])
    output.mkdir(parents=True, exist_ok=True)
    paths = (
        _write(output / "compare.md", _markdown(table, remarks, command)),
        _write(output / "compare.tex", latex(table, texts=len(_keys(rows)))),
        _write_rows(output / "compare.csv", rows, measure),
    )
    return Comparison(table, remarks, paths)


def find(known: pd.DataFrame, asked: str) -> pd.Series:
    """The row of `known` (as from `read.sweeps`) whose run id, key or name is `asked`.

    Raises ValueError with the nearest and the newest sweeps if there is none, and with all if there are several.
    """
    named = known[["run_id", "key", "name"]]
    hits = known[(named == asked.rstrip("/")).any(axis="columns")]
    if len(hits) == 1:
        return hits.iloc[0]
    if len(hits) > 1:
        raise ValueError(f"{len(hits)} sweeps are called {asked}; give one by its id or folder:\n{_listed(hits)}")
    if known.empty:
        raise ValueError(f"no sweep {asked}: there are none yet; `python train.py -m …` makes one")
    close = " or ".join(dict.fromkeys(nearest(asked, named.to_numpy().ravel())))
    near = f"; did you mean {close}?" if close else "."
    raise ValueError(f"no sweep {asked}{near} The newest:\n{_listed(known.tail(NEWEST))}")


def _listed(known: pd.DataFrame) -> str:
    newest = known.iloc[::-1]
    return "\n".join(
        f"  {name}  {key}  {run_id}  {status}"
        for name, key, run_id, status in zip(*(newest[k] for k in ("name", "key", "run_id", "status")), strict=True)
    )


def _side(uri: str, letter: str, found: pd.Series, measure: str) -> Side:
    runs = read_runs(uri, sweep=found["key"], folder=found["folder"])
    if runs.finished.empty:
        raise ValueError(f"none of the {len(runs)} runs of {found['name']} ({found['key']}) is finished")
    if measure not in runs.table:
        near = hint(measure, [key for key in runs.table if "/" in key])
        raise ValueError(f"no run of {found['name']} ({found['key']}) has {measure}{near}")
    return Side(letter, found["name"], found["key"], found["status"], runs.table)


# -- pairs ------------------------------------------------------------------------------------------------


def compare(a: Side, b: Side, measure: str) -> tuple[Table, tuple[Row, ...], tuple[str, ...]]:
    """One row per setting that both have, as text and as numbers, and remarks on all that the rows do not say.

    Raises ValueError where the sweeps have no setting in common.
    """
    seed = _seed(a, b)
    swept = _swept(a, b, seed)
    short = labels(swept, {key for side in (a, b) for flat in side.flats for key in flat})
    runs, settings = _runs(a, b, swept, short, seed, measure)
    shared = [text for text in _ordered(settings) if runs.loc[runs["setting"] == text, "side"].nunique() == 2]
    differ = _differences(a, b, swept)
    if not shared:
        raise ValueError("\n".join(("A and B have no setting in common.", *differ, *_partners(runs, shared))))
    rows = _rows(runs, {text: settings[text] for text in shared})
    remarks = (
        *(f"sweep {side.letter} is marked {side.status}" for side in (a, b) if side.status != "FINISHED"),
        *_partners(runs, shared),
        *_unequal(runs, next(key for key in SEEDS if key != seed)),
        *_circumstances(a, b),
    )
    return _table(rows, short, measure, differ), rows, remarks


def _seed(a: Side, b: Side) -> str:
    """The key that replicates are paired by: `seed`, or `data.seed` where only that one varies."""
    varying = {key for side in (a, b) for key in SEEDS if key in side.table and side.table[key].nunique() > 1}
    return "data.seed" if varying == {"data.seed"} else "seed"


def _swept(a: Side, b: Side, seed: str) -> list[str]:
    """The keys that make the settings, the model first."""
    replicates = SEEDS if all(_follows(side, seed) for side in (a, b)) else ("seed",)
    swept = dict.fromkeys([*swept_keys(a.flats), *swept_keys(b.flats)])
    kept = [key for key in swept if key not in (*replicates, *LABELS)]
    return sorted(kept, key=lambda key: key != "model.name")


def _follows(side: Side, seed: str) -> bool:
    """Whether the other seed is known from `seed`, and so makes no setting."""
    keys = [key for key in SEEDS if key in side.table]
    return len(side.table[keys].drop_duplicates()) == side.table[seed].nunique()


def _ordered(settings: Mapping[str, Setting]) -> list[str]:
    """Names of settings: numbers ascending, words in order of appearance, what is absent first."""
    seen: dict[str, list[str]] = {}
    for setting in settings.values():
        for key, value in setting.items():
            seen.setdefault(key, []).append(spelled(value))

    def place(key: str, setting: Setting) -> float:
        if key not in setting:
            return -math.inf
        value = setting[key]
        return float(value) if isinstance(value, int | float) else seen[key].index(spelled(value))

    return sorted(settings, key=lambda text: [place(key, settings[text]) for key in seen])


def _runs(
    a: Side, b: Side, swept: Sequence[str], short: Mapping[str, str], seed: str, measure: str
) -> tuple[pd.DataFrame, dict[str, Setting]]:
    """The runs of both sides with what is needed of them, and the settings by the name that they have there."""
    settings: dict[str, Setting] = {}
    parts = []
    for side in (a, b):
        own = [{key: flat[key] for key in swept if key in flat} for flat in side.flats]
        names = [" ".join(f"{short[key]}={spelled(each[key])}" for key in each) or "all runs" for each in own]
        settings |= dict(zip(names, own, strict=True))
        parts.append(_side_runs(side, names, seed, measure))
    return pd.concat(parts), settings


def _side_runs(side: Side, names: Sequence[str], seed: str, measure: str) -> pd.DataFrame:
    table, other = side.table, next(key for key in SEEDS if key != seed)
    values, done = table[measure].astype(float), table["status"] == "FINISHED"
    return pd.DataFrame(
        {
            "side": side.letter,
            "setting": names,
            "seed": table[seed],
            "other": table.get(other),
            "status": table["status"].mask(done & ~np.isfinite(values), f"FINISHED without {measure}"),
            "mnist1d.reason": table.get("mnist1d.reason"),
            "value": values.where(done) * _scale(measure),
        }
    )


def _rows(runs: pd.DataFrame, settings: Mapping[str, Setting]) -> tuple[Row, ...]:
    keys = list(zip(runs["side"], runs["setting"], strict=True))
    values = grid(runs["value"].tolist(), keys, runs["seed"].tolist())
    rows = [_row(setting, *values.pairs(("A", text), ("B", text))) for text, setting in settings.items()]
    known = iter(holm([row.p for row in rows if row.p is not None]))
    return tuple(row if row.p is None else replace(row, p_holm=next(known)) for row in rows)


def _row(setting: Setting, a: np.ndarray, b: np.ndarray) -> Row:
    if not a.size:
        return Row(setting, None, None, None, None)
    p = t_p_outside(b - a, 0, 0) if a.size > 1 else None
    return Row(setting, float(a.mean()), float(b.mean()), paired_difference(b, a), p)


# -- remarks ----------------------------------------------------------------------------------------------


def _differences(a: Side, b: Side, swept: Sequence[str]) -> tuple[str, ...]:
    """Which sweep is which, and what was changed from one to the other, a line for each."""
    differ = _differing(a.flats, b.flats, swept)
    lines = []
    for n, side in enumerate((a, b)):
        what = ", ".join(texts[n] for texts in differ if texts[n]) or "none of these keys"
        lines.append(f"{side.letter}: {side.name} ({side.key}){f': {what}' if differ else ''}.")
    return tuple(lines) if differ else (*lines, "No key of the config differs, seeds apart.")


def _differing(a: Sequence[Flat], b: Sequence[Flat], swept: Sequence[str]) -> list[tuple[str, str]]:
    """`key=value` of A and of B for each key that neither sweeps and that differs; "" where a side lacks the key."""
    models = [{flat.get("model.name") for flat in flats} for flats in (a, b)]
    shared = sorted(models[0] & models[1], key=str)  # a model that one side has alone is a setting without partner
    varying = {key for key in SEEDS for flats in (a, b) if len({flat.get(key) for flat in flats}) > 1}
    ignored = {*swept, *varying} | (set() if shared else {"model._target_"})  # it says what model.name says
    found: dict[tuple[str, str], None] = {}
    for model in shared or [None]:
        first, second = (_merged(flats, model) for flats in (a, b))
        for key in dict.fromkeys((*first, *second)):
            texts = [f"{key}={spelled(flat[key])}" if key in flat else "" for flat in (first, second)]
            if texts[0] != texts[1] and key not in ignored:
                found[texts[0], texts[1]] = None
    return list(found)


def _merged(flats: Sequence[Flat], model: str | None) -> Flat:
    own = [flat for flat in flats if model is None or flat.get("model.name") == model]
    return {key: value for flat in own for key, value in flat.items()}


def _partners(runs: pd.DataFrame, shared: Sequence[str]) -> list[str]:
    """The settings that one side has alone, then the seeds of shared ones that one side has no result for."""
    texts = []
    for letter, own in runs[~runs["setting"].isin(shared)].groupby("side"):
        done = int((own["status"] == "FINISHED").sum())
        names = ", ".join(own["setting"].unique())
        texts.append(f"only in {letter}, not compared: {names} ({len(own)} runs, {done} finished)")
    for text in shared:
        rows = runs[runs["setting"] == text]
        for letter, own in rows.groupby("side"):
            texts += missing(own, f"{letter} {text}", {"setting": text}, set(rows["seed"]))
    return texts


def _unequal(runs: pd.DataFrame, other: str) -> list[str]:
    """A remark where the two runs of a pair differ in the seed that they are not paired by."""
    a, b = (runs[runs["side"] == letter] for letter in "AB")
    pairs = a.merge(b, on=["setting", "seed"], suffixes=(" A", " B"))
    differ = pairs[pairs["other A"].map(str) != pairs["other B"].map(str)]
    if differ.empty:
        return []
    first = differ.iloc[0]
    return [f"{other} differs in {len(differ)} of {len(pairs)} pairs, e.g. A {first['other A']}, B {first['other B']}"]


def _circumstances(a: Side, b: Side) -> list[str]:
    """Remarks on code, versions and machines that differ within or between the sweeps, and on untraceable code."""
    texts = []
    for tag, words in CIRCUMSTANCES.items():
        counts = {side.letter: _tag(side, tag) for side in (a, b)}
        if len(set().union(*counts.values())) > 1:
            texts.append(f"{words}: {_contrast(counts)}")
    for side in (a, b):
        for commit, n in _tag(side, "mnist1d.git").items():
            if commit.endswith("-dirty"):
                texts.append(f"{side.letter}: {n} runs of code with changes that were not committed ({commit})")
            elif commit == "unknown":
                texts.append(f"{side.letter}: {n} runs of unknown code, not in a git repository")
    return texts


def _tag(side: Side, tag: str) -> Counter[str]:
    values = side.table[tag].fillna("unknown") if tag in side.table else ["unknown"] * len(side.table)
    return Counter(values)


def _contrast(counts: Mapping[str, Counter[str]]) -> str:
    """What each side has, without the parts of a value that all values share."""
    every = [value.split(", ") for counter in counts.values() for value in counter]
    common = set(every[0]).intersection(*every)
    sides = []
    for letter, counter in counts.items():
        own = {
            ", ".join(part for part in value.split(", ") if part not in common) or value: n
            for value, n in counter.items()
        }
        sides.append(f"{letter} {', '.join(f'{value} ({n} runs)' for value, n in own.items())}")
    return "; ".join(sides)


# -- what is shown and written ----------------------------------------------------------------------------


def _table(rows: Sequence[Row], short: Mapping[str, str], measure: str, differ: Sequence[str]) -> Table:
    keys, share, tests = _keys(rows), _scale(measure) == 100, sum(row.p is not None for row in rows)
    several = tests > 1
    columns = ("A", "B", "B − A", "95% interval", "n", "p (Holm)" if several else "p")
    means = f"A, B: means over the n seeds that both have. B − A: paired by seed{', in points' if share else ''}."
    test = f"Interval and p: paired t, two-sided{f', p by Holm over {tests} settings' if several else ''}."
    return Table(
        f"{measure}{' (%)' if share else ''}: B − A, paired by seed",
        (*(short[key] for key in keys), *columns),
        tuple((*_setting_cells(row, keys), *_number_cells(row, measure)) for row in rows),
        "\n".join((*differ, means, test)),
    )


def _keys(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row.setting))


def _setting_cells(row: Row, keys: Sequence[str]) -> list[str]:
    return [spelled(row.setting[key]) if key in row.setting else "–" for key in keys]


def _number_cells(row: Row, measure: str) -> tuple[str, ...]:
    gap = row.difference
    if row.a is None or row.b is None or gap is None:
        return ("–", "–", "–", "–", "0", "–")
    form = "{:z.2f}" if _scale(measure) == 100 else "{:z.4g}"
    a, b, low, high = (form.format(number) for number in (row.a, row.b, gap.low, gap.high))
    bounds = f"[{low}, {high}]" if gap.n > 1 else "–"
    return a, b, form.replace(":", ":+").format(gap.mean), bounds, str(gap.n), _p_cell(row.p_holm)


def _p_cell(p: float | None) -> str:
    if p is None:
        return "–"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _scale(measure: str) -> float:
    """100 for shares, which are shown in percent, else 1."""
    last = measure.rpartition("/")[2]
    return 100.0 if last == "acc" or (last.startswith("acc_") and not last.endswith("_step")) else 1.0


def latex(table: Table, texts: int) -> str:
    r"""A `table` environment for a paper that uses booktabs; the first `texts` columns are words, aligned left.

    Everything is escaped for pdfLaTeX, brackets too: after `\\` or a rule one would read as an option.
    """
    lines = [" & ".join(map(_escaped, cells)) + r" \\" for cells in (table.columns, *table.rows)]
    caption = _escaped(f"{table.title}. {table.note}".replace("\n", " "))
    return "\n".join(
        (
            r"% \usepackage{booktabs}",
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{caption}}}",
            r"  \label{tab:compare}",
            rf"  \begin{{tabular}}{{{'l' * texts}{'r' * (len(table.columns) - texts)}}}",
            r"    \toprule",
            f"    {lines[0]}",
            r"    \midrule",
            *(f"    {line}" for line in lines[1:]),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        )
    )


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "−": "$-$",
    "–": "--",
    "…": r"\dots{}",
}


def _escaped(text: str) -> str:
    minus = re.sub(r"(?<![\w-])-(?=\d)", "−", text)  # of a number; a hyphen elsewhere stays one
    return "".join(_LATEX.get(character, character) for character in minus)


def _markdown(table: Table, remarks: Sequence[str], command: str) -> str:
    listed = "\n".join(f"- {plain(remark)}" for remark in remarks)
    return f"# Two sweeps compared\n\n{escaped(table).markdown()}\n\n{listed}\n\nCommand: `{command}`\n"


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def _write_rows(path: Path, rows: Sequence[Row], measure: str) -> Path:
    """Full numbers: what is absent is an empty field."""
    keys, unit = _keys(rows), "%" if _scale(measure) == 100 else ""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        numbers = ("n", "a", "b", "difference", "low", "high", "p", "p_holm")
        out.writerow([*keys, "measure", "unit", *numbers])
        for row in rows:
            gap = row.difference or Interval(math.nan, math.nan, math.nan, 0)
            found = (row.a, row.b, gap.mean, gap.low, gap.high, row.p, row.p_holm)
            plain = ["" if _absent(number) or number is None else number for number in found]
            setting = [spelled(row.setting[key]) if key in row.setting else "" for key in keys]
            out.writerow([*setting, measure, unit, gap.n, *plain])
    return path


def _absent(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
