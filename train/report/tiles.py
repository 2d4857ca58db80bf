"""The contact sheet of the report: the tiles with the largest errors."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..scores.predictions import Predictions

TILES_SHOWN = 12
TILE_PX = 448  # the longer side of a tile in the page: sharp at twice its printed size, about 30 kB each


def worst_tiles(groups: Sequence[Predictions], most: int = TILES_SHOWN) -> list[tuple[Predictions, int]]:
    """The `most` tiles with the largest absolute error, worst first: (group, row) of each tile's worst sample."""
    errors = [(group, i, error) for group in groups for i, error in enumerate(np.abs(group.mu - group.table.height))]
    errors.sort(key=lambda entry: -entry[2] if math.isfinite(entry[2]) else -math.inf)
    worst: dict[str, tuple[Predictions, int]] = {}
    for group, i, _ in errors:
        if len(worst) < most:
            worst.setdefault(str(group.table.tile[i]), (group, i))
    return list(worst.values())


def thumbnail(group: Predictions, i: int) -> dict[str, Any]:
    """The values that the template shows of sample `i`: the tile as a data URI, the polyline in the tile's pixels."""
    table, points = group.table, group.points(i)
    return {
        "uri": _jpeg_uri(table.images.read(int(table.image[i]))),
        "width": int(table.width[i]),
        "height": int(table.height_px[i]),
        "points": " ".join(f"{x:g},{y:g}" for x, y in points),
        "base": points[0],
        "tile": str(table.tile[i]),
        "scene": str(table.scene[i]),
        "group": group.name,
        "seen": bool(group.seen[i]),
        "truth": float(table.height[i]),
        "mu": float(group.mu[i]),
        "sigma": float(group.sigma[i]),
    }


def _jpeg_uri(data: NDArray[np.uint8]) -> str | None:
    """A JPEG file's bytes (n,) uint8, scaled down for the page; None if OpenCV cannot decode them."""
    image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        return None
    scale = min(1.0, TILE_PX / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, 80))[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
