"""The contact sheet of the report: the tiles with the largest errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dali_pipes.html import tile
from dali_pipes.units import number

from ..scores.predictions import Predictions

TILES_SHOWN = 12


def worst_tiles(groups: Sequence[Predictions], most: int = TILES_SHOWN) -> list[tuple[Predictions, int]]:
    """The `most` tiles with the largest absolute error, worst first: (group, row) of each tile's worst sample."""
    errors = [(group, i, error) for group in groups for i, error in enumerate(np.abs(group.mu - group.table.height))]
    errors.sort(key=lambda entry: -entry[2] if math.isfinite(entry[2]) else -math.inf)
    worst: dict[str, tuple[Predictions, int]] = {}
    for group, i, _ in errors:
        if len(worst) < most:
            worst.setdefault(str(group.table.tile[i]), (group, i))
    return list(worst.values())


def thumbnail(group: Predictions, i: int, serial: int) -> dict[str, Any]:
    """The values that the template shows of sample `i`; `serial` is unique in the page."""
    table, name, truth, mu = group.table, str(group.table.tile[i]), float(group.table.height[i]), float(group.mu[i])
    return {
        **tile(lambda: table.images.read(int(table.image[i])), table.width[i], table.height_px[i], group.points(i)),
        "label": f"Tile {name}, true height {number(truth)} m, predicted {number(mu)} m",
        "serial": serial,
        "name": name,
        "scene": str(table.scene[i]),
        "group": group.name,
        "seen": bool(group.seen[i]),
        "truth": truth,
        "mu": mu,
        "sigma": float(group.sigma[i]),
    }
