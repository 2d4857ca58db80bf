"""Polyline and padding masks, exactly as the reference system draws them with OpenCV. 255 is foreground.

The polyline is drawn at the image's own size, cut like the image, and letterboxed by the same bilinear resize. Its grey
edge is therefore bit-identical to the reference's. A 224² mask also has a fifth of the bytes to copy to a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ..geometry import Letterbox, letterbox
from .letterbox import resize_into, turn_into

UInt8 = NDArray[np.uint8]
Int64 = NDArray[np.int64]


def polyline_mask(points: NDArray[np.float64], height: int, width: int, window: Sequence[int] | None = None) -> UInt8:
    """Draw the open polyline `points` (P, 2) px on black → (height, width) uint8, or only its `window`.

    Like the reference, the vertices are truncated to whole pixels, and the stroke is
    `max(1, int(0.004 * min(height, width)))` pixels thick. `window`: top, left, height and width, in pixels.
    """
    top, left, rows, columns = window or (0, 0, height, width)
    mask = np.zeros((rows, columns), np.uint8)
    vertices = points.astype(np.int32).reshape(-1, 1, 2) - np.array([left, top], np.int32)
    cv2.polylines(mask, [vertices], isClosed=False, color=255, thickness=max(1, int(0.004 * min(height, width))))
    return mask


def polyline_frame(points: NDArray[np.float64], height: int, width: int, window: Sequence[int], size: int) -> UInt8:
    """Draw `points` (P, 2) px of an image of `height` × `width`, and letterbox one window → (size, size) uint8.

    `window`: top, left, height and width in pixels of the image. Only the part around the polyline is drawn and
    resized, which takes half the time of the whole mask.
    """
    top, left, rows, columns = window
    box = letterbox(rows, columns, size)
    reach = 0.004 * min(height, width) + 4  # half a stroke, truncated vertices, and the neighbours in the resize
    (first_x, first_y), (last_x, last_y) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    y, part_height, y_resized, height_resized = _part(first_y - top - reach, last_y - top + reach, rows, box.height)
    x, part_width, x_resized, width_resized = _part(first_x - left - reach, last_x - left + reach, columns, box.width)
    part = polyline_mask(points, height, width, (top + y, left + x, part_height, part_width))
    frame = np.zeros((size, size), np.uint8)
    resize_into(frame, part, Letterbox(height_resized, width_resized, box.top + y_resized, box.left + x_resized))
    return frame


def _part(first: float, stop: float, side: int, resized: int) -> tuple[int, int, int, int]:
    """The pixels from `first` to `stop` of a side that is resized → start and length, before and after the resize.

    The part consists of blocks of q pixels that become p, where p / q is the scale in lowest terms. Its pixels are
    those that a resize of the whole side gives: pixel d reads position (d + ½) q / p - ½, which is a whole number of
    blocks and a multiple of 1 / 2p. OpenCV holds it as a float32, and rounds weights to 1 / 2048. Both are exact
    enough to give the same weight in each block if p times the side is below 4096; otherwise the whole side is taken.
    """
    blocks = math.gcd(side, resized)
    if resized // blocks * side >= 4096:
        return 0, side, 0, resized
    before, after = side // blocks, resized // blocks
    start = min(max(0, math.floor(first / before)), blocks - 1)
    count = min(max(start + 1, math.ceil(stop / before)), blocks) - start
    return start * before, count * before, start * after, count * after


def turned_polyline(
    points: NDArray[np.float64], height: int, width: int, window: Sequence[int], size: int, matrix: NDArray[np.float64]
) -> UInt8:
    """The same for a window that is turned by `matrix` (2, 3), from pixels of the frame to those of the window.

    Only the columns that the polyline needs are turned, which takes a tenth of the time of the whole frame.
    """
    scale = math.hypot(matrix[0, 0], matrix[1, 0])  # pixels of the image per pixel of the frame
    across = (points - np.array(window[1::-1]) - matrix[:, 2]) @ matrix[:, 0] / scale**2
    margin = (0.004 * min(height, width) + 3) / scale + 1  # half a stroke, truncated vertices, and the interpolation
    first = min(max(0, math.floor(across.min() - margin)), size - 1)
    stop = min(max(first + 1, math.ceil(across.max() + margin)), size)
    frame, columns = np.zeros((size, size), np.uint8), np.empty((size, stop - first), np.uint8)
    shifted = matrix + [[0, 0, first * slope] for slope in matrix[:, 0]]
    turn_into(columns, polyline_mask(points, height, width, window), shifted)
    frame[:, first:stop] = columns
    return frame


@lru_cache(maxsize=256)
def padding_mask(box: Letterbox, size: int) -> UInt8:
    """255 on padding, 0 on the image → (size, size) uint8. Calls share the mask, so it is read-only."""
    mask = np.full((size, size), 255, np.uint8)
    mask[box.top : box.top + box.height, box.left : box.left + box.width] = 0
    mask.setflags(write=False)
    return mask


def letterboxed_columns(box: Letterbox, size: int) -> NDArray[np.int64]:
    """In each row of a frame the first column that shows the image, and the one after the last → (size, 2).

    Both are 0 in a row that does not show it.
    """
    row = np.arange(size)[:, None]
    shown = (row >= box.top) & (row < box.top + box.height)
    return np.where(shown, [box.left, box.left + box.width], 0)


def turned_columns(matrix: NDArray[np.float64], height: Int64, width: Int64, size: int) -> Int64:
    """The same for M turned frames, (M, size, 2).

    `matrix`: (M, 2, 3), from pixels of the frame to those of images of `height` × `width` (M,) px.
    """
    side = np.stack([width, height], axis=-1)[..., None]  # (M, 2, 1), x first
    slope, by_row, offset = (matrix[..., k, None] for k in range(3))
    start = by_row * np.arange(size) + offset  # (M, 2, size)
    # A pixel shows the image where -0.5 <= slope * column + start <= side - 0.5, in x and in y.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        crossing = np.stack([(-0.5 - start) / slope, (side - 0.5 - start) / slope])
    crossing.sort(axis=0)
    first = np.clip(np.ceil(crossing[0]).max(axis=1), 0, size)
    stop = np.clip(np.floor(crossing[1]).min(axis=1) + 1, 0, size)
    shown = first < stop  # false for NaN, too: an edge of the image that runs along a row of pixels
    return np.where(shown[..., None], np.stack([first, stop], axis=-1), 0).astype(np.int64)
