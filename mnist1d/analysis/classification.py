"""The page of experiment=classification: the paper's training curves and Table 1, with intervals over seeds.

Final and best accuracies come from runs that train on all training data, as the reference does. "Best on
test" is the largest value over the evaluations: an oracle that looks at test data, which is how the paper's
table can have come about (the reference has neither early stopping nor a validation set). The honest number,
"selected on validation", comes from runs with `data.val_split` above 0. Published numbers are read from
published.yaml in this folder; files in conf/claim/ take over when there are any.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mnist1d.analysis import figures
from mnist1d.analysis.intervals import Interval, paired_difference, t_interval
from mnist1d.analysis.metrics import Grid, grid
from mnist1d.analysis.read import Runs

METRICS = ("train/acc", "test/acc")
"""The histories that the page needs."""

MODELS = ("logistic", "mlp", "cnn", "gru")  # the order of the paper's table; other models follow
ARMS = ("plain", "shuffled")
MEASURES = {"final": "test/acc_final", "best": "test/acc_best", "selected": "test/acc_selected"}
_AXES = {"seed", "data.shuffle_features", "data.val_split"}  # what the page compares; the rest is protocol

Setting = tuple[str, str]  # model, arm


class NoRuns(RuntimeError):
    """There is no finished run to report on; the message says what there is instead."""


@dataclass(frozen=True)
class Row:
    """One setting's accuracies in percent. A measure without a single result is None."""

    model: str
    arm: str
    measures: dict[str, Interval | None]
    missing: tuple[str, ...]  # one text per reason, e.g. "seed 3 FAILED"


@dataclass(frozen=True)
class Table:
    """A table as text: what the terminal and the Markdown file show."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str

    def markdown(self) -> str:
        """The table in GitHub's Markdown, between its title and its note."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return f"## {self.title}\n\n{body}\n\n{self.note}"


@dataclass(frozen=True)
class Report:
    """The page: tables, remarks on what is missing or was left out, and the files written."""

    tables: tuple[Table, ...]
    remarks: tuple[str, ...]
    paths: tuple[Path, ...]


def report(runs: Runs, output: Path) -> Report:
    """Write figure.svg, figure.png, table.md, table.csv and runs.csv (one line per run) into `output`.

    Raises NoRuns when no run is finished.
    """
    if runs.finished.empty:
        counts = ", ".join(f"{n} {status}" for status, n in runs.table["status"].value_counts().items())
        raise NoRuns(f"no run is finished ({counts})" if counts else "no runs yet")
    table, left_out = one_protocol(runs.table)
    rows = summarise(table)
    remarks = (*left_out, *_missing_remarks(rows))
    tables = (accuracy_table(rows), drop_table(table))
    output.mkdir(parents=True, exist_ok=True)
    note = caption(table, rows)
    paths = [
        *_save(draw(runs, table, note), output / "figure"),
        _write_markdown(output / "table.md", tables, note, remarks),
        _write_rows(output / "table.csv", rows),
        _write_runs(output / "runs.csv", table),
    ]
    return Report(tables, remarks, tuple(paths))


# -- which runs belong together ---------------------------------------------------------------------------


