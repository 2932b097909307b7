"""The posterior of the digit: against sums and integrals done otherwise, and as often right as it says."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from mnist1d.data.arguments import Arguments
from mnist1d.data.generator import dilations, draw, make_dataset, resample, transform
from mnist1d.data.posterior import posterior
from mnist1d.data.streaming import population
from mnist1d.data.templates import get_templates

NARROW = Arguments(padding=(40, 41), max_translation=2, iid_noise_scale=0.2, corr_noise_scale=0.5)
"""Four places for a template, under noise in which digits are easily mistaken."""


def samples(args: Arguments, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardised by the moments of the distribution: x [count, 40], and their digits."""
    rng = np.random.RandomState(seed)
    labels = rng.randint(0, 10, count)
    raw = transform(dilations(get_templates()["x"], args), labels, draw(rng, count, args), args).resampled
    mean, deviation = population(args)
    return (raw - mean) / deviation, labels


def test_it_is_the_sum_over_places_of_normal_densities_averaged_over_amplitude_and_shear():
    x, _ = samples(NARROW, 3, seed=1)
    mean, deviation = population(NARROW)
    ramp = resample(np.linspace(-0.5, 0.5, NARROW.length)[None], 40)
    amplitudes, shears = np.linspace(0.8, 1.2, 41), np.linspace(-0.375, 0.375, 81)
    ends = [np.r_[0.5, np.ones(count - 2), 0.5] for count in (81, 41)]  # of the trapezoidal rule
    terms = []  # of every place: [digit, sample]
    for p, shift in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        signals = np.roll(dilations(get_templates()["x"], NARROW)[:, p], shift, axis=1)
        density = multivariate_normal(np.zeros(40), covariance(signals[0]))
        scaled = amplitudes[:, None, None, None] * resample(signals, 40)[:, None]  # [amplitude, digit, 1, 40]
        lines = (shears[:, None] * ramp)[:, None, None, None]  # [shear, 1, 1, 1, 40]
        rest = x * deviation + mean - scaled + lines
        weights = np.log(np.outer(*ends))[:, :, None, None]
        terms.append(logsumexp(density.logpdf(rest) + weights, axis=(0, 1)))
    total = logsumexp(terms, axis=0).T
    expected = np.exp(total - logsumexp(total, axis=1, keepdims=True))
    assert expected.max(1).min() < 0.9  # there is something to be wrong about
    np.testing.assert_allclose(posterior(x, NARROW), expected, atol=1e-3)


def covariance(signal: np.ndarray) -> np.ndarray:
    """Of what the generator adds to a signal but for the shear, [40, 40]: it is linear in its normal draws."""
    args = replace(NARROW, shear_scale=0, scale_coeff=0, padding=(41, 41), max_translation=1)
    count = 2 * args.length
    draws = draw(np.random.RandomState(0), count, args)._replace(noise=np.eye(count).reshape(count, 2, args.length))
    response = transform(signal[None, None], np.zeros(count, dtype=int), draws, args).resampled
    response -= resample(signal[None], 40)
    return response.T @ response


def test_it_is_right_as_often_as_it_says():
    x, labels = samples(NARROW, 1500, seed=2)
    said = posterior(x, NARROW)
    np.testing.assert_allclose(said.sum(1), 1)
    surest = said.max(1)
    right = said.argmax(1) == labels
    assert 0.3 < right.mean() < 0.95
    for part in (surest < np.median(surest), surest >= np.median(surest)):
        error = np.sqrt((surest[part] * (1 - surest[part])).sum()) / part.sum()
        assert abs(right[part].mean() - surest[part].mean()) < 3 * error


def test_samples_of_a_data_set_are_told_apart_almost_without_fail():
    args = Arguments(num_samples=100, padding=(36, 40), max_translation=12)
    data = make_dataset(args)
    x = np.concatenate([data["x"], data["x_test"]])
    assert (posterior(x, args).argmax(1) == np.concatenate([data["y"], data["y_test"]])).mean() > 0.97


@pytest.mark.parametrize("name", ["iid_noise_scale", "shear_scale"])
def test_without_a_density_it_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0: must be above 0, or there is no density"):
        posterior(np.zeros((1, 40)), Arguments(**{name: 0.0}))
