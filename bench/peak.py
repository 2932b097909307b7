"""How much of the machine is used: operations of a step, beside those of one large matrix product."""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

SIZE = 1024
"""Rows and columns of the matrices; larger ones are no faster."""


def operations(take: Callable[[int], object]) -> int:
    """Floating-point operations of matrix products and convolutions in one more step, an addition counting as one.

    They are counted as they are done, so that a way which does more of them for the same result has more.
    """
    with FlopCounterMode(display=False) as counter:
        take(1)
    return int(counter.get_total_flops())


def matrix_product(turns: int = 15) -> float:
    """Floating-point operations per second of a product of square float32 matrices: the fastest of some turns."""
    a, b = torch.randn(2, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    out = a @ b
    seconds = []
    for _ in range(turns):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        seconds.append(time.perf_counter() - start)
    return 2 * SIZE**3 / min(seconds)
