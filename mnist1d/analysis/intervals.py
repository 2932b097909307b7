"""Uncertainty: numbers in, a mean with its interval and n out, as numbers and as text. Nothing is read or drawn.

Every number of a report comes from here, so that none is without its n. `t_interval` is the default: a
handful of seeds, roughly normal accuracies. `log_t_interval` is for widths and ratios, which vary by factors,
`share_interval` for how many of the seeds something holds. `bootstrap_interval` assumes no shape and wants more
seeds. `paired_difference` compares two settings seed by seed, which removes what both owe to the seed.

To each interval belongs a p value that the mean lies outside a region; it is below 5% exactly where the 95%
interval misses the region. `holm` corrects several of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, betaincinv, stdtr, stdtrit  # scipy.stats is three times as slow to import

Values = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True)
class Interval:
    """A mean over n seeds and the bounds of its confidence interval, in the units of the values.

    `low` and `high` are nan when n = 1: one seed says nothing about the spread. Equal values have width zero.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the length of the interval; nan when n = 1."""
        return (self.high - self.low) / 2

    def scaled(self, factor: float) -> Interval:
        """The same interval in other units, e.g. `scaled(100)` for a fraction in percent (factor >= 0)."""
        if factor < 0:
            raise ValueError(f"a negative factor would swap the bounds: {factor}")
        return Interval(self.mean * factor, self.low * factor, self.high * factor, self.n)


def t_interval(values: Values, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean.

    values      # [seed], any unit, at least one, all finite
    confidence  in (0, 1)
    Raises ValueError for an empty, not one-dimensional or not finite input.
    """
    sample = _checked(values, confidence)
    if np.ptp(sample) == 0:
        return _without_spread(sample)
    mean, n = float(sample.mean()), sample.size
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * _standard_error(sample)
    return Interval(mean, mean - half, mean + half, n)


def log_t_interval(values: Values, confidence: float = 0.95) -> Interval:
    """Student's t interval of the logarithms, taken back: of the geometric mean, which it surrounds by factors.

    values  # [seed], any unit, at least one, all positive and finite
    Raises ValueError for a value that is not positive, and as `t_interval` does.
    """
    sample = _checked(values, confidence)
    if np.ptp(sample) == 0:
        return _without_spread(_positive(sample))
    logs = t_interval(np.log(_positive(sample)), confidence)
    return Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high), logs.n)


def share_interval(values: Values, confidence: float = 0.95) -> Interval:
    """Exact (Clopper-Pearson) interval of the share of seeds for which something holds, in percent.

    values  # [seed], 100 where it holds, else 0
    Raises ValueError for other values, and as `t_interval` does.
    """
    sample, held = _held(values, confidence)
    n, tail = sample.size, (1 - confidence) / 2
    low = betaincinv(held, n - held + 1, tail) if held else 0.0
    high = betaincinv(held + 1, n - held, 1 - tail) if held < n else 1.0
    return Interval(float(sample.mean()), 100 * float(low), 100 * float(high), n)


def bootstrap_interval(
    values: Values, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 9999
) -> Interval:
    """Bias-corrected and accelerated (BCa) bootstrap interval of the mean, from scipy.

    values  # [seed], any unit, at least one, all finite
    rng     the only source of randomness: the same generator state gives the same bounds
    Raises ValueError as `t_interval` does.
    """
    sample = _checked(values, confidence)
    if np.ptp(sample) == 0:  # BCa divides by the jackknife's spread: equal values would give nan bounds
        return _without_spread(sample)
    low, high = _Bootstrap(sample, rng, resamples).bounds(confidence)
    return Interval(float(sample.mean()), low, high, sample.size)


def paired_difference(a: Values, b: Values, confidence: float = 0.95) -> Interval:
    """t interval of the mean of a - b, where a[i] and b[i] share seed i.

    a, b  # [seed], equal lengths, same order of seeds
    Raises ValueError for unequal lengths, and as `t_interval` does.
    """
    first, second = _checked(a, confidence), _checked(b, confidence)
    if first.size != second.size:
        raise ValueError(f"a pair needs both halves: {first.size} values against {second.size}")
    return t_interval(first - second, confidence)


def t_p_outside(values: Values, at_least: float = -math.inf, at_most: float = math.inf) -> float:
    """p value of a mean inside of [at_least, at_most]; small where the sample speaks for one outside.

    The one-sided t tests against both bounds, the smaller p doubled: below 1 - c exactly where the t interval of
    confidence c misses the region. One value refutes nothing (1.0); of equal values there is no doubt (0.0 or 1.0).

    values             # [seed], as for `t_interval`
    at_least, at_most  in the unit of the values
    """
    sample = _checked(values)
    if np.ptp(sample) == 0:
        return _p_without_spread(sample, at_least, at_most)
    mean, error = float(sample.mean()), _standard_error(sample)
    nearest = min((mean - at_least) / error, (at_most - mean) / error)
    return min(1.0, 2 * float(stdtr(sample.size - 1, nearest)))


def log_t_p_outside(values: Values, at_least: float = 0.0, at_most: float = math.inf) -> float:
    """As `t_p_outside`, of the geometric mean, and agreeing with `log_t_interval`."""
    sample = _positive(_checked(values))
    if np.ptp(sample) == 0:
        return _p_without_spread(sample, at_least, at_most)
    low, high = (math.log(bound) if bound > 0 else -math.inf for bound in (at_least, at_most))
    return t_p_outside(np.log(sample), low, high)


def share_p_outside(values: Values, at_least: float = 0.0, at_most: float = 100.0) -> float:
    """As `t_p_outside`, of a share in percent: exact binomial tests, agreeing with `share_interval`."""
    sample, held = _held(values)
    least, most = max(at_least, 0.0) / 100, min(at_most, 100.0) / 100
    too_low = float(bdtr(held, sample.size, least))
    too_high = float(bdtrc(held - 1, sample.size, most)) if held else 1.0
    return min(1.0, 2 * min(too_low, too_high))


