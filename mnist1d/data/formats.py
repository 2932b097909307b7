"""Readers of the published files of image sets: MNIST's IDX format and the binary version of CIFAR-10.

Both are plain bytes with a few numbers in front; nothing here unpickles. Every reader checks what a file says about
itself before it believes a value of it, and raises `FormatError` otherwise.
"""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["FormatError", "read_cifar10", "read_idx"]

Bytes = npt.NDArray[np.uint8]

CIFAR10_BATCHES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
_CIFAR10_IMAGE = (3, 32, 32)  # colours first
_LONGEST_HEAD = 4 + 4 * 3  # three dimensions


class FormatError(ValueError):
    """A file that is not what its name promises; the message names it."""


def read_idx(file: Path) -> Bytes:
    """The array in a gzipped IDX file of unsigned bytes: images [n, height, width] or labels [n].

    The format, by http://yann.lecun.com/exdb/mnist: two zero bytes, the type (8: unsigned byte), the number of
    dimensions, their sizes as big-endian 32-bit integers, the values with the last dimension fastest.
    """
    with _refusing(file), gzip.open(file) as stream:
        content = stream.read()
    start = 4 + 4 * content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else len(content) + 1
    if not 4 < start <= min(len(content), _LONGEST_HEAD):
        raise FormatError(f"{file}: is no IDX file of unsigned bytes")
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], ">u4"))
    if len(content) - start != prod(shape):
        raise FormatError(f"{file}: has {len(content) - start} values, but its head promises {shape}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_cifar10(file: Path) -> tuple[Bytes, Bytes]:
    """Images [n, 32, 32, 3] and labels [n] of cifar-10-binary.tar.gz: the five training batches, then the test batch.

    By https://www.cs.toronto.edu/~kriz/cifar.html a sample is its label and 1024 red, 1024 green and 1024 blue
    bytes, each row by row. Colours are moved last here, beside each other.
    """
    batches = []
    with _refusing(file), tarfile.open(file, "r:gz") as archive:
        members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}
        for name in CIFAR10_BATCHES:
            stream = archive.extractfile(members[name]) if name in members else None
            if stream is None:
                raise FormatError(f"{file}: holds no {name}")
            batches.append(_samples(file, name, stream.read()))
    samples = np.concatenate(batches)
    return samples[:, 1:].reshape(-1, *_CIFAR10_IMAGE).transpose(0, 2, 3, 1), samples[:, 0]


def _samples(file: Path, name: str, content: bytes) -> Bytes:
    size = 1 + prod(_CIFAR10_IMAGE)
    if len(content) % size:
        raise FormatError(f"{file}: {name} has {len(content)} bytes, no multiple of the {size} of a sample")
    return np.frombuffer(content, np.uint8).reshape(-1, size)


@contextmanager
def _refusing(file: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error) as error:
        raise FormatError(f"{file}: cannot be unpacked ({error})") from None
