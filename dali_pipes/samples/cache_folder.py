"""The folder of --index-cache: files that runs share, and that are made again if they are missing.

    train-KEY.npz, train-KEY.left_out.csv   the table of a split, and what was skipped (index.py)
    tiles-KEY.u8                            letterboxed tiles (batches/tile_file.py)

A KEY is a hash of everything that a file depends on, so a changed release gets new files. `make_room` deletes the old
ones: those that were not used for the longest time, until the folder is below its limit. What a process is using stays.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..files import delete_unless_held, sweep
from ..units import byte_size

LIMIT = 20 << 30  # bytes: the tiles of the release take 1.2 GB to 3.2 GB, for each view, size and division into splits
FILES = ("tiles-*.u8", "train-*", "validation-*")


class _Cached(NamedTuple):
    """A file of the folder: when it was last used, its bytes, and its path."""

    used: float
    size: int
    path: Path


def remove_unfinished(folder: Path) -> None:
    """Delete what killed processes left in `folder`: unfinished files and lock files. Those of live ones stay."""
    sweep(folder)
    sweep(folder, "*.lock")


def make_room(folder: Path, needed: int, say: Callable[[str], object]) -> None:
    """Delete the least recently used files until `needed` more bytes fit into `LIMIT` and on the disk, and `say` which.

    The files that processes hold stay, even if the folder is then above the limit.
    """
    files = sorted(_cached(folder))
    total = sum(file.size for file in files)
    for _, size, path in files:
        if total + needed <= LIMIT and needed <= shutil.disk_usage(folder).free:
            return
        with suppress(OSError):  # another process was faster, or the file belongs to somebody else
            if delete_unless_held(path):
                total -= size
                say(
                    f"deleted {path}, the least recently used file of the index cache: {byte_size(needed)} more did not"
                    f" fit into its limit of {byte_size(LIMIT)}, or not on the disk"
                )


def _cached(folder: Path) -> list[_Cached]:
    files = []
    for path in (path for pattern in FILES for path in folder.glob(pattern)):
        with suppress(OSError):
            state = path.lstat()
            files.append(_Cached(state.st_mtime, state.st_size, path))
    return files
