"""Checking a command line before anything heavy is imported.

Hydra stops at the first fault and advises `+key` for a typo. Here every override, every value of a sweep and
every combination of values is looked at, and all faults are shown together, within a second. Hydra's own
parsers read the command line, Hydra's own loader composes the configs.
"""

from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice, product
from math import ceil, inf, isfinite, prod
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TYPE_CHECKING, Any, get_args

from mnist1d.config.faults import Absent, ConfigError, Conflict, Fault, refuse
from mnist1d.config.launcher import launcher_faults
from mnist1d.config.limits import too_large, too_many
from mnist1d.config.schema import Run
from mnist1d.config.validate import validate
from mnist1d.spelling import nearest, spelled

if TYPE_CHECKING:  # Hydra takes 0.1 s to import: not for those who only want `Run`
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

    from mnist1d.compose import Base, Composer

CONF = Path(__file__).resolve().parents[2] / "conf"
NO_OUTPUT = {"plan", "sync"}  # true: nothing is trained, so nothing needs a folder
ONE_VALUE = NO_OUTPUT | {"experiment", "profile", "force"}  # an experiment brings its own sweep; others are about it
FIRST_FILES = 65_536  # bytes: room that Hydra's own files need at least
VALIDATED = ("classification", "recipe")  # tasks whose runs can be compared by validation accuracy
LONGEST_KEY = 200
MOST_VALUES = 200  # of one key that are looked at, from both ends
ENDLESS = 1e15  # values that no sweep has
MOST_COMBINATIONS = 10_000  # of all keys; the launcher looks at every job again before it trains any


def check(argv: Sequence[str], conf: Path = CONF) -> None:
    """Print all faults of a command line to stderr and exit with status 2; return if there are none.

    Args:
        argv: the arguments, without the program's name.
        conf: folder of config.yaml and its groups.

    Calls that train nothing (--help, --cfg, --info …) and those with a main config of their own (--config-path,
    --config-name) are left to Hydra. torch is never imported.
    """
    from hydra._internal.utils import get_args_parser

    args = get_args_parser().parse_args(list(argv))
    asks = (args.help, args.hydra_help, args.cfg, args.info, args.shell_completion, args.experimental_rerun)
    if any((*asks, args.config_path, args.config_name)):
        return
    if faults := command_faults(args, conf):
        refuse(faults)


def command_faults(args: Namespace, conf: Path) -> list[Fault]:
    """Everything that is wrong with parsed arguments, each fault once."""
    from hydra import version

    from mnist1d.compose import Composer

    version.setbase("1.3")
    overrides, found = read(args.overrides)
    found += contradictions(overrides)
    if args.config_dir and not Path(args.config_dir).is_dir():
        found.append(Fault("--config-dir", args.config_dir, "no such folder"))
    examination = Examination(Composer.of(conf, _places(args.config_dir, overrides)), found)
    try:
        examination.examine(overrides, args.multirun)
    except Exception as error:  # whatever else Hydra or OmegaConf object to, in their words
        examination.found.append(_foreign(error))
    return ConfigError(examination.found).faults


def _places(folder: str | None, overrides: "Iterable[Override]") -> Iterator[str]:
    """Where Hydra looks for configs besides conf/."""
    if folder and Path(folder).is_dir():
        yield f"file://{Path(folder).absolute()}"
    for override in overrides:
        if override.key_or_group == "hydra.searchpath" and isinstance(places := override.value(), list):
            yield from map(str, places)


def read(texts: Iterable[str]) -> "tuple[list[Override], list[Fault]]":
    """Overrides as Hydra parses them, and a fault for each that it cannot parse."""
    from hydra.errors import HydraException

    from mnist1d.compose import parse_override

    overrides, faults = [], []
    for text in texts:
        try:
            override = parse_override(text)
            if not override.key_or_group:
                raise HydraException
            overrides.append(override)
        except (HydraException, RecursionError):  # brackets within brackets within brackets
            problem = "cannot be read" if "=" in text else "not of the form key=value"
            faults.append(Fault(text, Absent, problem, "key=value, key=[a,b]; with -m also key=a,b or 'key=range(5)'"))
    return overrides, faults


