"""MNIST-1D for an ordinary Lightning Trainer."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from mnist1d.data.splits import Recipe, Splits, load

__all__ = ["MNIST1DDataModule"]

Loader = DataLoader[tuple[torch.Tensor, ...]]


class MNIST1DDataModule(pl.LightningDataModule):
    """Batches x [batch, final_seq_length] float32, y [batch] int64 for fit, validate, test and predict.

    `trainer.fit(model, MNIST1DDataModule())` is all it takes. Without a `val_split` there is no validation:
    test data never stand in for it.

    Args:
        batch_size: rows a batch; the last batch of an epoch may be smaller.
        num_workers: processes that load; 0 is the fastest, since the data are tensors in memory.
        shuffle_seed: of the order of training batches, a stream of its own that goes on from epoch to epoch.
        **arguments: as for `MNIST1D`, `val_split` among them.

    Raises:
        ValueError: an impossible value, named with what is allowed.
        TypeError: an argument that does not exist.
    """

    def __init__(self, batch_size: int = 100, num_workers: int = 0, shuffle_seed: int = 0, **arguments: Any) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}: must be a whole number of at least 1")
        self.batch_size, self.num_workers = batch_size, num_workers
        self.recipe = Recipe.named(arguments)
        self.order = torch.Generator().manual_seed(shuffle_seed)
        if self.recipe.val_split:  # Lightning takes the mere presence of the method for a validation split
            self.val_dataloader = self._val_dataloader  # type: ignore[method-assign]

    @property
    def splits(self) -> Splits:
        """The arrays behind the loaders."""
        return load(self.recipe)

    def train_dataloader(self) -> Loader:
        """The training rows, in a new order every epoch; labels carry the noise asked for."""
        return self._loader(self.splits.train_x, self.splits.train_y, generator=self.order, shuffle=True)

    def test_dataloader(self) -> Loader:
        """The test rows in stored order, labels always clean; `predict_dataloader` gives the same."""
        return self._loader(self.splits.test_x, self.splits.test_y)

    predict_dataloader = test_dataloader

    def _val_dataloader(self) -> Loader:
        """The rows held out of the training data, in stored order, labels always clean."""
        return self._loader(self.splits.val_x, self.splits.val_y)

    def _loader(self, x: Any, y: Any, **options: Any) -> Loader:
        rows = TensorDataset(torch.tensor(x), torch.tensor(y))
        return DataLoader(rows, batch_size=self.batch_size, num_workers=self.num_workers, **options)
