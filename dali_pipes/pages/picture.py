"""Pictures of tiles, as values of tile.html.j2: cut around the chimney, and with its surroundings once enlarged."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry import window

CUT, CONTEXT = 128, 512  # the smallest sides of the cut around a chimney and of the enlarged picture, in tile pixels
MOST_BYTES = 30_000  # of a JPEG in a page: 24 of them take a megabyte
QUALITIES = (80, 65, 50, 35, 20)
LARGEST_PIXELS = 1 << 26  # of a tile that is decoded for a page: 200 MB

Read = Callable[[], NDArray[np.uint8]]


def tile(read: Read, width: int, height: int, polyline: NDArray[np.float64]) -> dict[str, Any]:
    """The values of tile.html.j2, without its `label` and its `serial`, a number that is unique in the page.

    `read` returns the JPEG file's bytes (n,) uint8 of the tile, `width` × `height` pixels; `polyline`: (P, 2) pixels,
    base first. A tile that is too large, or that cannot be read or decoded, has no picture.
    """
    cut, context = (window(polyline, height, width, side).tolist() for side in (CUT, CONTEXT))
    return picture(read, width, height, polyline, context) | {"cut": box(cut), "unit": max(cut[2:]) / 512}


def picture(
    read: Read, width: int, height: int, polyline: NDArray[np.float64], shown: Sequence[int], longest: int = CONTEXT
) -> dict[str, Any]:
    """The same values for the window `shown` of the tile (top, left, height, width), at most `longest` pixels long."""
    return {
        "photo": _jpeg(read, shown, longest) if int(width) * int(height) <= LARGEST_PIXELS else None,
        "box": box(shown),
        "cut": box(shown),
        "unit": max(shown[2:]) / 512,
        "points": Markup(" ".join(f"{x:g},{y:g}" for x, y in polyline)),
        "base": polyline[0].tolist(),
        "overlay": None,
    }


def box(shown: Sequence[int]) -> tuple[int, int, int, int]:
    """A window (top, left, height, width) as x, y, width and height of an SVG element."""
    top, left, height, width = shown
    return left, top, width, height


def png(pixels: NDArray[np.uint8]) -> Markup:
    """The data URI of a PNG of `pixels` (H, W, 4) uint8, BGR and opacity."""
    return _uri("png", cv2.imencode(".png", pixels)[1])


def _jpeg(read: Read, shown: Sequence[int], longest: int) -> Markup | None:
    """The data URI of a window of a JPEG file; None if the file cannot be read or decoded."""
    try:
        image = cv2.imdecode(read(), cv2.IMREAD_COLOR)
    except (InputError, cv2.error):  # cv2.error: an empty file, or a size that OpenCV refuses
        return None
    top, left, height, width = shown
    if image is None or not (part := image[top : top + height, left : left + width]).size:
        return None
    scale = min(1.0, longest / max(part.shape[:2]))
    size = [max(1, round(side * scale)) for side in part.shape[1::-1]]
    small = cv2.resize(part, size, interpolation=cv2.INTER_AREA)
    files = (cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, quality))[1] for quality in QUALITIES)
    for file in files:
        if len(file) <= MOST_BYTES:
            break
    return _uri("jpeg", file)


def _uri(kind: str, file: NDArray[np.uint8]) -> Markup:
    return Markup(f"data:image/{kind};base64," + base64.b64encode(file.tobytes()).decode("ascii"))
