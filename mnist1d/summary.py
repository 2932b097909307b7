"""From runs to settings: which keys were swept, what a run is called, and mean, interval and n per setting.

Pure functions over flattened configs (`Run.flat()`: dotted key -> plain value); nothing is read or written.
A *setting* is a run's config without its seeds, and what intervals are taken over.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mnist1d.analysis.intervals import Interval, t_interval
from mnist1d.spelling import spelled

SEEDS = ("seed", "data.seed")
# Keys that follow from others: naming both would say the same thing twice.
FOLLOWS = {"model.input_size": {"data.final_seq_length", "data.name"}}
FOLLOWS["task._target_"] = {"task.name"}
FOLLOWS |= {f"model.{key}": {"data.name"} for key in ("step_size", "row_length", "colours")}
_NOT_IN_NAMES = re.compile(r"[^\w.\- ]+")

_FINALS = ("acc_final", "loss_final", "acc_best", "acc_selected", "acc_selected_step")

Flat = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One setting of a sweep.

    `setting` holds the swept keys except seeds (a key this setting's model does not have is absent), `n` the
    runs that finished and `failed` those that did not. Each metric's interval is over the finished runs with
    a finite value, so `Interval.n` may be smaller than `n`, never larger.
    """

    setting: dict[str, Any]
    n: int
    failed: int
    metrics: dict[str, Interval]


_WORDS = {"null": None, "None": None, "true": True, "True": True, "false": False, "False": False}


@lru_cache(maxsize=4096)
def typed(text: str) -> Any:
    """The inverse of `spelled`; understands Python's spelling (None, True) as well."""
    if text in _WORDS:
        return _WORDS[text]
    if text[:1] == "[" and text[-1:] == "]" and "[" not in text[1:]:
        return tuple(typed(part.strip(" '\"")) for part in text[1:-1].split(",") if part)
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def settings(runs: Sequence[Flat]) -> list[list[int]]:
    """Indices of the runs of each setting, both in the order in which they were asked for."""
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for index, flat in enumerate(runs):
        kept = (key for key in flat if key not in SEEDS)
        groups.setdefault(tuple((key, spelled(flat[key])) for key in sorted(kept)), []).append(index)
    return list(groups.values())


def swept_keys(runs: Sequence[Flat]) -> list[str]:
    """Keys whose values differ between the runs that have them, in the config's order, seeds last.

    A key of the model counts only if it differs between runs of one model: `model.hidden` is 100 for the MLP and 6
    for the GRU without anyone having swept it. So it is with keys of the data. Nor does a key count that follows from
    another swept one.
    """
    values: dict[str, dict[str, set[str]]] = {}  # key -> model or data set, or "" for any -> values
    for flat in runs:
        for key, value in flat.items():
            values.setdefault(key, {}).setdefault(_owner(key, flat), set()).add(spelled(value))
    differ = [key for key, by_owner in values.items() if max(map(len, by_owner.values())) > 1]
    kept = [key for key in differ if not FOLLOWS.get(key, set()) & {*differ}]
    return sorted(kept, key=lambda key: key in SEEDS)


def _owner(key: str, flat: Flat) -> str:
    """The model or data set that a key belongs to, "" for all others."""
    section, _, name = key.partition(".")
    return spelled(flat.get(f"{section}.name")) if section in ("model", "data") and name != "name" else ""


def labels(swept: Iterable[str], keys: Iterable[str]) -> dict[str, str]:
    """The shortest clear name of each swept key among all `keys`.

    The last component where no other key ends the same way (`hidden`), the group for its choice (`optimizer`
    for `optimizer.name`), else the full key (`data.seed`, which is not the run's `seed`).
    """
    endings = Counter(_last(key) for key in set(keys))
    return {key: _label(key, endings) for key in swept}


def _label(key: str, endings: Counter[str]) -> str:
    if key.endswith(".name"):
        return key.removesuffix(".name")
    return _last(key) if endings[_last(key)] <= 1 else key


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def run_names(flats: Sequence[Flat], swept: Sequence[str]) -> list[str]:
    """One name per run, the model first: "mlp hidden=50 seed=3"; from the config alone, so never random."""
    short = labels(swept, {key for flat in flats for key in flat})
    return [_name(flat, [key for key in swept if key in flat], short) for flat in flats]


def _name(flat: Flat, swept: Sequence[str], short: Mapping[str, str]) -> str:
    model = [spelled(flat["model.name"])] if "model.name" in flat else []
    parts = [f"{short[key]}={spelled(flat[key])}" for key in swept if key != "model.name"]
    return " ".join(model + parts) or "run"


def finals(metrics: Mapping[str, float]) -> dict[str, float]:
    """Of all metrics of a run those that are measured once, at its end."""
    return {name: value for name, value in metrics.items() if name.endswith(_FINALS)}


