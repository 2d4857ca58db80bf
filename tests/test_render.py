"""The rendered release, read back with zipfile, json, math and OpenCV only."""

from __future__ import annotations

import itertools
import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from bench.render.__main__ import main
from bench.render.landscape import paint
from bench.render.release import render_release
from bench.render.scene import draw_chimneys, draw_scenes
from bench.render.style import STYLES, StyleName
from bench.render.tile import Tile
from dali_pipes import SampleTable
from dali_pipes.errors import InputError

ARCHIVES = {"TS_KS.zip", "TL_KS_LINE.zip", "VS_KS.zip", "VL_KS_LINE.zip"}
SPLITS = (("TS_KS.zip", "TL_KS_LINE.zip"), ("VS_KS.zip", "VL_KS_LINE.zip"))
TRAIN, VAL, SCENES = 24, 8, 6


class Labelled(NamedTuple):
    key: str
    via: dict[str, Any]
    jpeg: bytes


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("official") / "new" / "folder"
    render_release(out, train=TRAIN, val=VAL, scenes=SCENES, seed=3, workers=1)
    return out


@pytest.fixture(scope="module")
def disjoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("disjoint")
    render_release(out, train=TRAIN, val=VAL, scenes=SCENES, seed=3, disjoint=True, workers=1)
    return out


@pytest.fixture(scope="module")
def coast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("coast")
    render_release(out, train=TRAIN, val=VAL, scenes=SCENES, seed=3, style="coast", workers=1)
    return out


def tiles(release: Path, images: str, labels: str) -> dict[str, Labelled]:
    """Name without suffix → label and JPEG of the tile."""
    with zipfile.ZipFile(release / images) as jpegs, zipfile.ZipFile(release / labels) as jsons:
        found = {}
        for member in jsons.namelist():
            ((key, via),) = json.loads(jsons.read(member).decode("utf-8")).items()
            found[member.removesuffix(".json")] = Labelled(key, via, jpegs.read(via["filename"]))
        assert {f"{name}.jpg" for name in found} == set(jpegs.namelist())
        return found


def all_tiles(release: Path) -> dict[str, Labelled]:
    return {name: tile for split in SPLITS for name, tile in tiles(release, *split).items()}


def scenes(release: Path, images: str, labels: str) -> set[str]:
    return {name.rpartition("_")[0] for name in tiles(release, images, labels)}


def polylines(via: dict[str, Any]) -> list[list[tuple[int, int]]]:
    shapes = [region["shape_attributes"] for region in via["regions"]]
    return [list(zip(shape["all_points_x"], shape["all_points_y"], strict=True)) for shape in shapes]


