"""What a search by hydra/sweeper=optuna varies, in Hydra's grammar: the keys with an interval or several values.

Light: the check of a command line needs it before Optuna is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from mnist1d.config.faults import Absent, Fault

OBJECTIVES = {"val/acc_final": "maximize", "val/loss_final": "minimize"}
"""What candidates may be compared by, and which way it is better; test data are never looked at."""
FIRST_FRESH = 1000
"""Seeds from here on are those of the final comparison; candidates have smaller ones."""
LOG = "log"
FORMS = "interval(a,b), tag(log,interval(a,b)), range(a,b), choice(a,b) or a,b"


def merged(params: Sequence[Override], typed: Sequence[Override]) -> list[Override]:
    """The keys that a search sets, varied or not: those of `hydra.sweeper.params` under what is typed."""
    given = {override.get_key_element() for override in typed}
    return [*(override for override in params if override.get_key_element() not in given), *typed]


def varied(overrides: Sequence[Override]) -> list[Override]:
    """Those that have an interval or several values."""
    return [override for override in overrides if override.is_sweep_override()]


def ends(override: Override) -> tuple[float, float]:
    """Both ends of an interval; whole numbers where only those are drawn."""
    interval = override.value()
    assert isinstance(interval, IntervalSweep)
    assert interval.start is not None
    assert interval.end is not None
    return interval.start, interval.end


def is_logarithmic(override: Override) -> bool:
    """Whether an interval is drawn from evenly on a logarithmic scale."""
    return LOG in _tags(override)


def examples(override: Override, read: Callable[[str], Override]) -> Override:
    """An override with values that stand for all that may be drawn: of an interval its ends."""
    if not override.is_interval_sweep():
        return override
    return read(f"{override.get_key_element()}={','.join(str(end) for end in dict.fromkeys(ends(override)))}")


def form_faults(override: Override) -> Iterator[Fault]:
    """What is wrong with a key's interval or values themselves, whatever the key accepts."""
    key, typed = override.get_key_element(), str(override.input_line).partition("=")[2]
    if key == "seed":
        yield Fault(key, typed, "the search gives its candidates their seeds", "hydra.sweeper.seeds=N for 0 to N-1")
    for tag in sorted(map(str, _tags(override) - {LOG})):
        yield Fault(key, typed, f"no tag {tag}", LOG)
    if not override.is_interval_sweep():
        if is_logarithmic(override):
            yield Fault(key, typed, "only an interval can be logarithmic", "tag(log,interval(a,b))")
        return
    low, high = ends(override)
    if low >= high:
        yield Fault(key, typed, "the lower end must come first", f"interval({high:g},{low:g})" if low > high else FORMS)
    elif is_logarithmic(override) and low <= 0:
        yield Fault(key, typed, "has no logarithm at its lower end", "a lower end above 0")


def setting_faults(settings: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with the settings `hydra.sweeper` of a search."""

    def fault(key: str, problem: str, allowed: str = "") -> Fault:
        return Fault(f"hydra.sweeper.{key}", settings[key], problem, allowed)

    for key, least, most in (("n_trials", 1, None), ("seeds", 1, FIRST_FRESH), ("fresh_seeds", 0, None)):
        if settings[key] < least or (most is not None and settings[key] > most):
            limits = f"from {least} to {most}" if most else f"of at least {least}"
            yield fault(key, f"must be a whole number {limits}")
    if settings["batch"] is not None and settings["batch"] < 1:
        yield fault("batch", "must be a whole number of at least 1 or null")
    objective, direction = settings["objective"], settings["direction"]
    if objective not in OBJECTIVES:
        says = "never chooses by test data" if objective.startswith("test/") else "has no such objective"
        yield fault("objective", f"a search {says}", ", ".join(OBJECTIVES))
    elif direction != OBJECTIVES[objective]:
        yield fault("direction", f"would look for the worst {objective}", OBJECTIVES[objective])
    if settings["storage"] is not None and "://" not in settings["storage"]:
        yield fault("storage", "must be the URL of a database", "sqlite:///PATH.db, postgresql://…, mysql://… or null")


def nothing_varied() -> Fault:
    """The fault of a search without any key to search."""
    return Fault("hydra.sweeper.params", Absent, "nothing to search: no key has an interval or several values", FORMS)


def _tags(override: Override) -> set[str]:
    value = override.value()
    return set(getattr(value, "tags", ()))


def whole_numbers(override: Override) -> RangeSweep | None:
    """The range of an override that has one, of whole numbers in order."""
    value = override.value()
    steps = isinstance(value, RangeSweep) and not value.shuffle
    numbers = (value.start, value.stop, value.step) if isinstance(value, RangeSweep) else ()
    return value if steps and all(isinstance(number, int) for number in numbers) else None  # type: ignore[return-value]
