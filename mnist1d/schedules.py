"""Learning rates by step, as shares of `optimizer.lr`."""

from __future__ import annotations

from math import cos, pi

FIRST, LAST = 1 / 25, 1e-4 / 25
"""Of a one-cycle schedule, as torch.optim.lr_scheduler.OneCycleLR has them: the first rate and the last."""


def share_of_rate(schedule: str, warmup: float, step: int, steps: int) -> float:
    """What the learning rate is multiplied by in one of `steps` optimiser steps, counted from 0.

    It rises over the first ``warmup * steps`` steps, for one_cycle along half a cosine from 1/25 (Smith & Topin 2019),
    else in a line from 0. Then it is 1 (constant), or falls along half a cosine: to 0 (cosine, Loshchilov & Hutter
    2017), or to 1/250,000 at the last step (one_cycle).

    Raises ValueError for an unknown schedule.
    """
    if schedule not in ("constant", "cosine", "one_cycle"):
        raise ValueError(f"schedule is {schedule!r}, expected constant, cosine or one_cycle")
    rising = warmup * steps
    if schedule == "one_cycle":
        peak, end = rising - 1, steps - 1
        return _between(FIRST, 1, step / peak) if step < peak else _between(1, LAST, (step - peak) / (end - peak))
    if step < rising:
        return (step + 1) / (rising + 1)
    return 1.0 if schedule == "constant" else _between(1, 0, (step - rising) / (steps - rising))


def _between(start: float, end: float, progress: float) -> float:
    """Half a cosine, flat at both ends."""
    return end + (start - end) * (1 + cos(pi * progress)) / 2
