"""`python -m mnist1d.data export`: every format gives the generator's values back, every card tells the truth."""

import hashlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from pyarrow import parquet

from mnist1d.config import check
from mnist1d.data import Recipe, get_dataset_args, load, make_dataset
from mnist1d.data.__main__ import DEFAULTS, main
from mnist1d.data.export import FORMATS, Variant
from tests.conftest import ROOT

SMALL = ("num_samples=200", "seed=3", "iid_noise_scale=1e-1", "padding=[20,36]", "final_seq_length=23")
NAMES = {"train": ("x", "y"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")}


def exported(folder: Path, kind: str, *arguments: str) -> Path:
    """The folder that the command has written."""
    assert main(["export", "--format", kind, "--output", str(folder / kind), *arguments]) == 0
    return folder / kind


def published(**changes: Any) -> dict[str, Any]:
    """The data set of `SMALL`, as the published package's interface gives it."""
    small = {"num_samples": 200, "seed": 3, "iid_noise_scale": 0.1, "padding": [20, 36], "final_seq_length": 23}
    return make_dataset({**get_dataset_args(as_dict=True), **small, **changes})


def read(folder: Path, kind: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Signals and labels of one part, by libraries that know nothing of us."""
    if kind == "npz":
        with np.load(folder / "mnist1d.npz", allow_pickle=False) as data:
            return data[NAMES[part][0]], data[NAMES[part][1]]
    if kind == "hf":
        table = parquet.read_table(folder / "data" / f"{part}-00000-of-00001.parquet")
        return np.array(table["x"].to_pylist()), table["y"].to_numpy()
    file = folder / f"{part}.{kind}"
    if kind == "csv":
        lines = [line.split(",") for line in file.read_text().splitlines()]
        assert lines[0] == [*(f"x{i}" for i in range(len(lines[0]) - 1)), "y"]
        return np.array([[float(v) for v in line[:-1]] for line in lines[1:]]), np.array(
            [int(v[-1]) for v in lines[1:]]
        )
    frame = pd.read_parquet(file)
    return frame[[f"x{i}" for i in range(frame.shape[1] - 1)]].to_numpy(), frame["y"].to_numpy()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_generators_values_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    folder, expected = exported(tmp_path, kind, *SMALL), published()
    for part in ("train", "test"):
        x, y = read(folder, kind, part)
        assert (x.dtype, y.dtype) == (np.float64, np.int64)
        assert np.array_equal(x, expected[NAMES[part][0]])
        assert np.array_equal(y, expected[NAMES[part][1]])


def test_an_npz_has_the_published_keys(tmp_path: Path) -> None:
    with np.load(exported(tmp_path, "npz", *SMALL) / "mnist1d.npz", allow_pickle=False) as data:
        assert set(data) == {"x", "y", "x_test", "y_test", "t"}
        assert np.array_equal(data["t"], published()["t"])


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_done_to_the_data_is_exported_too(kind: str, tmp_path: Path) -> None:
    changes = (
        "label_noise=0.3",
        "label_noise_mode=flip",
        "feature_order=reversed",
        "val_split=0.25",
        "test_samples=30",
    )
    folder = exported(tmp_path, kind, *SMALL, *changes)
    splits = load(Recipe.named({**arguments(SMALL), **arguments(changes)}))
    parts = {
        "train": (splits.train_x, splits.train_y),
        "validation": (splits.val_x, splits.val_y),
        "test": (splits.test_x, splits.test_y),
    }
    for part, (expected_x, expected_y) in parts.items():
        x, y = read(folder, kind, part)
        assert np.array_equal(x.astype(np.float32), expected_x)
        assert np.array_equal(y, expected_y)
    assert np.array_equal(read(folder, kind, "test")[0], published()["x_test"][:30, ::-1])


def arguments(words: tuple[str, ...]) -> dict[str, Any]:
    return {key: yaml.safe_load(value.replace("1e-1", "0.1")) for key, _, value in (w.partition("=") for w in words)}


# -- the data card ---------------------------------------------------------------------------------------


def card(folder: Path) -> tuple[dict[str, Any], str]:
    """Front matter and text of a card."""
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), text


def block(text: str, language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_checksums_on_the_card_are_those_of_files_and_values(kind: str, tmp_path: Path) -> None:
    folder = exported(tmp_path, kind, *SMALL)
    _, text = card(folder)
    listed = dict(re.findall(r"^\| `(\S+)` \| ([0-9a-f]{64}) \|$", text, re.MULTILINE))
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "README.md"]
    assert listed == {f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    data = published()
    arrays = (data["x"], data["y"], data["x_test"], data["y_test"])
    values = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    assert f"every format: `{values}`" in text


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "hf"])  # `datasets` is not installed
def test_the_cards_way_to_load_works(kind: str, tmp_path: Path) -> None:
    snippet = block(card(exported(tmp_path, kind, *SMALL))[1], "python")
    names: dict[str, Any] = {}
    exec(snippet.replace("DIR/", f"{tmp_path / kind}/"), names)
    assert np.array_equal(names["x"], published()["x"])
    assert np.array_equal(names["y"], published()["y"])


def test_the_cards_command_makes_the_same_files_again(tmp_path: Path) -> None:
    folder = exported(tmp_path, "csv", *SMALL, "label_noise=0.15", "shuffle_seq=true", "shuffle_features=true")
    command = block(card(folder)[1], "bash").replace("DIR", str(tmp_path / "again"))
    assert main(shlex.split(command)[3:]) == 0
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_the_card_tells_every_argument_and_its_licence(tmp_path: Path) -> None:
    head, text = card(exported(tmp_path, "csv", *SMALL))
    told = dict(re.findall(r"^\| `(\w+)` \| `(.+)` \|$", text, re.MULTILINE))
    assert list(told) == list(DEFAULTS)
    assert (told["padding"], told["iid_noise_scale"], told["seed"]) == ("[20,36]", "0.1", "3")
    assert head["license"] == "apache-2.0"
    assert "Apache-2.0" in text
    assert head["size_categories"] == ["n<1K"]
    assert "| train | 160 |\n| test | 40 |" in text
    t = published()["t"]
    assert f"in time from {t[0]:.4f} to {t[-1]:.4f}" in text


@pytest.mark.parametrize("kind", ["npz", "csv"])
@pytest.mark.parametrize("order", ["feature_order=reversed", "shuffle_features=true", "shuffle_seq=true"])
def test_the_card_tells_the_time_axis_of_permuted_positions(kind: str, order: str, tmp_path: Path) -> None:
    folder, t = exported(tmp_path, kind, *SMALL, order), published()["t"]
    axis = " (`t`)" if kind == "npz" else ""
    spaced = f"equally spaced in time from {t[0]:.4f} to {t[-1]:.4f}"
    told = f"its positions permuted, the same way in all samples: before, they were {spaced}{axis}\n"
    assert told in card(folder)[1]
    assert not np.array_equal(read(folder, kind, "train")[0], published()["x"])
    plain = exported(tmp_path / "plain", kind, *SMALL)
    assert f"its positions {spaced}\n" in card(plain)[1]


def test_the_card_tells_what_was_spoilt_where_something_was(tmp_path: Path) -> None:
    window, noise = "before a window of 5 values in each", "label noise is in the training part only"
    spoilt = exported(tmp_path / "spoilt", "csv", *SMALL, "zero_window=5", "label_noise=0.3")
    x = np.concatenate([read(spoilt, "csv", part)[0] for part in ("train", "test")])
    assert f"standard deviation 1 over all samples drawn,\n{window}, in all parts, was set to 0." in card(spoilt)[1]
    assert f"`y`: the digit, 0 to 9; {noise}\n" in card(spoilt)[1]
    assert ((x == 0).sum(1) == 5).all()
    assert x.std() < 0.95
    plain = exported(tmp_path / "plain", "csv", *SMALL)
    x = np.concatenate([read(plain, "csv", part)[0] for part in ("train", "test")])
    assert "standard deviation 1 over all samples drawn.\n" in card(plain)[1]
    assert "`y`: the digit, 0 to 9\n" in card(plain)[1]
    assert (x.mean(), x.std()) == pytest.approx((0, 1))


def test_a_hub_finds_every_part_and_the_classes(tmp_path: Path) -> None:
    for kind in ("csv", "parquet", "hf"):
        folder = exported(tmp_path, kind, *SMALL, "val_split=0.1")
        (config,) = card(folder)[0]["configs"]
        assert [entry["split"] for entry in config["data_files"]] == ["train", "validation", "test"]
        assert all((folder / entry["path"]).is_file() for entry in config["data_files"])
    signal, label = card(tmp_path / "hf")[0]["dataset_info"]["features"]
    assert signal == {"name": "x", "sequence": "float64", "length": 23}
    assert label["dtype"]["class_label"]["names"] == {str(digit): str(digit) for digit in range(10)}
    schema = parquet.read_schema(tmp_path / "hf" / "data" / "train-00000-of-00001.parquet")
    assert str(schema.field("x").type) == "fixed_size_list<element: double>[23]"


def test_the_checksum_depends_on_the_values_alone() -> None:
    default, same = (Variant.of(Recipe.named({"num_samples": 100, "chunk_length": n})) for n in (10, 5))
    assert default.checksum == same.checksum
    assert Variant.of(Recipe.named({"num_samples": 100, "seed": 1})).checksum != default.checksum


# -- the command -----------------------------------------------------------------------------------------


def test_all_faults_come_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "num_sample=5 --label_noise=0.1 data.seed=3 padding rubbish padding=[3 seed=1 seed=2 train_split=2 "
        "shuffle_seq=3 label_noise= label_noise_mode=swap val_split=1 zero_window=40 test_samples=1,2 padding=[60,36]"
    )
    assert main(["export", "--format", "csv", "--output", str(tmp_path / "new"), *words.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "num_sample=5: no such argument; nearest: num_samples, test_samples",
        "--label_noise=0.1: must be written as label_noise=VALUE",
        "data.seed=3: must be written as seed=VALUE",
        "padding: must be written as padding=VALUE",
        f"rubbish: no such argument; allowed: {', '.join(DEFAULTS)}",
        "padding=[3: cannot be read",
        "seed: given twice, as 1 and as 2",
        "train_split=2: must be a number above 0 and below 1",
        "label_noise=: must be a number from 0 to 1",
        "label_noise_mode=swap: must be one of redraw, flip",
        "val_split=1: must be a number from 0 and below 1",
        "test_samples=1,2: must be a whole number of at least 1 or null",
        "shuffle_seq=3: must be true or false",
        "padding=[60,36]: the first number must not exceed the second; allowed: two whole numbers in order, as [36,60]",
        "zero_window=40: leaves nothing of final_seq_length=40; allowed: a whole number below 40",
    ]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "words",
    [
        "num_samples=1003",
        "test_samples=5000",
        "num_samples=100 test_samples=21",
        "train_split=1",
        "num_samples=10 val_split=0.01",
        "max_translation=73",
        "shuffle_features=true feature_order=reversed",
        "num_samples=10000000000000",
    ],
)
def test_what_makes_no_data_for_train_py_is_refused_in_the_same_words(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--format", "csv", "--output", str(tmp_path / "new"), *words.split()]) == 2
    told = capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    with pytest.raises(SystemExit):
        check(["data.batch_size=1", *(f"data.{word}" for word in words.split())])
    assert [line.split() for line in told.replace(": ", " ", 1).splitlines()] == [
        line.replace("data.", "").split() for line in capsys.readouterr().err.splitlines()[1:]
    ]


def test_the_same_value_twice_is_no_contradiction(tmp_path: Path) -> None:
    exported(tmp_path, "npz", *SMALL, "seed=3")


def test_a_folder_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("a file")
    for taken in (tmp_path, tmp_path / "mine.txt"):
        assert main(["export", "--format", "npz", "--output", str(taken), *SMALL]) == 1
        assert capsys.readouterr().err == f"--output: {taken}: exists and is not an empty folder\n"
    assert main(["export", "--format", "npz", "--output", str(tmp_path / "mine.txt" / "new"), *SMALL]) == 1
    assert capsys.readouterr().err == f"--output: {tmp_path / 'mine.txt'}: File exists\n"
    assert main(["export", "--format", "npz", "--output", "/proc/nowhere", *SMALL]) == 1
    assert capsys.readouterr().err == "--output: /proc/nowhere: No such file or directory\n"
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "--output", "x"], "the following arguments are required: --format"),
        (["export", "--output", "x", "--format", "xml"], "argument --format: invalid choice: 'xml'"),
        (["exprt"], "argument export: invalid choice: 'exprt'"),
        ([], "the following arguments are required: export"),
    ],
)
def test_a_wrong_form_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_real_command_names_its_files_and_needs_no_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "mnist1d.data", "export", "--format", "npz"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "deep" / "new"), "num_samples=50"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    new = tmp_path / "deep" / "new"
    assert done.stdout.splitlines() == [f"written: {new / 'mnist1d.npz'}", f"written: {new / 'README.md'}"]
    for heavy in ("torch", "mlflow", "pytorch_lightning"):
        assert f" {heavy}\n" not in done.stderr
