"""The benchmarks with tiny arguments: they measure what they report, and a program can read their last line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.table import Table
from torch.utils.data import Dataset

from bench import cold, epoch, host, index, loader, ranks, scale, step
from bench.epoch import Epochs, race, scaled_down, target_table
from bench.measure.baselines import ReferenceDataset, ReferenceStep, data_loader
from bench.measure.data import linked_release, random_batch, unpack
from bench.measure.report import as_markdown, as_plain
from bench.measure.timing import Rate, alternate, ratio
from dali_pipes import Loader, SampleTable
from model import HeightRegressor
from train.engine.step import Forward
from train.recipe.presets import PRESETS

CPU = torch.device("cpu")


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return result


def test_works_take_turns_and_the_warm_up_is_not_counted() -> None:
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


def test_a_printed_table_becomes_plain_values_and_markdown() -> None:
    table = Table("", "samples/s", title="loading", caption="two cores")
    table.add_row("[bold]ours[/bold]", "1,000")
    plain = as_plain(table)
    assert plain == {
        "title": "loading",
        "columns": ["", "samples/s"],
        "rows": [["ours", "1,000"]],
        "caption": "two cores",
    }
    assert as_markdown(plain) == "loading\n\n|  | samples/s |\n| --- | ---: |\n| ours | 1,000 |\n\ntwo cores"


def test_the_host_time_of_each_part_of_a_step_is_measured(release: Path) -> None:
    arguments = host.Arguments(release, ("convnext_atto",), batch_size=4, steps=1, repeats=1)
    parts = host.measure(arguments, "convnext_atto")
    assert {len(rate.each) for rate in parts.values()} == {1}
    assert list(parts) == [
        *("forward", "backward", "clip and AdamW", "the same by torch", "moving average", "the same by timm"),
        *("cached batch", "cached batch, augmented"),
    ]
    assert host.table({"convnext_atto": parts}).row_count == 8


def test_a_cold_start_reads_each_image_once_in_one_pass_and_at_least_twice_in_two(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loose").mkdir()
    unpack(SampleTable.from_release(release).select(np.arange(4)), tmp_path / "loose")
    linked_release(sorted((tmp_path / "loose").iterdir()), tmp_path / "release", 16)
    monkeypatch.setattr(cold, "in_new_process", lambda work, *given: work(*given))
    arguments = cold.Arguments(tiles=16, batch_size=8, size=32, caches=("disk",), rate=50.0, delay=1.0, repeats=1)
    runs = cold.measure(arguments, tmp_path / "release")
    assert runs["disk, one pass"][0]["reads"] == 1
    assert runs["disk, two passes"][0]["reads"] >= 2
    assert cold.cold_table(arguments, runs).row_count == 2


def test_the_references_step_equals_ours_in_fp32(release: Path, tmp_path: Path) -> None:
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


class Resized(Dataset[int]):
    """Samples that use OpenCV's threads, and return their number."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> int:
        cv2.GaussianBlur(np.zeros((1000, 1000, 3), np.uint8), (9, 9), 2)
        return cv2.getNumThreads()


@pytest.mark.parametrize(("tuned", "threads"), [(True, 1), (False, 3)])
def test_workers_can_be_forked_while_threads_of_opencv_wait(tuned: bool, threads: int) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        assert Resized()[0] == 3, "the threads have started"
        batches = list(data_loader(Resized(), 2, tuned=tuned))
    finally:
        cv2.setNumThreads(before)
    assert [batch.tolist() for batch in batches] == [[threads] * 2] * 2


