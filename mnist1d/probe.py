"""How well representations tell digits apart: linear probes, nearest neighbours, isolation of each digit.

Representations are [rows, features] of one member, on the CPU. A member that has diverged scores nan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Features:
    """A representation of the training samples, which probes are fitted on, and of those that they are scored on."""

    train: Tensor  # [n_train, features]
    test: Tensor  # [n_test, features]
    val: Tensor | None = None  # [n_val, features]

    @property
    def finite(self) -> bool:
        """Whether all values are numbers."""
        return bool(self.train.isfinite().all() and self.test.isfinite().all())


def linear_probe(x: Tensor, y: Tensor) -> Callable[[Tensor, Tensor], float]:
    """Multinomial logistic regression, scikit-learn's with C = 1, on standardised features.

    The reference (`self-supervised-learning.ipynb`) has tol=1e-2, which bounded the gradient of the sum over samples
    then; since scikit-learn 1.4 it bounds that of the mean, and 1e-2 stops up to 6 points early. At 1e-4 accuracies are
    those of the reference to half a point, for half the time of 1e-2 / n_train.

    Args:
        x, y: the representation [rows, features] and labels [rows] that it is fitted to.

    Returns:
        The accuracy in [0, 1] on a representation and labels.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, solver="lbfgs", tol=1e-4, max_iter=1000))
    finite = bool(x.isfinite().all())
    if finite:
        probe.fit(x.numpy(), y.numpy())

    def accuracy(x: Tensor, y: Tensor) -> float:
        return float(probe.score(x.numpy(), y.numpy())) if finite and x.isfinite().all() else float("nan")

    return accuracy


def neighbour_accuracy(features: Features, train_y: Tensor, test_y: Tensor, neighbours: int, *, cosine: bool) -> float:
    """Test accuracy in [0, 1] of the majority of the nearest training samples; ties go to the smallest digit.

    Args:
        features: the representation.
        train_y, test_y: labels [n_train], [n_test].
        neighbours: how many vote, at most n_train.
        cosine: distance by angle instead of Euclidean.
    """
    if not features.finite:
        return float("nan")
    train, test = features.train, features.test
    if cosine:
        train, test = F.normalize(train), F.normalize(test)
    closeness = test @ train.T - train.square().sum(1) / 2  # falls with the distance, along a row
    nearest = closeness.topk(neighbours, sorted=False).indices
    votes = F.one_hot(train_y[nearest]).sum(1)  # [n_test, classes]
    return float((votes.argmax(1) == test_y).double().mean())


def purity(values: Tensor, labels: Tensor, neighbours: int) -> float:
    """Mean share of a sample's nearest others, by Euclidean distance, that have its label; chance for ten digits: 0.1.

    Args:
        values: [rows, features].
        labels: [rows].
        neighbours: how many are asked, less than rows.
    """
    nearest = NearestNeighbors(n_neighbors=neighbours, algorithm="brute", n_jobs=1).fit(values.numpy())
    others = torch.from_numpy(nearest.kneighbors(return_distance=False))  # [rows, neighbours]
    return float((labels[others] == labels[:, None]).double().mean())


def silhouettes(values: Tensor, labels: Tensor) -> Tensor:
    """Every sample's silhouette under Euclidean distance (see `isolation`), [rows], from -1 to 1.

    Args:
        values: [rows, features].
        labels: [rows], at least two different ones.
    """
    return torch.from_numpy(silhouette_samples(values.numpy(), labels.numpy()))


def isolation(outputs: Tensor, labels: Tensor) -> dict[int, float]:
    """How far each digit lies from the others: its samples' mean silhouette under cosine distance, from -1 to 1.

    A sample's silhouette is (b - a) / max(a, b), with its mean distance a to the other samples of its digit and b to
    those of the nearest other digit; 0 for a digit's only sample.

    Args:
        outputs: [rows, features].
        labels: [rows], at least two different ones.
    """
    unit = F.normalize(outputs.double())
    members = F.one_hot(labels).to(unit)  # [rows, digit]
    sizes = members.sum(0)
    totals = (1 - unit @ unit.T).fill_diagonal_(0) @ members  # to each digit's samples
    own = (totals * members).sum(1) / (sizes[labels] - 1).clamp(min=1)
    others = (totals / sizes).masked_fill(members.bool() | (sizes == 0), torch.inf).amin(1)
    silhouettes = ((others - own) / torch.maximum(own, others).clamp(min=1e-300)).where(sizes[labels] > 1, 0)
    return {int(digit): float(silhouettes[labels == digit].mean()) for digit in labels.unique()}
