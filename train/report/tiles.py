"""The tiles of the report: the worst, typical and most uncertain ones, and where the network looks.

rows = chosen(part.predictions)["typical"]      # rows of the samples
tile_of(part.predictions, rows[0], serial=1)    # values of tile.html.j2
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dali_pipes.batches.view import Frames
from dali_pipes.geometry import Letterbox
from dali_pipes.pages.picture import Read, box, picture, png, tile
from dali_pipes.samples.table import SampleTable
from dali_pipes.units import number

from ..scores.predictions import Predictions
from ..scores.uncertainty import LEVEL, Forecast

SHOWN = 6  # tiles of each kind
CELLS = 28  # of a heat map along a side: a cell is about a patch of the network
RED, MOST_OPAQUE = (30, 40, 255), 190  # BGR; of 255
LOOK_PX = 320


class Looks(NamedTuple):
    """Where the network looks: the frames of N samples, and how much each pixel matters, (N, V, S, S) float32."""

    frames: Frames
    heat: NDArray[np.float32]


def forecast_of(group: Predictions) -> Forecast:
    """The forecast of single polylines that a user gets: calibrated if there is a calibration."""
    return group.calibrated or Forecast.gaussian(group.mu, group.sigma)


def chosen(group: Predictions) -> dict[str, list[int]]:
    """Rows of the "worst", "typical" (median error) and most "uncertain" tiles, each tile once a kind."""
    forecast = forecast_of(group)
    error = np.nan_to_num(np.abs(forecast.mu - group.table.height), nan=math.inf)
    median = np.median(error) if len(error) else 0.0
    with np.errstate(invalid="ignore"):
        distance = np.nan_to_num(np.abs(error - median), nan=math.inf)
    orders = {"worst": -error, "typical": distance, "uncertain": -np.nan_to_num(forecast.sigma, nan=math.inf)}
    return {name: _first_tiles(group, np.argsort(order, kind="stable")) for name, order in orders.items()}


def _first_tiles(group: Predictions, rows: NDArray[np.int64]) -> list[int]:
    first: dict[str, int] = {}
    for row in rows.tolist():
        first.setdefault(str(group.table.tile[row]), row)
    return list(first.values())[:SHOWN]


def tile_of(group: Predictions, row: int, serial: int) -> dict[str, Any]:
    """The values of tile.html.j2 and of its caption; `serial` is unique in the page."""
    table = group.table
    return tile(_reader(table, row), table.width[row], table.height_px[row], table.polyline[row]) | _words(
        group, row, serial
    )


def look_of(group: Predictions, row: int, serial: int, looks: Looks, frame: tuple[int, int]) -> dict[str, Any]:
    """The same for one `frame` (sample of `looks`, view), red where the pixels matter."""
    table, (sample, view) = group.table, frame
    window, placement, heat = (
        looks.frames.window[frame].tolist(),
        looks.frames.placements(sample)[view],
        looks.heat[frame],
    )
    if isinstance(placement, Letterbox):
        top, left = placement.top, placement.left
        heat = heat[top : top + placement.height, left : left + placement.width]
    else:  # turned back, so that the picture stays upright
        heat = cv2.warpAffine(heat, placement, (window[3], window[2])).astype(np.float32)
    shown = picture(_reader(table, row), table.width[row], table.height_px[row], table.polyline[row], window, LOOK_PX)
    overlay = {"overlay": png(heat_map(heat)), "overlay_box": box(window)}
    return shown | overlay | _words(group, row, serial)


def _reader(table: SampleTable, row: int) -> Read:
    """Reads the tile of a sample."""
    return lambda: table.images.read(int(table.image[row]))


def heat_map(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """`heat` (H, W), 0 or more → red pixels (cells, cells, 4) uint8, BGR and opacity, clear where it is smallest."""
    cells = cv2.resize(heat, (min(CELLS, heat.shape[1]), min(CELLS, heat.shape[0])), interpolation=cv2.INTER_AREA)
    cells = cv2.GaussianBlur(cells, (0, 0), 1.0)
    relative = (cells - cells.min()) / (float(np.ptp(cells)) or 1.0)
    opacity = MOST_OPAQUE * relative**2  # squared: the eye should find the strongest parts
    return np.dstack([np.full((*cells.shape, 3), RED, np.uint8), np.round(opacity).astype(np.uint8)])


def _words(group: Predictions, row: int, serial: int) -> dict[str, Any]:
    table, forecast = group.table, forecast_of(group)
    truth, mu, sigma = float(table.height[row]), float(forecast.mu[row]), float(forecast.sigma[row])
    low, high = (float(end[row]) for end in forecast.intervals[LEVEL])
    name = str(table.tile[row])
    seen = "scene seen in training" if group.seen[row] else "scene not seen in training"
    interval = f", {LEVEL:.0%} interval {number(low, 0)} to {number(high, 0)} m" if math.isfinite(high - low) else ""
    predicted = f"predicted {number(mu, 1)} ± {number(sigma, 1)} m{interval}"
    return {
        "serial": serial,
        "label": f"{name}: label {number(truth, 1)} m, {predicted}; {seen}",
        "truth": truth,
        "mu": mu,
        "sigma": sigma,
    }
