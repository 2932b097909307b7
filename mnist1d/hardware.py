"""How torch is to use the processor: set before anything is trained or timed."""

import torch

from mnist1d.config.schema import Trainer
from mnist1d.provenance import cores


def use(settings: Trainer) -> None:
    """Threads and precision of matrix products, for the whole process, as the config has them."""
    torch.set_num_threads(settings.threads or cores())
    torch.set_float32_matmul_precision(settings.matmul_precision)
