"""Masks that are drawn once and kept on a device, to be picked by sample.

A padding mask depends on the letterbox alone: in a frame of S pixels one side is always full, so that a view has fewer
than 2·S of them, however many images there are.  A polyline is thin: of the 50,176 pixels of a 224² frame 70 are not
black, on the mean of the rendered release.  Kept as those pixels, masks take a hundredth of the bytes of whole frames
and 3 µs a sample to pick; packed bits would lose the grey edge that the reference's resize gives the line.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..geometry import Letterbox
from .masks import padding_mask
from .view import Frames, distinct


class Paddings:
    """The padding masks of all of `frames`, on `device`."""

    def __init__(self, frames: Frames, device: torch.device) -> None:
        first, size = distinct(frames.window[:, :, 2:].reshape(len(frames.window), -1))
        boxes = np.array([frames.boxes(row) for row in first.tolist()])  # (sizes, V, 4)
        first, box = distinct(boxes.reshape(len(boxes), -1))
        masks = [[padding_mask(Letterbox(*box), frames.size) for box in views] for views in boxes[first].tolist()]
        self._box = torch.from_numpy(box[size]).to(device)
        self._masks = torch.from_numpy(np.stack(masks).transpose(0, 2, 3, 1).copy()).to(device)

    def __call__(self, sample: Tensor) -> Tensor:
        """Masks (B, S, S, V) uint8 of the rows `sample` (B,) int64, both on the device; 255 is padding."""
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
    """The polyline masks of some `rows` (M,) of `frames`, on `device`; drawn when first asked for, at 40 µs each."""

    def __init__(self, frames: Frames, rows: NDArray[np.int64], device: torch.device) -> None:
        self.frames, self.rows, self.device = frames, rows, device
        self._shape = (frames.size, frames.size, frames.views)

    @cached_property
    def _pixels(self) -> _Pixels:
        places, values = [np.empty(0, np.int32)], [np.empty(0, np.uint8)]
        count = np.zeros(len(self.frames.window), np.int64)
        for row in self.rows.tolist():
            frame = self.frames.polyline(row)
            place = np.flatnonzero(frame).astype(np.int32)
            places.append(place)
            values.append(frame.reshape(-1)[place])
            count[row] = len(place)
        start = np.zeros_like(count)
        start[self.rows] = np.cumsum(count[self.rows]) - count[self.rows]
        arrays = (count, start, np.concatenate(places), np.concatenate(values))
        return _Pixels(count, *(torch.from_numpy(array).to(self.device) for array in arrays))

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(tensor.nbytes for tensor in self._pixels[1:])

    def __call__(self, rows: NDArray[np.int64], sample: Tensor) -> Tensor:
        """Masks (B, S, S, V) uint8 on the device, of `rows` (B,) int64, which are there, too, as `sample`."""
        host_counts, counts, start, place, value = self._pixels
        here = counts[sample]
        total = int(host_counts[rows].sum())
        # pixel k of the batch belongs to frame `frame[k]`, and is pixel `wanted[k]` of all
        frame = torch.repeat_interleave(here, output_size=total)  # without the size the host would wait for it
        wanted = torch.arange(total, device=self.device) + (start[sample] - (here.cumsum(0) - here))[frame]
        pixels = math.prod(self._shape)
        masks = torch.zeros(len(rows) * pixels, dtype=torch.uint8, device=self.device)
        masks[frame * pixels + place[wanted]] = value[wanted]
        return masks.view(len(rows), *self._shape)
