"""The members of a ZIP or of a folder, read by random access where they lie, nothing unpacked.

`Archive` reads a ZIP, whether it is a file or lies in parts or in a tar (see `extent`): a stored member is a view
of the memory map, a deflated one is inflated by zlib.  `Folder` reads loose files, on disk or in a tar.  Both list
their members by name, each name once, so that every form of a release has one order; both may be shared by threads,
survive a fork, and when they are pickled, neither maps nor bytes travel.

    names         file names without folders, sorted, unique
    read(index)   a member's bytes → (n,) uint8, read-only; raises UnreadableMember
    fault(index)  why it cannot be read, as far as its archive's directory tells; "" if nothing is known
    crc(index)    the CRC-32 that the archive has recorded for it, or None
    fingerprint() hex; changes when the data do: hashes names, sizes, CRCs, and sizes and times of the files
    where         what sentences call it
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, UnreadableMember
from . import zip_members
from .byte_range import Extent, Segment

LARGEST_MEMBER = 1 << 26  # bytes; a tile has 70 kB, and a lying header shall not claim the memory


class Archive:
    """The members of one ZIP: of all of it, or of one folder in it.

    Raises InputError where the file is no ZIP that can be read here, or where no member can be.
    """

    def __init__(self, source: Extent | Path, below: str = "") -> None:
        self._extent = source if isinstance(source, Extent) else Extent.of_file(Path(source))
        self._below = below
        self._open()

    def _open(self) -> None:
        self.where = self._extent.where + (f": {self._below}" if self._below else "")
        members, offset = zip_members.directory(self._extent)
        self._directory_offset = offset
        named = [(_basename(member.path), member) for member in members if member.path.startswith(self._below)]
        kept = _one_a_name([(name, _too_large(member)) for name, member in named], attrgetter("path"), _same_bytes)
        self.names = list(kept)
        self._members = list(kept.values())
        if self._members and all(member.fault for member in self._members):
            raise InputError(
                f"expected stored or deflated members in {self.where}, found none that can be read; of the first,"
                f" {self.names[0]!r}, {self._members[0].fault}; load the archive anew, or pack it again"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {"extent": self._extent, "below": self._below, "fingerprint": self.fingerprint()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._extent, self._below = state["extent"], state["below"]
        self._open()
        _expect_unchanged(self.where, self.fingerprint(), state["fingerprint"])

    def fault(self, index: int) -> str:
        """Why member `index` cannot be read, or ""."""
        return self._members[index].fault

    def crc(self, index: int) -> int | None:
        """CRC-32 of the bytes of member `index`, as the central directory has it."""
        return self._members[index].crc

    def size(self, index: int) -> int:
        """How many bytes member `index` has, as the central directory states."""
        return self._members[index].size

    def read(self, index: int) -> NDArray[np.uint8]:
        """The bytes of member `index` → (n,) uint8, read-only.

        Raises UnreadableMember if the member's header, length or compressed data are damaged.
        """
        member = self._members[index]
        if member.fault:
            raise self._unreadable(index, member.fault)
        try:
            start, stop = zip_members.locate(self._extent, member)
            data = self._extent.read(start, stop)
            return data if member.method == zip_members.STORED else _inflate(data, member.size)
        except ValueError as error:
            raise self._unreadable(index, str(error)) from None

    def fingerprint(self) -> str:
        """Hash of the central directory, which has all names, sizes and CRCs, and of the files' sizes and times."""
        found = hashlib.blake2b(self._below.encode("utf-8", "backslashreplace") + b"\0", digest_size=16)
        found.update(self._extent.stamp())
        found.update(self._extent.read(self._directory_offset, self._extent.size).tobytes())
        return found.hexdigest()

    def _unreadable(self, index: int, how: str) -> UnreadableMember:
        return UnreadableMember(f"{self.where} is damaged at member {self.names[index]!r}: {how}; load it anew")


