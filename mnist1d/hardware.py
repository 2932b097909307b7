"""How torch is to use the processor: set before anything is trained or timed."""

import torch

from mnist1d.config.schema import Trainer
from mnist1d.provenance import cores

_sharers = 1


def share(processes: int) -> None:
    """From now on this process has one of so many equal shares of the cores."""
    global _sharers
    _sharers = processes


def threads(settings: Trainer) -> int:
    """CPU threads of a fit."""
    return settings.threads or max(1, cores() // _sharers)


def use(settings: Trainer) -> None:
    """Threads and precision of matrix products, for the whole process, as the config has them."""
    torch.set_num_threads(threads(settings))
    torch.set_float32_matmul_precision(settings.matmul_precision)
