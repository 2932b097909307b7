"""The MNIST-1D generator, exact: the published package's values from its own random stream.

The data set is that of Greydanus & Kobak, "Scaling Down Deep Learning with MNIST-1D" (ICML 2024, arXiv 2011.14439).
A sample is a template that is padded, dilated, scaled, translated, drowned in correlated noise where it is
silent, covered with independent noise, sheared and resampled. Only the draws go sample by sample, because
numpy's legacy stream fixes their order; every step after them works on a block of samples at once.

    draw(rng, ...) -> Draws      what chance decides, in the order of the stream
    transform(...) -> Stages     what a block of samples looks like after each step
    generate(args) -> Generated  the whole set, shuffled and standardised, and the stream's state after it
    make_dataset(args)           the published package's dictionary
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.random import RandomState
from scipy.ndimage import gaussian_filter1d

from mnist1d.data.arguments import Arguments
from mnist1d.data.templates import Templates, check_templates, get_templates

__all__ = [
    "Draws",
    "Generated",
    "Stages",
    "dilations",
    "draw",
    "generate",
    "make_dataset",
    "pad",
    "resample",
    "transform",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SIGNAL = 1e-8  # added to a template, so that its zeros are told from padding
NOISE_WIDTH = 2.0  # standard deviation, in positions, of the filter that correlates the noise
BLOCK = 1024  # samples transformed at once: about 4 MB of intermediates, which stay in the cache


class Draws(NamedTuple):
    """What chance decides about n samples, in the order in which the stream gives it."""

    padding: Floats  # [n] uniform
    scale: Floats  # [n] uniform
    shift: Integers  # [n] 0 .. max_translation - 1
    noise: Floats  # [n, 2, length] standard normal: correlated noise, then independent noise
    shear: Floats  # [n] uniform


def draw(rng: RandomState, count: int, args: Arguments) -> Draws:
    """The draws of `count` samples; one call for both noises leaves the stream where two would."""
    uniform, integer, normal = rng.random_sample, rng.randint, rng.standard_normal
    rows = [
        (uniform(), uniform(), integer(0, args.max_translation), normal(2 * args.length), uniform())
        for _ in range(count)
    ]
    padding, scale, shift, noise, shear = (np.array(column) for column in zip(*rows, strict=True))
    return Draws(padding, scale, shift.astype(np.int64), noise.reshape(count, 2, args.length), shear)


@dataclass(frozen=True)
class Stages:
    """n samples after each step of their construction; `length` is the dilated one, 72 by default."""

    padding: Integers  # [n] zeros that were appended; `pad` shows them
    dilated: Floats  # [n, length]
    scaled: Floats  # [n, length]
    translated: Floats  # [n, length]
    correlated: Floats  # [n, length] correlated noise wherever the signal was silent
    noisy: Floats  # [n, length] and independent noise everywhere
    sheared: Floats  # [n, length]
    resampled: Floats  # [n, final_seq_length]


def transform(table: Floats, labels: Integers, draws: Draws, args: Arguments) -> Stages:
    """Every step of n samples: `table` is what `dilations` returns, `labels` [n] are classes of it."""
    low, high = args.padding
    padding = low + (draws.padding * (high - low + 1)).astype(np.int64)
    dilated = table[labels, padding - low]
    scaled = dilated * (1 + args.scale_coeff * (draws.scale - 0.5))[:, None]
    translated = _translate(scaled, draws.shift)
    smooth = gaussian_filter1d(args.corr_noise_scale * draws.noise[:, 0], NOISE_WIDTH, axis=-1)
    correlated = np.where(translated != 0, translated, smooth)
    noisy = correlated + args.iid_noise_scale * draws.noise[:, 1]
    slope = args.shear_scale * (draws.shear - 0.5)
    sheared = noisy - slope[:, None] * np.linspace(-0.5, 0.5, args.length)
    resampled = resample(sheared, args.final_seq_length)
    return Stages(padding, dilated, scaled, translated, correlated, noisy, sheared, resampled)


def dilations(templates: npt.NDArray[Any], args: Arguments) -> Floats:
    """Every padded template at its dilated length: [class, padding from low to high, length]."""
    low, high = args.padding
    return np.stack([resample(pad(templates, p), args.length) for p in range(low, high + 1)], axis=1)


def pad(templates: npt.NDArray[Any], padding: int) -> Floats:
    """Templates [class, n] with `padding` zeros behind them, marked as signal: [class, n + padding]."""
    return np.concatenate([templates + SIGNAL, np.zeros((len(templates), padding))], axis=1)


def resample(x: npt.NDArray[Any], length: int) -> Floats:
    """Rows [n, m] read at `length` equally spaced points, linearly: [n, length].

    The operations and their order are `numpy.interp`'s, so that the values are its values to the last bit:
    whether a dilated template is exactly 0 somewhere decides where the noise goes.
    """
    old, new = np.linspace(0, 1, x.shape[1]), np.linspace(0, 1, length)
    left = np.searchsorted(old, new, side="right") - 1
    right = np.minimum(left + 1, len(old) - 1)
    span = np.where(right > left, old[right] - old[left], 1.0)
    return (x[:, right] - x[:, left]) / span * (new - old[left]) + x[:, left]


def _translate(x: Floats, shift: Integers) -> Floats:
    length = x.shape[1]
    # The published slices leave a sample alone when the shift is longer than it.
    shift = np.where(shift < length, shift, 0)
    return np.take_along_axis(x, (np.arange(length) - shift[:, None]) % length, axis=1)


@dataclass(frozen=True)
class Generated:
    """A whole data set in stored order, training rows first, before any split."""

    x: Floats  # [n, final_seq_length], mean 0 and standard deviation 1 over everything
    y: npt.NDArray[Any]  # [n]
    t: Floats  # [final_seq_length], the time axis in units of that standard deviation
    features: Integers  # [final_seq_length] feature j was made at position features[j]; shuffle_seq decides
    state: Any  # of the random stream where generation stopped

    def stream(self) -> RandomState:
        """The random stream where generation stopped; `deep-double-descent.ipynb` draws its label noise from it."""
        rng = RandomState()
        rng.set_state(self.state)
        return rng

    def dataset(self, train_split: float, template: Templates) -> dict[str, Any]:
        """The published package's dictionary: keys x, x_test, y, y_test, t, templates."""
        cut = int(len(self.y) * train_split)
        parts = {"x": self.x[:cut], "x_test": self.x[cut:], "y": self.y[:cut], "y_test": self.y[cut:]}
        return parts | {"t": self.t, "templates": template}


