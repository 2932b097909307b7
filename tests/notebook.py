"""docs/tutorial.ipynb, made from docs/tutorial.md:  python -m tests.notebook

It has no outputs: the page has them, they differ in times and names, and whoever opens it wants to make their own.
"""

from __future__ import annotations

import json

from tests import documents
from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
START = """\
# In this notebook alone: commands run in the project's folder, by the Python that runs the notebook
import os
import sys
from pathlib import Path

os.chdir(next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "train.py").exists()))
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ["TTY_COMPATIBLE"] = "0"  # lines instead of bars
"""


def made(page: str) -> str:
    """The notebook (format 4.5) of a guide: what can be run as code cells, all the rest as text."""
    cells, text = [("code", START)], ""
    for block in documents.parts(page):
        if code := documents.cell(block):
            cells += [("markdown", text), ("code", code)]
            text = ""
        else:
            text += f"```{block.language}\n{block.text}```" if block.language else block.text
    cells.append(("markdown", text))
    kept = [(kind, source.strip("\n")) for kind, source in cells if source.strip()]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {
        "cells": [_cell(number, kind, source) for number, (kind, source) in enumerate(kept)],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _cell(number: int, kind: str, source: str) -> dict[str, object]:
    lines = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True)}
    return lines | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def code_cells() -> list[str]:
    """The code cells of the notebook as it is stored."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(each["source"]) for each in cells if each["cell_type"] == "code"]


if __name__ == "__main__":
    NOTEBOOK.write_text(made(documents.read("docs/tutorial.md")))
