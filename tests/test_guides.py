"""The guides work from top to bottom, in a copy of the project, as someone who follows them would find out."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib import pyplot as plt

from mnist1d.analysis.read import read_runs
from tests import documents, notebook
from tests.documents import Reader


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Someone in the folder docs/ of a copy of the project."""
    (tmp_path / "docs").mkdir()
    monkeypatch.chdir(tmp_path / "docs")
    for name in ("PATH", "TTY_COMPATIBLE"):  # which the notebook sets
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.syspath_prepend(tmp_path)
    plt.switch_backend("agg")
    yield Reader(tmp_path)
    plt.close("all")
    sys.modules.pop("my_models", None)


def test_the_notebook_is_made_from_the_tutorial() -> None:
    made = notebook.made(documents.read("docs/tutorial.md"))
    assert notebook.NOTEBOOK.read_text() == made, "python -m tests.notebook makes it"


def test_nothing_of_the_tutorial_is_missing_in_the_notebook() -> None:
    cells = notebook.code_cells()
    lines = [line.removeprefix("!") for cell in cells for line in cell.splitlines() if cell.startswith("!")]
    typed = [line for block in documents.parts(documents.read("docs/tutorial.md")) for line in block.commands]
    assert [line for line in typed if line.startswith("python ")] == lines
    assert len(lines) >= 6


def test_the_tutorial_leads_to_a_figure_and_a_verdict(reader: Reader) -> None:
    for cell in notebook.code_cells():
        reader.follow(cell)
    assert Path.cwd() == reader.folder
    *_, compared, trained, judged = reader.printed.values()
    assert "B − A, paired by seed" in compared
    assert "20 runs" in trained
    assert "50 hidden units are at least 2 points worse" in judged
    assert (reader.folder / "widths.png").stat().st_size > 10_000
    assert (reader.folder / "mlruns/report/report.html").exists()


def test_what_is_added_by_the_guide_to_extending_works(reader: Reader) -> None:
    cells = [cell for block in documents.parts(documents.read("docs/extending.md")) if (cell := documents.cell(block))]
    for cell in cells:
        reader.follow(cell)
    assert len(reader.printed) >= 5
    runs = read_runs(f"sqlite:///{reader.folder}/mlruns/mlflow.db").finished
    assert {"gated", "cnn2d"} <= set(runs["model.name"])
    assert {"long", "letters"} <= set(runs["data.name"])
    assert "my_tasks.StackedBrier" in set(runs["task._target_"])
    judged = reader.printed["python analyze.py experiment=batch_size profile=quick"]
    assert "batches of 10 cost more than 5 points" in judged
    assert (reader.folder / "mlruns/report/batch_size/accuracy.png").stat().st_size > 10_000
