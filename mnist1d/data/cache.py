"""Generated data sets kept in files named by their content.

The folder is $MNIST1D_CACHE, else $XDG_CACHE_HOME/mnist1d-lab, else ~/.cache/mnist1d-lab. A file is a plain .npz
(never a pickle), is named by the hash of everything that decides its content, carries that hash inside, and appears
whole or not at all. One that cannot be read is made again; one that cannot be written costs time, nothing else.
"""

import hashlib
import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mnist1d.data.arguments import Arguments
from mnist1d.data.generator import Generated, generate
from mnist1d.data.templates import Templates, check_templates, get_templates

__all__ = ["cache_file", "cache_folder", "digest", "get_dataset", "remembered", "whole_file"]

FORMAT = 1  # part of every hash: a change in what a file holds makes the old ones strangers
FOLDER_LIMIT = 2**30  # bytes; past it the files least recently used go
# What reading a damaged .npz can raise: a flipped bit may claim a password, a method or a size it has not.
UNREADABLE = (
    *(OSError, EOFError, LookupError, ValueError, RuntimeError, MemoryError),
    *(struct.error, zipfile.BadZipFile, zlib.error),
)


def digest(args: Arguments, template: Templates | None = None) -> str:
    """64 hexadecimal digits that name the data set of these arguments and templates."""
    templates = check_templates(get_templates() if template is None else template)
    arrays = {key: (str(a.dtype), a.shape, a.tobytes().hex()) for key, a in _arrays(templates).items()}
    return hashlib.sha256(json.dumps([FORMAT, asdict(args), arrays], sort_keys=True).encode()).hexdigest()


def _arrays(templates: Templates) -> Mapping[str, np.ndarray]:
    return {"x": templates["x"], "t": templates["t"], "y": templates["y"]}


def cache_folder() -> Path:
    """Where data sets are kept; not made until something is."""
    if named := os.environ.get("MNIST1D_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnist1d-lab"


def cache_file(args: Arguments, template: Templates | None = None) -> Path:
    """The file that holds, or would hold, this data set."""
    return cache_folder() / f"mnist1d-{digest(args, template)[:20]}.npz"


def get_dataset(
    args: object = None,
    path: str | os.PathLike[str] | None = None,
    verbose: bool = True,
    download: bool = True,
    regenerate: bool = False,
    template: Templates | None = None,
) -> dict[str, Any]:
    """The data set of these arguments, from its file if it is there, made and kept otherwise.

    Called as in the published package, it differs in this: the arguments decide what is returned, whatever a
    file of that name may hold.

    Args:
        args: as for `make_dataset`.
        path: the file to keep it in, instead of one in `cache_folder()`. A file that holds other arguments is
            replaced; one that is no .npz (a pickle of the published package, say) is left alone.
        verbose: print one line about where the data came from.
        download: nothing to do: the generator gives the published file's values, so nothing is ever fetched.
        regenerate: make it anew even if a file holds it.
        template: as for `make_dataset`.

    Returns:
        What `make_dataset` returns; the arrays are the caller's own.

    Raises:
        ValueError: an impossible argument, or a `path` to something that is not a data set of ours.
    """
    del download
    arguments = Arguments.of({} if args is None else args)
    file = cache_file(arguments, template) if path is None else _own(Path(path))
    found = None if regenerate else _read(file, digest(arguments, template))
    generated = found or _make(arguments, template, file, must_keep=path is not None)
    if verbose:
        print(f"MNIST-1D: {'made and kept in' if found is None else 'read from'} {file}")
    return generated.dataset(arguments.train_split, get_templates() if template is None else template)


def remembered(args: Arguments) -> Generated:
    """The data set of these arguments, from memory, its file, or made. Its arrays are shared: read-only."""
    return _remembered(args, cache_folder())


@lru_cache(maxsize=8)
def _remembered(args: Arguments, folder: Path) -> Generated:
    del folder  # in the key, so that another cache folder is another memory
    file = cache_file(args)
    generated = _read(file, digest(args)) or _make(args, None, file, must_keep=False)
    for array in (generated.x, generated.y, generated.t, generated.features):
        array.flags.writeable = False
    return generated


def _make(args: Arguments, template: Templates | None, file: Path, must_keep: bool) -> Generated:
    generated = generate(args, template)
    with suppress(*() if must_keep else (OSError,)):
        _write(file, generated, digest(args, template))
        if not must_keep:
            _trim(file.parent)
    return generated


def _own(file: Path) -> Path:
    """The file, unless it is there and could not have been written by us."""
    if file.is_file():
        with file.open("rb") as stream:
            head = stream.read(2)
        if head not in (b"", b"PK"):
            raise ValueError(f"path={str(file)!r}: holds no .npz, and pickles are not read; give another file")
    return file


def _read(file: Path, key: str) -> Generated | None:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            if str(kept["digest"]) != key:
                return None
            rest = (int(kept["position"]), int(kept["has_gauss"]), float(kept["gauss"]))
            state = ("MT19937", kept["state"], *rest)
            generated = Generated(kept["x"], kept["y"], kept["t"], kept["features"], state)
    except UNREADABLE:
        return None
    with suppress(OSError):
        os.utime(file)
    return generated


def _write(file: Path, data: Generated, key: str) -> None:
    _, state, position, has_gauss, gauss = data.state
    arrays = {"x": data.x, "y": data.y, "t": data.t, "features": data.features, "state": state}
    with whole_file(file) as stream:
        np.savez(stream, digest=key, position=position, has_gauss=has_gauss, gauss=gauss, **arrays)


@contextmanager
def whole_file(file: Path) -> Iterator[BinaryIO]:
    """A stream to write `file` by, which appears, or is replaced, when the context ends without an error."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=file.stem, suffix=".part", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _trim(folder: Path) -> None:
    files = sorted(((f.stat(), f) for f in folder.glob("mnist1d-*")), key=lambda item: -item[0].st_mtime)
    total = 0
    for stat, file in files:
        total += stat.st_size
        if total > FOLDER_LIMIT:
            file.unlink(missing_ok=True)
