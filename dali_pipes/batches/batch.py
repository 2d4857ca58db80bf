"""The tensors that a training step receives.

This module needs torch only: a step can be tested and timed without DALI.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from torch import Tensor


class Letterboxed(NamedTuple):
    """The part of a batch that is made from images: B samples in V views, on one device.

    `rgb`: (B, S, S, 3·V) uint8; `polyline`: (B, S, S, V) uint8, 255 on the line; `sample`: (B,) int64, rows of the
    table.
    """

    rgb: Tensor
    polyline: Tensor
    sample: Tensor


@dataclass(frozen=True)
class Batch:
    """B letterboxed samples in V views (in the order tile, window), on one device.

    `rgb`: (B, S, S, 3·V) uint8.
    `polyline`, `padding`: (B, S, S, V) uint8, 255 is foreground.
    `length`: (B, 1) float32, the normalised length.
    `height`: (B,) float32, in metres, or the `target` that the loader was given.
    `sample`: (B,) int64, rows of the table.

    With `statistics` the loader z-normalises the length, and the height unless it is a `target`.
    """

    rgb: Tensor
    polyline: Tensor
    padding: Tensor
    length: Tensor
    height: Tensor
    sample: Tensor

    def __len__(self) -> int:
        return len(self.sample)

    def __repr__(self) -> str:
        return f"Batch({len(self)} samples, rgb {tuple(self.rgb.shape)} on {self.rgb.device})"

    def split(self, parts: int) -> list[Batch]:
        """Split into equal parts, in order, without a copy; `parts` must divide the number of samples."""
        size = len(self) // parts
        columns = [getattr(self, field.name).split(size) for field in fields(self)]
        return [Batch(*part) for part in zip(*columns, strict=True)]