def decoded(jpeg: bytes) -> np.ndarray:
    """BGR, the order of OpenCV."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


def read_all(release: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in release.iterdir()}


# --- Files.


def test_a_seed_gives_the_same_bytes_with_any_number_of_workers(official: Path, tmp_path: Path) -> None:
    render_release(tmp_path, train=TRAIN, val=VAL, scenes=SCENES, seed=3, workers=2)
    assert read_all(tmp_path) == read_all(official)


def test_another_seed_gives_other_scenes(official: Path, tmp_path: Path) -> None:
    render_release(tmp_path, train=2, val=1, scenes=2, seed=4, workers=1)
    assert not scenes(tmp_path, *SPLITS[0]) & scenes(official, *SPLITS[0])


def test_a_release_is_four_flat_archives_of_stored_images_and_deflated_labels(official: Path) -> None:
    assert {path.name for path in official.iterdir()} == ARCHIVES
    for (images, labels), count in zip(SPLITS, (TRAIN, VAL), strict=True):
        for archive, how, suffix in (
            (images, zipfile.ZIP_STORED, ".jpg"),
            (labels, zipfile.ZIP_DEFLATED, ".json"),
        ):
            with zipfile.ZipFile(official / archive) as opened:
                assert opened.testzip() is None
                members = opened.infolist()
            assert len({member.filename for member in members}) == count
            assert {member.compress_type for member in members} == {how}
            assert all(member.filename.endswith(suffix) and "/" not in member.filename for member in members)


def test_names_follow_sensor_country_time_tile(official: Path) -> None:
    for name, tile in all_tiles(official).items():
        sensor, country, time, number = name.split("_")
        assert sensor in ("K3", "K3A")
        assert len(country) == 3
        assert len(time) == 14
        assert (time + number).isdigit()
        attributes = tile.via["file_attributes"]
        assert attributes["img_time"] == time[2:10]
        assert attributes["img_resolution"] == {"K3": "0.7", "K3A": "0.55"}[sensor]


# --- Labels.


def test_labels_have_vias_shape_and_only_string_attributes(official: Path) -> None:
    for name, (key, via, jpeg) in all_tiles(official).items():
        assert set(via) == {"filename", "size", "regions", "file_attributes"}
        assert via["filename"] == f"{name}.jpg"
        assert via["size"] == len(jpeg)
        assert key == f"{via['filename']}{len(jpeg)}"
        attributes = via["file_attributes"]
        assert set(attributes) == {
            *("img_id", "img_height", "img_width", "img_resolution", "img_time", "img_roll_tilt"),
            *("img_pitch_tilt", "img_provided", "provided_nm"),
        }
        assert all(isinstance(value, str) for value in attributes.values())
        assert attributes["img_id"] == name
        assert (attributes["img_height"], attributes["img_width"]) == ("512", "512")
        assert attributes["img_provided"] == "한국항공우주연구원"
        assert attributes["provided_nm"] == "한국지능정보사회진흥원"
        assert 1 <= len(via["regions"]) <= 3
        for i, region in enumerate(via["regions"], start=1):
            assert set(region) == {"shape_attributes", "region_attributes"}
            assert region["shape_attributes"]["name"] == "polyline"
            assert set(region["region_attributes"]) == {"chi_id", "chi_height_m"}
            assert region["region_attributes"]["chi_id"] == str(i)
            assert isinstance(region["region_attributes"]["chi_height_m"], str)


def test_the_order_of_keys_differs_from_label_to_label(official: Path) -> None:
    orders = {tuple(tile.via["file_attributes"]) for tile in all_tiles(official).values()}
    assert len(orders) > 1
    assert len({tuple(tile.via) for tile in all_tiles(official).values()}) > 1


def test_every_height_follows_from_its_label_by_the_closed_form(official: Path) -> None:
    for _, via, _ in all_tiles(official).values():
        attributes = via["file_attributes"]
        roll, pitch = (math.radians(float(attributes[f"img_{axis}_tilt"])) for axis in ("roll", "pitch"))
        metres_a_pixel = float(attributes["img_resolution"]) / math.hypot(math.tan(roll), math.tan(pitch))
        assert 0.8 <= metres_a_pixel <= 3.6
        for (base, top), region in zip(polylines(via), via["regions"], strict=True):
            printed = float(region["region_attributes"]["chi_height_m"])
            assert 40 <= printed <= 298
            assert printed == pytest.approx(math.dist(base, top) * metres_a_pixel, abs=0.005 + 1e-9)


def test_polylines_are_whole_pixels_inside_the_tile_and_of_published_length(official: Path) -> None:
    for _, via, _ in all_tiles(official).values():
        for polyline in polylines(via):
            assert len(polyline) == 2
            assert all(isinstance(x, int) and 0 <= x < 512 for point in polyline for x in point)
            assert 17 <= math.dist(*polyline) <= 319


# --- Splits.


def test_official_validation_scenes_all_occur_in_training(official: Path) -> None:
    train, validation = (scenes(official, *split) for split in SPLITS)
    assert len(train) == SCENES
    assert validation <= train
    names = [name for split in SPLITS for name in tiles(official, *split)]
    assert len(set(names)) == TRAIN + VAL


def test_disjoint_validation_scenes_never_occur_in_training(disjoint: Path) -> None:
    train, validation = (scenes(disjoint, *split) for split in SPLITS)
    assert train
    assert validation
    assert not train & validation
    assert len(train | validation) == SCENES


# --- Images.


def test_images_are_512_pixel_colour_jpegs_of_the_published_size(official: Path) -> None:
    for _, _, jpeg in all_tiles(official).values():
        assert 56_000 <= len(jpeg) <= 72_000
        assert decoded(jpeg).shape == (512, 512, 3)


def test_chimneys_are_brighter_than_the_ground_20_m_aside(official: Path) -> None:
    """In the red band, on average.  Polylines rotated by 180° about their base are the control."""
    contrast: dict[int, list[float]] = {+1: [], -1: []}
    for _, via, jpeg in all_tiles(official).values():
        red = decoded(jpeg)[..., 2].astype(np.float32)
        aside = 20 / float(via["file_attributes"]["img_resolution"])
        for polyline, sign in itertools.product(polylines(via), contrast):
            base, top = np.array(polyline, dtype=float)
            x, y = (top - base) / math.dist(base, top)
            along = base + np.linspace(0.1, 0.9, 40)[:, None] * sign * (top - base)
            lines = [along + shift * aside * np.array([-y, x]) for shift in (0, -1, 1)]
            if all(line.min() >= 0 and line.max() < 512 for line in lines):
                axis, left, right = (red[line[:, 1].astype(int), line[:, 0].astype(int)] for line in lines)
                contrast[sign].append(float(axis.mean() - (left.mean() + right.mean()) / 2))
    assert len(contrast[+1]) > 15
    assert np.mean(contrast[+1]) > 10
    assert np.mean(contrast[+1]) > 3 * abs(np.mean(contrast[-1]))


@pytest.mark.parametrize("style", STYLES)
def test_a_chimney_changes_the_picture_along_its_polyline_and_its_shadow_only(style: StyleName) -> None:
    """Compared with the same tile where the chimney is a stump."""
    rng = np.random.default_rng(0)
    along: dict[str, list[float]] = {"layover": [], "shadow": []}
    elsewhere = []
    for scene in draw_scenes(8, rng, STYLES[style]):
        (chimney, *_) = draw_chimneys(scene, rng)
        stump = replace(chimney, height=0.01)
        whole, cut = (paint(scene, [c], np.random.default_rng(1)).astype(int) for c in (chimney, stump))
        changed = (np.abs(whole - cut).max(-1) > 8).astype(np.uint8)
        near = np.zeros_like(changed)
        for kind, seen in along.items():
            reach = chimney.height * np.array(getattr(scene, kind))
            points = np.rint(chimney.base + np.linspace(0.1, 0.9, 50)[:, None] * reach).astype(int)
            x, y = points[((points >= 0) & (points < 512)).all(1)].T
            seen += [float(changed[y, x].mean())] if len(x) else []  # a shadow may fall outside the tile
            cv2.polylines(near, [points.astype(np.int32)], False, 1, thickness=80)
        elsewhere.append(float(changed[near == 0].mean()))
    assert np.median(along["layover"]) > 0.9
    assert np.median(along["shadow"]) > 0.5  # the rest is hidden by buildings or in their shadow
    assert max(elsewhere) < 0.002


@pytest.mark.parametrize(("style", "lowest"), [("town", 0.6), ("coast", 0.4)])
def test_haze_brightens_shadows_as_the_tilt_grows(style: StyleName, lowest: float, tmp_path: Path) -> None:
    """Path radiance: how the darkest blue of a tile correlates with tan(tilt)."""
    render_release(tmp_path, train=40, val=1, scenes=40, seed=1, style=style, workers=1)
    tilts, darkest = [], []
    for _, via, jpeg in all_tiles(tmp_path).values():
        attributes = via["file_attributes"]
        roll, pitch = (math.radians(float(attributes[f"img_{axis}_tilt"])) for axis in ("roll", "pitch"))
        tilts.append(math.hypot(math.tan(roll), math.tan(pitch)))
        darkest.append(np.percentile(decoded(jpeg)[..., 0], 2))
    assert np.corrcoef(tilts, darkest)[0, 1] > lowest


def test_both_styles_show_the_same_chimneys_in_different_pictures(official: Path, coast: Path) -> None:
    """Sensors, tilts, polylines and heights are equal; most pixels differ by more than 15 levels."""

    def geometry(release: Path) -> list[list[object]]:
        found: list[list[object]] = []
        for _, via, _ in all_tiles(release).values():
            attributes = [via["file_attributes"][f"img_{name}"] for name in ("resolution", "roll_tilt", "pitch_tilt")]
            heights = [region["region_attributes"]["chi_height_m"] for region in via["regions"]]
            found.append([*attributes, *heights, *polylines(via)])
        return found

    assert geometry(official) == geometry(coast)
    pictures = [[decoded(tile.jpeg).astype(int) for tile in all_tiles(r).values()] for r in (official, coast)]
    assert (np.abs(np.array(pictures[0]) - pictures[1]).max(-1) > 15).mean() > 0.8
    assert all(56_000 <= len(tile.jpeg) <= 72_000 for tile in all_tiles(coast).values())


# --- Errors.


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--train", "0"], "--train"),
        (["--val", "0"], "--val"),
        (["--scenes", "0"], "--scenes"),
        (["--train", "3", "--scenes", "4"], "--scenes 4"),
        (["--scenes", "1", "--disjoint"], "--disjoint"),
        (["--seed", "-1"], "--seed"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_impossible_flags_exit_with_status_2_one_sentence_and_no_files(
    flags: list[str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path / "out"), *flags])
    assert exit_.value.code == 2
    sentence = capsys.readouterr().err
    assert expected in sentence
    assert sentence.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_the_folder_is_refused_and_not_changed(tmp_path: Path) -> None:
    out = tmp_path / "release"
    out.write_text("precious")
    with pytest.raises(InputError, match="OUT must be a folder"):
        render_release(out, train=1, val=1, scenes=1)
    assert out.read_text() == "precious"


def test_an_interrupted_render_leaves_no_archive_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.render import release as render

    calls = iter(range(100))

    def fails_at_the_fourth(tile: Tile) -> tuple[bytes, bytes]:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return b"", b""

    monkeypatch.setattr(render, "render_tile", fails_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        render_release(tmp_path, train=8, val=2, scenes=2, workers=1)
    assert not list(tmp_path.iterdir())


def test_files_of_a_killed_rendering_are_ignored_and_deleted(tmp_path: Path) -> None:
    (tmp_path / ".rendering").mkdir()
    (tmp_path / ".rendering/TS_KS.zip").write_bytes(b"half")
    render_release(tmp_path, train=2, val=1, scenes=1, workers=1)
    assert {path.name for path in tmp_path.iterdir()} == {"TS_KS.zip", "TL_KS_LINE.zip", "VS_KS.zip", "VL_KS_LINE.zip"}
    (tmp_path / ".rendering").mkdir()
    (tmp_path / ".rendering/TS_KS.zip").write_bytes(b"half")
    assert len(SampleTable.from_release(tmp_path))
