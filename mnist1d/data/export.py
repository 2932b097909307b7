"""A variant of MNIST-1D as files to share: the samples in a common format, and a data card that says what they are.

Values are the generator's, in double precision, whatever the format. The card is a README.md in the form of a Hugging
Face dataset card: every argument, the command that makes the folder again, checksums, licence, how to load it.
"""

import errno
import hashlib
import shlex
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from mnist1d.data.arguments import Arguments
from mnist1d.data.cache import remembered
from mnist1d.data.splits import Inputs, Labels, Recipe, load_exact
from mnist1d.spelling import spelled

__all__ = ["FORMATS", "Variant", "export"]

Part = tuple[Inputs, Labels]

_SUFFIX = {"train": "", "validation": "_val", "test": "_test"}  # of the names in an .npz
_SIZES = {1000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}


@dataclass(frozen=True)
class Variant:
    """A data set to write.

    Attributes:
        recipe: what it is made by; of generated signals, not of an image set.
        parts: train, validation (if asked for) and test: x [n, length] and y [n].
        t: the time axis, [length].
    """

    recipe: Recipe
    parts: dict[str, Part]
    t: npt.NDArray[np.float64]

    @classmethod
    def of(cls, recipe: Recipe) -> "Variant":
        """Make the data set; ValueError for an impossible value."""
        assert isinstance(recipe.arguments, Arguments)
        splits = load_exact(recipe)
        parts = {
            "train": (splits.train_x, splits.train_y),
            "validation": (splits.val_x, splits.val_y),
            "test": (splits.test_x, splits.test_y),
        }
        return cls(recipe, {name: part for name, part in parts.items() if len(part[1])}, remembered(recipe.arguments).t)

    @property
    def length(self) -> int:
        """Positions of a signal."""
        return len(self.t)

    @property
    def checksum(self) -> str:
        """SHA-256 of all values, whatever the format: x (little-endian float64), y (int64), part by part."""
        digest = hashlib.sha256()
        for x, y in self.parts.values():
            digest.update(np.ascontiguousarray(x, "<f8").tobytes() + np.ascontiguousarray(y, "<i8").tobytes())
        return digest.hexdigest()


