"""Fixtures shared by all tests: configs composed from the real conf/, caches in temporary folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

import bench
from mnist1d.config import Run

if TYPE_CHECKING:  # with MLflow, which most tests do without
    from tests.stores import Store

# Tests share the cores with each other: two threads that wait for a busy core are ten times slower than one.
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Data sets made by the tests stay out of the user's cache; subprocesses inherit the setting."""
    before = os.environ.get("MNIST1D_CACHE")
    os.environ["MNIST1D_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["MNIST1D_CACHE"]
    else:
        os.environ["MNIST1D_CACHE"] = before


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    """A test that draws made-up data draws the same ones on every day."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    """`make_run("model=cnn", "seed=3")`: the run that this command line asks for."""
    return bench.make_run


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One database for all tests, since making one takes seconds; `stores.part` is a place of one's own in it."""
    from tests.stores import made

    return made(tmp_path_factory.mktemp("store") / "mlflow.db")
