"""Read the members of a ZIP or a folder in place: nothing is unpacked.

`Archive` reads a ZIP, which may be a file, parts of one, or inside a tar (see `byte_range.py`). `Folder` reads loose
files, on disk or in a tar. Both list each file name once, in the order of the names, so that the files have the same
numbers in every form of a release. Threads and forked processes may share both. A pickle contains paths, not the bytes
of files.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, UnreadableMember
from ..files import open_regular
from . import zip_members
from .byte_range import ByteRange, Segment
from .names import file_name, is_foreign

LARGEST_MEMBER = 1 << 26  # bytes; limits the memory that a wrong header can claim; a tile has 70 kB
LARGEST_PICTURE = 1 << 30  # of a picture to predict, which may be a whole scene


class Archive:
    """The members of a ZIP, or of the folder `below` in it. Members of more than `largest` bytes are not read.

    Raises InputError if the file is not a readable ZIP, or if none of its members can be read.
    """

    note = ""

    def __init__(self, source: ByteRange | Path, below: str = "", largest: int = LARGEST_MEMBER) -> None:
        self._bytes = source if isinstance(source, ByteRange) else ByteRange.of_file(Path(source))
        self._below, self._largest = below, largest
        self._open()

    def _open(self) -> None:
        self.where = self._bytes.where + (f": {self._below}" if self._below else "")
        members, offset = zip_members.directory(self._bytes)
        self._directory_offset = offset
        ours = [m for m in members if m.path.startswith(self._below) and not is_foreign(m.path)]
        kept = _by_name((_checked_size(member, self._largest) for member in ours), _same_bytes)
        self.names = list(kept)
        self._members = list(kept.values())
        if self._members and all(member.fault for member in self._members):
            raise InputError(
                f"expected stored or deflated members in {self.where}, found none that can be read; of the first,"
                f" {self.names[0]!r}, {self._members[0].fault}; {_cure(self._members[0].fault)}"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {
            "bytes": self._bytes,
            "below": self._below,
            "largest": self._largest,
            "fingerprint": self.fingerprint(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._bytes, self._below, self._largest = state["bytes"], state["below"], state["largest"]
        self._open()
        if self.fingerprint() != state["fingerprint"]:  # its members may have other numbers now
            raise InputError(f"{self.where} was changed while it was being read; start again")

    def fault(self, index: int) -> str:
        """Return why member `index` cannot be read, or ""."""
        return self._members[index].fault

    def crc(self, index: int) -> int | None:
        """Return the CRC-32 that the central directory records for member `index`."""
        return self._members[index].crc

    def size(self, index: int) -> int:
        """Return the number of bytes that the central directory records for member `index`."""
        return self._members[index].size

    def segment(self, index: int) -> None:
        """Return None: a member may be compressed, and it has a checksum."""
        return

    def disk_files(self) -> list[Path]:
        """Return the files on disk that the archive consists of."""
        return list(dict.fromkeys(segment.file for segment in self._bytes.segments))

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of member `index` as (n,) uint8, read-only.

        Raises UnreadableMember if the member's header, length or compressed data are damaged.
        """
        member = self._members[index]
        if member.fault:
            raise self._unreadable(index, member.fault)
        try:
            start, stop = zip_members.locate(self._bytes, member)
            data = self._bytes.read(start, stop)
            return data if member.method == zip_members.STORED else _inflate(data, member.size)
        except ValueError as error:
            raise self._unreadable(index, str(error)) from None

    def fingerprint(self) -> str:
        """Return a hash of the central directory (names, sizes, CRCs) and of the files' sizes and times."""
        digest = hashlib.blake2b(self._below.encode("utf-8", "backslashreplace") + b"\0", digest_size=16)
        digest.update(self._bytes.stamp())
        digest.update(self._bytes.read(self._directory_offset, self._bytes.size).tobytes())
        return digest.hexdigest()

    def _unreadable(self, index: int, how: str) -> UnreadableMember:
        return UnreadableMember(f"{self.where} is damaged at member {self.names[index]!r}: {how}; {_cure(how)}")


_CURES = {
    "encrypted": "pack the files again without a password",
    "compressed by": "pack the files again, stored or deflated",
    "MiB allowed": "it is larger than any tile, label or scene; leave it out",
    "there twice": "keep the right one of them",
}
"""Words of a fault that another download would not correct, and what helps."""


