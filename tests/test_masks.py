"""The polyline's mask is that of the reference, which draws with OpenCV, also between whole pixels and in windows."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_pipes.batches import masks
from dali_pipes.batches.masks import polyline_frame, polyline_mask
from dali_pipes.geometry import window

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


@settings(max_examples=60, deadline=None)
@given(points=POINTS, crop=st.integers(20, 300))
def test_a_window_of_a_large_image_is_drawn_alone_with_the_same_pixels(
    points: list[tuple[float, float]], crop: int
) -> None:
    line = np.array(points)
    cut = window(line, 500, 600, crop).tolist()
    cut_out = polyline_frame(line, 500, 600, cut, 64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks, "LARGE", 0)
        np.testing.assert_array_equal(polyline_frame(line, 500, 600, cut, 64), cut_out)
