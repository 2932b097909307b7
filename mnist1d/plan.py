"""From runs to stacks: which runs may train as one batched computation, and how many of them at a time."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mnist1d.config import Run

VALUES = frozenset(
    {
        "seed",
        "task.criterion",
        "task.outer_lr",
        "task.init",
        "task.shuffle_masks",
        "task.temperature",
        "task.max_shift",
        "task.slope_scale",
        "task.offset_scale",
        "optimizer.lr",
        "optimizer.weight_decay",
        "data.seed",
        "data.label_noise",
        "data.label_noise_mode",
        "data.shuffle_features",
        "data.feature_seed",
        "data.feature_order",
        "data.chunk_length",
        "data.zero_window",
        "data.template_len",
        "data.padding",
        "data.scale_coeff",
        "data.max_translation",
        "data.corr_noise_scale",
        "data.iid_noise_scale",
        "data.shear_scale",
        "data.shuffle_seq",
    }
)
"""Keys in which members of one stack may differ: they change numbers, not shapes, schedule or code path."""

DESCRIPTIVE = frozenset(
    {
        "trainer.accelerator",
        "trainer.checkpoint_seconds",
        "trainer.may_diverge",
        "trainer.memory",
        "trainer.stack",
        "trainer.threads",
    }
)
"""Keys that say where and how a run is trained; its numbers do not depend on them (beyond rounding)."""

LABELS = DESCRIPTIVE | {"experiment", "profile"}
"""These, and the keys that say why it is trained."""

NEUTRAL = {
    "task.name": "classification",
    "task._target_": "mnist1d.classification.StackedClassification",
    "task.heads": 1,
    "task.ensemble": 1,
    "data.zero_window": 0,
    "trainer.matmul_precision": "highest",
    "model.activation": "relu",
    "model.layers": 2,
    "model.dropout": 0.0,
    "model.window": 2,
    "model.pool_stride": None,
}
"""Keys that came later, at the values that stand for what was done before: these do not count for a fingerprint, so
that runs recorded without the key are found. A new option belongs here with the value that leaves it out."""


@dataclass(frozen=True)
class Stack:
    """Runs that train together; `indices` are their places in the sweep."""

    runs: tuple[Run, ...]
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.runs)

    def halves(self) -> tuple["Stack", "Stack"]:
        """The stack cut in two, for when it does not fit into memory."""
        half = len(self) // 2
        return (
            Stack(self.runs[:half], self.indices[:half]),
            Stack(self.runs[half:], self.indices[half:]),
        )

    def without(self, indices: Collection[int]) -> "Stack | None":
        """The stack without the runs at these places in the sweep; None if none is left."""
        kept = [(run, index) for run, index in zip(self.runs, self.indices, strict=True) if index not in indices]
        return Stack(tuple(run for run, _ in kept), tuple(index for _, index in kept)) if kept else None


def fingerprint(run: Run) -> str:
    """Hash of every config value that can change the run's numbers; equal fingerprint = same run."""
    return digest(counted(run))


def counted(run: Run) -> dict[str, Any]:
    """The config values that make a run's fingerprint."""
    flat = run.flat().items()
    return {key: value for key, value in flat if key not in LABELS and (key not in NEUTRAL or value != NEUTRAL[key])}


def signature(run: Run) -> str:
    """Hash of what the members of a stack must share: everything but `VALUES`, those of its task, and labels."""
    labels = LABELS - {"trainer.stack", "trainer.memory"}  # these two decide how stacks are cut
    own = VALUES | run.task.values | labels
    return digest({key: value for key, value in run.flat().items() if key not in own})


def plan(runs: Sequence[Run], members: Mapping[str, int] | None = None) -> list[Stack]:
    """Group `runs` by signature and cut each group to its size.

    Args:
        runs: the sweep, in order.
        members: most members in a stack, by signature; groups without an entry are not cut.

    Returns:
        Stacks in order of their first run, the runs of each in the order of the sweep.
    """
    groups: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(signature(run), []).append(index)
    stacks = []
    for key, indices in groups.items():
        for part in even_parts(indices, (members or {}).get(key, len(indices))):
            stacks.append(Stack(tuple(runs[i] for i in part), tuple(part)))
    return stacks


def even_parts(items: list[int], most: int) -> list[list[int]]:
    """`items` cut into as few parts of at most `most` as possible, sizes differing by one at most."""
    count = -(-len(items) // most)
    cuts = [round(i * len(items) / count) for i in range(count + 1)]
    return [items[a:b] for a, b in pairwise(cuts)]


def digest(values: Any) -> str:
    """16 hexadecimal digits that stand for plain values."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
