"""Composing many configs cheaply.

Hydra needs some 50 ms to compose a config, most of it for the defaults list. Jobs of a sweep that choose the
same group options share that part: it is composed once, frozen as bytes, and each job thaws a copy and sets
its own values.
"""

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ConfigDefault
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import setup_globals
from hydra.errors import ConfigCompositionException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

_PARSER = OverridesParser.create()

# Hydra's range() takes no sums: seeds from 42 on are range(42,${plus:42,${number}})
OmegaConf.register_new_resolver("plus", lambda *terms: sum(terms), replace=True)


@lru_cache(maxsize=65536)
def parse_override(text: str) -> Override:
    """Hydra's reading of one command-line override; raises `OverrideParseException`."""
    return _PARSER.parse_overrides([text])[0]


class Composer(ConfigLoaderImpl):
    """Hydra's config loader with a short cut for the jobs of a sweep; same configs, same errors."""

    def __init__(self, config_search_path: ConfigSearchPath):
        super().__init__(config_search_path)
        self.is_group = lru_cache(maxsize=None)(self.repository.group_exists)  # asked for every override
        self._bases: dict[tuple[str, ...], Base] = {}

    @classmethod
    def of(cls, conf: Path, more: Iterable[str] = ()) -> "Composer":
        """Composer of the folder `conf` and of `more` places (`file://…`, `pkg://…`), outside of a Hydra program."""
        setup_globals()
        search_path = create_config_search_path(str(conf))
        for place in more:
            search_path.prepend(provider="command-line", path=place, anchor="schema")  # Hydra wants the schema last
        return cls(search_path)

    def base(self, config_name: str, overrides: Sequence[str]) -> "Base":
        """The config chosen by `overrides` (group options, Hydra's own settings), composed by Hydra once."""
        key = (config_name, *overrides)
        if key not in self._bases:
            cfg = self.load_configuration(config_name, list(overrides), RunMode.RUN)
            self._bases[key] = Base(pickle.dumps(cfg))
        return self._bases[key]

    def base_of(self, master_config: DictConfig, overrides: Sequence[str]) -> "Base":
        """The base that a job of the sweep `master_config` starts from."""
        groups = [text for text in overrides if self.is_choice(parse_override(text))]
        hydra = as_typed(master_config.hydra.overrides.hydra)
        return self.base(master_config.hydra.job.config_name, hydra + groups)

    def quick_values(self, master_config: DictConfig, overrides: Sequence[str]) -> dict[str, Any] | None:
        """Plain, resolved values of a job; None if they take its whole config. Raises OmegaConf's errors."""
        parsed = [parse_override(text) for text in overrides]
        base = self.base_of(master_config, overrides)
        interpolates = base.knows_its_job or any("${" in str(override.value()) for override in parsed)
        if interpolates or not all(map(_is_plain, parsed)):
            return None
        return base.values({o.key_or_group: o.value() for o in parsed if not self.is_choice(o)})

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The config of one job, equal to what Hydra's loader gives for it, in about 1 ms."""
        parsed = [parse_override(text) for text in sweep_overrides]
        if not all(map(_is_plain, parsed)):
            return super().load_sweep_config(master_config, sweep_overrides)
        cfg = self.base_of(master_config, sweep_overrides).thaw()
        try:
            values = [override for override in parsed if not self.is_choice(override)]
            self._apply_overrides_to_config(values, cfg)
        except OmegaConfBaseException as error:
            raise ConfigCompositionException from error
        self._record(cfg, parsed)
        OmegaConf.copy_cache(from_config=master_config, to_config=cfg)
        return cfg

    def is_choice(self, override: Override) -> bool:
        """Whether a plain override picks an option of a config group."""
        return _is_plain(override) and not isinstance(override.value(), dict) and self.is_group(override.key_or_group)

    def options(self, group: str) -> list[str]:
        """Names of the files in the folder `group`."""
        return self.repository.get_group_options(group)

    def keys(self, group: str, option: str) -> list[str]:
        """Top-level keys of one file and of those of its group that it builds on, without composing it."""
        loaded = self.repository.load_config(f"{group}/{option}")
        if loaded is None:
            return []
        inherited = [key for name in _inherited(loaded) for key in self.keys(group, name)]
        return list(dict.fromkeys([*inherited, *(str(key) for key in loaded.config)]))

    @staticmethod
    def _record(cfg: DictConfig, overrides: list[Override]) -> None:
        job = cfg.hydra.job
        cfg.hydra.overrides.task = [override.input_line for override in overrides]
        separators = job.config.override_dirname
        job.override_dirname = get_overrides_dirname(
            overrides=overrides,
            kv_sep=separators.kv_sep,
            item_sep=separators.item_sep,
            exclude_keys=separators.exclude_keys,
        )


def _inherited(loaded: ConfigResult) -> list[str]:
    """Options of its own group in a file's defaults list."""
    own = [entry for entry in loaded.defaults_list or [] if isinstance(entry, ConfigDefault) and not entry.is_self()]
    return [str(entry.path) for entry in own]


