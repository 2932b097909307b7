"""The exact generator, its cache, and what is done to data on purpose: numpy only."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from scipy.interpolate import interp1d
from scipy.ndimage import gaussian_filter

from mnist1d.data import Recipe, cache, get_dataset, get_dataset_args, get_templates, load, make_dataset
from mnist1d.data.arguments import Arguments
from mnist1d.data.cache import cache_file
from mnist1d.data.corruption import (
    chunk_order,
    feature_order,
    flipped_labels,
    redrawn_labels,
    shuffled_order,
    zeroed_windows,
)
from mnist1d.data.generator import generate

PUBLISHED = Path(__file__).with_name("golden") / "published.npz"
TOLERANCE = 1e-12

# The permutations and the label noise of the paper's notebooks, from numpy's legacy stream.
CLASSIFICATION_ORDER = [19, 16, 15, 26, 4, 12, 37, 27, 39, 6, 25, 9, 13, 31, 34, 8, 17, 24, 0, 33]
CLASSIFICATION_ORDER += [5, 11, 1, 29, 21, 2, 30, 36, 3, 35, 23, 32, 10, 22, 18, 20, 7, 14, 28, 38]
LOTTERY_ORDER = [22, 20, 25, 4, 10, 15, 28, 11, 18, 29, 27, 35, 37, 2, 39, 30, 34, 16, 36, 8]
LOTTERY_ORDER += [13, 5, 17, 14, 33, 7, 32, 1, 26, 12, 31, 24, 6, 23, 21, 19, 9, 38, 3, 0]
SHUFFLE_SEQ_ORDER = [19, 22, 4, 32, 17, 18, 28, 31, 11, 24, 23, 7, 25, 35, 34, 6, 3, 13, 12, 26]
SHUFFLE_SEQ_ORDER += [1, 27, 20, 10, 36, 9, 37, 29, 8, 30, 5, 38, 16, 15, 33, 39, 14, 21, 0, 2]
NOISY_LABELS = "5686e3cad1fc0b65de210ea0ac05d05ef48f01bb2f9eaebf0ba5a247a3e0bbbc"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MNIST1D_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def published():
    with np.load(PUBLISHED, allow_pickle=False) as kept:
        return {key: kept[key] for key in kept}


def arguments(**changes):
    return SimpleNamespace(**(get_dataset_args(as_dict=True) | changes))


def global_state():
    return pickle.dumps(np.random.get_state())  # noqa: NPY002  # the state that must stay as it was


# --- the published package's values -------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["default", "seed_43", "odd", "on_the_grid", "own_templates"])
def test_data_are_the_published_packages_to_rounding(published, case):
    changes = json.loads(str(published["cases"]))[case]
    own = {key: published[f"own_templates/template_{key}"] for key in "xty"}
    data = make_dataset(arguments(**changes), own if case == "own_templates" else None)
    assert list(data) == ["x", "x_test", "y", "y_test", "t", "templates"]
    for key in ("x", "x_test", "t"):
        kept = published[f"{case}/{key}"]
        assert data[key].dtype == np.float64
        assert np.abs(data[key][: len(kept)] - kept).max() < TOLERANCE
    for key in ("y", "y_test"):
        assert data[key].dtype == np.int64
        assert np.array_equal(data[key], published[f"{case}/{key}"])
    assert len(data["x"]) == len(data["y"])
    assert len(data["x_test"]) == len(data["y_test"])


def one_by_one(args, templates):
    """The construction written straight down, one sample after another, with scipy's own interpolation."""
    rng, length = np.random.RandomState(args.seed), args.template_len + args.padding[1]
    xs = []
    for row in templates["x"]:
        for _ in range(args.num_samples // len(templates["x"])):
            padding = args.padding[0] + int(rng.rand() * (args.padding[1] - args.padding[0] + 1))
            x = interpolated(np.concatenate([row + 1e-8, np.zeros(padding)]), length)
            x *= 1 + args.scale_coeff * (rng.rand() - 0.5)
            shift = rng.choice(args.max_translation)
            x = np.concatenate([x[-shift:], x[:-shift]])
            x = np.where(x != 0, x, gaussian_filter(args.corr_noise_scale * rng.randn(length), 2))
            x += args.iid_noise_scale * rng.randn(length)
            x -= args.shear_scale * (rng.rand() - 0.5) * np.linspace(-0.5, 0.5, length)
            xs.append(interpolated(x, args.final_seq_length))
    xs = np.stack(xs)[rng.permutation(len(xs))]
    xs = xs[:, rng.permutation(args.final_seq_length)] if args.shuffle_seq else xs
    return (xs - xs.mean()) / xs.std(), rng


def interpolated(x, length):
    return interp1d(np.linspace(0, 1, len(x)), x)(np.linspace(0, 1, length))


def any_arguments(seed):
    rng = np.random.default_rng(seed)
    low = int(rng.integers(0, 60))
    return arguments(
        num_samples=int(rng.integers(10, 90)),
        train_split=float(rng.random()),
        template_len=int(rng.integers(1, 30)),
        padding=[low, low + int(rng.integers(0, 40))],
        scale_coeff=float(rng.random()),
        max_translation=int(rng.integers(1, 120)),
        corr_noise_scale=float(rng.random()),
        iid_noise_scale=float(rng.random()),
        shear_scale=float(rng.random()),
        shuffle_seq=bool(rng.random() < 0.5),
        final_seq_length=int(rng.integers(2, 100)),
        seed=int(rng.integers(2**32)),
    )


@pytest.mark.parametrize("seed", range(12))
def test_any_arguments_give_the_plain_constructions_values_and_leave_its_stream(seed):
    args = any_arguments(seed)
    x, rng = one_by_one(args, get_templates())
    generated = generate(Arguments.of(args))
    assert np.abs(generated.x - x).max() < TOLERANCE
    assert generated.stream().random_sample() == rng.random_sample()


def test_templates_are_the_papers():
    templates = get_templates()
    assert templates["x"].shape == (10, 12)
    assert [templates[key].dtype for key in "xty"] == [np.float64, np.float64, np.int64]
    assert np.abs(templates["x"][:, [0, -1]]).max() < 1e-15
    assert templates["x"][0].argmax() == 4  # the bulge of the zero, 7 from the fifth point on
    assert templates["t"][[0, -1]] == pytest.approx([-5 / 6, 5 / 6])
    assert templates["y"].tolist() == list(range(10))


def test_shuffle_seq_uses_the_permutation_after_the_samples():
    assert generate(Arguments(shuffle_seq=True)).features.tolist() == SHUFFLE_SEQ_ORDER


def test_generating_is_decided_by_its_seed_and_leaves_numpy_alone():
    before = global_state()
    small = {"num_samples": 40}
    first, again = make_dataset(arguments(**small)), make_dataset(arguments(**small))
    assert np.array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], make_dataset(arguments(**small, seed=0))["x"])
    assert global_state() == before


