"""Exported files: their own runtimes read them, they agree with eager, and they contain what a caller must know."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import train.deploy.formats
import train.export
from dali_pipes import Loader, Statistics
from dali_pipes.batches.view import WHOLE_TILE, View
from dali_pipes.errors import InputError
from dali_pipes.samples.table import SampleTable
from model import HeightRegressor, Target
from model.calibration import Calibration
from tests.test_aligned import ROUNDING
from tests.test_predict import CALIB, STATS, random_network
from train.deploy.exported import OUTPUTS, HeightFunction, contract, input_names, random_tiles, real_tiles
from train.deploy.formats import write_checked
from train.deploy.suffixes import Format
from train.engine.step import Forward
from train.engine.trained import Trained, load_trained, predict
from train.run.folder import save_checkpoint
from train.scores.metrics import CALIBRATED, score

CPU = torch.device("cpu")
WITH_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
needs_onnx = pytest.mark.skipif(not WITH_ONNX, reason="the extra onnx is not installed")


class Dot(nn.Module):
    """A backbone of one convolution, which compiles in seconds."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 4, 8, stride=8)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image).relu().mean((2, 3))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Trained:
    monkeypatch.setattr("model.regressor.create_backbone", lambda *_: Dot())
    torch.manual_seed(0)
    network = HeightRegressor("one convolution")
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    calibration = Calibration.from_dict(CALIB)
    return Trained(network, Statistics(*STATS), calibration, target=Target("height", 109.0, 49.0), size=32)


def predicted(trained: Trained, table: SampleTable) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated mu and sigma from this project's own evaluation, in fp32."""
    loader = Loader(table, 4, size=trained.size, view=trained.view, statistics=trained.statistics)
    mu, sigma = predict(Forward(trained.model, CPU, 4, "fp32"), loader, trained.target)
    assert trained.calibration is not None
    return trained.calibration(mu, sigma)


def torch_runs(path: Path) -> Callable[..., Any]:
    module = torch.export.load(path).module()

    def run(*tiles: torch.Tensor) -> Any:
        with torch.no_grad():  # with torch 2.9 the parameters of a loaded program require gradients
            return module(*tiles)

    return run


def aoti_runs(path: Path) -> Callable[..., Any]:
    return torch._inductor.aoti_load_package(str(path))


