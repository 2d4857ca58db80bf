"""Checkpoints of the reference system, against a plain forward pass written from its description."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import train.__main__
import train.engine.trained
import train.evaluate
import train.promotion
from dali_pipes import Loader, Statistics
from dali_pipes.errors import InputError
from dali_pipes.samples.table import SampleTable
from model import BackboneError, CheckpointError, HeightRegressor, checkpoint
from model.architecture import backbone_of
from tests.test_model import reference_forward
from train.deploy.height_model import load
from train.engine.step import Forward

CALIB = {"a": 0.98, "b": 2.5, "tau": 1.3}


def reference_pth(path: Path, release: Path, backbone: str, **more: Any) -> dict[str, Any]:
    """Write a `.pth` as the reference does: a state dict and a tuple, without the name of the backbone."""
    torch.manual_seed(1)
    network = HeightRegressor(backbone, drop_path=0.0)
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    stats = tuple(SampleTable.from_release(release).statistics())
    contents = {"model": network.state_dict(), "stats": stats, **more}
    torch.save(contents, path)
    return contents


@pytest.mark.parametrize("backbone", ["convnext_atto", "convnextv2_femto"])
def test_the_outputs_equal_a_plain_forward_pass(backbone: str, release: Path, tmp_path: Path) -> None:
    contents = reference_pth(tmp_path / "best.pth", release, backbone, calib=CALIB)
    trained = train.engine.trained.load_trained(tmp_path / "best.pth")
    table = SampleTable.from_release(release, "validation").select(np.arange(6))
    batch = next(iter(Loader(table, 6, size=trained.size, statistics=Statistics(*contents["stats"]))))
    trained.model.eval()
    mu, log_var = Forward(trained.model, torch.device("cpu"), 6, "fp32").predict(batch)

    pixels = torch.cat([batch.rgb, batch.polyline, batch.padding], dim=3).permute(0, 3, 1, 2).double() / 255
    mean = torch.tensor([0.485, 0.456, 0.406, 0.5, 0.5], dtype=torch.float64)[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225, 0.5, 0.5], dtype=torch.float64)[:, None, None]
    state = contents["model"]
    plain = timm.create_model(backbone, in_chans=5, num_classes=0).eval()
    plain.load_state_dict({k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")})
    length = torch.tensor((table.length - contents["stats"][0]) / contents["stats"][1])[:, None]
    with torch.no_grad():
        expected = reference_forward(state, plain, ((pixels - mean) / std).float(), length.float())
    assert trained.size == 224
    assert float(expected[0].std()) > 1e-3, "the outputs differ between samples"
    torch.testing.assert_close(mu, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(log_var, expected[1], rtol=0, atol=1e-5)


def test_a_reference_checkpoint_can_be_evaluated_and_used_to_predict(release: Path, tmp_path: Path) -> None:
    reference_pth(tmp_path / "best.pth", release, "convnext_atto", calib=CALIB)
    flags = ["--checkpoint", tmp_path / "best.pth", "--release", release, "--out", tmp_path / "run", "--device", "cpu"]
    train.evaluate.main([str(flag) for flag in flags])
    with (tmp_path / "run/predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["group"] == "validation"]
    drawn: dict[str, Any] = {}
    for row in rows:
        drawn.setdefault(row["tile"], []).append([point.split() for point in row["polyline"].split(";")])
    heights = load(tmp_path / "best.pth", device="cpu").predict(release / "VS_KS.zip", drawn)
    assert [record["tile"] for record in heights.records()] == [row["tile"] for row in rows]
    np.testing.assert_allclose(heights.raw_mu, [float(row["mu_m"]) for row in rows], atol=1e-2)
    np.testing.assert_allclose(heights.mu, 0.98 * heights.raw_mu + 2.5)
    np.testing.assert_allclose(heights.sigma, 1.3 * 0.98 * heights.raw_sigma)


def test_a_bare_state_dict_gets_its_statistics_from_a_file_or_a_release(release: Path, tmp_path: Path) -> None:
    contents = reference_pth(tmp_path / "best.pth", release, "convnext_atto")
    torch.save({f"module.{name}": value for name, value in contents["model"].items()}, tmp_path / "bare.pth")
    (tmp_path / "four.json").write_text("[0.2, 0.1, 109, 49]")
    trained = train.engine.trained.load_trained(tmp_path / "bare.pth", tmp_path / "four.json")
    assert trained.statistics == (0.2, 0.1, 109.0, 49.0)
    assert train.engine.trained.read_statistics(release) == contents["stats"]
    with pytest.raises(CheckpointError, match="has its own statistics, so --statistics would change nothing"):
        train.engine.trained.load_trained(tmp_path / "best.pth", tmp_path / "four.json")
    for text in ("[1, 2]", "{}", "text", "[" * 4000):
        (tmp_path / "four.json").write_text(text)
        with pytest.raises(InputError, match="--statistics takes a release, or a JSON file like"):
            train.engine.trained.read_statistics(tmp_path / "four.json")


def test_a_bare_state_dict_of_the_reference_can_be_fine_tuned_and_compared(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = reference_pth(tmp_path / "best.pth", release, "convnext_atto")["model"]
    torch.save(before, tmp_path / "bare.pth")
    flags = ["--release", release, "--init-from", tmp_path / "bare.pth", "--out", tmp_path / "run", "--device", "cpu"]
    small = ["--backbone", "convnext_atto", "--epochs", "1", "--optimizer.learning-rate", "0"]  # no step changes them
    (tmp_path / "four.json").write_text("[0.2, 0.1, 109, 49]")
    with pytest.raises(SystemExit, match="3"):  # too few scenes for a verdict: keep
        train.__main__.main([*map(str, flags), *small, "--statistics", str(tmp_path / "four.json")])
    pair = ["--old", tmp_path / "bare.pth", "--new", tmp_path / "run", "--release", release, "--device", "cpu"]
    with pytest.raises(SystemExit, match="2"):
        train.promotion.main([str(flag) for flag in pair])
    assert "found a state dict without the four statistics; give them with --statistics" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="3"):
        train.promotion.main([*map(str, pair), "--statistics", str(release)])
    after = checkpoint.load(tmp_path / "run/best.pt")["model"]
    assert all(after[name].equal(value) for name, value in before.items())


def test_the_backbone_is_recognised_by_its_shapes() -> None:
    for name in ("convnext_nano_ols", "convnext_tiny_hnf", "convnextv2_pico", "test_convnext", "convnext_base"):
        with torch.device("meta"):
            state = HeightRegressor(name).state_dict()
        assert backbone_of(state) == name


def test_another_network_is_refused_with_the_tensor_that_differs(release: Path, tmp_path: Path) -> None:
    contents = reference_pth(tmp_path / "best.pth", release, "convnext_atto")
    contents["model"]["backbone.stem.0.weight"] = contents["model"]["backbone.stem.0.weight"][:, :3]
    torch.save(contents, tmp_path / "three.pth")
    sentence = r"nearest, convnext_atto, differs in backbone\.stem\.0\.weight: expected \(40, 5, 4, 4\), found \(40, 3"
    with pytest.raises(CheckpointError, match=sentence):
        train.engine.trained.load_trained(tmp_path / "three.pth")
    with pytest.raises(BackboneError, match=r"under backbone\., found none"):
        backbone_of({"fc.weight": torch.zeros(1)})
    del contents["model"]["head.4.bias"]
    contents["model"]["backbone.stem.0.weight"] = torch.zeros(40, 5, 4, 4)
    torch.save(contents, tmp_path / "headless.pth")
    with pytest.raises(CheckpointError, match=r"no parameter head\.4\.bias"):
        train.engine.trained.load_trained(tmp_path / "headless.pth")