def bootstrap_p_outside(
    values: Values,
    rng: np.random.Generator,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    resamples: int = 9999,
) -> float:
    """As `t_p_outside`, agreeing with `bootstrap_interval` of the same generator state.

    It is the smallest p whose interval of confidence 1 - p misses the region, found to 1 / (resamples + 1).
    """
    sample = _checked(values)
    if np.ptp(sample) == 0:
        return _p_without_spread(sample, at_least, at_most)
    bootstrap, known, steps = _Bootstrap(sample, rng, resamples), 0, resamples + 1
    while steps - known > 1:  # not missed at p = known / (resamples + 1), missed (or p is 1) at steps
        middle = (known + steps) // 2
        low, high = bootstrap.bounds(1 - middle / (resamples + 1))
        known, steps = (known, middle) if high < at_least or low > at_most else (middle, steps)
    return steps / (resamples + 1)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p values that may be compared with one level together, by Holm's step-down rule; same order.

    The chance that any true hypothesis falls below the level stays within it, whatever the dependence
    (Holm 1979, Scandinavian Journal of Statistics 6, 65-70).
    Raises ValueError for a value outside of [0, 1].
    """
    if bad := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"p values lie between 0 and 1, not {bad}")
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    steps = np.minimum(1.0, np.maximum.accumulate(factors * np.asarray(p_values, float)[order]))
    adjusted = np.empty_like(steps)
    adjusted[order] = steps
    return tuple(adjusted.tolist())


def interval_of(values: Values, kind: Callable[[Values], Interval] = t_interval) -> Interval | None:
    """The interval of `values` # [seed], which may be none: None then. Raises as `kind` does otherwise."""
    return kind(values) if len(values) else None


# -- as text ----------------------------------------------------------------------------------------------


def shown(interval: Interval | None, form: str = "z.1f") -> str:
    """93.0 ± 2.5; 47.3 [41.2, 55.5] where it is not symmetric; the mean alone for one seed; – for none.

    form  format of a number; with a sign in front, only means and bounds show it
    """
    if interval is None:
        return "–"
    if interval.n == 1:
        return f"{interval.mean:{form}}"
    lopsided = abs(interval.low + interval.high - 2 * interval.mean) > 1e-9 * max(abs(interval.low), abs(interval.high))
    if lopsided:
        return f"{interval.mean:{form}} [{interval.low:{form}}, {interval.high:{form}}]"
    rounded = interval.half_width if interval.half_width > 1e-9 * abs(interval.mean) else 0.0  # equal but for rounding
    return f"{interval.mean:{form}} ± {rounded:{form.removeprefix('+')}}"


def span(counts: Iterable[int]) -> str:
    """How many seeds numbers rest on: 10, or 9–10 where they differ; 0 where there are none."""
    known = set(counts) or {0}
    return str(min(known)) if len(known) == 1 else f"{min(known)}–{max(known)}"


def basis(counts: Iterable[int], unit: str = "seed") -> str:
    """What the lines and bars of a figure are, from how many seeds, or other units, each of them has."""
    n = span(counts)
    return f"one {unit}, so no intervals" if n in ("0", "1") else f"mean over n = {n} {unit}s with its 95% t interval"


class _Bootstrap:
    """Means of resamples, drawn once, and BCa bounds from them at any confidence."""

    def __init__(self, sample: NDArray[np.float64], rng: np.random.Generator, resamples: int):
        from scipy import stats

        self._take = partial(stats.bootstrap, (sample,), np.mean, method="BCa")
        self._drawn = self._take(n_resamples=resamples, rng=rng)

    def bounds(self, confidence: float) -> tuple[float, float]:
        bounds = self._take(n_resamples=0, bootstrap_result=self._drawn, confidence_level=confidence)
        return float(bounds.confidence_interval.low), float(bounds.confidence_interval.high)


def _without_spread(sample: NDArray[np.float64]) -> Interval:
    value, n = float(sample[0]), sample.size  # not the mean, which rounding may move off the values
    bound = value if n > 1 else math.nan
    return Interval(value, bound, bound, n)


def _p_without_spread(sample: NDArray[np.float64], at_least: float, at_most: float) -> float:
    return 1.0 if sample.size == 1 or at_least <= sample[0] <= at_most else 0.0


def _standard_error(sample: NDArray[np.float64]) -> float:
    return float(sample.std(ddof=1)) / math.sqrt(sample.size)


def _held(values: Values, confidence: float = 0.95) -> tuple[NDArray[np.float64], int]:
    """The checked values of a share, and for how many seeds it holds."""
    sample = _checked(values, confidence)
    if not np.isin(sample, (0, 100)).all():
        raise ValueError(f"a share is of values 0 and 100, not {sorted(set(sample.tolist()) - {0.0, 100.0})}")
    return sample, int((sample == 100).sum())


def _positive(sample: NDArray[np.float64]) -> NDArray[np.float64]:
    if (sample <= 0).any():
        bad = np.flatnonzero(sample <= 0).tolist()
        raise ValueError(f"values that have no logarithm at positions {bad}: they are not positive")
    return sample


def _checked(values: Values, confidence: float = 0.95) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0:
        raise ValueError(f"an interval is taken over seeds: expected shape [seed], got {list(sample.shape)}")
    if not np.isfinite(sample).all():
        bad = np.flatnonzero(~np.isfinite(sample)).tolist()
        raise ValueError(f"values that are not finite at positions {bad}: leave failed seeds out and say so")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, not {confidence}")
    return sample
