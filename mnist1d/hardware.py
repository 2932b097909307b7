"""How torch is to use the processor: set before anything is trained or timed."""

import torch

from mnist1d.config.schema import Trainer
from mnist1d.provenance import cores

_allowed: int | None = None


def allow(count: int | None) -> None:
    """From now on fits of this process have so many threads, None for one on each core, unless they say otherwise."""
    global _allowed
    _allowed = count


def threads(settings: Trainer) -> int:
    """CPU threads of a fit."""
    return settings.threads or _allowed or cores()


def use(settings: Trainer) -> None:
    """Threads and precision of matrix products, for the whole process, as the config has them."""
    torch.set_num_threads(threads(settings))
    torch.set_float32_matmul_precision(settings.matmul_precision)
