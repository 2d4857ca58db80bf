"""Hostile labels and JPEGs: each kind is skipped with its reason, or decoded as OpenCV decodes it.

Each release here has a hostile tile, `bad_1`, and a tile `good_1`, which is always in the table.
"""

from __future__ import annotations

import json
import math
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dali_pipes import Loader, SampleTable
from dali_pipes.geometry import letterbox
from dali_pipes.release.find import open_split
from dali_pipes.release.paths import ReleasePaths
from dali_pipes.samples.via import LARGEST_LABEL, TALLEST, Reason, parse
from tests.conftest import jpeg, via_label
from tests.test_samples import with_exif

MEMORY = 48 * LARGEST_LABEL  # most bytes that Python may allocate for a label
LINE = [(10, 20), (30, 40)]
GOOD = jpeg(64, 96)
SHARED = via_label("bad_1.jpg", [LINE])
TEXT = json.dumps(SHARED)


def label(**fields: Any) -> Any:
    """bad_1's label with some fields of its image replaced."""
    return {"a": {**SHARED["bad_1.jpg1"], **fields}}


def region(shape: Any = None, **attributes: Any) -> Any:
    """bad_1's label with fields of its only region replaced."""
    points = {"name": "polyline", "all_points_x": [10, 30], "all_points_y": [20, 40]}
    return label(
        regions=[
            {
                "shape_attributes": {**points, **(shape or {})},
                "region_attributes": {"chi_height_m": "62.41", **attributes},
            }
        ]
    )


def height(value: Any) -> Any:
    return region(chi_height_m=value)