def contradictions(overrides: "Iterable[Override]") -> Iterator[Fault]:
    """Faults of keys that are given twice, with different values."""
    seen: dict[str, str] = {}
    for override in overrides:
        for key, text in _assigned(override):
            if seen.setdefault(key, text) != text:
                yield Fault(key, Absent, f"given twice, as {seen[key]} and as {text}")


def _assigned(override: "Override") -> Iterator[tuple[str, str]]:
    """The keys that an override sets, with what it sets them to: `data={seed:1}` sets data.seed as well."""
    from hydra.core.override_parser.types import ValueType

    typed = _typed(override)
    yield override.get_key_element().lstrip("+"), typed
    if override.is_choice_sweep() and override.value_type is not ValueType.GLOB_CHOICE_SWEEP:
        swept = Setting.of(override)
        yield from {part.key: typed for each in swept.values for part in Setting(swept.key, [each]).nested()}.items()
    elif not (override.is_sweep_override() or override.is_delete()):
        yield from ((part.key, part.typed) for part in Setting.of(override).nested())


@contextmanager
def no_folders_for_a_plan(argv: list[str]) -> Iterator[None]:
    """Where a sound command line asks for plan=true or sync=true, Hydra's output folder is gone afterwards."""
    if not any(override.key_or_group in NO_OUTPUT and override.value() is True for override in read(argv[1:])[0]):
        yield
        return
    with TemporaryDirectory() as folder:
        argv += [f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]
        yield


@dataclass(frozen=True)
class Setting:
    """A key of the user's config and the values it is to take, each with its spelling on the command line."""

    key: str
    values: list[tuple[str, Any]]
    swept: bool = False
    added: bool = False

    @classmethod
    def of(cls, override: "Override") -> "Setting":
        """The setting that an override asks for."""
        if override.is_sweep_override():
            convert = override._convert_value
            values = list(zip(override.sweep_string_iterator(), map(convert, override.sweep_iterator()), strict=True))
        else:
            value: Any = override.value()
            values = [(override.get_value_element_as_str(), value)]
        return cls(override.key_or_group, values, override.is_sweep_override(), override.is_add())

    @property
    def typed(self) -> str:
        """All values, as one would type them."""
        shown = [text.replace("\\:", ":") for text, _ in self.values]  # Hydra escapes what need not be
        return ",".join(shown if len(shown) <= 5 else [*shown[:3], "…", shown[-1]])

    @property
    def sample(self) -> list[tuple[str, Any]]:
        """The values, or many from both ends if there are too many."""
        half = MOST_VALUES // 2
        return self.values if len(self.values) <= MOST_VALUES else self.values[:half] + self.values[-half:]

    def parts(self) -> "Iterator[Setting]":
        """`data={seed:1}` as `data.seed=1`, which means the same."""
        _, value = self.values[0]
        if self.swept or not isinstance(value, dict) or not value:
            yield self
            return
        for name, item in value.items():
            yield from replace(self, key=f"{self.key}.{name}", values=[(spelled(item), item)]).parts()

    def nested(self) -> "Iterator[Setting]":
        """`parts`, if there are any but itself."""
        return (part for part in self.parts() if part.key != self.key)

    def repeated(self) -> Iterator[Fault]:
        """Faults of values that a sweep has twice: the same run would count as two."""
        seen: set[str] = set()
        for text, value in self.values if self.swept else ():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            known = str(float(value)) if number else spelled(value)
            if known in seen:
                yield Fault(self.key, text, "given twice")
            seen.add(known)


