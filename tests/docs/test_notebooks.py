"""The notebooks: kept without outputs, honest about phantoms, and run from first to last cell by `make soak`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_kept_and_phantoms_are_named(path: Path) -> None:
    code = cells(path, "code")
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    prose = "".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    makes_phantoms = any("data phantom" in "".join(cell["source"]) for cell in code)
    assert makes_phantoms == ("PHANTOM" in prose) and "not a medical device" in prose


@pytest.mark.soak
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that fails, or a command in it, fails the test."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    NotebookClient(book, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    nbformat.write(book, tmp_path / path.name)  # with its outputs, to look at
    assert all(cell.execution_count for cell in book.cells if cell.cell_type == "code")
