"""Masks that are drawn once and kept on a device, to be picked by sample.

A padding mask depends on the letterbox alone: in a frame of S pixels one side is always full, so that there are fewer
than 2·S of them, however many images there are.  A polyline is thin: of the 50,176 pixels of a 224² frame 70 are not
black, on the mean of the rendered release.  Kept as those pixels, masks take a hundredth of the bytes of whole frames
and 3 µs a sample to pick; packed bits would lose the grey edge that the reference's resize gives the line.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .geometry import Letterbox, letterbox
from .masks import padding_mask, polyline_frame
from .samples import SampleTable


class Paddings:
    """The padding masks of `table`'s samples in frames of `size` × `size` pixels, on `device`."""

    def __init__(self, table: SampleTable, size: int, device: torch.device) -> None:
        sizes, which = np.unique(
            table.height_px << 32 | table.width, return_inverse=True
        )  # by rows it sorts for seconds
        boxes, box = np.unique(
            [letterbox(both >> 32, both & 0xFFFFFFFF, size) for both in sizes.tolist()], axis=0, return_inverse=True
        )
        self.boxes = [Letterbox(*values) for values in boxes.tolist()]
        self.device = device
        self._box = torch.from_numpy(box.reshape(-1)[which]).to(device)
        self._masks = torch.from_numpy(np.stack([padding_mask(box, size) for box in self.boxes])[..., None]).to(device)

    def __call__(self, sample: Tensor) -> Tensor:
        """Masks (B, S, S, 1) uint8 of the rows `sample` (B,) int64, both on the device; 255 is padding."""
        return self._masks.index_select(0, self._box[sample])


class _Pixels(NamedTuple):
    """All pixels that are not black, row by row; what is (N,) has an entry for each row of the table."""

    host_counts: NDArray[np.int64]
    """How many each row has, (N,) on the host, which must know the size of what it asks for."""
    counts: Tensor
    """The same, (N,) int64 on the device, as all that follows."""
    start: Tensor
    """Where those of each row begin, (N,) int64."""
    place: Tensor
    """Their places in their frames, (M,) int32."""
    value: Tensor
    """(M,) uint8."""


class DrawnMasks:
    """The polyline masks of some `rows` (M,) of `table`, on `device`; drawn when first asked for, at 40 µs a sample."""

    def __init__(self, table: SampleTable, rows: NDArray[np.int64], size: int, device: torch.device) -> None:
        self.table, self.rows, self.size, self.device = table, rows, size, device

    @cached_property
    def _pixels(self) -> _Pixels:
        table = self.table
        places, values = [np.empty(0, np.int32)], [np.empty(0, np.uint8)]
        count = np.zeros(len(table), np.int64)
        for row in self.rows.tolist():
            frame = polyline_frame(table.polyline[row], int(table.height_px[row]), int(table.width[row]), self.size)
            place = np.flatnonzero(frame).astype(np.int32)
            places.append(place)
            values.append(frame.reshape(-1)[place])
            count[row] = len(place)
        start = np.zeros(len(table), np.int64)
        start[self.rows] = np.cumsum(count[self.rows]) - count[self.rows]
        arrays = (count, start, np.concatenate(places), np.concatenate(values))
        return _Pixels(count, *(torch.from_numpy(array).to(self.device) for array in arrays))

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(tensor.nbytes for tensor in self._pixels[1:])

    def __call__(self, rows: NDArray[np.int64], sample: Tensor) -> Tensor:
        """Masks (B, S, S, 1) uint8 on the device, of `rows` (B,) int64, which are there, too, as `sample`."""
        host_counts, counts, start, place, value = self._pixels
        here = counts[sample]
        total = int(host_counts[rows].sum())
        # pixel k of the batch belongs to frame `frame[k]`, and is pixel `wanted[k]` of all
        frame = torch.repeat_interleave(here, output_size=total)  # without the size the host would wait for it
        wanted = torch.arange(total, device=self.device) + (start[sample] - (here.cumsum(0) - here))[frame]
        masks = torch.zeros(len(rows) * self.size**2, dtype=torch.uint8, device=self.device)
        masks[frame * self.size**2 + place[wanted]] = value[wanted]
        return masks.view(len(rows), self.size, self.size, 1)