def encoded(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


def patched_frame(offset: int, value: bytes) -> bytes:
    """A field of the JPEG's frame header overwritten."""
    at = GOOD.index(b"\xff\xc0") + offset
    return GOOD[:at] + value + GOOD[at + len(value) :]


BAD_HEIGHTS: tuple[Any, ...] = (
    "NaN",
    math.nan,
    math.inf,
    "-inf",
    "1e400",
    1e300,
    TALLEST,
    -1,
    0,
    "0x1F",
    "1_0",
    "62,41",
    {},
    True,
)
LABELS: dict[str, tuple[Any, Reason]] = {
    "empty": (b"", Reason.BROKEN_LABEL),
    "cut short": (TEXT[:-30].encode(), Reason.BROKEN_LABEL),
    "something behind it": (TEXT.encode() + b"{}", Reason.BROKEN_LABEL),
    "cp949": (json.dumps(label(key="높이"), ensure_ascii=False).encode("cp949"), Reason.BROKEN_LABEL),
    "UTF-16": (TEXT.encode("utf-16"), Reason.BROKEN_LABEL),
    "NULs": (bytes(1000), Reason.BROKEN_LABEL),
    "nested without end": (b'{"a":' * 500_000, Reason.BROKEN_LABEL),
    "lists without end": (b"[" * 1_000_000, Reason.BROKEN_LABEL),
    "five megabytes of objects": (b"[" + b"{}," * 1_700_000 + b"{}]", Reason.LARGE_LABEL),
    "four megabytes of objects": (b"[" + b"{}," * 1_390_000 + b"{}]", Reason.BROKEN_LABEL),
    "a list": ([SHARED], Reason.BROKEN_LABEL),
    "a number": (7, Reason.BROKEN_LABEL),
    "null": (None, Reason.BROKEN_LABEL),
    "an image that is a list": ({"a": [1]}, Reason.BROKEN_LABEL),
    "no filename": (label(filename=None), Reason.BROKEN_LABEL),
    "a filename that is a number": (label(filename=3), Reason.BROKEN_LABEL),
    "a filename of a megabyte": (label(filename="b" * 1_000_000), Reason.BROKEN_LABEL),
    "a filename of half a surrogate": (TEXT.replace('"bad_1.jpg"', r'"\ud800.jpg"').encode(), Reason.BROKEN_LABEL),
    "a filename that ends in NUL": (label(filename="good_1.jpg\0"), Reason.BROKEN_LABEL),
    "an image twice": ({"a": SHARED["bad_1.jpg1"], "b": SHARED["bad_1.jpg1"]}, Reason.TWO_LABELS),
    "a key twice": ((TEXT[:-1] + "," + TEXT[1:]).encode(), Reason.BROKEN_LABEL),
    "two heights": (TEXT.replace('"chi_id"', '"chi_height_m": "1", "chi_id"').encode(), Reason.BROKEN_LABEL),
    "no regions": (label(regions=None), Reason.NO_REGIONS),
    "regions that are a text": (label(regions="polyline"), Reason.NO_REGIONS),
    "a region that is null": (label(regions=[None]), Reason.NOT_A_POLYLINE),
    "no shape": (label(regions=[{}]), Reason.NOT_A_POLYLINE),
    "a rectangle": (region({"name": "rect"}), Reason.NOT_A_POLYLINE),
    "more x than y": (region({"all_points_x": [1, 2, 3]}), Reason.NOT_A_POLYLINE),
    "points that are a text": (region({"all_points_x": "12", "all_points_y": "34"}), Reason.NOT_A_POLYLINE),
    "a point that is a list": (region({"all_points_x": [1, [2]]}), Reason.NOT_A_POLYLINE),
    "a point that is true": (region({"all_points_x": [1, True]}), Reason.NOT_A_POLYLINE),
    "a point that is NaN": (region({"all_points_x": [1, math.nan]}), Reason.NOT_A_POLYLINE),
    "a point of a million digits": (
        json.dumps(region({"all_points_x": [1, 77]})).replace("77", "7" * 1_000_000).encode(),
        Reason.NOT_A_POLYLINE,
    ),
    "a point at infinity": (region({"all_points_x": [1, 1e308]}), Reason.OUTSIDE),
    "a point left of the image": (region({"all_points_x": [1, -1e-9]}), Reason.OUTSIDE),
    "100,000 points": (via_label("bad_1.jpg", [[(i % 60, 3) for i in range(100_000)]]), Reason.TOO_MANY_POINTS),
    "one point": (region({"all_points_x": [1], "all_points_y": [1]}), Reason.TOO_FEW_POINTS),
    "no length": (region({"all_points_x": [1, 1], "all_points_y": [2, 2]}), Reason.ZERO_LENGTH),
    "no height": (label(regions=[{**region()["a"]["regions"][0], "region_attributes": []}]), Reason.BAD_HEIGHT),
    **{f"a height of {value!r}": (height(value), Reason.BAD_HEIGHT) for value in BAD_HEIGHTS},
}
ROTATED, CUT, NO_JPEG = Reason.ROTATED, Reason.TRUNCATED, Reason.NOT_A_JPEG
JPEGS: dict[str, tuple[bytes, Reason]] = {
    "empty": (b"", Reason.EMPTY),
    "a PNG": (cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes(), Reason.PNG),
    "a page of HTML": (b"<html>", Reason.WEB_PAGE),
    "headers alone": (GOOD[: GOOD.index(b"\xff\xda")], CUT),
    "cut in half": (GOOD[: len(GOOD) // 2], CUT),
    "cut in its headers": (GOOD[:100], CUT),
    "its end overwritten": (GOOD[:-2] + b"ab", CUT),
    "bit flip in its first marker": (b"\xff\xd9" + GOOD[2:], NO_JPEG),
    "a segment of no length": (GOOD[:4] + b"\0\0" + GOOD[6:], NO_JPEG),
    "a segment beyond the end": (GOOD[:4] + b"\xff\xff" + GOOD[6:], CUT),
    "no width": (patched_frame(7, b"\0\0"), NO_JPEG),
    "no height": (patched_frame(5, b"\0\0"), NO_JPEG),
    "a megabyte of fill bytes": (b"\xff\xd8" + b"\xff" * (1 << 20) + GOOD[2:], NO_JPEG),
    "a megabyte of markers": (b"\xff\xd8" + b"\xff\x01" * (1 << 19) + GOOD[2:], NO_JPEG),
    "CMYK": (patched_frame(9, b"\4"), Reason.COLOURS),
    "two components": (patched_frame(9, b"\2"), Reason.COLOURS),
    "200 components": (patched_frame(9, b"\xc8"), Reason.COLOURS),
    "rotated": (with_exif(GOOD, 6), ROTATED),
    "mirrored": (with_exif(GOOD, 2), ROTATED),
    "rotated by no known number": (with_exif(GOOD, 99), ROTATED),
}
IMAGES: dict[str, bytes] = {
    "one pixel": encoded(np.full((1, 1, 3), (10, 200, 90), np.uint8)),
    "30000 by 2": encoded(np.tile(np.arange(30000, dtype=np.uint16)[None, :, None] >> 7, (2, 1, 3)).astype(np.uint8)),
    "2 by 30000": encoded(np.tile(np.arange(30000, dtype=np.uint16)[:, None, None] >> 7, (1, 2, 3)).astype(np.uint8)),
    "grey": encoded(np.arange(64 * 96, dtype=np.uint8).reshape(64, 96)),
    "upright by EXIF": with_exif(GOOD, 1),
    "EXIF that is no TIFF": with_exif(GOOD, 6).replace(b"MM\0*", b"XX\0*"),
    "EXIF that leads beyond itself": with_exif(GOOD, 6).replace(b"MM\0*\0\0\0\x08", b"MM\0*\xff\xff\xff\xf0"),
    "zeros behind its end": GOOD + bytes(40),
}


@pytest.mark.parametrize("kind", LABELS)
def test_a_hostile_label_is_skipped_with_its_reason(kind: str, write_split: Callable[..., Path]) -> None:
    text, reason = LABELS[kind]
    tiles = {"good_1.jpg": (GOOD, via_label("good_1.jpg", [LINE])), "bad_1.jpg": (GOOD, text)}
    release = write_split(tiles, deflate=True)
    tracemalloc.start()
    try:
        table = SampleTable.from_release(release)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert table.tile.tolist() == ["good_1.jpg"]
    assert [(item.file.split(".")[0], item.reason) for item in table.left_out] == [("bad_1", reason)]


@pytest.mark.parametrize("kind", JPEGS)
def test_a_hostile_jpeg_is_skipped_with_its_reason(kind: str, write_split: Callable[..., Path]) -> None:
    image, reason = JPEGS[kind]
    tiles = {"good_1.jpg": (GOOD, via_label("good_1.jpg", [LINE])), "bad_1.jpg": (image, SHARED)}
    table = SampleTable.from_release(write_split(tiles))
    assert table.tile.tolist() == ["good_1.jpg"]
    assert table.left_out == (("bad_1.jpg", -1, reason),)


def test_unusual_images_are_decoded_as_opencv_decodes_them(write_split: Callable[..., Path]) -> None:
    tiles = {
        f"{i}_1.jpg": (image, via_label(f"{i}_1.jpg", [[(0, 0), (1, 1)]])) for i, image in enumerate(IMAGES.values())
    }
    table = SampleTable.from_release(write_split(tiles))
    assert table.left_out == ()
    batch = next(iter(Loader(table, len(tiles))))
    upright = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    for i, (kind, image) in enumerate(IMAGES.items()):
        decoded = np.asarray(cv2.imdecode(np.frombuffer(image, np.uint8), upright))[:, :, ::-1]
        box = letterbox(decoded.shape[0], decoded.shape[1], 224)
        expected = np.zeros((224, 224, 3), int)
        expected[box.top : box.top + box.height, box.left : box.left + box.width] = cv2.resize(
            decoded, (box.width, box.height), interpolation=cv2.INTER_LINEAR
        )
        assert (table.height_px[i], table.width[i]) == decoded.shape[:2], kind
        assert np.abs(batch.rgb[i].numpy() - expected).max() <= 1, kind


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + TEXT.encode(),
        json.dumps(label(regions={"0": SHARED["bad_1.jpg1"]["regions"][0]})).encode(),
        json.dumps(label(filename="C:\\tiles/../bad_1.jpg", file_attributes=[], size="many")).encode(),
        json.dumps(region({"all_points_x": ["10", 30.0]}, chi_height_m=100)).encode(),
    ],
    ids=["a BOM", "regions of VIA 1", "a path for a filename", "numbers for texts"],
)
def test_an_unusual_label_is_read(text: bytes) -> None:
    (tile,) = parse(text)
    assert (tile.filename, tile.rejected) == ("bad_1.jpg", ())
    assert tile.regions[0].points.tolist() == [[10, 20], [30, 40]]
    assert tile.regions[0].height == 100


def test_only_the_files_of_a_folder_are_listed(tmp_path: Path) -> None:
    pictures, texts = tmp_path / "TS_KS", tmp_path / "TL_KS_LINE"
    (pictures / "deeper").mkdir(parents=True)
    texts.mkdir()
    (tmp_path / "elsewhere.jpg").write_bytes(GOOD)
    (pictures / "good_1.jpg").write_bytes(GOOD)
    (pictures / "deeper" / "deep_1.JPG").write_bytes(GOOD)
    (pictures / "linked_1.jpg").symlink_to("../elsewhere.jpg")
    (pictures / "dangling_1.jpg").symlink_to("gone.jpg")
    (pictures / "round_1.jpg").symlink_to("round_1.jpg")
    (pictures / "a_folder.jpg").mkdir()
    (pictures / "deeper" / "up").symlink_to(pictures)
    (pictures / "Thumbs.db").touch()
    (pictures / "._good_1.jpg").touch()
    os.mkfifo(pictures / "a_pipe.jpg")
    (pictures / "empty_1.jpg").touch()
    (texts / "good_1.json").write_text(json.dumps(via_label("good_1.jpg", [LINE])))
    images, _ = open_split(ReleasePaths(tmp_path), "train")
    assert images.names == ["deep_1.JPG", "empty_1.jpg", "good_1.jpg", "linked_1.jpg"]
    assert [len(images.read(i)) for i in range(4)] == [len(GOOD), 0, len(GOOD), len(GOOD)]
    (pictures / "deeper" / "good_1.jpg").write_bytes(GOOD)
    images, _ = open_split(ReleasePaths(tmp_path), "train")
    assert "'deeper/good_1.jpg' and 'good_1.jpg'" in images.fault(images.names.index("good_1.jpg"))
