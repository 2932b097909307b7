"""The torch side of the data: the endless stream, the Dataset, the Lightning data module."""

import pickle
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy import stats
from torch.utils.data import DataLoader

from mnist1d.data import MNIST1D, MNIST1DDataModule, Recipe, load, stream
from mnist1d.data.arguments import Arguments
from mnist1d.data.generator import dilations, draw, generate, transform
from mnist1d.data.streaming import population
from mnist1d.data.templates import get_templates

FALSE_ALARM = 1e-6  # of a whole family of tests: seeds are fixed, so what fails once fails always
OTHER = Arguments(padding=(5, 20), max_translation=50, shear_scale=2, final_seq_length=30, iid_noise_scale=0.2)

CLEAR = Arguments(corr_noise_scale=0.01, iid_noise_scale=0.01, shear_scale=0)


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MNIST1D_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(recipe, n, seed=0):
    x, y = stream(recipe, "cpu", seeded(seed))(n)
    return x.numpy(), y.numpy()


@cache
def exact(args, n, seed=1):
    """Samples of the exact generator, standardised as the stream does it: x [n, length], y [n]."""
    labels = np.repeat(np.arange(10), n // 10)
    draws = draw(np.random.RandomState(seed), len(labels), args)
    mean, deviation = population(args)
    raw = transform(dilations(get_templates()["x"], args), labels, draws, args).resampled
    return (raw - mean) / deviation, labels


# --- the stream has the exact generator's distribution ------------------------------------------------------


def smallest_p_of_values(one, other):
    """Kolmogorov and Smirnov's test of every position and of the maximum, with Bonferroni's correction."""
    one, other = (np.column_stack([x, x.max(1)]).astype(np.float32) for x in (one, other))
    return min(stats.ks_2samp(*columns).pvalue for columns in zip(one.T, other.T, strict=True)) * one.shape[1]


def smallest_p_of_moments(one, other):
    """Welch's test of every mean and every mean product of two positions, with Bonferroni's correction."""
    differences, variances = 0, 0
    for x, sign in ((one, 1), (other, -1)):
        x = np.hstack([np.ones((len(x), 1)), x.astype(np.float64)])
        means, squares = x.T @ x / len(x), (x**2).T @ (x**2) / len(x)
        differences, variances = differences + sign * means, variances + (squares - means**2) / len(x)
    pairs = np.triu_indices(len(variances), 1)  # 0: means
    z = np.abs(differences[pairs]) / np.sqrt(variances[pairs])
    return 2 * stats.norm.sf(z.max()) * len(z)


def smallest_p(args, changed):
    """Of both tests, on all samples and on those of each class: exact with `args`, streamed with `changed`."""
    (one, labels), (other, streamed) = exact(args, 12_000), drawn(Recipe(changed), 36_000)
    pairs = [(one, other), *((one[labels == y], other[streamed == y]) for y in range(10))]
    tests = (smallest_p_of_values, smallest_p_of_moments)
    return min(test(*pair) for test in tests for pair in pairs) * len(tests) * len(pairs)


@pytest.mark.parametrize("args", [Arguments(), OTHER, CLEAR], ids=["default", "other", "clear"])
def test_values_means_and_covariances_agree_overall_and_in_every_class(args):
    assert smallest_p(args, args) > FALSE_ALARM


@pytest.mark.parametrize(
    ("args", "change"),
    [
        (Arguments(), {"iid_noise_scale": 0.05}),
        (Arguments(), {"max_translation": 44}),
        (Arguments(), {"padding": (36, 57)}),
        (CLEAR, {"scale_coeff": 0.6}),
        (CLEAR, {"shear_scale": 0.05}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_that_comparison_notices_a_distribution_that_is_slightly_other(args, change):
    assert smallest_p(args, replace(args, **change)) < FALSE_ALARM


def test_labels_are_uniform_and_independent_of_their_neighbours():
    _, y = drawn(Recipe(), 100_000)
    assert stats.chisquare(np.bincount(y, minlength=10)).pvalue > FALSE_ALARM
    pairs = np.bincount(10 * y[:-1:2] + y[1::2], minlength=100)
    assert stats.chisquare(pairs).pvalue > FALSE_ALARM


@pytest.mark.parametrize("args", [Arguments(), OTHER], ids=["default", "other"])
def test_population_constants_are_what_large_data_sets_tend_to(args):
    x, _ = exact(args, 40_000)
    standard_error = x.mean(1).std() / np.sqrt(len(x))
    assert abs(x.mean()) < 5 * standard_error
    assert abs((x**2).mean() - 1) < 5 * (x**2).mean(1).std() / np.sqrt(len(x))


def test_population_constants_of_the_default_are_pinned():
    assert population(Arguments()) == pytest.approx((-0.0060506062, 0.1546941331), rel=1e-7)


# --- and its interface --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 100, 4096, 5000])
def test_a_call_gives_as_many_samples_as_asked_for(n):
    x, y = stream(Recipe(), "cpu", seeded())(n)
    assert (x.shape, x.dtype) == ((n, 40), torch.float32)
    assert (y.shape, y.dtype) == ((n,), torch.int64)


def test_the_stream_is_decided_by_its_generator_and_leaves_global_ones_alone():
    torch_before, numpy_before = torch.get_rng_state(), pickle.dumps(np.random.get_state())  # noqa: NPY002
    first, again, other = (stream(Recipe(), "cpu", seeded(seed)) for seed in (3, 3, 4))
    batch = first(50)
    for one, two in zip(batch, again(50), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(batch[0], other(50)[0])
    assert not torch.equal(batch[0], first(50)[0])
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert pickle.dumps(np.random.get_state()) == numpy_before  # noqa: NPY002


def test_features_are_in_the_order_of_the_test_data():
    plain, _ = drawn(Recipe(), 30)
    shuffled = Recipe(shuffle_features=True, feature_order="half_swapped")
    assert np.abs(drawn(shuffled, 30)[0] - plain[:, shuffled.permutation()]).max() < 1e-5
    by_generator = Arguments(num_samples=50, shuffle_seq=True)
    assert np.abs(drawn(Recipe(by_generator), 30)[0] - plain[:, generate(by_generator).features]).max() < 1e-5


@pytest.mark.parametrize(("mode", "wrong"), [("redraw", 0.27), ("flip", 0.3)])
def test_label_noise_reaches_the_stream(mode, wrong):
    x, clean = drawn(Recipe(), 4000)
    noisy_x, noisy = drawn(Recipe(label_noise=0.3, label_noise_mode=mode), 4000)
    assert np.array_equal(x, noisy_x)
    assert (noisy != clean).mean() == pytest.approx(wrong, abs=0.03)
    assert set(noisy) == set(range(10))


def test_windows_of_zeros_reach_the_stream_and_change_nothing_else():
    x, labels = drawn(Recipe(), 3000)
    zeroed, same = drawn(Recipe(zero_window=10), 3000)
    gone = zeroed != x
    places = np.nonzero(gone)[1].reshape(-1, 10)
    assert (np.diff(places) == 1).all()
    assert not zeroed[gone].any()
    assert np.array_equal(labels, same)
    assert stats.chisquare(np.bincount(places[:, 0], minlength=31)).pvalue > 1e-3
    assert np.array_equal(drawn(Recipe(zero_window=10), 3000)[0], zeroed)


# --- Dataset and data module --------------------------------------------------------------------------------


def test_the_dataset_gives_samples_and_integer_labels():
    data = MNIST1D(num_samples=100, seed=1)
    splits = load(Recipe(Arguments(num_samples=100, seed=1)))
    x, y = data[3]
    assert len(data) == 80
    assert len(MNIST1D(train=False, num_samples=100, seed=1)) == 20
    assert np.array_equal(x.numpy(), splits.train_x[3])
    assert y == splits.train_y[3]
    assert type(y) is int
    x, y = next(iter(DataLoader(data, batch_size=8)))
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((8, 40), torch.float32, (8,), torch.int64)


def test_the_dataset_transforms_samples_and_labels():
    plain = MNIST1D(num_samples=20)
    data = MNIST1D(num_samples=20, transform=lambda x: x[None], target_transform=lambda y: y + 100)
    assert torch.equal(data[0][0], plain[0][0][None])
    assert data[0][1] == plain[0][1] + 100


def test_changing_a_dataset_changes_no_other():
    MNIST1D(num_samples=20).data.zero_()
    assert MNIST1D(num_samples=20).data.any()


def test_the_dataset_takes_what_the_loader_takes():
    clean, noisy = (
        MNIST1D(num_samples=500),
        MNIST1D(num_samples=500, label_noise=0.5, label_noise_mode="flip"),
    )
    assert 150 < (clean.targets != noisy.targets).sum() < 250
    with pytest.raises(TypeError, match=r"^unknown argument 'num_sample': must be one of num_samples, train_split, "):
        MNIST1D(num_sample=500)


class Softmax(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(40, 10)
        self.seen = {"train": 0, "val": 0, "test": 0}

    def _loss(self, batch, part):
        x, y = batch
        self.seen[part] += len(y)
        return torch.nn.functional.cross_entropy(self.layer(x), y)

    def training_step(self, batch):
        return self._loss(batch, "train")

    def test_step(self, batch):
        self._loss(batch, "test")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Validated(Softmax):
    def validation_step(self, batch):
        self._loss(batch, "val")


QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
QUIET |= {"enable_model_summary": False, "accelerator": "cpu", "max_epochs": 2, "num_sanity_val_steps": 0}


# A hint about speed on machines with more cores than ours.
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize(
    ("model", "val_split", "seen"), [(Softmax, 0.0, (320, 0, 40)), (Validated, 0.25, (240, 80, 40))]
)
def test_an_ordinary_trainer_fits_and_tests_with_the_data_module(model, val_split, seen):
    model, data = model(), MNIST1DDataModule(batch_size=30, num_samples=200, val_split=val_split)
    trainer = pl.Trainer(**QUIET)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    assert tuple(model.seen.values()) == seen


def test_training_batches_are_reshuffled_by_a_generator_of_their_own():
    before = torch.get_rng_state()

    def epochs(shuffle_seed):
        loader = MNIST1DDataModule(num_samples=100, shuffle_seed=shuffle_seed).train_dataloader()
        return [torch.cat([x for x, _ in loader]) for _ in range(2)]

    one, again, other = epochs(0), epochs(0), epochs(1)
    assert torch.equal(torch.stack(one), torch.stack(again))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[0], other[0])
    assert torch.equal(one[0].sort(0).values, other[0].sort(0).values)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"^batch_size=0: must be"):
        MNIST1DDataModule(batch_size=0)
