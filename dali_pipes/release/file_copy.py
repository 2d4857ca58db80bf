"""Copy a file so that a copy that was interrupted can be continued, and is checked.

    copy = FileCopy.of(Path("/drive/TS_KS.zip"), Path("/local/TS_KS.zip"))
    if not copy.is_current():
        for position in copy.pieces(copy.good_bytes()):
            print(position, "of", copy.size)
        copy.complete()

A copy gets the size and the time of its source; if both agree, it is current. An unfinished copy is hidden, and next to
it is the CRC-32 of each piece that was read. Another start compares the pieces with it, and continues after the last
good one. In the end the whole copy is read back and compared, and then gets its name.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError

PIECE = 1 << 24  # bytes that are read at once, and have one checksum


class FileCopy(NamedTuple):
    """A file to copy from `source` to `target`. `size` and `modified` (in nanoseconds) are those of the source.

    The methods raise OSError if a file cannot be read or written.
    """

    source: Path
    target: Path
    size: int
    modified: int

    @classmethod
    def of(cls, source: Path, target: Path) -> FileCopy:
        """Return the copy of `source` as it is now."""
        status = source.stat()
        return cls(source, target, status.st_size, status.st_mtime_ns)

    @property
    def unfinished(self) -> Path:
        """The hidden file that is filled; if the source changes, it has another name."""
        return self.target.with_name(f".{self._name}-{self.size}-{self.modified}.unfinished")

    @property
    def checksums(self) -> Path:
        """The CRC-32 of each piece of the source that was read, in four bytes each."""
        return self.unfinished.with_suffix(".crc32")

    @property
    def _name(self) -> str:
        return hashlib.blake2b(os.fsencode(self.target.name), digest_size=8).hexdigest()  # a name has at most 255 bytes

    def is_current(self) -> bool:
        """Return whether the target has the size and the time of the source."""
        if not self.target.exists():
            return False
        status = self.target.stat()
        return (status.st_size, status.st_mtime_ns) == (self.size, self.modified)

    def remove_outdated(self) -> None:
        """Delete what was copied before the source changed."""
        self.target.unlink(missing_ok=True)
        for file in self.target.parent.glob(f".{self._name}-*"):
            if file not in (self.unfinished, self.checksums):
                file.unlink()

    def good_bytes(self) -> int:
        """Return up to which byte the unfinished file has the bytes that were read."""
        if not (self.unfinished.exists() and self.checksums.exists()):
            return 0
        recorded = self.checksums.read_bytes()
        expected = [recorded[i : i + 4] for i in range(0, len(recorded), 4)]
        with self.unfinished.open("rb") as file:
            pieces = sum(1 for _ in takewhile(lambda crc: crc == _crc(file.read(PIECE)), expected))
        return min(pieces * PIECE, self.size)

    def pieces(self, start: int) -> Iterator[int]:
        """Copy from byte `start` on, which begins a piece or is the end, and yield the position after each piece."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        with (
            self.source.open("rb") as source,
            self.unfinished.open("ab") as target,
            self.checksums.open("ab") as checksums,
        ):
            target.truncate(start)
            checksums.truncate(4 * -(-start // PIECE))
            source.seek(start)
            while piece := source.read(PIECE):
                for file, data in ((target, piece), (checksums, _crc(piece))):  # no checksum without its piece
                    file.write(data)
                    file.flush()
                yield target.tell()
            os.fsync(target.fileno())

    def complete(self) -> None:
        """Compare the copy, and give it its name. Raises InputError if the source changed, or the disk is faulty."""
        if FileCopy.of(self.source, self.target) != self:
            raise InputError(f"{self.source} was changed while it was being copied; start again when it is complete")
        if not self.unfinished.stat().st_size == self.good_bytes() == self.size:
            raise InputError(
                f"the copy of {self.source} differs from the bytes that were read: the disk of {self.target.parent} is"
                " faulty; choose a folder on another disk"
            )
        os.utime(self.unfinished, ns=(self.modified, self.modified))
        self.unfinished.replace(self.target)
        self.checksums.unlink()


def _crc(piece: bytes) -> bytes:
    return zlib.crc32(piece).to_bytes(4, "little")
