"""Geometry agrees with the published labels and with its definitions."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dali_pipes.geometry import closed_form_height, letterbox, normalised_length, pointing_away, polyline_length_px


@pytest.mark.parametrize(
    ("points", "gsd", "roll", "pitch", "label"),
    [
        (((108, 378), (184, 370)), 0.55, 28.6724462424, 1.3777451834, 76.78),
        (((221, 402), (284, 394)), 0.55, 28.6724462424, 1.3777451834, 63.81),
        (((202, 384), (232, 408)), 0.7, -16.71936769, -17.167585, 62.41),
        (((231, 384), (265, 411)), 0.7, -16.71936769, -17.167585, 70.53),
        (((342, 287), (376, 380)), 0.7, 4.612, 19.861, 187.28),
    ],
)
def test_the_closed_form_gives_the_published_heights(
    points: tuple[tuple[int, int], ...], gsd: float, roll: float, pitch: float, label: float
) -> None:
    height = closed_form_height(polyline_length_px(points), gsd, roll, pitch)
    # Half of the last printed digit, plus the uncertainty of the three-decimal angles of the last row.
    assert height == pytest.approx(label, abs=0.0051 if label < 187 else 0.01)


def test_the_closed_form_without_metadata_is_nan_and_at_nadir_infinite() -> None:
    heights = closed_form_height([10.0, 10.0], 0.7, [math.nan, 0.0], [1.0, 0.0])
    assert math.isnan(heights[0])
    assert math.isinf(heights[1])


sides = st.integers(1, 3000)


@given(height=sides, width=sides, size=st.integers(8, 512))
def test_a_letterbox_touches_two_edges_and_is_centred(height: int, width: int, size: int) -> None:
    box = letterbox(height, width, size)
    assert max(box.height, box.width) == size
    assert min(box.height, box.width) >= 1
    below, right = size - box.height - box.top, size - box.width - box.left
    assert 0 <= below - box.top <= 1
    assert 0 <= right - box.left <= 1
    assert abs(box.height - height * min(size / height, size / width)) <= 0.5 + 1e-9 or box.height == 1


def test_halves_round_to_even_as_in_the_reference() -> None:
    assert letterbox(100, 128, 32).height == 25
    assert letterbox(50, 64, 16).height == 12  # 12.5
    assert letterbox(54, 64, 16).height == 14  # 13.5


points = st.lists(st.tuples(st.floats(0, 500), st.floats(0, 500)), min_size=2, max_size=6)


@given(points=points, height=sides, width=sides)
def test_the_normalised_length_is_the_sum_of_its_segments(
    points: list[tuple[float, float]], height: int, width: int
) -> None:
    expected = sum(
        math.dist((ax / width, ay / height), (bx / width, by / height)) for (ax, ay), (bx, by) in pairwise(points)
    )
    assert normalised_length(points, height, width) == pytest.approx(expected, abs=1e-9)
    padded = [*points, points[-1], points[-1]]
    assert normalised_length(padded, height, width) == pytest.approx(expected, abs=1e-9)


def test_lengths_of_many_polylines_at_once() -> None:
    lines = np.array([[(0, 0), (3, 4)], [(0, 0), (0, 10)]], float)
    assert polyline_length_px(lines).tolist() == [5, 10]
    assert normalised_length(lines, [10, 20], [10, 20]).tolist() == [0.5, 0.5]


@given(
    lean=st.floats(-180, 180),
    seed=st.integers(0, 999),
    number=st.integers(3, 20),
    wrong=st.integers(0, 9),
    shift=st.floats(0, 99),
)
def test_polylines_against_the_lean_of_their_scene_are_found(
    lean: float, seed: int, number: int, wrong: int, shift: float
) -> None:
    wrong = min(wrong, (number - 1) // 2)
    rng = np.random.default_rng(seed)
    angle = np.radians(lean + rng.uniform(-15, 15, number) + 180 * (np.arange(number) < wrong))
    base = rng.uniform(0, 400, (number, 2)) + shift
    drawn = np.stack([base, base + rng.uniform(17, 300, (number, 1)) * np.stack([np.cos(angle), np.sin(angle)], 1)], 1)
    assert pointing_away(drawn, np.full(number, "a")).tolist() == [i < wrong for i in range(number)]
    # Another scene that leans the other way changes nothing.
    both = pointing_away(np.concatenate([drawn, drawn[:, ::-1]]), np.repeat(["a", "b"], number))
    assert both.tolist() == [i < wrong for i in range(number)] * 2


def test_polylines_without_a_common_axis_or_a_majority_are_left_alone() -> None:
    up, down, right = [[0, 9], [0, 0]], [[0, 0], [0, 9]], [[0, 0], [9, 0]]
    for drawn in ([up], [up, down], [up, down, up, down], [up, right, down], [[[3, 3], [3, 3]], up, down]):
        assert not pointing_away(drawn, np.full(len(drawn), "a")).any()
    assert pointing_away([up, down, up], np.full(3, "a")).tolist() == [False, True, False]
