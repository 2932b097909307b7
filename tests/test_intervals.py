"""Intervals against values worked out by hand, and against what 95% has to mean."""

import math

import numpy as np
import pytest
from scipy import stats

from mnist1d.analysis.intervals import (
    Interval,
    bootstrap_interval,
    bootstrap_p_outside,
    holm,
    log_t_interval,
    log_t_p_outside,
    paired_difference,
    share_interval,
    share_p_outside,
    shown,
    t_interval,
    t_p_outside,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


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


@pytest.mark.parametrize("interval_of", [t_interval, log_t_interval, lambda values: bootstrap_interval(values, rng())])
def test_one_value_has_a_mean_and_no_bounds(interval_of):
    interval = interval_of([0.5])
    assert (interval.mean, interval.n) == (0.5, 1)
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_equal_values_have_an_interval_of_width_zero():
    assert np.mean([0.1] * 3) != 0.1  # rounding, which must not move a claim across its bound
    for interval in (t_interval([0.1] * 3), log_t_interval([0.1] * 3), bootstrap_interval([0.1] * 3, rng())):
        assert interval == Interval(0.1, 0.1, 0.1, 3)


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


SAMPLE = [31.0, 34.5, 33.0, 36.0, 30.5]


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_intervals_are_those_of_scipy(confidence):
    error = stats.sem(SAMPLE)
    low, high = stats.t.interval(confidence, len(SAMPLE) - 1, loc=np.mean(SAMPLE), scale=error)
    interval = t_interval(SAMPLE, confidence)
    assert (interval.low, interval.high) == pytest.approx((low, high))
    drawn = stats.bootstrap((SAMPLE,), np.mean, confidence_level=confidence, method="BCa", rng=rng(3))
    interval = bootstrap_interval(SAMPLE, rng(3), confidence)
    assert (interval.low, interval.high) == drawn.confidence_interval


def test_log_t_interval_surrounds_the_geometric_mean_by_factors():
    interval = log_t_interval([10.0, 20.0, 40.0])  # logarithms to base 2 of 10: 0, 1, 2
    factor = 2 ** (4.302653 / math.sqrt(3))
    assert interval.mean == pytest.approx(20.0)
    assert (interval.low, interval.high) == pytest.approx((20 / factor, 20 * factor))
    assert interval.n == 3


def test_log_t_intervals_of_lognormal_samples_cover_the_median_95_times_in_100():
    samples = rng(7).lognormal(math.log(60), 0.5, (2000, 5))
    covered = [log_t_interval(sample).low <= 60 <= log_t_interval(sample).high for sample in samples]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_values_without_a_logarithm_are_refused():
    for function in (log_t_interval, log_t_p_outside):
        with pytest.raises(ValueError, match=r"no logarithm at positions \[1, 2\]: they are not positive"):
            function([4.0, 0.0, -1.0])


@pytest.mark.parametrize("bound", [28.0, 32.0, 33.0, 40.0])
def test_p_outside_of_one_bound_is_twice_the_one_sided_p_of_scipy(bound):
    below = stats.ttest_1samp(SAMPLE, bound, alternative="less").pvalue
    assert t_p_outside(SAMPLE, at_least=bound) == pytest.approx(min(1, 2 * below))
    assert t_p_outside(SAMPLE, at_most=bound) == pytest.approx(min(1, 2 * (1 - below)))
    logs = stats.ttest_1samp(np.log(SAMPLE), math.log(bound), alternative="less").pvalue
    assert log_t_p_outside(SAMPLE, at_least=bound) == pytest.approx(min(1, 2 * logs))


def test_p_outside_of_a_region_is_that_of_the_bound_the_mean_is_beyond():
    assert t_p_outside(SAMPLE, 35.0, 50.0) == t_p_outside(SAMPLE, at_least=35.0) < 1
    assert t_p_outside(SAMPLE, 0.0, 31.0) == t_p_outside(SAMPLE, at_most=31.0) < 1
    assert t_p_outside(SAMPLE, 30.0, 36.0) == 1.0


P_OUTSIDE = {
    t_interval: t_p_outside,
    log_t_interval: log_t_p_outside,
    lambda values: bootstrap_interval(values, rng()): lambda values, *region: bootstrap_p_outside(
        values, rng(), *region
    ),
}


@pytest.mark.parametrize("interval_of", P_OUTSIDE)
def test_p_outside_is_below_5_percent_exactly_where_the_interval_misses_the_region(interval_of):
    interval, p_outside = interval_of(SAMPLE), P_OUTSIDE[interval_of]
    for step in (0.01, 0.5):
        assert p_outside(SAMPLE, interval.high + step, 90) < 0.05 < p_outside(SAMPLE, interval.high - step, 90)
        assert p_outside(SAMPLE, 1, interval.low - step) < 0.05 < p_outside(SAMPLE, 1, interval.low + step)


def test_p_outside_of_a_true_bound_is_below_5_percent_in_25_of_1000_samples():
    samples = rng(11).normal(3.0, 2.0, (2000, 5))
    assert np.mean([t_p_outside(sample, at_least=3.0) < 0.05 for sample in samples]) == pytest.approx(0.025, abs=0.014)


@pytest.mark.parametrize("p_outside", P_OUTSIDE.values())
def test_one_value_refutes_nothing_and_equal_values_leave_no_doubt(p_outside):
    assert p_outside([7.0], 8.0, 9.0) == 1.0
    assert p_outside([7.0] * 3, 8.0, 9.0) == 0.0
    assert p_outside([0.1] * 3, 0.1, 9.0) == 1.0


def test_far_beyond_a_bound_the_bootstrap_gives_the_smallest_p_it_can_resolve():
    assert bootstrap_p_outside(SAMPLE, rng(), at_least=1000.0, resamples=999) == 1 / 1000


@pytest.mark.parametrize("held", [0, 1, 7, 10])
def test_the_interval_of_a_share_is_the_exact_one_and_its_p_value_agrees(held):
    sample = [100.0] * held + [0.0] * (10 - held)
    exact = stats.binomtest(held, 10).proportion_ci(0.95, method="exact")
    interval = share_interval(sample)
    assert interval.mean == 10 * held
    assert (interval.low, interval.high) == pytest.approx((100 * exact.low, 100 * exact.high))
    if held < 10:
        assert share_p_outside(sample, interval.high + 0.1) < 0.05 < share_p_outside(sample, interval.high - 0.1)
    if held:
        assert share_p_outside(sample, 0, interval.low - 0.1) < 0.05 < share_p_outside(sample, 0, interval.low + 0.1)
    assert share_p_outside(sample, at_least=50) == pytest.approx(min(1, 2 * stats.binom.cdf(held, 10, 0.5)))


def test_a_share_is_of_zeros_and_hundreds():
    with pytest.raises(ValueError, match=r"a share is of values 0 and 100, not \[0.5\]"):
        share_interval([0.5, 100.0])


def test_holm_gives_the_adjusted_values_of_the_textbooks():
    # the worked example of "Holm-Bonferroni method" in Wikipedia
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    # 5 × 0.001, 4 × 0.01, 3 × 0.02, then 2 × 0.025 = 0.05, raised to the 0.06 before it, and 0.5
    assert holm([0.02, 0.001, 0.5, 0.025, 0.01]) == pytest.approx((0.06, 0.005, 0.5, 0.06, 0.04))
    assert holm([0.7, 0.6]) == (1.0, 1.0)
    assert holm([0.3]) == (0.3,)
    assert holm([]) == ()


def test_holm_keeps_the_chance_of_any_false_alarm_at_the_level():
    p_values = rng(5).uniform(size=(4000, 5))
    assert np.mean([min(row) < 0.05 for row in p_values]) > 0.2  # without it: 1 - 0.95^5 = 0.23
    assert np.mean([min(holm(row)) < 0.05 for row in p_values]) == pytest.approx(0.049, abs=0.014)


@pytest.mark.parametrize("p_value", [-0.1, 1.1, math.nan])
def test_p_values_that_are_none_are_refused(p_value):
    with pytest.raises(ValueError, match=r"p values lie between 0 and 1, not \[(-0.1|1.1|nan)\]"):
        holm([0.5, p_value])


def test_values_that_differ_by_rounding_alone_are_shown_as_equal():
    assert shown(log_t_interval([32.0, 32.0, np.nextafter(32.0, 33)]), "z.3g") == "32 ± 0"
    assert shown(t_interval([32.0, 32.001, 32.002]), "z.3g") == "32 ± 0.00248"
