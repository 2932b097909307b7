"""The page of experiment=pooling, on runs of known truth."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mnist1d.analysis import figures, paired, pooling
from mnist1d.analysis.page import NoRuns, Page
from mnist1d.analysis.read import Runs
from mnist1d.models import CNN
from tests.pages import cell, picture

SIZES = (1000, 5000, 50_000)
KINDS = ("none", "matched", "stride", "max", "avg", "l2")
GAINS = {"none": 0, "matched": -1, "stride": -2, "max": 4, "avg": 3, "l2": 5}  # points at 1000 samples
DRAW = {42: 0.0, 43: 1.0, 44: 3.0}  # points that a seed's data are easier for every kind
STEPS = (0, 100, 200, 300)


def one(kind: str, size: int, seed: int, **more: Any) -> dict[str, Any]:
    """A run that ends at 60 + gain + draw percent, the gain 5 times smaller from 5000 samples on."""
    final = 0.6 + 0.01 * (GAINS[kind] / (1 if size == 1000 else 5) + DRAW.get(seed, 0.0))
    run = {
        "run_id": f"{kind} {size} {seed} {sorted(more.items())}",
        "status": "FINISHED",
        "started": 0,
        "profile": "paper",
        "seed": seed,
        "data.seed": seed,
        "data.num_samples": size + 1000,
        "data.train_split": size / (size + 1000),
        "data.final_seq_length": 40,
        "model.name": "cnn",
        "model.num_classes": 10,
        "model.channels": 8 if kind == "matched" else 20,
        "model.kernel_sizes": (3, 3),
        "model.pooling": "none" if kind == "matched" else kind,
        "trainer.max_steps": 301,
        "optimizer.lr": 0.01,
        "test/acc_final": final,
        "test/acc_best": final + 0.02,
        "train/acc": 1.0,
    }
    return run | {key.replace("__", "."): value for key, value in more.items()}


def full(kinds: Iterable[str] = KINDS, sizes: Iterable[int] = SIZES, seeds: Iterable[int] = (42, 43, 44)) -> list[dict]:
    return [one(kind, size, seed) for size in sizes for kind in kinds for seed in seeds]


def runs_of(rows: list[dict[str, Any]]) -> Runs:
    """Runs whose test accuracy rises in a straight line from 10% to the final one."""
    curves = {row["run_id"]: np.linspace(0.1, row["test/acc_final"], len(STEPS)) for row in rows}
    history = pd.DataFrame.from_dict(curves, orient="index", columns=STEPS)
    return Runs(pd.DataFrame(rows), {"test/acc": history})


def page_of(rows: list[dict[str, Any]]) -> Page:
    return pooling.page(runs_of(rows))


def comparable(rows: list[dict[str, Any]]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    return pooling.comparable(pd.DataFrame(rows))


@pytest.fixture(scope="module")
def whole() -> Page:
    """Read only. Every kind, size and seed."""
    return page_of(full())


# -- the page's own columns -------------------------------------------------------------------------------


def test_the_net_without_pooling_and_with_fewer_channels_is_called_matched(whole):
    table = whole.table
    assert set(table.loc[table["model.channels"] == 8, "pooling"]) == {"matched"}
    assert set(table.loc[table["model.channels"] == 20, "pooling"]) == set(KINDS) - {"matched"}


def test_training_samples_are_counted_as_the_data_are_split(whole):
    assert sorted(set(whole.table["train_samples"])) == list(SIZES)


def test_accuracies_are_columns_in_percent():
    run = comparable(full(seeds=(42,)))[0].set_index(["pooling", "train_samples"]).loc[("max", 1000)]
    assert (run["final"], run["best"], run["train"]) == pytest.approx((64, 66, 100))


@pytest.mark.parametrize("kernels", [(3, 3), (5, 3, 3), (4, 2)])
@pytest.mark.parametrize("kind", ["none", "stride", "max", "avg", "l2"])
def test_parameters_are_those_of_the_network_that_is_trained(kind, kernels):
    net = CNN(39, 7, channels=6, kernel_sizes=kernels, pooling=kind)
    config = {"model__channels": 6, "model__kernel_sizes": kernels, "model__num_classes": 7}
    table, _ = comparable([one(kind, 1000, 42, data__final_seq_length=39, **config)])
    assert table["parameters"].tolist() == [sum(weights.numel() for weights in net.parameters())]


# -- statistics -------------------------------------------------------------------------------------------


def test_a_gain_is_the_difference_to_no_pooling_on_the_same_data(whole):
    gain = whole.statistics["gain"]
    assert gain(kind="max", train_samples=1000).to_dict() == pytest.approx({42: 4, 43: 4, 44: 4})
    assert gain(kind="stride", train_samples=50_000).to_dict() == pytest.approx({42: -0.4, 43: -0.4, 44: -0.4})
    assert gain(kind="max", train_samples=1000, measure="train").to_dict() == {42: 0, 43: 0, 44: 0}


def test_a_gain_counts_the_seeds_that_both_have():
    rows = full(kinds=("none",), sizes=(1000,), seeds=(42, 43)) + full(kinds=("max",), sizes=(1000,), seeds=(43, 44))
    assert page_of(rows).statistics["gain"](kind="max", train_samples=1000).to_dict() == pytest.approx({43: 4})


def test_a_gain_at_a_size_without_runs_is_empty(whole):
    assert whole.statistics["gain"](kind="max", train_samples=2000).empty


def test_a_gain_of_an_unknown_kind_is_refused_with_the_nearest(whole):
    with pytest.raises(ValueError, match=r"no pooling 'maxx'; did you mean max\. Allowed: none, matched, stride"):
        whole.statistics["gain"](kind="maxx", train_samples=1000)


def test_level_and_difference_see_the_pages_columns(whole):
    statistics = whole.statistics
    where = {"pooling": "matched", "train_samples": 1000}
    assert statistics["level"](measure="final", where=where).to_dict() == pytest.approx({42: 59, 43: 60, 44: 62})
    found = statistics["difference"](measure="best", of=where | {"pooling": "max"}, minus=where)
    assert found.to_dict() == pytest.approx({42: 5, 43: 5, 44: 5})


def test_runs_that_failed_are_in_the_table_and_in_no_statistic():
    lost = {"status": "FAILED", "mnist1d.reason": "loss is nan at step 7", "test/acc_final": 0.9}
    page = page_of([*full(seeds=(42, 43)), *(one(kind, 1000, 44, **lost) for kind in KINDS)])
    assert len(page.table) == 3 * 6 * 2 + 6
    assert page.statistics["gain"](kind="max", train_samples=1000).index.tolist() == [42, 43]


# -- which runs are compared ------------------------------------------------------------------------------


def test_missing_seeds_are_named_by_kind_and_size_with_the_reason():
    rows = [row for row in full() if row["run_id"] != one("avg", 5000, 43)["run_id"]]
    rows = [row for row in rows if row["run_id"] != one("max", 1000, 44)["run_id"]]
    rows.append(one("max", 1000, 44, status="FAILED", **{"mnist1d.reason": "out of memory"}))
    assert page_of(rows).remarks == (
        "missing: max at 1000 training samples: seed 44 FAILED (out of memory)",
        "missing: avg at 5000 training samples: seed 43 not run",
    )


def test_a_size_that_a_kind_was_never_run_at_is_missing():
    page = page_of(full(kinds=("none", "max")) + full(kinds=("avg",), sizes=(1000,)))
    assert page.remarks[0] == "missing: avg at 5000 training samples: seed 42-44 not run"
    assert cell(page, 0, "5000", "avg") == cell(page, 1, "5000", "avg") == "–"


def test_shorter_runs_are_left_out_and_named():
    table, remarks = comparable([*full(), one("max", 1000, 45, trainer__max_steps=21)])
    assert remarks == ("1 runs left out, of another protocol: trainer.max_steps=21",)
    assert len(table) == 54


def test_runs_that_share_one_data_draw_are_not_mixed_with_those_that_draw_their_own():
    table, remarks = comparable([*full(), *(one(kind, 1000, 43, data__seed=7) for kind in KINDS)])
    assert remarks == ("6 runs left out, of another protocol: data.draw=7",)
    assert set(table["data.seed"]) == set(DRAW)


def test_runs_with_a_test_set_of_another_size_are_left_out():
    table, remarks = comparable([*full(), one("max", 1000, 42, data__num_samples=1250, data__train_split=0.8)])
    assert remarks == ("1 runs left out, of another protocol: data.test_size=250",)
    assert pooling.gain(table, "max", 1000).size == 3


def test_nets_of_a_third_width_are_left_out():
    strays = [one("max", 1000, 42, model__channels=25), one("none", 1000, 42, model__channels=5)]
    table, remarks = comparable([*full(), *strays])
    assert remarks == (
        "1 runs left out, of another network: model.pooling=max, model.channels=25",
        "1 runs left out, of another network: model.pooling=none, model.channels=5",
    )
    assert set(table["parameters"]) == {9310, 3442, 3310}


def test_without_a_finished_run_there_is_no_page():
    with pytest.raises(NoRuns, match=r"no run is finished \(1 FAILED\)"):
        page_of([one("max", 1000, 42, status="FAILED")])
    rows = [one("max", 1000, seed, status="RUNNING") for seed in (42, 43)]
    with pytest.raises(NoRuns, match=r"that can be compared \(1 runs left out, of another network: .*channels=25\)"):
        page_of([*rows, one("max", 1000, 44, model__channels=25)])


# -- tables -----------------------------------------------------------------------------------------------


def test_the_first_table_has_accuracies_and_the_parameters_of_the_nets(whole):
    assert whole.tables[0].columns == ("samples", *KINDS, "n")
    assert whole.tables[0].rows[0] == ("parameters", "9310", "3442", "3310", "3310", "3310", "3310", "")
    half = stats.t.ppf(0.975, 2) * np.std([0, 1, 3], ddof=1) / math.sqrt(3)
    assert cell(whole, 0, "1000", "max") == f"{64 + 4 / 3:.1f} ± {half:.1f}"
    assert [row[-1] for row in whole.tables[0].rows[1:]] == ["3", "3", "3"]


def test_the_second_table_has_gains_from_which_the_draw_of_the_data_is_gone(whole):
    assert whole.tables[1].rows[0][:5] == (
        "1000",
        "-1.0 ± 0.0 (p < 0.001)",
        "-2.0 ± 0.0 (p < 0.001)",
        "+4.0 ± 0.0 (p < 0.001)",
        "+3.0 ± 0.0 (p < 0.001)",
    )
    assert cell(whole, 1, "50,000", "l2") == "+1.0 ± 0.0 (p < 0.001)"


def test_p_values_are_those_of_paired_t_tests_adjusted_over_all_comparisons():
    rng = np.random.default_rng(5)
    rows = full(kinds=("none", "max", "avg"), sizes=(1000, 5000))
    rows = [row | {"test/acc_final": row["test/acc_final"] + rng.normal(0, 0.01)} for row in rows]
    page = page_of(rows)
    by_run = {tuple(row["run_id"].split()[:3]): row["test/acc_final"] for row in rows}
    values = {
        (size, kind): [by_run[kind, str(size), str(seed)] for seed in DRAW]
        for size in (1000, 5000)
        for kind in ("none", "max", "avg")
    }
    plain = {
        key: stats.ttest_rel(own, values[key[0], "none"]).pvalue for key, own in values.items() if "none" not in key
    }
    steps = [min(1.0, (4 - rank) * p) for rank, p in enumerate(sorted(plain.values()))]
    wanted = dict(zip(sorted(plain, key=plain.get), np.maximum.accumulate(steps), strict=True))
    found = paired.adjusted(pooling.gains(page.table))
    assert found == pytest.approx(wanted)
    assert f"(p = {wanted[5000, 'avg']:.3f})" in cell(page, 1, "5000", "avg")
    assert page.tables[1].note.endswith("Holm-adjusted over all 4 comparisons.")


def test_where_counts_differ_the_table_says_so():
    page = page_of([row for row in full(sizes=(1000,)) if (row["model.pooling"], row["seed"]) != ("l2", 44)])
    assert [part.rows[-1][-1] for part in page.tables] == ["2–3", "2–3"]
    assert "n = 2–3 seeds" in page.pictures[0].caption


def test_a_single_seed_gives_numbers_without_intervals_or_p_values():
    page = page_of(full(seeds=(42,)))
    assert cell(page, 0, "1000", "max") == "64.0"
    assert cell(page, 1, "1000", "max") == "+4.0"
    assert "p:" not in page.tables[1].note
    assert all("one seed, so no intervals" in each.caption for each in page.pictures)


def test_without_runs_without_pooling_there_are_no_gains_to_show():
    page = page_of(full(kinds=("max", "avg")))
    assert [each.name for each in page.pictures] == ["curves"]
    assert len(page.tables) == 1


# -- pictures ---------------------------------------------------------------------------------------------


def test_kinds_differ_by_marker_and_by_line():
    looks = pooling.KINDS.values()
    assert len({str(look.line) for look in looks}) == len({look.color for look in looks}) == len(KINDS)
    assert len({(look.marker, look.hollow) for look in looks}) == len(KINDS)


def test_curves_are_smoothed_along_each_run_before_they_are_averaged():
    spike = np.array([[0.0] * 6 + [1.0] + [0.0] * 6, [0.0] * 13])
    found = pooling.smoothed(spike)
    weights = np.exp(-0.5 * np.arange(-4, 5) ** 2)  # the filter ends at four standard deviations
    np.testing.assert_allclose(found[0, 2:11], weights / weights.sum(), atol=1e-12)
    assert not found[1].any()


def test_smoothing_leaves_out_what_was_not_evaluated():
    found = pooling.smoothed(np.array([[1.0, 1.0, math.nan, 1.0], [math.nan] * 4]))
    np.testing.assert_allclose(found, [[1.0, 1.0, math.nan, 1.0], [math.nan] * 4])


def test_the_curves_have_the_papers_panels_with_a_line_and_a_band_for_each_kind(whole):
    axes = picture(whole, "curves").axes
    assert [ax.get_title(loc="left") for ax in axes] == ["a  1000 samples", "b  5000 samples", "c  50,000 samples"]
    assert [len(ax.lines) for ax in axes] == [len(ax.collections) for ax in axes] == [6, 6, 6]
    line = pooling.smoothed(np.linspace(10, 64 + 4 / 3, 4)[None])[0]
    np.testing.assert_allclose(axes[0].lines[KINDS.index("max")].get_ydata(), line)


@pytest.mark.parametrize(
    ("sizes", "shown"),
    [
        ((1000, 2000, 5000, 10_000, 20_000, 50_000), [1000, 5000, 50_000]),
        ((1000, 2000, 5000, 20_000), [1000, 5000, 20_000]),
        ((2000, 5000), [2000, 5000]),
        ((2000,), [2000]),
    ],
)
def test_at_most_three_sizes_have_a_panel(sizes, shown):
    axes = picture(page_of(full(kinds=("none", "max"), sizes=sizes, seeds=(42,))), "curves").axes
    assert [int(ax.get_title(loc="left").split()[1].replace(",", "")) for ax in axes] == shown


def test_panels_show_the_papers_range_and_more_where_the_data_need_it(whole):
    axes = picture(whole, "curves").axes
    assert axes[0].get_ylim() == pytest.approx((30, 85 + 1.1))
    assert axes[2].get_ylim()[0] <= min(line.get_ydata()[-1] for line in axes[2].lines)  # the paper's starts at 90
    assert axes[2].get_ylim()[1] == pytest.approx(100, abs=2)


def test_the_gains_are_drawn_with_their_intervals_against_the_size():
    rows = [row | {"test/acc_final": row["test/acc_final"] + 0.001 * DRAW[row["seed"]]} for row in full(("max",))]
    page = page_of([*full(("none", "stride")), *rows])
    everything, close = picture(page, "gains").axes
    line, _, (bars,) = everything.containers[1].lines
    mean = 4 + 0.1 * 4 / 3
    half = stats.t.ppf(0.975, 2) * 0.1 * np.std([0, 1, 3], ddof=1) / math.sqrt(3)
    assert line.get_ydata()[0] == pytest.approx(mean)
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], [mean - half, mean + half])
    assert close.get_ylim()[1] < mean
    assert everything.get_xscale() == "log"
    assert [label.get_text() for label in everything.get_xticklabels()] == ["1k", "5k", "50k"]


def test_captions_and_descriptions_name_n_the_interval_and_the_command():
    page = page_of([row | {"profile": "quick"} for row in full()])
    for each in page.pictures:
        assert "mean over n = 3 seeds with its 95% t interval" in each.caption
        assert "`python train.py -m experiment=pooling profile=quick`" in each.caption
    assert "At 1000: matched -1.0, stride -2.0, max +4.0" in page.pictures[0].alt
    assert "`python train.py -m experiment=pooling`" in page_of(full()).pictures[0].caption


def test_drawing_leaves_the_settings_of_matplotlib_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    for each in page_of(full(seeds=(42,))).pictures:
        with figures.lab_style():
            each.figure.savefig(tmp_path / f"{each.name}.png")
    assert dict(matplotlib.rcParams) == before


def test_runs_without_histories_give_the_numbers_and_empty_panels():
    runs = runs_of(full(kinds=("none", "max"), sizes=(1000,)))
    page = pooling.page(Runs(runs.table, {"test/acc": runs.histories["test/acc"].iloc[:0, :0]}))
    assert not picture(page, "curves").axes[0].lines
    assert cell(page, 1, "1000", "max").startswith("+4.0")
