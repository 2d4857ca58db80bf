"""What an uncompressed tar holds, and where: GNU's (AI Hub's own download) and POSIX's, nothing unpacked.

A tar is a row of 512-byte headers, each followed by its member's bytes, up to a block of zeros.  Long or Korean
paths come as a member of their own before the one they name (GNU's @LongLink, type L; POSIX's pax header, type x).
Links, devices and folders are passed over: only plain files are listed, and no link is followed.  Every number is
checked before it is used; what contradicts itself is refused with the byte where it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..errors import InputError
from .byte_range import Extent, decode

BLOCK = 512
LONGEST_NAME = 1 << 16  # bytes of a long path or a pax header: the member's size is no licence to read gigabytes

_PLAIN = frozenset(b"07\0")
_WITHOUT_BYTES = frozenset(b"123456")  # links, devices, folders, pipes: whatever size their header states
_GNU_LONG_NAME, _GNU_LONG_LINK, _GNU_SPARSE = b"LKS"
_PAX, _PAX_GLOBAL = b"xg"


class TarMember(NamedTuple):
    """A plain file in a tar: its path, and where in the tar its bytes lie."""

    path: str
    offset: int
    length: int


def plain_files(tar: Extent) -> Iterator[TarMember]:
    """Yield the plain files of a tar in their order.

    Raises InputError where the tar is damaged, cut short or compressed, or has a sparse member.
    """
    position = 0
    named: dict[str, str] = {}  # what a long name or a pax header says of the next member
    while position < tar.size:
        block = tar.read(position, min(position + BLOCK, tar.size)).tobytes()
        if block.count(0) == len(block):
            return
        if len(block) < BLOCK:
            raise _damaged(tar, position, "it is cut short in a header")
        kind = block[156]
        size = _number(tar, position, block[124:136])
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
            raise _damaged(tar, position, f"its member {_path(block, named)!r} is sparse, which is not supported")
        if kind in (_GNU_LONG_NAME, _PAX):
            if size > LONGEST_NAME:
                raise _damaged(tar, position, f"a name of {size} bytes is longer than {LONGEST_NAME}")
            text = tar.read(data, data + size).tobytes()
            said = {"path": decode(text.split(b"\0")[0])} if kind == _GNU_LONG_NAME else _pax(tar, position, text)
            if named.keys() & said.keys():
                raise _damaged(tar, position, "a member is given a second name or size")
            named |= said
        elif kind not in (_GNU_LONG_LINK, _PAX_GLOBAL):
            path = _path(block, named)
            if kind in _PLAIN and not path.endswith("/"):  # before POSIX a folder was a name that ends so
                yield TarMember(path, data, size)
            named = {}
        position = data + -(-size // BLOCK) * BLOCK


def _path(block: bytes, named: dict[str, str]) -> str:
    if "path" in named:
        return named["path"]
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    is_posix = block[257:263] == b"ustar\0"  # GNU keeps other things where POSIX keeps the prefix
    return decode(prefix + b"/" + name if is_posix and prefix else name)


def _number(tar: Extent, position: int, field: bytes) -> int:
    """The size in a header whose checksum is right: octal digits, or base-256 where those do not suffice."""
    block = tar.read(position, position + BLOCK)
    stated = block[148:156].tobytes().strip(b" \0")
    found = int(block.sum(dtype=int)) - int(block[148:156].sum(dtype=int)) + 8 * ord(" ")
    if not _is_octal(stated) or int(stated, 8) != found:
        raise _damaged(tar, position, "no member's header is there; a compressed tar has to be decompressed first")
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


def _decimal(tar: Extent, position: int, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise _damaged(tar, position, f"a pax header gives a member the size {text[:40]!r}")
    return int(text)


def _pax(tar: Extent, position: int, text: bytes) -> dict[str, str]:
    """Records "LENGTH KEY=VALUE" and a line end each, LENGTH counting the whole record."""
    records = {}
    while text.strip(b"\0"):
        digits, _, rest = text[:20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = text[len(digits) + 1 : length]
        if not rest or not 0 < length <= len(text) or not record.endswith(b"\n") or b"=" not in record:
            raise _damaged(tar, position, "a pax header is broken")
        key, _, value = record[:-1].partition(b"=")
        records[decode(key)] = decode(value)
        text = text[length:]
    return records


def _damaged(tar: Extent, position: int, how: str) -> InputError:
    return InputError(f"{tar.where} is no tar that can be read here: at byte {position} {how}; load the tar anew")
