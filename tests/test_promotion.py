"""Promote or keep: the rule as a table, the symmetries of the interval, and the command's exit status."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train.__main__
import train.deploy.verdict
import train.promotion
from bench.render.release import render_release
from dali_pipes.samples.table import SampleTable
from model import HeightRegressor
from train.deploy.verdict import PairedRmse, decide, old_release_of, paired_rmse
from train.run.folder import checkpoint_of, save_checkpoint

NAN = math.nan


def rmse(low: float, high: float, *, unseen: bool = True, scenes: int = 20, selected: bool = False) -> PairedRmse:
    return PairedRmse("it", 100, scenes, unseen, 10.0, 9.0, 0.0, low, high, selected)


@pytest.mark.parametrize(
    ("new_release", "old_release", "expected", "because"),
    [
        (rmse(-2, -1), None, "promote", "lies within -2.00 to -1.00 m"),
        (rmse(-2, -1, selected=True), None, "promote", "which flatters it"),
        (rmse(-2, -1), rmse(-1, 1), "promote", "lies within -2.00 to -1.00 m"),
        (rmse(-2, -1), rmse(0.1, 1), "keep", "the new network is worse there"),
        (rmse(-2, 0), None, "keep", "does not show that the new network is better"),
        (rmse(-2, 1), rmse(-2, -1), "keep", "does not show that the new network is better"),
        (rmse(1, 2), rmse(-2, -1), "keep", "does not show that the new network is better"),
        (rmse(NAN, NAN, scenes=4), None, "keep", "4 scenes of it are too few"),
        (rmse(-2, -1), rmse(NAN, NAN), "promote", "lies within"),
        (rmse(-2, -1, unseen=False), None, "promote", "may have recognised"),
    ],
)
def test_the_rule_is_the_documented_one(
    new_release: PairedRmse, old_release: PairedRmse | None, expected: str, because: str
) -> None:
    decided, reason = decide(new_release, old_release)
    assert decided == expected
    assert because in reason
    assert ("flatters" in reason) == new_release.selected
    assert decide(new_release, old_release, "no old release") == (expected, f"{reason}; no old release")


def test_the_interval_is_paired_over_scenes() -> None:
    rng = np.random.default_rng(0)
    scene = np.repeat([f"s{i}" for i in range(30)], 7)
    height = rng.uniform(40, 298, 210)
    hard = np.repeat(rng.uniform(1, 40, 30), 7)  # scenes differ far more than the networks do
    error = hard * rng.standard_normal(210)
    old, new = height + error, height + 0.9 * error
    ours = paired_rmse("it", height, old, new, height, scene, True)
    theirs = paired_rmse("it", height, new, old, height, scene, True)
    assert ours.high < 0, "without pairing, the spread of scenes would hide the difference"
    assert (ours.low, ours.high) == pytest.approx((-theirs.high, -theirs.low))
    assert ours.new == pytest.approx(0.9 * ours.old)
    same = paired_rmse("it", height, old, old, height, scene, True)
    assert (same.low, same.high) == (0, 0)
    assert decide(same, None)[0] == "keep"
    assert math.isnan(paired_rmse("it", height[:63], old[:63], new[:63], height[:63], scene[:63], True).low)


@pytest.fixture(scope="module")
def twelve_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered") / "twelve"
    render_release(folder, train=36, val=24, scenes=12, seed=3)
    return folder


def run_folder(folder: Path, release: Path, shift: float, **more: Any) -> Path:
    """A run whose network predicts the mean height plus `shift` standard deviations for every tile."""
    torch.manual_seed(0)
    network = HeightRegressor("convnext_atto", drop_path=0.0)
    last = network.get_submodule("head.4")
    for parameter in last.parameters():
        parameter.data.zero_()
    last.get_parameter("bias").data[0] = shift
    folder.mkdir()
    stats = tuple(SampleTable.from_release(release).statistics())
    about = {"backbone": "convnext_atto", "size": 32, **more}
    save_checkpoint(folder / "best.pt", {"model": network.state_dict(), "stats": stats, "about": about})
    return folder


def test_the_exit_status_is_the_verdict(
    twelve_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = (run_folder(tmp_path / name, twelve_scenes, shift) for name, shift in (("bad", 2.0), ("good", 0.0)))
    flags = ["--release", str(twelve_scenes), "--device", "cpu"]
    train.promotion.main(["--old", str(bad), "--new", str(good), *flags])
    assert "promote: RMSE(new)" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_status:
        train.promotion.main(["--old", str(good), "--new", str(bad), *flags])
    assert exit_status.value.code == train.deploy.verdict.EXIT_KEEP
    assert "keep: " in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit_status:
        train.promotion.main(["--old", str(tmp_path / "none"), "--new", str(bad), *flags])
    assert exit_status.value.code == 2
    assert "expected a checkpoint" in capsys.readouterr().err


def test_the_old_run_names_the_old_release(twelve_scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "samples.json").write_text(f'{{"release": "{twelve_scenes}"}}')
    (tmp_path / "best.pt").touch()
    assert old_release_of(tmp_path, tmp_path) == (twelve_scenes, "")
    assert old_release_of(tmp_path / "best.pt", tmp_path) == (twelve_scenes, "")
    same, why = old_release_of(tmp_path, twelve_scenes / ".." / twelve_scenes.name)
    assert same is None
    assert "was also trained on the release at" in why
    (tmp_path / "samples.json").write_text('{"release": "/nowhere/at/all"}')
    assert old_release_of(tmp_path, twelve_scenes)[1].endswith("because /nowhere/at/all does not exist")
    assert "no samples.json" in old_release_of(tmp_path / "none/best.pt", twelve_scenes)[1]
    assert checkpoint_of(tmp_path) == tmp_path / "best.pt"


def test_the_old_release_is_measured_or_the_verdict_says_why_not(
    twelve_scenes: Path, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = (run_folder(tmp_path / name, twelve_scenes, shift) for name, shift in (("bad", 2.0), ("good", 0.0)))
    flags = ["--old", str(bad / "best.pt"), "--new", str(good), "--release", str(twelve_scenes), "--device", "cpu"]
    for old_release, words_shown in ((release, "samples of the old release"), (tmp_path, "it cannot be read: ")):
        (bad / "samples.json").write_text(json.dumps({"release": str(old_release)}))
        train.promotion.main(flags)
        assert words_shown in " ".join(capsys.readouterr().out.split())


def test_only_scenes_that_neither_network_saw_are_measured(
    twelve_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[PairedRmse] = []
    monkeypatch.setattr(train.deploy.verdict, "_show", lambda results, console: shown.extend(results))
    scenes = np.unique(SampleTable.from_release(twelve_scenes, "validation").scene).tolist()
    for name, seen in (("one", (scenes[0], "another")), ("two", ("another", scenes[0]))):
        (tmp_path / name).mkdir()
        old, new = (
            run_folder(tmp_path / name / kind, twelve_scenes, shift, scenes=[scene])
            for kind, shift, scene in zip(("old", "new"), (2.0, 0.0), seen, strict=True)
        )
        words = ["--old", old, "--new", new, "--release", twelve_scenes, "--device", "cpu"]
        train.promotion.main([str(word) for word in words])
    assert [(row.unseen, row.scenes) for row in shown] == 2 * [(True, len(scenes) - 1)], "each network saw one scene"


@pytest.mark.parametrize(
    ("flag", "before", "mine"), [("--model.target", "height", "log_scale"), ("--data.size", "32", "64")]
)
def test_init_from_refuses_weights_that_mean_something_else(
    flag: str, before: str, mine: str, twelve_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = run_folder(tmp_path / "old", twelve_scenes, 0.0)
    flags = {"--data.size": "32", "--model.target": "height", flag: mine}
    words = ["--release", twelve_scenes, "--init-from", old, "--out", tmp_path / "new", "--preset", "demo"]
    with pytest.raises(SystemExit) as exit_status:
        train.__main__.main([*map(str, words), "--device", "cpu", *(word for pair in flags.items() for word in pair)])
    assert exit_status.value.code == 2
    assert f"start from them with {flag} {before}" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_training_from_an_old_run_ends_with_a_verdict(
    twelve_scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = run_folder(tmp_path / "bad", twelve_scenes, 2.0)
    small = "--preset demo --epochs 2 --data.size 32 --model.target height --batch-size 8 --data.holdout 0"
    flags = ["--release", str(twelve_scenes), "--init-from", str(bad), "--out", str(tmp_path / "new")]
    began = torch.load(bad / "best.pt", weights_only=True)["model"]["backbone.stem.0.weight"]
    status: object = 0
    try:
        train.__main__.main(
            [
                *flags,
                *small.split(),
                "--select-on",
                "validation",
                "--device",
                "cpu",
                "--optimizer.learning-rate",
                "1e-5",
            ]
        )
    except SystemExit as end:
        status = end.code
    output = capsys.readouterr().out
    assert "starting from the weights of" in output
    assert Path(json.loads((tmp_path / "new/samples.json").read_text())["release"]).is_absolute()
    assert ("promote: " in output) == (status == 0)
    assert ("keep: " in output) == (status == train.deploy.verdict.EXIT_KEEP)
    ended = torch.load(tmp_path / "new/best.pt", weights_only=True)["model"]["backbone.stem.0.weight"]
    assert 0 < float((ended - began).abs().max()) < 1e-2, "it started from the old weights"
