"""Time stacks against plain loops and write docs/bench.md, docs/bench.json and docs/performance.md.

python -m bench               all tables, about ten minutes
python -m bench steps=MLP     only the rows of the first table whose name holds MLP, printed, nothing written
python -m bench experiments   only the tables about the experiments, two to three minutes, printed, nothing written
python -m bench procedures    only the table about lottery tickets and SimCLR, under a minute, printed, nothing written
python -m bench metalearning  only the tables about metalearning, two minutes, printed, nothing written
"""

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import torch

from bench import (
    activation,
    data,
    experiments,
    main_job,
    make_run,
    metalearning,
    overhead,
    peak,
    performance,
    procedures,
)
from bench.steps import CASES, Result, measure
from mnist1d import provenance
from mnist1d.fit import quiet
from mnist1d.memory import keep_freed_memory

TURNS, SECONDS = 7, 0.4  # per variant: 7 turns of 0.4 s, so 11 s for a row
DOCS = Path(__file__).parents[1] / "docs"


def row(result: Result) -> dict[str, Any]:
    """One line of the table, rounded as printed."""
    plain, stack = result.plain, result.stack
    return {
        "model": result.case.name,
        "plain loop": round(plain.median, 3),
        "Lightning, one run": round(result.lightning.median, 3),
        "stack of 1": round(result.single.median, 3),
        "stack": round(stack.median, 4),
        "members": result.planned,
        "plain / stack of 1": round(result.single.times_faster_than(plain), 2),
        "plain / stack": round(stack.times_faster_than(plain), 1),
        "target": result.case.target,
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table with one column per key."""
    lines = [list(rows[0]), ["---:"] * len(rows[0]), *([str(v) for v in r.values()] for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def machine() -> str:
    """What was measured on, and how busy it was."""
    import os

    load = f", load average at the end {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{provenance.cpu_model()}, {provenance.cores()} cores, torch {torch.__version__} with "
        f"{torch.get_num_threads()} threads{load}, {datetime.date.today():%d %B %Y}"
    )


def main() -> None:
    """Run what is asked for."""
    quiet()
    keep_freed_memory()  # as every fit does; the plain loop gains from it too
    torch.set_num_threads(provenance.cores())
    if sys.argv[1:] == ["experiments"]:
        print(experiments.section(whole_experiments(), markdown))
        return
    if sys.argv[1:] == ["procedures"]:
        print(procedures.section(timed_procedures(), markdown))
        return
    if sys.argv[1:] == ["metalearning"]:
        rate, function = timed_metalearning()
        print(metalearning.section(rate, markdown))
        print(activation.section(function, markdown))
        return
    wanted = sys.argv[1].removeprefix("steps=") if len(sys.argv) > 1 else ""
    rows = []
    for case in CASES:
        if wanted in case.name:
            rows.append(row(measure(case, make_run, TURNS, SECONDS)))
            print(rows[-1], flush=True)
    if wanted:
        print(markdown(rows))
        return
    sections = (whole_experiments(), timed_procedures(), *timed_metalearning())
    write(rows, *sections, data.measure(), *overhead_figures(), *main_job.measure())


def whole_experiments() -> dict[str, list[dict[str, Any]]]:
    """The figures of `experiments`."""
    return experiments.figures(map(experiments.measure, experiments.CASES))


def timed_procedures() -> dict[str, Any]:
    """The figures of `procedures`."""
    return procedures.figures(map(procedures.measure, procedures.PROCEDURES))


def timed_metalearning() -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures of `metalearning` and of `activation`."""
    rate = metalearning.figures(metalearning.measure(), metalearning.measure_whole(), metalearning.work())
    return rate, activation.figures(activation.measure(), activation.work())


def overhead_figures() -> tuple[float, float]:
    """Milliseconds per run-step of the bare loop, and the ratio of the recorded fit to it."""
    bare, full = overhead.measure(make_run, turns=5)
    return bare.median, bare.times_faster_than(full)


def write(
    rows: list[dict[str, Any]],
    whole: dict[str, list[dict[str, Any]]],
    timed: dict[str, Any],
    rate: dict[str, Any],
    function: dict[str, Any],
    samples: dict[str, int],
    bare: float,
    ratio: float,
    plain_s: float,
    ours_s: float,
) -> None:
    """The tables as a page and as JSON."""
    figures = {
        "machine": machine(),
        "matrix product, 10^9 operations a second": round(peak.matrix_product() / 1e9),
        "milliseconds per step per run": rows,
        "experiments": whole,
        "lottery tickets and SimCLR": timed,
        "metalearning a learning rate": rate,
        "metalearning an activation function": function,
        "samples per second": samples,
        "Lightning and tracking over the bare stacked loop": round(ratio, 3),
        "main job, ten seeds, seconds": {"plain script": round(plain_s, 1), "train.py": round(ours_s, 1)},
    }
    (DOCS / "bench.json").write_text(json.dumps(figures, indent=1) + "\n")
    (DOCS / "performance.md").write_text(performance.page(figures, markdown))
    page = f"""# Bench

Made by `make bench` on {figures["machine"]}. Variants take turns in one process; times are medians over {TURNS} turns,
ratios are medians of the ratios turn by turn, so that a drift of the machine cancels. Batch 100, Adam, data resident.

## Milliseconds per optimiser step per run

{markdown(rows)}
`members` is the size of stack that the planner chooses for 20 runs (100 for MLP 10).

## Data

The exact generator makes {samples["exact generator"]:,} samples a second, the torch stream {samples["stream"]:,};
the published package makes about {data.PUBLISHED:,} (measured apart: the two cannot be installed together), so
{samples["exact generator"] / data.PUBLISHED:.0f} and {samples["stream"] / data.PUBLISHED:.0f} times as many.

## Lightning and tracking

A 2000-step fit of 20 MLPs, evaluated nine times, each run recorded in MLflow with metrics and weights, takes
{ratio:.3f} times as long as the bare stacked loop ({bare:.3f} ms per step per run).

## The main job, whole processes

40 runs (`{" ".join(main_job.OURS)}`), 6001 steps, 25 evaluations each, imports and tracking included:
plain-loop script {plain_s:.0f} s, `train.py` {ours_s:.0f} s, ratio {plain_s / ours_s:.1f}.

{experiments.section(whole, markdown)}
{procedures.section(timed, markdown)}
{metalearning.section(rate, markdown)}
{activation.section(function, markdown)}"""
    (DOCS / "bench.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
