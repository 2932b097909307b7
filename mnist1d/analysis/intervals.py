"""Uncertainty: numbers in, a mean with its interval and n out. Arrays only; nothing is read or drawn.

Every number of a report comes from here, so that none is without its n. `t_interval` is the default: a
handful of seeds, roughly normal accuracies. `bootstrap_interval` assumes no shape and wants more seeds.
`paired_difference` compares two settings seed by seed, which removes what both owe to the seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # scipy.stats is three times as slow to import

Values = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True)
class Interval:
    """A mean over n seeds and the bounds of its confidence interval, in the units of the values.

    `low` and `high` are nan when n = 1: one seed says nothing about the spread.
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
    mean, n = float(sample.mean()), sample.size
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stdtrit(n - 1, (1 + confidence) / 2) * sample.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def bootstrap_interval(
    values: Values, rng: np.random.Generator, confidence: float = 0.95, resamples: int = 9999
) -> Interval:
    """Bias-corrected and accelerated (BCa) bootstrap interval of the mean, from scipy.

    values  # [seed], any unit, at least one, all finite
    rng     the only source of randomness: the same generator state gives the same bounds
    Raises ValueError as `t_interval` does.
    """
    from scipy import stats

    sample = _checked(values, confidence)
    mean, n = float(sample.mean()), sample.size
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    if np.ptp(sample) == 0:  # BCa divides by the jackknife's spread: equal values would give nan bounds
        return Interval(mean, mean, mean, n)
    bounds = stats.bootstrap(
        (sample,), np.mean, n_resamples=resamples, confidence_level=confidence, method="BCa", rng=rng
    ).confidence_interval
    return Interval(mean, float(bounds.low), float(bounds.high), n)


def paired_difference(a: Values, b: Values, confidence: float = 0.95) -> Interval:
    """t interval of the mean of a - b, where a[i] and b[i] share seed i.

    a, b  # [seed], equal lengths, same order of seeds
    Raises ValueError for unequal lengths, and as `t_interval` does.
    """
    first, second = _checked(a, confidence), _checked(b, confidence)
    if first.size != second.size:
        raise ValueError(f"a pair needs both halves: {first.size} values against {second.size}")
    return t_interval(first - second, confidence)


def _checked(values: Values, confidence: float) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0:
        raise ValueError(f"an interval is taken over seeds: expected shape [seed], got {list(sample.shape)}")
    if not np.isfinite(sample).all():
        bad = np.flatnonzero(~np.isfinite(sample)).tolist()
        raise ValueError(f"values that are not finite at positions {bad}: leave failed seeds out and say so")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence lies between 0 and 1, not {confidence}")
    return sample