def test_default_arguments_come_as_object_or_dictionary():
    as_object, as_dict = get_dataset_args(), get_dataset_args(as_dict=True)
    assert vars(as_object) == as_dict
    assert as_dict["padding"] == [36, 60]
    as_object.num_samples = 20
    assert get_dataset_args().num_samples == 5000
    assert len(make_dataset(as_object)["x"]) == 16


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("num_samples", 9, "at least 10, one for each template"),
        ("num_samples", 100.5, "a whole number of at least 1"),
        ("train_split", 1.5, "a number from 0 to 1"),
        ("template_len", 0, "a whole number of at least 1"),
        ("padding", [60, 36], "0 <= low <= high"),
        ("padding", 36, "two whole numbers"),
        ("scale_coeff", float("nan"), "a finite number"),
        ("max_translation", 0, "a whole number from 1 to"),
        ("corr_noise_scale", "loud", "a finite number"),
        ("final_seq_length", -1, "a whole number of at least 1"),
        ("seed", None, "a whole number from 0 to 4294967295"),
    ],
)
def test_impossible_arguments_are_refused_by_name_value_and_what_is_allowed(name, value, allowed):
    with pytest.raises(ValueError, match=f"^{name}=") as fault:
        make_dataset(arguments(**{name: value}))
    assert allowed in str(fault.value)
    assert repr(value) in str(fault.value)


@pytest.mark.parametrize(("key", "value"), [("x", np.zeros(12)), ("t", np.zeros((2, 2))), ("y", np.arange(11))])
def test_templates_that_cannot_belong_together_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"^template\['{key}'\]"):
        make_dataset(arguments(num_samples=20), get_templates() | {key: value})


# --- the cache ----------------------------------------------------------------------------------------------


def small(**changes):
    return arguments(num_samples=20, **changes)


def test_what_is_made_is_read_back_the_same(capsys):
    made, read = get_dataset(small()), get_dataset(small())
    assert [line.split(" /")[0] for line in capsys.readouterr().out.splitlines()] == [
        "MNIST-1D: made and kept in",
        "MNIST-1D: read from",
    ]
    for key in ("x", "x_test", "y", "y_test", "t"):
        assert np.array_equal(made[key], read[key])
        assert made[key].dtype == read[key].dtype


