"""The external-source callback: step number → JPEG bytes, windows, polylines and row numbers of one batch.

DALI calls `Source` once a batch, ahead of the training step.  It counts the calls itself; the plan knows no last
step, so there is no StopIteration and nothing to reset.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .plan import Plan
from .view import Frames


class SourceBatch(NamedTuple):
    """B samples in V views.

    `jpeg`: B arrays (n,) uint8; `polyline`: (B, S, S, V) uint8; `sample`: (B, 1) int64, rows of the table; `start` and
    `shape`: (V, B, 2) int32, top and left, height and width of the windows in pixels of the image; `resized`: (V, B, 2)
    float32, height and width in pixels of the frame.
    """

    jpeg: list[NDArray[np.uint8]]
    polyline: NDArray[np.uint8]
    sample: NDArray[np.int64]
    start: NDArray[np.int32]
    shape: NDArray[np.int32]
    resized: NDArray[np.float32]


class Source:
    """The callable that feeds the graph: `source(call)` is the batch of step `first_step + call`."""

    def __init__(self, frames: Frames, plan: Plan, first_step: int = 0, ahead: int = 8) -> None:
        self.frames = frames
        self.plan = plan
        self.first_step = first_step
        # DALI reads these arrays without a copy, up to its prefetch depth of batches after the call returned.
        self._alive: deque[SourceBatch] = deque(maxlen=ahead)

    def __call__(self, call: int) -> SourceBatch:
        """Read and draw one batch."""
        batch = self.batch(self.plan.ids(self.first_step + call))
        self._alive.append(batch)
        return batch

    def batch(self, rows: NDArray[np.int64]) -> SourceBatch:
        """Read and draw the samples of `rows` (B,) int64."""
        frames, images = self.frames, self.frames.table.images
        polyline = np.empty((len(rows), frames.size, frames.size, frames.views), np.uint8)
        resized = np.empty((frames.views, len(rows), 2), np.float32)
        for i, row in enumerate(rows.tolist()):
            polyline[i] = frames.polyline(row)
            resized[:, i] = [box[:2] for box in frames.boxes(row)]
        jpeg = [images.read(image) for image in frames.table.image[rows].tolist()]
        window = frames.window[rows].swapaxes(0, 1).astype(np.int32)
        start, shape = (np.ascontiguousarray(part) for part in (window[..., :2], window[..., 2:]))
        return SourceBatch(jpeg, polyline, rows[:, None], start, shape, resized)
