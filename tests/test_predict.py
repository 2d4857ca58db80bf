"""Prediction: it agrees with evaluation, takes tiles of any size, and writes files that other programs can read."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import train.predict
from dali_pipes import Loader
from dali_pipes.errors import InputError
from dali_pipes.geometry import letterbox, normalised_length
from dali_pipes.samples.table import SampleTable
from model import HeightRegressor
from tests.conftest import jpeg, via_label
from train.deploy.height_model import HeightModel, load
from train.engine.step import MEAN, STD, Forward
from train.engine.trained import load_trained, predict
from train.run.folder import save_checkpoint

STATS = (0.2, 0.1, 109.0, 49.0)
CALIB: dict[str, Any] = {
    "a": 1.1,
    "b": -3.0,
    "tau": 1.5,
    "within_tile": 0.7,
    "between": 0.5,
    "quantiles": {0.5: 0.7, 0.8: 1.5, 0.9: 2.0, 0.95: math.inf},
    "pooled_quantiles": {0.5: 0.9, 0.8: 2.5, 0.9: 3.0, 0.95: math.inf},
}


def random_network() -> HeightRegressor:
    torch.manual_seed(0)
    network = HeightRegressor("convnext_atto", drop_path=0.0, layer_scale=1.0)
    for parameter in network.parameters():  # some start at zero, and would hide a mistake
        parameter.data += 0.02 * torch.randn_like(parameter)
    return network


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a calibration; its network predicts another height for each image and length."""
    path = tmp_path_factory.mktemp("model") / "best.pt"
    about = {"backbone": "convnext_atto", "size": 64}
    save_checkpoint(path, {"model": random_network().state_dict(), "stats": STATS, "about": about, "calib": CALIB})
    return path


def in_fp32(best: Path) -> HeightModel:
    trained = load_trained(best)
    return HeightModel(trained, Forward(trained.model, torch.device("cpu"), 4, "fp32"))


def test_it_agrees_with_evaluation(best: Path, release: Path, tmp_path: Path) -> None:
    table = SampleTable.from_release(release, "validation")
    drawn = {tile: table.polyline[table.tile == tile] for tile in dict.fromkeys(table.tile.tolist())}
    model = in_fp32(best)
    heights = model.predict(release / "VS_KS.zip", drawn)
    loader = Loader(table, 16, size=64, statistics=model.trained.statistics)
    mu, sigma = predict(model.forward, loader, model.trained.target)
    np.testing.assert_allclose(heights.raw_mu, mu, rtol=1e-5)
    np.testing.assert_allclose(heights.raw_sigma, sigma, rtol=1e-5)
    assert np.ptp(mu) > 0.1, "the network distinguishes the samples"
    np.testing.assert_allclose(heights.mu, 1.1 * mu - 3)
    np.testing.assert_allclose(heights.high - heights.mu, 2.0 * 1.5 * 1.1 * sigma)
    np.testing.assert_allclose(heights.raw_high - mu, NormalDist().inv_cdf(0.95) * sigma, rtol=1e-5)
    assert (heights.low >= 0).all()


