"""Which runs of a store belong together: one protocol, every setting and seed once, and what is missing."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from mnist1d.analysis.page import NoRuns
from mnist1d.analysis.read import Runs
from mnist1d.plan import DESCRIPTIVE, NEUTRAL

PROFILE = "paper"
"""The profile of a command line that names none."""
MISSING = "missing: "
"""How a remark begins that names seeds without a result."""
DIVERGED = "diverged as allowed"
"""What became of a run that stopped being finite where `trainer.may_diverge` makes that a result."""
_GONE = re.compile(r" became (nan|-?inf) at step \d+$")  # the reason of such a run, for records older than the tag


def command(experiment: str, table: pd.DataFrame) -> str:
    """The command that makes the runs of `table`, with their profile where they share one and it must be said."""
    profiles = set(table.get("profile", ()))
    size = "".join(f" profile={name}" for name in profiles if len(profiles) == 1 and name != PROFILE)
    return f"python train.py -m experiment={experiment}{size}"


def finished(runs: Runs) -> pd.DataFrame:
    """All rows of `runs`; raises NoRuns, with what there is, when none of them is finished."""
    if runs.finished.empty:
        counts = ", ".join(f"{n} {status}" for status, n in runs.table["status"].value_counts().items())
        raise NoRuns(f"no run is finished ({counts})" if counts else "no runs yet")
    return runs.table


def one_protocol(
    table: pd.DataFrame, axes: Collection[str], free: Collection[str] = ()
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of one protocol, and a remark on every group of runs left out.

    `axes` are the config keys that the page compares, with `seed` among them; runs that differ in any other key
    of data, optimizer, task or trainer (but the `free` ones) are not averaged, nor are runs of one model that differ
    in another key of it.
    Of several protocols the one trained longest counts (of equals, the one with most finished runs), so that a
    smoke test in the same store changes nothing. Of equal runs from two occasions the newest finished one counts.
    """
    shared = [key for key in table.columns if key.startswith(("data.", "optimizer.", "task.", "trainer."))]
    kept, remarks = _longest(table, [key for key in shared if key not in {*axes, *free, *DESCRIPTIVE}])
    parts = []
    for name, group in kept.groupby("model.name", sort=False):
        own = [key for key in group.columns if key.startswith("model.") and key not in axes]
        part, left_out = _longest(group, own)
        parts.append(part)
        remarks += [f"{name}: {remark}" for remark in left_out]
    return _once(pd.concat(parts), axes), tuple(remarks)


def _once(table: pd.DataFrame, axes: Collection[str]) -> pd.DataFrame:
    ranked = table.assign(done=table["status"] == "FINISHED").sort_values(["done", "started"], kind="stable")
    keys = sorted({"model.name", "seed", *axes} & set(table.columns))
    texts = ranked[keys].map(str)  # a list, or a key that a model lacks, compares as its text
    return ranked[~texts.duplicated(keep="last")].drop(columns="done").sort_index()


def _longest(table: pd.DataFrame, keys: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    texts = {key: _with_neutral(table[key]).map(str) for key in keys}  # a key that a run lacks reads nan
    varying = [key for key in keys if texts[key].nunique() > 1]
    if not varying:
        return table, []
    groups = [group for _, group in table.groupby([texts[key] for key in varying], sort=False)]

    def weight(group: pd.DataFrame) -> tuple[bool, int, int]:
        done = int((group["status"] == "FINISHED").sum())
        return done > 0, int(group["trainer.max_steps"].max()), done

    groups.sort(key=weight, reverse=True)
    remarks = [
        f"{len(group)} runs left out, of another protocol: "
        + ", ".join(f"{key}={group[key].iloc[0]}" for key in varying)
        for group in groups[1:]
    ]
    return groups[0], remarks


def _with_neutral(values: pd.Series) -> pd.Series:
    """The values of a key; runs that are older than the key have what stands for it, as in their fingerprints."""
    neutral = NEUTRAL.get(str(values.name))
    return values if neutral is None else values.where(values.notna(), neutral)


def missing(table: pd.DataFrame, label: str, where: Mapping[str, Any], expected: Collection[int]) -> list[str]:
    """One text per reason why seeds of a setting have no result, e.g. "mlp 15% noise: seed 3-4 FAILED (…)".

    label     names the setting in the text
    where     column -> value that picks the setting's rows of `table`
    expected  the seeds that other settings have
    """
    own = table
    for key, value in where.items():
        own = own[own[key] == value]
    known = dict(zip(own["seed"], map(_told, own.to_dict("records")), strict=True))
    fates: dict[str, list[int]] = {}
    for seed in sorted(expected):
        fates.setdefault(known.get(seed, "not run"), []).append(seed)
    fates.pop("FINISHED", None)
    return [f"{label}: seed {ranges(seeds)} {fate}" for fate, seeds in fates.items()]


def fate(run: Mapping[Any, Any]) -> str:
    """What became of a run: its status, or DIVERGED."""
    gone = run.get("mnist1d.diverged") == "true" or _GONE.search(str(run.get("mnist1d.reason")))
    return DIVERGED if gone and run.get("trainer.may_diverge") is True else run["status"]


def _told(run: Mapping[Any, Any]) -> str:
    reason = run.get("mnist1d.reason")
    return f"{fate(run)} ({reason})" if isinstance(reason, str) else fate(run)


def ranges(numbers: Sequence[int]) -> str:
    """Ascending whole numbers in short: 0-4, 7."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
