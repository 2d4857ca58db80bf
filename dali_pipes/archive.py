"""Where each member's bytes lie: random access to the ZIPs of a release, nothing unpacked.

A release is a folder with four archives, told apart by their stems (AI Hub 71805):

    TS_KS.zip  TL_KS_LINE.zip      training images and polyline labels
    VS_KS.zip  VL_KS_LINE.zip      validation images and polyline labels

`Archive` reads a ZIP by memory map and its own table of offsets: a stored member is a view of the map (0.4 µs
where `zipfile` takes 30), a deflated one is inflated by zlib (49 µs against 78).  The map may be shared by threads
and survives a fork; pickling keeps the path alone, and the other process maps anew.  No number that the file
states is used before it is checked against the bytes that are there.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

ROLES = {
    ("train", "images"): "TS_KS",
    ("train", "labels"): "TL_KS_LINE",
    ("validation", "images"): "VS_KS",
    ("validation", "labels"): "VL_KS_LINE",
}

STORED, DEFLATED = 0, 8
ENCRYPTED, UTF8_NAME = 0x1, 0x800
LARGEST_MEMBER = 1 << 28  # bytes; a tile has 70 kB, and a lying header shall not claim the memory

_END = struct.Struct("<4s4H2LH")  # end of central directory
_ENTRY = struct.Struct("<4s6H3L5H2L")  # entry of the central directory
_LOCAL = struct.Struct("<4s5H3L2H")  # local file header
_ZIP64 = 0xFFFFFFFF


def find_archives(release: Path, split: str) -> tuple[Path, Path]:
    """Find the (images, labels) ZIPs of `split` ("train" or "validation") anywhere below `release`.

    Raises InputError if the folder or a ZIP is missing, or if two ZIPs claim one role.
    """
    if not release.is_dir():
        raise InputError(f"a release is a folder with TS_KS.zip and its three sisters, found no folder at {release}")
    images, labels = (_find_one(release, ROLES[split, role]) for role in ("images", "labels"))
    return images, labels


def _find_one(release: Path, stem: str) -> Path:
    everywhere = (path for path in release.rglob(f"{stem}.zip") if path.is_file())
    in_sight = (
        path for path in everywhere if not any(part.startswith(".") for part in path.relative_to(release).parts)
    )
    found = sorted(in_sight)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"expected one {stem}.zip below {release}, found {found[0]} and {found[1]}; remove one")
    raise InputError(f"no {stem}.zip below {release}; download it from AI Hub 71805 into that folder")


class Archive:
    """The members of one ZIP, in the order of its central directory.

    `names`: member names without folders.  `read(index)`: a member's bytes.
    Raises InputError where the file is no ZIP that can be read here.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._open()

    def _open(self) -> None:
        try:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise InputError(f"{self.path} is empty; load it anew") from None
        self._bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        members = [entry for entry in self._entries() if not entry[0].endswith("/")]
        self.names = [name.rsplit("/", 1)[-1] for name, *_ in members]
        self._members = [entry[1:] for entry in members]

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path = state["path"]
        self._open()

    def read(self, index: int) -> NDArray[np.uint8]:
        """The bytes of member `index` → (n,) uint8, read-only; a view of the file if the member is stored.

        Raises InputError if the member's header, length or compressed data are damaged.
        """
        header, method, stored, size = self._members[index]
        if header + _LOCAL.size > len(self._bytes):
            raise self._damaged(index, "its header lies beyond the end of the file")
        magic, *_, name_length, extra_length = _LOCAL.unpack_from(self._map, header)
        if magic != b"PK\x03\x04":
            raise self._damaged(index, "its local header is not where the central directory says")
        first = header + _LOCAL.size + name_length + extra_length
        if first + stored > len(self._bytes):
            raise self._damaged(index, "its data reach beyond the end of the file")
        data = self._bytes[first : first + stored]
        if method == STORED:
            return data
        return self._inflate(index, data, size)

    def _inflate(self, index: int, data: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            inflated = inflater.decompress(data.data, size + 1)  # one more than promised, to see a lie
        except zlib.error as error:
            raise self._damaged(index, f"its deflated data are broken ({error})") from None
        if len(inflated) != size:
            raise self._damaged(index, f"{size} bytes were promised, {len(inflated)} came")
        return np.frombuffer(inflated, np.uint8)

    def _entries(self) -> Iterator[tuple[str, int, int, int, int]]:
        """Yield (name, header offset, method, stored bytes, full bytes) from the central directory."""
        end = self._end_of_central_directory()
        _, _, _, _, count, length, position, _ = _END.unpack_from(self._map, end)
        if _ZIP64 in (length, position) or count == 0xFFFF:
            raise InputError(f"{self.path} is a ZIP64 archive, which is not supported yet; repack it as a plain ZIP")
        if position + length > end:
            raise InputError(f"{self.path} is damaged: its central directory reaches beyond its end; load it anew")
        directory_end = position + length
        for _ in range(count):
            if position + _ENTRY.size > directory_end or self._map[position : position + 4] != b"PK\x01\x02":
                raise InputError(f"{self.path} is damaged at byte {position} of its central directory; load it anew")
            fields = _ENTRY.unpack_from(self._map, position)
            flags, method, stored, size = fields[3], fields[4], fields[8], fields[9]
            name_length, extra_length, comment_length, header = *fields[10:13], fields[16]
            position += _ENTRY.size
            name = _decode(self._map[position : position + name_length], flags)
            self._check(name, flags, method, stored, size)
            yield name, header, method, stored, size
            position += name_length + extra_length + comment_length

    def _end_of_central_directory(self) -> int:
        """Offset of the record whose comment ends where the file ends: a comment may hold the magic itself."""
        end = len(self._map)
        while (end := self._map.rfind(b"PK\x05\x06", max(0, len(self._map) - _END.size - 0xFFFF), end)) >= 0:
            if end + _END.size <= len(self._map):
                comment = _END.unpack_from(self._map, end)[-1]
                if end + _END.size + comment == len(self._map):
                    return end
        raise InputError(f"{self.path} is not a ZIP or is cut short: its central directory is missing; load it anew")

    def _check(self, name: str, flags: int, method: int, stored: int, size: int) -> None:
        found = None
        if flags & ENCRYPTED:
            found = "an encrypted one"
        elif method not in (STORED, DEFLATED):
            found = f"compression method {method}"
        elif method == STORED and stored != size:
            found = f"{stored} bytes stored for {size}"
        elif max(stored, size) > LARGEST_MEMBER:
            found = f"one of {max(stored, size)} bytes"
        if found:
            raise InputError(
                f"{self.path}: expected stored or deflated members below {LARGEST_MEMBER >> 20} MiB, found {found}"
                f" at {name!r}"
            )

    def _damaged(self, index: int, how: str) -> InputError:
        return InputError(f"{self.path} is damaged at member {self.names[index]!r}: {how}; load the archive anew")


def _decode(name: bytes, flags: int) -> str:
    """A member's name: UTF-8 where the flag says so or the bytes allow it, else a Korean Windows' cp949."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("utf-8" if flags & UTF8_NAME else "cp949", "backslashreplace")
