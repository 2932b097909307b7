"""From plain values to a `Run`, or to the list of everything that is wrong with them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ValidationError

from mnist1d.config.describe import allowed
from mnist1d.config.faults import Absent, ConfigError, Fault, refuse
from mnist1d.config.schema import AnyData, Architecture, Data, Images, Model, Run, Signals, Tracking, Trainer
from mnist1d.spelling import nearest

_SECTIONS: dict[str, tuple[type[BaseModel], ...]] = {
    "task": get_args(Run.model_fields["task"].annotation),
    "model": (Model, Architecture),
    "data": (Signals, Images),
    "optimizer": get_args(Run.model_fields["optimizer"].annotation),
    "trainer": (Trainer,),
    "tracking": (Tracking,),
}


def parse(cfg: DictConfig) -> Run:
    """The typed form of a composed config; Hydra's own node is ignored. Faults raise `ConfigError`."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    values.pop("hydra", None)
    return validate(values)


def parse_or_refuse(configs: Iterable[DictConfig]) -> list[Run]:
    """The typed forms of composed configs; the faults of all go to stderr, and the program ends with status 2."""
    runs, faults = [], []
    for cfg in configs:
        try:
            runs.append(parse(cfg))
        except ConfigError as error:
            faults += error.faults
    if faults:
        refuse(faults)
    return runs


def validate(values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Run:
    """Check plain, resolved values.

    Args:
        values: nested dicts as in conf/.
        defaults: the chosen model's own file; keys that no shipped architecture has must keep their type.

    Raises:
        ConfigError: with all faults.
    """
    faults = list(_type_faults(values.get("model"), defaults or {}))
    try:
        run = Run.model_validate(values)
    except ValidationError as error:
        raise ConfigError([*translated(error, values), *faults]) from None
    if faults:
        raise ConfigError(faults)
    return run


class _DataAlone(BaseModel):
    data: AnyData


def validate_data(values: Mapping[str, Any]) -> Data:
    """Check the plain values of a data section by itself; faults raise `ConfigError`."""
    try:
        return _DataAlone.model_validate({"data": values}).data
    except ValidationError as error:
        raise ConfigError(translated(error, {"data": values})) from None


def translated(error: ValidationError, values: Mapping[str, Any]) -> Iterator[Fault]:
    """The faults behind a pydantic error about `values`."""
    for detail in error.errors(include_url=False, include_input=False):
        if detail["type"] == "conflict":
            yield from detail["ctx"]["faults"]
        else:
            yield _fault(detail["type"], detail["loc"], values)


def _fault(kind: str, loc: tuple[int | str, ...], values: Mapping[str, Any]) -> Fault:
    path = _path(loc)
    key = ".".join(path)
    if kind == "missing" and isinstance(loc[-1], str):  # else a list is too short
        return Fault(key, Absent, "is missing")
    if kind == "extra_forbidden":
        return Fault(key, Absent, "no such key", nearest=nearest(key, [*_SECTIONS, *schema_keys()]))
    if kind.startswith("union_tag"):
        path, key = [*path, "name"], f"{key}.name"
    return Fault(key, _at(values, path), f"must be {expectation(path, loc)}")


def _path(loc: tuple[int | str, ...]) -> list[str]:
    """Key of an error, without places inside of a list and the name that pydantic puts after a union's key."""
    path = [part for part in loc if isinstance(part, str)]
    return path[:1] + path[2:] if path[0] in ("optimizer", "task", "data") and len(path) > 1 else path


def _at(values: Any, path: list[str]) -> Any:
    for name in path:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def expectation(path: list[str], loc: tuple[int | str, ...]) -> str:
    """What the key at `path` accepts, in words; `loc` may say in which of its section's classes."""
    owners = _SECTIONS.get(path[0], ()) if len(path) > 1 else (Run,)
    texts = []
    for owner in [owner for owner in owners if owner.__name__ in loc] or owners:
        for name, field in owner.model_fields.items():
            if (field.alias or name) == path[-1]:
                texts.append(allowed(field.annotation, field.metadata))
    return " or ".join(dict.fromkeys(texts)).replace(" or one of ", ", ") or "of another type"


def schema_keys() -> list[str]:
    """Every dotted key that has a type and limits; those of single architectures and optimisers included."""
    keys = [name for name in Run.model_fields if name not in _SECTIONS]
    for section, owners in _SECTIONS.items():
        keys += [f"{section}.{field.alias or name}" for owner in owners for name, field in owner.model_fields.items()]
    return list(dict.fromkeys(keys))


def _type_faults(model: Any, defaults: Mapping[str, Any]) -> Iterator[Fault]:
    """Faults of the keys that only a user's own architecture has: their type is the default's."""
    central = {*Model.model_fields, "_target_", *Architecture.model_fields}
    if defaults and isinstance(model, Mapping):
        for key in [key for key in model if key not in defaults]:
            yield Fault(f"model.{key}", model[key], f"model={defaults.get('name')} has no such key")
    for key, default in defaults.items():
        value = model.get(key) if isinstance(model, Mapping) else None
        if key not in central and not _alike(value, default):
            text = f"must be {allowed(type(default))}, like its default {default}"
            yield Fault(f"model.{key}", value, text)


def _alike(value: Any, default: Any) -> bool:
    if default is None or type(value) is type(default):
        return True
    return isinstance(default, float) and type(value) is int
