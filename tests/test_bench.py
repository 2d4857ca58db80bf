"""The throughput scripts, tiny: what they measure is what they say, and their last line can be read by a program."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.table import Table

from bench import scale
from bench.reference import ReferenceDataset, ReferenceStep, unpack
from bench.timing import Rate, alternate, as_plain, ratio
from dali_pipes import Loader, SampleTable
from model import HeightRegressor
from train.step import Forward

CPU = torch.device("cpu")


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_peers_take_turns_and_the_warm_up_is_not_counted() -> None:
    now, turns = 0.0, []

    def takes(name: str, *seconds: float) -> Any:
        left = list(seconds)

        def work() -> int:
            nonlocal now
            now += left.pop(0)
            turns.append(name)
            return 12

        return work

    rates = alternate({"slow": takes("slow", 9, 3, 6, 4), "fast": takes("fast", 9, 2, 1, 4)}, 3, clock=lambda: now)
    assert turns == ["slow", "fast"] * 4
    assert rates["slow"] == Rate(3, 2, 4, (4, 2, 3))
    assert ratio(rates["fast"], rates["slow"]) == Rate(1.5, 1, 6, (1.5, 6, 1))
    assert f"{rates['slow']:.1f}" == "3.0 (2.0–4.0)"


def test_a_printed_table_is_told_as_plain_texts() -> None:
    table = Table("", "samples/s", title="loading", caption="two cores")
    table.add_row("[bold]ours[/bold]", "1,000")
    assert as_plain(table) == {
        "title": "loading",
        "columns": ["", "samples/s"],
        "rows": [["ours", "1,000"]],
        "caption": "two cores",
    }


def test_the_references_step_is_ours_in_fp32(release: Path, tmp_path: Path) -> None:
    table = SampleTable.from_release(release).select(np.arange(4))
    unpack(table, tmp_path)
    table = replace(table, height=(table.height - table.height.mean()) / table.height.std())
    samples = [ReferenceDataset(table, tmp_path, 64)[i] for i in range(len(table))]
    image, length, height = (torch.stack(column) for column in zip(*samples, strict=True))
    torch.manual_seed(0)
    model = HeightRegressor("convnext_atto", drop_path=0.0, weights=None)
    [batch] = Loader(table, 4, size=64)
    ours = Forward(model, CPU, 4, "fp32").loss(batch, torch.ones(()))
    before = [parameter.clone() for parameter in model.parameters()]
    loss = ReferenceStep(model, CPU)(image, length, height)
    assert loss == pytest.approx(ours.item(), rel=1e-3)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_scale_reports_each_size_and_each_rank_count(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "scale.svg"
    scale.main(
        f"--release={release} --samples=1000 --ranks=8 --batch-size=2 --repeats=1 --size=32 --device=cpu"
        f" --figure={figure}".split()
    )
    found = last_line(capsys)
    assert list(found["by_samples"]["plan"]) == ["1000"]
    assert list(found["by_ranks"]["source"]) == ["1", "4", "8"]
    assert found["memory"]["1000"]["streaming"] > 0
    assert found["hardware"]["processor"]
    assert figure.read_text().startswith("<?xml")


def test_scale_refuses_fewer_samples_than_a_batch_of_each_rank(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        scale.main(["--samples=1000", "--ranks=100", "--batch-size=16"])
    assert end.value.code == 2
    assert "expected --samples of at least 1600" in capsys.readouterr().err
