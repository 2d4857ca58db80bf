"""The polyline's mask is that of the reference, which draws with OpenCV, also between whole pixels and in windows."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipes.batches.masks import polyline_frame, polyline_mask
from dali_pipes.geometry import letterbox, window

POINTS = st.lists(
    st.tuples(st.floats(0, 600, allow_subnormal=False), st.floats(0, 500, allow_subnormal=False)),
    min_size=2,
    max_size=4,
)


def reference(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """What the reference system's own code draws: `astype(int)` truncates."""
    mask = np.zeros((height, width), np.uint8)
    thickness = max(1, int(0.004 * min(height, width)))
    return cv2.polylines(mask, [points.astype(int).astype(np.int32)], False, 255, thickness)


@settings(max_examples=100, deadline=None)
@given(POINTS)
def test_vertices_between_pixels_are_truncated_as_the_reference_does(points: list[tuple[float, float]]) -> None:
    drawn = polyline_mask(np.array(points), 500, 600)
    np.testing.assert_array_equal(drawn, reference(np.array(points), 500, 600))


def test_a_vertex_just_below_a_pixel_is_in_the_pixel_before() -> None:
    fraction, whole = np.array([[10.9, 20.9], [40.99, 60.5]]), np.array([[10.0, 20.0], [40.0, 60.0]])
    np.testing.assert_array_equal(polyline_mask(fraction, 96, 96), polyline_mask(whole, 96, 96))


SHAPES = [(512, 512), (500, 600), (256, 384), (1536, 1536), (97, 64)]  # 1,536 → 224 rounds weights by their position


@pytest.mark.parametrize("size", [224, 80, 33])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cropped", [False, True])
def test_a_frame_is_that_of_the_whole_mask(shape: tuple[int, int], size: int, cropped: bool) -> None:
    rng = np.random.default_rng(0)
    height, width = shape
    for reach in np.repeat([0.02, 0.1, 0.5], 20):
        line = np.clip(rng.uniform(size=2) + rng.normal(0, reach, (3, 2)), 0, 1) * [width, height]
        cut = window(line, height, width, 100).tolist() if cropped else [0, 0, height, width]
        np.testing.assert_array_equal(polyline_frame(line, height, width, cut, size), whole(line, shape, cut, size))


def whole(line: np.ndarray, shape: tuple[int, int], cut: list[int], size: int) -> np.ndarray:
    """The frame of a window of the whole mask."""
    top, left, rows, columns = cut
    fit = letterbox(rows, columns, size)
    expected = np.zeros((size, size), np.uint8)
    expected[fit.top : fit.top + fit.height, fit.left : fit.left + fit.width] = cv2.resize(
        reference(line, *shape)[top : top + rows, left : left + columns], (fit.width, fit.height)
    )
    return expected
