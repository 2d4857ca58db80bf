"""The contact sheet of the report: the tiles with the largest errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dali_pipes.html import jpeg_uri

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
        "uri": jpeg_uri(table.images.read(int(table.image[i])), TILE_PX),
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
