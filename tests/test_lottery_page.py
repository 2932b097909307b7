"""The page of experiment=lottery, on runs of known truth."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mnist1d.analysis import lottery, weights
from mnist1d.analysis.claims import judge_all, load
from mnist1d.analysis.figures import lab_style
from mnist1d.analysis.page import NoRuns, Page
from mnist1d.analysis.protocol import one_protocol
from mnist1d.analysis.read import Runs, read_runs
from mnist1d.tracking import Recorder

SEEDS = (0, 1, 2)
ARMS = ("magnitude", "random", "random_nested", "dense")
DRAW = {0: 0.0, 1: 1.0, 2: 3.0}  # points that a seed is better, whatever it prunes
STEPS = 10
LEADS = {"magnitude": (0, 4, 8, 6, -2, -50), "random": (0, 1, 1, -3, -20, -50)}  # points above dense, by round
SPARSITIES = (0.0, 0.4, 0.8, 0.92, 0.96, 1.0)
FOLLOW = {"magnitude": {"rewound": 7, "redrawn": 3}, "random": {"rewound": -4, "redrawn": -4}}  # points, fresh data
NEIGHBOURS = {"two": 0.01, "three": 0.002, "four": 0.0004}


def one(arm: str, seed: int, **more: Any) -> dict[str, Any]:
    """A run of 6 rounds, or of one where nothing is pruned; dense is at 60% plus the seed's draw everywhere."""
    dense = arm == "dense"
    base = 0.6 + 0.01 * DRAW.get(seed, 0.0)
    kind = "random" if arm == "random_nested" else arm
    run = {
        "run_id": f"{arm} {seed} {sorted(more.items())}",
        "status": "FINISHED",
        "started": 0,
        "profile": "paper",
        "seed": seed,
        "model.name": "mlp",
        "model.hidden": 500,
        "optimizer.lr": 0.02,
        "trainer.max_steps": STEPS,
        "task.criterion": "magnitude" if dense else arm,
        "task.rounds": 1 if dense else len(SPARSITIES),
        "task.ticket_round": 0 if dense else 3,
        "task.scope": "layer",
        "task.follow_up_steps": 50,
        "task.follow_ups": ("fresh", "reversed"),
        "density/first_layer": 1.0 if dense else 0.08,
        "test/acc_final": base if dense else base + 0.01 * LEADS[kind][3],
    }
    for init in lottery.INITS:
        gain = 0 if dense else FOLLOW[kind][init]
        run[f"fresh_{init}/test/acc_final"] = base + 0.01 * gain
        run[f"reversed_{init}/test/acc_final"] = base + 0.005 * gain
    for name, share in NEIGHBOURS.items():
        run[f"adjacency/{name}"] = 1.0 if dense else share / (1 if arm == "magnitude" else 2)
    return run | {key.replace("__", "."): value for key, value in more.items()}


def full(arms: Iterable[str] = ARMS, seeds: Iterable[int] = SEEDS, **more: Any) -> list[dict[str, Any]]:
    return [one(arm, seed, **more) for seed in seeds for arm in arms]


def without(rows: list[dict[str, Any]], arm: str, seed: int) -> list[dict[str, Any]]:
    return [row for row in rows if not row["run_id"].startswith(f"{arm} {seed} ")]


def runs_of(rows: list[dict[str, Any]]) -> Runs:
    """Runs with two evaluations in each round, of which the first is worthless."""
    histories: dict[str, dict[str, dict[int, float]]] = {metric: {} for metric in lottery.METRICS}
    for row in rows:
        arm = row["run_id"].split()[0]
        leads = LEADS.get("random" if arm == "random_nested" else arm, (0,))
        base = 0.6 + 0.01 * DRAW.get(row["seed"], 0.0)
        ends = [(number + 1) * row["trainer.max_steps"] - 1 for number in range(len(leads))]
        accuracy = {end: base + 0.01 * lead for end, lead in zip(ends, leads, strict=True)}
        histories["test/acc"][row["run_id"]] = accuracy | {end - 5: 0.1 for end in ends}
        histories["test/loss"][row["run_id"]] = {end: 2 - value for end, value in accuracy.items()}
        histories["sparsity"][row["run_id"]] = dict(zip(ends, SPARSITIES, strict=False))
    frames = {
        metric: pd.DataFrame.from_dict(found, orient="index").sort_index(axis="columns")
        for metric, found in histories.items()
    }
    return Runs(pd.DataFrame(rows), frames)


