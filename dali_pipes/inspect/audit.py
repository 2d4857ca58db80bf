"""Whether the labels are consistent: pure functions of the tables, no file is read.

    labels = Labels.of({"train": table, "validation": other})
    closed_form(labels)     heights against length_px · gsd / sqrt(tan² roll + tan² pitch)
    scene_scales(labels)    scenes whose height ÷ length is not constant
    repeated(labels)        polylines that appear twice in one tile

The tolerances are derived, not tuned. A height is printed to 0.01 m, and is computed from the polyline as printed, in
whole pixels. The formula therefore holds to half of the last digit, plus the effect of half of the last digit of roll
and pitch on the height (`angle_rounding`). In the same way,

    a label of height h and length L means that the scale of its scene is in [(h − .005) / L, (h + .005) / L].

A scene is constant if one scale is in the intervals of all its labels; this needs no metadata. If a release had
computed its heights before rounding the vertices to whole pixels, each end of a segment could be off by √½ px and its
length by √2 px, and every scene would fail this test. A second interval, [(h − .005) / (L + √2 S),
(h + .005) / (L − √2 S)] with S segments, separates such a scene from one that has a wrong label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..geometry import closed_form_height, polyline_length_px
from ..samples.table import SampleTable, Split

_Name = TypeVar("_Name", bound=str)

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

HALF_DIGIT = 0.005  # metres: heights are printed to a hundredth
PRINTED = HALF_DIGIT + 1e-6  # binary numbers only approximate decimal ones
ANGLE_DECIMALS = range(3, 10)  # of roll and pitch, as published; an angle with fewer is a round number
VERTEX_PX = 2 * 0.5**0.5  # pixels that a segment's length may lose or gain when its two ends are rounded


@dataclass(frozen=True)
class Labels:
    """The labels of all splits, as one list of M rows.

    `split`: (M,) str; `row`: (M,) int64, the row in its split's table; `tile`, `scene`: (M,) str; `region`: (M,)
    int64, its index in the tile's list of regions; `vector`: (M, 2) float64 px (x, y), from the base to the top;
    `length_px`: (M,) float64 px; `segments`: (M,) int64, the number that have a length; `height`: (M,) float64 metres;
    `expected`: (M,) float64 metres by the closed form, not finite without metadata or if the view is straight down;
    `tolerance`: (M,) float64 metres by which the height may differ from it.
    """

    split: NDArray[np.str_]
    row: Int64
    tile: NDArray[np.str_]
    scene: NDArray[np.str_]
    region: Int64
    vector: Float64
    length_px: Float64
    segments: Int64
    height: Float64
    expected: Float64
    tolerance: Float64

    def __len__(self) -> int:
        return len(self.row)

    @classmethod
    def of(cls, tables: Mapping[_Name, SampleTable]) -> Labels:
        """The rows of all tables, one split after the other; at least one table."""
        parts = [cls._of_split(split, table) for split, table in tables.items()]
        return cls(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})

    @classmethod
    def _of_split(cls, split: str, table: SampleTable) -> Labels:
        length_px = polyline_length_px(table.polyline)
        with np.errstate(all="ignore"):  # absurd metadata such as 1e308 give values that are not finite
            expected = closed_form_height(length_px, table.gsd, table.roll, table.pitch)
            tolerance = PRINTED + np.abs(expected) * angle_rounding(table.roll, table.pitch)
        return cls(
            split=np.full(len(table), split),
            row=np.arange(len(table)),
            tile=table.tile,
            scene=table.scene,
            region=regions(table),
            vector=table.polyline[:, -1] - table.polyline[:, 0],
            length_px=length_px,
            segments=(np.diff(table.polyline, axis=1) != 0).any(axis=2).sum(axis=1),
            height=table.height,
            expected=expected,
            tolerance=tolerance,
        )

    @property
    def scale(self) -> Float64:
        """Height ÷ length (M,) float64, metres per pixel."""
        with np.errstate(over="ignore"):
            return self.height / self.length_px


def angle_rounding(roll: Float64, pitch: Float64) -> Float64:
    """The relative change of a height when roll and pitch (n,) degrees are rounded as printed → (n,) float64.

    Height is proportional to 1/t with t² = tan² roll + tan² pitch, so its relative change is
    (tan roll · dtan roll + tan pitch · dtan pitch) / t².
    """
    tangents = [np.tan(np.radians(angle)) for angle in (roll, pitch)]
    change = sum(
        np.abs(tan) * (1 + tan**2) * np.radians(_half_digit(angle))
        for tan, angle in zip(tangents, (roll, pitch), strict=True)
    )
    return np.asarray(change / (tangents[0] ** 2 + tangents[1] ** 2))


def _half_digit(angle: Float64) -> Float64:
    """Half a unit of the last printed decimal of each angle (n,)."""
    decimals = np.full(angle.shape, ANGLE_DECIMALS.stop)
    for digits in reversed(ANGLE_DECIMALS):
        decimals[np.abs(np.round(angle, digits) - angle) < 1e-12] = digits
    return 0.5 * 10.0**-decimals


def regions(table: SampleTable) -> Int64:
    """Each row's index in its tile's list of regions (N,) int64; skipped regions count as well."""
    left_out: dict[str, set[int]] = {}
    for item in table.left_out:
        left_out.setdefault(item.file, set()).add(item.region)
    following: dict[str, int] = {}
    found = np.empty(len(table), np.int64)
    for row, tile in enumerate(table.tile.tolist()):
        region, skipped = following.get(tile, 0), left_out.get(tile, ())
        while region in skipped:
            region += 1
        found[row], following[tile] = region, region + 1
    return found


# --- Heights against the closed form.


@dataclass(frozen=True)
class ClosedForm:
    """The labels compared with height = length_px · gsd / sqrt(tan² roll + tan² pitch)."""

    known: Bool
    """(M,) bool, whether the label has gsd, roll and pitch and the view is not straight down."""
    deviation: Float64
    """(M,) metres, label − formula; 0 where the formula is not known."""
    flagged: Int64
    """(F,) the rows that differ by more than rounding explains, the worst first."""


def closed_form(labels: Labels) -> ClosedForm:
    """Compare all heights with the closed form. The network never sees these metadata."""
    known = np.isfinite(labels.expected)
    with np.errstate(invalid="ignore"):
        deviation = np.where(known, labels.height - labels.expected, 0.0)
    return ClosedForm(known, deviation, _worst_first(np.abs(deviation), known & (np.abs(deviation) > labels.tolerance)))


# --- Scenes whose scale is not constant.


@dataclass(frozen=True)
class SceneScale:
    """A scene that has no single scale for all its labels."""

    scene: str
    scale: float
    """Metres per pixel: the scale that most of its labels share; without a majority, their median."""
    agreeing: int
    """How many labels have this scale."""
    flagged: Int64
    """(F,) the rows of the other labels, the worst first."""
    deviation: Float64
    """(F,) metres, label − scale · length."""
    vertex_rounding: bool
    """Whether rounding the vertices after computing the heights would explain all deviations."""

    @property
    def labels(self) -> int:
        """How many labels the scene has."""
        return self.agreeing + len(self.flagged)


def scene_scales(labels: Labels) -> list[SceneScale]:
    """The scenes whose height ÷ length is not constant beyond rounding, the scene with the worst label first."""
    low, high = _scale_intervals(labels, 0.0)
    loosely = _scale_intervals(labels, VERTEX_PX)
    scenes = _rows_of_scenes(labels)
    found = [
        _examined(labels, rows, low, high, _share_a_scale(*(bound[rows] for bound in loosely)))
        for rows in scenes
        if not _share_a_scale(low[rows], high[rows])
    ]
    return sorted(found, key=lambda scene: -abs(float(scene.deviation[0])))


def _rows_of_scenes(labels: Labels) -> list[Int64]:
    _, inverse = np.unique(labels.scene, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1)


def _scale_intervals(labels: Labels, slack_px: float) -> tuple[Float64, Float64]:
    """Lowest and highest scale (M,) m/px that each label allows, if a segment may be off by `slack_px`."""
    slack = slack_px * labels.segments
    with np.errstate(divide="ignore", over="ignore"):
        low = (labels.height - PRINTED) / (labels.length_px + slack)
        return low, (labels.height + PRINTED) / np.maximum(labels.length_px - slack, 0.0)


def _share_a_scale(low: Float64, high: Float64) -> bool:
    return bool(low.max() <= high.min())


def _examined(labels: Labels, rows: Int64, low: Float64, high: Float64, vertex_rounding: bool) -> SceneScale:
    low, high = low[rows], high[rows]
    starts = np.sort(low)
    depth = np.arange(1, len(starts) + 1) - np.searchsorted(np.sort(high), starts, side="left")
    deepest = int(depth.argmax())
    if 2 * depth[deepest] > len(rows):
        inside = (low <= starts[deepest]) & (starts[deepest] <= high)
        scale = float(np.clip(np.median(labels.scale[rows][inside]), low[inside].max(), high[inside].min()))
    else:
        scale = float(np.median(labels.scale[rows]))
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = labels.height[rows] - scale * labels.length_px[rows]
    off = _worst_first(np.abs(deviation), (low > scale) | (scale > high))
    return SceneScale(
        scene=str(labels.scene[rows[0]]),
        scale=scale,
        agreeing=len(rows) - len(off),
        flagged=rows[off],
        deviation=deviation[off],
        vertex_rounding=vertex_rounding,
    )


# --- Polylines that appear twice in one tile.


def repeated(labels: Labels, polylines: Mapping[Split, NDArray[np.float64]]) -> Int64:
    """The rows (R,) with a polyline that appeared earlier in the same tile; `polylines`: split → (N, P, 2) px."""
    seen: set[tuple[str, str, bytes]] = set()
    again = []
    columns = zip(labels.split.tolist(), labels.row.tolist(), labels.tile.tolist(), strict=True)
    for i, (split, row, tile) in enumerate(columns):
        key = split, tile, polylines[split][row].tobytes()
        if key in seen:
            again.append(i)
        seen.add(key)
    return np.array(again, np.int64)


def _worst_first(size: Float64, flagged: Bool) -> Int64:
    rows = np.flatnonzero(flagged)
    return rows[np.argsort(-size[rows], kind="stable")]
