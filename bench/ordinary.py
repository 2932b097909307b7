"""An ordinary Lightning fit of one run, to compare with."""

from collections.abc import Callable

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from bench.plain import tensors
from mnist1d.config import Run
from mnist1d.models.make import make_model
from mnist1d.stack import build_member


class OrdinaryModule(pl.LightningModule):
    """One run as Lightning's own examples write it."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.lr = run.optimizer.lr
        self.model = build_member(lambda: make_model(run.model), run.seed)

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Mean cross-entropy of the mini-batch."""
        x, y = batch
        return F.cross_entropy(self.model(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, PyTorch's defaults."""
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def lightning_fit(run: Run) -> Callable[[int], None]:
    """``take(steps)``: so many more steps by one Trainer for one run, data from a DataLoader."""
    module = OrdinaryModule(run)
    loader = DataLoader(TensorDataset(*tensors(run)["train"]), batch_size=run.data.batch_size)

    def take(steps: int) -> None:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader)

    return take
