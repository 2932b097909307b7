"""How much work it takes to tell two models apart, if they differ as much as they seem to.

Both answers take differences and spreads as known. From a few seeds they are estimates, and so is the answer.
"""

from __future__ import annotations

import math

from scipy.special import nctdtr, ndtri, stdtrit

LEVEL = 0.05
"""Chance of finding a difference where there is none, two-sided."""
POWER = 0.9
"""Chance of finding a difference where there is one."""
MOST = 10_000
"""Seeds that are looked through."""


def seeds_needed(difference: float, spread: float) -> int | None:
    """Fewest seeds with which a paired t test finds a difference, at LEVEL with POWER; None for more than MOST.

    difference  mean over seeds, any unit
    spread      standard deviation over seeds, same unit, not negative
    Raises ValueError for a negative spread.
    """
    if spread < 0:
        raise ValueError(f"a standard deviation is not negative: {spread}")
    if spread == 0:
        return 2 if difference else None
    effect = abs(difference) / spread
    if power(effect, MOST) < POWER:
        return None
    low, high = 1, 2
    while power(effect, high) < POWER:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle) >= POWER else (middle, high)
    return high


def power(effect: float, n: int) -> float:
    """Chance that a two-sided paired t test with n >= 2 seeds finds a difference of `effect` standard deviations.

    With its sign, that is: finding the opposite has no chance to speak of.
    """
    degrees, shift = n - 1, effect * math.sqrt(n)
    limit = float(stdtrit(degrees, 1 - LEVEL / 2))
    return 1 - float(nctdtr(degrees, shift, limit))


def samples_needed(first: float, second: float) -> int | None:
    """Fewest test samples with which a z test tells two accuracies apart, at LEVEL with POWER; None for equal ones.

    first, second  shares from 0 to 1
    As if each model had samples of its own: on the same ones, where errors coincide, fewer will do.
    """
    if first == second:
        return None
    quantiles = float(ndtri(1 - LEVEL / 2) + ndtri(POWER))
    variance = first * (1 - first) + second * (1 - second)
    return max(1, math.ceil(quantiles**2 * variance / (first - second) ** 2))