def page_of(rows: list[dict[str, Any]]) -> Page:
    return lottery.page(runs_of(rows))


@pytest.fixture(scope="module")
def whole() -> Page:
    """Read only. Every arm and seed."""
    return page_of(full())


def table(page: Page, title: str) -> dict[str, dict[str, str]]:
    """The table whose title begins like this: first cell -> column -> cell."""
    part = next(each for each in page.tables if each.title.startswith(title))
    return {cells[0]: dict(zip(part.columns, cells, strict=True)) for cells in part.rows}


def picture(page: Page, name: str) -> Any:
    return next(each for each in page.pictures if each.name == name)


def at(values: Iterable[float]) -> Any:
    """One number per seed."""
    return pytest.approx(dict(zip(SEEDS, values, strict=True)))


# -- the search -------------------------------------------------------------------------------------------


def test_a_round_counts_where_it_ends(whole):
    found = whole.statistics["at_sparsity"](sparsity=80, arm="magnitude")
    assert found.to_dict() == at([68, 69, 71])
    assert whole.statistics["at_sparsity"](sparsity=80, arm="magnitude", measure="loss").to_dict() == at(
        [1.32, 1.31, 1.29]
    )


def test_the_nearest_round_is_taken_and_none_where_it_is_far(whole):
    statistic = whole.statistics["at_sparsity"]
    assert statistic(sparsity=91.2, arm="random").to_dict() == at([57, 58, 60])
    assert statistic(sparsity=94, arm="random").empty


def test_the_dense_network_is_the_same_at_every_sparsity_and_paired_by_seed(whole):
    statistic = whole.statistics["at_sparsity"]
    assert statistic(sparsity=50, arm="dense").to_dict() == at([60, 61, 63])
    assert statistic(sparsity=92, arm="magnitude", minus="dense").to_dict() == at([6, 6, 6])
    assert statistic(sparsity=92, arm="magnitude", minus="random").to_dict() == at([9, 9, 9])


def test_a_mean_over_sparsities_includes_its_bounds(whole):
    statistic = whole.statistics["over_sparsities"]
    assert statistic(low=40, high=92, arm="magnitude", minus="dense").to_dict() == at([6, 6, 6])
    assert statistic(low=40, high=92, arm="random_nested", minus="random").to_dict() == at([0, 0, 0])


def test_the_highest_sparsity_above_dense_is_zero_where_there_is_none(whole):
    statistic = whole.statistics["highest_sparsity"]
    assert statistic(arm="magnitude").to_dict() == at([92, 92, 92])
    assert statistic(arm="random").to_dict() == at([80, 80, 80])
    assert statistic(arm="dense").to_dict() == at([0, 0, 0])


def test_a_pair_needs_the_seed_of_both():
    page = page_of(without(full(), "dense", 1))
    for name, where in (("at_sparsity", {"sparsity": 92}), ("over_sparsities", {"low": 40, "high": 92})):
        assert page.statistics[name](arm="magnitude", minus="dense", **where).index.tolist() == [0, 2]
    assert page.statistics["highest_sparsity"](arm="magnitude").index.tolist() == [0, 2]


# -- follow-ups and neighbours ----------------------------------------------------------------------------


def test_a_follow_up_is_compared_on_the_same_data_and_kind_of_weights(whole):
    follow = whole.statistics["follow"]
    assert follow(data="fresh", init="rewound", arm="magnitude").to_dict() == at([67, 68, 70])
    assert follow(data="fresh", init="redrawn", arm="magnitude", minus="dense").to_dict() == at([3, 3, 3])
    assert follow(data="reversed", init="rewound", arm="magnitude", minus="random").to_dict() == at([5.5] * 3)


