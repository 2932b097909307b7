"""The page of experiment=simclr, on runs of known truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

from mnist1d.analysis import figures, simclr
from mnist1d.analysis.claims import judge_all, load
from mnist1d.analysis.page import NoRuns, Page
from mnist1d.analysis.read import Runs
from mnist1d.config import Run
from mnist1d.models import make_encoder
from tests.pages import cell, picture

ACCURACIES = {  # depth -> percent of pixels, h1, h2, h3, p1, … at seed 0; the reference's
    0: (32.8, 82.2, 79.5, 53.4),
    2: (32.8, 75.1, 80.9, 82.1, 76.1, 75.0),
    4: (32.8, 75.9, 82.4, 79.5, 77.3, 72.8, 65.0, 61.1),
}
SECOND = {1: 2.0}  # seed -> points that its h2 is better: enough to be the best of the default variant
STEPS = (0, 400, 799)
NO_EMBEDDING = "no picture of the embedding: no seed of the default has weights on this machine"


def one(depth: int, seed: int, **more: Any) -> dict[str, Any]:
    """A finished run, every layer `seed` tenths of a point better than at seed 0."""
    accuracies = np.array(ACCURACIES[depth]) + 0.1 * seed
    accuracies[2] += SECOND.get(seed, 0.0)
    run = {
        "run_id": f"{depth} {seed} {sorted(more.items())}",
        "status": "FINISHED",
        "started": 0,
        "profile": "paper",
        "seed": seed,
        "model.name": "cnn",
        "trainer.max_steps": 800,
        "optimizer.lr": 0.01,
        "task.loss": "infonce",
        "task.projector_depth": depth,
        "test/acc_final": accuracies[3] / 100,
        "test/acc_best": accuracies.max() / 100,
        "probe/best_layer": float(accuracies.argmax()),
        "knn/acc": 0.7,
        "knn/pixels": 0.596,
        "train/loss": 2.9,
    }
    run |= {f"probe/{name}": value / 100 for name, value in zip(simclr.LAYERS, accuracies, strict=False)}
    run |= {f"isolation/{digit}": 0.5 if digit in (0, 3, 6, 8) else 0.01 * digit for digit in range(10)}
    return run | {key.replace("__", "."): value for key, value in more.items()}


def full(depths: Iterable[int] = (0, 2, 4), seeds: Iterable[int] = (0, 1, 2)) -> list[dict[str, Any]]:
    return [one(depth, seed) for depth in depths for seed in seeds]


def runs_of(rows: list[dict[str, Any]]) -> Runs:
    """Runs whose histories go in a straight line to their ends, the loss from 4.6."""
    starts = {"train/loss": 4.6, "probe/h3": 0.3, "knn/acc": 0.2}
    curves = {
        metric: {row["run_id"]: np.linspace(start, row[metric], len(STEPS)) for row in rows}
        for metric, start in starts.items()
    }
    return Runs(
        pd.DataFrame(rows),
        {name: pd.DataFrame.from_dict(each, orient="index", columns=STEPS) for name, each in curves.items()},
    )


def page_of(rows: list[dict[str, Any]]) -> Page:
    return simclr.page(runs_of(rows))


@pytest.fixture(scope="module")
def whole() -> Page:
    """Read only. Three variants, three seeds."""
    return page_of(full())


DEFAULT, DEEP, NONE = "projector of 2 layers", "projector of 4 layers", "no projector"


# -- which runs -------------------------------------------------------------------------------------------


def test_runs_of_another_loss_or_width_are_left_out_and_said_so():
    rows = [*full(), one(2, 0, task__loss="triplet"), one(2, 1, task__loss="triplet")]
    page = page_of(rows)
    assert len(page.table) == 9
    assert page.remarks == ("2 runs left out, of another protocol: task.loss=triplet", NO_EMBEDDING)


def test_seeds_without_a_result_are_named_with_their_reason():
    rows = [*full(seeds=(0, 1)), one(0, 2), one(2, 2, status="FAILED", mnist1d__reason="the loss became nan")]
    assert page_of(rows).remarks == (
        "missing: projector_depth=2: seed 2 FAILED (the loss became nan)",
        "missing: projector_depth=4: seed 2 not run",
        NO_EMBEDDING,
    )


def test_without_a_finished_run_there_is_no_page():
    with pytest.raises(NoRuns, match=r"no run is finished \(1 RUNNING\)"):
        page_of([one(2, 0, status="RUNNING")])


# -- statistics -------------------------------------------------------------------------------------------


def test_layers_are_columns_in_percent(whole):
    level = whole.statistics["level"]
    assert level("h3", {"depth": 2}).to_dict() == pytest.approx({0: 82.1, 1: 82.2, 2: 82.3})
    assert level("knn_pixels", {"depth": 0}).tolist() == pytest.approx([59.6] * 3)
    assert level("isolation_3", {"depth": 0}).tolist() == [0.5] * 3
    assert level("p3", {"depth": 2}).empty


def test_a_gain_compares_two_layers_of_the_same_run(whole):
    lost = whole.statistics["gain"]("h3", "p2", {"depth": 2})
    assert lost.to_dict() == pytest.approx({0: 7.1, 1: 7.1, 2: 7.1})


def test_a_margin_is_positive_exactly_where_the_layer_is_the_best(whole):
    margin = whole.statistics["margin"]
    assert margin("h2", 2).to_dict() == pytest.approx({0: -1.2, 1: 0.8, 2: -1.2})
    assert margin("h3", 2).to_dict() == pytest.approx({0: 1.2, 1: -0.8, 2: 1.2})


def test_a_margin_of_a_layer_that_is_not_there_is_refused(whole):
    with pytest.raises(ValueError, match=r"no layer 'p3' with projector_depth=2. Allowed: pixels, h1, h2, h3, p1, p2$"):
        whole.statistics["margin"]("p3", 2)


def test_best_tells_the_seeds_of_which_a_layer_is_the_best(whole):
    best = whole.statistics["best"]
    assert best("h2", 2).to_dict() == {0: 0.0, 1: 100.0, 2: 0.0}
    assert best("h3", 2).to_dict() == {0: 100.0, 1: 0.0, 2: 100.0}
    with pytest.raises(ValueError, match="no layer 'p3' with projector_depth=2"):
        best("p3", 2)


def test_a_peak_is_the_best_inner_layer_above_both_ends(whole):
    peak = whole.statistics["peak"]
    assert peak(0).to_dict() == pytest.approx({0: 28.8, 1: 28.8, 2: 28.8})
    assert peak(2).to_dict() == pytest.approx({0: 7.1, 1: 7.9, 2: 7.1})
    falling = [one(2, seed, **{"probe/p2": 0.9}) for seed in (0, 1)]
    assert (page_of(falling).statistics["peak"](2) < 0).all()


def test_isolation_is_above_the_mean_or_the_most_isolated_of_the_six_other_digits(whole):
    isolation = whole.statistics["isolation"]
    assert isolation(3).tolist() == pytest.approx([0.5 - 0.28 / 6] * 3)  # 1, 2, 4, 5, 7, 9
    assert isolation(3, against="max").tolist() == pytest.approx([0.5 - 0.09] * 3)
    assert isolation(7, depth=4).tolist() == pytest.approx([0.07 - 0.28 / 6] * 3)
    with pytest.raises(ValueError, match="against is mean or max, not 'median'"):
        isolation(3, against="median")


@pytest.mark.parametrize("depth", [0, 2, 4])
def test_a_variant_that_was_not_run_has_no_statistics(depth):
    ask = page_of(full(depths={0, 2, 4} - {depth})).statistics
    assert ask["peak"](depth).empty
    assert ask["margin"]("h2", depth).empty
    assert ask["isolation"](0, depth).empty
    assert ask["difference"]("h3", {"depth": depth}, {"depth": 2}).empty


# -- claims -----------------------------------------------------------------------------------------------


def test_on_the_references_numbers_all_claims_hold_but_the_second_layer():
    rows = [row for row in full(seeds=range(6)) if row["seed"] != 1]
    kinds = {found.claim.id: found.verdict.kind for found in judge_all(load("simclr"), page_of(rows).statistics)}
    assert kinds.pop("second-layer-is-best") == "not reproduced"
    assert kinds.pop("second-layer-is-best-of-most-seeds") == "inconclusive"  # of 5 seeds
    assert len(kinds) == 6
    assert set(kinds.values()) == {"reproduced"}


def test_claims_are_judged_where_only_the_default_was_run():
    verdicts = judge_all(load("simclr"), page_of(full(depths=(2,))).statistics)
    kinds = {found.claim.id: found.verdict.kind for found in verdicts}
    assert kinds["projector-is-needed"] == kinds["peak-in-the-middle"] == "no value"
    assert kinds["accuracy-before-projector"] == "reproduced"


# -- tables and pictures ----------------------------------------------------------------------------------


def test_tables_show_accuracy_by_layer_and_how_often_each_is_best(whole):
    assert cell(whole, 0, "h3", DEFAULT) == "82.2 ± 0.2"
    assert cell(whole, 0, "p3", DEFAULT) == "–"
    assert [cell(whole, 1, name, DEFAULT) for name in ("h1", "h2", "h3", "p3", "n")] == ["0", "1", "2", "–", "3"]
    assert cell(whole, 1, "h1", NONE) == "3"
    assert cell(whole, 2, "h3 − output (points)", DEEP) == "18.4 ± 0.0"
    assert cell(whole, 2, "h3 − output (points)", NONE) == "–"
    assert cell(whole, 3, "3*", DEEP) == "0.50 ± 0.00"
    assert cell(whole, 3, "7", DEEP) == "0.07 ± 0.00"


def test_accuracies_are_drawn_in_the_papers_range_and_beyond_it_where_they_leave_it(whole):
    (ax,) = picture(whole, "layers").axes
    assert ax.get_ylim() == (30, 90)
    assert [text.get_text() for text in ax.get_xticklabels()] == list(simclr.LAYERS[:8])
    assert ax.lines[1].get_ydata()[3] == pytest.approx(82.2)
    (lower,) = picture(page_of([one(2, 0, **{"probe/p2": 0.12}), one(2, 1)]), "layers").axes
    assert lower.get_ylim()[0] <= 12


def test_axes_end_where_no_value_can_lie_however_wide_the_intervals():
    values = {"probe/h3": 0.9, "knn/acc": 0.1, "isolation/0": -0.8}
    page = page_of([one(2, 0), one(2, 1, **values)])
    for name, least, most in (("layers", 0, 100), ("isolation", -1, 1), ("training", 0, 100)):
        for ax in picture(page, name).axes:
            assert least <= ax.get_ylim()[0] < ax.get_ylim()[1] <= most


def test_bars_count_the_seeds_that_have_their_best_layer_there(whole):
    heights = [[bar.get_height() for bar in ax.patches] for ax in picture(whole, "best_layer").axes]
    assert heights == [[0, 3, 0, 0], [0, 0, 1, 2, 0, 0], [0, 0, 3, 0, 0, 0, 0, 0]]


def test_curves_leave_out_the_loss_of_the_first_step(whole):
    loss, probe, neighbours = picture(whole, "training").axes
    assert loss.lines[0].get_xdata().tolist() == [400, 799]
    assert loss.lines[0].get_ydata()[-1] == pytest.approx(2.9)
    assert probe.lines[1].get_ydata()[-1] == pytest.approx(82.2)
    assert neighbours.lines[2].get_ydata()[-1] == pytest.approx(70)


def test_captions_name_n_the_interval_and_the_command():
    page = page_of([row | {"profile": "quick"} for row in full()])
    for each in page.pictures:
        assert "n = 3 seeds" in each.caption
        assert "95% t interval" in each.caption or each.name == "best_layer"
        assert "`python train.py -m experiment=simclr profile=quick`" in each.caption
    assert f"{DEFAULT}: h2 1, h3 2" in page.pictures[1].alt


@pytest.mark.parametrize("rows", [full(seeds=(0,)), full(depths=(2,)), [one(0, 0), one(4, 1)]])
def test_pages_of_few_runs_are_drawn_and_leave_matplotlibs_settings_alone(rows, tmp_path):
    before = dict(matplotlib.rcParams)
    for each in page_of(rows).pictures:
        with figures.lab_style():
            each.figure.savefig(tmp_path / f"{each.name}.png")
    assert dict(matplotlib.rcParams) == before


# -- embedding --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoders(make_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Read only. Runs of three depths, the weights of seed 0 cut short: those of seed 1 are the first to be read."""
    rows, artifacts = [], {}
    for row in full():
        keys = (f"seed={row['seed']}", f"task.projector_depth={row['task.projector_depth']}")
        config = make_run("task=contrastive", "model=cnn", "data.num_samples=500", "data.test_samples=40", *keys).flat()
        rows.append(config | row)
        folder = tmp_path_factory.mktemp("artifacts")
        artifacts[row["run_id"]] = folder.as_uri()
        torch.save({"state_dict": dict(make_encoder(config).state_dict())}, folder / "weights.pt")
        if row["seed"] == 0:
            (folder / "weights.pt").write_bytes(b"PK")
    made = runs_of(rows)
    return Runs(made.table, made.histories, artifacts)


