"""Letterboxed tiles kept as uint8, so that an epoch is a gather: in the host's memory, in the device's, or on disk.

RGB is kept once a picture: of a whole tile once for all of its samples, 1.2 GB for the whole release at 224²; of the
window around a polyline once a sample, 1.6 GB; of both 3.2 GB.  The masks are drawn anew and kept as their few pixels
(see drawn.py).  What the cache returns is what the graph returned, byte for byte.

| `--cache` | filled | memory of N ranks on one node |
|---|---|---|
| host | by the first epoch | N times the tiles: the shuffle crosses ranks, so that each rank needs all of them |
| device | by the first epoch | the tiles, on each device |
| disk | before the first epoch, by one rank (see tile_file.py) | the tiles once: ranks share the page cache |
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..capacity import free_disk, free_memory, in_words
from .mask_cache import DrawnMasks
from .transfer import Arrivals, gather, to_device
from .view import Frames

SHARE = 0.5  # of the free memory, or of the free disk, that a cache may take unasked
SHARE_OF_GPU = 0.25  # where the activations, gradients and moments of the training are still to come


class CacheChoice(NamedTuple):
    """Where tiles are kept ("none", "host", "device" or "disk"), and why, in words for the console."""

    value: str
    reason: str


def bytes_needed(frames: Frames) -> int:
    """Bytes of a full cache of `frames`, without the masks' pixels, which are a hundredth of it."""
    return math.prod((int(frames.picture.max()) + 1, *_shape(frames)))


def _shape(frames: Frames) -> tuple[int, int, int]:
    """Of one picture: (S, S, 3·V)."""
    return frames.size, frames.size, 3 * frames.views


def choose(
    wanted: str, needed: int, device: torch.device, *, folder: Path | None = None, ranks: int = 1
) -> CacheChoice:
    """Resolve "auto" to the first place of whose free room the tiles of all `ranks` of this node take a fair share.

    A quarter of the device's memory, half of the host's, then half of the disk of `folder`; else "none".  `needed`:
    bytes of one rank's cache.
    """
    if wanted != "auto":
        return CacheChoice(wanted, "as asked")
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        if needed <= SHARE_OF_GPU * free:
            return CacheChoice("device", f"the tiles take {in_words(needed)} of {in_words(free)} free on the GPU")
    free = free_memory() or 0
    of_all = f"{ranks} times " if ranks > 1 else ""
    if ranks * needed <= SHARE * free:
        return CacheChoice("host", f"the tiles take {of_all}{in_words(needed)} of {in_words(free)} free")
    too_much = f"the tiles would take {of_all}{in_words(needed)}, more than half of the {in_words(free)} free"
    if folder is None:
        return CacheChoice("none", too_much)
    try:
        room = free_disk(folder)
    except OSError as error:
        return CacheChoice("none", f"{too_much}, and {folder} cannot be written: {error.strerror or error}")
    if needed > SHARE * room:
        return CacheChoice("none", f"{too_much} and of the {in_words(room)} free in {folder}")
    return CacheChoice("disk", f"{too_much}, but {in_words(room)} are free in {folder}")


class TileCache:
    """The pictures that `rows` (M,) of `frames` need; empty, unless given `rgb`.

    `place`: where pictures are kept; `device`: where batches go, and masks are kept; `rgb`: all pictures of the rows,
    in their order, (T, S, S, 3·V) uint8 in `place`.  `put` what the graph made; when `complete`, `get` returns it.
    """

    def __init__(
        self,
        frames: Frames,
        rows: NDArray[np.int64],
        place: torch.device,
        device: torch.device,
        rgb: Tensor | None = None,
    ) -> None:
        pictures, first = np.unique(frames.picture[rows], return_index=True)
        self._row_of = rows[first]
        self._picture = np.searchsorted(pictures, frames.picture)  # of rows outside `rows` it is meaningless
        self.place, self.device = place, device
        empty = (len(pictures), *_shape(frames))
        self._rgb = torch.empty(empty, dtype=torch.uint8, device=place) if rgb is None else rgb
        self._arrivals = Arrivals(self._keep)
        self._polylines = DrawnMasks(frames, rows, device)
        self._missing = np.full(len(pictures), rgb is None)

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return self._rgb.nbytes + self._polylines.nbytes

    @property
    def missing(self) -> NDArray[np.int64]:
        """One row of each picture that was not put yet, (M,) int64."""
        return self._row_of[self._missing]

    @property
    def begun(self) -> bool:
        """Whether anything was put."""
        return not self._missing.all()

    @property
    def complete(self) -> bool:
        """Whether every picture was put."""
        return not self._missing.any()

    def put(self, rows: NDArray[np.int64], rgb: Tensor) -> None:
        """Keep the pictures of `rows` (B,) int64: `rgb` (B, S, S, 3·V) uint8 on any device."""
        picture = self._picture[rows]
        self._missing[picture] = False
        if self.place.type == "cpu":
            self._arrivals.send(picture, rgb)
        else:
            self._keep(picture, rgb.to(self.place, non_blocking=True))

    def get(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """RGB (B, S, S, 3·V) and polyline (B, S, S, V) uint8 of `rows` (B,) int64, and these, all on the device."""
        self._arrivals.finish()
        sample = to_device(rows, self.device)
        return gather(self._rgb, self._picture[rows], self.device), self._polylines(rows, sample), sample

    def _keep(self, picture: NDArray[np.int64], rgb: Tensor) -> None:
        self._rgb.index_copy_(0, to_device(picture, self.place), rgb)
