"""docs/colab.ipynb, executed cell by cell in a kernel without Colab; and how objects look in a notebook."""

from __future__ import annotations

import os
import re
import stat
import sys
from html import unescape
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from dali_pipes import SampleTable
from dali_pipes.errors import InputError
from dali_pipes.notebook import Page, as_html
from train.scores.evaluation import Evaluation
from train.scores.metrics import Baselines
from train.scores.predictions import Predictions

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
    trained = output_of(next(cell for cell in notebook.cells if cell.source == again.source))
    lines = trained.replace("\r\n", "\n").splitlines()
    assert sum("epoch 1 done in " in line for line in lines) == 1
    assert len(lines) < 50, "the kernel's pseudo-terminal draws no bar"
    assert not re.search(r"\x1b\[[\d;?]*[A-HJKlh]|\r", "\n".join(lines)), "no line is drawn again"
    assert f"resuming {run} after epoch 1 of 1" in output_of(again)
    assert "<iframe srcdoc=" in shown["Page(run)"]
    assert "SampleTable(" in shown["table"]
    assert re.search(r"PredictedHeights\(24 on \d+ tiles, \d+ to \d+ m\)", shown["heights"])
    drawn = next(cell for cell in notebook.cells if "plt.show()" in cell.source)
    assert any("image/png" in output.get("data", {}) for output in drawn.outputs)
    assert {path.name for path in (tmp_path / "drive").iterdir()} >= {"inspection.html", "heights.csv", "heights.pt2"}
    assert {path.name for path in run.iterdir()} >= {"best.pt", "last.pt", "report.html"}
    assert list((tmp_path / "local disk/stage").glob("*/VS_KS.zip"))


@pytest.fixture(scope="module")
def table(release: Path) -> SampleTable:
    return SampleTable.from_release(release, "validation")


def test_an_object_has_one_line_and_a_short_table(table: SampleTable) -> None:
    sigma = np.full(len(table), 5.0)
    predictions = Predictions("validation", "", table, table.height + 3, sigma, np.ones(len(table), bool))
    evaluation = Evaluation.of([predictions], Baselines.fit(table.length, table.height))
    assert repr(table) == f"SampleTable({len(table)} samples on 40 tiles of 8 scenes, 0 skipped)"
    assert (
        repr(predictions) == f"Predictions(validation: {len(table)} samples of 8 scenes, RMSE 3.00\N{NO-BREAK SPACE}m)"
    )
    assert repr(evaluation) == f"Evaluation({predictions!r})"
    for shown in (table, predictions):
        html = shown._repr_html_()
        assert html.count("<tr>") == 1 + 10
        assert f"and {len(table) - 10} more rows" in html
        assert str(table.tile[0]) in html
    assert "<td>3.00</td>" in evaluation._repr_html_()


def test_names_are_escaped() -> None:
    assert "<script>" not in as_html("<script>", [{"<script>": "<script>"}], 1)
    assert as_html("nothing") == "<p>nothing</p>"


def test_a_page_is_inside_the_notebook(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text('<p title="a">height & more</p>')
    assert repr(Page(tmp_path)) == f"Page({tmp_path / 'report.html'}, 0 MiB)"
    [inner] = re.findall(r'srcdoc="([^"]*)"', Page(tmp_path)._repr_html_())
    assert unescape(inner) == '<p title="a">height & more</p>'
    with pytest.raises(InputError, match="expected a page at"):
        Page(tmp_path / "absent")