def onnx_runs(path: Path) -> Callable[..., Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return lambda *inputs: session.run(None, {k: v.numpy() for k, v in zip(names, inputs, strict=True)})


BOTH = View("both", 128)


def showing(trained: Trained, view: View) -> Trained:
    """The same with a network for this view."""
    network = HeightRegressor("one convolution", views=len(view))
    network.load_state_dict(trained.model.state_dict(), strict=False)
    return replace(trained, model=network, view=view)


@pytest.mark.parametrize("target", [Target("height", 109.0, 49.0), Target("log_scale", 6.0, 0.3)])
@pytest.mark.parametrize("view", [WHOLE_TILE, View("crop", 128), View("aligned", 90), BOTH])
def test_the_exported_function_agrees_with_evaluation(
    view: View, target: Target, small: Trained, release: Path
) -> None:
    trained = replace(showing(small, view), target=target)
    table = SampleTable.from_release(release, "validation").select(np.arange(6))
    mu, sigma = HeightFunction(trained)(*real_tiles(trained, table, CPU))
    expected = predicted(trained, table)
    assert np.ptp(expected[0]) > 0.1, "the network distinguishes the samples"
    np.testing.assert_allclose(mu.detach(), expected[0], rtol=1e-4)
    np.testing.assert_allclose(sigma.detach(), expected[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "name", "runs", "view"),
    [
        ("torch", "a.pt2", torch_runs, WHOLE_TILE),
        ("torch", "a.pt2", torch_runs, BOTH),
        ("torch", "a.pt2", torch_runs, View("aligned", 90)),
        pytest.param("aoti", "b.pt2", aoti_runs, BOTH, marks=needs_compiler),
        pytest.param("onnx", "c.onnx", onnx_runs, BOTH, marks=needs_onnx),
        pytest.param("onnx", "d.onnx", onnx_runs, View("tile+aligned", 90), marks=needs_onnx),
    ],
)
def test_a_file_agrees_with_eager_for_any_batch_size(
    kind: Format,
    name: str,
    runs: Callable[[Path], Any],
    view: View,
    small: Trained,
    release: Path,
    tmp_path: Path,
) -> None:
    trained = replace(showing(small, view), target=Target("log_scale", 6.0, 0.3))
    table = SampleTable.from_release(release, "validation").select(np.arange(7))
    real = real_tiles(trained, table, CPU)
    assert write_checked(tmp_path / name, kind, trained, real) < 1e-3
    assert [path.name for path in tmp_path.iterdir()] == [name]
    run = runs(tmp_path / name)
    for n in (1, 5, 7):
        mu, sigma = run(*(x[:n] for x in real))
        expected = predicted(trained, table.select(np.arange(n)))
        np.testing.assert_allclose(np.asarray(mu), expected[0], rtol=1e-4)
        np.testing.assert_allclose(np.asarray(sigma), expected[1], rtol=1e-4)


def test_a_file_that_differs_is_not_kept(
    small: Trained, release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any) -> Any:
        run = train.deploy.formats.write_torch(*arguments)
        return lambda inputs: [value + 0.02 for value in run(inputs)]

    monkeypatch.setitem(train.deploy.formats.WRITERS, "torch", wrong)
    table = SampleTable.from_release(release, "validation").select(np.arange(2))
    with pytest.raises(InputError, match=r"up to 0\.02 m from the checkpoint's, more than 0\.01 m"):
        write_checked(tmp_path / "a.pt2", "torch", small, real_tiles(small, table, CPU))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def best(tmp_path: Path) -> Path:
    about = {"backbone": "convnext_atto", "size": 32}
    contents = {"model": random_network().state_dict(), "stats": STATS, "about": about, "calib": CALIB}
    save_checkpoint(tmp_path / "best.pt", contents)
    return tmp_path / "best.pt"


def command(best: Path, release: Path, kind: str, out: Path) -> None:
    flags = ["--checkpoint", best, "--release", release, "--format", kind, "--out", out]
    train.export.main([str(flag) for flag in flags])


@needs_onnx
def test_the_command_writes_an_onnx_file_with_its_contract_and_card(best: Path, release: Path, tmp_path: Path) -> None:
    import onnxruntime

    out = tmp_path / "heights.onnx"
    command(best, release, "onnx", out)
    about = onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map
    trained = load_trained(best)
    for name, value in contract(trained).items():
        assert about[name] == value
    assert json.loads(about["statistics"])["height_std"] == 49.0
    assert json.loads(about["calibration"])["tau"] == 1.5
    table = SampleTable.from_release(release, "validation").select(np.arange(3))
    np.testing.assert_allclose(
        onnx_runs(out)(*real_tiles(trained, table, CPU))[0], predicted(trained, table)[0], rtol=1e-4
    )
    card = Path(f"{out}.md").read_text("utf-8")
    for heading in ("## Use", "## Data", "## Figures", "## Limits"):
        assert heading in card
    assert "| validation (optimistic) | network |" in card, "the reference chose its epoch on it"
    assert "(metadata)" in card
    validation = SampleTable.from_release(release, "validation")
    given = onnx_runs(out)(*real_tiles(trained, validation, CPU))
    file = score(validation.height, *(np.asarray(column, np.float64) for column in given))
    row = next(
        line.split(" | ")
        for line in card.splitlines()
        if line.startswith(f"| validation (optimistic) | {CALIBRATED} |")
    )
    assert row[2:4] == [str(len(validation)), "unknown"]
    assert [float(x) for x in row[4:7]] == pytest.approx([file.rmse, file.mae, file.bias], abs=0.006), "the file's own"
    assert "training data are unknown: the checkpoint does not record them" in card
    training = SampleTable.from_release(release).height
    assert f"are {training.min():.1f} to {training.max():.1f} m high" in card


def test_the_contract_is_strict_json(small: Trained) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    known = json.loads(contract(small)["calibration"], parse_constant=refuse)
    assert known["quantiles"] == {"0.5": 0.7, "0.8": 1.5, "0.9": 2.0, "0.95": None}


def test_the_reference_format_has_exactly_the_references_entries(best: Path, release: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.pth"
    whole = torch.load(best, weights_only=True)
    save_checkpoint(best, whole | {"about": whole["about"] | {"size": 224}})
    command(best, release, "reference", out)
    contents = torch.load(out, weights_only=True)
    assert set(contents) == {"model", "stats", "calib"}
    assert contents["stats"] == STATS
    assert contents["calib"] == {"a": 1.1, "b": -3.0, "tau": 1.5}
    ours = torch.load(best, weights_only=True)["model"]
    assert all(torch.equal(value, ours[name]) for name, value in contents["model"].items())
    assert Path(f"{out}.md").exists()


def test_every_input_is_in_the_contract(small: Trained) -> None:
    for target, view in ((small.target, WHOLE_TILE), (Target("log_scale", 6.0, 0.3), BOTH)):
        trained = replace(showing(small, view), target=target)
        assert list(json.loads(contract(trained)["inputs"])) == list(input_names(trained))
        assert len(random_tiles(trained, 2, CPU)) == len(input_names(trained))
        assert tuple(json.loads(contract(trained)["outputs"])) == OUTPUTS


def test_the_contract_says_how_to_cut_the_window(small: Trained) -> None:
    assert contract(small)["window"] == "none"
    entries = contract(replace(small, view=BOTH))
    assert "uint8 (B, 32, 32, 6)" in entries["inputs"]
    assert "the tile in the first channels" in entries["inputs"]
    assert "side = max(128, ceil(1.25 * longer side of the polyline's bounding box))" in entries["window"]
    assert "uint8 (B, 32, 32, 3)" in contract(replace(small, view=View("crop", 128)))["inputs"]


def test_what_cannot_be_exported_is_one_sentence(
    best: Path, release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = torch.load(best, weights_only=True)
    crop = {"about": contents["about"] | {"view": "crop", "crop": 128}}
    save_checkpoint(tmp_path / "crop.pt", contents | crop)
    save_checkpoint(tmp_path / "mirror.pt", contents | {"about": contents["about"] | {"mirror": True}})
    contents["about"] |= {"target": "log_scale", "target_moments": [6.0, 0.3]}
    save_checkpoint(tmp_path / "scale.pt", contents)
    monkeypatch.setattr(train.export, "find_spec", lambda name: None)
    for checkpoint_file, kind, out, sentence in (
        (best, "torch", "a.onnx", "--format torch writes a .pt2 file"),
        (best, "torch", "no/a.pt2", "lies in no folder"),
        (best, "onnx", "a.onnx", "install the extra: pip install -e .[onnx]"),
        (tmp_path / "scale.pt", "reference", "a.pth", "found log_scale"),
        (tmp_path / "crop.pt", "reference", "a.pth", "found one with --data.view crop"),
        (tmp_path / "mirror.pt", "reference", "a.pth", "found one with --model.mirror"),
        (best, "reference", "a.pth", "is read as 224 pixels, found a network of 32"),
    ):
        with pytest.raises(SystemExit) as exit_status:
            command(checkpoint_file, release, kind, tmp_path / out)
        message = capsys.readouterr().err
        assert exit_status.value.code == 2
        assert sentence in message
        assert not (tmp_path / out).exists()


@pytest.mark.parametrize("view", [View("aligned", 90), View("tile+aligned", 40)])
def test_the_code_in_the_file_cuts_the_window_that_the_network_sees(view: View, small: Trained, release: Path) -> None:
    """It runs without this project: only NumPy and OpenCV are imported."""
    text = contract(replace(small, view=view))["window"]
    assert set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)) == {"__future__", "cv2", "numpy"}
    defined: dict[str, Any] = {}
    exec(text, defined)
    call = re.search(r"crop=(\d+), size=(\d+)", text)
    assert call is not None
    table = SampleTable.from_release(release, "validation").select(np.arange(12))
    batch = next(iter(Loader(table, 12, size=32, view=view)))
    for i in range(12):
        bgr = cv2.imdecode(table.images.read(int(table.image[i])), cv2.IMREAD_COLOR)
        assert bgr is not None
        image = np.ascontiguousarray(bgr[..., ::-1])
        rgb, polyline, padding = defined["cut_aligned"](image, table.polyline[i], *map(int, call.groups()))
        assert np.abs(rgb.astype(int) - batch.rgb[i, ..., -3:].numpy()).max() <= ROUNDING
        assert np.abs(polyline.astype(int) - batch.polyline[i, ..., -1:].numpy()).max() <= ROUNDING
        assert (padding == batch.padding[i, ..., -1:].numpy()).mean() > 0.999
