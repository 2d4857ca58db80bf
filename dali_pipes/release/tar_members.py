"""The plain files of an uncompressed tar, in GNU's format (AI Hub's own download) or POSIX's; nothing is unpacked.

A tar is a sequence of 512-byte headers, each followed by its member's bytes, up to a block of zeros. A long or Korean
path is in a member of its own before the one it names (GNU's @LongLink, type L; POSIX's pax header, type x). Links,
devices and folders are skipped. Every number is checked before it is used; a contradiction is an error that states the
byte.

`tarfile` is not used, because it ends without an error after a damaged header (it listed 4,002 of 8,000 members),
accepts negative sizes, reads names of any length into memory, and takes longer (8,000 members: 0.42 s there, 0.32 s
here).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..errors import InputError
from .byte_range import ByteRange, decode

BLOCK = 512
MOST_HEADERS = 2_000_000  # a file has one or two of them; AI Hub's download has some dozens
LONGEST_NAME = 1 << 16  # bytes of a long path or a pax header; its recorded size may be gigabytes

_PLAIN = frozenset(b"07\0")
_WITHOUT_BYTES = frozenset(b"123456")  # links, devices, folders, pipes: the size in the header does not count
_GNU_LONG_NAME, _GNU_LONG_LINK, _GNU_SPARSE = b"LKS"
_PAX, _PAX_GLOBAL = b"xg"


class TarMember(NamedTuple):
    """A plain file in a tar: its path, and where its bytes are in the tar."""

    path: str
    offset: int
    length: int


def plain_files(tar: ByteRange) -> Iterator[TarMember]:
    """Yield the plain files of a tar in their order.

    Raises InputError if the tar is damaged, cut short or compressed, or has a sparse member.
    """
    position = 0
    named: dict[str, str] = {}  # from a long name or a pax header, for the next member
    headers = 0
    while position < tar.size:
        headers += 1
        if headers > MOST_HEADERS:
            raise _damaged(tar, position, f"there are more than the {MOST_HEADERS} members allowed", "split the tar")
        block = tar.read(position, min(position + BLOCK, tar.size)).tobytes()
        if block.count(0) == len(block):
            return
        if len(block) < BLOCK:
            raise _damaged(tar, position, "it is cut short in a header")
        kind = block[156]
        size = _size(tar, position, block[124:136])
        if kind in _PLAIN and "size" in named:
            size = _decimal(tar, position, named["size"])
        data = position + BLOCK
        if kind in _WITHOUT_BYTES:
            size = 0
        if data + size > tar.size:
            raise _damaged(
                tar, position, f"its member {_path(block, named)!r} of {size} bytes reaches beyond the end, {tar.size}"
            )
        if kind == _GNU_SPARSE or any(key.startswith("GNU.sparse") for key in named):
            raise _damaged(
                tar,
                position,
                f"its member {_path(block, named)!r} is sparse, which is not supported",
                "pack it again without --sparse",
            )
        if kind in (_GNU_LONG_NAME, _PAX):
            if size > LONGEST_NAME:
                raise _damaged(tar, position, f"a name of {size} bytes is longer than {LONGEST_NAME}")
            text = tar.read(data, data + size).tobytes()
            given = {"path": decode(text.split(b"\0")[0])} if kind == _GNU_LONG_NAME else _pax(tar, position, text)
            if named.keys() & given.keys():
                raise _damaged(tar, position, "a member is given a second name or size")
            named |= given
        elif kind not in (_GNU_LONG_LINK, _PAX_GLOBAL):
            path = _path(block, named)
            if kind in _PLAIN and not path.endswith("/"):  # before POSIX, a folder was a name with / at its end
                yield TarMember(path, data, size)
            named = {}
        position = data + -(-size // BLOCK) * BLOCK


def _path(block: bytes, named: dict[str, str]) -> str:
    if "path" in named:
        return named["path"]
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    is_posix = block[257:263] == b"ustar\0"  # GNU's format has other fields in place of the prefix
    return decode(prefix + b"/" + name if is_posix and prefix else name)


def _size(tar: ByteRange, position: int, field: bytes) -> int:
    """Return the size in a header, in octal digits or base 256. Raises InputError if the checksum is wrong."""
    block = tar.read(position, position + BLOCK)
    stated = block[148:156].tobytes().strip(b" \0")
    actual = int(block.sum(dtype=int)) - int(block[148:156].sum(dtype=int)) + 8 * ord(" ")
    if not _is_octal(stated) or int(stated, 8) != actual:
        raise _damaged(tar, position, "no member's header is there", "a compressed tar has to be decompressed first")
    if field[0] & 0x80:
        size = int.from_bytes(field, "big", signed=True) if field[0] == 0xFF else int.from_bytes(field[1:], "big")
        if size < 0:
            raise _damaged(tar, position, f"a member has a size of {size} bytes")
        return size
    text, _, beyond = field.partition(b"\0")
    digits = text.strip(b" ")
    if (digits and not _is_octal(digits)) or beyond.strip(b" \0"):
        raise _damaged(tar, position, f"a member has the size {field!r}")
    return int(digits or b"0", 8)


def _is_octal(digits: bytes) -> bool:
    return bool(digits) and not digits.strip(b"01234567")


def _decimal(tar: ByteRange, position: int, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _damaged(tar, position, f"a pax header gives a member the size {text[:40]!r}")
    return int(text)


def _pax(tar: ByteRange, position: int, text: bytes) -> dict[str, str]:
    """Parse records of "LENGTH KEY=VALUE" and a line end; LENGTH counts the whole record."""
    records, at, text = {}, 0, text.rstrip(b"\0")
    while at < len(text):
        digits, _, rest = text[at : at + 20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = text[at + len(digits) + 1 : at + length]
        if not rest or not 0 < length <= len(text) - at or not record.endswith(b"\n") or b"=" not in record:
            raise _damaged(tar, position, "a pax header is broken")
        key, _, value = record[:-1].partition(b"=")
        records[decode(key)] = decode(value)
        at += length
    return records


def _damaged(tar: ByteRange, position: int, how: str, advice: str = "download the tar again") -> InputError:
    return InputError(f"{tar.where} is no tar that can be read here: at byte {position} {how}; {advice}")
