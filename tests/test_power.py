"""How many seeds and samples it takes to tell two models apart, against textbook numbers and simulated tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mnist1d.analysis.power import LEVEL, POWER, power, samples_needed, seeds_needed


@pytest.mark.parametrize(("effect", "n"), [(0.5, 44), (0.8, 19), (1.0, 13)])
def test_seeds_are_those_of_the_tables_for_paired_t_tests(effect, n):
    """G*Power 3.1, two-sided, level 0.05, power 0.9."""
    assert seeds_needed(effect, 1.0) == seeds_needed(-3 * effect, 3.0) == n
    assert power(effect, n - 1) < POWER <= power(effect, n)


def test_power_is_how_often_a_t_test_finds_the_difference():
    rng = np.random.default_rng(0)
    p = stats.ttest_1samp(rng.normal(1.2, 1.0, (20_000, 6)), 0, axis=1).pvalue
    assert power(1.2, 6) == pytest.approx((p < LEVEL).mean(), abs=0.01)


def test_what_seeds_cannot_find_needs_none_that_exists():
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(0.001, 1.0) is None  # ten million
    assert seeds_needed(0.0, 0.0) is None


def test_a_difference_without_spread_needs_two_seeds_as_a_t_test_does():
    assert seeds_needed(0.1, 0.0) == seeds_needed(1e6, 1.0) == 2


def test_a_negative_spread_is_refused():
    with pytest.raises(ValueError, match=r"a standard deviation is not negative: -1\.0"):
        seeds_needed(1.0, -1.0)


def test_samples_are_enough_for_a_z_test_between_two_accuracies():
    n, rng = samples_needed(0.6, 0.7), np.random.default_rng(1)
    a, b = (rng.binomial(n, share, 20_000) / n for share in (0.6, 0.7))
    z = (b - a) / np.sqrt((a * (1 - a) + b * (1 - b)) / n)
    assert (z > stats.norm.ppf(1 - LEVEL / 2)).mean() == pytest.approx(POWER, abs=0.01)
    assert samples_needed(0.7, 0.6) == n
    assert samples_needed(0.5, 0.5) is None
    assert samples_needed(0.0, 1.0) == 1