def test_data_that_a_profile_leaves_out_have_no_value(whole):
    assert whole.statistics["follow"](data="shuffled", init="rewound", arm="magnitude").empty


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "flipped"}, "no data 'flipped'. Allowed: fresh, reversed, shuffled, half_swapped, chunk_shuffled"),
        ({"init": "rewind"}, "no init 'rewind'; did you mean rewound. Allowed: rewound, redrawn"),
        (
            {"arm": "magnitudes"},
            "no arm 'magnitudes'; did you mean magnitude. Allowed: dense, magnitude, random, random_nested",
        ),
    ],
)
def test_a_name_that_is_not_ours_is_refused_with_what_is_allowed(whole, arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        whole.statistics["follow"](**({"data": "fresh", "init": "rewound", "arm": "dense"} | arguments))


def test_neighbours_are_in_percent_and_chance_is_a_power_of_the_density(whole):
    where = {"arm": "magnitude"}
    assert whole.statistics["level"](measure="three", where=where).to_dict() == at([0.2] * 3)
    ratio = whole.statistics["chance_ratio"](length="three", arm="magnitude")
    assert ratio.to_dict() == at([0.002 / 0.08**3] * 3)


# -- which runs are compared ------------------------------------------------------------------------------


def test_dense_runs_differ_in_their_rounds_and_belong_to_the_search(whole):
    assert whole.table.groupby("arm").size().to_dict() == dict.fromkeys(ARMS, 3)
    assert whole.remarks == ("no picture of the masks: no seed has both on this machine",)


@pytest.mark.parametrize("key", ["task.scope", "task.follow_ups", "task.init"])
def test_runs_of_another_task_are_not_averaged_with_the_others(key):
    stray = one("magnitude", 3) | {key: "other"}
    kept, remarks = one_protocol(pd.DataFrame([*full(), stray]), {"seed", "task.criterion", *lottery._ROUNDS})
    assert remarks == (f"1 runs left out, of another protocol: {key}=other",)
    assert len(kept) == 12


def test_a_search_of_other_rounds_is_left_out_and_named():
    page = page_of([*full(), one("magnitude", 3, task__rounds=5)])
    assert page.remarks[0] == "1 runs left out, of another protocol: task.rounds=5"
    assert set(page.table["seed"]) == set(SEEDS)


def test_a_smoke_test_in_the_same_store_changes_nothing(whole):
    page = page_of([*full(seeds=(0, 1, 2, 3), trainer__max_steps=5, model__hidden=50), *full()])
    assert page.remarks[0].startswith("16 runs left out, of another protocol: trainer.max_steps=5")
    assert [each.rows for each in page.tables] == [each.rows for each in whole.tables]


def test_missing_seeds_are_named_by_arm_with_the_reason():
    rows = [*without(full(), "random", 2), one("random", 2, status="FAILED", **{"mnist1d.reason": "killed"})]
    page = page_of(without(rows, "dense", 0))
    assert page.remarks[:2] == ("missing: dense: seed 0 not run", "missing: random: seed 2 FAILED (killed)")
    assert page.statistics["follow"](data="fresh", init="rewound", arm="random").index.tolist() == [0, 1]


def test_without_a_finished_run_there_is_no_page():
    with pytest.raises(NoRuns, match=r"^no run is finished \(1 FAILED\)$"):
        page_of([one("random", 0, status="FAILED")])


@pytest.mark.parametrize("arms", [("dense",), ("magnitude",), ("random_nested", "dense")])
def test_arms_that_are_not_there_leave_gaps_and_no_error(arms):
    page = page_of(full(arms))
    assert {judgement.verdict.kind for judgement in judge_all(load("lottery"), page.statistics)} >= {"no value"}
    assert "nan" not in "".join(each.markdown() for each in page.tables)


def test_an_arm_that_ends_with_the_search_belongs_to_it_and_not_to_the_follow_ups():
    def ended(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if "/test/acc_final" not in key} | {"task.follow_ups": ()}

    page = page_of([ended(row) if row["task.criterion"] == "random_nested" else row for row in full()])
    assert page.remarks == ("no picture of the masks: no seed has both on this machine",)
    assert page.statistics["at_sparsity"](sparsity=80, arm="random_nested").size == len(SEEDS)
    assert "nested random" in table(page, "Test accuracy (%) by")["92.0"]
    assert "nested random" not in table(page, "Test accuracy (%) of the tickets")["fresh"]
    assert "mean over n = 3 seeds" in picture(page, "follow_ups").caption


# -- what is shown ----------------------------------------------------------------------------------------


def test_the_tables_show_levels_leads_and_chance(whole):
    assert table(whole, "Test accuracy (%) by")["92.0"]["lottery − dense"] == "+6.0 ± 0.0"
    assert table(whole, "Against")["random"]["highest sparsity above dense (%)"] == "80.0 ± 0.0"
    fresh = table(whole, "Test accuracy (%) of the tickets at 92% sparsity")["fresh"]
    assert (fresh["weights"], fresh["lottery − dense"], fresh["n"]) == ("redrawn", "+3.0 ± 0.0", "3")
    assert table(whole, "Neighbouring")["lottery"]["× chance"] == f"{0.0004 / 0.08**4:.2f} ± 0.00"  # the last: four


def test_pictures_say_n_the_interval_and_the_command(whole):
    assert [each.name for each in whole.pictures] == ["search", "follow_ups", "adjacency"]
    for each in whole.pictures:
        assert "mean over n = 3 seeds with its 95% t interval" in each.caption
        assert each.caption.endswith("`python train.py -m experiment=lottery`")


def test_the_search_is_drawn_as_in_the_paper(whole):
    loss, accuracy = picture(whole, "search").figure.axes
    assert loss.get_yscale() == "log"
    dense, magnitude = accuracy.lines[1:3]  # the first marks the tickets
    np.testing.assert_allclose(magnitude.get_xdata(), 100 * np.array(SPARSITIES))
    np.testing.assert_allclose(magnitude.get_ydata(), 60 + 4 / 3 + np.array(LEADS["magnitude"]))
    np.testing.assert_allclose(dense.get_ydata(), 60 + 4 / 3)
    assert accuracy.get_ylim() == (55, 80)
    assert len(accuracy.collections) == len(ARMS)  # a band each, the dense network's too


def test_every_follow_up_is_a_point_for_each_arm(whole):
    rewound, redrawn = picture(whole, "follow_ups").figure.axes
    assert [text.get_text() for text in rewound.get_yticklabels()] == ["fresh", "reversed"]
    assert len(rewound.containers) == len(redrawn.containers) == 2 * len(ARMS)
    assert "fresh rewound +7.0" in picture(whole, "follow_ups").alt


def test_chance_is_drawn_beside_the_neighbours(whole):
    axes = picture(whole, "adjacency").figure.axes
    drawn = [ax.lines[-1].get_ydata()[0] for ax in axes]
    assert drawn == pytest.approx([100 * 0.08**length for length in (2, 3, 4)])
    assert [ax.get_title(loc="left") for ax in axes] == ["Two neighbours", "Three neighbours", "Four neighbours"]


# -- masks ------------------------------------------------------------------------------------------------


def record(uri: str, masks: dict[str, torch.Tensor]) -> Runs:
    """Runs in a real store, with weights as training writes them."""
    recorder = Recorder(uri, "mnist1d")
    for arm, mask in masks.items():
        row = one(arm, 0)
        run_id = recorder.start(Flat(row), parent=None, name=arm, tags={"mnist1d.fingerprint": arm})
        kept = {"linear1.weight": torch.ones(4, 5).T, "mask/linear1.weight": mask, "mask/linear1.bias": mask[0]}
        recorder.log(run_id, [(metric, STEPS - 1, 0.5) for metric in lottery.METRICS])
        finals = {key: value for key, value in row.items() if "/" in key}
        recorder.finish(run_id, "FINISHED", final=finals, reason=None, weights=kept, resources={})
    return read_runs(uri, metrics=lottery.METRICS)


class Flat:
    """A config that is flat already."""

    def __init__(self, row: dict[str, Any]) -> None:
        self._row = {
            key: value for key, value in row.items() if "/" not in key and key not in ("run_id", "status", "started")
        }

    def flat(self) -> dict[str, Any]:
        return self._row


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runs, dict[str, torch.Tensor]]:
    """Read only. A ticket and a random mask of one seed."""
    generator = torch.Generator().manual_seed(0)
    masks = {arm: torch.rand((50, 40), generator=generator) < 0.1 for arm in ("magnitude", "random")}
    folder = tmp_path_factory.mktemp("a store")  # with a blank, which addresses write otherwise
    return record(f"sqlite:///{folder}/mlflow.db", masks), masks


