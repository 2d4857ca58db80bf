"""Whole runs: they learn, resume bit-identically, and refuse bad input in one sentence."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor.config
from rich.console import Console

import dali_pipes.__main__
import train.__main__
import train.engine.trained
import train.evaluate
from dali_pipes import SampleTable
from dali_pipes.errors import InputError
from dali_pipes.release.paths import ReleasePaths
from model import checkpoint
from train.__main__ import run
from train.engine.run import train as train_without_report
from train.engine.schedule import Schedule, cosine
from train.machine.choices import choose_compilation, choose_compile_mode, choose_device, choose_precision
from train.recipe.config import Config, Data, Model, Optimizer, Runtime, differences
from train.recipe.data import load_datasets
from train.recipe.presets import demo, fast, reference
from train.run.console import RunConsole
from train.run.folder import save_checkpoint

SMALL = Config(
    epochs=3,
    batch_size=16,
    device="cpu",
    backbone="convnext_atto",
    weights="none",
    data=Data(size=32, holdout=0.2, select_on="development", hflip=0.5, rot90=0.5, contrast=0.1),
    model=Model(target="log_scale", drop_path=0.1, layer_scale=1.0),
    optimizer=Optimizer(learning_rate=1e-3, variance_warmup=1, schedule="cosine", beta=0.5, ema=0.9),
    runtime=Runtime(log_every=2),
)
TIMINGS = ("seconds", "samples_per_s", "data_wait")


class Quiet(RunConsole):
    """A console that writes to memory; it stops the run after `stop_after` epochs, if given."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.text = StringIO()
        super().__init__(Console(file=self.text, width=100))
        self.stop_after = stop_after

    def log_step(self, now: Any) -> None:
        super().log_step(now)
        if self.stop_after is not None and now.epoch > self.stop_after:
            raise KeyboardInterrupt