def generate(args: Arguments, template: Templates | None = None) -> Generated:
    """The data set of these arguments; numpy's global random state is not touched."""
    templates = check_templates(get_templates() if template is None else template)
    labels = _labels(args, len(templates["y"]))
    table = dilations(templates["x"], args)
    rng = RandomState(args.seed)
    x = np.concatenate([_block(rng, table, part, args) for part in _blocks(labels)])
    order = rng.permutation(len(labels))
    features = rng.permutation(args.final_seq_length) if args.shuffle_seq else np.arange(args.final_seq_length)
    x = x[order][..., features] if args.shuffle_seq else x[order]  # laid out as the published one: equal sums
    t = resample(resample(templates["t"][None], args.length), args.final_seq_length)[0]
    state = rng.get_state()
    return Generated((x - x.mean()) / x.std(), templates["y"][labels[order]], t / x.std(), features, state)


def _labels(args: Arguments, classes: int) -> Integers:
    if args.num_samples < classes:
        raise ValueError(f"num_samples={args.num_samples}: must be at least {classes}, one for each template")
    return np.repeat(np.arange(classes), args.num_samples // classes)


def _blocks(labels: Integers) -> list[Integers]:
    return [labels[start : start + BLOCK] for start in range(0, len(labels), BLOCK)]


def _block(rng: RandomState, table: Floats, labels: Integers, args: Arguments) -> Floats:
    return transform(table, labels, draw(rng, len(labels), args), args).resampled


def make_dataset(args: object = None, template: Templates | None = None) -> dict[str, Any]:
    """A data set as the published package makes it, value for value, several times faster.

    Args:
        args: what `get_dataset_args` returns, changed at will; a mapping will do; None means the defaults.
        template: what to build samples from instead of `get_templates()`.

    Returns:
        x [n_train, final_seq_length] and x_test float64, y [n_train] and y_test with the templates' labels
        (int64), t [final_seq_length] float64, templates.

    Raises:
        ValueError: an argument that can make no data set, named with its value and what is allowed.
    """
    arguments = Arguments() if args is None else Arguments.of(args)
    templates = get_templates() if template is None else template
    return generate(arguments, templates).dataset(arguments.train_split, templates)