def test_weights_are_read_without_torch_as_torch_reads_them(stored):
    for place in stored[0].artifacts.values():
        ours = weights.load(place)
        path = Path(place.removeprefix("file://").replace("%20", " "), "weights.pt")
        theirs = torch.load(path, weights_only=True)["state_dict"]
        assert list(ours) == list(theirs)
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values.numpy(), strict=True)


def test_a_weights_file_can_hold_nothing_that_runs(tmp_path):
    torch.save({"state_dict": {"bad": Path("x")}}, tmp_path / "weights.pt")
    with pytest.raises(pickle.UnpicklingError, match=r"^a weights file holds tensors and plain values, no pathlib\."):
        weights.load(str(tmp_path))


def test_the_masks_of_both_kinds_are_drawn_from_one_seed(stored):
    runs, masks = stored
    page = lottery.page(runs)
    assert page.remarks == ()
    caption = picture(page, "masks").caption
    assert "one seed (0)" in caption
    for ax, (arm, mask) in zip(picture(page, "masks").figure.axes, masks.items(), strict=True):
        pairs = int((mask[:, 1:] & mask[:, :-1]).sum())
        name = lottery.ARMS[arm].name
        assert ax.get_title(loc="left") == f"{name}: {int(mask.sum())} weights, {pairs} neighbouring pairs"
        np.testing.assert_array_equal(ax.images[0].get_array(), lottery.by_adjacency(mask.numpy()).T)


