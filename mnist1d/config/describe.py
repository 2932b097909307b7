"""Types and limits in words."""

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf
from pydantic.fields import FieldInfo

_NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}


def allowed(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a key accepts, to follow "must be": `a number from 0 to 1`, `one of max, avg`, `text or null`."""
    origin, arguments, metadata = get_origin(annotation), get_args(annotation), list(metadata)
    if origin is Annotated:
        titles = [item.title for item in arguments[1:] if isinstance(item, FieldInfo) and item.title]
        if titles:
            return titles[0]
        return allowed(arguments[0], [*_unpacked(arguments[1:]), *metadata])
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (Union, UnionType):
        return " or ".join(allowed(argument) for argument in arguments)
    if origin is tuple:
        return f"two {_items(arguments[0])}, as [a,b]"
    if origin is list:
        return f"a list of {_items(arguments[0])}, as [a,b]{_limits(metadata)}"
    return _NOUNS.get(annotation, "a section of keys") + _limits(metadata)


def choices(annotation: Any) -> list[str]:
    """The texts that a key accepts by name: those of its literals."""
    if get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if isinstance(choice, str)]
    return [choice for argument in get_args(annotation) for choice in choices(argument)]


def _items(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return f"any of {', '.join(map(str, get_args(annotation)))}"
    metadata = _unpacked(get_args(annotation)[1:]) if get_origin(annotation) is Annotated else []
    return _PLURALS[get_args(annotation)[0] if metadata else annotation] + _limits(metadata)


def _unpacked(metadata: Iterable[Any]) -> list[Any]:
    return [limit for item in metadata for limit in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _limits(metadata: list[Any]) -> str:
    lower, upper, other = "", "", ""
    for limit in metadata:
        match limit:
            case Ge(ge=bound):
                lower = f" from {bound}"
            case Gt(gt=bound):
                lower = f" above {bound}"
            case Le(le=bound):
                upper = f" to {bound}"
            case Lt(lt=bound):
                upper = f" and below {bound}"
            case MultipleOf(multiple_of=step):
                other += f", a multiple of {step}"
            case MinLen():
                other += ", not empty"
    return (lower if upper else lower.replace(" from", " of at least")) + upper + other
