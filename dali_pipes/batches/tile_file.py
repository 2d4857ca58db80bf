"""Letterboxed tiles in one file: complete or absent, made once per node, read by all of its ranks and by later runs.

    path = tile_path(view.frames(table, size=224), folder=Path("runs/index-cache"), decoder="DALI 2.4.0 cpu")
    tiles = open_tiles(path, (tiles, 224, 224, 3), frames)
    tiles.read(np.array([3, 1]), torch.device("cpu"))  # (2, 224, 224, 3)

The file contains the bytes of the pictures in the order of `Frames.picture`, then the CRC-32 of each picture as uint32,
and nothing else. Its name is a hash of everything that the bytes depend on: the fingerprint of the images, their
windows, the frame's side, the decoder (nvJPEG and libjpeg-turbo differ by a few levels), and this format.

The file is written under another name in the same folder, fsynced, and renamed, so a file with the final name is whole.
Processes that start together agree by a lock. If the file system has no locks, each writes its own file, and the
last rename wins, with the same bytes. samples/cache_folder.py deletes files that were not used for long.

Each process compares a picture with its CRC when it first reads it, which takes 50 µs at 224². The file is read, not
mapped: a mapped file that another process cuts short kills this one by SIGBUS. Reading takes 5 µs per picture more.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import weakref
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from ..console import say
from ..errors import InputError
from ..files import alone, hold, replacing
from ..samples.cache_folder import make_room
from ..units import byte_size
from .transfer import host_tensor
from .view import Frames

FORMAT = 3  # increase it when the same release gives other bytes
CRC_BYTES = 4


def tile_path(frames: Frames, folder: Path, decoder: str) -> Path:
    """The file in `folder` for the pictures of `frames` made by `decoder`, whether it exists or not."""
    table = frames.table
    key = hashlib.sha256(f"{FORMAT} {decoder} {frames.size} {frames.views} {table.images.fingerprint()} ".encode())
    first = np.unique(frames.picture, return_index=True)[1]
    for column in (table.image, frames.key):
        key.update(column[first].astype("<i8").tobytes())
    return folder / f"tiles-{key.hexdigest()[:32]}.u8"


class TileFile:
    """The tiles (T, S, S, 3·V) uint8 of a whole file, which stays open as long as this object.

    Raises OSError if the file cannot be opened.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int]) -> None:
        self.path, self.shape = path, shape
        self._file = hold(path)
        self._close = weakref.finalize(self, os.close, self._file)
        self._crc = np.zeros(shape[0], "<u4")
        self._read_into(self._crc, math.prod(shape))
        self._checked = np.zeros(shape[0], bool)

    def read(self, tiles: NDArray[np.int64], device: torch.device) -> Tensor:
        """The `tiles` (B,) as (B, S, S, 3·V) uint8 on `device`; the host does not wait for the copy.

        Raises InputError if the file was cut short, cannot be read, or has other bytes than were written.
        """
        batch = host_tensor((len(tiles), *self.shape[1:]), torch.uint8, device)
        for tile, pixels in zip(tiles.tolist(), batch.numpy(), strict=True):
            self._read_into(pixels, tile * pixels.nbytes)
            if not self._checked[tile]:
                if zlib.crc32(pixels) != self._crc[tile]:
                    raise self._damaged(f"tile {tile} does not match its checksum")
                self._checked[tile] = True
        return batch.to(device, non_blocking=True)

    def _read_into(self, target: NDArray[Any], offset: int) -> None:
        """Fill the array `target` with the bytes from `offset`."""
        try:
            count = os.preadv(self._file, [target.data], offset)  # of a regular file: all of them, or up to its end
        except OSError as error:
            raise self._damaged(error.strerror or str(error)) from None
        if count < target.nbytes:
            raise self._damaged(f"it ends at byte {offset + count}, not at byte {_bytes(self.shape)}")

    def _damaged(self, reason: str) -> InputError:
        """The error for the user. Deletes the file, unless another one has its name now, so that it is made again."""
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._file), os.stat(self.path)):
                self.path.unlink()
        delete = "delete it, and " if self.path.exists() else ""
        return InputError(
            f"the disk cache {self.path} is damaged: {reason}; {delete}start again with --resume, and it is made again;"
            " if this happens twice, check the disk, or choose another --index-cache or --cache"
        )


def open_tiles(path: Path, shape: tuple[int, int, int, int], frames: Iterable[Tensor]) -> TileFile:
    """Open the tiles (T, S, S, 3·V) uint8 in `path`; a missing file is first filled from `frames`, batches of tiles.

    Raises InputError if the file cannot be written or the frames cannot be read.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with suppress(FileNotFoundError):  # another process may have deleted it at this moment
                if _whole(path, shape):
                    return TileFile(path, shape)
            with alone(path.with_suffix(".lock")):
                if not _whole(path, shape):  # another process may have filled it in the meantime
                    _fill(path, shape, _readable(frames))
    except OSError as error:
        raise InputError(
            f"the disk cache {path.parent} cannot be written: {error.strerror or error}; choose another --index-cache"
            " or --cache"
        ) from None


def _bytes(shape: tuple[int, ...]) -> int:
    return math.prod(shape) + CRC_BYTES * shape[0]


def _whole(path: Path, shape: tuple[int, ...]) -> bool:
    return path.is_file() and path.stat().st_size == _bytes(shape)


def _fill(path: Path, shape: tuple[int, ...], frames: Iterable[Tensor]) -> None:
    console = Console(stderr=True)
    make_room(path.parent, _bytes(shape), lambda text: say(console, text))
    free = shutil.disk_usage(path.parent).free
    if _bytes(shape) > free:
        raise InputError(
            f"expected {byte_size(_bytes(shape))} free in {path.parent} for the disk cache, found"
            f" {byte_size(free)}; choose another --index-cache or --cache"
        )
    crc: list[int] = []
    with replacing(path) as file:
        for rgb in frames:
            tiles = rgb.cpu().contiguous().numpy()
            file.write(tiles.data)
            crc += map(zlib.crc32, tiles)
        assert file.tell() == math.prod(shape), "the frames do not fill the file"
        file.write(np.array(crc, "<u4").tobytes())


def _readable(frames: Iterable[Tensor]) -> Iterator[Tensor]:
    """The frames; an error while they are read is the fault of the release, not of this file."""
    try:
        yield from frames
    except OSError as error:
        raise InputError(
            f"the tiles for the disk cache cannot be read: {error.strerror or error}; check the disk of the release"
        ) from None
