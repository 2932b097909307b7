"""docs/performance.md: what every experiment of the paper costs, from the figures in docs/bench.json.

A test holds the page against the figures; `make bench` writes both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from bench import CONF
from bench.activation import TARGET

SEEDS = 5
"""For how many seeds everywhere the whole paper's time is told."""


@dataclass(frozen=True)
class Cost:
    """All runs of an experiment in profile paper, in seconds.

    Attributes:
        kindest: of the kindest plain loop; None where there is only the reference's way.
        target: reference / ours.
        operations: of matrix products and convolutions in our steps.
    """

    name: str
    experiment: str
    reference: float
    kindest: float | None
    ours: float
    target: float | None
    operations: float

    @property
    def seeds(self) -> int:
        """Runs of every setting."""
        text = (CONF / "experiment" / f"{self.experiment}.yaml").read_text(encoding="utf-8")
        return int(yaml.safe_load(text)["profiles"]["paper"]["seeds"])


def costs(figures: Mapping[str, Any]) -> Iterator[Cost]:
    """The experiments in the order of the paper."""
    whole = {row["experiment"]: _whole(row) for row in figures["experiments"]["seconds"]}
    procedures = figures["lottery tickets and SimCLR"]["milliseconds per step per run"]
    parts = {row["procedure"]: _procedure(row) for row in procedures}
    yield whole["classification"]
    yield from (parts["lottery search"], parts["lottery follow-ups"])
    yield from (whole["double descent, MLP"], whole["double descent, CNN"])
    rate = figures["metalearning a learning rate"]
    yield _trainings("learning rate", "metalearn_lr", rate, rate["milliseconds per run"], None)
    function = figures["metalearning an activation function"]
    yield _trainings(
        "activation function", "metalearn_activation", function, function["milliseconds per function"], TARGET
    )
    yield from (parts["SimCLR training"], whole["pooling"])


def _whole(row: Mapping[str, Any]) -> Cost:
    name = row["experiment"]
    seconds = (row["as the reference, s"], row["kindest plain loop, s"], row["ours, s"])
    stem = name.partition(",")[0].replace(" ", "_")
    return Cost(name, stem, *seconds, row["target"], row["operations, 10^12"] * 1e12)


def _procedure(row: Mapping[str, Any]) -> Cost:
    name = row["procedure"]
    seconds = (row["as the reference, s"], row["kindest plain loop, s"], row["ours, s"])
    return Cost(name, name.split()[0].lower(), *seconds, row["target"], row["operations, 10^12"] * 1e12)


def _trainings(
    name: str, experiment: str, found: Mapping[str, Any], rows: list[dict[str, Any]], target: float | None
) -> Cost:
    """Of a part of metalearning, whose first row is the reference's way and whose last is our largest stack."""
    milliseconds = [next(value for key, value in row.items() if key.startswith("ms per")) for row in rows]
    first, last = (found["trainings"] * each / 1000 for each in (milliseconds[0], milliseconds[-1]))
    operations = found["trainings"] * found["operations of a training, 10^9"] * 1e9
    return Cost(name, experiment, first, None, last, target, operations)


def page(figures: Mapping[str, Any], table: Callable[[list[dict[str, Any]]], str]) -> str:
    """The page about these `figures`; `table` writes rows as Markdown."""
    found, peak = list(costs(figures)), figures["matrix product, 10^9 operations a second"] * 1e9
    reference, ours = (sum(getattr(cost, side) for cost in found) for side in ("reference", "ours"))
    minutes = {
        side: sum(SEEDS * getattr(cost, side) / cost.seeds for cost in found) / 60 for side in ("reference", "ours")
    }
    dear = sorted(found, key=lambda cost: SEEDS * cost.ours / cost.seeds, reverse=True)[:3]
    slow = ", ".join(f"{cost.name} {SEEDS * cost.ours / cost.seeds / 60:.0f} min" for cost in dear)
    return f"""# Performance

What the paper's experiments cost, ours beside the reference's way. Made by `make bench` on {figures["machine"]};
how each figure is measured, and many more, is in [bench.md](bench.md). Variants take turns, so ratios hold although
the machine is shared; seconds are good to some 20%, so that ratios of them differ by as much from those that
[bench.md](bench.md) takes turn by turn.

{table([_row(cost, peak) for cost in found])}
Seconds are for all runs of an experiment in `profile=paper`, with as many seeds as the column says. *Reference*: its
way of writing the loop, one run at a time. *Kindest loop*: what a careful user writes with PyTorch's own layers.
*Ours*: as `train.py` does it. Classification, double descent and pooling are whole, with evaluations, imports, data
and records on our side; lottery tickets, metalearning and SimCLR are optimiser steps alone on all sides. t-SNE is
openTSNE's work and has no row. *Share of peak* is what our steps do in matrix products and convolutions per second, in
percent of the {peak / 1e9:.0f} billion operations a second that this machine reaches in one large float32 product.

All {reference / 3600:.1f} hours in the reference's way, {ours / 3600:.1f} in ours: {reference / ours:.1f} times less.
**With {SEEDS} seeds everywhere that is {minutes["ours"]:.0f} minutes in place of {minutes["reference"]:.0f}**
(target: 90); of these {slow}.
The paper has a single run of most settings: that is {minutes["ours"] / SEEDS:.0f} minutes at least (target: 20), for
alone, without the company of other seeds, a run costs more.

## Where the time goes

- **Small nets**, of some 10,000 parameters, cost calls and not arithmetic: a stack makes them once for all its
  members. Their ratios are the high ones.
- **Large nets** (MLP 300, CNN 100, the lottery's MLP 500) are bound by arithmetic and memory even alone. A stack saves
  what surrounds the products, fused updates and activations that stay in the cache. Ratios of 2 to 4 are what is left,
  and these nets are most of the whole paper's time.
- **Lottery tickets** multiply in bfloat16 where the processor has it (`trainer.matmul_precision=medium`); in float32
  less than half of the gain is left, as [bench.md](bench.md) shows.
- **The learned activation** is a table while a net trains, and its network is evaluated once per training. The
  reference evaluates it for every unit of every sample of every step.

What a stack is cut to, and where stacks do not help, is in [stacking.md](stacking.md).
"""


def _row(cost: Cost, peak: float) -> dict[str, Any]:
    return {
        "experiment": cost.name,
        "seeds": cost.seeds,
        "reference, s": round(cost.reference),
        "kindest loop, s": "–" if cost.kindest is None else round(cost.kindest),
        "ours, s": round(cost.ours),
        "reference / ours": round(cost.reference / cost.ours, 1),
        "target": cost.target or "–",
        "share of peak, %": round(100 * cost.operations / cost.ours / peak, 1),
    }
