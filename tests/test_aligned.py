"""The aligned window: the polyline points up, OpenCV gives the same pixels, and the window turns with its tile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.dlpack import from_dlpack

from dali_pipes import Loader, SampleTable
from dali_pipes.batches.augment import Augmentation
from dali_pipes.batches.graph import build
from dali_pipes.batches.masks import polyline_mask, turned_columns
from dali_pipes.batches.plan import ValidationPlan
from dali_pipes.batches.source import Source
from dali_pipes.batches.view import View
from dali_pipes.errors import InputError
from dali_pipes.geometry import aligned
from tests.conftest import jpeg, via_label
from train.recipe.config import Data

places = st.floats(-300, 900)
lines = st.lists(st.tuples(places, places), min_size=2, max_size=5)

ROUNDING = 1 if int(cv2.__version__.partition(".")[0]) >= 5 else 8
"""Levels by which the same warp of a tile and of a part of it may differ: OpenCV 4 rounds positions to 1/32 pixel."""


def into(matrix: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Points (P, 2) of the frame in pixels of the image."""
    return frame @ matrix[:, :2].T + matrix[:, 2]


@given(points=lines, crop=st.integers(32, 400), size=st.integers(16, 300))
def test_the_polyline_points_up_from_its_base_in_the_middle_of_the_window(
    points: list[tuple[float, float]], crop: int, size: int
) -> None:
    line = np.array(points)
    assume(np.linalg.norm(line[-1] - line[0]) > 1e-3)
    matrix = aligned(line, crop, size)
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    seen = into(inverse, line)
    assert seen[-1, 0] == pytest.approx(seen[0, 0], abs=1e-6)
    assert seen[-1, 1] < seen[0, 1], "up is towards the first row"
    low, high = seen.min(axis=0), seen.max(axis=0)
    assert (low + high) / 2 == pytest.approx([(size - 1) / 2] * 2, abs=1e-6)
    assert (low >= -0.5).all()
    assert (high <= size - 0.5).all()
    scale = np.sqrt(np.linalg.det(matrix[:, :2]))
    assert scale > 0, "it is not mirrored"
    extent = (high - low).max() * scale
    assert scale * size == pytest.approx(max(crop, 1.25 * extent))


def test_a_vertical_polyline_gives_the_window_itself_and_a_closed_one_is_not_turned() -> None:
    upright = [[0.5, 0, 100 - 0.5 * 31.5], [0, 0.5, 70 - 0.5 * 31.5]]
    np.testing.assert_allclose(aligned([(100, 80), (100, 60)], 32, 64), upright)
    np.testing.assert_allclose(aligned([(100, 70), (90, 65), (110, 75), (100, 70)], 32, 64), upright)
    quarter = aligned([(90, 70), (110, 70)], 32, 64)
    np.testing.assert_allclose(into(quarter, np.array([[31.5, 0]])), [[100 + 0.5 * 31.5, 70]])
    many = aligned([[(100, 80), (100, 60)], [(90, 70), (110, 70)]], 32, 64)
    np.testing.assert_array_equal(many, [aligned([(100, 80), (100, 60)], 32, 64), quarter])


LINES = [[(120, 150), (133, 131)], [(3, 5), (40, 9)], [(200, 30), (199, 140), (120, 210)], [(60, 60), (60, 20)]]
SIZES = [(512, 512), (300, 220), (222, 301), (257, 243)]


@pytest.fixture
def written(write_split: Callable[..., Path]) -> tuple[SampleTable, list[bytes]]:
    images = [jpeg(height, width, i) for i, (height, width) in enumerate(SIZES)]
    names = [f"K3_CHN_20210518050720_{i}.jpg" for i in range(len(SIZES))]
    tiles = {name: (image, via_label(name, LINES)) for name, image in zip(names, images, strict=True)}
    return SampleTable.from_release(write_split(tiles)), images


@pytest.mark.parametrize(("size", "crop"), [(64, 40), (128, 160), (224, 300)])
def test_the_window_is_that_of_warp_affine_on_the_whole_tile(
    size: int, crop: int, written: tuple[SampleTable, list[bytes]]
) -> None:
    """RGB differs by rounding alone, since only the part that is shown is decoded; masks are equal."""
    table, images = written
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for batch in Loader(table, 5, size=size, view=View("aligned", crop)):
        for i, row in enumerate(batch.sample.tolist()):
            bgr = cv2.imdecode(np.frombuffer(images[table.image[row]], np.uint8), cv2.IMREAD_COLOR)
            assert bgr is not None
            matrix = aligned(table.polyline[row], crop, size)
            rgb = cv2.warpAffine(np.ascontiguousarray(bgr[..., ::-1]), matrix, (size, size), flags=flags)
            drawn = cv2.warpAffine(
                polyline_mask(table.polyline[row], *bgr.shape[:2]), matrix, (size, size), flags=flags
            )
            assert np.abs(batch.rgb[i].numpy().astype(int) - rgb).max() <= ROUNDING, row
            assert np.abs(batch.polyline[i, ..., 0].numpy().astype(int) - drawn).max() <= ROUNDING, row
            assert drawn.any(), "the polyline is visible"


