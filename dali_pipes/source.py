"""The external-source callback: step number → JPEG bytes, letterbox sizes, masks and row numbers of one batch.

DALI calls `Source` once a batch, ahead of the training step.  It counts the calls itself; the plan knows no last
step, so there is no StopIteration and nothing to reset.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .geometry import letterbox
from .masks import letterbox_mask, padding_mask, polyline_mask
from .plan import Plan
from .samples import SampleTable


class SourceBatch(NamedTuple):
    """B samples as DALI takes them, in the order of `SOURCE_NDIM` and of the graph's inputs.

    `jpeg`: B arrays (n,) uint8; `resized`: (B, 2) float32, height and width in pixels of the frame; `polyline`,
    `padding`: (B, S, S, 1) uint8; `sample`: (B, 1) int64, rows of the table.
    """

    jpeg: list[NDArray[np.uint8]]
    resized: NDArray[np.float32]
    polyline: NDArray[np.uint8]
    padding: NDArray[np.uint8]
    sample: NDArray[np.int64]


class Source:
    """The callable that feeds the graph: `source(call)` is the batch of step `first_step + call`."""

    def __init__(self, table: SampleTable, plan: Plan, size: int, first_step: int = 0, ahead: int = 8) -> None:
        self.table = table
        self.plan = plan
        self.size = size
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
        table, size = self.table, self.size
        polyline = np.zeros((len(rows), size, size, 1), np.uint8)
        padding = np.empty((len(rows), size, size, 1), np.uint8)
        resized = np.empty((len(rows), 2), np.float32)
        for i, row in enumerate(rows.tolist()):
            height, width = int(table.height_px[row]), int(table.width[row])
            box = letterbox(height, width, size)
            letterbox_mask(polyline_mask(table.polyline[row], height, width), box, out=polyline[i, :, :, 0])
            padding[i, :, :, 0] = padding_mask(box, size)
            resized[i] = box.height, box.width
        jpeg = [table.images.read(image) for image in table.image[rows].tolist()]
        return SourceBatch(jpeg, resized, polyline, padding, rows[:, None])
