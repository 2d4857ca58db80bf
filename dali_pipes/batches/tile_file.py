"""Letterboxed tiles in a file: complete or absent, made once a node, mapped by all of its ranks, there for later runs.

    path = tile_path(view.frames(table, size=224), folder=Path("runs/index-cache"), decoder="DALI 2.4.0 cpu")
    rgb = open_tiles(path, (tiles, 224, 224, 3), frames)

The file holds the tiles' bytes, or those of their windows, in the order of `Frames.picture`, and nothing else.  Its
name is a hash of all that they depend on: the fingerprint of the images, which windows of them, the frame's side, what
decoded them (nvJPEG's levels are not libjpeg-turbo's), and this format.  It is written under a name of its own beside
its place, fsynced, and renamed, so that what has the name is whole; processes that come together agree by a lock, and
where the file system knows no locks, each fills a file of its own and the last rename wins, with the same bytes.  Files
of releases that changed since stay until someone deletes them.
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

from ..capacity import in_words
from ..errors import InputError
from ..files import alone, replacing, sweep
from .view import Frames

FORMAT = 2  # raise it when the same release would give other bytes


def tile_path(frames: Frames, folder: Path, decoder: str) -> Path:
    """Where the pictures of `frames`, made by `decoder`, lie, or would lie, in `folder`."""
    table = frames.table
    key = hashlib.sha256(f"{FORMAT} {decoder} {frames.size} {frames.views} {table.images.fingerprint()} ".encode())
    first = np.unique(frames.picture, return_index=True)[1]
    for column in (table.image, frames.window):
        key.update(column[first].astype("<i8").tobytes())
    return folder / f"tiles-{key.hexdigest()[:32]}.u8"


def open_tiles(path: Path, shape: tuple[int, int, int, int], frames: Iterable[Tensor]) -> Tensor:
    """Map the tiles (T, S, S, 3·V) uint8 in `path`; if it is not there, fill it from `frames`, batches of such tiles.

    The memory is shared with all processes that map it, and is only read.  Raises InputError if the file cannot be
    written, or the frames cannot be read.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _whole(path, shape):
            with alone(path.with_suffix(".lock")):
                if not _whole(path, shape):  # another process may have filled it in the meantime
                    _fill(path, shape, _read(frames))
        return torch.from_file(str(path), shared=False, size=math.prod(shape), dtype=torch.uint8).view(shape)
    except OSError as error:
        raise InputError(
            f"the disk cache {path.parent} cannot be written: {error.strerror or error}; choose another --index-cache"
            " or --cache"
        ) from None


def _whole(path: Path, shape: tuple[int, ...]) -> bool:
    return path.is_file() and path.stat().st_size == math.prod(shape)


def _fill(path: Path, shape: tuple[int, ...], frames: Iterable[Tensor]) -> None:
    sweep(path)  # what a killed process left takes up space
    free = shutil.disk_usage(path.parent).free
    if math.prod(shape) > free:
        raise InputError(
            f"expected {in_words(math.prod(shape))} free in {path.parent} for the disk cache, found"
            f" {in_words(free)}; choose another --index-cache or --cache"
        )
    with replacing(path) as file:
        for rgb in frames:
            file.write(rgb.cpu().contiguous().numpy().data)
        assert file.tell() == math.prod(shape), "frames are not the tiles that were announced"


def _read(frames: Iterable[Tensor]) -> Iterator[Tensor]:
    """The frames; where they cannot be had it is the release that is at fault, and not this file."""
    try:
        yield from frames
    except OSError as error:
        raise InputError(
            f"the tiles for the disk cache cannot be read: {error.strerror or error}; check the disk of the release"
        ) from None
