"""A sweep as a union of grids, under the command line."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from hydra_plugins.mnist1d_stack import GridSweeper
from mnist1d.grids import union

PARSER = OverridesParser.create()
GRIDS = {"mlp": {"model": "mlp", "model.hidden": "2,3"}, "cnn": {"model": "cnn", "model.channels": "4,5"}}
PARAMS = {"optimizer": "sgd", "seed": "range(2)"}


def is_choice(override: Override) -> bool:
    return override.key_or_group in ("model", "optimizer") and not override.is_sweep_override()


def jobs(*typed: str, params: dict[str, str] = PARAMS, grids: dict[str, dict[str, str]] = GRIDS) -> list[set[str]]:
    """All jobs of the sweep, each as the set of its overrides."""
    found = union(params, grids, PARSER.parse_overrides(list(typed)), PARSER.parse_override, is_choice)
    return [set(job) for grid in found for job in GridSweeper.__bases__[0].split_arguments(grid, None)[0]]


def test_the_sweep_is_the_union_of_its_grids_and_seeds_vary_fastest() -> None:
    found = jobs()
    assert len(found) == 8
    assert found[:2] == [{"model=mlp", "model.hidden=2", "optimizer=sgd", f"seed={seed}"} for seed in (0, 1)]
    assert found[-1] == {"model=cnn", "model.channels=5", "optimizer=sgd", "seed=1"}


def test_without_grids_it_is_the_product_that_hydra_makes() -> None:
    assert jobs("seed=3", params={"model": "mlp,cnn"}, grids={}) == [{"model=mlp", "seed=3"}, {"model=cnn", "seed=3"}]


def test_a_typed_key_replaces_the_key_of_every_grid() -> None:
    assert {frozenset(job) for job in jobs("seed=7", "model.hidden=9", "model=mlp")} == {
        frozenset({"model=mlp", "model.hidden=9", "optimizer=sgd", "seed=7"})
    }


@pytest.mark.parametrize(("typed", "left"), [("model=mlp", 4), ("model=cnn,mlp", 8), ("model=gru", 0)])
def test_a_typed_option_chooses_among_the_grids_that_fix_one(typed: str, left: int) -> None:
    assert len(jobs(typed)) == left


def test_an_option_that_a_grid_sweeps_is_replaced_like_any_key() -> None:
    grids = {"all": {"model": "mlp,cnn"}, "one": {"model": "cnn", "seed": "5"}}
    assert jobs("model=gru", params={}, grids=grids) == [{"model=gru"}]
