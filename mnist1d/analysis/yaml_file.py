"""What analyze.py is told in YAML files: sections, and every fault with file, full key, value and what is allowed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import MarkedYAMLError, YAMLError

from mnist1d.config import ConfigError, Fault
from mnist1d.config.describe import allowed
from mnist1d.config.faults import Absent
from mnist1d.config.schema import Section
from mnist1d.spelling import nearest

S = TypeVar("S", bound=Section)


def read(file: Path, group: str, what: str) -> dict[str, Any]:
    """The keys of a file and their values; all keys are texts, 5000 and yes as well.

    group  what conf/ calls its folder
    what   what the keys and values are, to follow "must map"
    Raises ConfigError for a file that is absent (with those beside it), cannot be read or has no keys.
    """
    name = f"{group}/{file.name}"
    if not file.is_file():
        known = sorted(path.stem for path in file.parent.glob("*.yaml"))
        raise ConfigError([Fault(name, Absent, "no such file", ", ".join(known), nearest(file.stem, known))])
    try:
        values = OmegaConf.to_container(OmegaConf.load(file))  # refuses a key given twice, which PyYAML would not
    except MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ConfigError([Fault(name, Absent, f"cannot be read: {error.problem}{line}")]) from None
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:  # no text, or a ${ without its end
        raise ConfigError([Fault(name, Absent, f"cannot be read: {str(error).partition(chr(10))[0]}")]) from None
    if not isinstance(values, dict) or not values:
        raise ConfigError([Fault(name, Absent, f"must map {what}")])
    return _worded(values)


def _worded(values: Any) -> Any:
    return {str(key): _worded(value) for key, value in values.items()} if isinstance(values, dict) else values


def make(kind: type[S], values: Mapping[str, Any], prefix: Sequence[str], given: Mapping[str, Any] | None = None) -> S:
    """A section of `kind` from the values of a file, and from those that are `given` and cannot stand there.

    prefix  the file and the place in it that the values stand at: a key is these and its own path, with dots
    Raises ConfigError with all faults.
    """
    own = given or {}
    faults = [Fault(".".join((*prefix, key)), Absent, "no such key") for key in own if key in values]
    try:
        section = kind.model_validate({**values, **own})
    except ValidationError as error:
        faults += _translated(error, kind, values, prefix, own)
    if faults:
        raise ConfigError(faults)
    return section


def _translated(
    error: ValidationError, kind: type[Section], values: Mapping[str, Any], prefix: Sequence[str], own: Collection[str]
) -> Iterator[Fault]:
    for detail in error.errors(include_url=False, include_input=False):
        loc = [str(name) for name in detail["loc"]]
        if detail["type"] == "conflict":
            for fault in detail["ctx"]["faults"]:
                yield replace(fault, key=".".join((*prefix, *loc, fault.key)))
        else:
            path, siblings, accepts = _field(kind, loc, own)
            yield _fault(detail["type"], path, siblings, accepts, values, ".".join((*prefix, *path)))


def _fault(kind: str, path: Sequence[str], siblings: Sequence[str], accepts: str, values: Any, key: str) -> Fault:
    if kind == "missing":
        return Fault(key, Absent, "is missing", accepts)
    if kind == "extra_forbidden":
        return Fault(key, Absent, "no such key", ", ".join(siblings), nearest(path[-1], siblings))
    for name in path:
        values = values[name]
    return Fault(key, values, f"must be {accepts}")


def _field(kind: type[Section], loc: Sequence[str], own: Collection[str]) -> tuple[list[str], list[str], str]:
    """The path of an error, the keys that may stand there, and what its own accepts, in words."""
    annotation: Any = kind
    path: list[str] = []
    siblings: list[str] = []
    metadata: list[Any] = []
    for name in loc:
        inner = _without_none(annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            siblings = [key for key in inner.model_fields if key not in own]
            field = inner.model_fields.get(name)
            annotation, metadata = (field.annotation, field.metadata) if field else (None, [])
        elif get_origin(inner) is dict:
            annotation, metadata = get_args(inner)[1], []
        else:  # the member of a union, which pydantic puts at the end
            break
        path.append(name)
    return path, siblings, allowed(annotation, metadata)


def _without_none(annotation: Any) -> Any:
    """What may stand where null may stand as well."""
    kinds = [each for each in get_args(annotation) if each is not NoneType]
    return kinds[0] if get_origin(annotation) in (Union, UnionType) and len(kinds) == 1 else annotation
