"""What a ZIP says that it holds, and where, read from its central directory (APPNOTE 6.3.9; ZIP64 included).

No number that the file states is used before it is checked against the bytes that are there.  What is wrong with
the directory as a whole is an `InputError`; what is wrong with one member is that member's `fault`, so that one bad
member of 8,000 costs no more than itself.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import NamedTuple

from ..errors import CutShort, InputError
from .byte_range import Extent, decode

STORED, DEFLATED = 0, 8
ENCRYPTED = 0x1

_END = struct.Struct("<4s4H2LH")  # end of central directory
_END64 = struct.Struct("<4sQ2H2L4Q")  # the same of ZIP64, without its extensible data
_LOCATOR64 = struct.Struct("<4sLQL")  # where that lies
_ENTRY = struct.Struct("<4s6H3L5H2L")  # entry of the central directory
_LOCAL = struct.Struct("<4s5H3L2H")  # local file header
_ZIP64_EXTRA = 1
_SATURATED = 0xFFFFFFFF  # "the number stands in the ZIP64 extra field"


class Member(NamedTuple):
    """A file in a ZIP."""

    path: str
    """With its folders, / between them."""
    name: bytes
    """The path as it is written, which its local header has to repeat."""
    header: int
    """Where its local header lies in the ZIP."""
    limit: int
    """Where the next header begins, which its bytes may not reach."""
    method: int
    stored: int
    """Bytes in the ZIP."""
    size: int
    """Bytes of the file itself."""
    crc: int
    fault: str
    """Why it cannot be read, or nothing."""


class Directory(NamedTuple):
    """The files of a ZIP in the order of its central directory, which begins at byte `offset`."""

    members: list[Member]
    offset: int


def directory(archive: Extent) -> Directory:
    """Read the central directory of a ZIP.

    Raises InputError if there is none, or if it contradicts itself.
    """
    end, count, length, position = _end(archive)
    if position + length > end:
        raise _damaged(archive, f"its central directory reaches beyond byte {end}, where its end is recorded")
    shift = end - position - length  # something stands before the ZIP, such as a program that unpacks it
    entries = archive.read(position + shift, end).tobytes()
    members, at = [], 0
    while at < len(entries):
        if at + _ENTRY.size > len(entries) or entries[at : at + 4] != b"PK\x01\x02":
            raise _damaged(archive, f"no entry at byte {position + shift + at} of its central directory")
        member, at = _member(entries, at, shift)
        members.append(member)
    if at != len(entries):
        raise _damaged(archive, f"the last entry of its central directory reaches beyond byte {end}")
    if len(members) & 0xFFFF != count & 0xFFFF:  # writers without ZIP64 let the count overflow
        raise _damaged(archive, f"its central directory promises {count} members and holds {len(members)}")
    headers = sorted(member.header for member in members)
    offset = position + shift
    files = []
    for member in members:
        if not member.path.endswith("/"):
            follows = bisect_right(headers, member.header)
            files.append(member._replace(limit=min([offset, *headers[follows : follows + 1]])))
    return Directory(files, offset)


def locate(archive: Extent, member: Member) -> tuple[int, int]:
    """The first byte of a member's data in the ZIP, and the one behind its last.

    Raises ValueError with the reason if its local header is not that of this member, or if its data reach into
    what follows.
    """
    header, limit = member.header, member.limit
    name_end = header + _LOCAL.size + len(member.name)
    if name_end > limit:
        raise ValueError(f"its header reaches into what begins at byte {limit}")
    record = archive.read(header, name_end).tobytes()
    magic, *_, name_length, extra_length = _LOCAL.unpack_from(record)
    if magic != b"PK\x03\x04":
        raise ValueError("its local header is not where the central directory says")
    if name_length != len(member.name) or not record.endswith(member.name):
        raise ValueError("its local header has another name")
    first = name_end + extra_length
    if first + member.stored > limit:
        raise ValueError(f"its {member.stored} bytes reach into what begins at byte {limit}")
    return first, first + member.stored


def _end(archive: Extent) -> tuple[int, int, int, int]:
    """Where the central directory has to end; how many entries, how many bytes, from where it states to have."""
    tail_from = max(0, archive.size - _END.size - 0xFFFF)
    tail = archive.read(tail_from, archive.size).tobytes()
    found = len(tail)
    while (found := tail.rfind(b"PK\x05\x06", 0, found)) >= 0:
        # A comment may hold the magic itself: the record is the one whose comment ends where the file ends.
        if found + _END.size <= len(tail) and found + _END.size + _END.unpack_from(tail, found)[-1] == len(tail):
            break
    else:
        raise CutShort(str(_damaged(archive, f"its {archive.size} bytes do not end with a central directory")))
    _, disk, first_disk, here, count, length, position, _ = _END.unpack_from(tail, found)
    end = tail_from + found
    locator = archive.read(max(0, end - _LOCATOR64.size), end).tobytes()
    if locator[:4] == b"PK\x06\x07" and len(locator) == _LOCATOR64.size:
        end = _LOCATOR64.unpack(locator)[2]
        if end + _END64.size > archive.size:
            raise _damaged(archive, f"its ZIP64 directory is said to end at byte {end}, beyond its {archive.size}")
        record = archive.read(end, end + _END64.size).tobytes()
        magic, _, _, _, disk, first_disk, here, count, length, position = _END64.unpack(record)
        if magic != b"PK\x06\x06":
            raise _damaged(archive, f"no end of a ZIP64 directory is at byte {end}, where it should be")
    if disk or first_disk or here != count:
        raise InputError(f"{archive.where} is one disk of a ZIP split over several; join them with `zip -s 0` first")
    return end, count, length, position


def _member(entries: bytes, at: int, shift: int) -> tuple[Member, int]:
    """The entry at byte `at` of the central directory, and where the next one begins."""
    (_, _, _, flags, method, _, _, crc, stored, size, name_length, extra_length, comment_length, disk, _, _, header) = (
        _ENTRY.unpack_from(entries, at)
    )
    at += _ENTRY.size
    name = entries[at : at + name_length]
    fault = ""
    if _SATURATED in (size, stored, header):
        extra = entries[at + name_length : at + name_length + extra_length]
        try:
            size, stored, header = _zip64(extra, size, stored, header)
        except (ValueError, struct.error):
            fault = "its ZIP64 sizes are missing"
    if flags & ENCRYPTED:
        fault = "it is encrypted, and AI Hub's members are not"
    elif method not in (STORED, DEFLATED):
        fault = f"it is neither stored nor deflated, but compressed by method {method}"
    elif method == STORED and stored != size:
        fault = f"{stored} bytes are said to be stored for its {size}"
    elif disk:
        fault = f"it is said to lie on disk {disk} of several"
    path = decode(name).replace("\\", "/")
    member = Member(path, name, header + shift, 0, method, stored, size, crc, fault)
    return member, at + name_length + extra_length + comment_length


def _zip64(extra: bytes, *numbers: int) -> list[int]:
    """The numbers of an entry, those that are saturated replaced by 64-bit ones from its extra field, in order."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        if tag == _ZIP64_EXTRA:
            wide = struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length // 8 * 8])
            read = [next(wide, (-1,))[0] if number == _SATURATED else number for number in numbers]
            if -1 in read:
                break
            return read
        at += 4 + length
    raise ValueError("no ZIP64 extra field, or one that is too short")


def _damaged(archive: Extent, how: str) -> InputError:
    return InputError(f"{archive.where} is not a ZIP, is cut short or is damaged: {how}; load it anew")
