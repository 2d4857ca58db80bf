"""The external-source callback: step number → JPEG bytes, letterbox sizes, polylines and row numbers of one batch.

DALI calls `Source` once a batch, ahead of the training step.  It counts the calls itself; the plan knows no last
step, so there is no StopIteration and nothing to reset.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .geometry import letterbox
from .masks import polyline_frame
from .plan import Plan
from .samples import SampleTable


class SourceBatch(NamedTuple):
    """B samples as DALI takes them, in the order of the graph's inputs.

    `jpeg`: B arrays (n,) uint8; `resized`: (B, 2) float32, height and width in pixels of the frame; `polyline`:
    (B, S, S, 1) uint8; `sample`: (B, 1) int64, rows of the table.
    """

    jpeg: list[NDArray[np.uint8]]
    resized: NDArray[np.float32]
    polyline: NDArray[np.uint8]
    sample: NDArray[np.int64]


class Source:
    """The callable that feeds the graph: `source(call)` is the batch of step `first_step + call`.

    `square`: whether all images of the table are, so that they fill the frame.
    """

    def __init__(self, table: SampleTable, plan: Plan, size: int, first_step: int = 0, ahead: int = 8) -> None:
        self.table = table
        self.plan = plan
        self.size = size
        self.first_step = first_step
        self.square = bool((table.width == table.height_px).all())
        # DALI reads these arrays without a copy, up to its prefetch depth of batches after the call returned.
        self._alive: deque[SourceBatch] = deque(maxlen=ahead)

    def __call__(self, call: int) -> SourceBatch:
        """Read and draw one batch."""
        batch = self.batch(self.plan.ids(self.first_step + call))
        self._alive.append(batch)
        return batch

    def batch(self, rows: NDArray[np.int64]) -> SourceBatch:
        """Read and draw the samples of `rows` (B,) int64."""
        table, size = self.table, self.size
        polyline = np.empty((len(rows), size, size, 1), np.uint8)
        resized = np.empty((len(rows), 2), np.float32)
        for i, row in enumerate(rows.tolist()):
            height, width = int(table.height_px[row]), int(table.width[row])
            polyline[i, :, :, 0] = polyline_frame(table.polyline[row], height, width, size)
            resized[i] = letterbox(height, width, size)[:2]
        jpeg = [table.images.read(image) for image in table.image[rows].tolist()]
        return SourceBatch(jpeg, resized, polyline, rows[:, None])