def test_without_the_files_there_is_no_picture_of_masks_and_a_remark(stored):
    runs = stored[0]
    page = lottery.page(
        Runs(runs.table, runs.histories, dict.fromkeys(runs.artifacts, "mlflow-artifacts:/1/artifacts"))
    )
    assert page.remarks == ("no picture of the masks: no seed has both on this machine",)
    assert "masks" not in [each.name for each in page.pictures]


def test_hidden_units_stand_by_their_neighbouring_pairs_then_by_their_weights():
    rows = [[0, 1, 0, 1, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 1], [0, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    found = lottery.by_adjacency(np.array(rows, dtype=bool))
    assert found.astype(int).tolist() == [rows[3], rows[4], rows[1], rows[2], rows[0]]


def test_pictures_of_every_page_can_be_saved(whole, tmp_path):
    for each in (*whole.pictures, *page_of(full(("magnitude", "dense"), (0,))).pictures):
        with lab_style():
            each.figure.savefig(tmp_path / f"{each.name}.png")
    assert len(list(tmp_path.iterdir())) == 3


# -- claims -----------------------------------------------------------------------------------------------


def test_every_claim_asks_what_the_page_can_answer(whole):
    judged = {judgement.claim.id: judgement for judgement in judge_all(load("lottery"), whole.statistics)}
    assert judged["better-than-dense-on-fresh-data"].verdict.kind == "reproduced"
    assert judged["better-than-dense-up-to"].verdict.kind == "not reproduced"
    assert judged["worse-than-dense-when-shuffled"].verdict.kind == "no value"
    (effect,) = judged["around-70-on-fresh-data"].quirks[0].effects
    assert effect.worth is not None
    assert effect.worth.mean == pytest.approx(-4)
