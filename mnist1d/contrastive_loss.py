"""What brings two views of a sample together without all samples meeting in one point, for every member of a stack.

Every loss takes the outputs for the first and the second views, ``[N, B, D]`` each, and returns ``[N]``, one value
per member; row i of one and row i of the other are views of the same sample.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mnist1d.loss import cross_entropy_stacked

Loss = Callable[[Tensor, Tensor], Tensor]

MARGIN = 0.2
"""Of the triplet loss, between squared distances of unit vectors (Schroff et al. 2015, FaceNet)."""
REDUNDANCY = 5e-3
"""Weight of the off-diagonal correlations (Zbontar et al. 2021, Barlow Twins)."""
INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0
"""Weights of the three terms (Bardes et al. 2022, VICReg)."""


def make_loss(name: str, temperature: Tensor) -> Loss:
    """The loss that `task.loss` names; `temperature` is [N] and used by infonce and nt_xent only."""
    losses: dict[str, Loss] = {
        "infonce": partial(infonce, temperature=temperature),
        "nt_xent": partial(nt_xent, temperature=temperature),
        "triplet": triplet,
        "barlow_twins": barlow_twins,
        "vicreg": vicreg,
    }
    return losses[name]


def infonce(first: Tensor, second: Tensor, temperature: Tensor) -> Tensor:
    """Cross-entropy of finding a sample's second view among all B second views, by cosine similarity.

    One direction only: the reference's loss (`self-supervised-learning.ipynb`).
    """
    similarity = _cosines(first, second, temperature)
    return cross_entropy_stacked(similarity, torch.arange(first.shape[1], device=first.device))


def nt_xent(first: Tensor, second: Tensor, temperature: Tensor) -> Tensor:
    """Cross-entropy of finding a view's counterpart among the 2B - 1 other views (Chen et al. 2020, SimCLR)."""
    both = torch.cat([first, second], 1)
    itself = torch.eye(both.shape[1], dtype=torch.bool, device=both.device)
    similarity = _cosines(both, both, temperature).masked_fill(itself, -torch.inf)
    counterparts = torch.arange(both.shape[1], device=both.device).roll(first.shape[1])
    return cross_entropy_stacked(similarity, counterparts)


def triplet(first: Tensor, second: Tensor) -> Tensor:
    """Hinge on squared distances of unit vectors, d(anchor, positive) - d(anchor, negative) + `MARGIN`.

    First views are anchors, the B - 1 second views of other samples negatives: the mean over all of them. The
    hardest alone would collapse a network that starts from scratch.
    """
    distance = 2 - 2 * _cosines(first, second)
    positive = distance.diagonal(dim1=1, dim2=2)[..., None]
    return _off_diagonal((positive - distance + MARGIN).relu()).sum((1, 2)) / (first.shape[1] * (first.shape[1] - 1))


def barlow_twins(first: Tensor, second: Tensor) -> Tensor:
    """The views' cross-correlation between features brought to the identity (Zbontar et al. 2021)."""
    correlation = _standardised(first).mT @ _standardised(second) / first.shape[1]  # [N, D, D]
    on = (correlation.diagonal(dim1=1, dim2=2) - 1).square().sum(1)
    return on + REDUNDANCY * _off_diagonal(correlation).square().sum((1, 2))


def vicreg(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of the views, hinge on each feature's deviation, covariances (Bardes et al. 2022)."""
    views = (first, second)
    invariance = (first - second).square().mean((1, 2))
    variance = sum((1 - (z.var(1) + 1e-4).sqrt()).relu().mean(1) for z in views) / 2
    covariance = sum(_off_diagonal(_covariance(z)).square().sum((1, 2)) for z in views) / first.shape[2]
    return INVARIANCE * invariance + VARIANCE * variance + COVARIANCE * covariance


def _cosines(first: Tensor, second: Tensor, temperature: Tensor | None = None) -> Tensor:
    """Cosine of every row with every row, [N, B, B], over the temperature [N]."""
    first, second = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    return (first if temperature is None else first / temperature[:, None, None]) @ second.mT


def _off_diagonal(x: Tensor) -> Tensor:
    """Square matrices [N, n, n] with zeros on the diagonal."""
    return x.masked_fill(torch.eye(x.shape[-1], dtype=torch.bool, device=x.device), 0)


def _standardised(z: Tensor) -> Tensor:
    return (z - z.mean(1, keepdim=True)) / (z.var(1, correction=0, keepdim=True) + 1e-5).sqrt()


def _covariance(z: Tensor) -> Tensor:
    centred = z - z.mean(1, keepdim=True)
    return centred.mT @ centred / (z.shape[1] - 1)
