"""The notebooks of the tutorial run from top to bottom on a project with one run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parents[3] / "docs" / "tutorial"
NOTEBOOKS = sorted(path.name for path in TUTORIAL.glob("*.ipynb"))


def test_there_are_three() -> None:
    """Exploration, a sanity check of splines, an analysis of errors; kept without outputs."""
    assert NOTEBOOKS == ["01_eda.ipynb", "02_spline_sanity_check.ipynb", "03_error_analysis.ipynb"]
    for name in NOTEBOOKS:
        for cell in nbformat.read(TUTORIAL / name, as_version=4).cells:
            assert not cell.get("outputs"), name
            assert cell.get("execution_count") is None, name


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, home: Path, trained: Callable[[str], Any]) -> None:
    """Every cell, in a kernel of its own; what they assert holds."""
    trained("co2_forecast")
    book = nbformat.read(TUTORIAL / name, as_version=4)
    NotebookClient(book, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(home)}}).execute()
    assert any(cell.get("outputs") for cell in book.cells)