def test_scale_reports_each_size_and_each_rank_count(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = tmp_path / "scale.svg"
    scale.main(
        f"--release={release} --samples=1000 --ranks=8 --batch-size=2 --repeats=1 --size=32 --device=cpu"
        f" --figure={figure}".split()
    )
    result = last_line(capsys)
    assert list(result["by_samples"]["plan"]) == ["1000"]
    assert list(result["by_ranks"]["source"]) == ["1", "4", "8"]
    assert result["hardware"]["processor"]
    assert figure.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("main", "flags", "sentence"),
    [
        (
            scale.main,
            "--samples=2000 --ranks=200",
            "--samples must be at least 3200 (a batch of each rank), found 2000",
        ),
        (scale.main, "--samples=999 --ranks=1", "--samples must be at least 1000, found 999"),
        (loader.main, "--repeats=0", "--repeats must be at least 1, found 0"),
        (loader.main, "--tiles=63", "--tiles must be at least 64 (a batch), found 63"),
        (loader.main, "--batch-size=0", "--batch-size must be at least 1, found 0"),
        (step.main, "--repeats=0", "--repeats must be at least 1, found 0"),
        (step.main, "--steps=0", "--steps must be at least 1, found 0"),
        (step.main, "--size=31", "--size must be at least 32, found 31"),
        (step.main, "--size=32 --backbones nonsense", "nonsense"),
        (epoch.main, "--samples=8", "--samples must be at least 16 (a batch), found 8"),
        (epoch.main, "--seeds=-1", "--seeds must be at least 0, found -1"),
        (index.main, "runs --repeats=0", "--repeats must be at least 1, found 0"),
        (index.main, "runs --records=999", "--records must be at least 1000, found 999"),
        (ranks.main, "--steps=0", "--steps must be at least 1, found 0"),
        (ranks.main, "--ranks=-1", "--ranks must be at least 0, found -1"),
    ],
)
def test_flags_that_measure_nothing_are_refused_in_one_sentence(
    main: Callable[[list[str]], None], flags: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*flags.split(), "--device=cpu"])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_the_plain_gather_normalises_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "epoch", lambda batches, device: batches)
    gathered: Any = loader.gather(4, loader.Arguments(batch_size=2, size=32), CPU)
    image = torch.cat([batch for [batch] in gathered])
    assert image.shape == (4, 5, 32, 32)
    assert len(image.unique()) > 256, "zeros would give five values"


def test_the_loading_table_compares_a_cached_epoch_with_a_plain_gather() -> None:
    names = (loader.REFERENCE, loader.TUNED, loader.DECODE, loader.NORMALISED, loader.GATHER)
    rates = {name: Rate.of([float(10 * (i + 1)), 10.0 * (i + 1)]) for i, name in enumerate(names)}
    caption = as_plain(loader.rate_table(rates))["caption"]
    assert caption == f"{loader.NORMALISED} / {loader.GATHER}: 0.80 (0.80–0.80)"


def test_an_epoch_waits_for_data_outside_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("bench.epoch.time.perf_counter", lambda: now)

    def pass_by(seconds: float) -> int:
        nonlocal now
        now += seconds
        return 16

    def batches() -> Iterator[float]:
        pass_by(2.0)  # start of the workers
        for _ in range(3):
            pass_by(1.0)
            yield 5.0
        pass_by(4.0)  # and their end

    epochs = Epochs(batches, pass_by, CPU)
    assert epochs() == 48
    assert epochs.waits == [9 / 24]


