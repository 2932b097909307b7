"""Probes score what they should: separable features, the reference's pixel baselines, scikit-learn's own values."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mnist1d.data import Recipe, load
from mnist1d.probe import Features, isolation, linear_probe, neighbour_accuracy


@pytest.fixture(scope="module")
def pixels() -> tuple[Features, Tensor, Tensor]:
    """The paper's signals and labels."""
    splits = load(Recipe())
    x, y, test_x, test_y = map(torch.tensor, (splits.train_x, splits.train_y, splits.test_x, splits.test_y))
    return Features(x, test_x), y, test_y


def clusters(rows: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """Ten classes round the corners of a simplex."""
    labels = torch.arange(rows) % 10
    noise = torch.randn(rows, 12, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(labels, 12) + spread * noise, labels


def test_separable_features_are_classified_without_an_error():
    (train, train_y), (test, test_y) = clusters(200, 0.05, 0), clusters(100, 0.05, 1)
    features = Features(train, test)
    assert linear_probe(features.train, train_y)(features.test, test_y) == 1
    assert neighbour_accuracy(features, train_y, test_y, 10, cosine=True) == 1
    assert neighbour_accuracy(features, train_y, test_y, 10, cosine=False) == 1


def test_features_without_information_are_classified_by_chance():
    generator = torch.Generator().manual_seed(0)
    features = Features(torch.randn(1000, 5, generator=generator), torch.randn(1000, 5, generator=generator))
    labels = torch.arange(1000) % 10
    assert 0.05 < linear_probe(features.train, labels)(features.test, labels) < 0.15
    assert 0.05 < neighbour_accuracy(features, labels, labels, 10, cosine=True) < 0.15


def test_pixel_baselines_are_the_references(pixels):
    features, train_y, test_y = pixels
    assert linear_probe(features.train, train_y)(features.test, test_y) == pytest.approx(0.328, abs=0.002)
    assert neighbour_accuracy(features, train_y, test_y, 10, cosine=False) == pytest.approx(0.596, abs=0.001)


def test_the_probe_stops_where_the_references_scikit_learn_stopped(pixels):
    """Its tol=1e-2 bounded the gradient of the sum over 4000 samples; today's bounds that of the mean."""
    features, train_y, test_y = pixels
    torch.manual_seed(0)
    hidden = torch.nn.Linear(40, 60)
    with torch.no_grad():
        features = Features(hidden(features.train).relu(), hidden(features.test).relu())
    reference = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-2 / 4000, max_iter=1000))
    score = reference.fit(features.train, train_y).score(features.test, test_y)
    assert linear_probe(features.train, train_y)(features.test, test_y) == pytest.approx(score, abs=0.005)


@pytest.mark.parametrize("cosine", [True, False])
def test_neighbours_are_scikit_learns(pixels, cosine):
    features, train_y, test_y = pixels
    theirs = KNeighborsClassifier(7, metric="cosine" if cosine else "euclidean").fit(features.train, train_y)
    expected = theirs.score(features.test, test_y)
    assert neighbour_accuracy(features, train_y, test_y, 7, cosine=cosine) == pytest.approx(expected, abs=0.0011)


def test_cosine_looks_at_the_angle_alone():
    train, train_y = torch.tensor([[1.0, 0.0], [0.0, 100.0]]), torch.tensor([0, 1])
    features = Features(train, torch.tensor([[10.0, 20.0]]))
    assert neighbour_accuracy(features, train_y, torch.tensor([1]), 1, cosine=True) == 1
    assert neighbour_accuracy(features, train_y, torch.tensor([0]), 1, cosine=False) == 1


def test_isolation_is_the_mean_silhouette_of_each_digit():
    outputs, labels = clusters(95, 0.4, 2)
    labels[0] = 11  # one alone
    silhouettes = silhouette_samples(outputs.numpy(), labels.numpy(), metric="cosine")
    found = isolation(outputs, labels)
    assert list(found) == np.unique(labels).tolist()
    for digit, value in found.items():
        assert value == pytest.approx(silhouettes[labels.numpy() == digit].mean(), abs=1e-6)
    assert found[11] == 0


def test_isolation_tells_a_digit_apart_from_two_that_mix():
    outputs, labels = clusters(300, 0.2, 3)
    outputs[labels == 4] = outputs[labels == 9].flip(0)
    found = isolation(outputs, labels)
    assert min(found[0], found[8]) > 0.5
    assert max(abs(found[4]), abs(found[9])) < 0.05


def test_a_member_that_diverged_scores_nan():
    x, y = clusters(50, 0.1, 0)
    broken = Features(x.where(x != x[3, 3], torch.nan), x)
    assert np.isnan(linear_probe(broken.train, y)(broken.test, y))
    assert np.isnan(neighbour_accuracy(broken, y, y, 3, cosine=True))
    assert np.isnan(isolation(broken.train, y)[int(y[3])])
