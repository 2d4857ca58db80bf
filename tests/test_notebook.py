"""docs/colab.ipynb, executed cell by cell in a kernel without Colab; and how objects look in a notebook."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs/colab.ipynb"


def output_of(cell: Any) -> str:
    """Everything that a cell printed or showed."""
    shown = [output.get("data", {}) for output in cell.outputs]
    return "".join(output.get("text", "") for output in cell.outputs) + "".join(
        str(data[kind]) for data in shown for kind in ("text/plain", "text/html") if kind in data
    )


def test_no_output_is_stored() -> None:
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_every_cell_runs_and_the_training_cell_resumes(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "bin/chimney"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'from train.cli import main; main()' \"$@\"\n")
    command.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    notebook = nbformat.read(NOTEBOOK, 4)
    settings = next(i for i, cell in enumerate(notebook.cells) if "@param" in cell.source)
    training = next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith("!chimney train"))
    ours = {
        "RELEASE": str(release),
        "FOLDER": str(tmp_path / "drive"),
        "LOCAL": str(tmp_path / "local disk"),
        "PRESET": "demo",
        "FLAGS": "--epochs 1 --data.size 32 --data.holdout 0.3 --device cpu",
    }
    assert all(re.search(rf"^{name} = ", notebook.cells[settings].source, re.MULTILINE) for name in ours)
    again = nbformat.v4.new_code_cell(notebook.cells[training].source)
    notebook.cells.insert(training + 1, again)
    notebook.cells.insert(settings + 1, nbformat.v4.new_code_cell("\n".join(f"{k} = {v!r}" for k, v in ours.items())))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {cell.source.splitlines()[-1]: output_of(cell) for cell in notebook.cells if cell.cell_type == "code"}
    run = tmp_path / "drive/runs/one"
    assert "resuming" in output_of(again)
    assert output_of(again).count("epoch 1") == 2  # from the history, and in the sentence about resuming
    assert "<iframe srcdoc=" in shown["Page(run)"]
    assert "SampleTable(" in shown["table"]
    assert re.search(r"PredictedHeights\(24 on \d+ tiles, \d+ to \d+ m\)", shown["heights"])
    drawn = next(cell for cell in notebook.cells if "plt.show()" in cell.source)
    assert any("image/png" in output.get("data", {}) for output in drawn.outputs)
    assert {path.name for path in (tmp_path / "drive").iterdir()} >= {"inspection.html", "heights.csv", "heights.pt2"}
    assert {path.name for path in run.iterdir()} >= {"best.pt", "last.pt", "report.html"}
    assert list((tmp_path / "local disk/stage").glob("*/VS_KS.zip"))
