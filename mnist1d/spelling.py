"""Words of the command line: how a value is typed there, and which known word resembles another."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from urllib.parse import urlsplit

_ALIKE = 0.6  # two swapped letters of three (mpl for mlp) are 0.67 alike


def spelled(value: object) -> str:
    """`value` as one would write it on Hydra's command line: true, null, [5,3,3], 1e-08."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{spelled(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(spelled, value)) + "]"
    return str(value)


def without_password(uri: str) -> str:
    """`uri` as it may be shown."""
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@") if password else uri


def nearest(word: str, known: Iterable[str]) -> tuple[str, ...]:
    """At most three of `known` that resemble `word`: the same last part, else a similar one."""
    known = list(known)
    section, _, tail = word.rpartition(".")
    by_tail: dict[str, list[str]] = {}
    for key in known:
        by_tail.setdefault(key.rpartition(".")[2], []).append(key)
    beside = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == section}
    found = (
        by_tail.get(tail)
        or [beside[match] for match in get_close_matches(tail, beside, cutoff=_ALIKE)]
        or [key for match in get_close_matches(tail, by_tail, cutoff=_ALIKE) for key in by_tail[match]]
    )
    return tuple(found[:3])
