"""The throughput scripts, tiny: what they measure is what they say, and their last line can be read by a program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.table import Table

from bench import epoch, scale, step
from bench.epoch import Epochs
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


def test_what_an_epoch_waits_is_the_time_outside_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("bench.epoch.time.perf_counter", lambda: now)

    def pass_by(seconds: float) -> int:
        nonlocal now
        now += seconds
        return 16

    def batches() -> Iterator[float]:
        pass_by(2.0)  # the workers start
        for _ in range(3):
            pass_by(1.0)
            yield 5.0
        pass_by(4.0)  # and end

    epochs = Epochs(batches, pass_by, CPU)
    assert epochs() == 48
    assert epochs.waits == [9 / 24]


def test_an_epoch_is_measured_and_the_presets_race_to_a_target(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "--samples=32 --batch-size=8 --size=32 --target-size=32 --epochs=1 --repeats=1 --seeds=1 --device=cpu"
    epoch.main([f"--release={release}", "--target=100", *small.split()])
    found = last_line(capsys)
    rates = found["rates"]
    assert set(rates) == {"the reference's step alone", *found["above_step"], "our step alone"}
    alone, streamed = rates["our step alone"]["median"], rates["ours, streamed"]["median"]
    assert found["above_step"]["ours, streamed"]["median"] == pytest.approx(alone / streamed - 1)
    assert all(0 < rate["median"] < 1 for rate in found["data_wait"].values())
    runs = found["to_target"]["runs"]
    assert [runs[name][0]["reached"] for name in ("reference", "fast")] == [True, True]
    assert runs["reference"][0]["samples"] % 16 == 0 < runs["reference"][0]["samples"]
    assert len(found["tables"]) == 2


def test_a_target_that_is_not_reached_is_told_so() -> None:
    run = {"reached": False, "seconds": 8.0, "epochs": 2, "samples": 64, "rmse": 30.0}
    there = {**run, "reached": True, "seconds": 5.0}
    found = {"target_rmse": 20.0, "runs": {"reference": [run, run, there], "fast": [there, there, run]}}
    rows = as_plain(epoch.target_table(epoch.Arguments(), found))["rows"]
    assert [row[1:3] for row in rows] == [["1 of 3 seeds", "over 8.0"], ["2 of 3 seeds", "5.0"]]


def test_the_ladder_of_steps_tells_each_rung_beside_the_references(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--size=32", "--batch-size=2", "--steps=1", "--repeats=1", "--compile=off", "--device=cpu"]
    step.main([*small, "--backbones", "convnext_atto"])
    found = last_line(capsys)
    rungs = found["backbones"]["convnext_atto"]["rungs"]
    assert next(iter(rungs)) == found["peer"] == step.REFERENCE
    reference = rungs[step.REFERENCE]["samples_per_s"]["each"]
    for rung in rungs.values():
        ratios = [mine / other for mine, other in zip(rung["samples_per_s"]["each"], reference, strict=True)]
        assert rung["of_the_reference"]["each"] == pytest.approx(ratios)
        assert rung["utilisation"] is None, "the peak of a CPU is not known"
    assert [row[0] for row in found["tables"][0]["rows"]] == list(rungs)


def test_flops_are_counted_as_published_and_peaks_found_by_name() -> None:
    # timm's table of results: convnext_atto has 0.55 GMACs at 224² with three input channels
    stem = 2 * 56 * 56 * 4 * 4 * 40 * 2  # the two channels more
    assert step.flops_per_sample("convnext_atto", 224) / 3 - stem == pytest.approx(2 * 0.55e9, rel=0.02)
    assert step.peak_flops("NVIDIA H100 PCIe") == 756e12
    assert step.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert step.peak_flops("NVIDIA L40S") == 362e12
    assert step.peak_flops("Another GPU") is None
