"""The image sets that `data=NAME` can be, as facts: shapes, sizes, and where the large ones come from.

Nothing is imported here, so that a command line can be checked against these facts in no time; `mnist1d.data.images`
loads what they describe.
"""

from dataclasses import dataclass

__all__ = ["IMAGE_SETS", "ImageSet", "RemoteFile", "part_sizes"]


@dataclass(frozen=True)
class RemoteFile:
    """A published file, by its address and the SHA-256 checksum of its content."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The last part of the address: what the file is called on disk as well."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class ImageSet:
    """One set of labelled images, of ten classes.

    Attributes:
        shape: height, width and channels, in pixels.
        parts: samples of the published training part and of the published test part; without a published split
            all are in the first.
        files: what must be downloaded, in the order in which the set's reader takes it; none for a set that an
            installed package brings.
        megabytes: size of those files together.
    """

    shape: tuple[int, int, int]
    parts: tuple[int, int]
    files: tuple[RemoteFile, ...] = ()
    megabytes: int = 0

    @property
    def samples(self) -> int:
        """Samples of both parts."""
        return sum(self.parts)

    @property
    def has_split(self) -> bool:
        """Whether a split into training and test samples was published with the set."""
        return self.parts[1] > 0

    @property
    def row_length(self) -> int:
        """Values in a row of pixels."""
        return self.shape[1] * self.shape[2]

    @property
    def length(self) -> int:
        """Values of a flattened image."""
        return self.shape[0] * self.row_length


def part_sizes(images: ImageSet, num_samples: int | None, train_split: float | None) -> tuple[int, int]:
    """Training and test samples of `num_samples` (None: all), by a share or (None) in the published proportion."""
    total = images.samples if num_samples is None else num_samples
    train = total * images.parts[0] // images.samples if train_split is None else int(total * train_split)
    return train, total - train


def _idx_files(folder: str, *checksums: str) -> tuple[RemoteFile, ...]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(RemoteFile(f"{folder}/{name}-ubyte.gz", sha) for name, sha in zip(names, checksums, strict=True))


_CIFAR10 = RemoteFile(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)

IMAGE_SETS = {
    "mnist": ImageSet(
        (28, 28, 1),
        (60_000, 10_000),
        _idx_files(
            "https://ossci-datasets.s3.amazonaws.com/mnist",  # the mirror that torchvision reads, too
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        12,
    ),
    "fashion_mnist": ImageSet(
        (28, 28, 1),
        (60_000, 10_000),
        _idx_files(
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        31,
    ),
    "cifar10": ImageSet((32, 32, 3), (50_000, 10_000), (_CIFAR10,), 170),
    "mnist_subset": ImageSet((28, 28, 1), (5000, 0)),
    "digits": ImageSet((8, 8, 1), (1797, 0)),
}
"""By the name that `data.name` has."""
