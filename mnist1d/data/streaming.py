"""Fresh samples without end, drawn by torch on the training device.

The same construction as the exact generator, step for step, so the same distribution, but from a torch
generator and for a whole batch at once. Two things differ by design: labels are independent and uniform over
the classes (the exact generator makes equally many of each), and samples are standardised with the mean and
deviation of the distribution, not of a data set.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from mnist1d.data.arguments import Arguments
from mnist1d.data.cache import remembered
from mnist1d.data.corruption import CLASSES
from mnist1d.data.generator import NOISE_WIDTH, Floats, dilations, resample
from mnist1d.data.splits import Recipe
from mnist1d.data.templates import get_templates

if TYPE_CHECKING:
    from mnist1d.config import Data

__all__ = ["correlation", "nuisances", "population", "stream"]

_BLOCK = 4096  # samples made at once on a CPU: their intermediates stay in its cache


def stream(
    data: "Data | Recipe", device: torch.device | str, generator: torch.Generator
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """A function of n that returns n new samples on `device`: x [n, final_seq_length] float32 and y [n] int64.

    Label noise, the order of features and windows of zeros are the config's, so that test data from `load`
    fit; its sizes, splits and seed of the data say nothing here. Every draw comes from `generator`, which must
    live on `device`: the same generator state and the same n give the same samples.
    """
    recipe = Recipe.of(data)
    source = _Source(recipe, torch.device(device))

    def sample(n: int) -> tuple[Tensor, Tensor]:
        block = n if source.device.type != "cpu" else _BLOCK
        parts = [source.draw(min(block, n - start), generator) for start in range(0, n, max(block, 1))]
        if len(parts) == 1:
            return parts[0]
        parts = parts or [source.draw(0, generator)]
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    return sample


class _Source:
    """The tables of one distribution on one device."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.args, self.device = recipe, _generated(recipe), device
        args, length = self.args, self.args.length
        mean, deviation = population(args)
        table = dilations(get_templates()["x"], args)
        order = _feature_order(recipe)
        self.paddings = table.shape[1]
        # Each row twice over: every circular shift of it is then a window of it.
        self.windows = self._tensor(np.concatenate([table, table], axis=2).ravel()).unfold(0, length, 1)
        self.filter = self._tensor(args.corr_noise_scale * correlation(length))
        self.ramp = self._tensor(_ramp(length))
        self.resampling = self._tensor(resample(np.eye(length), args.final_seq_length)[:, order] / deviation)
        self.offset = self._tensor(np.full(args.final_seq_length, -mean / deviation))

    def _tensor(self, array: Floats) -> Tensor:
        return torch.tensor(array, dtype=torch.float32, device=self.device)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        args, length = self.args, self.args.length
        y = self._integers(CLASSES, n, generator)
        signal = self._signal(y, n, generator)
        uniform = torch.rand(2, n, 1, generator=generator, device=self.device) - 0.5
        noise = torch.randn(n, 2 * length, generator=generator, device=self.device)
        x = torch.where(signal != 0, signal * (1 + args.scale_coeff * uniform[0]), noise[:, :length] @ self.filter)
        x.add_(noise[:, length:], alpha=args.iid_noise_scale)
        x.addcmul_(uniform[1], self.ramp, value=-args.shear_scale)
        labels = self._corrupted(y, n, generator)
        return self._zeroed(torch.addmm(self.offset, x, self.resampling), generator), labels

    def _integers(self, end: int, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(end, (n,), generator=generator, device=self.device)

    def _signal(self, y: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Dilated and translated templates [n, length]."""
        length = self.args.length
        shift = self._integers(self.args.max_translation, n, generator)
        shift = torch.where(shift < length, shift, 0)  # as the exact generator: longer shifts do nothing
        row = y * self.paddings + self._integers(self.paddings, n, generator)
        return self.windows.index_select(0, row * (2 * length) + (length - shift))

    def _corrupted(self, y: Tensor, n: int, generator: torch.Generator) -> Tensor:
        if self.recipe.label_noise == 0:
            return y
        hit = torch.rand(n, generator=generator, device=self.device) < self.recipe.label_noise
        if self.recipe.label_noise_mode == "redraw":
            other = self._integers(CLASSES, n, generator)
        else:
            other = (y + 1 + self._integers(CLASSES - 1, n, generator)) % CLASSES
        return torch.where(hit, other, y)

    def _zeroed(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """`x` [n, final_seq_length] with its windows of zeros, in place."""
        if (width := self.recipe.zero_window) == 0:
            return x
        starts = self._integers(x.shape[1] - width + 1, len(x), generator)
        return x.scatter_(1, starts[:, None] + torch.arange(width, device=self.device), 0.0)


def _feature_order(recipe: Recipe) -> np.ndarray:
    order, args = recipe.permutation(), _generated(recipe)
    # The data set draws this permutation after its samples; its test data are in that order.
    return remembered(args).features[order] if args.shuffle_seq else order


def _generated(recipe: Recipe) -> Arguments:
    if not isinstance(recipe.arguments, Arguments):
        raise ValueError(f"{recipe.arguments.name} has no generator to draw fresh samples")
    return recipe.arguments


def correlation(length: int) -> Floats:
    """What correlates noise, as a matrix [length, length]: `noise @ matrix`."""
    return gaussian_filter1d(np.eye(length), NOISE_WIDTH, axis=-1)


def _ramp(length: int) -> Floats:
    """What shear subtracts, [length]."""
    return np.linspace(-0.5, 0.5, length)


def nuisances(args: Arguments) -> tuple[Floats, Floats, Floats]:
    """What the generator adds to signals, at scale 1, as it shows in a standardised sample of L resampled points.

    Returns:
        Two matrices that turn standard normals ``[n, L]`` into correlated and into independent noise
        ``[n, final_seq_length]``, and the slope ``[final_seq_length]`` that a shear subtracts.
    """
    _, deviation = population(args)
    reading = resample(np.eye(args.length), args.final_seq_length) / deviation
    return correlation(args.length) @ reading, reading, _ramp(args.length) @ reading


@lru_cache(maxsize=64)
def population(args: Arguments) -> tuple[float, float]:
    """Mean and standard deviation, over samples and positions, that data sets of these arguments tend to.

    In closed form: the average over every label, padding and shift of the moments that scale, noise and shear
    add to them. They are what the exact generator's own standardisation becomes as `num_samples` grows.
    """
    first, second, silent = _signal_moments(args)
    reading = resample(np.eye(args.length), args.final_seq_length)
    filtered = args.corr_noise_scale * correlation(args.length)
    ramp = _ramp(args.length)
    moments = (
        (1 + args.scale_coeff**2 / 12) * second  # a uniform on [-1/2, 1/2) has variance 1/12
        + silent * (filtered.T @ filtered)
        + args.iid_noise_scale**2 * np.eye(args.length)
        + args.shear_scale**2 / 12 * np.outer(ramp, ramp)
    )
    mean = float((first @ reading).mean())
    square = float(np.einsum("ai,ab,bi->i", reading, moments, reading).mean())
    return mean, float(np.sqrt(square - mean**2))


def _signal_moments(args: Arguments) -> tuple[Floats, Floats, Floats]:
    """Of the translated templates s: E[s_a] [L], E[s_a s_b] [L, L] and P(s_a = 0 = s_b) [L, L]."""
    table = dilations(get_templates()["x"], args)
    shifts = np.arange(args.max_translation)
    columns = (np.arange(args.length) - np.where(shifts < args.length, shifts, 0)[:, None]) % args.length
    first, second, silent = (np.zeros((args.length,) * n) for n in (1, 2, 2))
    for padded in np.moveaxis(table, 1, 0):
        signal = padded[:, columns].reshape(-1, args.length)
        quiet = (signal == 0).astype(np.float64)
        first, second, silent = first + signal.sum(0), second + signal.T @ signal, silent + quiet.T @ quiet
    count = table.shape[0] * table.shape[1] * len(shifts)
    return first / count, second / count, silent / count
