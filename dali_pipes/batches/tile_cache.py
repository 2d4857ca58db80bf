"""Letterboxed tiles kept as uint8 between epochs: in host memory, in device memory, or on disk.

A cached epoch only copies rows, and returns the bytes that the graph gave. On a CPU the graph always gives the same.
On a GPU, bytes may differ by a level or two: nvJPEG decodes one part of each batch in hardware. RGB is kept once per
picture. At 224² the whole release takes 1.2 GB as whole tiles, because all samples of a tile share one picture; 1.6 GB
as windows around polylines, one per sample; and 3.2 GB as both, because then each sample has its own picture of the
tile, too. Polyline masks are drawn again and kept as their few pixels: see mask_cache.py.

A run on a CPU that has just built the index already has its tiles: see first_pass.py. Otherwise:

| `--cache` | filled | memory of N ranks on one node |
|---|---|---|
| host | by the first epoch | N times the tiles: epochs are shuffled across ranks, so each rank needs all of them |
| device | by the first epoch | the tiles, on each device |
| disk | before the first epoch, by one rank (see tile_file.py) | the tiles once: ranks share the page cache |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..capacity import free_disk, free_memory
from ..choice import Choice
from ..errors import InputError
from ..units import byte_size
from .batch import Letterboxed
from .mask_cache import PolylineMasks
from .transfer import CopiesToHost, select_rows, to_device
from .view import Frames

PLACES = ("none", "host", "device", "disk")
MAX_SHARE_OF_FREE = 0.5  # of the free host memory, or of the free disk, that "auto" may use
MAX_SHARE_OF_FREE_GPU = 0.25  # less, since activations, gradients and optimiser state come later


@dataclass(frozen=True)
class CacheOptions:
    """Where tiles are kept between epochs: `place` is "none", "host", "device" or "disk".

    `folder`: where the file of a disk cache is stored; other places ignore it. Raises ValueError for another place, and
    InputError for a disk cache without a folder.
    """

    place: str = "none"
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.place not in PLACES:
            raise ValueError(f"expected a cache of {', '.join(PLACES)}, found {self.place!r}")
        if self.place == "disk" and self.folder is None:
            raise InputError("expected a folder for the disk cache, found none; name one in CacheOptions")


NO_CACHE = CacheOptions()


class Tiles(Protocol):
    """All pictures of a cache, by number."""

    def read(self, tiles: NDArray[np.int64], device: torch.device) -> Tensor:
        """The pictures `tiles` (B,) as (B, S, S, 3·V) uint8 on `device`."""


def bytes_needed(frames: Frames) -> int:
    """Bytes of a full cache of `frames`, without the masks, which add one percent."""
    return math.prod((int(frames.picture.max()) + 1, *_picture_shape(frames)))


def _picture_shape(frames: Frames) -> tuple[int, int, int]:
    return frames.size, frames.size, 3 * frames.views


def choose_cache(
    wanted: str, needed: int, device: torch.device, *, folder: Path | None = None, ranks: int = 1, held: int = 0
) -> Choice:
    """Resolve "auto" to the fastest place with enough free space for the tiles of all `ranks` on this node.

    The tiles may take a quarter of the free GPU memory, else half of the free host memory, else half of the free
    disk at `folder`; else the choice is "none". `needed`: bytes of one rank's cache. `held`: bytes of host memory that
    the index has already filled with tiles, which are free for the cache.
    """
    if wanted != "auto":
        return Choice(wanted, "as asked")
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        if needed <= MAX_SHARE_OF_FREE_GPU * free:
            return Choice("device", f"the tiles take {byte_size(needed)} of {byte_size(free)} free on the GPU")
    free = (free_memory() or 0) + held
    tiles = f"{ranks} times {byte_size(needed)}" if ranks > 1 else byte_size(needed)
    if ranks * needed <= MAX_SHARE_OF_FREE * free:
        return Choice("host", f"the tiles take {tiles} of {byte_size(free)} free")
    too_much = f"the tiles would take {tiles}, more than half of the {byte_size(free)} free"
    if folder is None:
        return Choice("none", too_much)
    try:
        free = free_disk(folder)
    except OSError as error:
        return Choice("none", f"{too_much}, and {folder} cannot be written: {error.strerror or error}")
    if needed > MAX_SHARE_OF_FREE * free:
        return Choice("none", f"{too_much} and of the {byte_size(free)} free in {folder}")
    return Choice("disk", f"{too_much}, but {byte_size(free)} are free in {folder}")


class TileCache:
    """RGB and polyline masks of `rows` (M,) of `frames`.

    `storage`: the device that stores the RGB.
    `device`: the device that stores the masks and receives the batches.
    `tiles`: all pictures of the rows, in their order. Without them the cache is empty: `put` the output of the graph,
    until the cache is `complete`; then `get` returns it.
    """

    def __init__(
        self,
        frames: Frames,
        rows: NDArray[np.int64],
        storage: torch.device,
        device: torch.device,
        tiles: Tiles | None = None,
    ) -> None:
        pictures, first = np.unique(frames.picture[rows], return_index=True)
        self._row_of = rows[first]
        self._picture = np.searchsorted(pictures, frames.picture)  # meaningless for other rows than `rows`
        self.storage, self.device = storage, device
        self._tiles = tiles
        shape = (0 if tiles else len(pictures), *_picture_shape(frames))
        self._rgb = torch.empty(shape, dtype=torch.uint8, device=storage)
        self._copies = CopiesToHost(self._keep)
        self._polylines = PolylineMasks(frames, rows, device)
        self._missing = np.full(len(pictures), tiles is None)

    @property
    def missing(self) -> NDArray[np.int64]:
        """One row of each picture that has not been put yet, (M,) int64."""
        return self._row_of[self._missing]

    @property
    def begun(self) -> bool:
        """Whether any picture has been put."""
        return not self._missing.all()

    @property
    def complete(self) -> bool:
        """Whether every picture has been put."""
        return not self._missing.any()

    def put(self, rows: NDArray[np.int64], rgb: Tensor) -> None:
        """Keep the pictures of `rows` (B,) int64: `rgb` (B, S, S, 3·V) uint8 on any device."""
        picture = self._picture[rows]
        self._missing[picture] = False
        if self.storage.type == "cpu":
            self._copies.send(picture, rgb)
        else:
            self._keep(picture, rgb.to(self.storage, non_blocking=True))

    def get(self, rows: NDArray[np.int64]) -> Letterboxed:
        """The images of `rows` (B,) int64, on the device; the cache must be complete.

        Raises InputError if the file of a disk cache is damaged.
        """
        self._copies.finish()
        sample, picture = to_device(rows, self.device), self._picture[rows]
        rgb = self._tiles.read(picture, self.device) if self._tiles else select_rows(self._rgb, picture, self.device)
        return Letterboxed(rgb, self._polylines(rows, sample), sample)

    def _keep(self, picture: NDArray[np.int64], rgb: Tensor) -> None:
        self._rgb.index_copy_(0, to_device(picture, self.storage), rgb)
