"""Masks that are drawn once, kept on a device, and picked by row.

Padding is what lies outside of the image. In a row of a frame the image is one interval, also if it is turned. Frames
share such rows of pixels: a padding mask is kept as S numbers of them, which takes a fiftieth of its pixels.

A polyline is thin: of the 50,176 pixels of a 224² frame, 70 are not black on average (rendered release). Kept as these
pixels, masks take a hundredth of the memory of whole frames, and picking one takes 3 µs. Packed bits would lose the
grey edge that the reference's resize gives the line.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..geometry import letterbox
from .masks import letterboxed_columns, turned_columns
from .view import Frames, unique_rows


class PaddingMasks:
    """The padding masks of all rows of `frames`, on `device`."""

    def __init__(self, frames: Frames, device: torch.device) -> None:
        first, mask = self._alike(frames)
        inside = np.stack([_inside(frames, view, first) for view in range(frames.views)], axis=1)  # (masks, V, S, 2)
        ends, line = np.unique(inside.reshape(-1, 2), axis=0, return_inverse=True)
        column = np.arange(frames.size)
        lines = np.where((column < ends[:, :1]) | (column >= ends[:, 1:]), 255, 0).astype(np.uint8)
        self._lines = torch.from_numpy(lines).to(device)
        self._line = torch.from_numpy(line.reshape(inside.shape[:-1]).astype(np.int32)).to(device)
        self._mask = torch.from_numpy(mask).to(device)

    @staticmethod
    def _alike(frames: Frames) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first row with each mask, and the number of each row's mask."""
        if not frames.turned.any():
            return unique_rows(frames.window[:, :, 2:].reshape(len(frames.window), -1))
        return unique_rows(np.column_stack([frames.key, frames.table.height_px, frames.table.width]))

    def __call__(self, sample: Tensor) -> Tensor:
        """Masks (B, S, S, V) uint8 of the rows `sample` (B,) int64, both on the device; 255 is padding."""
        lines = self._line.index_select(0, self._mask[sample])  # (B, V, S)
        masks = self._pick(lines.flatten()).view(*lines.shape, -1)
        size = masks.shape[-1]
        # Through a flat tensor: the strides select the compiled graph, and those of a view of size 1 may be any.
        return masks.movedim(1, -1).flatten().view(-1, size, size, masks.shape[1])

    def _pick(self, lines: Tensor) -> Tensor:
        """The rows of pixels `lines` (M,) → (M, S)."""
        if self._lines.device.type == "cpu":
            # Not by torch: after an operation its other threads spin for a while, on the cores that DALI needs.
            return torch.from_numpy(np.take(self._lines.numpy(), lines.numpy(), axis=0))
        return self._lines.index_select(0, lines)


def _inside(frames: Frames, view: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The columns that show the image in each row of a frame, (M, S, 2); see masks.py."""
    if frames.turned[view]:
        table = frames.table
        return turned_columns(frames.matrix[rows, view], table.height_px[rows], table.width[rows], frames.size)
    sides, box = np.unique(frames.window[rows, view, 2:], axis=0, return_inverse=True)
    columns = [letterboxed_columns(letterbox(h, w, frames.size), frames.size) for h, w in sides.tolist()]
    return np.stack(columns)[box.reshape(-1)]


class _NonzeroPixels(NamedTuple):
    """The M pixels of all masks that are not black, mask by mask; N is the number of rows in the table."""

    host_counts: NDArray[np.int64]
    """Pixels of each row, (N,); on the host, because the size of a result must be known before it is computed."""
    counts: Tensor
    """The same on the device, (N,) int64, like the fields below."""
    start: Tensor
    """Where the pixels of each row start, (N,) int64."""
    offset: Tensor
    """Their offsets in their flattened masks, (M,) int32."""
    value: Tensor
    """Their grey levels, (M,) uint8."""


class PolylineMasks:
    """The polyline masks of some `rows` (M,) of `frames`, on `device`. The first call draws them, at 50 µs each."""

    def __init__(self, frames: Frames, rows: NDArray[np.int64], device: torch.device) -> None:
        self.frames, self.rows, self.device = frames, rows, device
        self._shape = (frames.size, frames.size, frames.views)

    @cached_property
    def _pixels(self) -> _NonzeroPixels:
        offsets, values = [np.empty(0, np.int32)], [np.empty(0, np.uint8)]
        count = np.zeros(len(self.frames.window), np.int64)
        for row in self.rows.tolist():
            mask = self.frames.polyline(row)
            offset = np.flatnonzero(mask).astype(np.int32)
            offsets.append(offset)
            values.append(mask.reshape(-1)[offset])
            count[row] = len(offset)
        start = np.zeros_like(count)
        start[self.rows] = np.cumsum(count[self.rows]) - count[self.rows]
        arrays = (count, start, np.concatenate(offsets), np.concatenate(values))
        return _NonzeroPixels(count, *(torch.from_numpy(array).to(self.device) for array in arrays))

    def __call__(self, rows: NDArray[np.int64], sample: Tensor) -> Tensor:
        """Masks (B, S, S, V) uint8 on the device; `rows` and `sample` (B,) int64 are the same on host and device."""
        host_counts, counts, start, offset, value = self._pixels
        counts_here = counts[sample]
        total = int(host_counts[rows].sum())
        # Pixel k of this batch belongs to mask `mask[k]`. Of all pixels it is number `source[k]`.
        mask = torch.repeat_interleave(counts_here, output_size=total)  # without the size the host would wait for it
        first = counts_here.cumsum(0) - counts_here
        source = torch.arange(total, device=self.device) + (start[sample] - first)[mask]
        pixels = math.prod(self._shape)
        masks = torch.zeros(len(rows) * pixels, dtype=torch.uint8, device=self.device)
        masks[mask * pixels + offset[source]] = value[source]
        return masks.view(len(rows), *self._shape)
