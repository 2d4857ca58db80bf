"""Segments of files, read by position as if they were one file.

A ZIP of a release may be a file, a member of a tar, or parts that are files or members of a tar. All of these are a
list of segments (file, offset, length):

    ByteRange([Segment(tar, 512, 1 << 30), Segment(tar, 1_073_743_360, 4_096)], where="download.tar: TS_KS.zip.part*")

The files stay open and `pread` reads them, so threads and forked processes may share a range. A pickle contains only
the segments; the other process opens the files again. If a file is replaced, the old one is still read. If a file
becomes shorter, InputError is raised; with a memory map the process would crash.
"""

from __future__ import annotations

import os
import struct
import weakref
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files import open_regular


class Segment(NamedTuple):
    """`length` bytes of `file` from byte `offset` on."""

    file: Path
    offset: int
    length: int


class ByteRange:
    """The `size` bytes of `segments` in their order; `where` is their place in error messages.

    Raises InputError if a file cannot be opened or is shorter than its segment.
    """

    def __init__(self, segments: Iterable[Segment], where: str) -> None:
        self.segments = tuple(segment for segment in segments if segment.length)
        self.where = where
        self._open()

    @classmethod
    def of_file(cls, file: Path) -> ByteRange:
        """Return all bytes of a file. Raises InputError if it cannot be read."""
        try:
            return cls([Segment(file, 0, file.stat().st_size)], str(file))
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from None

    def _open(self) -> None:
        opened = {file: self._opened(file) for file in dict.fromkeys(segment.file for segment in self.segments)}
        self._starts, self._pieces, self.size = [0], [(-1, 0, 0)], 0
        for file, offset, length in self.segments:
            descriptor = opened[file]
            end = os.fstat(descriptor).st_size
            if offset + length > end:
                raise InputError(
                    f"expected {length} bytes from byte {offset} of {file} on, for {self.where}, found the file's end"
                    f" at byte {end}; download the file again"
                )
            self._starts.append(self.size)
            self._pieces.append((descriptor, offset, length))
            self.size += length

    def _opened(self, file: Path) -> int:
        """Open a file; it is closed when this range is deleted."""
        try:
            opened = open_regular(file)
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from None
        weakref.finalize(self, opened.close)
        return opened.fileno()

    def __getstate__(self) -> dict[str, Any]:
        return {"segments": self.segments, "where": self.where}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.segments, self.where = state["segments"], state["where"]
        self._open()

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return bytes `start` to `stop` (0 <= start <= stop <= size) as (stop - start,) uint8, read-only.

        Raises InputError if a file has become shorter.
        """
        i = bisect_right(self._starts, start) - 1
        pieces: list[bytes] = []
        while True:
            origin, (descriptor, offset, length) = self._starts[i], self._pieces[i]
            within = min(stop - origin, length)
            pieces.append(self._read(descriptor, offset + start - origin, within - (start - origin)))
            start = origin + within
            if start >= stop:
                return np.frombuffer(pieces[0] if len(pieces) == 1 else b"".join(pieces), np.uint8)
            i += 1

    def slice(self, start: int, stop: int, where: str) -> ByteRange:
        """Return bytes `start` to `stop` as a range of its own, such as a ZIP that is stored in this one."""
        within = []
        for first, (file, offset, length) in zip(self._starts[1:], self.segments, strict=True):
            low, high = max(start, first), min(stop, first + length)
            if low < high:
                within.append(Segment(file, offset + low - first, high - low))
        return ByteRange(within, where)

    def _read(self, descriptor: int, offset: int, length: int) -> bytes:
        data = b""
        try:
            while len(data) < length:  # one call reads at most 2 GiB on Linux
                more = os.pread(descriptor, length - len(data), offset + len(data))
                if not more:
                    raise InputError(f"{self.where} became shorter while it was being read")
                data += more
        except OSError as error:
            raise InputError(f"{self.where} cannot be read: {error.strerror}") from None
        return data

    def stamp(self) -> bytes:
        """Return the size and times of each file, packed: they change when a file is written.

        A part that is downloaded again has the same size and place as before, and often only its times differ.
        """
        files = dict.fromkeys(segment.file for segment in self.segments)
        stats = [file.stat() for file in files]
        return b"".join(struct.pack("<Qqq", status.st_size, status.st_mtime_ns, status.st_ctime_ns) for status in stats)


def decode(name: bytes) -> str:
    """Decode a name in an archive: UTF-8 if the bytes are valid, otherwise cp949, which Korean Windows writes."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("cp949", "backslashreplace")