@pytest.mark.parametrize(("height", "width"), [(512, 512), (300, 700), (701, 333), (40, 90)])
def test_tiles_of_any_size_are_seen_as_the_reference_sees_them(
    height: int, width: int, best: Path, tmp_path: Path
) -> None:
    data = jpeg(height, width, seed=3)
    (tmp_path / "no_metadata.jpg").write_bytes(data)
    line = np.array([[3.6, 5.5], [width - 9.0, height - 4.1]])
    model = in_fp32(best)
    heights = model.predict([tmp_path / "no_metadata.jpg"], {"no_metadata.jpg": [line]})

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    mask = np.zeros((height, width), np.uint8)
    cv2.polylines(mask, [line.astype(int)], False, 255, max(1, int(0.004 * min(height, width))))
    box = letterbox(height, width, 64)
    frame = np.zeros((64, 64, 5), np.uint8)
    frame[..., 4] = 255
    inside = frame[box.top : box.top + box.height, box.left : box.left + box.width]
    inside[..., :3] = cv2.resize(image, (box.width, box.height))
    inside[..., 3] = cv2.resize(mask, (box.width, box.height))
    inside[..., 4] = 0
    pixels = (torch.tensor(frame).permute(2, 0, 1) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    length = (normalised_length(line, height, width) - STATS[0]) / STATS[1]
    with torch.no_grad():
        mu, _ = random_network().eval()(pixels[None], torch.tensor([[length]], dtype=torch.float32))
    assert heights.raw_mu[0] == pytest.approx(float(mu) * STATS[3] + STATS[2], abs=0.5)  # DALI's grey level


def test_pooling_gives_a_scene_one_scale(best: Path, release: Path) -> None:
    table = SampleTable.from_release(release, "validation")
    drawn = {tile: table.polyline[table.tile == tile] for tile in dict.fromkeys(table.tile.tolist())}
    single, pooled = (in_fp32(best).predict(release / "VS_KS.zip", drawn, pool=pool) for pool in ("none", "scene"))
    scale = np.log(pooled.mu / table.length)
    spread = [np.ptp(scale[table.scene == scene]) for scene in np.unique(table.scene)]
    assert max(spread) < 1e-6
    assert not np.allclose(single.mu, pooled.mu)
    np.testing.assert_array_equal(single.raw_mu, pooled.raw_mu)
    np.testing.assert_allclose(single.high - single.mu, 2.0 * single.sigma)
    np.testing.assert_allclose(pooled.high - pooled.mu, 3.0 * pooled.sigma)  # pooled errors have their own quantiles


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A folder of two tiles, and VIA's export of three polylines, a rectangle, and Korean attributes on them."""
    for i, tile in enumerate(("K3_1.jpg", "K3_2.jpg")):
        (tmp_path / tile).write_bytes(jpeg(96, 128, seed=i))
    first = via_label("K3_1.jpg", [[(10, 60), (80, 20)], [(5, 5), (50, 50)]], img_id="1")
    first["K3_1.jpg1"]["regions"].insert(0, {"shape_attributes": {"name": "rect", "x": 1}, "region_attributes": {}})
    second = via_label("K3_2.jpg", [[(100, 90), (30, 20)]])
    (tmp_path / "via.json").write_text(json.dumps(first | second, ensure_ascii=False), "utf-8")
    return tmp_path


def run(best: Path, drawn: Path, out: str, *more: str) -> Path:
    flags = ["--checkpoint", best, "--images", drawn, "--polylines", drawn / "via.json", "--out", drawn / out]
    train.predict.main([*map(str, flags), "--device", "cpu", *more])
    return drawn / out


def test_the_csv_has_a_row_for_each_polyline_and_can_be_predicted_again(best: Path, drawn: Path) -> None:
    path = run(best, drawn, "heights.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["tile"], row["region"], row["polyline"]) for row in rows] == [
        ("K3_1.jpg", "1", "10 60;80 20"),
        ("K3_1.jpg", "2", "5 5;50 50"),
        ("K3_2.jpg", "0", "100 90;30 20"),
    ]
    for row in rows:
        assert float(row["low_m"]) < float(row["height_m"]) < float(row["high_m"])
    again = load(best).predict(drawn, path)
    np.testing.assert_allclose(again.mu, [float(row["height_m"]) for row in rows], atol=1e-3)


def test_the_via_project_opens_and_keeps_all_attributes(best: Path, drawn: Path) -> None:
    project = json.loads(run(best, drawn, "heights.json").read_text("utf-8"))
    # VIA 2's "Load Project" requires these keys; it finds images by name and size in bytes.
    assert {"_via_settings", "_via_img_metadata", "_via_attributes", "_via_image_id_list"} <= set(project)
    images = project["_via_img_metadata"]
    assert project["_via_image_id_list"] == list(images)
    for key, image in images.items():
        assert image["size"] == (drawn / image["filename"]).stat().st_size
        assert key == f"{image['filename']}{image['size']}"
        assert isinstance(image["regions"], list)
    first = images[next(iter(images))]
    assert first["regions"][0] == {"shape_attributes": {"name": "rect", "x": 1}, "region_attributes": {}}
    attributes = first["regions"][1]["region_attributes"]
    assert attributes["chi_height_m"] == "100.00"
    assert first["file_attributes"]["img_provided"] == "한국항공우주연구원"
    heights = load(best, device="cpu").predict(drawn, drawn / "via.json")
    assert float(attributes["predicted_height_m"]) == pytest.approx(heights.mu[0], abs=0.006)
    assert attributes["predicted_height"] == f"{heights.mu[0]:.0f} ± {heights.sigma[0]:.0f} m"
    settings = project["_via_settings"]
    assert settings["ui"]["image"]["region_label"] == "predicted_height"
    assert settings["core"]["default_filepath"] == f"{drawn}/"
    assert set(attributes) <= set(project["_via_attributes"]["region"])
    assert all(isinstance(value, str) for value in attributes.values())


def test_the_via_key_of_a_large_image_is_its_name_and_all_digits_of_its_size(best: Path, drawn: Path) -> None:
    comment, tile = b"\xff\xfe\xff\xff" + bytes(65_533), jpeg(96, 128, seed=1)
    (drawn / "K3_2.jpg").write_bytes(tile[:2] + 19 * comment + tile[2:])
    project = json.loads(run(best, drawn, "heights.json").read_text("utf-8"))
    size = (drawn / "K3_2.jpg").stat().st_size
    assert size > 10**6
    assert f"K3_2.jpg{size}" in project["_via_img_metadata"]


def test_a_map_of_images_without_a_georeference_is_refused_before_anything_is_computed(
    best: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(best, drawn, "heights.geojson")
    assert "expected a georeference in K3_1.jpg, but it is no GeoTIFF; write .csv or .json" in capsys.readouterr().err
    assert not (drawn / "heights.geojson").exists()


def test_a_project_is_written_back_with_all_that_was_not_predicted(best: Path, drawn: Path) -> None:
    def choice(kind: str, *options: str) -> dict[str, Any]:
        return {"type": kind, "description": "", "options": dict.fromkeys(options, ""), "default_options": {}}

    images = json.loads((drawn / "via.json").read_text("utf-8"))
    images["K3_1.jpg1"]["regions"][1]["region_attributes"] = {"kind": "stack", "flags": {"lit": True}}
    images["K3_1.jpg1"]["regions"].append(None)
    images = {"empty.jpg9": {**via_label("empty.jpg", [])["empty.jpg1"], "size": 9}, **images}
    region = {"kind": choice("dropdown", "stack", "flare"), "flags": choice("checkbox", "lit", "smoke")}
    project = {
        "_via_settings": {
            "ui": {"image_grid": {"img_height": 120}, "image": {"region_label": "kind"}},
            "core": {"default_filepath": "tiles/"},
            "project": {"name": "survey"},
        },
        "_via_img_metadata": images,
        "_via_attributes": {"region": region, "file": {"haze": choice("checkbox", "yes")}},
        "_via_data_format_version": "2.0.9",
        "_via_image_id_list": ["K3_2.jpg1", "empty.jpg9", "K3_1.jpg1"],
        "note": ["mine"],
    }
    (drawn / "via.json").write_text(json.dumps(project, ensure_ascii=False), "utf-8")
    written = json.loads(run(best, drawn, "heights.json").read_text("utf-8"))

    def lost(given: Any, now: Any) -> bool:
        if isinstance(given, dict):
            return any(key not in now or lost(value, now[key]) for key, value in given.items())
        return bool(given != now)

    for part in ("_via_settings", "_via_attributes", "_via_data_format_version", "note"):
        assert not lost(project[part], written[part]), part
    assert written["_via_settings"]["core"]["buffer_size"] == 18
    assert written["_via_attributes"]["region"]["predicted_height_m"]["type"] == "text"
    names = [written["_via_img_metadata"][key]["filename"] for key in written["_via_image_id_list"]]
    assert names == ["K3_2.jpg", "empty.jpg", "K3_1.jpg"]
    assert "empty.jpg9" in written["_via_img_metadata"]
    regions = next(image for image in written["_via_img_metadata"].values() if image["filename"] == "K3_1.jpg")[
        "regions"
    ]
    assert [set(each["region_attributes"]) >= {"kind", "predicted_height_m"} for each in regions] == [
        False,
        True,
        False,
    ]
    assert regions[1]["region_attributes"]["flags"] == {"lit": True}


def test_a_window_of_a_large_scene_is_predicted_and_a_whole_one_is_refused(best: Path, tmp_path: Path) -> None:
    scene = np.zeros((8300, 8300), np.uint8)
    scene[7600:7800, 7000:7300] = 255
    (tmp_path / "scene.jpg").write_bytes(cv2.imencode(".jpg", scene)[1].tobytes())
    lines = {"scene.jpg": [[(7010.0, 7650.0), (7200.0, 7700.0)]]}
    with pytest.raises(InputError, match="more than 67,108,864 pixels; cut it into images of at most 67,108,864"):
        in_fp32(best).predict(tmp_path, lines)
    contents = torch.load(best, weights_only=True)
    contents["about"] |= {"view": "crop", "crop": 256}
    save_checkpoint(tmp_path / "crop.pt", contents)
    assert np.isfinite(in_fp32(tmp_path / "crop.pt").predict(tmp_path, lines).mu).all()


def test_the_three_lines_of_python_return_records(best: Path, drawn: Path) -> None:
    records = load(str(best)).predict(str(drawn), str(drawn / "via.json")).records()
    assert [record["tile"] for record in records] == ["K3_1.jpg", "K3_1.jpg", "K3_2.jpg"]
    assert isinstance(records[0]["height_m"], float)


def test_a_checkpoint_without_a_calibration_says_so(
    best: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = torch.load(best, weights_only=True)
    del contents["calib"]
    save_checkpoint(drawn / "plain.pt", contents)
    with run(drawn / "plain.pt", drawn, "heights.csv").open() as file:
        row = next(csv.DictReader(file))
    assert (row["height_m"], row["low_m"], row["high_m"]) == (row["raw_height_m"], row["raw_low_m"], row["raw_high_m"])
    assert "holds no calibration" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("calibration", "caveat"),
    [
        (CALIB, ""),
        (
            {**CALIB, "quantiles": {0.5: 0.7, 0.8: 1.5, 0.9: math.inf, 0.95: math.inf}, "scenes": 7},
            "calibrated on 7 scenes",
        ),
        ({"a": 0.9, "b": 3.0, "tau": 1.5}, "those of a Gaussian are used, without a promise of 90%"),
    ],
)
def test_the_command_warns_if_an_interval_has_no_promised_level(
    calibration: dict[str, Any], caveat: str, best: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(drawn / "other.pt", {**torch.load(best, weights_only=True), "calib": calibration})
    with run(drawn / "other.pt", drawn, "heights.csv").open() as file:
        row = next(csv.DictReader(file))
    assert (row["high_m"] == "") == ("7 scenes" in caveat)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (2 if caveat else 1)
    assert caveat in lines[-1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"--out": "{drawn}/heights.xls"}, "--out takes a file that ends in .csv, .json, .geojson or .gpkg"),
        ({"--out": "{drawn}/no/heights.csv"}, "lies in no folder"),
        ({"--out": "/proc/heights.csv"}, "/proc/heights.csv cannot be written"),
        ({"--images": "{drawn}/K3_1.jpg"}, "has polylines of K3_2.jpg, found no such image among 1"),
        ({"--polylines": "{drawn}/none.json"}, "give --polylines a VIA JSON or a CSV"),
        ({"--checkpoint": "{drawn}/via.json"}, "it is no ZIP as torch.save writes it"),
        ({"--checkpoint": "{drawn}"}, "best.pt, found no such file"),
        ({"--pool": "country"}, "see python -m train.predict --help"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    change: dict[str, str], sentence: str, best: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {
        "--checkpoint": str(best),
        "--images": str(drawn),
        "--polylines": str(drawn / "via.json"),
        "--out": str(drawn / "heights.csv"),
        **{flag: value.format(drawn=drawn) for flag, value in change.items()},
    }
    before = sorted(drawn.iterdir())
    with pytest.raises(SystemExit) as exit_status:
        train.predict.main([word for pair in flags.items() for word in pair])
    message = capsys.readouterr().err
    assert exit_status.value.code == 2
    assert message.startswith("error: ")
    assert sentence in message
    assert message.count("\n") == 1, message
    assert sorted(drawn.iterdir()) == before
