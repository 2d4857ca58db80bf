"""Letterboxed tiles in one file: complete or absent, made once per node, mapped by all of its ranks and by later runs.

    path = tile_path(view.frames(table, size=224), folder=Path("runs/index-cache"), decoder="DALI 2.4.0 cpu")
    rgb = open_tiles(path, (tiles, 224, 224, 3), frames)

The file contains the bytes of the pictures in the order of `Frames.picture`, and nothing else. Its name is a hash of
everything that the bytes depend on: the fingerprint of the images, their windows, the frame's side, the decoder (nvJPEG
and libjpeg-turbo differ by a few levels), and this format.

The file is written under another name in the same folder, fsynced, and renamed, so a file with the final name is whole.
Processes that start together agree by a lock. If the file system has no locks, each writes its own file, and the
last rename wins, with the same bytes. When a release has changed, its old files stay until someone deletes them.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import alone, replacing, sweep
from ..units import byte_size
from .view import Frames

FORMAT = 2  # increase it when the same release gives other bytes


def tile_path(frames: Frames, folder: Path, decoder: str) -> Path:
    """The file in `folder` for the pictures of `frames` made by `decoder`, whether it exists or not."""
    table = frames.table
    key = hashlib.sha256(f"{FORMAT} {decoder} {frames.size} {frames.views} {table.images.fingerprint()} ".encode())
    first = np.unique(frames.picture, return_index=True)[1]
    for column in (table.image, frames.window):
        key.update(column[first].astype("<i8").tobytes())
    return folder / f"tiles-{key.hexdigest()[:32]}.u8"


def open_tiles(path: Path, shape: tuple[int, int, int, int], frames: Iterable[Tensor]) -> Tensor:
    """Map the tiles (T, S, S, 3·V) uint8 in `path`; a missing file is first filled from `frames`, batches of tiles.

    All processes that map the file share its memory, and must not write to it. Raises InputError if the file cannot
    be written or the frames cannot be read.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _whole(path, shape):
            with alone(path.with_suffix(".lock")):
                if not _whole(path, shape):  # another process may have filled it in the meantime
                    _fill(path, shape, _readable(frames))
        return torch.from_file(str(path), shared=False, size=math.prod(shape), dtype=torch.uint8).view(shape)
    except OSError as error:
        raise InputError(
            f"the disk cache {path.parent} cannot be written: {error.strerror or error}; choose another --index-cache"
            " or --cache"
        ) from None


def _whole(path: Path, shape: tuple[int, ...]) -> bool:
    return path.is_file() and path.stat().st_size == math.prod(shape)


def _fill(path: Path, shape: tuple[int, ...], frames: Iterable[Tensor]) -> None:
    sweep(path)  # remove unfinished files of killed processes
    free = shutil.disk_usage(path.parent).free
    if math.prod(shape) > free:
        raise InputError(
            f"expected {byte_size(math.prod(shape))} free in {path.parent} for the disk cache, found"
            f" {byte_size(free)}; choose another --index-cache or --cache"
        )
    with replacing(path) as file:
        for rgb in frames:
            file.write(rgb.cpu().contiguous().numpy().data)
        assert file.tell() == math.prod(shape), "the frames do not fill the file"


def _readable(frames: Iterable[Tensor]) -> Iterator[Tensor]:
    """The frames; an error while they are read is the fault of the release, not of this file."""
    try:
        yield from frames
    except OSError as error:
        raise InputError(
            f"the tiles for the disk cache cannot be read: {error.strerror or error}; check the disk of the release"
        ) from None
