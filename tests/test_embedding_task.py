"""t-SNE as a task: openTSNE's own numbers, whatever the blocks; exact resume; scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from openTSNE import TSNE
from pytorch_lightning.callbacks import ModelCheckpoint
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from mnist1d.config import Run
from mnist1d.embedding import PhasedSchedule, StackedEmbedding
from mnist1d.fit import fit_once
from mnist1d.plan import Stack

MakeRun = Callable[..., Run]
SMALL = (
    *("task=embedding", "model=logistic", "optimizer=sgd", "optimizer.lr=1", "optimizer.momentum=0.8"),
    *("data=digits", "data.num_samples=300", "task.early_steps=20", "task.perplexity=20", "task.neighbours=5"),
    *("trainer.accelerator=cpu", "trainer.threads=1", "trainer.max_steps=30", "trainer.eval_every=15"),
)


def embedded(*runs: Run) -> StackedEmbedding:
    module = fit_once(Stack(runs, tuple(range(len(runs)))), [])
    assert isinstance(module, StackedEmbedding)
    return module


def samples(module: StackedEmbedding) -> tuple[np.ndarray, np.ndarray]:
    x, y = (torch.cat([module.data.splits[name][part][0] for name in ("train", "test")]) for part in (0, 1))
    return x.numpy(), y.numpy()


@pytest.fixture(scope="module")
def pair(make_run: MakeRun) -> StackedEmbedding:
    """Read only. Two seeds together."""
    return embedded(make_run(*SMALL, "seed=0"), make_run(*SMALL, "seed=1"))


@pytest.fixture(scope="module")
def reference(pair: StackedEmbedding) -> list[Any]:
    """Read only. The same by openTSNE's own `fit`, after the exaggeration and at the end."""
    options = {"perplexity": 20, "n_jobs": 1, "random_state": 0, "early_exaggeration_iter": 20}
    return [TSNE(n_iter=steps, **options).fit(samples(pair)[0]) for steps in (0, 30)]


def test_places_and_divergences_are_those_of_opentsne_itself(pair, reference):
    early, end = reference
    np.testing.assert_allclose(pair.member_state(0)["places"], end, atol=1e-5)
    metrics = dict(pair.histories[0].metrics["kl"])
    assert metrics[19] == pytest.approx(early.kl_divergence, abs=1e-9)
    assert metrics[49] == pytest.approx(end.kl_divergence, abs=1e-9)
    assert pair.finals(0)["kl_early"] == metrics[19]


def test_the_divergence_is_recorded_on_the_way_and_where_the_exaggeration_ends(pair):
    assert [step for step, _ in pair.histories[0].metrics["kl"]] == [0, 15, 19, 30, 45, 49]
    assert PhasedSchedule(50, 15, 20).stops() == [1, 16, 20, 31, 46, 50]


def test_a_run_is_the_same_alone_and_seeds_differ(pair, make_run):
    alone = embedded(make_run(*SMALL, "seed=1"))
    assert torch.equal(alone.member_state(0)["places"], pair.member_state(1)["places"])
    assert alone.histories[0].metrics == pair.histories[1].metrics
    assert not torch.equal(pair.member_state(0)["places"], pair.member_state(1)["places"])


def test_scores_are_scikit_learns(pair):
    x, y = samples(pair)
    got = {name: points[-1][1] for name, points in pair.histories[0].metrics.items()}
    places = pair.member_state(0)["places"].double().numpy()
    for space, values in (("pixels", x), ("plane", places)):
        voted = KNeighborsClassifier(5).fit(values[:240], y[:240]).score(values[240:], y[240:])
        assert got[f"knn/{space}"] == pytest.approx(voted, abs=0.02)  # of equally many votes another digit may win
        nearest = NearestNeighbors(n_neighbors=5).fit(values).kneighbors(return_distance=False)
        assert got[f"purity/{space}"] == pytest.approx((y[nearest] == y[:, None]).mean(), abs=1e-3)
    sizes = np.bincount(y)
    by_digit = [got[f"silhouette/plane_{digit}"] for digit in range(10)]
    assert got["silhouette/plane"] == pytest.approx(np.average(by_digit, weights=sizes))
    assert got["silhouette/plane"] > got["silhouette/pixels"] > 0  # real digits gather
    assert 0.8 < got["probe/pixels"] <= 1
    finals = pair.finals(0)
    assert finals["test/acc_final"] == got["knn/pixels"]
    assert finals["test/acc_best"] == max(got["knn/pixels"], got["knn/plane"], got["probe/pixels"])


# The advice is to save weights from before the update; after it is what a resume wants.
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization:UserWarning")
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")  # it should be
def test_a_resumed_descent_equals_an_uninterrupted_one_bit_for_bit(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(*SMALL, f"seed={seed}") for seed in (0, 1)]

    def descended(resume: Path | None = None) -> StackedEmbedding:
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        fitter = pl.Trainer(accelerator="cpu", max_epochs=-1, max_steps=50, callbacks=[saver], **quiet)
        module, data = StackedEmbedding(runs), StackedEmbedding.make_data(runs)
        fitter.fit(module, datamodule=data, ckpt_path=resume, weights_only=True if resume else None)
        return module

    whole = descended()
    resumed = descended(tmp_path / "step=31.ckpt")
    assert resumed.histories == whole.histories
    assert torch.equal(resumed.model.params["places"], whole.model.params["places"])


def test_the_learning_rate_is_a_factor_on_opentsnes_own(pair, make_run):
    slow = embedded(make_run(*SMALL, "optimizer.lr=0.01", "seed=0"))
    assert slow.histories[0].metrics["kl"][-1][1] > 1.5 * pair.histories[0].metrics["kl"][-1][1]
