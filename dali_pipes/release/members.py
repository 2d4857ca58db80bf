"""`Members`: the files of one role, read by number.

`archive.Archive` (a ZIP) and `archive.Folder` (loose files) read a release. To read from elsewhere, subclass `Members`
and define `names` and `read`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .byte_range import Segment


class Members(Protocol):
    """Random access to files that are numbered in the order of `names`."""

    names: list[str]
    """File names without folders, each once."""

    where: str = "memory"
    """Where the files are, for error messages."""

    note: str = ""
    """A sentence for the user about how the files were found, or ""."""

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of file `index` as (n,) uint8. Raises InputError if it cannot be read."""

    def fault(self, index: int) -> str:
        """Return why file `index` cannot be read, as far as that is known without reading it, or ""."""
        return ""

    def crc(self, index: int) -> int | None:
        """Return the CRC-32 that was recorded for file `index`, or None if none was."""
        return None

    def size(self, index: int) -> int:
        """Return the recorded number of bytes of file `index`."""
        return len(self.read(index))

    def segment(self, index: int) -> Segment | None:
        """Return where the bytes of file `index` are on disk, if they are there in one piece and have no checksum."""
        return None

    def disk_files(self) -> list[Path]:
        """Return the files on disk that hold these files, each once."""
        return []

    def fingerprint(self) -> str:
        """Return a hexadecimal digest that changes when the files do."""
        digest = hashlib.blake2b(digest_size=16)
        for index, name in enumerate(self.names):
            data = self.read(index)
            digest.update(f"{name}\0{len(data)}\0".encode("utf-8", "backslashreplace"))
            digest.update(data.data)
        return digest.hexdigest()


class Merged(Members):
    """The files of several sources, numbered consecutively, in the order of the sources."""

    def __init__(self, *sources: Members) -> None:
        self.sources = sources
        self.where = ", ".join(source.where for source in sources)
        self.names = [name for source in sources for name in source.names]
        self.first = list(accumulate((len(source.names) for source in sources[:-1]), initial=0))

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of file `index` as (n,) uint8."""
        source, number = self.source(index)
        return source.read(number)

    def fault(self, index: int) -> str:
        """Return why file `index` cannot be read, or ""."""
        source, number = self.source(index)
        return source.fault(number)

    def crc(self, index: int) -> int | None:
        """Return the recorded CRC-32 of file `index`, or None."""
        source, number = self.source(index)
        return source.crc(number)

    def size(self, index: int) -> int:
        """Return the recorded number of bytes of file `index`."""
        source, number = self.source(index)
        return source.size(number)

    def segment(self, index: int) -> Segment | None:
        """Return where the bytes of file `index` are on disk, or None."""
        source, number = self.source(index)
        return source.segment(number)

    def disk_files(self) -> list[Path]:
        """Return the files on disk of all sources."""
        return [file for source in self.sources for file in source.disk_files()]

    def fingerprint(self) -> str:
        """Return the digests of all sources."""
        return " ".join(source.fingerprint() for source in self.sources)

    def source(self, index: int) -> tuple[Members, int]:
        """Return the source that has file `index`, and its number there."""
        source = bisect_right(self.first, index) - 1
        return self.sources[source], index - self.first[source]


def origin(members: Members, index: int) -> tuple[Members, int]:
    """Return where file `index` is before anything was merged, and its number there."""
    while isinstance(members, Merged):
        members, index = members.source(index)
    return members, index