def summarise(flats: Sequence[Flat], results: Sequence[Mapping[str, float] | None]) -> list[Row]:
    """One row per setting, in the order asked for.

    Args:
        flats: the runs' flattened configs.
        results: for each run its final metrics, None for a run that failed.

    Raises:
        ValueError: when the two differ in length.
    """
    if len(flats) != len(results):
        raise ValueError(f"{len(flats)} configs but {len(results)} results")
    swept = [key for key in swept_keys(flats) if key not in SEEDS]
    return [_row(flats[group[0]], [results[i] for i in group], swept) for group in settings(flats)]


def _row(flat: Flat, results: Sequence[Mapping[str, float] | None], swept: Sequence[str]) -> Row:
    finished = [result for result in results if result is not None]
    names = dict.fromkeys(name for result in finished for name in result)
    metrics = {name: _interval([result[name] for result in finished if name in result]) for name in names}
    setting = {key: flat[key] for key in swept if key in flat}
    return Row(setting, len(finished), len(results) - len(finished), metrics)


def _interval(values: Sequence[float]) -> Interval:
    known = [value for value in values if math.isfinite(value)]
    return t_interval(known) if known else Interval(math.nan, math.nan, math.nan, 0)


def as_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as flat records: the swept keys, n, failed, then per metric `NAME`, `NAME low`, `NAME high`, `NAME n`.

    Every record has the same keys; what a setting lacks is None.
    """
    keys = dict.fromkeys(key for row in rows for key in row.setting)
    names = dict.fromkeys(name for row in rows for name in row.metrics)
    records = []
    for row in rows:
        record: dict[str, Any] = {key: row.setting.get(key) for key in keys} | {
            "n": row.n,
            "failed": row.failed,
        }
        for name in names:
            record |= _columns(name, row.metrics.get(name))
        records.append(record)
    return records


def _columns(name: str, interval: Interval | None) -> dict[str, Any]:
    if interval is None:
        return dict.fromkeys((name, f"{name} low", f"{name} high", f"{name} n"))
    numbers = (interval.mean, interval.low, interval.high)
    mean, low, high = (None if math.isnan(number) else number for number in numbers)
    return {name: mean, f"{name} low": low, f"{name} high": high, f"{name} n": interval.n}


def as_metrics(rows: Sequence[Row], most: int = 20) -> dict[str, float]:
    """A sweep's summary as metrics of its parent run, by names that MLflow accepts.

    `settings`, `runs` and `failed` count. Per setting `mean/METRIC/SETTING` and, from two runs on, `low/...`
    and `high/...` of the interval, SETTING being "hidden 50 label_noise 0.15"; a sweep of one setting goes
    without it. Only the first `most` settings are given, a UI can show no more; the tables have them all.
    """
    runs = sum(row.n + row.failed for row in rows)
    found = {
        "settings": float(len(rows)),
        "runs": float(runs),
        "failed": float(sum(row.failed for row in rows)),
    }
    short = labels(dict.fromkeys(key for row in rows for key in row.setting), [])
    for row in rows[:most]:
        words = " ".join(f"{short[key]} {spelled(value)}" for key, value in row.setting.items())
        ending = f"/{_NOT_IN_NAMES.sub('_', words)}" if words else ""
        for name, interval in row.metrics.items():
            parts = {"mean": interval.mean, "low": interval.low, "high": interval.high}
            found |= {f"{part}/{name}{ending}"[:250]: x for part, x in parts.items() if not math.isnan(x)}
    return found


def as_json(rows: Sequence[Row]) -> str:
    """The records as JSON; a number that does not exist (an interval at n=1) is null."""
    return json.dumps(as_records(rows), indent=1)


def as_csv(rows: Sequence[Row]) -> str:
    """The records as CSV with a header; a number that does not exist is an empty field."""
    records, out = as_records(rows), io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if records:
        writer.writerow(records[0])
    for record in records:
        writer.writerow("" if value is None else spelled(value) for value in record.values())
    return out.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """A table for people: swept keys, one `mean [low, high]` per metric, n and failed."""
    keys = list(dict.fromkeys(key for row in rows for key in row.setting))
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    lines = [_line([*keys, *names, "n", "failed"]), _line(["---"] * (len(keys) + len(names) + 2))]
    for row in rows:
        values = [spelled(row.setting[key]) if key in row.setting else "–" for key in keys]
        numbers = [_bracket(row.metrics.get(name)) for name in names]
        lines.append(_line([*values, *numbers, str(row.n), str(row.failed)]))
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _bracket(interval: Interval | None) -> str:
    if interval is None or interval.n == 0:
        return "–"
    if math.isnan(interval.low):
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]"
