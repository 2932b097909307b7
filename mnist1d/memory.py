"""Keep the memory that a training step frees, for the next step to use."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_HEAP_BLOCK = 32 << 20  # glibc refuses more


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep freed blocks instead of returning them to the system.

    A stack's step frees and asks again for megabytes of activations and gradients; by default each of
    these pages is faulted in anew, up to a third of a step's time on a CPU. Applies to the whole process, to
    blocks of up to 32 MiB. Returns whether it took effect: False where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