class LooseFile(NamedTuple):
    """A file that is itself a member: its path below its folder, where its bytes lie, when they were written (ns)."""

    path: str
    segment: Segment
    modified: int
    fault: str = ""


class Folder:
    """The members of one folder, on disk or in a tar, at any depth; each is opened when it is read."""

    def __init__(self, files: Iterable[LooseFile], where: str) -> None:
        self.where = where
        kept = _one_a_name([(_basename(file.path), file) for file in files], attrgetter("path"), lambda *_: False)
        self.names = list(kept)
        self._files = list(kept.values())

    def __len__(self) -> int:
        return len(self.names)

    def fault(self, index: int) -> str:
        """Why member `index` cannot be read, or ""."""
        return self._files[index].fault

    def crc(self, index: int) -> int | None:
        """None: a folder records none."""
        return None

    def size(self, index: int) -> int:
        """How many bytes member `index` had when the folder was listed."""
        return self._files[index].segment.length

    def read(self, index: int) -> NDArray[np.uint8]:
        """The bytes of member `index` → (n,) uint8, read-only.

        Raises UnreadableMember if the file cannot be read, or is not as long as it was.
        """
        (path, offset, length), fault = self._files[index].segment, self._files[index].fault
        if length > LARGEST_MEMBER:
            fault = f"its {length} bytes are more than the {LARGEST_MEMBER >> 20} MiB allowed"
        try:
            if not fault:
                with path.open("rb") as file:
                    file.seek(offset)
                    data = file.read(length)
                fault = "" if len(data) == length else f"{length} bytes were there when it was listed, now {len(data)}"
        except OSError as error:
            fault = str(error.strerror)
        if fault:
            raise UnreadableMember(f"{self.where} is damaged at member {self.names[index]!r}: {fault}; load it anew")
        return np.frombuffer(data, np.uint8)

    def fingerprint(self) -> str:
        """Hash of all names, sizes and times of writing, as they were when the folder was listed."""
        found = hashlib.blake2b(digest_size=16)
        for path, segment, modified, _ in self._files:
            found.update(
                f"{path}\0{segment.offset}\0{segment.length}\0{modified}\0".encode("utf-8", "backslashreplace")
            )
        return found.hexdigest()


_M = TypeVar("_M", zip_members.Member, LooseFile)


def _one_a_name(
    named: list[tuple[str, _M]], path: Callable[[_M], str], same: Callable[[_M, _M], bool]
) -> dict[str, _M]:
    """Name → member, sorted.  Of members with the same bytes the first; others of one name cannot be told apart."""
    kept: dict[str, _M] = {}
    for name, member in sorted(named, key=lambda item: (item[0], path(item[1]))):
        first = kept.setdefault(name, member)
        if first is not member and not same(first, member):
            kept[name] = first._replace(fault=f"its name is there twice, as {path(first)!r} and {path(member)!r}")
    return kept


def _same_bytes(a: zip_members.Member, b: zip_members.Member) -> bool:
    return (a.crc, a.size, a.fault) == (b.crc, b.size, b.fault)


def _too_large(member: zip_members.Member) -> zip_members.Member:
    largest = max(member.stored, member.size)
    if member.fault or largest <= LARGEST_MEMBER:
        return member
    return member._replace(fault=f"its {largest} bytes are more than the {LARGEST_MEMBER >> 20} MiB allowed")


def _inflate(data: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data.data, size + 1)  # one more than promised, to see a lie
    except zlib.error as error:
        raise ValueError(f"its deflated data are broken ({error})") from None
    if len(inflated) != size:
        raise ValueError(f"{size} bytes were promised, {len(inflated)} came")
    return np.frombuffer(inflated, np.uint8)


def _basename(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _expect_unchanged(where: str, found: str, expected: str) -> None:
    """Another process numbers the members as this one does only while the archive stays as it is."""
    if found != expected:
        raise InputError(f"{where} was changed while it was being read; start again")
