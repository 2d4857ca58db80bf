"""Letterboxed tiles kept as uint8 after their first epoch, so that later epochs are a gather.

RGB is kept once a tile, the polyline's mask once a sample, the padding mask once a geometry: 1.7 GB for the whole
release at 224².  What the cache returns is what the graph returned, byte for byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .samples import SampleTable

SHARE = 0.5  # of the free memory that a cache may take unasked


class CacheChoice(NamedTuple):
    """Where tiles are kept ("none", "host" or "device"), and why, in words for the console."""

    value: str
    reason: str


def bytes_needed(table: SampleTable, size: int) -> int:
    """Memory that a full cache of `table` at `size` × `size` takes, without the few padding masks."""
    return (3 * len(np.unique(table.image)) + len(table)) * size * size


def choose(wanted: str, needed: int, device: torch.device) -> CacheChoice:
    """Resolve "auto": the device's memory if the tiles take at most half of what is free there, else the host's."""
    if wanted != "auto":
        return CacheChoice(wanted, "as asked")
    gib = needed / 2**30
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        if needed <= SHARE * free:
            return CacheChoice("device", f"the tiles take {gib:.1f} GiB of {free / 2**30:.0f} GiB free on the GPU")
    free = _free_host_memory()
    if needed <= SHARE * free:
        return CacheChoice("host", f"the tiles take {gib:.1f} GiB of {free / 2**30:.0f} GiB free")
    return CacheChoice("none", f"the tiles would take {gib:.1f} GiB, more than half of the {free / 2**30:.0f} GiB free")


def _free_host_memory() -> int:
    """Bytes that can be had without swapping; 0 where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)


class TileCache:
    """The letterboxed tiles of `table` in frames of `size` pixels, on `device`; empty at first.

    `put` what the graph made; when `complete`, `get` returns it.
    """

    def __init__(self, table: SampleTable, size: int, device: torch.device) -> None:
        tiles, tile = np.unique(table.image, return_inverse=True)
        sizes, geometry = np.unique(np.stack([table.height_px, table.width], axis=1), axis=0, return_inverse=True)
        self.device = device
        self._tile = torch.from_numpy(tile.astype(np.int64)).to(device)
        self._geometry = torch.from_numpy(geometry.astype(np.int64).reshape(-1)).to(device)
        frame = (size, size)
        self._rgb = torch.empty((len(tiles), *frame, 3), dtype=torch.uint8, device=device)
        self._polyline = torch.empty((len(table), *frame, 1), dtype=torch.uint8, device=device)
        self._padding = torch.empty((len(sizes), *frame, 1), dtype=torch.uint8, device=device)
        self._missing = np.ones(len(table), bool)

    @property
    def missing(self) -> np.ndarray:
        """Rows that were not put yet, (M,) int64."""
        return np.flatnonzero(self._missing)

    @property
    def begun(self) -> bool:
        """Whether anything was put."""
        return not self._missing.all()

    @property
    def complete(self) -> bool:
        """Whether every row was put."""
        return not self._missing.any()

    def put(self, rows: np.ndarray, rgb: Tensor, polyline: Tensor, padding: Tensor) -> None:
        """Keep B samples: `rows` (B,) int64 on the host, the others (B, S, S, ·) uint8 on the cache's device or any."""
        where = torch.tensor(rows, device=self.device)
        self._rgb.index_copy_(0, self._tile[where], rgb.to(self.device))
        self._polyline.index_copy_(0, where, polyline.to(self.device))
        self._padding.index_copy_(0, self._geometry[where], padding.to(self.device))
        self._missing[rows] = False

    def get(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """RGB (B, S, S, 3), polyline and padding (B, S, S, 1) uint8 of `rows` (B,) int64 on the cache's device."""
        return (
            self._rgb.index_select(0, self._tile[rows]),
            self._polyline.index_select(0, rows),
            self._padding.index_select(0, self._geometry[rows]),
        )