@pytest.mark.parametrize("kind", ["aligned", "tile+aligned"])
def test_the_graph_of_the_gpu_turns_within_one_grey_level(kind: str, written: tuple[SampleTable, list[bytes]]) -> None:
    table, view = written[0], View(kind, 100)  # type: ignore[arg-type]
    graph = build(
        Source(view.frames(table, 96), ValidationPlan(len(table), 5)), device="cpu", device_id=None, threads=1
    )
    largest, share = (2, 1e-3) if cv2.__version__ >= "5" else (4, 1e-2)  # OpenCV 4 rounds positions to 1/32 pixel
    for batch in Loader(table, 5, size=96, view=view):
        rgb, polyline, _ = (from_dlpack(output.as_tensor()) for output in graph.run())
        difference = (rgb.int() - batch.rgb.int()).abs()
        assert torch.equal(polyline, batch.polyline)
        assert difference.max() <= largest
        assert (difference > 1).float().mean() < share
        inside = (batch.padding == 0).repeat_interleave(3, dim=-1)
        assert (rgb[~inside] <= 128).all(), "only the last half pixel outside of the image is blended"


@settings(deadline=None)
@given(
    points=st.lists(st.tuples(st.floats(0, 90), st.floats(0, 70)), min_size=2, max_size=3),
    crop=st.integers(10, 150),
    size=st.integers(8, 40),
)
def test_padding_is_what_lies_outside_of_the_image(points: list[tuple[float, float]], crop: int, size: int) -> None:
    matrix = aligned(points, crop, size)
    row, column = np.mgrid[:size, :size]
    x, y = into(matrix, np.stack([column, row], axis=-1).astype(float)).transpose(2, 0, 1)
    outside = np.maximum.reduce([-0.5 - x, x - 89.5, -0.5 - y, y - 69.5])  # px beyond the nearest edge
    first, stop = turned_columns(matrix[None], np.array([70]), np.array([90]), size)[0].T[..., None]
    found = (column < first) | (column >= stop)
    clear = np.abs(outside) > 1e-9
    np.testing.assert_array_equal(found[clear], (outside > 0)[clear])


def world(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth picture without edges, defined everywhere, (H, W, 3) uint8."""
    waves = [128 + 60 * np.sin(x / 9 + k) + 60 * np.cos(y / 11 - k) for k in range(3)]
    return np.round(np.stack(waves, axis=-1)).astype(np.uint8)


@settings(deadline=None, max_examples=25)
@given(angle=st.floats(-180, 180), tilt=st.floats(-180, 180), length=st.floats(5, 150), size=st.sampled_from([64, 96]))
def test_turning_the_tile_by_any_angle_leaves_the_window_the_same(
    angle: float, tilt: float, length: float, size: int
) -> None:
    """The tile is sampled from a picture that is known everywhere, so that only the window is interpolated."""
    windows = []
    direction = np.array([np.cos(np.radians(tilt)), np.sin(np.radians(tilt))])
    line = np.stack([-direction, direction]) * length / 2
    y, x = (coordinate.astype(float) - 255.5 for coordinate in np.mgrid[:512, :512])
    for turn in (0.0, angle):
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        tile, turned = world(c * x + s * y, -s * x + c * y), line @ np.array([[c, s], [-s, c]]) + 255.5
        size_of = np.array([512])
        cuts = View("aligned", 100).cuts(turned[None], size_of, size_of, size)
        frame = np.zeros((size, size, 3), np.uint8)
        cuts.draw(0, tile, frame)
        windows.append(frame.astype(int))
    difference = np.abs(windows[0] - windows[1])
    assert difference.max() <= 4
    assert difference.mean() < 0.5


def test_only_the_mirror_is_left_as_augmentation() -> None:
    for view in ("aligned", "tile+aligned"):
        for option in ("vflip", "rot90"):
            with pytest.raises(InputError, match=r"only --data\.hflip keeps what it shows"):
                Data(view=view, **{option: 0.5})  # type: ignore[arg-type]
        assert Data(view=view, hflip=0.5).augmentation() == Augmentation(hflip=0.5)


def test_polylines_drawn_from_top_to_base_are_warned_of_where_the_window_turns(release: Path) -> None:
    table = SampleTable.from_release(release)
    assert View("aligned").upside_down(table) == "", "the rendered ones are drawn from the base"
    first = int(np.flatnonzero(table.scene == table.scene[0])[1])
    polyline = table.polyline.copy()
    polyline[first] = polyline[first, ::-1]
    drawn = replace(table, polyline=polyline)
    warning = View("tile+aligned").upside_down(drawn)
    assert warning.startswith("drawn from top to base, as it seems: 1 polyline, which")
    assert f"one on {table.tile[first]};" in warning
    assert View("tile").upside_down(drawn) == ""
