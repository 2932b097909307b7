"""The page of experiment=tsne, on runs of known truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mnist1d.analysis import data_sets, tsne
from mnist1d.analysis.claims import judge_all, load
from mnist1d.analysis.page import NoRuns, Page
from mnist1d.analysis.read import Runs
from mnist1d.config import Run
from mnist1d.data import load as load_data
from mnist1d.data.download import DownloadError

SETTINGS = ("task=embedding", "model=logistic", "optimizer=sgd", "trainer.max_steps=500")
DATA = {  # data set -> what its runs are asked for
    "mnist1d": ("data=mnist1d", "data.num_samples=200"),
    "digits": ("data=digits", "data.num_samples=300", "data.val_split=0.1"),
}
SCORES = {  # data set -> shares of linear model, kNN in pixels and plane, same digit in pixels and plane; silhouettes
    "mnist1d": (0.32, 0.58, 0.53, 0.44, 0.47, -0.04, -0.08),
    "digits": (0.96, 0.98, 0.97, 0.95, 0.96, 0.18, 0.6),
}
NAMES = ("probe/pixels", "knn/pixels", "knn/plane", "purity/pixels", "purity/plane")
NAMES += ("silhouette/pixels", "silhouette/plane")


@pytest.fixture(scope="module")
def one(make_run: Callable[..., Run]) -> Callable[..., dict[str, Any]]:
    flats = {data: make_run(*SETTINGS, *options).flat() for data, options in DATA.items()}

    def made(data: str, seed: int, **more: Any) -> dict[str, Any]:
        scores = {name: value + 0.01 * (seed - 42) for name, value in zip(NAMES, SCORES[data], strict=True)}
        scores |= {
            f"silhouette/plane_{digit}": 0.3 if digit < (1 if data == "mnist1d" else 9) else 0.2 for digit in range(10)
        }
        run = {
            **flats[data],
            **scores,
            "run_id": f"{data} {seed} {sorted(more.items())}",
            "status": "FINISHED",
            "started": 0,
            "profile": "paper",
            "seed": seed,
            "data.seed": seed,
            "kl": 2.53,
            "kl_early": 4.83,
        }
        return run | {key.replace("__", "."): value for key, value in more.items()}

    return made


@pytest.fixture(scope="module")
def full(one) -> Callable[..., list[dict[str, Any]]]:
    return lambda data=tuple(DATA), seeds=(42, 43, 44): [one(name, seed) for name in data for seed in seeds]


def page_of(rows: list[dict[str, Any]], artifacts: dict[str, str] | None = None) -> Page:
    return tsne.page(Runs(pd.DataFrame(rows, dtype=object), {}, artifacts or {}))


@pytest.fixture(scope="module")
def places(full, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Read only. Where files lie: of all runs but the first of digits."""
    folders, generator = {}, torch.Generator().manual_seed(0)
    for row in full()[:-3] + full()[-2:]:
        folder = tmp_path_factory.mktemp("artifacts")
        rows = 200 if row["data.name"] == "mnist1d" else 300
        state = {"places": torch.randn(rows, 2, generator=generator)}
        torch.save({"state_dict": state, "run_id": row["run_id"], "config": {}}, folder / "weights.pt")
        folders[row["run_id"]] = str(folder)
    return folders


@pytest.fixture(scope="module")
def whole(full, places) -> Page:
    """Read only."""
    return page_of(full(), places)


def cells(page: Page, table: int, row: str) -> dict[str, str]:
    part = page.tables[table]
    return next(dict(zip(part.columns, each, strict=True)) for each in part.rows if each[0] == row)


def test_scores_are_in_percent_and_silhouettes_are_not(whole):
    run = whole.table.set_index(["data.name", "seed"]).loc[("mnist1d", 42)]
    assert (run["knn_pixels"], run["purity_plane"], run["silhouette_plane"]) == pytest.approx((58, 47, -0.08))
    assert (run["kl"], run["kl_early"]) == (2.53, 4.83)


def test_digits_that_stand_apart_are_counted(whole):
    counts = whole.table.groupby("data.name")["apart"].first()
    assert counts.to_dict() == {"mnist1d": 1, "digits": 9}


def test_a_gain_compares_two_measures_of_the_same_runs(whole):
    gain = whole.statistics["gain"]
    found = gain(measure="knn_pixels", minus="probe_pixels", where={"data.name": "mnist1d"})
    assert found.to_dict() == pytest.approx({42: 26, 43: 26, 44: 26})


