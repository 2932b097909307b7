"""Parameters, operations and memory of a model, counted by hand."""

from __future__ import annotations

import pytest
import torch

from mnist1d.cost import measure_member
from mnist1d.footprint import footprint


def test_a_linear_model_multiplies_once_forward_and_once_backward(make_run):
    found = footprint(make_run("model=logistic").flat(), 100)
    assert found.parameters == 410
    assert found.flops == 2 * 40 * 10 * 2  # a gradient of the weights, none of the inputs
    assert found.step_bytes == 4 * 4 * 410


def test_convolutions_are_counted_by_their_positions(make_run):
    forward = 2 * (19 * 5 * 25 + 10 * 75 * 25 + 5 * 75 * 25 + 125 * 10)
    first = 2 * 19 * 5 * 25  # whose inputs need no gradient
    assert footprint(make_run("model=cnn").flat(), 100).flops == 3 * forward - first


@pytest.mark.parametrize("options", [("model=gru",), ("model=cnn2d", "data=digits")])
def test_memory_is_what_the_planner_counts_and_the_batch_size_plays_no_part_in_operations(options, make_run):
    run = make_run(*options)
    state = torch.get_rng_state()
    found = footprint(run.flat(), 100)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.step_bytes == measure_member(run).working
    assert footprint(run.flat(), 50).flops == pytest.approx(found.flops)
    assert footprint(run.flat(), 50).step_bytes < found.step_bytes


def test_sequences_may_be_tuples_as_in_a_table_of_runs(make_run):
    flat = make_run("model=cnn", "model.kernel_sizes=[3,3]").flat()
    assert footprint({**flat, "model.kernel_sizes": (3, 3)}, 10) == footprint(flat, 10)
