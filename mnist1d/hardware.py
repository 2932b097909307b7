"""What torch finds on this machine, and how it is to use the processor: set before anything is trained or timed."""

import torch

from mnist1d.config import Fault, Trainer, limits
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


def accelerators() -> list[str]:
    """Values of `trainer.accelerator` that this machine can train on."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    return ["auto", "cpu", *["gpu"] * (cuda or mps), *["cuda"] * cuda, *["mps"] * mps]


def missing(accelerator: str) -> Fault | None:
    """A fault if this machine has no such accelerator, or if this torch cannot use it."""
    if accelerator in (here := accelerators()):
        return None
    text = f"torch {torch.__version__} finds none on this machine"
    return Fault("trainer.accelerator", accelerator, text, ", ".join(here))


def is_cpu(accelerator: str) -> bool:
    """Whether `trainer.accelerator` means the processor here."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


def memory(accelerator: str) -> int:
    """Bytes of memory that a fit on this accelerator can have at most."""
    if is_cpu(accelerator) or not torch.cuda.is_available():
        return limits.memory()
    return torch.cuda.get_device_properties(0).total_memory
