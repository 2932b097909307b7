"""Every config key with its default, what it accepts and what it means: docs/config.md is this module's output.

    python -m mnist1d.config.reference > docs/config.md

Defaults and meanings are the files' in conf/, limits the schema's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from mnist1d.config.describe import allowed
from mnist1d.config.schema import Architecture, Images, Model, Run, Signals, Tracking, Trainer
from mnist1d.image_sets import IMAGE_SETS

CONF = Path(__file__).resolve().parents[2] / "conf"
GROUPS = {
    "task": "What is learned: `task=NAME`",
    "model": "The architecture: `model=NAME`",
    "data": "The data set: `data=NAME`",
    "optimizer": "The update rule: `optimizer=NAME`",
    "trainer": "Length, evaluation and hardware",
}
LINE = re.compile(r"^( *)([\w-]+): *(.*?) *# (.*)$")
"""A key with its value and its comment; conf/ has one comment per key, on its line."""


def reference() -> str:
    """The whole page."""
    parts = ["# Every config key", INTRODUCTION, "## Top level", _table(_rows("", CONF / "config.yaml"))]
    for group, title in GROUPS.items():
        parts.append(f"## {title}")
        for file in sorted((CONF / group).glob("*.yaml")):
            head = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            parts += [f"### {group}={file.stem}", head, _table(_rows(group, file))]
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """\
Made by `python -m mnist1d.config.reference` from the files in [conf/](../conf), which hold defaults and meanings, and
from the schema, which holds what is allowed; a test keeps this page up to date. Type a key as `key=value` behind
`python train.py`; with `-m`, `key=a,b` sweeps. A group is chosen by its name, `model=cnn`, and brings its keys."""


def _rows(group: str, file: Path) -> Iterator[tuple[str, ...]]:
    """Key, default, what is allowed and meaning of every key in a file; Hydra's own are left out."""
    path: list[str] = [group] if group else []
    depth = len(path)
    for line in file.read_text(encoding="utf-8").splitlines():
        if not (found := LINE.match(line)):
            continue
        indent, key, value, meaning = found.groups()
        path[depth + len(indent) // 2 :] = [key]
        if path[0] in ("defaults", "hydra") or key in ("name", "_target_") or not value:
            continue
        yield f"`{'.'.join(path)}`", f"`{value}`", _accepts(path, file.stem), meaning


def _accepts(path: list[str], name: str) -> str:
    """What the schema says that a key accepts; nothing where it leaves that to the model's class."""
    for kind in _kinds(path[0], name):
        if field := kind.model_fields.get(path[-1]):
            return allowed(field.annotation, field.metadata)
    return ""


def _kinds(group: str, name: str) -> tuple[type[BaseModel], ...]:
    """The sections of the schema that a file's keys belong to."""
    fixed: dict[str, tuple[type[BaseModel], ...]] = {
        "model": (Model, Architecture),
        "data": (Images,) if name in IMAGE_SETS else (Signals,),
        "trainer": (Trainer,),
        "tracking": (Tracking,),
    }
    if group in fixed:
        return fixed[group]
    if group in ("task", "optimizer"):
        union: tuple[Any, ...] = get_args(Run.model_fields[group].annotation)
        return tuple(kind for kind in union if name in get_args(kind.model_fields["name"].annotation))
    return (Run,)


def _table(rows: Iterator[tuple[str, ...]]) -> str:
    lines = [("key", "default", "allowed", "meaning"), ("---",) * 4, *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |" for cells in lines)


if __name__ == "__main__":
    print(reference(), end="")
