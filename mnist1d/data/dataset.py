"""MNIST-1D as a torch data set, in the manner of torchvision's."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Dataset

from mnist1d.data.splits import Recipe, load

__all__ = ["MNIST1D"]


class MNIST1D(Dataset[tuple[Any, Any]]):
    """Samples x [final_seq_length] float32 with labels 0 to 9, made on the spot: no root folder, no download.

    Args:
        train: the training rows, else the test rows.
        transform: applied to a sample (a tensor) when it is asked for.
        target_transform: applied to a label (an int) when it is asked for.
        **arguments: the generator's (`num_samples`, `seed`, `iid_noise_scale` ...) and `load`'s (`label_noise`,
            `label_noise_mode`, `shuffle_features`, `feature_order`, `feature_seed`, `chunk_length`, `zero_window`,
            `val_split`).
            A `val_split` takes its rows from the training data.

    Raises:
        ValueError: an impossible value, named with what is allowed.
        TypeError: an argument that does not exist.
    """

    classes = tuple(str(digit) for digit in range(10))

    def __init__(
        self,
        train: bool = True,
        transform: Callable[[torch.Tensor], Any] | None = None,
        target_transform: Callable[[int], Any] | None = None,
        **arguments: Any,
    ) -> None:
        splits = load(Recipe.named(arguments))
        x, y = (splits.train_x, splits.train_y) if train else (splits.test_x, splits.test_y)
        self.train, self.transform, self.target_transform = train, transform, target_transform
        self.data = torch.tensor(x)  # [n, final_seq_length]
        self.targets = torch.tensor(y)  # [n]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        x, y = self.data[index], int(self.targets[index])
        return (
            x if self.transform is None else self.transform(x),
            y if self.target_transform is None else self.target_transform(y),
        )
