"""The callback that feeds the graph: step number → JPEG bytes, windows, polylines and rows of one batch.

DALI calls `Source` once per batch, ahead of the training step, and counts the calls. The plan has no last step, so
there is no StopIteration and nothing to reset.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..geometry import Letterbox
from ..samples.picture import encoded
from .plan import Plan
from .view import Frames

PREFETCH = 2  # batches that DALI prepares ahead of the training step


class SourceBatch(NamedTuple):
    """B samples in V views.

    `jpeg`: B arrays (n,) uint8.
    `polyline`: (B, S, S, V) uint8.
    `sample`: (B, 1) int64, rows of the table.
    `start`, `shape`: (V, B, 2) int32, top and left, height and width of the windows, in pixels of the image.
    `placed`: for each view (B, 2) float32, height and width of the resized windows in pixels of the frame; if it is
    turned (B, 2, 3) float32, matrices from points of the frame to points of the window, where the centre of the first
    pixel is the point (.5, .5), as in DALI.
    """

    jpeg: list[NDArray[np.uint8]]
    polyline: NDArray[np.uint8]
    sample: NDArray[np.int64]
    start: NDArray[np.int32]
    shape: NDArray[np.int32]
    placed: list[NDArray[np.float32]]


class Source:
    """A callable: `source(call)` is the batch of step `first_step + call`."""

    def __init__(self, frames: Frames, plan: Plan, first_step: int = 0) -> None:
        self.frames = frames
        self.plan = plan
        self.first_step = first_step
        # DALI reads these arrays without a copy, until the batches that it prefetches are done.
        self._alive: deque[SourceBatch] = deque(maxlen=PREFETCH + 4)

    def __call__(self, call: int) -> SourceBatch:
        """Read and draw the batch of step `first_step + call`."""
        batch = self.batch(self.plan.ids(self.first_step + call))
        self._alive.append(batch)
        return batch

    def batch(self, rows: NDArray[np.int64]) -> SourceBatch:
        """Read and draw the samples of `rows` (B,) int64."""
        frames, images = self.frames, self.frames.table.images
        polyline = np.empty((len(rows), frames.size, frames.size, frames.views), np.uint8)
        placed = [np.empty((len(rows), 2, 3) if turned else (len(rows), 2), np.float32) for turned in frames.turned]
        for i, row in enumerate(rows.tolist()):
            polyline[i] = frames.polyline(row)
            for placements, placement in zip(placed, frames.placements(row), strict=True):
                placements[i] = placement[:2] if isinstance(placement, Letterbox) else _from_corner(placement)
        window = frames.window[rows]
        shown = zip(frames.table.image[rows].tolist(), window, strict=True)
        parts = [encoded(images, image, windows) for image, windows in shown]
        corner = np.array([corner for _, corner in parts])
        start, shape = (
            np.ascontiguousarray(part.swapaxes(0, 1), np.int32)
            for part in (window[..., :2] - corner[:, None], window[..., 2:])
        )
        return SourceBatch([data for data, _ in parts], polyline, rows[:, None], start, shape, placed)


def _from_corner(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """`matrix` (2, 3) for coordinates whose origin is the corner of the first pixel, not its centre."""
    moved = matrix.copy()
    moved[:, 2] += 0.5 - matrix[:, :2] @ [0.5, 0.5]
    return moved