def test_an_epoch_is_measured_and_the_presets_race_to_a_target(
    release: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "--samples=32 --batch-size=8 --size=32 --target-size=32 --epochs=1 --repeats=1 --seeds=1 --device=cpu"
    epoch.main([f"--release={release}", "--backbones", "convnext_femto", "convnext_atto", *small.split()])
    result = last_line(capsys)
    rates = result["rates"]
    assert set(rates) == {"the reference's step alone", *result["above_step"], "our step alone"}
    alone, streamed = rates["our step alone"]["median"], rates["ours, streamed"]["median"]
    assert result["above_step"]["ours, streamed"]["median"] == pytest.approx(alone / streamed - 1)
    assert all(0 < rate["median"] < 1 for rate in result["data_wait"].values())
    (raced,) = result["to_target"]
    assert raced["target_rmse"] == raced["reference"]["rmse_by_epoch"][0], "the only epoch is the best"
    assert len(raced["fast"]["rmse_by_epoch"]) == 1
    assert len(result["tables"]) == 2


def test_presets_race_on_the_same_samples_at_their_own_length() -> None:
    config = {name: scaled_down(name, epoch.Arguments(epochs=6), seed=1) for name in ("reference", "fast")}
    assert (config["reference"].epochs, config["fast"].epochs) == (6, 4), "40 and 24, scaled down"
    assert config["reference"].division() == config["fast"].division()
    assert config["reference"].data.size == config["fast"].data.size
    assert config["fast"].data.shown() == PRESETS["fast"]().data.shown()
    assert config["reference"].optimizer.learning_rate == PRESETS["reference"]().optimizer.learning_rate
    assert config["fast"].model == PRESETS["fast"]().model


def test_a_race_ends_at_the_first_epoch_that_is_good_enough() -> None:
    def records(*rmse: float) -> list[dict[str, float]]:
        return [{"rmse": value, "seconds": 2.0} for value in rmse]

    won = race(records(30, 20, 10, 15), records(12, 10, 9))
    assert (won["target_rmse"], won["reference"]["to_target"], won["fast"]["to_target"]) == (10, 6.0, 4.0)
    diverged = race(records(np.nan, np.nan), records(12, 11))
    assert diverged["target_rmse"] is None
    assert as_plain(target_table([diverged]))["rows"] == [["0", "diverged", "–", "–", "–", "–"]]
    lost = race(records(30, 10), records(12, 11))
    assert lost["fast"]["to_target"] is None
    table = target_table([won, lost])
    rows = [row[2:] for row in as_plain(table)["rows"]]
    assert rows == [["6.0", "4.0", "1.5", "9.00"], ["4.0", "over 4.0", "–", "11.00"]]
    assert table.caption == "1 of 2 seeds reached it", "no speed-up from the other seed alone"
    assert target_table([won, won]).caption == "2 of 2 seeds reached it, 1.5 (1.5–1.5) times faster"


def test_each_variant_of_the_step_is_compared_with_the_references(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--size=32", "--batch-size=2", "--steps=1", "--repeats=1", "--compile=off", "--device=cpu"]
    step.main([*small, "--backbones", "convnext_atto"])
    result = last_line(capsys)
    rungs = result["backbones"]["convnext_atto"]["rungs"]
    assert next(iter(rungs)) == result["peer"] == step.REFERENCE
    reference = rungs[step.REFERENCE]["samples_per_s"]["each"]
    for rung in rungs.values():
        ratios = [mine / other for mine, other in zip(rung["samples_per_s"]["each"], reference, strict=True)]
        assert rung["of_the_reference"]["each"] == pytest.approx(ratios)
        assert rung["utilisation"] is None, "the peak of a CPU is unknown"
    assert [row[0] for row in result["tables"][0]["rows"]] == list(rungs)


def test_steps_are_measured_on_one_process_and_on_two_ranks(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--size=32", "--batch=1", "--steps=1", "--repeats=1", "--device=cpu"]
    ranks.main([*small, "--backbone=convnext_atto"])
    result = last_line(capsys)
    assert list(result["steps_per_s"]) == ["1", "2"]
    assert result["saving"]["MB"] > 4 * 13, "four times the weights of convnext_atto"
    assert [row[0] for row in result["tables"][0]["rows"]] == ["1", "2"]


def test_flops_agree_with_published_counts_and_peaks_are_looked_up_by_name() -> None:
    # timm's table of results: convnext_atto has 0.55 GMACs at 224² with three input channels
    stem = 2 * 56 * 56 * 4 * 4 * 40 * 2  # two more channels
    assert step.flops_per_sample("convnext_atto", 224) / 3 - stem == pytest.approx(2 * 0.55e9, rel=0.02)
    assert step.peak_flops("NVIDIA H100 PCIe") == 756e12
    assert step.peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert step.peak_flops("NVIDIA L40S") == 362e12
    assert step.peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert step.peak_flops("NVIDIA H200 NVL") == 835e12
    assert step.peak_flops("NVIDIA H200") == 989e12
    assert step.peak_flops("Tesla V100-PCIE-16GB") == 112e12
    assert step.peak_flops("Tesla T4") == 65e12


@pytest.mark.parametrize(
    "gpu",
    [
        "Another GPU",
        "NVIDIA RTX A1000",
        "NVIDIA T400 4GB",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GH200 480GB",
    ],
)
def test_the_peak_of_a_gpu_with_only_a_similar_name_is_unknown(gpu: str) -> None:
    assert step.peak_flops(gpu) is None


def test_the_parts_of_the_references_step_begin_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HeightRegressor("convnext_atto").eval()
    monkeypatch.setattr(step, "network", lambda backbone, device: model)
    batch, arguments = random_batch(2, 32, CPU), step.Arguments(batch_size=2, size=32)
    reference, variant = next(step.variants(arguments, "convnext_atto", batch, CPU))
    assert reference == step.REFERENCE
    norms = []
    for _ in range(2):
        variant.parts.backward(variant.parts.forward())
        norms.append(torch.cat([x.grad.flatten() for x in model.parameters() if x.grad is not None]).norm().item())
    assert norms[1] == pytest.approx(norms[0], rel=1e-4), "not twice as large as before"
