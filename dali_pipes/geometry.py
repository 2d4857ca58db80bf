"""Lengths, the window around a polyline, the letterbox's placement, the closed-form height: pure functions of numbers.

Pixels are (x, y) with the origin in the top left corner; angles are degrees; heights are metres.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]


MARGIN = 1.25  # of a window around a polyline, where this is long: an eighth of it at either end


class Letterbox(NamedTuple):
    """Where an image lies in its square frame, in pixels of the frame."""

    height: int
    width: int
    top: int
    left: int


def letterbox(height: int, width: int, size: int) -> Letterbox:
    """Fit an image of `height` × `width` pixels into a `size` × `size` frame, centred, aspect ratio kept.

    The reference's placement: Python's `round` (half to even), and odd paddings one pixel larger below and to
    the right.  A side that would round to nothing keeps one pixel.
    """
    scale = min(size / width, size / height)
    new_height = max(1, round(height * scale))
    new_width = max(1, round(width * scale))
    return Letterbox(new_height, new_width, (size - new_height) // 2, (size - new_width) // 2)


def window(points: ArrayLike, height: ArrayLike, width: ArrayLike, crop: int) -> NDArray[np.int64]:
    """The part of an image around its polyline, as (top, left, height, width) in pixels → (..., 4) int64.

    A square centred on the bounding box of `points` (..., P, 2) px, whose side is `crop`, or 1.25 times the box's
    longer side, rounded up, where that is more.  It is cut to the size of the image, `height` × `width` (...) px, where
    this is smaller, and shifted to lie inside.  Points may lie anywhere.
    """
    corners = np.asarray(points, np.float64)[..., ::-1]  # (y, x), as the sides below
    low, high = corners.min(axis=-2), corners.max(axis=-2)
    image = np.stack(np.broadcast_arrays(np.asarray(height, np.float64), np.asarray(width, np.float64)), axis=-1)
    side = np.maximum(crop, np.ceil(MARGIN * (high - low).max(axis=-1, keepdims=True)))
    sides = np.minimum(side, image)
    start = np.clip(np.floor((low + high - sides) / 2), 0, image - sides)
    return np.concatenate([start, sides], axis=-1).astype(np.int64)


def polyline_length_px(points: ArrayLike) -> Float64:
    """Sum of segment lengths of polylines `points` (..., P, 2), in their own unit → (...) float64."""
    segments = np.diff(np.asarray(points, np.float64), axis=-2)
    return np.hypot(segments[..., 0], segments[..., 1]).sum(axis=-1)


def normalised_length(points: ArrayLike, height: ArrayLike, width: ArrayLike) -> Float64:
    """The reference's length feature: polylines (..., P, 2) px measured in (x/width, y/height) → (...) float64.

    `height` and `width` (...) are the image's, in pixels.
    """
    size = np.stack(np.broadcast_arrays(np.asarray(width, np.float64), np.asarray(height, np.float64)), axis=-1)
    return polyline_length_px(np.asarray(points, np.float64) / size[..., None, :])


def length_in_sides(points: ArrayLike, height: ArrayLike, width: ArrayLike) -> Float64:
    """Polylines (..., P, 2) px measured in units of their image's longer side → (...) float64.

    The reference's length for square tiles; for others it does not depend on the polyline's direction.
    """
    return polyline_length_px(points) / np.maximum(np.asarray(height, np.float64), np.asarray(width, np.float64))


def closed_form_height(length_px: ArrayLike, gsd: ArrayLike, roll: ArrayLike, pitch: ArrayLike) -> Float64:
    """Height in metres from the layover: length_px · gsd / sqrt(tan² roll + tan² pitch), all (...) → (...) float64.

    `gsd` is metres a pixel, `roll` and `pitch` are degrees.  A point at height h is displaced by h·tan(tilt)/gsd
    pixels, and the published labels follow this formula to their printed rounding.  NaN where any input is NaN;
    infinite at nadir, where there is no layover.
    """
    tilt = np.hypot(np.tan(np.radians(np.asarray(roll, np.float64))), np.tan(np.radians(np.asarray(pitch, np.float64))))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(length_px, np.float64) * np.asarray(gsd, np.float64) / tilt
