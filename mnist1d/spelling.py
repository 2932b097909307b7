"""Words of the command line: how a value is typed, which known word resembles another, sizes and times for people."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from urllib.parse import urlsplit

YEAR = 365.25 * 86_400  # seconds
MOST = 1e30  # numbers beyond, which people can type, are no floats
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


def hint(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown `word`: "; did you mean …", or nothing where none of `known` is near."""
    return "".join(f"; did you mean {close}" for close in nearest(word, known)[:1])


def unknown(kind: str, word: str, allowed: Iterable[str]) -> str:
    """The message that there is no such `kind`: no pooling 'maks'; did you mean max. Allowed: stride, max, l2."""
    allowed = list(allowed)
    return f"no {kind} {word!r}{hint(word, allowed)}. Allowed: {', '.join(allowed)}"


def duration(seconds: float) -> str:
    """A time for people: 0.8 s, 42 s, 3 min 5 s, 2 h 10 min, 31 years."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    if seconds >= YEAR:
        return f"{seconds / YEAR:,.0f} years"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60} h"


def size(count: float) -> str:
    """Bytes for people: 700 kB, 12 MB, 1.4 GB, 3.0 PB."""
    count = min(count, MOST)
    for unit, letters in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:,.{int(count < 10 * unit)}f} {letters}"
    return f"{max(count, 1e3) / 1e3:.0f} kB"