def learnt(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    state = torch.load(folder / "last.pt", weights_only=True)["model"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return state, [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines]


@pytest.fixture(scope="module")
def finished(release: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    console = Quiet()
    run(SMALL, release, folder, resume=False, console=console)
    return folder, console.text.getvalue()


def test_a_run_folder_has_all_its_files(finished: tuple[Path, str], release: Path) -> None:
    folder, text = finished
    files = "config.json environment.txt samples.json metrics.jsonl last.pt best.pt report.html predictions.csv"
    followed = {"tensorboard"} if find_spec("tensorboard") else set()
    assert {path.name for path in folder.iterdir()} == {*files.split(), "epoch-0003.pt"} | followed
    assert json.loads((folder / "config.json").read_text()) == asdict(SMALL)
    table = SampleTable.from_release(release)
    samples = json.loads((folder / "samples.json").read_text())
    assert samples["training"]["samples"] + samples["development"]["samples"] == len(table)
    assert [json.loads(line)["epoch"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert f"report: {folder / 'report.html'}" in text
    assert text.count(" done in ") == 3, "a line for each epoch"


def test_best_pt_is_the_epoch_of_lowest_rmse_in_the_layout_of_the_reference(
    finished: tuple[Path, str], release: Path
) -> None:
    folder, _ = finished
    best = torch.load(folder / "best.pt", weights_only=True)
    assert {"model", "stats"} <= set(best)
    table = SampleTable.from_release(release)
    trained_on = np.isin(table.scene, best["about"]["scenes"])
    height, length = table.height[trained_on], table.length[trained_on]
    expected = (length.mean(), length.std() + 1e-8, height.mean(), height.std() + 1e-8)
    assert best["stats"] == pytest.approx(expected)

    _, lines = learnt(folder)
    with (folder / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["group"] == "development"]
    errors = [float(row["mu_m"]) - float(row["height_m"]) for row in rows]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(min(line["rmse"] for line in lines), abs=1e-3)


def test_the_saved_average_is_close_to_the_trained_weights(finished: tuple[Path, str]) -> None:
    last, name = torch.load(finished[0] / "last.pt", weights_only=True), "head.0.weight"
    assert not torch.equal(last["average"][name], last["model"][name])
    distance = (last["average"][name] - last["model"][name]).norm()
    assert distance < 0.1 * last["model"][name].norm(), "an average over the last steps is close to the last weights"


def test_validation_is_evaluated_once_unless_it_selects_the_best_epoch(
    finished: tuple[Path, str], release: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    assert {line["measured_on"] for line in lines} == {"development"}
    assert "validation RMSE" not in finished[1]
    assert "development (optimistic)" in finished[1]
    assert " of “development”, so its scores there are optimistic" in (finished[0] / "report.html").read_text()

    console = Quiet()
    run(replace(SMALL, epochs=1, data=Data(size=32)), release, tmp_path / "run", resume=False, console=console)
    assert "validation RMSE" in console.text.getvalue()
    assert "validation (optimistic)" in console.text.getvalue()
    assert "there are no other samples to check them on" in (tmp_path / "run/report.html").read_text()


def test_samples_of_another_release_are_not_marked_optimistic(
    finished: tuple[Path, str], release: Path, tmp_path: Path
) -> None:
    network = replace(train.engine.trained.load_trained(finished[0]), select_on="validation")
    forward = train.engine.trained.forward_of(network, torch.device("cpu"), 16)
    quiet = Console(quiet=True)
    paths = ReleasePaths(release, index_cache=tmp_path)
    datasets = load_datasets(paths, network.division, select_on="validation", console=quiet)
    elsewhere = replace(network, scenes=frozenset({"K3_XXX_20990101000000"}))
    for trained, chose in ((network, True), (elsewhere, False)):
        (group,) = train.engine.trained.evaluate(trained, datasets, forward)
        assert (group.optimistic, "figures are optimistic" in group.description) == (chose, chose)


def test_held_out_scenes_are_not_among_the_training_scenes(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    about = torch.load(folder / "best.pt", weights_only=True)["about"]
    assert about["held_out"]
    assert not set(about["held_out"]) & set(about["scenes"])
    with (folder / "predictions.csv").open() as file:
        for row in csv.DictReader(file):
            assert (row["scene"] in about["scenes"]) == (row["scene_seen"] == "true")
            assert row["group"] == "validation" or row["scene"] in about["held_out"]


def test_metadata_is_read_from_a_checkpoint_as_it_was_written(finished: tuple[Path, str]) -> None:
    about = torch.load(finished[0] / "best.pt", weights_only=True)["about"]
    assert train.engine.trained.load_trained(finished[0]).to_dict() == about


@pytest.mark.usefixtures("saves_each_epoch")
@pytest.mark.parametrize("epochs_before", [0, 1, 2])
def test_a_resumed_run_ends_bit_identical_to_an_uninterrupted_one(
    epochs_before: int, finished: tuple[Path, str], release: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(SMALL, release, tmp_path, resume=True, console=Quiet(stop_after=epochs_before))
    torch.manual_seed(99)
    console = Quiet()
    run(SMALL, release, tmp_path, resume=True, console=console)
    assert ("resuming" in console.text.getvalue()) == (epochs_before > 0)
    (state, lines), (expected_state, expected_lines) = learnt(tmp_path), learnt(finished[0])
    assert lines == expected_lines
    for name, value in expected_state.items():
        assert torch.equal(state[name], value), name


def test_the_folder_of_another_run_is_refused_with_the_difference(finished: tuple[Path, str], release: Path) -> None:
    folder, _ = finished
    before = (folder / "last.pt").read_bytes()
    with pytest.raises(InputError, match="add --resume to continue it"):
        run(SMALL, release, folder, resume=False)
    other = replace(SMALL, seed=3, optimizer=replace(SMALL.optimizer, learning_rate=0.5))
    with pytest.raises(InputError, match=r"seed 3, was 0; optimizer\.learning_rate 0\.5, was 0\.001"):
        run(other, release, folder, resume=True)
    assert (folder / "last.pt").read_bytes() == before


def test_a_folder_without_its_configuration_is_neither_overwritten_nor_resumed(
    finished: tuple[Path, str], release: Path, tmp_path: Path
) -> None:
    shutil.copy(finished[0] / "last.pt", tmp_path / "last.pt")
    with pytest.raises(InputError, match="add --resume to continue it"):
        run(SMALL, release, tmp_path, resume=False)
    with pytest.raises(InputError, match="expected the configuration of a run"):
        run(SMALL, release, tmp_path, resume=True)


def test_a_best_pt_in_place_of_last_pt_is_refused_before_training(
    finished: tuple[Path, str], release: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    shutil.copy(folder / "best.pt", folder / "last.pt")
    with pytest.raises(InputError, match=r"it is no last\.pt"):
        run(SMALL, release, folder, resume=True, console=Quiet())


@pytest.mark.parametrize("is_last", [True, False])
def test_a_missing_best_pt_is_rebuilt_from_last_pt_only_if_that_is_the_best_epoch(
    is_last: bool, finished: tuple[Path, str], release: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    state = checkpoint.load(folder / "last.pt")
    best = state["history"][-1 if is_last else 0]
    best["rmse"] = state["best_rmse"] = min(record["rmse"] for record in state["history"]) - 1
    save_checkpoint(folder / "last.pt", state)
    (folder / "best.pt").unlink()
    if is_last:
        run(SMALL, release, folder, resume=True, console=Quiet())
        assert checkpoint.load(folder / "best.pt")["rmse"] == state["best_rmse"]
    else:
        with pytest.raises(InputError, match=r"from epoch 1, the best one in .*last\.pt, found neither"):
            run(SMALL, release, folder, resume=True, console=Quiet())


def test_a_folder_that_cannot_be_written_gives_one_sentence(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run/report.html").mkdir(parents=True)
    small = ["--epochs", "1", "--data.size", "32", "--batch-size", "16"]
    with pytest.raises(SystemExit) as exit_status:
        train.__main__.main([argument.format(release=release, tmp=tmp_path) for argument in [*DEMO[1:], *small]])
    assert exit_status.value.code == 2
    assert "cannot read or write" in capsys.readouterr().err


def test_environment_txt_lists_the_choices(finished: tuple[Path, str]) -> None:
    environment = (finished[0] / "environment.txt").read_text()
    for name in ("device: cpu", "precision: ", "compilation: off", "cache: host", "processor: "):
        assert name in environment


def test_a_changed_release_is_refused(finished: tuple[Path, str], tmp_path: Path) -> None:
    from bench.render.release import render_release

    folder, _ = finished
    before = (folder / "samples.json").read_text()
    render_release(tmp_path / "other", train=60, val=8, scenes=6, seed=77)
    with pytest.raises(InputError, match="the release has changed"):
        run(SMALL, tmp_path / "other", folder, resume=True, console=Quiet())
    assert (folder / "samples.json").read_text() == before


def test_a_diverging_training_stops_with_a_sentence(release: Path, tmp_path: Path) -> None:
    wild = replace(SMALL, epochs=8, optimizer=Optimizer(learning_rate=10.0, clip_norm=1e6, variance_warmup=0))
    wild = replace(wild, model=Model(layer_scale=100.0))
    with pytest.raises(InputError, match=r"the training diverged; lower --optimizer\.learning-rate"):
        run(wild, release, tmp_path / "run", resume=False, console=Quiet())


def test_a_network_learns_more_than_the_mean(release: Path, tmp_path: Path) -> None:
    longer = replace(SMALL, epochs=8, data=Data(size=64), optimizer=replace(SMALL.optimizer, learning_rate=2e-3))
    run(longer, release, tmp_path / "run", resume=False, console=Quiet())
    _, lines = learnt(tmp_path / "run")
    validation = SampleTable.from_release(release, "validation")
    mean = np.sqrt(np.mean((validation.height - SampleTable.from_release(release).height.mean()) ** 2))
    assert min(line["rmse"] for line in lines) < 0.8 * mean
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]


# --- The command line.


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_train_evaluate_and_inspect_run_as_commands(release: Path, tmp_path: Path) -> None:
    small = ["--preset", "demo", "--epochs", "1", "--data.size", "32", "--batch-size", "16"]
    trained = command("train", "--release", release, "--out", tmp_path / "run", *small)
    assert trained.returncode == 0, trained.stderr
    assert "epoch 1 done in " in trained.stdout
    evaluated = command(
        "train.evaluate", "--checkpoint", tmp_path / "run/best.pt", "--release", release, "--out", tmp_path / "again"
    )
    assert evaluated.returncode == 0, evaluated.stderr
    with (tmp_path / "run/predictions.csv").open() as a, (tmp_path / "again/predictions.csv").open() as b:
        for mine, theirs in zip(csv.DictReader(a), csv.DictReader(b), strict=True):
            assert mine["tile"] == theirs["tile"]
            assert float(mine["mu_m"]) == pytest.approx(float(theirs["mu_m"]), abs=2.0)  # bf16, another batch size
    inspected = command("dali_pipes", release)
    assert inspected.returncode == 0, inspected.stderr
    assert "100% of the validation samples lie in scenes that are also in training" in inspected.stdout


TRAIN = ["train", "--release", "{release}", "--out", "{tmp}/run"]
DEMO = [*TRAIN, "--preset", "demo"]
EVALUATE = ["train.evaluate", "--release", "{release}", "--out", "{tmp}/run", "--checkpoint"]
MAINS = {"train": train.__main__.main, "train.evaluate": train.evaluate.main, "dali_pipes": dali_pipes.__main__.main}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--release", "nowhere", "--out", "{tmp}/run", "--preset", "demo"], "found none of them at nowhere"),
        ([*DEMO, "--epochs", "0"], "--epochs must lie between 1 and"),
        ([*DEMO, "--epochs", "many"], "--epochs takes a whole number, found 'many'"),
        ([*DEMO, "--lr", "x"], "--optimizer.learning-rate takes a number, found 'x'"),
        ([*DEMO, "--cache", "hots"], "--cache takes auto, none, host, device or disk, found 'hots'; perhaps host"),
        ([*DEMO, "--preset"], "--preset needs a value"),
        ([*DEMO, "--epochs", "-1"], "--epochs must lie between 1 and 1,000,000, found -1"),
        ([*TRAIN, "--select-on", "development"], "add --data.holdout 0.1"),
        ([*DEMO, "--optimizer.ema", "1"], "--optimizer.ema must lie between"),
        ([*DEMO, "--bogus", "3"], "Unrecognized options: --bogus"),
        ([*TRAIN, "--preset", "nonsense"], "see python -m train --help"),
        (["train", "--out", "{tmp}/run"], "--release is missing; see python -m train --help"),
        ([*DEMO, "--optimizer.plateau-factor", "2"], "--optimizer.plateau-factor must lie between"),
        (
            [*DEMO, "--runtime.compile-mode", "max-autotune", "--accumulate", "2"],
            "that --accumulate 2 adds up; use max-autotune-no-cudagraphs",
        ),
        ([*DEMO, "--data.size", "8"], "error: --data.size must lie between 32"),
        ([*DEMO, "--data.hflip", "2"], "error: --data.hflip must lie between 0 and 1, found 2.0"),
        ([*DEMO, "--cache", "attic"], "see python -m train --help"),
        ([*DEMO, "--device", "cpu:3"], "--device takes"),
        ([*DEMO, "--backbone", "convnext_atto.bogus_tag"], "timm cannot build the backbone"),
        ([*DEMO, "--device", "tpu"], "--device takes"),
        ([*DEMO, "--device", "cuda:9"], "torch sees"),
        ([*DEMO, "--batch-size", "9999"], "use a smaller batch size"),
        ([*DEMO, "--backbone", "vit"], "expected a ConvNeXt that timm knows"),
        ([*TRAIN, "--backbone", "convnext_atto"], "--weights FILE"),
        ([*DEMO, "--weights", "no.pth"], "no weights at no.pth"),
        ([*DEMO, "--data.holdout", "1"], "hold out less"),
        ([*DEMO, "--out", "{file}"], "takes a folder, found a file"),
        ([*EVALUATE, "no.pt"], "expected a checkpoint"),
        ([*EVALUATE, "{file}"], "expected a checkpoint"),
        (["dali_pipes", "nowhere"], "found none of them at nowhere"),
    ],
)
def test_bad_input_gives_one_sentence_and_leaves_no_files(
    arguments: list[str],
    sentence: str,
    release: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "file").write_text("not a folder, not a checkpoint")
    places = {"tmp": tmp_path, "release": release, "file": tmp_path / "file"}
    command, *rest = (argument.format(**places) for argument in arguments)
    with pytest.raises(SystemExit) as exit_status:
        MAINS[command](rest)
    stderr = capsys.readouterr().err
    assert exit_status.value.code == 2
    assert stderr.startswith("error: ")
    assert sentence in stderr
    assert stderr.count("\n") == 1, stderr
    assert not (tmp_path / "run").exists()


def test_a_process_exits_with_status_2_and_no_traceback(release: Path, tmp_path: Path) -> None:
    result = command("train", "--release", "nowhere", "--out", tmp_path / "run")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr


# --- Configuration, schedule, choices.


def test_the_reference_preset_is_the_published_recipe() -> None:
    config = reference()
    assert (config.epochs, config.batch_size, config.backbone, config.weights) == (40, 16, "convnext_base", "imagenet")
    assert config.optimizer == Optimizer(1e-4, 1e-4, 5.0, 4, "plateau", 0.5, 3)
    assert (config.data.size, config.data.holdout, config.model.drop_path) == (224, 0.0, 0.1)


def test_only_some_settings_may_change_on_resuming() -> None:
    before = asdict(demo())
    assert differences(replace(demo(), device="cuda", runtime=Runtime(compile="on")), before) == []
    assert differences(replace(demo(), epochs=99), before) == []
    assert differences(replace(demo(), epochs=3), before) == ["epochs 3, was 4"], "the cosine would end above 0"
    assert differences(demo(), {**before, "epochs": "4"}) == ["epochs 4, was 4"]
    assert differences(replace(reference(), epochs=99), asdict(reference())) == []
    assert differences(replace(demo(), runtime=Runtime(precision="fp32")), before)
    assert differences(fast(), before)
    assert differences(replace(demo(), data=replace(demo().data, size=96)), before) == ["data.size 96, was 112"]


def test_the_plateau_halves_after_four_epochs_without_progress() -> None:
    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = Schedule(reference(), optimizer, 10)
    rates = []
    for rmse in (5.0, 6, 6, 6, 6, 6):
        schedule.after_step()
        schedule.after_epoch(rmse)
        rates.append(schedule.learning_rate)
    assert rates == [1, 1, 1, 1, 0.5, 0.5]


def test_the_cosine_rises_to_one_and_falls_to_zero() -> None:
    rates = [cosine(step, 100, 10) for step in range(101)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0)
    assert cosine(55, 100, 10) == pytest.approx(0.5)


def test_device_and_precision_are_chosen_by_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == cpu
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert choose_precision("auto", cpu).value == "fp32"
    assert choose_precision("bf16", cpu).value == "bf16"
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert current == [torch.device("cuda", 1)], "streams and events are those of the current device"


def test_compilation_depends_on_the_device_and_the_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("train.machine.choices.compiler_fault", lambda device: None)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_compilation("auto", cuda).value == "whole"
    assert str(tmp_path) in choose_compilation("auto", cuda).reason
    assert choose_compilation("auto", cuda, world_size=2).value == "regional"
    assert choose_compilation("auto", cpu).value == "off"
    assert choose_compilation("on", cpu).value == "regional"
    assert choose_compile_mode("auto", "whole", "a CUDA device, found cpu").value == "default"
    assert choose_compile_mode("max-autotune", "whole").value == "max-autotune"
    assert choose_compile_mode("max-autotune", "regional").value == "max-autotune-no-cudagraphs"
    monkeypatch.setattr("train.machine.choices.compiler_fault", lambda device: "no cc1plus")
    for device in (cpu, cuda):
        fallback = choose_compilation("on", device)
        assert fallback.value == "off"
        assert "no cc1plus" in fallback.reason


def test_a_run_ends_at_its_time_limit_and_resumes_alone_until_it_loses_patience(
    finished: tuple[Path, str], release: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, index = tmp_path / "run", finished[0].parent / "index-cache"
    recipe = (
        f"--release {release} --index-cache {index} --out {folder} --backbone convnext_atto --weights none"
        " --data.size 32 --device cpu"
    )
    never_better = "--lr 0 --epochs 1 --batch-size 16 --time-limit 0.001s"
    with pytest.raises(SystemExit) as end:
        train.__main__.main(f"{recipe} {never_better}".split())
    assert end.value.code == 0
    sentence = f"stopped by --time-limit; the state is saved in {folder / 'last.pt'}: --resume {folder} continues"
    shown = capfd.readouterr()
    assert sentence in shown.err
    assert re.search(r"time limit +0\.001s", shown.out)
    assert checkpoint.load(folder / "last.pt")["epoch"] == 0
    resumed = train.__main__.parse(f"--resume {folder}/last.pt --time-limit 0 --epochs 9 --patience 1".split())
    assert resumed.out == folder
    assert resumed.paths.index_cache == index
    console = Quiet()
    train_without_report(resumed.config, resumed.paths, folder, resume=True, console=console)
    out = console.text.getvalue()
    assert "9 epochs instead of 1: the plateau schedule goes on at 0.0e+00" in out
    assert "ending early: no lower RMSE in 1 epoch" in out
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_finished_run_with_a_cosine_gets_more_epochs_and_needs_no_initial_weights_again(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "weights": "/gone.safetensors"}))
    index = finished[0].parent / "index-cache"
    resumed = train.__main__.parse(f"--resume {folder} --epochs 4 --index-cache {index}".split())
    console = Quiet()
    train_without_report(resumed.config, resumed.paths, folder, resume=True, console=console)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rate = 0.5 * (1 + np.cos(np.pi * (0.75 - 0.1) / 0.9)) * 1e-3  # three quarters of the steps, a tenth to warm up
    assert lines[3]["learning_rate"] == pytest.approx(rate, rel=0.1)
    assert checkpoint.load(folder / "last.pt")["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-12)
    sentence = f"a cosine over 4 epochs is now, at {lines[3]['learning_rate']:.1e}"
    assert f"4 epochs instead of 3: the learning rate goes on where {sentence}" in console.text.getvalue()
    downloads = replace(SMALL, weights="imagenet")
    assert (downloads.pretrained(folder), downloads.pretrained(tmp_path / "new")) == (None, "imagenet")
    with pytest.raises(InputError, match=r"another configuration \(epochs 3, was 4\)"):
        run(replace(resumed.config, epochs=3), resumed.paths, folder, resume=True)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"init_from": "/nowhere.pt"}, "expected a checkpoint at /nowhere.pt, found no such file"),
        ({"weights": "/nowhere.safetensors"}, "no weights at /nowhere.safetensors"),
        ({"backbone": "resnet50"}, "expected a ConvNeXt that timm knows"),
        ({"runtime": Runtime(accumulate=3)}, "--batch-size counts the samples of a step"),
    ],
)
def test_what_cannot_train_on_any_data_is_refused_before_they_are_read(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        run(replace(SMALL, **change), tmp_path / "no release", tmp_path / "run", resume=False)


def test_a_folder_in_a_place_that_cannot_be_written_is_refused_before_data_are_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--out /proc/runs/one cannot be written: .*; choose another folder"):
        run(SMALL, tmp_path / "no release", Path("/proc/runs/one"), resume=False)