def test_tables_have_a_line_for_each_data_set_and_mark_the_papers_own_as_not_run(whole):
    assert cells(whole, 0, "MNIST-1D")["kNN, pixels"] == "59.0 ± 2.5"
    assert (cells(whole, 0, "digits, 8 × 8")["samples"], cells(whole, 0, "digits, 8 × 8")["n"]) == ("300", "3")
    assert cells(whole, 1, "digits, 8 × 8")["digits apart"] == "9.0 ± 0.0"
    for part in whole.tables:
        assert part.rows[-1] == ("MNIST", "not run", *("–",) * 5, "0")


def test_labels_are_those_of_all_samples_in_the_order_of_their_places(one, make_run):
    splits = load_data(make_run(*SETTINGS, *DATA["digits"], "data.seed=43").data)
    table = pd.DataFrame([one("mnist1d", 43), one("digits", 43)], dtype=object)  # each lacks keys of the other
    found = data_sets.labels(table.iloc[1].to_dict())
    np.testing.assert_array_equal(found, np.concatenate([splits.train_y, splits.val_y, splits.test_y]))


def test_data_of_a_run_that_is_older_than_a_key_are_those_without_it(one):
    run = one("mnist1d", 43)
    assert data_sets.data_of(run | {"data.zero_window": 3}).zero_window == 3
    older = {key: value for key, value in run.items() if key != "data.zero_window"}
    for config in (older, older | {"data.zero_window": np.nan}):  # alone, and beside newer runs
        assert data_sets.data_of(config) == data_sets.data_of(run)


def test_the_first_seed_with_places_is_drawn_and_only_real_digits_are_named(whole, full, places):
    planes = tsne.planes_of(Runs(pd.DataFrame(full(), dtype=object), {}, places), whole.table)
    assert [(plane.data, plane.seed, len(plane.labels)) for plane in planes] == [
        ("mnist1d", 42, 200),
        ("digits", 43, 300),
    ]
    signals, images = whole.pictures[0].figure.axes
    assert sum(len(points.get_offsets()) for points in signals.collections) == 200
    assert [len(ax.texts) for ax in (signals, images)] == [0, 10]
    assert "seed 42–43" in whole.pictures[0].caption


def test_without_places_on_this_machine_the_numbers_remain(full):
    assert page_of(full(), {full()[0]["run_id"]: "/nowhere"}).remarks == (
        "no picture of mnist1d: no seed has its places and labels on this machine",
        "no picture of digits: no seed has its places and labels on this machine",
    )
    assert [picture.name for picture in page_of(full()).pictures] == ["scores"]


def test_markers_have_the_values_of_the_table(whole):
    (ax,) = whole.pictures[1].figure.axes
    means = [np.array(container.lines[0].get_ydata(), float) for container in ax.containers]
    np.testing.assert_allclose(means, [[33, 59, 54, 45, 48], [97, 99, 98, 96, 97]])
    assert "mean over n = 3 seeds" in whole.pictures[1].caption


def test_shorter_runs_and_missing_seeds_are_named_by_data_set(full, one, places):
    page = page_of([*full()[:-1], one("mnist1d", 42, trainer__max_steps=5)], places)
    assert page.remarks == (
        "mnist1d: 1 runs left out, of another protocol: trainer.max_steps=5",
        "missing: digits: seed 44 not run",
    )
    with pytest.raises(NoRuns, match=r"no run is finished \(1 FAILED\)"):
        page_of([one("mnist1d", 42, status="FAILED")])


def test_every_claim_can_be_judged(whole):
    verdicts = {each.claim.id: each.verdict.kind for each in judge_all(load("tsne"), whole.statistics)}
    assert verdicts["neighbours-mean-nothing"] == "not reproduced"
    assert verdicts["neighbours-beat-the-line"] == "reproduced"
    assert verdicts["same-divergence"] == "reproduced"
    assert verdicts["digits-cluster"] == "no value"  # of one part


def test_samples_are_counted_and_labels_not_needed_where_the_images_are_elsewhere(one, make_run, places, monkeypatch):
    def offline(name: str) -> None:
        raise DownloadError(f"data={name} cannot be downloaded")

    monkeypatch.setattr("mnist1d.data.download.fetch", offline)
    config = make_run(*SETTINGS, "data=mnist").flat()
    rows = [{**one("digits", 42), **config, "run_id": "there", "data.name": "mnist", "trainer.max_steps": 500}]
    page = page_of(rows, {"there": next(iter(places.values()))})
    assert cells(page, 0, "MNIST")["samples"] == "70000"
    assert page.remarks == ("no picture of mnist: no seed has its places and labels on this machine",)