def test_a_stored_stream_goes_on_where_the_made_one_does(tmp_path):
    args = Arguments(num_samples=1000, train_split=0.5)
    fresh = load(Recipe(args, label_noise=0.3)).train_y
    stored = subprocess.run(
        [sys.executable, "-c", _NOISY_IN_ANOTHER_PROCESS], capture_output=True, text=True, check=True
    )
    assert json.loads(stored.stdout) == fresh.tolist()
    assert len(list((tmp_path / "cache").iterdir())) == 1


_NOISY_IN_ANOTHER_PROCESS = """
from mnist1d.data import Recipe, load
from mnist1d.data import cache
from mnist1d.data.arguments import Arguments
print(load(Recipe(Arguments(num_samples=1000, train_split=0.5), label_noise=0.3)).train_y.tolist())
"""


def test_other_arguments_or_templates_have_another_file():
    templates = get_templates()
    other = templates | {"x": templates["x"] * 2}
    files = {cache_file(Arguments()), cache_file(Arguments(shuffle_seq=True)), cache_file(Arguments(), other)}
    assert len(files) == 3
    assert cache_file(Arguments(padding=(36, 60))) == cache_file(Arguments.of({"padding": [36, 60]}))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda _: b"", lambda b: flipped(b), lambda _: b"junk"])
def test_a_damaged_file_is_made_again(damage):
    whole = get_dataset(small(), verbose=False)
    file = cache_file(Arguments.of(small()))
    file.write_bytes(damage(file.read_bytes()))
    assert np.array_equal(get_dataset(small(), verbose=False)["x"], whole["x"])
    with np.load(file, allow_pickle=False) as kept:
        assert len(kept["x"]) == 20


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_path_that_holds_other_arguments_is_not_believed(tmp_path):
    path = tmp_path / "mine.npz"
    get_dataset(small(), path, verbose=False)
    other = get_dataset(small(seed=1), path, verbose=False)
    assert np.array_equal(other["x"], make_dataset(small(seed=1))["x"])


def test_a_pickle_is_neither_read_nor_overwritten(tmp_path):
    path = tmp_path / "mnist1d_data.pkl"
    content = pickle.dumps({"x": np.zeros(3)})
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^path=.*pickles are not read"):
        get_dataset(small(), path)
    assert path.read_bytes() == content


def test_download_and_regenerate_together_just_make_it():
    get_dataset(small(), verbose=False)
    again = get_dataset(small(), download=True, regenerate=True, verbose=False)
    assert np.array_equal(again["x"], make_dataset(small())["x"])


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MNIST1D_CACHE", str(tmp_path / "file" / "below"))
    assert len(get_dataset(small(), verbose=False)["x"]) == 16
    with pytest.raises(OSError, match="file"):
        get_dataset(small(), tmp_path / "file" / "mine.npz", verbose=False)


def test_readers_never_see_half_a_file(tmp_path):
    path, args = tmp_path / "shared.npz", arguments(num_samples=2000)
    whole = get_dataset(args, path, verbose=False)["x"]
    stop = threading.Event()

    def rewrite():
        while not stop.is_set():
            get_dataset(args, path, regenerate=True, verbose=False)

    with ThreadPoolExecutor(2) as pool:
        writer = pool.submit(rewrite)
        for _ in range(60):
            with np.load(path, allow_pickle=False) as kept:
                assert np.array_equal(kept["x"][:1600], whole)
        stop.set()
        writer.result()
    assert [file.name for file in tmp_path.iterdir()] == ["shared.npz"]


def test_the_folder_forgets_what_was_used_least_recently(monkeypatch):
    files = [cache_file(Arguments.of(small(seed=seed))) for seed in range(3)]
    for seed in range(3):
        get_dataset(small(seed=seed), verbose=False)
        os.utime(files[seed], (1000 + seed, 1000 + seed))
    get_dataset(small(seed=0), verbose=False)
    monkeypatch.setattr(cache, "FOLDER_LIMIT", 3 * files[0].stat().st_size)
    get_dataset(small(seed=3), verbose=False)
    assert [file.exists() for file in files] == [True, False, True]


def test_the_callers_arrays_are_his_own():
    first = get_dataset(small(), verbose=False)
    first["x"][:] = 0
    assert get_dataset(small(), verbose=False)["x"].any()


# --- label noise --------------------------------------------------------------------------------------------