@dataclass
class Examination:
    """Looks at one command line step by step; each step notes its faults and passes on what is sound."""

    composer: "Composer"
    found: list[Fault] = field(default_factory=list)
    hydra: list[str] = field(default_factory=list)

    def examine(self, overrides: "list[Override]", multirun: bool) -> None:
        """Note all faults of `overrides`."""
        sound = [override for override in overrides if self._is_sound(override)]
        self._accept_hydra([override for override in sound if override.is_hydra_override()], self._experiment(sound))
        own = [replace(o, config_loader=self.composer) for o in sound if not o.is_hydra_override()]
        listed = [override for override in own if not override.is_interval_sweep()]
        typed = self._settings(listed)
        master = self._master(typed)
        self.found += launcher_faults(master.hydra.launcher)
        many = multirun or str(master.hydra.mode).endswith("MULTIRUN")
        searches = many and "objective" in master.hydra.sweeper
        self.found += [_no_list(o) for o in own if o.is_interval_sweep() and not searches]
        if searches:
            self._examine_search(master, own)
        elif many:
            grids = self._grids(master, listed)
            self.found += self._too_many(grids)
            for grid in grids:
                self._examine_jobs(self._settings(grid))
        else:
            self.found += [_not_swept(setting) for setting in typed if setting.swept and setting.key not in ONE_VALUE]
            self._examine_jobs(typed)
        if not any(setting.key in NO_OUTPUT and setting.values[0][1] is True for setting in typed):
            self.found += _unwritable(master, "sweep" if multirun else "run")

    def _is_sound(self, override: "Override") -> bool:
        faults = list(self._form_faults(override))
        self.found += faults
        return not faults

    def _form_faults(self, override: "Override") -> Iterator[Fault]:
        key, typed = override.key_or_group, _typed(override)
        if len(key) > LONGEST_KEY:  # no file could have that name
            yield Fault(key, typed, "no such key")
        elif override.is_hydra_override():
            if override.is_sweep_override():
                yield Fault(key, typed, "Hydra's own settings cannot be swept")
            elif self.composer.is_group(key) and override.value() not in [None, *self.composer.options(key)]:
                yield self._no_option(key, typed)
        elif override.package is not None:
            yield Fault(override.get_key_element(), typed, "keys and groups stay in their place: leave out the @")
        elif key in ("claim", "page"):
            yield Fault(key, typed, f"{key}s are no part of a run: analyze.py reads them")
        elif override.is_delete():
            yield Fault(f"~{key}", Absent, "neither keys nor groups can be removed")
        elif override.is_add() and self.composer.is_group(key):
            yield _not_added(key, typed)
        elif not isfinite(count := self._length(override)):
            yield Fault(key, typed, "never ends", "range(stop), range(start,stop), range(start,stop,step); step not 0")
        else:
            yield from too_many(count, f"{key}={typed}")

    def _length(self, override: "Override") -> float:
        """How many values an override has, without making them; infinite for a range that never ends."""
        from hydra.core.override_parser.types import RangeSweep

        if not override.is_sweep_override() or override.is_interval_sweep():
            return 1
        if not override.is_range_sweep():
            return sum(1 for _ in replace(override, config_loader=self.composer).sweep_iterator())
        swept = override.value()
        assert isinstance(swept, RangeSweep)
        start, stop, step = swept.start or 0, swept.stop or 0, swept.step
        if not step or not abs(stop - start) < abs(step) * ENDLESS:
            return inf
        return max(0, ceil((stop - start) / step))

    def _too_many(self, grids: "list[list[Override]]") -> Iterator[Fault]:
        """A fault of the sweeps that are too many runs together, though none is by itself."""
        swept = [[override for override in grid if override.is_sweep_override()] for grid in grids]
        count = sum(prod(map(self._length, grid)) for grid in swept)
        return too_many(count, " ".join(dict.fromkeys(str(each.input_line) for grid in swept for each in grid)))

    def _experiment(self, overrides: "list[Override]") -> list[str]:
        """The experiment asked for, as it was typed: its file brings settings of Hydra's own."""
        asked = [override for override in overrides if override.key_or_group == "experiment"]
        known = self.composer.options("experiment")
        return [str(o.input_line) for o in asked if not o.is_sweep_override() and o.value() in known][:1]

    def _accept_hydra(self, overrides: "list[Override]", experiment: list[str]) -> None:
        """Keep those of Hydra's own settings that it can compose; its groups and the experiment decide on the keys."""
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        for override in sorted(overrides, key=lambda override: not self.composer.is_group(override.key_or_group)):
            hydra = [*self.hydra, str(override.input_line)]
            try:
                self.composer.base("config", [*hydra, *experiment])
                self.hydra = hydra
            except (HydraException, OmegaConfBaseException) as error:
                self.found.append(self._hydra_fault(override, error, experiment))

    def _hydra_fault(self, override: "Override", error: Exception, experiment: list[str]) -> Fault:
        from omegaconf.errors import ConfigAttributeError, ConfigKeyError

        key, value = override.get_key_element(), Absent if override.is_delete() else _typed(override)
        if key == "hydra/sweeper" and experiment:
            return Fault(key, value, f"{experiment[0]} brings a sweep for another sweeper")
        if isinstance(error.__cause__, ConfigAttributeError | ConfigKeyError):
            if str(value).startswith("{"):
                return Fault(key, value, f"takes new keys one by one: +{key}.NAME=VALUE")
            if text := self._who_has(key, experiment):
                return Fault(key, value, text)
            known = self.composer.base("config", [*self.hydra, *experiment]).hydra_keys
            return Fault(key, value, "no such key", nearest=nearest(override.key_or_group, known))
        return Fault(key, value, _first_line(error.__cause__ or error))

    def _who_has(self, key: str, experiment: list[str]) -> str:
        """Which option has one of Hydra's keys that the chosen one lacks; empty if none has."""
        chosen = self.composer.base("config", [*self.hydra, *experiment]).thaw().hydra.runtime.choices
        for group, option in (("hydra/launcher", "stack"), ("hydra/sweeper", "optuna"), ("hydra/sweeper", "grids")):
            section = group.replace("/", ".")
            if key.startswith(f"{section}.") and key in self.composer.base("config", [f"{group}={option}"]).hydra_keys:
                return f"{group}={chosen[group]} has no such key, {group}={option} has"
        return ""

    def _settings(self, overrides: "Iterable[Override]") -> list[Setting]:
        """Settings with their values (existing options only, of groups); a key given twice has all of its."""
        settings: dict[str, Setting] = {}
        for setting in self._parts(overrides):
            if setting.swept and setting.key in ONE_VALUE:
                self.found.append(Fault(setting.key, setting.typed, "takes one value for a whole sweep"))
            self.found += setting.repeated()
            before = settings[setting.key].values if setting.key in settings else []
            settings[setting.key] = replace(setting, values=[*before, *self._with_options(setting)])
        return [setting for setting in settings.values() if setting.values]

    def _parts(self, overrides: "Iterable[Override]") -> Iterator[Setting]:
        for override in overrides:
            setting = Setting.of(replace(override, config_loader=self.composer))
            if not setting.values:
                self.found.append(Fault(setting.key, _typed(override), "matches nothing", self._listed(setting.key)))
            yield from setting.parts() if setting.values else ()

    def _with_options(self, setting: Setting) -> list[tuple[str, Any]]:
        if not self.composer.is_group(setting.key):
            return setting.values
        options = self.composer.options(setting.key)
        good = [(text, value) for text, value in setting.values if text in options or isinstance(value, dict)]
        for text, value in setting.values:
            if (text, value) not in good:
                self.found.append(self._no_option(setting.key, text))
            elif isinstance(value, dict) is self._is_choice(setting):
                self.found.append(Fault(setting.key, setting.typed, "sweeps over options and over keys at once"))
        return good

    def _no_option(self, group: str, given: str) -> Fault:
        options = self.composer.options(group)
        return Fault(group, given, "no such option", ", ".join(options), nearest(given, options))

    def _listed(self, key: str) -> str:
        return ", ".join(self.composer.options(key)) if self.composer.is_group(key) else ""

    def _is_choice(self, setting: Setting) -> bool:
        return self.composer.is_group(setting.key) and not isinstance(setting.values[0][1], dict)

    def _master(self, typed: list[Setting]) -> "DictConfig":
        """The config of the sweep as a whole: swept keys keep their defaults."""
        choices = [f"{s.key}={s.values[0][0]}" for s in typed if self._is_choice(s) and not s.swept]
        master = self.composer.base("config", [*self.hydra, *choices]).thaw()
        for setting in typed:
            if setting.key == "profile":  # decides how much an experiment sweeps
                master.profile = setting.values[0][1]
        return master

    def _grids(self, master: "DictConfig", typed: "list[Override]") -> "list[list[Override]]":
        """The grids of the experiment's file, under the command line; one fault if that leaves none of them."""
        from mnist1d.compose import parse_override
        from mnist1d.grids import union

        sweeper = _sweeper(master)
        params, grids = sweeper.get("params") or {}, sweeper.get("grids") or {}
        found = union(params, grids, typed, parse_override, self.composer.is_choice)
        if not found:
            self.found += _no_grid(typed, params, grids, str(master.profile))
        return found

    def _examine_search(self, master: "DictConfig", typed: "list[Override]") -> None:
        """What is searched, under the command line, and how: intervals stand for their ends."""
        from mnist1d import space
        from mnist1d.compose import parse_override

        settings = _sweeper(master)
        self.found += space.setting_faults(settings) if settings else ()
        params, faults = read(f"{key}={values}" for key, values in settings.get("params", {}).items())
        self.found += [replace(fault, key=f"hydra.sweeper.params.{fault.key}", allowed=space.FORMS) for fault in faults]
        overrides = space.merged(params, typed)
        wrong = [list(space.form_faults(override)) for override in overrides]
        self.found += [fault for own in wrong for fault in own]
        if settings and not space.varied(overrides):
            self.found.append(space.nothing_varied())
        good = [override for override, own in zip(overrides, wrong, strict=True) if not own]
        examples = self._settings(space.examples(override, parse_override) for override in good)
        self._examine_jobs(examples)
        self._examine_validation(examples)

    def _examine_validation(self, settings: list[Setting]) -> None:
        """Candidates of a search are compared by validation accuracy: they must measure it."""
        splits = [value for setting in settings for _, value in setting.values if setting.key == "data.val_split"]
        for base in self._bases(settings):
            if (task := base.raw["task"]["name"]) not in VALIDATED:
                self.found.append(Fault("task", task, "has no validation accuracy to search by", ", ".join(VALIDATED)))
            if 0 in (splits or [base.raw["data"]["val_split"]]):
                text = "a search compares candidates on validation data"
                self.found.append(Fault("data.val_split", 0.0, text, "a number above 0 and below 1, as 0.1"))

    def _bases(self, settings: list[Setting]) -> "Iterator[Base]":
        """The configs of all combinations of options."""
        choices = [setting for setting in settings if self._is_choice(setting)]
        for chosen in product(*([f"{setting.key}={text}" for text, _ in setting.values] for setting in choices)):
            yield self.composer.base("config", [*self.hydra, *chosen])

    def _examine_jobs(self, settings: list[Setting]) -> None:
        changes = [setting for setting in settings if not self._is_choice(setting)]
        for base in self._bases(settings):
            self._examine_values([setting for setting in changes if self._is_known(setting, base)], base)

    def _is_known(self, setting: Setting, base: "Base") -> bool:
        if not base.has(setting.key):
            self.found.append(self._unknown(setting, base))
        elif setting.added:
            self.found.append(_not_added(setting.key, setting.typed))
        else:
            return True
        return False

    def _unknown(self, setting: Setting, base: "Base") -> Fault:
        section, _, name = setting.key.partition(".")
        if name and self.composer.is_group(section):
            options = self.composer.options(section)
            if owners := [f"{section}={option}" for option in options if name in self.composer.keys(section, option)]:
                chosen, verb = (
                    f"{section}={base.raw[section].get('name')}",
                    "has" if len(owners) == 1 else "have",
                )
                return Fault(setting.key, setting.typed, f"{chosen} has no such key, {' and '.join(owners)} {verb}")
        groups = [group for group in self.composer.list_groups("") if group != "hydra"]
        close = nearest(setting.key, [*base.keys, *groups])
        return Fault(f"{'+' * setting.added}{setting.key}", setting.typed, "no such key", nearest=close)

    def _examine_values(self, settings: list[Setting], base: "Base") -> None:
        """Each value by itself, then every combination of the good ones."""
        good: list[tuple[str, list[Any]]] = []
        for setting in settings:
            faults = [(value, self._own_faults(setting.key, value, base)) for _, value in setting.sample]
            self.found += [fault for _, own in faults for fault in own]
            if values := [value for value, own in faults if not own]:
                # Only keys of task, model and data meet in rules over several keys: of others, one value will do.
                joined = setting.key.startswith(("task.", "model.", "data."))
                good.append((setting.key, values if joined else values[:1]))
        keys = [key for key, _ in good]
        for combination in islice(product(*(values for _, values in good)), MOST_COMBINATIONS):
            self.found += _faults(base, dict(zip(keys, combination, strict=True)))

    def _own_faults(self, key: str, value: Any, base: "Base") -> list[Fault]:
        """Faults that a value has whatever the other keys are."""
        section, _, name = key.partition(".")
        profiles = list(base.raw.get("profiles") or ()) or _profiles()
        if key == "profile" and value not in profiles:
            return [Fault(key, value, f"must be one of {', '.join(profiles)}")]
        chosen = base.raw[section].get("name") if isinstance(base.raw[section], dict) else None
        given = value.get("name", chosen) if isinstance(value, dict) and not name else value
        if name in ("", "name") and chosen is not None and self.composer.is_group(section) and given != chosen:
            text = f"follows from the group: type {section}={given}"
            return [Fault(f"{section}.name", given, text, self._listed(section))]
        own = [fault for fault in _faults(base, {key: value}) if not isinstance(fault, Conflict)]
        return [fault for fault in own if f"{key}.".startswith(f"{fault.key}.")]