def _is_plain(override: Override) -> bool:
    """Whether an override picks an option or sets an existing key of the user's: no +, ~, @, sweep, hydra."""
    unusual = override.package is not None or override.is_hydra_override() or override.is_sweep_override()
    return override.type is OverrideType.CHANGE and not unusual


@dataclass(frozen=True)
class Base:
    """A composed config without any job's own values, frozen."""

    frozen: bytes

    def thaw(self) -> DictConfig:
        """A fresh copy; six times faster than `copy.deepcopy`."""
        cfg: DictConfig = pickle.loads(self.frozen)
        return cfg

    @cached_property
    def raw(self) -> dict[str, Any]:
        """Plain values, interpolations as written."""
        return plain(self.thaw(), resolve=False)

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """Plain values, interpolations resolved as for job 0; raises OmegaConf's errors."""
        return self._resolved_with({})

    def has(self, key: str) -> bool:
        """Whether the dotted `key` exists."""
        node: Any = self.raw
        for name in key.split("."):
            if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                node = node[int(name)]
            elif isinstance(node, dict) and name in node:
                node = node[name]
            else:
                return False
        return True

    @cached_property
    def keys(self) -> list[str]:
        """Dotted names of all values."""
        return list(_dotted(self.raw))

    @property
    def hydra_keys(self) -> list[str]:
        """Dotted names of all of Hydra's own settings."""
        settings: Any = OmegaConf.to_container(self.thaw().hydra, resolve=False)
        return list(_dotted(settings, "hydra."))

    def values(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Plain, resolved values after `changes` of existing keys (dotted, `padding.0` for an item).

        Takes some 0.03 ms unless an interpolation is touched; raises OmegaConf's errors.
        """
        if any(self._touches_interpolation(key, value) for key, value in changes.items()):
            return self._resolved_with(changes)
        values = deepcopy(self.resolved)
        for key, value in changes.items():
            *parents, last = key.split(".")
            node: Any = values
            for name in parents:
                node = node[int(name) if isinstance(node, list) else name]
            node[int(last) if isinstance(node, list) else last] = value
        return values

    def _resolved_with(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        cfg = self.thaw()
        for key, value in changes.items():
            OmegaConf.update(cfg, key, value, merge=True)
        with open_dict(cfg.hydra):
            cfg.hydra.job.num, cfg.hydra.job.id, cfg.hydra.runtime.output_dir = 0, "0", ""
        with current_job(cfg):
            return plain(cfg, resolve=True)

    def config(self, values: Mapping[str, Any]) -> DictConfig:
        """`values` (of a job from this base) as a config; thawed, as building one from scratch takes 2 ms."""
        cfg: DictConfig = pickle.loads(self._frozen_values)
        for key, value in _differences(self.resolved, values):
            OmegaConf.update(cfg, key, value, merge=False, force_add=True)
        return cfg

    @cached_property
    def _frozen_values(self) -> bytes:
        return pickle.dumps(OmegaConf.create(self.resolved))

    @property
    def knows_its_job(self) -> bool:
        """Whether values depend on the job's number, folder or time."""
        return any("${hydra:" in text or "${now:" in text for text in self._interpolations)

    @cached_property
    def _interpolations(self) -> list[str]:
        return [value for value in _leaves(self.raw) if isinstance(value, str) and "${" in value]

    def _touches_interpolation(self, key: str, value: Any) -> bool:
        if isinstance(value, dict) or "${" in str(value):
            return True
        return any(_mentions(text, key) for text in self._interpolations)


@contextmanager
def current_job(cfg: DictConfig) -> Iterator[None]:
    """Let `${hydra:...}` read `cfg`, as inside of a job of Hydra's own."""
    instance = HydraConfig.instance()
    before, instance.cfg = instance.cfg, cfg  # type: ignore[assignment]
    try:
        yield
    finally:
        instance.cfg = before


def as_typed(overrides: ListConfig) -> list[str]:
    """The overrides in Hydra's lists: iterating over those would resolve interpolations in them."""
    typed: Any = OmegaConf.to_container(overrides, resolve=False)
    return list(typed)


def plain(cfg: DictConfig, resolve: bool) -> dict[str, Any]:
    """The user's part of `cfg` as nested dicts and lists: everything but `hydra`."""
    task: Any = {}
    for key in cfg:
        if key == "hydra":
            continue
        node = cfg._get_node(key)
        if OmegaConf.is_config(node):
            task[key] = OmegaConf.to_container(node, resolve=resolve)
        else:
            task[key] = cfg[key] if resolve or node is None else node._value()
    return task


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            yield from _differences(old[key], value, f"{prefix}{key}.")
        elif key not in old or type(old[key]) is not type(value) or old[key] != value:
            yield f"{prefix}{key}", value


def _leaves(value: Any) -> Iterator[object]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _leaves(item)
    else:
        yield value


def _mentions(text: str, key: str) -> bool:
    """Whether the interpolation `text` may depend on `key`; in doubt it does."""
    if text.count("${") == 1 and text.startswith("${") and text.endswith("}") and text[2] != ".":
        path = text[2:-1].removeprefix("oc.select:").partition(",")[0]  # behind the comma: where the key is missing
        return path == key or path.startswith(f"{key}.") or key.startswith(f"{path}.")
    return any(name in text for name in key.split("."))