def _cure(fault: str) -> str:
    return next((cure for words, cure in _CURES.items() if words in fault), "download it again")


class LooseFile(NamedTuple):
    """A file that is a member of a folder."""

    path: str
    """Its path below the folder."""
    segment: Segment
    """Where its bytes are."""
    modified: int
    """Time of the last change, in nanoseconds."""
    fault: str = ""
    """Why it cannot be read, or ""."""


class Folder:
    """The files of a folder at any depth, on disk or in a tar. A file is opened when it is read.

    Files of more than `largest` bytes are not read.
    """

    note = ""

    def __init__(self, files: Iterable[LooseFile], where: str, largest: int = LARGEST_MEMBER) -> None:
        self.where, self._largest = where, largest
        kept = _by_name(files, lambda *_: False)
        self.names = list(kept)
        self._files = list(kept.values())

    def fault(self, index: int) -> str:
        """Return why member `index` cannot be read, or ""."""
        return self._files[index].fault

    def crc(self, index: int) -> int | None:
        """Return None: a folder records no checksums."""
        return None

    def size(self, index: int) -> int:
        """Return the number of bytes that member `index` had when the folder was listed."""
        return self._files[index].segment.length

    def segment(self, index: int) -> Segment | None:
        """Return where the bytes of member `index` are, unless they cannot be read."""
        return None if self._files[index].fault else self._files[index].segment

    def disk_files(self) -> list[Path]:
        """Return the files on disk that hold the members."""
        return list(dict.fromkeys(file.segment.file for file in self._files))

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of member `index` as (n,) uint8, read-only.

        Raises UnreadableMember if the file cannot be read, or if its length has changed since it was listed.
        """
        (path, offset, length), fault = self._files[index].segment, self._files[index].fault
        if length > self._largest:
            fault = _too_large(length, self._largest)
        try:
            if not fault:
                with open_regular(path) as file:
                    file.seek(offset)
                    data = file.read(length)
                fault = "" if len(data) == length else f"it had {length} bytes when it was listed, now {len(data)}"
        except OSError as error:
            fault = str(error.strerror)
        if fault:
            raise UnreadableMember(f"{self.where} is damaged at member {self.names[index]!r}: {fault}; {_cure(fault)}")
        return np.frombuffer(data, np.uint8)

    def fingerprint(self) -> str:
        """Return a hash of all names, sizes and times of change, as they were when the folder was listed."""
        digest = hashlib.blake2b(digest_size=16)
        for path, segment, modified, _ in self._files:
            digest.update(
                f"{path}\0{segment.offset}\0{segment.length}\0{modified}\0".encode("utf-8", "backslashreplace")
            )
        return digest.hexdigest()


_Member = TypeVar("_Member", zip_members.ZipMember, LooseFile)


def _by_name(members: Iterable[_Member], same: Callable[[_Member, _Member], bool]) -> dict[str, _Member]:
    """Return name → member, sorted by name. If members have the same name and bytes, the first is kept.

    Members with the same name and different bytes are ambiguous: one of them is kept, with a fault.
    """
    kept: dict[str, _Member] = {}
    for member in sorted(members, key=lambda member: (file_name(member.path), member.path)):
        name = file_name(member.path)
        first = kept.setdefault(name, member)
        if first is not member and not same(first, member):
            kept[name] = first._replace(fault=f"its name is there twice, as {first.path!r} and {member.path!r}")
    return kept


def _same_bytes(a: zip_members.ZipMember, b: zip_members.ZipMember) -> bool:
    return (a.crc, a.size, a.fault) == (b.crc, b.size, b.fault)


def _checked_size(member: zip_members.ZipMember, largest: int) -> zip_members.ZipMember:
    length = max(member.stored, member.size)
    if member.fault or length <= largest:
        return member
    return member._replace(fault=_too_large(length, largest))


def _too_large(length: int, largest: int) -> str:
    return f"its {length} bytes are more than the {largest >> 20} MiB allowed"


def _inflate(data: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data.data, size + 1)  # one byte more than recorded, to detect a wrong size
    except zlib.error as error:
        raise ValueError(f"its deflated data are broken ({error})") from None
    if len(inflated) != size:
        raise ValueError(f"{size} bytes were recorded, found {'more' if len(inflated) > size else len(inflated)}")
    return np.frombuffer(inflated, np.uint8)