def one_protocol(table: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The runs of one protocol, with their `arm` and `validated`, and a remark on every group left out.

    Runs that differ in more than model, seed, feature shuffling and validation split are not averaged. Of
    several protocols the one trained longest counts (of equals, the one with most finished runs), so that a
    smoke test in the same store changes nothing. Of equal runs from two occasions the newest counts.
    """
    training = [
        key
        for key in table.columns
        if key.startswith(("data.", "optimizer.")) or key in ("trainer.max_steps", "trainer.eval_every")
    ]
    kept, remarks = _longest(table, [key for key in training if key not in _AXES])
    parts = []
    for name, group in kept.groupby("model.name", sort=False):
        part, left_out = _longest(group, [key for key in group.columns if key.startswith("model.")])
        parts.append(part)
        remarks += [f"{name}: {remark}" for remark in left_out]
    kept = pd.concat(parts).assign(
        arm=lambda rows: np.where(rows["data.shuffle_features"].astype(bool), "shuffled", "plain"),
        validated=lambda rows: rows["data.val_split"].astype(float) > 0,
        done=lambda rows: rows["status"] == "FINISHED",
    )
    newest = kept.sort_values(["done", "started"], kind="stable")
    unique = newest.drop_duplicates(["model.name", "arm", "validated", "seed"], keep="last")
    return unique.sort_index().drop(columns="done"), tuple(remarks)


def _longest(table: pd.DataFrame, keys: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    texts = {key: table[key].map(str) for key in keys}  # a key that a run lacks reads nan
    varying = [key for key in keys if texts[key].nunique() > 1]
    if not varying:
        return table, []
    groups = [group for _, group in table.groupby([texts[key] for key in varying], sort=False)]

    def weight(group: pd.DataFrame) -> tuple[bool, int, int]:
        finished = int((group["status"] == "FINISHED").sum())
        return finished > 0, int(group["trainer.max_steps"].max()), finished

    groups.sort(key=weight, reverse=True)
    remarks = [
        f"{len(group)} runs left out, of another protocol: "
        + ", ".join(f"{key}={group[key].iloc[0]}" for key in varying)
        for group in groups[1:]
    ]
    return groups[0], remarks


# -- numbers ----------------------------------------------------------------------------------------------


def summarise(table: pd.DataFrame) -> list[Row]:
    """One row per setting that was started, in the order of the paper's table."""
    grids = {measure: _grid(table, measure) for measure in MEASURES}
    started = set(zip(table["model.name"], table["arm"], strict=True))
    return [
        Row(
            model,
            arm,
            {measure: _percent(each.present((model, arm))) for measure, each in grids.items()},
            tuple(_missing(table, (model, arm))),
        )
        for model in _models(table)
        for arm in ARMS
        if (model, arm) in started
    ]


def _models(table: pd.DataFrame) -> list[str]:
    names = set(table["model.name"])
    return [model for model in MODELS if model in names] + sorted(names - set(MODELS))


def _grid(table: pd.DataFrame, measure: str) -> Grid:
    rows = table[(table["status"] == "FINISHED") & (table["validated"] == (measure == "selected"))]
    column = MEASURES[measure]
    values = rows[column] if column in rows else pd.Series(np.nan, rows.index)
    settings = list(zip(rows["model.name"], rows["arm"], strict=True))
    return grid(values.astype(float).tolist(), settings, rows["seed"].tolist())


def _percent(values: np.ndarray) -> Interval | None:
    return t_interval(values).scaled(100) if values.size else None


def _missing(table: pd.DataFrame, setting: Setting) -> list[str]:
    """The seeds without a result, by reason; the seeds of any setting are expected of every setting."""
    texts = []
    for validated, rows in table.groupby("validated"):
        own = rows[(rows["model.name"] == setting[0]) & (rows["arm"] == setting[1])]
        known = dict(zip(own["seed"], map(_fate, own.to_dict("records")), strict=True))
        fates: dict[str, list[int]] = {}
        for seed in sorted(set(rows["seed"])):
            fates.setdefault(known.get(seed, "not run"), []).append(seed)
        fates.pop("FINISHED", None)
        kind = "with validation split, " if validated else ""
        texts += [f"{kind}seed {_ranges(seeds)} {fate}" for fate, seeds in fates.items()]
    return texts


def _fate(run: dict[Any, Any]) -> str:
    reason = run.get("mnist1d.reason")
    return f"{run['status']} ({reason})" if isinstance(reason, str) else run["status"]


def _ranges(seeds: Sequence[int]) -> str:
    """Ascending numbers in short: 0-4, 7."""
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def published() -> dict[str, Any]:
    """The paper's and the reference code's numbers, in percent, from published.yaml."""
    text = Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["classification"]


# -- tables -----------------------------------------------------------------------------------------------


def accuracy_table(rows: Sequence[Row]) -> Table:
    """Model x features: final, best and validation-selected test accuracy beside what was published."""
    paper, reference = published()["paper"], published()["reference"]
    lines = []
    for row in rows:
        known, printed = paper[row.arm].get(row.model), reference[row.arm].get(row.model)
        measured = (_shown(row.measures[measure]) for measure in MEASURES)
        quoted = f"{known['mean']} ± {known['sd']}" if known else "–"
        lines.append((row.model, row.arm, *measured, _counts(row), quoted, _span(printed)))
    return Table(
        "Test accuracy (%): mean ± half of the 95% interval over n seeds",
        ("model", "features", "final", "best", "selected", "n", "paper", "reference"),
        tuple(lines),
        "best: the largest over the evaluations, an oracle on test data.\n"
        "selected: at the step where accuracy on held-out training data is best.\n"
        "paper: ± standard deviation of 3 runs. reference: the finals its code prints.",
    )


def drop_table(table: pd.DataFrame) -> Table:
    """Model: what shuffling the features costs, plain minus shuffled at the same seed, beside the paper's."""
    finals, paper = _grid(table, "final"), published()["paper"]
    lines = []
    for model in _models(table):
        plain, shuffled = finals.pairs((model, "plain"), (model, "shuffled"))
        drop = paired_difference(plain, shuffled).scaled(100) if plain.size else None
        known = model in paper["plain"]
        quoted = str(paper["plain"][model]["mean"] - paper["shuffled"][model]["mean"]) if known else "–"
        lines.append((model, _shown(drop), str(plain.size), quoted))
    return Table(
        "Final test accuracy lost by shuffling the features (points)",
        ("model", "drop", "n", "paper"),
        tuple(lines),
        "drop: plain minus shuffled, paired by seed. paper: difference of its two means.",
    )


def _shown(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    return f"{interval.mean:.1f} ± {interval.half_width:.1f}" if interval.n > 1 else f"{interval.mean:.1f}"


def _counts(row: Row) -> str:
    return _n([interval for interval in row.measures.values() if interval])


def _n(intervals: Sequence[Interval]) -> str:
    """How many seeds the intervals stand on: 10, or 9–10 where they differ."""
    counts = sorted({interval.n for interval in intervals}) or [0]
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"


def _span(values: Sequence[float] | None) -> str:
    if not values:
        return "–"
    low, high = min(values), max(values)
    return f"{low:.1f}" if low == high else f"{low:.1f}–{high:.1f}"


def _missing_remarks(rows: Sequence[Row]) -> list[str]:
    return [f"missing: {row.model} {row.arm}: {text}" for row in rows for text in row.missing]


# -- figure -----------------------------------------------------------------------------------------------


def draw(runs: Runs, table: pd.DataFrame, note: str) -> Figure:
    """Train and test accuracy against the optimiser step; solid: plain features, dashed: shuffled."""
    used = table[(table["status"] == "FINISHED") & ~table["validated"]]
    last = int(table["trainer.max_steps"].max()) - 1
    with figures.lab_style():
        figure, axes = figures.panels(2)
        for ax, metric, title in zip(axes, METRICS, ("a  Training data", "b  Test data"), strict=True):
            figures.accuracy_axes(ax, title, last)
            _draw_settings(ax, runs, used, metric)
            ax.label_outer()
        human = published()["human"]
        figures.plot_level(axes[1], human, f"human {human}")
        figures.feature_legend(figure, _models(used))
        figures.caption(figure, note)
    return figure


def _draw_settings(ax: Axes, runs: Runs, used: pd.DataFrame, metric: str) -> None:
    for model in _models(used):
        for arm in ARMS:
            rows = used[(used["model.name"] == model) & (used["arm"] == arm)]
            steps, values = runs.curves(metric, rows["run_id"].tolist())
            if steps.size:
                look = figures.look(model)
                figures.plot_band(
                    ax, steps, 100 * values, color=look.color, marker=look.marker, dashed=arm == "shuffled"
                )


def caption(table: pd.DataFrame, rows: Sequence[Row]) -> str:
    """What the figure shows, its n and its interval, in two lines."""
    n = _n([interval for row in rows if (interval := row.measures["final"])])
    lines = "one seed, so no bands" if n == "1" else f"mean over n = {n} seeds; bands: 95% t interval of the mean"
    steps = int(table["trainer.max_steps"].max())
    return (
        f"Lines: {lines}. {steps} optimiser steps a run.\nShuffled (open markers): one fixed permutation of "
        "the features. Human: five quizzes of 100 plain test images."
    )


# -- files ------------------------------------------------------------------------------------------------


def _save(figure: Figure, stem: Path) -> list[Path]:
    svg, png = stem.with_suffix(".svg"), stem.with_suffix(".png")
    with figures.lab_style():
        figure.savefig(svg, metadata={"Date": None})  # the same numbers give the same file
        figure.savefig(png)
    return [svg, png]


def _write_markdown(path: Path, tables: Sequence[Table], note: str, remarks: Sequence[str]) -> Path:
    parts = ["# Classification", "![Accuracy against the optimiser step](figure.svg)", note]
    parts += [table.markdown() for table in tables]
    parts += ["\n".join(f"- {remark}" for remark in remarks)] if remarks else []
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _write_rows(path: Path, rows: Sequence[Row]) -> Path:
    paper = published()["paper"]
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["model", "features", "measure", "mean", "low", "high", "n", "paper", "paper_sd", "missing"])
        for row in rows:
            known = paper[row.arm].get(row.model, {"mean": "", "sd": ""})
            for measure, interval in row.measures.items():
                found = [interval.mean, interval.low, interval.high, interval.n] if interval else ["", "", "", 0]
                missing = "; ".join(row.missing)
                out.writerow([row.model, row.arm, measure, *found, known["mean"], known["sd"], missing])
    return path


def _write_runs(path: Path, table: pd.DataFrame) -> Path:
    columns = ["model.name", "arm", "data.val_split", "seed", "status", *MEASURES.values(), "run_id"]
    table.reindex(columns=columns).sort_values(columns[:4]).to_csv(path, index=False)
    return path
