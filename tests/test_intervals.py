"""Intervals against values worked out by hand, and against what 95% has to mean."""

import math

import numpy as np
import pytest

from mnist1d.analysis.intervals import Interval, bootstrap_interval, paired_difference, t_interval


def test_t_interval_of_three_values_is_the_one_of_the_tables():
    # 97.5% quantile of t with 2 degrees of freedom: 4.30265; standard error of 1, 2, 3: 1 / sqrt(3)
    interval = t_interval([1.0, 2.0, 3.0])
    assert (interval.mean, interval.n) == (2.0, 3)
    assert interval.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert interval.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)
    assert interval.half_width == pytest.approx(2.484138, abs=1e-6)


def test_lower_confidence_gives_a_narrower_interval():
    # 75% quantile of t with 1 degree of freedom is 1; standard error of 0 and 2 is 1
    assert t_interval([0.0, 2.0], confidence=0.5).half_width == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["t", "bootstrap"])
def test_one_value_has_a_mean_and_no_bounds(kind):
    values = [0.5]
    interval = t_interval(values) if kind == "t" else bootstrap_interval(values, np.random.default_rng(0))
    assert (interval.mean, interval.n) == (0.5, 1)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_equal_values_have_an_interval_of_width_zero():
    assert t_interval([0.25] * 4) == Interval(0.25, 0.25, 0.25, 4)
    assert bootstrap_interval([0.25] * 4, np.random.default_rng(0)) == Interval(0.25, 0.25, 0.25, 4)


@pytest.mark.parametrize("values", [[0.5, math.nan], [0.5, math.inf], [], [[0.1, 0.2], [0.3, 0.4]]])
def test_values_that_are_no_sample_are_refused(values):
    with pytest.raises(ValueError, match=r"not finite at positions \[1\]|expected shape \[seed\]"):
        t_interval(values)


def test_confidence_outside_0_and_1_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1, not 95"):
        t_interval([1.0, 2.0], confidence=95)


def test_t_intervals_of_normal_samples_cover_the_truth_95_times_in_100():
    samples = np.random.default_rng(7).normal(3.0, 2.0, (2000, 5))
    covered = [t_interval(sample).low <= 3.0 <= t_interval(sample).high for sample in samples]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)  # four standard errors


def test_bootstrap_depends_on_its_generator_only():
    values = np.random.default_rng(1).exponential(1.0, 12)
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the state that has to stay as it was
    first = bootstrap_interval(values, np.random.default_rng(0))
    again = bootstrap_interval(values, np.random.default_rng(0))
    other = bootstrap_interval(values, np.random.default_rng(1))
    assert first == again
    assert first != other
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_bootstrap_bounds_enclose_the_mean_and_follow_the_skew():
    interval = bootstrap_interval([1.0, 1.1, 1.2, 1.3, 4.0], np.random.default_rng(0))
    assert interval.low < interval.mean < interval.high
    assert interval.high - interval.mean > interval.mean - interval.low


def test_paired_difference_removes_what_both_owe_to_the_seed():
    seeds = np.array([0.0, 10.0, 20.0])
    interval = paired_difference(seeds + np.array([1.0, 2.0, 3.0]), seeds)
    assert interval.mean == pytest.approx(2.0)
    assert interval.half_width == pytest.approx(2.484138, abs=1e-6)


def test_paired_difference_refuses_halves_of_unequal_length():
    with pytest.raises(ValueError, match="3 values against 2"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])


def test_scaling_changes_the_unit_and_keeps_n():
    assert Interval(0.5, 0.25, 0.75, 4).scaled(100) == Interval(50, 25, 75, 4)
    with pytest.raises(ValueError, match="swap the bounds"):
        Interval(0.5, 0.25, 0.75, 4).scaled(-1)