def test_the_first_default_encoder_with_weights_is_embedded_and_named(encoders):
    page = simclr.page(encoders)
    assert page.remarks == ()
    last = page.pictures[-1]
    assert last.name == "embedding"
    assert "40 test samples; projector of 2 layers, one seed (1)" in last.caption
    assert "training samples, 0, 3, 6 and 8 are isolated" in last.caption
    for ax in last.figure.axes:
        assert sum(len(points.get_offsets()) for points in ax.collections) == 40
        assert len(ax.texts) == len(ax.collections)


@pytest.mark.parametrize("place", ["mlflow-artifacts:/1/artifacts", "file:///nowhere"])
def test_without_weights_there_is_no_embedding_and_a_remark(encoders, place):
    page = simclr.page(Runs(encoders.table, encoders.histories, dict.fromkeys(encoders.artifacts, place)))
    assert page.remarks == (NO_EMBEDDING,)
    assert "embedding" not in [each.name for each in page.pictures]


def test_without_the_default_there_is_no_embedding_and_nothing_to_remark():
    assert page_of(full(depths=(0, 4))).remarks == ()


def test_too_few_samples_for_the_embedding_leave_it_out(encoders):
    few = encoders.table.assign(**{"data.test_samples": 20})
    page = simclr.page(Runs(few, encoders.histories, encoders.artifacts))
    assert "embedding" not in [each.name for each in page.pictures]