def export(variant: Variant, kind: str, folder: Path) -> list[Path]:
    """Write `variant` in the format `kind`, a key of `FORMATS`, with its card; the files, which appear all or none.

    Raises:
        FileExistsError: `folder` holds something already.
        OSError: it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(errno.EEXIST, "exists and is not an empty folder", str(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        paths = FORMATS[kind].write(made, variant)
        (made / "README.md").write_text(_card(variant, kind, made, paths), encoding="utf-8")
        made.replace(folder)
    return [folder / path.relative_to(made) for path in paths.values()] + [folder / "README.md"]


# -- formats ---------------------------------------------------------------------------------------------


def _write_npz(folder: Path, variant: Variant) -> dict[str, Path]:
    arrays = {f"x{_SUFFIX[name]}": x for name, (x, _) in variant.parts.items()}
    labels = {f"y{_SUFFIX[name]}": y for name, (_, y) in variant.parts.items()}
    np.savez(folder / "mnist1d.npz", t=variant.t, **arrays, **labels)  # type: ignore[arg-type]
    return {"all": folder / "mnist1d.npz"}


def _columns(part: Part) -> dict[str, npt.NDArray[Any]]:
    x, y = part
    return {f"x{position}": column for position, column in enumerate(x.T)} | {"y": y}


def _write_csv(folder: Path, variant: Variant) -> dict[str, Path]:
    import pandas as pd

    paths = {name: folder / f"{name}.csv" for name in variant.parts}
    for name, path in paths.items():  # pandas writes the shortest digits that give the same number back
        pd.DataFrame(_columns(variant.parts[name])).to_csv(path, index=False, lineterminator="\n")
    return paths


def _write_parquet(folder: Path, variant: Variant) -> dict[str, Path]:
    import pyarrow as pa
    from pyarrow import parquet

    paths = {name: folder / f"{name}.parquet" for name in variant.parts}
    for name, path in paths.items():
        parquet.write_table(pa.table(_columns(variant.parts[name])), path)
    return paths


def _write_hf(folder: Path, variant: Variant) -> dict[str, Path]:
    import pyarrow as pa
    from pyarrow import parquet

    (folder / "data").mkdir()
    paths = {name: folder / "data" / f"{name}-00000-of-00001.parquet" for name in variant.parts}
    for name, path in paths.items():
        x, y = variant.parts[name]
        rows = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), variant.length)
        parquet.write_table(pa.table({"x": rows, "y": y}), path)
    return paths


@dataclass(frozen=True)
class _Format:
    write: Callable[[Path, Variant], dict[str, Path]]  # part -> its file
    load: str  # Python that reads the training part


FORMATS = {
    "npz": _Format(
        _write_npz,
        'import numpy as np\n\ndata = np.load("DIR/mnist1d.npz")\nx, y = data["x"], data["y"]',
    ),
    "csv": _Format(
        _write_csv,
        'import numpy as np\n\ntable = np.loadtxt("DIR/train.csv", delimiter=",", skiprows=1)\n'
        "x, y = table[:, :-1], table[:, -1].astype(int)",
    ),
    "parquet": _Format(
        _write_parquet,
        'import pandas as pd\n\ntable = pd.read_parquet("DIR/train.parquet")\n'
        'x, y = table.drop(columns="y").to_numpy(), table["y"].to_numpy()',
    ),
    "hf": _Format(
        _write_hf,
        'import numpy as np\nfrom datasets import load_dataset\n\ntrain = load_dataset("DIR", split="train")\n'
        'x, y = np.array(train["x"][:]), np.array(train["y"][:])  # its own numpy format has single precision',
    ),
}
"""By the name that `--format` has."""


# -- the data card ---------------------------------------------------------------------------------------


def _card(variant: Variant, kind: str, folder: Path, paths: Mapping[str, Path]) -> str:
    files = {name: path.relative_to(folder).as_posix() for name, path in paths.items()}
    head = yaml.safe_dump(_front_matter(variant, kind, files), sort_keys=False, allow_unicode=True)
    width = variant.recipe.zero_window
    listed = [f"| `{path}` | {_sha256(folder / path)} |" for path in files.values()]
    return _TEXT.format(
        head=head,
        length=variant.length,
        zeroed=f",\nbefore a window of {width} values in each, in all parts, was set to 0" if width else "",
        positions=_positions(variant, kind),
        noisy="; label noise is in the training part only" if variant.recipe.label_noise else "",
        parts="\n".join(f"| {name} | {len(y)} |" for name, (_, y) in variant.parts.items()),
        load=FORMATS[kind].load,
        command=_command(variant, kind),
        arguments="\n".join(f"| `{key}` | `{spelled(value)}` |" for key, value in variant.recipe.values.items()),
        checksum=variant.checksum,
        files="\n".join(listed),
    )


def _positions(variant: Variant, kind: str) -> str:
    """Where in time the positions of a signal are."""
    spaced = f"equally spaced in time from {variant.t[0]:.4f} to {variant.t[-1]:.4f}"
    as_made = np.arange(variant.length)
    if not variant.recipe.values["shuffle_seq"] and (variant.recipe.permutation() == as_made).all():
        return spaced
    return f"permuted, the same way in all samples: before, they were {spaced}{' (`t`)' if kind == 'npz' else ''}"


def _front_matter(variant: Variant, kind: str, files: Mapping[str, str]) -> dict[str, Any]:
    """The metadata that the Hugging Face hub reads; formats that it can show name their files."""
    total = sum(len(y) for _, y in variant.parts.values())
    head: dict[str, Any] = {
        "license": "apache-2.0",
        "pretty_name": "MNIST-1D",
        "task_categories": ["tabular-classification"],
        "size_categories": [next((text for most, text in _SIZES.items() if total < most), "10M<n<100M")],
        "tags": ["mnist-1d", "synthetic", "time-series"],
    }
    if kind != "npz":
        data_files = [{"split": name, "path": path} for name, path in files.items()]
        head["configs"] = [{"config_name": "default", "data_files": data_files}]
    if kind == "hf":
        digits = {str(digit): str(digit) for digit in range(10)}
        signal = {"name": "x", "sequence": "float64", "length": variant.length}
        head["dataset_info"] = {"features": [signal, {"name": "y", "dtype": {"class_label": {"names": digits}}}]}
    return head


def _command(variant: Variant, kind: str) -> str:
    default = Recipe().values
    changed = [f"{key}={spelled(value)}" for key, value in variant.recipe.values.items() if value != default[key]]
    return shlex.join(["python", "-m", "mnist1d.data", "export", "--format", kind, "--output", "DIR", *changed])


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


_TEXT = """\
---
{head}---

# MNIST-1D

Signals of {length} numbers in ten classes, made by the generator of Greydanus & Kobak, *Scaling Down Deep Learning with
MNIST-1D* (ICML 2024, arXiv 2011.14439): a template per digit is padded, scaled, shifted, covered with noise, sheared
and resampled. Inputs have mean 0 and standard deviation 1 over all samples drawn{zeroed}.

- `x`: a signal in double precision, its positions {positions}
- `y`: the digit, 0 to 9{noisy}

| part | samples |
| --- | ---: |
{parts}

## Load

DIR is this folder:

```python
{load}
```

## Made by

```bash
{command}
```

| argument | value |
| --- | --- |
{arguments}

## Checksums

SHA-256 of all values in little-endian bytes, x (float64) before y (int64), part by part as above; it is the same in
every format: `{checksum}`

| file | SHA-256 |
| --- | --- |
{files}

## Licence

Apache-2.0, as the generator and the published data set (https://github.com/greydanus/mnist1d).
"""
