"""A run of bytes that lies in pieces of files, read by random access where it lies.

A ZIP of a release may be a file, a member of a tar, or a row of parts, each a file or a member of a tar.  All of
these are one thing here: a list of segments (file, offset, length), numbered through as if it were one file.

    Extent([Segment(tar, 512, 1 << 30), Segment(tar, 1_073_743_360, 4_096)], where="download.tar: TS_KS.zip.part*")

The files are mapped into memory: bytes inside one segment are a view of the map, bytes that straddle segments are
joined.  The maps may be shared by threads and survive a fork; pickling keeps the segments alone, and the other
process maps anew.  A file must not be cut while it is mapped: the system ends a process that reads behind the cut.
"""

from __future__ import annotations

import mmap
import stat
import struct
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import InputError


class Segment(NamedTuple):
    """`length` bytes of `file` from byte `offset` on."""

    file: Path
    offset: int
    length: int


class Extent:
    """The bytes of some segments in their order; `size`: how many; `where`: what sentences call them.

    Raises InputError if a file cannot be mapped or is shorter than its segment.
    """

    def __init__(self, segments: Iterable[Segment], where: str) -> None:
        self.segments = tuple(segment for segment in segments if segment.length)
        self.where = where
        self._map()

    @classmethod
    def of_file(cls, file: Path) -> Extent:
        """All bytes of one file."""
        try:
            return cls([Segment(file, 0, file.stat().st_size)], str(file))
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from None

    def _map(self) -> None:
        maps = {file: _mapped(file) for file in dict.fromkeys(segment.file for segment in self.segments)}
        self._starts, self._views, self.size = [], [], 0
        for file, offset, length in self.segments:
            if offset + length > len(maps[file]):
                raise InputError(
                    f"expected {length} bytes from byte {offset} of {file} on, for {self.where}, found the file's end"
                    f" at byte {len(maps[file])}; load the file anew"
                )
            self._starts.append(self.size)
            self._views.append(maps[file][offset : offset + length])
            self.size += length
        if not self.segments:
            self._starts, self._views = [0], [np.frombuffer(b"", np.uint8)]

    def __getstate__(self) -> dict[str, Any]:
        return {"segments": self.segments, "where": self.where}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.segments, self.where = state["segments"], state["where"]
        self._map()

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Bytes `start` to `stop` (0 <= start <= stop <= size) → (stop - start,) uint8, read-only."""
        i = bisect_right(self._starts, start) - 1
        origin, view = self._starts[i], self._views[i]
        if stop - origin <= len(view):
            return view[start - origin : stop - origin]
        pieces = [view[start - origin :]]
        while stop > (origin := origin + len(view)):
            i += 1
            view = self._views[i]
            pieces.append(view[: stop - origin])
        joined = np.concatenate(pieces)
        joined.flags.writeable = False
        return joined

    def stamp(self) -> bytes:
        """What tells that a file was written to: the size and the time of change of each, without their names.

        A part that is loaded anew has the size and the place of the old one, and often only this differs.
        """
        files = dict.fromkeys(segment.file for segment in self.segments)
        stats = [file.stat() for file in files]
        return b"".join(struct.pack("<Qqq", status.st_size, status.st_mtime_ns, status.st_ctime_ns) for status in stats)


def _mapped(file: Path) -> NDArray[np.uint8]:
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # to open a pipe would wait for a writer
            raise InputError(f"expected a file at {file}, found something else; name the archive itself")
        with file.open("rb") as opened:
            return np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} cannot be read: {error}") from None