def _faults(base: "Base", changes: dict[str, Any]) -> list[Fault]:
    from omegaconf.errors import OmegaConfBaseException

    try:
        return list(too_large(validate(base.values(changes), base.resolved["model"])))
    except ConfigError as error:
        return error.faults
    except OmegaConfBaseException as error:
        return [Fault(str(error.full_key), Absent, _first_line(error))]


def _profiles() -> list[str]:
    return list(get_args(Run.model_fields["profile"].annotation))


def _typed(override: "Override") -> str:
    return str(override.input_line).partition("=")[2]


def _sweeper(master: "DictConfig") -> dict[str, Any]:
    """The settings of the sweeper; empty where the experiment lacks its profile, which `_own_faults` reports."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        settings: Any = OmegaConf.to_container(master.hydra.sweeper, resolve=True)
    except OmegaConfBaseException:
        return {}
    return dict(settings)


def _no_list(override: "Override") -> Fault:
    """The fault of an interval where no search is made."""
    text, limit = "an interval has no list of values", "a,b,c or range(start,stop,step)"
    return Fault(override.key_or_group, _typed(override), text, limit)


def _no_grid(
    typed: "list[Override]", params: dict[str, str], grids: dict[str, dict[str, str]], profile: str
) -> Iterator[Fault]:
    """Faults of the group options that no grid of the experiment has in this profile."""
    for override in typed:
        key = override.get_key_element()
        options = dict.fromkeys(own[key] for own in ({**params, **grid} for grid in grids.values()) if key in own)
        if options and _typed(override) not in options:
            text = f"no part of the experiment has it in profile={profile}"
            yield Fault(key, _typed(override), text, ", ".join(options))


def _not_swept(setting: Setting) -> Fault:
    return Fault(setting.key, setting.typed, "several values: add -m to sweep over them, or type a list as key=[a,b]")


def _unwritable(master: "DictConfig", kind: str) -> Iterator[Fault]:
    """A fault if Hydra's output folder could not be made: Hydra would show where in its code it found that out."""
    from omegaconf.errors import OmegaConfBaseException

    key, folder = f"hydra.{kind}.dir", Path()
    try:
        folder = Path(str(master.hydra[kind].dir)).absolute()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        with TemporaryFile(dir=there) as file:
            file.write(bytes(FIRST_FILES))
    except OSError as error:
        yield Fault(key, folder, f"cannot be made: {error.strerror}")
    except OmegaConfBaseException as error:
        yield Fault(key, Absent, _first_line(error))
    except ValueError as error:  # a null character
        yield Fault(key, folder, f"cannot be made: {error}")


def _not_added(key: str, typed: str) -> Fault:
    return Fault(f"+{key}", typed, "exists already: leave out the +")


def _foreign(error: Exception) -> Fault:
    from yaml import MarkedYAMLError

    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        return Fault(str(mark.name), Absent, f"cannot be read: {error.problem} (line {mark.line + 1})")
    return Fault("config", Absent, _first_line(error))


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
