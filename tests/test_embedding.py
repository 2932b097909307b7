"""The embedding of a trained encoder: outputs before and after training, their places in the plane, the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from mnist1d.analysis import weights
from mnist1d.analysis.embedding import Embedding, apart, draw, embed, outputs, tsne
from mnist1d.config import Run
from mnist1d.contrastive import StackedContrastive
from mnist1d.fit import fit_once
from mnist1d.plan import Stack

TINY = (
    *("task=contrastive", "model=cnn", "model.channels=5", "task.projector_width=20", "task.output_size=6", "seed=4"),
    *("data.num_samples=500", "data.batch_size=50", "data.batch_order=shuffled", "data.test_samples=60"),
    *("trainer.accelerator=cpu", "trainer.threads=1", "trainer.max_steps=20", "trainer.eval_every=20"),
)


@dataclass(frozen=True)
class Trained:
    """A run with its weights in a file, as training leaves them."""

    config: dict[str, Any]
    module: StackedContrastive
    artifacts: Path
    embedding: Embedding


@pytest.fixture(scope="module")
def trained(make_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Read only."""
    run, folder = make_run(*TINY), tmp_path_factory.mktemp("artifacts")
    module = fit_once(Stack((run,), (0,)), [])
    assert isinstance(module, StackedContrastive)
    torch.save({"state_dict": module.member_state(0), "run_id": "r", "config": run.flat()}, folder / "weights.pt")
    return Trained(run.flat(), module, folder, embed(run.flat(), str(folder)))


def test_outputs_before_training_are_redrawn_from_the_seed(trained):
    x = torch.randn(9, 40)
    before, after = outputs(trained.config, weights.load(str(trained.artifacts)), x.numpy())
    run = trained.module.runs[0]
    for ours, module in ((before, StackedContrastive([run])), (after, trained.module)):
        theirs = module.model(x[None])[0].detach().numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        assert ours.shape == (9, 6)
    assert not np.allclose(before, after)


def test_every_test_sample_of_the_run_has_a_place_before_and_after_training(trained):
    found = trained.embedding
    assert found.seed == 4
    for places in (found.before, found.after):
        assert places.shape == (60, 2)
        assert np.isfinite(places).all()
    assert not np.allclose(found.before, found.after)
    x, y = trained.module.data.splits["test"]
    np.testing.assert_array_equal(found.labels, y[0].numpy())
    np.testing.assert_array_equal(
        found.after, tsne(outputs(trained.config, weights.load(str(trained.artifacts)), x[0].numpy())[1], seed=4)
    )


def test_a_seed_decides_all_places_and_the_global_generator_is_left_alone():
    values = np.random.default_rng(0).normal(size=(40, 6))
    np.random.seed(5)  # noqa: NPY002 - the generator that scikit-learn would fall back on
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = tsne(values, 3)
    np.testing.assert_array_equal(first, tsne(values, 3))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_scale_plays_no_part_in_what_is_near():
    """By the angle, a sample and its double are one."""
    values = np.random.default_rng(1).normal(size=(40, 6))
    places = tsne(np.concatenate([values, 2 * values]), 0)
    between = np.linalg.norm(places[:, None] - places, axis=2)
    own = np.linalg.norm(places[:40] - places[40:], axis=1)
    assert np.median(own) < 0.1 * np.median(between)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.eye(30), "must be less than n_samples"),
        (np.ones((40, 6)), "all outputs are equal"),
        (np.vstack([np.eye(40), np.full(40, np.nan)]), "NaN"),
    ],
)
def test_outputs_that_cannot_be_embedded_are_refused(values, reason):
    with pytest.raises(ValueError, match=reason):
        tsne(values, 0)


def test_a_weights_file_that_was_cut_short_is_none(trained, tmp_path):
    whole = (trained.artifacts / "weights.pt").read_bytes()
    (tmp_path / "weights.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match="cannot be read"):
        embed(trained.config, str(tmp_path))


def test_each_digit_stands_at_the_median_of_its_points():
    places = np.array([[0, 0], [1, 0], [9, 0], [5, 5], [6, 7], [7, 6]], float)
    ax = draw(plt.Figure().subplots(), places, np.array([1, 1, 1, 8, 8, 8]), "a  Before")
    assert {text.get_text(): text.get_position() for text in ax.texts} == {"1": (1, 0), "8": (6, 6)}
    assert [len(points.get_offsets()) for points in ax.collections] == [3, 3]


def test_what_would_overlap_is_moved_apart_and_nothing_else():
    places = np.array([[0, 0], [0.5, 0], [0, 0.4], [9, 9]])
    moved = apart(places, 1.0)
    distances = np.linalg.norm(moved[:, None] - moved, axis=2) + 9 * np.eye(4)
    assert distances.min() == pytest.approx(1, abs=0.03)
    assert moved[3].tolist() == [9, 9]
    np.testing.assert_allclose(moved[:3].mean(axis=0), places[:3].mean(axis=0))