def test_redrawn_labels_are_the_references():
    args = Arguments(num_samples=16_000, train_split=0.25)
    clean, noisy = load(Recipe(args)), load(Recipe(args, label_noise=0.15))
    assert (clean.train_y != noisy.train_y).sum() == 577
    assert hashlib.sha256(noisy.train_y.tobytes()).hexdigest() == NOISY_LABELS
    assert np.array_equal(clean.test_y, noisy.test_y)


def test_redrawing_is_decided_by_its_stream_and_works_on_a_copy():
    before, labels = global_state(), np.arange(1000) % 10
    draws = [redrawn_labels(labels, 0.5, np.random.RandomState(seed)) for seed in (3, 3, 4)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert np.array_equal(labels, np.arange(1000) % 10)
    assert global_state() == before


def test_flipped_labels_are_always_wrong_and_nested_by_probability():
    before, labels = global_state(), np.arange(5000) % 10
    few, many = (flipped_labels(labels, p, np.random.default_rng(0)) for p in (0.1, 0.3))
    assert np.array_equal(flipped_labels(labels, 0.1, np.random.default_rng(0)), few)
    assert not np.array_equal(flipped_labels(labels, 0.1, np.random.default_rng(1)), few)
    assert 430 < (few != labels).sum() < 570
    assert np.array_equal(few[few != labels], many[few != labels])
    assert (flipped_labels(labels, 1.0, np.random.default_rng(0)) != labels).all()
    assert set(many) == set(range(10))
    assert global_state() == before


# --- the order of features ----------------------------------------------------------------------------------


def test_shuffled_features_use_the_notebooks_permutations():
    assert shuffled_order(40, 42).tolist() == CLASSIFICATION_ORDER
    assert shuffled_order(40, 0).tolist() == LOTTERY_ORDER


def test_features_are_reversed_or_half_swapped():
    assert feature_order(40, order="reversed").tolist() == list(range(39, -1, -1))
    assert feature_order(40, order="half_swapped").tolist() == [*range(20, 40), *range(20)]
    assert feature_order(40).tolist() == list(range(40))


def test_an_order_goes_on_top_of_a_shuffle():
    order = feature_order(40, shuffle=True, seed=0, order="reversed")
    assert order.tolist() == LOTTERY_ORDER[::-1]


@pytest.mark.parametrize(("length", "chunk"), [(40, 10), (40, 20), (40, 7), (2, 1)])
def test_chunks_are_moved_whole_and_never_all_left_in_place(length, chunk):
    before = global_state()
    orders = [chunk_order(length, chunk, seed) for seed in range(30)]
    for order in orders:
        assert sorted(order) == list(range(length))
        assert order.tolist() != list(range(length))
        breaks = (np.diff(order) != 1).sum()
        assert breaks <= -(-length // chunk) - 1
    assert np.array_equal(orders[0], chunk_order(length, chunk, 0))
    assert len({tuple(order) for order in orders}) > 1 or length // chunk == 2
    assert global_state() == before


@pytest.mark.parametrize("chunk", [0, 40, -1])
def test_chunks_that_cannot_be_shuffled_are_refused(chunk):
    with pytest.raises(ValueError, match=f"^chunk_length={chunk}: must be from 1 to 39"):
        Recipe(feature_order="chunk_shuffled", chunk_length=chunk)


# --- windows of zeros ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 10, 39])
def test_every_sample_has_one_window_of_zeros_anywhere(width):
    before, x = global_state(), np.ones((3000, 40), np.float32)
    zeroed = zeroed_windows(x, width, np.random.default_rng(0))
    starts = (zeroed == 0).argmax(1)
    for row, start in zip(zeroed, starts, strict=True):
        assert np.flatnonzero(row == 0).tolist() == list(range(start, start + width))
    counts = np.bincount(starts, minlength=41 - width)
    assert len(counts) == 41 - width
    assert stats.chisquare(counts).pvalue > 1e-3
    assert zeroed.dtype == np.float32
    assert x.all(), "it works on a copy"
    assert np.array_equal(zeroed_windows(x, width, np.random.default_rng(0)), zeroed)
    assert not np.array_equal(zeroed_windows(x, width, np.random.default_rng(1)), zeroed)
    assert global_state() == before


def test_windows_are_of_what_a_model_sees_in_all_parts_and_belong_to_their_rows():
    changes = {"feature_order": "reversed", "zero_window": 10}
    whole = load(config(**changes))
    part = load(config(**changes, val_split=0.25, test_samples=7))
    for field in ("train_x", "test_x"):
        plain, found = getattr(load(config(feature_order="reversed")), field), getattr(whole, field)
        gone = found != plain
        assert (gone.sum(1) == 10).all()
        assert (np.ptp(np.nonzero(gone)[1].reshape(-1, 10), axis=1) == 9).all()  # neighbours
        assert not found[gone].any()
    rows = {row.tobytes() for row in whole.train_x}
    assert {row.tobytes() for row in (*part.train_x, *part.val_x)} == rows
    assert np.array_equal(part.test_x, whole.test_x[:7])
    assert np.array_equal(whole.train_y, load(config()).train_y)
    other = load(config(**changes, seed=1))
    assert not np.array_equal(other.train_x == 0, whole.train_x == 0)


# --- splits -------------------------------------------------------------------------------------------------

CONFIG = {
    **get_dataset_args(as_dict=True),
    **{"num_samples": 200, "label_noise": 0.0, "label_noise_mode": "redraw", "shuffle_features": False},
    **{"feature_seed": 42, "feature_order": "original", "chunk_length": 10, "zero_window": 0},
    **{"val_split": 0.0, "test_samples": None},
}


def config(**changes):
    return SimpleNamespace(**(CONFIG | changes))


def test_splits_are_the_data_set_in_single_precision():
    splits, data = load(config()), make_dataset(config())
    assert np.array_equal(splits.train_x, data["x"].astype(np.float32))
    assert np.array_equal(splits.test_x, data["x_test"].astype(np.float32))
    assert np.array_equal(splits.train_y, data["y"])
    assert splits.val_x.shape == (0, 40)
    assert splits.train_x.dtype == splits.val_x.dtype == np.float32
    assert splits.train_y.dtype == splits.val_y.dtype == splits.test_y.dtype == np.int64


def test_equal_configs_share_one_object_that_nobody_can_spoil():
    splits = load(config())
    assert load(config()) is splits
    assert load(config(seed=1)) is not splits
    with pytest.raises(ValueError, match="read-only"):
        splits.train_y[0] = 1


def test_the_order_of_features_holds_for_every_split():
    plain = load(config(val_split=0.25))
    turned = load(config(val_split=0.25, feature_order="reversed"))
    for part in ("train_x", "val_x", "test_x"):
        assert np.array_equal(getattr(turned, part), getattr(plain, part)[:, ::-1])


def test_of_the_test_data_only_the_first_samples_asked_for_are_used():
    whole, part = load(config()), load(config(test_samples=7))
    assert np.array_equal(part.test_x, whole.test_x[:7])
    assert np.array_equal(part.test_y, whole.test_y[:7])
    assert np.array_equal(part.train_x, whole.train_x)


@pytest.mark.parametrize("mode", ["redraw", "flip"])
def test_held_out_rows_are_clean_and_leave_the_noise_of_the_others_alone(mode):
    before = global_state()
    noise = {"label_noise": 0.5, "label_noise_mode": mode}
    clean, noisy = load(config()), load(config(**noise))
    held = load(config(**noise, val_split=0.25))
    assert (len(held.train_y), len(held.val_y), len(held.test_y)) == (120, 40, 40)
    rows = {row.tobytes(): index for index, row in enumerate(clean.train_x)}
    kept, out = ([rows[row.tobytes()] for row in part] for part in (held.train_x, held.val_x))
    assert sorted(kept + out) == list(range(160))
    assert kept == sorted(kept)
    assert np.array_equal(held.train_y, noisy.train_y[kept])
    assert np.array_equal(held.val_y, clean.train_y[out])
    assert np.array_equal(held.test_y, clean.test_y)
    assert not np.array_equal(noisy.train_y, clean.train_y)
    assert global_state() == before


def test_other_data_seeds_hold_out_other_rows_and_flip_other_labels():
    labels = []
    for seed in (0, 1):
        clean = load(config(seed=seed)).train_y
        labels.append(load(config(seed=seed, label_noise=0.5, label_noise_mode="flip")).train_y == clean)
    assert not np.array_equal(*labels)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_noise", 1.5),
        ("label_noise_mode", "swap"),
        ("feature_order", "sorted"),
        ("feature_seed", -1),
        ("zero_window", -1),
        ("zero_window", 40),
        ("val_split", 1.0),
        ("val_split", 0.001),
    ],
)
def test_impossible_splits_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name}={value!r}: must"):
        load(config(**{name: value}))


def test_importing_the_data_package_does_not_import_torch():
    code = "import sys, mnist1d.data; print({'torch', 'pytorch_lightning', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
