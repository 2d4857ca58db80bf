"""Pictures of tiles with their polylines, as values of tile.html.j2."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ..errors import InputError

TILE_PX = 448  # the longer side of a tile in a page: sharp at twice its printed size, about 30 kB each
LARGEST_PIXELS = 1 << 26  # of a tile that is decoded for a page: 200 MB


def tile(
    read: Callable[[], NDArray[np.uint8]], width: int, height: int, polyline: NDArray[np.float64]
) -> dict[str, Any]:
    """The values of tile.html.j2, without its `label` and its `serial`, a number that is unique in the page.

    `read` returns the JPEG file's bytes (n,) uint8 of the tile, `width` × `height` pixels; `polyline`: (P, 2) pixels,
    base first. A tile that is too large, or that cannot be read or decoded, has no picture.
    """
    try:
        uri = _jpeg_uri(read()) if int(width) * int(height) <= LARGEST_PIXELS else None
    except (InputError, cv2.error):  # cv2.error: an empty file, or a size that OpenCV refuses
        uri = None
    return {
        "uri": uri,
        "width": int(width),
        "height": int(height),
        "unit": max(width, height) / 512,
        "points": Markup(" ".join(f"{x:g},{y:g}" for x, y in polyline)),
        "base": polyline[0].tolist(),
    }


def _jpeg_uri(data: NDArray[np.uint8]) -> Markup | None:
    """A JPEG file's bytes as the data URI of a thumbnail; None if OpenCV cannot decode them."""
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        return None
    scale = min(1.0, TILE_PX / max(image.shape[:2]))
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, 80))[1]
    return Markup("data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii"))
