"""Pure functions: polyline lengths, windows around a polyline, the letterbox placement, the closed-form height.

Pixels are (x, y) with the origin in the top left corner; angles are degrees; heights are metres.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]


MARGIN = 1.25  # side of the window of a long polyline, in lengths of its box: an eighth more at each end


ALONG_ONE_AXIS = 0.8  # length of the mean of unit vectors; polylines within 18° of their axis on average have more


class Letterbox(NamedTuple):
    """Placement of an image in its square frame, in pixels of the frame."""

    height: int
    width: int
    top: int
    left: int


Placement = Letterbox | Float64
"""How an image becomes a frame: letterboxed, or turned by a matrix (2, 3) from pixels of the frame to its own."""


@lru_cache(maxsize=4096)
def letterbox(height: int, width: int, size: int) -> Letterbox:
    """Fit an image of `height` × `width` pixels into a `size` × `size` frame, centred, aspect ratio kept.

    The placement is the reference's: Python's `round` (half to even), and an odd padding is one pixel larger below and
    to the right. A side that would round to zero becomes one pixel.
    """
    scale = min(size / width, size / height)
    new_height = max(1, round(height * scale))
    new_width = max(1, round(width * scale))
    return Letterbox(new_height, new_width, (size - new_height) // 2, (size - new_width) // 2)


def window(points: ArrayLike, height: ArrayLike, width: ArrayLike, crop: int) -> NDArray[np.int64]:
    """Return the window of an image around its polyline: (top, left, height, width) px → (..., 4) int64.

    The window is a square centred on the bounding box of `points` (..., P, 2) px. Its side is `crop`, or 1.25 times the
    longer side of the box, rounded up, if that is larger. It is cut to the size of the image, `height` × `width` (...)
    px, and shifted to lie inside. Points may be anywhere.
    """
    corners = np.asarray(points, np.float64)[..., ::-1]  # (y, x), in the order of the sides below
    low, high = corners.min(axis=-2), corners.max(axis=-2)
    image = np.stack(np.broadcast_arrays(np.asarray(height, np.float64), np.asarray(width, np.float64)), axis=-1)
    side = np.maximum(crop, np.ceil(MARGIN * (high - low).max(axis=-1, keepdims=True)))
    sides = np.minimum(side, image)
    start = np.clip(np.floor((low + high - sides) / 2), 0, image - sides)
    return np.concatenate([start, sides], axis=-1).astype(np.int64)


def aligned(points: ArrayLike, crop: float, size: int) -> Float64:
    """Return the window that is turned so that its polyline points up: pixels of the frame → of the image, (..., 2, 3).

    `points` (..., P, 2) px, base first. Up is the direction from the first point to the last, whatever lies between; if
    they coincide, that of the image. The window is a square centred on the box of the points in that direction. Its
    side is `crop` pixels of the image, or 1.25 times the longer side of the box if that is larger, and becomes `size`
    pixels. As in OpenCV, whole numbers are centres of pixels: cv2.warpAffine takes the matrix with WARP_INVERSE_MAP.
    """
    points = np.asarray(points, np.float64)
    up = points[..., -1, :] - points[..., 0, :]
    distance = np.linalg.norm(up, axis=-1, keepdims=True)
    up = np.where(distance > 0, up / np.where(distance > 0, distance, 1), [0.0, -1.0])
    axes = np.stack([up[..., ::-1] * [-1, 1], -up], axis=-1)  # (..., 2, 2): right and down, as columns
    turned = points @ axes
    low, high = turned.min(axis=-2), turned.max(axis=-2)
    side = np.maximum(crop, MARGIN * (high - low).max(axis=-1))
    axes_px = axes * (side / size)[..., None, None]
    centre = (axes @ ((low + high) / 2)[..., None]) - axes_px @ np.full((2, 1), (size - 1) / 2)
    return np.concatenate([axes_px, centre], axis=-1)


def pointing_away(points: ArrayLike, scene: ArrayLike) -> NDArray[np.bool_]:
    """Which polylines point away from the others of their scene, as if they were drawn from top to base: (N,) bool.

    `points` (N, P, 2) px, base first; `scene` (N,), any names. In a scene everything vertical leans in one direction.
    So the polylines of a scene lie along one axis, the mean of their doubled angles, if that mean is at least
    `ALONG_ONE_AXIS` long. Then those that point the other way, and are fewer than half, are returned. Two polylines
    cannot tell which of them is the wrong one.
    """
    points = np.asarray(points, np.float64)
    angle = np.arctan2(*(points[:, -1] - points[:, 0]).T[::-1])
    _, group = np.unique(np.asarray(scene), return_inverse=True)
    doubled = _sums(np.exp(2j * angle), group) / np.bincount(group)
    along = np.sign(np.cos(angle - np.angle(doubled)[group] / 2))
    majority = np.sign(np.bincount(group, along))  # 0 if both ways are equally frequent
    return (np.abs(doubled) >= ALONG_ONE_AXIS)[group] & (along * majority[group] < 0)


def _sums(values: NDArray[np.complex128], group: NDArray[np.intp]) -> NDArray[np.complex128]:
    return np.bincount(group, values.real) + 1j * np.bincount(group, values.imag)


def without_padding(polyline: Float64) -> Float64:
    """The points of a `polyline` (P, 2) of a table, (≤P, 2), without the repetitions of its last point."""
    other = np.flatnonzero((polyline != polyline[-1]).any(axis=1))
    return polyline[: other[-1] + 2] if len(other) else polyline[:1]


def polyline_length_px(points: ArrayLike) -> Float64:
    """Return the lengths of polylines `points` (..., P, 2), in the unit of the points → (...) float64."""
    segments = np.diff(np.asarray(points, np.float64), axis=-2)
    return np.hypot(segments[..., 0], segments[..., 1]).sum(axis=-1)


def normalised_length(points: ArrayLike, height: ArrayLike, width: ArrayLike) -> Float64:
    """Return the reference's length feature: lengths of polylines (..., P, 2) px in (x/width, y/height) → (...).

    `height` and `width` (...) are the size of the image in pixels.
    """
    size = np.stack(np.broadcast_arrays(np.asarray(width, np.float64), np.asarray(height, np.float64)), axis=-1)
    return polyline_length_px(np.asarray(points, np.float64) / size[..., None, :])


def length_in_sides(points: ArrayLike, height: ArrayLike, width: ArrayLike) -> Float64:
    """Return lengths of polylines (..., P, 2) px in units of the longer side of their image → (...) float64.

    For square tiles this is the reference's length. For others it does not depend on the direction of the polyline.
    """
    return polyline_length_px(points) / np.maximum(np.asarray(height, np.float64), np.asarray(width, np.float64))


def closed_form_height(length_px: ArrayLike, gsd: ArrayLike, roll: ArrayLike, pitch: ArrayLike) -> Float64:
    """Return heights in metres: length_px · gsd / sqrt(tan² roll + tan² pitch), all (...) → (...) float64.

    `gsd` is in metres per pixel, `roll` and `pitch` in degrees. Layover displaces a point at height h by
    h · tan(tilt) / gsd pixels; the published labels follow this formula to their printed precision. The result is NaN
    if an input is NaN, and infinite at nadir, where there is no layover.
    """
    tilt = np.hypot(np.tan(np.radians(np.asarray(roll, np.float64))), np.tan(np.radians(np.asarray(pitch, np.float64))))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(length_px, np.float64) * np.asarray(gsd, np.float64) / tilt
