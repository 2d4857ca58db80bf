"""The table agrees with the labels; what cannot be used is listed with its reason."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dali_pipes import SampleTable
from dali_pipes.errors import InputError
from dali_pipes.geometry import closed_form_height, polyline_length_px
from dali_pipes.samples.jpeg import JpegHeader, read_header
from dali_pipes.samples.via import LARGEST_LABEL, Reason, parse
from tests.conftest import jpeg, via_label

LINE = [(10, 20), (30, 40)]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_table_of_a_release_agrees_with_a_plain_reading_of_its_labels(release: Path, split: str) -> None:
    table = SampleTable.from_release(release, split=split)  # type: ignore[arg-type]
    stem = {"train": "TL_KS_LINE", "validation": "VL_KS_LINE"}[split]
    row = 0
    with zipfile.ZipFile(release / f"{stem}.zip") as labels:
        for name in sorted(labels.namelist()):
            (tile,) = json.loads(labels.read(name)).values()
            for region in tile["regions"]:
                xs, ys = (region["shape_attributes"][f"all_points_{axis}"] for axis in "xy")
                assert table.tile[row] == tile["filename"]
                assert table.tile[row].startswith(table.scene[row] + "_")
                assert table.polyline[row].T.tolist() == [xs, ys]
                assert table.length[row] == pytest.approx(math.dist((xs[0], ys[0]), (xs[1], ys[1])) / 512)
                assert table.height[row] == float(region["region_attributes"]["chi_height_m"])
                assert table.roll[row] == float(tile["file_attributes"]["img_roll_tilt"])
                assert table.images.names[table.image[row]] == tile["filename"]
                row += 1
    assert len(table) == row
    assert set(table.width) == set(table.height_px) == {512}
    assert table.left_out == ()
    closed = closed_form_height(polyline_length_px(table.polyline), table.gsd, table.roll, table.pitch)
    np.testing.assert_allclose(closed, table.height, atol=0.0051)


def test_statistics_are_the_references_tuple(release: Path) -> None:
    table = SampleTable.from_release(release)
    expected = (np.mean(table.length), np.std(table.length) + 1e-8, np.mean(table.height), np.std(table.height) + 1e-8)
    assert tuple(table.statistics()) == pytest.approx(expected, rel=1e-12)


def with_exif(image: bytes, orientation: int) -> bytes:
    tiff = b"MM\0*\0\0\0\x08\0\x01" + b"\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation, 0, 0]) + bytes(4)
    body = b"Exif\0\0" + tiff
    return image[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + image[2:]


GOOD = jpeg(64, 96)
BAD_HEIGHTS: list[Any] = ["", "nan", "inf", "1e999", "-3", "0", None, [], True, "칠십", math.nan, 10**400]
CMYK = GOOD[:2] + GOOD[2:].replace(
    b"\xff\xc0\x00\x11\x08\x00\x40\x00\x60\x03", b"\xff\xc0\x00\x11\x08\x00\x40\x00\x60\x04"
)


@pytest.mark.parametrize(
    ("image", "label", "reason"),
    [
        (GOOD, b"{", Reason.BROKEN_LABEL),
        (GOOD, b"\xb0\xa1", Reason.BROKEN_LABEL),
        (GOOD, [1], Reason.BROKEN_LABEL),
        (GOOD, {"a": {"size": 3}}, Reason.BROKEN_LABEL),
        (GOOD, b"[" * 100_000, Reason.BROKEN_LABEL),
        (GOOD, via_label("bad_1.jpg", []), Reason.NO_REGIONS),
        (
            GOOD,
            {"a": {"filename": "bad_1.jpg", "regions": [{"shape_attributes": {"name": "rect"}}]}},
            Reason.NOT_A_POLYLINE,
        ),
        (GOOD, via_label("bad_1.jpg", [[(1, math.nan)] * 2]), Reason.NOT_A_POLYLINE),  # type: ignore[list-item]
        (GOOD, via_label("bad_1.jpg", [[(1, 2)]]), Reason.TOO_FEW_POINTS),
        (GOOD, via_label("bad_1.jpg", [[(i % 50, 2) for i in range(1000)]]), Reason.TOO_MANY_POINTS),
        (GOOD, via_label("bad_1.jpg", [[(5, 5), (5, 5)]]), Reason.ZERO_LENGTH),
        (GOOD, via_label("bad_1.jpg", [[(5, 5), (97, 5)]]), Reason.OUTSIDE),
        (GOOD, via_label("bad_1.jpg", [[(5, -1), (9, 5)]]), Reason.OUTSIDE),
        *[(GOOD, via_label("bad_1.jpg", [LINE], height=height), Reason.BAD_HEIGHT) for height in BAD_HEIGHTS],
        (None, via_label("bad_1.jpg", [LINE]), Reason.NO_IMAGE),
        (b"", via_label("bad_1.jpg", [LINE]), Reason.EMPTY),
        (b"\x89PNG\r\n", via_label("bad_1.jpg", [LINE]), Reason.PNG),
        (GOOD[:30], via_label("bad_1.jpg", [LINE]), Reason.TRUNCATED),
        (GOOD[:-9], via_label("bad_1.jpg", [LINE]), Reason.TRUNCATED),
        (with_exif(GOOD, 6), via_label("bad_1.jpg", [LINE]), Reason.ROTATED),
        (CMYK, via_label("bad_1.jpg", [LINE]), Reason.COLOURS),
    ],
)
def test_what_cannot_be_used_is_skipped_with_its_reason(
    image: bytes | None, label: Any, reason: Reason, write_split: Callable[..., Path]
) -> None:
    tiles = {"good_1.jpg": (GOOD, via_label("good_1.jpg", [LINE])), "bad_1.jpg": (image, label)}
    table = SampleTable.from_release(write_split(tiles))
    assert table.tile.tolist() == ["good_1.jpg"]
    assert [(item.file.split(".")[0], item.reason) for item in table.left_out] == [("bad_1", reason)]


def test_a_bad_region_costs_only_itself(write_split: Callable[..., Path]) -> None:
    label = via_label("a_1.jpg", [LINE, [(1, 1)], [(0, 0), (5, 5), (9, 1)]])
    table = SampleTable.from_release(write_split({"a_1.jpg": (with_exif(GOOD, 1), label)}))
    assert table.polyline.tolist() == [[[10, 20], [30, 40], [30, 40]], [[0, 0], [5, 5], [9, 1]]]
    assert [(item.region, item.reason) for item in table.left_out] == [(1, Reason.TOO_FEW_POINTS)]


def test_a_release_without_a_usable_sample_says_why(write_split: Callable[..., Path]) -> None:
    tiles = {"a_1.jpg": (GOOD, via_label("a_1.jpg", [LINE], height="x"))}
    with pytest.raises(InputError, match="found none that can be used; most often because the height"):
        SampleTable.from_release(write_split(tiles))


def test_a_label_with_a_bom_and_without_metadata_is_read() -> None:
    (tile,) = parse(b"\xef\xbb\xbf" + json.dumps(via_label("a_1.jpg", [LINE])).encode())
    assert math.isnan(tile.gsd)
    assert tile.regions[0].points.tolist() == [[10, 20], [30, 40]]


def test_whole_scenes_are_held_out_by_seed(release: Path) -> None:
    table = SampleTable.from_release(release)
    kept, held_out = table.hold_out_scenes(0.3, seed=1)
    assert len(kept) + len(held_out) == len(table)
    assert not set(kept.scene) & set(held_out.scene)
    assert 0.15 < len(held_out) / len(table) < 0.6
    again = table.select(np.arange(len(table))[::-1]).hold_out_scenes(0.3, seed=1)[1]
    assert set(again.scene) == set(held_out.scene), "the choice may not depend on the order of the rows"
    assert {frozenset(table.hold_out_scenes(0.3, seed)[1].scene) for seed in range(6)} != {frozenset(held_out.scene)}
    nothing, everything = table.hold_out_scenes(0.0, seed=1)[1], table.hold_out_scenes(0.0, seed=1)[0]
    assert (len(nothing), len(everything)) == (0, len(table))
    with pytest.raises(InputError, match="leaves none of the 8 scenes"):
        table.hold_out_scenes(1.0, seed=1)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (512, 512), (37, 1001)])
def test_a_jpegs_header_is_read(height: int, width: int) -> None:
    header = read_header(jpeg(height, width))
    assert isinstance(header, JpegHeader)
    assert header[:5] == (height, width, 3, 1, True)
    rotated = read_header(with_exif(jpeg(height, width), 8))
    assert isinstance(rotated, JpegHeader)
    assert rotated.orientation == 8


def test_a_label_that_names_another_tile_is_skipped(write_split: Callable[..., Path]) -> None:
    names = [f"a_{i}.jpg" for i in range(5)]
    tiles: dict[str, tuple[bytes | None, Any]] = {name: (GOOD, via_label(name, [LINE])) for name in names}
    tiles["a_1.jpg"] = (GOOD, via_label("a_2.jpg", [LINE]))  # its own image exists
    tiles["b_1.jpg"] = (None, via_label("a_3.jpg", [LINE]))  # a second label of a_3
    tiles["a_4.jpg"] = (GOOD, via_label("../../a_4.jpg", [LINE]))  # folders in the name are ignored
    table = SampleTable.from_release(write_split(tiles))
    assert table.tile.tolist() == ["a_0.jpg", "a_2.jpg", "a_4.jpg"]
    found = {(item.file, item.reason) for item in table.left_out}
    assert found == {("a_1.json", Reason.MISNAMED), ("a_3.jpg", Reason.TWO_LABELS)}


def test_an_image_without_a_label_is_listed(write_split: Callable[..., Path]) -> None:
    folder = write_split({f"a_{i}.jpg": (GOOD, via_label(f"a_{i}.jpg", [LINE])) for i in range(2)})
    with zipfile.ZipFile(folder / "TS_KS.zip", "a") as images:
        images.writestr("a_9.jpg", GOOD)
    assert SampleTable.from_release(folder).left_out == (("a_9.jpg", -1, Reason.NO_LABEL),)


def test_an_image_of_another_size_than_its_label_records_is_skipped(write_split: Callable[..., Path]) -> None:
    stated = {"a_0.jpg": ("96", "64"), "a_1.jpg": ("192", "128"), "a_2.jpg": ("", "64")}
    tiles = {
        name: (GOOD, via_label(name, [LINE], img_width=width, img_height=height))
        for name, (width, height) in stated.items()
    }
    table = SampleTable.from_release(write_split(tiles))
    assert table.tile.tolist() == ["a_0.jpg", "a_2.jpg"]
    assert table.left_out == (("a_1.jpg", 0, Reason.OTHER_SIZE),)


# --- One document for all tiles.

MANY = [f"a_{i}.jpg" for i in range(9)]


def one_document(folder: Path, text: str) -> Path:
    """A release whose label archive has one member."""
    for archive, members in (("TS_KS", dict.fromkeys(MANY, GOOD)), ("TL_KS_LINE", {"via_project.json": text})):
        with zipfile.ZipFile(folder / f"{archive}.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in members.items():
                file.writestr(name, data)
    return folder


def entries() -> dict[str, Any]:
    return {key: image for name in MANY for key, image in via_label(name, [LINE]).items()}


def test_one_project_or_export_labels_all_tiles(tmp_path: Path) -> None:
    project = {"_via_settings": {}, "_via_img_metadata": entries(), "_via_attributes": {}, "_via_image_id_list": []}
    large = json.dumps(entries(), indent=9000)
    assert len(large) > LARGEST_LABEL
    for text in (json.dumps(entries()), json.dumps(project), large):
        table = SampleTable.from_release(one_document(tmp_path, text))
        assert (table.tile.tolist(), table.left_out) == (MANY, ())


def test_a_document_that_is_larger_than_its_tiles_justify_is_refused(tmp_path: Path) -> None:
    text = json.dumps(entries()) + " " * len(MANY) * LARGEST_LABEL
    with pytest.raises(InputError, match="most often because the label has more than 4 MiB per tile"):
        SampleTable.from_release(one_document(tmp_path, text))


def test_a_fault_in_one_document_costs_only_its_tile(tmp_path: Path) -> None:
    images = entries()
    images["a_1.jpg1"]["regions"] = [None]
    images["a_2.jpg1"]["filename"] = 7
    images["again"] = images["a_3.jpg1"]
    images["gone"] = {**images["a_4.jpg1"], "filename": "gone_1.jpg"}
    images["A"] = {**images["a_5.jpg1"], "filename": "A_5.JPG"}
    table = SampleTable.from_release(one_document(tmp_path, json.dumps(images)))
    assert table.tile.tolist() == ["a_0.jpg", "a_4.jpg", "a_6.jpg", "a_7.jpg", "a_8.jpg"]
    assert set(table.left_out) == {
        ("a_1.jpg", 0, Reason.NOT_A_POLYLINE),
        ("entry 2 of the label", -1, Reason.BROKEN_LABEL),
        ("a_2.jpg", -1, Reason.NO_LABEL),
        ("a_3.jpg", -1, Reason.TWO_LABELS),
        ("gone_1.jpg", -1, Reason.NO_IMAGE),
        ("a_5.jpg", 0, Reason.TWO_LABELS),
    }
