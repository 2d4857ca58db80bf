"""A run of bytes that lies in pieces of files, read by random access where it lies.

A ZIP of a release may be a file, a member of a tar, or a row of parts, each a file or a member of a tar.  All of
these are one thing here: a list of segments (file, offset, length), numbered through as if it were one file.

    Extent([Segment(tar, 512, 1 << 30), Segment(tar, 1_073_743_360, 4_096)], where="download.tar: TS_KS.zip.part*")

The files stay open, and bytes are read by position: threads may share an extent, and it survives a fork; pickling
keeps the segments alone, and the other process opens anew.  A file that is replaced is read on as it was.  One that is
cut short in its place raises, where a map of it would end the process.
"""

from __future__ import annotations

import os
import stat
import struct
import weakref
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError


class Segment(NamedTuple):
    """`length` bytes of `file` from byte `offset` on."""

    file: Path
    offset: int
    length: int


class Extent:
    """The bytes of some segments in their order; `size`: how many; `where`: what sentences call them.

    Raises InputError if a file cannot be opened or is shorter than its segment.
    """

    def __init__(self, segments: Iterable[Segment], where: str) -> None:
        self.segments = tuple(segment for segment in segments if segment.length)
        self.where = where
        self._open()

    @classmethod
    def of_file(cls, file: Path) -> Extent:
        """All bytes of one file."""
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
                    f" at byte {end}; load the file anew"
                )
            self._starts.append(self.size)
            self._pieces.append((descriptor, offset, length))
            self.size += length

    def _opened(self, file: Path) -> int:
        """A descriptor that is closed with this extent."""
        try:
            if not stat.S_ISREG(file.stat().st_mode):  # to open a pipe would wait for a writer
                raise InputError(f"expected a file at {file}, found something else; name the archive itself")
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"{file} cannot be read: {error.strerror}") from None
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def __getstate__(self) -> dict[str, Any]:
        return {"segments": self.segments, "where": self.where}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.segments, self.where = state["segments"], state["where"]
        self._open()

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Bytes `start` to `stop` (0 <= start <= stop <= size) → (stop - start,) uint8, read-only.

        Raises InputError if a file has become shorter than it was.
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

    def _read(self, descriptor: int, offset: int, length: int) -> bytes:
        data = b""
        try:
            while len(data) < length:  # Linux reads at most 2 GiB at once
                more = os.pread(descriptor, length - len(data), offset + len(data))
                if not more:
                    raise InputError(f"{self.where} became shorter while it was being read")
                data += more
        except OSError as error:
            raise InputError(f"{self.where} cannot be read: {error.strerror}") from None
        return data

    def stamp(self) -> bytes:
        """What tells that a file was written to: the size and the time of change of each, without their names.

        A part that is loaded anew has the size and the place of the old one, and often only this differs.
        """
        files = dict.fromkeys(segment.file for segment in self.segments)
        stats = [file.stat() for file in files]
        return b"".join(struct.pack("<Qqq", status.st_size, status.st_mtime_ns, status.st_ctime_ns) for status in stats)


def decode(name: bytes) -> str:
    """A name in an archive: UTF-8 where its bytes allow it, else a Korean Windows' cp949."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("cp949", "backslashreplace")
