"""The posterior of the digit under the generator itself: what the best of all classifiers says.

Given the digit, the padding and the shift, a sample is  s m - h r + noise:  m is the template as it is resampled, s its
amplitude, r the ramp and h the shear, both of them uniform, and the noise is normal, with a covariance that depends on
where the template is silent. The likelihood integrates over h in closed form and over s numerically, and is summed over
all paddings and shifts, which are equally likely. No classifier is right more often, on average, than the one that
takes the likeliest digit: that one is the ceiling, whatever is learned from however many samples.

    posterior(x, args)  samples -> probabilities of the digits
"""

from collections.abc import Iterator

import numpy as np
from scipy.special import log_ndtr, logsumexp

from mnist1d.data.arguments import Arguments
from mnist1d.data.generator import Floats, dilations
from mnist1d.data.streaming import correlation, nuisances, population
from mnist1d.data.templates import Templates, check_templates, get_templates

__all__ = ["posterior"]

AMPLITUDES = 129
"""Nodes of the integral over the amplitude: 0.003 apart by default, where its likelihood is some 0.02 wide."""

NEGLIGIBLE = 40.0
"""Nats by which a padding and shift lies at least behind the best one so far, where it is left out."""


def posterior(x: Floats, args: Arguments | None = None, template: Templates | None = None) -> Floats:
    """Probability of every digit given a sample; a thousand samples take about 20 seconds.

    Args:
        x: samples ``[n, final_seq_length]``, standardised as a data set of these arguments is. The mean and deviation
            of the distribution stand in for those of the set.
        args: of the generator, as published if None; features in their original order.
        template: as of `make_dataset`.

    Returns:
        Probabilities ``[n, classes]``, in the order of the templates.

    Raises:
        ValueError: no white noise or no shear, without which there is no density.
    """
    args = Arguments() if args is None else args
    for name in ("iid_noise_scale", "shear_scale"):
        if getattr(args, name) == 0:
            raise ValueError(f"{name}=0: must be above 0, or there is no density")
    templates = check_templates(get_templates() if template is None else template)
    mean, deviation = population(args)
    total = np.full((len(x), len(templates["x"])), -np.inf)
    for signals, silent in _signals(dilations(templates["x"], args), args):
        _add(total, x + mean / deviation, signals, silent, args)
    return np.exp(total - logsumexp(total, axis=1, keepdims=True))


def _signals(table: Floats, args: Arguments) -> Iterator[tuple[dict[int, Floats], Floats]]:
    """For every padding and shift, digits that are silent at the same points: their signals, and those points."""
    for padding in range(table.shape[1]):
        for shift in range(args.max_translation):
            # as the generator: longer shifts do nothing
            moved = np.roll(table[:, padding], shift if shift < args.length else 0, axis=1)
            masks, group = np.unique(moved == 0, axis=0, return_inverse=True)
            for k, silent in enumerate(masks):
                yield {int(digit): moved[digit] for digit in np.flatnonzero(group.ravel() == k)}, silent


def _add(total: Floats, x: Floats, signals: dict[int, Floats], silent: Floats, args: Arguments) -> None:
    """Add the likelihoods under one padding and shift to `total`, [n, classes], which holds logarithms."""
    _, reading, ramp = nuisances(args)
    smooth = args.corr_noise_scale * (correlation(args.length) * silent) @ reading
    factor = np.linalg.cholesky(smooth.T @ smooth + args.iid_noise_scale**2 * reading.T @ reading)
    white = np.linalg.inv(factor).T
    samples, slope = x @ white, ramp @ white
    volume = np.log(np.diag(factor)).sum()
    for digit, signal in signals.items():
        found = _integral(samples, signal @ reading @ white, slope, args, total.max(1) - NEGLIGIBLE + volume)
        total[:, digit] = np.logaddexp(total[:, digit], found - volume)


def _integral(x: Floats, signal: Floats, slope: Floats, args: Arguments, least: Floats) -> Floats:
    """Logarithm of the mean of exp(-|x - s signal + h slope|² / 2) over s and h, [n]; -inf where it is below `least`.

    But for a factor that is the same for all signals. Completing the square in h leaves a normal density, cut off at
    the largest shear.
    """
    s = 1 + args.scale_coeff * np.linspace(-0.5, 0.5, AMPLITUDES)
    rest = x - np.outer(x @ slope / (slope @ slope), slope)  # across the slope, where h is of no consequence
    across = signal - signal @ slope / (slope @ slope) * slope
    square = (rest * rest).sum(1)[:, None] - 2 * np.outer(rest @ across, s) + s * s * (across @ across)
    found = np.full(len(x), -np.inf)
    rows = np.flatnonzero(-square.min(1) / 2 > least)
    centre = (np.outer(np.ones(len(rows)), s * (signal @ slope)) - (x[rows] @ slope)[:, None]) / (slope @ slope)
    width, most = 1 / np.sqrt(slope @ slope), args.shear_scale / 2
    values = -square[rows] / 2 + _log_between((-most - centre) / width, (most - centre) / width) + np.log(width)
    trapezoid = np.r_[0.5, np.ones(AMPLITUDES - 2), 0.5]
    found[rows] = logsumexp(values, axis=1, b=trapezoid)
    return found


def _log_between(low: Floats, high: Floats) -> Floats:
    """Logarithm of the standard normal probability of low to high, for low < high, accurate in both tails."""
    flip = low > 0
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    return log_ndtr(high) + np.log1p(-np.exp(log_ndtr(low) - log_ndtr(high)))
