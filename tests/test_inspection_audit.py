"""The functions of the audit and of leakage against a direct implementation of their definitions."""

from __future__ import annotations

import json
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.render.scene import draw_chimneys, draw_scenes, labelled_height
from dali_pipes.inspect.audit import Labels, closed_form, scene_scales
from dali_pipes.inspect.leakage import _Chimneys, first_alike, leakage
from dali_pipes.release.members import Members
from dali_pipes.samples.table import SampleTable
from tests.conftest import jpeg, via_label

PICTURE = jpeg(512, 512)


class Memory(Members):
    """Files by name."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.names = list(files)
        self.files = list(files.values())

    def read(self, index: int) -> NDArray[np.uint8]:
        return np.frombuffer(self.files[index], np.uint8)


def table(tiles: list[tuple[str, list[Any], list[Any]]], **file: str) -> SampleTable:
    """A table of tiles (name, polylines, heights)."""
    labels = {}
    for name, polylines, heights in tiles:
        label = via_label(name, polylines, **file)
        (image,) = label.values()
        for region, height in zip(image["regions"], heights, strict=True):
            region["region_attributes"]["chi_height_m"] = str(height)
        labels[f"{name}.json"] = json.dumps(label).encode()
    return SampleTable.from_labels(Memory(labels), Memory({name: PICTURE for name, *_ in tiles}))


def printed(scale: float, vector: tuple[int, int]) -> Decimal:
    """The height of a chimney as a label prints it: exact to fifty digits, then rounded to the hundredth."""
    x, y = vector
    height = Decimal(scale) * Decimal(x * x + y * y).sqrt()
    return height.quantize(Decimal("0.01"), ROUND_HALF_EVEN)


vectors = st.tuples(st.integers(-200, 200), st.integers(-200, 200)).filter(lambda v: 17 <= np.hypot(*v) <= 250)


def scene(name: str, found: list[tuple[int, int]], heights: list[Any], **file: str) -> SampleTable:
    return table([(f"{name}_1.jpg", [[(250, 250), (250 + x, 250 + y)] for x, y in found], heights)], **file)


# --- Scales.


@settings(max_examples=60, deadline=None)
@given(st.floats(0.8, 3.6), st.lists(vectors, min_size=1, max_size=12))
def test_labels_that_follow_one_scale_are_never_flagged(scale: float, found: list[tuple[int, int]]) -> None:
    labels = Labels.of({"train": scene("K3_A_1", found, [printed(scale, vector) for vector in found])})
    assert scene_scales(labels) == []


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.8, 3.6),
    st.lists(vectors, min_size=3, max_size=12),
    st.integers(0, 11),
    st.floats(1.01, 3) | st.floats(0.3, 0.99),
)
def test_one_wrong_label_among_three_is_the_one_that_is_flagged(
    scale: float, found: list[tuple[int, int]], which: int, factor: float
) -> None:
    heights = [printed(scale, vector) for vector in found]
    which %= len(found)
    heights[which] = (heights[which] * Decimal(factor)).quantize(Decimal("0.01"))
    (flagged,) = scene_scales(Labels.of({"train": scene("K3_A_1", found, heights)}))
    assert flagged.flagged.tolist() == [which]
    assert flagged.scale == pytest.approx(scale, rel=0.01 / 0.8 / 17)
    assert flagged.agreeing == len(found) - 1
    off = float(heights[which]) - scale * np.hypot(*found[which])
    assert flagged.deviation[0] == pytest.approx(off, abs=0.02 * np.hypot(*found[which]) / 17 + 0.02)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.8, 3.6), st.floats(0, 2 * np.pi), st.lists(st.floats(20, 200), min_size=2, max_size=9), st.data())
def test_heights_computed_before_rounding_are_distinguished_from_wrong_ones(
    scale: float, direction: float, lengths: list[float], data: st.DataObject
) -> None:
    towards = np.array([np.cos(direction), np.sin(direction)])
    bases = [np.array([data.draw(st.floats(220, 290)) for _ in "xy"]) for _ in lengths]
    polylines = [
        np.rint([base, base + length * towards]).astype(int) for base, length in zip(bases, lengths, strict=True)
    ]
    points = [[tuple(point) for point in polyline.tolist()] for polyline in polylines]
    heights = [f"{scale * length:.2f}" for length in lengths]
    labels = Labels.of({"train": table([("K3_A_1_1.jpg", points, heights)])})
    assert all(found.vertex_rounding for found in scene_scales(labels))
    heights[0] = f"{2 * scale * lengths[0]:.2f}"
    (found,) = scene_scales(Labels.of({"train": table([("K3_A_1_1.jpg", points, heights)])}))
    assert not found.vertex_rounding


@pytest.mark.parametrize(("beyond", "explained"), [(0.98, True), (1.04, False)])
def test_rounding_two_ends_explains_the_diagonal_of_a_pixel_and_no_more(beyond: float, explained: bool) -> None:
    found = [(41, 41), (141, 141)]  # of diagonals that were `beyond` pixels shorter, and longer, in x and in y
    heights = [f"{1.5 * side * 2**0.5:.2f}" for side in (41 - beyond, 141 + beyond)]
    (flagged,) = scene_scales(Labels.of({"train": scene("K3_A_1", found, heights)}))
    assert flagged.vertex_rounding is explained


def test_without_a_majority_the_median_is_the_scale() -> None:
    found = [(100, 0), (100, 0), (100, 0)]
    (flagged,) = scene_scales(Labels.of({"train": scene("K3_A_1", found, [100, 150, 250])}))
    assert flagged.scale == 1.5
    assert flagged.flagged.tolist() == [2, 0]
    (flagged,) = scene_scales(Labels.of({"train": scene("K3_A_1", found[:2], [100, 150])}))
    assert (flagged.scale, flagged.agreeing) == (1.25, 0)


def test_a_scene_has_one_scale_in_both_splits() -> None:
    ours, theirs = scene("K3_A_1", [(30, 40)], ["75.00"]), scene("K3_A_1", [(30, 40)], ["75.03"])
    assert scene_scales(Labels.of({"train": ours})) == []
    assert [found.scene for found in scene_scales(Labels.of({"train": ours, "validation": theirs}))] == ["K3_A_1"]


# --- The closed form.

PUBLISHED = [  # data.md: the five labels that others published
    ((108, 378), (184, 370), ".55", "28.6724462424", "1.3777451834", "76.78"),
    ((221, 402), (284, 394), ".55", "28.6724462424", "1.3777451834", "63.81"),
    ((202, 384), (232, 408), ".7", "-16.71936769", "-17.167585", "62.41"),
    ((231, 384), (265, 411), ".7", "-16.71936769", "-17.167585", "70.53"),
    ((342, 287), (376, 380), ".7", "4.612", "19.861", "187.28"),
]


@pytest.mark.parametrize("label", PUBLISHED)
@pytest.mark.parametrize("off", [0.0, 0.02, -0.02])
def test_published_labels_pass_the_audit_and_fail_when_off_by_two_hundredths(
    label: tuple[Any, ...], off: float
) -> None:
    base, top, gsd, roll, pitch, height = label
    tiles = [("K3_A_1_1.jpg", [[base, top]], [f"{float(height) + off:.2f}"])]
    found = closed_form(
        Labels.of({"train": table(tiles, img_resolution=gsd, img_roll_tilt=roll, img_pitch_tilt=pitch)})
    )
    assert found.known.tolist() == [True]
    assert len(found.flagged) == (off != 0)


def test_a_view_straight_down_and_missing_metadata_are_not_audited() -> None:
    for metadata in (
        {},
        {"img_resolution": ".7", "img_roll_tilt": "0", "img_pitch_tilt": "0"},
        {"img_resolution": ".7"},
    ):
        found = closed_form(Labels.of({"train": scene("K3_A_1", [(30, 40)], [75], **metadata)}))
        assert (found.known.tolist(), found.flagged.tolist(), found.deviation.tolist()) == ([False], [], [0.0])


# --- Near-duplicates.

few = st.lists(
    st.tuples(st.integers(0, 2), st.integers(4000, 4004), st.integers(-2, 2), st.integers(-2, 2)), max_size=30
)


def chimneys(rows: list[tuple[int, int, int, int]]) -> _Chimneys:
    columns = np.array(rows, np.int64).reshape(-1, 4)
    return _Chimneys(columns[:, 0], columns[:, 1] / 100, columns[:, 2:].astype(np.float64))


@settings(max_examples=200, deadline=None)
@given(few, few, st.sampled_from([1, 7, 1 << 22]))
def test_the_search_finds_what_two_loops_find(asked: Any, known: Any, at_once: int) -> None:
    def alike(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
        return a[0] == b[0] and all(abs(x - y) <= 1 for x, y in zip(a[1:], b[1:], strict=True))

    expected = [next((i for i, b in enumerate(known) if alike(a, b)), -1) for a in asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dali_pipes.inspect.leakage.PAIRS_AT_ONCE", at_once)
        assert first_alike(chimneys(asked), chimneys(known)).tolist() == expected


def rendered(tiles: int, scenes: int, seed: int) -> list[tuple[str, list[Any], list[str]]]:
    """Labels of rendered scenes, without the pictures; no chimney stands in two tiles."""
    rng = np.random.default_rng(seed)
    made = []
    for place in draw_scenes(scenes, rng):
        for number in range(tiles // scenes):
            polylines = [chimney.polyline(place) for chimney in draw_chimneys(place, rng)]
            heights = [f"{labelled_height(polyline, place):.2f}" for polyline in polylines]
            points = [[tuple(point) for point in polyline.tolist()] for polyline in polylines]
            made.append((f"{place.name}_{number}.jpg", points, heights))
    return made


def test_chance_matches_are_estimated_and_planted_duplicates_stand_out() -> None:
    tiles = rendered(1600, 40, seed=3)
    ours, theirs = tiles[::8], [tile for i, tile in enumerate(tiles) if i % 8]
    found = leakage(Labels.of({"train": table(theirs), "validation": table(ours)}))
    assert found.by_chance > 20
    assert abs(len(found.pairs) - found.by_chance) < 4 * found.by_chance**0.5

    overlapping = [
        (name.replace(".jpg", "0.jpg"), [[(x + 3, y - 2) for x, y in points] for points in polylines], heights)
        for name, polylines, heights in ours
    ]
    doubled = leakage(Labels.of({"train": table(theirs + overlapping), "validation": table(ours)}))
    assert len(doubled.pairs) == doubled.samples
    assert doubled.by_chance < 2 * found.by_chance
